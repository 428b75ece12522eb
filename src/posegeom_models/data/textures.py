"""Procedural textures: random lattices, noise, cloth patterns and soft edges.

Everything is elementwise arithmetic whose every step IEEE 754 rounds in one way (no sums over an axis, no sine, no
fused multiply-add), so that a value has the same bits in whatever batch it is computed.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

CELLS = 4096
"""Entries of the table that a lattice point is looked up in: a power of two."""

PATTERNS = ("plain", "hoops", "stripes", "checks", "dots", "mottled", "plaid")
"""Cloth patterns, by the number that `pattern` takes. Hoops go round a limb, stripes along it."""


@functools.lru_cache(maxsize=8)
def _table(device: torch.device) -> Tensor:
    values = np.random.Generator(np.random.Philox(17)).random(CELLS, dtype=np.float32)
    return torch.from_numpy(values).to(device)


def lattice(row: Tensor, column: Tensor, salt: Tensor) -> Tensor:
    """A number in [0, 1) for every lattice point: three int32 tensors of one shape (the salt may broadcast)."""
    place = (row * 1619 + column * 31337 + salt) & (CELLS - 1)
    return _table(place.device).index_select(0, place.flatten()).view(place.shape)


def cells(values: Tensor) -> tuple[Tensor, Tensor]:
    """The int32 cell of a coordinate and the place in it, in [0, 1)."""
    values = values.clamp(-3e4, 3e4)
    below = values.floor()
    return below.int(), values - below


def value_noise(x: Tensor, y: Tensor, salt: Tensor) -> Tensor:
    """Smooth noise in [0, 1) with one random value per unit cell; `salt` int32 chooses the noise."""
    (column, right), (row, down) = cells(x), cells(y)
    right, down = (share * share * (3 - 2 * share) for share in (right, down))
    upper = mix(lattice(row, column, salt), lattice(row, column + 1, salt), right)
    lower = mix(lattice(row + 1, column, salt), lattice(row + 1, column + 1, salt), right)
    return mix(upper, lower, down)


def fractal_noise(x: Tensor, y: Tensor, salt: Tensor, octaves: int = 4) -> Tensor:
    """Octaves of value noise, each twice as fine and half as strong as the one before, in [0, 1)."""
    total, strength, weights = torch.zeros_like(x), 1.0, 0.0
    for octave in range(octaves):
        total = total + strength * value_noise(x, y, salt + 257 * octave)
        weights += strength
        x, y, strength = 2 * x + 0.37, 2 * y + 0.71, strength / 2
    return total / weights


def mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """`first` where the share is 0, `second` where it is 1."""
    return first + (second - first) * share


def soft(distance: Tensor, footprint: Tensor) -> Tensor:
    """An edge one footprint wide: 1 where the signed distance is well inside (negative), ½ on the edge, 0 outside."""
    return (0.5 - distance / footprint).clamp(0, 1)


def stripes(values: Tensor, duty: float | Tensor = 0.5) -> Tensor:
    """1 in the first `duty` of every unit, else 0."""
    return ((values - values.floor()) < duty).to(values.dtype)


def pattern(place: Tensor, kind: Tensor, frequency: Tensor, salt: Tensor) -> Tensor:
    """The share of a cloth's second colour.

    Args:
        place: (N, 3) metres in the cloth's own axes: across, through, along.
        kind: (N,) numbers of `PATTERNS`, as floats.
        frequency: (N,) repeats per metre.
        salt: (N,) int32, chooses the noise.

    Returns:
        (N,) in [0, 1].
    """
    x, y, z = ((place[:, axis] * frequency).clamp(-1e4, 1e4) for axis in range(3))
    hoops, along = stripes(z), stripes(x)
    halves = (x * 0.5).floor() + (y * 0.5).floor() + (z * 0.5).floor()
    off_x, off_z = x - x.floor() - 0.5, z - z.floor() - 0.5
    dots = (off_x * off_x + off_z * off_z < 0.09).to(place.dtype)
    mottled = (6 * fractal_noise(x + 0.7 * y, z, salt, 2) - 2.5).clamp(0, 1)
    shares = (hoops, along, stripes(halves * 0.5), dots, mottled, (hoops + along) * 0.5)
    total = torch.zeros_like(x)
    for number, share in enumerate(shares, 1):
        total = total + share * (kind == number).to(place.dtype)
    return total
