"""Pinhole cameras with OpenCV distortion, view rotations, bounded translations, and lifting to 3D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posegeom._checks import (
    check_batches,
    check_floating,
    check_number,
    check_points,
    check_same_device,
    check_shape,
    check_size,
    compute_dtype,
)
from posegeom._dispatch import runs_triton_eagerly
from posegeom.frames import axis_rotation, compose, unit_vector

NEAREST = 1e-3
"""Points closer to the camera plane than this (metres) are projected as if they were at this depth."""

WIDEST = 1e3
"""The lens distortion of points further off-axis than this (tangent of the angle) is that of this tangent."""

_NEWTON_STEPS = 8

_NEWTON_WIDEST = 30.0
"""Tangents that the lens is inverted within: 88 degrees; the squares of its r⁶ terms stay finite in float32."""


@dataclass(frozen=True, eq=False)
class PerspectiveCamera:
    """Intrinsics of a camera in OpenCV's convention: x right, y down, z forward; pixel centres are integers.

        u = f_x x″ + c_x,   v = f_y y″ + c_y,   (x″, y″) = distorted (x / z, y / z)

    Args:
        focal: focal length in pixels: one number, (f_x, f_y), or a (*B, 2) tensor.
        center: principal point in pixels: (c_x, c_y), a (*B, 2) tensor, one number for both, or None for the
            image's middle ((W − 1)/2, (H − 1)/2).
        size: (height, width) of the image in pixels.
        distortion: OpenCV's (k1, k2, p1, p2, k3), as numbers or a (*B, 5) tensor; None for none.

    Raises:
        TypeError: a value of another kind.
        ValueError: a tensor of a wrong shape, a focal length that is not positive, a wrong size.

    Example:
        >>> import torch
        >>> from posegeom import PerspectiveCamera, project
        >>> camera = PerspectiveCamera(focal=150.0, center=None, size=(128, 128))
        >>> pixels, depth = project(torch.tensor([[0.0, 0.0, 3.0]]), camera)
        >>> pixels
        tensor([[63.5000, 63.5000]])
    """

    focal: float | tuple[float, float] | Tensor
    center: float | tuple[float, float] | Tensor | None
    size: tuple[int, int]
    distortion: tuple[float, ...] | Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", check_size(self.size))
        if self.center is None:
            height, width = self.size
            object.__setattr__(self, "center", ((width - 1) / 2, (height - 1) / 2))
        object.__setattr__(self, "focal", _intrinsic("focal", self.focal, 2, above=0))
        object.__setattr__(self, "center", _intrinsic("center", self.center, 2))
        if self.distortion is not None:
            object.__setattr__(self, "distortion", _intrinsic("distortion", self.distortion, 5))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> PerspectiveCamera:
        """The same camera with its tensors on `device` in `dtype`; plain numbers stay as they are."""

        def moved(value: object) -> object:
            return value.to(device=device, dtype=dtype) if isinstance(value, Tensor) else value

        return PerspectiveCamera(
            moved(self.focal),  # type: ignore[arg-type]
            moved(self.center),  # type: ignore[arg-type]
            self.size,
            moved(self.distortion),  # type: ignore[arg-type]
        )

    def resize(self, size: tuple[int, int]) -> PerspectiveCamera:
        """The camera of the image resampled to `size`; the image still spans [−0.5, W − 0.5].

        Example:
            >>> from posegeom import PerspectiveCamera
            >>> PerspectiveCamera(focal=150.0, center=None, size=(128, 128)).resize((64, 64)).focal
            (75.0, 75.0)
        """
        height, width = check_size(size)
        return self._resampled((width / self.size[1], height / self.size[0]), (0.0, 0.0), (height, width))

    def crop(self, box: Tensor | Sequence[float], size: tuple[int, int] | None = None) -> PerspectiveCamera:
        """The camera of `posegeom.crop(image, box, size)`.

        Args:
            box: (s_x, s_y, u_x, u_y) as in `posegeom.crop`: half extents and middle in the image's [−1, 1];
                four numbers or a (*B, 4) tensor.
            size: (height, width) of the crop; default: that of the image.

        Returns:
            The camera whose projection of a point is where the point lies in the crop. It has tensor
            intrinsics if `box` is a tensor.

        Example:
            The middle half of the image, as large as the image was.

            >>> from posegeom import PerspectiveCamera
            >>> PerspectiveCamera(focal=150.0, center=None, size=(128, 128)).crop((0.5, 0.5, 0.0, 0.0)).focal
            (300.0, 300.0)
        """
        height, width = self.size if size is None else check_size(size)
        sx: Tensor | float
        sy: Tensor | float
        ux: Tensor | float
        uy: Tensor | float
        if isinstance(box, Tensor):
            check_floating("box", box)
            check_shape("box", box, ("*B", 4))
            for name in ("focal", "center"):
                value = getattr(self, name)
                check_same_device(**{f"camera.{name}": value, "box": box})
                if isinstance(value, Tensor):
                    check_batches(**{f"camera.{name}": value.shape[:-1], "box": box.shape[:-1]})
            sx, sy, ux, uy = box.unbind(-1)
        else:
            if len(box) != 4:
                raise ValueError(f"box must be (s_x, s_y, u_x, u_y), got {len(box)} numbers")
            sx, sy, ux, uy = (check_number(name, v) for name, v in zip(("s_x", "s_y", "u_x", "u_y"), box, strict=True))
            check_number("s_x", sx, above=0)
            check_number("s_y", sy, above=0)
        # x + ½ grows by W' / (W s_x) from the box's left edge, W/2 (1 + u_x − s_x), to the crop's, 0.
        scale = (width / (self.size[1] * sx), height / (self.size[0] * sy))
        start = (self.size[1] * (1 + ux - sx) / 2, self.size[0] * (1 + uy - sy) / 2)
        return self._resampled(scale, start, (height, width))

    def _resampled(
        self, scale: tuple[float | Tensor, ...], start: tuple[float | Tensor, ...], size: tuple[int, int]
    ) -> PerspectiveCamera:
        """Map every pixel x to scale · (x + ½ − start) − ½."""
        focal = [value * factor for value, factor in zip(_columns(self.focal), scale, strict=True)]
        center = [
            (value + 0.5 - first) * factor - 0.5
            for value, first, factor in zip(_columns(self.center), start, scale, strict=True)
        ]
        return replace(self, focal=_joined(focal), center=_joined(center), size=size)


def _intrinsic(name: str, value: object, count: int, above: float | None = None) -> tuple[float, ...] | Tensor:
    """A checked tuple of `count` floats or (*B, count) tensor."""
    if isinstance(value, Tensor):
        check_floating(name, value)
        check_shape(name, value, ("*B", count))
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != count:
            raise ValueError(f"{name} must hold {count} numbers, got {len(value)}")
        return tuple(check_number(name, entry, above=above) for entry in value)
    return (check_number(name, value, above=above),) * count


def _columns(value: float | tuple[float, ...] | Tensor | None) -> tuple[float | Tensor, ...]:
    if isinstance(value, Tensor):
        return value.unbind(-1)
    assert isinstance(value, tuple)  # __post_init__ made it one
    return value


def _joined(columns: list[float | Tensor]) -> tuple[float, float] | Tensor:
    tensors = [column for column in columns if isinstance(column, Tensor)]
    if not tensors:
        return (float(columns[0]), float(columns[1]))
    like = tensors[0]
    return torch.stack(
        torch.broadcast_tensors(*(c if isinstance(c, Tensor) else torch.full_like(like, c) for c in columns)),
        dim=-1,
    )


def _tensor_in_camera(camera: PerspectiveCamera) -> str:
    """Why a kernel cannot take this camera; empty where its intrinsics are numbers."""
    if isinstance(camera.focal, Tensor) or isinstance(camera.center, Tensor):
        return (
            "the kernel takes only cameras whose focal length and centre are Python numbers, and here one is a tensor"
        )
    return ""


def _per_point(camera: PerspectiveCamera, points: Tensor, dtype: torch.dtype) -> list[Tensor | float]:
    """f_x, f_y, c_x, c_y and the five distortion numbers (if any), each a number or (*B, 1) for (*B, J) points."""
    check_same_device(
        points=points,
        **{"camera.focal": camera.focal, "camera.center": camera.center},
        **{"camera.distortion": camera.distortion},
    )
    tensors = {
        f"camera.{n}": v for n in ("focal", "center", "distortion") if isinstance(v := getattr(camera, n), Tensor)
    }
    check_batches(points=points.shape[:-2], **{name: value.shape[:-1] for name, value in tensors.items()})
    values: list[Tensor | float] = []
    for name in ("focal", "center", "distortion"):
        value = getattr(camera, name)
        if value is not None:
            values += [
                column.to(dtype).unsqueeze(-1) if isinstance(column, Tensor) else column for column in _columns(value)
            ]
    return values


def project(points: Tensor, camera: PerspectiveCamera, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Pixels and depth of points in the camera's frame.

        x′ = x / max(z, 1e-3),   y′ = y / max(z, 1e-3),   r² = x′² + y′²,
        x″ = x′ (1 + k1 r² + k2 r⁴ + k3 r⁶) + 2 p1 x′ y′ + p2 (r² + 2 x′²),
        y″ = y′ (1 + k1 r² + k2 r⁴ + k3 r⁶) + p1 (r² + 2 y′²) + 2 p2 x′ y′,
        u = f_x x″ + c_x,   v = f_y y″ + c_y.

    Args:
        points: (*B, J, 3) in the camera's frame, metres (x right, y down, z forward).
        camera: its intrinsics; tensors in it broadcast over the batch.
        backend: "auto"; "triton" to have the kernel or an error, "torch" never to have it (docs/kernels). The kernel
            takes cameras of Python numbers without distortion.

    Returns:
        pixels (*B, J, 2) and depth (*B, J), the unclamped z, both in the dtype of `points`.

    Raises:
        TypeError: `points` is no floating-point tensor.
        ValueError: a wrong shape, different devices, or a backend that cannot run.

    Degenerate cases: points behind or in the camera plane are projected at depth 1e-3, with zero gradient to z
    through the pixels. The distortion terms of points more than 1e3 off-axis are those at 1e3, which keeps r⁶
    finite; no lens model means anything there.

    Source: 002 §3.1b; OpenCV's lens model.

    Example:
        >>> import torch
        >>> from posegeom import PerspectiveCamera, project
        >>> pixels, depth = project(torch.tensor([[0.5, 0.0, 2.0]]), PerspectiveCamera(100.0, (63.5, 63.5), (128, 128)))
        >>> pixels, depth
        (tensor([[88.5000, 63.5000]]), tensor([2.]))
    """
    check_points("points", points, "J", 3)
    values = _per_point(camera, points, compute_dtype(points))
    unless = _tensor_in_camera(camera)
    if camera.distortion is not None:
        unless = "the kernel knows no lens, and this camera has a distortion"
    if runs_triton_eagerly(backend, points, unless=unless):
        from posegeom.kernels.camera import project as kernel

        return kernel(points, values)
    return projected(points, values)


