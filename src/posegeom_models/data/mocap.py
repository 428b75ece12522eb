"""Motion files (BVH, ASF+AMC, .npz) read into named joints in metres, Z up.

Each reader is small and strict: a broken file gives one `MotionFileError` that names the file, the line where
there is one, and what is wrong. Nothing in a file is ever executed, and the memory used is bounded by
`MAX_BYTES` whatever sizes a file declares.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posegeom.skeleton import ALIASES, Skeleton

Floats = NDArray[np.floating[Any]]

MAX_BYTES = 1 << 29
"""No file, array of a file, or motion made from one may be larger than this (512 MiB)."""

CMU_UNIT = 0.0254 / 0.45
"""Metres per unit of CMU's ASF files (`length 0.45`, in inches) and of the BVH files made from them."""

BVH_UNITS = {1.0: "metres", CMU_UNIT: "CMU units", 0.01: "centimetres", 0.001: "millimetres"}
"""The units that `read_bvh` tells apart by the size of the person."""

# Columns are the world axes of a Y-up file in ours: (x, y, z) -> (x, -z, y).
_Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


class MotionFileError(ValueError):
    """A motion file that cannot be read; the message is "FILE:LINE: what is wrong" (or "FILE: ...")."""


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
            raise ValueError(
                f"joint names must differ, got {', '.join(map(_short, repeated))} more than once"
            )
        _check_parents(self.parents, count)
        if not np.isfinite(self.positions).all():
            frame, joint = np.argwhere(~np.isfinite(self.positions).all(-1))[0]
            raise ValueError(
                f"positions must be finite, got {self.joints[joint]} of frame {frame} NaN or infinite"
            )
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
                joint: place
                for joint in vocabulary
                if (place := self._place(vocabulary[joint], numbers)) is not None
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


def read_motion(
    path: str | Path,
    asf: str | Path | None = None,
    clip: str | int | None = None,
    scale: float | None = None,
    frame_rate: float | None = None,
) -> Motion:
    """Read one motion; the file's suffix (.bvh, .amc, .npz) says how.

    Args:
        path: the motion file.
        asf: the skeleton of an .amc; None looks beside it for 01_01.asf, then 01.asf, for 01_01.amc.
        clip: name or number of the clip of an .npz that holds several.
        scale: metres per unit of a .bvh or .amc; None as in `read_bvh` and `read_asf_amc`.
        frame_rate: frames per second, where the file does not say so or says it wrongly.

    Raises:
        MotionFileError: the file is broken, or of another kind.
        FileNotFoundError: no such file, or no .asf for an .amc.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if asf is not None and suffix != ".amc":
        raise ValueError(f"asf belongs to an .amc file, got {path.name}")
    if clip is not None and suffix != ".npz":
        raise ValueError(f"clip belongs to an .npz file, got {path.name}")
    if suffix == ".bvh":
        return read_bvh(path, scale, frame_rate)
    if suffix == ".amc":
        return read_asf_amc(_asf_of(path) if asf is None else asf, path, frame_rate or 120.0, scale)
    if suffix == ".npz":
        if scale is not None or frame_rate is not None:
            raise ValueError(
                "an .npz is in metres and holds its frame rate; scale and frame_rate must be None"
            )
        return read_npz(path, clip)
    if suffix == ".asf":
        raise MotionFileError(f"{path}: an .asf is a skeleton without motion; give the .amc file")
    raise MotionFileError(
        f"{path}: not a motion file; expected .bvh, .amc or .npz, got {suffix or 'no suffix'!r}"
    )


def _asf_of(amc: Path) -> Path:
    for stem in (amc.stem, amc.stem.rsplit("_", 1)[0]):
        for suffix in (".asf", ".ASF"):
            if amc.with_name(stem + suffix).is_file():
                return amc.with_name(stem + suffix)
    first, second = amc.stem + ".asf", amc.stem.rsplit("_", 1)[0] + ".asf"
    raise FileNotFoundError(f"{amc}: found neither {first} nor {second} beside it; pass asf=")


# --- BVH -------------------------------------------------------------------------------------------------


class _BvhJoint(NamedTuple):
    name: str
    parent: int
    offset: NDArray[np.float64]
    channels: tuple[str, ...]


_CHANNEL = re.compile(r"([XYZ])(position|rotation)", re.IGNORECASE)


def read_bvh(path: str | Path, scale: float | None = None, frame_rate: float | None = None) -> Motion:
    """Read a BVH file (Y up) into metres, Z up.

    With R the rotations of a joint's channels in the order they are listed, and t its OFFSET where each
    position channel replaces (never adds to) its axis: G = G_parent·R, p = p_parent + G_parent·t. Any joint
    may have any channels in any order. End sites are joints called NAME_end.

    Args:
        path: the file.
        scale: metres per unit. BVH does not state its unit; None tells it from the longest chain of bones
            from the root (end sites left out), which for a person is 0.6 to 2.4 m in one of `BVH_UNITS`.
        frame_rate: overrides the file's frame time; None believes it.

    Raises:
        MotionFileError: the file is broken, or its unit cannot be told.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    lines = _lines(path)
    joints, line = _bvh_hierarchy(path, lines)
    frame_time, values = _bvh_values(path, lines, line, sum(len(joint.channels) for joint in joints))
    _check_size(path, len(values), len(joints))

    metres = _bvh_unit(path, joints) if scale is None else scale
    turns = np.empty((len(values), len(joints), 3, 3))
    positions = np.empty((len(values), len(joints), 3))
    column = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for number, joint in enumerate(joints):
            # Row vectors of offsets, because a position channel makes them differ from frame to frame.
            offset = np.tile(joint.offset, (len(values), 1))
            turn = np.broadcast_to(np.eye(3), (len(values), 3, 3))
            for channel in joint.channels:
                axis = "XYZ".index(channel[0])
                if channel.endswith("position"):
                    offset[:, axis] = values[:, column]
                else:
                    turn = turn @ _turn(axis, values[:, column])
                column += 1
            _place(turns, positions, number, joint.parent, turn, offset, parent_moves=True)
    rate = 1 / frame_time if frame_rate is None else frame_rate
    names = tuple(joint.name for joint in joints)
    return _motion(path, names, tuple(joint.parent for joint in joints), positions, turns, metres, rate)


