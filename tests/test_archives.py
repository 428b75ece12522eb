"""Arrays in .npz files, with and without pickled members."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from posegeom_models.data import files
from posegeom_models.data.archives import read_npz_arrays
from posegeom_models.data.files import MotionFileError


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch evil-ran",))


def with_member(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", content)
    return path


def test_arrays_and_pickled_dictionaries_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", S=np.arange(6.0).reshape(2, 3), positions={"S1": {"Eating": np.ones(3)}})
    read = read_npz_arrays(tmp_path / "a.npz", ["S", "positions"], ["none"], objects=True)
    assert sorted(read) == ["S", "positions"]
    np.testing.assert_array_equal(read["S"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read["positions"]["S1"]["Eating"], [1, 1, 1])


def test_pickled_members_are_only_read_when_asked_for_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", positions=np.array([Evil()], object))
    with pytest.raises(MotionFileError, match=r"a\.npz: positions holds pickled objects"):
        read_npz_arrays("a.npz", ["positions"])
    with pytest.raises(MotionFileError, match=r"a\.npz: the pickle names 'posix\.system', which could run code"):
        read_npz_arrays("a.npz", ["positions"], objects=True)
    assert os.listdir(tmp_path) == ["a.npz"]


def test_broken_archives_give_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, S=np.arange(100.0), positions={"S1": np.ones(100)})
    content = path.read_bytes()
    with pytest.raises(MotionFileError, match=r"a\.npz: the file has no part"):
        read_npz_arrays(path, ["S", "part"])
    for length in range(0, len(content), 29):
        (tmp_path / "cut.npz").write_bytes(content[:length])
        with pytest.raises(MotionFileError, match=r"cut\.npz: "):
            read_npz_arrays(tmp_path / "cut.npz", ["S", "positions"], objects=True)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    with pytest.raises(MotionFileError, match=r"declares \(\) objects but holds 'list'"):
        read_npz_arrays(with_member(tmp_path / "b.npz", "S", header.getvalue() + pickle.dumps([1])), ["S"], (), True)
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 16)
    bomb = with_member(tmp_path / "bomb.npz", "S", bytes(1 << 20))
    assert bomb.stat().st_size < 1 << 13
    with pytest.raises(MotionFileError, match=r"bomb\.npz: S unpacks to 1048576 bytes, more than 65536"):
        read_npz_arrays(bomb, ["S"])
