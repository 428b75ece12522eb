"""How far a pose or a segmentation is from the truth: MPJPE and its relatives, PCK, AUC, part IoU and F1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posegeom._checks import (
    check_broadcast,
    check_choice,
    check_floating,
    check_integer,
    check_number,
    check_same_device,
    check_same_shape,
    check_shape,
    check_size,
    compute_dtype,
)
from posegeom.frames import safe_norm
from posegeom.procrustes import procrustes_align, unit_size
from posegeom.skeleton import gather_joints

REDUCTIONS = ("mean", "sum", "none")

DEFAULT_THRESHOLDS = tuple(step * 0.005 for step in range(31))
"""MPI-INF-3DHP's 0, 5, ..., 150 mm, in metres. 0 is among them, so a perfect prediction scores 30/31."""


def _check_poses(prediction: Tensor, target: Tensor, mask: Tensor | None, root: int | None) -> None:
    check_floating("prediction", prediction)
    check_floating("target", target)
    check_shape("prediction", prediction, ("*B", "J", "D"))
    check_same_shape(prediction=prediction, target=target)
    check_same_device(prediction=prediction, target=target, mask=mask)
    joints = prediction.shape[-2]
    if mask is not None:
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask must be a bool or floating-point torch.Tensor, got {type(mask).__name__}")
        check_broadcast("mask", mask.shape, prediction.shape[:-1], f"(*B, J) = {tuple(prediction.shape[:-1])}")
    if root is not None and not (isinstance(root, int) and 0 <= root < joints):
        raise ValueError(f"root must be a joint number in 0..{joints - 1}, got {root!r}")


def _pair(prediction: Tensor, target: Tensor, root: int | None) -> tuple[Tensor, Tensor]:
    """Both in the computing dtype, relative to the root joint if there is one."""
    compute = compute_dtype(prediction)
    p, t = prediction.to(compute), target.to(compute)
    if root is not None:
        p, t = p - p[..., root : root + 1, :], t - t[..., root : root + 1, :]
    return p, t


def _errors(difference: Tensor, mask: Tensor | None) -> Tensor:
    """Lengths of the differences; a masked one counts as 0 before anything is computed, so that it may be NaN."""
    if mask is not None:
        difference = torch.where((mask == 0).expand(difference.shape[:-1]).unsqueeze(-1), 0.0, difference)
    return safe_norm(difference)


def _reduce(values: Tensor, mask: Tensor | None, reduction: str, dtype: torch.dtype) -> Tensor:
    """Masked mean or sum over everything, or the values with masked ones at 0; the mean over nothing is 0."""
    check_choice("reduction", reduction, REDUCTIONS)
    count: Tensor | int
    if mask is None:
        total, count = values.sum(), max(values.numel(), 1)
    else:
        weight = mask.to(values.dtype).expand(values.shape)
        values = values * weight
        total, count = values.sum(), weight.sum().clamp(min=1e-18)
    if reduction == "none":
        return values.to(dtype)
    return (total / count if reduction == "mean" else total).to(dtype)


