"""The papers' loss terms that are formulas of geometry and time rather than of a network.

Every loss takes reduction="mean" | "sum" | "none" over what its docstring calls the samples. The mean over no
samples is 0 and has a graph.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from posegeom._checks import (
    check_batches,
    check_broadcast,
    check_choice,
    check_floating,
    check_integer,
    check_number,
    check_same_device,
    check_same_shape,
    check_shape,
    compute_dtype,
)
from posegeom.frames import safe_norm, unit_vector
from posegeom.kinematics import bone_vectors
from posegeom.skeleton import Skeleton

REDUCTIONS = ("mean", "sum", "none")
SMALLEST_PROBABILITY = 1e-12
SMALLEST_STD = 1e-6


class TrackingLoss(NamedTuple):
    """total = acceleration + order + scale."""

    total: Tensor
    acceleration: Tensor
    order: Tensor
    scale: Tensor


def reduce(values: Tensor, reduction: str) -> Tensor:
    """Mean, sum or all of `values`; the mean of nothing is 0 with a graph."""
    check_choice("reduction", reduction, REDUCTIONS)
    if reduction == "none":
        return values
    total = values.sum()
    return total / max(values.numel(), 1) if reduction == "mean" else total


def _check_codes(**codes: Tensor) -> None:
    for name, value in codes.items():
        check_floating(name, value)
        check_shape(name, value, ("*B", "D"))
    check_same_device(**codes)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between codes, 0 (with zero gradient) where one of them is zero."""
    return (unit_vector(a) * unit_vector(b)).sum(-1)


def distance_similarity_loss(
    a: Tensor, b: Tensor, frame_distance: Tensor, max_distance: float, reduction: str = "mean"
) -> Tensor:
    """Codes of frames close in time should agree, those of distant frames should be orthogonal.

    With s = ⟨a, b⟩ / (|a| |b|), d the distance and D the maximal distance,

        L = (1 − 2d/D) |1 − s|             for 0 ≤ d ≤ D/2,
        L = min(2d/D − 1, 1) |s|           for d > D/2.

    Args:
        a: (*B, D) time-variant codes.
        b: (*B, D) codes of other frames of the same video.
        frame_distance: (*B,) number of frames between them, integer or floating; its sign does not matter.
        max_distance: D in frames, above 0.
        reduction: over the samples *B.

    Returns:
        A scalar, or (*B,) for "none".

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or range.

    Degenerate cases: a zero code has similarity 0 to everything, with zero gradient. At d = D/2 both weights
    are 0.

    Source: 003 eq. (5).

    Example:
        >>> import torch
        >>> from posegeom import distance_similarity_loss
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> distance_similarity_loss(a, b, torch.tensor([10]), max_distance=200)
        tensor(0.9000)
    """
    _check_codes(a=a, b=b)
    check_same_shape(a=a, b=b)
    if not isinstance(frame_distance, Tensor):
        raise TypeError(f"frame_distance must be a torch.Tensor, got {type(frame_distance).__name__}")
    if frame_distance.dtype == torch.bool:
        raise TypeError("frame_distance must be a number of frames, got dtype torch.bool")
    check_same_device(a=a, frame_distance=frame_distance)
    check_broadcast("frame_distance", frame_distance.shape, a.shape[:-1], f"(*B,) = {tuple(a.shape[:-1])}")
    limit = check_number("max_distance", max_distance, above=0)
    dtype = compute_dtype(a)
    similarity = _similarity(a.to(dtype), b.to(dtype))
    progress = 2 * frame_distance.to(dtype).abs() / limit - 1  # −1 at d = 0, 0 at D/2, 1 at D
    # 1 − s is never negative but for rounding, and |1 − s| would turn the gradient round there.
    near, far = -progress.clamp(max=0) * (1 - similarity), progress.clamp(0, 1) * similarity.abs()
    return reduce(near + far, reduction).to(a.dtype)


