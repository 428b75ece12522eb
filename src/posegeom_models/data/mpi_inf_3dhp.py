"""MPI-INF-3DHP: eight people before fourteen cameras (MATLAB files), and six test recordings (HDF5 files)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from posegeom.camera import PerspectiveCamera
from posegeom.presets import MPI_INF_3DHP_17, MPI_INF_3DHP_28
from posegeom.skeleton import Skeleton
from posegeom_models.data.files import MotionFileError, error_at, numbers_of, read_lines, shown
from posegeom_models.data.matlab import read_hdf5, read_mat
from posegeom_models.data.resection import pinhole_of
from posegeom_models.data.samples import Array, FrameReference, Part, Protocol, Sample, Samples, check_array, check_step

PROTOCOL = Protocol(
    source="MPI-INF-3DHP",
    skeleton=MPI_INF_3DHP_17,
    train=("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8"),
    validation=("S6", "S7"),
    test=("TS1", "TS2", "TS3", "TS4", "TS5", "TS6"),
    frame_rate=None,
    train_step=5,
    test_step=1,
    scored=MPI_INF_3DHP_17.joints[:14],
    obtain="mpi_inf_3dhp and mpi_inf_3dhp_test_set from vcai.mpi-inf.mpg.de/3dhp-dataset",
    layout="S1/Seq1/annot.mat with S1/Seq1/camera.calibration and S1/Seq1/imageSequence/video_0.avi, and "
    "TS1/annot_data.mat with TS1/imageSequence/img_000001.jpg, below it",
)
"""003 trains on S1 to S8 (its pose model on S1 to S5 and S8, with S6 and S7 to validate) and tests on TS1 to TS4; the
other papers test on TS1 to TS6. 3DPCK counts errors below 150 mm (strictly) of 14 joints in test frames that are
valid, poses of the universal skeleton relative to the pelvis; AUC is its mean over 0, 5, ..., 150 mm. The
recordings have 25 or 50 frames per second, so that no rate holds for all.
"""

CAMERAS = (0, 1, 2, 4, 5, 6, 7, 8)
"""The cameras at chest height, which papers train on."""

ACTIVITIES = (
    "Standing/Walking",
    "Exercising",
    "Sitting",
    "Reaching/Crouching",
    "On the Floor",
    "Sports",
    "Miscellaneous",
)
"""The test set's activity_annotation, from 1."""

_TEST_SIZES = {"TS5": (1080, 1920), "TS6": (1080, 1920)}


def read_3dhp_train(
    root: str | Path,
    subjects: Sequence[str] = PROTOCOL.train,
    cameras: Sequence[int] = CAMERAS,
    step: int = 1,
    skeleton: Skeleton = MPI_INF_3DHP_17,
    universal: bool = False,
    skip_broken: bool = False,
) -> Samples:
    """The training set: each camera of each recording in turn, its images as frames of the videos.

    Args:
        root: folder with S1/Seq1/annot.mat.
        subjects: whom to read, e.g. `PROTOCOL.train` without "S6" and "S7".
        cameras: which of the fourteen.
        step: take every how many-th frame.
        skeleton: `MPI_INF_3DHP_17`, or all joints on disk, `MPI_INF_3DHP_28`.
        universal: joints scaled to one height (univ_annot3); the cameras do not project these to the points.
        skip_broken: see `Samples`.

    Raises:
        FileNotFoundError: nothing there.
        MotionFileError: (while reading) a file is broken.
    """
    check_step(step)
    root = Path(root)
    PROTOCOL.check_there(root)
    unknown = sorted(set(subjects) - set(PROTOCOL.train))
    if unknown:
        raise ValueError(f"subjects must be among {', '.join(PROTOCOL.train)}, got {unknown[0]!r}")
    kept = [MPI_INF_3DHP_28.index(joint) for joint in skeleton.joints]
    parts = [
        Part(path, partial(_read_train, path, tuple(cameras), step, skeleton, kept, universal))
        for subject in subjects
        for path in sorted((root / subject).glob("Seq*/annot.mat"))
    ]
    if not parts:
        raise FileNotFoundError(
            f"{root}: no annot.mat of MPI-INF-3DHP; get {PROTOCOL.obtain}, and put {PROTOCOL.layout}"
        )
    return Samples(PROTOCOL, parts, skip_broken)


