"""Arrays in .npz files whose pickled members are read without running them."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posegeom_models.data.files import MotionFileError, check_size, read_bytes, shown
from posegeom_models.data.pickles import unpickled


def read_npz_arrays(
    path: str | Path, needed: Sequence[str], wanted: Sequence[str] = (), objects: bool = False
) -> dict[str, Any]:
    """The named arrays of an .npz; what else is in it stays packed.

    Args:
        path: the file.
        needed: arrays that must be in it.
        wanted: arrays that may be.
        objects: read pickled members too, as `posegeom_models.data.pickles` does; an array of one object is given
            as that object.

    Raises:
        MotionFileError: the file is broken or unsafe; no declared size is believed.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    content = read_bytes(path)
    members: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            there = set(archive.namelist())
            missing = [name for name in needed if f"{name}.npy" not in there]
            if missing:
                raise MotionFileError(f"{path}: the file has no {', '.join(missing)}")
            for name in (*needed, *wanted):
                if f"{name}.npy" in there:
                    check_size(path, archive.getinfo(f"{name}.npy").file_size, f"{name} unpacks to")
                    # zipfile never unpacks more than the stated size, so that a lying header ends in an error.
                    members[name] = archive.read(f"{name}.npy")
    except MotionFileError:
        raise
    except Exception as error:  # zipfile and its decompressors have some ten ways to refuse a damaged file
        raise MotionFileError(f"{path}: not a readable .npz (truncated or damaged): {error}") from None
    return {name: _array(path, name, member, objects) for name, member in members.items()}


def _array(path: Path, name: str, content: bytes, objects: bool) -> Any:
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except Exception as error:  # numpy parses the header text; whatever fails there, the file is at fault
        raise MotionFileError(f"{path}: {name} is no .npy array: {error}") from None
    start = stream.tell()
    if dtype.hasobject:
        if not objects:
            raise MotionFileError(f"{path}: {name} holds pickled objects, which could run code and are never loaded")
        value = unpickled(path, content[start:])
        if not isinstance(value, np.ndarray) or value.shape != shape:
            raise MotionFileError(f"{path}: {name} declares {shape} objects but holds {shown(type(value).__name__)}")
        return value.item() if shape == () else value
    size = math.prod(shape) * dtype.itemsize
    if any(length < 0 for length in shape) or size != len(content) - start:
        raise MotionFileError(f"{path}: {name} declares {shape} {dtype} but holds {len(content) - start} bytes")
    if size == 0:
        return np.empty(shape, dtype)
    array: NDArray[Any] = np.frombuffer(content, dtype, offset=start)
    array = array.reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)
