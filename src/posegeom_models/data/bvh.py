"""BVH files: a hierarchy of joints with channels, and their values frame by frame."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posegeom_models.data.files import MotionFileError, error_at, numbers_of, read_lines, shown
from posegeom_models.data.motion import Motion
from posegeom_models.data.rig import Poses, turn_about

CMU_UNIT = 0.0254 / 0.45
"""Metres per unit of CMU's ASF files (`length 0.45`, in inches) and of the BVH files made from them."""

BVH_UNITS = {1.0: "metres", CMU_UNIT: "CMU units", 0.01: "centimetres", 0.001: "millimetres"}
"""The units that `read_bvh` tells apart by the size of the person."""


class _Joint(NamedTuple):
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
    lines = read_lines(path)
    joints, line = _hierarchy(path, lines)
    frame_time, values = _values(path, lines, line, sum(len(joint.channels) for joint in joints))
    poses = Poses(path, len(values), len(joints))
    metres = _unit(path, joints) if scale is None else scale
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
                    turn = turn @ turn_about(axis, values[:, column])
                column += 1
            poses.place(number, joint.parent, turn, offset, parent_moves=True)
    rate = 1 / frame_time if frame_rate is None else frame_rate
    names = tuple(joint.name for joint in joints)
    return poses.motion(names, tuple(joint.parent for joint in joints), metres, rate)


def _hierarchy(path: Path, lines: list[str]) -> tuple[list[_Joint], int]:
    """The joints, parents first, and the line number of MOTION."""
    joints: list[_Joint] = []
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
                    raise error_at(path, line, f"a BVH file starts with HIERARCHY, got {shown(word)}")
                started = True
            elif pending is not None and key != "{":
                raise error_at(path, line, f"expected '{{' after the name {shown(pending)}, got {shown(word)}")
            elif key == "{":
                if pending is None:
                    raise error_at(path, line, "'{' without a ROOT, JOINT or End Site before it")
                parent = open_joints[-1] if open_joints else -1
                joints.append(_Joint(pending, parent, np.full(3, np.nan), ()))
                open_joints.append(len(joints) - 1)
                pending = None
            elif key in ("ROOT", "JOINT", "END"):
                name = " ".join(rest)
                if (key == "ROOT") == bool(joints):
                    raise error_at(path, line, "a BVH file has one ROOT, and it comes first")
                if key != "ROOT" and not open_joints:
                    raise error_at(path, line, f"{word} {shown(name)} is outside of the ROOT's braces")
                if key == "END":
                    name = joints[open_joints[-1]].name + "_end"
                if not name:
                    raise error_at(path, line, f"{word} without a name")
                pending = name
            elif key in ("OFFSET", "CHANNELS"):
                if not open_joints:
                    raise error_at(path, line, f"{word} outside of a joint")
                joint = joints[open_joints[-1]]
                joints[open_joints[-1]] = (
                    joint._replace(offset=np.array(numbers_of(path, line, rest, 3, "OFFSET")))
                    if key == "OFFSET"
                    else joint._replace(channels=_channels(path, line, rest, joint.name))
                )
            elif key == "}":
                if not open_joints:
                    raise error_at(path, line, "'}' without its '{'")
                joint = joints[open_joints.pop()]
                if not np.isfinite(joint.offset).all():
                    raise error_at(path, line, f"joint {shown(joint.name)} has no OFFSET")
            elif key == "MOTION":
                if open_joints or not joints:
                    inside = shown(joints[open_joints[-1]].name) if open_joints else "no ROOT"
                    raise error_at(path, line, f"MOTION starts before the hierarchy is complete ({inside})")
                return joints, line
            else:
                raise error_at(path, line, f"expected a joint, OFFSET, CHANNELS, '}}' or MOTION, got {shown(word)}")
    if not started:
        raise MotionFileError(f"{path}: the file is empty")
    raise error_at(path, len(lines), "the file ends inside the hierarchy (truncated): there is no MOTION")


def _channels(path: Path, line: int, words: list[str], name: str) -> tuple[str, ...]:
    channels = words[1:]
    if not words or not words[0].isdecimal() or len(words[0]) > 2 or int(words[0]) != len(channels):
        raise error_at(path, line, f"CHANNELS of {shown(name)} must be a count and as many names")
    found = [_CHANNEL.fullmatch(channel) for channel in channels]
    if None in found or len({channel.lower() for channel in channels}) != len(channels):
        raise error_at(path, line, f"CHANNELS of {shown(name)} must be different ones of Xposition ... Zrotation")
    return tuple(match[1].upper() + match[2].lower() for match in found if match is not None)


def _values(path: Path, lines: list[str], start: int, columns: int) -> tuple[float, NDArray[np.float64]]:
    """The frame time in seconds and the (T, columns) channel values that follow line `start`."""
    filled = ((line, text) for line, text in enumerate(lines[start:], start + 1) if text and not text.isspace())
    declared: list[float] = []
    for label in ("Frames", "Frame Time"):
        line, text = next(filled, (len(lines), ""))
        match = re.fullmatch(rf"\s*{label}\s*:\s*(\S+)\s*", text, re.IGNORECASE)
        if match is None:
            raise error_at(path, line, f"expected '{label}: NUMBER' after MOTION, got {shown(text)}")
        declared += numbers_of(path, line, [match[1]], 1, label)
        if declared[-1] <= 0 or (label == "Frames" and declared[-1] % 1):
            raise error_at(path, line, f"{label} must be positive, got {match[1]}")
    # The declared count is compared, never allocated.
    rows = [numbers_of(path, line, text.split(), columns, "a motion line") for line, text in filled]
    if len(rows) != declared[0]:
        what = f"the file declares {declared[0]:.0f} frames but holds {len(rows)} motion lines"
        raise error_at(path, len(lines), what)
    return declared[1], np.array(rows, np.float64).reshape(len(rows), columns)


def _unit(path: Path, joints: Sequence[_Joint]) -> float:
    reach = [0.0] * len(joints)
    for number, joint in enumerate(joints):
        if joint.parent != -1 and not joint.name.endswith("_end"):
            reach[number] = reach[joint.parent] + float(np.linalg.norm(joint.offset))
    for metres in BVH_UNITS:
        if 0.6 <= max(reach) * metres < 2.4:
            return metres
    raise MotionFileError(
        f"{path}: cannot tell the unit: the longest chain of bones is {max(reach):.4g} units, no size "
        f"in {', '.join(BVH_UNITS.values())}; pass scale= (metres per unit)"
    )