def _bvh_hierarchy(path: Path, lines: list[str]) -> tuple[list[_BvhJoint], int]:
    """The joints, parents first, and the line number of MOTION."""
    joints: list[_BvhJoint] = []
    open_joints: list[int] = []  # numbers of the joints whose brace is open
    pending: str | None = None  # a joint whose "{" is still to come
    started = False
    for line, text in enumerate(lines, 1):
        words = deque(text.replace("{", " { ").replace("}", " } ").split())
        while words:
            word = words.popleft()
            key = word.upper()
            rest: list[str] = []
            while key not in "{}" and words and words[0] not in "{}":
                rest.append(words.popleft())
            if not started:
                if key != "HIERARCHY":
                    raise _wrong(path, line, f"a BVH file starts with HIERARCHY, got {_short(word)}")
                started = True
            elif pending is not None and key != "{":
                raise _wrong(
                    path, line, f"expected '{{' after the name {_short(pending)}, got {_short(word)}"
                )
            elif key == "{":
                if pending is None:
                    raise _wrong(path, line, "'{' without a ROOT, JOINT or End Site before it")
                parent = open_joints[-1] if open_joints else -1
                joints.append(_BvhJoint(pending, parent, np.full(3, np.nan), ()))
                open_joints.append(len(joints) - 1)
                pending = None
            elif key in ("ROOT", "JOINT", "END"):
                name = " ".join(rest)
                if (key == "ROOT") == bool(joints):
                    raise _wrong(path, line, "a BVH file has one ROOT, and it comes first")
                if key != "ROOT" and not open_joints:
                    raise _wrong(path, line, f"{word} {_short(name)} is outside of the ROOT's braces")
                if key == "END":
                    name = joints[open_joints[-1]].name + "_end"
                if not name:
                    raise _wrong(path, line, f"{word} without a name")
                pending = name
            elif key in ("OFFSET", "CHANNELS"):
                if not open_joints:
                    raise _wrong(path, line, f"{word} outside of a joint")
                joint = joints[open_joints[-1]]
                joints[open_joints[-1]] = (
                    joint._replace(offset=np.array(_numbers(path, line, rest, 3, "OFFSET")))
                    if key == "OFFSET"
                    else joint._replace(channels=_bvh_channels(path, line, rest, joint.name))
                )
            elif key == "}":
                if not open_joints:
                    raise _wrong(path, line, "'}' without its '{'")
                joint = joints[open_joints.pop()]
                if not np.isfinite(joint.offset).all():
                    raise _wrong(path, line, f"joint {_short(joint.name)} has no OFFSET")
            elif key == "MOTION":
                if open_joints or not joints:
                    inside = _short(joints[open_joints[-1]].name) if open_joints else "no ROOT"
                    raise _wrong(path, line, f"MOTION starts before the hierarchy is complete ({inside})")
                return joints, line
            else:
                raise _wrong(
                    path, line, f"expected a joint, OFFSET, CHANNELS, '}}' or MOTION, got {_short(word)}"
                )
    if not started:
        raise MotionFileError(f"{path}: the file is empty")
    raise _wrong(path, len(lines), "the file ends inside the hierarchy (truncated): there is no MOTION")


