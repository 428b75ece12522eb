"""Triton kernels of `limb_maps`."""

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
    direction,
    index_table,
    on_device,
    pixels,
    scalar,
    tiles_per_program,
    tl_dtype,
    total,
)
from posegeom.kernels.maps_bones import joints_from_bones
from posegeom.maps import NARROWEST, Bones, Size, limb_gaussians

Context = Any

FORWARD, BACKWARD = Tiling(2048, 128, 4), Tiling(1024, 128, 2)

_NARROWEST = tl.constexpr(NARROWEST)


@triton.jit
def _limb(
    points,
    parents,
    children,
    stretch,
    limb,
    bones,
    joints,
    stretch_high,
    stretch_low,
    HAS_STRETCH: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Middle, direction, length, stretch and 1/σ_x of a limb; whether σ_x is at its smallest, and the length zero."""
    bone = limb % bones
    body = points + (limb // bones).to(tl.int64) * joints * 2
    start, end = body + 2 * tl.load(parents + bone), body + 2 * tl.load(children + bone)
    ax, ay = tl.load(start).to(COMPUTE), tl.load(start + 1).to(COMPUTE)
    bx, by = tl.load(end).to(COMPUTE), tl.load(end + 1).to(COMPUTE)
    c, s, length, zero = direction(bx - ax, by - ay)
    if HAS_STRETCH:
        relative = tl.load(stretch + limb).to(COMPUTE)
    else:
        relative = tl.cast(stretch_high, COMPUTE) + tl.cast(stretch_low, COMPUTE)
    spread = relative * length
    narrowest = tl.full((), _NARROWEST, COMPUTE)
    clamped = spread < narrowest
    along = 1.0 / tl.where(clamped, narrowest, spread)
    return (ax + bx) * 0.5, (ay + by) * 0.5, c, s, length, relative, along, clamped, zero


@triton.jit
def _limb_maps_fwd_kernel(
    points,
    across,
    stretch,
    weight,
    parents,
    children,
    maps,
    across_high,
    across_low,
    stretch_high,
    stretch_low,
    bones,
    joints,
    height,
    width,
    tiles_x,
    tiles,
    HAS_ACROSS: tl.constexpr,
    HAS_STRETCH: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One tile of one map: w exp(−½ (a² + b²)), a along and b across the limb in units of their widths."""
    limb = tl.program_id(0) // tiles  # in 32 bits, where a division costs a tenth
    rows, columns = pixels(tl.program_id(0) % tiles, tiles_x, ROWS, COLUMNS)
    x, y, c, s, _, _, along, _, _ = _limb(
        points, parents, children, stretch, limb, bones, joints, stretch_high, stretch_low, HAS_STRETCH, COMPUTE
    )
    if HAS_ACROSS:
        slim = tl.load(across + limb).to(COMPUTE)
    else:
        slim = tl.cast(across_high, COMPUTE) + tl.cast(across_low, COMPUTE)
    dx, dy = columns.to(COMPUTE) - x, rows.to(COMPUTE) - y
    a, b = (c * dx + s * dy) * along, (c * dy - s * dx) * slim
    value = tl.exp(-0.5 * (a * a + b * b))
    if HAS_WEIGHT:
        value = value * tl.load(weight + limb).to(COMPUTE)
    here = maps + limb.to(tl.int64) * height * width + rows * width + columns
    tl.store(here, value.to(maps.dtype.element_ty), mask=(rows < height) & (columns < width))


@triton.jit
def _limb_maps_bwd_kernel(
    gradient,
    points,
    across,
    stretch,
    weight,
    parents,
    children,
    sums,
    across_high,
    across_low,
    stretch_high,
    stretch_low,
    bones,
    joints,
    height,
    width,
    tiles_x,
    tiles,
    programs,
    HAS_ACROSS: tl.constexpr,
    HAS_STRETCH: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    COMPUTE: tl.constexpr,
    PER_PROGRAM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Some tiles' share of one limb's gradients: to its start, its end, 1/σ_y, the stretch and w.

    With S = gradient · map / w, a = c dx + s dy and b = c dy − s dx, the sums of S·a, S·b, S·a², S·a·b, S·b² and S give
    every gradient.
    """
    limb = tl.program_id(0) // programs  # in 32 bits, where a division costs a tenth
    program = tl.program_id(0) % programs
    x, y, c, s, length, relative, along, clamped, zero = _limb(
        points, parents, children, stretch, limb, bones, joints, stretch_high, stretch_low, HAS_STRETCH, COMPUTE
    )
    if HAS_ACROSS:
        slim = tl.load(across + limb).to(COMPUTE)
    else:
        slim = tl.cast(across_high, COMPUTE) + tl.cast(across_low, COMPUTE)
    sum_1 = tl.zeros((ROWS, COLUMNS), COMPUTE)
    sum_a, sum_b, sum_aa, sum_ab, sum_bb = sum_1, sum_1, sum_1, sum_1, sum_1
    for step in range(PER_PROGRAM):
        rows, columns = pixels(program * PER_PROGRAM + step, tiles_x, ROWS, COLUMNS)
        inside = (rows < height) & (columns < width)
        here = gradient + limb.to(tl.int64) * height * width + rows * width + columns
        dx, dy = columns.to(COMPUTE) - x, rows.to(COMPUTE) - y
        a, b = c * dx + s * dy, c * dy - s * dx
        far, wide = a * along, b * slim
        pull = tl.load(here, mask=inside, other=0.0).to(COMPUTE) * tl.exp(-0.5 * (far * far + wide * wide))
        sum_1 += pull
        sum_a += pull * a
        sum_b += pull * b
        sum_aa += pull * a * a
        sum_ab += pull * a * b
        sum_bb += pull * b * b
    strength = tl.full((), 1.0, COMPUTE)
    if HAS_WEIGHT:
        strength = tl.load(weight + limb).to(COMPUTE)
    pull_a, pull_b = strength * along * along * total(sum_a), strength * slim * slim * total(sum_b)
    twist = strength * (slim * slim - along * along) * total(sum_ab)  # to the direction's angle
    by_along = -strength * along * total(sum_aa)
    mx, my = 0.5 * (c * pull_a - s * pull_b), 0.5 * (s * pull_a + c * pull_b)
    # σ_x = stretch · length: both move 1/σ_x, unless it is clamped.
    by_spread = tl.where(clamped, 0.0, -along * along * by_along)
    turn = tl.where(zero, 0.0, twist / tl.where(zero, 1.0, length))
    grow = tl.where(zero, 0.0, by_spread * relative)
    vx, vy = grow * c - turn * s, grow * s + turn * c
    out = sums + (((limb // bones).to(tl.int64) * programs + program) * bones + limb % bones) * 7
    tl.store(out, mx - vx)
    tl.store(out + 1, my - vy)
    tl.store(out + 2, mx + vx)
    tl.store(out + 3, my + vy)
    tl.store(out + 4, -strength * slim * total(sum_bb))
    tl.store(out + 5, by_spread * length)
    tl.store(out + 6, total(sum_1))


@torch.library.custom_op(
    "posegeom::limb_maps",
    mutates_args=(),
    schema="(Tensor points, Tensor? across, Tensor? stretch, Tensor? weight, float slim, float relative, "
    "int[] parents, int[] children, SymInt height, SymInt width, ScalarType dtype) -> Tensor",
)
def _limb_maps(points, across, stretch, weight, slim, relative, parents, children, height, width, dtype):
    maps = points.new_empty((*points.shape[:-2], len(parents), height, width), dtype=dtype)
    if maps.numel() == 0:
        return maps
    rows, columns, tiles_x, tiles = FORWARD.shape(height, width)
    with on_device(points):
        _limb_maps_fwd_kernel[(maps.numel() // (height * width) * tiles,)](
            points.contiguous(),
            points if across is None else across.contiguous(),
            points if stretch is None else stretch.contiguous(),
            points if weight is None else weight.contiguous(),
            index_table(tuple(parents), points.device),
            index_table(tuple(children), points.device),
            maps,
            *scalar(slim),
            *scalar(relative),
            len(parents),
            points.shape[-2],
            height,
            width,
            tiles_x,
            tiles,
            HAS_ACROSS=across is not None,
            HAS_STRETCH=stretch is not None,
            HAS_WEIGHT=weight is not None,
            COMPUTE=tl_dtype(points),
            ROWS=rows,
            COLUMNS=columns,
            num_warps=FORWARD.warps,
        )
    return maps


@_limb_maps.register_fake
def _(points, across, stretch, weight, slim, relative, parents, children, height, width, dtype):
    return points.new_empty((*points.shape[:-2], len(parents), height, width), dtype=dtype)


@torch.library.custom_op(
    "posegeom::limb_maps_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor points, Tensor? across, Tensor? stretch, Tensor? weight, float slim, "
    "float relative, int[] parents, int[] children) -> (Tensor, Tensor)",
)
def _limb_maps_backward(gradient, points, across, stretch, weight, slim, relative, parents, children):
    height, width = gradient.shape[-2:]
    bones, joints = len(parents), points.shape[-2]
    limbs = points.numel() // (2 * joints) * bones
    rows, columns, tiles_x, tiles = BACKWARD.shape(height, width)
    per_program, programs = tiles_per_program(limbs, tiles)
    sums = points.new_empty((*points.shape[:-2], programs, bones, 7), dtype=compute_dtype(points))
    if limbs == 0:
        return torch.zeros_like(points), sums.new_zeros((*points.shape[:-2], bones, 3))
    tables = index_table(tuple(parents), points.device), index_table(tuple(children), points.device)
    with on_device(points):
        _limb_maps_bwd_kernel[(limbs * programs,)](
            gradient.contiguous(),
            points.contiguous(),
            points if across is None else across.contiguous(),
            points if stretch is None else stretch.contiguous(),
            points if weight is None else weight.contiguous(),
            *tables,
            sums,
            *scalar(slim),
            *scalar(relative),
            bones,
            joints,
            height,
            width,
            tiles_x,
            tiles,
            programs,
            HAS_ACROSS=across is not None,
            HAS_STRETCH=stretch is not None,
            HAS_WEIGHT=weight is not None,
            COMPUTE=tl_dtype(points),
            PER_PROGRAM=per_program,
            ROWS=rows,
            COLUMNS=columns,
            num_warps=BACKWARD.warps,
        )
        by_bone = sums.squeeze(-3) if programs == 1 else sums.sum(-3)
        by_points = joints_from_bones(by_bone, points, *tables)
    return by_points, by_bone[..., 4:].contiguous()


@_limb_maps_backward.register_fake
def _(gradient, points, across, stretch, weight, slim, relative, parents, children):
    by_bone = points.new_empty((*points.shape[:-2], len(parents), 3), dtype=compute_dtype(points))
    return torch.empty_like(points, memory_format=torch.contiguous_format), by_bone


def _limb_maps_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    points, across, stretch, weight, *ctx.settings, ctx.height, ctx.width, _ = inputs
    ctx.save_for_backward(points, across, stretch, weight)


def _limb_maps_rule(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
    points, across, stretch, weight = ctx.saved_tensors
    rest = (None,) * 7
    if torch.is_grad_enabled():
        slim, relative, parents, children = ctx.settings

        def reference(points: Tensor, across: Tensor | None, stretch: Tensor | None, weight: Tensor | None) -> Tensor:
            return limb_gaussians(
                points.to(compute_dtype(points)),
                slim if across is None else across,
                relative if stretch is None else stretch,
                weight,
                list(zip(parents, children, strict=True)),
                (ctx.height, ctx.width),
            )

        return (*differentiate_again(ctx, reference, (points, across, stretch, weight), gradient), *rest)
    by_points, by_bone = torch.ops.posegeom.limb_maps_backward(gradient, points, across, stretch, weight, *ctx.settings)
    given = zip((across, stretch, weight), by_bone.unbind(-1), strict=True)
    return (by_points, *(None if value is None else found for value, found in given), *rest)


_limb_maps.register_autograd(_limb_maps_rule, setup_context=_limb_maps_context)


def limb_maps(
    points: Tensor,
    across: Tensor | float,
    stretch: Tensor | float,
    weight: Tensor | None,
    bones: Bones,
    size: Size,
    dtype: torch.dtype,
) -> Tensor:
    """`maps.limb_gaussians` of points (*B, J, 2) in a given dtype."""
    shape = (*points.shape[:-2], len(bones))
    tensors = [value.expand(shape) if isinstance(value, Tensor) else None for value in (across, stretch)]
    numbers = [0.0 if isinstance(value, Tensor) else value for value in (across, stretch)]
    parents, children = [parent for parent, _ in bones], [child for _, child in bones]
    maps: Tensor = torch.ops.posegeom.limb_maps(points, *tensors, weight, *numbers, parents, children, *size, dtype)
    return maps
