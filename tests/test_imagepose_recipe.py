"""001 in training: which networks each loss moves, and its test-time path."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import posegeom as pg

pytest.importorskip("torchvision")
pytest.importorskip("zuko")

from posegeom_models.cli import main
from posegeom_models.data.reels import Reel
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.evaluation import Prediction, evaluate
from posegeom_models.imagepose.batches import ImageposeBatch, ImageposeData
from posegeom_models.imagepose.configuration import ImageposeConfig
from posegeom_models.imagepose.lifter import LifterConfig
from posegeom_models.imagepose.networks import ImageConfig
from posegeom_models.imagepose.panels import panels
from posegeom_models.imagepose.recipe import ImageposeNetworks, ImageposeRecipe, Stage, predict
from posegeom_models.training import Descent, TrainingConfig, launch, train

CONFIG = ImageposeConfig(
    image=ImageConfig(size=32, width=4, patch_width=4, scales=1),
    lifter=LifterConfig(width=16, components=6, blocks=2, flow_width=16),
    data=RenderedConfig(size=32, clips=(12, 1, 1), identities=(2, 1, 1), frames=4, anywhere=0.0, cameras=1),
    training=TrainingConfig(steps=6, batch_size=4, checkpoint_every=2, accelerator="cpu"),
    prior_steps=2,
    lambda_image=1.0,
)


@pytest.fixture(scope="module")
def data() -> ImageposeData:
    return ImageposeData(CONFIG)


def _moved(recipe: ImageposeRecipe, data: ImageposeData, number: int) -> tuple[set[str], dict[str, float]]:
    """The networks that a step moves, and the step's terms."""
    networks = recipe.networks
    parts = {
        "phi": networks.phi,
        "omega": networks.omega,
        "lifter": networks.lifting.lifter,
        "prior": networks.lifting.prior,
        "discriminator": networks.discriminator,
        "redrawing": networks.redrawing or nn.Module(),
    }
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    networks.lifting.adopt(data.statistics)
    descent = Descent(launch(CONFIG.training), recipe.optimizers, data, CONFIG.training, number)
    recipe.step(descent, data.batch(number, 0, 1), number)
    moved = {
        name
        for name, part in parts.items()
        if any(not torch.equal(a, b) for a, b in zip(before[name], part.parameters(), strict=True))
    }
    return moved, descent.finite_values()


def test_the_flow_and_lambda_see_more_poses_than_images_where_told(data: ImageposeData) -> None:
    config = replace(CONFIG, poses=12, lift_unpaired=True, joint=False)
    many = ImageposeData(config)
    batch = many.batch(3, 0, 1)
    assert batch.image is not None
    assert (len(batch.points), len(batch.image)) == (12, 4)
    shares = [many.batch(3, rank, 2).points for rank in range(2)]
    assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), batch.points)
    half = many.part(batch, 1, 2)
    assert torch.equal(half.points, batch.points[6:])
    assert half.image is not None
    assert torch.equal(half.image, batch.image[2:])
    recipe = ImageposeRecipe(config)
    seen = []
    recipe.networks.lifting.lifter.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    _moved(recipe, many, 3)
    assert seen == [16, 16]  # four of the images and twelve unpaired ones, and their virtual views


@pytest.mark.parametrize(("omega_poses", "count"), [(0, 12), (8, 8)])
def test_omega_sees_as_many_poses_in_one_part_as_in_two(omega_poses: int, count: int) -> None:
    for accumulate in (1, 2):
        training = replace(CONFIG.training, accumulate=accumulate)
        config = replace(CONFIG, poses=12, omega_poses=omega_poses, omega_early=True, training=training)
        data, recipe = ImageposeData(config), ImageposeRecipe(config)
        seen = []
        recipe.networks.omega.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(len(output)))
        descent = Descent(launch(training), recipe.optimizers, data, training, 0)
        recipe.step(descent, data.batch(0, 0, 1), 0)
        assert sum(seen) == count
        assert len(seen) == accumulate