def _bvh_channels(path: Path, line: int, words: list[str], name: str) -> tuple[str, ...]:
    channels = words[1:]
    if not words or not words[0].isdecimal() or len(words[0]) > 2 or int(words[0]) != len(channels):
        raise _wrong(path, line, f"CHANNELS of {_short(name)} must be a count and as many names")
    found = [_CHANNEL.fullmatch(channel) for channel in channels]
    if None in found or len({channel.lower() for channel in channels}) != len(channels):
        raise _wrong(
            path, line, f"CHANNELS of {_short(name)} must be different ones of Xposition ... Zrotation"
        )
    return tuple(match[1].upper() + match[2].lower() for match in found if match is not None)


def _bvh_values(path: Path, lines: list[str], start: int, columns: int) -> tuple[float, NDArray[np.float64]]:
    """The frame time in seconds and the (T, columns) channel values that follow line `start`."""
    filled = (
        (line, text) for line, text in enumerate(lines[start:], start + 1) if text and not text.isspace()
    )
    declared: list[float] = []
    for label in ("Frames", "Frame Time"):
        line, text = next(filled, (len(lines), ""))
        match = re.fullmatch(rf"\s*{label}\s*:\s*(\S+)\s*", text, re.IGNORECASE)
        if match is None:
            raise _wrong(path, line, f"expected '{label}: NUMBER' after MOTION, got {_short(text)}")
        declared += _numbers(path, line, [match[1]], 1, label)
        if declared[-1] <= 0 or (label == "Frames" and declared[-1] % 1):
            raise _wrong(path, line, f"{label} must be positive, got {match[1]}")
    # The declared count is compared, never allocated.
    rows = [_numbers(path, line, text.split(), columns, "a motion line") for line, text in filled]
    if len(rows) != declared[0]:
        raise _wrong(
            path, len(lines), f"the file declares {declared[0]:.0f} frames but holds {len(rows)} motion lines"
        )
    return declared[1], np.array(rows, np.float64).reshape(len(rows), columns)


def _bvh_unit(path: Path, joints: Sequence[_BvhJoint]) -> float:
    reach = [0.0] * len(joints)
    for number, joint in enumerate(joints):
        if joint.parent != -1 and not joint.name.endswith("_end"):
            reach[number] = reach[joint.parent] + float(np.linalg.norm(joint.offset))
    for metres in BVH_UNITS:
        if 0.6 <= max(reach) * metres < 2.4:
            return metres
    raise MotionFileError(
        f"{path}: cannot tell the unit: the longest chain of bones is {max(reach):.4g} units, no person's size "
        f"in {', '.join(BVH_UNITS.values())}; pass scale= (metres per unit)"
    )


# --- ASF + AMC -------------------------------------------------------------------------------------------


class _Bone(NamedTuple):
    """A bone of an ASF; the root is one of length 0."""

    name: str
    vector: NDArray[np.float64]  # from start to end, in the skeleton's axes
    axes: NDArray[np.float64]  # (3, 3) the axes in which its degrees of freedom are measured
    channels: tuple[str, ...]  # "tx" ... "rz", in the order of the AMC's values


