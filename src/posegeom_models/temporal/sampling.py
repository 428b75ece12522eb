"""Which four frames of a video are compared (§3.1.2), and which follow one another at equal times (§3.2)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from posegeom_models.data.reels import Reel

FRAMES_OF_A_QUADRUPLE = 4


class Distances(NamedTuple):
    """Distances in frames of the reel.

    Attributes:
        near: at most so far is a nearby frame.
        away: at least so far is an away frame.
    """

    near: int
    away: int


class Quadruples(NamedTuple):
    """Four frames of each of Q videos.

    Attributes:
        number: (Q, 4) in the reel.
        distance: (Q, 4) frames between each and the first.
    """

    number: Tensor
    distance: Tensor


class FrameSampler:
    """Reference, nearby, intermediate and away frames, or reference, nearby and two away frames, of one video each.

    All three lie on one side of the reference, in the order of their distances: d_n ≤ near, d_a ≥ away and
    d_n < d_in < d_a, each uniform among what is possible. Only frames with room for an away frame are references: one
    that is nearer would be drawn to the reference by the loss that is to part them.

    Args:
        reel: the frames; a video is a clip of it.
        distances: `near` and `away`.
        negatives: away frames, 1 or 2; with 2 there is no intermediate frame.

    Attributes:
        references: (R,) numbers of the frames with room for an away frame.

    Raises:
        ValueError: distances that leave no room between them, or no clip that is long enough.
    """

    def __init__(self, reel: Reel, distances: Distances, negatives: int = 1) -> None:
        if not 1 <= distances.near < distances.away - 1:
            raise ValueError(f"near must be at least 1 and two less than away, got {distances}")
        if negatives not in (1, 2):
            raise ValueError(f"negatives must be 1 or 2, got {negatives}")
        self.distances, self.negatives = distances, negatives
        self.before, self.after = _room(reel)
        longest = torch.maximum(self.before, self.after)
        self.references = torch.nonzero(longest >= distances.away).flatten()
        if len(self.references) == 0:
            raise ValueError(
                f"the longest clip has {int(longest.max()) + 1} frames, and away is {distances.away}: clips must have "
                f"at least {distances.away + 1} frames, {2 * distances.away + 1} for every frame to be a reference"
            )

    def quadruples(self, references: Tensor, random: np.random.Generator) -> Quadruples:
        """Four frames for each reference (Q,) of `references`."""
        numbers, distances = [], []
        for number in references.tolist():
            steps = self._steps(int(self.before[number]), int(self.after[number]), random)
            numbers.append([number + step for step in steps])
            distances.append([abs(step) for step in steps])
        return Quadruples(torch.tensor(numbers), torch.tensor(distances))

    def _steps(self, before: int, after: int, random: np.random.Generator) -> list[int]:
        """Steps from a reference with so many frames before and after it."""
        near, least = self.distances
        rooms = {-1: before, 1: after}
        sides = [side for side, room in rooms.items() if room >= least]
        side = sides[int(random.integers(len(sides)))]
        away = int(random.integers(least, rooms[side] + 1))
        nearby = int(random.integers(1, near + 1))
        if self.negatives == 2:
            other = int(random.integers(least, rooms[side] + 1))
            return [0, side * nearby, side * other, side * away]
        between = int(random.integers(nearby + 1, away))
        return [0, side * nearby, side * between, side * away]


class FallSampler:
    """Four frames of one video at equal times, all of them falling, for L_track.

    Args:
        reel: the frames.
        falling: (F,) bool: in free fall, on the way down.
        step: frames between two of them.

    Raises:
        ValueError: nowhere are there four such frames.
    """

    def __init__(self, reel: Reel, falling: Tensor, step: int) -> None:
        if step < 1:
            raise ValueError(f"step must be at least 1, got {step}")
        self.step = step
        _, after = _room(reel)
        reach = (FRAMES_OF_A_QUADRUPLE - 1) * step
        before = torch.cumsum(torch.cat((torch.zeros(1, dtype=torch.int64), falling.long())), 0)
        starts = torch.nonzero(after >= reach).flatten()
        # All frames from the first to the fourth, also those between them, are of the fall.
        whole = before[starts + reach + 1] - before[starts] == reach + 1
        self.references = starts[whole]
        if len(self.references) == 0:
            raise ValueError(f"no clip has four frames of a fall, {step} apart")

    def quadruples(self, references: Tensor) -> Quadruples:
        """Each reference (Q,) of `references` and the three frames after it."""
        count = FRAMES_OF_A_QUADRUPLE
        distance = (self.step * torch.arange(count)).expand(len(references), count)
        return Quadruples(references.unsqueeze(1) + distance, distance)


def _room(reel: Reel) -> tuple[Tensor, Tensor]:
    """How many frames of its clip are before and after each frame."""
    _, clip, counts = torch.unique_consecutive(reel.clip, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0)
    place = torch.arange(len(reel.clip))
    return place - (ends - counts)[clip], ends[clip] - 1 - place
