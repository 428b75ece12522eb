import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from posegeom import (
    auc,
    mean_landmark_error,
    mpjpe,
    mpjve,
    n_mpjpe,
    p_mpjpe,
    part_f1,
    part_iou,
    pck,
    procrustes_align,
)

few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# Two frames of five joints with published errors; joint 2 is masked out of the mean, the alignments use all five.
PREDICTION = [
    [(1, 0, 0), (2, 2, 0), (0, 0, -1), (3, 3, 1), (0, 1, 1)],
    [(1, 0, 0), (2, 2, 1), (-1, 0, 0), (0, 0, 3), (0, 0, 1)],
]
TARGET = [
    [(1, 0, 0), (1, 1, 1), (-1, 0, 0), (3, 3, 1), (0, 1, 0)],
    [(1, 1, 0), (1, 0, 1), (-1, 0, 0), (0, 0, 3), (1, 1, 0)],
]


@pytest.mark.parametrize(
    ("metric", "published"),
    [(mpjpe, 0.9625211990796929), (p_mpjpe, 1.0047897634604497), (n_mpjpe, 1.0277129678465953)],
)
@pytest.mark.parametrize("kind", [torch.bool, torch.float64])
def test_errors_are_the_published_numbers(metric, published, kind):
    prediction, target = (torch.tensor(value, dtype=torch.float64) for value in (PREDICTION, TARGET))
    mask = torch.tensor([True, True, False, True, True]).expand(2, 5).to(kind)
    assert metric(prediction, target, mask).item() == pytest.approx(published, abs=1e-9)
    each = metric(prediction, target, mask, reduction="none")
    assert each.sum().item() / 8 == pytest.approx(published, abs=1e-9)
    assert metric(prediction, target, mask, reduction="sum").item() == pytest.approx(8 * published, abs=1e-8)


@few
@given(seeds)
def test_errors_are_their_definitions(seed):
    p, t = normal(seed, 4, 9, 3), normal(seed + 1, 4, 9, 3)
    pn, tn = p.numpy(), t.numpy()
    np.testing.assert_allclose(mpjpe(p, t), np.linalg.norm(pn - tn, axis=-1).mean())
    pc, tc = pn - pn[:, 3:4], tn - tn[:, 3:4]
    np.testing.assert_allclose(mpjpe(p, t, root=3), np.linalg.norm(pc - tc, axis=-1).mean())
    # The best scale is the least-squares solution of p s = t, pose by pose.
    scaled = [a * np.linalg.lstsq(a.reshape(-1, 1), b.ravel(), rcond=None)[0] for a, b in zip(pc, tc, strict=True)]
    np.testing.assert_allclose(n_mpjpe(p, t, root=3), np.linalg.norm(scaled - tc, axis=-1).mean())
    speeds = np.diff(pn, axis=0) - np.diff(tn, axis=0)
    np.testing.assert_allclose(mpjve(p, t), np.linalg.norm(speeds, axis=-1).mean())


# --- Procrustes -------------------------------------------------------------------------------------------------------
@few
@given(seeds, st.integers(3, 20))
def test_alignment_leaves_scipys_disparity(seed, joints):
    p, t = normal(seed, joints, 3), normal(seed + 1, joints, 3)
    centred = t.numpy() - t.numpy().mean(0)
    fit = procrustes_align(p, t, allow_reflection=True)
    residual = ((fit.aligned - t).numpy() ** 2).sum() / (centred**2).sum()
    assert residual == pytest.approx(procrustes(t.numpy(), p.numpy())[2], abs=1e-10)


