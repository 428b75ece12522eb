"""Frames in other colours, mirrored, turned and before other backgrounds, with their labels (000 and 002, §4)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.data.reels import Frames


class Transformation(NamedTuple):
    """T of 002 (§3.3b) for a batch: a flip of the image, or a turn about its middle.

    Attributes:
        flip: (B,) bool.
        angle: (B,) radians, clockwise in the image.
    """

    flip: Tensor
    angle: Tensor

    @classmethod
    def random(cls, count: int, largest_angle: float, random: np.random.Generator) -> Transformation:
        """Half of them flips, the others turns."""
        flip = torch.from_numpy(random.random(count) < 0.5)
        angle = torch.from_numpy(random.uniform(-largest_angle, largest_angle, count)).float()
        return cls(flip, torch.where(flip, 0.0, angle))

    def images(self, images: Tensor) -> Tensor:
        """T of images (B, C, H, W); those that have both are turned, then mirrored."""
        cos, sin, zero = self.angle.cos(), self.angle.sin(), torch.zeros_like(self.angle)
        sign = torch.where(self.flip, -1.0, 1.0)
        # grid_sample reads where a result's pixel comes from: the inverse turn.
        matrix = torch.stack((cos * sign, sin, zero, -sin * sign, cos, zero), dim=-1).view(-1, 2, 3)
        with torch.autocast(images.device.type, enabled=False):  # the grid is a matrix product
            grid = nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
        return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def inverse_points(self, points: Tensor, side: int, skeleton: pg.Skeleton) -> Tensor:
        """T⁻¹ of points (B, J, 2) in a square image: turned back, or mirrored with left and right exchanged."""
        mirrored = pg.flip_joints(points, skeleton, width=side)
        return torch.where(self.flip[:, None, None], mirrored, turned(points, -self.angle, side))


def turned(points: Tensor, angle: Tensor, side: int) -> Tensor:
    """Points (B, J, 2) of square images turned clockwise by angles (B,) about the middle."""
    middle = (side - 1) / 2
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    x, y = (points - middle).unbind(-1)
    return torch.stack((cos * x - sin * y, sin * x + cos * y), dim=-1) + middle


class Changes(NamedTuple):
    """How each of B frames is changed.

    Attributes:
        gain: (B, 3, 1, 1) of the colours.
        lift: (B, 1, 1, 1) added to them.
        flip: (B,) bool.
        angle: (B,) radians, clockwise in the image.
    """

    gain: Tensor
    lift: Tensor
    flip: Tensor
    angle: Tensor

    @classmethod
    def random(cls, count: int, jitter: float, turn: float, generator: torch.Generator) -> Changes:
        """Half of them mirrored.

        Args:
            count: B.
            jitter: largest relative change of the colours.
            turn: largest angle in degrees.
            generator: draws them.
        """

        def spread(*shape: int) -> Tensor:
            return 2 * torch.rand(count, *shape, generator=generator) - 1

        gain, lift = 1 + jitter * spread(3, 1, 1), 0.3 * jitter * spread(1, 1, 1)
        flip = torch.rand(count, generator=generator) < 0.5
        return cls(gain, lift, flip, spread() * math.radians(turn))

    def rows(self, rows: slice) -> Changes:
        """Those of some frames."""
        return Changes(*(value[rows] for value in self))

    def recolored(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in other colours: what must not change the pose."""
        return (images * self.gain + self.lift).clamp(0, 1)

    def moved(self, frames: Frames, skeleton: pg.Skeleton) -> Frames:
        """Frames turned, then mirrored, with their poses: what must not change the appearance.

        Backgrounds and part labels stay as they are.
        """
        side = frames.image.shape[-1]
        points = turned(frames.points, self.angle, side)
        # The camera rolls with the image: exactly so where the middle of the crop is on its axis, else nearly.
        cos, sin = self.angle.cos()[:, None], self.angle.sin()[:, None]
        x, y, z = frames.joints.unbind(-1)
        joints = torch.stack((cos * x - sin * y, sin * x + cos * y, z), dim=-1)
        flip = self.flip[:, None, None]
        return frames._replace(
            image=Transformation(self.flip, self.angle).images(frames.image),
            joints=torch.where(flip, pg.flip_joints(joints, skeleton, axis=0), joints),
            canonical=torch.where(flip, pg.flip_joints(frames.canonical, skeleton, axis=1), frames.canonical),
            points=torch.where(flip, pg.flip_joints(points, skeleton, width=side), points),
        )


def before(frames: Frames, backdrops: Tensor, chosen: Tensor) -> Frames:
    """Some frames before other backgrounds, where their own tells the person from it.

        I + (1 − m)(B_r − B_t),   m = min(1, 6 · |I − B_t|) widened by a pixel

    Args:
        frames: B frames.
        backdrops: (B, 3, H, W) B_r.
        chosen: (B,) bool; the others stay as they are.
    """
    image, background = frames.image[chosen], frames.background[chosen]
    difference = (image - background).abs().sum(1, keepdim=True)
    person = nn.functional.max_pool2d((6 * difference).clamp(max=1), 3, 1, 1)
    moved = frames.image.clone()
    moved[chosen] = image + (1 - person) * (backdrops[chosen] - background)
    return frames._replace(image=moved)
