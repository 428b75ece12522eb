"""Parts and novel images by 000 (Fig. 5A): a person in another's pose, and a person seen from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.data.reels import Reel
from posegeom_models.drawing import color_parts, label_rows, tile, to_bytes
from posegeom_models.pgp.networks import PgpNetworks
from posegeom_models.poses import Pose

POSES, PEOPLE, VIEWS = 5, 3, 6
"""Columns and rows of the panel of poses; columns of the panel of views."""

LABEL = 56
"""Width in pixels of the rows' labels."""


def part_labels(networks: PgpNetworks, pose: Pose, appearance: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (B, H, W) of ŷ_a^p, which knows the person's shape, and of y_p, the puppet in the pose, which does not.

    0 is the background (§4.4).
    """
    maps = networks.drawn(pose).maps
    return _labels(networks.decoder.segmentation(maps[:, :-1], appearance)), _labels(maps)


def _labels(maps: Tensor) -> Tensor:
    """The strongest of the classes (B, L + 1, H, W), whose last one is the background: 0, and 1 + k for part k."""
    return (pg.hard_segmentation(maps) + 1) % maps.shape[1]


def transfer(networks: PgpNetworks, poses: Tensor, people: Tensor) -> tuple[Tensor, Tensor]:
    """Pose transfer: every person in every pose, Î_a^p and ŷ_a^p.

    Args:
        networks: trained.
        poses: (P, 3, S, S) images whose poses are taken.
        people: (A, 3, S, S) images whose people are taken.

    Returns:
        (A, P, 3, S, S) in [0, 1] and (A, P, L + 1, S, S), background last.
    """
    maps = networks.drawn(networks.encoder.pose(poses)).maps[:, :-1]
    drawn = [networks.decoder(maps, code.expand(len(maps), -1, -1, -1)) for code in networks.encoder.appearance(people)]
    images, parts = zip(*drawn, strict=True)
    return torch.stack(images), torch.stack(parts)


def turned_views(networks: PgpNetworks, images: Tensor, azimuths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """View synthesis: people as cameras see them that are turned about their trunks, Î, ŷ and the puppet.

    Args:
        networks: trained.
        images: (A, 3, S, S).
        azimuths: (V,) radians that are added to each person's own.

    Returns:
        (A, V, 3, S, S) in [0, 1], and twice (A, V, L + 1, S, S), background last.
    """
    pose, appearance = networks.encoder(images)
    if networks.encoder.direct:
        canonical, rotation, _ = pg.canonicalize(pose.joints, networks.skeleton)
        pose = pose._replace(joints=canonical, rotation=rotation)
    zero = torch.zeros_like(azimuths)
    # At rest R = C: what remains of a rotation about +Z after C is taken off.
    rest = pg.camera_rotation(*torch.zeros(3, 1, device=images.device).unbind(0))
    about = rest.mT @ pg.camera_rotation(azimuths, zero, zero)
    drawn = []
    for joints, rotation, translation, code in zip(
        pose.joints, pose.rotation, pose.translation, appearance, strict=True
    ):
        moved = networks.encoder.seen(
            joints.expand(len(about), -1, -1), rotation @ about, translation.expand(len(about), -1)
        )
        maps = networks.drawn(moved).maps
        drawn.append((*networks.decoder(maps[:, :-1], code.expand(len(about), -1, -1, -1)), maps))
    images, parts, puppets = (torch.stack(values) for values in zip(*drawn, strict=True))
    return images, parts, puppets


def _cast(reel: Reel, random: np.random.Generator) -> list[int]:
    """Clips by chance, those of the poses first; the last `PEOPLE` show different people as far as it is known."""
    order = random.permutation(torch.unique(reel.clip).numpy()).tolist()
    one_of: dict[int, int] = {}
    for clip in order:
        person = int(reel.identity[reel.clip == clip][0])
        one_of.setdefault(person if person >= 0 else -1 - clip, clip)
    people = list(one_of.values())[:PEOPLE]
    others = [clip for clip in order if clip not in people]
    return [*others[:POSES], *people, *others[POSES:]][: POSES + PEOPLE]


def panels(networks: nn.Module, reel: Reel, random: np.random.Generator) -> Mapping[str, NDArray[np.uint8]]:
    """The panels "pose_transfer" and "view_synthesis".

    In the first one, poses are in the first row and people in the first column; below each image are its parts. In the
    second one, a person in the first column is seen from all sides: the image, the puppet, which does not know the
    person's shape, and the parts, which do.

    Args:
        networks: of 000, trained.
        reel: frames to take them from; poses and people are of different clips.
        random: chooses them.
    """
    assert isinstance(networks, PgpNetworks)
    clips = torch.unique(reel.clip)
    if len(clips) < POSES + PEOPLE:
        raise ValueError(f"a panel needs frames of {POSES + PEOPLE} clips, got {len(clips)}")
    numbers = []
    for clip in _cast(reel, random):
        here = torch.nonzero(reel.clip == clip).flatten()
        numbers.append(int(here[random.integers(len(here))]))
    frames = reel.frames(torch.tensor(numbers))
    poses, people = frames.image[:POSES], frames.image[POSES:]
    device = next(networks.parameters()).device
    azimuths = torch.arange(VIEWS, device=device) * (2 * math.pi / VIEWS)
    with torch.no_grad():
        images, parts = transfer(networks, poses.to(device), people.to(device))
        seen, shaped, unshaped = turned_views(networks, people.to(device), azimuths)
    puppet = networks.puppet

    def colored(maps: Tensor) -> Tensor:
        return color_parts(maps, puppet).movedim(-1, -3)

    blank = torch.full_like(poses[0], 0.1)
    rows, names = [[blank, *poses]], ["poses"]
    for person, image, part in zip(people, images.cpu(), colored(parts).cpu(), strict=True):
        rows += [[person, *image], [blank, *part]]
        names += ["image", "parts"]
    views, labels = [], []
    for person, *each in zip(people, seen.cpu(), colored(unshaped).cpu(), colored(shaped).cpu(), strict=True):
        views += [[first, *rest] for first, rest in zip((person, blank, blank), each, strict=True)]
        labels += ["image", "puppet", "parts"]
    return {"pose_transfer": _tiled(rows, names), "view_synthesis": _tiled(views, labels)}


def _tiled(rows: list[list[Tensor]], labels: list[str]) -> NDArray[np.uint8]:
    pictures = [to_bytes(image.float().movedim(0, -1)) for row in rows for image in row]
    return label_rows(tile(pictures, len(rows[0])), labels, LABEL)
