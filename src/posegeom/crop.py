"""Boxes cut out of images, put back, and composed with a background (the spatial transformer of 003).

A box is (s_x, s_y, u_x, u_y): its half extents and its middle, in an image that spans [−1, 1] on both axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posegeom._checks import (
    check_batches,
    check_broadcast,
    check_choice,
    check_floating,
    check_same_device,
    check_shape,
    check_size,
    compute_dtype,
)

SMALLEST_BOX = 1e-6
"""Half extents below this are treated as this when pasting."""


def crop(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample a box of every image to `size`, bilinear, zero outside the image.

    Output pixel (x′, y′) of an h × w crop looks at the image's

        x = (W (s_x (2x′ + 1 − w)/w + u_x + 1) − 1)/2,   y likewise,

    which is `grid_sample(align_corners=False)` under the affine rows [s_x 0 u_x; 0 s_y u_y].

    Args:
        images: (*B, C, H, W).
        boxes: (*B, 4) as (s_x, s_y, u_x, u_y).
        size: (h, w) of the crops. Much smaller than the box, the crop aliases: every value comes from four pixels.

    Returns:
        (*B, C, h, w) in the dtype of `images`, differentiable in images and boxes.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or device.

    Degenerate cases: a half extent of 0 repeats one column or row; a negative one mirrors; a box outside gives zeros.

    Source: 003 §3.1 (S).

    Example:
        >>> import torch
        >>> from posegeom import crop
        >>> image = torch.arange(16.0).view(1, 4, 4)
        >>> crop(image, torch.tensor([0.5, 0.5, 0.0, 0.0]), (2, 2))  # the middle quarter
        tensor([[[ 5.,  6.],
                 [ 9., 10.]]])
    """
    height, width = check_size(size)
    _check_images_and_boxes("images", images, boxes)
    compute = compute_dtype(images)
    sx, sy, ux, uy = boxes.to(compute).unbind(-1)
    columns = _crop_positions(sx, ux, width, images.shape[-1])
    rows = _crop_positions(sy, uy, height, images.shape[-2])
    return _resample(images, rows, columns, compute)


def paste(patches: Tensor, boxes: Tensor, size: tuple[int, int], padding: str = "zeros") -> Tensor:
    """Put every patch back into its box of an image of `size`, bilinear: the inverse of `crop`.

    Image pixel (x, y) looks at the patch's position under the inverse affine rows [1/s_x 0 −u_x/s_x; 0 1/s_y −u_y/s_y].
    Cropping and pasting gives a band-limited image back inside the box if the patch is at least as fine as the box.

    Args:
        patches: (*B, C, h, w).
        boxes: (*B, 4) as (s_x, s_y, u_x, u_y).
        size: (H, W) of the images.
        padding: what lies outside the box: "zeros", or "border" to repeat the patch's edge.

    Returns:
        (*B, C, H, W) in the dtype of `patches`, differentiable in patches and boxes.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or padding.

    Degenerate cases: half extents smaller than 1e-6 count as 1e-6.

    Source: 003 §3.1, "the inverse transformation of the STN".

    Example:
        >>> import torch
        >>> from posegeom import paste
        >>> paste(torch.ones(1, 2, 2), torch.tensor([0.5, 0.5, 0.0, 0.0]), (4, 4))
        tensor([[[0., 0., 0., 0.],
                 [0., 1., 1., 0.],
                 [0., 1., 1., 0.],
                 [0., 0., 0., 0.]]])
    """
    height, width = check_size(size)
    _check_images_and_boxes("patches", patches, boxes)
    check_choice("padding", padding, ("zeros", "border"))
    compute = compute_dtype(patches)
    sx, sy, ux, uy = boxes.to(compute).unbind(-1)
    columns = _paste_positions(sx, ux, width, patches.shape[-1])
    rows = _paste_positions(sy, uy, height, patches.shape[-2])
    if padding == "border":
        columns, rows = columns.clamp(0, patches.shape[-1] - 1), rows.clamp(0, patches.shape[-2] - 1)
    return _resample(patches, rows, columns, compute)


