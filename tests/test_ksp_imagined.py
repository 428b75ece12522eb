"""002 in minutes: imagined poses, dolls, and branches that see key points alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import posegeom as pg
from posegeom.frames import rotate

pytest.importorskip("torchvision")

from posegeom_models.data.rendered import RenderedBenchmark
from posegeom_models.ksp.batches import KspData
from posegeom_models.ksp.configuration import KspConfig, turn_of
from posegeom_models.ksp.dolls import make_dolls
from posegeom_models.ksp.imagined import Imagination, Imagined, imagined_error
from posegeom_models.ksp.networks import NetworkConfig
from posegeom_models.ksp.objective import figure_error
from posegeom_models.ksp.recipe import KspRecipe
from posegeom_models.poses import Pose
from posegeom_models.training import Descent, launch
from tests.test_ksp import CONFIG, SMALL

LIFTED = replace(
    CONFIG, network=replace(SMALL, backbone="pyramid", width=4, lifted=True), lambda_imagined=1.0, imagined=2
)


@pytest.fixture(scope="module")
def data() -> KspData:
    return KspData(CONFIG)


def limb_of(joint: str) -> str:
    side, _, kind = joint.partition("_")
    return f"{side} {'arm' if kind in ('elbow', 'wrist') else 'leg'}" if kind not in ("", "shoulder") else "trunk"


def test_imagined_poses_are_limbs_of_the_samples_with_the_skeletons_bones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise every limb of every pose is that of one of the samples, as it is or mirrored."""
    monkeypatch.setattr("posegeom_models.ksp.imagined.SHAKE", 0.0)
    samples = pg.forward_kinematics(torch.randn(3, 13, 3), torch.randn(3) * 0.3, pg.BODY_17, frame="canonical")
    turn = pg.camera_rotation(torch.rand(3) * 6, torch.rand(3), torch.rand(3))
    joints = rotate(turn.unsqueeze(1), samples) + torch.tensor([0.0, 0.0, 4.0])
    points, _ = pg.project(joints, pg.PerspectiveCamera(64.0, None, (32, 32)))
    drawn = Imagination(joints, points, pg.BODY_17, 32).draw(200, torch.Generator().manual_seed(0))
    lengths = pg.bone_vectors(drawn.canonical, pg.BODY_17).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.tensor(pg.BODY_17.lengths).expand(200, -1), rtol=1e-4, atol=1e-5)
    known = torch.cat((samples, pg.flip_joints(samples, pg.BODY_17, axis=1)))
    bones, theirs = (pg.bone_vectors(each, pg.BODY_17) for each in (drawn.canonical, known))
    sources: dict[str, Tensor] = {}
    for bone, (_, child) in enumerate(pg.BODY_17.bones):
        name = limb_of(pg.BODY_17.joints[child])
        off = (bones[:, None, bone] - theirs[None, :, bone]).norm(dim=-1)
        if pg.BODY_17.joints[child] not in ("neck", "left_hip", "right_hip"):  # these are the trunk rule's
            assert float(off.min(1).values.max()) < 1e-3
            source = off.argmin(1)
            assert torch.equal(sources.setdefault(name, source), source)  # one limb is of one sample
    assert len(sources) == 5
    # Limbs are drawn each for itself: hardly ever all five of one sample.
    assert float((torch.stack(list(sources.values())) == sources["trunk"]).all(0).float().mean()) < 0.05


