"""Squares cut out of images, and the way of points into the cut and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posegeom_models.data.cropping import Square

SIDE = 32


def test_a_cut_is_the_stated_line_of_positions() -> None:
    ramp = np.arange(200, dtype=np.uint8)[None, :, None].repeat(150, 0).repeat(3, -1)
    for square in (Square(20.3, 10.0, 32.0), Square(10.0, 5.5, 128.0), Square(7.7, 3.0, 100.0)):
        for side in (32, 48, 64):
            pixel = np.arange(side)
            expected = square.left + (pixel + 0.5) * square.side / side - 0.5
            image = square.cut(ramp, side)
            assert image.shape == (side, side, 3)
            np.testing.assert_allclose(image[..., 0], expected[None].repeat(side, 0), atol=1.0)
            assert abs(float((image[..., 0] - expected).mean())) <= 0.5  # bytes are rounded
            # So does the way back: what a pixel shows is where its point belongs.
            points = np.stack([pixel, pixel], axis=-1).astype(float)
            np.testing.assert_allclose(square.back(points, side)[:, 0], expected, atol=1e-9)
            down = square.top + (pixel + 0.5) * square.side / side - 0.5
            np.testing.assert_allclose(square.back(points, side)[:, 1], down, atol=1e-9)
            np.testing.assert_allclose(square.cut(ramp.transpose(1, 0, 2), side)[:, 0, 0], down, atol=1.0)


def test_a_square_far_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="too large for an image"):
        Square(0.0, 0.0, 1e9).cut(np.full((20, 30, 3), 51, np.uint8), 16)


@pytest.mark.parametrize("square", [Square(61.0, 24.0, 40.0), Square(10.4, -30.7, 154.0), Square(70.0, 40.0, 22.5)])
def test_a_point_seen_in_a_cut_is_where_it_is_in_the_image(square: Square) -> None:
    image = np.zeros((120, 200, 3), np.uint8)
    image[47:54, 77:84] = 255  # about (80, 50)
    seen = square.cut(image, SIDE)[..., 0].astype(float)
    rows, columns = np.indices(seen.shape)
    middle = np.array([(seen * columns).sum(), (seen * rows).sum()]) / seen.sum()
    np.testing.assert_allclose(square.back(middle, SIDE), (80, 50), atol=0.1)
    there = square.place(torch.tensor([80.0, 50.0]), SIDE)
    np.testing.assert_allclose(there.numpy(), middle, atol=0.1 * SIDE / square.side)
    np.testing.assert_allclose(square.back(there.double().numpy(), SIDE), (80, 50), atol=1e-4)
