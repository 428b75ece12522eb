import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from posegeom import (
    BODY_17,
    H36M_17,
    bone_length_nll,
    deformation_loss,
    distance_similarity_loss,
    gravity_tracking_loss,
    info_nce_loss,
    masked_l1,
    relative_bone_lengths,
    segmentation_uncertainty_loss,
    temporal_triplet_loss,
)

few = settings(max_examples=50, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


# --- distance-similarity ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("distance", "similar", "dissimilar"),
    [(0, 1.0, 0), (10, 0.9, 0), (50, 0.5, 0), (100, 0, 0), (150, 0, 0.5), (200, 0, 1.0), (500, 0, 1.0)],
)
def test_the_weights_of_human36m_are_the_published_table(distance, similar, dissimilar):
    a, b = normal(0, 1, 6), normal(1, 1, 6)
    s = cosine(a.numpy(), b.numpy()).item()
    for d in (distance, -distance, float(distance)):
        loss = distance_similarity_loss(a, b, torch.tensor([d]), max_distance=200)
        assert loss.item() == pytest.approx(similar * (1 - s) + dissimilar * abs(s))


@few
@given(seeds, st.floats(1, 500))
def test_the_distance_similarity_loss_is_equation_five(seed, limit):
    a, b = normal(seed, 8, 5), normal(seed + 1, 8, 5)
    distance = np.random.default_rng(seed).integers(0, 600, 8)
    expected = []
    for d, s in zip(distance, cosine(a.numpy(), b.numpy()), strict=True):
        expected.append((1 - 2 * d / limit) * abs(1 - s) if d <= limit / 2 else min(2 * d / limit - 1, 1) * abs(s))
    made = [distance_similarity_loss(a, b, torch.from_numpy(distance), limit, r) for r in ("none", "mean", "sum")]
    np.testing.assert_allclose(made[0], expected, atol=1e-12)
    np.testing.assert_allclose(made[1:], [np.mean(expected), np.sum(expected)], atol=1e-12)


# --- contrastive and triplet ------------------------------------------------------------------------------------------
@few
@given(seeds, st.integers(0, 6), st.floats(0.05, 2))
def test_info_nce_is_a_cross_entropy_over_cosines(seed, count, temperature):
    anchor, positive, negatives = normal(seed, 4, 7), normal(seed + 1, 4, 7), normal(seed + 2, 4, count, 7)
    others = torch.cat((positive[:, None], negatives), dim=1)
    logits = torch.nn.functional.cosine_similarity(anchor[:, None], others, dim=-1) / temperature
    first = torch.zeros(4, dtype=torch.int64)
    for reduction in ("none", "mean", "sum"):
        expected = torch.nn.functional.cross_entropy(logits, first, reduction=reduction)
        made = info_nce_loss(anchor, positive, negatives, temperature, reduction)
        torch.testing.assert_close(made, expected, atol=1e-10, rtol=1e-10)


@few
@given(seeds, st.floats(0, 10))
def test_the_triplet_loss_is_the_hinge_of_squared_distances(seed, margin):
    a, p, n = (normal(seed + k, 6, 3) for k in range(3))
    positive, negative = ((a - p).norm(dim=-1) ** 2).numpy(), ((a - n).norm(dim=-1) ** 2).numpy()
    expected = np.maximum(0, positive + margin - negative)
    np.testing.assert_allclose(temporal_triplet_loss(a, p, n, margin, "none"), expected, atol=1e-12)
    assert temporal_triplet_loss(a, p, n, margin).item() == pytest.approx(expected.mean())


# --- gravity ----------------------------------------------------------------------------------------------------------
def falling(u, scales=(0.3, 0.4)):
    """Boxes of that vertical position, of constant size."""
    u = torch.as_tensor(u, dtype=torch.float64)
    return torch.stack((torch.full_like(u, scales[0]), torch.full_like(u, scales[1]), 0 * u, u), dim=-1)


@few
@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2), st.integers(4, 12))
def test_any_parabola_has_no_acceleration_term(start, speed, gravity, frames):
    t = torch.arange(frames, dtype=torch.float64)
    loss = gravity_tracking_loss(falling(start + speed * t + gravity * t**2), margin=0.0)
    assert loss.acceleration.item() < 1e-20
    assert loss.scale.item() == 0


def test_a_fall_in_image_coordinates_costs_nothing_and_with_the_printed_sign_it_does():
    t = torch.arange(4, dtype=torch.float64)
    u = -0.6 + 0.2 * t + 0.05 * t**2  # y grows downwards: a person falling faster and faster
    down = gravity_tracking_loss(falling(u), margin=0.1)
    assert down.total.item() == pytest.approx(0, abs=1e-20)
    printed = gravity_tracking_loss(falling(u), margin=0.1, down=-1)
    steps = (u[1:] - u[:-1]).numpy()
    assert printed.order.item() == pytest.approx(np.maximum(0, 0.1 + steps).sum())
    # The inverse transform's shift −u/s has the printed sign.
    inverse = gravity_tracking_loss(falling(-u / 0.4), margin=0.1, down=-1)
    assert inverse.order.item() == 0