def composite(foreground: Tensor, mask: Tensor, background: Tensor) -> Tensor:
    """Foreground over background: M × D + (1 − M) × B.

    Args:
        foreground: (*B, C, H, W) D.
        mask: (*B, 1, H, W) or (*B, C, H, W) M in [0, 1].
        background: (*B, C, H, W) B, or what broadcasts to it.

    Returns:
        (*B, C, H, W) in the dtype of `foreground`.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or device.

    Source: 003 eq. (1).

    Example:
        >>> import torch
        >>> from posegeom import composite
        >>> composite(torch.ones(3, 1, 1), torch.full((1, 1, 1), 0.25), torch.zeros(3, 1, 1)).flatten()
        tensor([0.2500, 0.2500, 0.2500])
    """
    for name, value in (("foreground", foreground), ("mask", mask), ("background", background)):
        check_floating(name, value)
    check_shape("foreground", foreground, ("*B", "C", "H", "W"))
    shape = tuple(foreground.shape)
    check_broadcast("mask", mask.shape, shape, f"(*B, 1, H, W) or (*B, C, H, W) to fit {shape}")
    check_broadcast("background", background.shape, shape, f"as foreground, {shape}")
    check_same_device(foreground=foreground, mask=mask, background=background)
    compute = compute_dtype(foreground)
    front, weight, back = foreground.to(compute), mask.to(compute), background.to(compute)
    return (weight * front + (1 - weight) * back).to(foreground.dtype)


def _check_images_and_boxes(name: str, images: Tensor, boxes: Tensor) -> None:
    check_floating(name, images)
    check_floating("boxes", boxes)
    check_shape(name, images, ("*B", "C", "H", "W"))
    check_shape("boxes", boxes, ("*B", 4))
    check_same_device(**{name: images, "boxes": boxes})
    check_batches(**{name: images.shape[:-3], "boxes": boxes.shape[:-1]})


def _middles(count: int, like: Tensor) -> Tensor:
    """Middles of `count` pixels in [−1, 1]."""
    return (2 * torch.arange(count, device=like.device, dtype=like.dtype) + 1 - count) / count


def _crop_positions(scale: Tensor, shift: Tensor, count: int, source: int) -> Tensor:
    """Pixel positions (*B, count) in a source of `source` pixels."""
    looked_at = scale.unsqueeze(-1) * _middles(count, scale) + shift.unsqueeze(-1)
    return ((looked_at + 1) * source - 1) / 2


def _paste_positions(scale: Tensor, shift: Tensor, count: int, source: int) -> Tensor:
    tiny = scale.abs() < SMALLEST_BOX
    safe = torch.where(tiny, torch.where(scale < 0, -SMALLEST_BOX, SMALLEST_BOX), scale).unsqueeze(-1)
    looked_at = (_middles(count, scale) - shift.unsqueeze(-1)) / safe
    return ((looked_at + 1) * source - 1) / 2


def _resample(images: Tensor, rows: Tensor, columns: Tensor, compute: torch.dtype) -> Tensor:
    """Bilinear values at a grid of rows (*B, h) and columns (*B, w), as two products with banded matrices.

    An axis-aligned grid separates; and a product has a deterministic backward, which grid_sample has not.
    """
    # Autocast would round the weights, and with them the positions, to eight bits.
    with torch.autocast(images.device.type, enabled=False):
        down = _tent(rows, images.shape[-2]).unsqueeze(-3)
        across = _tent(columns, images.shape[-1]).unsqueeze(-3)
        return (down @ images.to(compute) @ across.transpose(-1, -2)).to(images.dtype)


def _tent(positions: Tensor, count: int) -> Tensor:
    """Linear interpolation weights max(0, 1 − |x − k|), (*B, n, count)."""
    pixels = torch.arange(count, device=positions.device, dtype=positions.dtype)
    return torch.relu(1 - (positions.unsqueeze(-1) - pixels).abs())
