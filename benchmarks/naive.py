"""The operators as the papers' formulas read, in eager PyTorch: what people write today."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from posegeom.skeleton import Skeleton


def _pixels(points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    columns = torch.arange(size[1], dtype=points.dtype, device=points.device)
    rows = torch.arange(size[0], dtype=points.dtype, device=points.device).unsqueeze(-1)
    return columns, rows


def forward_kinematics(directions: Tensor, hip_angle: Tensor, skeleton: Skeleton) -> Tensor:
    """p(j) = p(parent) + ℓ_j [a b n] v_j, joint after joint."""
    trunk, lengths = skeleton.trunk, skeleton.lengths
    assert trunk is not None
    assert lengths is not None
    length_of = dict(zip((child for _, child in skeleton.bones), lengths, strict=True))
    zero, one = torch.zeros_like(hip_angle), torch.ones_like(hip_angle)
    hips = torch.stack((zero, hip_angle.cos(), hip_angle.sin()), dim=-1)
    limb = {trunk.top: torch.stack((zero, zero, one), dim=-1), trunk.left: hips, trunk.right: -hips}
    forward = torch.stack((one, zero, zero), dim=-1)
    for level in skeleton.levels[1:]:
        for joint in level:
            if joint in limb:
                continue
            local = functional.normalize(directions[..., skeleton.free_joints.index(joint), :], dim=-1)
            a = limb.get(skeleton.parents[joint])
            if a is None:  # it hangs on the root
                limb[joint] = local
                continue
            b = functional.normalize(forward - (a * forward).sum(-1, keepdim=True) * a, dim=-1)
            limb[joint] = local[..., :1] * a + local[..., 1:2] * b + local[..., 2:] * torch.linalg.cross(a, b)
    position = {skeleton.root: torch.zeros_like(forward)}
    for level in skeleton.levels[1:]:
        for joint in level:
            position[joint] = position[skeleton.parents[joint]] + length_of[joint] * limb[joint]
    return torch.stack([position[joint] for joint in range(len(skeleton.joints))], dim=-2)


def project(points: Tensor, focal: float, center: tuple[float, float]) -> Tensor:
    """Pixels f x / z + c, without a lens."""
    depth = points[..., 2].clamp(min=1e-3)
    return torch.stack([focal * points[..., axis] / depth + center[axis] for axis in (0, 1)], dim=-1)


def camera_rotation(azimuth: Tensor, elevation: Tensor, roll: Tensor) -> Tensor:
    """Rz(roll) · Rx(elevation) · C · Rz(azimuth), factor by factor."""
    facing = azimuth.new_tensor([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])
    return _about(roll, 2) @ _about(elevation, 0) @ facing @ _about(azimuth, 2)


def _about(angle: Tensor, axis: int) -> Tensor:
    """The right-handed rotation about x (0) or z (2)."""
    cos, sin, one, zero = angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle)
    about_x = (one, zero, zero, zero, cos, -sin, zero, sin, cos)
    about_z = (cos, -sin, zero, sin, cos, zero, zero, zero, one)
    return torch.stack(about_z if axis == 2 else about_x, dim=-1).reshape(*angle.shape, 3, 3)


def angles_from_sincos(sincos: Tensor) -> Tensor:
    """The angle of each pair."""
    return torch.atan2(sincos[..., 0], sincos[..., 1])


def bounded_translation(raw: Tensor, focal: float, side: int, radius: float, far: float) -> Tensor:
    """The translation for a square image whose principal point is its middle."""
    tangent = side / 2 / focal
    inset = radius * math.sqrt(1 + tangent**2)
    z = inset / tangent * (1 + (far - 1) * torch.sigmoid(raw[..., 2]))
    reach = (tangent * z - inset).clamp(min=0)
    return torch.stack((reach * torch.tanh(raw[..., 0]), reach * torch.tanh(raw[..., 1]), z), dim=-1)


def joint_heatmaps(points: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """exp(−½ ‖u − p‖² / σ²)."""
    columns, rows = _pixels(points, size)
    x, y = points[..., 0, None, None], points[..., 1, None, None]
    return torch.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2) / sigma**2)


def limb_maps(
    points: Tensor, bones: Sequence[tuple[int, int]], size: tuple[int, int], width: float, stretch: float = 0.3
) -> Tensor:
    """exp(−½ (u′_x/σ_x)² − ½ (u′_y/σ_y)²) with u′ = R(−θ) (u − μ)."""
    columns, rows = _pixels(points, size)
    start, end = points[..., [a for a, _ in bones], :], points[..., [b for _, b in bones], :]
    middle, vector = (start + end) / 2, end - start
    angle = torch.atan2(vector[..., 1], vector[..., 0])[..., None, None]
    length = vector.norm(dim=-1)[..., None, None]
    dx, dy = columns - middle[..., 0, None, None], rows - middle[..., 1, None, None]
    along = torch.cos(angle) * dx + torch.sin(angle) * dy
    across = torch.cos(angle) * dy - torch.sin(angle) * dx
    return torch.exp(-0.5 * (along / (stretch * length)) ** 2 - 0.5 * (across / width) ** 2)


def skeleton_image(points: Tensor, bones: Sequence[tuple[int, int]], size: tuple[int, int], gamma: float) -> Tensor:
    """exp(−γ min_l d_l²)."""
    columns, rows = _pixels(points, size)
    start, end = points[..., [a for a, _ in bones], :], points[..., [b for _, b in bones], :]
    vector = (end - start)[..., None, None]
    vx, vy = vector[..., 0, :, :], vector[..., 1, :, :]
    dx, dy = columns - start[..., 0, None, None], rows - start[..., 1, None, None]
    position = ((dx * vx + dy * vy) / (vx**2 + vy**2)).clamp(0, 1)
    squared = (dx - position * vx) ** 2 + (dy - position * vy) ** 2
    return torch.exp(-gamma * squared.min(dim=-3).values)


def part_maps(matrices: Tensor, template: Tensor, size: tuple[int, int]) -> Tensor:
    """φ_c(A u′) for matrices (B, L, 2, 3) and a template (L, h, w): a grid of positions per part, then grid_sample."""
    columns, rows = _pixels(matrices, size)
    height, width = template.shape[-2:]
    pixels = torch.stack(torch.broadcast_tensors(columns, rows, torch.ones_like(columns)), dim=-1)
    positions = torch.einsum("blik,hwk->blhwi", matrices, pixels)
    scale = torch.tensor([2 / (width - 1), 2 / (height - 1)], dtype=matrices.dtype, device=matrices.device)
    grid = (positions * scale - 1).flatten(0, 1)
    source = template.unsqueeze(0).expand(matrices.shape[0], -1, -1, -1).flatten(0, 1).unsqueeze(1)
    sampled = torch.nn.functional.grid_sample(source, grid, align_corners=True)
    return sampled.view(*matrices.shape[:2], *size)


def puppet_segmentation(
    matrices: Tensor, depth: Tensor, shape: Tensor, uncertainty: Tensor, size: tuple[int, int], sharpness: float
) -> tuple[Tensor, Tensor, Tensor]:
    """s_l = φ_l Π_{k≠l} (1 − o_lk φ_k), s_bg = Π_k (1 − φ_k), maps = s / Σ s, with max φ and max ψ."""
    phi, psi = part_maps(matrices, shape, size), part_maps(matrices, uncertainty, size)
    hides = torch.sigmoid(sharpness * (depth.log().unsqueeze(-1) - depth.log().unsqueeze(-2)))
    hides = hides * (1 - torch.eye(depth.shape[-1], dtype=depth.dtype, device=depth.device))
    visible = phi * (1 - hides[..., None, None] * phi.unsqueeze(-4)).prod(-3)
    maps = torch.cat((visible, (1 - phi).prod(-3, keepdim=True)), dim=-3)
    return maps / maps.sum(-3, keepdim=True), phi.amax(-3), psi.amax(-3)
