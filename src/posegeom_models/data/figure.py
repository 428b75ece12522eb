"""An articulated figure: joint angles with their limits, the joints they give, and legs that reach a foot.

X is forwards, Y is the person's left, Z is up, the floor is z = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from posegeom.body import DE_LEVA_MALE
from posegeom.presets import BODY_17
from posegeom.skeleton import Skeleton

Array = NDArray[np.float64]
Angles = dict[str, Array]

LIMITS = {
    "hip_flexion": (-30.0, 120.0),
    "hip_abduction": (-30.0, 45.0),
    "knee_flexion": (0.0, 140.0),
    "ankle_dorsiflexion": (-55.0, 30.0),
    "foot_turn": (-35.0, 35.0),
    "shoulder_flexion": (-60.0, 170.0),
    "shoulder_abduction": (-5.0, 120.0),
    "elbow_flexion": (0.0, 145.0),
    "pelvis_turn": (-20.0, 20.0),
    "pelvis_list": (-12.0, 12.0),
    "trunk_turn": (-30.0, 30.0),
    "trunk_lean": (-20.0, 60.0),
    "head_lean": (-40.0, 40.0),
}
"""Lowest and highest joint angle in degrees; 0 is upright standing with hanging arms and flat feet.

Hips are measured against the pelvis (which turns and lists but does not tilt), a foot's turn against its
shank, everything of the arms against the trunk, the head's lean against the trunk's.
"""

# With the sole flat, the ankle is this far above the ball of the foot, as a share of the foot's length; the
# ball's joint itself is a little above the floor.
_FOOT_SLOPE = math.asin(0.49)
_BALL_HEIGHT = 0.15
# The heel is behind and below the ankle (share of the foot's length); feet roll over it when they land.
_HEEL = np.array([-0.38, -0.64])


class Person(NamedTuple):
    """What differs from person to person, drawn from a seed."""

    cadence: float  # times the usual one for the speed
    arm_swing: float  # radians
    elbow: float  # radians
    step_width: float  # metres between the ankles, as a share of the hips' distance
    lean: float  # radians
    turn: float  # radians of pelvis rotation
    bounce: float  # times the usual depth of knee bends
    phase: float  # where in the cycle the motion starts
    toe_out: float  # radians


def draw_person(random: np.random.Generator) -> Person:
    """Someone within the range of healthy adults."""
    return Person(
        cadence=random.uniform(0.94, 1.06),
        arm_swing=math.radians(random.uniform(16, 32)),
        elbow=math.radians(random.uniform(12, 30)),
        step_width=random.uniform(0.35, 0.7),
        lean=math.radians(random.uniform(1, 6)),
        turn=math.radians(random.uniform(3, 7)),
        bounce=random.uniform(0.8, 1.2),
        phase=random.uniform(0, 1),
        toe_out=math.radians(random.uniform(0, 8)),
    )


class Figure:
    """Bone lengths of a skeleton with the joints of BODY_17, and its kinematics."""

    def __init__(self, skeleton: Skeleton) -> None:
        if skeleton.joints != BODY_17.joints or skeleton.parents != BODY_17.parents or skeleton.lengths is None:
            raise ValueError(
                f"skeleton must have the joints of BODY_17 and bone lengths, got {skeleton.name!r} "
                f"with {len(skeleton.joints)} joints"
            )
        self.skeleton = skeleton
        self.length = {skeleton.joints[j]: n for (_, j), n in zip(skeleton.bones, skeleton.lengths, strict=True)}
        self.weights = np.array(DE_LEVA_MALE.weights(skeleton))
        self.foot = (self.length["left_foot"] + self.length["right_foot"]) / 2

    def forward(self, angles: Angles, pelvis: Array) -> Array:
        """Joint angles in radians, clamped here, and pelvis (T, 3) -> joints (T, 17, 3)."""
        a = {name: _clamp(name, angle) for name, angle in angles.items()}
        place = {"pelvis": pelvis}
        pelvis_axes = about("z", a["pelvis_turn"]) @ about("x", a["pelvis_list"])
        trunk = about("z", a["trunk_turn"]) @ about("y", a["trunk_lean"])
        place["neck"] = pelvis + self.length["neck"] * trunk[..., 2]
        head = trunk @ about("y", a["head_lean"])
        place["head"] = place["neck"] + self.length["head"] * head[..., 2]
        for side, sign in (("left", 1.0), ("right", -1.0)):

            def add(
                joint: str, parent: str, axes: Array, direction: tuple[float, float, float], side: str = side
            ) -> None:
                joint = f"{side}_{joint}"
                place[joint] = place[parent] + self.length[joint] * (axes @ np.array(direction))

            down = (0.0, 0.0, -1.0)
            add("hip", "pelvis", pelvis_axes, (0.0, sign, 0.0))
            leg = pelvis_axes @ about("x", sign * a[f"{side}_hip_abduction"])
            add("knee", f"{side}_hip", leg @ about("y", -a[f"{side}_hip_flexion"]), down)
            shank = leg @ about("y", a[f"{side}_knee_flexion"] - a[f"{side}_hip_flexion"])
            add("ankle", f"{side}_knee", shank, down)
            foot = shank @ about("z", sign * a[f"{side}_foot_turn"])
            foot = foot @ about("y", _FOOT_SLOPE - a[f"{side}_ankle_dorsiflexion"])
            add("foot", f"{side}_ankle", foot, (1.0, 0.0, 0.0))
            # The shoulder joint hangs a little below the top of the thorax.
            add("shoulder", "neck", trunk, (0.0, sign * math.cos(0.2), -math.sin(0.2)))
            arm = trunk @ about("x", sign * a[f"{side}_shoulder_abduction"])
            add("elbow", f"{side}_shoulder", arm @ about("y", -a[f"{side}_shoulder_flexion"]), down)
            bend = a[f"{side}_shoulder_flexion"] + a[f"{side}_elbow_flexion"]
            add("wrist", f"{side}_elbow", arm @ about("y", -bend), down)
        return np.stack([place[joint] for joint in self.skeleton.joints], axis=1)

    def reach(self, angles: Angles, pelvis: Array, side: str, ankle: Array, pitch: Array, yaw: Array) -> None:
        """Set one leg's angles so that its ankle is at `ankle` (T, 3) and its sole has `pitch` and `yaw`.

        With thigh l₁ and shank l₂, a knee flexed by k has the ankle at a distance d from the hip with
        d² = l₁² + l₂² + 2·l₁·l₂·cos k; the thigh then is atan2(l₂·sin k, l₁ + l₂·cos k) before that line.
        """
        sign = 1.0 if side == "left" else -1.0
        thigh, shank = self.length[f"{side}_knee"], self.length[f"{side}_ankle"]
        axes = about("z", _clamp("pelvis_turn", angles["pelvis_turn"]))
        axes = axes @ about("x", _clamp("pelvis_list", angles["pelvis_list"]))
        hip = pelvis + sign * self.length[f"{side}_hip"] * axes[..., 1]
        x, y, z = np.moveaxis(_into(axes, ankle - hip), -1, 0)
        across = np.arctan2(y, -z)
        below = np.hypot(y, z)
        cosine = (x**2 + below**2 - thigh**2 - shank**2) / (2 * thigh * shank)
        knee = np.arccos(np.clip(cosine, -1.0, 1.0))
        hip_flexion = np.arctan2(x, below) + np.arctan2(shank * np.sin(knee), thigh + shank * np.cos(knee))
        angles[f"{side}_hip_abduction"] = sign * across
        angles[f"{side}_hip_flexion"] = hip_flexion
        angles[f"{side}_knee_flexion"] = knee
        shank_axes = axes @ about("x", across) @ about("y", knee - hip_flexion)
        down = pitch - _FOOT_SLOPE
        foot = np.stack([np.cos(down) * np.cos(yaw), np.cos(down) * np.sin(yaw), np.sin(down)], axis=-1)
        forward, aside, up = np.moveaxis(_into(shank_axes, foot), -1, 0)
        angles[f"{side}_foot_turn"] = sign * np.arctan2(aside, forward)
        angles[f"{side}_ankle_dorsiflexion"] = np.arcsin(np.clip(up, -1, 1)) + _FOOT_SLOPE

    def leg(self, knee: Array | float) -> Array:
        """Distance from hip to ankle with a knee flexed by `knee` radians, the shorter leg's."""
        distances = []
        for side in ("left", "right"):
            thigh, shank = self.length[f"{side}_knee"], self.length[f"{side}_ankle"]
            distances.append(np.sqrt(thigh**2 + shank**2 + 2 * thigh * shank * np.cos(knee)))
        return np.minimum(*distances)

    def rolled(self, pitch: Array) -> Array:
        """Ankle (T, 2), forwards and up, of a foot that touches the floor with its sole at `pitch`.

        Toes up, the foot turns about its heel; heel up, about the ball. (0, ·) is under the flat foot's ankle.
        """
        ball = self.foot * np.array([math.cos(_FOOT_SLOPE), -math.sin(_FOOT_SLOPE)])
        flat = np.array([0.0, self.foot * (_BALL_HEIGHT + math.sin(_FOOT_SLOPE))])
        cos, sin = np.cos(pitch), np.sin(pitch)
        pivot = np.where((pitch > 0)[:, None], self.foot * _HEEL, ball)
        turned = np.stack([cos * pivot[:, 0] - sin * pivot[:, 1], sin * pivot[:, 0] + cos * pivot[:, 1]], axis=-1)
        ankle: Array = flat + pivot - turned
        return ankle


def _clamp(name: str, angle: Array) -> Array:
    low, high = LIMITS[name.removeprefix("left_").removeprefix("right_")]
    clamped: Array = np.clip(angle, math.radians(low), math.radians(high))
    return clamped


def about(axis: str, angle: Array) -> Array:
    """(T,) radians -> (T, 3, 3) rotations about "x", "y" or "z"."""
    number = "xyz".index(axis)
    after, last = (number + 1) % 3, (number + 2) % 3
    turn = np.zeros((*np.shape(angle), 3, 3))
    turn[..., number, number] = 1
    turn[..., after, after] = turn[..., last, last] = np.cos(angle)
    turn[..., last, after], turn[..., after, last] = np.sin(angle), -np.sin(angle)
    return turn


def _into(axes: Array, vectors: Array) -> Array:
    """World vectors (T, 3) in the axes (T, 3, 3) given as columns."""
    turned: Array = np.einsum("tij,ti->tj", axes, vectors)
    return turned


def curve(*points: tuple[float, float]) -> Callable[[Array], Array]:
    """A smooth curve through (where, degrees) that never overshoots, in radians."""
    where, degrees = zip(*points, strict=True)
    return PchipInterpolator(where, np.radians(degrees))  # type: ignore[no-any-return]
