"""000: its losses by hand, and what is a target in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import posegeom as pg

pytest.importorskip("torchvision")

from posegeom_models.pgp.networks import PgpNetworks
from posegeom_models.pgp.objective import bone_error, l_a, l_image_c, l_image_u, l_lifted, l_p3d, l_seg, l_views
from posegeom_models.poses import Pose
from posegeom_models.supervision import heat_error
from posegeom_models.training import statistics_kept
from tests.test_pgp_networks import SMALL, standing

SIDE = 32
PARTS = 12


@pytest.fixture
def networks() -> PgpNetworks:
    torch.manual_seed(0)
    return PgpNetworks(SMALL).eval()


@pytest.fixture
def pose(networks: PgpNetworks) -> Pose:
    return standing(networks)


def flat(value: float, channels: int = 3) -> Tensor:
    return torch.full((1, channels, SIDE, SIDE), value)


def stub(module: Any, name: str, function: Callable[..., Any]) -> None:
    """Put a function that is easily calculated in the place of a method."""
    object.__setattr__(module, name, function)


def halves(left: float, right: float) -> Tensor:
    """A map (1, H, W) of two values."""
    return torch.cat((torch.full((1, SIDE, SIDE // 2), left), torch.full((1, SIDE, SIDE // 2), right)), dim=-1)


def test_l_image_u_weighs_the_image_by_parts_and_saliency(networks: PgpNetworks, pose: Pose) -> None:
    said = torch.zeros(1, PARTS + 1, SIDE, SIDE)
    said[:, 0], said[:, -1] = 0.75, 0.25
    stub(networks.decoder, "forward", lambda parts, appearance: (flat(0.5), said))
    salient = halves(1.0, 0.0)
    terms = l_image_u(networks, flat(0.1), flat(0.2), pose, salient, beta=0.5)
    # |Î - I_t| = 0.3 everywhere; the weight is 0.75 + 0.5 on the left and 0.75 on the right.
    assert float(terms["image"]) == pytest.approx(0.3 * (1.25 + 0.75) / 2)
    assert float(l_image_u(networks, flat(0.1), flat(0.2), pose, salient, 0.0)["image"]) == pytest.approx(0.225)


def test_l_image_u_has_a_gradient_through_its_weight(networks: PgpNetworks, pose: Pose) -> None:
    """Parts leave where the images disagree: the background's probability rises there."""
    logits = torch.zeros(1, PARTS + 1, SIDE, SIDE, requires_grad=True)
    stub(
        networks.decoder,
        "forward",
        lambda parts, appearance: (halves(0.9, 0.2).expand(1, 3, -1, -1), logits.softmax(1)),
    )
    l_image_u(networks, flat(0.1), flat(0.2), pose, halves(0.0, 0.0), 0.0)["image"].backward()
    assert logits.grad is not None
    slope = logits.grad[0, -1]
    assert bool((slope[:, : SIDE // 2] < 0).all())
    assert bool((slope[:, SIDE // 2 :] == 0).all())


def test_bone_error_is_the_mean_difference_of_lengths(pose: Pose) -> None:
    lengths = pg.BODY_17.lengths
    assert lengths is not None
    assert float(bone_error(pose.joints, pg.BODY_17)) == pytest.approx(0, abs=1e-6)
    expected = 0.1 * sum(lengths) / len(lengths)
    assert float(bone_error(1.1 * pose.joints, pg.BODY_17)) == pytest.approx(expected, rel=1e-4)


def drawn_as(networks: PgpNetworks, foreground: Tensor, uncertainty: Tensor) -> list[Tensor | None]:
    """Let the puppet be part 0 on the left half and the background on the right; note the depths asked for."""
    depths: list[Tensor | None] = []

    def draw(pose: Pose, depth: Tensor | None = None) -> pg.PuppetSegmentation:
        depths.append(depth)
        maps = torch.zeros(1, PARTS + 1, SIDE, SIDE)
        maps[:, 0], maps[:, -1] = halves(1.0, 0.0), halves(0.0, 1.0)
        return pg.PuppetSegmentation(maps, foreground, uncertainty)

    stub(networks, "drawn", draw)
    return depths


def test_l_image_c_wants_two_images_alike_in_front_and_one_colour_behind(pose: Pose) -> None:
    networks = PgpNetworks(replace(SMALL, background=0.2)).eval()
    drawn_as(networks, halves(0.75, 0.25), halves(0.0, 0.0))
    stub(networks.decoder, "image", lambda parts, appearance: torch.cat((flat(0.6), flat(0.1))))
    terms = l_image_c(networks, flat(0.0), flat(1.0), pose)
    assert float(terms["same"]) == pytest.approx(0.5 * 0.5)
    assert float(terms["background"]) == pytest.approx(0.4 * 0.5)


def test_l_seg_is_cross_entropy_where_sure_and_self_entropy_where_not(networks: PgpNetworks, pose: Pose) -> None:
    depths = drawn_as(networks, halves(1.0, 0.0), halves(0.25, 0.5))
    said = torch.zeros(1, PARTS + 1, SIDE, SIDE)
    said[:, 0], said[:, -1] = 0.2, 0.8
    stub(networks.decoder, "parts_head", lambda maps, parts: said.log())
    again = standing(networks, 3.0, 0.4)._replace(joints=2 * pose.joints)
    stub(networks.encoder, "pose", lambda images: again)
    value = l_seg(networks, flat(0.0), pose)["parts"]
    self_entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    left = 0.75 * -math.log(0.2) + 0.25 * self_entropy
    right = 0.5 * -math.log(0.8) + 0.5 * self_entropy
    assert float(value) == pytest.approx((left + right) / 2, rel=1e-5)
    # The camera is q_z's, at 5 m and in front: depth is 5 - x of the re-encoded joints.
    assert depths[0] is None
    assert depths[1] is not None
    torch.testing.assert_close(depths[1], 5 - 2 * pose.joints[..., 0])


def test_l_seg_asks_the_pose_of_the_image_that_the_decoder_draws(networks: PgpNetworks, pose: Pose) -> None:
    """D is passed once for ŷ and Î; its statistics move once, and those of D_I and E_p do not."""
    networks.train()
    seen: list[Tensor] = []
    encode, stage = networks.encoder.pose, networks.decoder.stages[0]
    stub(networks.encoder, "pose", lambda images: (seen.append(images), encode(images))[1])
    person = torch.rand(2, 3, SIDE, SIDE)
    both = Pose(*(None if value is None else torch.cat((value, value)) for value in pose))
    parts = networks.drawn(both).maps[:, :-1]
    with torch.no_grad(), statistics_kept(networks):
        image = networks.decoder.image(parts, networks.encoder.appearance(person))
    passes: list[int] = []
    stage.register_forward_hook(lambda *_: passes.append(1))
    l_seg(networks, person, both)
    torch.testing.assert_close(seen[0], image)
    assert len(passes) == 1
    means = {name: value for name, value in networks.named_buffers() if name.endswith("running_mean")}
    assert all(bool((means[name] == 0).all()) for name in means if name.startswith(("decoder.image", "encoder.trunk")))
    assert any(bool((means[name] != 0).any()) for name in means if name.startswith("decoder.stages"))


def test_the_labels_of_l_seg_have_no_gradient(networks: PgpNetworks, pose: Pose) -> None:
    """The pose that tells what is in front is asked, and not taught."""
    value = l_seg(networks, torch.rand(1, 3, SIDE, SIDE), pose)["parts"]
    parameters = dict(networks.named_parameters())
    found = dict(zip(parameters, torch.autograd.grad(value, list(parameters.values()), allow_unused=True), strict=True))
    for name, gradient in found.items():
        of_pose = name.startswith(("encoder.trunk", "encoder.local_vectors", "encoder.camera_parameters"))
        assert (gradient is None) == (of_pose or name.startswith("decoder.image_head")), name


def test_l_p3d_is_what_reencoding_changes_in_the_pose(networks: PgpNetworks, pose: Pose) -> None:
    stub(networks.encoder, "pose", lambda images: pose._replace(joints=pose.joints + 0.1, points=pose.points - 3.2))
    terms = l_p3d(networks, flat(0.0), pose, lambda_points=2.0)
    assert float(terms["p_3D"]) == pytest.approx(0.1, rel=1e-4)
    assert float(terms["q"]) == pytest.approx(2 * 3.2 / SIDE, rel=1e-4)
    assert set(l_p3d(networks, flat(0.0), pose)) == {"p_3D"}


def test_l_p3d_has_the_terms_of_labels_if_they_are_wanted(networks: PgpNetworks, pose: Pose) -> None:
    heat = torch.zeros(1, 17, 8, 8)
    stub(networks.encoder, "pose", lambda images: pose._replace(joints=pose.joints + 0.1, heat=heat))
    terms = l_p3d(networks, flat(0.0), pose, lambda_view=3.0, lambda_heat=2.0)
    # A shift by 0.1 along every canonical axis, in the camera's axes.
    shift = (pose.rotation @ torch.full((3,), 0.1)).abs().mean()
    assert float(terms["view"]) == pytest.approx(3 * float(shift), rel=1e-4)
    assert float(terms["heat"]) == pytest.approx(2 * float(heat_error(pose._replace(heat=heat), pose.points, SIDE)))
    assert set(terms) == {"p_3D", "view", "heat"}


def test_l_lifted_compares_the_pose_that_key_points_are_taken_for(networks: PgpNetworks, pose: Pose) -> None:
    asked: list[Tensor] = []

    def lift(points: Tensor) -> Pose:
        asked.append(points)
        return pose._replace(joints=pose.joints + 0.1, points=pose.points - 3.2)

    stub(networks.encoder, "lift", lift)
    terms = l_lifted(networks, pose, pose.points + 1)
    assert torch.equal(asked[0], pose.points + 1)
    shift = (pose.rotation @ torch.full((3,), 0.1)).abs().mean()
    expected = {"p_3D": 0.1, "p_2D": 3.2 / SIDE, "view": float(shift)}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)


def test_l_p3d_shows_the_person_before_a_scene(networks: PgpNetworks, pose: Pose) -> None:
    seen: list[Tensor] = []

    def look(images: Tensor) -> Pose:
        seen.append(images)
        return pose

    stub(networks.encoder, "pose", look)
    stub(networks.decoder, "image", lambda parts, appearance: flat(0.6) * networks.drawn(pose).foreground.unsqueeze(1))
    l_p3d(networks, flat(0.0), pose)
    l_p3d(networks, flat(0.0), pose, flat(0.3))
    foreground = networks.drawn(pose).foreground
    torch.testing.assert_close(seen[0][:, 0], 0.6 * foreground)
    torch.testing.assert_close(seen[1][:, 0], 0.6 * foreground + 0.3 * (1 - foreground))
    assert float(foreground.max()) > 0.9
    assert float(foreground.min()) == 0


def test_l_a_is_what_reencoding_changes_in_the_appearance(networks: PgpNetworks, pose: Pose) -> None:
    stub(networks.encoder, "appearance", lambda images: images[:, :1, :8, :8].expand(-1, 8, -1, -1))
    stub(networks.decoder, "image", lambda parts, appearance: flat(0.5))
    assert float(l_a(networks, flat(0.2), pose)["a"]) == pytest.approx(0.3)


def test_the_target_of_l_a_has_no_gradient(networks: PgpNetworks, pose: Pose) -> None:
    """With the drawn image cut off, a_s is a target and nothing else."""
    codes: list[Tensor] = []
    dress = networks.encoder.appearance

    def watch(images: Tensor) -> Tensor:
        code = dress(images)
        code.retain_grad()
        codes.append(code)
        return code

    stub(networks.encoder, "appearance", watch)
    stub(networks.decoder, "image", lambda parts, appearance: flat(0.5))
    l_a(networks, torch.rand(1, 3, SIDE, SIDE), pose)["a"].backward()
    assert codes[0].grad is None
    assert codes[1].grad is not None


def test_l_a_reaches_the_appearance_through_the_decoder(networks: PgpNetworks, pose: Pose) -> None:
    """What a_s gives to the decoder may change, as long as what it gives to the comparison may not."""
    codes: list[Tensor] = []
    dress = networks.encoder.appearance

    def watch(images: Tensor) -> Tensor:
        code = dress(images)
        code.retain_grad()
        codes.append(code)
        return code

    stub(networks.encoder, "appearance", watch)
    l_a(networks, torch.rand(1, 3, SIDE, SIDE), pose)["a"].backward()
    assert codes[0].grad is not None


def test_l_views_vanishes_for_one_pose_seen_twice(networks: PgpNetworks) -> None:
    first = standing(networks, 5.0, 0.2)
    shift = pg.camera_rotation(torch.tensor([0.9]), torch.tensor([0.3]), torch.zeros(1)) @ first.rotation.mT
    second = networks.encoder.seen(first.joints, shift @ first.rotation, first.translation)
    for value in l_views(first, second, shift).values():
        assert float(value) == pytest.approx(0, abs=1e-6)
    terms = l_views(first, second._replace(joints=first.joints + 0.3), shift)
    assert float(terms["p_3D"]) == pytest.approx(0.3, rel=1e-4)
    # Half a turn about z instead of none: two of nine entries change, by 2 each.
    half = torch.diag(torch.tensor([-1.0, -1.0, 1.0])).unsqueeze(0)
    still = torch.eye(3).unsqueeze(0)
    apart = l_views(first._replace(rotation=still), first._replace(rotation=half), still)["camera"]
    assert float(apart) == pytest.approx(4 / 9)


def test_views_teach_both_poses(networks: PgpNetworks) -> None:
    joints = torch.randn(2, 1, 17, 3, requires_grad=True)
    rotation = torch.randn(2, 1, 3, 3, requires_grad=True)
    first, second = (
        standing(networks)._replace(joints=joints[number], rotation=rotation[number]) for number in range(2)
    )
    sum(l_views(first, second, torch.eye(3).unsqueeze(0)).values()).backward()  # type: ignore[union-attr]
    assert joints.grad is not None
    assert rotation.grad is not None
    assert all(bool((joints.grad[number] != 0).all()) for number in range(2))
    assert all(bool((rotation.grad[number] != 0).all()) for number in range(2))


def test_the_constraint_on_bones_draws_a_limbs_end_along_the_limb(pose: Pose) -> None:
    joints = (1.1 * pose.joints).requires_grad_(True)
    bone_error(joints, pg.BODY_17).backward()
    assert joints.grad is not None
    # Nothing hangs on the head: of sixteen lengths it changes one, along +Z.
    torch.testing.assert_close(joints.grad[0, pg.BODY_17.index("head")], torch.tensor([0.0, 0.0, 1 / 16]))


def test_without_fk_the_energy_compares_poses_in_the_cameras_axes() -> None:
    torch.manual_seed(0)
    direct = PgpNetworks(replace(SMALL, ablation="without_fk")).eval()
    seen = standing(PgpNetworks(SMALL), 5.0, 0.7)
    pose = direct.encoder.posed(seen.joints, seen.rotation, seen.translation)
    stub(direct.encoder, "pose", lambda images: pose._replace(joints=seen.in_camera - 0.2))
    assert float(l_p3d(direct, flat(0.0), pose)["p_3D"]) == pytest.approx(0.2, rel=1e-4)
