"""001's lifting: its losses by hand, its loop with true depths, its flow as a density, and its run of two stages."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import posegeom as pg

pytest.importorskip("zuko")

from posegeom_models.cli import main
from posegeom_models.imagepose.lifter import (
    Lifted,
    Lifter,
    LifterConfig,
    LiftingNetworks,
    Loop,
    PosePrior,
    Statistics,
    about_root,
    principal_components,
    project,
    turn_and_lift_again,
)
from posegeom_models.imagepose.lifting.evaluation import evaluate_lifting
from posegeom_models.imagepose.lifting.recipe import LiftingBatch, LiftingConfig, LiftingData, LiftingRecipe
from posegeom_models.imagepose.objective import (
    human36m_lengths,
    l_2d,
    l_3d,
    l_bl,
    l_def,
    l_nf,
    lifting_terms,
)
from posegeom_models.imagepose.views import Poses, ViewConfig, head_distance, normalised
from posegeom_models.training import Descent, TrainingConfig, launch, train

SMALL = LifterConfig(width=16, components=6, blocks=2, flow_width=16)
CONFIG = LiftingConfig(
    network=SMALL,
    training=TrainingConfig(steps=8, batch_size=16, checkpoint_every=3, accelerator="cpu"),
    prior_steps=4,
    norms="public",
)
ARM = pg.Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1), (0, 1, 2))


@pytest.fixture(scope="module")
def data() -> LiftingData:
    return LiftingData(CONFIG)


def _loop(v: Tensor, again: Tensor) -> Loop:
    """A loop with v̂ = v and y the first two coordinates."""
    zero = torch.zeros(len(v))
    return Loop(v[..., :2], v, v, v[..., :2], again, again, again[..., :2], zero)


def test_the_lifter_has_the_published_layers() -> None:
    lifter = Lifter(LifterConfig(), pg.H36M_17)
    block = 2 * (1024 * 1024 + 1024)
    assert sum(p.numel() for p in lifter.parameters()) == 34 * 1024 + 1024 + 5 * block + 1025 * 17 + 1025
    lifted = lifter(torch.randn(3, 17, 2))
    assert lifted.depth.shape == (3, 17)
    assert lifted.elevation.shape == (3,)
    assert (lifted.depth[:, 0] == 0).all()  # the root is at Δ


def test_losses_by_hand() -> None:
    v = torch.zeros(4, 2, 3)
    again = v.clone()
    again[0, 1] = torch.tensor([3.0, 0.0, 4.0])
    again[1, 1] = torch.tensor([0.0, 0.0, 4.0])
    again[3, 1] = torch.tensor([0.0, 2.0, 0.0])
    loop = _loop(v, again)
    assert float(l_3d(loop, "printed")) == pytest.approx((25 + 16 + 0 + 4) / 4)
    assert float(l_3d(loop, "public")) == pytest.approx((5 + 4 + 0 + 2) / 4)
    assert float(l_2d(loop, "printed")) == pytest.approx((9 + 0 + 0 + 4) / 4)
    assert float(l_2d(loop, "public")) == pytest.approx((3 + 0 + 0 + 2) / 4)
    # The first two poses change together but for x.
    assert float(l_def(loop, "printed")) == pytest.approx((9 + 4) / 2)
    assert float(l_def(loop, "public")) == pytest.approx((3 + 2) / 2)


def test_the_last_pose_of_an_odd_batch_has_no_neighbour() -> None:
    v = torch.zeros(3, 1, 3)
    again = v.clone()
    again[2] = 1
    assert float(l_def(_loop(v, again), "printed")) == 0


def test_the_bone_term_is_a_gaussians_logarithm() -> None:
    joints = torch.tensor(
        [[[0.0, 0.0, 0.0], [0.0, 0.0, 3.0], [1.0, 0.0, 3.0]]]
    )  # lengths 3 and 1, relative 1.5 and 0.5
    prior = torch.tensor([1.4, 0.5])
    normal = torch.distributions.Normal(prior.double(), 0.1)
    expected = -normal.log_prob(torch.tensor([1.5, 0.5], dtype=torch.float64)).sum()
    assert float(l_bl(joints, ARM, prior, 0.1)) == pytest.approx(float(expected), rel=1e-5)


def test_human36ms_bone_lengths_average_to_one() -> None:
    lengths = human36m_lengths(pg.H36M_17)
    assert float(lengths.mean()) == pytest.approx(1, abs=1e-4)
    own = torch.tensor(pg.H36M_17.lengths)
    torch.testing.assert_close(lengths, own / own.mean(), rtol=0.06, atol=0)
    with pytest.raises(ValueError, match="thumb"):
        human36m_lengths(pg.HAND_21)


@pytest.mark.parametrize(
    ("ablation", "names"),
    [
        ("none", {"2d", "3d", "def", "NF", "bl"}),
        ("without_bl", {"2d", "3d", "def", "NF"}),
        ("base", {"2d", "3d", "def"}),
    ],
)
def test_rows_of_table_3_leave_out_their_terms(ablation: str, names: set[str]) -> None:
    networks = LiftingNetworks(SMALL)
    loop = turn_and_lift_again(networks.lifter, torch.randn(4, 17, 2) / 10, SMALL, 0)
    lengths = networks.get_buffer("lengths")
    terms = lifting_terms(loop, networks.prior, pg.H36M_17, lengths, 0.1, "printed", ablation)
    assert set(terms) == names


def _exact(seed: int, elevation: Tensor, depths: Tensor) -> Callable[[Tensor], Lifted]:
    """A Λ that knows the depths of the first view, and so those of the second one."""
    calls = []

    def lifter(points: Tensor) -> Lifted:
        calls.append(points)
        if len(calls) == 1:
            return Lifted(depths, elevation)
        torch.manual_seed(seed)
        rotation = pg.elevation_azimuth_rotation(elevation)
        v = about_root(calls[0], depths, LifterConfig(), 0)
        return Lifted((v @ rotation.mT)[..., 2], elevation)

    return lifter


def test_with_true_depths_the_loop_comes_back_to_where_it_began() -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(64, 17, 3, generator=generator, dtype=torch.float64)
    v[:, 0] = 0
    y = project(v, 10.0)
    elevation = 0.2 * torch.randn(64, generator=generator, dtype=torch.float64)
    torch.manual_seed(5)
    loop = turn_and_lift_again(_exact(5, elevation, v[..., 2]), y, LifterConfig(), 0)
    torch.testing.assert_close(loop.v, v)
    torch.testing.assert_close(loop.v_hat_again, loop.v_hat)
    torch.testing.assert_close(loop.y_again, y)
    assert not torch.allclose(loop.y_hat, y, atol=0.02)  # the virtual view is another one
    for loss in (l_2d, l_3d, l_def):
        assert float(loss(loop, "printed")) == pytest.approx(0, abs=1e-20)


def test_wrong_depths_cost_something() -> None:
    v = torch.randn(64, 17, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v[:, 0] = 0
    elevation = torch.zeros(64, dtype=torch.float64)
    depths = v[..., 2].clone()
    depths[:, 3] += 0.3
    torch.manual_seed(5)
    loop = turn_and_lift_again(_exact(6, elevation, depths), project(v, 10.0), LifterConfig(), 0)
    assert float(l_3d(loop, "printed")) > 1e-3


def test_true_elevations_turn_a_view_into_another_upright_one() -> None:
    """Rx(fresh) · Ry · Rx(own) of a camera at elevation e = −own is a camera at elevation `fresh`: roll stays 0."""
    elevation = torch.linspace(-0.3, 0.5, 32, dtype=torch.float64)
    azimuth = torch.linspace(0, 6, 32, dtype=torch.float64)
    seen = pg.camera_rotation(azimuth, elevation, torch.zeros_like(azimuth))
    torch.manual_seed(3)
    again = pg.elevation_azimuth_rotation(-elevation) @ seen
    # Up, +Z, has no x in the image of a camera without roll.
    torch.testing.assert_close(again[:, 0, 2], torch.zeros(32, dtype=torch.float64), rtol=0, atol=1e-12)
    looks_down = torch.atan2(-again[:, 2, 2], -again[:, 1, 2])
    assert float(looks_down.mean()) == pytest.approx(float(elevation.mean()), abs=0.15)
    assert float(looks_down.std()) == pytest.approx(float(elevation.std()), rel=0.35)


def test_elevation_learns_through_the_batchs_mean_and_deviation() -> None:
    elevation = torch.tensor([0.1, -0.2, 0.3], requires_grad=True)
    y = 0.1 * torch.randn(3, 17, 2, generator=torch.Generator().manual_seed(1))
    y[:, 0] = 0
    depth = torch.randn(3, 17, generator=torch.Generator().manual_seed(2))

    def lifter(points: Tensor) -> Lifted:
        return Lifted(depth, elevation)

    loop = turn_and_lift_again(lifter, y, LifterConfig(), 0)
    # What the first pose's virtual view owes to the third one's elevation goes through the batch alone.
    found = torch.autograd.grad(loop.y_hat[0].square().sum(), elevation)[0]
    assert float(found[2].abs()) > 0


def _flow_of_two(points: Tensor, steps: int) -> PosePrior:
    """A flow for two joints of which the root is fixed, trained on points (P, 2)."""
    torch.manual_seed(0)
    poses = torch.stack((torch.zeros_like(points), points), dim=1)
    prior = PosePrior(LifterConfig(components=2, blocks=4, flow_width=32), 2)
    mean, components, deviation = principal_components(poses.flatten(1), 2)
    prior.adopt(Statistics(torch.ones(()), mean, components, deviation, torch.ones(1)))
    optimizer = torch.optim.Adam(prior.parameters(), 5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        l_nf(prior, poses[torch.randint(len(poses), (256,))]).backward()
        optimizer.step()
    return prior


def test_the_flow_is_a_density_that_follows_the_data_and_can_be_inverted() -> None:
    generator = torch.Generator().manual_seed(0)
    angle = math.pi * torch.rand(4096, generator=generator)
    arc = torch.stack((angle.cos(), angle.sin()), dim=-1) + 0.1 * torch.randn(4096, 2, generator=generator)
    prior = _flow_of_two(0.3 * arc, 300)
    cells = torch.linspace(-1.5, 1.5, 401)
    grid = torch.cartesian_prod(cells, cells)
    with torch.no_grad():
        density = prior.log_density(torch.stack((torch.zeros_like(grid), grid), dim=1)).exp()
        total = float(density.double().sum()) * float(cells[1] - cells[0]) ** 2
        assert total == pytest.approx(1, abs=0.01)
        # A Gaussian of the data's mean and covariance gives every datum less.
        data = 0.3 * arc
        gauss = torch.distributions.MultivariateNormal(data.mean(0), torch.cov(data.T)).log_prob(data).mean()
        poses = torch.stack((torch.zeros_like(data), data), dim=1)
        assert float(-l_nf(prior, poses)) > float(gauss) + 0.3
        codes = prior.coordinates(poses)
        transform = prior.flow().transform
        torch.testing.assert_close(transform.inv(transform(codes)), codes, rtol=0, atol=1e-5)
        drawn = prior.sample(2000)
        assert drawn.shape == (2000, 2, 2)
        torch.testing.assert_close(drawn[:, 1].mean(0), data.mean(0), rtol=0, atol=0.03)


def test_an_untrained_flow_of_one_gaussian_block_has_the_closed_forms_density() -> None:
    prior = PosePrior(LifterConfig(components=2, blocks=2, flow_width=4), 2)
    with torch.no_grad():
        for parameter in prior.flow.parameters():
            parameter.zero_()  # the identity
    deviation = torch.tensor([0.5, 2.0])
    mean, components = torch.tensor([0.0, 0.0, 1.0, -1.0]), torch.eye(4)[2:]
    prior.adopt(Statistics(torch.ones(()), mean, components, deviation, torch.ones(1)))
    points = torch.randn(8, 2, 2, generator=torch.Generator().manual_seed(4))
    expected = torch.distributions.Normal(mean[2:], deviation).log_prob(points[:, 1]).sum(-1)
    torch.testing.assert_close(prior.log_density(points), expected)


def test_principal_components_are_the_covariances_eigenvectors() -> None:
    poses = torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ torch.diag(
        torch.arange(6.0, 0, -1).double()
    )
    mean, components, deviation = principal_components(poses, 3)
    covariance = torch.cov(poses.T)
    torch.testing.assert_close(mean, poses.mean(0))
    torch.testing.assert_close(components @ covariance @ components.T, torch.diag(deviation**2))
    torch.testing.assert_close(deviation**2, torch.linalg.eigvalsh(covariance).flip(0)[:3])


def test_components_of_fewer_poses_are_refused() -> None:
    with pytest.raises(ValueError, match="components must be at most the number of poses that they are of, 4, got 6"):
        principal_components(torch.randn(4, 34), 6)


def test_a_used_flow_takes_over_the_masks_of_the_weights_that_it_loads() -> None:
    torch.manual_seed(0)
    prior = PosePrior(SMALL, 17)
    torch.manual_seed(1)
    used, fresh = PosePrior(SMALL, 17), PosePrior(SMALL, 17)
    poses = torch.randn(3, 17, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = used.log_density(poses)
        for other in (used, fresh):
            other.load_state_dict(prior.state_dict())
        assert torch.equal(used.log_density(poses), prior.log_density(poses))
        assert torch.equal(fresh.log_density(poses), prior.log_density(poses))
        assert not torch.equal(before, used.log_density(poses))
        # Nor does it go on with what it made in another type.
        assert used.double().sample(2).dtype == torch.float64


def test_the_2d_loss_reaches_its_poses_round_the_loop_alone() -> None:
    """y is its target: with y as data on the other side the gradient is the same."""
    networks = LiftingNetworks(SMALL)
    y = (0.1 * torch.randn(4, 17, 2, generator=torch.Generator().manual_seed(0))).requires_grad_()
    for norms in ("printed", "public"):
        torch.manual_seed(0)
        loop = turn_and_lift_again(networks.lifter, y, SMALL, 0)
        (found,) = torch.autograd.grad(l_2d(loop, norms), y, retain_graph=True)
        data = loop._replace(y=y.detach())
        (expected,) = torch.autograd.grad(l_2d(data, norms), y)
        assert float(found.abs().max()) > 0
        torch.testing.assert_close(found, expected)


def test_every_second_pose_is_mirrored_where_told(data: LiftingData) -> None:
    mirrored = LiftingData(replace(CONFIG, mirrored=True))
    plain, both = data.batch(5, 0, 1).points, mirrored.batch(5, 0, 1).points
    scale = mirrored.statistics.scale / data.statistics.scale
    torch.testing.assert_close(both[::2] * scale, plain[::2])
    exchanged = plain[1::2, list(pg.H36M_17.mirror)] * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(both[1::2] * scale, exchanged)
    shares = [mirrored.batch(5, rank, 2).points for rank in range(2)]
    assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), both)


def test_views_are_what_their_cameras_see(data: LiftingData) -> None:
    poses = data.poses
    views = poses.views(torch.arange(0, len(poses), 7), torch.Generator().manual_seed(0))
    assert (views.points[:, 0] == 0).all()
    lengths = pg.bone_vectors(views.joints, pg.H36M_17).norm(dim=-1)
    torch.testing.assert_close(lengths, pg.bone_vectors(poses.joints[::7], pg.H36M_17).norm(dim=-1))
    # Undoing the elevation stands people upright again: −y of the camera is the world's height.
    tilt = pg.camera_rotation(torch.zeros(()), -views.elevation, torch.zeros(())) @ pg.camera_rotation(
        torch.zeros(()), torch.zeros(()), torch.zeros(())
    ).mT.expand(len(views.elevation), 3, 3)
    upright = views.joints @ tilt.mT
    torch.testing.assert_close(-upright[..., 1], poses.joints[::7, :, 2], rtol=0, atol=1e-5)
    # The depth at which a point's ray meets its joint is the camera's distance for all joints.
    nearest, farthest = CONFIG.data.distance
    across = views.points.abs() > 0.02
    depth = (views.joints[..., :2] / views.points).where(across, torch.tensor(5.0)) - views.joints[..., 2:]
    assert float(depth[across].min()) > nearest - 1e-2
    assert float(depth[across].max()) < farthest + 1e-2
    elevation = views.elevation.rad2deg()
    assert float(elevation.mean()) == pytest.approx(12, abs=1.5)
    assert float(elevation.std()) == pytest.approx(8, abs=1.5)


def test_normalising_makes_the_mean_head_distance_a_tenth() -> None:
    points = torch.randn(50, 17, 2, generator=torch.Generator().manual_seed(0)) * 100 + 300
    inputs = normalised(points, head_distance(points, pg.H36M_17), 0)
    head = pg.H36M_17.index("head_top")
    assert float(inputs[:, head].norm(dim=-1).mean()) == pytest.approx(0.1)
    assert (inputs[:, 0] == 0).all()
    # One scale for all: sizes relative to one another stay.
    ratio = (inputs[1, head].norm() / inputs[0, head].norm()) / (
        (points[1, head] - points[1, 0]).norm() / (points[0, head] - points[0, 0]).norm()
    )
    assert float(ratio) == pytest.approx(1, rel=1e-5)
    assert float(head_distance(torch.tensor([[[0.0, 0.0], [1.0, 0.0], [3.0, 4.0]]]), ARM)) == 5


def test_batches_follow_from_seed_and_step_and_shares_make_the_whole(data: LiftingData) -> None:
    whole, again = data.batch(5, 0, 1), LiftingData(CONFIG).batch(5, 0, 1)
    assert torch.equal(whole.points, again.points)
    assert not torch.equal(whole.points, data.batch(6, 0, 1).points)
    shares = [data.batch(5, rank, 2).points for rank in range(2)]
    assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), whole.points)
    halves = [data.part(whole, number, 2).points for number in range(2)]
    assert torch.equal(torch.cat(halves), whole.points)
    assert data.batch(0, 0, 1).statistics is not None
    assert whole.statistics is None
    assert "poses of " in data.describe(5)


class Watched(LiftingRecipe):
    """A recipe that notes the flow's weights after each step, and may break off before one."""

    def __init__(self, config: LiftingConfig, last: int = -1) -> None:
        super().__init__(config)
        self.last = last
        self.flows: list[list[Tensor]] = []

    def step(self, train: Descent[LiftingBatch], batch: LiftingBatch, number: int) -> None:
        if number == self.last:
            raise RuntimeError("power cut")
        super().step(train, batch, number)
        self.flows.append([p.detach().clone() for p in self.networks.prior.parameters()])


