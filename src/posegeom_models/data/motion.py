"""A motion: named joints in a tree, in metres, Z up, frame by frame."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posegeom.skeleton import ALIASES, Skeleton
from posegeom_models.data.files import shown

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Motion:
    """A moving tree of named joints.

    Args:
        name: the clip's name.
        joints: J names, as the source calls them, all different.
        parents: the parent's number of each joint, -1 for a root.
        positions: (T, J, 3) float, metres, world, right-handed, Z up; finite; T >= 1.
        frame_rate: frames per second, positive (0 only for a single pose).
        rotations: (T, J, 3, 3) the joints' own axes in the world, as columns, where the source has them.

    Raises:
        ValueError: any of these does not hold.
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    positions: Floats
    frame_rate: float
    rotations: Floats | None = None

    def __post_init__(self) -> None:
        count = len(self.joints)
        shape = self.positions.shape
        if len(shape) != 3 or shape[1:] != (count, 3) or count == 0:
            raise ValueError(f"positions must be (T, {count}, 3) for {count} joint names, got {shape}")
        if shape[0] == 0:
            raise ValueError("positions must hold at least one frame, got none")
        if self.positions.dtype not in (np.float32, np.float64):
            raise ValueError(f"positions must be float32 or float64, got {self.positions.dtype}")
        if self.rotations is not None and self.rotations.shape != (*shape, 3):
            raise ValueError(f"rotations must be {(*shape, 3)}, got {self.rotations.shape}")
        repeated = [joint for joint, times in Counter(self.joints).items() if times > 1]
        if repeated:
            raise ValueError(f"joint names must differ, got {', '.join(map(shown, repeated))} more than once")
        _check_parents(self.parents, count)
        if not np.isfinite(self.positions).all():
            frame, joint = np.argwhere(~np.isfinite(self.positions).all(-1))[0]
            raise ValueError(f"positions must be finite, got {self.joints[joint]} of frame {frame} NaN or infinite")
        single_pose = self.frame_rate == 0 and shape[0] == 1
        if not (0 < self.frame_rate < math.inf or single_pose):
            raise ValueError(f"frame_rate must be positive, got {self.frame_rate}")

    def to_skeleton(self, skeleton: Skeleton) -> Floats:
        """The joints of a posegeom skeleton, found by the names that the source uses.

        Known sources: posegeom's own names (the .npz files), CMU's ASF bones, the two sets of names of CMU's
        BVH conversions (`LeftUpLeg`, `LeftKnee`), MASS (`Character1_LeftUpLeg`) and DAZ (`lShin`). The
        pelvis is the middle of the hips. Joints are where the source has them and nothing is corrected:
        CMU's BVH conversions leave out the thorax bone and the last third of the forearm, so there neck,
        head and arms are some 0.117 m too low and the wrist is short. Heads of DAZ and MASS have no top;
        nose and head top are fixed points of the head segment there, found by `rotations`.

        Args:
            skeleton: the skeleton wanted, e.g. `posegeom.BODY_17` or `posegeom.H36M_17`.

        Returns:
            (T, J, 3) in the dtype of `positions`, metres, Z up, in the joint order of `skeleton`.

        Raises:
            ValueError: joints that this motion does not have, all of them named.
        """
        numbers = {joint: number for number, joint in enumerate(self.joints)}
        best: dict[str, Floats] = {}
        lacking: list[str] = list(skeleton.joints)
        for vocabulary in ({joint: _Point((joint,)) for joint in self.joints}, *_VOCABULARIES):
            found = {
                joint: place for joint in vocabulary if (place := self._place(vocabulary[joint], numbers)) is not None
            }
            if "pelvis" not in found and {"left_hip", "right_hip"} <= found.keys():
                found["pelvis"] = (found["left_hip"] + found["right_hip"]) / 2
            for name, other in ALIASES.items():
                if other in found:
                    found.setdefault(name, found[other])
            missing = [joint for joint in skeleton.joints if joint not in found]
            if len(missing) < len(lacking):
                best, lacking = found, missing
        if lacking:
            raise ValueError(
                f"motion {self.name!r} has no {', '.join(lacking)}, which {skeleton.name} needs; "
                f"its joints are {', '.join(self.joints)}"
            )
        return np.stack([best[joint] for joint in skeleton.joints], axis=1)

    def _place(self, point: _Point, numbers: dict[str, int]) -> Floats | None:
        if not set(point.sources) <= numbers.keys() or (any(point.offset) and self.rotations is None):
            return None
        # Summed rather than np.mean: one joint must come through bit by bit.
        place = self.positions[:, numbers[point.sources[0]]]
        for source in point.sources[1:]:
            place = place + self.positions[:, numbers[source]]
        if len(point.sources) > 1:
            place = place / len(point.sources)
        if any(point.offset) and self.rotations is not None:
            axes = self.rotations[:, numbers[point.sources[0]]]
            place = place + (axes @ np.array(point.offset)).astype(place.dtype)
        return place


