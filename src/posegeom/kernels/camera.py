"""Triton kernels of `project`, `camera_rotation`, `angles_from_sincos` and `bounded_translation`.

In PyTorch each is twenty to sixty small operations forward and backward, which on a GPU are launches and nothing else.
Here a lane does all of them for one camera or one point, and the backward finds again what it needs of the forward.
The kernels run in eager mode only, where launching is what costs: `torch.compile` fuses the plain forms as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from posegeom._dispatch import runs_triton_eagerly
from posegeom.camera import NEAREST, Side, angles_of_pairs, projected, rotation_of_angles, translation_within
from posegeom.kernels.launch import differentiate_again, direction, on_device, scalar, tl_dtype

Context = Any

Number = Any
"""A number: what the twin module types as a number or a tensor, and hands over only where it is a number."""

LANES = 128
"""Cameras or points of a program: one for each thread of four warps."""

_LANES, _NEAREST = tl.constexpr(LANES), tl.constexpr(NEAREST)

_SMALL = tl.constexpr(0.5)
"""Up to this, tanh is a continued fraction: 1 - exp(-2x) would lose the digits of a small x."""


@triton.jit
def _lanes(count):
    """Numbers of this program's lanes, in 64 bits and with them all offsets, and whether there is work for each."""
    lane = tl.program_id(0).to(tl.int64) * _LANES + tl.arange(0, _LANES)
    return lane, lane < count


@triton.jit
def _number(high, low, COMPUTE: tl.constexpr):
    return tl.cast(high, COMPUTE) + tl.cast(low, COMPUTE)


@triton.jit
def _load(values, offset, real, COMPUTE: tl.constexpr):
    return tl.load(values + offset, mask=real, other=0.0).to(COMPUTE)


@triton.jit
def _store(values, offset, real, value):
    tl.store(values + offset, value.to(values.dtype.element_ty), mask=real)


@triton.jit
def _tanh(x):
    """To rounding at any size of x; the interpreter has no libdevice."""
    size = tl.abs(x)
    decay = tl.exp(-2.0 * size)
    far = (1.0 - decay) / (1.0 + decay)
    square = size * size
    fraction = 11.0 + square / 13.0
    fraction = 9.0 + square / fraction
    fraction = 7.0 + square / fraction
    fraction = 5.0 + square / fraction
    fraction = 3.0 + square / fraction
    fraction = 1.0 + square / fraction
    return tl.where(size < _SMALL, x / fraction, tl.where(x < 0, -far, far))


@triton.jit
def _angle(sine, cosine):
    """atan2 of a unit vector, to rounding in either type.

    A polynomial gives the angle to 1e-5 (Abramowitz and Stegun 4.4.49). What it is wrong by is small enough to be its
    own sine, and that is the cross product of both directions.
    """
    up, along = tl.abs(sine), tl.abs(cosine)
    steep = up > along
    slope = tl.where(steep, along, up) / tl.where(steep, up, along)
    square = slope * slope
    series = 0.0208351 * square - 0.0851330
    series = series * square + 0.1801410
    series = series * square - 0.3302995
    angle = (series * square + 0.9998660) * slope
    angle = tl.where(steep, 1.5707963267948966 - angle, angle)
    angle = tl.where(cosine < 0, 3.141592653589793 - angle, angle)
    # The sign and not a comparison: below the negative x axis, a sine of -0 is the angle -π.
    if sine.dtype == tl.float64:
        below = sine.to(tl.int64, bitcast=True) < 0
    else:
        below = sine.to(tl.int32, bitcast=True) < 0
    angle = tl.where(below, -angle, angle)
    return angle + (sine * tl.cos(angle) - cosine * tl.sin(angle))


# Counts and steps are never constants of a kernel, as 1 and multiples of 16 would be: a last, smaller batch or another
# layout compiles nothing.
@triton.jit(do_not_specialize=["count", "step", "stride"])
def _project_fwd_kernel(
    points,
    pixels_out,
    depth_out,
    count,
    step,
    stride,
    fx_high,
    fx_low,
    fy_high,
    fy_low,
    cx_high,
    cx_low,
    cy_high,
    cy_low,
    COMPUTE: tl.constexpr,
):
    """Pixels and depth of 128 points."""
    lane, real = _lanes(count)
    x = _load(points, lane * step, real, COMPUTE)
    y = _load(points, lane * step + stride, real, COMPUTE)
    z = _load(points, lane * step + 2 * stride.to(tl.int64), real, COMPUTE)
    depth = tl.maximum(z, tl.full((), _NEAREST, COMPUTE), propagate_nan=tl.PropagateNan.ALL)
    u = _number(fx_high, fx_low, COMPUTE) * (x / depth) + _number(cx_high, cx_low, COMPUTE)
    v = _number(fy_high, fy_low, COMPUTE) * (y / depth) + _number(cy_high, cy_low, COMPUTE)
    _store(pixels_out, lane * 2, real, u)
    _store(pixels_out, lane * 2 + 1, real, v)
    _store(depth_out, lane, real, z)


