"""The motions of the rendered benchmark, split so that no recording is in two splits, and fitted to its people."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posegeom.body import DE_LEVA_MALE
from posegeom.presets import BODY_17, H36M_17
from posegeom.skeleton import Skeleton
from posegeom_models.data.clips import read_npz_clips
from posegeom_models.data.diving import dive
from posegeom_models.data.motion import Motion
from posegeom_models.data.procedural import jump, walk

Array = NDArray[np.float64]

SPLITS = ("train", "validation", "test")

POOLS = (*SPLITS, "unpaired")
"""The splits, and the motions whose poses are given without images (000's D_z) and in the labelled samples of 002."""

SHARES = {"validation": 0.1, "unpaired": 0.2, "test": 0.2}
"""Shares of the recordings; of data with a test file of its own, only the first two are split off."""

FLIGHT_SECONDS, FLIGHT_RATES, FLIGHT_RESIDUAL = 0.15, (-10.61, -9.01), 0.003
"""A flight lasts so many seconds, is a parabola of an acceleration in this range (m/s²), to so many metres."""

HELD_UP = 1.1
"""Metres above the floor that a hand (or any skeleton that is no person) is shown at."""

_BUILT_IN = 16
"""Built-in motions of a pool; of free falls, half of them jumps and half dives."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One motion on the benchmark's skeleton.

    Args:
        name: of the clip.
        joints: (T, J, 3) metres, Z up.
        rate: frames per second.
        mass: (T, 3) centre of gravity as the source's own joints give it; None for what is no person.
        flying: (T,) bool, in free fall; only looked for in free-fall material.
    """

    name: str
    joints: Array
    rate: float
    mass: Array | None
    flying: NDArray[np.bool_]


class Window(NamedTuple):
    """Some frames of a recording: the first one, and every how many-th."""

    recording: Recording
    start: int
    step: int
    frames: int

    def rows(self) -> slice:
        """Of the recording's arrays."""
        return slice(self.start, self.start + self.step * (self.frames - 1) + 1, self.step)


def motion_folder() -> Path | None:
    """The folder with motion capture that commands use unless told otherwise: $POSEGEOM_DATA, or ../shared/data.

    None where it has no cmu17_train.npz and cmu17_test.npz.
    """
    folder = Path(os.environ.get("POSEGEOM_DATA") or Path("..") / "shared" / "data")
    there = all((folder / name).is_file() for name in ("cmu17_train.npz", "cmu17_test.npz"))
    return folder if there else None


def load_pool(
    pool: str, folder: Path | None, skeleton: Skeleton, content: str, frames: int, frame_rate: float
) -> tuple[Recording, ...]:
    """The recordings of one pool.

    Real motion is cmu17_train.npz and cmu17_test.npz of the folder, or hand21.npz for a hand; pieces of one recording
    (NAME#0, NAME#1) stay together. Free-fall material is freefall17.npz, each recording in the pool that it has in the
    cmu17 files, and somersaults of `posegeom_models.data.diving`.

    Args:
        pool: one of `POOLS`.
        folder: with the motion files; None for built-in walks and jumps.
        skeleton: the joints wanted.
        content: "daily" or "freefall".
        frames: of the shortest recording that is of use.
        frame_rate: in frames per second.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the motions lack joints of the skeleton, or are all shorter.
    """
    falling = content == "freefall"
    if folder is None:
        long = 60 * -(-2 * frames // 60)  # in steps, so that it seldom differs from one configuration to the next
        motions = list(_built_in(pool, falling, long, frame_rate))
    elif lacking := [name for name in _files(skeleton, falling) if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(lacking)}; motion must be a folder with these files, "
            "or None for the built-in walks and jumps"
        )
    elif "middle_mcp" in skeleton:
        motions = [motion for motion in read_npz_clips(folder / "hand21.npz") if _hands(folder)[_stem(motion)] == pool]
    else:
        pools = _people(folder)
        names = ("freefall17.npz",) if falling else ("cmu17_train.npz", "cmu17_test.npz")
        motions = [
            motion
            for name in names
            for motion in read_npz_clips(folder / name)
            if pools.get(_stem(motion), "train") == pool
        ]
    if falling:
        motions += [_dive(pool, number, frames, frame_rate) for number in range(_BUILT_IN // 2)]
    long_enough = [
        motion for motion in motions if len(motion.positions) > (frames - 1) * step_of(motion.frame_rate, frame_rate)
    ]
    recordings = tuple(recording(motion, skeleton, falling) for motion in long_enough)
    recordings = tuple(each for each in recordings if each.flying.any() or not falling)
    if not recordings:
        raise ValueError(
            f"no motion of the {pool} split has {frames} frames at {frame_rate:g} frames/s"
            f"{' and a free fall' if falling else ''}; ask for fewer frames"
        )
    return recordings


def _files(skeleton: Skeleton, falling: bool) -> tuple[str, ...]:
    if "middle_mcp" in skeleton:
        return ("hand21.npz",)
    return ("cmu17_train.npz", "cmu17_test.npz", *(("freefall17.npz",) if falling else ()))


def step_of(rate: float, wanted: float) -> int:
    """Every how many-th frame to take for a frame rate nearest to the wanted one; frames are never made up."""
    return max(1, round(rate / wanted))


def _stem(motion: Motion) -> str:
    return motion.name.split("#")[0]


@functools.lru_cache(maxsize=4)
def _people(folder: Path) -> dict[str, str]:
    """The pool of every recording of people."""
    pools = {_stem(motion): "test" for motion in read_npz_clips(folder / "cmu17_test.npz")}
    return {**_deal(read_npz_clips(folder / "cmu17_train.npz"), ("validation", "unpaired")), **pools}


@functools.lru_cache(maxsize=4)
def _hands(folder: Path) -> dict[str, str]:
    return _deal(read_npz_clips(folder / "hand21.npz"), ("validation", "unpaired", "test"))


def _deal(motions: Sequence[Motion], held_out: Sequence[str]) -> dict[str, str]:
    """The pool of each recording: the held-out ones until each has its share of the frames, then train."""
    sizes: dict[str, int] = {}
    for motion in motions:
        sizes[_stem(motion)] = sizes.get(_stem(motion), 0) + len(motion.positions)
    names = sorted(sizes)
    pools: dict[str, str] = {}
    wanted, filled = list(held_out), 0
    # A fixed shuffle: what is a test clip may not depend on the seed of an experiment.
    for number in np.random.default_rng(7).permutation(len(names)):
        pools[names[number]] = wanted[0] if wanted else "train"
        filled += sizes[names[number]]
        if wanted and filled >= SHARES[wanted[0]] * sum(sizes.values()):
            wanted.pop(0)
            filled = 0
    return pools


@functools.lru_cache(maxsize=16)
def _built_in(pool: str, falling: bool, frames: int, frame_rate: float) -> tuple[Motion, ...]:
    """Jumps, and walks unless falls are wanted; no seed is in two pools."""
    motions = []
    for number in range(_BUILT_IN):
        seed = POOLS.index(pool) * _BUILT_IN + number
        share = number / (_BUILT_IN - 1)
        if number % 4 == 0 or (falling and number % 2 == 0):
            whole = max(frames, round(2.6 * frame_rate))  # one jump takes about 2.5 s
            motions.append(_named(jump(whole, frame_rate, 0.1 + 0.4 * share, seed), seed))
        elif not falling:
            motions.append(_named(walk(frames, frame_rate, 0.6 + 1.2 * share, seed), seed))
    return tuple(motions)


def _dive(pool: str, number: int, frames: int, frame_rate: float) -> Motion:
    seed = POOLS.index(pool) * _BUILT_IN + number
    return _named(dive(frames, frame_rate, seed), seed)


def _named(motion: Motion, seed: int) -> Motion:
    return Motion(f"{motion.name}_{seed}", motion.joints, motion.parents, motion.positions, motion.frame_rate)


def recording(motion: Motion, skeleton: Skeleton, look_for_flights: bool = False) -> Recording:
    """A motion on a skeleton, with feet, spine and nose put where they usually are if the motion lacks them."""
    whole = _completed(motion)
    joints = whole.to_skeleton(skeleton).astype(np.float64)
    mass = None
    flying = np.zeros(len(joints), dtype=bool)
    if "left_hip" in whole.joints:
        # The centre of gravity of the recorded joints: made-up feet would bend the parabola of a flight.
        recorded = BODY_17 if "left_foot" in motion.joints else H36M_17
        weights = np.array(DE_LEVA_MALE.weights(recorded))
        mass = np.einsum("tji,j->ti", whole.to_skeleton(recorded).astype(np.float64), weights)
        if look_for_flights:
            flying = find_flights(mass, motion.frame_rate)
    return Recording(motion.name, joints, motion.frame_rate, mass, flying)


def _completed(motion: Motion) -> Motion:
    names = list(motion.joints)
    if not {"left_hip", "right_hip", "left_ankle", "right_ankle", "neck"} <= set(names):
        return motion
    place = {name: motion.positions[:, number].astype(np.float64) for number, name in enumerate(names)}
    hips = (place["left_hip"] + place["right_hip"]) / 2
    head = place.get("head_top", place.get("head"))
    added = {}
    if "left_foot" not in place:
        front = _unit(np.cross(place["left_hip"] - place["right_hip"], place["neck"] - hips))
        for side in ("left", "right"):
            down = _unit(place[f"{side}_ankle"] - place[f"{side}_knee"])
            ahead = _unit(front - down * (front * down).sum(-1, keepdims=True))
            added[f"{side}_foot"] = place[f"{side}_ankle"] + 0.118 * ahead + 0.065 * down
    if "spine" not in place:
        added["spine"] = (hips + place["neck"]) / 2
    if "nose" not in place and head is not None:
        added["nose"] = (place["neck"] + head) / 2
    parents = {"left_foot": "left_ankle", "right_foot": "right_ankle", "spine": "pelvis", "nose": "neck"}
    tree = [*motion.parents, *(names.index(parents[name]) if parents[name] in names else -1 for name in added)]
    positions = np.stack([*place.values(), *added.values()], axis=1)
    return Motion(motion.name, (*names, *added), tuple(tree), positions, motion.frame_rate)


def find_flights(mass: Array, rate: float) -> NDArray[np.bool_]:
    """The frames in which a centre of gravity (T, 3) falls freely: a parabola in z, with the acceleration of gravity.

    Frames that accelerate downwards at 7 to 13 m/s² (by second differences over a tenth of a second, or noise would
    drown them) are candidates. Of each run of them the ends are cut off, the worse one first, until the rest meets
    `FLIGHT_RATES` and `FLIGHT_RESIDUAL`; it counts if it lasts `FLIGHT_SECONDS`.
    """
    flying = np.zeros(len(mass), dtype=bool)
    span = max(1, round(rate / 20))
    if len(mass) <= 2 * span:
        return flying
    height = mass[:, 2]
    bend = (height[2 * span :] - 2 * height[span:-span] + height[: -2 * span]) * (rate / span) ** 2
    falling = np.pad((bend < -7) & (bend > -13), span, mode="edge")
    low, high = FLIGHT_RATES
    edges = np.flatnonzero(np.diff(np.concatenate([[False], falling, [False]]).astype(int)))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        while end - start > max(4, FLIGHT_SECONDS * rate):
            times = np.arange(start, end) / rate
            fit = np.polyfit(times - times[0], height[start:end], 2)
            residual = height[start:end] - np.polyval(fit, times - times[0])
            if low < 2 * fit[0] < high and np.sqrt((residual**2).mean()) < FLIGHT_RESIDUAL:
                flying[start:end] = True
                break
            inner = slice((end - start) // 4, -((end - start) // 4) or None)
            middle = np.polyval(np.polyfit(times[inner] - times[0], height[start:end][inner], 2), times - times[0])
            first, last = np.abs(height[start:end] - middle)[[0, -1]]
            start, end = (start + 1, end) if first > last else (start, end - 1)
    return flying


def _unit(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units: Array = vectors / np.maximum(lengths, 1e-9)
    return units


def usual_lengths(recording: Recording, skeleton: Skeleton) -> Array:
    """The skeleton's own bone lengths, or the recording's mean ones where it has none, (N,) metres."""
    if skeleton.lengths is not None:
        return np.array(skeleton.lengths)
    return np.array(
        [np.linalg.norm(recording.joints[:, c] - recording.joints[:, p], axis=-1).mean() for p, c in skeleton.bones]
    )


def with_lengths(joints: Array, skeleton: Skeleton, lengths: Array) -> Array:
    """Joints (T, J, 3) whose bones keep their directions and get these lengths (N,); the root stays."""
    length_of = dict(zip((child for _, child in skeleton.bones), lengths, strict=True))
    fitted = np.empty_like(joints)
    fitted[:, skeleton.root] = joints[:, skeleton.root]
    for level in skeleton.levels[1:]:
        for joint in level:
            parent = skeleton.parents[joint]
            fitted[:, joint] = fitted[:, parent] + length_of[joint] * _unit(joints[:, joint] - joints[:, parent])
    return fitted


def perform(window: Window, skeleton: Skeleton, lengths: Array, keep_mass: bool) -> Array:
    """A window of a recording by someone with these bone lengths, standing on z = 0 round x = y = 0.

    What is no person is `HELD_UP` above that. Steps are as much longer as the legs are. With `keep_mass` the centre of
    gravity instead moves exactly as it did, so that a free fall stays one; feet may then be some centimetres off the
    floor.
    """
    rows = window.rows()
    recorded = window.recording.joints[rows]
    joints = with_lengths(recorded, skeleton, lengths)
    mass = window.recording.mass
    root = skeleton.root
    if keep_mass and mass is not None:
        weights = np.array(DE_LEVA_MALE.weights(skeleton))
        joints += (mass[rows] - np.einsum("tji,j->ti", joints, weights))[:, None]
    else:
        legs = [
            bone for bone, (_, child) in enumerate(skeleton.bones) if skeleton.joints[child].endswith(("knee", "ankle"))
        ]
        chosen = legs or list(range(len(skeleton.bones)))
        here = [np.linalg.norm(recorded[0, c] - recorded[0, p]) for p, c in (skeleton.bones[bone] for bone in chosen)]
        ratio = lengths[chosen].sum() / max(float(np.sum(here)), 1e-9)
        joints += ((ratio - 1) * recorded[:, root])[:, None]
    joints[..., :2] -= (joints[:, root, :2].max(0) + joints[:, root, :2].min(0)) / 2
    # The skin is below the joints: by 8 cm under an ankle, by 3 cm under the ball of a foot.
    below = [
        0.03 if name.endswith(("foot", "toe")) else 0.08 if name.endswith("ankle") else 0.06 for name in skeleton.joints
    ]
    joints[..., 2] -= (joints[..., 2] - np.array(below)).min()
    if mass is None:
        joints[..., 2] += HELD_UP
    return joints


_NAME = re.compile(r"(?:exp_(?:train|test)_|leap_|xr_)?(.*?)(?:-\d+fps)?(?:_(?:extra|left|right)?\d*x?)*(?:#\d+)?")


def action_of(recording: str) -> str:
    """What is done in a recording of the motion files, told from its name: without source, hand, take and piece.

    Names that are only numbers (CMU's subject and trial) tell nothing, and give "".

    Example:
        >>> from posegeom_models.data.repertoire import action_of
        >>> action_of("exp_train_walking_extra_1#0"), action_of("salsa_16"), action_of("01_05#2")
        ('walking', 'salsa', '')
    """
    found = _NAME.fullmatch(recording)
    name = found[1] if found else recording
    return "" if name.isdigit() else name
