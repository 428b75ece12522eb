"""The made-up people against anatomy and mechanics, measured on their joints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from posegeom import BODY_17, COCO_17
from posegeom_models.data.procedural import LIMITS, jump, walk

SEEDS = (0, 1, 2, 3)
MOTIONS = {
    "stroll": lambda seed: walk(400, 120, 0.6, seed),
    "walk": lambda seed: walk(400, 120, 1.3, seed),
    "hurry": lambda seed: walk(400, 120, 1.8, seed),
    "hop": lambda seed: jump(400, 120, 0.1, seed),
    "jump": lambda seed: jump(400, 120, 0.3, seed),
    "leap": lambda seed: jump(400, 120, 0.5, seed),
}
every = pytest.mark.parametrize("seed", SEEDS)
every_motion = pytest.mark.parametrize("name", MOTIONS)


def joint(positions: np.ndarray, name: str) -> np.ndarray:
    return positions[:, BODY_17.index(name)]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def bend(positions: np.ndarray, first: str, middle: str, last: str) -> np.ndarray:
    """The angle in degrees by which a chain of three joints is bent."""
    above = unit(joint(positions, middle) - joint(positions, first))
    below = unit(joint(positions, last) - joint(positions, middle))
    return np.degrees(np.arccos(np.clip((above * below).sum(-1), -1, 1)))


# de Leva (1996), men: mass, and where its centre is on the way from the first joint to the second.
SEGMENTS = [
    ("head", "neck", 0.0694, 0.5002),
    *((f"{s}_shoulder", f"{s}_elbow", 0.0271, 0.5772) for s in ("left", "right")),
    *((f"{s}_elbow", f"{s}_wrist", 0.0162, 0.4574) for s in ("left", "right")),
    *((f"{s}_wrist", f"{s}_wrist", 0.0061, 0.0) for s in ("left", "right")),
    *((f"{s}_hip", f"{s}_knee", 0.1416, 0.4095) for s in ("left", "right")),
    *((f"{s}_knee", f"{s}_ankle", 0.0433, 0.4395) for s in ("left", "right")),
    *((f"{s}_ankle", f"{s}_foot", 0.0137, 0.4415) for s in ("left", "right")),
]


def mass_center(positions: np.ndarray) -> np.ndarray:
    neck = joint(positions, "neck")
    center = 0.4346 * (neck + 0.4486 * (joint(positions, "pelvis") - neck))
    for first, second, mass, part in SEGMENTS:
        start = joint(positions, first)
        center = center + mass * (start + part * (joint(positions, second) - start))
    return center


@every
@every_motion
def test_bones_have_the_skeletons_lengths(name: str, seed: int) -> None:
    positions = MOTIONS[name](seed).positions
    assert BODY_17.lengths is not None
    for (parent, child), length in zip(BODY_17.bones, BODY_17.lengths, strict=True):
        bone = np.linalg.norm(positions[:, child] - positions[:, parent], axis=-1)
        np.testing.assert_allclose(bone, length, atol=1e-6)


@every
@every_motion
def test_joints_stay_within_their_limits(name: str, seed: int) -> None:
    positions = MOTIONS[name](seed).positions
    slack = 1e-3
    across = unit(joint(positions, "left_hip") - joint(positions, "right_hip"))
    trunk = unit(joint(positions, "neck") - joint(positions, "pelvis"))
    lean = np.degrees(np.arccos(trunk[:, 2]))
    assert lean.max() <= LIMITS["trunk_lean"][1] + slack
    for side in ("left", "right"):
        knee = bend(positions, f"{side}_hip", f"{side}_knee", f"{side}_ankle")
        assert knee.max() <= LIMITS["knee_flexion"][1] + slack
        elbow = bend(positions, f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist")
        assert elbow.max() <= LIMITS["elbow_flexion"][1] + slack
        thigh = unit(joint(positions, f"{side}_knee") - joint(positions, f"{side}_hip"))
        shank = unit(joint(positions, f"{side}_ankle") - joint(positions, f"{side}_knee"))
        # A knee bends backwards only: seen from the left, the shank is turned clockwise from the thigh.
        turned = (np.cross(thigh, shank) * across).sum(-1)
        assert turned.min() > -1e-6
        forwards = np.cross(across, [0.0, 0.0, 1.0])
        flexion = np.degrees(np.arctan2((thigh * forwards).sum(-1), -thigh[:, 2]))
        low, high = LIMITS["hip_flexion"]
        assert low - 1 <= flexion.min()
        assert flexion.max() <= high + 1
        # The foot at rest falls from the ankle to the ball by asin(0.49).
        foot = unit(joint(positions, f"{side}_foot") - joint(positions, f"{side}_ankle"))
        raised = 90 - np.degrees(np.arccos(np.clip(-(shank * foot).sum(-1), -1, 1))) + np.degrees(np.arcsin(0.49))
        low, high = LIMITS["ankle_dorsiflexion"]
        assert low - slack <= raised.min()
        assert raised.max() <= high + slack


@every
@every_motion
def test_feet_stay_above_the_floor_and_touch_it(name: str, seed: int) -> None:
    positions = MOTIONS[name](seed).positions
    assert positions[..., 2].min() > -0.01
    feet = [BODY_17.index(f"{side}_foot") for side in ("left", "right")]
    assert positions[:, feet, 2].min() < 0.03


@every
@pytest.mark.parametrize("speed", [0.5, 1.0, 1.3, 1.8])
def test_walking_goes_forwards_at_the_speed_asked_for(speed: float, seed: int) -> None:
    pelvis = joint(walk(600, 60, speed, seed).positions, "pelvis")
    velocity = (pelvis[-1] - pelvis[0]) / (599 / 60)
    assert velocity[0] == pytest.approx(speed, rel=0.05)
    assert abs(velocity[1]) < 0.02
    assert (np.diff(pelvis[:, 0]) > 0).all()
    assert np.ptp(pelvis[:, 2]) < 0.09


@every
def test_left_and_right_legs_alternate_and_arms_swing_against_them(seed: int) -> None:
    positions = walk(600, 100, 1.3, seed).positions
    ahead = joint(positions, "left_ankle")[:, 0] - joint(positions, "right_ankle")[:, 0]
    arms = joint(positions, "left_wrist")[:, 0] - joint(positions, "right_wrist")[:, 0]
    assert np.corrcoef(ahead, arms)[0, 1] < -0.8
    changes = np.flatnonzero(np.diff(np.sign(ahead)))
    # Adults walk at 1.7 to 2.2 steps a second at this speed.
    assert 1.5 < 100 / np.diff(changes).mean() < 2.4
    assert np.ptp(np.diff(changes)) <= 2
    for side in ("left", "right"):
        height = joint(positions, f"{side}_foot")[:, 2]
        stance = (height < 0.0215).mean()
        assert 0.4 < stance < 0.7


@every
@pytest.mark.parametrize("speed", [0.6, 1.3, 1.8])
def test_the_stance_foot_hardly_slides(speed: float, seed: int) -> None:
    """Ball of the foot, while it is the lower one and between flat foot and toe-off."""
    positions = walk(600, 120, speed, seed).positions
    for side in ("left", "right"):
        foot = joint(positions, f"{side}_foot")
        down = foot[:, 2] < 0.0205
        runs = np.split(np.flatnonzero(down), np.flatnonzero(np.diff(np.flatnonzero(down)) > 1) + 1)
        for run in runs[1:-1]:
            assert np.ptp(foot[run, 0]) < 0.03
            assert np.ptp(foot[run, 1]) < 0.03


@every
def test_the_knee_bends_twice_in_a_cycle(seed: int) -> None:
    knee = bend(walk(600, 120, 1.3, seed).positions, "left_hip", "left_knee", "left_ankle")
    peaks = np.flatnonzero((knee[1:-1] > knee[:-2]) & (knee[1:-1] >= knee[2:])) + 1
    swing, loading = knee[peaks] > 45, (knee[peaks] > 10) & (knee[peaks] <= 45)
    assert 4 <= swing.sum() <= 7
    assert loading.sum() >= swing.sum() - 1
    assert knee.max() < 80


@every
def test_the_loaded_knee_bends_and_is_nearly_straight_in_mid_stance(seed: int) -> None:
    """People's knees bend by 15 to 20° when loaded, and straighten to some 5° before the heel rises (Perry 1992)."""
    positions = walk(600, 120, 1.3, seed).positions
    for side in ("left", "right"):
        knee = bend(positions, f"{side}_hip", f"{side}_knee", f"{side}_ankle")
        ahead = joint(positions, f"{side}_ankle")[:, 0] - joint(positions, "pelvis")[:, 0]
        landings = np.flatnonzero((ahead[1:-1] > ahead[:-2]) & (ahead[1:-1] >= ahead[2:])) + 1
        cycle = np.diff(landings).mean()
        for landing in landings[landings + 0.5 * cycle < len(knee)]:
            loading, middle = (
                knee[landing + int(first * cycle) : landing + int(last * cycle)]
                for first, last in ((0.08, 0.24), (0.24, 0.44))
            )
            assert 12 < loading.max() < 24
            assert 3 < middle.min() < 10
            assert middle.mean() < 13