def read_asf_amc(
    asf: str | Path, amc: str | Path, frame_rate: float = 120.0, scale: float | None = None
) -> Motion:
    """Read an Acclaim skeleton and its motion (Y up) into metres, Z up; a joint is the END of its bone.

    With C the bone's axes and M = R_z·R_y·R_x its angles (for dof rx ry rz; the first listed acts first):
    G = G_parent·C·M·Cᵀ, p = p_parent + G·direction·length; the root is at its translation.

    Args:
        asf: the skeleton.
        amc: the motion, which must give every bone that has degrees of freedom in every frame.
        frame_rate: frames per second; the format does not hold it, CMU's is 120.
        scale: metres per unit; None takes 0.0254 / (the ASF's unit length), CMU's inches.

    Raises:
        MotionFileError: a file is broken, or the motion names a bone that the skeleton lacks.
        FileNotFoundError: no such file.
    """
    asf, amc = Path(asf), Path(amc)
    bones, parents, unit, in_degrees = _read_asf(asf)
    values = _amc_values(amc, _lines(amc), bones, in_degrees, asf.name)
    frames = len(values)
    _check_size(amc, frames, len(bones))

    turns = np.empty((frames, len(bones), 3, 3))
    positions = np.empty((frames, len(bones), 3))
    column = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for number, (bone, parent) in enumerate(zip(bones, parents, strict=True)):
            offset = np.tile(bone.vector, (frames, 1))
            turn = np.broadcast_to(np.eye(3), (frames, 3, 3))
            for channel in bone.channels:
                axis = "xyz".index(channel[1])
                if channel[0] == "t":
                    offset[:, axis] = values[:, column]
                else:
                    turn = _turn(axis, values[:, column]) @ turn
                column += 1
            _place(
                turns, positions, number, parent, bone.axes @ turn @ bone.axes.T, offset, parent_moves=False
            )
    metres = unit if scale is None else scale
    return _motion(amc, tuple(bone.name for bone in bones), parents, positions, turns, metres, frame_rate)


def _read_asf(path: Path) -> tuple[list[_Bone], tuple[int, ...], float, bool]:
    """Bones with parents first, their parents' numbers, metres per unit, and whether angles are degrees."""
    lines = _lines(path)
    sections: dict[str, list[tuple[int, list[str]]]] = {}
    section: list[tuple[int, list[str]]] | None = None
    for line, text in enumerate(lines, 1):
        words = text.split("#", 1)[0].split()
        if not words:
            continue
        if words[0].startswith(":"):
            section = sections.setdefault(words[0][1:].lower(), [])
        elif section is None:
            raise _wrong(
                path, line, f"an ASF file starts with a section such as ':version', got {_short(words[0])}"
            )
        else:
            section.append((line, words))
    if not sections:
        raise MotionFileError(f"{path}: the file is empty")
    for needed in ("units", "root", "bonedata", "hierarchy"):
        if not sections.get(needed):
            raise _wrong(path, len(lines), f"the file has no ':{needed}' section (truncated, or no ASF)")

    length, in_degrees = 1.0, True
    for line, words in sections["units"]:
        if words[0] == "length":
            length = _numbers(path, line, words[1:], 1, "length")[0]
            if length <= 0:
                raise _wrong(path, line, f"the unit length must be positive, got {words[1]}")
        elif words[0] == "angle":
            in_degrees = words[1:2] == ["deg"]
    bones = {"root": _asf_root(path, sections["root"], in_degrees)}
    entry: dict[str, tuple[int, list[str]]] | None = None
    for line, words in sections["bonedata"]:
        if words[0] == "begin":
            entry = {}
        elif entry is None:
            raise _wrong(path, line, f"expected 'begin' of a bone, got {_short(words[0])}")
        elif words[0] == "end":
            bone = _asf_bone(path, line, entry, in_degrees)
            if bone.name in bones:
                raise _wrong(path, line, f"bone {_short(bone.name)} is there twice")
            bones[bone.name], entry = bone, None
        elif words[0][0] not in "(-0123456789":  # more limits than one follow on lines of their own
            entry[words[0]] = (line, words[1:])
    if entry is not None:
        raise _wrong(path, sections["bonedata"][-1][0], "the last bone has no 'end' (truncated)")
    order = _asf_hierarchy(path, sections["hierarchy"], bones)
    numbers = {name: number for number, name in enumerate(order)}
    parents = tuple(-1 if parent is None else numbers[parent] for parent in order.values())
    return [bones[name] for name in order], parents, 0.0254 / length, in_degrees


