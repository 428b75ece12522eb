"""Poses as the encoders of 000 and 002 tell them, and the fully connected networks that their parameters come from."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from posegeom.frames import rotate


class Pose(NamedTuple):
    """What an encoder and the fixed transformations T_fk and T_c say of an image.

    Attributes:
        joints: (B, J, 3) p_3D, canonical, metres.
        rotation: (B, 3, 3) R_c, from canonical axes to the camera's.
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


def branch(features: int, hidden: int, outputs: int) -> nn.Sequential:
    """A fully connected network with one hidden layer, whose outputs are near 0 at first."""
    last = nn.Linear(hidden, outputs)
    nn.init.normal_(last.weight, std=0.01)
    # Without the normalisation, the first steps of an adaptive optimizer leave half of the hidden units dead.
    return nn.Sequential(nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), last)
