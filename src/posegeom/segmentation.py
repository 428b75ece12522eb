"""Which part is in front: depth-aware part segmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from posegeom._checks import (
    check_batches,
    check_choice,
    check_floating,
    check_number,
    check_same_device,
    check_shape,
    check_size,
    compute_dtype,
)
from posegeom._dispatch import runs_eagerly_on_cpu, runs_triton
from posegeom.kernels.segmentation_cpu import SegmentedParts
from posegeom.puppet import (
    Puppet,
    Size,
    foreground_map,
    keep_within,
    part_affines,
    part_maps,
    sample_everywhere,
    stacked_template,
    uncertainty_map,
)

NEAREST = 1e-3
"""Depths (metres) below this count as this."""

SHARPNESS = math.log(10) / math.log(1.05) * (1 + 1e-5)
"""A part 5 % nearer hides the other ten times more than it is hidden; a hair more than ln 10 / ln 1.05, so that a near
part of strength .55 wins at a depth ratio of 1.05 itself, where the two are equal but for rounding."""

VANISHING = 1e-30
"""A sum of all strengths below this is nothing at all, and is not divided by."""

RULES = ("occlusion", "paper")


class PuppetSegmentation(NamedTuple):
    """What `puppet_segmentation` draws: maps (*B, L + 1, H, W), foreground and uncertainty (*B, H, W)."""

    maps: Tensor
    foreground: Tensor
    uncertainty: Tensor


def part_depth(joint_depth: Tensor, puppet: Puppet) -> Tensor:
    """The depth of every part, the mean of the joints it hangs on: d_l = (d_j1 + d_j2)/2, four for a torso.

    Args:
        joint_depth: (*B, J) z of the joints of `puppet.skeleton`, metres.
        puppet: the template.

    Returns:
        (*B, L).

    Raises:
        TypeError, ValueError: a wrong dtype or shape.

    Source: 000 §3.1.

    Example:
        >>> import torch
        >>> from posegeom import BODY_17, Puppet, part_depth
        >>> part_depth(torch.ones(2, 17), Puppet.capsules(BODY_17, (32, 32))).shape
        torch.Size([2, 12])
    """
    _check_depths(joint_depth, puppet)
    return _mean_depths(joint_depth.to(compute_dtype(joint_depth)), puppet.joints).to(joint_depth.dtype)


def _check_depths(joint_depth: Tensor, puppet: Puppet) -> None:
    check_floating("joint_depth", joint_depth)
    check_shape(
        "joint_depth",
        joint_depth,
        ("*B", len(puppet.skeleton.joints)),
        f"for skeleton {puppet.skeleton.name}",
    )


def _mean_depths(joint_depth: Tensor, joints: Sequence[Sequence[int]]) -> Tensor:
    """Mean over each part's joints, (*B, J) to (*B, L)."""
    depths = joint_depth.unbind(-1)
    means = []
    for first, *others in joints:
        total = depths[first]
        for joint in others:
            total = total + depths[joint]
        means.append(total / (1 + len(others)))
    return torch.stack(means, dim=-1)


