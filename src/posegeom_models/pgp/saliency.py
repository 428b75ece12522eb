"""m_sal of 000 (§3.3a): what moves before a known background, or what stands out from the edges of the picture."""

from __future__ import annotations

import torch
from torch import Tensor

from posegeom_models.data.reels import Frames
from posegeom_models.data.saliency import motion_saliency
from posegeom_models.drawing import to_bytes


def salient(frames: Frames, moving: Tensor) -> Tensor:
    """m_sal of frames: from the background where it is known, and from the picture alone where it moves (§4).

    Args:
        frames: B frames.
        moving: (B,) bool.

    Returns:
        (B, H, W) in [0, 1].
    """
    masks = conspicuous(frames.image)
    for row in torch.nonzero(~moving).flatten().tolist():
        image, background = (to_bytes(value[row].movedim(0, -1)) for value in (frames.image, frames.background))
        masks[row] = torch.from_numpy(motion_saliency(image, background)).float()
    return masks


def conspicuous(images: Tensor, edge: float = 0.08) -> Tensor:
    """How little like the picture's edges a pixel is: a saliency without training, for pictures of any camera.

        m(u) = 1 − exp(−max(d² − 3, 0)/2)

    with d² the squared Mahalanobis distance of the pixel's colour to the colours of the one of the four edges that it
    is most like; 3 is its mean over that edge. The paper takes another unsupervised saliency; neither knows of people.

    Args:
        images: (B, 3, H, W) in [0, 1].
        edge: width of the edges, as a share of the side.

    Returns:
        (B, H, W) in [0, 1].
    """
    height, width = images.shape[-2:]
    rows, columns = max(1, round(edge * height)), max(1, round(edge * width))
    sides = (images[:, :, :rows], images[:, :, -rows:], images[..., :columns], images[..., -columns:])
    distances = []
    for side in sides:
        colors = side.flatten(2)
        mean = colors.mean(-1, keepdim=True)
        centered = colors - mean
        # 1/50 of the range: what noise and soft edges of one flat colour have.
        noise = 0.02**2 * torch.eye(3, dtype=images.dtype, device=images.device)
        spread = centered @ centered.mT / colors.shape[-1] + noise
        whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(spread), images.flatten(2) - mean, upper=False)
        distances.append((whitened**2).sum(1))
    least = torch.stack(distances).amin(0).unflatten(-1, (height, width))
    return 1 - torch.exp(-(least - 3).clamp(min=0) / 2)