def test_imagined_people_are_seen_from_everywhere_where_the_samples_are(data: KspData) -> None:
    imagination = Imagination(data.samples.joints, data.samples.points, pg.BODY_17, 32)
    drawn = imagination.draw(400, torch.Generator().manual_seed(0))
    canonical, rotation, _ = pg.canonicalize(drawn.joints, pg.BODY_17)
    torch.testing.assert_close(canonical, drawn.canonical, rtol=0, atol=1e-4)
    facing = rotation[:, :, 0]  # the person's +X in the camera's axes
    azimuth = torch.atan2(facing[:, 0], -facing[:, 2])
    counts = torch.histc(azimuth, 4, -math.pi, math.pi)
    assert counts.min() > 60  # of 100 in every quarter
    # Points are the joints seen by a pinhole: x and y over depth, up to the crop.
    depth = drawn.joints[..., 2]
    away = torch.linspace(3.0, 7.0, 401).view(-1, 1, 1)
    for pose in range(5):
        seen = drawn.joints[pose, :, :2] / (depth[pose] + away[:, 0])[..., None]
        seen = seen - seen.mean(1, keepdim=True)
        wanted = drawn.points[pose] - drawn.points[pose].mean(0)
        scale = (seen * wanted).sum((1, 2), keepdim=True) / (seen**2).sum((1, 2), keepdim=True)
        assert float((scale * seen - wanted).abs().amax((1, 2)).min()) < 0.02  # pixels
    size = (drawn.points.amax(1) - drawn.points.amin(1)).amax(-1)
    theirs = (data.samples.points.amax(1) - data.samples.points.amin(1)).amax(-1)
    assert float(size.min()) >= 0.9 * float(theirs.min()) - 1e-3
    assert float(size.max()) <= 1.1 * float(theirs.max()) + 1e-3
    off = (drawn.found - drawn.points).std((1, 2)) / 32
    assert float(off.max()) < 0.07
    assert 0.02 < float(off.mean()) < 0.03
    again = imagination.draw(400, torch.Generator().manual_seed(0))
    assert torch.equal(again.found, drawn.found)


def test_imagined_error_by_hand_and_what_it_moves() -> None:
    """The branches alone learn from it; it is 0 where the pose is the one imagined."""
    recipe = KspRecipe(LIFTED)
    encoder = recipe.networks.pose_encoder.eval()
    points = torch.rand(3, 17, 2) * 32
    with torch.no_grad():
        pose = encoder.lift(points)
    right = Imagined(pose.joints, pose.in_camera, pose.points, points)
    assert float(imagined_error(encoder.lift(points), right, 32).detach()) == pytest.approx(0, abs=1e-5)
    off = right._replace(canonical=right.canonical + 0.1, joints=right.joints - 0.2, points=right.points + 3.2)
    error = imagined_error(encoder.lift(points), off, 32)
    assert float(error.detach()) == pytest.approx(0.1 + 0.2 + 0.1, abs=1e-4)
    error.backward()
    moved = {name.split(".")[0] for name, value in encoder.named_parameters() if value.grad is not None}
    assert moved == {"local_kinematics", "camera_parameters"}


def test_lifted_branches_see_the_key_points_of_the_heatmaps() -> None:
    encoder = KspRecipe(LIFTED).networks.pose_encoder.eval()
    points = torch.rand(2, 17, 2) * 20 + 6
    maps = pg.joint_heatmaps((points + 0.5) / 4 - 0.5, (8, 8), 0.5)
    logits = torch.log(maps + 1e-9)
    encoder.trunk.forward = lambda images: (torch.zeros(2, 1), logits)  # type: ignore[assignment, method-assign]
    with torch.no_grad():
        pose, wanted = encoder(torch.rand(2, 3, 32, 32)), encoder.lift(points)
    torch.testing.assert_close(pose.points, wanted.points, rtol=0, atol=0.2)
    assert torch.equal(pose.heat, logits)
    one_by_one = encoder(torch.rand(2, 3, 32, 32)), encoder.lift(points[:1])
    for together, alone in zip(encoder.beside(torch.rand(2, 3, 32, 32), points[:1]), one_by_one, strict=True):
        for ours, theirs in zip(together, alone, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or torch.allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ValueError, match="lifted needs the pyramid"):
        NetworkConfig(lifted=True)
    with pytest.raises(ValueError, match=r"set network\.lifted"):
        replace(CONFIG, lambda_imagined=1.0)


