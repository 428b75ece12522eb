"""MATLAB files: the old format (level 5) through SciPy, and HDF5 (also MATLAB's v7.3) through h5py, both bounded."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posegeom_models.data.files import MotionFileError, check_size, read_bytes
from posegeom_models.data.packages import require

_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14


def read_mat(path: str | Path, needed: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named variables of a level-5 .mat file; cell arrays come as arrays of objects.

    Raises:
        MotionFileError: the file is broken, lacks a variable, or would unpack to too much.
        FileNotFoundError: no such file.
    """
    import scipy.io

    path = Path(path)
    content = read_bytes(path)
    if content.startswith(b"\x89HDF\r\n\x1a\n") or content[512:520] == b"\x89HDF\r\n\x1a\n":
        raise MotionFileError(f"{path}: a MATLAB v7.3 (HDF5) file where an older .mat (level 5) is expected")
    _check_unpacked(path, content)
    try:
        variables = scipy.io.loadmat(io.BytesIO(content), variable_names=list(needed))
    except Exception as error:  # SciPy has a dozen ways to refuse a damaged file
        raise MotionFileError(f"{path}: not a readable .mat file (truncated or damaged): {error}") from None
    missing = [name for name in needed if not isinstance(variables.get(name), np.ndarray)]
    if missing:
        raise MotionFileError(f"{path}: the file has no {', '.join(missing)}")
    return {name: variables[name] for name in needed}


def _check_unpacked(path: Path, content: bytes) -> None:
    """Raise if the variables of a level-5 file are cut off or declare more bytes than are allowed.

    SciPy unpacks as much as the first eight bytes of a variable say, so that these are the ones to look at.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise MotionFileError(f"{path}: not a .mat file of level 5")
    start = _HEADER
    while start + 8 <= len(content):
        kind, size = struct.unpack(f"{order}II", content[start : start + 8])
        if start + 8 + size > len(content):
            raise MotionFileError(f"{path}: not a readable .mat file (truncated or damaged): a variable is cut off")
        if kind == _COMPRESSED:
            try:
                head = zlib.decompressobj().decompress(content[start + 8 : start + 8 + min(size, 1024)], 8)
                inner, unpacked = struct.unpack(f"{order}II", head)
            except (zlib.error, struct.error):
                raise MotionFileError(f"{path}: not a readable .mat file (truncated or damaged)") from None
            if inner != _MATRIX:
                raise MotionFileError(f"{path}: a packed variable is no matrix")
            check_size(path, unpacked, "a variable unpacks to")
        start += 8 + size


def read_hdf5(path: str | Path, needed: Sequence[str], wanted: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """The named data sets ("pose/2d") of an HDF5 file, numbers only.

    MATLAB's v7.3 files are HDF5 files with the axes of each array in reverse; they come as HDF5 has them.

    Raises:
        MotionFileError: the file is broken, lacks a data set, refers to other files, or would unpack to too much.
        FileNotFoundError: no such file.
    """
    h5py = require("h5py", "reading HDF5 files")
    path = Path(path)
    _check_file(path)
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with h5py.File(path, "r", locking=False) as file:
            for name in (*needed, *wanted):
                dataset = _dataset(h5py, file, name)
                if dataset is None:
                    if name in needed:
                        raise MotionFileError(f"{path}: the file has no {name}")
                    continue
                if dataset.is_virtual or dataset.external:
                    raise MotionFileError(f"{path}: {name} lies in another file, which is never opened")
                if dataset.dtype.kind not in "biuf":
                    raise MotionFileError(f"{path}: {name} must hold numbers, got {dataset.dtype}")
                check_size(path, dataset.nbytes, f"{name} unpacks to")
                arrays[name] = dataset[()]
    except MotionFileError:
        raise
    except Exception as error:  # h5py passes on whatever the HDF5 library says
        raise MotionFileError(f"{path}: not a readable HDF5 file (truncated or damaged): {error}") from None
    return arrays


def hdf5_names(path: str | Path, group: str) -> tuple[str, ...]:
    """The names in a group of an HDF5 file, sorted; none where it has no such group."""
    h5py = require("h5py", "reading HDF5 files")
    path = Path(path)
    _check_file(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            if not isinstance(file.get(group, getlink=True), h5py.HardLink) or not isinstance(file[group], h5py.Group):
                return ()
            return tuple(sorted(file[group]))
    except Exception as error:
        raise MotionFileError(f"{path}: not a readable HDF5 file (truncated or damaged): {error}") from None


def _dataset(h5py: Any, file: Any, name: str) -> Any:
    """A data set that lies in the file itself: every step of its name is a hard link."""
    group = file
    steps = name.split("/")
    for number, step in enumerate(steps):
        link = group.get(step, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise MotionFileError(f"{file.filename}: {name} lies in another file, which is never opened")
        group = group[step]
        if not isinstance(group, h5py.Dataset if number == len(steps) - 1 else h5py.Group):
            return None
    return group


def _check_file(path: Path) -> None:
    """Raise unless a file is there, has something in it, and is not too large."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    size = path.stat().st_size
    if size == 0:
        raise MotionFileError(f"{path}: the file is empty")
    check_size(path, size, "the file has")
