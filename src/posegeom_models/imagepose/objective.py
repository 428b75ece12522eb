"""The losses of 001 (§3), with the paper's names, for normalised poses: head about 1 from the root, root 10 away.

Both sides of eqs. (4) and (6) are lifted by the same Λ, and have gradients, as in the work on lifting that 001 extends:
the prior on ŷ and on bone lengths keeps a constant answer from being the best one. y of eq. (5) has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

import posegeom as pg
from posegeom_models.imagepose.lifter import Lifted, LiftingNetworks, Loop, PosePrior, turn_and_lift_again

NORMS = ("printed", "public")
"""Of eqs. (4) to (6): squared as printed, or as in the public code of the work that 001 extends."""

ABLATIONS = ("none", "without_bl", "base")
"""Rows of Table 3: all terms; without L_bl; L_base alone, which is without L_bl and L_NF."""

LENGTHS = ("motion", "human36m")
"""Where b̄ is from: the poses of the training's own motion, or Human3.6M."""

HUMAN36M_LENGTHS = {
    "hip": 0.5181,
    "knee": 1.7371,
    "ankle": 1.7229,
    "spine": 0.9209,
    "neck": 0.9879,
    "nose": 0.4481,
    "head_top": 0.4450,
    "shoulder": 0.5746,
    "elbow": 1.0812,
    "wrist": 0.9652,
}
"""b̄ of Human3.6M: by the joint that the bone ends in, without its side."""


def human36m_lengths(skeleton: pg.Skeleton) -> Tensor:
    """b̄_n of Human3.6M, (N,), for a skeleton with its bones.

    Raises:
        ValueError: a bone that is not there.
    """
    ends = [skeleton.joints[child].removeprefix("left_").removeprefix("right_") for _, child in skeleton.bones]
    unknown = sorted(set(ends) - set(HUMAN36M_LENGTHS))
    if unknown:
        raise ValueError(f"skeleton must have Human3.6M's bones, got {skeleton.name} with {', '.join(unknown)}")
    return torch.tensor([HUMAN36M_LENGTHS[end] for end in ends])


def mean_lengths(origin: str, joints: Tensor, skeleton: pg.Skeleton) -> Tensor:
    """b̄ (N,), by one of `LENGTHS`: of the training's joints (P, J, 3), or of Human3.6M."""
    return human36m_lengths(skeleton) if origin == "human36m" else pg.relative_bone_lengths(joints, skeleton).mean(0)


def _per_pose(difference: Tensor, norms: str) -> Tensor:
    """‖·‖² of every pose, or ‖·‖."""
    flat = difference.flatten(1)
    return (flat**2).sum(-1) if norms == "printed" else torch.linalg.vector_norm(flat, dim=-1)


def l_3d(loop: Loop, norms: str) -> Tensor:
    """L_3d = ‖v̂′ − v̂‖² (eq. 4), or without the square; the mean over the batch. Both are lifted, neither is data."""
    return _per_pose(loop.v_hat_again - loop.v_hat, norms).mean()


def l_2d(loop: Loop, norms: str) -> Tensor:
    """L_2d = ‖y′ − y‖² (eq. 5), or the sum of absolute differences; the mean over the batch.

    y is the target and has no gradient as such, also where Ω says it: else all joints in one point would be an answer
    that costs nothing. What reaches Ω goes round the loop.
    """
    difference = loop.y_again - loop.y.detach()
    return _per_pose(difference, norms).mean() if norms == "printed" else difference.abs().flatten(1).sum(-1).mean()


def l_def(loop: Loop, norms: str) -> Tensor:
    """L_def = ‖(v′_j − v′_k) − (v_j − v_k)‖² (eq. 6), or without the square, over neighbours (0, 1), (2, 3), ..."""
    pairs = torch.arange(len(loop.v) // 2 * 2, device=loop.v.device).view(-1, 2)
    return pg.deformation_loss(loop.v, loop.v_again, pairs, power=2 if norms == "printed" else 1)


def l_nf(prior: PosePrior, points: Tensor) -> Tensor:
    """L_NF = −log p_Y(ȳ) (eq. 8), with its constant; the mean over the batch.

    In pre-training of 2D poses that are data; then, with the prior frozen, of ŷ.
    """
    return -prior.log_density(points).mean()


def l_bl(joints: Tensor, skeleton: pg.Skeleton, lengths: Tensor, sigma: float) -> Tensor:
    """L_bl = −log Π N(b_n | b̄_n, σ_b) (eq. 10), σ_b a standard deviation; the mean over the batch."""
    return pg.bone_length_nll(joints, skeleton, lengths, sigma)


def lifting_terms(
    loop: Loop, prior: PosePrior, skeleton: pg.Skeleton, lengths: Tensor, sigma: float, norms: str, ablation: str
) -> Mapping[str, Tensor]:
    """L_base + L_NF + L_bl (eqs. 11, 12), without the terms that a row of Table 3 leaves out.

    Args:
        loop: of Λ.
        prior: on 2D poses, frozen.
        skeleton: of the poses.
        lengths: (N,) b̄.
        sigma: σ_b.
        norms: one of `NORMS`.
        ablation: one of `ABLATIONS`.
    """
    terms = {"2d": l_2d(loop, norms), "3d": l_3d(loop, norms), "def": l_def(loop, norms)}
    if ablation != "base":
        terms["NF"] = l_nf(prior, loop.y_hat)
    if ablation == "none":
        terms["bl"] = l_bl(loop.v, skeleton, lengths, sigma)
    return terms


class Choices(NamedTuple):
    """Of the losses of Λ.

    Attributes:
        ablation: one of `ABLATIONS`.
        norms: one of `NORMS`.
        sigma: σ_b.
        bones_from: share of Λ's steps after which L_bl joins.
        elevation_from: share of Λ's steps after which its own elevations are used.
    """

    ablation: str
    norms: str
    sigma: float
    bones_from: float
    elevation_from: float


def staged_terms(networks: LiftingNetworks, y: Tensor, choices: Choices, share: float) -> Mapping[str, Tensor]:
    """`lifting_terms` of normalised poses at a stage of Λ's training: elevations of its own and L_bl join later.

    Args:
        networks: Λ, the prior and b̄.
        y: (B, J, 2).
        choices: the row of Table 3, the norms, and when what joins.
        share: of Λ's steps that are over.
    """
    config, skeleton = networks.config, networks.skeleton
    lifter: Callable[[Tensor], Lifted] = networks.lifter
    if share < choices.elevation_from:

        def lifter(points: Tensor) -> Lifted:
            upright = points.new_full((len(points),), -math.radians(config.first_elevation))
            return Lifted(networks.lifter(points).depth, upright)

    row = "without_bl" if choices.ablation == "none" and share < choices.bones_from else choices.ablation
    loop = turn_and_lift_again(lifter, y, config, skeleton.root)
    lengths = networks.get_buffer("lengths")
    return lifting_terms(loop, networks.prior, skeleton, lengths, choices.sigma, choices.norms, row)


def prior_rate(highest: float, done: float) -> float:
    """The flow's learning rate when a share of its steps is done: a cosine's fall to 0."""
    return highest * (1 + math.cos(math.pi * done)) / 2


def lifter_rate(highest: float, done: float) -> float:
    """Λ's learning rate when a share of its steps is done: exponential, to 0.6 %."""
    return highest * math.pow(0.95, 100 * done)
