"""Poses as the encoders of 000 and 002 tell them, and the fully connected networks that their parameters come from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom.frames import rotate


class Pose(NamedTuple):
    """What an encoder and the fixed transformations T_fk and T_c say of an image.

    Attributes:
        joints: (B, J, 3) p_3D, metres; canonical, or in the camera's axes where there is no T_fk.
        rotation: (B, 3, 3) R_c, from the joints' axes to the camera's: the identity where there is no T_fk.
        translation: (B, 3) of the pelvis, metres in the camera's axes.
        points: (B, J, 2) p_2D, pixels.
        heat: (B, J, h, w) logits of the joints' heatmaps, if the encoder has them.
    """

    joints: Tensor
    rotation: Tensor
    translation: Tensor
    points: Tensor
    heat: Tensor | None = None

    @property
    def in_camera(self) -> Tensor:
        """(B, J, 3) joints about the pelvis in the camera's axes."""
        return rotate(self.rotation.unsqueeze(1), self.joints)  # a matrix product would be halved under autocast


def standing(skeleton: pg.Skeleton) -> Tensor:
    """(J, 3) canonical joints of a person who stands upright with hanging arms, by the joints' names; metres.

    Args:
        skeleton: of a person, with bone lengths and a trunk.
    """
    directions = torch.zeros(len(skeleton.free_joints), 3)
    for place, joint in enumerate(skeleton.free_joints):
        name = skeleton.joints[joint]
        if name.endswith(("foot", "toe")):
            directions[place, 0] = 1
        elif name.endswith(("shoulder", "clavicle")):
            directions[place, 1] = 1 if name.startswith("left") else -1
        else:
            directions[place, 2] = -1 if name.startswith(("left", "right")) else 1
    return pg.forward_kinematics(directions, torch.zeros(()), skeleton, frame="canonical")


def branch(features: int, hidden: int, outputs: int) -> nn.Sequential:
    """A fully connected network with one hidden layer, whose outputs are near 0 at first."""
    last = nn.Linear(hidden, outputs)
    nn.init.normal_(last.weight, std=0.01)
    # Without the normalisation, the first steps of an adaptive optimizer leave half of the hidden units dead.
    return nn.Sequential(nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), last)


def lifting_branch(features: int, hidden: int, outputs: int) -> nn.Sequential:
    """A branch for key points of images and of poses without images alike: its normalisation knows no batch."""
    last = nn.Linear(hidden, outputs)
    nn.init.normal_(last.weight, std=0.01)
    layers: list[nn.Module] = []
    for width in (features, hidden):
        layers += [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, last)