def info_nce_loss(
    anchor: Tensor, positive: Tensor, negatives: Tensor, temperature: float, reduction: str = "mean"
) -> Tensor:
    """Contrastive loss against K negatives.

        L = −log( exp(s(a, p)/τ) / (exp(s(a, p)/τ) + Σ_k exp(s(a, n_k)/τ)) ),   s the cosine similarity

    Args:
        anchor: (*B, D).
        positive: (*B, D).
        negatives: (*B, K, D), also K = 0.
        temperature: τ > 0.
        reduction: over the samples *B.

    Returns:
        A scalar, or (*B,) for "none".

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or range.

    Source: 003 eq. (3).

    Example:
        >>> import torch
        >>> from posegeom import info_nce_loss
        >>> x = torch.eye(3)
        >>> info_nce_loss(x[:1], x[:1], x[None, 1:], temperature=1.0)
        tensor(0.5514)
    """
    _check_codes(anchor=anchor, positive=positive)
    check_same_shape(anchor=anchor, positive=positive)
    check_floating("negatives", negatives)
    check_shape("negatives", negatives, (*anchor.shape[:-1], "K", anchor.shape[-1]))
    check_same_device(anchor=anchor, negatives=negatives)
    tau = check_number("temperature", temperature, above=0)
    dtype = compute_dtype(anchor)
    others = torch.cat((positive.unsqueeze(-2), negatives), dim=-2).to(dtype)
    logits = _similarity(anchor.to(dtype).unsqueeze(-2), others) / tau
    return reduce(torch.logsumexp(logits, dim=-1) - logits[..., 0], reduction).to(anchor.dtype)


def temporal_triplet_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float, reduction: str = "mean"
) -> Tensor:
    """Hinge form of "a positive pair is closer than a negative one by a margin".

        L = max(0, |a − p|² + β − |a − n|²)

    Args:
        anchor: (*B, D).
        positive: (*B, D).
        negative: (*B, D).
        margin: β ≥ 0.
        reduction: over the samples *B.

    Returns:
        A scalar, or (*B,) for "none".

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or range.

    Source: 003 eq. (4), printed as an inequality.

    Example:
        >>> import torch
        >>> from posegeom import temporal_triplet_loss
        >>> a, p, n = torch.tensor([[0.0]]), torch.tensor([[1.0]]), torch.tensor([[1.0]])
        >>> temporal_triplet_loss(a, p, n, margin=0.5)
        tensor(0.5000)
    """
    _check_codes(anchor=anchor, positive=positive, negative=negative)
    check_same_shape(anchor=anchor, positive=positive, negative=negative)
    beta = check_number("margin", margin, at_least=0)
    dtype = compute_dtype(anchor)
    a, p, n = anchor.to(dtype), positive.to(dtype), negative.to(dtype)
    gap = ((a - p) ** 2).sum(-1) - ((a - n) ** 2).sum(-1)
    return reduce(torch.relu(gap + beta), reduction).to(anchor.dtype)


