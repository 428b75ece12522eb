"""Acclaim files: a skeleton (.asf) and its motions (.amc)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posegeom_models.data.files import MotionFileError, error_at, numbers_of, read_lines, shown
from posegeom_models.data.motion import Motion
from posegeom_models.data.rig import Poses, turn_about


class _Bone(NamedTuple):
    """A bone of an ASF; the root is one of length 0."""

    name: str
    vector: NDArray[np.float64]  # from start to end, in the skeleton's axes
    axes: NDArray[np.float64]  # (3, 3) the axes in which its degrees of freedom are measured
    channels: tuple[str, ...]  # "tx" ... "rz", in the order of the AMC's values


def read_asf_amc(asf: str | Path, amc: str | Path, frame_rate: float = 120.0, scale: float | None = None) -> Motion:
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
    values = _amc_values(amc, read_lines(amc), bones, in_degrees, asf.name)
    frames = len(values)
    poses = Poses(amc, frames, len(bones))
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
                    turn = turn_about(axis, values[:, column]) @ turn
                column += 1
            poses.place(number, parent, bone.axes @ turn @ bone.axes.T, offset, parent_moves=False)
    metres = unit if scale is None else scale
    return poses.motion(tuple(bone.name for bone in bones), parents, metres, frame_rate)


def _read_asf(path: Path) -> tuple[list[_Bone], tuple[int, ...], float, bool]:
    """Bones with parents first, their parents' numbers, metres per unit, and whether angles are degrees."""
    lines = read_lines(path)
    sections: dict[str, list[tuple[int, list[str]]]] = {}
    section: list[tuple[int, list[str]]] | None = None
    for line, text in enumerate(lines, 1):
        words = text.split("#", 1)[0].split()
        if not words:
            continue
        if words[0].startswith(":"):
            section = sections.setdefault(words[0][1:].lower(), [])
        elif section is None:
            raise error_at(path, line, f"an ASF file starts with a section such as ':version', got {shown(words[0])}")
        else:
            section.append((line, words))
    if not sections:
        raise MotionFileError(f"{path}: the file is empty")
    for needed in ("units", "root", "bonedata", "hierarchy"):
        if not sections.get(needed):
            raise error_at(path, len(lines), f"the file has no ':{needed}' section (truncated, or no ASF)")

    length, in_degrees = 1.0, True
    for line, words in sections["units"]:
        if words[0] == "length":
            length = numbers_of(path, line, words[1:], 1, "length")[0]
            if length <= 0:
                raise error_at(path, line, f"the unit length must be positive, got {words[1]}")
        elif words[0] == "angle":
            in_degrees = words[1:2] == ["deg"]
    bones = {"root": _asf_root(path, sections["root"], in_degrees)}
    entry: dict[str, tuple[int, list[str]]] | None = None
    for line, words in sections["bonedata"]:
        if words[0] == "begin":
            entry = {}
        elif entry is None:
            raise error_at(path, line, f"expected 'begin' of a bone, got {shown(words[0])}")
        elif words[0] == "end":
            bone = _asf_bone(path, line, entry, in_degrees)
            if bone.name in bones:
                raise error_at(path, line, f"bone {shown(bone.name)} is there twice")
            bones[bone.name], entry = bone, None
        elif words[0][0] not in "(-0123456789":  # more limits than one follow on lines of their own
            entry[words[0]] = (line, words[1:])
    if entry is not None:
        raise error_at(path, sections["bonedata"][-1][0], "the last bone has no 'end' (truncated)")
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
        raise error_at(path, line, "the root's order must be TX TY TZ RX RY RZ in some order")
    axis_line, axis = entry.get("axis", (line, ["XYZ"]))
    return _Bone("root", np.zeros(3), _asf_axes(path, axis_line, ["0", "0", "0", *axis], in_degrees), channels)


def _asf_bone(path: Path, line: int, entry: dict[str, tuple[int, list[str]]], in_degrees: bool) -> _Bone:
    for needed in ("name", "direction", "length", "axis"):
        if not entry.get(needed, (0, []))[1]:
            raise error_at(path, line, f"a bone without {needed} ends here")
    name = entry["name"][1][0]
    direction = np.array(numbers_of(path, entry["direction"][0], entry["direction"][1], 3, "direction"))
    length = numbers_of(path, entry["length"][0], entry["length"][1], 1, "length")[0]
    dof_line, dof = entry.get("dof", (line, []))
    channels = tuple(word.lower() for word in dof)
    if not set(channels) <= {"rx", "ry", "rz"} or len(set(channels)) != len(channels):
        raise error_at(path, dof_line, f"the dof of bone {shown(name)} must be different ones of rx ry rz")
    return _Bone(name, direction * length, _asf_axes(path, *entry["axis"], in_degrees), channels)


def _asf_axes(path: Path, line: int, words: list[str], in_degrees: bool) -> NDArray[np.float64]:
    angles = np.array(numbers_of(path, line, words[:3], 3, "axis"))
    if len(words) != 4 or sorted(words[3].upper()) != ["X", "Y", "Z"]:
        raise error_at(path, line, "axis must be three angles and an order such as XYZ")
    axes = np.eye(3)
    for angle, axis in zip(angles if in_degrees else np.rad2deg(angles), words[3].upper(), strict=True):
        axes = turn_about("XYZ".index(axis), np.array([angle]))[0] @ axes
    return axes


def _asf_hierarchy(path: Path, section: list[tuple[int, list[str]]], bones: dict[str, _Bone]) -> dict[str, str | None]:
    """Each bone's parent, parents first and children in the file's order (depth first)."""
    children: dict[str, list[str]] = {}
    parent_of: dict[str, str] = {}
    for line, words in section:
        if words[0] in ("begin", "end"):
            continue
        for word in words:
            if word not in bones:
                raise error_at(path, line, f"the hierarchy names {shown(word)}, which is no bone of :bonedata")
        for child in words[1:]:
            if child in parent_of or child == "root":
                raise error_at(path, line, f"bone {shown(child)} has two parents")
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
        raise error_at(path, section[-1][0], f"the hierarchy does not reach bone {shown(unreached[0])} (truncated?)")
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
                raise error_at(path, line, f"expected frame {first + len(frames)}, got frame {words[0]}")
            frames.append({})
        elif not frames:
            raise error_at(path, line, f"expected the number of the first frame, got {shown(words[0])}")
        elif words[0] not in names:
            raise error_at(path, line, f"bone {shown(words[0])} is not in the skeleton {asf}")
        elif words[0] in frames[-1]:
            raise error_at(path, line, f"bone {shown(words[0])} is there twice in one frame")
        else:
            frames[-1][words[0]] = numbers_of(path, line, words[1:], moving.get(words[0], 0), f"bone {words[0]}")
    if not frames:
        raise MotionFileError(f"{path}: the file holds no frames" if any(lines) else f"{path}: the file is empty")
    _check_frame(path, len(lines), frames, moving)
    values = np.array([[value for name in moving for value in frame[name]] for frame in frames], np.float64)
    if not in_degrees:
        turning = [channel[0] == "r" for bone in bones for channel in bone.channels]
        values[:, turning] = np.rad2deg(values[:, turning])
    return values


def _check_frame(path: Path, line: int, frames: list[dict[str, list[float]]], moving: dict[str, int]) -> None:
    missing = [name for name in moving if frames and name not in frames[-1]]
    if missing:
        raise error_at(path, line, f"the frame that ends here lacks {', '.join(missing[:5])} (truncated?)")