@triton.jit(do_not_specialize=["count", "step", "stride", "pixel_step", "pixel_stride", "depth_step"])
def _project_bwd_kernel(
    by_pixels_out,
    by_depth_out,
    points,
    by_points,
    count,
    pixel_step,
    pixel_stride,
    depth_step,
    step,
    stride,
    fx_high,
    fx_low,
    fy_high,
    fy_low,
    HAS_PIXELS: tl.constexpr,
    HAS_DEPTH: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Gradients of 128 points."""
    lane, real = _lanes(count)
    by_x = tl.zeros((_LANES,), COMPUTE)
    by_y = tl.zeros((_LANES,), COMPUTE)
    by_z = tl.zeros((_LANES,), COMPUTE)
    if HAS_PIXELS:
        x = _load(points, lane * step, real, COMPUTE)
        y = _load(points, lane * step + stride, real, COMPUTE)
        z = _load(points, lane * step + 2 * stride.to(tl.int64), real, COMPUTE)
        nearest = tl.full((), _NEAREST, COMPUTE)
        depth = tl.maximum(z, nearest, propagate_nan=tl.PropagateNan.ALL)
        across = _load(by_pixels_out, lane * pixel_step, real, COMPUTE) * _number(fx_high, fx_low, COMPUTE)
        down = _load(by_pixels_out, lane * pixel_step + pixel_stride, real, COMPUTE) * _number(fy_high, fy_low, COMPUTE)
        by_x, by_y = across / depth, down / depth
        # As clamp has it in PyTorch 2.14: at the bound no gradient passes, and of a NaN none does.
        by_z = tl.where(z > nearest, -across * (x / depth / depth) - down * (y / depth / depth), 0.0)
    if HAS_DEPTH:
        by_z += _load(by_depth_out, lane * depth_step, real, COMPUTE)
    _store(by_points, lane * 3, real, by_x)
    _store(by_points, lane * 3 + 1, real, by_y)
    _store(by_points, lane * 3 + 2, real, by_z)


@triton.jit
def _sine_and_cosine(angles, offset, real, COMPUTE: tl.constexpr):
    angle = _load(angles, offset, real, COMPUTE)
    return tl.sin(angle), tl.cos(angle)


@triton.jit
def _upper_rows(s_a, c_a, s_e, s_r, c_r):
    """Of the rotation's first two rows, the first two entries each."""
    down, aside = s_e * c_a, s_e * s_a
    return c_r * s_a - s_r * down, c_r * c_a + s_r * aside, s_r * s_a + c_r * down, s_r * c_a - c_r * aside


@triton.jit(do_not_specialize=["count", "azimuth_step", "elevation_step", "roll_step"])
def _camera_rotation_fwd_kernel(
    azimuth,
    elevation,
    roll,
    rotation,
    count,
    azimuth_step,
    elevation_step,
    roll_step,
    COMPUTE: tl.constexpr,
):
    """Rotations of 128 cameras."""
    lane, real = _lanes(count)
    s_a, c_a = _sine_and_cosine(azimuth, lane * azimuth_step, real, COMPUTE)
    s_e, c_e = _sine_and_cosine(elevation, lane * elevation_step, real, COMPUTE)
    s_r, c_r = _sine_and_cosine(roll, lane * roll_step, real, COMPUTE)
    xx, xy, yx, yy = _upper_rows(s_a, c_a, s_e, s_r, c_r)
    _store(rotation, lane * 9, real, xx)
    _store(rotation, lane * 9 + 1, real, xy)
    _store(rotation, lane * 9 + 2, real, s_r * c_e)
    _store(rotation, lane * 9 + 3, real, yx)
    _store(rotation, lane * 9 + 4, real, yy)
    _store(rotation, lane * 9 + 5, real, -c_r * c_e)
    _store(rotation, lane * 9 + 6, real, -c_e * c_a)
    _store(rotation, lane * 9 + 7, real, c_e * s_a)
    _store(rotation, lane * 9 + 8, real, -s_e)


@triton.jit(do_not_specialize=["count", "azimuth_step", "elevation_step", "roll_step"])
def _camera_rotation_bwd_kernel(
    gradient,
    azimuth,
    elevation,
    roll,
    by_azimuth,
    by_elevation,
    by_roll,
    count,
    azimuth_step,
    elevation_step,
    roll_step,
    COMPUTE: tl.constexpr,
):
    """Gradients to the angles of 128 cameras.

    A turn mixes the first two columns of R, a roll its first two rows, and a tilt moves the last row towards
    (s_e c_a, −s_e s_a, −c_e) and what the others have of it.
    """
    lane, real = _lanes(count)
    s_a, c_a = _sine_and_cosine(azimuth, lane * azimuth_step, real, COMPUTE)
    s_e, c_e = _sine_and_cosine(elevation, lane * elevation_step, real, COMPUTE)
    s_r, c_r = _sine_and_cosine(roll, lane * roll_step, real, COMPUTE)
    xx, xy, yx, yy = _upper_rows(s_a, c_a, s_e, s_r, c_r)
    xz, yz, zx, zy, zz = s_r * c_e, -c_r * c_e, -c_e * c_a, c_e * s_a, -s_e
    here = gradient + lane * 9
    g_xx, g_xy, g_xz = _load(here, 0, real, COMPUTE), _load(here, 1, real, COMPUTE), _load(here, 2, real, COMPUTE)
    g_yx, g_yy, g_yz = _load(here, 3, real, COMPUTE), _load(here, 4, real, COMPUTE), _load(here, 5, real, COMPUTE)
    g_zx, g_zy, g_zz = _load(here, 6, real, COMPUTE), _load(here, 7, real, COMPUTE), _load(here, 8, real, COMPUTE)
    turn = g_xx * xy - g_xy * xx + g_yx * yy - g_yy * yx + g_zx * zy - g_zy * zx
    tilt = s_r * (g_xx * zx + g_xy * zy + g_xz * zz) - c_r * (g_yx * zx + g_yy * zy + g_yz * zz)
    tilt += s_e * (g_zx * c_a - g_zy * s_a) - c_e * g_zz
    spin = g_yx * xx - g_xx * yx + g_yy * xy - g_xy * yy + g_yz * xz - g_xz * yz
    _store(by_azimuth, lane, real, turn)
    _store(by_elevation, lane, real, tilt)
    _store(by_roll, lane, real, spin)


@triton.jit(do_not_specialize=["count", "step", "stride"])
def _angles_from_sincos_fwd_kernel(sincos, angles, count, step, stride, COMPUTE: tl.constexpr):
    """Angles of 128 pairs."""
    lane, real = _lanes(count)
    sine = _load(sincos, lane * step, real, COMPUTE)
    cosine = _load(sincos, lane * step + stride, real, COMPUTE)
    cosine, sine, _, _ = direction(cosine, sine)
    _store(angles, lane, real, _angle(sine, cosine))


@triton.jit(do_not_specialize=["count", "gradient_step", "step", "stride"])
def _angles_from_sincos_bwd_kernel(
    gradient, sincos, by_sincos, count, gradient_step, step, stride, COMPUTE: tl.constexpr
):
    """Gradients of 128 pairs: (c, −s) / (s² + c²)."""
    lane, real = _lanes(count)
    pull = _load(gradient, lane * gradient_step, real, COMPUTE)
    sine = _load(sincos, lane * step, real, COMPUTE)
    cosine = _load(sincos, lane * step + stride, real, COMPUTE)
    cosine, sine, length, zero = direction(cosine, sine)
    length = tl.where(zero, 1.0, length)
    _store(by_sincos, lane * 2, real, tl.where(zero, 0.0, pull * cosine / length))
    _store(by_sincos, lane * 2 + 1, real, tl.where(zero, 0.0, -pull * sine / length))


@triton.jit
def _room(z, low, high, inset_low, inset_high):
    """Along an axis, the middle of what a sphere's centre may take at distance z, and half of its extent."""
    start, stop = inset_low - low * z, high * z - inset_high
    return (start + stop) / 2, (stop - start) / 2


@triton.jit
def _pull_room(pull, t, half, low, high):
    """The gradient to z; where no room is left, the middle alone moves."""
    return pull * (high - low) / 2 + tl.where(half > 0, pull * t * (high + low) / 2, 0.0)


@triton.jit(do_not_specialize=["count", "step", "stride"])
def _bounded_translation_fwd_kernel(
    raw,
    translation,
    count,
    step,
    stride,
    nearest_high,
    nearest_low,
    spread_high,
    spread_low,
    left_high,
    left_low,
    right_high,
    right_low,
    left_inset_high,
    left_inset_low,
    right_inset_high,
    right_inset_low,
    top_high,
    top_low,
    bottom_high,
    bottom_low,
    top_inset_high,
    top_inset_low,
    bottom_inset_high,
    bottom_inset_low,
    COMPUTE: tl.constexpr,
):
    """Translations of 128 cameras."""
    lane, real = _lanes(count)
    t_x = _tanh(_load(raw, lane * step, real, COMPUTE))
    t_y = _tanh(_load(raw, lane * step + stride, real, COMPUTE))
    share = tl.sigmoid(_load(raw, lane * step + 2 * stride.to(tl.int64), real, COMPUTE))
    z = _number(nearest_high, nearest_low, COMPUTE) * (1.0 + _number(spread_high, spread_low, COMPUTE) * share)
    left, right = _number(left_high, left_low, COMPUTE), _number(right_high, right_low, COMPUTE)
    left_inset = _number(left_inset_high, left_inset_low, COMPUTE)
    right_inset = _number(right_inset_high, right_inset_low, COMPUTE)
    middle_x, half_x = _room(z, left, right, left_inset, right_inset)
    top, bottom = _number(top_high, top_low, COMPUTE), _number(bottom_high, bottom_low, COMPUTE)
    top_inset = _number(top_inset_high, top_inset_low, COMPUTE)
    bottom_inset = _number(bottom_inset_high, bottom_inset_low, COMPUTE)
    middle_y, half_y = _room(z, top, bottom, top_inset, bottom_inset)
    _store(translation, lane * 3, real, middle_x + tl.where(half_x < 0, 0.0, half_x) * t_x)
    _store(translation, lane * 3 + 1, real, middle_y + tl.where(half_y < 0, 0.0, half_y) * t_y)
    _store(translation, lane * 3 + 2, real, z)


@triton.jit(do_not_specialize=["count", "gradient_step", "gradient_stride", "step", "stride"])
def _bounded_translation_bwd_kernel(
    gradient,
    raw,
    by_raw,
    count,
    gradient_step,
    gradient_stride,
    step,
    stride,
    nearest_high,
    nearest_low,
    spread_high,
    spread_low,
    left_high,
    left_low,
    right_high,
    right_low,
    left_inset_high,
    left_inset_low,
    right_inset_high,
    right_inset_low,
    top_high,
    top_low,
    bottom_high,
    bottom_low,
    top_inset_high,
    top_inset_low,
    bottom_inset_high,
    bottom_inset_low,
    COMPUTE: tl.constexpr,
):
    """Gradients of 128 cameras."""
    lane, real = _lanes(count)
    t_x = _tanh(_load(raw, lane * step, real, COMPUTE))
    t_y = _tanh(_load(raw, lane * step + stride, real, COMPUTE))
    share = tl.sigmoid(_load(raw, lane * step + 2 * stride.to(tl.int64), real, COMPUTE))
    nearest, spread = _number(nearest_high, nearest_low, COMPUTE), _number(spread_high, spread_low, COMPUTE)
    z = nearest * (1.0 + spread * share)
    left, right = _number(left_high, left_low, COMPUTE), _number(right_high, right_low, COMPUTE)
    left_inset = _number(left_inset_high, left_inset_low, COMPUTE)
    right_inset = _number(right_inset_high, right_inset_low, COMPUTE)
    _, half_x = _room(z, left, right, left_inset, right_inset)
    top, bottom = _number(top_high, top_low, COMPUTE), _number(bottom_high, bottom_low, COMPUTE)
    top_inset = _number(top_inset_high, top_inset_low, COMPUTE)
    bottom_inset = _number(bottom_inset_high, bottom_inset_low, COMPUTE)
    _, half_y = _room(z, top, bottom, top_inset, bottom_inset)
    pull_x = _load(gradient, lane * gradient_step, real, COMPUTE)
    pull_y = _load(gradient, lane * gradient_step + gradient_stride, real, COMPUTE)
    by_z = _load(gradient, lane * gradient_step + 2 * gradient_stride.to(tl.int64), real, COMPUTE)
    by_z += _pull_room(pull_x, t_x, half_x, left, right) + _pull_room(pull_y, t_y, half_y, top, bottom)
    _store(by_raw, lane * 3, real, pull_x * tl.where(half_x < 0, 0.0, half_x) * (1.0 - t_x * t_x))
    _store(by_raw, lane * 3 + 1, real, pull_y * tl.where(half_y < 0, 0.0, half_y) * (1.0 - t_y * t_y))
    _store(by_raw, lane * 3 + 2, real, by_z * nearest * spread * (share * (1.0 - share)))


@lru_cache(maxsize=256)
def _scalars(*numbers: Number) -> tuple[float, ...]:
    """`scalar` of each number: that takes longer than the launch, and a camera comes again and again."""
    return tuple(part for number in numbers for part in scalar(number))


def _programs(count: int) -> tuple[int]:
    return (triton.cdiv(count, LANES),)


def _strided(values: Tensor, width: int) -> tuple[Tensor, int, int]:
    """(*B, width) as rows, from one to the next and from number to number; a copy only where there is no such step."""
    rows = values.reshape(-1, width)
    return rows, rows.stride(0), rows.stride(1)


def _given(values: Tensor) -> tuple[Tensor, int]:
    """(*B,) in one row, and the step from number to number."""
    row = values.reshape(-1)
    return row, row.stride(0)


def _again(*gradients: Tensor) -> bool:
    """True where a backward must be made of differentiable, batchable steps."""
    return torch.is_grad_enabled() or not runs_triton_eagerly("auto", *gradients)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, points: Tensor, intrinsics: Sequence[Number]) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(points)
        ctx.set_materialize_grads(False)  # as a rule nobody pulls on the depth
        ctx.intrinsics = intrinsics
        pixels, depth = points.new_empty((*points.shape[:-1], 2)), points.new_empty(points.shape[:-1])
        if depth.numel():
            rows, step, stride = _strided(points, 3)
            with on_device(points):
                _project_fwd_kernel[_programs(depth.numel())](
                    rows,
                    pixels,
                    depth,
                    depth.numel(),
                    step,
                    stride,
                    *_scalars(*intrinsics),
                    COMPUTE=tl_dtype(points),
                )
        return pixels, depth

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (points,) = ctx.saved_tensors
        pulled = [k for k, gradient in enumerate(gradients) if gradient is not None]
        pulls = [gradient for gradient in gradients if gradient is not None]
        if not pulls:
            return None, None
        if _again(*pulls):

            def reference(points: Tensor) -> tuple[Tensor, ...]:
                results = projected(points, ctx.intrinsics)
                return tuple(results[k] for k in pulled)

            return (*differentiate_again(ctx, reference, (points,), pulls), None)
        by_pixels, by_depth = gradients
        by_points = torch.empty_like(points, memory_format=torch.contiguous_format)
        count = by_points.numel() // 3
        if count:
            pixel_rows, pixel_step, pixel_stride = (points, 0, 0) if by_pixels is None else _strided(by_pixels, 2)
            depth_row, depth_step = (points, 0) if by_depth is None else _given(by_depth)
            rows, step, stride = _strided(points, 3)
            with on_device(points):
                _project_bwd_kernel[_programs(count)](
                    pixel_rows,
                    depth_row,
                    rows,
                    by_points,
                    count,
                    pixel_step,
                    pixel_stride,
                    depth_step,
                    step,
                    stride,
                    *_scalars(*ctx.intrinsics[:2]),
                    HAS_PIXELS=by_pixels is not None,
                    HAS_DEPTH=by_depth is not None,
                    COMPUTE=tl_dtype(points),
                )
        return by_points, None


