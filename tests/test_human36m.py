"""Human3.6M in its three layouts, made from one made-up scene: each reader must find the scene again."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from posegeom import H36M_17, project
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.human36m import (
    KEPT,
    SIZES,
    read_h36m_cameras,
    read_h36m_fetch,
    read_h36m_mmpose,
    read_h36m_videopose3d,
)
from posegeom_models.data.samples import Sample

FOCAL, CENTER = np.array([1145.0, 1143.5]), np.array([512.5, 515.0])
K3, P2 = (-0.2, 0.24, -0.005), (-0.0009, -0.0014)
FRAMES = 8


def cameras() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """R and t (world to camera) of four cameras round the origin."""
    turns = Rotation.from_euler("yx", [(angle, 10) for angle in (20, 110, 200, 290)], degrees=True).as_matrix()
    upright = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    return {name: (turn @ upright, np.array([0.1, 0.2, 5.0])) for name, turn in zip(SIZES, turns, strict=True)}


def world(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (FRAMES, 32, 3))


def pixels(seen: np.ndarray, lens: bool) -> np.ndarray:
    """OpenCV's model, written out."""
    x, y = seen[..., 0] / seen[..., 2], seen[..., 1] / seen[..., 2]
    r = x**2 + y**2
    k1, k2, k3 = K3 if lens else (0, 0, 0)
    p1, p2 = P2 if lens else (0, 0)
    radial = 1 + k1 * r + k2 * r**2 + k3 * r**3
    u = x * radial + 2 * p1 * x * y + p2 * (r + 2 * x**2)
    v = y * radial + p1 * (r + 2 * y**2) + 2 * p2 * x * y
    return np.stack([u, v], -1) * FOCAL + CENTER


def seen_by(view: str, joints: np.ndarray) -> np.ndarray:
    rotation, translation = cameras()[view]
    return joints @ rotation.T + translation


def check(samples: list[Sample], truth: dict[tuple[str, str, int], np.ndarray], lens: bool, atol: float) -> None:
    """Joints are those of the scene, and the camera projects them to the points."""
    for sample in samples:
        joints = truth[sample.sequence, sample.view, sample.frame]
        np.testing.assert_allclose(sample.joints, joints, atol=atol)
        np.testing.assert_allclose(sample.points, pixels(joints, lens), atol=1e-3)
        landed = project(torch.from_numpy(sample.joints.astype(np.float64)), sample.camera)[0].numpy()
        np.testing.assert_allclose(landed, sample.points, atol=0.05)
        assert sample.skeleton is H36M_17
        assert sample.camera.size == SIZES[sample.view]


# --- VideoPose3D's pair


def pair(
    folder: Path, subjects: tuple[str, ...] = ("S1", "S9", "S11"), **changes: object
) -> tuple[Path, Path, dict[tuple[str, str, int], np.ndarray]]:
    solid: dict[str, dict[str, np.ndarray]] = {}
    flat: dict[str, dict[str, list[np.ndarray]]] = {}
    truth = {}
    for number, subject in enumerate(subjects):
        solid[subject], flat[subject] = {}, {}
        for action in ("Directions 1", "Photo"):
            joints = world(2 * number + len(action))
            solid[subject][action] = joints.astype(np.float32)
            flat[subject][action] = []
            for view in SIZES:
                seen = seen_by(view, joints[:, KEPT])
                # One frame more than there is motion capture, as in some videos.
                points = np.concatenate([pixels(seen, True), np.zeros((1, 17, 2))])
                flat[subject][action].append(points.astype(np.float32))
                for frame in range(FRAMES):
                    truth[f"{subject}/{action}", view, frame] = seen[frame]
    if "joints" in changes:
        solid["S9"]["Photo"] = changes["joints"]  # type: ignore[assignment]
    if "points" in changes:
        flat["S9"]["Photo"][1] = changes["points"]  # type: ignore[call-overload]
    metadata = {"num_joints": changes.get("num_joints", 17), "keypoints_symmetry": [[4, 5, 6], [1, 2, 3]]}
    np.savez_compressed(folder / "data_3d_h36m.npz", positions_3d=solid)
    np.savez_compressed(folder / "data_2d_h36m_gt.npz", positions_2d=flat, metadata=metadata)
    return folder / "data_3d_h36m.npz", folder / "data_2d_h36m_gt.npz", truth


