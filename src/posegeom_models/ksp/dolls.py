"""Dolls: the labelled samples cut into their body parts, and put together again in imagined poses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom.capsules import part_joints
from posegeom_models.data.filming import RenderedFrames
from posegeom_models.ksp.imagined import Imagination, Imagined

TURNED = 25.0
"""Standard deviation of a doll's turn from its sample, in degrees: of the back there is no picture from the front."""

SLIM = 0.75
"""Width of what is beneath the cut-out parts, over that of `posegeom.Puppet.capsules`."""

CHUNK = 64
"""Dolls made at once."""


class Dolls(NamedTuple):
    """N dolls, without background.

    Attributes:
        foreground: (N, 3, S, S) times the mask.
        mask: (N, 1, S, S).
        labels: (N, S, S) uint8 parts, 0 the background.
        joints: (N, J, 3) about the pelvis in the camera's axes.
        points: (N, J, 2) pixels.
    """

    foreground: Tensor
    mask: Tensor
    labels: Tensor
    joints: Tensor
    points: Tensor


def make_dolls(samples: RenderedFrames, skeleton: pg.Skeleton, count: int, generator: torch.Generator) -> Dolls:
    """So many dolls of labelled samples, equally many of each.

    A doll's trunk is its sample's, a little turned; arms and legs are posed like other samples'. Every part is the
    sample's picture of it, moved so that its bone lies where the doll's does, on a capsule of the part's mean colour:
    what another part had hidden is one colour. Nearer parts lie on farther ones.

    Args:
        samples: labelled pictures of people.
        skeleton: theirs.
        count: N.
        generator: draws the poses.
    """
    side = samples.image.shape[-1]
    imagination = Imagination(samples.joints.cpu(), samples.points.cpu(), skeleton, side)
    number = torch.arange(count) % len(samples)
    posed = imagination.draw(count, generator, trunk=number, turned=TURNED)
    parts = [
        _make(samples, number[start : start + CHUNK], posed.rows(slice(start, start + CHUNK)), skeleton)
        for start in range(0, count, CHUNK)
    ]
    foreground, mask, labels = (torch.cat(values).cpu() for values in zip(*parts, strict=True))
    return Dolls(foreground, mask, labels, posed.joints, posed.points)


def _make(samples: RenderedFrames, number: Tensor, posed: Imagined, skeleton: pg.Skeleton) -> tuple[Tensor, ...]:
    """Pictures (B, 3, S, S), masks (B, 1, S, S) and labels (B, S, S) of some dolls."""
    device, side = samples.image.device, samples.image.shape[-1]
    points, joints = posed.points.to(device), posed.joints.to(device)
    number = number.to(device)
    there, labels = samples.points[number], samples.labels[number].long()
    picture = torch.cat((samples.foreground, samples.mask), dim=1)[number]  # (B, 4, S, S)
    puppet = pg.Puppet.capsules(skeleton, (side, side)).to(device)
    # A person farther away is thinner.
    meter = _meter(points, joints, skeleton)
    wide = (meter * 2.2 / side * SLIM).unsqueeze(-1)
    beneath = pg.part_maps(points, puppet, (side, side), wide).shape  # (B, L, S, S)
    across = meter / _meter(there, samples.joints[number], skeleton)
    image = torch.zeros(len(number), 4, side, side, device=device)
    shown = torch.zeros(len(number), side, side, dtype=torch.long, device=device)
    drawn, depth = [], []
    for part, (_, ends) in enumerate(part_joints(skeleton)):
        cut = picture * (labels == part + 1).unsqueeze(1)
        moved = nn.functional.grid_sample(
            cut, _grid(there, points, ends, across, side), padding_mode="zeros", align_corners=False
        )
        area = cut[:, 3].sum((1, 2)).clamp(min=1e-6)
        mean = cut[:, :3].sum((2, 3)) / area.unsqueeze(-1)
        below = beneath[:, part].unsqueeze(1) * (area > 1).view(-1, 1, 1, 1)
        ground = torch.cat((mean.view(-1, 3, 1, 1) * below, below), dim=1)
        drawn.append(moved + (1 - moved[:, 3:]) * ground)
        depth.append(joints[:, list(ends), 2].mean(1))
    order = torch.stack(depth, dim=1).argsort(1, descending=True)
    layers, rows = torch.stack(drawn, dim=1), torch.arange(len(number), device=device)
    for place in range(order.shape[1]):
        number_of_part = order[:, place]
        layer = layers[rows, number_of_part]
        image = layer + (1 - layer[:, 3:]) * image
        shown = torch.where(layer[:, 3] > 0.5, number_of_part.view(-1, 1, 1) + 1, shown)
    mask = image[:, 3:].clamp(0, 1)
    return torch.minimum(image[:, :3].clamp(min=0), mask), mask, shown.to(torch.uint8)


def _meter(points: Tensor, joints: Tensor, skeleton: pg.Skeleton) -> Tensor:
    """(B,) pixels of a metre at the person's place: the bones' lengths in the image over those in the image plane."""
    seen = pg.bone_vectors(points, skeleton).norm(dim=-1).sum(-1)
    flat = pg.bone_vectors(joints[..., :2], skeleton).norm(dim=-1).sum(-1)
    meter: Tensor = seen / flat.clamp(min=1e-3)
    return meter


def _grid(there: Tensor, here: Tensor, ends: tuple[int, ...], across: Tensor, side: int) -> Tensor:
    """Where in the sample's picture each of the doll's pixels comes from, for a part with two ends (a torso: four).

    The bone's middle comes from the bone's middle; along the bone the part is stretched as the bone is, across it by
    `across` (B,).
    """
    (start, end), (start_there, end_there) = (_bone(points, ends) for points in (here, there))
    bone, bone_there = end - start, end_there - start_there
    length, length_there = (each.norm(dim=-1).clamp(min=1.0) for each in (bone, bone_there))
    unit = bone / bone.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    unit_there = bone_there / bone_there.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    normal, normal_there = (torch.stack((-each[:, 1], each[:, 0]), dim=-1) for each in (unit, unit_there))
    stretch = (length_there / length).view(-1, 1, 1)
    linear = stretch * unit_there.unsqueeze(-1) * unit.unsqueeze(-2)
    linear = linear + normal_there.unsqueeze(-1) * normal.unsqueeze(-2) / across.view(-1, 1, 1)
    middle, middle_there = (start + end) / 2, (start_there + end_there) / 2
    # In [-1, 1] with pixel centres at integers: x = 2 (u + ½) / S − 1.
    from_middle = middle_there - (side - 1) / 2 - (linear @ (middle - (side - 1) / 2).unsqueeze(-1)).squeeze(-1)
    matrix = torch.cat((linear, 2 / side * from_middle.unsqueeze(-1)), dim=-1)
    return nn.functional.affine_grid(matrix, [len(here), 4, side, side], align_corners=False)


def _bone(points: Tensor, ends: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    if len(ends) == 2:
        return points[:, ends[0]], points[:, ends[1]]
    return points[:, list(ends[:2])].mean(1), points[:, list(ends[2:])].mean(1)
