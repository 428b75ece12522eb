"""The map operators as the papers' formulas read, in eager PyTorch: what people write today."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _pixels(points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    columns = torch.arange(size[1], dtype=points.dtype, device=points.device)
    rows = torch.arange(size[0], dtype=points.dtype, device=points.device).unsqueeze(-1)
    return columns, rows


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