@few
@given(seeds, st.integers(4, 9), st.floats(0, 0.5), st.sampled_from([-1, 1]))
def test_the_tracking_loss_is_the_mean_of_its_windows(seed, frames, margin, down):
    boxes = normal(seed, 3, frames, 4)
    terms = np.zeros((3, 3))
    for sample, values in enumerate(boxes.numpy()):
        for start in range(frames - 3):
            window = values[start : start + 4]
            u, s = window[:, 3], window[:, :2]
            terms[0, sample] += ((u[0] + 3 * u[2]) - (u[3] + 3 * u[1])) ** 2
            terms[1, sample] += sum(max(0, margin - down * (u[t + 1] - u[t])) for t in range(3))
            terms[2, sample] += sum(((s[t] - s[t + 1]) ** 2).sum() for t in range(3))
    terms /= frames - 3
    made = gravity_tracking_loss(boxes, margin, down, "none")
    np.testing.assert_allclose(torch.stack(made[1:]), terms, atol=1e-12)
    np.testing.assert_allclose(made.total, terms.sum(0), atol=1e-12)
    mean = gravity_tracking_loss(boxes, margin, down)
    np.testing.assert_allclose([value.item() for value in mean], [terms.sum(0).mean(), *terms.mean(1)], atol=1e-12)


def flight_windows(data, stride=12):
    """First rows of four-frame windows within a marked flight, and of those that hold a take-off or a landing."""
    inside, straddling = [], []
    span = 3 * stride
    flying = np.zeros(len(data["positions"]), dtype=bool)
    for start, end in zip(data["flight_start"], data["flight_end"], strict=True):
        flying[start:end] = True
        inside += range(start, end - span)
    for row in range(len(flying) - span):
        frames = [row, row + stride, row + 2 * stride, row + span]
        if data["clip"][row] == data["clip"][row + span] and 0 < flying[frames].sum() < 4:
            straddling.append(row)
    return np.array(inside), np.array(straddling)


def test_real_flights_obey_the_acceleration_term_and_take_offs_do_not(motion_data):
    data = np.load(motion_data / "freefall17.npz")
    assert set(data["frame_rate"]) == {120.0}
    terms = []
    for rows in flight_windows(data):
        assert len(rows) > 50
        u = -0.25 * data["com"].astype(np.float64)[rows[:, None] + [0, 12, 24, 36], 2]
        boxes = falling(u)
        terms.append(gravity_tracking_loss(boxes, margin=0.0, reduction="none").acceleration.numpy())
    assert np.median(terms[1]) >= 50 * np.median(terms[0])


# --- bones and deformation --------------------------------------------------------------------------------------------
@few
@given(seeds, st.floats(0.02, 2), st.floats(0.01, 1000))
def test_bone_likelihoods_are_scipys(seed, std, scale):
    joints = normal(seed, 3, 17, 3) * scale
    expected_mean = np.random.default_rng(seed).uniform(0.4, 1.7, 16)
    lengths = np.array([[np.linalg.norm(pose[c] - pose[p]) for p, c in H36M_17.bones] for pose in joints.numpy()])
    relative = lengths / lengths.mean(1, keepdims=True)
    np.testing.assert_allclose(relative_bone_lengths(joints, H36M_17), relative, atol=1e-12)
    expected = -norm.logpdf(relative, expected_mean, std).sum(1)
    made = bone_length_nll(joints, H36M_17, torch.from_numpy(expected_mean), std, "none")
    np.testing.assert_allclose(made, expected, rtol=1e-10)
    each = np.random.default_rng(seed).uniform(0.1, 1, 16)
    made = bone_length_nll(joints, H36M_17, torch.from_numpy(expected_mean), torch.from_numpy(each))
    assert made.item() == pytest.approx(-norm.logpdf(relative, expected_mean, each).sum(1).mean())


def test_a_deviation_of_a_tenth_is_the_weight_fifty_of_the_public_code():
    # 50 Σ (b̄ − b)² is −log N at σ = 0.1, up to the constant N log(σ √(2π)) = −22.1 for 16 bones.
    mean = torch.ones(16, dtype=torch.float64)
    constant = 16 * math.log(0.1 * math.sqrt(2 * math.pi))
    assert constant == pytest.approx(-22.1, abs=0.05)
    joints = normal(3, 17, 3)
    squares = ((relative_bone_lengths(joints, BODY_17) - 1) ** 2).sum().item()
    assert bone_length_nll(joints, BODY_17, mean, 0.1).item() == pytest.approx(50 * squares + constant)


@few
@given(seeds, st.sampled_from([1, 2]))
def test_deformation_is_the_change_of_pose_differences(seed, power):
    before, after = normal(seed, 5, 7, 3), normal(seed + 1, 5, 7, 3)
    pairs = np.random.default_rng(seed).integers(0, 5, (6, 2))
    expected = [np.linalg.norm(((after[j] - after[k]) - (before[j] - before[k])).numpy()) ** power for j, k in pairs]
    made = [deformation_loss(before, after, torch.from_numpy(pairs), power, r) for r in ("none", "mean", "sum")]
    np.testing.assert_allclose(made[0], expected, atol=1e-10)
    np.testing.assert_allclose(made[1:], [np.mean(expected), np.sum(expected)], atol=1e-10)