def test_two_stages_the_second_with_the_flow_frozen(data: LiftingData, tmp_path: Path) -> None:
    recipe = Watched(CONFIG)
    lifter = [p.detach().clone() for p in recipe.networks.lifter.parameters()]
    train(recipe, data, CONFIG.training, tmp_path, launch(CONFIG.training), quiet=True)
    assert not any(torch.equal(a, b) for a, b in zip(recipe.flows[0], recipe.flows[3], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(recipe.flows[3], recipe.flows[7], strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(lifter, recipe.networks.lifter.parameters(), strict=True)]
    assert all(moved)
    torch.testing.assert_close(recipe.networks.get_buffer("scale"), data.statistics.scale)
    torch.testing.assert_close(recipe.networks.prior.get_buffer("components"), data.statistics.components)


@pytest.mark.parametrize("last", [4, 7])
def test_a_run_that_was_cut_off_ends_with_the_same_weights(data: LiftingData, tmp_path: Path, last: int) -> None:
    fabric = launch(CONFIG.training)
    whole, cut, resumed = Watched(CONFIG), Watched(CONFIG, last), Watched(CONFIG)
    train(whole, data, CONFIG.training, tmp_path / "whole", fabric, quiet=True)
    with pytest.raises(RuntimeError, match="power cut"):
        train(cut, data, CONFIG.training, tmp_path / "cut", fabric, quiet=True)
    train(resumed, data, CONFIG.training, tmp_path / "cut", fabric, quiet=True)
    assert len(resumed.flows) < len(whole.flows)
    for name, value in whole.networks.state_dict().items():
        assert torch.equal(value, resumed.networks.state_dict()[name]), name


def test_bone_lengths_and_elevations_join_later_where_told(data: LiftingData) -> None:
    config = replace(CONFIG, bones_from=0.5, elevation_from=0.75, network=replace(SMALL, first_elevation=12.0))
    recipe = LiftingRecipe(config)
    points = data.batch(4, 0, 1).points
    recipe.networks.adopt(data.statistics)
    _, elevation = recipe.networks(points)
    torch.testing.assert_close(elevation.rad2deg(), torch.full((16,), 12.0), rtol=0, atol=0.5)
    descents = []
    for number in range(4, 8):
        descent = Descent(launch(CONFIG.training), recipe.optimizers, data, CONFIG.training, number)
        before = [p.detach().clone() for p in recipe.networks.lifter.elevation.parameters()]
        recipe.step(descent, data.batch(number, 0, 1), number)
        after = recipe.networks.lifter.elevation.parameters()
        moved = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        descents.append(("lifter/bl" in descent.values, moved))
    assert descents == [(False, False), (False, False), (True, False), (True, True)]


def test_evaluation_of_true_and_of_reversed_depths(data: LiftingData) -> None:
    """Networks that know the answer score 0, and those that know it mirrored score 0 with reflection alone."""
    near = replace(CONFIG, data=ViewConfig(elevation=(0.0, 0.0), distance=(7.0, 7.0)))
    test = Poses("test", near.data, pg.H36M_17)
    numbers = torch.arange(0, len(test), 50)
    views = test.views(numbers, torch.Generator().manual_seed(1))

    class Knowing(LiftingNetworks):
        sign = 1.0

        def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
            return views.joints * torch.tensor([1.0, 1.0, self.sign]), views.elevation

    networks = Knowing(SMALL)
    scores = evaluate_lifting(networks, near.data, every=50)
    assert scores["frames"] == len(numbers)
    assert scores["model"]["p_mpjpe"] == pytest.approx(0, abs=1e-3)
    assert scores["model"]["mirrored"] == 0
    assert scores["model"]["elevation_error"] == 0
    assert scores["model"]["elevation"] == scores["truth"]["elevation"]
    assert scores["constant"]["p_mpjpe"] > 20
    assert scores["flat"]["p_mpjpe"] > 20
    networks.sign = -1.0
    mirrored = evaluate_lifting(networks, near.data, every=50)["model"]
    assert mirrored["p_mpjpe"] > 20
    assert mirrored["p_mpjpe_mirrored"] == pytest.approx(0, abs=1e-3)
    assert mirrored["mirrored"] == 100


def test_the_commands_train_score_and_resume_and_refuse_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSEGEOM_DATA", str(tmp_path / "nothing here"))
    run = str(tmp_path / "run")
    small = ["--network", "{width: 16, components: 6, blocks: 2, flow_width: 16}", "--prior_steps", "4"]
    command = ["train", "lifting", *small, "--out", run, "--quiet", "true", "--training.batch_size", "16"]
    command += ["--training.accelerator", "cpu", "--training.steps", "8"]
    assert main(command) == 0
    assert not (tmp_path / "run" / "constants.safetensors").exists()
    assert main(command) == 0  # nothing is left to do
    assert main(["evaluate", run, "--split", "validation", "--every", "50"]) == 0
    said = capsys.readouterr().out
    assert "every depth 0" in said
    assert "truth" in said
    path = tmp_path / "run" / "evaluation" / "poses_validation_every50"
    scores = json.loads(path.with_suffix(".json").read_text())
    assert scores["data"]["data"] == "poses"
    assert scores["model"]["p_mpjpe_mirrored"] <= scores["model"]["p_mpjpe"]
    rows = list(csv.DictReader(path.with_suffix(".csv").open()))
    assert float(rows[0]["p_mpjpe"]) == pytest.approx(scores["model"]["p_mpjpe"], abs=1e-3)
    assert {row["answer"] for row in rows} == {"model", "constant", "flat", "truth"}
    for words, complaint in (
        (["predict", run, "clip.mp4"], "takes 2D poses and no images"),
        (["synthesize", run], "draws nothing anew"),
        (["evaluate", run, "--domain", "B"], "--domain means nothing"),
        (["evaluate", run, "--split", "all"], "split must be one of"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err.strip()
        assert complaint in error
        assert "\n" not in error


def test_pictures_are_drawn(data: LiftingData) -> None:
    (picture,) = LiftingRecipe(CONFIG).pictures(data.batch(0, 0, 1)).values()
    assert picture.shape == (3, 3 * 96, 6 * 96)
    picture = picture.detach()
    assert 0 <= float(picture.min()) < 0.01 < 0.9 < float(picture.max()) <= 1


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda: replace(CONFIG, norms="squared"), "norms"),
        (lambda: replace(CONFIG, ablation="bones"), "ablation"),
        (lambda: replace(CONFIG, prior_steps=8), "prior_steps"),
        (lambda: replace(CONFIG, sigma=0.0), "sigma"),
        (lambda: replace(CONFIG, bones_from=1.5), "bones_from"),
        (lambda: replace(CONFIG, prior_noise=-1.0), "prior_noise"),
        (lambda: LifterConfig(floor=10.0), "floor"),
        (lambda: LifterConfig(components=1), "components"),
        (lambda: PosePrior(LifterConfig(components=33), 17), "components"),
        (lambda: ViewConfig(distance=(1.0, 3.0)), "distance"),
        (lambda: ViewConfig(elevation=(0.0, 45.0)), "elevation"),
    ],
)
def test_a_wrong_value_is_refused_by_name(change: Callable[[], object], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        change()
