"""The losses of 002 (§3.3), with the paper's names. Lengths are in metres and shares of the image's side.

Every consistency term says which side is the target: the target has no gradient, or a constant code would solve it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.data.augmentation import Transformation
from posegeom_models.ksp.networks import KspNetworks
from posegeom_models.training import statistics_kept

FIGURE_CELL, FIGURE_WIDTH, FIGURE_STRETCH = 4, 0.035, 0.45
"""Pixels of a cell; σ_y of a limb in image sides, which fits people who fill the image; and its α."""


def l_paired(
    networks: KspNetworks,
    source: Tensor,
    target: Tensor,
    background: Tensor,
    lambda_1: float,
    lambda_2: float,
    lambda_figure: float = 0.0,
) -> Mapping[str, Tensor]:
    """L_P = |I_t − Î_t| + λ₁ |p_2D − p̂_2D| + λ₂ |f_a − f̂_a| (§3.3a): I_s gives appearance, I_t pose, B_t background.

    The re-encoded p̂_2D and f̂_a are drawn to p_2D and f_a. λ_figure times `figure_error` is not the paper's.
    """
    pose = networks.pose_encoder(target)
    appearance = networks.appearance_encoder(source)
    image = networks.decoder(networks.spatial_maps(pose.points), appearance, background)
    with statistics_kept(networks.pose_encoder):
        again = networks.pose_encoder(image)
    side = networks.config.size
    terms = {} if lambda_figure == 0 else {"figure": lambda_figure * figure_error(pose.points, target, background)}
    return {
        **terms,
        "image": (target - image).abs().mean(),
        "p_2D": lambda_1 * (pose.points.detach() - again.points).abs().mean() / side,
        "f_a": lambda_2 * (appearance.detach() - networks.appearance_encoder(image)).abs().mean(),
    }


def figure_error(points: Tensor, image: Tensor, background: Tensor, skeleton: pg.Skeleton = pg.BODY_17) -> Tensor:
    """1 − Σ min(m, F) / Σ max(m, F): how little of the person the drawn skeleton covers and the other way round.

        m = min(1, 6 · |I_t − B_t|),   F = max_l f_am^(l),   both in cells of `FIGURE_CELL` pixels

    A term that the paper does not have, of what L_P is given: the image term also tells where the person is, but only
    through a decoder that first has to learn what a person looks like.

    Args:
        points: (B, J, 2) p_2D, pixels.
        image: (B, 3, H, W) I_t.
        background: (B, 3, H, W) B_t.
        skeleton: of the points.
    """
    person = (6 * (image - background).abs().sum(1, keepdim=True)).clamp(max=1)
    person = nn.functional.avg_pool2d(person, FIGURE_CELL).squeeze(1)
    height, width = person.shape[-2:]
    cells = (points + 0.5) / FIGURE_CELL - 0.5
    thick = FIGURE_WIDTH * image.shape[-1] / FIGURE_CELL
    limbs = pg.limb_maps(cells, skeleton.bones, (height, width), thick, FIGURE_STRETCH)
    figure = limbs.amax(1)
    shared, either = torch.minimum(person, figure).sum((1, 2)), torch.maximum(person, figure).sum((1, 2))
    return (1 - shared / either.clamp(min=1e-6)).mean()


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
