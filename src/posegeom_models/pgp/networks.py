"""The networks of 000 (§3.2; 004 §4) and its fixed transformations T_fk, T_c and T_s between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom.frames import rotate
from posegeom_models.backbones import (
    STAGES,
    ConvolutionStack,
    KeyPyramid,
    ResNetTrunk,
    key_points,
    key_points_both_ways,
)
from posegeom_models.pgp.configuration import NetworkConfig
from posegeom_models.poses import Pose, branch, lifting_branch, standing

CLEAR = 6.0
"""Logit of a full part in ŷ before training: a probability of 97 % among 13 classes."""


class Residual(nn.Module):
    """Res(a, b, c): the block of ResNet-50 with 1 x 1, 3 x 3 and 1 x 1 convolutions of a, b and c maps (004 Fig. 3).

    Args:
        channels: maps that come in.
        widths: a, b and c.
        stride: of the 3 x 3 convolution.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int], stride: int = 1) -> None:
        super().__init__()
        first, second, third = widths
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, first, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True)),
            *(nn.Conv2d(first, second, 3, stride, 1, bias=False), nn.BatchNorm2d(second), nn.ReLU(inplace=True)),
            *(nn.Conv2d(second, third, 1, bias=False), nn.BatchNorm2d(third)),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != third:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, third, 1, stride, bias=False), nn.BatchNorm2d(third))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, channels, H, W) to (B, c, H/stride, W/stride)."""
        return nn.functional.relu(self.layers(maps) + self.shortcut(maps))


class ChannelwiseFC(nn.Module):
    """A fully connected layer for every map, which mixes all places of it and no other map's (004 Fig. 3).

        out[m, u] = Σ_u' W[m, u, u'] in[m, u'] + b[m, u]

    What is at one end of the image can so be of use at the other. Before training every map says everywhere the mean of
    a region of its own, whatever is there: nearly the same for all poses of a person, and another for other people.

    Args:
        channels: number of maps m.
        side: height and width n of the maps; there are m n⁴ weights.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        places = side * side
        # Regions are Gaussians round a random place of the middle, a fifth of the side wide.
        row, column = (torch.arange(places) // side + 0.5) / side, (torch.arange(places) % side + 0.5) / side
        middle = 0.2 + 0.6 * torch.rand(2, channels, 1)
        region = torch.softmax(-((row - middle[0]) ** 2 + (column - middle[1]) ** 2) / (2 * 0.2**2), dim=-1)
        self.weight = nn.Parameter(region.unsqueeze(1).repeat(1, places, 1))
        self.bias = nn.Parameter(torch.zeros(channels, places))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, m, n, n) to the same shape."""
        mixed = torch.einsum("muv,bmv->bmu", self.weight, maps.flatten(2)) + self.bias
        return mixed.view_as(maps)


class Standardized(nn.BatchNorm1d):
    """Every map and place with mean 0 and deviation 1 over the people of a batch: a code that is never constant."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__(channels * side * side, affine=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, m, n, n) to the same shape."""
        return super().forward(maps.float().flatten(1)).view_as(maps)  # in full precision under autocast, too


class Encoder(nn.Module):
    """E with T_fk and T_c: an image to the pose (v_3D and c, then p_3D and q) and to the appearance a (§3.2a)."""

    def __init__(self, config: NetworkConfig, skeleton: pg.Skeleton) -> None:
        super().__init__()
        if skeleton.lengths is None:
            raise ValueError(f"skeleton must have bone lengths, got {skeleton.name} without them")
        if skeleton.trunk is None:
            raise ValueError(f"skeleton must have a trunk, got {skeleton.name} without one")
        self.config, self.skeleton = config, skeleton
        joints = len(skeleton.joints)
        self.trunk: ResNetTrunk | KeyPyramid
        self.stem: nn.Module = nn.Identity()
        self.pose_maps: nn.Module = nn.Identity()
        if config.backbone == "pyramid":
            self.trunk = KeyPyramid(config.width, joints if config.lifted else 2 * joints)
            halvings = len(config.decoder_widths)
            strides = [2 if place < halvings else 1 for place in range(len(config.appearance_widths))]
            self.stem = ConvolutionStack(3, config.appearance_widths, strides)
            channels = config.appearance_widths[-1]
            features = 2 * joints + 3 if config.lifted else self.trunk.channels
        else:
            self.trunk = ResNetTrunk(config.backbone, STAGES[config.stride.bit_length() - 3], config.weights)
            channels = self.trunk.channels
            self.pose_maps = Residual(channels, _widths(channels, config), stride=2)
            features = channels * config.pool**2
        self.direct = config.ablation == "without_fk"
        # Sine and cosine of the hip angle and 13 directions (004 §2), or the joints themselves.
        count = 3 * joints if self.direct else 2 + 3 * len(skeleton.free_joints)
        make = lifting_branch if config.lifted else branch
        self.local_vectors = make(features, config.hidden, count)
        # Three pairs of sine and cosine, and three restricted translations.
        self.camera_parameters = make(features, config.hidden, 9)
        self.appearance_maps = nn.Sequential(
            Residual(channels, _widths(channels, config)),
            nn.Conv2d(channels, config.appearance_channels, 1),
            nn.ReLU(inplace=True),
            ChannelwiseFC(config.appearance_channels, config.size // config.stride),
            Standardized(config.appearance_channels, config.size // config.stride)
            if config.standardized
            else nn.Identity(),
        )
        self.camera = pg.PerspectiveCamera(config.focal * config.size, None, (config.size, config.size))
        self.radius = skeleton.reach() if config.radius is None else config.radius
        # What the branches' outputs, near 0 at first, are added to: a person who stands upright, seen from the front.
        joints_at_rest = standing(skeleton)
        directions = pg.local_directions(joints_at_rest, skeleton).directions
        facing = pg.camera_rotation(*torch.zeros(3, 1).unbind()).squeeze(0)
        self.register_buffer("rest", torch.tensor([0.0, 1.0]), persistent=False)  # sine and cosine
        self.register_buffer("rest_directions", torch.atanh(0.9 * directions), persistent=False)
        self.register_buffer("rest_in_camera", rotate(facing, joints_at_rest), persistent=False)
        self.register_buffer("camera_axes", torch.eye(3), persistent=False)

    def forward(self, images: Tensor) -> tuple[Pose, Tensor]:
        """Pose and appearance of images (B, 3, H, W) in [0, 1]."""
        if isinstance(self.trunk, ResNetTrunk):
            maps = self.trunk(images)
            return self._pose(*self._features(maps)), self.appearance_maps(maps).float()
        return self.pose(images), self.appearance(images)

    def pose(self, images: Tensor) -> Pose:
        """E_p alone."""
        if isinstance(self.trunk, ResNetTrunk):
            return self._pose(*self._features(self.trunk(images)))
        features, logits = self.trunk(images)
        heat = logits[:, : len(self.skeleton.joints)]
        if not self.config.lifted:
            return self._pose(features, heat)
        return self.lift(key_points(heat, self.config.size))._replace(heat=heat)

    def both_ways(self, images: Tensor) -> Pose:
        """The pose for the means of the key points of images and of their mirror images; `config.lifted` only."""
        assert isinstance(self.trunk, KeyPyramid)  # the configuration's check
        points, heat = key_points_both_ways(self.trunk, images, self.skeleton)
        return self.lift(points)._replace(heat=heat)

    def lift(self, points: Tensor) -> Pose:
        """Key points (B, J, 2) in pixels to the pose that the branches take them for; `config.lifted` only.

        The branches see the figure at one size and in one place, and beside it where it is and how large.
        """
        place = points / self.config.size - 0.5
        middle = place.mean(1)
        figure = place - middle.unsqueeze(1)
        extent = (figure.square().sum(-1).mean(-1, keepdim=True) + 1e-6).sqrt()
        figure = figure / extent.unsqueeze(-1)
        return self._pose(torch.cat((figure.flatten(1), middle, extent.log()), dim=1), None)

    def appearance(self, images: Tensor) -> Tensor:
        """E_a alone: a (B, Ch, H/stride, W/stride)."""
        maps = self.trunk(images) if isinstance(self.trunk, ResNetTrunk) else self.stem(images)
        appearance: Tensor = self.appearance_maps(maps)
        return appearance.float()

    def _features(self, maps: Tensor) -> tuple[Tensor, None]:
        pooled = nn.functional.adaptive_avg_pool2d(self.pose_maps(maps), self.config.pool)
        return pooled.flatten(1), None

    def _pose(self, features: Tensor, heat: Tensor | None) -> Pose:
        local, view = self.local_vectors(features).float(), self.camera_parameters(features).float()
        rest = self.get_buffer("rest")
        rotation = pg.camera_rotation(
            *pg.angles_from_sincos(torch.tanh(view[:, :6].unflatten(-1, (3, 2)) + rest)).unbind(-1)
        )
        if self.direct:
            joints = local.unflatten(-1, (-1, 3)) + self.get_buffer("rest_in_camera")
            joints = joints - joints[:, self.skeleton.root].unsqueeze(1)
            # They are in the camera's axes already.
            rotation = self.get_buffer("camera_axes").expand_as(rotation)
        else:
            hip = pg.angles_from_sincos(torch.tanh(local[:, None, :2] + rest)).squeeze(-1)
            directions = torch.tanh(local[:, 2:].unflatten(-1, (-1, 3)) + self.get_buffer("rest_directions"))
            joints = pg.forward_kinematics(directions, hip, self.skeleton, frame="limb")
        return self.seen(joints, rotation, self.translation(view[:, 6:]))._replace(heat=heat)

    def translation(self, raw: Tensor) -> Tensor:
        """The restricted translation (B, 3) of unbounded numbers (B, 3)."""
        return pg.bounded_translation(raw, self.camera, self.radius, self.config.far)

    def posed(self, canonical: Tensor, rotation: Tensor, translation: Tensor) -> Pose:
        """A pose from outside, such as p_z, in the axes that this encoder predicts: canonical ones, or the camera's."""
        if not self.direct:
            return self.seen(canonical, rotation, translation)
        same = self.get_buffer("camera_axes").expand_as(rotation)
        return self.seen(rotate(rotation.unsqueeze(1), canonical), same, translation)

    def seen(self, joints: Tensor, rotation: Tensor, translation: Tensor) -> Pose:
        """T_c: p_3D (B, J, 3) through cameras (B, 3, 3), (B, 3) to q."""
        points, _ = pg.project(in_view(joints, rotation, translation), self.camera)
        return Pose(joints, rotation, translation, points)


def in_view(joints: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Joints (B, J, 3) in the axes and at the distance of cameras (B, 3, 3), (B, 3), in full precision."""
    # A matrix product would be one of half precision under autocast.
    return rotate(rotation.unsqueeze(1), joints) + translation.unsqueeze(1)


def _widths(channels: int, config: NetworkConfig) -> tuple[int, int, int]:
    return max(1, channels // config.squeeze), max(1, channels // config.squeeze), channels


class Head(nn.Module):
    """D_I or D_seg: the last doubling of the resolution and the output's maps, with p beside every layer's input."""

    def __init__(self, channels: int, parts: int, outputs: int, config: NetworkConfig) -> None:
        super().__init__()
        width = config.decoder_widths[-1]
        self.coarse = Residual(channels + parts, _widths(width, config))
        self.fine = Residual(width + parts, _widths(width, config))
        self.output = nn.Conv2d(width + parts, outputs, 1)

    def forward(self, maps: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Maps of D (B, C, H/2, W/2) and p of `Decoder.levels`, to (B, outputs, H, W)."""
        coarse, fine = levels[-2:]
        maps = _doubled(self.coarse(_beside(maps, coarse)))
        output: Tensor = self.output(_beside(self.fine(_beside(maps, fine)), fine))
        return output.float()


class Decoder(nn.Module):
    """D, D_I and D_seg: appearance a and part maps p to an image Î and a segmentation ŷ (§3.2b, 004 Fig. 3).

    The part maps join the maps at every level, in its resolution.
    """

    def __init__(self, config: NetworkConfig, parts: int) -> None:
        super().__init__()
        channels = config.appearance_channels
        stages = []
        for width in config.decoder_widths[:-1]:
            stages.append(Residual(channels + parts, _widths(width, config)))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.image_head = Head(channels, parts, 3, config)
        self.parts_head = Head(channels, parts, parts + 1, config)
        self._begin_with_the_puppet(parts, config.background)

    def _begin_with_the_puppet(self, parts: int, background: float) -> None:
        """Let ŷ be nearly p at first, and Î a grey puppet before BG_c: how people look is left to be learnt."""
        mask, image = self.parts_head.output, self.image_head.output
        assert mask.bias is not None  # the layers have one
        assert image.bias is not None
        with torch.no_grad():
            mask.bias.zero_()
            mask.bias[parts] = CLEAR
            mask.weight[:, -parts:, 0, 0] = CLEAR * torch.eye(parts + 1, parts)
            mask.weight[parts, -parts:] = -CLEAR
            behind = torch.tensor(background).clamp(0.02, 0.98).logit()
            image.bias.fill_(behind)
            image.weight[:, -parts:] = -behind

    def forward(self, parts: Tensor, appearance: Tensor) -> tuple[Tensor, Tensor]:
        """Of p (B, L, H, W) and a (B, Ch, h, w): Î (B, 3, H, W) in [0, 1] and ŷ (B, L + 1, H, W), background last."""
        levels = self.levels(parts)
        maps = self.common(levels, appearance)
        return self.image_head(maps, levels).sigmoid(), self.parts_head(maps, levels).softmax(1)

    def image(self, parts: Tensor, appearance: Tensor) -> Tensor:
        """Î alone."""
        levels = self.levels(parts)
        drawn: Tensor = self.image_head(self.common(levels, appearance), levels)
        return drawn.sigmoid()

    def segmentation(self, parts: Tensor, appearance: Tensor) -> Tensor:
        """ŷ alone."""
        levels = self.levels(parts)
        said: Tensor = self.parts_head(self.common(levels, appearance), levels)
        return said.softmax(1)

    def levels(self, parts: Tensor) -> list[Tensor]:
        """The part maps p (B, L, H, W) at all resolutions of D and its heads, from the appearance's to its own."""
        levels = [parts]
        for _ in range(len(self.stages) + 1):
            levels.insert(0, nn.functional.avg_pool2d(levels[0], 2))
        return levels

    def common(self, levels: Sequence[Tensor], appearance: Tensor) -> Tensor:
        """D alone: the maps that D_I and D_seg begin with."""
        maps = appearance
        for stage, parts in zip(self.stages, levels[:-2], strict=True):
            maps = _doubled(stage(_beside(maps, parts)))
        return maps


def _beside(maps: Tensor, parts: Tensor) -> Tensor:
    return torch.cat((maps, parts.to(maps.dtype)), dim=1)


def _doubled(maps: Tensor) -> Tensor:
    return nn.functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def puppet_of(config: NetworkConfig, skeleton: pg.Skeleton) -> pg.Puppet:
    """The template: the file's, or the built-in capsules.

    Raises:
        ValueError: the file has another skeleton's, or holds no puppet.
    """
    size = (config.size, config.size)
    puppet = pg.Puppet.capsules(skeleton, size) if config.puppet is None else pg.Puppet.load(config.puppet)
    if puppet.skeleton.joints != skeleton.joints:
        raise ValueError(f"{config.puppet} is a puppet of {puppet.skeleton.name}, and {skeleton.name} is wanted")
    return puppet


class PgpNetworks(nn.Module):
    """E, D and the puppet of 000."""

    def __init__(self, config: NetworkConfig, skeleton: pg.Skeleton = pg.BODY_17) -> None:
        super().__init__()
        self.config, self.skeleton = config, skeleton
        puppet = puppet_of(config, skeleton)
        self.joints, self.parts = puppet.joints, puppet.parts
        for name in ("shape", "uncertainty", "anchors", "anchor_counts"):
            self.register_buffer(f"puppet_{name}", getattr(puppet, name))
        self.register_buffer("share_of_limbs", _share_of_limbs(puppet), persistent=False)
        self.encoder = Encoder(config, skeleton)
        self.decoder = Decoder(config, len(puppet.parts))

    @property
    def puppet(self) -> pg.Puppet:
        """The template, where the networks are."""
        return pg.Puppet(
            self.get_buffer("puppet_shape"),
            self.get_buffer("puppet_uncertainty"),
            self.get_buffer("puppet_anchors"),
            self.get_buffer("puppet_anchor_counts"),
            self.joints,
            self.parts,
            self.skeleton,
        )

    @property
    def pixels_of_a_metre(self) -> Tensor:
        """Of the template, by its limbs: a scalar. A checkpoint's template may be another than the file's."""
        ends = self.get_buffer("puppet_anchors")
        lengths: Tensor = (ends[:, 1] - ends[:, 0]).norm(dim=-1)
        return (lengths * self.get_buffer("share_of_limbs")).sum()

    def drawn(self, pose: Pose, depth: Tensor | None = None) -> pg.PuppetSegmentation:
        """T_s: the puppet in a pose, with w_fg and w_unc (§3.1).

        Args:
            pose: q, and where the camera is.
            depth: (B, J) of the joints in metres, that say which part is before which; None for the pose's own.
        """
        config, camera, puppet = self.config, self.encoder.camera, self.puppet
        own = in_view(pose.joints, pose.rotation, pose.translation)[..., 2]
        # A limb far away is as much thinner as it is shorter: output pixels of a metre over those of the template.
        focal = config.focal * config.size / pose.translation[:, 2:]
        width_scale = focal / config.size * puppet.shape.shape[-2] / self.pixels_of_a_metre
        depth = own if depth is None else depth
        return pg.puppet_segmentation(pose.points, depth, puppet, camera.size, width_scale=width_scale)

    def forward(self, images: Tensor) -> Pose:
        """The test-time path: an image to its pose."""
        return self.encoder.both_ways(images) if self.config.mirrored else self.encoder.pose(images)


def _share_of_limbs(puppet: pg.Puppet) -> Tensor:
    """(L,) what a pixel of each part's length adds to the pixels of a metre: 1/Σ metres for a limb, nothing for others.

    Limbs are the parts that hang on the two ends of a bone.
    """
    skeleton = puppet.skeleton
    assert skeleton.lengths is not None  # the encoder's check, for the same joints
    length_of = dict(zip(skeleton.bones, skeleton.lengths, strict=True))
    metres = torch.tensor([length_of.get((joints[0], joints[1]), 0.0) * (len(joints) == 2) for joints in puppet.joints])
    return (metres > 0).float() / metres.sum()
