"""2D poses without images: recorded motion, projected through random cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import posegeom as pg
from posegeom_models.data.repertoire import POOLS, load_pool
from posegeom_models.imagepose.lifter import PLANE


@dataclass(frozen=True)
class ViewConfig:
    """Which motion, and the cameras that look at it. The camera aims at the pelvis and stands upright.

    Args:
        motion: folder with the motion files (cmu17_train.npz, ...); None for the built-in walks and jumps.
        elevation: mean and standard deviation in degrees, of a normal distribution as 001 assumes it; positive looks
            down.
        distance: least and greatest from the pelvis, in metres.
    """

    motion: Path | None = None
    elevation: tuple[float, float] = (12.0, 8.0)
    distance: tuple[float, float] = (4.5, 6.5)

    def __post_init__(self) -> None:
        if self.motion is not None:
            object.__setattr__(self, "motion", Path(self.motion))
        mean, deviation = self.elevation
        if not (-60 <= mean <= 60 and 0 <= deviation <= 30):
            raise ValueError(f"elevation must be a mean in [-60, 60] and a deviation in [0, 30], got {self.elevation}")
        nearest, farthest = self.distance
        if not 1.5 <= nearest <= farthest:
            raise ValueError(f"distance must be two growing numbers from 1.5 m on, got {self.distance}")


class Views(NamedTuple):
    """People as cameras see them.

    Attributes:
        points: (B, J, 2) on the plane at distance 1 of each camera, the root at 0.
        joints: (B, J, 3) metres about the root, in the camera's axes.
        elevation: (B,) of the camera, radians; positive looks down.
    """

    points: Tensor
    joints: Tensor
    elevation: Tensor


class Poses:
    """All poses of one pool of the motion files.

    Raises:
        ValueError: no such pool.

    Attributes:
        joints: (F, J, 3) metres about the root, Z up.
        clip: (F,) number of the clip that each is from.
        clips: names.
    """

    def __init__(self, pool: str, config: ViewConfig, skeleton: pg.Skeleton) -> None:
        if pool not in POOLS:
            raise ValueError(f"split must be one of {', '.join(POOLS)}, got {pool!r}")
        recordings = load_pool(pool, config.motion, skeleton, "daily", 30, 30.0)
        joints = [torch.from_numpy(recording.joints).float() for recording in recordings]
        whole = torch.cat(joints)
        self.joints = whole - whole[:, skeleton.root].unsqueeze(1)
        self.clip = torch.arange(len(joints)).repeat_interleave(torch.tensor([len(each) for each in joints]))
        self.clips = tuple(recording.name for recording in recordings)
        self.config, self.skeleton = config, skeleton

    def __len__(self) -> int:
        return len(self.joints)

    def views(self, numbers: Tensor, generator: torch.Generator) -> Views:
        """Some poses, by number, each through a camera of its own."""
        count, config = len(numbers), self.config
        mean, deviation = (math.radians(value) for value in config.elevation)
        nearest, farthest = config.distance
        azimuth = 2 * math.pi * torch.rand(count, generator=generator)
        elevation = mean + deviation * torch.randn(count, generator=generator)
        # Beyond 80 degrees "upright" means nothing.
        elevation = elevation.clamp(-math.radians(80), math.radians(80))
        distance = nearest + (farthest - nearest) * torch.rand(count, generator=generator)
        rotation = pg.camera_rotation(azimuth, elevation, torch.zeros(count))
        joints = self.joints[numbers] @ rotation.mT
        away = torch.stack((torch.zeros(count), torch.zeros(count), distance), dim=-1).unsqueeze(1)
        points, _ = pg.project(joints + away, PLANE)
        return Views(points, joints, elevation)


def head_distance(points: Tensor, skeleton: pg.Skeleton) -> Tensor:
    """Mean distance from the root to the head in 2D points (B, J, 2); to the farthest tip where there is no head."""
    about = points - points[:, skeleton.root].unsqueeze(1)
    distance: Tensor = about.norm(dim=-1)
    return (distance[:, skeleton.index("head_top")] if "head_top" in skeleton else distance.amax(-1)).mean()


def normalised(points: Tensor, scale: Tensor | float, root: int, base: float = 10.0) -> Tensor:
    """Points (B, J, 2) in any unit, as Λ takes them: the root at 0, divided by `base` times the data set's `scale`.

    Args:
        points: 2D poses.
        scale: `head_distance` of the data set, in their unit; one number for all poses.
        root: number of the root joint.
        base: Δ: at that depth the head is 1 from the root.
    """
    return (points - points[:, root].unsqueeze(1)) / (scale * base)


def every_second_mirrored(points: Tensor, skeleton: pg.Skeleton) -> Tensor:
    """2D poses (B, J, 2) about 0, every second one as a mirror shows it: x reversed, left and right exchanged."""
    odd = torch.arange(len(points), device=points.device) % 2 == 1
    return torch.where(odd[:, None, None], pg.flip_joints(points, skeleton), points)
