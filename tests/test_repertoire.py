"""Which motions are in which split, free falls found in them, and people of other proportions performing them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from posegeom import BODY_17, DE_LEVA_MALE, H36M_17, HAND_21, Skeleton
from posegeom_models.data.diving import dive
from posegeom_models.data.procedural import jump
from posegeom_models.data.repertoire import (
    POOLS,
    Recording,
    Window,
    find_flights,
    load_pool,
    perform,
    recording,
    with_lengths,
)


def stems(recordings: Sequence[Recording]) -> set[str]:
    return {one.name.split("#")[0] for one in recordings}


def pools_of(folder: Path | None, skeleton: Skeleton, content: str, frames: int) -> dict[str, tuple[Recording, ...]]:
    return {pool: load_pool(pool, folder, skeleton, content, frames, 30.0) for pool in POOLS}


@pytest.mark.parametrize("content", ["daily", "freefall"])
def test_built_in_pools_share_no_motion(content: str) -> None:
    chosen = POOLS if content == "daily" else ("train", "test")
    pools = {pool: load_pool(pool, None, BODY_17, content, 20, 30.0) for pool in chosen}
    for one, other in combinations(chosen, 2):
        assert not stems(pools[one]) & stems(pools[other])
        first, second = pools[one][0].joints, pools[other][0].joints
        assert not np.array_equal(first[:20], second[:20])


@pytest.mark.parametrize(
    ("skeleton", "content"), [(BODY_17, "daily"), (H36M_17, "daily"), (BODY_17, "freefall"), (HAND_21, "daily")]
)
def test_pools_of_real_motion_share_no_recording(motion_data: Path, skeleton: Skeleton, content: str) -> None:
    pools = pools_of(motion_data, skeleton, content, 15)
    for one, other in combinations(POOLS, 2):
        assert not stems(pools[one]) & stems(pools[other])
    if skeleton is not HAND_21:
        with np.load(motion_data / "cmu17_test.npz") as file:
            tests = {name.split("#")[0] for name in file["clip_names"]}
        real = {pool: {name for name in stems(pools[pool]) if not name.startswith("dive_")} for pool in POOLS}
        assert real["test"] <= tests
        assert not tests & (real["train"] | real["validation"] | real["unpaired"])


def test_flights_are_those_that_the_data_marks(motion_data: Path) -> None:
    with np.load(motion_data / "freefall17.npz") as file:
        data = {name: file[name] for name in ("com", "clip", "frame_rate", "airborne", "flight_start", "flight_end")}
    found = np.concatenate(
        [find_flights(data["com"][data["clip"] == c].astype(float), data["frame_rate"][c]) for c in range(10)]
    )
    marked = data["airborne"]
    assert (found & marked).sum() / (found | marked).sum() > 0.85
    caught = [found[start:end].any() for start, end in zip(data["flight_start"], data["flight_end"], strict=True)]
    assert np.mean(caught) > 0.95


def test_the_flight_of_a_jump_is_found_and_nothing_else() -> None:
    rate = 120.0
    made = recording(jump(300, rate, 0.4, seed=3), BODY_17, look_for_flights=True)
    vertical = made.mass[:, 2]
    fall = np.zeros(300, dtype=bool)
    fall[1:-1] = np.abs(np.diff(vertical, 2) * rate**2 + 9.81) < 1e-3
    assert (made.flying & fall).sum() / (made.flying | fall).sum() > 0.9


def test_a_dive_falls_freely_and_keeps_its_angular_momentum() -> None:
    rate, frames = 240.0, 240
    motion = dive(frames, rate, seed=2)
    made = recording(motion, BODY_17, look_for_flights=True)
    np.testing.assert_allclose(np.diff(made.mass[:, 2], 2) * rate**2, -9.81, atol=1e-5)
    np.testing.assert_allclose(np.diff(made.mass[:, :2], 2, axis=0), 0, atol=1e-12)
    assert made.flying.all()
    arms = motion.positions - made.mass[:, None]
    weights = np.array(DE_LEVA_MALE.weights(BODY_17))
    momentum = np.einsum("tji,j->ti", np.cross(arms, np.gradient(arms, 1 / rate, axis=0)), weights)[2:-2]
    np.testing.assert_allclose(momentum[:, 1], momentum[:, 1].mean(), rtol=0.02)
    np.testing.assert_allclose(momentum[:, [0, 2]], 0, atol=1e-9)
    for bone, (parent, child) in enumerate(BODY_17.bones):
        lengths = np.linalg.norm(made.joints[:, child] - made.joints[:, parent], axis=-1)
        np.testing.assert_allclose(lengths, BODY_17.lengths[bone], rtol=1e-9)


def test_performing_keeps_directions_changes_lengths_and_stands_on_the_floor() -> None:
    made = recording(jump(90, 30.0, 0.3, seed=1), BODY_17)
    lengths = np.array(BODY_17.lengths) * np.linspace(0.9, 1.1, 16)
    window = Window(made, 10, 2, 30)
    joints = perform(window, BODY_17, lengths, keep_mass=False)
    before = made.joints[10:70:2]
    for length, (parent, child) in zip(lengths, BODY_17.bones, strict=True):
        bone, old = joints[:, child] - joints[:, parent], before[:, child] - before[:, parent]
        np.testing.assert_allclose(bone / length, old / np.linalg.norm(old, axis=-1, keepdims=True), atol=1e-9)
    feet = joints[:, [BODY_17.index("left_foot"), BODY_17.index("right_foot")], 2]
    assert feet.min() == pytest.approx(0.03)


def test_own_lengths_change_nothing() -> None:
    made = recording(jump(20, 30.0, 0.3, seed=1), BODY_17)
    np.testing.assert_allclose(with_lengths(made.joints, BODY_17, np.array(BODY_17.lengths)), made.joints, atol=1e-12)


def test_keeping_the_centre_of_gravity_keeps_the_flight() -> None:
    made = recording(jump(300, 120.0, 0.4, seed=3), BODY_17, look_for_flights=True)
    lengths = np.array(BODY_17.lengths) * np.linspace(1.15, 0.9, 16)
    heavier = perform(Window(made, 0, 1, 300), BODY_17, lengths, keep_mass=True)
    again = recording(jump(300, 120.0, 0.4, seed=3), BODY_17)
    weights = np.array(DE_LEVA_MALE.weights(BODY_17))
    path = np.einsum("tji,j->ti", heavier, weights)
    np.testing.assert_allclose(np.diff(path, axis=0), np.diff(again.mass, axis=0), atol=1e-12)
