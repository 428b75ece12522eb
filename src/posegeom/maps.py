"""Points and bones drawn as images, and points read back from heatmaps.

Pixel (row i, column j) has the position (x, y) = (j, i): centres are integers. Every value is computed in float32
(float64 for float64 points) and returned in the points' dtype unless `dtype` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posegeom._checks import (
    check_batches,
    check_choice,
    check_floating,
    check_number,
    check_points,
    check_same_device,
    check_shape,
    check_size,
    compute_dtype,
)
from posegeom._dispatch import runs_eagerly_on_cpu, runs_triton
from posegeom.frames import safe_norm, unit_vector
from posegeom.kernels.maps_cpu import GaussianMaps, LimbGaussians, StickFigure
from posegeom.skeleton import Skeleton, gather_joints

NARROWEST = 1e-3
"""Smallest standard deviation of a Gaussian, in pixels."""

SHORT = 1e-6
"""Squared length, in pixels², under which a bone is drawn as the point at its middle."""

Bones = Sequence[tuple[int, int]]
Size = tuple[int, int]


def joint_heatmaps(
    points: Tensor,
    size: tuple[int, int],
    sigma: float | Tensor,
    visible: Tensor | None = None,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """One Gaussian per joint: exp(−½ ‖u − p‖² / σ²), with value 1 at the joint.

    Args:
        points: (*B, J, 2) pixels.
        size: (height, width) of the maps.
        sigma: σ in pixels: a number > 0, or a tensor (J,) or (*B, J). Tensor values below 1e-3 count as 1e-3.
        visible: (*B, J) or (J,), bool or a weight; 0 gives an empty map, and a bool False hides even a NaN point.
        dtype: of the result; default: that of `points`.
        backend: "auto"; "triton" to have the kernel or an error, "torch" never to have it (docs/kernels).

    Returns:
        (*B, J, H, W).

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or range.

    Degenerate cases: points far outside give zeros with zero gradient. On the CPU, values below about 1e-19 (1e-154 in
    float64) may be 0.

    Source: 002 §3.1c, f_hm; σ is used as a standard deviation although called a variance there (docs/notes).

    Example:
        >>> import torch
        >>> from posegeom import joint_heatmaps
        >>> joint_heatmaps(torch.tensor([[1.0, 0.0]]), (1, 3), sigma=1.0)
        tensor([[[0.6065, 1.0000, 0.6065]]])
    """
    size = check_size(size)
    check_points("points", points, "J", 2)
    compute = compute_dtype(points)
    spread = _per_item("sigma", sigma, points, points.shape[-2], compute)
    weight, hidden = _visibility(visible, points, compute)
    result, batch = _check_together(dtype, points, sigma=sigma, visible=visible)
    p = _placed(points, hidden, batch)
    precision = _inverse_width(spread, batch)
    weight = weight if weight is None else weight.expand(*batch, -1)
    if runs_triton(backend, points, sigma, visible):
        from posegeom.kernels import maps_heatmaps

        return maps_heatmaps.joint_heatmaps(p, precision, weight, size, result)
    return gaussian_maps(p.to(compute), precision, weight, size).to(result)


def gaussian_maps(points: Tensor, precision: Tensor | float, weight: Tensor | None, size: Size) -> Tensor:
    """`joint_heatmaps` unchecked: w exp(−½ ρ² ‖u − p‖²) of points (*B, J, 2), with ρ and w None, numbers or (*B, J)."""
    x, y = points.unbind(-1)
    rho = precision.expand(x.shape) if isinstance(precision, Tensor) else x.new_full((), precision).expand(x.shape)
    if runs_eagerly_on_cpu(x, y, rho, weight):
        maps: Tensor = GaussianMaps.apply(x, y, rho, weight, size, _outer_gaussians)
        return maps
    return _outer_gaussians(x, y, rho, weight, size)


def _outer_gaussians(x: Tensor, y: Tensor, rho: Tensor, weight: Tensor | None, size: Size) -> Tensor:
    rows, columns = (torch.arange(n, device=x.device, dtype=x.dtype) for n in size)
    # exp(−½ (dx² + dy²)/σ²) is an outer product: H + W exponentials a joint instead of H · W.
    across = torch.exp(-0.5 * ((columns - x.unsqueeze(-1)) * rho.unsqueeze(-1)) ** 2)
    down = torch.exp(-0.5 * ((rows - y.unsqueeze(-1)) * rho.unsqueeze(-1)) ** 2)
    if weight is not None:
        down = down * weight.unsqueeze(-1)
    return down.unsqueeze(-1) * across.unsqueeze(-2)


def limb_maps(
    points: Tensor,
    bones: Bones,
    size: tuple[int, int],
    width: float | Tensor,
    stretch: float | Tensor = 0.3,
    visible: Tensor | None = None,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """One elongated Gaussian per bone, along the bone and centred on its middle.

        u′ = R(−θ) (u − μ),   exp(−½ (u′_x/σ_x)² − ½ (u′_y/σ_y)²),   σ_x = max(stretch · length, 1e-3),   σ_y = width

    with μ the bone's middle and θ its direction.

    Args:
        points: (*B, J, 2) pixels.
        bones: (parent, child) pairs of joint numbers, as in `Skeleton.bones`; at least one.
        size: (height, width) of the maps.
        width: σ_y in pixels: a number > 0, or a tensor (N,) or (*B, N). Tensor values below 1e-3 count as 1e-3.
        stretch: σ_x over the bone's length: a number > 0, or a tensor (N,) or (*B, N).
        visible: (*B, J) or (J,), bool or a weight; a bone has the smaller weight of its two ends.
        dtype: of the result; default: that of `points`.
        backend: "auto"; "triton" to have the kernel or an error, "torch" never to have it (docs/kernels).

    Returns:
        (*B, N, H, W), with value 1 at a bone's middle.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or range, no bones, a joint number that does not exist.

    Degenerate cases: a bone of length zero has direction +X and σ_x = 1e-3, with zero gradient to both.

    Source: 002 §3.1c, f_am; the rotation is by −θ, where +θ is printed (docs/notes).

    Example:
        >>> import torch
        >>> from posegeom import limb_maps
        >>> limb_maps(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), [(0, 1)], (1, 5), width=1.0, stretch=0.5)
        tensor([[[0.6065, 0.8825, 1.0000, 0.8825, 0.6065]]])
    """
    size = check_size(size)
    check_points("points", points, "J", 2)
    pairs = check_bones(bones, points.shape[-2])
    compute = compute_dtype(points)
    thickness = _per_item("width", width, points, len(pairs), compute)
    relative = _per_item("stretch", stretch, points, len(pairs), compute)
    weight, hidden = _visibility(visible, points, compute)
    result, batch = _check_together(dtype, points, width=width, stretch=stretch, visible=visible)
    p = _placed(points, hidden, batch)
    across = _inverse_width(thickness, batch)
    relative = relative.expand(*batch, len(pairs)) if isinstance(relative, Tensor) else relative
    weight = _bone_weights(weight, pairs, batch)
    if runs_triton(backend, points, width, stretch, visible):
        from posegeom.kernels import maps_limbs

        return maps_limbs.limb_maps(p, across, relative, weight, pairs, size, result)
    return limb_gaussians(p.to(compute), across, relative, weight, pairs, size).to(result)


def limb_gaussians(
    points: Tensor,
    across: Tensor | float,
    stretch: Tensor | float,
    weight: Tensor | None,
    bones: Bones,
    size: Size,
) -> Tensor:
    """`limb_maps` unchecked: points (*B, J, 2); inverse width, stretch and weight are numbers (or None) or (*B, N)."""
    start, end = _bone_ends(points, bones)
    vector = end - start
    cos, sin = unit_vector(vector, zero_to_x=True).unbind(-1)
    x, y = ((start + end) / 2).unbind(-1)
    along = 1 / (stretch * safe_norm(vector)).clamp(min=NARROWEST)
    slim = across if isinstance(across, Tensor) else x.new_full((), across)
    values = torch.broadcast_tensors(x, y, cos, sin, along, slim)
    if runs_eagerly_on_cpu(*values, weight):
        maps: Tensor = LimbGaussians.apply(*values, weight, size, lambda *x: _slanted_gaussians(x[:6], *x[6:]))
        return maps
    return _slanted_gaussians(values, weight, size)


def _slanted_gaussians(values: Sequence[Tensor], weight: Tensor | None, size: Size) -> Tensor:
    x, y, cos, sin, along, across = values
    dx, dy = _offsets(x, y, size)
    cos, sin, along, across = (value[..., None, None] for value in (cos, sin, along, across))
    forward, sideways = (cos * dx + sin * dy) * along, (cos * dy - sin * dx) * across
    maps = torch.exp(-0.5 * (forward * forward + sideways * sideways))
    return maps if weight is None else maps * weight[..., None, None]


def skeleton_image(
    points: Tensor,
    bones: Bones,
    size: tuple[int, int],
    gamma: float,
    power: int = 2,
    visible: Tensor | None = None,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """All bones as one stick figure: exp(−γ min_l d_l(u)^power), d_l the distance from u to segment l.

        d_l(u) = min_{r ∈ [0, 1]} ‖u − (a + r (b − a))‖

    With weights w_l (see `visible`) the image is max_l w_l exp(−γ d_l^power).

    Args:
        points: (*B, J, 2) pixels.
        bones: (parent, child) pairs of joint numbers; at least one.
        size: (height, width) of the image.
        gamma: γ > 0 in pixels^−power. The look of the public code that 001 builds on, at 128 px, is power 1 with
            γ = 0.394; power 2 with γ = 0.224 has the same half-height.
        power: 2 (001 eq. 2) or 1 (that code).
        visible: (*B, J) or (J,), bool or a weight; a bone has the smaller weight of its two ends.
        dtype: of the result; default: that of `points`.
        backend: "auto"; "triton" to have the kernel or an error, "torch" never to have it (docs/kernels).

    Returns:
        (*B, H, W) in [0, 1], 1 on the bones.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or range, no bones, a joint number that does not exist.

    Degenerate cases: bones shorter than 1e-3 px are points at their middle. Power 1 has a kink on the bone, where
    the gradient is 0. Where several bones are equally near, the first one has the gradient. All invisible: zeros.

    Source: 001 eq. (2) (κ).

    Example:
        >>> import torch
        >>> from posegeom import skeleton_image
        >>> skeleton_image(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), [(0, 1)], (1, 5), gamma=1.0)
        tensor([[0.3679, 1.0000, 1.0000, 0.3679, 0.0183]])
    """
    size = check_size(size)
    check_points("points", points, "J", 2)
    pairs = check_bones(bones, points.shape[-2])
    gamma = check_number("gamma", gamma, above=0)
    check_choice("power", power, (1, 2))
    weight, hidden = _visibility(visible, points, compute_dtype(points))
    result, batch = _check_together(dtype, points, visible=visible)
    p = _placed(points, hidden, batch)
    weight = _bone_weights(weight, pairs, batch)
    if runs_triton(backend, points, visible):
        from posegeom.kernels import maps_skeleton

        return maps_skeleton.skeleton_image(p, weight, pairs, size, gamma, power, result)
    return stick_figure(p.to(compute_dtype(points)), weight, pairs, size, gamma, power).to(result)


def stick_figure(points: Tensor, weight: Tensor | None, bones: Bones, size: Size, gamma: float, power: int) -> Tensor:
    """`skeleton_image` unchecked, for points (*B, J, 2) and a weight (*B, N) or None per bone."""
    start, end = _bone_ends(points, bones)

    def reference(start: Tensor, end: Tensor, weight: Tensor | None) -> Tensor:
        return _nearest_segment(start, end, weight, size, gamma, power)

    if runs_eagerly_on_cpu(start, end, weight):
        image: Tensor = StickFigure.apply(start, end, weight, size, (gamma, power), SHORT, reference)
        return image
    return reference(start, end, weight)


def _nearest_segment(start: Tensor, end: Tensor, weight: Tensor | None, size: Size, gamma: float, power: int) -> Tensor:
    squared = _segment_distance_squared(start, end, size)
    # Indexed instead of amin: where several bones are equally near, the first one alone has the gradient.
    if weight is None:
        nearest = squared.gather(-3, squared.argmin(-3, keepdim=True)).squeeze(-3)
        return _fade(nearest, gamma, power)
    values = weight[..., None, None] * _fade(squared, gamma, power)
    return values.gather(-3, values.argmax(-3, keepdim=True)).squeeze(-3)


def _fade(squared: Tensor, gamma: float, power: int) -> Tensor:
    if power == 2:
        return torch.exp(-gamma * squared)
    on_bone = squared == 0
    distance = torch.where(on_bone, 0.0, torch.where(on_bone, 1.0, squared).sqrt())
    return torch.exp(-gamma * distance)


def _segment_distance_squared(start: Tensor, end: Tensor, size: Size) -> Tensor:
    """Squared distance of every pixel to every segment, (*B, N, H, W)."""
    vector = (end - start)[..., None, None]
    vx, vy = vector[..., 0, :, :], vector[..., 1, :, :]
    dx, dy = _offsets(start[..., 0], start[..., 1], size)
    squared_length = vx * vx + vy * vy
    short = squared_length < SHORT
    position = (dx * vx + dy * vy) / torch.where(short, 1.0, squared_length)
    position = torch.where(short, 0.5, position.clamp(0, 1))
    dx, dy = dx - position * vx, dy - position * vy
    return dx * dx + dy * dy


def soft_argmax(heatmaps: Tensor, temperature: float | Tensor = 1.0, marginal: bool = False) -> Tensor:
    """The expected position under the softmax of a heatmap.

        p = Σ_u softmax(h / T)(u) · u

    or, with `marginal`, each coordinate from the heatmap averaged over the other axis:
    x = Σ_j softmax_j(mean_i h_ij / T) · j, and y likewise.

    Args:
        heatmaps: (*B, J, H, W), any range.
        temperature: T > 0, a number, or a tensor () or (*B, J) whose values are not looked at. A heatmap within
            [0, 1] needs a small one (0.01 to 0.1), or the many background pixels outweigh the peak and pull the point
            to the image's middle.
        marginal: take the softmax of the two averaged profiles (001's regressor).

    Returns:
        (*B, J, 2) pixels, in the dtype of `heatmaps`.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or range, an empty image.

    Source: 001 §3 (Ω), from the work it builds on.

    Example:
        >>> import torch
        >>> from posegeom import joint_heatmaps, soft_argmax
        >>> maps = joint_heatmaps(torch.tensor([[20.3, 9.8]]), (32, 32), sigma=3.0)
        >>> soft_argmax(maps, temperature=0.05).round(decimals=2)
        tensor([[20.3000,  9.8000]])
    """
    check_floating("heatmaps", heatmaps)
    check_shape("heatmaps", heatmaps, ("*B", "H", "W"))
    height, width = heatmaps.shape[-2:]
    if height == 0 or width == 0:
        raise ValueError(f"heatmaps must have at least one pixel, got {tuple(heatmaps.shape)}")
    compute = compute_dtype(heatmaps)
    if isinstance(temperature, Tensor):
        check_floating("temperature", temperature)
        check_same_device(heatmaps=heatmaps, temperature=temperature)
        check_batches(heatmaps=heatmaps.shape[:-2], temperature=temperature.shape)
        scale: Tensor | float = temperature.to(compute)[..., None, None]
    else:
        scale = check_number("temperature", temperature, above=0)
    columns = torch.arange(width, device=heatmaps.device, dtype=compute)
    rows = torch.arange(height, device=heatmaps.device, dtype=compute)
    scores = heatmaps.to(compute) / scale
    if marginal:
        across, down = torch.softmax(scores.mean(-2), -1), torch.softmax(scores.mean(-1), -1)
    else:
        probability = torch.softmax(scores.flatten(-2), -1).unflatten(-1, (height, width))
        across, down = probability.sum(-2), probability.sum(-1)
    point = torch.stack(((across * columns).sum(-1), (down * rows).sum(-1)), dim=-1)
    return point.to(heatmaps.dtype)


def check_bones(bones: Bones, joints: int) -> tuple[tuple[int, int], ...]:
    """The bones as a tuple of int pairs; raise where they are none, no pairs, or name a joint that is not there."""
    if not isinstance(bones, Sequence):
        hint = "; pass skeleton.bones" if isinstance(bones, Skeleton) else ""
        raise TypeError(f"bones must be a sequence of (parent, child) pairs of ints, got {type(bones).__name__}{hint}")
    if not bones:
        raise ValueError("bones must hold at least one (parent, child) pair, got none")
    pairs = []
    for bone in bones:
        if not isinstance(bone, Sequence) or len(bone) != 2 or not all(isinstance(joint, int) for joint in bone):
            raise ValueError(f"bones must be (parent, child) pairs of ints, got {bone!r}")
        if not all(0 <= joint < joints for joint in bone):
            raise ValueError(f"bones must name joints in 0..{joints - 1}, got {tuple(bone)}")
        pairs.append((bone[0], bone[1]))
    return tuple(pairs)


def _per_item(name: str, value: float | Tensor, points: Tensor, count: int, dtype: torch.dtype) -> float | Tensor:
    """A number > 0 as it is; a tensor () or (*B, count) in the computing dtype."""
    if not isinstance(value, Tensor):
        return check_number(name, value, above=0)
    check_floating(name, value)
    if value.ndim > 0:
        check_shape(name, value, ("*B", count))
    check_same_device(**{"points": points, name: value})
    return value.to(dtype)


def _check_together(dtype: torch.dtype | None, points: Tensor, **values: object) -> tuple[torch.dtype, tuple[int, ...]]:
    """The result's dtype, a floating one, and the batch that all tensor arguments make together."""
    shapes = {name: value.shape[:-1] for name, value in values.items() if isinstance(value, Tensor) and value.ndim > 0}
    batch = check_batches(points=points.shape[:-2], **shapes)
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point type, got {dtype}")
    return points.dtype if dtype is None else dtype, batch


def _inverse_width(width: float | Tensor, batch: Sequence[int]) -> float | Tensor:
    """1 / max(width, 1e-3), a tensor's as (*B, ...)."""
    if not isinstance(width, Tensor):
        return 1 / max(width, NARROWEST)
    inverse = 1 / width.clamp(min=NARROWEST)
    return inverse.expand(*batch, -1) if inverse.ndim else inverse


def _visibility(visible: Tensor | None, points: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """Weights (*B, J) of the joints, and which are hidden for certain (bool masks only), so that NaN may hide."""
    if visible is None:
        return None, None
    if not isinstance(visible, Tensor):
        raise TypeError(f"visible must be a bool or floating-point torch.Tensor, got {type(visible).__name__}")
    if visible.dtype != torch.bool and visible.is_complex():
        raise TypeError(f"visible must be bool, integer or floating-point, got dtype {visible.dtype}")
    check_shape("visible", visible, ("*B", points.shape[-2]))
    check_same_device(points=points, visible=visible)
    hidden = None if visible.is_floating_point() else visible == 0
    return visible.to(dtype), hidden


def _placed(points: Tensor, hidden: Tensor | None, batch: Sequence[int]) -> Tensor:
    """The points (*B, J, 2) of the whole batch, hidden ones at the origin."""
    if hidden is not None:
        points = torch.where(hidden.unsqueeze(-1), 0.0, points)
    return points.expand(*batch, *points.shape[-2:])


def _bone_ends(points: Tensor, bones: Bones) -> tuple[Tensor, Tensor]:
    """Start and end (*B, N, 2) of every bone."""
    return gather_joints(points, [parent for parent, _ in bones]), gather_joints(points, [child for _, child in bones])


def _bone_weights(weight: Tensor | None, bones: Bones, batch: Sequence[int]) -> Tensor | None:
    """The smaller weight of every bone's two ends, (*B, N)."""
    if weight is None:
        return None
    return torch.minimum(*_bone_ends(weight.unsqueeze(-1), bones)).squeeze(-1).expand(*batch, -1)


def _offsets(x: Tensor, y: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Offsets of every pixel from (x, y), each (*B, N): (*B, N, 1, W) and (*B, N, H, 1)."""
    rows, columns = (torch.arange(n, device=x.device, dtype=x.dtype) for n in size)
    return columns - x[..., None, None], rows.unsqueeze(-1) - y[..., None, None]