def test_lambda_learns_from_unpaired_poses_before_what_phi_draws_counts(data: ImageposeData) -> None:
    config = replace(CONFIG, lift_unpaired=True, joint=False, drawn_from=0.6)
    rows = {}
    for number in (2, 5):
        recipe = ImageposeRecipe(config)
        seen: list[int] = []
        recipe.networks.lifting.lifter.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(len(inputs[0]))
        )
        _, terms = _moved(recipe, data, number)
        assert "lifter/3d" in terms
        rows[number] = seen
    assert rows == {2: [4, 4], 5: [8, 8]}
    # Nor does Ω have to say what a Φ that knows nothing draws.
    batch = data.batch(3, 0, 1)
    assert batch.image is not None
    for number, alike in ((2, True), (5, False)):
        costs = []
        for image in (batch.image, torch.zeros_like(batch.image)):
            recipe = ImageposeRecipe(config)
            recipe.networks.lifting.adopt(data.statistics)
            descent = Descent(launch(CONFIG.training), recipe.optimizers, data, CONFIG.training, number)
            recipe.step(descent, batch._replace(image=image), number)
            costs.append(descent.finite_values()["omega/Omega"])
        assert (costs[0] == costs[1]) == alike


def test_omega_learns_to_read_early_where_told(data: ImageposeData) -> None:
    moved, terms = _moved(ImageposeRecipe(replace(CONFIG, omega_early=True)), data, 0)
    assert moved == {"prior", "omega"}
    assert set(terms) == {"prior/NF", "omega/Omega"}


def test_hands_are_shown_scored_and_drawn(motion_data: Path) -> None:
    hands = replace(
        CONFIG,
        skeleton="HAND_21",
        data=replace(CONFIG.data, motion=motion_data),
        prior_share=0.5,
        rotations=(45.0, 90.0),
        prior_clips=12,
    )
    data, recipe = ImageposeData(hands), ImageposeRecipe(hands)
    assert data.batch(3, 0, 1).points.shape == (4, 21, 2)
    moved, _ = _moved(recipe, data, 3)
    assert "lifter" in moved
    recipe.networks.eval()
    reel = Reel.render(RenderedBenchmark(hands.data, "test", pg.HAND_21))

    def say(images: torch.Tensor) -> Prediction:
        with torch.no_grad():
            return predict(recipe.networks, images)

    scores = evaluate(say, reel, data.constants, masked=True)
    # A mean pose that is turned to fit is nearer than a guess.
    assert 0 < scores["constant"]["p_mpjpe"] < scores["model"]["p_mpjpe"]
    assert scores["constant"]["mpjpe"] < 60


def test_people_cut_out_need_masks(data: ImageposeData) -> None:
    reel = Reel.render(RenderedBenchmark(CONFIG.data, "test", pg.H36M_17))
    seen = []

    def say(images: torch.Tensor) -> Prediction:
        seen.append(images)
        return Prediction(points=torch.zeros(len(images), 17, 2))

    evaluate(say, reel, data.constants, masked=True)
    black = (torch.cat(seen) == 0).all(1)
    assert torch.equal(black | (reel.labels > 0), torch.ones_like(black))
    assert black[reel.labels == 0].all()
    with pytest.raises(ValueError, match="cut out"):
        evaluate(say, replace(reel, segmented=False), data.constants, masked=True)


def test_exchanged_sides_are_an_error_of_the_one_2d_figure_alone(data: ImageposeData) -> None:
    reel = Reel.render(RenderedBenchmark(replace(CONFIG.data, clips=(1, 1, 2)), "test", pg.H36M_17))
    told = reel.points.clone()
    told[::2] = told[::2, list(pg.H36M_17.mirror)]
    dealt = iter(told.split(4))
    model = evaluate(lambda images: Prediction(points=next(dealt)), reel, data.constants, batch=4)["model"]
    off = 100 / 32 * float((told - reel.points).norm(dim=-1).mean())
    assert model["2d"] == pytest.approx(off, rel=1e-5)
    assert off > 1
    assert model["2d_either_side"] == 0


