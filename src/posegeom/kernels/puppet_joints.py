"""Triton kernels from joints to a puppet's parts: their affine maps.

In PyTorch these are a hundred small operations, which on a GPU take longer to launch than the maps take to draw. A
program holds all parts of one sample.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from posegeom.kernels.launch import (
    differentiate_again,
    direction,
    index_table,
    on_device,
    padded,
    scalar,
    tl_dtype,
)
from posegeom.puppet import SHORTEST, TORSO_FLOOR, Puppet, affines_of_parts

Context = Any

_SHORTEST, _TORSO_FLOOR = tl.constexpr(SHORTEST), tl.constexpr(TORSO_FLOOR)


@triton.jit
def joints_of(table, part, real):
    """The joints a, b, c, d of every part; c and d are -1 for parts with two."""
    here = table + part * 4
    a, b = tl.load(here, mask=real, other=0), tl.load(here + 1, mask=real, other=0)
    return a, b, tl.load(here + 2, mask=real, other=-1), tl.load(here + 3, mask=real, other=-1)


@triton.jit
def _two_of(body, joint, mask, COMPUTE: tl.constexpr):
    """Both coordinates of joints, 0 where there is none."""
    x = tl.load(body + 2 * joint, mask=mask, other=0.0).to(COMPUTE)
    return x, tl.load(body + 2 * joint + 1, mask=mask, other=0.0).to(COMPUTE)


@triton.jit
def _ends(ax, ay, bx, by, cx, cy, dx, dy, four):
    """Start and end of parts' axes, and the vector from a torso's right to its left."""
    start_x, start_y = tl.where(four, (ax + bx) / 2, ax), tl.where(four, (ay + by) / 2, ay)
    end_x, end_y = tl.where(four, (cx + dx) / 2, bx), tl.where(four, (cy + dy) / 2, by)
    left_x = tl.where(four, (ax + cx) / 2 - (bx + dx) / 2, 0.0)
    left_y = tl.where(four, (ay + cy) / 2 - (by + dy) / 2, 0.0)
    return start_x, start_y, end_x, end_y, left_x, left_y


@triton.jit
def _posed(
    points,
    anchors,
    table,
    across,
    sample,
    part,
    real,
    parts,
    joints,
    width,
    HAS_ACROSS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Everything that is known of the parts of a sample before their matrices."""
    a, b, c, d = joints_of(table, part, real)
    four = c >= 0
    body = points + sample * joints * 2
    ax, ay = _two_of(body, a, real, COMPUTE)
    bx, by = _two_of(body, b, real, COMPUTE)
    cx, cy = _two_of(body, c, four, COMPUTE)
    dx, dy = _two_of(body, d, four, COMPUTE)
    start_x, start_y, end_x, end_y, left_x, left_y = _ends(ax, ay, bx, by, cx, cy, dx, dy, four)
    # The same axis in the canonical map: a limb's two anchors are repeated in rows 2 and 3.
    a0x, a0y = _two_of(anchors, 4 * part, real, COMPUTE)
    a1x, a1y = _two_of(anchors, 4 * part + 1, real, COMPUTE)
    a2x, a2y = _two_of(anchors, 4 * part + 2, real, COMPUTE)
    a3x, a3y = _two_of(anchors, 4 * part + 3, real, COMPUTE)
    from_x, from_y, to_x, to_y, wide_x, wide_y = _ends(a0x, a0y, a1x, a1y, a2x, a2y, a3x, a3y, four)
    cos, sin, length, zero = direction(end_x - start_x, end_y - start_y)
    cos_r, sin_r, length_r, _ = direction(to_x - from_x, to_y - from_y)
    scale = tl.zeros_like(cos) + width
    if HAS_ACROSS:
        scale = tl.load(across + sample * parts + part, mask=real, other=1.0).to(COMPUTE)
    width_r = tl.where(four, cos_r * wide_y - sin_r * wide_x, 1.0)
    stretch = (cos * left_y - sin * left_x) / width_r
    floor = tl.full((), _TORSO_FLOOR, COMPUTE) * scale
    mirrored = stretch < 0
    lowest = tl.where(mirrored, -floor, floor)
    # Written so that a NaN stays one.
    held = tl.where(mirrored, stretch > -floor, stretch < floor) | (floor != floor)
    gamma_y = 1.0 / tl.where(four, tl.where(held, lowest, stretch), scale)
    shortest = tl.full((), _SHORTEST, COMPUTE)
    gamma_x = length_r / tl.where(length < shortest, shortest, length)
    middle_x, middle_y = (start_x + end_x) / 2, (start_y + end_y) / 2
    bar_x, bar_y = (from_x + to_x) / 2, (from_y + to_y) / 2
    return (
        cos,
        sin,
        cos_r,
        sin_r,
        gamma_x,
        gamma_y,
        middle_x,
        middle_y,
        bar_x,
        bar_y,
        length,
        zero,
        left_x,
        left_y,
        width_r,
        stretch,
        floor,
        four,
    )