def _asf_root(path: Path, section: list[tuple[int, list[str]]], in_degrees: bool) -> _Bone:
    # The root's "position" and "orientation" are those of the rest pose; an AMC's values replace them.
    entry = {words[0]: (line, words[1:]) for line, words in section}
    line, order = entry.get("order", (section[0][0], []))
    channels = tuple(word.lower() for word in order)
    if sorted(channels) != ["rx", "ry", "rz", "tx", "ty", "tz"]:
        raise _wrong(path, line, "the root's order must be TX TY TZ RX RY RZ in some order")
    axis_line, axis = entry.get("axis", (line, ["XYZ"]))
    return _Bone(
        "root", np.zeros(3), _asf_axes(path, axis_line, ["0", "0", "0", *axis], in_degrees), channels
    )


def _asf_bone(path: Path, line: int, entry: dict[str, tuple[int, list[str]]], in_degrees: bool) -> _Bone:
    for needed in ("name", "direction", "length", "axis"):
        if not entry.get(needed, (0, []))[1]:
            raise _wrong(path, line, f"a bone without {needed} ends here")
    name = entry["name"][1][0]
    direction = np.array(_numbers(path, entry["direction"][0], entry["direction"][1], 3, "direction"))
    length = _numbers(path, entry["length"][0], entry["length"][1], 1, "length")[0]
    dof_line, dof = entry.get("dof", (line, []))
    channels = tuple(word.lower() for word in dof)
    if not set(channels) <= {"rx", "ry", "rz"} or len(set(channels)) != len(channels):
        raise _wrong(path, dof_line, f"the dof of bone {_short(name)} must be different ones of rx ry rz")
    return _Bone(name, direction * length, _asf_axes(path, *entry["axis"], in_degrees), channels)


def _asf_axes(path: Path, line: int, words: list[str], in_degrees: bool) -> NDArray[np.float64]:
    angles = np.array(_numbers(path, line, words[:3], 3, "axis"))
    if len(words) != 4 or sorted(words[3].upper()) != ["X", "Y", "Z"]:
        raise _wrong(path, line, "axis must be three angles and an order such as XYZ")
    axes = np.eye(3)
    for angle, axis in zip(angles if in_degrees else np.rad2deg(angles), words[3].upper(), strict=True):
        axes = _turn("XYZ".index(axis), np.array([angle]))[0] @ axes
    return axes


def _asf_hierarchy(
    path: Path, section: list[tuple[int, list[str]]], bones: dict[str, _Bone]
) -> dict[str, str | None]:
    """Each bone's parent, parents first and children in the file's order (depth first)."""
    children: dict[str, list[str]] = {}
    parent_of: dict[str, str] = {}
    for line, words in section:
        if words[0] in ("begin", "end"):
            continue
        for word in words:
            if word not in bones:
                raise _wrong(path, line, f"the hierarchy names {_short(word)}, which is no bone of :bonedata")
        for child in words[1:]:
            if child in parent_of or child == "root":
                raise _wrong(path, line, f"bone {_short(child)} has two parents")
            parent_of[child] = words[0]
            children.setdefault(words[0], []).append(child)
    order: dict[str, str | None] = {}
    stack = ["root"]
    while stack:
        name = stack.pop()
        order[name] = parent_of.get(name)
        stack += reversed(children.get(name, []))
    unreached = [name for name in bones if name not in order]
    if unreached:
        raise _wrong(
            path, section[-1][0], f"the hierarchy does not reach bone {_short(unreached[0])} (truncated?)"
        )
    return order