def projected(points: Tensor, values: Sequence[Tensor | float]) -> tuple[Tensor, Tensor]:
    """Pixels and depth from f_x, f_y, c_x, c_y and, with a lens, its five numbers."""
    x, y, z = points.to(compute_dtype(points)).unbind(-1)
    depth = z.clamp(min=NEAREST)
    x, y = x / depth, y / depth
    if len(values) > 4:
        x, y = _distort(x, y, values[4:])
    fx, fy, cx, cy = values[:4]
    pixels = torch.stack(torch.broadcast_tensors(fx * x + cx, fy * y + cy), dim=-1)
    # A copy: the depth is a result of its own, not a window into the points.
    return pixels.to(points.dtype), points[..., 2].expand(pixels.shape[:-1]).clone()


def _distort(x: Tensor, y: Tensor, coefficients: Sequence[Tensor | float]) -> tuple[Tensor, Tensor]:
    k1, k2, p1, p2, k3 = coefficients
    xc, yc = x.clamp(-WIDEST, WIDEST), y.clamp(-WIDEST, WIDEST)
    r2 = xc * xc + yc * yc
    radial = ((k3 * r2 + k2) * r2 + k1) * r2
    return (
        x + xc * radial + 2 * p1 * xc * yc + p2 * (r2 + 2 * xc * xc),
        y + yc * radial + p1 * (r2 + 2 * yc * yc) + 2 * p2 * xc * yc,
    )


