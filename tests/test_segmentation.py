import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posegeom import (
    BODY_17,
    Puppet,
    depth_aware_segmentation,
    foreground_map,
    hard_segmentation,
    part_depth,
    part_maps,
    puppet_segmentation,
    uncertainty_map,
)

few = settings(max_examples=80, deadline=None)
seeds = st.integers(0, 2**31 - 1)
part_counts = st.integers(2, 24)


def segment(phi, depth, **options):
    """Maps of one pixel, (L + 1,) float64."""
    shape = torch.as_tensor(np.asarray(phi), dtype=torch.float64)[:, None, None]
    return depth_aware_segmentation(shape, torch.as_tensor(np.asarray(depth), dtype=torch.float64), **options)[:, 0, 0]


# --- the occlusion rule -----------------------------------------------------------------------------------------------
@few
@given(part_counts, seeds, st.floats(0.5, 50))
def test_the_occlusion_rule_is_its_formula(count, seed, kappa):
    rng = np.random.default_rng(seed)
    phi, depth = rng.random(count), rng.uniform(0.5, 6, count)
    s = []
    for near in range(count):
        visible = phi[near]
        for k in range(count):
            if k != near:
                o = 1 / (1 + (depth[k] / depth[near]) ** kappa)  # σ(κ ln(d_l/d_k)) written as a power
                visible *= 1 - o * phi[k]
        s.append(visible)
    s.append(np.prod(1 - phi))
    np.testing.assert_allclose(segment(phi, depth, sharpness=kappa), s / np.sum(s), atol=1e-10)


def test_the_default_sharpness_makes_five_percent_nearer_ten_to_one():
    maps = segment([0.5, 0.5], [1.0, 1.05])
    same = segment([0.5, 0.5], [1.0, 1.05], sharpness=math.log(10) / math.log(1.05))
    torch.testing.assert_close(maps, same, rtol=1e-5, atol=1e-5)
    # A hair sharper, so that the tie of a near part at .55 with a far one at 1 is decided.
    near, far, _ = segment([0.55, 1.0], [1.0, 1.05])
    assert near > far
    o = 10 / 11
    expected = np.array([0.5 * (1 - (1 - o) * 0.5), 0.5 * (1 - o * 0.5), 0.25])
    np.testing.assert_allclose(maps, expected / expected.sum(), rtol=1e-5)


@few
@given(part_counts, seeds, st.sampled_from([torch.float32, torch.float64]))
def test_maps_sum_to_one_and_are_probabilities(count, seed, dtype):
    rng = np.random.default_rng(seed)
    shape = torch.from_numpy(rng.random((2, count, 3, 4))).to(dtype)
    shape[0, :, 0, 0] = 1
    shape[0, :, 0, 1] = 0
    depth = torch.from_numpy(rng.uniform(-1, 6, (2, count))).to(dtype)
    depth[1] = depth[1, 0]
    for rule in ("occlusion", "paper"):
        maps = depth_aware_segmentation(shape, depth, rule)
        assert maps.shape == (2, count + 1, 3, 4)
        assert maps.min() >= 0
        torch.testing.assert_close(maps.sum(1), torch.ones(2, 3, 4, dtype=dtype), atol=1e-5, rtol=0)


@few
@given(part_counts, seeds, st.floats(0.51, 1.0), st.floats(0.01, 100))
def test_a_lone_part_wins_at_any_depth(count, seed, phi, depth):
    rng = np.random.default_rng(seed)
    part = rng.integers(count)
    alone, depths = np.zeros(count), rng.uniform(0.1, 10, count)
    alone[part], depths[part] = phi, depth
    assert segment(alone, depths).argmax() == part


@few
@given(part_counts, seeds)
def test_an_empty_pixel_is_background_only(count, seed):
    maps = segment(np.zeros(count), np.random.default_rng(seed).uniform(-1, 10, count))
    np.testing.assert_array_equal(maps, [0.0] * count + [1.0])


