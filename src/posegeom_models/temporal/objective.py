"""The losses of 003 (§3), with the paper's names, and those of the methods that it is compared with (§4.2).

A quadruple is four frames of one video: codes and boxes have the shape (Q, 4, D), frame 0 is the reference. Squared
norms of images and maps are means over their values: sums would drown the contrastive term, whose weight is 0.01.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.temporal.features import FeatureNetwork
from posegeom_models.temporal.networks import Codes
from posegeom_models.training import mean_over_processes


def l_reconst(
    image: Tensor, drawn: Tensor, features: FeatureNetwork | None, lambda_pixels: float, rho: float
) -> Mapping[str, Tensor]:
    """L_reconst = λ ‖I − Ĩ‖² + ρ Σ_l ‖Res_l(I) − Res_l(Ĩ)‖² (eq. 2), as two terms.

    Args:
        image: (B, 3, S, S) I.
        drawn: (B, 3, S, S) Ĩ (eq. 1).
        features: Res; None leaves the second term out.
        lambda_pixels: λ.
        rho: ρ.
    """
    terms = {"pixels": lambda_pixels * (image - drawn).square().mean()}
    if features is not None and rho > 0:
        with torch.no_grad():
            wanted = features(image)
        errors = [(one - other).square().mean() for one, other in zip(wanted, features(drawn), strict=True)]
        terms["features"] = rho * torch.stack(errors).sum()
    return terms


def swapped(codes: Tensor, order: Tensor) -> Tensor:
    """Codes (Q, 4, E) exchanged among the frames of each video (§3.1.3): frame k gets that of frame order[:, k].

    Args:
        codes: I_ti.
        order: (Q, 4) a permutation of 0, 1, 2, 3 in each row.
    """
    return codes.gather(1, order.unsqueeze(-1).expand_as(codes))


def random_order(count: int, frames: int, device: torch.device) -> Tensor:
    """(count, frames) permutations, all of them equally likely."""
    return torch.rand(count, frames, device=device).argsort(1)


def l_dsl(variant: Tensor, distance: Tensor, d_max: float) -> Tensor:
    """L^all_DSL = L_DSL(r, n) + L_DSL(r, a) + L_DSL(r, in) (eqs. 5, 6); the mean over the quadruples.

    Args:
        variant: (Q, 4, D) I_tv, the reference first.
        distance: (Q, 4) frames from the reference.
        d_max: from there on frames are dissimilar with full weight.
    """
    reference, others = variant[:, :1].expand_as(variant[:, 1:]), variant[:, 1:]
    each = pg.distance_similarity_loss(reference, others, distance[:, 1:], d_max, reduction="none")
    return each.sum(1).mean()


def l_css(codes: Tensor, temperature: float) -> Tensor:
    """L_CSS (eq. 3): frame 0 the input, frame 1 its positive, the others negatives; the mean over the quadruples."""
    return pg.info_nce_loss(codes[:, 0], codes[:, 1], codes[:, 2:], temperature)


def l_mv_css(codes: Tensor, other_view: Tensor, margin: float) -> Tensor:
    """L_CSS as a triplet (eq. 4): the positive is the same instant in another view, the negative frame 3 of the video.

    Args:
        codes: (Q, 4, D) of the first view.
        other_view: (Q, 4, D) of the second one, at the same instants.
        margin: β.
    """
    return pg.temporal_triplet_loss(codes[:, 0], other_view[:, 0], codes[:, 3], margin)


def l_track(boxes: Tensor, margin: float) -> Mapping[str, Tensor]:
    """L_track = L_const-acc + L_order + L_sc (eqs. 9 to 12) of boxes (Q, 4, 4) at equidistant times; y is down.

    Args:
        boxes: (s_x, s_y, u_x, u_y).
        margin: τ of eq. (10), half images.
    """
    loss = pg.gravity_tracking_loss(boxes, margin, down=1)
    return {"const-acc": loss.acceleration, "order": loss.order, "sc": loss.scale}


def l_2d(said: Tensor, points: Tensor, known: Tensor | None = None) -> Tensor:
    """L^2D_pose = (1/N) Σ ‖Θ(I_tv) − q_2D‖² (eq. 13), in units of the box.

    Args:
        said: (B, J, 2).
        points: (B, J, 2) labels.
        known: (B, J) bool; what is not known does not count.
    """
    squares = (said - points).square().sum(-1)
    if known is not None:
        squares = torch.where(known, squares, 0.0)
    return squares.sum(1).mean()


def l_3d(said: Tensor, joints: Tensor, deviation: Tensor) -> Tensor:
    """L^3D_pose = (1/N) Σ ‖Φ(I_tv, q̂_2D) − q_3D‖² (eq. 15), every coordinate in units of the labels' deviation.

    The scaling is that of public code of the work that 003 takes its Φ from; the mean over the coordinates.
    """
    return ((said - joints) / deviation).square().mean()


def l_aligned(said: Tensor, joints: Tensor) -> Tensor:
    """The mean distance in metres of said joints (B, J, 3) from labels, after the best similarity transform (P-MPJPE).

    Of a few labels and of codes that do not tell where somebody looks, L_3D alone makes a body whose left and right
    sides lie in the middle: the mean over the directions that are possible. Whatever the direction, this term wants a
    body.
    """
    return pg.p_mpjpe(said, joints)


def box_prior(boxes: Tensor, weight: float, extent: Sequence[float], centred: bool) -> Tensor:
    """Gaussian priors on the batch's mean box (S.1): its half extents are `extent`, and its middle is the image's.

        weight · [ mean(((s̄_x, s̄_y) − extent)²) + mean((ū_x, ū_y)²) ]

    Single boxes are free: the mean is that over the batch of all processes. Where a batch is taken in several parts
    (`training.accumulate`), it is that of each part: parts are not held in memory together.

    Args:
        boxes: (B, 4).
        weight: of the prior; not given in the paper.
        extent: of x and of y; both are 0.5 in the paper.
        centred: with the second term, the paper's on Human3.6M.
    """
    mean = mean_over_processes(boxes)
    prior = (mean[:2] - mean.new_tensor(extent)).square().mean()
    if centred:
        prior = prior + mean[2:].square().mean()
    return weight * prior


def l_similarity(invariant: Tensor) -> Tensor:
    """DrNet's content loss: ‖I_ti − I′_ti‖² of two frames of a video, frames 0 and 3; the mean over the values."""
    return (invariant[:, 0] - invariant[:, 3]).square().mean()