class _Point(NamedTuple):
    """Where a joint is in a source: the middle of some joints, moved in the first one's own axes (metres)."""

    sources: tuple[str, ...]
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)


def _vocabulary(sides: tuple[str, str], limbs: str, **trunk: _Point | str) -> dict[str, _Point]:
    """Joint -> its point; `limbs` are hip, knee, ankle, foot, shoulder, elbow, wrist without their side."""
    points = {joint: _Point((point,)) if isinstance(point, str) else point for joint, point in trunk.items()}
    names = ("hip", "knee", "ankle", "foot", "shoulder", "elbow", "wrist")
    for side, prefix in zip(("left", "right"), sides, strict=True):
        for joint, source in zip(names, limbs.split(), strict=True):
            points[f"{side}_{joint}"] = _Point((prefix + source,))
    return points


_VOCABULARIES = (
    # CMU's ASF. A joint is the END of its bone, so the hip is the end of "lhipjoint".
    _vocabulary(
        ("l", "r"),
        "hipjoint femur tibia foot clavicle humerus wrist",
        spine="lowerback",
        neck="thorax",
        nose="upperneck",
        head_top="head",
    ),
    # CMU's BVH conversions. A joint is the START of its bone: "Head" is the end of the upper neck.
    _vocabulary(
        ("Left", "Right"),
        "UpLeg Leg Foot ToeBase Arm ForeArm Hand",
        spine="Spine",
        neck="Neck",
        nose="Head",
        head_top="Head_end",
    ),
    # The same with other names (131_03.bvh), where "LeftShoulder" is what the first calls "LeftArm".
    _vocabulary(
        ("Left", "Right"),
        "Hip Knee Ankle Toe Shoulder Elbow Wrist",
        spine="Chest",
        neck="lowerneck",
        nose="Head",
        head_top="Head_end",
    ),
    # MASS (Seoul National University); its head's end site is the head itself.
    _vocabulary(
        ("Character1_Left", "Character1_Right"),
        "UpLeg Leg Foot ToeBase Arm ForeArm Hand",
        spine="Character1_Spine1",
        neck="Character1_Neck",
        nose=_Point(("Character1_Head",), (0.0, 0.08, 0.02)),
        head_top=_Point(("Character1_Head",), (0.0, 0.17, 0.02)),
    ),
    # DAZ figures.
    _vocabulary(
        ("l", "r"),
        "Thigh Shin Foot Foot_end Shldr ForeArm Hand",
        spine=_Point(("abdomen", "chest")),
        neck="neck",
        nose=_Point(("head",), (0.0, 0.095, 0.03)),
        head_top=_Point(("head",), (0.0, 0.19, 0.03)),
    ),
)


def _check_parents(parents: Sequence[int], count: int) -> None:
    if len(parents) != count:
        raise ValueError(f"parents must have one entry per joint ({count}), got {len(parents)}")
    outside = [parent for parent in parents if not -1 <= parent < count]
    if outside:
        raise ValueError(f"parents must be joint numbers below {count} or -1, got {outside[0]}")
    rooted: set[int] = {-1}
    for joint in range(count):
        above = joint
        walked: set[int] = set()
        while above not in rooted:
            if above in walked:
                raise ValueError(f"parents must form a tree, got a cycle through joint {above}")
            walked.add(above)
            above = parents[above]
        rooted |= walked
