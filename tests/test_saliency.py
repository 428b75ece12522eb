"""Masks from files, from motion and from OpenCV, against shapes that the test draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posegeom_models.data.files import MotionFileError
from posegeom_models.data.saliency import motion_saliency, opencv_saliency, read_mask

RANDOM = np.random.default_rng(0)
WALL = RANDOM.integers(60, 120, (60, 80, 3)).astype(np.uint8)


def scene(top: int = 10, left: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """A ring (its hole belongs to the person) before a noisy wall, with a speck; and the person's mask."""
    image = (WALL.astype(int) + RANDOM.integers(-6, 7, WALL.shape)).clip(0, 255).astype(np.uint8)
    truth = np.zeros(WALL.shape[:2], bool)
    truth[top : top + 30, left : left + 24] = True
    image[truth] = (230, 200, 190)
    image[top + 10 : top + 18, left + 8 : left + 16] = WALL[top + 10 : top + 18, left + 8 : left + 16]
    image[2, 2] = 255
    return image, truth


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_motion_saliency_finds_the_person_fills_holes_and_drops_specks() -> None:
    image, truth = scene()
    mask = motion_saliency(image, WALL)
    assert mask.dtype == bool
    assert overlap(mask, truth) > 0.95
    assert not mask[2, 2]
    assert not motion_saliency(WALL, WALL).any()
    with pytest.raises(ValueError, match=r"must have one shape \(H, W, 3\), got \(60, 80, 3\) and \(60, 79, 3\)"):
        motion_saliency(image, WALL[:, :-1])


def test_two_people_are_both_kept_and_one_at_the_edge_too() -> None:
    image = WALL.copy()
    image[0:20, 0:10] = image[40:60, 60:80] = 250
    mask = motion_saliency(image, WALL)
    assert mask[0:20, 0:10].all()
    assert mask[40:60, 60:80].all()
    assert mask.sum() < 1.1 * (200 + 400)


@pytest.mark.parametrize("kind", ["L 0/255", "L 0/1", "1", "RGB", "jpg"])
def test_masks_are_read_however_they_are_written(tmp_path: Path, kind: str) -> None:
    truth = scene()[1]
    path = tmp_path / ("a.jpg" if kind == "jpg" else "a.png")
    bright = Image.fromarray(truth.astype(np.uint8) * (1 if kind == "L 0/1" else 255))
    bright.convert({"1": "1", "RGB": "RGB"}.get(kind, "L")).save(path)
    np.testing.assert_array_equal(read_mask(path, (60, 80)), truth)
    with pytest.raises(MotionFileError, match=r"the mask must be 60 × 81 like its image, got \(60, 80\)"):
        read_mask(path, (60, 81))


def test_opencv_learns_the_background() -> None:
    pytest.importorskip("cv2")
    image, truth = scene()
    empty = [(WALL.astype(int) + RANDOM.integers(-6, 7, WALL.shape)).astype(np.uint8) for _ in range(40)]
    masks = list(opencv_saliency([*empty, image]))
    assert len(masks) == 41
    assert masks[-1].dtype == bool
    assert not masks[-2].any()
    truth[20:28, 28:36] = False  # the hole, which is the wall
    assert overlap(masks[-1], truth) > 0.9