def mpjpe(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    root: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean per joint position error: the mean over poses and joints of ‖p_j − t_j‖.

    Args:
        prediction: (*B, J, D).
        target: (*B, J, D), same unit and shape; nothing is broadcast, so that a forgotten axis cannot hide.
        mask: (*B, J), bool or weights, of the joints that count; what a masked target holds (NaN, say) does not
            matter.
        root: the joint that both poses are centred on first; None takes them as they are. The root itself counts, with
            error 0, as in the published numbers.
        reduction: "mean" over all joints that count, "sum", or "none" for (*B, J).

    Returns:
        A scalar in the unit of the input, or (*B, J).

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or root.

    Degenerate cases: an error of exactly 0 has zero gradient; a mean over nothing is 0.

    Source: Human3.6M protocol 1, with root=pelvis.

    Example:
        >>> import torch
        >>> from posegeom import mpjpe
        >>> mpjpe(torch.zeros(2, 3), torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
        tensor(2.5000)
    """
    _check_poses(prediction, target, mask, root)
    p, t = _pair(prediction, target, root)
    return _reduce(_errors(p - t, mask), mask, reduction, prediction.dtype)


def n_mpjpe(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    root: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """MPJPE after the best scale per pose: s = ⟨p, t⟩ / ⟨p, p⟩ over all coordinates, then ‖s p_j − t_j‖.

    Args:
        prediction: (*B, J, D).
        target: (*B, J, D).
        mask: (*B, J), bool or weights, of the joints in the mean. The scale uses all joints: all must be finite.
        root: as in `mpjpe`; published numbers are root-centred.
        reduction: as in `mpjpe`.

    Returns:
        A scalar in the unit of the target, or (*B, J).

    Raises:
        TypeError, ValueError: as `mpjpe`.

    Degenerate cases: a prediction of all zeros has scale 0.

    Source: the least-squares scale of the work 003 builds on; other code uses |t|/|p|, which differs by about 1 %.

    Example:
        >>> import torch
        >>> from posegeom import n_mpjpe
        >>> pose = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
        >>> n_mpjpe(2 * pose, pose)
        tensor(0.)
    """
    _check_poses(prediction, target, mask, root)
    p, t = _pair(prediction, target, root)
    p = p / unit_size(p)  # the result does not depend on the prediction's scale
    scale = (p * t).sum((-2, -1), keepdim=True) / (p * p).sum((-2, -1), keepdim=True).clamp(min=1e-18)
    return _reduce(_errors(scale * p - t, mask), mask, reduction, prediction.dtype)


def p_mpjpe(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    root: int | None = None,
    reduction: str = "mean",
    allow_reflection: bool = False,
) -> Tensor:
    """MPJPE after the best similarity per pose (rotation, scale, translation): see `procrustes_align`.

    Args:
        prediction: (*B, J, 3).
        target: (*B, J, 3).
        mask: (*B, J), bool or weights, of the joints in the mean. The alignment uses all joints: all must be finite.
        root: accepted like elsewhere; an alignment makes it irrelevant.
        reduction: as in `mpjpe`.
        allow_reflection: also allow mirrored poses, as some public code does. A depth-mirrored pose then scores 0.

    Returns:
        A scalar in the unit of the target, or (*B, J).

    Raises:
        TypeError, ValueError: as `mpjpe`, or points that are not 3D.

    Source: Human3.6M protocol 2.

    Example:
        >>> import torch
        >>> from posegeom import p_mpjpe
        >>> pose = torch.randn(17, 3, dtype=torch.float64)
        >>> bool(p_mpjpe(3 * pose.roll(1, -1) + 1, pose) < 1e-12)  # x→y→z→x is a rotation
        True
    """
    _check_poses(prediction, target, mask, root)
    p, t = _pair(prediction, target, root)
    aligned = procrustes_align(p, t, allow_reflection).aligned
    return _reduce(_errors(aligned - t, mask), mask, reduction, prediction.dtype)


def mpjve(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    root: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean per joint velocity error: MPJPE of the differences between consecutive frames.

    Args:
        prediction: (*B, T, J, D), T frames of one clip in order.
        target: (*B, T, J, D).
        mask: (*B, T, J); a velocity counts as much as the lesser of its two frames.
        root: as in `mpjpe`.
        reduction: as in `mpjpe`, over (*B, T − 1, J).

    Returns:
        A scalar in units per frame, or (*B, T − 1, J). One frame alone gives 0.

    Raises:
        TypeError, ValueError: as `mpjpe`, or no time axis.

    Example:
        >>> import torch
        >>> from posegeom import mpjve
        >>> still = torch.zeros(5, 17, 3)
        >>> mpjve(still + torch.arange(5.0).view(5, 1, 1), still)  # √3 a frame
        tensor(1.7321)
    """
    _check_poses(prediction, target, mask, root)
    check_shape("prediction", prediction, ("*B", "T", "J", "D"))
    p, t = _pair(prediction, target, root)
    difference = p - t
    weight = None
    if mask is not None:
        full = mask.to(difference.dtype).expand(prediction.shape[:-1])
        weight = torch.minimum(full[..., 1:, :], full[..., :-1, :])
    speed = _errors(difference[..., 1:, :, :] - difference[..., :-1, :, :], weight)
    return _reduce(speed, weight, reduction, prediction.dtype)


def _distances(
    prediction: Tensor, target: Tensor, mask: Tensor | None, root: int | None, joints: Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    """Distances and weights of the joints that count."""
    _check_poses(prediction, target, mask, root)
    p, t = _pair(prediction, target, root)
    weight = torch.ones_like(p[..., 0]) if mask is None else mask.to(p.dtype).expand(p.shape[:-1])
    if joints is not None:
        if isinstance(joints, int) or len(joints) == 0 or not all(0 <= joint < p.shape[-2] for joint in joints):
            raise ValueError(f"joints must be joint numbers in 0..{p.shape[-2] - 1}, at least one, got {joints!r}")
        p, t = gather_joints(p, joints), gather_joints(t, joints)
        weight = gather_joints(weight.unsqueeze(-1), joints).squeeze(-1)
    return _errors(p - t, weight), weight


def pck(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    root: int | None = None,
    threshold: float = 0.150,
    joints: Sequence[int] | None = None,
) -> Tensor:
    """Fraction of joints closer than a threshold: ‖p_j − t_j‖ < threshold, strictly.

    Args:
        prediction: (*B, J, D).
        target: (*B, J, D).
        mask: (*B, J), bool or weights, of the joints that count.
        root: as in `mpjpe`.
        threshold: in the unit of the poses. The default suits metres (0.150 m is MPI-INF-3DHP's); pass 150 for
            millimetres.
        joints: the joint numbers that count; None for all. MPI-INF-3DHP counts 14 (not pelvis, spine, head).

    Returns:
        A scalar in [0, 1]; 0 over nothing. No gradient: it is a count.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or range.

    Source: the official MPI-INF-3DHP evaluation.

    Example:
        >>> import torch
        >>> from posegeom import pck
        >>> pck(torch.zeros(2, 3), torch.tensor([[0.1, 0.0, 0.0], [0.2, 0.0, 0.0]]), threshold=0.15)
        tensor(0.5000)
    """
    limit = check_number("threshold", threshold, at_least=0)
    distance, weight = _distances(prediction, target, mask, root, joints)
    return _reduce((distance < limit).to(weight.dtype), weight, "mean", prediction.dtype)


def auc(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    root: int | None = None,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    joints: Sequence[int] | None = None,
) -> Tensor:
    """Area under the PCK curve: the mean of `pck` over thresholds.

    Args:
        prediction: (*B, J, D).
        target: (*B, J, D).
        mask: as in `pck`.
        root: as in `mpjpe`.
        thresholds: in the unit of the poses; default 0, 5, ..., 150 mm for poses in metres. 0 is among them, so a
            perfect prediction scores 30/31 = 0.9677, as in the official evaluation.
        joints: as in `pck`.

    Returns:
        A scalar in [0, 1].

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, or no thresholds.

    Source: the official MPI-INF-3DHP evaluation.

    Example:
        >>> import torch
        >>> from posegeom import auc
        >>> auc(torch.zeros(1, 17, 3), torch.zeros(1, 17, 3))
        tensor(0.9677)
    """
    if not isinstance(thresholds, Sequence) or len(thresholds) == 0:
        raise ValueError(f"thresholds must be a sequence of at least one number, got {thresholds!r}")
    limits = [check_number("thresholds", limit, at_least=0) for limit in thresholds]
    distance, weight = _distances(prediction, target, mask, root, joints)
    scores = [_reduce((distance < limit).to(weight.dtype), weight, "mean", weight.dtype) for limit in limits]
    return torch.stack(scores).mean().to(prediction.dtype)


def _class_counts(prediction: Tensor, target: Tensor, classes: int, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, false positives and false negatives of every class over the whole set, (classes,) each."""
    check_integer("prediction", prediction)
    check_integer("target", target)
    check_shape("prediction", prediction, ("*B", "H", "W"))
    check_same_shape(prediction=prediction, target=target)
    check_same_device(prediction=prediction, target=target)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise ValueError(f"classes must be a number of classes >= 1, got {classes!r}")
    counted = target != ignore_index
    both, only_prediction, only_target = [], [], []
    for label in range(classes):
        predicted, true = (prediction == label) & counted, target == label
        both.append((predicted & true).sum())
        only_prediction.append((predicted & ~true).sum())
        only_target.append((true & counted & ~predicted).sum())
    counts = (torch.stack(column).to(torch.float32) for column in (both, only_prediction, only_target))
    true_positive, false_positive, false_negative = counts
    return true_positive, false_positive, false_negative


def _class_mean(score: Tensor, reduction: str) -> Tensor:
    check_choice("reduction", reduction, ("mean", "none"))
    return score.mean() if reduction == "mean" else score


def part_iou(
    prediction: Tensor, target: Tensor, classes: int, ignore_index: int = 255, reduction: str = "mean"
) -> Tensor:
    """Intersection over union of every class: TP/(TP + FP + FN), counted over the whole set.

    Args:
        prediction: (*B, H, W) integer labels.
        target: (*B, H, W) integer labels; pixels with `ignore_index` do not count at all.
        classes: number of classes C; labels are 0..C − 1.
        ignore_index: the target label to leave out.
        reduction: "mean" over the classes, or "none".

    Returns:
        A float32 scalar, or (C,). A class that occurs in neither scores 0.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or number of classes.

    Source: 004 Table 2.

    Example:
        >>> import torch
        >>> from posegeom import part_iou
        >>> part_iou(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 1]]), classes=2, reduction="none")
        tensor([0.5000, 0.5000])
    """
    both, false_positive, false_negative = _class_counts(prediction, target, classes, ignore_index)
    return _class_mean(both / (both + false_positive + false_negative).clamp(min=1), reduction)


def part_f1(
    prediction: Tensor, target: Tensor, classes: int, ignore_index: int = 255, reduction: str = "mean"
) -> Tensor:
    """F1 score of every class: 2 TP/(2 TP + FP + FN), counted over the whole set.

    Args:
        prediction: (*B, H, W) integer labels.
        target: (*B, H, W) integer labels; pixels with `ignore_index` do not count at all.
        classes: number of classes C; labels are 0..C − 1.
        ignore_index: the target label to leave out.
        reduction: "mean" over the classes, or "none".

    Returns:
        A float32 scalar, or (C,). A class that occurs in neither scores 0.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or number of classes.

    Source: 000 Table 5, with the counts of the public LSP evaluation.

    Example:
        >>> import torch
        >>> from posegeom import part_f1
        >>> part_f1(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 1]]), classes=2, reduction="none")
        tensor([0.6667, 0.6667])
    """
    both, false_positive, false_negative = _class_counts(prediction, target, classes, ignore_index)
    return _class_mean(2 * both / (2 * both + false_positive + false_negative).clamp(min=1), reduction)


def mean_landmark_error(prediction: Tensor, target: Tensor, size: tuple[int, int], reduction: str = "mean") -> Tensor:
    """Mean 2D distance in percent of the image size ("%-MSE" in print, which is not squared).

        100 · mean over points of ‖((p_x − t_x)/W, (p_y − t_y)/H)‖

    Args:
        prediction: (*B, J, 2) pixels.
        target: (*B, J, 2) pixels.
        size: (H, W) of the image.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar in percent, or (*B, J).

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or size.

    Source: 003 Table 2, with the definition of the public code that reports it.

    Example:
        >>> import torch
        >>> from posegeom import mean_landmark_error
        >>> mean_landmark_error(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), (100, 100))
        tensor(5.0000)
    """
    height, width = check_size(size)
    _check_poses(prediction, target, None, None)
    check_shape("prediction", prediction, ("*B", "J", 2))
    p, t = _pair(prediction, target, None)
    x, y = (p - t).unbind(-1)
    return _reduce(100 * safe_norm(torch.stack((x / width, y / height), dim=-1)), None, reduction, prediction.dtype)