def unproject(pixels: Tensor, depth: Tensor, camera: PerspectiveCamera) -> Tensor:
    """The inverse of `project`: points in the camera's frame from pixels and depth.

    The lens is inverted by eight Newton steps on the 2 × 2 system, which reach rounding error (in value and in
    every derivative) wherever the lens model is one to one.

    Args:
        pixels: (*B, J, 2).
        depth: (*B, J) z in metres.
        camera: its intrinsics.

    Returns:
        (*B, J, 3) in the dtype of `pixels`.

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: shapes that do not fit, different devices.

    Degenerate cases: pixels that no direction projects to (beyond the fold of a strong lens) give a finite
    point of no meaning.

    Example:
        >>> import torch
        >>> from posegeom import PerspectiveCamera, project, unproject
        >>> camera = PerspectiveCamera(100.0, (63.5, 63.5), (128, 128), (-0.2, 0.1, 0.001, 0.0, 0.0))
        >>> points = torch.tensor([[0.5, -0.2, 2.0]])
        >>> unproject(*project(points, camera), camera).allclose(points, atol=1e-5)
        True
    """
    check_points("pixels", pixels, "J", 2)
    check_floating("depth", depth)
    check_same_device(pixels=pixels, depth=depth)
    check_shape("depth", depth, ("*B", pixels.shape[-2]), "like pixels")
    batches = {f"camera.{n}": v.shape[:-1] for n in ("focal", "center") if isinstance(v := getattr(camera, n), Tensor)}
    check_batches(pixels=pixels.shape[:-2], depth=depth.shape[:-1], **batches)
    dtype = compute_dtype(pixels)
    values = _per_point(camera, pixels, dtype)
    fx, fy, cx, cy = values[:4]
    u, v = pixels.to(dtype).unbind(-1)
    target_x, target_y = torch.broadcast_tensors((u - cx) / fx, (v - cy) / fy)
    x, y = target_x, target_y
    if camera.distortion is not None:
        for _ in range(_NEWTON_STEPS):
            x, y = _newton_step(x, y, target_x, target_y, values[4:])
    z = depth.to(dtype)
    near = z.clamp(min=NEAREST)
    return torch.stack(torch.broadcast_tensors(x * near, y * near, z), dim=-1).to(pixels.dtype)


