"""The networks of 002 (§3.1) and its fixed transformations T_fk, T_c and T_m between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom.frames import rotate
from posegeom_models.backbones import (
    ConvolutionStack,
    KeyPyramid,
    ResNetTrunk,
    check_trunk,
    halvings_of,
    key_points,
    key_points_both_ways,
)
from posegeom_models.poses import Pose, branch, lifting_branch
from posegeom_models.ranges import check_choices, check_numbers

ABLATIONS = ("none", "without_fk", "without_maps")


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the networks; the defaults are the paper's where it gives one.

    Args:
        size: side of the images in pixels.
        stride: of f_2D and f_a, a power of two; the paper's is 16 (224 pixels: 14 x 14 maps).
        backbone: of E_P, a ResNet of torchvision up to res4f; or "pyramid", a small network for training from random
            weights (`posegeom_models.backbones.KeyPyramid`), whose first J heatmaps are those of the joints.
        weights: of the backbone; the paper's are ImageNet's ("IMAGENET1K_V1"), None downloads nothing.
        width: of the pyramid.
        pool: a ResNet's maps are averaged to pool x pool before the fully connected branches; not given in the paper.
        hidden: width of the branches' hidden layer; not given in the paper.
        appearance_widths: of E_A's ten convolutions; the last one is the paper's 512.
        pose_channels: maps of f_2D.
        decoder_widths: of D_I before each doubling of its resolution; not given in the paper.
        sigma: of the heatmaps, in cells of the maps; not given in the paper.
        limb_width: σ_y of the affinity maps, in cells; not given in the paper.
        limb_stretch: α of the affinity maps; not given in the paper.
        focal: of the fixed camera, in image sides; not given in the paper.
        distance: of the fixed camera from the pelvis in metres, if the translation is not predicted.
        translation: predict the translation too. The paper's six numbers are three angles: its people are in the middle
            of their crops, at one size.
        reach: what stays in the image whatever the translation is: a sphere round the pelvis of so many metres; None
            for one that holds every pose. That one would keep the camera too far away for people who fill their crops.
        lifted: the branches see the joints' key points and nothing else of the image, so that they can also learn from
            poses without images (`posegeom_models.ksp.imagined`). The paper: False.
        mirrored: at test time, key points are the means of those of the image and of its mirror image. Needs lifted.
            The paper: False.
        ablation: "without_fk" predicts the joints directly, "without_maps" replaces T_m by a network (Table 4).
    """

    size: int = 224
    stride: int = 16
    backbone: str = "resnet50"
    width: int = 24
    weights: str | None = None
    pool: int = 1
    hidden: int = 1024
    appearance_widths: tuple[int, ...] = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512)
    pose_channels: int = 128
    decoder_widths: tuple[int, ...] = (256, 128, 64, 32)
    sigma: float = 0.7
    limb_width: float = 0.5
    limb_stretch: float = 0.3
    focal: float = 2.0
    distance: float = 4.5
    translation: bool = False
    reach: float | None = None
    lifted: bool = False
    mirrored: bool = False
    ablation: str = "none"

    def __post_init__(self) -> None:
        check_choices(self, ablation=ABLATIONS)
        halvings = halvings_of(self.size, self.stride, self.decoder_widths)
        check_trunk(self.backbone, self.weights, self.lifted, self.mirrored)
        if len(self.appearance_widths) < halvings:
            raise ValueError(f"appearance_widths must be at least {halvings}, got {self.appearance_widths}")
        for name in ("appearance_widths", "decoder_widths"):
            if any(width < 1 or width % 8 for width in getattr(self, name)):
                # A normalisation by groups follows each of these convolutions.
                raise ValueError(f"{name} must be multiples of 8, got {getattr(self, name)}")
        check_numbers(self, "at least 1", "width", "pool", "hidden", "pose_channels")
        check_numbers(self, "positive", "sigma", "limb_width", "limb_stretch", "focal", "distance")
        if self.reach is not None and not 0 < self.reach < math.inf:
            raise ValueError(f"reach must be above 0, or null for the farthest that a joint can be, got {self.reach}")


