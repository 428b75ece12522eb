"""Novel images by 002 (Fig. 3): the pose of one image, the clothes of another, the background of a third."""

from __future__ import annotations

import torch
from torch import Tensor

from posegeom_models.ksp.networks import KspNetworks


def synthesize(networks: KspNetworks, poses: Tensor, appearances: Tensor, backgrounds: Tensor) -> Tensor:
    """Î = D_I(f_2D, f_a, B) for every combination.

    Args:
        networks: trained.
        poses: (P, 3, S, S) images whose poses are taken.
        appearances: (A, 3, S, S) images whose people are taken.
        backgrounds: (G, 3, S, S) images of places.

    Returns:
        (P, A, G, 3, S, S) in [0, 1].
    """
    with torch.no_grad():
        maps = networks.spatial_maps(networks(poses).points)
        codes = networks.appearance_encoder(appearances)
        counts = len(maps), len(codes), len(backgrounds)
        drawn = [
            networks.decoder(
                maps[pose].expand(counts[2], -1, -1, -1), codes[person].expand(counts[2], -1, -1, -1), backgrounds
            )
            for pose in range(counts[0])
            for person in range(counts[1])
        ]
    return torch.stack(drawn).unflatten(0, counts[:2])
