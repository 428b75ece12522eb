import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posegeom import BODY_17, joint_heatmaps, limb_maps, skeleton_image, soft_argmax

few = settings(max_examples=50, deadline=None)
seeds = st.integers(0, 2**31 - 1)
SIZE = (12, 17)
BONES = ((0, 1), (1, 2), (1, 3))


def random_points(seed, count=4):
    rng = np.random.default_rng(seed)
    return rng.uniform((-4, -4), (SIZE[1] + 4, SIZE[0] + 4), size=(count, 2)), rng


def per_pixel(value):
    """value(x, y) of every pixel, with integers as the pixels' centres, x the column and y the row."""
    return np.array([[value(x, y) for x in range(SIZE[1])] for y in range(SIZE[0])])


# --- joints -----------------------------------------------------------------------------------------------------------
@few
@given(seeds, st.floats(0.3, 20))
def test_heatmaps_are_the_gaussian_of_the_distance(seed, sigma):
    points, _ = random_points(seed)
    maps = joint_heatmaps(torch.from_numpy(points), SIZE, sigma).numpy()
    for (px, py), drawn in zip(points, maps, strict=True):
        expected = per_pixel(lambda x, y, px=px, py=py: math.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)))
        np.testing.assert_allclose(drawn, expected, atol=1e-13)


def test_sigma_is_a_standard_deviation_in_pixels():
    drawn = joint_heatmaps(torch.tensor([[8.0, 6.0]], dtype=torch.float64), SIZE, 2.0)[0].numpy()
    assert drawn[6, 8] == 1
    assert drawn[6, 10] == pytest.approx(math.exp(-0.5))  # one sigma to the right
    across = drawn[6] / drawn[6].sum()
    assert (across * (np.arange(17) - 8) ** 2).sum() == pytest.approx(4.0, abs=0.02)


@pytest.mark.parametrize("shape", [(), (4,), (1, 4), (3, 4)])
def test_every_joint_can_have_its_own_sigma(shape):
    points = torch.from_numpy(np.stack([random_points(k)[0] for k in range(3)]))
    sigma = torch.rand(shape, dtype=torch.float64) + 0.5
    maps = joint_heatmaps(points, SIZE, sigma)
    each = sigma.expand(3, 4)
    for b in range(3):
        for j in range(4):
            alone = joint_heatmaps(points[b, j : j + 1], SIZE, each[b, j].item())[0]
            torch.testing.assert_close(maps[b, j], alone, atol=1e-13, rtol=0)


# --- limbs ------------------------------------------------------------------------------------------------------------
@few
@given(seeds, st.floats(0.4, 4), st.floats(0.1, 1.0))
def test_limb_maps_are_the_turned_gaussian(seed, width, stretch):
    points, _ = random_points(seed)
    maps = limb_maps(torch.from_numpy(points), BONES, SIZE, width, stretch).numpy()
    for (a, b), drawn in zip(BONES, maps, strict=True):
        middle, vector = (points[a] + points[b]) / 2, points[b] - points[a]
        theta, length = math.atan2(vector[1], vector[0]), np.linalg.norm(vector)
        sigma_x = max(stretch * length, 1e-3)

        def value(x, y, middle=middle, theta=theta, sigma_x=sigma_x):
            c, s = math.cos(-theta), math.sin(-theta)
            dx, dy = x - middle[0], y - middle[1]
            turned = (c * dx - s * dy, s * dx + c * dy)
            return math.exp(-0.5 * (turned[0] / sigma_x) ** 2 - 0.5 * (turned[1] / width) ** 2)

        np.testing.assert_allclose(drawn, per_pixel(value), atol=1e-12)


