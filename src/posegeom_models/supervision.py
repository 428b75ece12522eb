"""The terms that there are labels for, of 000 and 002; lengths in metres and shares of the image's side."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

import posegeom as pg
from posegeom_models.poses import Pose


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
