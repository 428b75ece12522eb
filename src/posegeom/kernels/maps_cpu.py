"""Map operators with analytic backwards for eager mode on the CPU.

The forward is the reference's; the backward reads the incoming gradient once and reduces it to moments about the point,
instead of walking back through every temporary. With `create_graph` the reference itself is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
        down, across = (_profile(d) for d in _scaled_offsets(x, y, precision, size))
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
        down, across = _profile(dy), _profile(dx)
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


def _profile(offsets: Tensor) -> Tensor:
    """exp(−½ d²), as 0 where it is so small that the product of two would be too small for a normal number.

    That is from 9.3 σ on in float32. See `_exp_` for what such numbers cost.
    """
    values = _exp_(-0.5 * offsets * offsets)
    return torch.threshold_(values, 1.01 * math.sqrt(torch.finfo(values.dtype).tiny), 0.0)


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


TILE = 1 << 16
"""The same where a loop needs many buffers."""


def _chunks(maps: Tensor, pixels: int = CHUNK) -> list[slice]:
    """Slices of whole maps (M, H, W), about so many pixels each."""
    step = max(pixels // max(maps.shape[-2] * maps.shape[-1], 1), 1)
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
        """Running minimum of d² or, with weights, maximum of the values, a piece of the image at a time."""
        ctx.size, ctx.fade, ctx.short, ctx.reference = size, fade, short, reference
        a, b = _flat(start), _flat(end)
        w = None if weight is None else _flat(weight, 1)[..., None, None]
        image = a.new_empty(*start.shape[:-2], *size)
        images = _flat(image)
        winner = images.new_empty(images.shape, dtype=torch.uint8 if a.shape[1] <= 256 else torch.int64)
        for samples in _chunks(images, TILE):
            dx, dy, px, py, vx, vy, whole = _shares(a[samples], b[samples], size, short)
            for rows in _strips(size):
                best = images[samples, rows]
                position, other, value, nearer = (torch.empty_like(best) for _ in range(4))
                number = torch.zeros_like(best)
                for bone in range(a.shape[1]):
                    # The reference's steps, each rounded as there, so that equally near segments are so here too.
                    torch.add(px[:, bone], py[:, bone, rows], out=position).div_(whole[:, bone]).clamp_(0, 1)
                    torch.mul(position, vx[:, bone], out=value).sub_(dx[:, bone])
                    torch.mul(position, vy[:, bone], out=other).sub_(dy[:, bone, rows])
                    value.mul_(value).add_(other.mul_(other))
                    if w is not None:
                        _fade_(value, *fade).mul_(w[samples, bone])
                    if bone == 0:
                        best.copy_(value)
                        continue
                    if any(ctx.needs_input_grad):
                        # Later segments have larger numbers. Comparing into floats, not bools, is vectorised.
                        (torch.lt if w is None else torch.gt)(value, best, out=nearer)
                        torch.maximum(number, nearer.mul_(bone), out=number)
                    (torch.minimum if w is None else torch.maximum)(best, value, out=best)
                winner[samples, rows] = number
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
        vector = b - a
        dots = (vector * vector).sum(-1) < ctx.short
        # A segment of no length: the point at its middle, with any direction but without an extent along it.
        origin = torch.where(dots.unsqueeze(-1), a + 0.5 * vector, a)
        vector = torch.where(dots.unsqueeze(-1), torch.tensor([1, 0], dtype=a.dtype, device=a.device), vector)
        extent = (~dots).to(a.dtype) if bool(dots.any()) else None
        sums = a.new_zeros(5, *dots.shape)
        for samples in _chunks(winner, TILE):
            segments = _Segments(
                origin[samples], vector[samples], *(None if v is None else v[samples] for v in (extent, w))
            )
            for rows in _strips(ctx.size):
                _add_pulls(sums[:, samples], segments, winner[samples, rows], rows, pulls[samples, rows], ctx.fade)
        gamma, power = ctx.fade
        sums[:4] *= power * gamma
        normal = torch.stack((vector[..., 1], -vector[..., 0]), dim=-1)
        by_a, by_b = (
            along.unsqueeze(-1) * vector + aside.unsqueeze(-1) * normal for along, aside in (sums[:2], sums[2:4])
        )
        middle = (by_a + by_b) / 2
        by_a, by_b = (torch.where(dots.unsqueeze(-1), middle, pull).view(start.shape) for pull in (by_a, by_b))
        return by_a, by_b, None if weight is None else sums[4].view(weight.shape), *rest


class _Segments(NamedTuple):
    """Some samples' segments from `origin` along `vector`, (M, N, 2), with 0 in `extent` (M, N) for points."""

    origin: Tensor
    vector: Tensor
    extent: Tensor | None
    weight: Tensor | None