class _CameraRotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, azimuth: Tensor, elevation: Tensor, roll: Tensor) -> Tensor:
        ctx.save_for_backward(azimuth, elevation, roll)
        rotation = azimuth.new_empty((*azimuth.shape, 3, 3))
        count = azimuth.numel()
        if count:
            rows, steps = zip(*map(_given, (azimuth, elevation, roll)), strict=True)
            with on_device(azimuth):
                _camera_rotation_fwd_kernel[_programs(count)](*rows, rotation, count, *steps, COMPUTE=tl_dtype(azimuth))
        return rotation

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        angles = ctx.saved_tensors
        if _again(*gradients):
            return differentiate_again(ctx, rotation_of_angles, angles, gradients)
        pulls = tuple(torch.empty_like(angle, memory_format=torch.contiguous_format) for angle in angles)
        azimuth = angles[0]
        count = azimuth.numel()
        if count:
            rows, steps = zip(*map(_given, angles), strict=True)
            with on_device(azimuth):
                _camera_rotation_bwd_kernel[_programs(count)](
                    gradients[0].contiguous(), *rows, *pulls, count, *steps, COMPUTE=tl_dtype(azimuth)
                )
        return pulls


class _AnglesFromSincos(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, sincos: Tensor) -> Tensor:
        ctx.save_for_backward(sincos)
        angles = sincos.new_empty(sincos.shape[:-1])
        count = angles.numel()
        if count:
            rows, step, stride = _strided(sincos, 2)
            with on_device(sincos):
                _angles_from_sincos_fwd_kernel[_programs(count)](
                    rows, angles, count, step, stride, COMPUTE=tl_dtype(sincos)
                )
        return angles

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (sincos,) = ctx.saved_tensors
        if _again(*gradients):
            return differentiate_again(ctx, angles_of_pairs, (sincos,), gradients)
        by_sincos = torch.empty_like(sincos, memory_format=torch.contiguous_format)
        count = by_sincos.numel() // 2
        if count:
            row, gradient_step = _given(gradients[0])
            rows, step, stride = _strided(sincos, 2)
            with on_device(sincos):
                _angles_from_sincos_bwd_kernel[_programs(count)](
                    row, rows, by_sincos, count, gradient_step, step, stride, COMPUTE=tl_dtype(sincos)
                )
        return (by_sincos,)