def test_each_stage_moves_its_own_networks(data: ImageposeData) -> None:
    moved, terms = _moved(ImageposeRecipe(CONFIG), data, 0)
    assert moved == {"prior"}
    assert set(terms) == {"prior/NF"}
    moved, terms = _moved(ImageposeRecipe(CONFIG), data, 3)
    assert moved == {"phi", "omega", "lifter", "discriminator", "redrawing"}
    seven = {f"pose/{term}" for term in ("D", "Omega", "2d", "3d", "def", "NF", "bl")}
    assert set(terms) == seven | {"pose/image", "discriminator/D"}


@pytest.mark.parametrize(
    ("row", "gone"),
    [
        ("images", {"2d", "3d", "def", "NF", "bl"}),
        ("base", {"NF", "bl"}),
        ("without_bl", {"bl"}),
    ],
)
def test_rows_of_table_3(data: ImageposeData, row: str, gone: set[str]) -> None:
    recipe = ImageposeRecipe(replace(CONFIG, ablation=row, lambda_image=0.0))
    moved, terms = _moved(recipe, data, 3)
    left = {"D", "Omega", "2d", "3d", "def", "NF", "bl"} - gone
    assert set(terms) == {f"pose/{term}" for term in left} | {"discriminator/D"}
    assert ("lifter" in moved) == (row != "images")


class Reaching:
    """In the place of `Descent`: notes which networks' weights each term has a gradient to, and moves none."""

    def __init__(self, networks: ImageposeNetworks) -> None:
        self.reached: dict[str, set[str]] = {}
        self.parts = {
            "phi": networks.phi,
            "omega": networks.omega,
            "lifter": networks.lifting.lifter,
            "prior": networks.lifting.prior,
            "discriminator": networks.discriminator,
            "redrawing": networks.redrawing or nn.Module(),
        }

    def minimize(self, name: str, objective: Callable[..., Mapping[str, torch.Tensor]], batch: ImageposeBatch) -> None:
        for term, value in objective(batch).items():
            self.reached[f"{name}/{term}"] = {
                part
                for part, network in self.parts.items()
                if any(
                    found is not None
                    for p in network.parameters()
                    if p.requires_grad
                    for found in torch.autograd.grad(value, p, retain_graph=True, allow_unused=True)
                )
            }


def test_what_each_term_reaches(data: ImageposeData) -> None:
    """What the paper does not have never moves Ω, and eqs. (4) to (10) move Φ and Ω in one sum alone."""
    lifted = ("2d", "3d", "def", "NF", "bl")
    expected = {
        True: {
            "pose/D": {"phi"},
            "pose/s": {"phi"},
            "pose/image": {"phi", "redrawing"},
            "pose/Omega": {"phi", "omega"},
            **{f"pose/{term}": {"phi", "omega", "lifter"} for term in lifted},
            "discriminator/D": {"discriminator"},
        },
        False: {
            "pose/D": {"phi"},
            "pose/s": {"phi"},
            "pose/image": {"phi", "redrawing"},
            "omega/Omega": {"omega"},
            **{f"lifter/{term}": {"lifter"} for term in lifted},
            "discriminator/D": {"discriminator"},
        },
    }
    for joint in (True, False):
        recipe = ImageposeRecipe(replace(CONFIG, joint=joint, lambda_s=1.0))
        recipe.networks.lifting.adopt(data.statistics)
        reaching = Reaching(recipe.networks)
        recipe.step(reaching, data.batch(3, 0, 1), 3)  # type: ignore[arg-type]
        assert reaching.reached == expected[joint]


def test_apart_every_network_has_one_optimizer() -> None:
    recipe = ImageposeRecipe(replace(CONFIG, joint=False, omega_early=True))
    held = [
        id(p) for optimizer in recipe.optimizers.values() for group in optimizer.param_groups for p in group["params"]
    ]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in recipe.networks.parameters()}


