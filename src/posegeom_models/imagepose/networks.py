"""The image networks of 001 (§3): Φ, Ω and the discriminator D, in the sizes of the work that it takes them from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.ranges import check_numbers

DEPTH = 4
"""Resolutions of Φ and Ω: S, S/2, S/4, S/8."""


@dataclass(frozen=True)
class ImageConfig:
    """Sizes of the image networks; 001 gives none, the defaults are those of the work that it takes them from.

    Args:
        size: side of the images in pixels, a multiple of 8.
        width: channels of Φ and Ω at full resolution; each further one has twice as many.
        patch_width: channels of D's first convolution.
        scales: of D: full, half, quarter, ... resolution.
        gamma: γ of κ in pixels^−power; not given in the paper. At other sizes than 128 pixels it is scaled so that
            lines keep their width relative to the image.
        power: of the distance in κ: 2 as printed, 1 as in that work's code, which draws a limb towards its place from
            further away.
        sides: κ has three channels, see `channels_of`. The paper: one, in which a pose looks like itself with left and
            right exchanged.
        mirrored: at test time, points are the means of those of the image and of its mirror image. The paper: False.
    """

    size: int = 128
    width: int = 32
    patch_width: int = 64
    scales: int = 3
    gamma: float = 0.224
    power: int = 2
    sides: bool = False
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 8:
            raise ValueError(f"size must be a multiple of 8, at least 32, got {self.size}")
        check_numbers(self, "at least 1", "width", "patch_width", "scales")
        # Four convolutions of 4 x 4 pixels leave something of 24 pixels.
        if self.size < 24 * 2 ** (self.scales - 1):
            raise ValueError(f"scales must leave at least 24 pixels of {self.size}, got {self.scales}")
        check_numbers(self, "positive", "gamma")
        if self.power not in (1, 2):
            raise ValueError(f"power must be 1 or 2, got {self.power}")

    @property
    def channels(self) -> int:
        """Of a skeleton image."""
        return 3 if self.sides else 1


Bones = tuple[tuple[int, int], ...]


def channels_of(skeleton: pg.Skeleton) -> tuple[Bones, Bones, Bones]:
    """The bones that three channels of κ show: of the left, of the right, and of the middle.

    Of a skeleton without sides, such as a hand, the limbs that start at the root take turns: neighbours differ.
    """
    if any(name.startswith("left_") for name in skeleton.joints):
        of = {child: _side(skeleton.joints[child]) for _, child in skeleton.bones}
    else:
        of = {child: number % 3 for number, child in enumerate(skeleton.levels[1])}
        for level in skeleton.levels[2:]:
            of |= {child: of[skeleton.parents[child]] for child in level}
    left, right, middle = (tuple(bone for bone in skeleton.bones if of[bone[1]] == number) for number in range(3))
    return left, right, middle


def _side(joint: str) -> int:
    return 0 if joint.startswith("left_") else 1 if joint.startswith("right_") else 2


def drawn(points: Tensor, config: ImageConfig, skeleton: pg.Skeleton) -> Tensor:
    """κ (eq. 2): a skeleton image (B, C, S, S) in [0, 1] of points (B, J, 2) in pixels; C is `config.channels`."""
    gamma = config.gamma * (128 / config.size) ** config.power
    size = (config.size, config.size)
    shown = channels_of(skeleton) if config.sides else (skeleton.bones,)
    return torch.stack(
        [
            pg.skeleton_image(points, bones, size, gamma, config.power)
            if bones
            else points.new_zeros(*points.shape[:-2], *size)
            for bones in shown
        ],
        dim=1,
    )


def _convolution(before: int, after: int, kernel: int, stride: int, norm: str) -> nn.Sequential:
    """Convolution, normalisation, rectifier; a bias where the normalisation has none."""
    layer = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=norm == "instance")
    normal = nn.BatchNorm2d(after) if norm == "batch" else nn.InstanceNorm2d(after)
    # What an instance normalisation returns is a view: changing it in place would copy it back, and its gradient again.
    return nn.Sequential(layer, normal, nn.ReLU(inplace=norm == "batch"))


def _levels(channels: int, width: int, norm: str) -> list[nn.Sequential]:
    """Two convolutions for each resolution; the first one sees 7 x 7 pixels, later ones begin by halving."""
    levels = []
    for number in range(DEPTH):
        after = width * 2**number
        kernel, stride = (7, 1) if number == 0 else (3, 2)
        levels.append(
            nn.Sequential(_convolution(channels, after, kernel, stride, norm), _convolution(after, after, 3, 1, norm))
        )
        channels = after
    return levels


def _start(module: nn.Module) -> None:
    """Weights from N(0, 0.02), scales from N(1, 0.02), no biases, as in the work that the networks are from."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class SkipNetwork(nn.Module):
    """Images to images: four resolutions down and up again, with the way down joined in on the way up.

    Φ is one from a photograph (3 channels) to a skeleton image (1 channel, or 3). Its last convolution has no
    activation: the targets are skeleton images in [−1, 1].
    """

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(_levels(channels, width, "batch"))
        deep = width * 2 ** (DEPTH - 1)
        self.bottom = nn.Sequential(
            nn.Conv2d(deep, deep, 1, bias=False), *(_convolution(deep, deep, 3, 1, "batch") for _ in range(2))
        )
        self.join, self.up = nn.ModuleList(), nn.ModuleList()
        for number in reversed(range(DEPTH - 1)):
            after = width * 2**number
            self.join.append(nn.Conv2d(2 * after + after, 2 * after, 1, bias=False))
            count = 2 if number > 0 else 1
            self.up.append(
                nn.Sequential(
                    *(_convolution(2 * after if first == 0 else after, after, 3, 1, "batch") for first in range(count))
                )
            )
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        self.apply(_start)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, channels, S, S)."""
        seen = []
        for level in self.down:
            images = level(images)
            seen.append(images)
        values = self.bottom(images)
        for join, up, skip in zip(self.join, self.up, reversed(seen[:-1]), strict=True):
            values = nn.functional.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
            values = up(join(torch.cat((values, skip), dim=1)))
        image: Tensor = self.last(values)
        return image


class PointRegressor(nn.Module):
    """Ω: a skeleton image (B, C, S, S) in [−1, 1] to points (B, J, 2) in its pixels.

    J maps of stride 8; each coordinate is the expected one under the softmax of the map's mean over the other axis.
    """

    def __init__(self, joints: int, width: int, channels: int = 1) -> None:
        super().__init__()
        self.down = nn.Sequential(*_levels(channels, width, "instance"))
        self.maps = nn.Conv2d(width * 2 ** (DEPTH - 1), joints, 1)
        self.apply(_start)

    def forward(self, skeleton_images: Tensor) -> Tensor:
        """Skeleton images (B, C, S, S)."""
        maps = self.maps(self.down(skeleton_images))
        cells = pg.soft_argmax(maps.float(), marginal=True)
        # The outermost cells stand for the outermost pixels: a point at the edge can be said.
        side, count = skeleton_images.shape[-1], maps.shape[-1]
        points: Tensor = cells * ((side - 1) / (count - 1))
        return points


class PatchDiscriminator(nn.Module):
    """One scale of D: a logit for every patch of a skeleton image."""

    def __init__(self, width: int, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for stride in (2, 2, 1):
            layers += [
                nn.Conv2d(width, 2 * width, 4, stride, 1),
                nn.InstanceNorm2d(2 * width),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            width *= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))
        self.apply(_start)

    def forward(self, skeleton_images: Tensor) -> Tensor:
        """Skeleton images (B, C, S, S)."""
        logits: Tensor = self.layers(skeleton_images)
        return logits


class Discriminator(nn.Module):
    """D: patches at several resolutions, each with weights of its own."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            PatchDiscriminator(config.patch_width, config.channels) for _ in range(config.scales)
        )

    def forward(self, skeleton_images: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, 1, h, w) of each scale, of skeleton images (B, C, S, S) in [−1, 1]."""
        found = []
        for number, scale in enumerate(self.scales):
            if number > 0:
                skeleton_images = nn.functional.interpolate(
                    skeleton_images, scale_factor=0.5, mode="bilinear", align_corners=False
                )
            found.append(scale(skeleton_images))
        return tuple(found)
