"""The losses of 002 (§3.3), with the paper's names. Lengths are in metres and shares of the image's side.

Every consistency term says which side is the target: the target has no gradient, or a constant code would solve it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import posegeom as pg
from posegeom_models.ksp.networks import KspNetworks, Pose
from posegeom_models.training import statistics_kept


def supervised(pose: Pose, side: int, canonical: Tensor | None, points: Tensor) -> Mapping[str, Tensor]:
    """|p_3D − p_3D*| + |p_2D − p_2D*|, the terms that there are labels for: L_prior, and the 2D and 3D supervision.

    Args:
        pose: predicted.
        side: of the image.
        canonical: (B, J, 3) p_3D*, metres; None without 3D labels.
        points: (B, J, 2) p_2D*, pixels.
    """
    terms = {} if canonical is None else {"p_3D": (pose.joints - canonical).abs().mean()}
    return {**terms, "p_2D": (pose.points - points).abs().mean() / side}


def view_error(pose: Pose, joints: Tensor) -> Tensor:
    """|R_c p_3D − R_c* p_3D*|, a term that the paper does not have, for labels (B, J, 3) in the camera's axes.

    Of points alone the camera's angles are learnt slowly: a standing person has nearly the same ones from the front and
    from behind.
    """
    return (pose.in_camera - joints).abs().mean()


def heat_error(pose: Pose, points: Tensor, side: int, sigma: float = 0.7) -> Tensor:
    """Cross entropy of the joints' heatmaps against Gaussians at the labels (B, J, 2), in nats above its least value.

    A term that the paper does not have, for a pyramid trained from random weights.
    """
    assert pose.heat is not None  # the configuration's checks
    height, width = pose.heat.shape[-2:]
    cells = (points + 0.5) * (width / side) - 0.5
    target = pg.joint_heatmaps(cells, (height, width), sigma).flatten(2)
    target = target / target.sum(-1, keepdim=True).clamp(min=1e-6)
    log = pose.heat.flatten(2).log_softmax(-1)
    return (target * (target.clamp(min=1e-12).log() - log)).sum(-1).mean()


def l_paired(
    networks: KspNetworks, source: Tensor, target: Tensor, background: Tensor, lambda_1: float, lambda_2: float
) -> Mapping[str, Tensor]:
    """L_P = |I_t − Î_t| + λ₁ |p_2D − p̂_2D| + λ₂ |f_a − f̂_a| (§3.3a): I_s gives appearance, I_t pose, B_t background.

    The re-encoded p̂_2D and f̂_a are drawn to p_2D and f_a.
    """
    pose = networks.pose_encoder(target)
    appearance = networks.appearance_encoder(source)
    image = networks.decoder(networks.spatial_maps(pose.points), appearance, background)
    with statistics_kept(networks.pose_encoder):
        again = networks.pose_encoder(image)
    side = networks.config.size
    return {
        "image": (target - image).abs().mean(),
        "p_2D": lambda_1 * (pose.points.detach() - again.points).abs().mean() / side,
        "f_a": lambda_2 * (appearance.detach() - networks.appearance_encoder(image)).abs().mean(),
    }


class Transformation(NamedTuple):
    """T of §3.3b for a batch: a flip of the image, or a turn about its middle.

    Attributes:
        flip: (B,) bool.
        angle: (B,) radians, clockwise in the image.
    """

    flip: Tensor
    angle: Tensor

    @classmethod
    def random(cls, count: int, largest_angle: float, random: np.random.Generator) -> Transformation:
        """Half of them flips, the others turns."""
        flip = torch.from_numpy(random.random(count) < 0.5)
        angle = torch.from_numpy(random.uniform(-largest_angle, largest_angle, count)).float()
        return cls(flip, torch.where(flip, 0.0, angle))

    def images(self, images: Tensor) -> Tensor:
        """T of images (B, C, H, W)."""
        cos, sin, zero = self.angle.cos(), self.angle.sin(), torch.zeros_like(self.angle)
        sign = torch.where(self.flip, -1.0, 1.0)
        # grid_sample reads where a result's pixel comes from: the inverse turn.
        matrix = torch.stack((cos * sign, sin, zero, -sin, cos * sign.abs(), zero), dim=-1).view(-1, 2, 3)
        with torch.autocast(images.device.type, enabled=False):  # the grid is a matrix product
            grid = torch.nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
        return torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def inverse_points(self, points: Tensor, side: int, skeleton: pg.Skeleton) -> Tensor:
        """T⁻¹ of points (B, J, 2) in a square image: turned back, or mirrored with left and right exchanged."""
        mirrored = pg.flip_joints(points, skeleton, width=side)
        return torch.where(self.flip[:, None, None], mirrored, turned(points, -self.angle, side))


def turned(points: Tensor, angle: Tensor, side: int) -> Tensor:
    """Points (B, J, 2) of square images turned clockwise by angles (B,) about the middle."""
    middle = (side - 1) / 2
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    x, y = (points - middle).unbind(-1)
    return torch.stack((cos * x - sin * y, sin * x + cos * y), dim=-1) + middle


def l_unpaired(
    networks: KspNetworks,
    source: Tensor,
    target: Tensor,
    background: Tensor,
    transformation: Transformation,
    lambda_2: float,
) -> Mapping[str, Tensor]:
    """L_UNP = |p_2D − p̃_2D| + λ₂ |f_a − f̃_a| (§3.3b), p̃_2D = T⁻¹∘T_k∘E_P∘T(Ĩ_t), Ĩ_t = D_I(f_2D, f_a, B_r).

    D_I is an energy here: call this with the decoder frozen. Both encoders learn through the drawn image and through
    its re-encoding; p_2D and f_a are the targets.
    """
    pose = networks.pose_encoder(target)
    appearance = networks.appearance_encoder(source)
    image = networks.decoder(networks.spatial_maps(pose.points), appearance, background)
    with statistics_kept(networks.pose_encoder):
        again = networks.pose_encoder(transformation.images(image))
    side = networks.config.size
    points = transformation.inverse_points(again.points, side, networks.skeleton)
    return {
        "p_2D": (pose.points.detach() - points).abs().mean() / side,
        "f_a": lambda_2 * (appearance.detach() - networks.appearance_encoder(image)).abs().mean(),
    }