def _newton_step(
    x: Tensor, y: Tensor, target_x: Tensor, target_y: Tensor, coefficients: list[Tensor | float]
) -> tuple[Tensor, Tensor]:
    k1, k2, p1, p2, k3 = coefficients
    x, y = x.clamp(-_NEWTON_WIDEST, _NEWTON_WIDEST), y.clamp(-_NEWTON_WIDEST, _NEWTON_WIDEST)
    r2 = x * x + y * y
    radial = ((k3 * r2 + k2) * r2 + k1) * r2
    slope = 2 * ((3 * k3 * r2 + 2 * k2) * r2 + k1)  # d radial / d x = slope · x
    have_x, have_y = _distort(x, y, coefficients)
    xx = 1 + radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
    yy = 1 + radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
    xy = slope * x * y + 2 * p1 * x + 2 * p2 * y
    determinant = xx * yy - xy * xy
    determinant = torch.where(determinant.abs() < 1e-6, 1e-6, determinant)
    dx, dy = target_x - have_x, target_y - have_y
    return x + (yy * dx - xy * dy) / determinant, y + (xx * dy - xy * dx) / determinant


def camera_rotation(azimuth: Tensor, elevation: Tensor, roll: Tensor, *, backend: str = "auto") -> Tensor:
    """The rotation from the canonical frame to the frame of a camera that looks at the person.

        R = Rz(roll) · Rx(elevation) · C · Rz(azimuth),   C = [[0, 1, 0], [0, 0, −1], [−1, 0, 0]]

    multiplied out, with s and c for the sines and cosines of azimuth a, elevation e and roll r:

        R = [[c_r s_a − s_r s_e c_a,   c_r c_a + s_r s_e s_a,    s_r c_e],
             [s_r s_a + c_r s_e c_a,   s_r c_a − c_r s_e s_a,   −c_r c_e],
             [−c_e c_a,                c_e s_a,                 −s_e]]

    All zero: the camera stands on +X and sees the face, the person's left hand on the image's right. A positive
    azimuth turns the person to its left (about +Z), a positive elevation looks down, a positive roll turns the
    picture clockwise.

    Args:
        azimuth: (*B,) radians.
        elevation: (*B,) radians.
        roll: (*B,) radians; the three broadcast.
        backend: "auto"; "triton" to have the kernel or an error, "torch" never to have it (docs/kernels).

    Returns:
        (*B, 3, 3) with p_cam = R p + t, in the dtype of `azimuth`.

    Raises:
        TypeError: an angle is no floating-point tensor.
        ValueError: shapes that do not fit, different devices, or a backend that cannot run.

    Source: 000 §3.2a (three rotation angles); the order is ours.

    Example:
        >>> import torch
        >>> from posegeom import camera_rotation
        >>> zero = torch.zeros(())
        >>> camera_rotation(zero, zero, zero) @ torch.tensor([0.0, 0.0, 1.0])  # up is −y in the image
        tensor([ 0., -1.,  0.])
    """
    for name, angle in (("azimuth", azimuth), ("elevation", elevation), ("roll", roll)):
        check_floating(name, angle)
    check_same_device(azimuth=azimuth, elevation=elevation, roll=roll)
    batch = check_batches(azimuth=azimuth.shape, elevation=elevation.shape, roll=roll.shape)
    if runs_triton_eagerly(backend, azimuth, elevation, roll):
        from posegeom.kernels.camera import camera_rotation as kernel

        return kernel(azimuth.expand(batch), elevation.expand(batch), roll.expand(batch))
    return rotation_of_angles(azimuth, elevation, roll)