@few
@given(part_counts, seeds, st.floats(0.551, 1.0), st.floats(1.0505, 3), st.floats(0.05, 50))
def test_a_near_part_of_55_percent_hides_a_full_part_five_percent_behind(count, seed, phi, ratio, depth):
    rng = np.random.default_rng(seed)
    near, far = rng.choice(count, 2, replace=False)
    strength, depths = np.zeros(count), rng.uniform(0.1, 10, count)
    strength[near], strength[far] = phi, 1.0
    depths[near], depths[far] = depth, depth * ratio
    assert segment(strength, depths).argmax() == near


@few
@given(part_counts, seeds, st.floats(0.551, 1.0), st.floats(0.05, 50))
def test_a_near_part_wins_over_any_number_of_full_parts_behind(count, seed, phi, depth):
    rng = np.random.default_rng(seed)
    strength, depths = np.ones(count), depth * rng.uniform(1.0505, 3, count)
    near = rng.integers(count)
    strength[near], depths[near] = phi, depth
    assert segment(strength, depths).argmax() == near


@few
@given(part_counts, seeds, st.floats(0.5, 1.0), st.floats(0.05, 50))
def test_parts_of_equal_depth_are_never_background(count, seed, phi, depth):
    rng = np.random.default_rng(seed)
    strength = np.where(rng.random(count) < 0.7, phi, rng.random(count))
    strength[rng.integers(count)] = phi
    maps = segment(strength, np.full(count, depth))
    assert maps[-1] <= maps[:-1].max()
    full = depth_aware_segmentation(torch.ones(count, 1, 1), torch.full((count,), float(depth)))
    assert hard_segmentation(full).item() < count
    torch.testing.assert_close(full[:-1].flatten(), torch.full((count,), 1 / count))


def test_depths_of_zero_and_below_count_as_a_millimetre():
    for depth in (0.0, -3.0, 1e-4):
        assert torch.equal(segment([0.8, 0.7], [depth, 0.01]), segment([0.8, 0.7], [1e-3, 0.01]))


# --- the paper's rule -------------------------------------------------------------------------------------------------
def paper_in_numpy(phi, depth):
    """Steps a) to c) of 000 §3.1 for one pixel."""
    a = np.exp(phi / depth) / np.exp(phi / depth).sum()
    b = np.concatenate((a, [1 - a.max()]))
    return np.exp(b) / np.exp(b).sum()


@few
@given(part_counts, seeds)
def test_the_papers_rule_is_its_three_steps(count, seed):
    rng = np.random.default_rng(seed)
    phi, depth = rng.random(count), rng.uniform(0.1, 6, count)
    np.testing.assert_allclose(segment(phi, depth, rule="paper"), paper_in_numpy(phi, depth), atol=1e-12)


def test_the_papers_rule_at_one_metre_makes_a_lone_full_part_background():
    # One full part of 14 at depth 1: the depth softmax gives .173 to the part and .827 to the background.
    lone = np.eye(14)[3]
    maps = segment(lone, np.ones(14), rule="paper")
    strength = math.e / (math.e + 13)
    assert strength == pytest.approx(0.173, abs=5e-4)
    assert maps.argmax() == 14
    assert (maps[14] / maps[3]).item() == pytest.approx(math.exp(1 - 2 * strength))


@pytest.mark.parametrize(("count", "limit"), [(14, 0.390), (10, 0.455), (16, 0.369)])
def test_the_papers_rule_shows_a_lone_part_only_below_one_over_ln_l_minus_one(count, limit):
    assert 1 / math.log(count - 1) == pytest.approx(limit, abs=6e-4)
    lone = np.eye(count)[0]
    assert segment(lone, np.full(count, limit - 0.003), rule="paper").argmax() == 0
    assert segment(lone, np.full(count, limit + 0.003), rule="paper").argmax() == count


def test_the_papers_third_step_caps_a_part_at_e_over_e_plus_l():
    maps = segment(np.eye(14)[0], np.full(14, 1e-3), rule="paper")
    assert maps[0].item() == pytest.approx(math.e / (math.e + 14), abs=1e-9)
    assert maps[0].item() == pytest.approx(0.163, abs=5e-4)


