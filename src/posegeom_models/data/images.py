"""Image files and single frames as arrays of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posegeom_models.data.files import MotionFileError, check_size
from posegeom_models.data.samples import FrameReference

Image = NDArray[np.uint8]


def read_image(path: str | Path, gray: bool = False) -> Image:
    """An image file as (H, W, 3) RGB, or (H, W) of one channel as it is stored (label numbers, masks).

    Raises:
        MotionFileError: not an image, cut off, or too large.
        FileNotFoundError: no such file.
    """
    from PIL import Image as Pillow

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image")
    try:
        with Pillow.open(path) as opened:
            check_size(path, 3 * opened.width * opened.height, "the image unpacks to")
            if gray and opened.mode not in ("L", "P", "1", "I;16", "I"):
                opened = opened.convert("L")
            array = np.asarray(opened if gray else _rgb(opened))
    except MotionFileError:
        raise
    except Exception as error:  # Pillow's many decoders fail in many ways
        raise MotionFileError(f"{path}: not a readable image (truncated or damaged): {error}") from None
    if gray and array.dtype == bool:
        array = array * np.uint8(255)
    if array.max(initial=0) > 255:
        raise MotionFileError(f"{path}: must hold values up to 255, got {array.max()}")
    return np.ascontiguousarray(array, dtype=np.uint8)


def _rgb(opened: Any) -> Any:
    """An opened image in RGB; of 16 bits, the upper eight: Pillow would cut greys at 255 instead."""
    deep = opened.mode.startswith("I;16") or (opened.mode == "I" and np.asarray(opened).max(initial=0) > 255)
    if deep:
        from PIL import Image as Pillow

        opened = Pillow.fromarray((np.asarray(opened) >> 8).clip(0, 255).astype(np.uint8))
    return opened.convert("RGB")


def read_frame(reference: FrameReference) -> Image:
    """The (H, W, 3) RGB image that a sample refers to, from its file or its video."""
    if reference.number is None:
        return read_image(reference.path)
    from posegeom_models.data.video import Video

    with Video(reference.path) as video:
        return video.frame(reference.number).image
