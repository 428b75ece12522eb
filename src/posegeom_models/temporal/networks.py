"""The networks of 003 (§3.1, S.1.1): S, E_tv and E_ti, D, and what reads poses from the codes: Θ, Φ, a probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.backbones import ConvolutionStack, KeyPyramid, ResNetTrunk
from posegeom_models.temporal.features import FEATURES, FeatureNetwork

SMALL = {"detector": "stack", "encoder": "pyramid"}
"""Networks for training from random weights, beside torchvision's ResNets."""

REGRESSORS = ("plain", "residual")


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the networks; the defaults are the paper's where it gives one.

    Args:
        size: side of the images in pixels.
        reduction: how many times smaller the detector's image is.
        detector: S, a ResNet of torchvision; "stack", a few convolutions and one map whose expected position is the
            box's middle; or "none": the whole image is the crop.
        smallest: least half extent of a box, in half images. Not given.
        largest: greatest half extent. Not given.
        border: greatest distance of a box's middle from the image's, in half images. Not given.
        first_extent: half extent of the boxes at the start of the training. Not given.
        crop: side of the crops in pixels.
        encoder: of E_tv and E_ti, a ResNet of torchvision; or "pyramid", a small network whose features are key points
            (`posegeom_models.backbones.KeyPyramid`).
        weights: of the encoder and a ResNet detector, a name of torchvision's ("IMAGENET1K_V1"); a file is the
            encoder's alone; None for random ones. Not given.
        width: of the pyramid and the stack.
        keys: key points of the pyramid.
        time_variant: length of I_tv; 600 on Human3.6M and Ski, 900 on MPI-INF-3DHP and Diving.
        time_invariant: length of I_ti.
        split: two codes; else one of their lengths together, for all baselines without latent split.
        decoder: reconstruct the image.
        maps: of each code's fully connected layer in D.
        decoder_widths: after each doubling of the resolution; before them, maps have crop / 2^(their number) pixels.
        decoder_depth: convolutions after each doubling.
        decoder_normalised: batch normalisation after D's convolutions. The paper has none.
        dropout: of D's fully connected layers. Not given.
        bump: multiply D's image and mask by `bump`, which fades out to the crop's edge. The paper has none.
        threshold: of M, from which on a pixel is the person's. Not given.
        features: of a ResNet-18 that L_reconst compares, any of stem, layer1, layer2, layer3, layer4.
        feature_weights: of that ResNet-18; the paper's are ImageNet's. None for random ones.
        regressor: Φ, "plain" (two hidden layers) or "residual" (three blocks of two layers).
        hidden: width of Φ's layers; the paper: 2048 plain, 1024 residual.
        regressor_dropout: of the plain Φ.
        with_points: give Φ the predicted 2D pose too, where there are weak labels.
    """

    size: int = 500
    reduction: int = 4
    detector: str = "resnet18"
    smallest: float = 0.2
    largest: float = 1.0
    border: float = 0.8
    first_extent: float = 0.7
    crop: int = 128
    encoder: str = "resnet50"
    weights: str | None = None
    width: int = 16
    keys: int = 32
    time_variant: int = 600
    time_invariant: int = 129
    split: bool = True
    decoder: bool = True
    maps: int = 128
    decoder_widths: tuple[int, ...] = (128, 64, 32)
    decoder_depth: int = 3
    decoder_normalised: bool = False
    dropout: float = 0.3
    bump: bool = False
    threshold: float = 0.5
    features: tuple[str, ...] = ("layer1", "layer2", "layer3")
    feature_weights: str | None = None
    regressor: str = "plain"
    hidden: int = 2048
    regressor_dropout: float = 0.5
    with_points: bool = False

    def __post_init__(self) -> None:
        sizes = ("size", "reduction", "crop", "width", "keys", "time_variant", "time_invariant", "maps", "hidden")
        for name in (*sizes, "decoder_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.crop % 2 ** len(self.decoder_widths):
            raise ValueError(f"crop must be a multiple of 2^{len(self.decoder_widths)}, got {self.crop}")
        if not 0 < self.smallest < self.first_extent < self.largest:
            raise ValueError(
                "smallest, first_extent and largest must be positive and ascending, got "
                f"{self.smallest}, {self.first_extent} and {self.largest}"
            )
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown:
            raise ValueError(f"features must be of {', '.join(FEATURES)}, got {unknown[0]!r}")
        if self.regressor not in REGRESSORS:
            raise ValueError(f"regressor must be one of {', '.join(REGRESSORS)}, got {self.regressor!r}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")
        for name in ("dropout", "regressor_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


class Detector(nn.Module):
    """S: images (B, 3, H, W) to boxes (B, 4) as (s_x, s_y, u_x, u_y), of `posegeom.crop` (§3.1).

        s = smallest + (largest − smallest) · sigmoid(a),   u = border · tanh(b)

    as in public code of the work that 003 builds on. With "stack", u = border · (the expected position under one map's
    softmax) instead. At the start all boxes are in the middle and of one size.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk: ConvolutionStack | ResNetTrunk
        self.heat: nn.Conv2d | None = None
        if config.detector == SMALL["detector"]:
            w = config.width
            self.trunk = ConvolutionStack(3, (w, w, 2 * w, 2 * w, 4 * w), (2, 1, 1, 1, 2), groups=0)
            self.narrow: nn.Module = nn.Identity()
            self.heat = nn.Conv2d(4 * w, 1, 1)
            nn.init.zeros_(self.heat.weight)
            self.boxes = nn.Linear(4 * w, 2)
        else:
            weights = None if config.weights is None or "." in config.weights else config.weights
            self.trunk = ResNetTrunk(config.detector, "layer4", weights)
            side = config.size // config.reduction
            for _ in range(5):  # five halvings, each rounded up
                side = -(-side // 2)
            # An average over all places would lose where things are.
            self.narrow = nn.Sequential(
                nn.Conv2d(self.trunk.channels, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(inplace=True)
            )
            self.boxes = nn.Linear(128 * side**2, 4)
        share = (config.first_extent - config.smallest) / (config.largest - config.smallest)
        nn.init.zeros_(self.boxes.weight)
        with torch.no_grad():
            self.boxes.bias.zero_()
            self.boxes.bias[:2] = torch.logit(torch.tensor(share))

    def forward(self, images: Tensor) -> Tensor:
        """Boxes of images in [0, 1]."""
        config = self.config
        maps = self.narrow(self.trunk(nn.functional.avg_pool2d(images, config.reduction)))
        if self.heat is None:
            extent, place = self.boxes(maps.flatten(1)).float().split(2, dim=1)
            middle = config.border * place.tanh()
        else:
            heat = self.heat(maps).float()
            share = heat.flatten(2).softmax(-1)
            seen = (maps.float().flatten(2) * share).sum(-1)
            extent = self.boxes(seen).float()
            cells = torch.tensor([heat.shape[-1], heat.shape[-2]], device=heat.device)
            middle = config.border * (2 * (pg.soft_argmax(heat).squeeze(1) + 0.5) / cells - 1)
        size = config.smallest + (config.largest - config.smallest) * extent.sigmoid()
        return torch.cat((size, middle), dim=1)


class Codes(NamedTuple):
    """I_tv and I_ti of B crops.

    Attributes:
        variant: (B, D) I_tv, or the only code where the latent is not split.
        invariant: (B, E) I_ti; E = 0 where it is not split.
    """

    variant: Tensor
    invariant: Tensor


class Encoder(nn.Module):
    """E_tv and E_ti, which share all but their output layers: crops (B, 3, C, C) to codes."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.trunk: KeyPyramid | ResNetTrunk
        if config.encoder == SMALL["encoder"]:
            self.trunk = KeyPyramid(config.width, config.keys)
        else:
            self.trunk = ResNetTrunk(config.encoder, "layer4", config.weights)
        channels = self.trunk.channels
        length = config.time_variant + (0 if config.split else config.time_invariant)
        self.variant = nn.Linear(channels, length)
        self.invariant = nn.Linear(channels, config.time_invariant) if config.split else None

    def features(self, crops: Tensor) -> Tensor:
        """(B, channels) what both read their codes from."""
        if isinstance(self.trunk, KeyPyramid):
            features: Tensor = self.trunk(crops)[0]
            return features
        averaged: Tensor = self.trunk(crops).mean((2, 3)).float()
        return averaged

    def forward(self, crops: Tensor, jittered: Tensor | None = None) -> Codes:
        """I_tv of the crops in other colours, where these are given, and I_ti of the crops."""
        if self.invariant is None:
            variant = self.variant(self.features(crops))
            return Codes(variant, variant[:, :0])
        if jittered is None:
            features = other = self.features(crops)
        else:
            # One pass: one set of batch statistics.
            features, other = self.features(torch.cat((crops, jittered))).chunk(2)
        return Codes(self.variant(other), self.invariant(features))


def bump(side: int) -> Tensor:
    """A window (side, side): exp(1 − 1/(1 − √(x⁴ + y⁴))), 0 where that root is 1 or more, x and y in [−1, 1]."""
    place = (2 * torch.arange(side) + 1 - side) / side
    root = (place[:, None] ** 4 + place[None] ** 4).sqrt()
    inside = (1 - root).clamp(min=1e-6)
    return torch.where(root < 1, (1 - 1 / inside).exp(), 0.0)


class Decoder(nn.Module):
    """D: codes to an image crop (B, 3, C, C) in [0, 1] and a mask (B, 1, C, C) (S.1.1)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.side = config.crop // 2 ** len(config.decoder_widths)
        area = self.side**2
        # Without split, as many maps from the one code.
        lengths = (
            [(config.time_variant, config.maps), (config.time_invariant, config.maps)]
            if config.split
            else [(config.time_variant + config.time_invariant, 2 * config.maps)]
        )
        self.spread = nn.ModuleList(
            nn.Sequential(nn.Linear(length, maps * area), nn.ReLU(inplace=True), nn.Dropout(config.dropout))
            for length, maps in lengths
        )
        stages, channels = [], 2 * config.maps
        for width in config.decoder_widths:
            layers: list[nn.Module] = [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)]
            for before in (channels, *[width] * (config.decoder_depth - 1)):
                layers.append(nn.Conv2d(before, width, 3, padding=1))
                layers += [nn.BatchNorm2d(width)] if config.decoder_normalised else []
                layers.append(nn.ReLU(inplace=True))
            stages.append(nn.Sequential(*layers))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.last = nn.Conv2d(channels, 4, 1)
        self.register_buffer("window", bump(config.crop), persistent=False)

    def forward(self, codes: Codes) -> tuple[Tensor, Tensor]:
        """D_crop and M_crop."""
        given = codes if self.config.split else codes[:1]
        maps = [
            spread(code).unflatten(1, (-1, self.side, self.side))
            for spread, code in zip(self.spread, given, strict=True)
        ]
        drawn = self.last(self.stages(torch.cat(maps, dim=1))).float().sigmoid()
        image, mask = drawn[:, :3], drawn[:, 3:]
        if self.config.bump:
            window = self.get_buffer("window")
            return image * window, mask * window
        return image, mask


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
    """Φ: I_tv, and the predicted 2D pose where it is wanted, to joints (B, J, 3) about the root in metres (eq. 15)."""

    def __init__(self, config: NetworkConfig, inputs: int, joints: int) -> None:
        super().__init__()
        self.with_points = config.with_points
        inputs += 2 * joints if self.with_points else 0
        self.layers = regressor(config.regressor, inputs, 3 * joints, config.hidden, config.regressor_dropout)
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
        said = self.layers(inputs).float().unflatten(1, mean.shape)
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


class Drawn(NamedTuple):
    """What D makes of codes, in the image.

    Attributes:
        image: (B, 3, S, S) D put back into its box.
        mask: (B, 1, S, S) M, 0 outside the box.
    """

    image: Tensor
    mask: Tensor


class Said(NamedTuple):
    """What the networks say of images.

    Attributes:
        boxes: (B, 4).
        codes: of the crops as they are.
        mask: (B, 1, S, S); None without a decoder.
        joints: (B, J, 3) metres about the root, in the camera's axes.
        points: (B, J, 2) pixels.
    """

    boxes: Tensor
    codes: Codes
    mask: Tensor | None
    joints: Tensor
    points: Tensor


class TemporalNetworks(nn.Module):
    """All networks of 003 by their names there.

    Args:
        config: sizes.
        skeleton: of the poses.
        weak: Θ is a network like Φ that learns with the codes (§3.3); else a linear probe, which learns after them.
        compared: L_reconst compares features.
        adversary: DrNet's scene discriminator.
    """

    def __init__(
        self,
        config: NetworkConfig,
        skeleton: pg.Skeleton = pg.BODY_17,
        weak: bool = False,
        compared: bool = True,
        adversary: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.skeleton = config, skeleton
        joints = len(skeleton.joints)
        self.detector = None if config.detector == "none" else Detector(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config) if config.decoder else None
        length = self.encoder.variant.out_features
        self.theta: nn.Module = nn.Linear(length, 2 * joints)
        if weak:
            self.theta = regressor("residual", length, 2 * joints, config.hidden, 0.0)
        self.phi = PoseRegressor(config, length, joints)
        self.features: FeatureNetwork | None = None
        if compared and config.decoder and config.features:
            self.features = FeatureNetwork(config.features, config.feature_weights)
        self.discriminator: nn.Module | None = None
        if adversary:
            self.discriminator = nn.Sequential(
                nn.Linear(2 * length, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 1)
            )

    def boxes(self, images: Tensor) -> Tensor:
        """S(I), or the whole image."""
        if self.detector is None:
            return torch.tensor([1.0, 1.0, 0.0, 0.0], device=images.device).expand(len(images), 4)
        boxes: Tensor = self.detector(images)
        return boxes

    def crops(self, images: Tensor, boxes: Tensor) -> Tensor:
        """I_crop."""
        return pg.crop(images, boxes, (self.config.crop, self.config.crop))

    def draw(self, codes: Codes, boxes: Tensor) -> Drawn:
        """D(codes), put back into the boxes: the image repeats its edge outside, the mask is 0 there."""
        assert self.decoder is not None  # who draws has one
        image, mask = self.decoder(codes)
        size = (self.config.size, self.config.size)
        return Drawn(pg.paste(image, boxes, size, "border"), pg.paste(mask, boxes, size))

    def points(self, variant: Tensor) -> Tensor:
        """Θ(I_tv): (B, J, 2) in units of the box."""
        said: Tensor = self.theta(variant).float().unflatten(1, (-1, 2))
        return said

    def forward(self, images: Tensor) -> Said:
        """The test-time path: single images (B, 3, S, S) in [0, 1]."""
        boxes = self.boxes(images)
        codes = self.encoder(self.crops(images, boxes))
        points = self.points(codes.variant)
        joints = self.phi(codes.variant, points)
        mask = None if self.decoder is None else self.draw(codes, boxes).mask
        return Said(boxes, codes, mask, joints, out_of_box(points, boxes, self.config.size))
