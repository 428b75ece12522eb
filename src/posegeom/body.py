"""Where a person's weight is: body-segment tables and the centre of gravity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from posegeom._checks import check_points, compute_dtype
from posegeom.skeleton import DERIVED, Skeleton


class Segment(NamedTuple):
    """A body segment on one side (or the middle) of the body.

    `ends` lists joint pairs to measure it on, best first, each with the position of the segment's centre of gravity as
    a fraction of the way from the first joint to the second.
    """

    name: str
    mass: float
    ends: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class SegmentTable:
    """Published body-segment parameters: mass fractions that sum to 1, and centres of gravity.

    Segments of arms and legs stand once per side, their joints without "left_" or "right_".
    """

    name: str
    source: str
    middle: tuple[Segment, ...]
    sided: tuple[Segment, ...]

    def weights(self, skeleton: Skeleton) -> tuple[float, ...]:
        """The share of every joint of `skeleton` in the centre of gravity; they sum to 1.

        Raises:
            ValueError: the skeleton lacks the joints of a segment that cannot ride on another one.
        """
        share = [0.0] * len(skeleton.joints)
        for segment in self.middle:
            self._add(share, skeleton, segment, "")
        for segment in self.sided:
            for side in ("left_", "right_"):
                self._add(share, skeleton, segment, side)
        total = sum(share)  # four printed decimals: the women's masses sum to 0.9999
        return tuple(value / total for value in share)

    def _add(self, share: list[float], skeleton: Skeleton, segment: Segment, side: str) -> None:
        for first, second, fraction in segment.ends:
            ends = _joints(side + first, skeleton), _joints(side + second, skeleton)
            if ends[0] and ends[1]:
                for joints, part in zip(ends, (1 - fraction, fraction), strict=True):
                    for joint in joints:
                        share[joint] += segment.mass * part / len(joints)
                return
        raise ValueError(
            f"skeleton {skeleton.name} has no joints to place the segment {side}{segment.name} of {self.name}"
        )


def _joints(name: str, skeleton: Skeleton) -> tuple[int, ...]:
    """The joint called `name`, or the two that it is the middle of; empty if there are none."""
    if name in skeleton:
        return (skeleton.index(name),)
    if name in _MIDDLES and all(end in skeleton for end in _MIDDLES[name]):
        return tuple(skeleton.index(end) for end in _MIDDLES[name])
    return ()


_MIDDLES = {
    "pelvis": DERIVED["pelvis"],
    "mid_hip": ("left_hip", "right_hip"),
    "mid_shoulder": ("left_shoulder", "right_shoulder"),
    "mid_ear": ("left_ear", "right_ear"),
}


def _table(
    name: str,
    source: str,
    masses: dict[str, float],
    fractions: dict[str, float],
) -> SegmentTable:
    """A table from mass and centre-of-gravity fractions by segment.

    Absent hands ride on the wrist and absent feet on the ankle. The head's centre of gravity lies between vertex and
    C7, for which head_top and neck stand; without a head_top, the middle of the ears or the skull joint has it. The
    trunk is measured from the neck (at the height of the suprasternal notch) or, without one, from the mid-shoulder.
    """
    f = fractions
    return SegmentTable(
        name,
        source,
        (
            Segment(
                "head",
                masses["head"],
                (("head_top", "neck", f["head"]), ("mid_ear", "mid_ear", 0.0), ("skull", "skull", 0.0)),
            ),
            Segment(
                "trunk",
                masses["trunk"],
                (("neck", "mid_hip", f["trunk"]), ("mid_shoulder", "mid_hip", f["trunk from shoulders"])),
            ),
        ),
        (
            Segment("upper arm", masses["upper arm"], (("shoulder", "elbow", f["upper arm"]),)),
            Segment("forearm", masses["forearm"], (("elbow", "wrist", f["forearm"]),)),
            Segment("hand", masses["hand"], (("wrist", "hand", f["hand"]), ("wrist", "wrist", 0.0))),
            Segment("thigh", masses["thigh"], (("hip", "knee", f["thigh"]),)),
            Segment("shank", masses["shank"], (("knee", "ankle", f["shank"]),)),
            Segment("foot", masses["foot"], (("ankle", "foot", f["foot"]), ("ankle", "ankle", 0.0))),
        ),
    )


DE_LEVA_MALE = _table(
    "DE_LEVA_MALE",
    "de Leva (1996), male; head vertex to C7, trunk suprasternale to mid-hip, hand wrist to third metacarpal",
    {
        "head": 0.0694,
        "trunk": 0.4346,
        "upper arm": 0.0271,
        "forearm": 0.0162,
        "hand": 0.0061,
        "thigh": 0.1416,
        "shank": 0.0433,
        "foot": 0.0137,
    },
    {
        "head": 0.5002,
        "trunk": 0.4486,
        "trunk from shoulders": 0.4310,
        "upper arm": 0.5772,
        "forearm": 0.4574,
        "hand": 0.7900,
        "thigh": 0.4095,
        "shank": 0.4395,
        "foot": 0.4415,
    },
)
"""de Leva's adjustments of Zatsiorsky's segment parameters for men."""

DE_LEVA_FEMALE = _table(
    "DE_LEVA_FEMALE",
    "de Leva (1996), female; head vertex to C7, trunk suprasternale to mid-hip, hand wrist to third metacarpal",
    {
        "head": 0.0668,
        "trunk": 0.4257,
        "upper arm": 0.0255,
        "forearm": 0.0138,
        "hand": 0.0056,
        "thigh": 0.1478,
        "shank": 0.0481,
        "foot": 0.0129,
    },
    {
        "head": 0.4841,
        "trunk": 0.4151,
        "trunk from shoulders": 0.3782,
        "upper arm": 0.5754,
        "forearm": 0.4559,
        "hand": 0.7474,
        "thigh": 0.3612,
        "shank": 0.4352,
        "foot": 0.4014,
    },
)
"""de Leva's adjustments of Zatsiorsky's segment parameters for women."""

DEMPSTER = _table(
    "DEMPSTER",
    "Dempster (1955) via Winter; head and neck at the ear canal, trunk glenohumeral joint to greater trochanter",
    {
        "head": 0.081,
        "trunk": 0.497,
        "upper arm": 0.028,
        "forearm": 0.016,
        "hand": 0.006,
        "thigh": 0.100,
        "shank": 0.0465,
        "foot": 0.0145,
    },
    {
        "head": 0.5,
        "trunk": 0.50,
        "trunk from shoulders": 0.50,
        "upper arm": 0.436,
        "forearm": 0.430,
        "hand": 0.506,
        "thigh": 0.433,
        "shank": 0.433,
        "foot": 0.50,
    },
)
"""Dempster's cadaver data as given by Winter. The ear canal is taken half-way from head_top to neck."""


