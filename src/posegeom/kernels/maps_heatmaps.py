"""Triton kernels of `joint_heatmaps`."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from posegeom._checks import compute_dtype
from posegeom.kernels.launch import (
    Tiling,
    differentiate_again,
    on_device,
    pixels,
    scalar,
    tiles_per_program,
    tl_dtype,
    total,
)
from posegeom.maps import Size, gaussian_maps

Context = Any

FORWARD, BACKWARD = Tiling(2048, 128, 4), Tiling(1024, 128, 2)


@triton.jit
def _joint_heatmaps_fwd_kernel(
    points,
    precision,
    weight,
    maps,
    rho_high,
    rho_low,
    height,
    width,
    tiles_x,
    tiles,
    HAS_PRECISION: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One tile of one map: w exp(−½ ρ² ‖u − p‖²)."""
    joint = (tl.program_id(0) // tiles).to(tl.int64)
    rows, columns = pixels(tl.program_id(0) % tiles, tiles_x, ROWS, COLUMNS)
    x, y = tl.load(points + 2 * joint).to(COMPUTE), tl.load(points + 2 * joint + 1).to(COMPUTE)
    if HAS_PRECISION:
        rho = tl.load(precision + joint).to(COMPUTE)
    else:
        rho = tl.cast(rho_high, COMPUTE) + tl.cast(rho_low, COMPUTE)
    dx, dy = (columns.to(COMPUTE) - x) * rho, (rows.to(COMPUTE) - y) * rho
    value = tl.exp(-0.5 * (dx * dx + dy * dy))
    if HAS_WEIGHT:
        value = value * tl.load(weight + joint).to(COMPUTE)
    here = maps + joint * height * width + rows * width + columns
    tl.store(here, value.to(maps.dtype.element_ty), mask=(rows < height) & (columns < width))


@triton.jit
def _profile(distance, rho):
    """exp(−½ (ρ d)²), and that times d and d². Where it is 0, d² may be infinite."""
    scaled = distance * rho
    value = tl.exp(-0.5 * scaled * scaled)
    first = tl.where(value == 0.0, 0.0, value * distance)
    return value, first, tl.where(value == 0.0, 0.0, first * distance)


@triton.jit
def _joint_heatmaps_bwd_kernel(
    gradient,
    points,
    precision,
    weight,
    sums,
    rho_high,
    rho_low,
    height,
    width,
    tiles_x,
    tiles,
    programs,
    HAS_PRECISION: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    COMPUTE: tl.constexpr,
    PER_PROGRAM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Some tiles' share of one joint's gradients: to x, y, ρ and w.

    The map is a product of a profile along x and one along y, so a pixel costs seven multiplications and no exp.
    """
    joint = (tl.program_id(0) // programs).to(tl.int64)
    program = tl.program_id(0) % programs
    x, y = tl.load(points + 2 * joint).to(COMPUTE), tl.load(points + 2 * joint + 1).to(COMPUTE)
    if HAS_PRECISION:
        rho = tl.load(precision + joint).to(COMPUTE)
    else:
        rho = tl.cast(rho_high, COMPUTE) + tl.cast(rho_low, COMPUTE)
    zeroth = tl.zeros((ROWS, COLUMNS), COMPUTE)
    by_x, by_y, second = zeroth, zeroth, zeroth
    for step in range(PER_PROGRAM):
        rows, columns = pixels(program * PER_PROGRAM + step, tiles_x, ROWS, COLUMNS)
        inside = (rows < height) & (columns < width)
        here = gradient + joint * height * width + rows * width + columns
        pull = tl.load(here, mask=inside, other=0.0).to(COMPUTE)
        along_x, first_x, second_x = _profile(columns.to(COMPUTE) - x, rho)
        along_y, first_y, second_y = _profile(rows.to(COMPUTE) - y, rho)
        on_x, on_y = pull * along_y, pull * along_x
        zeroth += on_x * along_x
        by_x += on_x * first_x
        by_y += on_y * first_y
        second += on_x * second_x + on_y * second_y
    strength = rho
    if HAS_WEIGHT:
        strength = rho * tl.load(weight + joint).to(COMPUTE)
    out = sums + (joint * programs + program) * 4
    by_x *= rho
    by_y *= rho
    tl.store(out, strength * total(by_x))
    tl.store(out + 1, strength * total(by_y))
    tl.store(out + 2, -strength * total(second))
    tl.store(out + 3, total(zeroth))


@torch.library.custom_op(
    "posegeom::joint_heatmaps",
    mutates_args=(),
    schema="(Tensor points, Tensor? precision, Tensor? weight, float rho, SymInt height, SymInt width, "
    "ScalarType dtype) -> Tensor",
)
def _joint_heatmaps(points, precision, weight, rho, height, width, dtype):
    maps = points.new_empty((*points.shape[:-1], height, width), dtype=dtype)
    if maps.numel() == 0:
        return maps
    joints = points[..., 0].numel()
    rows, columns, tiles_x, tiles = FORWARD.shape(height, width)
    with on_device(points):
        _joint_heatmaps_fwd_kernel[(joints * tiles,)](
            points.contiguous(),
            points if precision is None else precision.contiguous(),
            points if weight is None else weight.contiguous(),
            maps,
            *scalar(rho),
            height,
            width,
            tiles_x,
            tiles,
            HAS_PRECISION=precision is not None,
            HAS_WEIGHT=weight is not None,
            COMPUTE=tl_dtype(points),
            ROWS=rows,
            COLUMNS=columns,
            num_warps=FORWARD.warps,
        )
    return maps


@_joint_heatmaps.register_fake
def _(points, precision, weight, rho, height, width, dtype):
    return points.new_empty((*points.shape[:-1], height, width), dtype=dtype)


@torch.library.custom_op(
    "posegeom::joint_heatmaps_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor points, Tensor? precision, Tensor? weight, float rho) -> Tensor",
)
def _joint_heatmaps_backward(gradient, points, precision, weight, rho):
    height, width = gradient.shape[-2:]
    joints = points[..., 0].numel()
    rows, columns, tiles_x, tiles = BACKWARD.shape(height, width)
    per_program, programs = tiles_per_program(joints, tiles)
    sums = points.new_empty((*points.shape[:-1], programs, 4), dtype=compute_dtype(points))
    if sums.numel() == 0:
        return sums.sum(-2)
    with on_device(points):
        _joint_heatmaps_bwd_kernel[(joints * programs,)](
            gradient.contiguous(),
            points.contiguous(),
            points if precision is None else precision.contiguous(),
            points if weight is None else weight.contiguous(),
            sums,
            *scalar(rho),
            height,
            width,
            tiles_x,
            tiles,
            programs,
            HAS_PRECISION=precision is not None,
            HAS_WEIGHT=weight is not None,
            COMPUTE=tl_dtype(points),
            PER_PROGRAM=per_program,
            ROWS=rows,
            COLUMNS=columns,
            num_warps=BACKWARD.warps,
        )
    return sums.squeeze(-2) if programs == 1 else sums.sum(-2)


@_joint_heatmaps_backward.register_fake
def _(gradient, points, precision, weight, rho):
    return points.new_empty((*points.shape[:-1], 4), dtype=compute_dtype(points))


def _joint_heatmaps_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    points, precision, weight, ctx.rho, ctx.height, ctx.width, _ = inputs
    ctx.save_for_backward(points, precision, weight)


def _joint_heatmaps_rule(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
    points, precision, weight = ctx.saved_tensors
    rest = (None,) * 4
    if torch.is_grad_enabled():

        def reference(points: Tensor, precision: Tensor | None, weight: Tensor | None) -> Tensor:
            rho = ctx.rho if precision is None else precision
            return gaussian_maps(points.to(compute_dtype(points)), rho, weight, (ctx.height, ctx.width))

        return (*differentiate_again(ctx, reference, (points, precision, weight), gradient), *rest)
    sums = torch.ops.posegeom.joint_heatmaps_backward(gradient, points, precision, weight, ctx.rho)
    return (
        sums[..., :2].to(points.dtype),
        None if precision is None else sums[..., 2],
        None if weight is None else sums[..., 3],
        *rest,
    )


_joint_heatmaps.register_autograd(_joint_heatmaps_rule, setup_context=_joint_heatmaps_context)


def joint_heatmaps(
    points: Tensor, precision: Tensor | float, weight: Tensor | None, size: Size, dtype: torch.dtype
) -> Tensor:
    """`maps.gaussian_maps` of points (*B, J, 2) in a given dtype."""
    rho = 0.0 if isinstance(precision, Tensor) else precision
    spread = precision.expand(points.shape[:-1]) if isinstance(precision, Tensor) else None
    maps: Tensor = torch.ops.posegeom.joint_heatmaps(points, spread, weight, rho, *size, dtype)
    return maps
