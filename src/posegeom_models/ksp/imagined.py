"""Poses imagined from the labelled samples: limbs of several of them put together, seen by random cameras, no image."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

import posegeom as pg
from posegeom.frames import axis_rotation, compose, rotate
from posegeom_models.poses import Pose
from posegeom_models.supervision import supervised, view_error

SHAKE = 0.15
"""Standard deviation of what is added to the direction of every bone, whose length is 1."""

TILT = 10.0
"""Standard deviation of the camera's elevation and roll about a sample's, in degrees."""

NEAR, FAR = 3.0, 7.0
"""Metres from the camera to the pelvis."""

LOOSE = 0.1
"""The person's size in the image is a sample's, changed by at most this share."""

JOLT = 0.02
"""Standard deviation of the person's place in the image, in image sides."""

BLUR = 0.05
"""Largest standard deviation of the errors of found key points, in image sides."""


class Imagined(NamedTuple):
    """B poses and how they are seen.

    Attributes:
        canonical: (B, J, 3) p_3D, metres.
        joints: (B, J, 3) about the pelvis in the camera's axes.
        points: (B, J, 2) p_2D, pixels.
        found: (B, J, 2) the same with errors as key points found in an image have.
    """

    canonical: Tensor
    joints: Tensor
    points: Tensor
    found: Tensor

    def rows(self, rows: slice) -> Imagined:
        """Some of them."""
        return Imagined(*(value[rows] for value in self))


class Imagination:
    """Pose and view of people that no image shows, from a few labelled poses alone.

    The trunk (hip angle, head and shoulders), each arm and each leg come from one of the poses each, mirrored or not,
    with noise on every direction; bones have the skeleton's lengths. The camera is that of the trunk's pose, walked
    round the trunk to anywhere, tilted and rolled. The person's box in the image has the place and size of one of the
    poses'.

    Args:
        joints: (N, J, 3) the labelled poses in the camera's axes.
        points: (N, J, 2) in pixels.
        skeleton: theirs, with a trunk and bone lengths.
        side: of the images.
    """

    def __init__(self, joints: Tensor, points: Tensor, skeleton: pg.Skeleton, side: int) -> None:
        if skeleton.trunk is None or skeleton.lengths is None:
            raise ValueError(f"poses are imagined for skeletons with a trunk and bone lengths, got {skeleton.name}")
        self.skeleton, self.side = skeleton, side
        both = torch.cat((joints, pg.flip_joints(joints, skeleton, axis=0)))
        canonical, self.rotation, _ = pg.canonicalize(both, skeleton)
        self.directions, angle, _ = pg.local_directions(canonical, skeleton, frame="canonical")
        assert angle is not None  # the skeleton has a trunk
        self.hip_angle = angle
        seen = torch.cat((points, pg.flip_joints(points, skeleton, width=side)))
        low, high = seen.amin(1), seen.amax(1)
        self.middle, self.extent = (low + high) / 2, (high - low).amax(-1)
        self.limb = torch.tensor(_limbs(skeleton))

    def draw(
        self, count: int, generator: torch.Generator, trunk: Tensor | None = None, turned: float | None = None
    ) -> Imagined:
        """So many poses.

        Args:
            count: B.
            generator: draws them.
            trunk: (B,) numbers of the poses whose trunks they have; None for any, mirrored or not.
            turned: standard deviation of their turn from those poses' views, in degrees; None for any turn.
        """
        skeleton, poses = self.skeleton, len(self.directions)

        def normal(*shape: int) -> Tensor:
            return torch.randn(count, *shape, generator=generator)

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=generator)

        # Which pose each limb is of: (B, limbs), and then (B, directions).
        chosen = torch.randint(poses, (count, int(self.limb.max()) + 1), generator=generator)
        if trunk is not None:
            chosen[:, 0] = trunk
        of = chosen[:, self.limb]
        directions = self.directions[of, torch.arange(of.shape[1])] + SHAKE * normal(*self.directions.shape[1:])
        angle = self.hip_angle[chosen[:, 0]] + SHAKE * normal()
        canonical = pg.forward_kinematics(directions, angle, skeleton, frame="canonical")
        angle_round = uniform(-math.pi, math.pi) if turned is None else math.radians(turned) * normal()
        turn = axis_rotation(angle_round, "z")
        tilt = math.radians(TILT) * normal(2)
        tilted = compose(axis_rotation(tilt[:, 0], "z"), axis_rotation(tilt[:, 1], "x"))
        rotation = compose(tilted, compose(self.rotation[chosen[:, 0]], turn))
        joints = rotate(rotation.unsqueeze(1), canonical)
        plane = joints[..., :2] / (joints[..., 2:] + uniform(NEAR, FAR).view(-1, 1, 1))
        low, high = plane.amin(1), plane.amax(1)
        box = torch.randint(poses, (count,), generator=generator)
        scale = self.extent[box] * uniform(1 - LOOSE, 1 + LOOSE) / (high - low).amax(-1)
        middle = self.middle[box] + JOLT * self.side * normal(2)
        points = (plane - ((low + high) / 2).unsqueeze(1)) * scale.view(-1, 1, 1) + middle.unsqueeze(1)
        found = points + BLUR * self.side * uniform(0, 1).view(-1, 1, 1) * normal(*points.shape[1:])
        return Imagined(canonical, joints, points, found)


def imagined_error(said: Pose, imagined: Imagined, side: int) -> Tensor:
    """|p_3D − p_3D*| + |R_c p_3D − R_c* p_3D*| + |p_2D − p_2D*| of what the branches say of `imagined.found`.

    A term that the paper does not have. What is in the image is only known in two dimensions, and 20 images are too few
    to learn from what is not; but the depths of many poses can be learnt from the 20 poses' limbs and many cameras.
    """
    terms = {**supervised(said, side, imagined.canonical, imagined.points)}
    return torch.stack([*terms.values(), view_error(said, imagined.joints)]).sum()


def _limbs(skeleton: pg.Skeleton) -> list[int]:
    """For every direction of v_k the limb it belongs to: 0 for the trunk, then arms and legs in the order of joints."""
    assert skeleton.trunk is not None  # checked above
    placed = {skeleton.root, skeleton.trunk.top, skeleton.trunk.left, skeleton.trunk.right}
    limb: dict[int, int] = {}
    count = 0
    for joint, parent in enumerate(skeleton.parents):
        if joint in placed:
            continue
        if parent in limb and limb[parent] > 0:
            limb[joint] = limb[parent]
        elif parent == skeleton.trunk.top:
            limb[joint] = 0  # head and shoulders
        else:
            count += 1
            limb[joint] = count
    return [limb[joint] for joint in range(len(skeleton.joints)) if joint not in placed]