def depth_aware_segmentation(
    shape: Tensor, depth: Tensor, rule: str = "occlusion", sharpness: float | None = None
) -> Tensor:
    """Part maps and depths to a soft segmentation with a background.

    rule="occlusion" (default, ours), soft visibility:

        o_lk = σ(κ ln(d_l/d_k))    how much part k hides part l,
        s_l = φ_l Π_{k≠l} (1 − o_lk φ_k),   s_bg = Π_k (1 − φ_k),   maps = s / Σ s.

    A lone part wins, an empty pixel is background, a near part with φ ≥ .55 beats a far one with φ = 1 from a
    depth ratio of 1.05 on, and any number of parts at equal depth is never background (L up to 24, tested).

    rule="paper", 000 §3.1 a to c literally:

        φ_d = softmax_l(φ_l / d_l),   φ_d^bg = 1 − max_l φ_d,   maps = softmax over the L + 1 of φ_d.

    There the background wins everywhere once d > 1/ln(L − 1), even under a lone full part (docs/notes).

    Args:
        shape: (*B, L, H, W) part maps φ; values outside [0, 1] count as 0 or 1, with zero gradient.
        depth: (*B, L) depth d of the parts, metres; below 1e-3 counts as 1e-3.
        rule: "occlusion" or "paper".
        sharpness: κ > 0 of the occlusion rule; default ln 10 / ln 1.05.

    Returns:
        (*B, L + 1, H, W), background last, summing to 1, in the dtype of `shape`.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, rule or range.

    Degenerate cases: about 100 full parts or more on one pixel at equal depth are too weak to compare; the maps are
    then close to zero there and sum to no 1.

    Source: 000 §3.1 and ours.

    Example:
        >>> import torch
        >>> from posegeom import depth_aware_segmentation
        >>> shape = torch.tensor([1.0, 0.6]).view(2, 1, 1)
        >>> depth_aware_segmentation(shape, torch.tensor([3.0, 2.0])).flatten()  # far, near, background
        tensor([0.4000, 0.6000, 0.0000])
    """
    check_floating("shape", shape)
    check_floating("depth", depth)
    check_shape("shape", shape, ("*B", "L", "H", "W"))
    count = shape.shape[-3]
    if count == 0:
        raise ValueError(f"shape must hold at least one part, got {tuple(shape.shape)}")
    check_shape("depth", depth, ("*B", count), f"for {count} parts")
    check_same_device(shape=shape, depth=depth)
    check_batches(shape=shape.shape[:-3], depth=depth.shape[:-1])
    check_choice("rule", rule, RULES)
    kappa = _sharpness(sharpness)
    compute = compute_dtype(shape)
    phi, depth = keep_within(shape.to(compute), 0, 1), depth.to(compute)
    if rule == "paper":
        strength = torch.softmax(phi / depth.clamp(min=NEAREST)[..., None, None], dim=-3)
        background = 1 - strength.amax(-3, keepdim=True)
        maps = torch.softmax(torch.cat((strength, background), dim=-3), dim=-3)
    else:
        maps = _occlusion(phi, _hiding(depth, kappa))
    return maps.to(shape.dtype)


def _sharpness(sharpness: float | None) -> float:
    return SHARPNESS if sharpness is None else check_number("sharpness", sharpness, above=0)


def _hiding(depth: Tensor, kappa: float) -> Tensor:
    """The matrix o (*B, L, L): how much part k hides part l at [l, k], 0 where they are the same."""
    log_depth = depth.clamp(min=NEAREST).log()
    hides = torch.sigmoid(kappa * (log_depth.unsqueeze(-1) - log_depth.unsqueeze(-2)))
    return hides * (1 - torch.eye(depth.shape[-1], device=depth.device, dtype=depth.dtype))


def hiding_of_joints(joint_depth: Tensor, kappa: float, joints: Sequence[Sequence[int]]) -> Tensor:
    """`_hiding` of the parts that hang on joints (*B, J) of these depths."""
    return _hiding(_mean_depths(joint_depth, joints), kappa)


def _occlusion(phi: Tensor, hides: Tensor) -> Tensor:
    """Maps s / Σ s of strengths φ (*B, L, H, W) in [0, 1], background last."""
    visible = phi
    background = torch.ones_like(phi[..., :1, :, :])
    for k, part in enumerate(phi.split(1, dim=-3)):
        visible = visible * (1 - hides[..., k, None, None] * part)
        background = background * (1 - part)
    background = background.expand(*visible.shape[:-3], 1, *visible.shape[-2:])
    maps = torch.cat((visible, background), dim=-3)
    total = maps.sum(-3, keepdim=True)
    return maps / torch.where(total < VANISHING, 1.0, total)


def hard_segmentation(maps: Tensor) -> Tensor:
    """The strongest class of every pixel: argmax over the parts and the background.

    Args:
        maps: (*B, L + 1, H, W).

    Returns:
        (*B, H, W) int64 in 0..L, L the background; the first of several equal ones.

    Raises:
        TypeError, ValueError: no floating-point (*B, L + 1, H, W).

    Source: y_p of 000 §3.1.

    Example:
        >>> import torch
        >>> from posegeom import hard_segmentation
        >>> hard_segmentation(torch.tensor([[[0.2]], [[0.8]]]))
        tensor([[1]])
    """
    check_floating("maps", maps)
    check_shape("maps", maps, ("*B", "L+1", "H", "W"))
    if maps.shape[-3] == 0:
        raise ValueError(f"maps must hold at least one class, got {tuple(maps.shape)}")
    return maps.argmax(-3)


