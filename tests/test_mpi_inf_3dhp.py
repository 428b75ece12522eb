"""MPI-INF-3DHP's training and test files, made from scenes whose cameras the test knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from scipy.spatial.transform import Rotation

from posegeom import MPI_INF_3DHP_17, MPI_INF_3DHP_28
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.mpi_inf_3dhp import read_3dhp_test, read_3dhp_train, read_calibration

FRAMES = 6
TO_17 = [7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6]  # the official list, from 0
CALIBRATION = """Skeletool Camera Calibration File V1.0
name          {name}
  sensor      10 10
  size        2048 2048
  animated    0
  intrinsic   1497.693 0 1024.704 0 0 1497.103 1051.394 0 0 0 1 0 0 0 0 1
  extrinsic   {extrinsic}
  radial      0
"""


def extrinsic(view: int) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("y", 25 * view, degrees=True).as_matrix()
    pose[:3, 3] = (100 * view, -200, 3500)
    return pose


def column(arrays: list[np.ndarray]) -> np.ndarray:
    cells = np.empty((len(arrays), 1), object)
    for number, array in enumerate(arrays):
        cells[number, 0] = array
    return cells


def world() -> np.ndarray:
    return np.random.default_rng(0).uniform(-900, 900, (FRAMES, 28, 3))


def train(root: Path, subject: str = "S1", views: int = 14, **changes: object) -> Path:
    folder = root / subject / "Seq2"
    folder.mkdir(parents=True)
    blocks = [CALIBRATION.format(name=view, extrinsic=" ".join(map(repr, map(float, extrinsic(view).ravel()))))
              for view in range(views)]  # fmt: skip
    (folder / "camera.calibration").write_text(blocks[0] + "".join(block.split("\n", 1)[1] for block in blocks[1:]))
    flat, solid = [], []
    for view in range(14):
        seen = world() @ extrinsic(view)[:3, :3].T + extrinsic(view)[:3, 3]
        u = 1497.693 * seen[..., 0] / seen[..., 2] + 1024.704
        v = 1497.103 * seen[..., 1] / seen[..., 2] + 1051.394
        flat.append(np.stack([u, v], -1).reshape(FRAMES, 56))
        solid.append(seen.reshape(FRAMES, 84))
    held = {
        "annot2": column(flat), "annot3": column(solid), "univ_annot3": column([0.95 * array for array in solid]),
        "cameras": np.arange(14)[None], "frames": np.arange(FRAMES)[:, None],
    }  # fmt: skip
    scipy.io.savemat(folder / "annot.mat", held | changes)
    return folder


def test_training_joints_project_to_the_points(tmp_path: Path) -> None:
    folder = train(tmp_path)
    samples = list(read_3dhp_train(tmp_path, cameras=(0, 8), step=2))
    assert [(sample.view, sample.frame) for sample in samples] == [(v, f) for v in "08" for f in (0, 2, 4)]
    for sample in samples:
        pose = extrinsic(int(sample.view))
        seen = (world()[sample.frame] @ pose[:3, :3].T + pose[:3, 3]) / 1000
        np.testing.assert_allclose(sample.joints, seen[TO_17], atol=1e-6)
        np.testing.assert_allclose(sample.rotation, pose[:3, :3])
        np.testing.assert_allclose(sample.translation, pose[:3, 3] / 1000)
        (fx, fy), (cx, cy) = sample.camera.focal, sample.camera.center
        landed = sample.joints[:, :2] / sample.joints[:, 2:] * (fx, fy) + (cx, cy)
        np.testing.assert_allclose(landed, sample.points, atol=1e-2)
        assert sample.camera.size == (2048, 2048)
        assert sample.skeleton is MPI_INF_3DHP_17
    assert samples[4].image == (folder / "imageSequence" / "video_8.avi", 2)
    assert samples[4].sequence == "S1/Seq2"
    whole = next(iter(read_3dhp_train(tmp_path, skeleton=MPI_INF_3DHP_28)))
    np.testing.assert_array_equal(whole.joints[TO_17], samples[0].joints)
    small = next(iter(read_3dhp_train(tmp_path, universal=True)))
    np.testing.assert_allclose(small.joints, 0.95 * samples[0].joints, rtol=1e-5)


def lost() -> np.ndarray:
    array = np.ones((FRAMES, 84))
    array[2, 5] = np.nan
    return column([array] * 14)


BROKEN_TRAIN: dict[str, tuple[dict[str, object], str]] = {
    "NaN": ({"annot3": lost()}, r"annot3\{1\} must be finite, got nan at \(2, 5\)"),
    "17 joints": ({"annot3": column([np.ones((FRAMES, 51))] * 14)}, r"annot3\{1\} must be \(6, 84\), got \(6, 51\)"),
    "frames": ({"annot3": column([np.ones((5, 84))] * 14)}, r"annot3\{1\} must be \(6, 84\), got \(5, 84\)"),
    "no frames": ({"annot2": column([np.ones((0, 56))] * 14)}, r"annot2\{1\} holds nothing"),
    "no cells": ({"annot2": np.ones((14, 56))}, "annot2 must be a column of cells"),
    "cameras": ({"annot2": column([np.ones((FRAMES, 56))] * 3)}, r"has no camera 4 \(of 3 annotated, 14 calibrated\)"),
}


@pytest.mark.parametrize("case", BROKEN_TRAIN)
def test_broken_annotations_give_one_clear_error(tmp_path: Path, case: str) -> None:
    changes, message = BROKEN_TRAIN[case]
    folder = train(tmp_path, **changes)
    with pytest.raises(MotionFileError, match=message) as caught:
        list(read_3dhp_train(tmp_path))
    assert str(caught.value).startswith(f"{folder / 'annot.mat'}: ")


def test_broken_calibrations_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "camera.calibration"
    good = CALIBRATION.format(name=0, extrinsic=" ".join(["1"] * 16))
    for old, new, message in (
        ("1497.693", "inf", r":6: intrinsic must hold finite numbers, got 'inf'"),
        ("1497.693 ", "", r":6: intrinsic must have 16 values, got 15"),
        ("1497.693", "-5", r"the camera above: "),
        ("  size        2048 2048\n", "", r"camera 0 has no size"),
        ("name          0\n", "", r":4?\d*: size comes before the name of a camera"),
        (good, "Skeletool\n", "holds no camera"),
    ):
        path.write_text(good.replace(old, new))
        with pytest.raises(MotionFileError, match=message):
            read_calibration(path)


def test_a_truncated_annot_mat_is_skipped_and_counted(tmp_path: Path) -> None:
    train(tmp_path)
    folder = train(tmp_path, "S2")
    content = (folder / "annot.mat").read_bytes()
    (folder / "annot.mat").write_bytes(content[: len(content) // 2])
    with pytest.raises(MotionFileError, match=r"S2/Seq2/annot\.mat: not a readable \.mat file \(truncated"):
        list(read_3dhp_train(tmp_path))
    with pytest.warns(UserWarning, match=r"MPI-INF-3DHP: 1 of 2 files skipped"):
        assert {sample.subject for sample in read_3dhp_train(tmp_path, skip_broken=True)} == {"S1"}
    assert list(read_3dhp_train(tmp_path, ["S1"], cameras=(0,)))
    with pytest.raises(ValueError, match=r"subjects must be among S1, .*got 'S9'"):
        read_3dhp_train(tmp_path, ["S9"])


def recording(root: Path, name: str = "TS1", **changes: object) -> Path:
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(1)
    path = root / name / "annot_data.mat"
    path.parent.mkdir(parents=True)
    seen = random.uniform(-800, 800, (FRAMES, 1, 17, 3)) + np.array([0, 0, 3500])
    center = np.array([960.0, 540.0]) if name in ("TS5", "TS6") else np.array([1024.0, 1030.0])
    arrays = {
        "annot2": seen[..., :2] / seen[..., 2:] * 1500 + center,
        "annot3": seen,
        "univ_annot3": 0.9 * seen,
        "valid_frame": np.array([[1.0], [0], [1], [1], [0], [1]]),
        "activity_annotation": np.array([[1.0], [1], [2], [7], [7], [6]]),
    }
    arrays["annot2"][1] = np.nan  # frames that are not valid may hold anything
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, array in (arrays | changes).items():
            file.create_dataset(key, data=array)
    return path


@pytest.mark.parametrize(("name", "size", "center"), [("TS1", (2048, 2048), 1030.0), ("TS5", (1080, 1920), 540.0)])
def test_valid_test_frames_are_read_and_their_camera_found(
    tmp_path: Path, name: str, size: tuple[int, int], center: float
) -> None:
    path = recording(tmp_path, name)
    samples = list(read_3dhp_test(tmp_path, [name]))
    assert [sample.frame for sample in samples] == [0, 2, 3, 5]
    assert [sample.action for sample in samples] == ["Standing/Walking", "Exercising", "Miscellaneous", "Sports"]
    assert samples[1].image == (path.parent / "imageSequence" / "img_000003.jpg", None)
    for sample in samples:
        assert sample.camera.size == size
        np.testing.assert_allclose(sample.camera.focal, (1500, 1500))
        np.testing.assert_allclose(sample.camera.center[1], center)
        landed = sample.joints[:, :2] / sample.joints[:, 2:] * 1500 + sample.camera.center
        np.testing.assert_allclose(landed, sample.points, atol=1e-2)
    universal = list(read_3dhp_test(tmp_path, [name], universal=True))
    np.testing.assert_allclose(universal[0].joints, 0.9 * samples[0].joints, rtol=1e-5)


BROKEN_TEST: dict[str, tuple[dict[str, object], str]] = {
    "NaN": ({"annot3": np.full((FRAMES, 1, 17, 3), np.nan)}, "annot3 of the valid frames must be finite"),
    "28 joints": ({"annot3": np.ones((FRAMES, 1, 28, 3))}, r"annot3 must be \(6, 1, 17, 3\), got \(6, 1, 28, 3\)"),
    "none valid": ({"valid_frame": np.zeros((FRAMES, 1))}, "no frame is valid"),
    "behind": ({"annot3": -np.ones((FRAMES, 1, 17, 3))}, "joints lie behind the camera"),
    "marks": ({"valid_frame": np.ones((5, 1))}, r"valid_frame must be \(6,\), got \(5,\)"),
}


@pytest.mark.parametrize("case", BROKEN_TEST)
def test_broken_test_recordings_give_one_clear_error(tmp_path: Path, case: str) -> None:
    changes, message = BROKEN_TEST[case]
    path = recording(tmp_path, **changes)
    with pytest.raises(MotionFileError, match=message) as caught:
        list(read_3dhp_test(tmp_path, ["TS1"]))
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_and_truncated_test_recordings(tmp_path: Path) -> None:
    path = recording(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"TS2/annot_data\.mat: no MPI-INF-3DHP here; get mpi_inf_3dhp"):
        read_3dhp_test(tmp_path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(MotionFileError, match=r"annot_data\.mat: not a readable HDF5 file \(truncated"):
        list(read_3dhp_test(tmp_path, ["TS1"]))
    with pytest.raises(ValueError, match="recordings must be among TS1"):
        read_3dhp_test(tmp_path, ["S1"])
    with pytest.raises(FileNotFoundError, match="no MPI-INF-3DHP here"):
        read_3dhp_train(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no annot\.mat of MPI-INF-3DHP"):
        read_3dhp_train(tmp_path)