def test_a_mirror_image_has_the_mirrored_key_points_where_both_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(LIFTED, network=replace(LIFTED.network, mirrored=True))
    networks = KspRecipe(config).networks.eval()
    found: list[Tensor] = []
    lift = networks.pose_encoder.lift

    def noted(points: Tensor) -> Pose:
        found.append(points)
        return lift(points)

    monkeypatch.setattr(networks.pose_encoder, "lift", noted)
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        for look, shown in ((networks, images), (networks, images.flip(-1)), (networks.pose_encoder, images)):
            look(shown)
    both, of_mirrored, one = found
    torch.testing.assert_close(of_mirrored, pg.flip_joints(both, pg.BODY_17, width=32))
    assert not torch.allclose(one, both, atol=1e-3)
    with pytest.raises(ValueError, match="mirrored takes means of key points"):
        replace(SMALL, mirrored=True)


def test_with_3d_labels_poses_are_imagined_from_labelled_frames_too() -> None:
    semi = KspData(replace(LIFTED, labelled_share=0.25))
    assert semi.imagination is not None
    labelled = len(semi.orders["labelled"].numbers)
    assert labelled == round(0.25 * len(semi.reel))
    assert len(semi.imagination.directions) == 2 * (4 + labelled)  # mirrored ones, too
    weakly = KspData(replace(LIFTED, variant="weakly"))
    assert weakly.imagination is not None
    assert len(weakly.imagination.directions) == 2 * 4


def test_imagined_poses_join_every_loss_and_are_shared_like_images() -> None:
    data, recipe = KspData(LIFTED), KspRecipe(LIFTED)
    for step in (0, 1, 2, 8):
        whole = data.batch(step, 0, 1).imagined
        assert whole is not None
        assert len(whole.canonical) == 8
        shares = [data.batch(step, rank, 2).imagined for rank in range(2)]
        assert all(share is not None and torch.equal(share.found, whole.found[r::2]) for r, share in enumerate(shares))
        descent = Descent(launch(LIFTED.training), recipe.optimizers, data, LIFTED.training, step)
        recipe.step(descent, data.batch(step, 0, 1), step)
        assert f"{turn_of(LIFTED, step)}/imagined" in descent.finite_values()
    plain = KspData(replace(LIFTED, lambda_imagined=0.0))
    assert plain.batch(0, 0, 1).imagined is None


def test_pose_rate_slows_the_pose_encoder_in_the_losses_without_labels() -> None:
    recipe = KspRecipe(replace(CONFIG, pose_rate=0.1, learning_rate=0.01))
    encoder = {id(parameter) for parameter in recipe.networks.pose_encoder.parameters()}
    for loss, rates in (("prior", {0.01}), ("labelled", {0.01}), ("paired", {0.001}), ("unpaired", {0.001})):
        groups = recipe.optimizers[loss].param_groups
        assert {group["lr"] for group in groups if id(group["params"][0]) in encoder} == rates
        assert {group["lr"] for group in groups if id(group["params"][0]) not in encoder} <= {0.01}


def test_figure_error_is_least_where_the_person_is(data: KspData) -> None:
    still = torch.nonzero(~data.reel.moving).flatten()[:8]
    frames = data.reel.frames(still)
    right = float(figure_error(frames.points, frames.image, frames.background))
    away = [float(figure_error(frames.points + shift, frames.image, frames.background)) for shift in (3.0, 6.0, 12.0)]
    assert [right, *away] == sorted([right, *away])
    assert right < 0.6
    turned = float(figure_error(frames.points.flip(-1), frames.image, frames.background))
    assert right < turned - 0.1
    # By hand: a person of one cell, whose skeleton is all in that cell or elsewhere.
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 12:16, 12:16] = 1
    points = torch.full((1, 17, 2), 13.5, requires_grad=True)
    blot = pg.limb_maps(torch.full((1, 2, 2), 3.0), ((0, 1),), (8, 8), 0.035 * 8, 0.45)
    shared = torch.minimum(blot[0, 0], image[0, 0, ::4, ::4]).sum()
    either = torch.maximum(blot[0, 0], image[0, 0, ::4, ::4]).sum()
    error = figure_error(points, image, torch.zeros_like(image))
    assert float(error.detach()) == pytest.approx(1 - float(shared / either), abs=1e-5)
    assert float(figure_error(points + 12, image, torch.zeros_like(image)).detach()) > 0.9


