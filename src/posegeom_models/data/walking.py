"""The walking cycle: footsteps and a path of the pelvis, and the joint angles that follow."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import nnls

from posegeom_models.data.figure import Angles, Array, Figure, Person, about, curve

_BALL_OFF = 0.56
"""The share of a cycle that the ball of a foot is on the floor; 0 is its heel strike.

The toes, which the skeletons do not have, follow at 0.6 in people; by then the ball is a few centimetres up.
"""

_SOLE_PITCH = curve(
    (0, 18),
    (0.1, 0),
    (0.34, 0),
    (0.5, -26),
    (_BALL_OFF, -46),
    (0.62, -62),
    (0.7, -38),
    (0.8, -9),
    (0.88, 3),
    (0.96, 17),
    (1, 18),
)
# The knee of the leading leg, which carries the body; and the least bend of a knee anywhere in the cycle:
# it must be bending already when the foot leaves.
_STANCE_KNEE = curve((0, 6), (0.13, 18), (0.36, 7), (0.5, 12))
_LEAST_KNEE = curve((0, 5), (0.15, 6), (0.4, 6), (_BALL_OFF, 12), (0.6, 22), (0.72, 30), (0.88, 6), (1, 5))


class Gait:
    """One person's walking cycle."""

    def __init__(self, figure: Figure, person: Person, stride: float, effort: float) -> None:
        self.figure, self.person, self.stride, self.effort = figure, person, stride, effort
        self.weights, self.lead = np.zeros(5), 0.25
        ends = np.array([0.0, 1e-4, _BALL_OFF - 1e-4, _BALL_OFF])
        ankle = figure.rolled(effort * _SOLE_PITCH(ends))
        self.lands, self.leaves = ankle[0], ankle[3]
        self.land_speed, self.leave_speed = (ankle[1] - ankle[0]) / 1e-4, (ankle[3] - ankle[2]) / 1e-4
        # How far before the pelvis a foot is put down, as a share of the stride: where the legs, which must
        # reach it from heel strike until its ball leaves, let the body stay highest.
        heights = []
        for lead in np.linspace(0.18, 0.3, 25):
            self.lead = float(lead)
            weights = self._pelvis_height()
            heights.append((weights[0], self.lead, weights))
        _, self.lead, self.weights = max(heights, key=lambda height: float(height[0]))

    def pose(self, cycles: Array) -> tuple[Angles, Array]:
        """Angles and pelvis at a number of cycles since a left heel strike."""
        person, effort = self.person, self.effort
        angles, pelvis = self._trunk(cycles)
        for side, sign, lag in (("left", 1.0, 0.0), ("right", -1.0, 0.5)):
            since = cycles + lag
            ankle, pitch = self._foot(since, sign)
            ankle[:, 0] -= lag * self.stride
            yaw = np.full_like(cycles, sign * person.toe_out)
            self.figure.reach(angles, pelvis, side, ankle, pitch, yaw)
            # The arm is back when its own leg is in front.
            swing = np.cos(2 * np.pi * since)
            angles[f"{side}_shoulder_flexion"] = math.radians(-3) - effort * person.arm_swing * swing
            angles[f"{side}_shoulder_abduction"] = np.full_like(cycles, math.radians(7))
            angles[f"{side}_elbow_flexion"] = person.elbow + effort * math.radians(11) * (1 - swing)
        return angles, pelvis

    def _trunk(self, cycles: Array) -> tuple[Angles, Array]:
        person, effort, turn = self.person, self.effort, 2 * np.pi * cycles
        angles = {
            "pelvis_turn": -effort * person.turn * np.cos(turn),
            "pelvis_list": math.radians(3.5) * effort * np.sin(turn),
            "trunk_turn": effort * person.turn * np.cos(turn),
            "trunk_lean": person.lean + math.radians(1) * np.cos(2 * turn),
            "head_lean": -0.5 * person.lean - math.radians(1) * np.cos(2 * turn),
        }
        # Body weight moves over the stance leg: left at a quarter of the cycle.
        sway = 0.25 * self._half_width() * np.sin(turn)
        return angles, np.stack([self.stride * cycles, sway, harmonics(cycles) @ self.weights], axis=-1)

    def _half_width(self) -> float:
        return self.person.step_width * self.figure.length["left_hip"]

    def _foot(self, since: Array, sign: float) -> tuple[Array, Array]:
        """Ankle (T, 3) and sole pitch (T,) of a foot, cycles since its heel strike."""
        number = np.floor(since)
        phase = since - number
        pitch = self.effort * _SOLE_PITCH(phase)
        ankle = self.figure.rolled(pitch)
        # The swing is the cubic that leaves and lands with the foot's own velocity, hurried and lifted soon after it
        # leaves, as the hip flexors pull the thigh forwards and the shank trails.
        share = np.clip((phase - _BALL_OFF) / (1 - _BALL_OFF), 0, 1)[:, None]
        span = 1 - _BALL_OFF
        target = self.lands + np.array([self.stride, 0.0])
        swing = (
            (1 + 2 * share) * (1 - share) ** 2 * self.leaves
            + share * (1 - share) ** 2 * span * self.leave_speed
            + share**2 * (3 - 2 * share) * target
            + share**2 * (share - 1) * span * self.land_speed
        )
        # Both bumps are 1 at their tops, some two fifths into the swing; the foot lifts before it hurries, or it would
        # scuff the floor.
        hurry, lift = share**3 * (1 - share) ** 4 / 0.00839, share**2 * (1 - share) ** 3 / 0.03456
        swing += np.hstack([0.14 * self.stride * hurry, 0.22 * self.effort * self.figure.foot * lift])
        flat = np.where((phase > _BALL_OFF)[:, None], swing, ankle)
        place = self.stride * (number + self.lead)
        aside = np.full_like(since, sign * self._half_width())
        return np.stack([flat[:, 0] + place, aside, flat[:, 1]], axis=-1), pitch

    def _pelvis_height(self) -> Array:
        """The pelvis' height over the cycle, as weights of `harmonics`, from the bend of the leading knee.

        Fitted with two harmonics of a step, because at the change of legs the ideal height has a kink, and
        nowhere so high that a leg would not reach its foot.
        """
        cycles = np.arange(256) / 256
        angles, pelvis = self._trunk(cycles)
        pelvis[:, 2] = 0.0
        axes = about("z", angles["pelvis_turn"]) @ about("x", angles["pelvis_list"])
        highest = np.full_like(cycles, np.inf)
        ideal = np.zeros_like(cycles)
        for side, sign, lag in (("left", 1.0, 0.0), ("right", -1.0, 0.5)):
            ankle, _ = self._foot(cycles + lag, sign)
            ankle[:, 0] -= lag * self.stride
            hip = pelvis + sign * self.figure.length[f"{side}_hip"] * axes[..., 1]
            away = np.hypot(*(ankle - hip)[:, :2].T)
            leading = (cycles + lag) % 1 < 0.5
            knee = self.person.bounce * self.effort * _STANCE_KNEE((cycles + lag) % 0.5)
            tall = ankle[:, 2] - hip[:, 2]
            ideal += leading * (tall + np.sqrt(np.maximum(self.figure.leg(knee) ** 2 - away**2, 0)))
            straight = self.figure.leg(_LEAST_KNEE((cycles + lag) % 1)) ** 2 - away**2
            highest = np.minimum(highest, tall + np.sqrt(np.maximum(straight, 0)))
        return fit_below(harmonics(cycles), ideal, highest)


def fit_below(basis: Array, ideal: Array, highest: Array) -> Array:
    """The weights w of an orthogonal basis that bring basis·w nearest to `ideal` and nowhere above `highest`.

    With z = D·(w - w₀) from the free fit w₀, D the columns' lengths, this is the least z of G·z ≥ g, which Lawson and
    Hanson (Solving Least Squares Problems, 1974, ch. 23) solve by one non-negative fit of (0, ..., 0, 1). A basis that
    holds a constant can always be below.
    """
    lengths = np.linalg.norm(basis, axis=0)
    free = ideal @ basis / lengths**2
    over = basis @ free - highest
    system = np.vstack([-(basis / lengths).T, over])
    target = np.append(np.zeros(basis.shape[1]), 1.0)
    multipliers, _ = nnls(system, target)
    rest = target - system @ multipliers
    weights: Array = free - rest[:-1] / rest[-1] / lengths
    return weights


def harmonics(cycles: Array) -> Array:
    """(T,) cycles -> (T, 5): 1 and the first two harmonics of a step, two of which make a cycle."""
    turn = 4 * np.pi * cycles
    return np.stack([np.ones_like(turn), np.cos(turn), np.sin(turn), np.cos(2 * turn), np.sin(2 * turn)], axis=-1)
