"""Pickles read without running what they say: only numpy arrays, dtypes and scalars, and builtin containers.

A pickle is a program for a small machine that may call any function by its name. Here the machine knows the few names
of `_KNOWN`, all of which stand for the functions below; any other name ends the reading. No numpy object is ever made
by numpy's own unpickling, whose arrays and dtypes trust the file.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posegeom_models.data.files import MotionFileError, read_bytes, shown

_DEEPEST = 32
_NUMBERS = "biufc"
_CODECS = ("latin1", "latin-1", "ascii", "utf-8")


def read_pickle(path: str | Path) -> Any:
    """What a pickle holds, if that is numpy arrays, numbers, texts, and lists, tuples, dictionaries and sets of them.

    Texts written by Python 2 are read as Latin-1, as its numpy arrays need.

    Raises:
        MotionFileError: the file is broken, or names anything else (which is never run or imported).
        FileNotFoundError: no such file.
    """
    path = Path(path)
    return unpickled(path, read_bytes(path))


def unpickled(path: Path, content: bytes) -> Any:
    """Like `read_pickle`, from bytes that came from `path`."""
    try:
        loaded = _Unpickler(io.BytesIO(content)).load()
        return _finished(loaded, {}, 0)
    except _RefusedError as error:
        raise MotionFileError(f"{path}: {error}") from None
    except (Exception, RecursionError) as error:  # a damaged pickle fails in as many ways as there are opcodes
        raise MotionFileError(f"{path}: not a readable pickle (truncated or damaged): {error}") from None


class _RefusedError(Exception):
    """The pickle wants what it must not have."""


class _Type:
    """A numpy dtype in the making."""

    def __init__(self, code: object, *_: object) -> None:
        # The dtype's code decides alone; a state may only add the byte order.
        if not isinstance(code, str) or len(code) > 8:
            raise _RefusedError("an array of an unknown type, which is never loaded")
        self.dtype = np.dtype(code)
        if self.dtype.kind not in _NUMBERS + "SUO":
            raise _RefusedError(f"an array of {shown(code)}, which is never loaded")

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise _RefusedError(f"an array with byte order {shown(str(order))}")
        if self.dtype.kind in _NUMBERS + "U" and order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """A numpy array in the making."""

    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None
        self.objects: tuple[tuple[int, ...], list[Any]] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        self.fill(kind, shape, content, "F" if fortran else "C")

    def fill(self, kind: Any, shape: Any, content: Any, order: Any) -> _Array:
        if not isinstance(kind, _Type) or not all(isinstance(length, int) and length >= 0 for length in shape):
            raise _RefusedError("an array without a type or shape")
        shape, dtype = tuple(shape), kind.dtype
        if dtype.hasobject:
            if not isinstance(content, list) or len(content) != math.prod(shape) or (order == "F" and len(shape) > 1):
                raise _RefusedError(f"an array of {shape} objects that holds something else")
            self.objects = (shape, content)
            return self
        raw = content.encode("latin-1") if isinstance(content, str) else content
        if not isinstance(raw, (bytes, bytearray)) or len(raw) != math.prod(shape) * dtype.itemsize:
            raise _RefusedError(f"an array of {shape} {dtype} that holds something else")
        if dtype.itemsize == 0 and math.prod(shape) > 0:
            # Texts without letters need no bytes in the file, but numpy gives each of them a place in memory.
            raise _RefusedError(f"an array of {shape} texts without letters")
        flat = np.frombuffer(bytes(raw), dtype) if len(raw) else np.empty(math.prod(shape), dtype)
        self.value = flat.reshape(shape, order=order).astype(dtype.newbyteorder("="), copy=False)
        return self


class _Call:
    """What a name in the pickle stands for; it can be called and nothing else."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("a changed function, which is never loaded")


_NDARRAY = _Call(lambda *_: _refuse("an array made by its size"))


def _refuse(what: str) -> Any:
    raise _RefusedError(what)


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    # numpy writes an empty array here and its contents later; any other shape would be allocated unseen.
    if kind is not _NDARRAY or shape != (0,):
        raise _RefusedError("an array of an unknown class, which is never loaded")
    return _Array()