def _amc_values(
    path: Path, lines: list[str], bones: Sequence[_Bone], in_degrees: bool, asf: str
) -> NDArray[np.float64]:
    """The (T, channels) values in the order of `bones`, angles in degrees."""
    moving = {bone.name: len(bone.channels) for bone in bones if bone.channels}
    names = {bone.name for bone in bones}
    frames: list[dict[str, list[float]]] = []
    first = 0
    for line, text in enumerate(lines, 1):
        words = text.split()
        if not words or words[0][0] in "#:":
            if words and words[0].upper() in (":DEGREES", ":RADIANS"):
                in_degrees = words[0].upper() == ":DEGREES"
            continue
        if len(words) == 1 and words[0].isdecimal() and len(words[0]) < 10:
            _check_frame(path, line, frames, moving)
            first = first if frames else int(words[0])
            if int(words[0]) != first + len(frames):
                raise _wrong(path, line, f"expected frame {first + len(frames)}, got frame {words[0]}")
            frames.append({})
        elif not frames:
            raise _wrong(path, line, f"expected the number of the first frame, got {_short(words[0])}")
        elif words[0] not in names:
            raise _wrong(path, line, f"bone {_short(words[0])} is not in the skeleton {asf}")
        elif words[0] in frames[-1]:
            raise _wrong(path, line, f"bone {_short(words[0])} is there twice in one frame")
        else:
            frames[-1][words[0]] = _numbers(
                path, line, words[1:], moving.get(words[0], 0), f"bone {words[0]}"
            )
    if not frames:
        raise MotionFileError(
            f"{path}: the file holds no frames" if any(lines) else f"{path}: the file is empty"
        )
    _check_frame(path, len(lines), frames, moving)
    values = np.array([[value for name in moving for value in frame[name]] for frame in frames], np.float64)
    if not in_degrees:
        turning = [channel[0] == "r" for bone in bones for channel in bone.channels]
        values[:, turning] = np.rad2deg(values[:, turning])
    return values


def _check_frame(path: Path, line: int, frames: list[dict[str, list[float]]], moving: dict[str, int]) -> None:
    missing = [name for name in moving if frames and name not in frames[-1]]
    if missing:
        raise _wrong(path, line, f"the frame that ends here lacks {', '.join(missing[:5])} (truncated?)")


# --- npz -------------------------------------------------------------------------------------------------


def read_npz(path: str | Path, clip: str | int | None = None) -> Motion:
    """Read one clip of an .npz in metres, Z up.

    The file holds `positions` (N, J, 3), `joint_names` (J,), `parents` (J,) and `frame_rate`, and where it
    holds several clips `clip` (N,) with `clip_names` (and then perhaps a frame rate per clip). `feet`
    (N, 2, 3) become the joints left_foot and right_foot. Nothing else of the file is read, and no pickles.

    Args:
        path: the file.
        clip: name or number; None for a file of one clip.

    Raises:
        MotionFileError: the file is broken or unsafe.
        ValueError: no such clip, or none chosen of several.
        FileNotFoundError: no such file.
    """
    clips = _read_arrays(Path(path))
    if clip is None:
        if len(clips.names) != 1:
            raise ValueError(
                f"{path} holds {len(clips.names)} clips; "
                f"pass clip= a number or a name such as {clips.names[0]!r}"
            )
        return clips.motion(0)
    if isinstance(clip, str):
        if clip not in clips.names:
            raise ValueError(f"{path} has no clip {clip!r}; its clips are {', '.join(clips.names)}")
        return clips.motion(clips.names.index(clip))
    if not 0 <= clip < len(clips.names):
        raise ValueError(f"{path} has clips 0 to {len(clips.names) - 1}, got {clip}")
    return clips.motion(clip)


def read_npz_clips(path: str | Path) -> tuple[Motion, ...]:
    """All clips of an .npz (see `read_npz`), unpacking the file once."""
    clips = _read_arrays(Path(path))
    return tuple(clips.motion(number) for number in range(len(clips.names)))


class _Clips(NamedTuple):
    """The checked arrays of an .npz."""

    path: Path
    positions: Floats
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    clip: NDArray[np.integer[Any]] | None
    names: tuple[str, ...]
    frame_rate: NDArray[np.float64]  # one per clip

    def motion(self, number: int) -> Motion:
        rows = self.positions if self.clip is None else self.positions[self.clip == number]
        try:
            return Motion(self.names[number], self.joints, self.parents, rows, float(self.frame_rate[number]))
        except ValueError as error:
            raise MotionFileError(f"{self.path}: clip {self.names[number]!r}: {error}") from None


