"""Human3.6M in the three layouts that it is passed on in: two .npz, annot.h5 with frames, and one .npz with frames.

The three are those of VideoPose3D (every frame, 3D in the world, 2D of the four cameras), of h36m-fetch (chosen
frames with their images) and of mmpose (chosen frames with their images, one row each).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from posegeom.camera import PerspectiveCamera
from posegeom.presets import H36M_17
from posegeom_models.data.archives import read_npz_arrays
from posegeom_models.data.files import MotionFileError, shown
from posegeom_models.data.matlab import hdf5_names, read_hdf5
from posegeom_models.data.pickles import read_pickle
from posegeom_models.data.resection import Resection, pinhole_of, resect
from posegeom_models.data.samples import Array, FrameReference, Part, Protocol, Sample, Samples, check_array, check_step

PROTOCOL = Protocol(
    source="Human3.6M",
    skeleton=H36M_17,
    train=("S1", "S5", "S6", "S7", "S8"),
    validation=(),
    test=("S9", "S11"),
    frame_rate=50.0,
    train_step=5,
    test_step=10,
    scored=H36M_17.joints,
    obtain="the videos and poses from vision.imar.ro/human3.6m (with an account), made into files by the scripts of "
    "VideoPose3D, h36m-fetch or mmpose",
    layout="data_3d_h36m.npz and data_2d_h36m_gt.npz, or S1/Directions-1/annot.h5, or h36m_train.npz there",
)
"""The steps are those of 003 (PoseTrack's split apart); 001 tests on every frame, h36m-fetch on every 64th of S9, S11.

Protocol II, which all four papers score, aligns each pose by rotation, translation and scale (P-MPJPE, 17 joints).
"""

KEPT = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)
"""The 17 joints of `H36M_17` among the 32 on disk."""

SIZES = {
    "54138969": (1002, 1000),
    "55011271": (1000, 1000),
    "58860488": (1000, 1000),
    "60457274": (1002, 1000),
}
"""(height, width) of the four cameras, in the order of VideoPose3D's lists."""

_WORST = 20.0
"""Median pixels; a camera that fits worse does not belong to the joints (detected points are off by some 5)."""


def read_h36m_videopose3d(
    joints: str | Path,
    points: str | Path,
    split: str = "test",
    step: int = 1,
    cameras: str | Path | None = None,
    skip_broken: bool = False,
) -> Samples:
    """Human3.6M from VideoPose3D's pair of files: each subject, action and camera in turn.

    The files hold joints in the world but no cameras. They are read from `cameras`, or found: one per subject and
    camera, by resection from that subject's joints and points (see `resect`).

    Args:
        joints: data_3d_h36m.npz: positions_3d[subject][action] (T, 32, 3), metres, world.
        points: data_2d_h36m_gt.npz, or that of a detector: positions_2d[subject][action], per camera (T, 17, 2).
        split: "train", "test", or "all".
        step: take every how many-th frame.
        cameras: mmpose's cameras.pkl.
        skip_broken: leave out recordings that cannot be read; see `Samples`.

    Raises:
        FileNotFoundError: nothing there.
        MotionFileError: (while reading) a file is broken or unsafe.
    """
    check_step(step)
    joints, points = Path(joints), Path(points)
    for path in (joints, points):
        PROTOCOL.check_there(path)
    pair = _Pair(joints, points, None if cameras is None else Path(cameras))
    parts = [Part(joints, partial(pair.read, subject, step)) for subject in PROTOCOL.members(split)]
    return Samples(PROTOCOL, parts, skip_broken)


class _Pair:
    """VideoPose3D's two files, each read once."""

    def __init__(self, joints: Path, points: Path, cameras: Path | None) -> None:
        self.joints_path, self.points_path, self.cameras_path = joints, points, cameras

    @cached_property
    def joints(self) -> dict[Any, Any]:
        return _subjects(
            self.joints_path, "positions_3d", read_npz_arrays(self.joints_path, ["positions_3d"], (), True)
        )

    @cached_property
    def points(self) -> dict[Any, Any]:
        arrays = read_npz_arrays(self.points_path, ["positions_2d"], ["metadata"], True)
        metadata = arrays.get("metadata")
        if isinstance(metadata, dict) and metadata.get("num_joints", 17) != 17:
            raise MotionFileError(f"{self.points_path}: must hold 17 joints, got {metadata['num_joints']}")
        return _subjects(self.points_path, "positions_2d", arrays)

    @cached_property
    def cameras(self) -> dict[tuple[str, str], Resection] | None:
        return None if self.cameras_path is None else read_h36m_cameras(self.cameras_path)

    def read(self, subject: str, step: int) -> Iterator[Sample]:
        recordings = self._recordings(subject)
        for view, (name, size) in enumerate(SIZES.items()):
            if self.cameras is not None:
                if (subject, name) not in self.cameras:
                    raise MotionFileError(f"{self.cameras_path}: has no camera {name} of {subject}")
                found = self.cameras[subject, name]
            else:
                seen = [(joints, views[view]) for joints, views in recordings.values() if view < len(views)]
                if not seen:
                    continue
                try:
                    found = resect(np.concatenate([j for j, _ in seen]), np.concatenate([p for _, p in seen]), size)
                except ValueError as error:
                    raise MotionFileError(f"{self.points_path}: {subject}, camera {name}: {error}") from None
                if found.error > _WORST:
                    raise MotionFileError(
                        f"{self.points_path}: no camera {name} projects the joints of {subject} to the points "
                        f"(median {found.error:.0f} pixels off)"
                    )
            for action, (joints, views) in recordings.items():
                if view >= len(views):
                    continue
                seen_joints = (joints @ found.rotation.T + found.translation).astype(np.float32)
                for frame in range(0, len(joints), step):
                    yield Sample(
                        "Human3.6M",
                        f"{subject}/{action}",
                        frame,
                        H36M_17,
                        points=views[view][frame].astype(np.float32),
                        joints=seen_joints[frame],
                        camera=found.camera,
                        rotation=found.rotation,
                        translation=found.translation,
                        view=name,
                        subject=subject,
                        action=_action(action),
                    )

    def _recordings(self, subject: str) -> dict[str, tuple[Array, list[Array]]]:
        """By action: joints (T, 17, 3) and per camera points (T, 17, 2), all checked."""
        recordings = {}
        for path, subjects in ((self.joints_path, self.joints), (self.points_path, self.points)):
            if not isinstance(subjects.get(subject), dict):
                raise MotionFileError(f"{path}: has no subject {subject}")
        for action, joints in self.joints[subject].items():
            views = self.points[subject].get(action)
            where = f"positions_3d[{shown(subject)}][{shown(str(action))}]"
            joints = np.asarray(joints)
            check_array(self.joints_path, where, joints, (None, 32, 3))
            if not isinstance(views, (list, np.ndarray)) or not 1 <= len(views) <= len(SIZES):
                raise MotionFileError(
                    f"{self.points_path}: positions_2d[{shown(subject)}][{shown(str(action))}] must be one array for "
                    f"each of 4 cameras"
                )
            checked = []
            for view, points in enumerate(views):
                points = np.asarray(points)
                where = f"positions_2d[{shown(subject)}][{shown(str(action))}][{view}]"
                check_array(self.points_path, where, points, (None, 17, 2))
                if len(points) < len(joints):
                    raise MotionFileError(
                        f"{self.points_path}: {where} must hold {len(joints)} frames, got {len(points)}"
                    )
                checked.append(points[: len(joints)])  # some videos run on after the motion capture
            recordings[str(action)] = (joints[:, KEPT].astype(np.float64), checked)
        return recordings


def _subjects(path: Path, name: str, arrays: dict[str, Any]) -> dict[Any, Any]:
    subjects = arrays[name]
    if not isinstance(subjects, dict):
        raise MotionFileError(f"{path}: {name} must be a dictionary of subjects")
    return subjects


def _action(name: str) -> str:
    """The action without the number of its repetition: Directions of Directions 1, Directions-1, Directions_1."""
    return re.sub(r"[ _-]\d+$", "", name)


def read_h36m_cameras(path: str | Path) -> dict[tuple[str, str], Resection]:
    """The cameras.pkl of mmpose: (subject, camera) to the camera, as `Resection`s without an error.

    Its R and T take the camera's axes to the world's, in metres; k and p are read as OpenCV's k1, k2, k3 and p1, p2.

    Raises:
        MotionFileError: the file is broken or unsafe.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    held = read_pickle(path)
    if not isinstance(held, dict) or not held:
        raise MotionFileError(f"{path}: not a dictionary of cameras")
    found = {}
    for key, values in held.items():
        if not isinstance(key, tuple) or len(key) != 2 or not isinstance(values, dict):
            raise MotionFileError(f"{path}: must hold (subject, camera) with their numbers, got {shown(str(key))}")
        missing = sorted({"R", "T", "f", "c", "k", "p", "w", "h"} - values.keys())
        if missing:
            raise MotionFileError(f"{path}: camera {shown(str(key))} has no {', '.join(missing)}")
        numbers = {}
        for name, count in (("R", 9), ("T", 3), ("f", 2), ("c", 2), ("k", 3), ("p", 2)):
            numbers[name] = np.asarray(values[name]).reshape(-1)
            check_array(path, f"{name} of {shown(str(key))}", numbers[name], (count,))
        (f, c, k, p) = ([float(value) for value in numbers[name]] for name in "fckp")
        try:
            camera = PerspectiveCamera(
                (f[0], f[1]), (c[0], c[1]), (int(values["h"]), int(values["w"])), (k[0], k[1], p[0], p[1], k[2])
            )
        except (TypeError, ValueError) as error:
            raise MotionFileError(f"{path}: camera {shown(str(key))}: {error}") from None
        rotation = numbers["R"].astype(np.float64).reshape(3, 3).T
        found[str(key[0]), str(key[1])] = Resection(camera, rotation, -rotation @ numbers["T"], float("nan"))
    return found


def read_h36m_fetch(
    root: str | Path, split: str = "test", step: int = 1, universal: bool = False, skip_broken: bool = False
) -> Samples:
    """Human3.6M from h36m-fetch: annot.h5 and the frames that it chose, per subject and action.

    Args:
        root: folder with S1/Directions-1/annot.h5 and S1/Directions-1/imageSequence/54138969/img_000001.jpg.
        split: "train", "test", or "all".
        step: take every how many-th of the chosen frames.
        universal: the joints of the universal skeleton (3d-univ), with the cameras that project them.
        skip_broken: see `Samples`.

    Raises:
        FileNotFoundError: nothing there.
        MotionFileError: (while reading) a file is broken.
    """
    check_step(step)
    root = Path(root)
    PROTOCOL.check_there(root)
    parts = [
        Part(path, partial(_read_fetched, path, step, universal))
        for subject in PROTOCOL.members(split)
        for path in sorted((root / subject).glob("*/annot.h5"))
    ]
    if not parts:
        raise FileNotFoundError(f"{root}: no annot.h5 of Human3.6M; get {PROTOCOL.obtain}, and put {PROTOCOL.layout}")
    return Samples(PROTOCOL, parts, skip_broken)


def _read_fetched(path: Path, step: int, universal: bool) -> Iterator[Sample]:
    solid, group = ("pose/3d-univ", "intrinsics-univ") if universal else ("pose/3d", "intrinsics")
    views = hdf5_names(path, group)
    names = [f"{group}/{view}" for view in views]
    arrays = read_hdf5(path, ["pose/2d", solid, "frame", "camera", *names])
    check_array(path, "pose/2d", arrays["pose/2d"], (None, 32, 2))
    count = len(arrays["pose/2d"])
    check_array(path, solid, arrays[solid], (count, 32, 3))
    for name in ("frame", "camera"):
        check_array(path, name, arrays[name], (count,))
    cameras = {}
    for view, name in zip(views, names, strict=True):
        check_array(path, name, arrays[name], (4,))
        fx, cx, fy, cy = (float(value) for value in arrays[name])
        if not (fx > 0 and fy > 0):
            raise MotionFileError(f"{path}: {name} must be f_x c_x f_y c_y, got {arrays[name].tolist()}")
        cameras[view] = PerspectiveCamera((fx, fy), (cx, cy), SIZES.get(view, (1000, 1000)))
    for row in range(0, count, step):
        view, number = str(int(arrays["camera"][row])), int(arrays["frame"][row])
        if view not in cameras:
            raise MotionFileError(f"{path}: has no {group}/{view}, of which frame {number} is")
        yield Sample(
            "Human3.6M",
            f"{path.parent.parent.name}/{path.parent.name}",
            number - 1,
            H36M_17,
            FrameReference(path.parent / "imageSequence" / view / f"img_{number:06d}.jpg"),
            points=arrays["pose/2d"][row, KEPT].astype(np.float32),
            joints=(arrays[solid][row, KEPT] / 1000).astype(np.float32),
            camera=cameras[view],
            view=view,
            subject=path.parent.parent.name,
            action=_action(path.parent.name),
        )


_IMAGE_NAME = re.compile(r"(S\d+)_([^./\\]+)\.(\d{8})_(\d+)\.\w+")


def read_h36m_mmpose(
    path: str | Path,
    images: str | Path,
    step: int = 1,
    cameras: str | Path | None = None,
    skip_broken: bool = False,
) -> Samples:
    """Human3.6M from mmpose's h36m_train.npz or h36m_test.npz (which are the splits).

    Args:
        path: the .npz: imgname, part (N, 17, 3) pixels, S (N, 17, 4) metres in the camera's axes, center, scale.
        images: folder that imgname is below.
        step: take every how many-th row.
        cameras: mmpose's cameras.pkl; None fits a pinhole to the rows of each subject and camera.
        skip_broken: see `Samples`.

    Raises:
        FileNotFoundError: nothing there.
        MotionFileError: (while reading) a file is broken or unsafe.
    """
    check_step(step)
    path, images = Path(path), Path(images)
    PROTOCOL.check_there(path)
    read = partial(_read_rows, path, images, step, None if cameras is None else Path(cameras))
    return Samples(PROTOCOL, [Part(path, read)], skip_broken)


def _read_rows(path: Path, images: Path, step: int, cameras_path: Path | None) -> Iterator[Sample]:
    arrays = read_npz_arrays(path, ["imgname", "part", "S"], ["center", "scale"])
    names, flat, solid = arrays["imgname"], arrays["part"], arrays["S"]
    check_array(path, "part", flat, (None, 17, 3))
    check_array(path, "S", solid, (len(flat), 17, 4))
    if names.shape != (len(flat),) or names.dtype.kind not in "US":
        raise MotionFileError(f"{path}: imgname must be {len(flat)} texts, got {names.shape} {names.dtype}")
    boxes = None
    if "center" in arrays and "scale" in arrays:
        check_array(path, "center", arrays["center"], (len(flat), 2))
        check_array(path, "scale", arrays["scale"].reshape(len(flat), -1)[:, 0], (len(flat),))
        half = 100.0 * arrays["scale"].reshape(len(flat), -1)[:, :1]  # scale is in units of 200 pixels
        boxes = np.concatenate([arrays["center"] - half, arrays["center"] + half], -1)
    names = names.astype(str)
    rows = []
    for name in names:
        match = _IMAGE_NAME.fullmatch(Path(name).name)
        if match is None or Path(name).is_absolute() or ".." in Path(name).parts:
            raise MotionFileError(
                f"{path}: imgname must be S1/.../S1_Directions_1.54138969_000001.jpg, got {shown(name)}"
            )
        rows.append(match.groups())
    people = np.array([f"{subject}/{view}" for subject, _, view, _ in rows])
    if cameras_path is not None:
        known = {key: found.camera for key, found in read_h36m_cameras(cameras_path).items()}
    else:
        known = {}
        for person in np.unique(people):
            subject, view = person.split("/")
            mine = people == person
            known[subject, view] = pinhole_of(solid[mine][..., :3], flat[mine][..., :2], SIZES.get(view, (1000, 1000)))[
                0
            ]
    for row in range(0, len(rows), step):
        subject, action, view, number = rows[row]
        if (subject, view) not in known:
            raise MotionFileError(f"{cameras_path}: has no camera {view} of {subject}")
        yield Sample(
            "Human3.6M",
            f"{subject}/{action}",
            int(number) - 1,
            H36M_17,
            FrameReference(images / str(names[row])),
            points=flat[row, :, :2].astype(np.float32),
            joints=solid[row, :, :3].astype(np.float32),
            known=(flat[row, :, 2] > 0) & (solid[row, :, 3] > 0),
            camera=known[subject, view],
            view=view,
            subject=subject,
            action=_action(action),
            box=None if boxes is None else tuple(float(edge) for edge in boxes[row]),  # type: ignore[arg-type]
        )
