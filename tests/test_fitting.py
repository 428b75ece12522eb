import numpy as np
import pytest
import torch

from posegeom import BODY_17, PerspectiveCamera, p_mpjpe
from posegeom_models.data.procedural import walk
from posegeom_models.demo import DemoOptions, make_scene, score
from posegeom_models.fitting import (
    Recipe,
    Stage,
    Studio,
    fit_drawings,
    fit_heatmaps,
    heatmap_loss,
    random_guess,
)

STUDIO = Studio(BODY_17, PerspectiveCamera(1.145 * 128, None, (128, 128)))


def scene(frames, seed=0, views=2):
    return make_scene(walk(60, seed=3), DemoOptions(frames=frames, seed=seed, views=views), STUDIO)


def test_the_longest_chain_of_bones_is_the_radius_that_translations_allow_for():
    assert BODY_17.reach() == pytest.approx(0.490 + 0.151 + 0.277 + 0.248)
    assert STUDIO.radius == BODY_17.reach()


def test_a_scene_is_seen_whole_by_cameras_60_to_120_degrees_apart():
    truth = scene(8)
    points, depth = STUDIO.look(truth)
    assert float(depth.min()) > 0
    assert float(points.min()) > -0.5
    assert float(points.max()) < 127.5
    forward = truth.rotation[..., 2, :].numpy()  # the direction that a camera looks in, in the person's frame
    flat = forward[..., :2] / np.linalg.norm(forward[..., :2], axis=-1, keepdims=True)
    apart = np.degrees(np.arccos((flat[:, 0] * flat[:, 1]).sum(-1)))
    # Roll and elevation tilt the optical axes, but not the turn about the vertical.
    assert apart.min() > 59.9
    assert apart.max() < 120.1


def test_the_mirrored_twin_is_a_reflection_and_looks_the_same_from_far_away():
    generator = torch.Generator().manual_seed(1)
    guess = random_guess(STUDIO, 1, 4, 2, generator)
    twin = guess.mirrored(STUDIO)
    first, second = guess.scene(STUDIO), twin.scene(STUDIO)
    assert np.allclose(np.linalg.det(second.rotation.numpy()), 1, atol=1e-5)
    assert float(p_mpjpe(first.joints, second.joints)) > 0.05
    assert float(p_mpjpe(first.joints, second.joints, allow_reflection=True)) < 1e-5
    # Without perspective the two pictures are one: compare the first two rows of R p.
    flat = [s.joints.unsqueeze(-3) @ s.rotation.transpose(-1, -2) for s in (first, second)]
    torch.testing.assert_close(flat[0][..., :2], flat[1][..., :2], atol=1e-5, rtol=0)
    torch.testing.assert_close(flat[0][..., 2], -flat[1][..., 2], atol=1e-5, rtol=0)


def test_keeping_picks_the_least_loss_of_every_frame():
    guess = random_guess(STUDIO, 5, 3, 2, torch.Generator().manual_seed(0))
    loss = torch.tensor([[3.0, 0.0, 9.0], [1.0, 5.0, 8.0], [2.0, 6.0, 7.0], [9.0, 9.0, 0.5], [9.0, 9.0, 9.0]])
    kept = guess.keep(loss, 2)
    assert torch.equal(kept.directions[0, 0], guess.directions[1, 0])
    assert torch.equal(kept.directions[1, 0], guess.directions[2, 0])
    assert torch.equal(kept.shift[0, 1], guess.shift[0, 1])
    assert torch.equal(kept.axes[0, 2], guess.axes[3, 2])


def test_the_heatmap_loss_is_zero_at_the_truth_and_two_blobs_each_when_far():
    truth = scene(2)
    peaks, _ = STUDIO.look(truth)
    stage = Stage(128, 2.0, 1, 0.1)
    loss = heatmap_loss(peaks, stage, 128)
    assert float(loss(peaks, peaks[..., 0]).max()) < 1e-9
    # ∫ exp(−r²/σ²) = π σ² is one blob's energy; disjoint blobs differ by both. 17 joints, 2 views.
    away = loss(peaks + 1000, peaks[..., 0])
    torch.testing.assert_close(away, torch.full_like(away, 34.0), rtol=1e-3, atol=0)


def test_exact_heatmaps_give_pose_and_cameras_back():
    truth = scene(3)
    peaks, _ = STUDIO.look(truth)
    guess, _ = fit_heatmaps(peaks, STUDIO, Recipe(), torch.Generator().manual_seed(5))
    scores = score(guess, truth, STUDIO)
    assert float(np.median(scores.pose)) <= 5
    assert max(scores.pose) <= 30
    assert max(scores.pixels) <= 0.5


def test_drawings_repair_a_pose_that_noisy_heatmaps_left_wrong():
    truth = scene(3, seed=2)
    peaks, _ = STUDIO.look(truth)
    generator = torch.Generator().manual_seed(6)
    recipe = Recipe()
    rough, _ = fit_heatmaps(peaks + 2 * torch.randn(peaks.shape, generator=generator), STUDIO, recipe, generator)
    drawings = [STUDIO.draw(*STUDIO.look(truth, stage.size), stage.size, stage.width) for stage in recipe.redraw]
    fine, _ = fit_drawings(rough, drawings, STUDIO, recipe)
    before, after = (float(np.median(score(guess, truth, STUDIO).pose)) for guess in (rough, fine))
    assert after <= before * 2 / 3
