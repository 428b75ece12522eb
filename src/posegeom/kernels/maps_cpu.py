"""Map operators with analytic backwards for eager mode on the CPU.

The forward is the reference's; the backward reads the incoming gradient once and reduces it to moments about the point,
instead of walking back through every temporary. With `create_graph` the reference itself is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Context = Any


def differentiate_reference(
    reference: Callable[..., Tensor], inputs: tuple[Tensor, ...], gradient: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of the reference to the inputs that need one, with a graph for the next derivative."""
    wanted = [value for value, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad(reference(*inputs), wanted, gradient, create_graph=True))
    return tuple(next(found) if need else None for need in needed)


class GaussianMaps(torch.autograd.Function):
    """w exp(−½ ρ² ((c − x)² + (r − y)²)) for x, y, ρ, w of one shape (*B, J): see `joint_heatmaps`.

    With S = grad · map / w, every gradient follows from S's moments up to second order about the point, which are two
    products with the vectors (1, d, d²) · exp(−½ ρ² d²) of each axis.
    """

    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        y: Tensor,
        precision: Tensor,
        weight: Tensor,
        size: tuple[int, int],
        reference: Callable[..., Tensor],
    ) -> Tensor:
        """The outer product of two profiles."""
        ctx.size, ctx.reference = size, reference
        ctx.save_for_backward(x, y, precision, weight)
        (_, down), (_, across) = _profiles(x, y, precision, size)
        return (down * weight.unsqueeze(-1)).unsqueeze(-1) * across.unsqueeze(-2)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Moments, or the reference's own backward with create_graph."""
        x, y, precision, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():
            return (*differentiate_reference(ctx.reference, (x, y, precision, weight), gradient, needed), None, None)
        (dy, down), (dx, across) = _profiles(x, y, precision, ctx.size)
        # Three rows from the left: the matrix product reads the gradient once, along its rows.
        with torch.autocast("cpu", enabled=False):
            columns = torch.stack((down, down * dy, down * dy * dy), dim=-2) @ gradient.to(x.dtype)
        zeroth, first, second = (columns * across.unsqueeze(-2)).unbind(-2)
        by_x = zeroth * dx
        results = (
            weight * precision * by_x.sum(-1) if needed[0] else None,
            weight * precision * first.sum(-1) if needed[1] else None,
            -weight / precision * (second + by_x * dx).sum(-1) if needed[2] else None,
            zeroth.sum(-1) if needed[3] else None,
        )
        return (*results, None, None)


def _profiles(
    x: Tensor, y: Tensor, precision: Tensor, size: tuple[int, int]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Scaled distances d = ρ (k − p) and exp(−½ d²) along rows and columns."""
    pairs = []
    for value, count in zip((y, x), size, strict=True):
        distance = (torch.arange(count, dtype=value.dtype) - value.unsqueeze(-1)) * precision.unsqueeze(-1)
        pairs.append((distance, torch.exp(-0.5 * distance * distance)))
    return pairs[0], pairs[1]