def gravity_tracking_loss(boxes: Tensor, margin: float, down: int = 1, reduction: str = "mean") -> TrackingLoss:
    """Boxes that follow a person in free fall: constant acceleration, downwards, of steady size.

    For every window of four consecutive frames, with u the box's vertical position and s its two scales,

        acceleration = ((u₁ + 3u₃) − (u₄ + 3u₂))²,
        order = Σ_{t=1..3} max(0, τ − down · (u_{t+1} − u_t)),
        scale = Σ_{t=1..3} |s_t − s_{t+1}|²,

    each averaged over the windows.

    Args:
        boxes: (*B, T, 4) as (s_x, s_y, u_x, u_y) of T ≥ 4 frames at equal time steps.
        margin: τ ≥ 0, the least distance fallen from frame to frame, in units of u.
        down: +1 if u grows downwards (boxes of `posegeom.crop`, PyTorch's affine grids), −1 if upwards.
        reduction: over the samples *B.

    Returns:
        TrackingLoss(total, acceleration, order, scale), scalars, or (*B,) each for "none".

    Raises:
        TypeError, ValueError: a wrong dtype, shape or range.

    Source: 003 eqs. (9) to (12). Eq. (10) as printed wants u to decrease on the way down, which is the sign of
    the inverse transform; here `down` says it (docs/notes).

    Example:
        >>> import torch
        >>> from posegeom import gravity_tracking_loss
        >>> t = torch.arange(5.0)
        >>> u = -0.8 + 0.1 * t**2 / 2 + 0.05 * t
        >>> boxes = torch.stack((0.3 + 0 * t, 0.4 + 0 * t, 0 * t, u), dim=-1)
        >>> gravity_tracking_loss(boxes, margin=0.01).total < 1e-10
        tensor(True)
    """
    check_floating("boxes", boxes)
    check_shape("boxes", boxes, ("*B", "T", 4))
    if boxes.shape[-2] < 4:
        raise ValueError(f"boxes must be (*B, T >= 4, 4), got {tuple(boxes.shape)}")
    tau = check_number("margin", margin, at_least=0)
    check_choice("down", down, (1, -1))
    values = boxes.to(compute_dtype(boxes))
    scales, height = values[..., :2], values[..., 3]
    third = height[..., 3:] - height[..., :-3] + 3 * (height[..., 1:-2] - height[..., 2:-1])
    hinge = torch.relu(tau - down * (height[..., 1:] - height[..., :-1]))
    change = ((scales[..., 1:, :] - scales[..., :-1, :]) ** 2).sum(-1)

    def per_window(steps: Tensor) -> Tensor:
        return (steps[..., :-2] + steps[..., 1:-1] + steps[..., 2:]).mean(-1)

    terms = [(third**2).mean(-1), per_window(hinge), per_window(change)]
    reduced = [reduce(term, reduction).to(boxes.dtype) for term in (terms[0] + terms[1] + terms[2], *terms)]
    return TrackingLoss(*reduced)


