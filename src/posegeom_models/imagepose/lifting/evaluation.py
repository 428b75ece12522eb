"""Scores of lifting on poses of people that it has not seen, beside answers that do not lift."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import posegeom as pg
from posegeom_models.data.repertoire import action_of
from posegeom_models.imagepose.lifter import LiftingNetworks, about_root
from posegeom_models.imagepose.views import Poses, ViewConfig, Views, normalised


def evaluate_lifting(
    networks: LiftingNetworks, config: ViewConfig, pool: str = "test", every: int = 3, batch: int = 1024, seed: int = 1
) -> dict[str, Any]:
    """Scores of Λ on one pool of the motion files.

    Args:
        networks: trained.
        config: motion and cameras.
        pool: of the motion files.
        every: take every how many-th pose.
        batch: poses at a time.
        seed: of the cameras, which every evaluation shares.

    Returns:
        {"model", "constant" (the training set's mean pose), "flat" (every joint at the root's depth): figures,
        "truth": the cameras' elevation, "frames": count}. In millimetres: "p_mpjpe" without and "p_mpjpe_mirrored" with
        reflection; "n_mpjpe", after the best scale alone, in the camera's axes. Of "model" also "mirrored", the
        percentage of poses that fit better with their depths reversed; and in degrees "elevation" and
        "elevation_deviation", of the camera as Λ says it, "elevation_error", the mean absolute one, and
        "elevation_correlation" with the true one. "actions": "p_mpjpe" of each action.
    """
    skeleton, device = networks.skeleton, next(networks.parameters()).device
    test, mean = Poses(pool, config, skeleton), _mean_pose(Poses("train", config, skeleton))
    numbers = torch.arange(0, len(test), every)
    views = test.views(numbers, torch.Generator().manual_seed(seed))
    inputs = normalised(views.points, networks.get_buffer("scale").cpu(), skeleton.root, networks.config.base)
    lifted, said = [], []
    networks.eval()
    with torch.no_grad():
        for part in inputs.split(batch):
            joints, elevation = networks(part.to(device))
            lifted.append(joints.cpu())
            said.append(elevation.cpu())
    joints = torch.cat(lifted)
    flat = about_root(inputs, torch.zeros(inputs.shape[:2]), networks.config, skeleton.root)
    actions = [action_of(test.clips[clip]) for clip in test.clip[numbers].tolist()]
    model, constant = _figures(joints, views, actions), _figures(mean.expand_as(joints), views, actions)
    del constant["n_mpjpe"]  # it has no view
    straight = _millimetres(joints, views.joints)
    reversed_depth = _millimetres(joints * torch.tensor([1.0, 1.0, -1.0]), views.joints)
    model["mirrored"] = 100 * float((reversed_depth < straight).double().mean())
    degrees, true_degrees = torch.cat(said).rad2deg(), views.elevation.rad2deg()
    model |= _spread(degrees)
    model["elevation_error"] = float((degrees - true_degrees).abs().mean())
    model["elevation_correlation"] = float(torch.corrcoef(torch.stack((degrees, true_degrees)))[0, 1])
    return {
        "model": model,
        "constant": constant,
        "flat": _figures(flat, views, actions),
        "truth": _spread(true_degrees),
        "frames": len(numbers),
    }


def _mean_pose(poses: Poses) -> Tensor:
    return pg.canonicalize(poses.joints, poses.skeleton).canonical.mean(0)


def _millimetres(prediction: Tensor, target: Tensor, allow_reflection: bool = False) -> Tensor:
    """P-MPJPE of every pose, (B,)."""
    errors = pg.p_mpjpe(prediction, target, reduction="none", allow_reflection=allow_reflection)
    return 1000 * errors.mean(-1)


def _spread(degrees: Tensor) -> dict[str, float]:
    return {"elevation": float(degrees.mean()), "elevation_deviation": float(degrees.std())}


def _figures(prediction: Tensor, views: Views, actions: list[str]) -> dict[str, Any]:
    each = _millimetres(prediction, views.joints)
    of_action: dict[str, list[int]] = {}
    for row, action in enumerate(actions):
        of_action.setdefault(action, []).append(row)
    figures: dict[str, Any] = {
        "p_mpjpe": float(each.mean()),
        "p_mpjpe_mirrored": float(_millimetres(prediction, views.joints, allow_reflection=True).mean()),
        "n_mpjpe": 1000 * float(pg.n_mpjpe(prediction, views.joints)),
    }
    if set(of_action) != {""}:
        figures["actions"] = {name: {"p_mpjpe": float(each[of_action[name]].mean())} for name in sorted(of_action)}
    return figures
