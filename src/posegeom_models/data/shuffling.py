"""Which samples a step takes: an order that training can enter at any place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def share_of(numbers: Tensor, share: float) -> Tensor:
    """A share of some numbers, evenly spread over them: as many as round(share · len), and at least one above 0.

    Args:
        numbers: (N,).
        share: in [0, 1].
    """
    count = max(round(share * len(numbers)), min(len(numbers), math.ceil(share)))
    return numbers[torch.arange(count) * len(numbers) // max(count, 1)]


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