def _read_arrays(path: Path) -> _Clips:
    arrays = _unpack(
        path, ("positions", "joint_names", "parents", "frame_rate"), ("clip", "clip_names", "feet")
    )
    positions = arrays["positions"]

    def wrong(what: str) -> MotionFileError:
        return MotionFileError(f"{path}: {what}")

    if positions.ndim != 3 or positions.shape[2] != 3 or positions.dtype not in (np.float32, np.float64):
        raise wrong(
            f"positions must be (N, J, 3) float32 or float64, got {positions.shape} {positions.dtype}"
        )
    frames, count = positions.shape[:2]
    joints, parents = arrays["joint_names"], arrays["parents"]
    if joints.shape != (count,) or joints.dtype.kind != "U":
        raise wrong(f"joint_names must be {count} texts, got {joints.shape} {joints.dtype}")
    if parents.shape != (count,) or parents.dtype.kind not in "iu":
        raise wrong(f"parents must be {count} integers, got {parents.shape} {parents.dtype}")
    names = tuple(str(joint) for joint in joints)
    tree = tuple(int(parent) for parent in parents)
    if "feet" in arrays:
        feet = arrays["feet"]
        if feet.shape != (frames, 2, 3) or feet.dtype != positions.dtype:
            raise wrong(f"feet must be ({frames}, 2, 3) {positions.dtype}, got {feet.shape} {feet.dtype}")
        if not {"left_ankle", "right_ankle"} <= set(names):
            raise wrong("feet need the joints left_ankle and right_ankle")
        positions = np.concatenate([positions, feet], axis=1)
        tree += (names.index("left_ankle"), names.index("right_ankle"))
        names += ("left_foot", "right_foot")

    clip_names: tuple[str, ...] = (path.stem,)
    clip = arrays.get("clip")
    if clip is not None:
        labels = arrays.get("clip_names", np.empty(0))
        if labels.ndim != 1 or labels.dtype.kind != "U" or labels.size == 0:
            raise wrong(f"clip needs clip_names, one text per clip, got {labels.shape} {labels.dtype}")
        clip_names = tuple(str(label) for label in labels)
        if clip.shape != (frames,) or clip.dtype.kind not in "iu":
            raise wrong(f"clip must be {frames} integers, got {clip.shape} {clip.dtype}")
        if frames and not 0 <= int(clip.min()) <= int(clip.max()) < len(clip_names):
            raise wrong(f"clip must be numbers below {len(clip_names)}, got {clip.min()} to {clip.max()}")
    rate = arrays["frame_rate"]
    if rate.dtype.kind not in "iuf" or rate.shape not in ((), (len(clip_names),)):
        raise wrong(
            f"frame_rate must be a number, or one per clip ({len(clip_names)}), got {rate.shape} {rate.dtype}"
        )
    rates = np.broadcast_to(rate.astype(np.float64), (len(clip_names),))
    return _Clips(path, positions, names, tree, clip, clip_names, rates)