def rotation_of_angles(azimuth: Tensor, elevation: Tensor, roll: Tensor) -> Tensor:
    """The product of `camera_rotation`, entry by entry."""
    dtype = compute_dtype(azimuth)
    turn, tilt, spin = torch.broadcast_tensors(azimuth.to(dtype), elevation.to(dtype), roll.to(dtype))
    s_a, s_e, s_r = turn.sin(), tilt.sin(), spin.sin()
    c_a, c_e, c_r = turn.cos(), tilt.cos(), spin.cos()
    down, aside = s_e * c_a, s_e * s_a
    entries = (
        *(c_r * s_a - s_r * down, c_r * c_a + s_r * aside, s_r * c_e),
        *(s_r * s_a + c_r * down, s_r * c_a - c_r * aside, -c_r * c_e),
        *(-c_e * c_a, c_e * s_a, -s_e),
    )
    return torch.stack(entries, dim=-1).reshape(*turn.shape, 3, 3).to(azimuth.dtype)


def angles_from_sincos(sincos: Tensor, backend: str = "auto") -> Tensor:
    """Angles from (sine, cosine) pairs that need not be normalised: atan2(s, c).

    Args:
        sincos: (*B, 3, 2), each pair (sine, cosine) of any length; any number of angles works.
        backend: "auto"; "triton" to have the kernel or an error, "torch" never to have it (docs/kernels).

    Returns:
        (*B, 3) radians in (−π, π].

    Raises:
        TypeError: no floating-point tensor.
        ValueError: a last size other than 2, or a backend that cannot run.

    Degenerate cases: the pair (0, 0) gives 0 with zero gradient.

    Source: 002 §3.1 and 004 §2; the tanh outputs of the networks have to be normalised (docs/notes).

    Example:
        >>> import torch
        >>> from posegeom import angles_from_sincos
        >>> angles_from_sincos(torch.tensor([[0.5, 0.0], [0.0, 0.2], [0.0, 0.0]]))
        tensor([1.5708, 0.0000, 0.0000])
    """
    check_floating("sincos", sincos)
    check_shape("sincos", sincos, ("*B", "A", 2))
    if runs_triton_eagerly(backend, sincos):
        from posegeom.kernels.camera import angles_from_sincos as kernel

        return kernel(sincos)
    return angles_of_pairs(sincos)


def angles_of_pairs(sincos: Tensor) -> Tensor:
    """atan2 of pairs brought to length one, so that a zero pair has an angle and a gradient."""
    pairs = sincos.to(compute_dtype(sincos)).flip(-1)
    cosine, sine = unit_vector(pairs, zero_to_x=True).unbind(-1)
    return torch.atan2(sine, cosine).to(sincos.dtype)


Side = tuple[float | Tensor, float | Tensor, float | Tensor, float | Tensor]
"""Along an axis: tangents l and r of the image's edges, and ρ √(1 + l²) and ρ √(1 + r²)."""


