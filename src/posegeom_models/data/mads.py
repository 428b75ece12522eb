"""MADS: martial arts, dancing and sports, with motion capture in MATLAB files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from posegeom.camera import PerspectiveCamera
from posegeom.skeleton import Skeleton
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.matlab import read_mat
from posegeom_models.data.samples import Array, FrameReference, Part, Protocol, Sample, Samples, check_array, check_step


def _skeleton(name: str, joints: str, parents: tuple[int, ...]) -> Skeleton:
    names = tuple(joints.split())
    other = {"left": "right", "right": "left"}
    mirror = tuple(
        names.index(f"{other[joint.split('_')[0]]}_{joint.split('_')[1]}") if joint.split("_")[0] in other else number
        for number, joint in enumerate(names)
    )
    return Skeleton(name, names, parents, mirror)


MADS_15 = _skeleton(
    "MADS_15",
    "neck pelvis left_hip left_knee left_ankle right_hip right_knee right_ankle "
    "left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist head",
    (-1, 0, 1, 2, 3, 1, 5, 6, 0, 8, 9, 0, 11, 12, 0),
)
"""The joints of the recordings with several cameras, as a tree from the neck."""

MADS_19 = _skeleton(
    "MADS_19",
    "neck pelvis left_hip left_knee left_ankle left_foot right_hip right_knee right_ankle right_foot "
    "left_shoulder left_elbow left_wrist left_hand right_shoulder right_elbow right_wrist right_hand head",
    (-1, 0, 1, 2, 3, 4, 1, 6, 7, 8, 0, 10, 11, 12, 0, 14, 15, 16, 0),
)
"""The joints of the recordings with a depth camera."""

ACTIONS = ("HipHop", "Jazz", "Kata", "Sports", "Taichi")

PROTOCOL = Protocol(
    source="MADS",
    skeleton=MADS_15,
    train=ACTIONS,
    validation=(),
    test=(),
    frame_rate=15.0,
    train_step=1,
    test_step=None,
    scored=(),
    obtain="MADS_multiview.zip or MADS_depth.zip from visal.cs.cityu.edu.hk/research/mads",
    layout="Kata/Kata_F2_GT.mat with Kata/Calib_Cam0.mat and Kata/Kata_F2_C0.avi below it",
)
"""000 takes its unpaired 3D poses from MADS (and CMU's motions); nothing is tested on it."""

SIZE = (768, 1024)
"""(height, width) of the pictures of the several cameras."""


def read_mads(
    root: str | Path, step: int = 1, views: tuple[int, ...] = (0, 1, 2), skip_broken: bool = False
) -> Samples:
    """MADS: each recording as each of its cameras sees it, or once and without a camera where there is no calibration.

    Frames that the motion capture lost (NaN) are left out. Poses without a camera are turned so that their y, which
    points up, becomes −y, and z becomes −z: upright in the axes of a camera, but at no place before it.

    Args:
        root: folder with the actions' folders (multi_view_data or depth_data).
        step: take every how many-th frame.
        views: cameras wanted.
        skip_broken: see `Samples`.

    Raises:
        FileNotFoundError: nothing there.
        MotionFileError: (while reading) a file is broken.
    """
    check_step(step)
    root = Path(root)
    PROTOCOL.check_there(root)
    parts = [
        Part(path, partial(_read, path, step, views))
        for action in ACTIONS
        for path in sorted((root / action).glob("*_GT.mat"))
    ]
    if not parts:
        raise FileNotFoundError(f"{root}: no *_GT.mat of MADS here; get {PROTOCOL.obtain}, and put {PROTOCOL.layout}")
    return Samples(PROTOCOL, parts, skip_broken)


def _read(path: Path, step: int, views: tuple[int, ...]) -> Iterator[Sample]:
    cells = read_mat(path, ["GTpose2"])["GTpose2"]
    if cells.dtype != object or cells.ndim != 2 or cells.size == 0:
        raise MotionFileError(f"{path}: GTpose2 must be a row of cells, one per frame, got {cells.shape} {cells.dtype}")
    frames = [np.asarray(cell) for cell in cells.ravel()]
    skeleton = {15: MADS_15, 19: MADS_19}.get(len(frames[0]) if frames[0].ndim else 0)
    if skeleton is None:
        raise MotionFileError(f"{path}: GTpose2 must hold 15 or 19 joints, got {frames[0].shape}")
    lost = 0
    for number, frame in enumerate(frames):
        check_array(path, f"GTpose2{{{number + 1}}}", frame, (len(skeleton.joints), 3), finite=False)
        lost += not np.isfinite(frame).all()
    if lost == len(frames):
        raise MotionFileError(f"{path}: GTpose2 holds no frame without NaN")
    recording = path.stem.removesuffix("_GT")
    calibrations = {view: path.with_name(f"Calib_Cam{view}.mat") for view in views}
    cameras: dict[int, tuple[PerspectiveCamera | None, Array, Array]] = {
        view: read_mads_camera(file) for view, file in calibrations.items() if file.is_file()
    }
    if not cameras:
        cameras[-1] = (None, np.diag([1.0, -1.0, -1.0]), np.zeros(3))
    for view, (camera, rotation, translation) in cameras.items():
        for number in range(0, len(frames), step):
            if not np.isfinite(frames[number]).all():
                continue
            joints = frames[number] / 1000 @ rotation.T + translation
            yield Sample(
                "MADS",
                recording,
                number,
                skeleton,
                None if camera is None else FrameReference(path.with_name(f"{recording}_C{view}.avi"), number),
                joints=joints.astype(np.float32),
                points=None if camera is None else _projected(joints, camera),
                camera=camera,
                rotation=rotation,
                translation=translation,
                view="" if camera is None else str(view),
                action=path.parent.name,
            )


def read_mads_camera(path: str | Path) -> tuple[PerspectiveCamera, Array, Array]:
    """A Calib_Cam0.mat: the camera, and R (3, 3) and t (3,) in metres with p_camera = R p_world + t.

    Raises:
        MotionFileError: the file is broken.
        FileNotFoundError: no such file.
    """
    from scipy.spatial.transform import Rotation

    path = Path(path)
    held = read_mat(path, ["KK", "kc", "om_ext", "T_ext"])
    for name, count in (("KK", 9), ("kc", 5), ("om_ext", 3), ("T_ext", 3)):
        check_array(path, name, held[name].reshape(-1), (count,))
    matrix, lens = held["KK"].reshape(3, 3), tuple(float(value) for value in held["kc"].reshape(-1))
    try:
        camera = PerspectiveCamera(
            (float(matrix[0, 0]), float(matrix[1, 1])), (float(matrix[0, 2]), float(matrix[1, 2])), SIZE, lens
        )
    except ValueError as error:
        raise MotionFileError(f"{path}: {error}") from None
    rotation: Array = Rotation.from_rotvec(held["om_ext"].reshape(3).astype(np.float64)).as_matrix()
    return camera, rotation, held["T_ext"].reshape(3) / 1000


def _projected(joints: Array, camera: PerspectiveCamera) -> Array:
    import torch

    from posegeom.camera import project

    points: Array = project(torch.from_numpy(joints), camera)[0].numpy().astype(np.float32)
    return points