def _read_train(
    path: Path, wanted: tuple[int, ...], step: int, skeleton: Skeleton, kept: list[int], universal: bool
) -> Iterator[Sample]:
    calibration = read_calibration(path.with_name("camera.calibration"))
    solid = "univ_annot3" if universal else "annot3"
    variables = read_mat(path, ["annot2", solid])
    for name in ("annot2", solid):
        cells = variables[name]
        if cells.dtype != object or cells.ndim != 2 or min(cells.shape) != 1:
            raise MotionFileError(f"{path}: {name} must be a column of cells, one per camera, got {cells.shape}")
    flat, deep = (variables[name].ravel() for name in ("annot2", solid))
    frames = None
    for view in wanted:
        if view >= min(len(flat), len(deep)) or view not in calibration:
            raise MotionFileError(
                f"{path}: has no camera {view} (of {len(flat)} annotated, {len(calibration)} calibrated)"
            )
        frames = len(flat[view]) if frames is None else frames
        check_array(path, f"annot2{{{view + 1}}}", flat[view], (frames, 2 * 28))
        check_array(path, f"{solid}{{{view + 1}}}", deep[view], (frames, 3 * 28))
    subject, sequence = path.parent.parent.name, path.parent.name
    for view in wanted:
        camera = calibration[view]
        points = flat[view].reshape(-1, 28, 2)[:, kept].astype(np.float32)
        joints = (deep[view].reshape(-1, 28, 3)[:, kept] / 1000).astype(np.float32)
        for frame in range(0, len(points), step):
            yield Sample(
                "MPI-INF-3DHP",
                f"{subject}/{sequence}",
                frame,
                skeleton,
                FrameReference(path.parent / "imageSequence" / f"video_{view}.avi", frame),
                points=points[frame],
                joints=joints[frame],
                camera=camera.camera,
                rotation=camera.rotation,
                translation=camera.translation,
                view=str(view),
                subject=subject,
                mask=FrameReference(path.parent / "FGmasks" / f"video_{view}.avi", frame),
            )


class Calibration(NamedTuple):
    """One camera of a camera.calibration.

    Attributes:
        camera: intrinsics.
        rotation: (3, 3) R with p_camera = R p_world + t.
        translation: (3,) t, metres.
    """

    camera: PerspectiveCamera
    rotation: Array
    translation: Array