def test_lambdas_rate_falls_with_its_own_steps(data: ImageposeData) -> None:
    recipe = ImageposeRecipe(replace(CONFIG, joint=False, lifter_rate=1.0, drawn_from=0.5))
    rates = []
    for number in range(2, 6):
        recipe.step(Reaching(recipe.networks), data.batch(number, 0, 1), number)  # type: ignore[arg-type]
        rates.append(recipe.optimizers["lifter"].param_groups[0].get("initial_lr"))
    assert rates == [None, None, 1.0, pytest.approx(0.95**50)]


def test_a_step_counts_its_images_once_in_the_running_statistics_of_phi(data: ImageposeData) -> None:
    for joint in (True, False):
        recipe = ImageposeRecipe(replace(CONFIG, joint=joint))
        recipe.networks.train()
        _moved(recipe, data, 3)
        for name, value in recipe.networks.phi.named_buffers():
            if name.endswith("num_batches_tracked"):
                assert value == 1, name


def test_a_run_that_was_cut_off_ends_with_the_same_weights(data: ImageposeData, tmp_path: Path) -> None:
    class Cut(ImageposeRecipe):
        def step(self, train, batch, number):  # type: ignore[no-untyped-def]
            if number == 5:
                raise RuntimeError("power cut")
            super().step(train, batch, number)

    fabric, whole, resumed = launch(CONFIG.training), ImageposeRecipe(CONFIG), ImageposeRecipe(CONFIG)
    train(whole, data, CONFIG.training, tmp_path / "whole", fabric, quiet=True)
    with pytest.raises(RuntimeError, match="power cut"):
        train(Cut(CONFIG), data, CONFIG.training, tmp_path / "cut", fabric, quiet=True)
    train(resumed, data, CONFIG.training, tmp_path / "cut", fabric, quiet=True)
    for name, value in whole.networks.state_dict().items():
        assert torch.equal(value, resumed.networks.state_dict()[name]), name


def test_predictions_are_in_pixels_and_metres() -> None:
    networks = ImageposeRecipe(CONFIG).networks.eval()
    with torch.no_grad():
        said = predict(networks, torch.rand(2, 3, 32, 32))
    assert said.joints is not None
    assert said.points is not None
    assert said.points.shape == (2, 17, 2)
    assert (said.joints[:, 0] == 0).all()
    lengths = pg.bone_vectors(said.joints, pg.H36M_17).norm(dim=-1).mean(-1)
    mean = sum(pg.H36M_17.lengths or ()) / 16
    torch.testing.assert_close(lengths, torch.full((2,), mean), rtol=1e-4, atol=0)


