"""A camera from joints whose place in the world (or in the camera's axes) and in the image are both known."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posegeom.camera import PerspectiveCamera

Array = NDArray[np.float64]

_ENOUGH = 1000
"""Correspondences that are used; more hardly change the camera."""


class Resection(NamedTuple):
    """A camera found from correspondences.

    Attributes:
        camera: its intrinsics.
        rotation: (3, 3) R with p_camera = R p_world + t.
        translation: (3,) t.
        error: median distance of the projections from the points, in pixels.
    """

    camera: PerspectiveCamera
    rotation: Array
    translation: Array
    error: float


def pinhole_of(joints: NDArray[Any], points: NDArray[Any], size: tuple[int, int]) -> tuple[PerspectiveCamera, float]:
    """The pinhole that projects joints in the camera's axes to points: least squares of u z = f x + c z per axis.

    Args:
        joints: (..., 3) camera's axes, any unit.
        points: (..., 2) pixels.
        size: (height, width) of the image.

    Returns:
        The camera and its median error in pixels.

    Raises:
        ValueError: joints behind the camera, or no camera fits.
    """
    solid = np.asarray(joints, np.float64).reshape(-1, 3)
    flat = np.asarray(points, np.float64).reshape(-1, 2)
    if (solid[:, 2] <= 0).any():
        raise ValueError("joints lie behind the camera")
    fitted = []
    for axis in range(2):
        slopes = solid[:, axis] / solid[:, 2]
        design = np.stack([slopes, np.ones_like(slopes)], -1)
        fitted.append(np.linalg.lstsq(design, flat[:, axis], rcond=None)[0])
    (fx, cx), (fy, cy) = fitted
    if not (fx > 0 and fy > 0):
        raise ValueError("no camera projects the joints to the points")
    off = solid[:, :2] / solid[:, 2:] * (fx, fy) + (cx, cy) - flat
    camera = PerspectiveCamera((float(fx), float(fy)), (float(cx), float(cy)), size)
    return camera, float(np.median(np.linalg.norm(off, axis=-1)))


def resect(joints: NDArray[Any], points: NDArray[Any], size: tuple[int, int]) -> Resection:
    """The camera, with OpenCV's lens, that projects joints in the world to points.

    A direct linear transform gives the start, Levenberg-Marquardt on the pixels the rest. At most 1000 of the
    correspondences are used, evenly spread.

    Args:
        joints: (..., 3) world, metres; at least 12 that do not lie in a plane.
        points: (..., 2) pixels.
        size: (height, width) of the image.

    Raises:
        ValueError: too few correspondences, or no camera fits.
    """
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    solid = np.asarray(joints, np.float64).reshape(-1, 3)
    flat = np.asarray(points, np.float64).reshape(-1, 2)
    if len(solid) != len(flat) or len(solid) < 12:
        raise ValueError(f"a camera needs at least 12 joints with their points, got {len(solid)} and {len(flat)}")
    chosen = np.linspace(0, len(solid) - 1, min(_ENOUGH, len(solid))).round().astype(int)
    solid, flat = solid[chosen], flat[chosen]
    rotation, translation = _direct(solid, flat, size)
    seen = solid @ rotation.T + translation
    front = seen[:, 2] > 0
    if front.sum() < 12:
        raise ValueError("no camera projects the joints to the points")
    pinhole = pinhole_of(seen[front], flat[front], size)[0]
    start = np.concatenate([Rotation.from_matrix(rotation).as_rotvec(), translation, pinhole.focal, pinhole.center])

    def off(unknown: Array) -> Array:
        seen = Rotation.from_rotvec(unknown[:3]).as_matrix() @ solid.T + unknown[3:6, None]
        return np.asarray((_projected(seen.T, unknown[6:]) - flat).ravel(), np.float64)

    plain = least_squares(
        lambda few: off(np.concatenate([few, np.zeros(5)])), start, x_scale="jac", method="lm", max_nfev=2000
    )
    best = least_squares(
        off, np.concatenate([plain.x, np.zeros(5)]), x_scale="jac", loss="soft_l1", f_scale=2.0, max_nfev=100
    )
    error = float(np.median(np.linalg.norm(off(best.x).reshape(-1, 2), axis=-1)))
    found = [float(value) for value in best.x]
    if not (np.isfinite(best.x).all() and found[6] > 0 and found[7] > 0):
        raise ValueError("no camera projects the joints to the points")
    camera = PerspectiveCamera((found[6], found[7]), (found[8], found[9]), size, tuple(found[10:]))
    return Resection(camera, Rotation.from_rotvec(best.x[:3]).as_matrix(), best.x[3:6], error)


def _direct(solid: Array, flat: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Rotation and translation by the direct linear transform, on centred and scaled coordinates."""
    middle, spread = solid.mean(0), solid.std() or 1.0
    world = np.concatenate([(solid - middle) / spread, np.ones((len(solid), 1))], -1)
    center, scale = np.array([size[1] - 1, size[0] - 1]) / 2, max(size) / 2
    pixels = (flat - center) / scale
    zeros = np.zeros_like(world)
    rows = np.concatenate(
        [
            np.concatenate([world, zeros, -pixels[:, :1] * world], -1),
            np.concatenate([zeros, world, -pixels[:, 1:] * world], -1),
        ]
    )
    values, vectors = np.linalg.svd(rows, full_matrices=False)[1:]
    if values[-2] < 1e-9 * values[0]:
        raise ValueError("no camera can be told from joints that lie in a plane or a point")
    matrix = vectors[-1].reshape(3, 4)
    if np.median(world @ matrix[2]) < 0:
        matrix = -matrix
    # RQ: the matrix is K [R | t] with K upper triangular.
    flipped = np.flipud(matrix[:, :3]).T
    orthogonal, upper = np.linalg.qr(flipped)
    intrinsics, rotation = np.flipud(np.fliplr(upper.T)), np.flipud(orthogonal.T)
    signs = np.diag(np.sign(np.diag(intrinsics)))
    intrinsics, rotation = intrinsics @ signs, signs @ rotation
    if np.linalg.det(rotation) < 0:
        raise ValueError("no camera projects the joints to the points (left and right are exchanged)")
    translation = np.linalg.solve(intrinsics, matrix[:, 3]) * spread
    return rotation, translation - rotation @ middle


def _projected(seen: Array, intrinsics: Array) -> Array:
    """Pixels of points in the camera's axes; f_x, f_y, c_x, c_y, k1, k2, p1, p2, k3."""
    fx, fy, cx, cy, k1, k2, p1, p2, k3 = intrinsics
    x, y = (seen[:, :2] / np.maximum(seen[:, 2:], 1e-3)).T
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return np.stack(
        [
            fx * (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)) + cx,
            fy * (y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y) + cy,
        ],
        -1,
    )
