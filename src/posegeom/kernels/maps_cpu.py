"""Map operators with analytic backwards for eager mode on the CPU.

The forward is the reference's; the backward reads the incoming gradient once and reduces it to moments about the point,
instead of walking back through every temporary. With `create_graph` the reference itself is differentiated.
"""

from __future__ import annotations

import math
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


class LimbGaussians(torch.autograd.Function):
    """w exp(−½ (a² + b²)), a = ρ (c dx + s dy), b = τ (c dy − s dx), for inputs of one shape (*B, N): see `limb_maps`.

    (dx, dy) = u − (x, y) is the offset from a bone's middle, (c, s) its direction, ρ and τ the inverse widths along and
    across. With S = grad · map / w every gradient follows from the six moments of S up to second order about (x, y).
    """

    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        y: Tensor,
        c: Tensor,
        s: Tensor,
        along: Tensor,
        across: Tensor,
        weight: Tensor,
        size: tuple[int, int],
        reference: Callable[..., Tensor],
    ) -> Tensor:
        """Three buffers of the output's size at the most."""
        ctx.size, ctx.reference = size, reference
        maps = _unweighted_limbs(x, y, c, s, along, across, size)
        ctx.save_for_backward(x, y, c, s, along, across, weight)
        return maps.mul_(weight[..., None, None])

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Moments, or the reference's own backward with create_graph."""
        inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[:7]
        if torch.is_grad_enabled():
            return (*differentiate_reference(ctx.reference, inputs, gradient, needed), None, None)
        x, y, c, s, along, across, weight = inputs
        strength = _unweighted_limbs(x, y, c, s, along, across, ctx.size).mul_(gradient)
        dy, dx = (
            torch.arange(count, dtype=x.dtype) - value.unsqueeze(-1)
            for value, count in zip((y, x), ctx.size, strict=True)
        )
        with torch.autocast("cpu", enabled=False):
            columns = torch.stack((torch.ones_like(dy), dy, dy * dy), dim=-2) @ strength
            powers = torch.stack((torch.ones_like(dx), dx, dx * dx), dim=-1)
            moments = columns @ powers  # [power of dy, power of dx]
        m0, mx, my = moments[..., 0, 0], moments[..., 0, 1], moments[..., 1, 0]
        mxx, mxy, myy = moments[..., 0, 2], moments[..., 1, 1], moments[..., 2, 0]
        # Sums over the pixels of S·a, S·b and of those times dx, dy, without the factors ρ and τ.
        a, b = c * mx + s * my, c * my - s * mx
        a_dx, a_dy, b_dx, b_dy = c * mxx + s * mxy, c * mxy + s * myy, c * mxy - s * mxx, c * myy - s * mxy
        wide, slim = along * along, across * across
        found = (
            weight * (wide * c * a - slim * s * b),
            weight * (wide * s * a + slim * c * b),
            -weight * (wide * a_dx + slim * b_dy),
            -weight * (wide * a_dy - slim * b_dx),
            -weight * along * (c * a_dx + s * a_dy),
            -weight * across * (c * b_dy - s * b_dx),
            m0,
        )
        return (*(value if need else None for value, need in zip(found, needed, strict=True)), None, None)


def _unweighted_limbs(
    x: Tensor, y: Tensor, c: Tensor, s: Tensor, along: Tensor, across: Tensor, size: tuple[int, int]
) -> Tensor:
    dy, dx = (
        torch.arange(count, dtype=x.dtype) - value.unsqueeze(-1) for value, count in zip((y, x), size, strict=True)
    )

    def combined(by_x: Tensor, by_y: Tensor) -> Tensor:
        return (dx * by_x.unsqueeze(-1)).unsqueeze(-2) + (dy * by_y.unsqueeze(-1)).unsqueeze(-1)

    exponent = combined(c * along, s * along).square_()
    offset = combined(-s * across, c * across)
    return exponent.addcmul_(offset, offset).mul_(-0.5).exp_()


