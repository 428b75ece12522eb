"""Walking and jumping people made from phases and joint limits, so that nothing needs a download.

Both motions are built the same way: footsteps on the floor and a path of the body are planned first, the legs
are solved to reach them, every joint angle is clamped to `LIMITS`, and forward kinematics with the skeleton's
bone lengths gives the joints. X is forwards, Y is the person's left, Z is up, the floor is z = 0.
"""

from __future__ import annotations

import math

import numpy as np

from posegeom.presets import BODY_17
from posegeom.skeleton import Skeleton
from posegeom_models.data.figure import LIMITS, Array, Figure, draw_person
from posegeom_models.data.jumping import Leap
from posegeom_models.data.motion import Motion
from posegeom_models.data.walking import Gait

__all__ = ["LIMITS", "jump", "walk"]


def walk(
    frames: int,
    frame_rate: float = 30.0,
    speed: float = 1.3,
    seed: int | np.random.Generator = 0,
    skeleton: Skeleton = BODY_17,
) -> Motion:
    """A person walking forwards (+X) at a steady speed.

    Step length is √(0.39·speed) metres (times the person's own factor), as people keep the ratio of step
    length to cadence. The ball of a foot is down for 56 % of a cycle: the heel lands, the foot rolls flat, the
    heel rises and the ball leaves. The pelvis rides on the stance leg, whose knee bends when it is loaded and is
    nearly straight in mid-stance; it turns, lists and sways once a cycle, and the trunk and the arms swing
    against it.

    Args:
        frames: number of frames, at least 1.
        frame_rate: frames per second.
        speed: metres per second, 0.4 to 2.0.
        seed: a number, or a generator to draw the person from; the same seed gives the same motion.
        skeleton: a skeleton with the joints of BODY_17 and bone lengths.

    Returns:
        A `Motion` with the skeleton's joints, (frames, 17, 3) float64; bone lengths are exact.

    Raises:
        ValueError: a number out of range, or a skeleton without those joints or lengths.

    Example:
        >>> from posegeom_models.data.procedural import walk
        >>> walk(60, seed=7).positions.shape
        (60, 17, 3)
    """
    figure = Figure(skeleton)
    times = _times(frames, frame_rate)
    if not 0.4 <= speed <= 2.0:
        raise ValueError(f"speed must be 0.4 to 2.0 m/s, got {speed}")
    person = draw_person(np.random.default_rng(seed))
    step = math.sqrt(0.39 * speed) / person.cadence
    gait = Gait(figure, person, stride=2 * step, effort=min(1.25, step / 0.71))
    cycles = person.phase + times * speed / gait.stride
    angles, pelvis = gait.pose(cycles)
    positions = figure.forward(angles, pelvis)
    positions[..., 0] -= person.phase * gait.stride  # start near x = 0
    return Motion("walk", skeleton.joints, skeleton.parents, positions, frame_rate)


def jump(
    frames: int,
    frame_rate: float = 30.0,
    height: float = 0.3,
    seed: int | np.random.Generator = 0,
    skeleton: Skeleton = BODY_17,
) -> Motion:
    """A person jumping on the spot with an arm swing, again and again: crouch, take-off, flight, landing.

    From take-off to touch-down the centre of mass (de Leva's segment masses) is exactly a free fall,
    z = z₀ + v₀·t − g·t²/2 with v₀ = √(2·g·height), and keeps its place above the feet.

    Args:
        frames: number of frames, at least 1; a jump takes about 2.5 s, and the next one follows.
        frame_rate: frames per second.
        height: metres that the centre of mass rises after take-off, 0.05 to 0.6.
        seed: a number, or a generator to draw the person from; the same seed gives the same motion.
        skeleton: a skeleton with the joints of BODY_17 and bone lengths.

    Returns:
        A `Motion` with the skeleton's joints, (frames, 17, 3) float64; bone lengths are exact.

    Raises:
        ValueError: a number out of range, or a skeleton without those joints or lengths.
    """
    figure = Figure(skeleton)
    times = _times(frames, frame_rate)
    if not 0.05 <= height <= 0.6:
        raise ValueError(f"height must be 0.05 to 0.6 m, got {height}")
    leap = Leap(figure, draw_person(np.random.default_rng(seed)), height)
    return Motion("jump", skeleton.joints, skeleton.parents, leap.pose(times % leap.duration), frame_rate)


def _times(frames: int, frame_rate: float) -> Array:
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    if not 0 < frame_rate < math.inf:
        raise ValueError(f"frame_rate must be positive, got {frame_rate}")
    return np.arange(frames) / frame_rate