def test_closed_branches_learn_of_depth_from_labels_and_imagined_poses_alone() -> None:
    closed = replace(LIFTED, closed_branches=True, variant="weakly")
    data = KspData(closed)

    def moved(config: KspConfig, step: int) -> set[str]:
        recipe = KspRecipe(config)
        before = {name: value.clone() for name, value in recipe.networks.pose_encoder.named_parameters()}
        batch = data.batch(step, 0, 1)
        batch = batch if config.lambda_imagined > 0 else batch._replace(imagined=None)
        recipe.step(Descent(launch(config.training), recipe.optimizers, data, config.training, step), batch, step)
        after = recipe.networks.pose_encoder.named_parameters()
        return {name.split(".")[0] for name, value in after if not torch.equal(value, before[name])}

    branches = {"local_kinematics", "camera_parameters"}
    blind = replace(closed, lambda_imagined=0.0)
    assert moved(blind, 0) == {"trunk", *branches}
    for step in (1, 2, 8):
        assert moved(blind, step) == {"trunk"}
        assert moved(closed, step) == ({"trunk", *branches} if step == 8 else {"trunk"})
    assert moved(replace(blind, variant="semi"), 8) == {"trunk", *branches}
    with pytest.raises(ValueError, match="closed_branches needs"):
        replace(CONFIG, closed_branches=True)


def test_a_doll_in_its_samples_own_pose_is_the_sample(data: KspData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into parts and put together where they were, the visible parts show what the picture showed."""
    benchmark = RenderedBenchmark(CONFIG.data, "train")
    samples = benchmark.labelled_samples(4)

    def same(self: Imagination, count: int, *_: object, **__: object) -> Imagined:
        number = torch.arange(count) % 4
        joints = samples.joints - samples.joints[:, :1]
        return Imagined(*(values[number] for values in (joints, joints, samples.points, samples.points)))

    monkeypatch.setattr(Imagination, "draw", same)
    dolls = make_dolls(samples, pg.BODY_17, 4, torch.Generator())
    inside = samples.mask > 0.95
    assert float(((dolls.foreground - samples.foreground).abs() * inside).sum() / (3 * inside.sum())) < 0.03
    overlap = (dolls.mask * samples.mask).sum((1, 2, 3)) / torch.maximum(dolls.mask, samples.mask).sum((1, 2, 3))
    assert float(overlap.min()) > 0.75
    assert float(((dolls.labels == samples.labels) | (samples.labels == 0)).float().mean()) > 0.97


def test_dolls_have_their_joints_where_their_parts_are(data: KspData) -> None:
    samples = RenderedBenchmark(CONFIG.data, "train").labelled_samples(4)
    dolls = make_dolls(samples, pg.BODY_17, 30, torch.Generator().manual_seed(1))
    assert dolls.foreground.shape == (30, 3, 32, 32)
    assert bool((dolls.foreground <= dolls.mask + 1e-6).all())
    shin = [pg.BODY_17.index(joint) for joint in ("left_knee", "left_ankle")]
    middle = dolls.points[:, shin].mean(1).round().long()
    inside = ((middle >= 0) & (middle < 32)).all(-1)
    x, y = middle[inside].unbind(-1)
    assert float(dolls.mask[inside, 0, y, x].mean()) > 0.9
    lengths = pg.bone_vectors(dolls.joints, pg.BODY_17).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.tensor(pg.BODY_17.lengths).expand(30, -1), rtol=1e-4, atol=1e-5)
    # The trunk is its sample's, seen from nearly the same side.
    facing, theirs = (pg.canonicalize(each, pg.BODY_17).rotation[:, :, 0] for each in (dolls.joints, samples.joints))
    cosine = (facing * theirs[torch.arange(30) % 4]).sum(-1)
    assert float(cosine.mean()) > 0.8


def test_half_of_the_turns_of_l_prior_are_the_dolls() -> None:
    data = KspData(replace(CONFIG, dolls=6, variant="unsup"))
    assert len(data.samples.mask) == 10
    dealt = data.orders["prior"].deal(0, 14).tolist()
    assert sorted(dealt) == sorted([*range(4), *range(4), *range(4, 10)])
    assert data.batch(0, 0, 1).target.canonical.shape == (4, 17, 3)
