"""3DPW's pickles, written as Python 2 wrote them, against cameras and joints that the test makes up."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posegeom import SMPL_24
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.threedpw import read_3dpw

K = np.array([[1961.0, 0, 540.0], [0, 1969.0, 960.0], [0, 0, 1]])


def sequence(name: str = "downtown_walking_00", people: int = 2, frames: int = 5, **changes: object) -> dict[str, Any]:
    random = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(random.normal(0, 0.1, (frames, 3))).as_matrix()
    poses[:, :3, 3] = (0.1, 0.2, 4.0)
    held = {
        "sequence": name,
        "betas": [random.normal(size=300) for _ in range(people)],
        "poses": [random.normal(size=(frames, 72)) for _ in range(people)],
        "genders": ["m", "f"][:people],
        "texture_maps": [None] * people,
        "poses2d": [np.zeros((frames, 3, 18)) for _ in range(people)],
        "jointPositions": [random.uniform(-1, 1, (frames, 72)) for _ in range(people)],
        "img_frame_ids": np.arange(frames),
        "cam_poses": poses,
        "campose_valid": [np.ones(frames, np.int64) for _ in range(people)],
        "cam_intrinsics": K,
    }
    held["campose_valid"][0][2] = 0
    return {key: value for key, value in (held | changes).items() if value is not None}


def write(root: Path, held: object, split: str = "test", name: str = "downtown_walking_00") -> Path:
    path = root / "sequenceFiles" / split / f"{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(held, protocol=2))
    return path


def test_joints_are_in_the_cameras_axes_and_project_to_the_points(tmp_path: Path) -> None:
    held = sequence()
    write(tmp_path, held)
    samples = list(read_3dpw(tmp_path))
    assert [(sample.frame, sample.subject) for sample in samples] == [
        (0, "0"), (0, "1"), (1, "0"), (1, "1"), (2, "1"), (3, "0"), (3, "1"), (4, "0"), (4, "1"),
    ]  # fmt: skip
    for sample in samples:
        world = held["jointPositions"][int(sample.subject)][sample.frame].reshape(24, 3)
        pose = held["cam_poses"][sample.frame]
        for number, joint in enumerate(world):
            seen = pose @ [*joint, 1.0]
            np.testing.assert_allclose(sample.joints[number], seen[:3], atol=1e-6)
            pixel = K @ seen[:3]
            np.testing.assert_allclose(sample.points[number], pixel[:2] / pixel[2], atol=1e-3)
        assert sample.skeleton is SMPL_24
        assert sample.camera.size == (1920, 1080)
        assert sample.action == "walking"
    expected = tmp_path / "imageFiles" / "downtown_walking_00" / "image_00003.jpg"
    assert samples[5].image == (expected, None)


def test_splits_steps_and_single_people(tmp_path: Path) -> None:
    for split, people in (("train", 1), ("validation", 2), ("test", 2)):
        name = f"outdoors_{split}_00"
        write(tmp_path, sequence(name, people, 4), split, name)
    assert {sample.sequence for sample in read_3dpw(tmp_path, "train")} == {"outdoors_train_00"}
    assert len({sample.sequence for sample in read_3dpw(tmp_path, "all")}) == 3
    assert [sample.frame for sample in read_3dpw(tmp_path, "all", step=3, single_person=True)] == [0, 3]
    with pytest.raises(ValueError, match="step must be at least 1"):
        read_3dpw(tmp_path, step=0)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (Path("evil-ran"),))


def nan(frames: int = 5) -> list[np.ndarray]:
    joints = np.ones((frames, 72))
    joints[3, 7] = np.nan
    return [joints, np.ones((frames, 72))]


BROKEN: dict[str, tuple[object, str]] = {
    "no dictionary": ([1, 2], "not a sequence of 3DPW"),
    "nothing in it": ({}, "the file has no array cam_intrinsics"),
    "NaN joints": (sequence(jointPositions=nan()), r"jointPositions\[0\] must be finite, got nan at \(3, 7\)"),
    "wrong joints": (sequence(jointPositions=[np.ones((5, 66))] * 2), r"must be \(5, 72\), got \(5, 66\)"),
    "no frames": (
        sequence(cam_poses=np.zeros((0, 4, 4)), jointPositions=[np.zeros((0, 72))] * 2),
        r"cam_poses holds nothing, got \(0, 4, 4\)",
    ),
    "no people": (sequence(jointPositions=[]), "jointPositions must be a list"),
    "other frames": (sequence(campose_valid=[np.ones(4)] * 2), r"campose_valid\[0\] must be \(5,\), got \(4,\)"),
    "texts": (sequence(cam_intrinsics=np.array([["a"] * 3] * 3)), "cam_intrinsics must hold numbers"),
    "a path": (sequence("../../etc/passwd"), "sequence must be a name"),
    "focal": (sequence(cam_intrinsics=np.zeros((3, 3))), "cam_intrinsics must be"),
    "code": (sequence(poses=[Evil()]), "could run code and is never loaded"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_sequence_gives_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    held, message = BROKEN[case]
    path = write(tmp_path, held)
    with pytest.raises(MotionFileError, match=message) as caught:
        list(read_3dpw(tmp_path))
    assert str(caught.value).startswith(f"{path}: ")
    write(tmp_path, sequence("z", 1), name="z")
    samples = read_3dpw(tmp_path, skip_broken=True)
    with pytest.warns(UserWarning, match="3DPW: 1 of 2 files skipped"):
        assert {sample.sequence for sample in samples} == {"z"}
    assert not Path("evil-ran").exists()


def test_missing_data_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"test: no 3DPW here; get sequenceFiles\.zip .*, and put"):
        read_3dpw(tmp_path)
    (tmp_path / "sequenceFiles" / "test").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no sequence of 3DPW here"):
        read_3dpw(tmp_path)