@few
@given(seeds, st.integers(4, 20))
def test_alignment_is_scipys_rotation(seed, joints):
    p, t = normal(seed, joints, 3), normal(seed + 1, joints, 3)
    fit = procrustes_align(p, t)
    pc, tc = p.numpy() - p.numpy().mean(0), t.numpy() - t.numpy().mean(0)
    rotation = Rotation.align_vectors(tc, pc)[0].as_matrix()
    np.testing.assert_allclose(fit.rotation, rotation, atol=1e-8)
    turned = pc @ rotation.T
    np.testing.assert_allclose(fit.scale, (turned * tc).sum() / (pc**2).sum(), atol=1e-10)
    moved = fit.scale.numpy() * p.numpy() @ fit.rotation.numpy().T + fit.translation.numpy()
    np.testing.assert_allclose(fit.aligned, moved, atol=1e-10)


@few
@given(seeds, st.floats(0.01, 100))
def test_p_mpjpe_does_not_see_similarities_of_the_prediction(seed, scale):
    rng = np.random.default_rng(seed)
    p, t = normal(seed, 2, 9, 3), normal(seed + 1, 2, 9, 3)
    turn, shift = torch.from_numpy(Rotation.random(random_state=seed).as_matrix()), torch.from_numpy(rng.normal(size=3))
    moved = scale * p @ turn.T + shift
    torch.testing.assert_close(p_mpjpe(moved, t), p_mpjpe(p, t), atol=1e-9, rtol=0)
    torch.testing.assert_close(n_mpjpe(scale * p, t), n_mpjpe(p, t), atol=1e-9, rtol=0)
    torch.testing.assert_close(p_mpjpe(scale * t @ turn.T + shift, t), torch.zeros(()).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(mpjpe(p @ turn.T + shift, t @ turn.T + shift), mpjpe(p, t), atol=1e-10, rtol=0)
    torch.testing.assert_close(mpjpe(p + shift, t, root=0), mpjpe(p, t, root=0), atol=1e-10, rtol=0)
    torch.testing.assert_close(mpjve(p + shift, t), mpjve(p, t), atol=1e-10, rtol=0)


def test_a_mirrored_pose_scores_zero_only_with_reflections():
    pose = normal(0, 17, 3)
    mirrored = pose * torch.tensor([1.0, 1.0, -1.0])
    assert p_mpjpe(mirrored, pose).item() > 0.1
    assert p_mpjpe(mirrored, pose, allow_reflection=True).item() < 1e-12
    assert torch.linalg.det(procrustes_align(mirrored, pose).rotation).item() == pytest.approx(1)
    assert torch.linalg.det(procrustes_align(mirrored, pose, allow_reflection=True).rotation).item() == pytest.approx(
        -1
    )


@pytest.mark.parametrize("reflection", [False, True])
def test_gradients_of_the_alignment_are_those_of_finite_differences(reflection):
    p, t = normal(1, 2, 6, 3).requires_grad_(), normal(2, 2, 6, 3).requires_grad_()
    torch.autograd.gradcheck(lambda p, t: tuple(procrustes_align(p, t, reflection)), (p, t))
    torch.autograd.gradcheck(lambda p, t: p_mpjpe(p, t, allow_reflection=reflection), (p, t))
    torch.autograd.gradgradcheck(lambda p, t: p_mpjpe(p, t, allow_reflection=reflection), (p[:1], t[:1]), atol=1e-4)


CUBE = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)


@pytest.mark.parametrize("reflection", [False, True])
def test_the_derivative_exists_at_equal_singular_values(reflection):
    # A cube's covariance with itself is a multiple of 1: the derivative of the SVD is infinite there, this one is not.
    noise = 0.1 * normal(5, 8, 3)
    for prediction, target in (
        (CUBE, CUBE),
        (CUBE @ torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]).double(), CUBE),
    ):
        fitted = prediction.clone().requires_grad_()
        torch.autograd.gradcheck(lambda p, q=target: procrustes_align(p, q, reflection).aligned, (fitted,))
        loss = ((procrustes_align(fitted, target, reflection).aligned - target - noise) ** 2).sum()
        (gradient,) = torch.autograd.grad(loss, fitted)
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


LINE = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None] * torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)