def _frombuffer(content: object, kind: object, shape: Sequence[int], order: object) -> _Array:
    if order not in ("C", "F"):
        raise _RefusedError("an array without an order")
    return _Array().fill(kind, shape, content, order)


def _scalar(kind: object, content: object) -> Any:
    made = _Array().fill(kind, (), content, "C").value
    return None if made is None else made[()]


def _encode(text: object, codec: object = "utf-8", *_: object) -> bytes:
    if not isinstance(text, str) or codec not in _CODECS:
        raise _RefusedError("a text in an unknown encoding")
    return text.encode(str(codec))


def _bytes(content: object = b"", *codec: object) -> bytes:
    if isinstance(content, str):
        return _encode(content, *codec)
    if not isinstance(content, (bytes, list)):
        raise _RefusedError("bytes made by their number")
    return bytes(content)


def _container(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(*items: Any) -> Any:
        if not all(isinstance(item, (list, tuple, dict, set, frozenset)) for item in items) or len(items) > 1:
            raise _RefusedError("a container of something that is none")
        return kind(*items)

    return make


_NUMPY = {"_reconstruct": _Call(_reconstruct), "scalar": _Call(_scalar)}
_BUILTIN = {
    "set": _Call(_container(set)),
    "frozenset": _Call(_container(frozenset)),
    "dict": _Call(_container(dict)),
    "list": _Call(_container(list)),
    "tuple": _Call(_container(tuple)),
    "bytes": _Call(_bytes),
    "bytearray": _Call(_bytes),
    "complex": _Call(complex),
}
_KNOWN: dict[str, dict[str, _Call]] = {
    "numpy": {"ndarray": _NDARRAY, "dtype": _Call(_Type)},
    "numpy.core.multiarray": _NUMPY,
    "numpy._core.multiarray": _NUMPY,
    "numpy.core.numeric": {"_frombuffer": _Call(_frombuffer)},
    "numpy._core.numeric": {"_frombuffer": _Call(_frombuffer)},
    "builtins": _BUILTIN,
    "__builtin__": _BUILTIN,
    "collections": {"OrderedDict": _Call(_container(dict))},
    "_codecs": {"encode": _Call(_encode)},
}


class _Unpickler(pickle._Unpickler):
    # The unpickler in Python, not the one in C: that one reserves as much memory as an index in the file is large.

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module][name]
        except KeyError:
            raise _RefusedError(
                f"the pickle names {shown(f'{module}.{name}')}, which could run code and is never loaded"
            ) from None

    def persistent_load(self, pid: object) -> Any:
        raise _RefusedError("the pickle refers to something outside itself")


def _finished(value: Any, done: dict[int, Any], depth: int) -> Any:
    """The value with its arrays made; `done` by identity, so that what is shared stays shared."""
    if not isinstance(value, (list, tuple, dict, _Array, _Type)):
        if isinstance(value, _Call):
            raise _RefusedError("the pickle holds a function, which is never loaded")
        return value
    if id(value) in done:
        if done[id(value)] is _RefusedError:
            raise _RefusedError("the pickle holds something that holds itself")
        return done[id(value)]
    if depth > _DEEPEST:
        raise _RefusedError(f"the pickle is nested more than {_DEEPEST} deep")
    done[id(value)] = _RefusedError
    if isinstance(value, dict):
        made: Any = {_finished(key, done, depth + 1): _finished(held, done, depth + 1) for key, held in value.items()}
    elif isinstance(value, (list, tuple)):
        made = type(value)(_finished(held, done, depth + 1) for held in value)
    elif isinstance(value, _Type):
        made = value.dtype
    elif value.objects is not None:
        shape, contents = value.objects
        made = np.empty(len(contents), object)
        for number, held in enumerate(contents):
            made[number] = _finished(held, done, depth + 1)
        made = made.reshape(shape)
    elif value.value is not None:
        made = value.value
    else:
        raise _RefusedError("the pickle holds an array without contents")
    done[id(value)] = made
    return made
