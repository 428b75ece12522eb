"""MADS, against cameras that the test makes up."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from posegeom_models.data.files import MotionFileError
from posegeom_models.data.mads import MADS_15, MADS_19, read_mads

ANGLE = 0.6
KK = np.array([[1000.0, 0, 510], [0, 1010.0, 380], [0, 0, 1]])


def poses(joints: int = 15) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    frames = [random.uniform(-800, 800, (joints, 3)) for _ in range(6)]
    frames[2] = np.full((joints, 3), np.nan)  # lost by the motion capture
    return frames


def cells(frames: list[np.ndarray]) -> np.ndarray:
    row = np.empty((1, len(frames)), object)
    for number, frame in enumerate(frames):
        row[0, number] = frame
    return row


def write(root: Path, frames: list[np.ndarray], cameras: int = 0, **changes: object) -> Path:
    folder = root / "Kata"
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / "Kata_F2_GT.mat", {"GTpose2": cells(frames)})
    for view in range(cameras):
        held = {
            "KK": KK, "kc": np.zeros((5, 1)), "om_ext": np.array([[0.0], [ANGLE * view], [0.0]]),
            "T_ext": np.array([[100.0], [200.0], [4000.0]]),
        }  # fmt: skip
        scipy.io.savemat(folder / f"Calib_Cam{view}.mat", held | changes)
    return folder


def test_each_camera_sees_each_frame_that_was_not_lost(tmp_path: Path) -> None:
    folder = write(tmp_path, poses(), 3)
    samples = list(read_mads(tmp_path, views=(0, 2)))
    assert [(sample.view, sample.frame) for sample in samples] == [(v, f) for v in "02" for f in (0, 1, 3, 4, 5)]
    for sample in samples:
        turn = ANGLE * int(sample.view)
        about_y = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
        seen = poses()[sample.frame] @ np.array(about_y).T / 1000 + (0.1, 0.2, 4.0)
        np.testing.assert_allclose(sample.joints, seen, atol=1e-6)
        landed = seen @ KK.T
        np.testing.assert_allclose(sample.points, landed[:, :2] / landed[:, 2:], atol=1e-3)
        assert sample.skeleton is MADS_15
        assert sample.action == "Kata"
    assert samples[-1].image == (folder / "Kata_F2_C2.avi", 5)


def test_without_calibration_poses_come_once_and_upright(tmp_path: Path) -> None:
    write(tmp_path, poses(19))
    samples = list(read_mads(tmp_path, step=2))
    assert [sample.frame for sample in samples] == [0, 4]
    np.testing.assert_allclose(samples[0].joints, poses(19)[0] / 1000 * (1, -1, -1), atol=1e-6)
    assert samples[0].skeleton is MADS_19
    assert samples[0].camera is None
    assert samples[0].points is None


def test_the_skeletons_are_trees_with_sides() -> None:
    for skeleton in (MADS_15, MADS_19):
        assert skeleton.joints[skeleton.root] == "neck"
        sides = {"left": "right", "right": "left"}
        for joint, other in enumerate(skeleton.mirror):
            side, *rest = skeleton.joints[joint].split("_")
            assert skeleton.joints[other] == "_".join([sides.get(side, side), *rest])
    chain = ["left_foot", "left_ankle", "left_knee", "left_hip", "pelvis", "neck"]
    for child, parent in itertools.pairwise(chain):
        assert MADS_19.joints[MADS_19.parents[MADS_19.index(child)]] == parent


@pytest.mark.parametrize(
    ("frames", "changes", "message"),
    [
        ([np.ones((17, 3))], {}, r"GTpose2 must hold 15 or 19 joints, got \(17, 3\)"),
        ([np.ones((15, 3)), np.ones((19, 3))], {}, r"GTpose2\{2\} must be \(15, 3\), got \(19, 3\)"),
        ([np.full((15, 3), np.nan)] * 3, {}, "GTpose2 holds no frame without NaN"),
        ([], {}, "GTpose2 must be a row of cells, one per frame"),
        ([np.ones((15, 3))], {"KK": np.zeros((3, 3))}, r"Calib_Cam0\.mat: focal must be > 0"),
        ([np.ones((15, 3))], {"T_ext": np.full(3, np.inf)}, r"Calib_Cam0\.mat: T_ext must be finite"),
        ([np.ones((15, 3))], {"kc": np.ones(4)}, r"Calib_Cam0\.mat: kc must be \(5,\), got \(4,\)"),
    ],
)
def test_broken_recordings_give_one_clear_error(
    tmp_path: Path, frames: list[np.ndarray], changes: dict[str, object], message: str
) -> None:
    write(tmp_path, frames, 1, **changes)
    with pytest.raises(MotionFileError, match=message):
        list(read_mads(tmp_path))


def test_missing_data_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*_GT\.mat of MADS here; get MADS_multiview\.zip"):
        read_mads(tmp_path)
    with pytest.raises(FileNotFoundError, match="none: no MADS here"):
        read_mads(tmp_path / "none")
