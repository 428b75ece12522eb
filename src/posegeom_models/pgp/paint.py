"""Random paint for the puppet: colours of its parts, cloth over them, and a scene behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Paint(NamedTuple):
    """What B puppets are painted with.

    Attributes:
        colors: (B, L, 3) of the parts, in [0, 1]; left and right limbs have the same.
        cloth: (B, 3, H, W) pictures in [0, 1] that make the colours brighter and darker from place to place.
        strength: (B,) how much they do, in [0, 1].
        scene: (B, 3, H, W) what is behind the puppet.
    """

    colors: Tensor
    cloth: Tensor
    strength: Tensor
    scene: Tensor

    @classmethod
    def random(cls, count: int, parts: Sequence[str], pictures: Tensor, generator: torch.Generator) -> Paint:
        """Random paint for `count` puppets, whose cloth and scenes are among `pictures` (N, 3, H, W)."""
        names = [name.removeprefix("left_").removeprefix("right_") for name in parts]
        kinds = sorted(set(names))
        colors = torch.rand(count, len(kinds), 3, generator=generator)
        # As often as not a part takes another one's colour: clothes are of several parts.
        other = torch.randint(len(kinds), (count, len(kinds)), generator=generator)
        alike = torch.rand(count, len(kinds), 1, generator=generator) < 0.5
        colors = torch.where(alike, colors.gather(1, other.unsqueeze(-1).expand(-1, -1, 3)), colors)
        cloth, scene = (pictures[torch.randint(len(pictures), (count,), generator=generator)] for _ in range(2))
        strength = torch.rand(count, generator=generator)
        return cls(colors[:, [kinds.index(name) for name in names]], cloth, strength, scene)
