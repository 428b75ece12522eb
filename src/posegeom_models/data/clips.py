"""Clips of motion in .npz files, unpacked without believing any declared size."""

from __future__ import annotations

import difflib
import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posegeom_models.data.files import MotionFileError, check_size, read_bytes
from posegeom_models.data.motion import Floats, Motion


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
                f"{path} holds {len(clips.names)} clips; pass clip= a number or a name such as {clips.names[0]!r}"
            )
        return clips.motion(0)
    if isinstance(clip, str):
        if clip not in clips.names:
            known = ", ".join(difflib.get_close_matches(clip, clips.names, 5, 0) or clips.names[:5])
            raise ValueError(f"{path} has no clip {clip!r} among its {len(clips.names)}; nearest: {known}")
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
    arrays = _unpack(path, ("positions", "joint_names", "parents", "frame_rate"), ("clip", "clip_names", "feet"))
    positions = arrays["positions"]

    def wrong(what: str) -> MotionFileError:
        return MotionFileError(f"{path}: {what}")

    if positions.ndim != 3 or positions.shape[2] != 3 or positions.dtype not in (np.float32, np.float64):
        raise wrong(f"positions must be (N, J, 3) float32 or float64, got {positions.shape} {positions.dtype}")
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
        raise wrong(f"frame_rate must be a number, or one per clip ({len(clip_names)}), got {rate.shape} {rate.dtype}")
    rates = np.broadcast_to(rate.astype(np.float64), (len(clip_names),))
    return _Clips(path, positions, names, tree, clip, clip_names, rates)


def _unpack(path: Path, needed: Sequence[str], wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of a zip of .npy files; what else is in it stays packed."""
    arrays: dict[str, NDArray[Any]] = {}
    content = io.BytesIO(read_bytes(path))
    try:
        with zipfile.ZipFile(content) as archive:
            there = set(archive.namelist())
            missing = [name for name in needed if f"{name}.npy" not in there]
            if missing:
                raise MotionFileError(f"{path}: the file has no {', '.join(missing)}")
            for name in (*needed, *wanted):
                if f"{name}.npy" not in there:
                    continue
                check_size(path, archive.getinfo(f"{name}.npy").file_size, f"{name} unpacks to")
                # zipfile never unpacks more than the stated size, so that a lying header ends in an error.
                arrays[name] = _npy(path, name, archive.read(f"{name}.npy"))
    except MotionFileError:
        raise
    except Exception as error:  # zipfile and its decompressors have some ten ways to refuse a damaged file
        raise MotionFileError(f"{path}: not a readable .npz (truncated or damaged): {error}") from None
    return arrays


def _npy(path: Path, name: str, content: bytes) -> NDArray[Any]:
    """One array of .npy bytes. numpy's own reader would allocate whatever shape the header claims."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except Exception as error:  # numpy parses the header text; whatever fails there, the file is at fault
        raise MotionFileError(f"{path}: {name} is no .npy array: {error}") from None
    if dtype.hasobject:
        raise MotionFileError(f"{path}: {name} holds pickled objects, which could run code and are never loaded")
    start = stream.tell()
    size = math.prod(shape) * dtype.itemsize
    if any(length < 0 for length in shape) or size != len(content) - start:
        raise MotionFileError(f"{path}: {name} declares {shape} {dtype} but holds {len(content) - start} bytes")
    if size == 0:
        return np.empty(shape, dtype)
    array: NDArray[Any] = np.frombuffer(content, dtype, offset=start)
    array = array.reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)