def test_nothing_that_the_paper_prints_asks_what_an_image_shows(data: ImageposeData) -> None:
    """Skeletons that Φ draws whatever it sees cost the same for any images; the reconstruction alone tells."""
    recipe = ImageposeRecipe(CONFIG)
    recipe.networks.lifting.adopt(data.statistics)
    batch = data.batch(3, 0, 1)
    assert batch.image is not None
    drawn = recipe.networks.kappa(data.batch(4, 0, 1).points)

    class Blind(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return drawn

    recipe.networks.phi = Blind()  # type: ignore[assignment]
    costs = []
    for image in (batch.image, batch.image.flip(0), torch.zeros_like(batch.image)):
        torch.manual_seed(0)
        terms = recipe._pose(batch._replace(image=image), Stage(True, 0.5), [])
        costs.append({name: float(term.detach()) for name, term in terms.items()})
    for name in ("D", "Omega", "2d", "3d", "def", "NF", "bl"):
        assert costs[0][name] == costs[1][name] == costs[2][name], name
    assert len({cost["image"] for cost in costs}) == 3


def test_under_autocast_geometry_and_lifting_stay_in_float32(data: ImageposeData) -> None:
    recipe = ImageposeRecipe(CONFIG)
    recipe.networks.lifting.adopt(data.statistics)
    with torch.autocast("cpu", torch.bfloat16):
        drawn: list[torch.Tensor] = []
        terms = recipe._pose(data.batch(3, 0, 1), Stage(True, 0.5), drawn)
        recipe._discriminator(data.batch(3, 0, 1), drawn[0])
        y = recipe.networks.normalised(data.batch(3, 0, 1).points)
        lifted = recipe.networks.lifting.lifter(y)
    for name in ("2d", "3d", "def", "NF", "bl"):
        assert terms[name].dtype == torch.float32
    assert torch.equal(lifted.depth, recipe.networks.lifting.lifter(y).depth)


SMALLEST = """
image: {size: 32, width: 4, patch_width: 4, scales: 1}
lifter: {width: 16, components: 6, blocks: 2, flow_width: 16}
data: {size: 32, clips: [12, 1, 1], identities: [2, 1, 1], frames: 4, anywhere: 0.0, cameras: 1, samples: 1}
training: {steps: 4, batch_size: 4, checkpoint_every: 4, accelerator: cpu, threads: 1}
prior_steps: 2
lambda_image: 1.0
"""


def test_the_commands_train_score_draw_and_predict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSEGEOM_DATA", str(tmp_path / "nothing here"))
    config, run = tmp_path / "smallest.yaml", str(tmp_path / "run")
    config.write_text(SMALLEST)
    assert main(["train", "imagepose", "--config", str(config), "--out", run, "--quiet", "true"]) == 0
    assert main(["evaluate", run, "--clips", "2", "--every", "15"]) == 0
    scores = json.loads((tmp_path / "run" / "evaluation" / "rendered_test_A_clips2_every15.json").read_text())
    assert scores["model"]["2d"] > 0
    assert scores["constant"]["2d"] > 0
    with Image.open(_photograph(tmp_path)) as photograph:
        assert photograph.size == (64, 64)
    assert main(["predict", run, str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "photo.npz").is_file()
    assert "cut out" in capsys.readouterr().out


def _photograph(folder: Path) -> Path:
    path = folder / "photo.png"
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(path)
    return path


class _Knowing:
    """Says the truth of every frame of a reel, in the order of its pictures, but for some that it turns about."""

    def __init__(self, reel: Reel, far: int) -> None:
        self.reel, self.far = reel, far

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        whole = self.reel.frames(torch.arange(len(self.reel))).image
        numbers = torch.tensor([int((whole - image).abs().flatten(1).sum(1).argmin()) for image in images])
        joints = self.reel.joints[numbers].clone()
        joints[numbers < self.far, 4:] += torch.tensor([2.0, 0.0, 1.0]) * torch.rand(13, 1)
        return torch.zeros(len(images), 1, *images.shape[-2:]), self.reel.points[numbers], joints


def test_panels_show_failures_where_there_are_any() -> None:
    reel = Reel.render(RenderedBenchmark(replace(CONFIG.data, clips=(1, 1, 3), frames=1), "test", pg.H36M_17))
    random = np.random.default_rng(0)
    assert set(panels(_Knowing(reel, 0), reel, False, random)) == {"poses"}
    pictures = panels(_Knowing(reel, 1), reel, False, random)
    # Cells of 32 pixels are shown four times as large.
    assert pictures["poses"].shape == (7 * 128, 92 + len(reel) * 128, 3)
    assert pictures["failures"].shape == (7 * 128, 92 + 128, 3)
    shown, y = (pictures["poses"][row * 128 : (row + 1) * 128, 92:].astype(int) for row in (0, 2))
    changed = torch.from_numpy(np.abs(y - shown).max(-1) > 20).view(128, len(reel), 128)
    images = torch.from_numpy(shown[::4, ::4]).view(32, len(reel), 32, 3).permute(1, 3, 0, 2) / 255
    known = _Knowing(reel, 0)(images)[1]  # in the order of the cells
    for cell, points in enumerate(known):
        rows, columns = torch.nonzero(changed[:, cell]).unbind(1)
        edges = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()]).float()
        expected = torch.cat((points.amin(0), points.amax(0))) * 4 + 1.5
        assert (edges - expected).abs().max() < 6