@pytest.mark.parametrize(
    ("prediction", "target"),
    [
        (LINE, LINE),
        (LINE, normal(0, 7, 3)),
        (normal(0, 7, 3), LINE),
        (torch.zeros(7, 3).double(), normal(0, 7, 3)),
        (normal(0, 7, 3), torch.ones(7, 3).double()),
        (torch.ones(7, 3).double(), torch.ones(7, 3).double()),
        (normal(0, 7, 3) * torch.tensor([1.0, 1.0, 0.0]), normal(1, 7, 3) * torch.tensor([1.0, 1.0, 0.0])),
        (normal(0, 7, 3) * 1e6, normal(1, 7, 3) * 1e6),
        (normal(0, 7, 3) * torch.tensor([1.0, 1.0, -1.0]), normal(0, 7, 3)),
    ],
    ids=["line", "line-any", "any-line", "point-any", "any-point", "points", "flat", "huge", "mirrored"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reflection", [False, True])
def test_degenerate_poses_have_finite_alignments_and_gradients(prediction, target, dtype, reflection):
    p, t = (value.to(dtype).requires_grad_() for value in (prediction, target))
    fit = procrustes_align(p, t, reflection)
    for value in fit:
        assert value.isfinite().all()
    R = fit.rotation.double()
    assert (R.T @ R - torch.eye(3)).abs().max() < 1e-5
    if not reflection:
        assert torch.linalg.det(R).item() == pytest.approx(1, abs=1e-5)
    for value in (*fit, p_mpjpe(p, t, allow_reflection=reflection)):
        for gradient in torch.autograd.grad(value.sum(), (p, t), retain_graph=True):
            assert gradient.isfinite().all()


# --- thresholds -------------------------------------------------------------------------------------------------------
def test_a_perfect_prediction_has_pck_one_and_auc_thirty_of_thirty_one():
    pose = normal(0, 2, 5, 3)
    assert pck(pose, pose).item() == 1
    assert auc(pose, pose).item() == pytest.approx(30 / 31)
    wrong = pose.clone()
    wrong[0, 2] += 1.0  # one joint of ten
    assert pck(wrong, pose).item() == pytest.approx(0.9)


def test_a_threshold_is_strict():
    target, prediction = torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)
    prediction[0, :, 0] = torch.tensor([0.0, 0.25, 0.5, 0.75])
    assert [pck(prediction, target, threshold=limit).item() for limit in (0.0, 0.25, 0.5, 1.0)] == [0, 0.25, 0.5, 1.0]
    assert auc(prediction, target, thresholds=(0.0, 0.25, 0.5, 1.0)).item() == pytest.approx(1.75 / 4)


@few
@given(seeds)
def test_pck_and_auc_count_the_chosen_joints(seed):
    rng = np.random.default_rng(seed)
    p, t = torch.from_numpy(rng.normal(0, 0.05, (6, 9, 3))), torch.zeros(6, 9, 3, dtype=torch.float64)
    mask, joints = torch.from_numpy(rng.random((6, 9)) < 0.7), [0, 2, 5, 8]
    distance = np.linalg.norm(p.numpy(), axis=-1)
    np.testing.assert_allclose(pck(p, t), (distance < 0.15).mean())
    chosen = distance[:, joints][mask[:, joints].numpy()]
    if len(chosen):
        np.testing.assert_allclose(pck(p, t, mask, joints=joints), (chosen < 0.15).mean())
        curve = [(chosen < limit).mean() for limit in np.arange(31) * 0.005]
        np.testing.assert_allclose(auc(p, t, mask, joints=joints), np.mean(curve))
    centred = np.linalg.norm(p.numpy() - p.numpy()[:, 3:4], axis=-1)
    np.testing.assert_allclose(pck(p, t, root=3, threshold=0.08), (centred < 0.08).mean())


# --- masks ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("metric", [mpjpe, mpjve, pck, auc])
def test_what_a_masked_joint_holds_does_not_matter(metric):
    p, t = normal(0, 3, 4, 3).requires_grad_(), normal(1, 3, 4, 3)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[:, 2] = False
    unknown = t.clone()
    unknown[:, 2] = float("nan")
    torch.testing.assert_close(metric(p, unknown, mask), metric(p, t, mask))
    if metric in (mpjpe, mpjve):
        (gradient,) = torch.autograd.grad(metric(p, unknown, mask), p)
        (expected,) = torch.autograd.grad(metric(p, t, mask), p)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("metric", [mpjpe, n_mpjpe, p_mpjpe, mpjve, pck, auc])
def test_the_mean_over_nothing_is_zero_with_a_graph(metric):
    for poses, mask in ((torch.zeros(0, 5, 3), None), (torch.randn(2, 5, 3), torch.zeros(2, 5))):
        poses.requires_grad_()
        value = metric(poses, torch.zeros_like(poses), mask)
        assert value.item() == 0
        if metric not in (pck, auc):
            value.backward()


def test_an_error_of_zero_has_zero_gradient():
    pose = normal(0, 5, 3).requires_grad_()
    for metric in (mpjpe, n_mpjpe):
        (gradient,) = torch.autograd.grad(metric(pose, pose.detach()), pose)
        assert gradient.abs().max() < 1e-12


# --- parts ------------------------------------------------------------------------------------------------------------
@few
@given(seeds, st.integers(1, 8))
def test_part_scores_come_from_the_confusion_matrix_of_the_whole_set(seed, classes):
    rng = np.random.default_rng(seed)
    prediction, target = rng.integers(0, classes, (2, 3, 6, 5))
    target[rng.random(target.shape) < 0.2] = 255
    confusion = np.zeros((classes, classes))
    for true, guess in zip(target.ravel(), prediction.ravel(), strict=True):
        if true != 255:
            confusion[true, guess] += 1
    hit, guessed, there = np.diag(confusion), confusion.sum(0), confusion.sum(1)
    iou, f1 = hit / np.maximum(guessed + there - hit, 1), 2 * hit / np.maximum(guessed + there, 1)
    for kind in (np.int64, np.uint8):
        maps = torch.from_numpy(prediction.astype(kind)), torch.from_numpy(target.astype(kind))
        np.testing.assert_allclose(part_iou(*maps, classes, reduction="none"), iou, rtol=1e-6)
        np.testing.assert_allclose(part_f1(*maps, classes, reduction="none"), f1, rtol=1e-6)
        np.testing.assert_allclose(part_iou(*maps, classes), iou.mean(), rtol=1e-6)
        np.testing.assert_allclose(part_f1(*maps, classes), f1.mean(), rtol=1e-6)


def test_another_ignore_index_can_be_chosen():
    prediction, target = torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 1, 0, 0]])
    assert part_f1(prediction, target, 2, ignore_index=1, reduction="none").tolist() == pytest.approx([0.8, 0.0])
    assert part_iou(prediction, torch.full_like(target, 255), 2).item() == 0


def test_the_landmark_error_is_a_percentage_of_the_image_and_not_squared():
    target = torch.zeros(2, 4, 2, dtype=torch.float64)
    offset = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert mean_landmark_error(target + offset, target, (100, 100)).item() == pytest.approx(5.0)
    expected = 100 * math.hypot(3 / 200, 4 / 100)
    assert mean_landmark_error(target + offset, target, (100, 200)).item() == pytest.approx(expected)
    assert mean_landmark_error(target, target, (8, 8)).item() == 0


@pytest.mark.parametrize("scale", [1e-10, 1e-4, 1e6])
def test_scale_free_errors_are_so_at_any_scale(scale):
    pose = torch.randn(3, 17, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(n_mpjpe(scale * pose, pose)) < 1e-12
    assert float(p_mpjpe(scale * pose, pose)) < 1e-12
    assert float(procrustes_align(scale * pose, pose).scale.sub(1 / scale).abs().max()) < 1e-9 / scale