def _add_pulls(
    sums: Tensor, segments: _Segments, winner: Tensor, rows: slice, gradient: Tensor, fade: tuple[float, int]
) -> None:
    """Add to sums (5, M, N) what a strip of M images pulls at their winners: at a along and across, at b, at weights.

    With v = b − a and its normal n = (v_y, −v_x), u − a = s v + t n and e = (s − r) v + t n, where s − r is exactly 0
    between the ends. As the difference u − a − r v, e would be rounding noise there, on the segment nothing else, and
    power 1 divides it by its own length.
    """
    gamma, power = fade
    index = winner.to(torch.int64).flatten(1)

    def look_up(column: Tensor) -> Tensor:
        return column.gather(1, index).view(winner.shape)

    number = torch.arange(max(rows.stop, winner.shape[2]), dtype=sums.dtype, device=sums.device)
    x, y, vx, vy = (look_up(column) for pair in (segments.origin, segments.vector) for column in pair.unbind(-1))
    torch.sub(number[: winner.shape[2]], x, out=x)
    torch.sub(number[rows].unsqueeze(-1), y, out=y)
    squared_length = (vx * vx).addcmul_(vy, vy)
    along = (x * vx).addcmul_(y, vy).div_(squared_length)
    aside = x.mul_(vy).addcmul_(y, vx, value=-1).div_(squared_length)
    position = along.clamp(0, 1)
    if segments.extent is not None:
        position = torch.minimum(position, look_up(segments.extent))
    beyond = along.sub_(position)
    squared = (beyond * beyond).addcmul_(aside, aside).mul_(squared_length)
    # At a distance of 0 both numerators are 0 as well.
    distance = squared.sqrt().clamp_(min=torch.finfo(squared.dtype).tiny) if power == 1 else None
    strength = _fade_(squared, gamma, power).mul_(gradient)
    if segments.weight is not None:
        sums[4].scatter_add_(1, index, strength.flatten(1))
        strength.mul_(look_up(segments.weight))
    if distance is not None:
        strength.div_(distance)
    for axis, error in enumerate((beyond, aside)):
        pull = error.mul_(strength)
        to_b = pull * position
        # One row of the batch after the other, pixel by pixel: the order of the sum is fixed.
        sums[2 + axis].scatter_add_(1, index, to_b.flatten(1))
        sums[axis].scatter_add_(1, index, pull.sub_(to_b).flatten(1))


def _flat(values: Tensor, own: int = 2) -> Tensor:
    """All batch dimensions as one, the last `own` kept."""
    return values.reshape(math.prod(values.shape[:-own]), *values.shape[-own:])


def _shares(a: Tensor, b: Tensor, size: tuple[int, int], short: float) -> tuple[Tensor, ...]:
    """Of segments (M, N, 2): u − a along x and y, r as the sum of two shares over a divisor (the last one), and b − a.

    All are ready to broadcast to pixels.
    """
    vector = b - a
    squared_length = (vector * vector).sum(-1, keepdim=True)
    small = squared_length < short
    dy, dx = _offsets(a[..., 0], a[..., 1], size)
    # A segment of no length is the point at its middle: r = ½ everywhere.
    px, py = torch.where(small, 0.5, dx * vector[..., :1]), torch.where(small, 0.0, dy * vector[..., 1:])
    whole = torch.where(small, 1.0, squared_length).unsqueeze(-1)
    vx, vy = vector[..., None, None].unbind(-3)
    return dx.unsqueeze(-2), dy.unsqueeze(-1), px.unsqueeze(-2), py.unsqueeze(-1), vx, vy, whole


def _strips(size: tuple[int, int]) -> list[slice]:
    """Rows of an image, as many at a time as make a `TILE`."""
    height, width = size
    step = max(TILE // width, 1)
    return [slice(top, min(top + step, height)) for top in range(0, height, step)]


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
