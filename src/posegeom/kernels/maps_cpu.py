"""Map operators with analytic backwards for eager mode on the CPU.

The forward is the reference's; the backward reads the incoming gradient once and reduces it to moments about the point,
instead of walking back through every temporary. With `create_graph` the reference itself is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from posegeom._dispatch import differentiate_reference, takes_reference

Context = Any


class GaussianMaps(torch.autograd.Function):
    """w exp(−½ ρ² ((c − x)² + (r − y)²)) for x, y, ρ and w (None for 1) of one shape (*B, J): see `joint_heatmaps`.

    With S = grad · map / w, every gradient follows from S's moments up to second order about the point. The map is an
    outer product of two profiles, so the moments are products of the gradient with (1, d, d²) · profile on each axis.
    """

    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        y: Tensor,
        precision: Tensor,
        weight: Tensor | None,
        size: tuple[int, int],
        reference: Callable[..., Tensor],
    ) -> Tensor:
        """One buffer of the output's size: the output."""
        ctx.size, ctx.reference = size, reference
        ctx.save_for_backward(x, y, precision, weight)
        down, across = (torch.exp(-0.5 * d * d) for d in _scaled_offsets(x, y, precision, size))
        if weight is not None:
            down = down * weight.unsqueeze(-1)
        return down.unsqueeze(-1) * across.unsqueeze(-2)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Moments, or the reference's own backward with create_graph."""
        x, y, precision, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad[:4]
        if takes_reference(gradient):
            return (*_double_backward(ctx, (x, y, precision, weight), gradient), None, None)
        dy, dx = _scaled_offsets(x, y, precision, ctx.size)
        down, across = torch.exp(-0.5 * dy * dy), torch.exp(-0.5 * dx * dx)
        # Three rows from the left: the matrix product reads the gradient once, along its rows.
        with torch.autocast("cpu", enabled=False):
            columns = torch.stack((down, down * dy, down * dy * dy), dim=-2) @ gradient.to(x.dtype)
        zeroth, first, second = (columns * across.unsqueeze(-2)).unbind(-2)
        by_x = zeroth * dx
        strength = 1 if weight is None else weight
        results = (
            strength * precision * by_x.sum(-1) if needed[0] else None,
            strength * precision * first.sum(-1) if needed[1] else None,
            -strength / precision * (second + by_x * dx).sum(-1) if needed[2] else None,
            zeroth.sum(-1) if needed[3] else None,
        )
        return (*results, None, None)


