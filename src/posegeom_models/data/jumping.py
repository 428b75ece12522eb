"""The jump: the centre of mass over time, and the limbs that carry it."""

from __future__ import annotations

import math

import numpy as np

from posegeom_models.data.figure import Angles, Array, Figure, Person, curve

GRAVITY = 9.81
"""m/s²."""

_LIMB_SPEED = 4.0
"""rad/s that a leg joint may have at the ends of a flight."""


class Leap:
    """One person's jump: the centre of mass over time, and the limbs that carry it.

    On the floor the legs are solved to keep the feet in place under the planned centre of mass. In the air
    they swing from their take-off angles to those of the landing while the whole body falls freely.
    """

    def __init__(self, figure: Figure, person: Person, height: float) -> None:
        self.figure, self.person = figure, person
        effort = min(1.0, height / 0.3)
        # Degrees at the events: stand, bottom of the crouch, take-off, top, touch-down, bottom, stand.
        self.lean = (3.0, 25 + 15 * effort, 4.0, 2.0, 8.0, 16 + 14 * effort, 3.0)
        self.arms = (2.0, -45 * effort, 110 + 40 * effort, 100 + 30 * effort, 50.0, 20.0, 2.0)
        self.elbow = (15.0, 15.0, 30.0, 25.0, 25.0, 30.0, 15.0)
        self.pitch = (0.0, 0.0, -50.0, -50.0, -25.0, 0.0, 0.0)
        knees = (6.0, person.bounce * (50 + 30 * effort), 9.0, 0.0, 20.0, person.bounce * (40 + 25 * effort), 6.0)
        stand, crouch, off, _, on, deep, _ = (self._tall(number, knee) for number, knee in enumerate(knees))
        rise = math.sqrt(2 * GRAVITY * height)
        flight = (rise + math.sqrt(rise**2 + 2 * GRAVITY * (off - on))) / GRAVITY
        fall = GRAVITY * flight - rise
        push, absorb = 1.9 * (off - crouch) / rise, 1.9 * (on - deep) / fall
        lengths = (0.3, 0.55 / person.cadence, push, rise / GRAVITY, flight - rise / GRAVITY, absorb, 0.6, 0.2)
        marks = np.cumsum(lengths)
        self.events, self.duration = marks[:7], float(marks[7])
        self.off_time, self.on_time = float(marks[2]), float(marks[4])
        # (height, velocity, acceleration) at the ends of each stretch on the floor.
        still, low, soft = (stand, 0.0, 0.0), (crouch, 0.0, rise / push), (deep, 0.0, fall / absorb)
        # Slow stretches would overshoot standing height with the accelerations of the quick ones beside them.
        easy_low, easy_soft = (crouch, 0.0, 0.0), (deep, 0.0, 0.0)
        self.stretches = (
            (0.0, self.events[0], still, still),
            (self.events[0], self.events[1], still, easy_low),
            (self.events[1], self.off_time, low, (off, rise, -GRAVITY)),
            (self.on_time, self.events[5], (on, -fall, -GRAVITY), soft),
            (self.events[5], self.events[6], easy_soft, still),
            (self.events[6], self.duration, still, still),
        )
        self.off_height, self.rise = off, rise

    def pose(self, times: Array) -> Array:
        """Joints (T, 17, 3) at times in [0, duration)."""
        tick = 1e-3
        ends = np.array([self.off_time - tick, self.off_time, self.on_time, self.on_time + tick])
        air = (times > self.off_time) & (times < self.on_time)
        grounded = self._on_floor(np.concatenate([np.where(air, 0.0, times), ends]))
        angles = {name: angle[:-4] for name, angle in grounded[0].items()}
        span = self.on_time - self.off_time
        share = np.clip((times - self.off_time) / span, 0, 1)
        free = self._upper(times)
        for name, angle in grounded[0].items():
            if name in free:
                angles[name] = free[name]
                continue
            before, off, on, after = angle[-4:]
            # Limbs stop extending soon after take-off: their speed counts for the first tenth of the flight,
            # and is bounded, because a leg solved to reach a point is infinitely fast where it is straight.
            leaving = np.clip((off - before) / tick, -_LIMB_SPEED, _LIMB_SPEED)
            landing = np.clip((after - on) / tick, -_LIMB_SPEED, _LIMB_SPEED)
            flying = (
                (1 + 2 * share) * (1 - share) ** 2 * off
                + share * (1 - share) ** 20 * span * leaving
                + share**2 * (3 - 2 * share) * on
                - share**20 * (1 - share) * span * landing
            )
            if name.endswith(("hip_flexion", "knee_flexion")):
                flying += math.radians(18) * (4 * share * (1 - share)) ** 2
            angles[name] = np.where(air, flying, angle[:-4])
        joints = self.figure.forward(angles, grounded[1][:-4])
        mass = self._mass(times)
        joints[air] += (mass - joints.transpose(0, 2, 1) @ self.figure.weights)[air][:, None]
        return joints

    def _mass(self, times: Array) -> Array:
        """Centre of mass (T, 3)."""
        since = times - self.off_time
        height = self.off_height + self.rise * since - GRAVITY / 2 * since**2
        for start, end, first, last in self.stretches:
            inside = (times >= start) & (times <= end)
            height = np.where(inside, _quintic((times - start) / (end - start), end - start, first, last), height)
        zero = np.zeros_like(times)
        # Above the middle of the feet, from where a jump goes straight up.
        return np.stack([zero + 0.55 * self.figure.foot, zero, height], axis=-1)

    def _upper(self, times: Array) -> Angles:
        """Trunk, head and arms."""
        zero = np.zeros_like(times)
        at = np.clip(times, self.events[0], self.events[6])
        lean = curve(*zip(self.events, self.lean, strict=True))(at)
        arms = curve(*zip(self.events, self.arms, strict=True))(at)
        elbow = curve(*zip(self.events, self.elbow, strict=True))(at)
        angles = {"pelvis_turn": zero, "pelvis_list": zero, "trunk_turn": zero, "trunk_lean": lean}
        angles["head_lean"] = -0.5 * lean
        for side in ("left", "right"):
            angles[f"{side}_shoulder_flexion"] = arms * (0.8 + 0.5 * self.person.arm_swing)
            angles[f"{side}_shoulder_abduction"] = zero + math.radians(10)
            angles[f"{side}_elbow_flexion"] = elbow
        return angles

    def _on_floor(self, times: Array) -> tuple[Angles, Array]:
        angles = self._upper(times)
        start = np.array([self.events[1] + 0.45 * (self.off_time - self.events[1]), self.off_time])
        settle = np.array([self.on_time, self.on_time + 0.5 * (self.events[5] - self.on_time)])
        rising = curve((start[0], 0.0), (start[1], self.pitch[2]))(np.clip(times, *start))
        landing = curve((settle[0], self.pitch[4]), (settle[1], 0.0))(np.clip(times, *settle))
        return angles, self._stand(angles, np.where(times < self.on_time, rising, landing), mass=self._mass(times))

    def _stand(self, angles: Angles, pitch: Array, mass: Array, knee: float | None = None) -> Array:
        """Solve the legs over planted feet; returns the pelvis that puts the centre of mass at `mass`.

        With `knee` (radians), that knee angle gives the height, and only the place of `mass` counts.
        The legs move the centre of mass by a fraction of what the pelvis moves, so that the iteration
        contracts: its error falls at least fourfold a round.
        """
        rolled = self.figure.rolled(pitch)
        width = self.person.step_width * self.figure.length["left_hip"] + 0.02
        hip = self.figure.length["left_hip"]
        pelvis: Array = mass.copy()
        for _ in range(40):
            for side, sign in (("left", 1.0), ("right", -1.0)):
                ankle = np.stack([rolled[:, 0], np.full_like(pitch, sign * width), rolled[:, 1]], axis=-1)
                self.figure.reach(angles, pelvis, side, ankle, pitch, np.full_like(pitch, sign * self.person.toe_out))
            off = mass - self.figure.forward(angles, pelvis).transpose(0, 2, 1) @ self.figure.weights
            pelvis = pelvis + off
            if knee is not None:
                away = np.hypot(pelvis[:, 0] - rolled[:, 0], hip - width)
                pelvis[:, 2] = rolled[:, 1] + np.sqrt(np.maximum(self.figure.leg(knee) ** 2 - away**2, 0))
        return pelvis

    def _tall(self, event: int, knee: float) -> float:
        """Height of the centre of mass at an event with the knees bent by `knee` degrees."""
        self.events = np.arange(7.0)
        angles = self._upper(np.array([float(event)]))
        mass = np.array([[0.55 * self.figure.foot, 0.0, 1.0]])
        pitch = np.radians([self.pitch[event]])
        pelvis = self._stand(angles, pitch, mass, math.radians(knee))
        return float((self.figure.forward(angles, pelvis).transpose(0, 2, 1) @ self.figure.weights)[0, 2])


def _quintic(share: Array, span: float, first: tuple[float, float, float], last: tuple[float, float, float]) -> Array:
    """The quintic over `span` seconds with (value, velocity, acceleration) given at both ends, at share in [0, 1]."""
    value, speed, change = first[0], first[1] * span, first[2] * span**2 / 2
    rest = np.array(
        [last[0] - value - speed - change, last[1] * span - speed - 2 * change, last[2] * span**2 - 2 * change]
    )
    cubic, quartic, quintic = np.linalg.solve(np.array([[1, 1, 1], [3, 4, 5], [6, 12, 20.0]]), rest)
    path: Array = value + share * (speed + share * (change + share * (cubic + share * (quartic + share * quintic))))
    return path