def test_both_ends_of_a_slanted_limb_are_on_its_ridge():
    # Turned by +θ instead of −θ (as printed in 002) the ends of this bone are far off the ridge.
    start, end = np.array([2.0, 1.0]), np.array([14.0, 10.0])
    points = torch.from_numpy(np.stack((start, end)))
    drawn = limb_maps(points, [(0, 1)], SIZE, width=1.0, stretch=0.5)[0]
    at_end = math.exp(-0.5)  # half a length is one σ_x at stretch 0.5
    assert drawn[1, 2].item() == pytest.approx(at_end, abs=1e-12)
    assert drawn[10, 14].item() == pytest.approx(at_end, abs=1e-12)
    assert drawn[10, 2].item() < 1e-6
    assert drawn[1, 14].item() < 1e-6


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_every_bone_can_have_its_own_width_and_stretch(shape):
    points = torch.from_numpy(np.stack([random_points(k)[0] for k in range(2)]))
    width, stretch = torch.rand(shape, dtype=torch.float64) + 0.5, torch.rand(shape, dtype=torch.float64) + 0.2
    maps = limb_maps(points, BONES, SIZE, width, stretch)
    for b in range(2):
        for n in range(3):
            w, s = width.expand(2, 3)[b, n].item(), stretch.expand(2, 3)[b, n].item()
            alone = limb_maps(points[b], [BONES[n]], SIZE, w, s)[0]
            torch.testing.assert_close(maps[b, n], alone, atol=1e-13, rtol=0)


def test_a_limb_of_length_zero_is_a_line_along_x_of_a_thousandth_pixel():
    points = torch.full((2, 2), 5.0, dtype=torch.float64, requires_grad=True)
    drawn = limb_maps(points, [(0, 1)], SIZE, width=1.0)[0]
    assert drawn[5, 5] == 1
    assert drawn[5, 6] == 0
    assert drawn[6, 5].item() == pytest.approx(math.exp(-0.5))
    drawn.sum().backward()
    assert points.grad.isfinite().all()


# --- stick figures ----------------------------------------------------------------------------------------------------
@few
@given(seeds, st.floats(0.05, 3), st.sampled_from([1, 2]))
def test_stick_figures_fade_with_the_distance_to_the_nearest_bone(seed, gamma, power):
    points, _ = random_points(seed)
    drawn = skeleton_image(torch.from_numpy(points), BONES, SIZE, gamma, power).numpy()
    steps = np.linspace(0, 1, 4001)[:, None]
    on_bones = np.concatenate([points[a] + steps * (points[b] - points[a]) for a, b in BONES])

    def distance(x, y):
        return np.sqrt(((on_bones - (x, y)) ** 2).sum(1).min())

    # Samples are at most |bone|/8000 from the nearest point, which moves d by at most that much.
    d = per_pixel(distance)
    slack = max(np.linalg.norm(points[b] - points[a]) for a, b in BONES) / 8000
    upper, lower = np.exp(-gamma * np.maximum(d - slack, 0) ** power), np.exp(-gamma * d**power)
    assert (drawn >= lower - 1e-12).all()
    assert (drawn <= upper + 1e-12).all()


def test_the_two_published_looks_have_the_half_height_of_the_public_code():
    # Un-squared, γ = 25 on [−1, 1] is half as high at 0.0277 of the half width: 1.76 pixels of 128.
    points = torch.tensor([[40.0, 64.0], [90.0, 64.0]], dtype=torch.float64)
    for gamma, power in ((0.394, 1), (0.224, 2)):
        profile = skeleton_image(points, [(0, 1)], (128, 128), gamma, power)[:, 64].numpy()
        assert profile[64] == pytest.approx(1, abs=1e-7)
        beyond = np.arange(64)
        half = np.interp(-0.5, -profile[64:], beyond)  # linear between pixels 1 and 2
        exact = (math.log(2) / gamma) ** (1 / power)
        assert exact == pytest.approx(1.76, abs=0.005)
        assert half == pytest.approx(exact, abs=0.1)
    unsquared = skeleton_image(points, [(0, 1)], (128, 128), 0.394, 1)[64 + 5, 64].item()
    assert unsquared == pytest.approx(math.exp(-25 * 5 * 2 / 127), abs=5e-3)


def test_bones_shorter_than_a_thousandth_pixel_are_points():
    points = torch.tensor([[5.0, 5.0], [5.0, 5.0]], dtype=torch.float64, requires_grad=True)
    for power in (1, 2):
        drawn = skeleton_image(points, [(0, 1)], SIZE, 0.5, power)
        expected = per_pixel(lambda x, y, power=power: math.exp(-0.5 * math.hypot(x - 5, y - 5) ** power))
        np.testing.assert_allclose(drawn.detach(), expected, atol=1e-12)
        (gradient,) = torch.autograd.grad(drawn.sum(), points)
        assert gradient.isfinite().all()