def puppet_segmentation(
    points: Tensor,
    joint_depth: Tensor,
    puppet: Puppet,
    size: tuple[int, int],
    rule: str = "occlusion",
    width_scale: float | Tensor = 1.0,
    sharpness: float | None = None,
    backend: str = "auto",
) -> PuppetSegmentation:
    """T_s of 000: a pose and its depths to part segmentation, foreground and uncertainty.

    `part_maps`, `part_depth` and `depth_aware_segmentation` in one call; see there for the formulas.

    Args:
        points: (*B, J, 2) pixels of the joints of `puppet.skeleton`.
        joint_depth: (*B, J) their depths, metres.
        puppet: the template.
        size: (H, W) of the result.
        rule: "occlusion" or "paper".
        width_scale: as in `part_transforms`.
        sharpness: as in `depth_aware_segmentation`.
        backend: "auto"; "triton" to have the kernel or an error, "torch" never to have it (docs/kernels).

    Returns:
        PuppetSegmentation(maps (*B, L + 1, H, W) with the background last, foreground (*B, H, W),
        uncertainty (*B, H, W)), in the dtype of `points`.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, rule or range.

    Source: 000 §3.1 (T_s, w_fg, w_unc).

    Example:
        >>> import torch
        >>> from posegeom import BODY_17, Puppet, puppet_segmentation
        >>> puppet = Puppet.capsules(BODY_17, (64, 64))
        >>> drawn = puppet_segmentation(torch.rand(17, 2) * 63, torch.full((17,), 4.0), puppet, (64, 64))
        >>> drawn.maps.shape, drawn.foreground.shape
        (torch.Size([13, 64, 64]), torch.Size([64, 64]))
    """
    check_floating("points", points)
    check_floating("joint_depth", joint_depth)
    check_same_device(points=points, joint_depth=joint_depth)
    check_batches(points=points.shape[:-2], joint_depth=joint_depth.shape[:-1])
    check_choice("rule", rule, RULES)
    size, kappa = check_size(size), _sharpness(sharpness)
    compute = compute_dtype(points)
    batch = torch.broadcast_shapes(points.shape[:-2], joint_depth.shape[:-1])
    p = points.to(compute).expand(*batch, *points.shape[-2:])
    _check_depths(joint_depth, puppet)
    joint_depth = joint_depth.to(compute)
    drawn: tuple[Tensor, ...]
    if rule == "paper":
        depth = part_depth(joint_depth, puppet)
        maps = part_maps(p, puppet, size, width_scale, backend)
        drawn = depth_aware_segmentation(maps.shape, depth, rule), foreground_map(maps), uncertainty_map(maps)
    else:
        linear, mu, bar = part_affines(p, puppet, width_scale, size, backend)
        template = stacked_template(puppet, compute)
        if runs_triton(backend, points, joint_depth, template, width_scale):
            from posegeom.kernels import segmentation as kernels

            return PuppetSegmentation(
                *kernels.puppet_segmentation(linear, mu, bar, template, joint_depth, kappa, puppet, size, points.dtype)
            )
        hides = hiding_of_joints(joint_depth, kappa, puppet.joints).expand(*mu.shape[:-1], mu.shape[-2])
        drawn = segment_parts(linear, mu, bar, template, hides, size)
    return PuppetSegmentation(*(values.to(points.dtype) for values in drawn))


def segment_parts(
    linear: Tensor, mu: Tensor, bar: Tensor, template: Tensor, hides: Tensor, size: Size
) -> tuple[Tensor, Tensor, Tensor]:
    """`puppet_segmentation` by occlusion, unchecked: maps, foreground and uncertainty.

    The first four as in `puppet.sample_parts`, and o (*B, L, L) of `_hiding`.
    """
    if runs_eagerly_on_cpu(linear, mu, bar, template, hides):
        drawn: tuple[Tensor, Tensor, Tensor] = SegmentedParts.apply(
            linear, mu, bar, template, hides, size, VANISHING, _segment_everywhere
        )
        return drawn
    return _segment_everywhere(linear, mu, bar, template, hides, size)


def _segment_everywhere(
    linear: Tensor, mu: Tensor, bar: Tensor, template: Tensor, hides: Tensor, size: Size
) -> tuple[Tensor, Tensor, Tensor]:
    """The reference of `segment_parts`."""
    shape, uncertainty = sample_everywhere(linear, mu, bar, template, size)
    return _occlusion(keep_within(shape, 0, 1), hides), shape.amax(-3), uncertainty.amax(-3)