class StickFigure(torch.autograd.Function):
    """max_l w_l exp(−γ d_l^power) for segments (*B, N, 2) and weights (*B, N) or None for 1: see `skeleton_image`.

    The forward keeps a running winner over the segments, so no (*B, N, H, W) tensor exists; it saves one byte a pixel.
    The backward touches the winner alone. With the nearest point a + r (b − a) and e = u − a − r (b − a),

        ∂d²/∂a = −2 (1 − r) e,   ∂d²/∂b = −2 r e

    hold also where r follows a and b, because d² is minimal in r there.
    """

    @staticmethod
    def forward(
        ctx: Context,
        start: Tensor,
        end: Tensor,
        weight: Tensor | None,
        size: tuple[int, int],
        fade: tuple[float, int],
        short: float,
        reference: Callable[..., Tensor],
    ) -> Tensor:
        """Running minimum of d² or, with weights, maximum of the values."""
        ctx.size, ctx.fade, ctx.short, ctx.reference = size, fade, short, reference
        a, b = _flat(start), _flat(end)
        w = None if weight is None else _flat(weight, 1)
        best = a.new_full((a.shape[0], *size), 0.0 if weight is not None else float("inf"))
        winner = torch.zeros(best.shape, dtype=torch.uint8 if a.shape[1] < 256 else torch.int64)
        position, other, value = (torch.empty_like(best) for _ in range(3))
        for bone in range(a.shape[1]):
            dx, dy, px, py, vx, vy = _segment(a[:, bone], b[:, bone], size, short)
            torch.add(px, py, out=position).clamp_(0, 1)
            torch.addcmul(dx, position, vx, value=-1, out=value)
            torch.addcmul(dy, position, vy, value=-1, out=other)
            value.mul_(value).addcmul_(other, other)
            if w is not None:
                _fade_(value, *fade).mul_(w[:, bone, None, None])
            if bone and any(ctx.needs_input_grad):
                winner.masked_fill_(value < best if w is None else value > best, bone)
            (torch.minimum if w is None else torch.maximum)(best, value, out=best)
        if w is None:
            _fade_(best, *fade)
        ctx.save_for_backward(start, end, weight, winner)
        return best.view(*start.shape[:-2], *size)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The winners' share, or the reference's own backward with create_graph."""
        start, end, weight, winner = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        rest = (None,) * 4
        if torch.is_grad_enabled():
            if weight is None:
                pair = differentiate_reference(
                    lambda a, b: ctx.reference(a, b, None), (start, end), gradient, needed[:2]
                )
                return (*pair, None, *rest)
            return (*differentiate_reference(ctx.reference, (start, end, weight), gradient, needed), *rest)
        (height, width), (gamma, power) = ctx.size, ctx.fade
        a, b = _flat(start), _flat(end)
        index = winner.to(torch.int64).flatten(1)
        vector = b - a
        squared_length = (vector * vector).sum(-1)
        short = squared_length < ctx.short
        inverse = torch.where(short, 0.0, 1 / torch.where(short, 1.0, squared_length))
        # Everything that is constant along a segment, looked up once per pixel.
        ax, ay, vx, vy = (v.gather(1, index) for v in (*a.unbind(-1), *vector.unbind(-1)))
        ex = torch.arange(width, dtype=a.dtype).repeat(height) - ax
        ey = torch.arange(height, dtype=a.dtype).repeat_interleave(width) - ay
        r = (ex * vx).addcmul_(ey, vy).mul_(inverse.gather(1, index)).clamp_(0, 1)
        if bool(short.any()):
            r = torch.where(short.gather(1, index), 0.5, r)
        ex.addcmul_(r, vx, value=-1)
        ey.addcmul_(r, vy, value=-1)
        squared = (ex * ex).addcmul_(ey, ey)
        slope: float | Tensor = 2 * gamma
        if power == 1:
            slope = torch.where(squared == 0, 0.0, gamma / squared.sqrt())
        strength = _fade_(squared, gamma, power).mul_(gradient.reshape(squared.shape))
        by_weight = None
        if weight is not None:
            w = _flat(weight, 1)
            if needed[2]:
                by_weight = torch.zeros_like(w).scatter_add_(1, index, strength).view(weight.shape)
            strength = strength.mul_(w.gather(1, index))
        strength.mul_(slope)
        by_a, by_b = (torch.zeros_like(a[..., 0]).repeat(2, 1, 1) for _ in range(2))
        for axis, error in enumerate((ex, ey)):
            pull = error.mul_(strength)
            to_b = pull * r
            # One row of the batch after the other, pixel by pixel: the order of the sum is fixed.
            by_b[axis].scatter_add_(1, index, to_b)
            by_a[axis].scatter_add_(1, index, pull.sub_(to_b))
        return (
            by_a.movedim(0, -1).reshape(start.shape),
            by_b.movedim(0, -1).reshape(end.shape),
            by_weight,
            *rest,
        )


def _flat(values: Tensor, own: int = 2) -> Tensor:
    """All batch dimensions as one, the last `own` kept."""
    return values.reshape(math.prod(values.shape[:-own]), *values.shape[-own:])


def _segment(a: Tensor, b: Tensor, size: tuple[int, int], short: float) -> tuple[Tensor, ...]:
    """Of one segment per sample: u − a along x and y, its two shares in r, and b − a, ready to broadcast to pixels."""
    height, width = size
    vector = b - a
    squared_length = (vector * vector).sum(-1, keepdim=True)
    inverse = torch.where(squared_length < short, 0.0, 1 / torch.where(squared_length < short, 1.0, squared_length))
    dx = torch.arange(width, dtype=a.dtype) - a[:, :1]
    dy = torch.arange(height, dtype=a.dtype) - a[:, 1:]
    # A segment of no length is the point at its middle: r = ½ everywhere.
    half = torch.where(squared_length < short, 0.5, 0.0)
    px, py = dx * (vector[:, :1] * inverse) + half, dy * (vector[:, 1:] * inverse)
    return (
        dx.unsqueeze(-2),
        dy.unsqueeze(-1),
        px.unsqueeze(-2),
        py.unsqueeze(-1),
        vector[:, 0, None, None],
        vector[:, 1, None, None],
    )


def _fade_(squared: Tensor, gamma: float, power: int) -> Tensor:
    """exp(−γ d^power) from d², in place."""
    return (squared if power == 2 else squared.sqrt_()).mul_(-gamma).exp_()
