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
from posegeom._dispatch import runs_eagerly_on_cpu
from posegeom.frames import safe_norm, unit_vector
from posegeom.kernels.maps_cpu import GaussianMaps, LimbGaussians, StickFigure
from posegeom.skeleton import Skeleton, gather_joints

NARROWEST = 1e-3
"""Smallest standard deviation of a Gaussian, in pixels."""

SHORT = 1e-6
"""Squared length, in pixels², under which a bone is drawn as the point at its middle."""

Bones = Sequence[tuple[int, int]]


def joint_heatmaps(
    points: Tensor,
    size: tuple[int, int],
    sigma: float | Tensor,
    visible: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """One Gaussian per joint: exp(−½ ‖u − p‖² / σ²), with value 1 at the joint.

    Args:
        points: (*B, J, 2) pixels.
        size: (height, width) of the maps.
        sigma: σ in pixels: a number > 0, or a tensor (J,) or (*B, J). Tensor values below 1e-3 count as 1e-3.
        visible: (*B, J) or (J,), bool or a weight; 0 gives an empty map, and a bool False hides even a NaN point.
        dtype: of the result; default: that of `points`.

    Returns:
        (*B, J, H, W).

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or range.

    Degenerate cases: points far outside give zeros with zero gradient.

    Source: 002 §3.1c, f_hm; σ is used as a standard deviation although called a variance there (docs/notes).

    Example:
        >>> import torch
        >>> from posegeom import joint_heatmaps
        >>> joint_heatmaps(torch.tensor([[1.0, 0.0]]), (1, 3), sigma=1.0)
        tensor([[[0.6065, 1.0000, 0.6065]]])
    """
    height, width = check_size(size)
    check_points("points", points, "J", 2)
    compute = compute_dtype(points)
    joints = points.shape[-2]
    spread = _per_item("sigma", sigma, points, joints, compute)
    _check_together(dtype, points=points, sigma=sigma, visible=visible)
    weight, hidden = _visibility(visible, points, compute)
    p = points.to(compute)
    if hidden is not None:
        p = torch.where(hidden.unsqueeze(-1), 0.0, p)
    x, y = p.unbind(-1)
    precision = _inverse_width(spread)
    precision = precision.squeeze(-1) if isinstance(precision, Tensor) else x.new_full((), precision)
    weights = () if weight is None else (weight,)
    values = torch.broadcast_tensors(x, y, precision, *weights)

    def reference(*values: Tensor) -> Tensor:
        return _gaussian_maps(values, height, width)

    if runs_eagerly_on_cpu(points, *values):
        unweighted = (None,) if weight is None else ()
        maps: Tensor = GaussianMaps.apply(*values, *unweighted, (height, width), reference)
    else:
        maps = reference(*values)
    return maps.to(points.dtype if dtype is None else dtype)


def _gaussian_maps(values: Sequence[Tensor], height: int, width: int) -> Tensor:
    x, y, precision, *weights = values
    columns = torch.arange(width, device=x.device, dtype=x.dtype)
    rows = torch.arange(height, device=x.device, dtype=x.dtype)
    # exp(−½ (dx² + dy²)/σ²) is an outer product: H + W exponentials a joint instead of H · W.
    across = torch.exp(-0.5 * ((columns - x.unsqueeze(-1)) * precision.unsqueeze(-1)) ** 2)
    down = torch.exp(-0.5 * ((rows - y.unsqueeze(-1)) * precision.unsqueeze(-1)) ** 2)
    if weights:
        down = down * weights[0].unsqueeze(-1)
    return down.unsqueeze(-1) * across.unsqueeze(-2)


def limb_maps(
    points: Tensor,
    bones: Bones,
    size: tuple[int, int],
    width: float | Tensor,
    stretch: float | Tensor = 0.3,
    visible: Tensor | None = None,
    dtype: torch.dtype | None = None,
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
    height, columns = check_size(size)
    check_points("points", points, "J", 2)
    pairs = check_bones(bones, points.shape[-2])
    compute = compute_dtype(points)
    thickness = _per_item("width", width, points, len(pairs), compute)
    relative = _per_item("stretch", stretch, points, len(pairs), compute)
    start, end, weight = _bone_ends(points, pairs, visible, compute)
    _check_together(dtype, points=points, width=width, stretch=stretch, visible=visible)

    vector = end - start
    length = safe_norm(vector, keepdim=True)
    direction = unit_vector(vector, zero_to_x=True)
    cos, sin = direction.unbind(-1)
    x, y = ((start + end) / 2).unbind(-1)
    along = 1 / (relative * length).clamp(min=NARROWEST).squeeze(-1)
    slimness = _inverse_width(thickness)
    across = slimness.squeeze(-1) if isinstance(slimness, Tensor) else x.new_full((), slimness)
    weights = () if weight is None else (weight,)
    values = torch.broadcast_tensors(x, y, cos, sin, along, across, *weights)

    def reference(*values: Tensor) -> Tensor:
        return _limb_gaussians(values, height, columns)

    if runs_eagerly_on_cpu(points, *values):
        unweighted = (None,) if weight is None else ()
        maps: Tensor = LimbGaussians.apply(*values, *unweighted, (height, columns), reference)
    else:
        maps = reference(*values)
    return maps.to(points.dtype if dtype is None else dtype)


def _limb_gaussians(values: Sequence[Tensor], height: int, columns: int) -> Tensor:
    x, y, cos, sin, along, across, *weights = values
    dx, dy = _offsets(torch.stack((x, y), dim=-1), height, columns)
    cos, sin, along, across = (value[..., None, None] for value in (cos, sin, along, across))
    forward, sideways = (cos * dx + sin * dy) * along, (cos * dy - sin * dx) * across
    maps = torch.exp(-0.5 * (forward * forward + sideways * sideways))
    return maps * weights[0][..., None, None] if weights else maps


def skeleton_image(
    points: Tensor,
    bones: Bones,
    size: tuple[int, int],
    gamma: float,
    power: int = 2,
    visible: Tensor | None = None,
    dtype: torch.dtype | None = None,
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
    height, width = check_size(size)
    check_points("points", points, "J", 2)
    pairs = check_bones(bones, points.shape[-2])
    check_number("gamma", gamma, above=0)
    check_choice("power", power, (1, 2))
    compute = compute_dtype(points)
    start, end, weight = _bone_ends(points, pairs, visible, compute)
    _check_together(dtype, points=points, visible=visible)
    if weight is not None:
        batch = torch.broadcast_shapes(start.shape[:-1], weight.shape)
        start, end, weight = start.expand(*batch, 2), end.expand(*batch, 2), weight.expand(batch)

    def reference(start: Tensor, end: Tensor, weight: Tensor | None) -> Tensor:
        return _stick_figure(start, end, weight, height, width, gamma, power)

    if runs_eagerly_on_cpu(points, start, end, weight):
        fade = (float(gamma), power)
        image: Tensor = StickFigure.apply(start, end, weight, (height, width), fade, SHORT, reference)
    else:
        image = reference(start, end, weight)
    return image.to(points.dtype if dtype is None else dtype)


def _stick_figure(
    start: Tensor, end: Tensor, weight: Tensor | None, height: int, width: int, gamma: float, power: int
) -> Tensor:
    squared = _segment_distance_squared(start, end, height, width)
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


def _segment_distance_squared(start: Tensor, end: Tensor, height: int, width: int) -> Tensor:
    """Squared distance of every pixel to every segment, (*B, N, H, W)."""
    vector = (end - start)[..., None, None]
    vx, vy = vector[..., 0, :, :], vector[..., 1, :, :]
    dx, dy = _offsets(start, height, width)
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
    """A number > 0 as it is; a tensor (count,) or (*B, count) as (..., count, 1)."""
    if not isinstance(value, Tensor):
        return check_number(name, value, above=0)
    check_floating(name, value)
    if value.ndim > 0:
        check_shape(name, value, ("*B", count))
        check_batches(**{"points": points.shape[:-2], name: value.shape[:-1]})
    check_same_device(**{"points": points, name: value})
    return value.to(dtype).unsqueeze(-1)


def _check_together(dtype: torch.dtype | None, points: Tensor, **values: object) -> None:
    """The batches of all tensor arguments fit one another, and the result's dtype is a floating one."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor) and value.ndim > 0}
    check_batches(points=points.shape[:-2], **{name: value.shape[:-1] for name, value in tensors.items()})
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point type, got {dtype}")


def _inverse_width(width: float | Tensor) -> float | Tensor:
    """1 / max(width, 1e-3)."""
    return 1 / width.clamp(min=NARROWEST) if isinstance(width, Tensor) else 1 / max(width, NARROWEST)


def _visibility(visible: Tensor | None, points: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """Weights (*B, J) of the joints, and which are hidden for certain (bool masks only), so that NaN may hide."""
    if visible is None:
        return None, None
    if not isinstance(visible, Tensor):
        raise TypeError(f"visible must be a bool or floating-point torch.Tensor, got {type(visible).__name__}")
    if visible.dtype != torch.bool and visible.is_complex():
        raise TypeError(f"visible must be bool, integer or floating-point, got dtype {visible.dtype}")
    check_shape("visible", visible, ("*B", points.shape[-2]))
    check_batches(points=points.shape[:-2], visible=visible.shape[:-1])
    check_same_device(points=points, visible=visible)
    hidden = None if visible.is_floating_point() else visible == 0
    return visible.to(dtype), hidden


def _bone_ends(
    points: Tensor, bones: Sequence[tuple[int, int]], visible: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Start and end (*B, N, 2) of every bone and its weight (*B, N), the smaller one of its ends."""
    weight, hidden = _visibility(visible, points, dtype)
    p = points.to(dtype)
    if hidden is not None:
        p = torch.where(hidden.unsqueeze(-1), 0.0, p)
    parents, children = [parent for parent, _ in bones], [child for _, child in bones]
    start, end = gather_joints(p, parents), gather_joints(p, children)
    if weight is None:
        return start, end, None
    columns = weight.unsqueeze(-1)
    ends = torch.minimum(gather_joints(columns, parents), gather_joints(columns, children))
    return start, end, ends.squeeze(-1)


def _offsets(origin: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Offsets u − origin for every pixel u: (*B, N, 1, W) and (*B, N, H, 1)."""
    columns = torch.arange(width, device=origin.device, dtype=origin.dtype)
    rows = torch.arange(height, device=origin.device, dtype=origin.dtype).unsqueeze(-1)
    x, y = (part[..., None, None] for part in origin.unbind(-1))
    return columns - x, rows - y
