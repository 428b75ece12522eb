"""The articulated figure: upright at zero, within its limits, with legs that reach and feet that roll in place."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posegeom import BODY_17
from posegeom_models.data.figure import LIMITS, Figure, about, curve

FIGURE = Figure(BODY_17)
TRUNK = ("pelvis_turn", "pelvis_list", "trunk_turn", "trunk_lean", "head_lean")


def zero_angles(frames: int) -> dict[str, np.ndarray]:
    limbs = [f"{side}_{name}" for name in LIMITS if name not in TRUNK for side in ("left", "right")]
    return {name: np.zeros(frames) for name in (*TRUNK, *limbs)}


def joint(positions: np.ndarray, name: str) -> np.ndarray:
    return positions[:, BODY_17.index(name)]


def test_zero_angles_are_upright_standing() -> None:
    positions = FIGURE.forward(zero_angles(1), np.array([[0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(joint(positions, "head")[0], [0, 0, 1.0 + 0.49 + 0.2315], atol=1e-12)
    np.testing.assert_allclose(joint(positions, "left_ankle")[0], [0, 0.1337, 1 - 2 * 0.443], atol=1e-12)
    for side in ("left", "right"):
        arm = joint(positions, f"{side}_wrist") - joint(positions, f"{side}_shoulder")
        np.testing.assert_allclose(arm[0], [0, 0, -0.277 - 0.248], atol=1e-12)
        foot = joint(positions, f"{side}_foot") - joint(positions, f"{side}_ankle")
        assert foot[0, 0] > 0.1
        assert foot[0, 1] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(
        joint(positions, "left_shoulder") * [1, -1, 1], joint(positions, "right_shoulder"), atol=1e-12
    )


def test_a_leg_reaches_with_its_ankle_and_points_its_foot() -> None:
    random = np.random.default_rng(0)
    frames = 50
    angles = zero_angles(frames)
    angles["pelvis_turn"], angles["pelvis_list"] = random.uniform(-0.15, 0.15, (2, frames))
    pelvis = random.normal(size=(frames, 3))
    pitch, yaw = random.uniform(-0.4, 0.05, frames), random.uniform(-0.1, 0.1, frames)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        away = np.stack(
            [
                random.uniform(-0.12, 0.15, frames),
                sign * random.uniform(0.05, 0.2, frames),
                random.uniform(-0.86, -0.8, frames),
            ],
            axis=-1,
        )
        FIGURE.reach(angles, pelvis, side, pelvis + away, pitch, yaw)
        positions = FIGURE.forward(angles, pelvis)
        np.testing.assert_allclose(joint(positions, f"{side}_ankle"), pelvis + away, atol=1e-9)
        foot = joint(positions, f"{side}_foot") - joint(positions, f"{side}_ankle")
        np.testing.assert_allclose(np.arctan2(foot[:, 1], foot[:, 0]), yaw, atol=1e-9)
        # Flat, the ball of the foot is 0.49 of the foot's length lower than the ankle.
        want = 0.134 * np.sin(pitch - np.arcsin(0.49))
        np.testing.assert_allclose(foot[:, 2], want, atol=1e-9)


def test_angles_beyond_their_limits_are_clamped() -> None:
    pelvis = np.zeros((1, 3))
    for name, limits in LIMITS.items():
        for limit, beyond in ((limits[0], limits[0] - 40), (limits[1], limits[1] + 40)):
            key = name if name in TRUNK else f"left_{name}"
            at, over = ({**zero_angles(1), key: np.radians([degrees])} for degrees in (limit, beyond))
            np.testing.assert_array_equal(FIGURE.forward(over, pelvis), FIGURE.forward(at, pelvis))


def test_a_rolling_foot_turns_about_its_ball_or_its_heel() -> None:
    # Heel up: the ball, found from the ankle and the sole's pitch, stays where it is.
    pitch = np.radians(np.linspace(-70, 0, 8))
    down = pitch - np.arcsin(0.49)
    ball = FIGURE.rolled(pitch) + 0.134 * np.stack([np.cos(down), np.sin(down)], axis=-1)
    np.testing.assert_allclose(ball, np.broadcast_to(ball[-1], ball.shape), atol=1e-12)
    assert ball[0, 1] == pytest.approx(0.15 * 0.134)
    # Toes up: the ankle keeps its distance from one point of the floor, behind it.
    ankle = FIGURE.rolled(np.radians([0.0, 8, 16, 24]))
    heel = ankle[0] + 0.134 * np.array([-0.38, -0.64])
    distance = np.linalg.norm(ankle - heel, axis=-1)
    np.testing.assert_allclose(distance, distance[0], atol=1e-12)
    assert heel[1] == pytest.approx(0, abs=1e-3)
    assert (np.diff(ankle[:, 0]) < 0).all()


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_rotations_are_right_handed(axis: str) -> None:
    angles = np.array([-2.0, 0.3, 1.5])
    np.testing.assert_allclose(about(axis, angles), Rotation.from_euler(axis, angles[:, None]).as_matrix(), atol=1e-12)


def test_a_curve_meets_its_points_and_never_overshoots() -> None:
    bent = curve((0, 5), (0.2, 60), (0.5, 60), (1, -10))
    np.testing.assert_allclose(np.degrees(bent(np.array([0, 0.2, 0.5, 1]))), [5, 60, 60, -10], atol=1e-9)
    between = np.degrees(bent(np.linspace(0, 1, 501)))
    assert between.min() >= -10 - 1e-9
    assert between.max() <= 60 + 1e-9
