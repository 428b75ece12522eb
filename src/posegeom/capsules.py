"""The built-in puppet's parts: which ones a skeleton has, how large they are, and how they are drawn."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from posegeom.skeleton import Skeleton

TEMPLATE_HEIGHT = 2.2
"""Metres that a capsule puppet's height in pixels stands for: a person of 1.75 m fills 80 % of it."""

CAPSULE_RADII = {
    "head": 0.105,
    "shoulder": 0.060,
    "elbow": 0.052,
    "wrist": 0.042,
    "hand": 0.040,
    "hip": 0.080,
    "knee": 0.078,
    "ankle": 0.055,
    "foot": 0.045,
    "toe": 0.035,
}
"""Capsule radius in metres by the joint that a bone ends in (side removed); 12 % of the bone where none is listed."""

TORSO_SHAPE = (0.50, 0.302, 0.250, 0.075)
"""Capsule torso in metres: length between the anchor lines, width at shoulders and at hips, rounding radius.

Shoulders as in BODY_17; hips between BODY_17's (0.267) and the narrower ones of motion-capture skeletons (0.18 to 0.27
at shoulders of 0.23 to 0.30), because one mean width scales both.
"""

CAPSULE_ERODE, CAPSULE_BLUR = 0.012, 0.012
"""Erosion and blur of capsule edges, in metres (half of what is dilated for the uncertainty)."""

_TRUNK_JOINTS = frozenset(
    {"pelvis", "spine", "spine1", "spine2", "spine3", "spine4", "neck", "nose", "head", "head_top", "skull"}
    | {f"{side}_{joint}" for side in ("left", "right") for joint in ("hip", "shoulder", "clavicle", "collar")}
)


def part_joints(skeleton: Skeleton) -> list[tuple[str, tuple[int, ...]]]:
    """(name, joints) of every part: torso, head, then bones named after the joint that they end in."""
    corners = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    if skeleton.trunk is None or not all(joint in skeleton for joint in corners):
        return [(skeleton.joints[child], (parent, child)) for parent, child in skeleton.bones]
    parts: list[tuple[str, tuple[int, ...]]] = [("torso", tuple(skeleton.index(joint) for joint in corners))]
    if "neck" in skeleton and "head_top" in skeleton:
        parts.append(("head", (skeleton.index("neck"), skeleton.index("head_top"))))
    parts += [
        (skeleton.joints[child], (parent, child))
        for parent, child in skeleton.bones
        if skeleton.joints[child] not in _TRUNK_JOINTS
    ]
    return parts


def draw_capsule(
    skeleton: Skeleton, name: str, joints: tuple[int, ...], size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """One part along +X in the middle of an (h, w) map: shape (h, w), uncertainty (h, w) and anchors (4, 2)."""
    height, width = size
    scale = height / TEMPLATE_HEIGHT
    # float32 on the CPU, whatever the defaults are set to.
    here: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2], **here)
    rows, columns = torch.arange(height, **here), torch.arange(width, **here)
    y, x = torch.meshgrid(rows - middle[1], columns - middle[0], indexing="ij")
    if len(joints) == 4:
        length, upper, lower, rounding = (value * scale / 2 for value in TORSO_SHAPE)
        distance = _trapezium_distance(x, y, length, upper, lower) - 2 * rounding
        # A front view: along +X is down, so the person's left (the image's right) is at −y.
        anchors = [(-length, -upper), (-length, upper), (length, -lower), (length, lower)]
    else:
        bone = _bone_length(skeleton, *joints)
        kind = "head" if name == "head" else skeleton.joints[joints[1]].removeprefix("left_").removeprefix("right_")
        radius = CAPSULE_RADII.get(kind, 0.12 * bone)
        half = bone * scale / 2
        distance = torch.hypot((x.abs() - half).clamp(min=0), y) - radius * scale
        anchors = [(-half, 0.0), (half, 0.0)] * 2
    shape = _soft_inside(distance + CAPSULE_ERODE * scale, CAPSULE_BLUR * scale)
    grown = _soft_inside(distance - 2 * CAPSULE_ERODE * scale, CAPSULE_BLUR * scale)
    return shape, (grown - shape).clamp(min=0), torch.tensor(anchors, **here) + middle


def _bone_length(skeleton: Skeleton, parent: int, child: int) -> float:
    """Length in metres along the tree from `parent` down to `child`; 0.25 a bone where the skeleton has none."""
    total, joint = 0.0, child
    ends = [end for _, end in skeleton.bones]
    while joint != parent and joint != -1:
        if joint in ends:
            total += 0.25 if skeleton.lengths is None else skeleton.lengths[ends.index(joint)]
        joint = skeleton.parents[joint]
    return total


def _soft_inside(distance: Tensor, blur: float) -> Tensor:
    """A half plane's edge blurred by a Gaussian: 1 inside (distance < 0), ½ on the edge, 0 outside."""
    return 0.5 * torch.erfc(distance / (math.sqrt(2) * max(blur, 1e-6)))


def _trapezium_distance(x: Tensor, y: Tensor, half_length: float, upper: float, lower: float) -> Tensor:
    """Distance, negative inside, to the symmetric trapezium of half widths `upper` (x < 0) and `lower` (x > 0)."""
    y = y.abs()
    along, across = 2 * half_length, lower - upper
    edge = ((y - upper) * along - (x + half_length) * across) / math.hypot(along, across)
    ends = x.abs() - half_length
    outside = torch.hypot(edge.clamp(min=0), ends.clamp(min=0))
    return outside + torch.maximum(edge, ends).clamp(max=0)