# --- gradients --------------------------------------------------------------------------------------------------------
def test_gradients_of_the_maps_are_those_of_finite_differences():
    points = torch.from_numpy(random_points(3)[0]).requires_grad_()
    sigma = torch.tensor([1.0, 2.0, 1.5, 3.0], dtype=torch.float64, requires_grad=True)
    width = torch.tensor([1.0, 2.0, 1.5], dtype=torch.float64, requires_grad=True)
    stretch = torch.tensor([0.3, 0.5, 0.4], dtype=torch.float64, requires_grad=True)
    seen = torch.tensor([1.0, 0.5, 0.7, 0.9], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda p, s, v: joint_heatmaps(p, (5, 6), s, v), (points, sigma, seen))
    torch.autograd.gradcheck(
        lambda p, w, s, v: limb_maps(p, BONES, (5, 6), w, s, v), (points, width, stretch, seen), atol=1e-4
    )
    torch.autograd.gradcheck(lambda p, v: skeleton_image(p, BONES, (5, 6), 0.2, 2, v), (points, seen), atol=1e-4)
    torch.autograd.gradcheck(lambda p: skeleton_image(p, BONES, (5, 6), 0.2, 1), (points,), atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3, 1e6])
def test_values_and_gradients_are_finite_for_every_position(scale):
    generator = torch.Generator().manual_seed(0)
    points = ((torch.rand(17, 2, generator=generator) - 0.5) * 2 * scale).requires_grad_()
    drawn = [
        joint_heatmaps(points, (16, 16), 1e-3),
        limb_maps(points, BODY_17.bones, (16, 16), 1e-3, 1e-3),
        skeleton_image(points, BODY_17.bones, (16, 16), 1e3, 1),
        skeleton_image(points, BODY_17.bones, (16, 16), 1e3, 2),
    ]
    for image in drawn:
        assert image.isfinite().all()
        (gradient,) = torch.autograd.grad(image.sum(), points, retain_graph=True)
        assert gradient.isfinite().all()


# --- visibility -------------------------------------------------------------------------------------------------------
def test_a_hidden_joint_and_its_bones_are_empty_and_the_others_as_before():
    points = torch.from_numpy(random_points(1)[0])
    visible = torch.tensor([True, True, False, True])
    maps, limbs = joint_heatmaps(points, SIZE, 2.0, visible), limb_maps(points, BONES, SIZE, 1.0, visible=visible)
    assert maps[2].abs().max() == 0
    assert limbs[1].abs().max() == 0
    torch.testing.assert_close(maps[[0, 1, 3]], joint_heatmaps(points, SIZE, 2.0)[[0, 1, 3]])
    torch.testing.assert_close(limbs[[0, 2]], limb_maps(points, BONES, SIZE, 1.0)[[0, 2]])
    figure = skeleton_image(points, BONES, SIZE, 0.3, visible=visible)
    torch.testing.assert_close(figure, skeleton_image(points, [BONES[0], BONES[2]], SIZE, 0.3))
    for nothing in (torch.zeros(4, dtype=torch.bool), torch.zeros(4), torch.zeros(4, dtype=torch.int64)):
        assert skeleton_image(points, BONES, SIZE, 0.3, visible=nothing).abs().max() == 0


def test_weights_scale_joints_and_a_bone_has_the_smaller_one_of_its_ends():
    points = torch.from_numpy(random_points(2)[0])
    weight = torch.tensor([0.9, 0.4, 0.7, 0.2], dtype=torch.float64)
    full = joint_heatmaps(points, SIZE, 2.0)
    torch.testing.assert_close(joint_heatmaps(points, SIZE, 2.0, weight), weight[:, None, None] * full)
    smaller = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)[:, None, None]
    limbs = limb_maps(points, BONES, SIZE, 1.0)
    torch.testing.assert_close(limb_maps(points, BONES, SIZE, 1.0, visible=weight), smaller * limbs)
    alone = torch.stack([skeleton_image(points, [bone], SIZE, 0.3) for bone in BONES])
    figure = skeleton_image(points, BONES, SIZE, 0.3, visible=weight)
    torch.testing.assert_close(figure, (smaller * alone).amax(0))