class _BoundedTranslation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, raw: Tensor, nearest: Number, far: float, sides: Sequence[Side]) -> Tensor:
        ctx.save_for_backward(raw)
        ctx.settings = nearest, far, sides
        translation = torch.empty_like(raw, memory_format=torch.contiguous_format)
        count = translation.numel() // 3
        if count:
            rows, step, stride = _strided(raw, 3)
            with on_device(raw):
                _bounded_translation_fwd_kernel[_programs(count)](
                    rows,
                    translation,
                    count,
                    step,
                    stride,
                    *_scalars(nearest, far - 1, *sides[0], *sides[1]),
                    COMPUTE=tl_dtype(raw),
                    # Rounded alike, opposite edges have the middle of a centred image at exactly 0.
                    enable_fp_fusion=False,
                )
        return translation

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (raw,) = ctx.saved_tensors
        nearest, far, sides = ctx.settings
        if _again(*gradients):

            def reference(raw: Tensor) -> Tensor:
                return translation_within(raw, nearest, far, sides)

            return (*differentiate_again(ctx, reference, (raw,), gradients), None, None, None)
        by_raw = torch.empty_like(raw, memory_format=torch.contiguous_format)
        count = by_raw.numel() // 3
        if count:
            pulls, gradient_step, gradient_stride = _strided(gradients[0], 3)
            rows, step, stride = _strided(raw, 3)
            with on_device(raw):
                _bounded_translation_bwd_kernel[_programs(count)](
                    pulls,
                    rows,
                    by_raw,
                    count,
                    gradient_step,
                    gradient_stride,
                    step,
                    stride,
                    *_scalars(nearest, far - 1, *sides[0], *sides[1]),
                    COMPUTE=tl_dtype(raw),
                )
        return by_raw, None, None, None


def project(points: Tensor, intrinsics: Sequence[Number]) -> tuple[Tensor, Tensor]:
    """`camera.projected` by a camera of four numbers, f_x, f_y, c_x and c_y."""
    found: tuple[Tensor, Tensor] = _Project.apply(points, intrinsics)
    return found


def camera_rotation(azimuth: Tensor, elevation: Tensor, roll: Tensor) -> Tensor:
    """`camera.rotation_of_angles` of angles of one shape."""
    rotation: Tensor = _CameraRotation.apply(azimuth, elevation, roll)
    return rotation


def angles_from_sincos(sincos: Tensor) -> Tensor:
    """`camera.angles_of_pairs`."""
    angles: Tensor = _AnglesFromSincos.apply(sincos)
    return angles


def bounded_translation(raw: Tensor, nearest: Number, far: float, sides: Sequence[Side]) -> Tensor:
    """`camera.translation_within` sides of numbers."""
    translation: Tensor = _BoundedTranslation.apply(raw, nearest, far, sides)
    return translation