def test_videopose3d_without_cameras_finds_them(tmp_path: Path) -> None:
    joints, points, truth = pair(tmp_path)
    samples = list(read_h36m_videopose3d(joints, points))
    assert len(samples) == 2 * 2 * 4 * FRAMES
    assert {sample.subject for sample in samples} == {"S9", "S11"}
    assert {sample.action for sample in samples} == {"Directions", "Photo"}
    check(samples, truth, True, 2e-3)


def mmpose_cameras(path: Path, subjects: tuple[str, ...] = ("S1", "S9", "S11")) -> Path:
    held = {}
    for subject in subjects:
        for view, (rotation, translation) in cameras().items():
            held[subject, view] = {
                "R": rotation.T, "T": (-rotation.T @ translation)[:, None], "f": FOCAL[:, None], "c": CENTER[:, None],
                "k": np.array(K3)[:, None], "p": np.array(P2)[:, None],
                "w": SIZES[view][1], "h": SIZES[view][0], "name": f"camera{view}", "id": view,
            }  # fmt: skip
    path.write_bytes(pickle.dumps(held, protocol=3))
    return path


def test_videopose3d_with_cameras_uses_them(tmp_path: Path) -> None:
    joints, points, truth = pair(tmp_path)
    given = mmpose_cameras(tmp_path / "cameras.pkl")
    samples = list(read_h36m_videopose3d(joints, points, "test", step=3, cameras=given))
    assert sorted({sample.frame for sample in samples}) == [0, 3, 6]
    check(samples, truth, True, 1e-5)
    short = mmpose_cameras(tmp_path / "short.pkl", ("S1",))
    with pytest.raises(MotionFileError, match=r"short\.pkl: has no camera 54138969 of S9"):
        list(read_h36m_videopose3d(joints, points, cameras=short))


def nan_joints() -> np.ndarray:
    joints = world(0)
    joints[5, 3, 1] = np.nan
    return joints


BROKEN_PAIRS: dict[str, tuple[dict[str, object], str]] = {
    "NaN": ({"joints": nan_joints()}, r"data_3d_h36m\.npz: positions_3d\['S9'\]\['Photo'\] must be finite, got nan"),
    "17 joints": (
        {"joints": np.ones((FRAMES, 17, 3))},
        r"data_3d_h36m\.npz: .* must be \(N, 32, 3\), got \(8, 17, 3\)",
    ),
    "no frames": ({"joints": np.ones((0, 32, 3))}, r"data_3d_h36m\.npz: .* holds nothing"),
    "fewer points": ({"points": np.ones((3, 17, 2))}, r"data_2d_h36m_gt\.npz: .* must hold 8 frames, got 3"),
    "16 points": ({"points": np.ones((FRAMES, 16, 2))}, r"data_2d_h36m_gt\.npz: .* must be \(N, 17, 2\)"),
    "other joints": ({"num_joints": 16}, r"data_2d_h36m_gt\.npz: must hold 17 joints, got 16"),
}


@pytest.mark.parametrize("case", BROKEN_PAIRS)
def test_a_broken_pair_gives_one_clear_error(tmp_path: Path, case: str) -> None:
    changes, message = BROKEN_PAIRS[case]
    joints, points, _ = pair(tmp_path, **changes)
    with pytest.raises(MotionFileError, match=message):
        list(read_h36m_videopose3d(joints, points))
    if case not in ("other joints",):
        samples = read_h36m_videopose3d(joints, points, skip_broken=True)
        with pytest.warns(UserWarning, match=r"1 of 2 files skipped"):
            assert {sample.subject for sample in samples} == {"S11"}


def test_points_of_something_else_are_refused(tmp_path: Path) -> None:
    joints, _, _ = pair(tmp_path)
    random = np.random.default_rng(0)
    views = {name: [random.uniform(0, 1000, (FRAMES, 17, 2)) for _ in SIZES] for name in ("Directions 1", "Photo")}
    np.savez(tmp_path / "other.npz", positions_2d={"S9": views, "S11": views})
    with pytest.raises(MotionFileError, match=r"other\.npz: .*(no camera|left and right)"):
        list(read_h36m_videopose3d(joints, tmp_path / "other.npz"))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch evil-ran",))


