"""What all Triton kernels share: tiles of an image, how they are launched, and their second derivatives.

Every kernel writes each element of its output once and reads each gradient once. A backward draws its image again
instead of saving it and reduces gradient times image to a few sums; sums of different programs meet in memory and are
added in a fixed order, so two runs give the same bits. float64 inputs are computed in float64, all others in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from posegeom._dispatch import INTERPRETED, differentiate_reference
from posegeom.frames import TINY


class Tiling(NamedTuple):
    """How an image is cut into tiles, a program's work at a time; docs/kernels.md says how the figures were found.

    Attributes:
        pixels: of a tile at most.
        widest: columns at most, a power of two from 16 to 128.
        warps: that work on a tile.
    """

    pixels: int
    widest: int
    warps: int

    def shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Rows and columns of a tile, how many tiles lie side by side, and how many an image has.

        The width is the power of two from 16 to `widest` that sticks out least over the image.
        """
        # The interpreter takes its time per program and not per pixel: it gets fewer and larger tiles.
        pixels = self.pixels * (4 if INTERPRETED else 1)
        sides = [side for side in (128, 64, 32, 16) if side <= min(self.widest, pixels)]
        columns = min(sides, key=lambda side: -(-width // side) * side)
        rows = max(min(pixels // columns, _power_of_two(height)), 1)
        across = -(-width // columns)
        return rows, columns, across, across * -(-height // rows)


_TINY = tl.constexpr(TINY)

ENOUGH_PROGRAMS = 8192
"""From this many programs on a backward gives one program all tiles of an image: a large GPU is full either way."""


def tiles_per_program(images: int, tiles: int) -> tuple[int, int]:
    """How many tiles a program of a reduction takes, and how many programs an image gets."""
    programs = max(min(tiles, -(-ENOUGH_PROGRAMS // max(images, 1))), 1)
    each = _power_of_two(-(-tiles // programs))  # a constant of the kernel: few values, so that few are compiled
    return each, -(-tiles // each)


def padded(count: int) -> int:
    """The power of two that holds `count` lanes."""
    return _power_of_two(count)


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()


def scalar(value: float) -> tuple[float, float]:
    """A number as a float32 and the rest: Triton takes Python floats as float32, too coarse for float64 kernels."""
    high = float(torch.tensor(value, dtype=torch.float32, device="cpu"))
    return high, value - high if math.isfinite(high) else 0.0


def tl_dtype(values: Tensor) -> Any:
    """The type a kernel computes in: float64 for float64, float32 for all others."""
    return tl.float64 if values.dtype == torch.float64 else tl.float32


@cache
def index_table(indices: tuple[int, ...], device: torch.device) -> Tensor:
    """Integers on a device, copied there once and kept: a CUDA graph may hold their address."""
    return torch.tensor(indices, dtype=torch.int32, device=device)


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's device the current one: a kernel starts on the current one, whatever its arguments are on."""
    return torch.cuda.device_of(tensor)


@triton.jit
def pixels(tile, tiles_x, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Row numbers (ROWS, 1) and column numbers (1, COLUMNS) of a tile."""
    rows = (tile // tiles_x) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = (tile % tiles_x) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return rows, columns


@triton.jit
def direction(x, y):
    """Unit vector and length of (x, y), and whether the length counts as zero; then the direction is that of x.

    Scaled by the larger component, the square neither under- nor overflows.
    """
    size = tl.maximum(tl.abs(x), tl.abs(y), propagate_nan=tl.PropagateNan.ALL)
    zero = size < _TINY
    scale = tl.where(zero, 1.0, size)
    x, y = tl.where(zero, 1.0, x / scale), tl.where(zero, 0.0, y / scale)
    norm = tl.sqrt(x * x + y * y)
    return x / norm, y / norm, tl.where(zero, 0.0, norm * scale), zero


@triton.jit
def total(values):
    """The sum of all values of a tile."""
    return tl.sum(tl.sum(values, axis=1), axis=0)


def differentiate_again(
    ctx: Any, reference: Any, inputs: Sequence[Tensor | None], gradient: Tensor | Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients of reference(*inputs), some of which may be None, that can be differentiated again.

    `gradient` holds one tensor per output; outputs that a kernel wrote in another dtype are cast like them.
    """
    given = [k for k, value in enumerate(inputs) if value is not None]
    gradients = [gradient] if isinstance(gradient, Tensor) else list(gradient)

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        filled = dict(zip(given, values, strict=True))
        results = reference(*(filled.get(k) for k in range(len(inputs))))
        results = (results,) if isinstance(results, Tensor) else results
        return tuple(value.to(like.dtype) for value, like in zip(results, gradients, strict=True))

    tensors = [value for value in inputs if value is not None]
    found = differentiate_reference(call, tensors, gradients, [ctx.needs_input_grad[k] for k in given])
    by_input = dict(zip(given, found, strict=True))
    return tuple(by_input.get(k) for k in range(len(inputs)))
