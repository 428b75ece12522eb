"""Bodies round the joints of every skeleton."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posegeom import BODY_17, COCO_17, H36M_17, HAND_21, LSP_14, MPI_INF_3DHP_28, SMPL_24, Skeleton
from posegeom.capsules import part_joints
from posegeom_models.data.anatomy import build_body, visible_joints
from posegeom_models.data.bodies import Look, upright
from posegeom_models.data.identities import DOMAINS, draw_identity

EVERY = (BODY_17, H36M_17, MPI_INF_3DHP_28, SMPL_24, COCO_17, LSP_14, HAND_21)
every_skeleton = pytest.mark.parametrize("skeleton", EVERY, ids=lambda skeleton: skeleton.name)


def looks(count: int) -> Look:
    return Look.of([draw_identity(np.random.default_rng(seed), DOMAINS["AB"[seed % 2]]) for seed in range(count)])


@every_skeleton
def test_every_part_has_solids_with_orthonormal_axes(skeleton: Skeleton) -> None:
    joints = torch.randn(3, len(skeleton.joints), 3, generator=torch.Generator().manual_seed(0)) * 0.5
    body = build_body(joints, skeleton, looks(3))
    parts = {name for name, _ in part_joints(skeleton)}
    without = {name for name in parts if name.endswith("toe")}
    assert len(body.parts.unique()) == len(parts - without)
    for axes in (body.solids.axes, body.cloth.axes):
        torch.testing.assert_close(axes @ axes.transpose(-1, -2), torch.eye(3).expand_as(axes), atol=1e-5, rtol=0)
    assert (body.solids.radii >= 0).all()
    assert visible_joints(joints + torch.tensor([0.0, 0.0, 4.0]), body, skeleton).shape == joints.shape[:2]


@every_skeleton
def test_joints_that_coincide_give_finite_bodies(skeleton: Skeleton) -> None:
    for joints in (
        torch.zeros(1, len(skeleton.joints), 3),
        torch.arange(len(skeleton.joints) * 1.0).view(1, -1, 1).expand(1, -1, 3),
    ):
        body = build_body(joints.contiguous(), skeleton, looks(1))
        for values in (*body.solids, body.cloth.axes, body.cloth.cut, body.cloth.origin):
            assert torch.isfinite(values).all()


def test_a_body_is_round_its_joints() -> None:
    """A turned and shifted person has a turned and shifted body; one half the size, half the radii."""
    generator = torch.Generator().manual_seed(1)
    joints = torch.randn(2, 17, 3, generator=generator, dtype=torch.float64).float() * 0.4
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    turn = turn * torch.linalg.det(turn)
    here = build_body(joints, BODY_17, looks(2)).solids
    there = build_body(joints @ turn.T + 0.3, BODY_17, looks(2)).solids
    torch.testing.assert_close(there.start, here.start @ turn.T + 0.3, atol=1e-3, rtol=0)
    torch.testing.assert_close(there.height, here.height, atol=1e-3, rtol=0)
    small = looks(2)._replace(scale=looks(2).scale / 2)
    half = build_body(joints / 2, BODY_17, small).solids
    torch.testing.assert_close(half.start, here.start / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(half.radii, here.radii / 2)


def test_a_raised_hand_before_the_chest_hides_what_is_behind_it() -> None:
    """A person who faces the camera: a wrist before the opposite shoulder hides that one only."""
    names = BODY_17.joints
    place = {"pelvis": (0, 0, 0), "neck": (0, -0.5, 0), "head": (0, -0.75, 0)}
    for side, sign in (("left", 1), ("right", -1)):
        place |= {
            f"{side}_hip": (0.12 * sign, 0, 0),
            f"{side}_knee": (0.12 * sign, 0.45, 0),
            f"{side}_ankle": (0.12 * sign, 0.9, 0),
            f"{side}_foot": (0.12 * sign, 0.95, -0.12),
            f"{side}_shoulder": (0.17 * sign, -0.47, 0),
            f"{side}_elbow": (0.2 * sign, -0.2, 0),
            f"{side}_wrist": (0.2 * sign, 0.05, 0),
        }
    place["left_elbow"], place["left_wrist"] = (0.1, -0.40, -0.25), (-0.17 * 3.7 / 4, -0.47 * 3.7 / 4, -0.30)
    joints = torch.tensor([[place[name] for name in names]]) + torch.tensor([0.0, 0.0, 4.0])
    shown = visible_joints(joints, build_body(joints, BODY_17, looks(1)), BODY_17)[0]
    assert {name for name, seen in zip(names, shown.tolist(), strict=True) if not seen} == {"right_shoulder"}


def test_upright_is_the_nearest_perpendicular() -> None:
    axis = torch.tensor([[0.0, 0.0, 1.0]]).expand(3, 3)
    vectors = torch.tensor([[1.0, 1.0, 5.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    found = upright(vectors, axis)
    torch.testing.assert_close(found[0], torch.tensor([0.5**0.5, 0.5**0.5, 0.0]), atol=1e-2, rtol=0)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(found[:, 2], torch.zeros(3), atol=1e-6, rtol=0)
