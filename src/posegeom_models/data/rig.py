"""A recorded skeleton posed by its channels: rotations about axes, forward kinematics, Y up to Z up."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posegeom_models.data.files import MotionFileError, check_size
from posegeom_models.data.motion import Motion

Array = NDArray[np.float64]

# Columns are the world axes of a Y-up file in ours: (x, y, z) -> (x, -z, y).
_Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


class Poses:
    """The joints of a recorded skeleton over the frames, in the file's own axes (Y up) and unit.

    `turns` (T, J, 3, 3) and `positions` (T, J, 3) are filled joint by joint, parents first.
    """

    def __init__(self, path: Path, frames: int, joints: int) -> None:
        # Joints without channels cost a file almost nothing, so that a small one could ask for any amount.
        check_size(path, frames * joints * 12 * 8, f"{frames} frames of {joints} joints need")
        self.path = path
        self.turns = np.empty((frames, joints, 3, 3))
        self.positions = np.empty((frames, joints, 3))

    def place(self, number: int, parent: int, turn: Array, offset: Array, parent_moves: bool) -> None:
        """One joint of forward kinematics, all frames at once.

        Args:
            number: the joint.
            parent: its parent, already placed, or -1.
            turn: (T, 3, 3) rotation against the parent.
            offset: (T, 3) from the parent, or the place in the world of a root.
            parent_moves: the parent turns the offset (BVH: a joint is the start of its bone); otherwise the
                joint itself does (ASF: it is the end).
        """
        if parent == -1:
            self.turns[:, number] = turn
            self.positions[:, number] = offset
            return
        self.turns[:, number] = self.turns[:, parent] @ turn
        moving = self.turns[:, parent if parent_moves else number]
        self.positions[:, number] = self.positions[:, parent] + np.einsum("tij,tj->ti", moving, offset)

    def motion(self, names: tuple[str, ...], parents: tuple[int, ...], scale: float, frame_rate: float) -> Motion:
        """The whole in metres (`scale` metres per unit), Z up, named after the file."""
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be positive, got {scale}")
        with np.errstate(over="ignore", invalid="ignore"):
            world = self.positions @ (_Z_UP.T * scale)
            axes = _Z_UP @ self.turns
        try:
            return Motion(self.path.stem, names, parents, world, frame_rate, axes)
        except ValueError as error:
            raise MotionFileError(f"{self.path}: {error}") from None


def turn_about(axis: int, degrees: Array) -> Array:
    """(T,) angles in degrees -> (T, 3, 3) right-handed rotations about axis 0, 1 or 2."""
    angles = np.deg2rad(degrees)
    cos, sin = np.cos(angles), np.sin(angles)
    after, last = (axis + 1) % 3, (axis + 2) % 3
    turn = np.zeros((len(angles), 3, 3))
    turn[:, axis, axis] = 1
    turn[:, after, after] = turn[:, last, last] = cos
    turn[:, last, after], turn[:, after, last] = sin, -sin
    return turn
