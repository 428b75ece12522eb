"""Cameras found from joints and their points, against the cameras that made the points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from posegeom import PerspectiveCamera, project
from posegeom_models.data.resection import pinhole_of, resect

LENS = (-0.2, 0.24, -0.0009, -0.0014, -0.005)  # about that of a studio camera


def scene(lens: tuple[float, ...] | None, seed: int = 0) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    rotation = Rotation.from_euler("xyz", np.array([1.5, 0, 0]) + random.uniform(-1, 1, 3)).as_matrix()
    translation = np.array([0.1, -0.2, 4.5])
    joints = random.uniform(-1.2, 1.2, (60, 17, 3))
    camera = PerspectiveCamera((1145.0, 1143.8), (512.5, 515.5), (1002, 1000), lens)
    points = project(torch.from_numpy(joints @ rotation.T + translation), camera)[0].numpy()
    return joints, points, rotation, translation


@pytest.mark.parametrize("lens", [None, LENS])
@pytest.mark.parametrize("seed", range(3))
def test_a_resected_camera_is_the_one_that_made_the_points(lens: tuple[float, ...] | None, seed: int) -> None:
    joints, points, rotation, translation = scene(lens, seed)
    found = resect(joints, points, (1002, 1000))
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-5)
    np.testing.assert_allclose(found.translation, translation, atol=1e-4)
    np.testing.assert_allclose(found.camera.focal, (1145.0, 1143.8), rtol=1e-4)
    assert found.error < 1e-2
    if lens is not None:
        np.testing.assert_allclose(found.camera.distortion, lens, atol=2e-3)


def test_noisy_points_with_outliers_give_nearly_the_same_camera() -> None:
    joints, points, rotation, translation = scene(LENS)
    random = np.random.default_rng(1)
    noisy = points + random.normal(0, 3, points.shape)
    noisy[random.random(points.shape[:2]) < 0.03] += 60
    found = resect(joints, noisy, (1002, 1000))
    assert np.degrees(np.linalg.norm(Rotation.from_matrix(found.rotation @ rotation.T).as_rotvec())) < 0.3
    np.testing.assert_allclose(found.translation, translation, atol=0.05)


def test_what_has_no_camera_is_refused() -> None:
    joints, points, *_ = scene(None)
    with pytest.raises(ValueError, match="at least 12 joints with their points, got 2 and 2"):
        resect(joints[0, :2], points[0, :2], (1002, 1000))
    with pytest.raises(ValueError, match="lie in a plane or a point"):
        resect(joints * (1, 1, 0), points, (1002, 1000))
    with pytest.raises(ValueError, match="left and right are exchanged"):
        resect(joints * (-1, 1, 1), points, (1002, 1000))


def test_a_pinhole_is_the_one_that_made_the_points() -> None:
    random = np.random.default_rng(0)
    joints = np.array([0, 0, 4]) + random.uniform(-1, 1, (9, 17, 3))
    points = joints[..., :2] / joints[..., 2:] * (1500, 1490) + (1024, 1030)
    camera, error = pinhole_of(1000 * joints, points, (2048, 2048))
    np.testing.assert_allclose(camera.focal, (1500, 1490))
    np.testing.assert_allclose(camera.center, (1024, 1030))
    assert error < 1e-9
    with pytest.raises(ValueError, match="behind the camera"):
        pinhole_of(-joints, points, (2048, 2048))