class PoseEncoder(nn.Module):
    """E_P, T_fk and T_c: image to v_k and c, to p_3D, to p_2D (§3.1 a, b)."""

    def __init__(self, config: NetworkConfig, skeleton: pg.Skeleton) -> None:
        super().__init__()
        self.config, self.skeleton = config, skeleton
        joints = len(skeleton.joints)
        self.trunk: ResNetTrunk | KeyPyramid
        if config.backbone == "pyramid":
            self.trunk = KeyPyramid(config.width, joints if config.lifted else 2 * joints)
            features = 2 * joints if config.lifted else self.trunk.channels
        else:
            self.trunk = ResNetTrunk(config.backbone, "layer3", config.weights)
            features = self.trunk.channels * config.pool**2
        # 13 directions and the hip angle (v_k in R^40), or the joints themselves.
        self.directions = (joints - 4, 3) if config.ablation != "without_fk" else (joints, 3)
        kinematic = self.directions[0] * 3 + (1 if config.ablation != "without_fk" else 0)
        make = lifting_branch if config.lifted else branch
        self.local_kinematics = make(features, config.hidden, kinematic)
        self.camera_parameters = make(features, config.hidden, 9 if config.translation else 6)
        self.camera = pg.PerspectiveCamera(config.focal * config.size, None, (config.size, config.size))
        self.reach = skeleton.reach() if config.reach is None else config.reach

    def forward(self, images: Tensor) -> Pose:
        """Images (B, 3, H, W) in [0, 1]."""
        heat = None
        if isinstance(self.trunk, KeyPyramid):
            features, logits = self.trunk(images)
            heat = logits[:, : len(self.skeleton.joints)]
            if self.config.lifted:
                return self.lift(key_points(heat, self.config.size))._replace(heat=heat)
        else:
            features = nn.functional.adaptive_avg_pool2d(self.trunk(images), self.config.pool).flatten(1)
        return self._pose(features)._replace(heat=heat)

    def both_ways(self, images: Tensor) -> Pose:
        """The pose for the means of the key points of images and of their mirror images; `config.lifted` only."""
        assert isinstance(self.trunk, KeyPyramid)  # the configuration's check
        points, heat = key_points_both_ways(self.trunk, images, self.skeleton)
        return self.lift(points)._replace(heat=heat)

    def beside(self, images: Tensor, points: Tensor) -> tuple[Pose, Pose]:
        """The poses in images (B, 3, H, W), and those that the branches take key points (M, J, 2) for, in one pass.

        For `config.lifted` only. The same as `forward` and `lift` one after the other, in less time.
        """
        assert isinstance(self.trunk, KeyPyramid)  # the configuration's check
        _, heat = self.trunk(images)
        both = self.lift(torch.cat((key_points(heat, self.config.size), points)))
        count = len(images)
        seen, given = (
            Pose(both.joints[rows], both.rotation[rows], both.translation[rows], both.points[rows])
            for rows in (slice(count), slice(count, None))
        )
        return seen._replace(heat=heat), given

    def lift(self, points: Tensor) -> Pose:
        """Key points (B, J, 2) in pixels to the pose that the branches take them for; `config.lifted` only."""
        return self._pose((points / self.config.size - 0.5).flatten(1))

    def _pose(self, features: Tensor) -> Pose:
        kinematic, view = self.local_kinematics(features).float(), self.camera_parameters(features).float()
        if self.config.ablation == "without_fk":
            joints = kinematic.unflatten(-1, self.directions)
            joints = joints - joints[:, self.skeleton.root].unsqueeze(1)
        else:
            directions, hip = kinematic[:, 1:].unflatten(-1, self.directions), kinematic[:, 0]
            joints = pg.forward_kinematics(directions, hip, self.skeleton, frame="canonical")
        # The first pair is (0, 1) at rest: the camera sees the person's face.
        pairs = view[:, :6].unflatten(-1, (3, 2)) + torch.tensor([0.0, 1.0], device=view.device)
        rotation = pg.camera_rotation(*pg.angles_from_sincos(pairs).unbind(-1))
        if self.config.translation:
            translation = pg.bounded_translation(view[:, 6:], self.camera, self.reach)
        else:
            translation = torch.tensor([0.0, 0.0, self.config.distance], device=view.device).expand(len(view), 3)
        points, _ = pg.project(rotate(rotation.unsqueeze(1), joints) + translation.unsqueeze(1), self.camera)
        return Pose(joints, rotation, translation, points)