def _unpack(path: Path, needed: Sequence[str], wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of a zip of .npy files; what else is in it stays packed."""
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(_bytes(path))) as archive:
            there = set(archive.namelist())
            missing = [name for name in needed if f"{name}.npy" not in there]
            if missing:
                raise MotionFileError(f"{path}: the file has no {', '.join(missing)}")
            for name in (*needed, *wanted):
                if f"{name}.npy" not in there:
                    continue
                size = archive.getinfo(f"{name}.npy").file_size
                if size > MAX_BYTES:
                    raise MotionFileError(f"{path}: {name} unpacks to {size} bytes, more than {MAX_BYTES}")
                # zipfile never unpacks more than the stated size, so that a lying header ends in an error.
                arrays[name] = _npy(path, name, archive.read(f"{name}.npy"))
    except MotionFileError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        struct.error,
    ) as error:
        raise MotionFileError(f"{path}: not a readable .npz (truncated or damaged): {error}") from None
    return arrays


def _npy(path: Path, name: str, content: bytes) -> NDArray[Any]:
    """One array of .npy bytes. numpy's own reader would allocate whatever shape the header claims."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(stream)
    except Exception as error:  # numpy parses the header text; whatever fails there, the file is at fault
        raise MotionFileError(f"{path}: {name} is no .npy array: {error}") from None
    if dtype.hasobject:
        raise MotionFileError(
            f"{path}: {name} holds pickled objects, which could run code and are never loaded"
        )
    start = stream.tell()
    size = math.prod(shape) * dtype.itemsize
    if any(length < 0 for length in shape) or size != len(content) - start:
        raise MotionFileError(
            f"{path}: {name} declares {shape} {dtype} but holds {len(content) - start} bytes"
        )
    if size == 0:
        return np.empty(shape, dtype)
    array: NDArray[Any] = np.frombuffer(content, dtype, offset=start)
    array = array.reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


# --- shared ----------------------------------------------------------------------------------------------


def _motion(
    path: Path,
    names: tuple[str, ...],
    parents: tuple[int, ...],
    positions: NDArray[np.float64],
    turns: NDArray[np.float64],
    scale: float,
    frame_rate: float,
) -> Motion:
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be positive, got {scale}")
    with np.errstate(over="ignore", invalid="ignore"):
        world = positions @ (_Z_UP.T * scale)
        axes = _Z_UP @ turns
    try:
        return Motion(path.stem, names, parents, world, frame_rate, axes)
    except ValueError as error:
        raise MotionFileError(f"{path}: {error}") from None


def _place(
    turns: NDArray[np.float64],
    positions: NDArray[np.float64],
    number: int,
    parent: int,
    turn: NDArray[np.float64],
    offset: NDArray[np.float64],
    parent_moves: bool,
) -> None:
    """One joint of forward kinematics, all frames at once, written into `turns` and `positions`.

    The offset is turned by the parent (BVH: a joint is the start of its bone) or by the joint itself
    (`parent_moves=False`, ASF: it is the end). A root's offset is its place in the world.
    """
    if parent == -1:
        turns[:, number] = turn
        positions[:, number] = offset
        return
    turns[:, number] = turns[:, parent] @ turn
    moving = turns[:, parent if parent_moves else number]
    positions[:, number] = positions[:, parent] + np.einsum("tij,tj->ti", moving, offset)


def _turn(axis: int, degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T,) angles in degrees -> (T, 3, 3) right-handed rotations about axis 0, 1 or 2."""
    angles = np.deg2rad(degrees)
    cos, sin = np.cos(angles), np.sin(angles)
    after, last = (axis + 1) % 3, (axis + 2) % 3
    turn = np.zeros((len(angles), 3, 3))
    turn[:, axis, axis] = 1
    turn[:, after, after] = turn[:, last, last] = cos
    turn[:, last, after], turn[:, after, last] = sin, -sin
    return turn


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such motion file")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise MotionFileError(f"{path}: the file has {size} bytes, more than {MAX_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise MotionFileError(f"{path}: cannot be read: {error.strerror}") from None
    if not content:
        raise MotionFileError(f"{path}: the file is empty")
    return content


def _lines(path: Path) -> list[str]:
    """A text file's lines, whichever of CRLF, LF and CR end them (some files mix them)."""
    content = _bytes(path)
    if b"\0" in content:
        raise MotionFileError(f"{path}: not a text file (it holds NUL bytes)")
    # Only joint names can be other than ASCII; an unknown encoding must not lose the motion.
    text = content.decode("utf-8-sig", errors="replace")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")
    return lines


def _numbers(path: Path, line: int, words: Sequence[str], count: int, what: str) -> list[float]:
    if len(words) != count:
        raise _wrong(path, line, f"{what} must have {count} values, got {len(words)}")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        bad = next(word for word in words if not _is_number(word))
        raise _wrong(path, line, f"{what} must hold numbers, got {_short(bad)}") from None
    if not all(map(math.isfinite, numbers)):
        bad = next(word for word in words if not math.isfinite(float(word)))
        raise _wrong(path, line, f"{what} must hold finite numbers, got {_short(bad)}")
    return numbers


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _check_size(path: Path, frames: int, joints: int) -> None:
    # Positions and rotations together; joints without channels cost a file almost nothing.
    if frames * joints * 12 * 8 > MAX_BYTES:
        raise MotionFileError(f"{path}: {frames} frames of {joints} joints need more than {MAX_BYTES} bytes")


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


def _short(word: str) -> str:
    """A text from a file, safe to print."""
    return repr(word if len(word) <= 40 else word[:40] + "...")


def _wrong(path: Path, line: int, what: str) -> MotionFileError:
    return MotionFileError(f"{path}:{line}: {what}")
