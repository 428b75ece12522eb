"""MATLAB and HDF5 files: what they hold, broken ones, bombs, and ones that point elsewhere."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from posegeom_models.data import files
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.matlab import hdf5_names, read_hdf5, read_mat


def cells(arrays: list[np.ndarray]) -> np.ndarray:
    column = np.empty((len(arrays), 1), object)
    for number, array in enumerate(arrays):
        column[number, 0] = array
    return column


@pytest.mark.parametrize("packed", [False, True])
def test_variables_and_cells_are_read(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "annot.mat"
    held = {"annot2": cells([np.arange(6.0).reshape(2, 3), np.ones((2, 3))]), "frames": np.arange(2)}
    scipy.io.savemat(path, held, do_compression=packed)
    read = read_mat(path, ["annot2"])
    assert list(read) == ["annot2"]
    assert read["annot2"].shape == (2, 1)
    np.testing.assert_array_equal(read["annot2"][0, 0], [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(MotionFileError, match=r"annot\.mat: the file has no annot3"):
        read_mat(path, ["annot2", "annot3"])


def test_a_cut_mat_is_an_error(tmp_path: Path) -> None:
    scipy.io.savemat(
        tmp_path / "a.mat", {"joints": np.random.default_rng(0).normal(size=(3, 14, 20))}, do_compression=True
    )
    content = (tmp_path / "a.mat").read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / "cut.mat").write_bytes(content[:length])
        with pytest.raises(MotionFileError, match=r"cut\.mat: "):
            read_mat(tmp_path / "cut.mat", ["joints"])


def test_a_small_mat_that_unpacks_to_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.mat"
    scipy.io.savemat(path, {"joints": np.zeros(1 << 17)}, do_compression=True)
    assert path.stat().st_size < 1 << 13
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 16)
    with pytest.raises(MotionFileError, match=r"bomb\.mat: a variable unpacks to 10\d+ bytes, more than 65536"):
        read_mat(path, ["joints"])


def test_a_packed_variable_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    inner = zlib.compress(struct.pack("<II", 14, 64) + bytes(64))
    (tmp_path / "a.mat").write_bytes(head + struct.pack("<II", 15, len(inner) + 9) + inner)
    with pytest.raises(MotionFileError, match="a variable is cut off"):
        read_mat(tmp_path / "a.mat", ["joints"])


def test_the_wrong_kind_of_mat_is_named(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "new.mat", "w") as file:
        file["joints"] = np.ones(3)
    with pytest.raises(MotionFileError, match=r"new\.mat: a MATLAB v7\.3 \(HDF5\) file where an older"):
        read_mat(tmp_path / "new.mat", ["joints"])
    (tmp_path / "text.mat").write_text("joints = [1 2 3]" * 20)
    with pytest.raises(MotionFileError, match=r"text\.mat: not a \.mat file of level 5"):
        read_mat(tmp_path / "text.mat", ["joints"])
    with pytest.raises(MotionFileError, match=r"text\.mat: not a readable HDF5 file"):
        read_hdf5(tmp_path / "text.mat", ["joints"])


def test_hdf5_data_sets_are_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "annot.h5", "w") as file:
        file["pose/2d"] = np.arange(4.0).reshape(2, 2)
        file["intrinsics/60457274"] = np.ones(4)
        file["intrinsics/54138969"] = np.ones(4)
        file.create_dataset("packed", data=np.zeros((4, 4)), chunks=(2, 2), compression="gzip")
    read = read_hdf5(tmp_path / "annot.h5", ["pose/2d", "packed"], ["pose/3d"])
    assert sorted(read) == ["packed", "pose/2d"]
    np.testing.assert_array_equal(read["pose/2d"], [[0, 1], [2, 3]])
    assert hdf5_names(tmp_path / "annot.h5", "intrinsics") == ("54138969", "60457274")
    assert hdf5_names(tmp_path / "annot.h5", "none") == ()
    with pytest.raises(MotionFileError, match=r"annot\.h5: the file has no pose/3d"):
        read_hdf5(tmp_path / "annot.h5", ["pose/3d"])


def test_a_truncated_hdf5_is_an_error(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["pose/2d"] = np.random.default_rng(0).normal(size=(50, 32, 2))
    content = (tmp_path / "a.h5").read_bytes()
    for share in (0, 0.01, 0.1, 0.5, 0.9, 0.999):
        (tmp_path / "cut.h5").write_bytes(content[: int(share * len(content))])
        for read in (lambda path: read_hdf5(path, ["pose/2d"]), lambda path: hdf5_names(path, "pose")):
            with pytest.raises(MotionFileError, match=r"cut\.h5: "):
                read(tmp_path / "cut.h5")


def test_hdf5_never_opens_another_file_or_more_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret.bin").write_bytes(np.ones(4).tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.ones(4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink("other.h5", "/x")
        file["group"] = h5py.ExternalLink("other.h5", "/")
        file["soft"] = h5py.SoftLink("/group")
        file.create_dataset("raw", (4,), "f8", external=[(str(tmp_path / "secret.bin"), 0, 32)])
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4,))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("huge", (1 << 40,), "f8", chunks=(1 << 10,))
        file["texts"] = [b"a"]
    for name in ("link", "group/x", "soft", "raw", "virtual"):
        with pytest.raises(MotionFileError, match=rf"a\.h5: {name} lies in another file"):
            read_hdf5(tmp_path / "a.h5", [name])
    assert hdf5_names(tmp_path / "a.h5", "group") == ()
    with pytest.raises(MotionFileError, match=r"a\.h5: huge unpacks to \d+ bytes, more than"):
        read_hdf5(tmp_path / "a.h5", ["huge"])
    with pytest.raises(MotionFileError, match=r"a\.h5: texts must hold numbers"):
        read_hdf5(tmp_path / "a.h5", ["texts"])
    monkeypatch.setattr(files, "MAX_BYTES", 8)
    with pytest.raises(MotionFileError, match=r"a\.h5: the file has \d+ bytes, more than 8"):
        read_hdf5(tmp_path / "a.h5", ["texts"])
