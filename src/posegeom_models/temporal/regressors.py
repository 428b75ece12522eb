"""What reads poses from the codes of 003 (S.1.1): Φ, Θ and a linear probe, and the units that they read in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

REGRESSORS = ("plain", "residual")


class ResidualBlock(nn.Module):
    """x + two layers of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())

    def forward(self, values: Tensor) -> Tensor:
        """Values (B, width)."""
        added: Tensor = values + self.layers(values)
        return added


def regressor(kind: str, inputs: int, outputs: int, hidden: int, dropout: float) -> nn.Sequential:
    """Φ or Θ (S.1.1): two hidden layers with dropout ("plain"), or three residual blocks of two layers ("residual")."""
    if kind == "residual":
        blocks = [ResidualBlock(hidden) for _ in range(3)]
        return nn.Sequential(nn.Linear(inputs, hidden), *blocks, nn.Linear(hidden, outputs))
    layers: list[nn.Module] = []
    for before in (inputs, hidden):
        # Normalisation after the rectifier, as in public code of the work that 003 takes its Φ from.
        layers += [nn.Linear(before, hidden), nn.ReLU(), nn.BatchNorm1d(hidden), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


class Statistics(NamedTuple):
    """Mean and standard deviation (J, 3) of the labelled poses about the root, metres."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, joints: Tensor, root: int) -> Statistics:
        """Of poses (N, J, 3); deviations below a millimetre (the root's) are 1."""
        about = joints - joints[:, root].unsqueeze(1)
        deviation = about.std(0, correction=0)
        return cls(about.mean(0), torch.where(deviation < 1e-3, 1.0, deviation))


class PoseRegressor(nn.Module):
    """Φ: I_tv, and the predicted 2D pose where it is wanted, to joints (B, J, 3) about the root in metres (eq. 15).

    Args:
        layers: from the code (and 2J numbers) to 3J numbers.
        joints: J.
        with_points: the predicted 2D pose is wanted.
        standardised: every input is in units of its deviation among the frames that Φ learns from.
    """

    def __init__(
        self, layers: nn.Sequential, joints: int, with_points: bool = False, standardised: bool = False
    ) -> None:
        super().__init__()
        self.with_points = with_points
        first = layers[0]
        assert isinstance(first, nn.Linear)  # `regressor`'s
        # Codes hold places and averages of very different sizes; what is small would be learnt last.
        self.units: nn.Module = nn.BatchNorm1d(first.in_features, affine=False) if standardised else nn.Identity()
        self.layers = layers
        self.register_buffer("mean", torch.zeros(joints, 3))
        self.register_buffer("deviation", torch.ones(joints, 3))

    def adopt(self, statistics: Statistics) -> None:
        """Take over the labels' statistics: outputs of size 1 are as far from the mean as labels are."""
        for name, value in statistics._asdict().items():
            self.get_buffer(name).copy_(value)

    def forward(self, variant: Tensor, points: Tensor) -> Tensor:
        """Joints; `points` (B, J, 2) in the box count only where Φ was built for them."""
        inputs = torch.cat((variant, points.flatten(1)), dim=1) if self.with_points else variant
        mean = self.get_buffer("mean")
        said = self.layers(self.units(inputs)).float().unflatten(1, mean.shape)
        joints: Tensor = mean + self.get_buffer("deviation") * said
        return joints


def in_box(points: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Points (B, J, 2) in pixels of a square image, in units of their boxes: ±1 at a box's edges."""
    place = (2 * points + 1) / size - 1
    return (place - boxes[:, None, 2:]) / boxes[:, None, :2]


def out_of_box(points: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The inverse of `in_box`."""
    place = points * boxes[:, None, :2] + boxes[:, None, 2:]
    return ((place + 1) * size - 1) / 2