def test_a_bool_mask_hides_even_a_nan_point_with_finite_gradients():
    visible = torch.tensor([True, True, False, True])
    values = random_points(1)[0]
    values[2] = np.nan
    points = torch.from_numpy(values).requires_grad_()
    for image in (
        joint_heatmaps(points, SIZE, 2.0, visible),
        limb_maps(points, BONES, SIZE, 1.0, visible=visible),
        skeleton_image(points, BONES, SIZE, 0.3, visible=visible),
        skeleton_image(points, BONES, SIZE, 0.3, power=1, visible=visible.int()),
    ):
        assert image.isfinite().all()
        assert image.max() > 0
        (gradient,) = torch.autograd.grad(image.sum(), points)
        assert gradient.isfinite().all()
        assert gradient[2].abs().max() == 0


# --- back to points ---------------------------------------------------------------------------------------------------
@few
@given(seeds, st.booleans(), st.floats(2.5, 4))
def test_soft_argmax_gives_back_the_rendered_point(seed, marginal, sigma):
    rng = np.random.default_rng(seed)
    point = rng.uniform(16, (31, 23), size=(3, 2))  # (x, y), well inside 40 × 48
    maps = joint_heatmaps(torch.from_numpy(point), (40, 48), sigma)
    # A marginal profile is the Gaussian times its integral over the other axis, divided by that axis' length.
    temperature = 0.06 * (sigma * math.sqrt(2 * math.pi) / 44 if marginal else 1)
    found = soft_argmax(maps, temperature, marginal).numpy()
    np.testing.assert_allclose(found, point, atol=0.02)


@few
@given(seeds, st.floats(0.1, 5))
def test_soft_argmax_is_the_expectation(seed, temperature):
    heat = np.random.default_rng(seed).normal(size=(2, *SIZE))
    x, y = np.arange(SIZE[1]), np.arange(SIZE[0])
    for h, found in zip(heat, soft_argmax(torch.from_numpy(heat), temperature).numpy(), strict=True):
        p = np.exp(h / temperature)
        p /= p.sum()
        np.testing.assert_allclose(found, [(p * x).sum(), (p * y[:, None]).sum()], atol=1e-10)
    for h, found in zip(heat, soft_argmax(torch.from_numpy(heat), temperature, marginal=True).numpy(), strict=True):
        across, down = np.exp(h.mean(0) / temperature), np.exp(h.mean(1) / temperature)
        np.testing.assert_allclose(found, [across @ x / across.sum(), down @ y / down.sum()], atol=1e-10)


def test_maps_come_in_the_wanted_dtype_and_shape():
    points = torch.rand(2, 3, 4, 2) * 10
    assert joint_heatmaps(points, SIZE, 1.0, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert limb_maps(points.half(), BONES, SIZE, 1.0).dtype == torch.float16
    assert skeleton_image(points.double(), BONES, SIZE, 1.0).dtype == torch.float64
    assert joint_heatmaps(points, SIZE, 1.0).shape == (2, 3, 4, *SIZE)
    assert limb_maps(points, BONES, SIZE, 1.0).shape == (2, 3, 3, *SIZE)
    assert skeleton_image(points, BONES, SIZE, 1.0).shape == (2, 3, *SIZE)
    assert joint_heatmaps(points[:0], SIZE, 1.0).shape == (0, 3, 4, *SIZE)
    # Computed in float32: half precision costs one rounding of the points and one of the result.
    exact = joint_heatmaps(points.half().float(), SIZE, 1.0)
    assert (joint_heatmaps(points.half(), SIZE, 1.0).float() - exact).abs().max() <= 2**-11


def test_widths_and_stretches_may_be_single_tensors():
    points = torch.rand(2, 3, 2) * 8
    bones = [(0, 1), (1, 2)]
    got = limb_maps(points, bones, (8, 9), torch.tensor(1.5), torch.tensor(0.4))
    torch.testing.assert_close(got, limb_maps(points, bones, (8, 9), 1.5, 0.4))
