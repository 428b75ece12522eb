"""Masks of the salient thing in a picture: from files, from motion against a background, or by OpenCV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posegeom_models.data.files import MotionFileError
from posegeom_models.data.images import Image, read_image
from posegeom_models.data.packages import require

Mask = NDArray[np.bool_]


def read_mask(path: str | Path, size: tuple[int, int] | None = None) -> Mask:
    """A mask file: what is brighter than half of white.

    Args:
        path: an image file.
        size: (height, width) that it must have.

    Raises:
        MotionFileError: not a readable image, or of another size.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    image = read_image(path, gray=True)
    if size is not None and image.shape != size:
        raise MotionFileError(f"{path}: the mask must be {size[0]} × {size[1]} like its image, got {image.shape}")
    # Masks are written as 0 and 1 or as 0 and 255.
    return image > (0 if image.max(initial=0) <= 1 else 127)


def motion_saliency(image: Image, background: Image, threshold: float = 0.12, smallest: float = 0.002) -> Mask:
    """What differs from the background: cleaned of specks, holes filled.

        |I − B| > threshold, with |·| the root mean square over the colours in units of their range

    Args:
        image: (H, W, 3) uint8.
        background: (H, W, 3) uint8, e.g. by `posegeom_models.data.footage.median_background`.
        threshold: of the difference.
        smallest: share of the picture below which a piece is a speck.

    Returns:
        (H, W) bool; empty where nothing moved.

    Raises:
        ValueError: different sizes.
    """
    from scipy import ndimage

    if image.shape != background.shape or image.ndim != 3:
        raise ValueError(
            f"image and background must have one shape (H, W, 3), got {image.shape} and {background.shape}"
        )
    apart = np.sqrt(np.square(image.astype(np.float32) - background).mean(-1)) / 255
    moved = ndimage.binary_closing(np.pad(apart > threshold, 2), np.ones((3, 3)), iterations=2)[2:-2, 2:-2]
    filled: Mask = ndimage.binary_fill_holes(moved)
    pieces, count = ndimage.label(filled)
    if not count:
        return np.zeros(image.shape[:2], bool)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    large: Mask = (sizes >= smallest * pieces.size)[pieces]
    return large


def opencv_saliency(images: Iterable[Image], history: int = 200, threshold: float = 16.0) -> Iterator[Mask]:
    """Masks by OpenCV's mixture of Gaussians (MOG2), which learns the background as the images come.

    The first masks are poor; shadows are left out.

    Args:
        images: (H, W, 3) uint8 in the order of time.
        history: images that the background is learnt from.
        threshold: squared Mahalanobis distance from the background.

    Raises:
        ImportError: OpenCV is not installed.
    """
    cv2 = require("cv2", "saliency by OpenCV", "opencv-python-headless")
    model: Any = cv2.createBackgroundSubtractorMOG2(history, threshold, True)
    for image in images:
        yield np.asarray(model.apply(image)) == 255  # 127 is a shadow
