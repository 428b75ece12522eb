"""Leeds Sports Pose (LSP), its extended training set (LSPET), and the body parts that UP-3D adds to LSP."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posegeom.presets import LSP_14
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.images import read_image
from posegeom_models.data.matlab import read_mat
from posegeom_models.data.samples import FrameReference, Part, Protocol, Sample, Samples, check_array, check_step

PROTOCOL = Protocol(
    source="LSP",
    skeleton=LSP_14,
    train=("1 to 1000",),
    validation=(),
    test=("1001 to 2000",),
    frame_rate=None,
    train_step=1,
    test_step=1,
    scored=LSP_14.joints,
    obtain="lsp_dataset.zip and lspet_dataset.zip from sam.johnson.io/research (and up-s31's or SPIN's "
    "im0001_part_segmentation.png)",
    layout="joints.mat with images/im0001.jpg (and im1001_part_segmentation.png) below it",
)
"""004 scores parts on test images: F1 over six parts and the background, and over person and background. Counts are
summed over the whole set before F1 is taken; label 255 counts nowhere.
"""

IGNORED = 255
"""The label of pixels that belong to no class, in part segmentations."""

PART_LABELS = 7
"""The background (0) and six parts."""

_IMAGES, _EXTENDED = 2000, 10000


def read_lsp(root: str | Path, split: str = "test", step: int = 1, skip_broken: bool = False) -> Samples:
    """LSP: 2000 images, all 14 joints in each, also those that are hidden.

    Left and right are the person's. The third number of a joint is 1 where it is hidden, as loaders of LSP take it
    (its own text calls the number a visibility). `mask` is the part segmentation; see `read_parts`.

    Args:
        root: folder with joints.mat, images, and perhaps im1001_part_segmentation.png.
        split: "train", "test", or "all".
        step: take every how many-th image.
        skip_broken: see `Samples`.

    Raises:
        FileNotFoundError: nothing there.
        MotionFileError: (while reading) a file is broken.
    """
    check_step(step)
    path = Path(root) / "joints.mat"
    PROTOCOL.members(split)
    PROTOCOL.check_there(path)
    first, last = {"train": (0, 1000), "test": (1000, _IMAGES)}.get(split, (0, _IMAGES))
    return Samples(PROTOCOL, [Part(path, partial(_read, path, range(first, last, step)))], skip_broken)


def _read(path: Path, numbers: range) -> Iterator[Sample]:
    joints = read_mat(path, ["joints"])["joints"]
    if joints.shape == (14, 3, _EXTENDED):
        raise MotionFileError(f"{path}: these are the joints of LSPET, (14, 3, 10000); read them with read_lspet")
    check_array(path, "joints", joints, (3, 14, _IMAGES))
    for number in numbers:
        yield Sample(
            "LSP",
            "LSP",
            number,
            LSP_14,
            FrameReference(path.parent / "images" / f"im{number + 1:04d}.jpg"),
            points=joints[:2, :, number].T.astype(np.float32),
            visible=joints[2, :, number] == 0,
            mask=FrameReference(path.parent / f"im{number + 1:04d}_part_segmentation.png"),
        )


def read_lspet(root: str | Path, step: int = 1, skip_broken: bool = False) -> Samples:
    """LSPET: 10000 images to train on. Joints that are not seen are not placed (`known`), and zeros here.

    Args:
        root: folder with joints.mat and images.
        step: take every how many-th image.
        skip_broken: see `Samples`.

    Raises:
        FileNotFoundError: nothing there.
        MotionFileError: (while reading) a file is broken.
    """
    check_step(step)
    path = Path(root) / "joints.mat"
    PROTOCOL.check_there(path)
    return Samples(PROTOCOL, [Part(path, partial(_read_extended, path, step))], skip_broken)


def _read_extended(path: Path, step: int) -> Iterator[Sample]:
    # The axes are not those of LSP's file.
    joints = read_mat(path, ["joints"])["joints"]
    if joints.shape == (3, 14, _IMAGES):
        raise MotionFileError(f"{path}: these are the joints of LSP, (3, 14, 2000); read them with read_lsp")
    check_array(path, "joints", joints, (14, 3, _EXTENDED))
    for number in range(0, _EXTENDED, step):
        known = joints[:, 2, number] > 0
        yield Sample(
            "LSPET",
            "LSPET",
            number,
            LSP_14,
            FrameReference(path.parent / "images" / f"im{number + 1:05d}.jpg"),
            points=np.where(known[:, None], joints[:, :2, number], 0).astype(np.float32),
            known=known,
            visible=known,
        )


def read_parts(path: str | Path) -> NDArray[np.uint8]:
    """A part segmentation: (H, W) labels, 0 for the background, 1 to 6 for the parts, 255 for neither.

    Raises:
        MotionFileError: not a readable image, or other labels.
        FileNotFoundError: no such file.
    """
    labels = read_image(path, gray=True)
    wrong = np.unique(labels[(labels >= PART_LABELS) & (labels != IGNORED)])
    if wrong.size:
        raise MotionFileError(f"{path}: labels must be 0 to {PART_LABELS - 1} or {IGNORED}, got {wrong[0]}")
    return labels
