"""Backgrounds of turning cameras, against walls of which everything is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")

from posegeom_models.temporal import backgrounds
from posegeom_models.temporal.backgrounds import panorama, with_panoramas
from tests.test_temporal_sampling import reel_of

cv2 = pytest.importorskip("cv2")

SIDE, FRAMES = 96, 13


def filmed() -> tuple[np.ndarray, np.ndarray]:
    """A camera that pans and rolls over a wall of blots, a white square that walks before it; and the wall alone."""
    random = np.random.default_rng(3)
    wall = np.zeros((240, 420, 3), np.uint8)
    for _ in range(900):
        middle = (int(random.integers(420)), int(random.integers(240)))
        color = [int(each) for each in random.integers(30, 200, 3)]
        cv2.circle(wall, middle, int(random.integers(3, 12)), color, -1, cv2.LINE_AA)
    wall = cv2.GaussianBlur(wall, (0, 0), 1.0)
    images, walls = [], []
    for frame in range(FRAMES):
        angle = np.deg2rad(0.8 * (frame - 6))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shift = np.array([60 + 14 * frame, 80 + 2 * frame]) - turn @ np.array([48, 48]) + 48
        matrix = np.concatenate([turn, shift[:, None]], axis=1)
        seen = cv2.warpAffine(wall, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        walls.append(seen.copy())
        left = 10 + 5 * frame
        seen[35:65, left : left + 14] = 250
        images.append(seen)
    return np.stack(images), np.stack(walls)


def test_a_panorama_sees_behind_who_walks_before_it() -> None:
    images, walls = filmed()
    found = panorama(images).astype(float)
    hidden = np.abs(images.astype(float) - walls).max(-1) > 0
    before = np.abs(images.astype(float) - walls)[hidden].mean()
    after = np.abs(found - walls)[hidden].mean()
    assert before > 100
    assert after < 0.1 * before
    assert np.abs(found - walls)[~hidden].mean() < 8


def test_a_white_walls_panorama_is_white_to_its_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames half a pixel apart cover half of the pixels at their edges."""
    step = np.eye(3)
    step[0, 2] = 0.5
    monkeypatch.setattr(backgrounds, "_homographies", lambda cv2, images: [step] * (len(images) - 1))
    found = panorama(np.full((4, 8, 12, 3), 240, np.uint8))
    assert int(found.min()) == 240


def test_frames_without_correspondences_are_told_by_their_numbers() -> None:
    images, _ = filmed()
    images[5] = 128
    with pytest.raises(ValueError, match="frames 4 and 5 have 0 correspondences, and a homography needs 8"):
        panorama(images)


def test_moving_clips_get_panoramas() -> None:
    images, walls = filmed()
    pictures = torch.from_numpy(images).movedim(-1, 1)
    blank = torch.full_like(pictures, 128)
    moving = torch.tensor([True] * FRAMES + [False] * FRAMES + [True] * FRAMES)
    plain = reel_of(FRAMES, FRAMES, FRAMES)
    reel = replace(
        plain,
        image=torch.cat((pictures, pictures, blank)),
        background=torch.zeros(39, 3, SIDE, SIDE).byte(),
        moving=moving,
    )
    turned = with_panoramas(reel)
    assert turned.moving.tolist() == [False] * 26 + [True] * FRAMES  # what shows nothing gives no panorama
    error = np.abs(turned.background[:FRAMES].movedim(1, -1).numpy().astype(float) - walls)
    assert error.mean() < 8
    assert not turned.background[FRAMES:].any()