@every
@pytest.mark.parametrize("height", [0.1, 0.3, 0.5])
def test_a_flight_is_a_free_fall(height: float, seed: int) -> None:
    rate = 240
    positions = jump(3 * rate, rate, height, seed).positions
    lowest = positions[:, :, 2].min(axis=1)
    in_air = np.flatnonzero(lowest > 0.025)
    flight = in_air[: np.argmax(np.diff(in_air, append=10**9) > 1) + 1]
    # v₀/g up and about as long down, less what the landing's bent knees and the threshold take.
    assert len(flight) / rate == pytest.approx(2 * np.sqrt(2 * height / 9.81), abs=0.08)
    center = mass_center(positions)
    acceleration = np.diff(center, 2, axis=0)[flight[1:-1] - 1] * rate**2
    np.testing.assert_allclose(acceleration[:, 2], -9.81, rtol=0.02)
    np.testing.assert_allclose(acceleration[:, :2], 0, atol=0.01)
    # It rises by the height asked for from where the feet leave the floor, a frame or two before `flight`.
    assert center[flight, 2].max() - center[flight[0], 2] == pytest.approx(height, abs=0.03)


@every
def test_a_jump_has_a_crouch_before_and_after(seed: int) -> None:
    positions = jump(360, 120, 0.3, seed).positions
    knee = bend(positions, "left_hip", "left_knee", "left_ankle")
    top = int(np.argmax(joint(positions, "pelvis")[:, 2]))
    assert knee[:top].max() > 60
    assert knee[top : top + 90].max() > 45
    assert knee[0] < 15


