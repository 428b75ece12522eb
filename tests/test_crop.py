import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import affine_grid, grid_sample

from posegeom import composite, crop, paste

few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**31 - 1)
sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))


def random_boxes(rng, count):
    return torch.from_numpy(np.concatenate((rng.uniform(0.1, 1.4, (count, 2)), rng.uniform(-1, 1, (count, 2))), 1))


def rows_of(sx, sy, ux, uy):
    """The affine rows [sx 0 ux; 0 sy uy] of a batch."""
    zero = torch.zeros_like(sx)
    return torch.stack((torch.stack((sx, zero, ux), -1), torch.stack((zero, sy, uy), -1)), -2)


def crop_by_grid_sample(images, boxes, size):
    grid = affine_grid(rows_of(*boxes.unbind(-1)), [len(images), 1, *size], align_corners=False)
    return grid_sample(images, grid, align_corners=False)


def paste_by_grid_sample(patches, boxes, size, padding):
    sx, sy, ux, uy = boxes.unbind(-1)
    rows = rows_of(1 / sx, 1 / sy, -ux / sx, -uy / sy)
    grid = affine_grid(rows, [len(patches), 1, *size], align_corners=False)
    return grid_sample(patches, grid, align_corners=False, padding_mode=padding)


@few
@given(seeds, sizes, sizes)
def test_crop_is_grid_sample_on_the_boxs_affine_grid(seed, image_size, size):
    rng = np.random.default_rng(seed)
    images, boxes = torch.from_numpy(rng.normal(size=(3, 2, *image_size))), random_boxes(rng, 3)
    torch.testing.assert_close(crop(images, boxes, size), crop_by_grid_sample(images, boxes, size), atol=1e-11, rtol=0)
    single = crop(images.float(), boxes.float(), size)
    torch.testing.assert_close(single.double(), crop_by_grid_sample(images, boxes, size), atol=1e-4, rtol=0)


