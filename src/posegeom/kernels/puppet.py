"""Triton kernels of `part_maps`, and the sampling of a puppet that `puppet_segmentation` shares with it."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from posegeom.kernels.launch import Tiling, differentiate_again, on_device, pixels, tl_dtype, total
from posegeom.maps import Size
from posegeom.puppet import sample_parts

Context = Any

FORWARD, BACKWARD = Tiling(512, 32, 4), Tiling(512, 64, 2)


@triton.jit
def part_affine(linear, mu, bar, part, parts, COMPUTE: tl.constexpr):
    """A, μ and r̄ of u = A (u′ − μ) + r̄ for one part of one sample."""
    here, there = linear + part * 4, bar + part % parts * 2
    xx, xy = tl.load(here).to(COMPUTE), tl.load(here + 1).to(COMPUTE)
    yx, yy = tl.load(here + 2).to(COMPUTE), tl.load(here + 3).to(COMPUTE)
    mu_x, mu_y = tl.load(mu + part * 2).to(COMPUTE), tl.load(mu + part * 2 + 1).to(COMPUTE)
    return xx, xy, yx, yy, mu_x, mu_y, tl.load(there).to(COMPUTE), tl.load(there + 1).to(COMPUTE)


@triton.jit
def _within(x, limit):
    """Clamp x to [0, limit]; also say where it was inside, and which pixel is to its left. NaN stays NaN."""
    inside = (x >= 0.0) & (x <= limit)
    clamped = tl.where(x < 0.0, 0.0, tl.where(x > limit, limit, x))
    left = tl.floor(tl.where(x == x, clamped, 0.0))
    left = tl.where(left > limit - 1.0, limit - 1.0, left)
    return clamped, inside, left


@triton.jit
def sample(template, part, x, y, rows, columns, COMPUTE: tl.constexpr):
    """Values of shape and uncertainty at canonical positions, zero outside, and their slopes along x and y.

    Positions are clamped to a border of zeros around the map, as in the reference; there the slopes are 0. Also gives
    what a template's own gradient needs: the upper left corner's column and row and the shares of its neighbours.
    """
    x, inside_x, left = _within(x + 1.0, tl.cast(columns, COMPUTE) + 1.0)
    y, inside_y, top = _within(y + 1.0, tl.cast(rows, COMPUTE) + 1.0)
    right, bottom = x - left, y - top
    column, row = left.to(tl.int32) - 1, top.to(tl.int32) - 1
    here = template + ((part * rows + row) * columns + column) * 2
    in_left, in_right = column >= 0, column + 1 < columns
    in_top, in_bottom = row >= 0, row + 1 < rows
    s00 = tl.load(here, mask=in_left & in_top, other=0.0).to(COMPUTE)
    u00 = tl.load(here + 1, mask=in_left & in_top, other=0.0).to(COMPUTE)
    s01 = tl.load(here + 2, mask=in_right & in_top, other=0.0).to(COMPUTE)
    u01 = tl.load(here + 3, mask=in_right & in_top, other=0.0).to(COMPUTE)
    here += columns * 2
    s10 = tl.load(here, mask=in_left & in_bottom, other=0.0).to(COMPUTE)
    u10 = tl.load(here + 1, mask=in_left & in_bottom, other=0.0).to(COMPUTE)
    s11 = tl.load(here + 2, mask=in_right & in_bottom, other=0.0).to(COMPUTE)
    u11 = tl.load(here + 3, mask=in_right & in_bottom, other=0.0).to(COMPUTE)
    s_top, s_bottom = s00 * (1.0 - right) + s01 * right, s10 * (1.0 - right) + s11 * right
    u_top, u_bottom = u00 * (1.0 - right) + u01 * right, u10 * (1.0 - right) + u11 * right
    shape, uncertainty = s_top * (1.0 - bottom) + s_bottom * bottom, u_top * (1.0 - bottom) + u_bottom * bottom
    s_x = tl.where(inside_x, (s01 - s00) * (1.0 - bottom) + (s11 - s10) * bottom, 0.0)
    u_x = tl.where(inside_x, (u01 - u00) * (1.0 - bottom) + (u11 - u10) * bottom, 0.0)
    s_y = tl.where(inside_y, s_bottom - s_top, 0.0)
    u_y = tl.where(inside_y, u_bottom - u_top, 0.0)
    return shape, uncertainty, s_x, s_y, u_x, u_y, column, row, right, bottom


@triton.jit
def _part_maps_fwd_kernel(
    linear,
    mu,
    bar,
    template,
    shape_out,
    uncertainty_out,
    parts,
    rows_in,
    columns_in,
    height,
    width,
    tiles_x,
    tiles,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One tile of one part's two maps."""
    part = (tl.program_id(0) // tiles).to(tl.int64)
    rows, columns = pixels(tl.program_id(0) % tiles, tiles_x, ROWS, COLUMNS)
    xx, xy, yx, yy, mu_x, mu_y, bar_x, bar_y = part_affine(linear, mu, bar, part, parts, COMPUTE)
    dx, dy = columns.to(COMPUTE) - mu_x, rows.to(COMPUTE) - mu_y
    shape, uncertainty, _, _, _, _, _, _, _, _ = sample(
        template, part % parts, xx * dx + xy * dy + bar_x, yx * dx + yy * dy + bar_y, rows_in, columns_in, COMPUTE
    )
    inside = (rows < height) & (columns < width)
    here = part * height * width + rows * width + columns
    tl.store(shape_out + here, shape.to(shape_out.dtype.element_ty), mask=inside)
    tl.store(uncertainty_out + here, uncertainty.to(uncertainty_out.dtype.element_ty), mask=inside)


@triton.jit
def _add_fixed_point(target, value, scale, mask):
    """Add to a sum kept in integers, whose order does not matter."""
    tl.atomic_add(target, tl.floor(value.to(tl.float64) * scale + 0.5).to(tl.int64), mask=mask, sem="relaxed")


@triton.jit
def _add_corner(counts, part, row, column, rows, columns, by_shape, by_uncertainty, share, scale, inside):
    """One corner's share of a template's gradient."""
    mask = inside & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    here = counts + ((part * rows + row) * columns + column) * 2
    _add_fixed_point(here, by_shape * share, scale, mask)
    _add_fixed_point(here + 1, by_uncertainty * share, scale, mask)


@triton.jit
def _part_maps_bwd_kernel(
    by_shape,
    by_uncertainty,
    linear,
    mu,
    bar,
    template,
    sums,
    counts,
    fixed_point,
    parts,
    rows_in,
    columns_in,
    height,
    width,
    tiles_x,
    tiles,
    BY_TEMPLATE: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One tile's share of one part's gradients: to A, to u = A (u′ − μ) + r̄ as a whole, and to the template."""
    part = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    rows, columns = pixels(tile, tiles_x, ROWS, COLUMNS)
    xx, xy, yx, yy, mu_x, mu_y, bar_x, bar_y = part_affine(linear, mu, bar, part, parts, COMPUTE)
    dx, dy = columns.to(COMPUTE) - mu_x, rows.to(COMPUTE) - mu_y
    _, _, s_x, s_y, u_x, u_y, column, row, right, bottom = sample(
        template, part % parts, xx * dx + xy * dy + bar_x, yx * dx + yy * dy + bar_y, rows_in, columns_in, COMPUTE
    )
    inside = (rows < height) & (columns < width)
    here = part * height * width + rows * width + columns
    from_shape = tl.load(by_shape + here, mask=inside, other=0.0).to(COMPUTE)
    from_uncertainty = tl.load(by_uncertainty + here, mask=inside, other=0.0).to(COMPUTE)
    by_x = tl.where(inside, from_shape * s_x + from_uncertainty * u_x, 0.0)
    by_y = tl.where(inside, from_shape * s_y + from_uncertainty * u_y, 0.0)
    out = sums + (part * tiles + tile) * 6
    tl.store(out, total(by_x * dx))
    tl.store(out + 1, total(by_x * dy))
    tl.store(out + 2, total(by_y * dx))
    tl.store(out + 3, total(by_y * dy))
    tl.store(out + 4, total(by_x))
    tl.store(out + 5, total(by_y))
    if BY_TEMPLATE:
        scale, which = tl.load(fixed_point), part % parts
        top_left, top_right = (1.0 - right) * (1.0 - bottom), right * (1.0 - bottom)
        low_left, low_right = (1.0 - right) * bottom, right * bottom
        _add_corner(
            counts, which, row, column, rows_in, columns_in, from_shape, from_uncertainty, top_left, scale, inside
        )
        _add_corner(
            counts, which, row, column + 1, rows_in, columns_in, from_shape, from_uncertainty, top_right, scale, inside
        )
        _add_corner(
            counts, which, row + 1, column, rows_in, columns_in, from_shape, from_uncertainty, low_left, scale, inside
        )
        _add_corner(
            counts,
            which,
            row + 1,
            column + 1,
            rows_in,
            columns_in,
            from_shape,
            from_uncertainty,
            low_right,
            scale,
            inside,
        )


@torch.library.custom_op(
    "posegeom::part_maps",
    mutates_args=(),
    schema="(Tensor linear, Tensor mu, Tensor bar, Tensor template, SymInt height, SymInt width, ScalarType dtype) "
    "-> (Tensor, Tensor)",
)
def _part_maps(linear, mu, bar, template, height, width, dtype):
    maps = [linear.new_empty((*mu.shape[:-1], height, width), dtype=dtype) for _ in range(2)]
    if maps[0].numel() == 0:
        return tuple(maps)
    parts, rows_in, columns_in, _ = template.shape
    rows, columns, tiles_x, tiles = FORWARD.shape(height, width)
    with on_device(linear):
        _part_maps_fwd_kernel[(mu.numel() // 2 * tiles,)](
            linear.contiguous(),
            mu.contiguous(),
            bar.contiguous(),
            template.contiguous(),
            *maps,
            parts,
            rows_in,
            columns_in,
            height,
            width,
            tiles_x,
            tiles,
            COMPUTE=tl_dtype(linear),
            ROWS=rows,
            COLUMNS=columns,
            num_warps=FORWARD.warps,
        )
    return tuple(maps)


@_part_maps.register_fake
def _(linear, mu, bar, template, height, width, dtype):
    shape = (*mu.shape[:-1], height, width)
    return linear.new_empty(shape, dtype=dtype), linear.new_empty(shape, dtype=dtype)


@torch.library.custom_op(
    "posegeom::part_maps_backward",
    mutates_args=(),
    schema="(Tensor by_shape, Tensor by_uncertainty, Tensor linear, Tensor mu, Tensor bar, Tensor template, "
    "bool by_template) -> (Tensor, Tensor)",
)
def _part_maps_backward(by_shape, by_uncertainty, linear, mu, bar, template, by_template):
    height, width = by_shape.shape[-2:]
    parts, rows_in, columns_in, _ = template.shape
    rows, columns, tiles_x, tiles = BACKWARD.shape(height, width)
    sums = linear.new_empty((*mu.shape[:-1], tiles, 6))
    counts = template.new_empty(0, dtype=torch.int64)
    fixed_point = template.new_empty(0, dtype=torch.float64)
    if sums.numel() == 0:
        return sums.sum(-2), template.new_zeros(template.shape if by_template else 0)
    if by_template:
        counts = torch.zeros(template.shape, dtype=torch.int64, device=template.device)
        # The largest power of two with which no sum can leave 63 bits: every output pixel adds at most its gradient.
        each = [torch.linalg.vector_norm(value, float("inf")).double() for value in (by_shape, by_uncertainty)]
        largest = torch.maximum(*each) * by_shape.numel()
        fixed_point = torch.exp2(torch.floor(61 - torch.log2(largest.clamp(min=1e-250))).clamp(max=900))
    with on_device(linear):
        _part_maps_bwd_kernel[(mu.numel() // 2 * tiles,)](
            by_shape.contiguous(),
            by_uncertainty.contiguous(),
            linear.contiguous(),
            mu.contiguous(),
            bar.contiguous(),
            template.contiguous(),
            sums,
            counts,
            fixed_point,
            parts,
            rows_in,
            columns_in,
            height,
            width,
            tiles_x,
            tiles,
            BY_TEMPLATE=by_template,
            COMPUTE=tl_dtype(linear),
            ROWS=rows,
            COLUMNS=columns,
            num_warps=BACKWARD.warps,
        )
    if not by_template:
        return sums.sum(-2), template.new_empty(0)
    # Integers cannot say that a position was no number; the sums can.
    broken = 0 * sums.sum()
    return sums.sum(-2), (counts.double() / fixed_point + broken).to(template.dtype)


@_part_maps_backward.register_fake
def _(by_shape, by_uncertainty, linear, mu, bar, template, by_template):
    by_canonical = template.new_empty(template.shape if by_template else (0,))
    return linear.new_empty((*mu.shape[:-1], 6)), by_canonical


def affine_gradients(sums: Tensor, linear: Tensor, bar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to A, μ and r̄ from (*B, L, 6): Σ g (u′ − μ)ᵀ and Σ g, g the gradient to u = A (u′ − μ) + r̄."""
    by_linear, whole = sums[..., :4].reshape(linear.shape), sums[..., 4:]
    by_mu = -(linear[..., 0, :] * whole[..., :1] + linear[..., 1, :] * whole[..., 1:])
    return by_linear, by_mu, whole.reshape(-1, *bar.shape).sum(0)


def _part_maps_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.height, ctx.width, _ = inputs
    ctx.save_for_backward(*tensors)


def _part_maps_rule(ctx: Context, by_shape: Tensor, by_uncertainty: Tensor) -> tuple[Tensor | None, ...]:
    linear, mu, bar, template = ctx.saved_tensors
    rest = (None,) * 3
    if torch.is_grad_enabled():

        def reference(linear: Tensor, mu: Tensor, bar: Tensor, template: Tensor) -> tuple[Tensor, Tensor]:
            return sample_parts(linear, mu, bar, template, (ctx.height, ctx.width))

        return (*differentiate_again(ctx, reference, ctx.saved_tensors, (by_shape, by_uncertainty)), *rest)
    sums, by_template = torch.ops.posegeom.part_maps_backward(
        by_shape, by_uncertainty, linear, mu, bar, template, ctx.needs_input_grad[3]
    )
    return (*affine_gradients(sums, linear, bar), by_template if ctx.needs_input_grad[3] else None, *rest)


_part_maps.register_autograd(_part_maps_rule, setup_context=_part_maps_context)


def part_maps(
    linear: Tensor, mu: Tensor, bar: Tensor, template: Tensor, size: Size, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`puppet.sample_parts` in a given dtype."""
    shape, uncertainty = torch.ops.posegeom.part_maps(linear, mu, bar, template, *size, dtype)
    return shape, uncertainty
