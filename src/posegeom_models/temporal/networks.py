"""The networks of 003 (§3.1, S.1.1): S, E_tv and E_ti, D; what reads poses from the codes is in `regressors`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.backbones import ConvolutionStack, KeyPyramid, ResNetTrunk
from posegeom_models.ranges import check_choices, check_numbers
from posegeom_models.temporal.features import FEATURES, FeatureNetwork
from posegeom_models.temporal.regressors import REGRESSORS, PoseRegressor, out_of_box, regressor

STACK, PYRAMID = "stack", "pyramid"
"""A detector and an encoder for training from random weights, beside torchvision's ResNets."""


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
        first_extent: half extents (s_x, s_y) of the boxes at the start of the training. Not given.
        crop: side of the crops in pixels.
        encoder: of E_tv and E_ti, a ResNet of torchvision; "pyramid", a small network whose features are key points
            (`posegeom_models.backbones.KeyPyramid`); or "stack", a few convolutions whose maps are read place by place.
        weights: of the encoder and a ResNet detector, a name of torchvision's ("IMAGENET1K_V1"); a file is the
            encoder's alone; None for random ones. Not given.
        width: of the pyramid and the stack.
        keys: key points of the pyramid.
        time_variant: length of I_tv; 600 on Human3.6M and Ski, 900 on MPI-INF-3DHP and Diving.
        time_invariant: length of I_ti.
        split: two codes; else one of their lengths together, for all baselines without latent split.
        decoder: reconstruct the image.
        maps: of each code's fully connected layer in D.
        decoder_hidden: width of a hidden layer between each code and its maps; 0 for none, as in the paper.
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
        weak_hidden: width of Θ's layers, where there are weak labels.
        regressor_dropout: of the plain Φ.
        standardised: Φ gets every value of I_tv in units of its deviation among the labelled frames. The paper: no.
        with_points: give Φ the predicted 2D pose too, where there are weak labels.
    """

    size: int = 500
    reduction: int = 4
    detector: str = "resnet18"
    smallest: float = 0.2
    largest: float = 1.0
    border: float = 0.8
    first_extent: tuple[float, float] = (0.7, 0.7)
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
    decoder_hidden: int = 0
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
    weak_hidden: int = 1024
    regressor_dropout: float = 0.5
    standardised: bool = False
    with_points: bool = False

    def __post_init__(self) -> None:
        sizes = ("size", "reduction", "crop", "width", "keys", "time_variant", "time_invariant", "maps", "hidden")
        check_numbers(self, "at least 1", *sizes, "weak_hidden", "decoder_depth")
        check_numbers(self, "at least 0", "decoder_hidden")
        if self.crop % 2 ** len(self.decoder_widths):
            raise ValueError(f"crop must be a multiple of 2^{len(self.decoder_widths)}, got {self.crop}")
        if not all(0 < self.smallest < first < self.largest for first in self.first_extent):
            raise ValueError(
                "smallest, first_extent and largest must be positive and ascending, got "
                f"{self.smallest}, {self.first_extent} and {self.largest}"
            )
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown:
            raise ValueError(f"features must be of {', '.join(FEATURES)}, got {unknown[0]!r}")
        check_choices(self, regressor=REGRESSORS)
        if self.weights is not None and {self.encoder, self.detector} <= {"stack", "none"}:
            raise ValueError(f"weights are of a ResNet, and there is none: leave out {self.weights!r}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")
        check_numbers(self, "in [0, 1)", "dropout", "regressor_dropout")


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
        if config.detector == STACK:
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
        share = (torch.tensor(config.first_extent) - config.smallest) / (config.largest - config.smallest)
        nn.init.zeros_(self.boxes.weight)
        with torch.no_grad():
            self.boxes.bias.zero_()
            self.boxes.bias[:2] = share.logit()

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
        self.trunk: ConvolutionStack | KeyPyramid | ResNetTrunk
        if config.encoder == PYRAMID:
            self.trunk = KeyPyramid(config.width, config.keys)
            channels = self.trunk.channels
        elif config.encoder == STACK:
            w = config.width
            self.trunk = ConvolutionStack(3, (w, 2 * w, 2 * w, 4 * w, 4 * w), (2, 2, 1, 2, 1), groups=0)
            channels = 4 * w * (-(-config.crop // 8)) ** 2
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
        if isinstance(self.trunk, ConvolutionStack):
            placed: Tensor = self.trunk(crops).flatten(1).float()
            return placed
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
        self.spread = nn.ModuleList()
        for length, maps in lengths:
            first: list[nn.Module] = []
            if config.decoder_hidden:
                # Of codes alone, 16 x 16 cells and few convolutions after them draw little but a sum of templates.
                first = [nn.Linear(length, config.decoder_hidden), nn.ReLU(inplace=True)]
                length = config.decoder_hidden
            last = [nn.Linear(length, maps * area), nn.ReLU(inplace=True), nn.Dropout(config.dropout)]
            self.spread.append(nn.Sequential(*first, *last))
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


class Drawn(NamedTuple):
    """What D makes of codes, in the image.

    Attributes:
        image: (B, 3, S, S) D put back into its box.
        mask: (B, 1, S, S) M, 0 outside the box.
    """

    image: Tensor
    mask: Tensor


class Outputs(NamedTuple):
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
            self.theta = regressor("residual", length, 2 * joints, config.weak_hidden, 0.0)
        self.phi = self.fresh_phi()
        self.features: FeatureNetwork | None = None
        if compared and config.decoder and config.features:
            self.features = FeatureNetwork(config.features, config.feature_weights)
        self.discriminator: nn.Module | None = None
        if adversary:
            self.discriminator = nn.Sequential(
                nn.Linear(2 * length, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 1)
            )

    def fresh_phi(self, code: str = "variant") -> PoseRegressor:
        """Φ with random weights; one for the code "invariant" gets no 2D pose, which comes from the other code."""
        config, joints = self.config, len(self.skeleton.joints)
        read = self.encoder.variant if code == "variant" else self.encoder.invariant
        assert read is not None  # who asks for it has split codes
        with_points = config.with_points and code == "variant"
        inputs = read.out_features + (2 * joints if with_points else 0)
        layers = regressor(config.regressor, inputs, 3 * joints, config.hidden, config.regressor_dropout)
        return PoseRegressor(layers, joints, with_points, config.standardised)

    def boxes(self, images: Tensor) -> Tensor:
        """S(I), or the whole image."""
        if self.detector is None:
            return torch.tensor([1.0, 1.0, 0.0, 0.0], device=images.device).expand(len(images), 4)
        boxes: Tensor = self.detector(images)
        return boxes

    def crops(self, images: Tensor, boxes: Tensor) -> Tensor:
        """I_crop."""
        size = (self.config.crop, self.config.crop)
        if self.detector is None and images.shape[-1] > self.config.crop:
            # `pg.crop` would take every value of the whole image's crop from four of its many pixels.
            return nn.functional.adaptive_avg_pool2d(images, size)
        return pg.crop(images, boxes, size)

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

    def forward(self, images: Tensor) -> Outputs:
        """The test-time path: single images (B, 3, S, S) in [0, 1]."""
        boxes = self.boxes(images)
        codes = self.encoder(self.crops(images, boxes))
        points = self.points(codes.variant)
        joints = self.phi(codes.variant, points)
        mask = None if self.decoder is None else self.draw(codes, boxes).mask
        return Outputs(boxes, codes, mask, joints, out_of_box(points, boxes, self.config.size))