# --- both -------------------------------------------------------------------------------------------------------------
@few
@given(part_counts, seeds, st.sampled_from(["occlusion", "paper"]))
def test_the_order_of_the_parts_does_not_matter(count, seed, rule):
    rng = np.random.default_rng(seed)
    phi, depth, order = rng.random(count), rng.uniform(0.5, 6, count), rng.permutation(count)
    there = segment(phi, depth, rule=rule)
    again = segment(phi[order], depth[order], rule=rule)
    np.testing.assert_allclose(again, there[[*order, count]], atol=1e-12)


@pytest.mark.parametrize("rule", ["occlusion", "paper"])
def test_gradients_are_those_of_finite_differences(rule):
    rng = np.random.default_rng(0)
    shape = torch.from_numpy(rng.uniform(0.1, 0.9, (5, 2, 2))).requires_grad_()
    depth = torch.from_numpy(rng.uniform(2, 2.5, 5)).requires_grad_()
    torch.autograd.gradcheck(lambda s, d: depth_aware_segmentation(s, d, rule), (shape, depth))


@pytest.mark.parametrize("rule", ["occlusion", "paper"])
@pytest.mark.parametrize("depth", [-1e6, 0.0, 1e-3, 1e6])
def test_extreme_depths_have_finite_values_and_gradients(rule, depth):
    shape = torch.tensor([1.0, 0.0, 1.0, 0.3]).view(4, 1, 1).requires_grad_()
    depths = torch.full((4,), depth).requires_grad_()
    maps = depth_aware_segmentation(shape, depths, rule)
    assert maps.isfinite().all()
    for gradient in torch.autograd.grad(maps[0].sum(), (shape, depths)):
        assert gradient.isfinite().all()


def test_hard_segmentation_is_the_strongest_class():
    maps = torch.rand(2, 5, 3, 4)
    labels = hard_segmentation(maps)
    assert labels.dtype == torch.int64
    np.testing.assert_array_equal(labels, maps.numpy().argmax(1))


def test_part_depth_is_the_mean_of_a_parts_joints():
    puppet = Puppet.capsules(BODY_17, (16, 16))
    depth = torch.rand(3, 17, dtype=torch.float64)
    expected = np.stack([depth.numpy()[:, list(joints)].mean(1) for joints in puppet.joints], axis=1)
    np.testing.assert_allclose(part_depth(depth, puppet), expected, atol=1e-15)
    assert puppet.joints[0] == tuple(BODY_17.index(f"{s}_{j}") for j in ("shoulder", "hip") for s in ("left", "right"))


@pytest.mark.parametrize("rule", ["occlusion", "paper"])
def test_the_fused_pass_is_its_parts(rule):
    generator = torch.Generator().manual_seed(0)
    puppet = Puppet.capsules(BODY_17, (24, 24))
    points = torch.rand(2, 17, 2, generator=generator) * 24
    depth = torch.rand(2, 17, generator=generator) + 2
    drawn = puppet_segmentation(points, depth, puppet, (20, 28), rule)
    maps = part_maps(points, puppet, (20, 28))
    torch.testing.assert_close(
        drawn.maps, depth_aware_segmentation(maps.shape, part_depth(depth, puppet), rule), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(drawn.foreground, maps.shape.amax(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(drawn.uncertainty, maps.uncertainty.amax(1), atol=1e-5, rtol=0)
    assert torch.equal(foreground_map(maps), maps.shape.amax(1))
    assert torch.equal(uncertainty_map(maps), maps.uncertainty.amax(1))


def test_all_results_share_the_batch_of_points_and_depth():
    puppet = Puppet.capsules(BODY_17, (16, 16))
    drawn = puppet_segmentation(torch.rand(17, 2) * 9, torch.rand(5, 17) + 2, puppet, (9, 16))
    assert drawn.maps.shape == (5, 13, 9, 16)
    assert drawn.foreground.shape == drawn.uncertainty.shape == (5, 9, 16)


@pytest.mark.parametrize("strength", [50.0, 1e6])
def test_strengths_above_one_count_as_one(strength):
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(24, generator=generator) + 2
    shape = (strength * torch.ones(24, 2, 2)).requires_grad_()
    maps = depth_aware_segmentation(shape, depth)
    torch.testing.assert_close(maps, depth_aware_segmentation(torch.ones(24, 2, 2), depth))
    assert bool(torch.autograd.grad(maps.square().sum(), shape)[0].isfinite().all())
