"""Clips held in memory, and the batches of frame pairs that training takes from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from posegeom.kinematics import canonicalize
from posegeom.skeleton import Skeleton
from posegeom_models.data.rendered import RenderedBenchmark

CHUNK = 256
"""Frames rendered at once."""


class Frames(NamedTuple):
    """Frames with everything that is known of them; images in [0, 1].

    Attributes:
        image: (B, 3, H, W).
        background: (B, 3, H, W) without the person.
        labels: (B, H, W) uint8, 0 the background.
        joints: (B, J, 3) metres in the camera's axes.
        canonical: (B, J, 3) the same pose in canonical axes.
        points: (B, J, 2) pixels.
        number: (B,) in the reel.
    """

    image: Tensor
    background: Tensor
    labels: Tensor
    joints: Tensor
    canonical: Tensor
    points: Tensor
    number: Tensor


@dataclass(frozen=True, eq=False)
class Reel:
    """Frames of many clips, one after the other; images and backgrounds as bytes.

    Args:
        image: (F, 3, H, W) uint8.
        background: (F, 3, H, W) uint8.
        labels: (F, H, W) uint8.
        joints: (F, J, 3) metres in the camera's axes.
        points: (F, J, 2) pixels.
        clip: (F,) int64, ascending.
        seconds: (F,) float64 since the clip's first frame.
        moving: (F,) bool: the background moves, so that no clean background could be had from the clip alone.
        skeleton: of the joints.
    """

    image: Tensor
    background: Tensor
    labels: Tensor
    joints: Tensor
    points: Tensor
    clip: Tensor
    seconds: Tensor
    moving: Tensor
    skeleton: Skeleton

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def render(
        cls, benchmark: RenderedBenchmark, every: int = 1, clips: Sequence[int] | None = None, device: str = "cpu"
    ) -> Reel:
        """Every so many-th frame of a benchmark's clips (all of them by default), kept on the CPU."""
        chosen = range(len(benchmark)) if clips is None else clips
        wanted = [(clip, frame) for clip in chosen for frame in range(0, benchmark.config.frames, every)]
        parts = []
        for start in range(0, len(wanted), CHUNK):
            some = wanted[start : start + CHUNK]
            rendered = benchmark.render([clip for clip, _ in some], [frame for _, frame in some], device=device)
            values = (
                _bytes(rendered.image),
                _bytes(rendered.background),
                rendered.labels,
                rendered.joints,
                rendered.points,
                rendered.clip,
                rendered.seconds,
                rendered.moving,
            )
            parts.append([value.cpu() for value in values])
        image, background, labels, joints, points, clip, seconds, moving = map(torch.cat, zip(*parts, strict=True))
        return cls(image, background, labels, joints, points, clip, seconds, moving, benchmark.skeleton)

    def frames(self, numbers: Tensor) -> Frames:
        """Some frames, by number."""
        joints = self.joints[numbers]
        return Frames(
            self.image[numbers].float() / 255,
            self.background[numbers].float() / 255,
            self.labels[numbers],
            joints,
            canonicalize(joints, self.skeleton).canonical,
            self.points[numbers],
            numbers,
        )

    def partners(self, numbers: Tensor, gap: float, random: np.random.Generator) -> Tensor:
        """For each frame another one of its clip, at least `gap` seconds away where the clip is long enough."""
        partners = []
        for number in numbers.tolist():
            same = torch.nonzero(self.clip == self.clip[number]).flatten()
            away = (self.seconds[same] - self.seconds[number]).abs()
            far = same[away >= min(gap, float(away.max()))]
            partners.append(int(far[random.integers(len(far))]))
        return torch.tensor(partners)

    def mean_pose(self) -> Tensor:
        """(J, 3) the mean canonical pose: the answer that looks at no image."""
        return canonicalize(self.joints, self.skeleton).canonical.mean(0)


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


class Shuffle:
    """An endless order of numbers: every epoch each one once, in an order that follows from (seed, epoch).

    Args:
        numbers: what to deal.
        seed: of the orders.
    """

    def __init__(self, numbers: Sequence[int] | Tensor, seed: int) -> None:
        self.numbers = torch.as_tensor(numbers)
        self.seed = seed
        if len(self.numbers) == 0:
            raise ValueError("there are no samples to deal out")

    def deal(self, first: int, count: int) -> Tensor:
        """`count` numbers from place `first` on: the same ones however often they are asked for."""
        length = len(self.numbers)
        places = range(first, first + count)
        orders = {place // length: self._order(place // length) for place in (places[0], places[-1])}
        orders |= {place // length: self._order(place // length) for place in places if place // length not in orders}
        return torch.stack([orders[place // length][place % length] for place in places])

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return self.numbers[torch.randperm(len(self.numbers), generator=generator)]