def test_pictures_are_drawn_in_both_stages(data: ImageposeData) -> None:
    recipe = ImageposeRecipe(CONFIG)
    recipe.networks.eval()
    with torch.no_grad():
        (early,) = recipe.pictures(data.batch(0, 0, 1)).values()
        (later,) = recipe.pictures(data.batch(3, 0, 1)).values()
    assert early.shape == (3, 32, 4 * 32)
    assert later.shape == (3, 4 * 32, 4 * 32)


def test_a_mirror_image_has_the_mirrored_pose_where_both_are_looked_at() -> None:
    plain = ImageposeNetworks(CONFIG).eval()
    both = ImageposeNetworks(replace(CONFIG, image=replace(CONFIG.image, mirrored=True))).eval()
    both.load_state_dict(plain.state_dict())
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        one, mean, of_mirrored = plain(images), both(images), both(images.flip(-1))
    flipped = pg.flip_joints(mean.points, plain.skeleton, width=32)
    torch.testing.assert_close(of_mirrored.points, flipped, rtol=1e-4, atol=1e-4)
    # The pose is lifted from the mean, and what Φ draws of the image is shown as it is.
    torch.testing.assert_close(mean.joints, plain.lifting(plain.normalised(mean.points))[0])
    torch.testing.assert_close(mean.skeleton_image, one.skeleton_image)
    assert not torch.allclose(one.points, mean.points, atol=1e-3)


def test_networks_of_a_hand_have_its_joints() -> None:
    networks = ImageposeNetworks(replace(CONFIG, skeleton="HAND_21")).eval()
    with torch.no_grad():
        pose = networks(torch.rand(2, 3, 32, 32))
    assert pose.points.shape == (2, 21, 2)
    assert pose.joints.shape == (2, 21, 3)
    assert networks.kappa(pose.points).shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda: replace(CONFIG, form="wgan"), "form"),
        (lambda: replace(CONFIG, ablation="bones"), "ablation"),
        (lambda: replace(CONFIG, skeleton="DOG"), "skeleton"),
        (lambda: replace(CONFIG, poses=6), "poses"),
        (lambda: replace(CONFIG, more_images="A"), "more_images"),
        (lambda: replace(CONFIG, omega_poses=6), "omega_poses"),
        (lambda: replace(CONFIG, poses=8, omega_poses=12), "omega_poses"),
        (lambda: replace(CONFIG, skeleton="HAND_21", mirrored=True), "^mirrored"),
        (lambda: replace(CONFIG, skeleton="HAND_21", image=replace(CONFIG.image, mirrored=True)), "image.mirrored"),
        (lambda: replace(CONFIG, lengths="mine"), "lengths"),
        (lambda: replace(CONFIG, lifter_rate=0.0), "lifter_rate"),
        (lambda: replace(CONFIG, drawn_from=2.0), "drawn_from"),
        (lambda: replace(CONFIG, prior_steps=6), "prior_steps"),
        (lambda: replace(CONFIG, prior_share=1.0), "prior_share"),
        (lambda: replace(CONFIG, bones_from=-0.1), "bones_from"),
        (lambda: replace(CONFIG, image=ImageConfig(size=64, scales=1)), "image.size"),
        (lambda: replace(CONFIG, frame_step=0), "frame_step"),
        (lambda: replace(CONFIG, lambda_image=-1.0), "lambda_image"),
        (lambda: ImageConfig(size=36), "size"),
        (lambda: ImageConfig(size=64, scales=3), "scales"),
        (lambda: ImageConfig(power=3), "power"),
    ],
)
def test_a_wrong_value_is_refused_by_name(change: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        change()