@triton.jit
def _part_affines_fwd_kernel(
    points,
    across,
    anchors,
    table,
    linear,
    mu,
    bar,
    width_high,
    width_low,
    parts,
    joints,
    HAS_ACROSS: tl.constexpr,
    PARTS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """A = R(φ) diag(γ) R(θ), μ and r̄ of all parts of one sample."""
    sample = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS)
    real = part < parts
    width = tl.cast(width_high, COMPUTE) + tl.cast(width_low, COMPUTE)
    cos, sin, cos_r, sin_r, gamma_x, gamma_y, middle_x, middle_y, bar_x, bar_y, _, _, _, _, _, _, _, _ = _posed(
        points, anchors, table, across, sample, part, real, parts, joints, width, HAS_ACROSS, COMPUTE
    )
    xx, xy, yx, yy = gamma_x * cos, gamma_x * sin, -gamma_y * sin, gamma_y * cos
    here = linear + (sample * parts + part) * 4
    tl.store(here, cos_r * xx - sin_r * yx, mask=real)
    tl.store(here + 1, cos_r * xy - sin_r * yy, mask=real)
    tl.store(here + 2, sin_r * xx + cos_r * yx, mask=real)
    tl.store(here + 3, sin_r * xy + cos_r * yy, mask=real)
    here = mu + (sample * parts + part) * 2
    tl.store(here, middle_x, mask=real)
    tl.store(here + 1, middle_y, mask=real)
    first = real & (sample == 0)  # r̄ is the puppet's own, the same for all
    tl.store(bar + part * 2, bar_x, mask=first)
    tl.store(bar + part * 2 + 1, bar_y, mask=first)


@triton.jit
def add_to_joints(total, joint, lanes, values, there):
    """Add every part's value to the lane of its joint."""
    return total + tl.sum(tl.where((joint[:, None] == lanes[None, :]) & there[:, None], values[:, None], 0.0), axis=0)