def relative_bone_lengths(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Bone lengths in units of the pose's own mean bone length: b_n = |bone_n| / mean_m |bone_m|.

    Args:
        joints: (*B, J, D) in any unit.
        skeleton: their tree.

    Returns:
        (*B, N) in the order of `skeleton.bones`, mean 1.

    Raises:
        TypeError, ValueError: a wrong dtype or shape.

    Degenerate cases: a pose with all joints in one point gives zeros; a bone of length zero has zero gradient.

    Source: 001 §3, after its predecessor on lifting.

    Example:
        >>> import torch
        >>> from posegeom import Skeleton, relative_bone_lengths
        >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1), (0, 1, 2))
        >>> relative_bone_lengths(torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]]), arm)
        tensor([1.5000, 0.5000])
    """
    check_floating("joints", joints)
    return _relative_lengths(joints.to(compute_dtype(joints)), skeleton).to(joints.dtype)


def _relative_lengths(joints: Tensor, skeleton: Skeleton) -> Tensor:
    lengths = safe_norm(bone_vectors(joints, skeleton))
    return lengths / lengths.mean(-1, keepdim=True).clamp(min=1e-18)


def bone_length_nll(
    joints: Tensor, skeleton: Skeleton, mean: Tensor, std: float | Tensor, reduction: str = "mean"
) -> Tensor:
    """Negative log-likelihood of the relative bone lengths under independent Gaussians.

        L = −log Π_n N(b_n | b̄_n, σ) = Σ_n [ ½ ((b_n − b̄_n)/σ)² + log(σ √(2π)) ],   b = relative_bone_lengths

    Args:
        joints: (*B, J, D) in any unit.
        skeleton: their tree.
        mean: (N,) or (*B, N) expected relative lengths b̄, in the order of `skeleton.bones`.
        std: the standard deviation σ (not the variance) > 0: a number, (N,) or (*B, N). Tensor values below 1e-6
            count as 1e-6.
        reduction: over the samples *B.

    Returns:
        A scalar, or (*B,) for "none".

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or range.

    Source: 001 eq. (10), which does not say whether σ is a standard deviation or a variance (docs/notes).

    Example:
        >>> import torch
        >>> from posegeom import Skeleton, bone_length_nll
        >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1), (0, 1, 2))
        >>> joints = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
        >>> bone_length_nll(joints, arm, torch.ones(2), std=1.0)  # 2 log √(2π)
        tensor(1.8379)
    """
    check_floating("joints", joints)
    check_floating("mean", mean)
    for name, value in (("mean", mean), ("std", std)):
        if isinstance(value, Tensor):
            check_floating(name, value)
            check_shape(name, value, ("*B", len(skeleton.bones)), f"for skeleton {skeleton.name}")
            check_batches(**{"joints": joints.shape[:-2], name: value.shape[:-1]})
    check_same_device(joints=joints, mean=mean, std=std)
    relative = _relative_lengths(joints.to(compute_dtype(joints)), skeleton)
    sigma: Tensor | float
    if isinstance(std, Tensor):
        sigma = std.to(relative.dtype).clamp(min=SMALLEST_STD)
        log_sigma: Tensor | float = sigma.log()
    else:
        sigma = check_number("std", std, above=0)
        log_sigma = math.log(sigma)
    terms = 0.5 * ((relative - mean.to(relative.dtype)) / sigma) ** 2 + (log_sigma + 0.5 * math.log(2 * math.pi))
    return reduce(terms.sum(-1), reduction).to(joints.dtype)


def deformation_loss(before: Tensor, after: Tensor, pairs: Tensor, power: int = 2, reduction: str = "mean") -> Tensor:
    """The difference of two poses should survive the loop of lifting, rotating and projecting.

        L = ‖(v′_j − v′_k) − (v_j − v_k)‖^power   over all coordinates of a pose, for every pair (j, k)

    Args:
        before: (B, J, D) poses v.
        after: (B, J, D) poses v′ after the loop.
        pairs: (P, 2) integers, numbers of poses in the batch. A number outside the batch counts as a pose that
            did not change.
        power: 2 as printed, or 1 as in the public code of the work it comes from.
        reduction: over the pairs.

    Returns:
        A scalar, or (P,) for "none".

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or power.

    Degenerate cases: with power 1 a pair without any change has zero gradient.

    Source: 001 eq. (6).

    Example:
        >>> import torch
        >>> from posegeom import deformation_loss
        >>> before, after = torch.zeros(2, 1, 3), torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
        >>> deformation_loss(before, after, torch.tensor([[0, 1]]))
        tensor(1.)
    """
    check_floating("before", before)
    check_floating("after", after)
    check_shape("before", before, ("B", "J", "D"))
    check_same_shape(before=before, after=after)
    check_integer("pairs", pairs)
    check_shape("pairs", pairs, ("P", 2))
    check_same_device(before=before, after=after, pairs=pairs)
    check_choice("power", power, (1, 2))
    dtype = compute_dtype(before)
    change = (after.to(dtype) - before.to(dtype)).flatten(1)
    # A product with a constant 0/±1 matrix: the backward of indexing adds up in no fixed order.
    number = torch.arange(before.shape[0], device=before.device)
    select = (pairs[:, :1] == number).to(dtype) - (pairs[:, 1:] == number).to(dtype)
    with torch.autocast(before.device.type, enabled=False):
        difference = select @ change
    values = (difference**2).sum(-1) if power == 2 else safe_norm(difference)
    return reduce(values, reduction).to(before.dtype)


def masked_l1(a: Tensor, b: Tensor, weight: Tensor, reduction: str = "mean") -> Tensor:
    """Weighted absolute difference of two images, averaged over pixels and channels.

        L = 1/(C H W) Σ_{c,u} w(u) |a_c(u) − b_c(u)|

    Args:
        a: (*B, C, H, W).
        b: (*B, C, H, W), or what broadcasts to it (a constant background (C, 1, 1), say).
        weight: (*B, H, W) w; not normalised, so a mask that covers little weighs little. It does not hide NaN.
        reduction: over the samples *B.

    Returns:
        A scalar, or (*B,) for "none".

    Raises:
        TypeError, ValueError: a wrong dtype, shape or device.

    Source: the ⊗-weighted |·| of 000 §3.3 (L_I^u, L_I^c).

    Example:
        >>> import torch
        >>> from posegeom import masked_l1
        >>> masked_l1(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.eye(2)[None])
        tensor(0.5000)
    """
    for name, value in (("a", a), ("b", b), ("weight", weight)):
        check_floating(name, value)
    check_shape("a", a, ("*B", "C", "H", "W"))
    check_broadcast("b", b.shape, a.shape, f"as a, {tuple(a.shape)}")
    grey = (*a.shape[:-3], *a.shape[-2:])
    check_broadcast("weight", weight.shape, grey, f"(*B, H, W) = {grey}")
    check_same_device(a=a, b=b, weight=weight)
    dtype = compute_dtype(a)
    difference = (a.to(dtype) - b.to(dtype)).abs() * weight.to(dtype).unsqueeze(-3)
    return reduce(_mean_over(difference, 3), reduction).to(a.dtype)


def _mean_over(values: Tensor, dims: int) -> Tensor:
    """Mean over the last `dims` axes, 0 if there is nothing in them."""
    count = math.prod(values.shape[-dims:])
    return values.flatten(-dims).sum(-1) / max(count, 1)


def segmentation_uncertainty_loss(
    probabilities: Tensor, labels: Tensor, uncertainty: Tensor, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy where the puppet is sure of the label, self-entropy where it is not.

        L = mean_u [ (1 − w(u)) · CE(u) + w(u) · SE(u) ],
        CE = −log p_y,   SE = −Σ_l p_l log p_l

    Args:
        probabilities: (*B, L + 1, H, W) p, background last, summing to 1 over the classes.
        labels: (*B, H, W) integers y in 0..L; another value (such as 255) has no cross-entropy.
        uncertainty: (*B, H, W) w in [0, 1].
        reduction: over the samples *B.

    Returns:
        A scalar, or (*B,) for "none".

    Raises:
        TypeError, ValueError: a wrong dtype, shape or device.

    Degenerate cases: probabilities below 1e-12 count as 1e-12 inside the logarithms, with zero gradient there.

    Source: 000 §3.3b, L_seg (004's figure prints SE with two arguments; it has one).

    Example:
        >>> import torch
        >>> from posegeom import segmentation_uncertainty_loss
        >>> half = torch.full((2, 1, 1), 0.5)
        >>> segmentation_uncertainty_loss(half, torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1))
        tensor(0.6931)
    """
    check_floating("probabilities", probabilities)
    check_shape("probabilities", probabilities, ("*B", "L+1", "H", "W"))
    check_integer("labels", labels)
    check_floating("uncertainty", uncertainty)
    grey = (*probabilities.shape[:-3], *probabilities.shape[-2:])
    check_shape("labels", labels, grey, "(*B, H, W)")
    check_shape("uncertainty", uncertainty, grey, "(*B, H, W)")
    check_same_device(probabilities=probabilities, labels=labels, uncertainty=uncertainty)
    dtype = compute_dtype(probabilities)
    p, w = probabilities.to(dtype), uncertainty.to(dtype)
    log_p = p.clamp(min=SMALLEST_PROBABILITY).log()
    classes = torch.arange(p.shape[-3], device=p.device).view(-1, 1, 1)
    cross_entropy = -torch.where(labels.unsqueeze(-3) == classes, log_p, 0.0).sum(-3)
    self_entropy = -(p * log_p).sum(-3)
    return reduce(_mean_over((1 - w) * cross_entropy + w * self_entropy, 2), reduction).to(probabilities.dtype)
