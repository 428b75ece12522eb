"""A somersault in free fall: the body tucks and opens, turns about its centre of mass, and falls."""

from __future__ import annotations

import math

import numpy as np

from posegeom.presets import BODY_17
from posegeom.skeleton import Skeleton
from posegeom_models.data.figure import Array, Figure, about, curve
from posegeom_models.data.jumping import GRAVITY
from posegeom_models.data.motion import Motion


def dive(
    frames: int,
    frame_rate: float = 30.0,
    seed: int | np.random.Generator = 0,
    skeleton: Skeleton = BODY_17,
) -> Motion:
    """A somersault from the moment of take-off, as from a springboard; the whole clip is in the air.

    The centre of mass (de Leva's segment masses) falls freely, z = z₀ + v₀·t − g·t²/2, and drifts at a steady speed.
    The body turns about the left-right axis through it so that its angular momentum L is constant, and so faster while
    it is tucked: ω(t) = (L − l(t))/I(t), with the moment of inertia I and the limbs' own momentum l of the same masses.

    Args:
        frames: number of frames, at least 1.
        frame_rate: frames per second.
        seed: a number, or a generator to draw the dive from; the same seed gives the same motion.
        skeleton: a skeleton with the joints of BODY_17 and bone lengths.

    Returns:
        A `Motion` with the skeleton's joints, (frames, 17, 3) float64; bone lengths are exact.

    Raises:
        ValueError: a number out of range, or a skeleton without those joints or lengths.
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    if not 0 < frame_rate < math.inf:
        raise ValueError(f"frame_rate must be positive, got {frame_rate}")
    figure = Figure(skeleton)
    random = np.random.default_rng(seed)
    times = np.arange(frames) / frame_rate
    seconds = max(frames / frame_rate, 0.3)
    share = times / seconds
    tuck, open_up = random.uniform(0.2, 0.35), random.uniform(0.65, 0.85)
    marks = (0.0, tuck, open_up, 1.0)
    hip, knee = random.uniform(70, 115), random.uniform(20, 125)

    def course(start: float, middle: float, end: float) -> Array:
        return curve(*zip(marks, (start, middle, middle, end), strict=True))(share)

    zero = np.zeros_like(times)
    angles = {"pelvis_turn": zero, "pelvis_list": zero, "trunk_turn": zero}
    angles["trunk_lean"] = course(0, random.uniform(15, 40), 3)
    angles["head_lean"] = course(0, 20, 0)
    arms, last = random.uniform(60, 100), random.uniform(20, 168)
    for side in ("left", "right"):
        angles[f"{side}_hip_flexion"] = course(0, hip, 4)
        angles[f"{side}_hip_abduction"] = zero + math.radians(2)
        angles[f"{side}_knee_flexion"] = course(3, knee, 3)
        angles[f"{side}_ankle_dorsiflexion"] = zero - math.radians(45)
        angles[f"{side}_foot_turn"] = zero
        angles[f"{side}_shoulder_flexion"] = course(165, arms, last)
        angles[f"{side}_shoulder_abduction"] = course(5, 10, 5)
        angles[f"{side}_elbow_flexion"] = course(5, 60, 5)
    joints = figure.forward(angles, np.zeros((frames, 3)))
    joints = joints - (joints.transpose(0, 2, 1) @ figure.weights)[:, None]
    # About the left-right axis through it: moment of inertia, and the momentum that the limbs' own motion has.
    x, z = joints[..., 0], joints[..., 2]
    inertia = (x**2 + z**2) @ figure.weights
    steps = 1 / frame_rate
    own = (z * _rate(x, steps) - x * _rate(z, steps)) @ figure.weights
    turns = random.uniform(0.4, 1.3) * seconds * random.choice([-1.0, 1.0])
    momentum = (2 * math.pi * turns + _integral(own / inertia, steps)[-1]) / max(
        _integral(1 / inertia, steps)[-1], 1e-9
    )
    angle = _integral((momentum - own) / inertia, steps)
    joints = np.einsum("tij,tkj->tki", about("y", angle), joints)
    rise = GRAVITY * seconds * random.uniform(0.3, 0.5)
    height = 1.2 + rise * times - GRAVITY / 2 * times**2
    drift = random.uniform(0.2, 0.8) * times
    joints = joints + np.stack([drift, zero, height - height.min() + 1.0], axis=-1)[:, None]
    return Motion("dive", skeleton.joints, skeleton.parents, joints, frame_rate)


def _rate(values: Array, step: float) -> Array:
    """Derivative over frames (T, ...); 0 for a single frame."""
    rate: Array = np.gradient(values, step, axis=0) if len(values) > 1 else np.zeros_like(values)
    return rate


def _integral(values: Array, step: float) -> Array:
    """Integral (T,) from the first frame, by the trapezium rule."""
    return np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) * step / 2)])