def center_of_gravity(joints: Tensor, skeleton: Skeleton, table: SegmentTable = DE_LEVA_MALE) -> Tensor:
    """The body's centre of gravity, Σ_segments m (a + f (b − a)), from its joints.

    Args:
        joints: (*B, J, 3) in any unit (2D points work as well: the weights are constant).
        skeleton: their tree; a body with shoulders, elbows, wrists, hips, knees and ankles. Absent hands and feet ride
            on wrist and ankle; a head without head_top is taken at the ears' middle or the skull joint.
        table: DE_LEVA_MALE, DE_LEVA_FEMALE, DEMPSTER, or one's own `SegmentTable`.

    Returns:
        (*B, 3) in unit and dtype of `joints`.

    Raises:
        TypeError, ValueError: a wrong dtype or shape, a skeleton that is no such body (a hand).

    Source: 003 S.2; de Leva (1996); Winter after Dempster.

    Example:
        >>> import torch
        >>> from posegeom import BODY_17, center_of_gravity
        >>> center_of_gravity(torch.ones(17, 3), BODY_17)
        tensor([1.0000, 1.0000, 1.0000])
    """
    dims = joints.shape[-1] if isinstance(joints, Tensor) and joints.ndim and joints.shape[-1] == 2 else 3
    check_points("joints", joints, len(skeleton.joints), dims, f"for skeleton {skeleton.name}")
    compute = compute_dtype(joints)
    weights = table.weights(skeleton)
    parts = joints.to(compute).unbind(-2)
    center = torch.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        if weight:
            center = center + part * weight
    return center.to(joints.dtype)
