"""Novel images by 002 (Fig. 3): the pose of one image, the clothes of another, the background of a third."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from posegeom_models.data.reels import Reel
from posegeom_models.drawing import DARK, tile, to_bytes
from posegeom_models.ksp.networks import KspNetworks

POSES, PEOPLE, PLACES = 4, 3, 2
"""Rows of the panel; columns, each before so many places."""


def synthesize(networks: KspNetworks, poses: Tensor, people: Tensor, places: Tensor) -> Tensor:
    """Î = D_I(f_2D, f_a, B) for every combination.

    Args:
        networks: trained.
        poses: (P, 3, S, S) images whose poses are taken.
        people: (A, 3, S, S) images whose people are taken.
        places: (G, 3, S, S) backgrounds.

    Returns:
        (P, A, G, 3, S, S) in [0, 1].
    """
    maps = networks.spatial_maps(networks(poses).points)
    codes = networks.appearance_encoder(people)
    drawn = [
        networks.decoder(pose.expand(len(places), -1, -1, -1), code.expand(len(places), -1, -1, -1), places)
        for pose in maps
        for code in codes
    ]
    images: Tensor = torch.stack(drawn).unflatten(0, (len(maps), len(codes)))
    return images


def panels(networks: nn.Module, reel: Reel, random: np.random.Generator) -> Mapping[str, NDArray[np.uint8]]:
    """The panel "synthesis": people in the first row, places in the second, poses in the first column, what they make.

    Args:
        networks: of 002, trained.
        reel: frames to take them from; poses and people are of different clips.
        random: chooses them.
    """
    assert isinstance(networks, KspNetworks)
    wanted = POSES + PEOPLE + PLACES
    clips = torch.unique(reel.clip)
    if len(clips) < wanted:
        raise ValueError(f"a panel needs frames of {wanted} clips, got {len(clips)}")
    numbers = []
    for clip in random.permutation(clips.numpy())[:wanted]:
        here = torch.nonzero(reel.clip == int(clip)).flatten()
        numbers.append(int(here[random.integers(len(here))]))
    frames = reel.frames(torch.tensor(numbers))
    poses, people = frames.image[:POSES], frames.image[POSES : POSES + PEOPLE]
    places = frames.background[POSES + PEOPLE :]
    device = next(networks.parameters()).device
    with torch.no_grad():
        drawn = synthesize(networks, poses.to(device), people.to(device), places.to(device)).float().cpu()
    blank = (torch.tensor(DARK) / 255).view(3, 1, 1).expand_as(poses[0])
    rows = [[blank, *(person if place == 0 else blank for person in people for place in range(PLACES))]]
    rows.append([blank, *(place for _ in people for place in places)])
    rows += [[pose, *row.flatten(0, 1)] for pose, row in zip(poses, drawn, strict=True)]
    pictures = [to_bytes(image.movedim(0, -1)) for row in rows for image in row]
    return {"synthesis": tile(pictures, 1 + PEOPLE * PLACES)}
