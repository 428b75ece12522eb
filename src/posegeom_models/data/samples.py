"""Samples: what every image data set yields, whatever its files look like."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posegeom.camera import PerspectiveCamera
from posegeom.skeleton import Skeleton
from posegeom_models.data.files import MotionFileError

Array = NDArray[Any]


class FrameReference(NamedTuple):
    """Where an image is: a file, or one frame of a video (see `posegeom_models.data.images.read_frame`).

    Attributes:
        path: the image file or the video.
        number: of the frame in the video, from 0; None for an image file.
    """

    path: Path
    number: int | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """One person (or hand) in one image, with what the source knows of it.

    Args:
        source: name of the data set.
        sequence: name of the recording in it; samples of one sequence are in the order of time.
        frame: number of the frame in the recording, from 0.
        skeleton: the J joints that the arrays below have.
        image: where the image is; None where the source has no images. The file is not looked for.
        points: (J, 2) float32 pixels; None where unknown.
        joints: (J, 3) float32 metres in the camera's axes (x right, y down, z forward); None where unknown.
        known: (J,) bool, the joints that the source places; the others are zeros. None: all of them.
        visible: (J,) bool, the joints not occluded; None where the source does not say.
        camera: intrinsics, of which `points` are the projections of `joints` up to the source's own errors.
        rotation: (3, 3) float64 R with p_camera = R p_world + t; None where unknown.
        translation: (3,) float64 t in metres.
        view: name of the camera.
        subject: who.
        action: what they do.
        mask: where the person's mask is, in the source's own format.
        box: (x0, y0, x1, y1) round the person, in pixels.
        left: whether it is a left hand; None for bodies.

    Raises:
        ValueError: a wrong shape, or a known joint that is not finite.
    """

    source: str
    sequence: str
    frame: int
    skeleton: Skeleton
    image: FrameReference | None = None
    points: Array | None = None
    joints: Array | None = None
    known: Array | None = None
    visible: Array | None = None
    camera: PerspectiveCamera | None = None
    rotation: Array | None = None
    translation: Array | None = None
    view: str = ""
    subject: str = ""
    action: str = ""
    mask: FrameReference | None = None
    box: tuple[float, float, float, float] | None = None
    left: bool | None = None

    def __post_init__(self) -> None:
        count = len(self.skeleton.joints)
        shapes = {"points": (count, 2), "joints": (count, 3), "known": (count,), "visible": (count,)}
        for name, shape in {**shapes, "rotation": (3, 3), "translation": (3,)}.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} must be {shape} for {self.skeleton.name}, got {value.shape}")
        for name in ("points", "joints"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value).all():
                joint = self.skeleton.joints[int(np.argwhere(~np.isfinite(value).all(-1))[0, 0])]
                raise ValueError(f"{name} must be finite, got {joint} of frame {self.frame} NaN or infinite")


@dataclass(frozen=True)
class Protocol:
    """How the papers train and test on a data set, and where it is had from.

    Args:
        source: its name.
        skeleton: the joints that results are given in.
        train: subjects, sequences or folders trained on.
        validation: those that settings may be chosen on.
        test: those that results are given for.
        frame_rate: frames per second of the recordings; None for single images.
        train_step: every how many-th frame is trained on in the papers; None where they do not say.
        test_step: every how many-th frame is tested.
        scored: the joints that the data set's own score counts.
        obtain: one phrase: what to download and from whom.
        layout: one phrase: what then lies where, below the data set's folder.
    """

    source: str
    skeleton: Skeleton
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    frame_rate: float | None
    train_step: int | None
    test_step: int | None
    scored: tuple[str, ...]
    obtain: str
    layout: str

    def members(self, split: str) -> tuple[str, ...]:
        """What is in a split ("train", "validation", "test", or "all")."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        if split == "all":
            return tuple(dict.fromkeys(self.train + self.validation + self.test))
        if split not in splits or not splits[split]:
            known = ", ".join(name for name, members in splits.items() if members)
            raise ValueError(f"split of {self.source} must be one of {known}, all; got {split!r}")
        return splits[split]

    def check_there(self, path: Path) -> None:
        """Raise `FileNotFoundError`, with what to download and where to put it, unless `path` is there."""
        if not path.exists():
            raise FileNotFoundError(f"{path}: no {self.source} here; get {self.obtain}, and put {self.layout}")


class Part(NamedTuple):
    """A file (or folder) of a data set and the way to read it."""

    path: Path
    read: Callable[[], Iterator[Sample]]


class Samples:
    """The samples of a data set as a stream: each pass reads its parts anew, one at a time.

    Args:
        protocol: of the data set.
        parts: its files.
        skip_broken: leave out files that cannot be read, and warn once at the end how many they were; without it
            the first one is an error.

    Attributes:
        skipped: what was wrong with each file left out in the latest pass.
    """

    def __init__(self, protocol: Protocol, parts: Sequence[Part], skip_broken: bool = False) -> None:
        self.protocol, self.parts, self.skip_broken = protocol, tuple(parts), skip_broken
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[Sample]:
        self.skipped = []
        for part in self.parts:
            try:
                yield from part.read()
            except MotionFileError as error:
                if not self.skip_broken:
                    raise
                self.skipped.append(str(error))
            except ValueError as error:  # Sample refuses what the arrays hold
                if not self.skip_broken:
                    raise MotionFileError(f"{part.path}: {error}") from None
                self.skipped.append(f"{part.path}: {error}")
        if self.skipped:
            warnings.warn(
                f"{self.protocol.source}: {len(self.skipped)} of {len(self.parts)} files skipped: {self.skipped[0]}",
                stacklevel=2,
            )


def check_step(step: int) -> None:
    """Raise unless `step` (take every how many-th frame) is at least 1."""
    if step < 1:
        raise ValueError(f"step must be at least 1, got {step}")


def check_array(path: Path, name: str, array: Array, shape: Sequence[int | None], finite: bool = True) -> None:
    """Raise unless an array of a file has this shape (None: any length, but not 0), real numbers, and no NaN.

    Args:
        path: the file, for the error.
        name: the array, for the error.
        array: what was read.
        shape: the lengths wanted.
        finite: refuse NaN and infinity.
    """
    wanted = "(" + ", ".join("N" if length is None else str(length) for length in shape)
    wanted += ",)" if len(shape) == 1 else ")"
    if array.dtype.kind not in "biuf":
        raise MotionFileError(f"{path}: {name} must hold numbers, got {array.dtype}")
    if array.ndim != len(shape) or any(
        want is not None and have != want for have, want in zip(array.shape, shape, strict=True)
    ):
        raise MotionFileError(f"{path}: {name} must be {wanted}, got {array.shape}")
    if array.size == 0:
        raise MotionFileError(f"{path}: {name} holds nothing, got {array.shape}")
    if finite and not np.isfinite(array).all():
        where = tuple(int(index) for index in np.argwhere(~np.isfinite(array))[0])
        raise MotionFileError(f"{path}: {name} must be finite, got {array[where]} at {where}")