def test_a_seed_makes_one_person_and_another_seed_another() -> None:
    for make in (walk, jump):
        np.testing.assert_array_equal(make(50, seed=3).positions, make(50, seed=3).positions)
        np.testing.assert_array_equal(make(50, seed=np.random.default_rng(3)).positions, make(50, seed=3).positions)
        assert np.abs(make(50, seed=3).positions - make(50, seed=4).positions).max() > 0.02


def test_frames_do_not_depend_on_how_many_are_asked_for() -> None:
    for make in (walk, jump):
        np.testing.assert_allclose(make(7, seed=1).positions, make(90, seed=1).positions[:7], atol=1e-12)


def test_other_proportions_are_kept() -> None:
    assert BODY_17.lengths is not None
    child = replace(BODY_17, lengths=tuple(0.7 * length for length in BODY_17.lengths))
    for motion in (walk(30, speed=0.8, skeleton=child), jump(30, skeleton=child)):
        for (parent, joint_), length in zip(child.bones, child.lengths or (), strict=True):
            bone = np.linalg.norm(motion.positions[:, joint_] - motion.positions[:, parent], axis=-1)
            np.testing.assert_allclose(bone, length, atol=1e-9)


def test_wrong_arguments_are_named() -> None:
    for call, message in (
        (lambda: walk(0), "frames must be at least 1, got 0"),
        (lambda: walk(5, 0), "frame_rate must be positive, got 0"),
        (lambda: walk(5, speed=9), "speed must be 0.4 to 2.0 m/s, got 9"),
        (lambda: jump(5, height=2), "height must be 0.05 to 0.6 m, got 2"),
        (lambda: walk(5, skeleton=COCO_17), "skeleton must have the joints of BODY_17 and bone lengths, got 'COCO_17'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