def bounded_translation(
    raw: Tensor, camera: PerspectiveCamera, radius: float | Tensor, far: float = 3.0, backend: str = "auto"
) -> Tensor:
    """A camera translation for which a sphere round the person stays inside the image, whatever `raw` is.

    With ρ the radius, l and r the tangents of the left and right image edges (for y: top and bottom),

        z_min = max over both axes of ρ (√(1 + l²) + √(1 + r²)) / (l + r),
        z = z_min (1 + (far − 1) σ(raw_z)),
        x = ½ (lo + hi) + ½ (hi − lo) tanh(raw_x),   lo = −l z + ρ √(1 + l²),   hi = r z − ρ √(1 + r²),

    and y like x.

    Args:
        raw: (*B, 3) unbounded network outputs for x, y, z.
        camera: intrinsics without distortion.
        radius: ρ in metres, a number or a tensor that broadcasts with (*B,): the distance from the pelvis to the
            farthest joint.
        far: the largest distance, in units of z_min; above 1.
        backend: "auto"; "triton" to have the kernel or an error, "torch" never to have it (docs/kernels). The kernel
            takes cameras and radii of Python numbers.

    Returns:
        (*B, 3) translation t in metres, in the dtype of `raw`.

    Raises:
        TypeError: `raw` is no floating-point tensor.
        ValueError: a wrong shape, a radius ≤ 0, far ≤ 1, a camera with distortion, or a backend that cannot run.

    Source: 000 §3.2a, "restricted translations ensuring that the camera-view captures all the skeleton joints";
    the paper gives no formula.

    Example:
        >>> import torch
        >>> from posegeom import PerspectiveCamera, bounded_translation
        >>> camera = PerspectiveCamera(128.0, None, (128, 128))
        >>> bounded_translation(torch.tensor([0.0, 0.0, -50.0]), camera, radius=1.0)
        tensor([0.0000, 0.0000, 2.2361])
    """
    check_floating("raw", raw)
    check_shape("raw", raw, ("*B", 3))
    check_number("far", far, above=1)
    if camera.distortion is not None:
        raise ValueError("camera must have no distortion: the image edges are straight in no other case")
    dtype = compute_dtype(raw)
    rho: Tensor | float
    if isinstance(radius, Tensor):
        check_floating("radius", radius)
        check_batches(raw=raw.shape[:-1], radius=radius.shape)
        rho = radius.to(dtype)
    else:
        rho = check_number("radius", radius, above=0)
    check_same_device(raw=raw, radius=radius, **{"camera.focal": camera.focal, "camera.center": camera.center})

    nearest: list[float | Tensor] = []
    sides: list[Side] = []
    height, width = camera.size
    axes = zip(_columns(camera.focal), _columns(camera.center), (width, height), strict=True)
    for focal, center, extent in axes:
        for name, value in (("camera.focal", focal), ("camera.center", center)):
            if isinstance(value, Tensor):
                check_batches(**{"raw": raw.shape[:-1], name: value.shape})
        focal = focal.to(dtype) if isinstance(focal, Tensor) else focal
        center = center.to(dtype) if isinstance(center, Tensor) else center
        low, high = (center + 0.5) / focal, (extent - 0.5 - center) / focal
        secant_low, secant_high = _secant(low), _secant(high)
        nearest.append(rho * (secant_low + secant_high) / (low + high))
        sides.append((low, high, rho * secant_low, rho * secant_high))
    unless = _tensor_in_camera(camera)
    if isinstance(radius, Tensor):
        unless = "the kernel takes only a radius that is a Python number, and here it is a tensor"
    z_min = _larger(*nearest)
    if runs_triton_eagerly(backend, raw, unless=unless):
        from posegeom.kernels.camera import bounded_translation as kernel

        return kernel(raw, z_min, far, sides)
    return translation_within(raw, z_min, far, sides)


def translation_within(raw: Tensor, z_min: float | Tensor, far: float, sides: Sequence[Side]) -> Tensor:
    """A translation between the sides of the image in x and y, and between z_min and far · z_min."""
    values = raw.to(compute_dtype(raw))
    z = z_min * (1 + (far - 1) * torch.sigmoid(values[..., 2]))
    sideways = []
    for axis, (low, high, inset_low, inset_high) in enumerate(sides):
        start, stop = -low * z + inset_low, high * z - inset_high
        reach = ((stop - start) / 2).clamp(min=0)
        sideways.append((start + stop) / 2 + reach * torch.tanh(values[..., axis]))
    return torch.stack(torch.broadcast_tensors(*sideways, z), dim=-1).to(raw.dtype)