@few
@given(seeds, sizes, sizes, st.sampled_from(["zeros", "border"]))
def test_paste_is_grid_sample_on_the_inverse_affine_grid(seed, image_size, size, padding):
    rng = np.random.default_rng(seed)
    patches, boxes = torch.from_numpy(rng.normal(size=(3, 2, *size))), random_boxes(rng, 3)
    expected = paste_by_grid_sample(patches, boxes, image_size, padding)
    torch.testing.assert_close(paste(patches, boxes, image_size, padding), expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("padding", ["crop", "zeros", "border"])
def test_gradients_are_those_of_grid_sample_and_of_finite_differences(padding):
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.normal(size=(2, 2, 7, 9))).requires_grad_()
    boxes = random_boxes(rng, 2).requires_grad_()
    weight = torch.from_numpy(rng.normal(size=(2, 2, 5, 6)))
    if padding == "crop":
        ours, theirs = crop(images, boxes, (5, 6)), crop_by_grid_sample(images, boxes, (5, 6))
    else:
        ours = paste(images, boxes, (5, 6), padding)
        theirs = paste_by_grid_sample(images, boxes, (5, 6), padding)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), (images, boxes)),
        torch.autograd.grad((theirs * weight).sum(), (images, boxes)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    if padding == "crop":
        torch.autograd.gradcheck(lambda i, b: crop(i, b, (4, 5)), (images, boxes), atol=1e-4)
    else:
        torch.autograd.gradcheck(lambda i, b: paste(i, b, (4, 5), padding), (images, boxes), atol=1e-4)


def smooth_image(rng, size):
    """A few low frequencies, as a function of the position in [−1, 1]², so that any resolution shows the same."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    x, y = (2 * x + 1 - width) / width, (2 * y + 1 - height) / height
    waves = zip(rng.uniform(-2, 2, (4, 2)), rng.uniform(0, 6.28, 4), strict=True)
    return np.mean([np.sin(a * x + b * y + phase) for (a, b), phase in waves], axis=0)


@few
@given(seeds, st.floats(0.3, 0.8), st.floats(0.3, 0.8))
def test_paste_after_crop_gives_a_band_limited_image_back_inside_the_box(seed, sx, sy):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(smooth_image(rng, (48, 64)))[None, None]
    ux, uy = rng.uniform(-1, 1, 2) * (1 - np.array([sx, sy]))
    boxes = torch.tensor([[sx, sy, ux, uy]], dtype=torch.float64)
    again = paste(crop(image, boxes, (96, 128)), boxes, (48, 64))[0, 0].numpy()
    y, x = np.mgrid[:48, :64]
    in_x = np.abs((2 * x + 1 - 64) / 64 - ux) < sx - 2 / 64
    in_y = np.abs((2 * y + 1 - 48) / 48 - uy) < sy - 2 / 48
    inside, outside = in_x & in_y, (np.abs((2 * x + 1 - 64) / 64 - ux) > sx + 2 / 64)
    assert inside.any()
    assert np.abs(again - image[0, 0].numpy())[inside].max() < 0.01
    assert np.abs(again[outside]).max(initial=0) == 0


def test_the_whole_image_as_a_box_changes_nothing():
    image = torch.rand(2, 3, 10, 14)
    whole = torch.tensor([1.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(crop(image, whole, (10, 14)), image, atol=1e-5, rtol=0)
    for padding in ("zeros", "border"):
        torch.testing.assert_close(paste(image, whole, (10, 14), padding), image, atol=1e-5, rtol=0)


def test_a_crop_of_whole_pixels_is_a_slice():
    image = torch.rand(3, 12, 20, dtype=torch.float64)
    # Columns 5..15 and rows 3..9: middle (10, 6) of (20, 12) from the left edge, so u = 0; half extents 10/20, 6/12.
    torch.testing.assert_close(crop(image, torch.tensor([0.5, 0.5, 0, 0]).double(), (6, 10)), image[:, 3:9, 5:15])
    box = torch.tensor([0.25, 0.25, 0.75, -0.75]).double()  # the top right corner
    torch.testing.assert_close(crop(image, box, (3, 5)), image[:, :3, 15:])
    pasted = paste(image[:, :3, 15:], box, (12, 20))
    torch.testing.assert_close(pasted[:, :3, 15:], image[:, :3, 15:])
    assert pasted[:, 3:].abs().max() < 1e-12


def test_a_negative_extent_mirrors_and_a_box_outside_is_empty():
    image = torch.rand(1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(crop(image, torch.tensor([-1.0, 1, 0, 0]).double(), (8, 8)), image.flip(-1))
    assert crop(image, torch.tensor([0.2, 0.2, 3.0, 0]).double(), (8, 8)).abs().max() == 0


@pytest.mark.parametrize("value", [0.0, 1e-12, 1e6, -1e6])
def test_extreme_boxes_have_finite_values_and_gradients(value):
    image = torch.rand(1, 8, 8, requires_grad=True)
    for place in range(4):
        box = torch.tensor([0.5, 0.5, 0.0, 0.0])
        box[place] = value
        box.requires_grad_()
        for result in (crop(image, box, (6, 6)), paste(image, box, (6, 6)), paste(image, box, (6, 6), "border")):
            assert result.isfinite().all()
            for gradient in torch.autograd.grad(result.sum(), (image, box)):
                assert gradient.isfinite().all()


def test_one_box_serves_a_batch_and_boxes_serve_one_image():
    images, boxes = torch.rand(4, 2, 9, 9), random_boxes(np.random.default_rng(0), 4).float()
    assert torch.equal(crop(images, boxes[0], (5, 5))[2], crop(images[2], boxes[0], (5, 5)))
    assert torch.equal(crop(images[0], boxes, (5, 5))[2], crop(images[0], boxes[2], (5, 5)))
    assert crop(images[:0], boxes[:0], (5, 5)).shape == (0, 2, 5, 5)


def test_composite_is_foreground_over_background():
    rng = np.random.default_rng(0)
    front, back, mask = rng.random((2, 3, 4, 5)), rng.random((2, 3, 4, 5)), rng.random((2, 1, 4, 5))
    made = composite(*(torch.from_numpy(value) for value in (front, mask, back))).numpy()
    np.testing.assert_allclose(made, mask * front + (1 - mask) * back)
    per_channel = rng.random((2, 3, 4, 5))
    made = composite(*(torch.from_numpy(value) for value in (front, per_channel, back[0]))).numpy()
    np.testing.assert_allclose(made, per_channel * front + (1 - per_channel) * back[0])
