"""Triton kernels of `skeleton_image`."""

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
    index_table,
    on_device,
    padded,
    pixels,
    scalar,
    tl_dtype,
    total,
)
from posegeom.kernels.maps_bones import joints_from_bones
from posegeom.maps import SHORT, Bones, Size, stick_figure

Context = Any

FORWARD, BACKWARD = Tiling(512, 32, 1), Tiling(512, 32, 1)

_SHORT = tl.constexpr(SHORT)


@triton.jit
def _fade(squared, gamma, POWER: tl.constexpr):
    """exp(−γ d^power) from d²."""
    if POWER == 1:
        squared = tl.sqrt(squared)
    return tl.exp(-gamma * squared)


@triton.jit
def _segment(body, parent, child, COMPUTE: tl.constexpr):
    """Start, vector and 1/length² of a segment; 1/length² is 0 for a segment that counts as a point."""
    ax, ay = tl.load(body + 2 * parent).to(COMPUTE), tl.load(body + 2 * parent + 1).to(COMPUTE)
    vx, vy = tl.load(body + 2 * child).to(COMPUTE) - ax, tl.load(body + 2 * child + 1).to(COMPUTE) - ay
    squared = vx * vx + vy * vy
    short = squared < _SHORT
    inverse = tl.where(short, 0.0, 1.0 / tl.where(short, 1.0, squared))
    return ax, ay, vx, vy, inverse


@triton.jit
def _position(dx, dy, vx, vy, inverse):
    """Where on a segment the nearest point lies, in [0, 1]; ½ on a segment that counts as a point. NaN stays NaN."""
    r = (dx * vx + dy * vy) * inverse
    r = tl.where(r < 0.0, 0.0, tl.where(r > 1.0, 1.0, r))
    return tl.where(inverse == 0.0, 0.5, r)


@triton.jit
def _distance_to_centre(x, y, ax, ay, vx, vy, inverse):
    """Distance of a point to a segment, and how wrong rounding can make it."""
    dx, dy = x - ax, y - ay
    r = _position(dx, dy, vx, vy, inverse)
    ex, ey = dx - r * vx, dy - r * vy
    return tl.sqrt(ex * ex + ey * ey), 1e-5 * (tl.abs(dx) + tl.abs(dy) + tl.abs(vx) + tl.abs(vy))


