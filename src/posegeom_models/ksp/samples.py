"""The labelled samples in other clothes, and nearer or farther: one picture of a person made into many."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def repainted(foreground: Tensor, mask: Tensor, labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A share of people with another mean colour for each body part; light and shade stay.

    Args:
        foreground: (B, 3, H, W) people, times their masks.
        mask: (B, 1, H, W) in [0, 1].
        labels: (B, H, W) parts, 0 the background.
        share: of the people.
        generator: draws them and the colours.

    Returns:
        (B, 3, H, W) people, times their masks.
    """
    count, parts = len(foreground), int(labels.max()) + 1
    of_part = nn.functional.one_hot(labels.long(), parts).movedim(-1, 1).float()  # (B, P, H, W)
    area = of_part.sum((2, 3)).clamp(min=1)
    mean = torch.einsum("bphw,bchw->bpc", of_part, foreground / mask.clamp(min=0.5)) / area.unsqueeze(-1)
    color = torch.rand(count, parts, 3, generator=generator).to(foreground)
    gain = color / mean.clamp(min=0.05)
    gain[:, 0] = 1  # the person's rim, which no part has
    chosen = (torch.rand(count, generator=generator) < share).to(labels.device)
    gain = torch.where(chosen.view(-1, 1, 1), gain, 1.0)
    painted = foreground * torch.einsum("bphw,bpc->bchw", of_part, gain)
    return torch.minimum(painted, mask)


def zoomed(images: Tensor, points: Tensor, zoom: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures and points scaled about the middle by 1 ± zoom, and shifted by up to a third of zoom, in image sides.

    What is beyond the pictures' edges is 0.

    Args:
        images: (B, C, S, S).
        points: (B, J, 2) pixels.
        zoom: largest relative change.
        generator: draws sizes and shifts.
    """
    count, side = len(images), images.shape[-1]
    scale = (1 + zoom * (2 * torch.rand(count, generator=generator) - 1)).to(images)
    shift = (zoom / 3 * (2 * torch.rand(count, 2, generator=generator) - 1)).to(images)
    # grid_sample reads where a result's pixel comes from, in [-1, 1]: the inverse.
    matrix = torch.zeros(count, 2, 3).to(images)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / scale
    matrix[:, :, 2] = -2 * shift / scale.unsqueeze(-1)
    grid = nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    middle = (side - 1) / 2
    return moved, (points - middle) * scale.view(-1, 1, 1) + middle + side * shift.unsqueeze(1)