def test_pickles_in_the_archives_are_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, points, _ = pair(tmp_path)
    np.savez(tmp_path / "evil.npz", positions_3d={"S9": Evil()})
    with pytest.raises(MotionFileError, match=r"evil\.npz: the pickle names 'posix\.system'"):
        list(read_h36m_videopose3d(tmp_path / "evil.npz", points))
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({("S9", "54138969"): Evil()}))
    with pytest.raises(MotionFileError, match=r"evil\.pkl: the pickle names"):
        read_h36m_cameras(tmp_path / "evil.pkl")
    assert not Path("evil-ran").exists()


# --- h36m-fetch


NUMBERS = [1, 4, 9, 14, 20, 28, 40, 64]


def fetched(folder: Path, subject: str = "S9", **changes: object) -> dict[tuple[str, str, int], np.ndarray]:
    h5py = pytest.importorskip("h5py")
    truth, rows = {}, []
    joints = world(0)
    for view in SIZES:
        seen = seen_by(view, joints)
        for row, number in enumerate(NUMBERS):
            rows.append((pixels(seen[row], False), 1000 * seen[row], number, int(view)))
            truth[f"{subject}/Directions-1", view, number - 1] = seen[row][list(KEPT)]
    path = folder / subject / "Directions-1" / "annot.h5"
    path.parent.mkdir(parents=True)
    arrays = {
        "pose/2d": np.stack([row[0] for row in rows]),
        "pose/3d": np.stack([row[1] for row in rows]),
        "pose/3d-univ": 0.9 * np.stack([row[1] for row in rows]),
        "frame": np.array([row[2] for row in rows]),
        "camera": np.array([row[3] for row in rows]),
        "subject": np.full(len(rows), int(subject[1:])),
        "action": np.full(len(rows), 2),
        "subaction": np.full(len(rows), 1),
    }
    for view in SIZES:
        arrays[f"intrinsics/{view}"] = np.array([FOCAL[0], CENTER[0], FOCAL[1], CENTER[1]])
        arrays[f"intrinsics-univ/{view}"] = arrays[f"intrinsics/{view}"]
    with h5py.File(path, "w") as file:
        for name, array in (arrays | changes).items():
            if array is not None:
                file.create_dataset(name, data=array)
    return truth


def test_h36m_fetch_is_read(tmp_path: Path) -> None:
    truth = fetched(tmp_path)
    samples = list(read_h36m_fetch(tmp_path))
    assert len(samples) == 4 * FRAMES
    check(samples, truth, False, 1e-6)
    first = samples[0]
    assert first.image == (tmp_path / "S9/Directions-1/imageSequence/54138969/img_000001.jpg", None)
    assert (first.frame, first.subject, first.action) == (0, "S9", "Directions")
    small = next(iter(read_h36m_fetch(tmp_path, universal=True)))
    np.testing.assert_allclose(small.joints, 0.9 * first.joints, rtol=1e-5)
    with pytest.raises(FileNotFoundError, match=r"no annot\.h5 of Human3\.6M; get the videos"):
        read_h36m_fetch(tmp_path, "train")


BROKEN_FETCHED: dict[str, tuple[dict[str, object], str]] = {
    "NaN": ({"pose/3d": np.full((32, 32, 3), np.nan)}, "pose/3d must be finite, got nan"),
    "17 joints": ({"pose/3d": np.ones((32, 17, 3))}, r"pose/3d must be \(32, 32, 3\), got \(32, 17, 3\)"),
    "no frames": ({"pose/2d": np.ones((0, 32, 2))}, "pose/2d holds nothing"),
    "no camera": ({"intrinsics/54138969": None}, "has no intrinsics/54138969, of which frame 1 is"),
    "no 3D": ({"pose/3d": None}, "the file has no pose/3d"),
    "frames": ({"frame": np.arange(5)}, r"frame must be \(32,\), got \(5,\)"),
    "focal": ({"intrinsics/54138969": np.zeros(4)}, "intrinsics/54138969 must be f_x c_x f_y c_y"),
}