@triton.jit
def _best_of_tile(
    body,
    parents,
    children,
    weights,
    x,
    y,
    radius,
    bones,
    gamma,
    POWER: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    BONES: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """What some bone reaches on every pixel of a tile: at most this distance or, with weights, at least this value."""
    bone = tl.arange(0, BONES)
    real = bone < bones
    parent, child = tl.load(parents + bone, mask=real, other=0), tl.load(children + bone, mask=real, other=0)
    ax, ay, vx, vy, inverse = _segment(body, parent, child, COMPUTE)
    distance, slack = _distance_to_centre(x, y, ax, ay, vx, vy, inverse)
    near, distance = distance - (radius + slack), distance + (radius + slack)
    if HAS_WEIGHT:
        weight = tl.load(weights + bone, mask=real, other=0.0).to(COMPUTE)
        # A negative weight is at its lowest where the bone is near.
        distance = tl.where(weight < 0.0, tl.where(near < 0.0, 0.0, near), distance)
        value = weight * _fade(distance * distance, gamma, POWER)
        best = tl.max(tl.where(real, value, float("-inf")), axis=0)
    else:
        best = tl.min(tl.where(real, distance, float("inf")), axis=0)
    return best


@triton.jit
def _may_win(best, weight, x, y, radius, ax, ay, vx, vy, inverse, gamma, POWER: tl.constexpr, HAS_WEIGHT: tl.constexpr):
    """False where a bone is beaten on every pixel of a tile. A bone with a NaN stays."""
    distance, slack = _distance_to_centre(x, y, ax, ay, vx, vy, inverse)
    far, distance = distance + (radius + slack), distance - (radius + slack)
    if HAS_WEIGHT:
        distance = tl.where(weight < 0.0, far, tl.where(distance < 0.0, 0.0, distance))
        beaten = weight * _fade(distance * distance, gamma, POWER) < best
    else:
        beaten = distance > best
    return beaten == 0


@triton.jit
def _skeleton_image_fwd_kernel(
    points,
    weight,
    parents,
    children,
    image,
    gamma_high,
    gamma_low,
    bones,
    joints,
    height,
    width,
    tiles_x,
    tiles,
    POWER: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    BONES: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One tile of one image: the running winner over those bones that can win somewhere in the tile."""
    sample = (tl.program_id(0) // tiles).to(tl.int64)
    rows, columns = pixels(tl.program_id(0) % tiles, tiles_x, ROWS, COLUMNS)
    x, y = tl.program_id(0) % tiles % tiles_x * COLUMNS, tl.program_id(0) % tiles // tiles_x * ROWS
    x, y = tl.cast(x, COMPUTE) + 0.5 * (COLUMNS - 1), tl.cast(y, COMPUTE) + 0.5 * (ROWS - 1)
    radius = tl.full((), 0.5 * ((ROWS - 1) * (ROWS - 1) + (COLUMNS - 1) * (COLUMNS - 1)) ** 0.5, COMPUTE)
    gamma = tl.cast(gamma_high, COMPUTE) + tl.cast(gamma_low, COMPUTE)
    body, weights = points + sample * joints * 2, weight + sample * bones
    bound = _best_of_tile(
        body, parents, children, weights, x, y, radius, bones, gamma, POWER, HAS_WEIGHT, BONES, COMPUTE
    )
    worst = float("-inf") if HAS_WEIGHT else float("inf")
    best = tl.full((ROWS, COLUMNS), worst, COMPUTE)
    for bone in range(bones):
        ax, ay, vx, vy, inverse = _segment(body, tl.load(parents + bone), tl.load(children + bone), COMPUTE)
        w = gamma
        if HAS_WEIGHT:
            w = tl.load(weights + bone).to(COMPUTE)
        if _may_win(bound, w, x, y, radius, ax, ay, vx, vy, inverse, gamma, POWER, HAS_WEIGHT):
            dx, dy = columns.to(COMPUTE) - ax, rows.to(COMPUTE) - ay
            r = _position(dx, dy, vx, vy, inverse)
            ex, ey = dx - r * vx, dy - r * vy
            value = ex * ex + ey * ey
            if HAS_WEIGHT:
                value = w * _fade(value, gamma, POWER)
                best = tl.where((value > best) | (value != value), value, best)
            else:
                best = tl.where((value < best) | (value != value), value, best)
    if not HAS_WEIGHT:
        best = _fade(best, gamma, POWER)
    here = image + sample * height * width + rows * width + columns
    tl.store(here, best.to(image.dtype.element_ty), mask=(rows < height) & (columns < width))


@triton.jit
def _skeleton_image_bwd_kernel(
    gradient,
    points,
    weight,
    parents,
    children,
    sums,
    gamma_high,
    gamma_low,
    bones,
    joints,
    height,
    width,
    tiles_x,
    tiles,
    POWER: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    BONES: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One tile's share of the gradients to every bone's start, end and weight: the winner of a pixel has its gradient.

    With the nearest point a + r (b − a) and e = u − a − r (b − a): ∂d²/∂a = −2 (1 − r) e and ∂d²/∂b = −2 r e.
    """
    tile = tl.program_id(0) % tiles
    sample = (tl.program_id(0) // tiles).to(tl.int64)
    rows, columns = pixels(tile, tiles_x, ROWS, COLUMNS)
    x, y = tl.program_id(0) % tiles % tiles_x * COLUMNS, tl.program_id(0) % tiles // tiles_x * ROWS
    x, y = tl.cast(x, COMPUTE) + 0.5 * (COLUMNS - 1), tl.cast(y, COMPUTE) + 0.5 * (ROWS - 1)
    radius = tl.full((), 0.5 * ((ROWS - 1) * (ROWS - 1) + (COLUMNS - 1) * (COLUMNS - 1)) ** 0.5, COMPUTE)
    gamma = tl.cast(gamma_high, COMPUTE) + tl.cast(gamma_low, COMPUTE)
    body, weights = points + sample * joints * 2, weight + sample * bones
    bound = _best_of_tile(
        body, parents, children, weights, x, y, radius, bones, gamma, POWER, HAS_WEIGHT, BONES, COMPUTE
    )
    worst = float("-inf") if HAS_WEIGHT else float("inf")
    best = tl.full((ROWS, COLUMNS), worst, COMPUTE)
    winner = tl.full((ROWS, COLUMNS), -1, tl.int32)
    for bone in range(bones):
        ax, ay, vx, vy, inverse = _segment(body, tl.load(parents + bone), tl.load(children + bone), COMPUTE)
        w = gamma
        if HAS_WEIGHT:
            w = tl.load(weights + bone).to(COMPUTE)
        if _may_win(bound, w, x, y, radius, ax, ay, vx, vy, inverse, gamma, POWER, HAS_WEIGHT):
            dx, dy = columns.to(COMPUTE) - ax, rows.to(COMPUTE) - ay
            r = _position(dx, dy, vx, vy, inverse)
            ex, ey = dx - r * vx, dy - r * vy
            value = ex * ex + ey * ey
            if HAS_WEIGHT:
                value = w * _fade(value, gamma, POWER)
                better = (value > best) | (value != value)
            else:
                better = (value < best) | (value != value)
            best = tl.where(better, value, best)
            winner = tl.where(better, bone, winner)
    VALUES: tl.constexpr = 5 if HAS_WEIGHT else 4
    inside = (rows < height) & (columns < width)
    here = gradient + sample * height * width + rows * width + columns
    pull = tl.load(here, mask=inside, other=0.0).to(COMPUTE)
    for bone in range(bones):
        out = sums + ((sample * tiles + tile) * bones + bone) * VALUES
        ax, ay, vx, vy, inverse = _segment(body, tl.load(parents + bone), tl.load(children + bone), COMPUTE)
        w = gamma
        if HAS_WEIGHT:
            w = tl.load(weights + bone).to(COMPUTE)
        won = winner == bone
        if total(won.to(tl.int32)) > 0:
            dx, dy = columns.to(COMPUTE) - ax, rows.to(COMPUTE) - ay
            r = _position(dx, dy, vx, vy, inverse)
            # Between the ends e is perpendicular to the segment. Taken as a difference it would, on the segment, be
            # rounding noise along it, which power 1 divides by its own length.
            inner = tl.where(inverse > 0.0, r, 0.0)
            between = (inner > 0.0) & (inner < 1.0)
            sideways = (dx * vy - dy * vx) * inverse
            ex = tl.where(between, sideways * vy, dx - r * vx)
            ey = tl.where(between, -sideways * vx, dy - r * vy)
            squared = ex * ex + ey * ey
            strength = tl.where(won, pull * _fade(squared, gamma, POWER), 0.0)
            if HAS_WEIGHT:
                tl.store(out + 4, total(strength))
                strength = strength * w
            if POWER == 1:
                touching = squared < 1e-37  # nearer, the root of a number too small to be normal would be 0
                slope = tl.where(touching, 0.0, gamma / tl.sqrt(tl.where(touching, 1.0, squared)))
            else:
                slope = 2.0 * gamma
            strength = strength * slope
            # A pixel that is not the bone's own may hold an infinity here, and 0 · ∞ is no number.
            ex, ey = tl.where(strength == 0.0, 0.0, ex), tl.where(strength == 0.0, 0.0, ey)
            tl.store(out, total(strength * (1.0 - r) * ex))
            tl.store(out + 1, total(strength * (1.0 - r) * ey))
            tl.store(out + 2, total(strength * r * ex))
            tl.store(out + 3, total(strength * r * ey))
        else:
            lane = tl.arange(0, 8)
            tl.store(out + lane, tl.zeros((8,), COMPUTE), mask=lane < VALUES)


@torch.library.custom_op(
    "posegeom::skeleton_image",
    mutates_args=(),
    schema="(Tensor points, Tensor? weight, int[] parents, int[] children, float gamma, int power, SymInt height, "
    "SymInt width, ScalarType dtype) -> Tensor",
)
def _skeleton_image(points, weight, parents, children, gamma, power, height, width, dtype):
    image = points.new_empty((*points.shape[:-2], height, width), dtype=dtype)
    if image.numel() == 0:
        return image
    rows, columns, tiles_x, tiles = FORWARD.shape(height, width)
    with on_device(points):
        _skeleton_image_fwd_kernel[(image.numel() // (height * width) * tiles,)](
            points.contiguous(),
            points if weight is None else weight.contiguous(),
            index_table(tuple(parents), points.device),
            index_table(tuple(children), points.device),
            image,
            *scalar(gamma),
            len(parents),
            points.shape[-2],
            height,
            width,
            tiles_x,
            tiles,
            POWER=power,
            HAS_WEIGHT=weight is not None,
            BONES=padded(len(parents)),
            COMPUTE=tl_dtype(points),
            ROWS=rows,
            COLUMNS=columns,
            num_warps=FORWARD.warps,
        )
    return image


@_skeleton_image.register_fake
def _(points, weight, parents, children, gamma, power, height, width, dtype):
    return points.new_empty((*points.shape[:-2], height, width), dtype=dtype)


@torch.library.custom_op(
    "posegeom::skeleton_image_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor points, Tensor? weight, int[] parents, int[] children, float gamma, int power) "
    "-> (Tensor, Tensor)",
)
def _skeleton_image_backward(gradient, points, weight, parents, children, gamma, power):
    height, width = gradient.shape[-2:]
    bones, joints = len(parents), points.shape[-2]
    samples = points.numel() // (2 * joints)
    rows, columns, tiles_x, tiles = BACKWARD.shape(height, width)
    values = 4 if weight is None else 5
    sums = points.new_empty((*points.shape[:-2], tiles, bones, values), dtype=compute_dtype(points))
    if samples == 0:
        return torch.zeros_like(points), sums.new_zeros((*points.shape[:-2], 0 if weight is None else bones))
    tables = index_table(tuple(parents), points.device), index_table(tuple(children), points.device)
    with on_device(points):
        _skeleton_image_bwd_kernel[(samples * tiles,)](
            gradient.contiguous(),
            points.contiguous(),
            points if weight is None else weight.contiguous(),
            *tables,
            sums,
            *scalar(gamma),
            bones,
            joints,
            height,
            width,
            tiles_x,
            tiles,
            POWER=power,
            HAS_WEIGHT=weight is not None,
            BONES=padded(bones),
            COMPUTE=tl_dtype(points),
            ROWS=rows,
            COLUMNS=columns,
            num_warps=BACKWARD.warps,
        )
        by_bone = sums.sum(-3)
        by_points = joints_from_bones(by_bone, points, *tables)
    by_weight = by_bone.new_empty((*by_bone.shape[:-2], 0)) if weight is None else by_bone[..., 4].contiguous()
    return by_points, by_weight


@_skeleton_image_backward.register_fake
def _(gradient, points, weight, parents, children, gamma, power):
    weights = 0 if weight is None else len(parents)
    by_weight = points.new_empty((*points.shape[:-2], weights), dtype=compute_dtype(points))
    return torch.empty_like(points, memory_format=torch.contiguous_format), by_weight


def _skeleton_image_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    points, weight, *ctx.settings, ctx.height, ctx.width, _ = inputs
    ctx.save_for_backward(points, weight)


def _skeleton_image_rule(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
    points, weight = ctx.saved_tensors
    rest = (None,) * 7
    if torch.is_grad_enabled():
        parents, children, gamma, power = ctx.settings

        def reference(points: Tensor, weight: Tensor | None) -> Tensor:
            pairs = list(zip(parents, children, strict=True))
            size = (ctx.height, ctx.width)
            return stick_figure(points.to(compute_dtype(points)), weight, pairs, size, gamma, power)

        return (*differentiate_again(ctx, reference, (points, weight), gradient), *rest)
    by_points, by_weight = torch.ops.posegeom.skeleton_image_backward(gradient, points, weight, *ctx.settings)
    return (by_points, None if weight is None else by_weight, *rest)


_skeleton_image.register_autograd(_skeleton_image_rule, setup_context=_skeleton_image_context)


def skeleton_image(
    points: Tensor, weight: Tensor | None, bones: Bones, size: Size, gamma: float, power: int, dtype: torch.dtype
) -> Tensor:
    """`maps.stick_figure` of points (*B, J, 2) in a given dtype."""
    parents, children = [parent for parent, _ in bones], [child for _, child in bones]
    image: Tensor = torch.ops.posegeom.skeleton_image(points, weight, parents, children, gamma, power, *size, dtype)
    return image