def scenes(discriminator: nn.Module, variant: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of DrNet's discriminator that two codes are of one video: of frames 0 and 3 (Q,), and of two videos.

    A video's partner is the next quadruple of the batch, whose last frame is taken; where that is of the same video,
    there is no pair, and the second logits are fewer than Q.

    Args:
        discriminator: of two codes.
        variant: (Q, 4, D) I_tv.
        clip: (Q,) numbers of the videos.
    """
    first, last = variant[:, 0], variant[:, 3]
    same = discriminator(torch.cat((first, last), dim=1)).squeeze(1)
    apart = clip != clip.roll(-1, 0)
    different = discriminator(torch.cat((first[apart], last.roll(-1, 0)[apart]), dim=1)).squeeze(1)
    return same, different


def l_discriminator(same: Tensor, different: Tensor) -> Tensor:
    """DrNet's discriminator: cross entropy, one video 1 and two videos 0; pairs of two videos there may be none."""
    yes = nn.functional.binary_cross_entropy_with_logits(same, torch.ones_like(same))
    no = nn.functional.binary_cross_entropy_with_logits(different, torch.zeros_like(different), reduction="sum")
    return yes + no / max(len(different), 1)


def l_adversary(same: Tensor) -> Tensor:
    """DrNet's encoder: the discriminator cannot tell that two codes are of one video, −½ log C − ½ log(1 − C)."""
    return nn.functional.binary_cross_entropy_with_logits(same, torch.full_like(same, 0.5))


def turned(variant: Tensor, rotation: Tensor) -> Tensor:
    """NSD: I_tv (Q, 4, D) as D/3 points in space, turned to another view's axes by rotations (Q, 4, 3, 3)."""
    points = variant.unflatten(-1, (-1, 3))
    with torch.autocast(variant.device.type, enabled=False):
        moved = torch.einsum("qfij,qfpj->qfpi", rotation.float(), points.float())
    return moved.flatten(-2)


def recolored(crops: Tensor, amount: float) -> Tensor:
    """Î_crop: crops in other colours (§3.1.3); what they wear says nothing then, and the pose stays.

        c · (R x − m) + m + l,   R = G + s · (1 − G) H(θ)

    with m the crop's mean, G the projection on grey and H(θ) the turn by θ about it: by chance, the contrast c and the
    saturation s are in 1 ± amount, the lift l in ± amount / 2, and the hue's turn θ in ± amount · 180°.

    Args:
        crops: (B, 3, C, C).
        amount: in [0, 1]; with 0 crops stay as they are.
    """

    def spread() -> Tensor:
        return amount * (2 * torch.rand(len(crops), 1, 1, device=crops.device) - 1)

    contrast, saturation, lift, angle = 1 + spread(), 1 + spread(), spread() / 2, math.pi * spread()
    grey = torch.full((3, 3), 1 / 3, device=crops.device)
    own = torch.eye(3, device=crops.device)
    # About (1, 1, 1)/√3, Rodrigues: cos θ (1 − G) + sin θ K on what is not grey.
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=crops.device) / math.sqrt(3)
    matrix = grey + saturation * (angle.cos() * (own - grey) + angle.sin() * across)
    values = crops.flatten(2)
    mean = values.mean((1, 2), keepdim=True)
    with torch.autocast(crops.device.type, enabled=False):  # a matrix product would be halved
        turned_colours = matrix @ values.float()
    return (contrast * (turned_colours - mean) + mean + lift).clamp(0, 1).view_as(crops)


def quadruples(codes: Codes) -> Codes:
    """Codes of 4Q frames, four by four: (Q, 4, D)."""
    return Codes(*(code.unflatten(0, (-1, 4)) for code in codes))