@triton.jit
def _part_affines_bwd_kernel(
    by_linear,
    by_mu,
    points,
    across,
    anchors,
    table,
    by_points,
    by_across,
    width_high,
    width_low,
    parts,
    joints,
    HAS_ACROSS: tl.constexpr,
    PARTS: tl.constexpr,
    JOINTS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Gradients to the joints of one sample, and to its parts' width scales."""
    sample = tl.program_id(0).to(tl.int64)
    part, lanes = tl.arange(0, PARTS), tl.arange(0, JOINTS)
    real = part < parts
    width = tl.cast(width_high, COMPUTE) + tl.cast(width_low, COMPUTE)
    (
        cos,
        sin,
        cos_r,
        sin_r,
        gamma_x,
        gamma_y,
        _,
        _,
        _,
        _,
        length,
        zero,
        left_x,
        left_y,
        width_r,
        stretch,
        floor,
        four,
    ) = _posed(points, anchors, table, across, sample, part, real, parts, joints, width, HAS_ACROSS, COMPUTE)
    here = by_linear + (sample * parts + part) * 4
    g00, g01 = tl.load(here, mask=real, other=0.0), tl.load(here + 1, mask=real, other=0.0)
    g10, g11 = tl.load(here + 2, mask=real, other=0.0), tl.load(here + 3, mask=real, other=0.0)
    by_xx, by_xy = cos_r * g00 + sin_r * g10, cos_r * g01 + sin_r * g11
    by_yx, by_yy = cos_r * g10 - sin_r * g00, cos_r * g11 - sin_r * g01
    by_cos, by_sin = gamma_x * by_xx + gamma_y * by_yy, gamma_x * by_xy - gamma_y * by_yx
    by_gamma_x, by_gamma_y = cos * by_xx + sin * by_xy, cos * by_yy - sin * by_yx
    by_scale = -gamma_y * gamma_y * by_gamma_y
    # Of a torso's stretch, or of its floor; where they are equal each has half, as with torch.minimum.
    mirrored = stretch < 0
    edge = tl.where(mirrored, -floor, floor)
    free = tl.where(mirrored, stretch < edge, stretch > edge)
    share = tl.where(stretch == edge, 0.5, tl.where(free | (stretch != stretch), 1.0, 0.0))
    by_stretch = tl.where(four, share * by_scale / width_r, 0.0)
    floored = (1.0 - share) * tl.where(mirrored, -1.0, 1.0) * tl.full((), _TORSO_FLOOR, COMPUTE)
    if HAS_ACROSS:
        tl.store(by_across + sample * parts + part, by_scale * tl.where(four, floored, 1.0), mask=real)
    by_cos += by_stretch * left_y
    by_sin -= by_stretch * left_x
    by_left_x, by_left_y = -by_stretch * sin, by_stretch * cos
    shortest = tl.full((), _SHORTEST, COMPUTE)
    safe = tl.where(zero, 1.0, length)
    by_length = tl.where(length < shortest, 0.0, -gamma_x / safe * by_gamma_x)
    inward = cos * by_cos + sin * by_sin
    by_x = tl.where(zero, 0.0, (by_cos - cos * inward) / safe + by_length * cos)
    by_y = tl.where(zero, 0.0, (by_sin - sin * inward) / safe + by_length * sin)
    here = by_mu + (sample * parts + part) * 2
    half_x, half_y = tl.load(here, mask=real, other=0.0) / 2, tl.load(here + 1, mask=real, other=0.0) / 2
    start_x, start_y, end_x, end_y = half_x - by_x, half_y - by_y, half_x + by_x, half_y + by_y
    a, b, c, d = joints_of(table, part, real)
    x = tl.zeros((JOINTS,), COMPUTE)
    y = x
    x = add_to_joints(x, a, lanes, tl.where(four, (start_x + by_left_x) / 2, start_x), real)
    y = add_to_joints(y, a, lanes, tl.where(four, (start_y + by_left_y) / 2, start_y), real)
    x = add_to_joints(x, b, lanes, tl.where(four, (start_x - by_left_x) / 2, end_x), real)
    y = add_to_joints(y, b, lanes, tl.where(four, (start_y - by_left_y) / 2, end_y), real)
    x = add_to_joints(x, c, lanes, (end_x + by_left_x) / 2, four)
    y = add_to_joints(y, c, lanes, (end_y + by_left_y) / 2, four)
    x = add_to_joints(x, d, lanes, (end_x - by_left_x) / 2, four)
    y = add_to_joints(y, d, lanes, (end_y - by_left_y) / 2, four)
    here = by_points + (sample * joints + lanes) * 2
    tl.store(here, x, mask=lanes < joints)
    tl.store(here + 1, y, mask=lanes < joints)


def joint_table(puppet: Puppet) -> list[int]:
    """Four joints for each part, of which the last two are -1 where it hangs on two."""
    return [joint for part in puppet.joints for joint in (*part, *(-1,) * (4 - len(part)))]


def parts_of(table: list[int]) -> tuple[tuple[int, ...], ...]:
    """The joints of each part again."""
    rows = [table[first : first + 4] for first in range(0, len(table), 4)]
    return tuple(tuple(joint for joint in row if joint >= 0) for row in rows)


@torch.library.custom_op(
    "posegeom::part_affines",
    mutates_args=(),
    schema="(Tensor points, Tensor? across, Tensor anchors, float width, int[] table) -> (Tensor, Tensor, Tensor)",
)
def _part_affines(points, across, anchors, width, table):
    joints, parts, batch = points.shape[-2], len(table) // 4, points.shape[:-2]
    linear, mu = points.new_empty((*batch, parts, 2, 2)), points.new_empty((*batch, parts, 2))
    bar = points.new_empty((parts, 2))
    samples = points.numel() // (2 * joints)
    if samples == 0:
        return linear, mu, bar.zero_()
    with on_device(points):
        _part_affines_fwd_kernel[(samples,)](
            points.contiguous(),
            points if across is None else across.contiguous(),
            anchors.contiguous(),
            index_table(tuple(table), points.device),
            linear,
            mu,
            bar,
            *scalar(width),
            parts,
            joints,
            HAS_ACROSS=across is not None,
            PARTS=padded(parts),
            COMPUTE=tl_dtype(points),
            num_warps=1,
        )
    return linear, mu, bar


@_part_affines.register_fake
def _(points, across, anchors, width, table):
    batch, parts = points.shape[:-2], len(table) // 4
    shapes = (*batch, parts, 2, 2), (*batch, parts, 2), (parts, 2)
    return tuple(points.new_empty(shape) for shape in shapes)


@torch.library.custom_op(
    "posegeom::part_affines_backward",
    mutates_args=(),
    schema="(Tensor by_linear, Tensor by_mu, Tensor points, Tensor? across, Tensor anchors, float width, int[] table) "
    "-> (Tensor, Tensor)",
)
def _part_affines_backward(by_linear, by_mu, points, across, anchors, width, table):
    joints, parts = points.shape[-2], len(table) // 4
    by_points = torch.empty_like(points, memory_format=torch.contiguous_format)
    by_across = points.new_empty((*points.shape[:-2], 0 if across is None else parts))
    samples = points.numel() // (2 * joints)
    if samples == 0:
        return by_points, by_across
    with on_device(points):
        _part_affines_bwd_kernel[(samples,)](
            by_linear.contiguous(),
            by_mu.contiguous(),
            points.contiguous(),
            points if across is None else across.contiguous(),
            anchors.contiguous(),
            index_table(tuple(table), points.device),
            by_points,
            by_across,
            *scalar(width),
            parts,
            joints,
            HAS_ACROSS=across is not None,
            PARTS=padded(parts),
            JOINTS=padded(joints),
            COMPUTE=tl_dtype(points),
            num_warps=1,
        )
    return by_points, by_across


@_part_affines_backward.register_fake
def _(by_linear, by_mu, points, across, anchors, width, table):
    by_across = points.new_empty((*points.shape[:-2], 0 if across is None else len(table) // 4))
    return torch.empty_like(points, memory_format=torch.contiguous_format), by_across


def _part_affines_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    points, across, anchors, *ctx.settings = inputs
    ctx.save_for_backward(points, across, anchors)


def _part_affines_rule(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    points, across, anchors = ctx.saved_tensors
    rest = (None,) * 2
    width, table = ctx.settings
    # r̄, the third output, depends on the anchors alone, which have no gradient here.
    if torch.is_grad_enabled():

        def reference(points: Tensor, across: Tensor | None, anchors: Tensor) -> tuple[Tensor, ...]:
            parts = parts_of(table)
            scale = points.new_full((len(parts),), width) if across is None else across
            return affines_of_parts(points, scale.expand(*points.shape[:-2], len(parts)), anchors, parts)[:2]

        return (*differentiate_again(ctx, reference, (points, across, anchors), gradients[:2]), *rest)
    by_points, by_across = torch.ops.posegeom.part_affines_backward(
        *gradients[:2], points, across, anchors, width, table
    )
    return (by_points, None if across is None else by_across, None, *rest)


_part_affines.register_autograd(_part_affines_rule, setup_context=_part_affines_context)


def part_affines(points: Tensor, across: Tensor | float, puppet: Puppet) -> tuple[Tensor, Tensor, Tensor]:
    """`puppet.affines_of_parts` for anchors without gradient; a number as the width scale of every part."""
    scale, width = (across, 0.0) if isinstance(across, Tensor) else (None, across)
    if scale is not None:
        points = points.expand(*scale.shape[:-1], *points.shape[-2:])
    linear, mu, bar = torch.ops.posegeom.part_affines(
        points, scale, puppet.anchors.to(points.dtype), width, joint_table(puppet)
    )
    return linear, mu, bar
