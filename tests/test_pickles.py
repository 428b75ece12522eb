"""Pickles of arrays: every protocol that data sets come in, and pickles that would do something."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from posegeom_models.data.files import MotionFileError
from posegeom_models.data.pickles import read_pickle, unpickled

HELD: dict[str, object] = {
    "floats": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "flags": np.array([True, False]),
    "texts": np.array(["left", "right"]),
    "nothing": np.zeros((0, 3)),
    "scalar": np.float64(2.5),
    "list": [np.ones(2), {"a": 1, (1, "x"): 2.5}, None, True, b"\x80\xff"],
    "set": {1, 2},
}


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_containers_come_through(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(HELD, protocol=protocol))
    read = read_pickle(path)
    assert same(HELD, read)
    assert read["big"].dtype == np.dtype("i4")  # native, whatever the file has


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_objects_come_through(protocol: int) -> None:
    objects = np.empty(2, object)
    objects[:] = [{"S1": np.ones((2, 3))}, [1, 2]]
    read = unpickled(Path("a"), pickle.dumps(objects, protocol=protocol))
    assert read.shape == (2,)
    assert same(objects[0], read[0])
    assert read[1] == [1, 2]


def test_a_pickle_of_python_2_is_read() -> None:
    """Written by hand as Python 2's protocol 2 does: byte strings hold both the texts and the array's bytes."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    numbers = np.array([1.0, -2.0, 200.5], "<f8").tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01K\x03\x85"
        + b"cnumpy\ndtype\n" + text(b"f8") + b"K\x00K\x01\x87R(K\x03" + text(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89" + text(numbers) + b"tb"
    )  # fmt: skip
    read = unpickled(Path("a"), b"\x80\x02}" + text(b"joints") + array + b"s.")
    np.testing.assert_array_equal(read["joints"], [1.0, -2.0, 200.5])


class Evil:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call  # type: ignore[return-value]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "evil",
    [
        Evil(os.system, "touch evil-ran"),
        Evil(eval, "open('evil-ran', 'w')"),
        Evil(subprocess.check_call, ["touch", "evil-ran"]),
        Evil(Path.touch, Path("evil-ran")),
        Evil(getattr, "text", "format"),
        Evil(np.save, "evil-ran", 1),
        Evil(np.ndarray, (1 << 40,)),
        Evil(np.memmap, "evil-ran"),
        Evil(bytearray, 1 << 40),
        Evil(np.zeros(1).__reduce__()[0], np.ndarray, (1 << 40,), b"d"),
    ],
    ids=lambda evil: getattr(evil.call[0], "__name__", "?"),
)  # fmt: skip
def test_nothing_is_ever_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: Evil, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pkl"
    for held in (evil, {"jointPositions": [evil]}):
        path.write_bytes(pickle.dumps(held, protocol=protocol))
        with pytest.raises(MotionFileError, match=r"a\.pkl: "):
            read_pickle(path)
        assert os.listdir(tmp_path) == ["a.pkl"]


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


NDARRAY = b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n"
HOSTILE = {
    "a function as data": opcodes(NDARRAY),
    "a changed function": opcodes(NDARRAY, b"}X\x01\x00\x00\x00aK\x01sb"),
    "a class made": opcodes(NDARRAY, b")\x81"),
    "an object dtype with raw bytes": opcodes(
        b"cnumpy.core.multiarray\n_reconstruct\n", NDARRAY, b"K\x00\x85C\x01b\x87R",
        b"(K\x01K\x01\x85", DTYPE, b"X\x01\x00\x00\x00OK\x00K\x01\x87R", b"\x89C\x08AAAAAAAAtb",
    ),
    "more elements than bytes": opcodes(
        b"cnumpy.core.multiarray\n_reconstruct\n", NDARRAY, b"K\x00\x85C\x01b\x87R",
        b"(K\x01J\xff\xff\xff\x7f\x85", DTYPE, b"X\x02\x00\x00\x00f8K\x00K\x01\x87R", b"\x89C\x08AAAAAAAAtb",
    ),
    "a thousand million texts without letters": opcodes(
        b"cnumpy.core.multiarray\n_reconstruct\n", NDARRAY, b"K\x00\x85C\x01b\x87R",
        b"(K\x01J\x00\xca\x9a\x3b\x85", DTYPE, b"X\x02\x00\x00\x00S0K\x00K\x01\x87R", b"\x89C\x00tb",
    ),
    "a void dtype": opcodes(DTYPE, b"X\x05\x00\x00\x00V9999K\x00K\x01\x87R"),
    "a list that holds itself": opcodes(b"]q\x00h\x00a"),
    "a memo index of two thousand million": opcodes(b"K\x01r", struct.pack("<I", 0x7FFFFFF0), b"j\x00\x00\x00\x7f"),
    "a text of a terabyte": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"a.",
    "bytes of a terabyte": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a.",
    "deep": opcodes(b"]" * 5000, b"a" * 4999),
    "persistent": opcodes(b"K\x01Q"),
    "extension": opcodes(b"\x82\x01"),
    "nothing": b"",
    "no pickle": b"sequence: downtown",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(name: str) -> None:
    with pytest.raises(MotionFileError, match=r"^sequence\.pkl: "):
        unpickled(Path("sequence.pkl"), HOSTILE[name])


def test_a_thousand_million_laughs_stay_one_list() -> None:
    """Thirty lists, each ten times the one before: read as they are shared, not 10^30 times."""
    held: list[object] = []
    for _ in range(30):
        held = [held] * 10
    read = unpickled(Path("a"), pickle.dumps(held))
    assert read[0] is read[9]


def test_truncated_and_damaged_pickles_give_one_error(tmp_path: Path) -> None:
    content = pickle.dumps(HELD, protocol=2)
    random = np.random.default_rng(0)
    for length in range(0, len(content) - 1, 3):
        with pytest.raises(MotionFileError):
            unpickled(Path("cut"), content[:length])
    for _ in range(500):
        damaged = bytearray(content)
        damaged[random.integers(len(content))] ^= 1 << random.integers(8)
        with contextlib.suppress(MotionFileError):
            unpickled(Path("damaged"), bytes(damaged))
    path = tmp_path / "empty.pkl"
    path.write_bytes(b"")
    with pytest.raises(MotionFileError, match=r"empty\.pkl: the file is empty"):
        read_pickle(path)
    with pytest.raises(FileNotFoundError, match=r"none\.pkl"):
        read_pickle(tmp_path / "none.pkl")
