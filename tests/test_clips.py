"""Clips in .npz files: every layout, broken ones, and ones that would do harm."""

from __future__ import annotations

import contextlib
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from posegeom_models.data import files
from posegeom_models.data.clips import read_npz, read_npz_clips
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.mocap import read_motion


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def plain(**changes: object) -> dict[str, object]:
    arrays: dict[str, object] = {
        "positions": np.arange(24, dtype=np.float32).reshape(4, 2, 3),
        "joint_names": np.array(["hip", "knee"]),
        "parents": np.array([-1, 0]),
        "frame_rate": np.float32(30),
    }
    return {name: value for name, value in (arrays | changes).items() if value is not None}


def packed(path: Path, **changes: object) -> Path:
    np.savez_compressed(path, **plain(**changes))  # type: ignore[arg-type]
    return path


def test_a_plain_npz_is_read(tmp_path: Path) -> None:
    motion = read_motion(packed(tmp_path / "a.npz"))
    np.testing.assert_array_equal(motion.positions, plain()["positions"])
    assert (motion.name, motion.joints, motion.parents, motion.frame_rate) == ("a", ("hip", "knee"), (-1, 0), 30)


@pytest.mark.parametrize("name", ["freefall17.npz", "acro17.npz", "rat23.npz", "hand21.npz"])
def test_every_npz_layout_is_read(motion_data: Path, name: str) -> None:
    file = np.load(motion_data / name)
    clips = read_npz_clips(motion_data / name)
    np.testing.assert_array_equal(np.concatenate([clip.positions for clip in clips]), file["positions"])
    np.testing.assert_allclose([clip.frame_rate for clip in clips], np.atleast_1d(file["frame_rate"]))


def test_clips_are_chosen_by_name_or_number(motion_data: Path) -> None:
    path = motion_data / "acro17.npz"
    assert read_npz(path, "snu_walk").positions.shape == read_npz(path, 7).positions.shape == (132, 17, 3)
    with pytest.raises(ValueError, match="holds 28 clips; pass clip="):
        read_npz(path)
    with pytest.raises(ValueError, match="has no clip 'waltz' among its 28; nearest: "):
        read_npz(path, "waltz")
    with pytest.raises(ValueError, match="has clips 0 to 27, got 28"):
        read_npz(path, 28)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("evil-ran"),))  # type: ignore[return-value]


NAN = np.full((4, 2, 3), np.nan, np.float32)

BROKEN_NPZ: dict[str, tuple[dict[str, object], str]] = {
    "no positions": ({"positions": None}, "the file has no positions"),
    "shape": ({"positions": np.zeros((4, 2))}, r"positions must be \(N, J, 3\).*got \(4, 2\)"),
    "integers": ({"positions": np.zeros((4, 2, 3), int)}, "positions must be .*int64"),
    "NaN": ({"positions": NAN}, "clip 'a': positions must be finite, got hip of frame 0 NaN"),
    "no rows": ({"positions": np.zeros((0, 2, 3))}, "at least one frame, got none"),
    "names": ({"joint_names": np.array(["hip"])}, r"joint_names must be 2 texts, got \(1,\)"),
    "numbers as names": ({"joint_names": np.zeros(2)}, r"joint_names must be 2 texts"),
    "same names": ({"joint_names": np.array(["hip", "hip"])}, "joint names must differ, got 'hip'"),
    "parents": ({"parents": np.array([-1.0, 0])}, "parents must be 2 integers"),
    "cycle": ({"parents": np.array([1, 0])}, "parents must form a tree, got a cycle"),
    "outside": ({"parents": np.array([-1, 7])}, "parents must be joint numbers below 2 or -1, got 7"),
    "rate 0": ({"frame_rate": 0.0}, "frame_rate must be positive, got 0.0"),
    "rate nan": ({"frame_rate": np.nan}, "frame_rate must be positive, got nan"),
    "rate text": ({"frame_rate": "fast"}, "frame_rate must be a number"),
    "clip": ({"clip": np.array([0, 0, 0, 5]), "clip_names": np.array(["x", "y"])}, "clip must be numbers below 2"),
    "clip shape": ({"clip": np.array([0]), "clip_names": np.array(["x"])}, "clip must be 4 integers"),
    "clip without names": ({"clip": np.zeros(4, int)}, "clip needs clip_names"),
    "feet": ({"feet": np.zeros((4, 2, 3), np.float32)}, "feet need the joints left_ankle and right_ankle"),
    "feet shape": ({"feet": np.zeros((3, 2, 3), np.float32)}, r"feet must be \(4, 2, 3\)"),
}


@pytest.mark.parametrize("case", BROKEN_NPZ)
def test_a_broken_npz_gives_one_clear_error(tmp_path: Path, case: str) -> None:
    changes, message = BROKEN_NPZ[case]
    path = packed(tmp_path / "a.npz", **changes)
    with pytest.raises(MotionFileError, match=message) as caught:
        read_npz(path, 0)
    assert str(caught.value).startswith(f"{path}: ")


def test_pickled_objects_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = packed(tmp_path / "a.npz", joint_names=np.array([Evil(), Evil()], dtype=object))
    with pytest.raises(MotionFileError, match=r"a\.npz: joint_names holds pickled objects"):
        read_npz(path)
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(MotionFileError, match=r"b\.npz: not a readable \.npz"):
        read_npz(tmp_path / "b.npz")
    assert not Path("evil-ran").exists()


def test_every_truncation_of_an_npz_is_an_error(tmp_path: Path) -> None:
    content = packed(tmp_path / "a.npz").read_bytes()
    for length in range(0, len(content), 7):
        with pytest.raises(MotionFileError, match=r"cut\.npz: "):
            read_npz(write(tmp_path / "cut.npz", content[:length]))


def test_a_damaged_npz_never_gives_another_error(tmp_path: Path) -> None:
    content = packed(tmp_path / "a.npz").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[random.integers(len(content))] ^= 1 << random.integers(8)
        with contextlib.suppress(MotionFileError):  # a flip may hit a byte that nobody needs
            read_npz(write(tmp_path / "damaged.npz", bytes(damaged)))


def with_member(path: Path, name: str, content: bytes) -> Path:
    packed(path, **{name: None})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", content)
    return path


def test_declared_sizes_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = io.BytesIO()
    shape = (10**12, 17, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    path = with_member(tmp_path / "a.npz", "positions", header.getvalue())
    with pytest.raises(MotionFileError, match=r"positions declares \(1000000000000, 17, 3\) float32 but holds 0 bytes"):
        read_npz(path)
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 16)
    path = with_member(tmp_path / "bomb.npz", "positions", bytes(1 << 20))
    assert path.stat().st_size < 1 << 13
    with pytest.raises(MotionFileError, match="positions unpacks to 1048576 bytes, more than 65536"):
        read_npz(path)