def _scaled_offsets(x: Tensor, y: Tensor, precision: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """ρ times row and column numbers minus the point: (*B, J, H) and (*B, J, W)."""
    dy, dx = _offsets(x, y, size)
    return dy * precision.unsqueeze(-1), dx * precision.unsqueeze(-1)


def _double_backward(ctx: Context, inputs: Sequence[Tensor | None], gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of ctx.reference(*inputs, size), where the last input, a weight, may be None."""
    *given, weight = inputs
    if weight is None:
        values = [value for value in given if value is not None]
        found = differentiate_reference(
            lambda *x: ctx.reference(*x, None, ctx.size), values, gradient, ctx.needs_input_grad[: len(values)]
        )
        return (*found, None)
    values = [value for value in inputs if value is not None]
    return differentiate_reference(
        lambda *x: ctx.reference(*x, ctx.size), values, gradient, ctx.needs_input_grad[: len(values)]
    )


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
        weight: Tensor | None,
        size: tuple[int, int],
        reference: Callable[..., Tensor],
    ) -> Tensor:
        """One buffer of the output's size: the output."""
        ctx.size, ctx.reference = size, reference
        maps = _limb_gaussians(x, y, c, s, along, across, size)
        # Unweighted maps are what the backward needs; weighted ones are computed again.
        ctx.save_for_backward(x, y, c, s, along, across, weight, maps if weight is None else None)
        return maps if weight is None else maps * weight[..., None, None]

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Moments, or the reference's own backward with create_graph."""
        *inputs, maps = ctx.saved_tensors
        needed = ctx.needs_input_grad[:7]
        if takes_reference(gradient):
            return (*_double_backward(ctx, inputs, gradient), None, None)
        x, y, c, s, along, across, weight = inputs
        if maps is None:
            maps = _limb_gaussians(x, y, c, s, along, across, ctx.size)
        dy, dx = _offsets(x, y, ctx.size)
        moments = _moments(gradient.to(x.dtype), maps, dy, dx)
        m0, mx, my = moments[..., 0, 0], moments[..., 0, 1], moments[..., 1, 0]
        mxx, mxy, myy = moments[..., 0, 2], moments[..., 1, 1], moments[..., 2, 0]
        # Sums over the pixels of S·a, S·b and of those times dx, dy, without the factors ρ and τ.
        a, b = c * mx + s * my, c * my - s * mx
        a_dx, a_dy, b_dx, b_dy = c * mxx + s * mxy, c * mxy + s * myy, c * mxy - s * mxx, c * myy - s * mxy
        wide, slim = along * along, across * across
        found = (
            wide * c * a - slim * s * b,
            wide * s * a + slim * c * b,
            -wide * a_dx - slim * b_dy,
            -wide * a_dy + slim * b_dx,
            -along * (c * a_dx + s * a_dy),
            -across * (c * b_dy - s * b_dx),
        )
        if weight is not None:
            found = tuple(weight * value for value in found)
        return (*(value if need else None for value, need in zip((*found, m0), needed, strict=True)), None, None)


CHUNK = 1 << 17
"""Pixels that a loop works on at a time: a buffer of half a megabyte stays in the cache."""


def _chunks(maps: Tensor) -> list[slice]:
    """Slices of whole maps (M, H, W), about `CHUNK` pixels each."""
    step = max(CHUNK // max(maps.shape[-2] * maps.shape[-1], 1), 1)
    return [slice(start, start + step) for start in range(0, maps.shape[0], step)]


def _offsets(x: Tensor, y: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column numbers minus the point: (*B, N, H) and (*B, N, W)."""
    dy, dx = (
        torch.arange(n, dtype=x.dtype, device=x.device) - v.unsqueeze(-1) for v, n in zip((y, x), size, strict=True)
    )
    return dy, dx


def _limb_gaussians(
    x: Tensor, y: Tensor, c: Tensor, s: Tensor, along: Tensor, across: Tensor, size: tuple[int, int]
) -> Tensor:
    """exp(−½ (a² + b²)), each of a and b the sum of a row's and a column's share."""
    dy, dx = _offsets(x, y, size)
    half = math.sqrt(0.5)
    slopes = (dx, c * along), (dy, s * along), (dx, -s * across), (dy, c * across)
    ax, ay, bx, by = (_flat(offset * (half * slope).unsqueeze(-1), 1) for offset, slope in slopes)
    result = ax.new_empty(*x.shape, *size)
    maps = _flat(result)
    chunks = _chunks(maps)
    buffer = torch.empty_like(maps[chunks[0]]) if chunks else maps
    for part in chunks:
        block = maps[part]
        other = buffer[: block.shape[0]]
        torch.add(ax[part].unsqueeze(-2), ay[part].unsqueeze(-1), out=block)
        torch.add(bx[part].unsqueeze(-2), by[part].unsqueeze(-1), out=other)
        _exp_(block.mul_(block).addcmul_(other, other).neg_())
    return result


def _moments(gradient: Tensor, maps: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
    """Σ_u gradient · maps · dy^i dx^j as (*B, N, i, j) for i, j = 0, 1, 2."""
    rows = _flat(torch.stack((torch.ones_like(dy), dy, dy * dy), dim=-2))
    powers = torch.stack((torch.ones_like(dx), dx, dx * dx), dim=-1)
    flat_gradient, flat_maps = _flat(gradient), _flat(maps)
    columns = rows.new_empty(*rows.shape[:2], dx.shape[-1])
    with torch.autocast("cpu", enabled=False):
        for part in _chunks(flat_maps):
            torch.bmm(rows[part], flat_gradient[part] * flat_maps[part], out=columns[part])
        return columns.view(*dx.shape[:-1], 3, dx.shape[-1]) @ powers


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
        """Running minimum of d² or, with weights, maximum of the values, for a few samples at a time."""
        ctx.size, ctx.fade, ctx.short, ctx.reference = size, fade, short, reference
        a, b = _flat(start), _flat(end)
        w = None if weight is None else _flat(weight, 1)
        image = a.new_empty(*start.shape[:-2], *size)
        images = _flat(image)
        winner = images.new_zeros(images.shape, dtype=torch.uint8 if a.shape[1] < 256 else torch.int64)
        chunks = _chunks(images)
        buffers = [torch.empty_like(images[chunks[0]]) if chunks else images for _ in range(3)]
        for part in chunks:
            best, few = images[part], winner[part]
            position, other, value = (buffer[: best.shape[0]] for buffer in buffers)
            for bone in range(a.shape[1]):
                dx, dy, px, py, vx, vy = _segment(a[part, bone], b[part, bone], size, short)
                torch.add(px, py, out=position).clamp_(0, 1)
                torch.addcmul(dx, position, vx, value=-1, out=value)
                torch.addcmul(dy, position, vy, value=-1, out=other)
                value.mul_(value).addcmul_(other, other)
                if w is not None:
                    _fade_(value, *fade).mul_(w[part, bone, None, None])
                if bone == 0:
                    best.copy_(value)
                    continue
                if any(ctx.needs_input_grad):
                    few.masked_fill_(value < best if w is None else value > best, bone)
                (torch.minimum if w is None else torch.maximum)(best, value, out=best)
            if w is None:
                _fade_(best, *fade)
        ctx.save_for_backward(start, end, weight, winner)
        return image

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The winners' share, or the reference's own backward with create_graph."""
        start, end, weight, winner = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        rest = (None,) * 4
        if takes_reference(gradient):
            if weight is None:
                pair = differentiate_reference(
                    lambda a, b: ctx.reference(a, b, None), (start, end), gradient, needed[:2]
                )
                return (*pair, None, *rest)
            return (*differentiate_reference(ctx.reference, (start, end, weight), gradient, needed), *rest)
        a, b, pulls = _flat(start), _flat(end), _flat(gradient)
        w = None if weight is None else _flat(weight, 1)
        by_a, by_b = torch.empty_like(a), torch.empty_like(b)
        by_weight = None if w is None or not needed[2] else torch.empty_like(w)
        for part in _chunks(winner):
            found = _winners_share(
                a[part], b[part], None if w is None else w[part], winner[part], pulls[part], ctx.fade, ctx.short
            )
            by_a[part], by_b[part] = found[0], found[1]
            if by_weight is not None:
                by_weight[part] = found[2]
        return (
            by_a.view(start.shape),
            by_b.view(end.shape),
            None if by_weight is None else by_weight.view(start.shape[:-1]),
            *rest,
        )


def _winners_share(
    a: Tensor,
    b: Tensor,
    weight: Tensor | None,
    winner: Tensor,
    gradient: Tensor,
    fade: tuple[float, int],
    short_limit: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to segments' ends (M, N, 2) and weights (M, N) of M images, from the winner of every pixel."""
    (height, width), (gamma, power) = winner.shape[-2:], fade
    index = winner.to(torch.int64).flatten(1)
    vector = b - a
    squared_length = (vector * vector).sum(-1)
    short = squared_length < short_limit
    inverse = torch.where(short, 0.0, 1 / torch.where(short, 1.0, squared_length))
    # Everything that is constant along a segment, looked up once per pixel.
    ax, ay, vx, vy = (v.gather(1, index) for v in (*a.unbind(-1), *vector.unbind(-1)))
    ex = torch.arange(width, dtype=a.dtype, device=a.device).repeat(height) - ax
    ey = torch.arange(height, dtype=a.dtype, device=a.device).repeat_interleave(width) - ay
    scale = inverse.gather(1, index)
    r = (ex * vx).addcmul_(ey, vy).mul_(scale)
    r = torch.where(short.gather(1, index), 0.5, r.clamp_(0, 1))
    # Between the ends e is perpendicular to the segment. Taken as a difference it would, on the segment, be
    # rounding noise along it, which power 1 divides by its own length.
    inside = (r > 0) & (r < 1) & (scale > 0)
    sideways = (ex * vy).addcmul_(ey, vx, value=-1).mul_(scale)
    ex = torch.where(inside, sideways * vy, ex.addcmul_(r, vx, value=-1))
    ey = torch.where(inside, sideways.neg_().mul_(vx), ey.addcmul_(r, vy, value=-1))
    squared = (ex * ex).addcmul_(ey, ey)
    slope: float | Tensor = 2 * gamma
    if power == 1:
        slope = torch.where(squared == 0, 0.0, gamma / squared.sqrt())
    strength = _fade_(squared, gamma, power).mul_(gradient.reshape(squared.shape))
    by_weight = torch.zeros_like(a[..., 0])
    if weight is not None:
        by_weight.scatter_add_(1, index, strength)
        strength = strength.mul_(weight.gather(1, index))
    strength.mul_(slope)
    ends = []
    for share in (1 - r, r):
        # One row of the batch after the other, pixel by pixel: the order of the sum is fixed.
        pull = strength * share
        columns = [torch.zeros_like(a[..., 0]).scatter_add_(1, index, pull * error) for error in (ex, ey)]
        ends.append(torch.stack(columns, dim=-1))
    return ends[0], ends[1], by_weight


def _flat(values: Tensor, own: int = 2) -> Tensor:
    """All batch dimensions as one, the last `own` kept."""
    return values.reshape(math.prod(values.shape[:-own]), *values.shape[-own:])


def _segment(a: Tensor, b: Tensor, size: tuple[int, int], short: float) -> tuple[Tensor, ...]:
    """Of one segment per sample: u − a along x and y, its two shares in r, and b − a, ready to broadcast to pixels."""
    height, width = size
    vector = b - a
    squared_length = (vector * vector).sum(-1, keepdim=True)
    inverse = torch.where(squared_length < short, 0.0, 1 / torch.where(squared_length < short, 1.0, squared_length))
    dx = torch.arange(width, dtype=a.dtype, device=a.device) - a[:, :1]
    dy = torch.arange(height, dtype=a.dtype, device=a.device) - a[:, 1:]
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


def _exp_(exponent: Tensor) -> Tensor:
    """Exp in place, with results too small for a normal number flushed to 0.

    Processors handle such numbers in microcode: an exp that underflows takes a hundred times as long as another one,
    and most pixels of a map are far from its bone.
    """
    least = math.log(torch.finfo(exponent.dtype).tiny) + 1
    exponent.clamp_(min=least).exp_()
    return torch.threshold_(exponent, 1.01 * math.exp(least), 0.0)


def _fade_(squared: Tensor, gamma: float, power: int) -> Tensor:
    """exp(−γ d^power) from d², in place."""
    return _exp_((squared if power == 2 else squared.sqrt_()).mul_(-gamma))