def _larger(first: float | Tensor, second: float | Tensor) -> float | Tensor:
    """Of two numbers, or of two tensors: one in the camera, or a radius that is one, has made both of them tensors."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.maximum(first, second)
    return max(first, second)


def _secant(tangent: float | Tensor) -> float | Tensor:
    """√(1 + t²)."""
    if isinstance(tangent, Tensor):
        return (1 + tangent * tangent).sqrt()
    return math.sqrt(1 + tangent * tangent)


def lift(points: Tensor, depth_offset: Tensor, base: float = 10.0, floor: float = 1.0) -> Tensor:
    """3D joints from normalised 2D points and a depth per joint.

        v = (x z, y z, z),   z = max(base + d, floor)

    Args:
        points: (*B, J, 2) on the image plane at distance 1 (not pixels).
        depth_offset: (*B, J) d, relative to `base`.
        base: the distance that offsets are counted from; Δ = 10 in 001.
        floor: the smallest depth.

    Returns:
        (*B, J, 3) in the dtype of `points`.

    Raises:
        TypeError: an argument is no floating-point tensor or number.
        ValueError: shapes that do not fit, different devices.

    Degenerate cases: where base + d < floor the gradient to d is zero (as in the paper's own code).

    Source: 001 eq. (1).

    Example:
        >>> import torch
        >>> from posegeom import lift
        >>> lift(torch.tensor([[0.1, -0.2]]), torch.tensor([0.5]))
        tensor([[ 1.0500, -2.1000, 10.5000]])
    """
    check_points("points", points, "J", 2)
    check_floating("depth_offset", depth_offset)
    check_same_device(points=points, depth_offset=depth_offset)
    check_shape("depth_offset", depth_offset, ("*B", points.shape[-2]), "like points")
    check_batches(points=points.shape[:-2], depth_offset=depth_offset.shape[:-1])
    dtype = compute_dtype(points)
    z = (depth_offset.to(dtype) + check_number("base", base)).clamp(min=check_number("floor", floor))
    x, y = points.to(dtype).unbind(-1)
    return torch.stack(torch.broadcast_tensors(x * z, y * z, z), dim=-1).to(points.dtype)


def elevation_azimuth_rotation(elevation_own: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A random view rotation that keeps to the elevations which the lifter predicts.

        R = Rx(fresh) · Ry(φ) · Rx(own),   φ ~ U[−π, π],   fresh ~ −mean(own) + std(own) · N(0, 1)

    in the camera's frame (y down). Rx(own) undoes the sample's elevation, Ry turns about the vertical, and
    Rx(fresh) is a new elevation from the batch's distribution. Gradients flow through the mean, the (unbiased)
    standard deviation and `own`.

    Args:
        elevation_own: (*B,) radians, one per sample; mean and standard deviation are over all of them.
        generator: source of the random numbers, on the device of `elevation_own`.

    Returns:
        (*B, 3, 3) in the dtype of `elevation_own`.

    Raises:
        TypeError: no floating-point tensor.

    Degenerate cases: a batch of one, or of equal elevations, has standard deviation 0, with zero gradient.

    Source: 001 §3 "rotation" and its predecessor's code; "R_eᵀ" there is a fresh sample, not a transpose
    (docs/notes).

    Example:
        >>> import torch
        >>> from posegeom import elevation_azimuth_rotation
        >>> rotation = elevation_azimuth_rotation(torch.zeros(4), torch.Generator().manual_seed(0))
        >>> rotation.shape
        torch.Size([4, 3, 3])
    """
    check_floating("elevation_own", elevation_own)
    own = elevation_own.to(compute_dtype(elevation_own))
    count = own.numel()
    mean = own.sum() / max(count, 1)
    variance = ((own - mean) ** 2).sum() / max(count - 1, 1)
    flat = variance == 0  # √ has no derivative there
    deviation = torch.where(flat, 0.0, torch.where(flat, 1.0, variance).sqrt())
    # Without a generator, the *_like forms: they are the ones that torch.compile takes with a dynamic shape.
    if generator is None:
        normal, uniform = torch.randn_like(own), torch.rand_like(own)
    else:
        normal = torch.randn(own.shape, generator=generator, device=own.device, dtype=own.dtype)
        uniform = torch.rand(own.shape, generator=generator, device=own.device, dtype=own.dtype)
    fresh = -mean + deviation * normal
    azimuth = (2 * uniform - 1) * math.pi
    turned = compose(axis_rotation(azimuth, "y"), axis_rotation(own, "x"))
    return compose(axis_rotation(fresh, "x"), turned).to(elevation_own.dtype)