class SpatialMaps(nn.Module):
    """T_m and the two convolutions after it: p_2D to f_2D at the decoder's resolution (§3.1c)."""

    def __init__(self, config: NetworkConfig, skeleton: pg.Skeleton) -> None:
        super().__init__()
        self.config, self.skeleton = config, skeleton
        self.side = config.size // config.stride
        joints, channels = len(skeleton.joints), config.pose_channels
        if config.ablation == "without_maps":
            self.drawn = 8
            self.network = nn.Sequential(
                nn.Linear(2 * joints, 512), nn.ReLU(inplace=True), nn.Linear(512, self.drawn * self.side**2)
            )
        else:
            self.drawn = joints + len(skeleton.bones)
        self.convolutions = nn.Sequential(
            nn.Conv2d(self.drawn, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def draw(self, points: Tensor) -> Tensor:
        """T_m of points (B, J, 2) in pixels of the image: maps (B, J + N, H/stride, W/stride) of joints, then limbs."""
        config, size = self.config, (self.side, self.side)
        if config.ablation == "without_maps":
            maps: Tensor = self.network((points / config.size - 0.5).flatten(1)).unflatten(-1, (self.drawn, *size))
            return maps
        cells = (points + 0.5) / config.stride - 0.5  # pixel centres are integers at every resolution
        joints = pg.joint_heatmaps(cells, size, config.sigma)
        limbs = pg.limb_maps(cells, self.skeleton.bones, size, config.limb_width, config.limb_stretch)
        return torch.cat((joints, limbs), dim=1)

    def forward(self, points: Tensor) -> Tensor:
        """Points (B, J, 2) in pixels of the image, to (B, 128, H/stride, W/stride)."""
        maps: Tensor = self.convolutions(self.draw(points))
        return maps


class AppearanceEncoder(ConvolutionStack):
    """E_A: ten convolutions from the image to f_a, 512 maps at stride 16 in the paper."""

    def __init__(self, config: NetworkConfig) -> None:
        count = len(config.appearance_widths)
        halvings = len(config.decoder_widths)
        apart = count // halvings
        strides = [2 if place % apart == 0 and place < halvings * apart else 1 for place in range(count)]
        super().__init__(3, config.appearance_widths, strides)


class Decoder(nn.Module):
    """D_I: f_2D and f_a to an image; the background joins at full resolution, "towards the end" (§3.1)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels = config.pose_channels + config.appearance_widths[-1]
        stages: list[nn.Module] = []
        for width in config.decoder_widths:
            stages += [ConvolutionStack(channels, (width,), (1,)), nn.Upsample(scale_factor=2, mode="bilinear")]
            channels = width
        self.stages = nn.Sequential(*stages)
        self.fusion = nn.Sequential(
            nn.Conv2d(channels + 3, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 3, 1),
        )

    def forward(self, pose_maps: Tensor, appearance: Tensor, background: Tensor) -> Tensor:
        """f_2D (B, 128, h, w), f_a (B, 512, h, w) and B_t (B, 3, H, W), to an image (B, 3, H, W)."""
        maps = self.stages(torch.cat((pose_maps, appearance), dim=1))
        image: Tensor = torch.sigmoid(self.fusion(torch.cat((maps, background), dim=1)))
        return image


class KspNetworks(nn.Module):
    """All networks of 002 by their names there."""

    def __init__(self, config: NetworkConfig, skeleton: pg.Skeleton = pg.BODY_17) -> None:
        super().__init__()
        self.config, self.skeleton = config, skeleton
        self.pose_encoder = PoseEncoder(config, skeleton)
        self.appearance_encoder = AppearanceEncoder(config)
        self.spatial_maps = SpatialMaps(config, skeleton)
        self.decoder = Decoder(config)

    def forward(self, images: Tensor) -> Pose:
        """The test-time path: an image to its pose."""
        encoder = self.pose_encoder
        pose: Pose = encoder.both_ways(images) if self.config.mirrored else encoder(images)
        return pose