def read_calibration(path: str | Path) -> dict[int, Calibration]:
    """A camera.calibration: the number of each camera to its calibration.

    Raises:
        MotionFileError: the file is broken.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    lines = read_lines(path)
    found: dict[int, Calibration] = {}
    name: int | None = None
    held: dict[str, list[float]] = {}
    counts = {"name": 1, "size": 2, "intrinsic": 16, "extrinsic": 16}
    for number, line in enumerate([*lines, "name -1"], start=1):
        key, *words = line.split() or [""]
        if key not in counts:
            continue
        values = numbers_of(path, number, words, counts[key], key)
        if key != "name":
            if name is None:
                raise error_at(path, number, f"{key} comes before the name of a camera")
            held[key] = values
            continue
        if name is not None:
            missing = [key for key in ("size", "intrinsic", "extrinsic") if key not in held]
            if missing:
                raise error_at(path, number, f"camera {name} has no {', '.join(missing)}")
            found[name] = _calibration(path, number, held)
        name, held = int(values[0]), {}
    if not found:
        raise MotionFileError(f"{path}: holds no camera; its first lines are {shown(' '.join(lines[:2]))}")
    return found


def _calibration(path: Path, line: int, held: dict[str, list[float]]) -> Calibration:
    intrinsic, extrinsic = (np.array(held[key]).reshape(4, 4) for key in ("intrinsic", "extrinsic"))
    width, height = held["size"]
    try:
        camera = PerspectiveCamera(
            (float(intrinsic[0, 0]), float(intrinsic[1, 1])),
            (float(intrinsic[0, 2]), float(intrinsic[1, 2])),
            (int(height), int(width)),
        )
    except ValueError as error:
        raise error_at(path, line, f"the camera above: {error}") from None
    return Calibration(camera, extrinsic[:3, :3], extrinsic[:3, 3] / 1000)


def read_3dhp_test(
    root: str | Path,
    recordings: Sequence[str] = PROTOCOL.test,
    step: int = 1,
    universal: bool = False,
    skip_broken: bool = False,
) -> Samples:
    """The test set: the frames marked valid, 17 joints, activities as `action`.

    The files hold no cameras; a pinhole is fitted to annot3 and annot2 of each recording.

    Args:
        root: folder with TS1/annot_data.mat.
        recordings: which of TS1 to TS6; 003 takes TS1 to TS4.
        step: take every how many-th frame that is valid.
        universal: joints scaled to one height (univ_annot3), as the official score has them; the cameras do not
            project these to the points.
        skip_broken: see `Samples`.

    Raises:
        FileNotFoundError: nothing there.
        MotionFileError: (while reading) a file is broken.
    """
    check_step(step)
    root = Path(root)
    unknown = sorted(set(recordings) - set(PROTOCOL.test))
    if unknown:
        raise ValueError(f"recordings must be among {', '.join(PROTOCOL.test)}, got {unknown[0]!r}")
    parts = []
    for recording in recordings:
        path = root / recording / "annot_data.mat"
        PROTOCOL.check_there(path)
        parts.append(Part(path, partial(_read_test, path, step, universal)))
    return Samples(PROTOCOL, parts, skip_broken)


def _read_test(path: Path, step: int, universal: bool) -> Iterator[Sample]:
    solid = "univ_annot3" if universal else "annot3"
    names = list(dict.fromkeys(["annot2", "annot3", solid, "valid_frame"]))
    arrays = read_hdf5(path, names, ["activity_annotation"])
    check_array(path, "annot2", arrays["annot2"], (None, 1, 17, 2), finite=False)
    count = len(arrays["annot2"])
    for name in {"annot3", solid}:
        check_array(path, name, arrays[name], (count, 1, 17, 3), finite=False)
    marks = {}
    for name in ("valid_frame", "activity_annotation"):
        marks[name] = arrays.get(name, np.zeros(count)).reshape(-1)
        check_array(path, name, marks[name], (count,))
    valid = np.flatnonzero(marks["valid_frame"] == 1)
    if not len(valid):
        raise MotionFileError(f"{path}: no frame is valid")
    points, own, joints = (arrays[name][:, 0] for name in ("annot2", "annot3", solid))
    for name, array in (("annot2", points), ("annot3", own), (solid, joints)):
        check_array(path, f"{name} of the valid frames", array[valid], (len(valid), 17, array.shape[-1]))
    recording = path.parent.name
    camera = pinhole_of(own[valid], points[valid], _TEST_SIZES.get(recording, (2048, 2048)))[0]
    for frame in valid[::step]:
        activity = int(marks["activity_annotation"][frame])
        yield Sample(
            "MPI-INF-3DHP",
            recording,
            int(frame),
            MPI_INF_3DHP_17,
            FrameReference(path.parent / "imageSequence" / f"img_{frame + 1:06d}.jpg"),
            points=points[frame].astype(np.float32),
            joints=(joints[frame] / 1000).astype(np.float32),
            camera=camera,
            subject=recording,
            action=ACTIVITIES[activity - 1] if 1 <= activity <= len(ACTIVITIES) else "",
        )
