"""The second phase of 003 (§3.4): poses are read from frozen codes, by Φ and beside it by a linear probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from posegeom_models.data.reels import Reel
from posegeom_models.data.shuffling import Shuffle
from posegeom_models.temporal.batches import Labelled, labelled_frames
from posegeom_models.temporal.configuration import Stage, TemporalConfig
from posegeom_models.temporal.networks import TemporalNetworks
from posegeom_models.temporal.objective import l_2d, l_3d, l_aligned, recolored
from posegeom_models.temporal.regressors import PoseRegressor, Statistics, in_box
from posegeom_models.training import frozen


def phi_groups(phi: PoseRegressor, config: TemporalConfig) -> list[dict[str, Any]]:
    """Φ's parameters for AdamW: the weights of its linear layers decay, biases and normalisations do not.

    Decay that Adam takes for a gradient (L2) is as large for it as the loss's own, however small: Φ forgot what it had
    learnt in 3000 steps.
    """
    weights = [layer.weight for layer in phi.modules() if isinstance(layer, nn.Linear)]
    linear = {id(weight) for weight in weights}
    others = [parameter for parameter in phi.parameters() if id(parameter) not in linear]
    rate, decay = config.pose_rate, config.pose_decay
    return [
        {"params": weights, "lr": rate, "weight_decay": decay},
        {"params": others, "lr": rate, "weight_decay": 0.0},
    ]


def pose_terms(
    networks: TemporalNetworks, phi: PoseRegressor, labelled: Labelled, config: TemporalConfig, code: str = "variant"
) -> Mapping[str, Tensor]:
    """L_3D of Φ (eq. 15), the error that a turn leaves where it is wanted, and L_2D of the linear probe where Θ is one.

    Args:
        networks: with their codes.
        phi: reads the poses.
        labelled: frames.
        config: how their crops are changed.
        code: "variant" or "invariant", the code that Φ reads.
    """
    boxes = networks.boxes(labelled.image)
    if config.label_shift:
        grow, move = (config.label_shift * (2 * torch.rand_like(boxes[:, :2]) - 1) for _ in range(2))
        boxes = torch.cat((boxes[:, :2] * (1 + grow), boxes[:, 2:] + boxes[:, :2] * move), dim=1)
    crops = networks.crops(labelled.image, boxes)
    if config.label_jitter:
        crops = recolored(crops, config.label_jitter)
    codes = networks.encoder(crops)
    points = networks.points(codes.variant)
    joints = phi(getattr(codes, code), points.detach())
    terms = {"3D": l_3d(joints, labelled.joints, phi.get_buffer("deviation"))}
    if config.lambda_aligned:
        terms["aligned"] = config.lambda_aligned * l_aligned(joints, labelled.joints)
    if config.eta == 0:
        # The probe learns beside Φ and has no part in it; end to end, it still reads the codes as they are.
        said = points if not config.end_to_end else networks.points(codes.variant.detach())
        terms["2D"] = l_2d(said, in_box(labelled.points, boxes, networks.config.size)) / said.shape[1]
    return terms


def fit(
    networks: TemporalNetworks,
    reel: Reel,
    numbers: Tensor,
    config: TemporalConfig,
    steps: int,
    code: str = "variant",
    progress: Callable[[int], None] | None = None,
) -> PoseRegressor:
    """A fresh Φ that learns from some labelled frames as the second phase does, by `config`; nothing else learns.

    Args:
        networks: trained.
        reel: of the frames.
        numbers: the labelled frames.
        config: of the second phase: rates, decay, batches, and how labelled frames are changed.
        steps: how many.
        code: "variant" or "invariant", the code that Φ reads.
        progress: told how many steps are done.
    """
    device = next(networks.parameters()).device
    seed, size = config.training.seed, config.labelled_frames
    order = Shuffle(numbers, 3 * seed + 2)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), frozen(networks):
        torch.manual_seed(seed)
        phi = networks.fresh_phi(code).to(device)
        phi.adopt(Statistics.of(reel.joints[numbers], networks.skeleton.root))
        optimizer = torch.optim.AdamW(phi_groups(phi, config), config.pose_rate)
        for step in range(steps):
            if config.falling_rates:
                for group in optimizer.param_groups:
                    group["lr"] = config.pose_rate * Stage("pose", step, steps).share
            labelled = labelled_frames(reel, order.deal(step * size, size), config, step)
            terms = pose_terms(networks, phi, Labelled(*(value.to(device) for value in labelled)), config, code)
            optimizer.zero_grad()
            torch.stack([term for term in terms.values() if term.requires_grad]).sum().backward()
            optimizer.step()
            if progress is not None:
                progress(step + 1)
    return phi.eval()
