"""The similarity that brings a pose closest to another one, with derivatives of every order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from posegeom._checks import check_floating, check_same_device, check_same_shape, check_shape, compute_dtype
from posegeom.frames import compose, cross, rotate


class Alignment(NamedTuple):
    """aligned = scale · rotation · prediction + translation."""

    aligned: Tensor
    scale: Tensor
    rotation: Tensor
    translation: Tensor


def procrustes_align(prediction: Tensor, target: Tensor, allow_reflection: bool = False) -> Alignment:
    """The similarity that brings a pose closest to another one.

        min over s, R, t of Σ_j ‖s R p_j + t − q_j‖²
        M = Σ_j (q_j − q̄)(p_j − p̄)ᵀ = U S Vᵀ,   R = U D Vᵀ,   s = tr(D S)/Σ_j ‖p_j − p̄‖²,   t = q̄ − s R p̄

    with D = diag(1, 1, det U det V), so that R is a rotation, or D = 1 with `allow_reflection`.

    The derivative of R is U [(Uᵀ dM V) antisymmetric part / (s_i + s_j)] Vᵀ with the denominators (signed by D)
    clamped from below at a small fraction of s_1. Unlike the derivative of the singular value decomposition it exists
    at equal singular values (a cube) and is finite where the rotation is not unique (collinear joints).

    Args:
        prediction: (*B, J, 3) p.
        target: (*B, J, 3) q.
        allow_reflection: let R be a reflection where that is closer.

    Returns:
        Alignment(aligned (*B, J, 3), scale (*B,), rotation (*B, 3, 3), translation (*B, 3)), in the dtype of
        `prediction`, differentiable to any order in both poses.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or device.

    Degenerate cases: joints on a line leave the rotation about it free, a single point leaves all of R free: some
    proper rotation is returned. A prediction of one point has scale 0.

    Source: the classical orthogonal Procrustes problem.

    Example:
        >>> import torch
        >>> from posegeom import procrustes_align
        >>> pose = torch.randn(17, 3, dtype=torch.float64)
        >>> fit = procrustes_align(pose, 2 * pose + 1)
        >>> f"{fit.scale:.3f}"
        '2.000'
    """
    check_floating("prediction", prediction)
    check_floating("target", target)
    check_shape("prediction", prediction, ("*B", "J", 3))
    check_same_shape(prediction=prediction, target=target)
    check_same_device(prediction=prediction, target=target)
    compute = compute_dtype(prediction)
    p, q = prediction.to(compute), target.to(compute)
    p_mean, q_mean = p.mean(-2, keepdim=True), q.mean(-2, keepdim=True)
    p, q = p - p_mean, q - q_mean
    size = unit_size(p)  # everything but `scale` itself is the same for a prediction of another scale
    p = p / size
    covariance = (q.unsqueeze(-1) * p.unsqueeze(-2)).sum(-3)
    rotation = _nearest_rotation(covariance, allow_reflection)
    turned = rotate(rotation.unsqueeze(-3), p)
    scale = (turned * q).sum((-2, -1)) / (p * p).sum((-2, -1)).clamp(min=1e-18)
    aligned = scale[..., None, None] * turned + q_mean
    scale = scale / size[..., 0, 0]
    translation = q_mean.squeeze(-2) - scale.unsqueeze(-1) * rotate(rotation, p_mean.squeeze(-2))
    return Alignment(*(value.to(prediction.dtype) for value in (aligned, scale, rotation, translation)))


def unit_size(points: Tensor) -> Tensor:
    """About the largest coordinate of every pose (*B, J, D), as (*B, 1, 1) without gradient; 1 for a pose of zeros.

    A power of two, so that dividing by it is exact.
    """
    size = points.detach().abs().amax((-2, -1), keepdim=True)
    return torch.where(size == 0, 1.0, torch.exp2(torch.where(size == 0, 1.0, size).log2().floor()))


def _nearest_rotation(matrix: Tensor, allow_reflection: bool) -> Tensor:
    """Argmax over rotations R of tr(Rᵀ M) for (*B, 3, 3), with every derivative.

    The decomposition itself is taken without gradient: R₀ = U D Vᵀ. Then R = R₀ exp[ω], where ω solves
    "Rᵀ M is symmetric" by fixed-point steps ω = K⁻¹ vee(R₀ᵀ M), K = V diag(s_i + s_j) Vᵀ. At the solution they change
    nothing but rounding, and n steps carry derivatives up to order n exactly: plain arithmetic that vmap, forward
    mode, double backward and the compiler all see through.
    """
    fixed = matrix.detach().nan_to_num(posinf=0.0, neginf=0.0)  # NaN comes out as NaN below, not as a failed SVD
    size = fixed.abs().amax((-2, -1), keepdim=True)
    size = torch.where(size < 1e-30, 1.0, size)
    left, values, right_t = torch.linalg.svd(fixed / size)
    right = right_t.transpose(-1, -2)
    if allow_reflection:
        sign = torch.ones_like(values[..., 0])
    else:
        sign = torch.sign(_determinant(left) * _determinant(right))
    signs = torch.stack((torch.ones_like(sign), torch.ones_like(sign), sign), dim=-1)
    rotation = compose(left * signs.unsqueeze(-2), right_t)
    signed = values * signs
    s1, s2, s3 = signed.unbind(-1)
    sums = torch.stack((s2 + s3, s1 + s3, s1 + s2), dim=-1)
    floor = (torch.finfo(matrix.dtype).eps * 16 * values[..., :1]).clamp(min=torch.finfo(matrix.dtype).tiny * 1e8)
    inverse = 1 / torch.maximum(sums, floor)
    scaled = matrix / size
    for _ in range(3):
        residual = compose(rotation.transpose(-1, -2), scaled)  # symmetric at the solution
        skew = torch.stack(
            (
                residual[..., 2, 1] - residual[..., 1, 2],
                residual[..., 0, 2] - residual[..., 2, 0],
                residual[..., 1, 0] - residual[..., 0, 1],
            ),
            dim=-1,
        )
        omega = rotate(right, inverse * rotate(right_t, skew))
        rotation = compose(rotation, _small_rotation(omega))
    return rotation


def _small_rotation(omega: Tensor) -> Tensor:
    """Cayley's rotation by a small vector ω (*B, 3): orthogonal, and exp[ω] up to third order."""
    half = omega / 2
    squared = (half * half).sum(-1)[..., None, None]
    identity = torch.eye(3, device=omega.device, dtype=omega.dtype)
    columns = [cross(half, identity[:, column].expand_as(half)) for column in range(3)]
    skew = torch.stack(columns, dim=-1)
    outer = half.unsqueeze(-1) * half.unsqueeze(-2)
    return ((1 - squared) * identity + 2 * skew + 2 * outer) / (1 + squared)


def _determinant(matrix: Tensor) -> Tensor:
    first, second, third = matrix.unbind(-1)
    return (first * cross(second, third)).sum(-1)
