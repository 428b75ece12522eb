"""Triton kernels of `puppet_segmentation`: sampling, occlusion and normalisation in registers.

A program holds all parts of a few pixels. It visits the parts one after the other, samples part k and multiplies it
into the visibility of every part, so nothing of the size (L, H, W) is written but the result.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from posegeom.kernels.launch import Tiling, differentiate_again, on_device, padded, tl_dtype
from posegeom.kernels.puppet import affine_gradients, part_affine, sample
from posegeom.kernels.segmentation_hiding import part_hiding
from posegeom.maps import Size
from posegeom.puppet import Puppet
from posegeom.segmentation import VANISHING, segment_parts

Context = Any

_VANISHING = tl.constexpr(VANISHING)

FORWARD, BACKWARD = Tiling(2048, 32, 1), Tiling(1024, 32, 1)
"""Pixels here count once for each part: so many values of one quantity does a program keep."""


@triton.jit
def _pixels_in_line(tile, tiles_x, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Row and column numbers of a tile's pixels, one after the other."""
    pixel = tl.arange(0, ROWS * COLUMNS)
    return (tile // tiles_x) * ROWS + pixel // COLUMNS, (tile % tiles_x) * COLUMNS + pixel % COLUMNS


@triton.jit
def _reaches(
    tile,
    tiles_x,
    xx,
    xy,
    yx,
    yy,
    mu_x,
    mu_y,
    bar_x,
    bar_y,
    rows_in,
    columns_in,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """False where no pixel of a tile falls into the canonical map. A position with a NaN reaches."""
    half_x, half_y = 0.5 * (COLUMNS - 1), 0.5 * (ROWS - 1)
    dx = tl.cast(tile % tiles_x * COLUMNS, COMPUTE) + half_x - mu_x
    dy = tl.cast(tile // tiles_x * ROWS, COMPUTE) + half_y - mu_y
    x, y = xx * dx + xy * dy + bar_x, yx * dx + yy * dy + bar_y
    # A hundredth of a pixel and of the reach more than needed: rounding must not cut a part's edge.
    reach_x = 1.01 * (tl.abs(xx) * half_x + tl.abs(xy) * half_y) + 0.01 + 1e-5 * (tl.abs(xx * dx) + tl.abs(xy * dy))
    reach_y = 1.01 * (tl.abs(yx) * half_x + tl.abs(yy) * half_y) + 0.01 + 1e-5 * (tl.abs(yx * dx) + tl.abs(yy * dy))
    outside = (x + reach_x < -1.0) | (x - reach_x > columns_in) | (y + reach_y < -1.0) | (y - reach_y > rows_in)
    return outside == 0


@triton.jit
def _puppet_segmentation_fwd_kernel(
    linear,
    mu,
    bar,
    template,
    hides,
    maps,
    foreground,
    uncertainty,
    parts,
    rows_in,
    columns_in,
    height,
    width,
    tiles_x,
    tiles,
    PARTS: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """All classes of one tile: s_l = φ_l Π_k (1 − o_lk φ_k), s_bg = Π_k (1 − φ_k), maps = s / Σ s."""
    number = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    rows, columns = _pixels_in_line(tile, tiles_x, ROWS, COLUMNS)
    part = tl.arange(0, PARTS)
    real = part < parts
    visible = tl.zeros((PARTS, ROWS * COLUMNS), COMPUTE) + real.to(COMPUTE)[:, None]
    background = tl.full((ROWS * COLUMNS,), 1.0, COMPUTE)
    strongest = tl.full((ROWS * COLUMNS,), float("-inf"), COMPUTE)
    unsure = strongest
    for k in range(parts):
        xx, xy, yx, yy, mu_x, mu_y, bar_x, bar_y = part_affine(linear, mu, bar, number * parts + k, parts, COMPUTE)
        phi = tl.zeros((ROWS * COLUMNS,), COMPUTE)
        psi = phi
        if _reaches(
            tile, tiles_x, xx, xy, yx, yy, mu_x, mu_y, bar_x, bar_y, rows_in, columns_in, COMPUTE, ROWS, COLUMNS
        ):
            dx, dy = columns.to(COMPUTE) - mu_x, rows.to(COMPUTE) - mu_y
            phi, psi, _, _, _, _, _, _, _, _ = sample(
                template, k, xx * dx + xy * dy + bar_x, yx * dx + yy * dy + bar_y, rows_in, columns_in, COMPUTE
            )
        strongest = tl.where((phi > strongest) | (phi != phi), phi, strongest)
        unsure = tl.where((psi > unsure) | (psi != psi), psi, unsure)
        phi = tl.where(phi < 0.0, 0.0, tl.where(phi > 1.0, 1.0, phi))
        hiding = tl.load(hides + (number * parts + part) * parts + k, mask=real, other=0.0).to(COMPUTE)
        visible *= tl.where(part[:, None] == k, phi[None, :], 1.0 - hiding[:, None] * phi[None, :])
        background *= 1.0 - phi
    whole = tl.sum(visible, axis=0) + background
    inverse = 1.0 / tl.where(whole < _VANISHING, 1.0, whole)
    inside = (rows < height) & (columns < width)
    pixel = rows * width + columns
    image = height * width
    here = maps + (number * (parts + 1) + part[:, None]) * image + pixel[None, :]
    tl.store(here, (visible * inverse[None, :]).to(maps.dtype.element_ty), mask=real[:, None] & inside[None, :])
    last = maps + (number * (parts + 1) + parts) * image + pixel
    tl.store(last, (background * inverse).to(maps.dtype.element_ty), mask=inside)
    tl.store(foreground + number * image + pixel, strongest.to(foreground.dtype.element_ty), mask=inside)
    tl.store(uncertainty + number * image + pixel, unsure.to(uncertainty.dtype.element_ty), mask=inside)


@triton.jit
def _puppet_segmentation_bwd_kernel(
    by_maps,
    by_foreground,
    by_uncertainty,
    linear,
    mu,
    bar,
    template,
    hides,
    sums,
    by_hides,
    parts,
    rows_in,
    columns_in,
    height,
    width,
    tiles_x,
    tiles,
    PARTS: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One tile's share of the gradients to every part's affine map and to o.

    s_l is a product of factors; its derivative to one factor is the product of the others. That is s_l over the factor,
    except where factors are 0, as behind a full part: so the product of the others is kept beside a count of zeros.
    The strongest part of a pixel is known again by its value. Multiplications and additions must not be fused here: the
    two loops would round differently, and nothing would be the strongest.
    """
    number = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    rows, columns = _pixels_in_line(tile, tiles_x, ROWS, COLUMNS)
    inside = (rows < height) & (columns < width)
    part = tl.arange(0, PARTS)
    real = part < parts
    product = tl.zeros((PARTS, ROWS * COLUMNS), COMPUTE) + real.to(COMPUTE)[:, None]
    zeros = tl.zeros((PARTS, ROWS * COLUMNS), tl.int32)
    behind = tl.full((ROWS * COLUMNS,), 1.0, COMPUTE)
    behind_zeros = tl.zeros((ROWS * COLUMNS,), tl.int32)
    strongest = tl.full((ROWS * COLUMNS,), float("-inf"), COMPUTE)
    unsure = strongest
    strongest_count, unsure_count = behind_zeros, behind_zeros
    for k in range(parts):
        xx, xy, yx, yy, mu_x, mu_y, bar_x, bar_y = part_affine(linear, mu, bar, number * parts + k, parts, COMPUTE)
        phi = tl.zeros((ROWS * COLUMNS,), COMPUTE)
        psi = phi
        if _reaches(
            tile, tiles_x, xx, xy, yx, yy, mu_x, mu_y, bar_x, bar_y, rows_in, columns_in, COMPUTE, ROWS, COLUMNS
        ):
            dx, dy = columns.to(COMPUTE) - mu_x, rows.to(COMPUTE) - mu_y
            phi, psi, _, _, _, _, _, _, _, _ = sample(
                template, k, xx * dx + xy * dy + bar_x, yx * dx + yy * dy + bar_y, rows_in, columns_in, COMPUTE
            )
        strongest_count = tl.where(phi > strongest, 1, tl.where(phi == strongest, strongest_count + 1, strongest_count))
        strongest = tl.where((phi > strongest) | (phi != phi), phi, strongest)
        unsure_count = tl.where(psi > unsure, 1, tl.where(psi == unsure, unsure_count + 1, unsure_count))
        unsure = tl.where((psi > unsure) | (psi != psi), psi, unsure)
        phi = tl.where(phi < 0.0, 0.0, tl.where(phi > 1.0, 1.0, phi))
        hiding = tl.load(hides + (number * parts + part) * parts + k, mask=real, other=0.0).to(COMPUTE)
        factor = tl.where(part[:, None] == k, phi[None, :], 1.0 - hiding[:, None] * phi[None, :])
        zeros += (factor == 0.0).to(tl.int32)
        product *= tl.where(factor == 0.0, 1.0, factor)
        behind_zeros += (phi == 1.0).to(tl.int32)
        behind *= tl.where(phi == 1.0, 1.0, 1.0 - phi)
    visible, background = tl.where(zeros == 0, product, 0.0), tl.where(behind_zeros == 0, behind, 0.0)
    whole = tl.sum(visible, axis=0) + background
    vanishing = whole < _VANISHING
    inverse = 1.0 / tl.where(vanishing, 1.0, whole)
    pixel = rows * width + columns
    image = height * width
    here = by_maps + (number * (parts + 1) + part[:, None]) * image + pixel[None, :]
    pull = tl.load(here, mask=real[:, None] & inside[None, :], other=0.0).to(COMPUTE)
    last = by_maps + (number * (parts + 1) + parts) * image + pixel
    pull_background = tl.load(last, mask=inside, other=0.0).to(COMPUTE)
    mean = (tl.sum(pull * visible, axis=0) + pull_background * background) * inverse
    mean = tl.where(vanishing, 0.0, mean)
    pull = (pull - mean[None, :]) * inverse[None, :]
    pull_background = (pull_background - mean) * inverse
    on_strongest = tl.load(by_foreground + number * image + pixel, mask=inside, other=0.0).to(COMPUTE)
    on_unsure = tl.load(by_uncertainty + number * image + pixel, mask=inside, other=0.0).to(COMPUTE)
    on_strongest = on_strongest / strongest_count.to(COMPUTE)  # equally strong parts share it
    on_unsure = on_unsure / unsure_count.to(COMPUTE)
    for k in range(parts):
        xx, xy, yx, yy, mu_x, mu_y, bar_x, bar_y = part_affine(linear, mu, bar, number * parts + k, parts, COMPUTE)
        out = sums + ((number * parts + k) * tiles + tile) * 6
        out_hides = by_hides + ((number * tiles + tile) * parts + part) * parts + k
        if _reaches(
            tile, tiles_x, xx, xy, yx, yy, mu_x, mu_y, bar_x, bar_y, rows_in, columns_in, COMPUTE, ROWS, COLUMNS
        ):
            dx, dy = columns.to(COMPUTE) - mu_x, rows.to(COMPUTE) - mu_y
            raw, psi, s_x, s_y, u_x, u_y, _, _, _, _ = sample(
                template, k, xx * dx + xy * dy + bar_x, yx * dx + yy * dy + bar_y, rows_in, columns_in, COMPUTE
            )
            phi = tl.where(raw < 0.0, 0.0, tl.where(raw > 1.0, 1.0, raw))
            hiding = tl.load(hides + (number * parts + part) * parts + k, mask=real, other=0.0).to(COMPUTE)
            itself = part[:, None] == k
            factor = tl.where(itself, phi[None, :], 1.0 - hiding[:, None] * phi[None, :])
            nothing = factor == 0.0
            others = tl.where(zeros == nothing.to(tl.int32), product / tl.where(nothing, 1.0, factor), 0.0)
            others_behind = tl.where(
                behind_zeros == (phi == 1.0).to(tl.int32), behind / tl.where(phi == 1.0, 1.0, 1.0 - phi), 0.0
            )
            others *= pull
            by_phi = tl.sum(others * tl.where(itself, 1.0, -hiding[:, None]), axis=0) - pull_background * others_behind
            by_phi = tl.where((raw >= 0.0) & (raw <= 1.0), by_phi, 0.0)
            by_phi += tl.where(raw == strongest, on_strongest, 0.0)
            by_psi = tl.where(psi == unsure, on_unsure, 0.0)
            by_x = tl.where(inside, by_phi * s_x + by_psi * u_x, 0.0)
            by_y = tl.where(inside, by_phi * s_y + by_psi * u_y, 0.0)
            tl.store(out, tl.sum(by_x * dx, axis=0))
            tl.store(out + 1, tl.sum(by_x * dy, axis=0))
            tl.store(out + 2, tl.sum(by_y * dx, axis=0))
            tl.store(out + 3, tl.sum(by_y * dy, axis=0))
            tl.store(out + 4, tl.sum(by_x, axis=0))
            tl.store(out + 5, tl.sum(by_y, axis=0))
            shadow = tl.sum(tl.where(inside[None, :], -others * phi[None, :], 0.0), axis=1)
            tl.store(out_hides, tl.where(part == k, 0.0, shadow), mask=real)
        else:
            tl.store(out + tl.arange(0, 8), tl.zeros((8,), COMPUTE), mask=tl.arange(0, 8) < 6)
            tl.store(out_hides, tl.zeros((PARTS,), COMPUTE), mask=real)


def _shape(tiling: Tiling, height: int, width: int, parts: int) -> tuple[int, int, int, int]:
    """Few enough pixels that all parts of a tile fit into registers."""
    shape = tiling._replace(pixels=max(tiling.pixels // padded(parts), 16)).shape(height, width)
    if shape[0] > 8 and shape[1] == 16:
        # With 16, 32 or 64 rows of 16 columns the backward ends Triton 3.6 and the process, by an assertion in LLVM's
        # SLPVectorizer. The forward compiles, by the same code: it is not left to chance.
        shape = tiling._replace(pixels=8 * 16).shape(height, width)
    return shape


@torch.library.custom_op(
    "posegeom::puppet_segmentation",
    mutates_args=(),
    schema="(Tensor linear, Tensor mu, Tensor bar, Tensor template, Tensor hides, SymInt height, SymInt width, "
    "ScalarType dtype) -> (Tensor, Tensor, Tensor)",
)
def _puppet_segmentation(linear, mu, bar, template, hides, height, width, dtype):
    batch = mu.shape[:-2]
    parts, rows_in, columns_in, _ = template.shape
    maps = linear.new_empty((*batch, parts + 1, height, width), dtype=dtype)
    single = [linear.new_empty((*batch, height, width), dtype=dtype) for _ in range(2)]
    if maps.numel() == 0:
        return maps, *single
    rows, columns, tiles_x, tiles = _shape(FORWARD, height, width, parts)
    with on_device(linear):
        _puppet_segmentation_fwd_kernel[(mu.numel() // (2 * parts) * tiles,)](
            linear.contiguous(),
            mu.contiguous(),
            bar.contiguous(),
            template.contiguous(),
            hides.contiguous(),
            maps,
            *single,
            parts,
            rows_in,
            columns_in,
            height,
            width,
            tiles_x,
            tiles,
            PARTS=padded(parts),
            COMPUTE=tl_dtype(linear),
            ROWS=rows,
            COLUMNS=columns,
            num_warps=FORWARD.warps,
        )
    return maps, *single


@_puppet_segmentation.register_fake
def _(linear, mu, bar, template, hides, height, width, dtype):
    batch = mu.shape[:-2]
    maps = linear.new_empty((*batch, template.shape[0] + 1, height, width), dtype=dtype)
    return maps, *(linear.new_empty((*batch, height, width), dtype=dtype) for _ in range(2))


@torch.library.custom_op(
    "posegeom::puppet_segmentation_backward",
    mutates_args=(),
    schema="(Tensor by_maps, Tensor by_foreground, Tensor by_uncertainty, Tensor linear, Tensor mu, Tensor bar, "
    "Tensor template, Tensor hides) -> (Tensor, Tensor)",
)
def _puppet_segmentation_backward(by_maps, by_foreground, by_uncertainty, linear, mu, bar, template, hides):
    height, width = by_maps.shape[-2:]
    parts, rows_in, columns_in, _ = template.shape
    rows, columns, tiles_x, tiles = _shape(BACKWARD, height, width, parts)
    sums = linear.new_empty((*mu.shape[:-1], tiles, 6))
    by_hides = linear.new_empty((*mu.shape[:-2], tiles, parts, parts))
    if sums.numel() == 0:
        return sums.sum(-2), by_hides.sum(-3)
    with on_device(linear):
        _puppet_segmentation_bwd_kernel[(mu.numel() // (2 * parts) * tiles,)](
            by_maps.contiguous(),
            by_foreground.contiguous(),
            by_uncertainty.contiguous(),
            linear.contiguous(),
            mu.contiguous(),
            bar.contiguous(),
            template.contiguous(),
            hides.contiguous(),
            sums,
            by_hides,
            parts,
            rows_in,
            columns_in,
            height,
            width,
            tiles_x,
            tiles,
            PARTS=padded(parts),
            COMPUTE=tl_dtype(linear),
            ROWS=rows,
            COLUMNS=columns,
            num_warps=BACKWARD.warps,
            enable_fp_fusion=False,  # φ is drawn twice, and must be the same number to the last bit
        )
    return sums.sum(-2), by_hides.sum(-3)


@_puppet_segmentation_backward.register_fake
def _(by_maps, by_foreground, by_uncertainty, linear, mu, bar, template, hides):
    return linear.new_empty((*mu.shape[:-1], 6)), linear.new_empty(hides.shape)


def _puppet_segmentation_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.height, ctx.width, _ = inputs
    ctx.save_for_backward(*tensors)


def _puppet_segmentation_rule(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    linear, mu, bar, template, hides = ctx.saved_tensors
    rest = (None,) * 3
    if torch.is_grad_enabled() or ctx.needs_input_grad[3]:

        def reference(
            linear: Tensor, mu: Tensor, bar: Tensor, template: Tensor, hides: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            return segment_parts(linear, mu, bar, template, hides, (ctx.height, ctx.width))

        return (*differentiate_again(ctx, reference, ctx.saved_tensors, gradients), *rest)
    sums, by_hides = torch.ops.posegeom.puppet_segmentation_backward(*gradients, linear, mu, bar, template, hides)
    return (*affine_gradients(sums, linear, bar), None, by_hides, *rest)


_puppet_segmentation.register_autograd(_puppet_segmentation_rule, setup_context=_puppet_segmentation_context)


def puppet_segmentation(
    linear: Tensor,
    mu: Tensor,
    bar: Tensor,
    template: Tensor,
    joint_depth: Tensor,
    kappa: float,
    puppet: Puppet,
    size: Size,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """`segmentation.segment_parts` in a given dtype, with o from the depths of the puppet's joints (*B, J)."""
    hides = part_hiding(joint_depth, kappa, puppet).expand(*mu.shape[:-1], mu.shape[-2])
    maps, foreground, uncertainty = torch.ops.posegeom.puppet_segmentation(
        linear, mu, bar, template, hides, *size, dtype
    )
    return maps, foreground, uncertainty
