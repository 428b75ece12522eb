"""3DPW: videos in the wild with the SMPL body's joints, in pickles."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from posegeom.camera import PerspectiveCamera
from posegeom.presets import SMPL_24
from posegeom_models.data.files import MotionFileError, shown
from posegeom_models.data.pickles import read_pickle
from posegeom_models.data.samples import Array, FrameReference, Part, Protocol, Sample, Samples, check_array, check_step

PROTOCOL = Protocol(
    source="3DPW",
    skeleton=SMPL_24,
    train=("train",),
    validation=("validation",),
    test=("test",),
    frame_rate=30.0,
    train_step=1,
    test_step=1,
    scored=SMPL_24.joints,
    obtain="sequenceFiles.zip and imageFiles.zip from virtualhumans.mpi-inf.mpg.de/3DPW",
    layout="sequenceFiles/{train,validation,test}/*.pkl and imageFiles/<sequence>/image_00000.jpg below it",
)
"""003 takes the sequences with one person only (`single_person`) and all 24 joints."""

_JOINTS = len(SMPL_24.joints)


def read_3dpw(
    root: str | Path, split: str = "test", step: int = 1, single_person: bool = False, skip_broken: bool = False
) -> Samples:
    """The samples of 3DPW: every person in every `step`-th frame whose camera is known (`campose_valid`).

    `joints` are the 24 joints of the SMPL body in the camera's axes and `points` their projections; the 2D
    detections of the files (poses2d, 18 other joints) are not used. The image's size, which the files do not hold,
    is twice the principal point.

    Args:
        root: folder with sequenceFiles and imageFiles.
        split: "train", "validation", "test", or "all".
        step: take every how many-th frame.
        single_person: only the sequences with one person, as 003 does.
        skip_broken: see `Samples`.

    Raises:
        FileNotFoundError: nothing there.
        MotionFileError: (while reading) a file is broken or unsafe.
    """
    check_step(step)
    root = Path(root)
    parts = []
    for folder in PROTOCOL.members(split):
        PROTOCOL.check_there(root / "sequenceFiles" / folder)
        for path in sorted((root / "sequenceFiles" / folder).glob("*.pkl")):
            parts.append(Part(path, partial(_read, path, root, step, single_person)))
    if not parts:
        raise FileNotFoundError(f"{root}: no sequence of 3DPW here; get {PROTOCOL.obtain}, and put {PROTOCOL.layout}")
    return Samples(PROTOCOL, parts, skip_broken)


def _read(path: Path, root: Path, step: int, single_person: bool) -> Iterator[Sample]:
    held = read_pickle(path)
    if not isinstance(held, dict):
        raise MotionFileError(f"{path}: not a sequence of 3DPW (the pickle holds a {type(held).__name__})")
    intrinsics, poses = (_array(path, held, name) for name in ("cam_intrinsics", "cam_poses"))
    check_array(path, "cam_intrinsics", intrinsics, (3, 3))
    check_array(path, "cam_poses", poses, (None, 4, 4))
    people, valid = held.get("jointPositions"), held.get("campose_valid")
    if not isinstance(people, list) or not people:
        raise MotionFileError(f"{path}: jointPositions must be a list of one array per person")
    if not isinstance(valid, (list, np.ndarray)) or len(valid) != len(people):
        raise MotionFileError(f"{path}: campose_valid must hold one array for each of {len(people)} people")
    if single_person and len(people) > 1:
        return
    sequence = held.get("sequence", path.stem)
    if not isinstance(sequence, str) or sequence != Path(sequence).name:
        raise MotionFileError(f"{path}: sequence must be a name, got {shown(str(sequence))}")
    count = len(poses)
    world, good = [], []
    for person, (joints, flags) in enumerate(zip(people, valid, strict=True)):
        joints, flags = np.asarray(joints), np.asarray(flags)
        check_array(path, f"jointPositions[{person}]", joints, (count, 3 * _JOINTS))
        check_array(path, f"campose_valid[{person}]", flags, (count,))
        world.append(joints.reshape(count, _JOINTS, 3).astype(np.float64))
        good.append(flags.astype(bool))
    fx, fy, cx, cy = (float(intrinsics[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
    if min(fx, fy, cx, cy) <= 0:
        raise MotionFileError(
            f"{path}: cam_intrinsics must be [f_x 0 c_x; 0 f_y c_y; 0 0 1], got {intrinsics.tolist()}"
        )
    camera = PerspectiveCamera((fx, fy), (cx, cy), (round(2 * cy), round(2 * cx)))
    for frame in range(0, count, step):
        rotation, translation = poses[frame, :3, :3].astype(np.float64), poses[frame, :3, 3].astype(np.float64)
        for person in range(len(people)):
            if not good[person][frame]:
                continue
            joints = world[person][frame] @ rotation.T + translation
            if (joints[:, 2] <= 0).any():
                continue  # behind a camera whose pose drifted
            yield Sample(
                "3DPW",
                sequence,
                frame,
                SMPL_24,
                FrameReference(root / "imageFiles" / sequence / f"image_{frame:05d}.jpg"),
                points=(joints[:, :2] / joints[:, 2:] * (fx, fy) + (cx, cy)).astype(np.float32),
                joints=joints.astype(np.float32),
                camera=camera,
                rotation=rotation,
                translation=translation,
                subject=str(person),
                action=sequence.split("_", 1)[-1].rsplit("_", 1)[0],
            )


def _array(path: Path, held: dict[Any, Any], name: str) -> Array:
    value = held.get(name)
    if not isinstance(value, np.ndarray):
        raise MotionFileError(f"{path}: the file has no array {name}")
    return value