@pytest.mark.parametrize("case", BROKEN_FETCHED)
def test_a_broken_annot_h5_gives_one_clear_error(tmp_path: Path, case: str) -> None:
    changes, message = BROKEN_FETCHED[case]
    fetched(tmp_path, **changes)
    with pytest.raises(MotionFileError, match=message) as caught:
        list(read_h36m_fetch(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path / 'S9/Directions-1/annot.h5'}: ")


def test_a_truncated_annot_h5_is_skipped_and_counted(tmp_path: Path) -> None:
    fetched(tmp_path)
    path = tmp_path / "S9" / "Directions-2" / "annot.h5"
    path.parent.mkdir()
    content = (tmp_path / "S9/Directions-1/annot.h5").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(MotionFileError, match=r"Directions-2/annot\.h5: not a readable HDF5 file \(truncated"):
        list(read_h36m_fetch(tmp_path))
    with pytest.warns(UserWarning, match=r"1 of 2 files skipped: .*Directions-2"):
        assert len(list(read_h36m_fetch(tmp_path, skip_broken=True))) == 4 * FRAMES


# --- mmpose


def rows(path: Path, **changes: object) -> dict[tuple[str, str, int], np.ndarray]:
    truth, names, flat, solid = {}, [], [], []
    for subject in ("S9", "S11"):
        joints = world(len(subject))[:, KEPT]
        for view in SIZES:
            seen = seen_by(view, joints)
            for frame in range(FRAMES):
                name = f"{subject}_SittingDown_2.{view}"
                names.append(f"{subject}/{name}/{name}_{5 * frame + 1:06d}.jpg")
                flat.append(np.concatenate([pixels(seen[frame], True), np.ones((17, 1))], -1))
                solid.append(np.concatenate([seen[frame], np.ones((17, 1))], -1))
                truth[f"{subject}/SittingDown_2", view, 5 * frame] = seen[frame]
    arrays: dict[str, object] = {
        "imgname": np.array(names), "part": np.stack(flat), "S": np.stack(solid),
        "center": np.full((len(names), 2), 500.0), "scale": np.full(len(names), 2.0),
    }  # fmt: skip
    np.savez(path, **{key: value for key, value in (arrays | changes).items() if value is not None})  # type: ignore[arg-type]
    return truth


def test_mmpose_is_read(tmp_path: Path) -> None:
    truth = rows(tmp_path / "h36m_test.npz")
    given = mmpose_cameras(tmp_path / "cameras.pkl")
    samples = list(read_h36m_mmpose(tmp_path / "h36m_test.npz", tmp_path / "images", cameras=given))
    assert len(samples) == 2 * 4 * FRAMES
    check(samples, truth, True, 1e-6)
    name = "S9_SittingDown_2.54138969"
    assert samples[1].image == (tmp_path / "images" / "S9" / name / f"{name}_000006.jpg", None)
    assert samples[1].box == (300, 300, 700, 700)
    assert samples[1].action == "SittingDown"
    fitted = next(iter(read_h36m_mmpose(tmp_path / "h36m_test.npz", tmp_path)))
    np.testing.assert_allclose(fitted.camera.focal, FOCAL, rtol=0.05)  # without the lens, about


BROKEN_ROWS: dict[str, tuple[dict[str, object], str]] = {
    "NaN": ({"S": np.full((64, 17, 4), np.nan)}, "S must be finite"),
    "16 joints": ({"part": np.ones((64, 16, 3))}, r"part must be \(N, 17, 3\), got \(64, 16, 3\)"),
    "no rows": ({"part": np.ones((0, 17, 3))}, "part holds nothing"),
    "names": ({"imgname": np.array(["a.jpg"] * 64)}, "imgname must be S1/"),
    "outside": ({"imgname": np.array(["../S9_A_1.54138969_000001.jpg"] * 64)}, "imgname must be S1/"),
    "no 3D": ({"S": None}, "the file has no S"),
    "objects": ({"imgname": np.array([None] * 64)}, "imgname holds pickled objects"),
}


@pytest.mark.parametrize("case", BROKEN_ROWS)
def test_broken_rows_give_one_clear_error(tmp_path: Path, case: str) -> None:
    changes, message = BROKEN_ROWS[case]
    rows(tmp_path / "a.npz", **changes)
    with pytest.raises(MotionFileError, match=message) as caught:
        list(read_h36m_mmpose(tmp_path / "a.npz", tmp_path))
    assert str(caught.value).startswith(f"{tmp_path / 'a.npz'}: ")


def test_missing_data_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.npz: no Human3\.6M here; get the videos and poses from vision"):
        read_h36m_mmpose(tmp_path / "a.npz", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"b\.npz: no Human3\.6M here"):
        read_h36m_videopose3d(tmp_path / "b.npz", tmp_path / "c.npz")
    with pytest.raises(FileNotFoundError, match="none: no Human3"):
        read_h36m_fetch(tmp_path / "none")