# --- images -----------------------------------------------------------------------------------------------------------
@few
@given(seeds)
def test_masked_l1_is_the_mean_over_all_pixels(seed):
    rng = np.random.default_rng(seed)
    a, b, weight = rng.random((2, 3, 4, 5)), rng.random((2, 3, 4, 5)), rng.random((2, 4, 5))
    expected = [
        np.mean([np.abs(x - y) * w for x, y in zip(p, q, strict=True)]) for p, q, w in zip(a, b, weight, strict=True)
    ]
    tensors = [torch.from_numpy(value) for value in (a, b, weight)]
    np.testing.assert_allclose(masked_l1(*tensors, reduction="none"), expected)
    assert masked_l1(*tensors).item() == pytest.approx(np.mean(expected))


@few
@given(seeds)
def test_segmentation_loss_weighs_cross_entropy_and_self_entropy(seed):
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(size=(2, 5, 3, 4)))
    probabilities = scores.softmax(1)
    labels, uncertainty = rng.integers(0, 5, (2, 3, 4)), rng.random((2, 3, 4))
    expected = np.zeros(2)
    for b, y, x in np.ndindex(2, 3, 4):
        p = probabilities[b, :, y, x].numpy()
        cross, own = -np.log(p[labels[b, y, x]]), -(p * np.log(p)).sum()
        expected[b] += ((1 - uncertainty[b, y, x]) * cross + uncertainty[b, y, x] * own) / 12
    made = segmentation_uncertainty_loss(
        probabilities, torch.from_numpy(labels), torch.from_numpy(uncertainty), reduction="none"
    )
    np.testing.assert_allclose(made, expected)
    sure = segmentation_uncertainty_loss(probabilities, torch.from_numpy(labels), torch.zeros(2, 3, 4).double())
    torch.testing.assert_close(sure, torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels)))


# --- all of them ------------------------------------------------------------------------------------------------------
def calls(scale=1.0, batch=3):
    """Every loss as (name, function of float tensors, float tensors)."""
    code = [normal(k, batch, 6) * scale for k in range(3)]
    negatives, boxes, joints = (
        normal(4, batch, 2, 6) * scale,
        normal(5, batch, 6, 4) * scale,
        normal(6, batch, 17, 3) * scale,
    )
    frames, pairs = torch.tensor([3, 60, 200])[:batch], torch.tensor([[0, 1], [1, 2]])
    mean, images = torch.ones(16, dtype=torch.float64), [normal(k, batch, 3, 4, 4) * scale for k in (7, 8)]
    labels, grey = torch.zeros(batch, 4, 4, dtype=torch.int64), torch.rand(batch, 4, 4, dtype=torch.float64)
    probability = normal(9, batch, 3, 4, 4).softmax(1)
    return [
        ("distance", lambda a, b, **o: distance_similarity_loss(a, b, frames, 200, **o), code[:2]),
        ("info_nce", lambda a, p, n, **o: info_nce_loss(a, p, n, 0.5, **o), [*code[:2], negatives]),
        ("triplet", lambda a, p, n, **o: temporal_triplet_loss(a, p, n, 0.1, **o), code),
        ("gravity", lambda b, **o: gravity_tracking_loss(b, 0.1, **o).total, [boxes]),
        ("bones", lambda j, m, **o: bone_length_nll(j, BODY_17, m, 0.3, **o), [joints, mean]),
        ("deformation", lambda b, a, **o: deformation_loss(b, a, pairs, **o), [joints, joints.flip(0) * 2]),
        ("masked_l1", lambda a, b, w, **o: masked_l1(a, b, w, **o), [*images, grey]),
        (
            "segmentation",
            lambda p, w, **o: segmentation_uncertainty_loss(p, labels, w, **o),
            [probability, grey],
        ),
    ]


@pytest.mark.parametrize("call", calls(), ids=lambda call: call[0])
def test_gradients_are_those_of_finite_differences(call):
    _, function, tensors = call
    torch.autograd.gradcheck(function, tuple(tensor.requires_grad_() for tensor in tensors), atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e6])
@pytest.mark.parametrize("index", range(8))
def test_extreme_inputs_have_finite_values_and_gradients(index, scale):
    name, function, tensors = calls(scale)[index]
    tensors = [tensor.float().requires_grad_() for tensor in tensors]
    value = function(*tensors)
    assert value.isfinite(), name
    for gradient in torch.autograd.grad(value, tensors):
        assert gradient.isfinite().all(), name


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4, 6, 7])
def test_the_mean_over_nothing_is_zero_with_a_graph(index):
    name, function, tensors = calls(batch=0)[index]
    value = function(*(tensor.requires_grad_() for tensor in tensors))
    assert value.item() == 0, name
    value.backward()
    nothing = deformation_loss(torch.zeros(2, 3, 3), torch.zeros(2, 3, 3), torch.zeros(0, 2, dtype=torch.int64))
    assert nothing.item() == 0
