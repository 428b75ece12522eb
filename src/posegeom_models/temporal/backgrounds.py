"""Backgrounds of cameras that turn (S.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posegeom_models.data.packages import require
from posegeom_models.data.reels import Reel

FRAMES = 31
"""Frames that a panorama's median is taken over, at most."""

RATIO = 0.75
"""A correspondence counts if its descriptor is nearer than this share of the second nearest one's distance."""

FEWEST = 8
"""Correspondences that a homography is estimated from, at least."""

WIDEST = 8
"""A panorama is at most so many pictures wide and high: a homography that wants more has gone wrong."""

Pictures = NDArray[np.uint8]


def panorama(images: Pictures) -> Pictures:
    """The backgrounds of a camera that turns: the median over a panorama, seen as each frame sees it.

    Frames are joined one to the next by a homography of SIFT correspondences, as 003 does on Ski; the middle frame's
    plane holds the panorama. Where no other frame looks, a frame's own picture stays.

    Args:
        images: (T, H, W, 3) of one clip.

    Returns:
        (T, H, W, 3).

    Raises:
        ValueError: two frames with too few correspondences, or whose homographies lead nowhere; their numbers are told.
    """
    cv2 = require("cv2", "a background panorama", "opencv-python-headless")
    count, height, width = images.shape[:3]
    steps = _homographies(cv2, images)
    middle = count // 2
    to_middle = [np.eye(3)] * count
    for frame in range(middle + 1, count):
        to_middle[frame] = to_middle[frame - 1] @ steps[frame - 1]
    for frame in range(middle - 1, -1, -1):
        to_middle[frame] = to_middle[frame + 1] @ np.linalg.inv(steps[frame])
    corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float64)
    outline = np.concatenate([cv2.perspectiveTransform(corners, matrix)[0] for matrix in to_middle])
    low, high = np.floor(outline.min(0)), np.ceil(outline.max(0))
    if not np.isfinite(outline).all() or (high - low > WIDEST * np.array([width, height])).any():
        raise ValueError(f"the homographies of {count} frames lead to a panorama of {high - low} pixels")
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    place = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1]])
    some = np.unique(np.linspace(0, count - 1, min(count, FRAMES)).round().astype(int))
    layers = np.full((len(some), size[1], size[0], 3), np.nan, np.float32)
    for layer, frame in zip(layers, some, strict=True):
        matrix = place @ to_middle[frame]
        seen = cv2.warpPerspective(np.ones((height, width), np.uint8), matrix, size) > 0
        # Pixels that a frame covers in part take its edge's colour, not the black beyond it.
        shown = cv2.warpPerspective(images[frame], matrix, size, borderMode=cv2.BORDER_REPLICATE)
        layer[seen] = shown[seen]
    known = ~np.isnan(layers[..., 0]).all(0)
    layers[:, ~known] = 0
    wide = np.nanmedian(layers, axis=0)
    found: Pictures = images.copy()
    for frame in range(count):
        back = np.linalg.inv(place @ to_middle[frame])
        shown = cv2.warpPerspective(wide, back, (width, height), borderMode=cv2.BORDER_REPLICATE)
        sure = cv2.warpPerspective(known.astype(np.float32), back, (width, height)) > 0.999
        found[frame][sure] = np.clip(shown.round(), 0, 255).astype(np.uint8)[sure]
    return found


def _homographies(cv2: Any, images: Pictures) -> list[NDArray[np.float64]]:
    """From each frame but the first to the one before it."""
    finder, matcher = cv2.SIFT_create(), cv2.BFMatcher()
    told = [finder.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None) for image in images]
    found = []
    for number in range(1, len(images)):
        (points, here), (others, there) = told[number], told[number - 1]
        pairs = [] if here is None or there is None or len(there) < 2 else matcher.knnMatch(here, there, k=2)
        good = [near for near, second in pairs if near.distance < RATIO * second.distance]
        matrix = None
        if len(good) >= FEWEST:
            source = np.array([points[match.queryIdx].pt for match in good])
            target = np.array([others[match.trainIdx].pt for match in good])
            matrix, _ = cv2.findHomography(source, target, cv2.RANSAC, 2.0)
        if matrix is None:
            raise ValueError(
                f"frames {number - 1} and {number} have {len(good)} correspondences, and a homography needs {FEWEST}"
            )
        found.append(matrix)
    return found


def with_panoramas(reel: Reel) -> Reel:
    """A reel of footage whose clips that move have a panorama for a background.

    They count as still from then on: their background is known. Clips that give no panorama go on moving.
    """
    background, moving = reel.background.clone(), reel.moving.clone()
    for clip in torch.unique(reel.clip).tolist():
        rows = torch.nonzero(reel.clip == clip).flatten()
        if not reel.moving[rows].any():
            continue
        try:
            made = panorama(reel.image[rows].movedim(1, -1).numpy())
        except ValueError:
            continue
        background[rows] = torch.from_numpy(made).movedim(-1, 1)
        moving[rows] = False
    return replace(reel, background=background, moving=moving)
