"""Triton kernels of which part hides which, from the depths of the joints that the parts hang on.

A program holds all parts of one sample, as in `puppet_joints`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from posegeom.kernels.launch import differentiate_again, index_table, on_device, padded, scalar, tl_dtype
from posegeom.kernels.puppet_joints import add_to_joints, joint_table, joints_of, parts_of
from posegeom.puppet import Puppet
from posegeom.segmentation import NEAREST, hiding_of_joints

Context = Any

_NEAREST = tl.constexpr(NEAREST)


@triton.jit
def _part_depths(depth, table, sample, part, real, joints, COMPUTE: tl.constexpr):
    """The mean depth of every part's joints, and how many they are."""
    a, b, c, d = joints_of(table, part, real)
    body = depth + sample * joints
    total = tl.load(body + a, mask=real, other=2.0).to(COMPUTE) + tl.load(body + b, mask=real, other=2.0).to(COMPUTE)
    total += tl.load(body + c, mask=c >= 0, other=0.0).to(COMPUTE)
    total += tl.load(body + d, mask=c >= 0, other=0.0).to(COMPUTE)
    count = tl.where(c >= 0, 4.0, 2.0).to(COMPUTE)
    return total / count, count


@triton.jit
def _hides(mean, part, kappa, COMPUTE: tl.constexpr):
    """How much part k hides part l at [l, k], from the parts' depths; 0 where they are the same."""
    nearest = tl.full((), _NEAREST, COMPUTE)
    logarithm = tl.log(tl.where(mean < nearest, nearest, mean))
    same = part[:, None] == part[None, :]
    others = tl.sum(tl.where(same, logarithm[:, None], 0.0), axis=0)  # the same values along the other axis
    hides = 1.0 / (1.0 + tl.exp(-kappa * (logarithm[:, None] - others[None, :])))
    return tl.where(same, 0.0, hides)


@triton.jit
def _part_hiding_fwd_kernel(
    depth,
    table,
    hides,
    kappa_high,
    kappa_low,
    parts,
    joints,
    PARTS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """o_lk = σ(κ (log d_l − log d_k)) of one sample."""
    sample = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS)
    real = part < parts
    kappa = tl.cast(kappa_high, COMPUTE) + tl.cast(kappa_low, COMPUTE)
    mean, _ = _part_depths(depth, table, sample, part, real, joints, COMPUTE)
    here = hides + (sample * parts + part[:, None]) * parts + part[None, :]
    tl.store(here, _hides(mean, part, kappa, COMPUTE), mask=real[:, None] & real[None, :])


@triton.jit
def _part_hiding_bwd_kernel(
    by_hides,
    depth,
    table,
    by_depth,
    kappa_high,
    kappa_low,
    parts,
    joints,
    PARTS: tl.constexpr,
    JOINTS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Gradients to the joints' depths of one sample."""
    sample = tl.program_id(0).to(tl.int64)
    part, lanes = tl.arange(0, PARTS), tl.arange(0, JOINTS)
    real = part < parts
    kappa = tl.cast(kappa_high, COMPUTE) + tl.cast(kappa_low, COMPUTE)
    mean, count = _part_depths(depth, table, sample, part, real, joints, COMPUTE)
    hides = _hides(mean, part, kappa, COMPUTE)
    here = by_hides + (sample * parts + part[:, None]) * parts + part[None, :]
    pull = tl.load(here, mask=real[:, None] & real[None, :], other=0.0) * kappa * hides * (1.0 - hides)
    along = tl.sum(pull, axis=1)
    down = tl.sum(tl.where(part[:, None] == part[None, :], tl.sum(pull, axis=0)[None, :], 0.0), axis=1)
    by_mean = tl.where(mean < tl.full((), _NEAREST, COMPUTE), 0.0, (along - down) / mean) / count
    a, b, c, d = joints_of(table, part, real)
    total = tl.zeros((JOINTS,), COMPUTE)
    total = add_to_joints(total, a, lanes, by_mean, real)
    total = add_to_joints(total, b, lanes, by_mean, real)
    total = add_to_joints(total, c, lanes, by_mean, c >= 0)
    total = add_to_joints(total, d, lanes, by_mean, c >= 0)
    tl.store(by_depth + sample * joints + lanes, total, mask=lanes < joints)


@torch.library.custom_op(
    "posegeom::part_hiding", mutates_args=(), schema="(Tensor depth, float kappa, int[] table) -> Tensor"
)
def _part_hiding(depth, kappa, table):
    joints, parts = depth.shape[-1], len(table) // 4
    hides = depth.new_empty((*depth.shape[:-1], parts, parts))
    samples = depth.numel() // joints
    if samples == 0:
        return hides
    with on_device(depth):
        _part_hiding_fwd_kernel[(samples,)](
            depth.contiguous(),
            index_table(tuple(table), depth.device),
            hides,
            *scalar(kappa),
            parts,
            joints,
            PARTS=padded(parts),
            COMPUTE=tl_dtype(depth),
            num_warps=1,
        )
    return hides


@_part_hiding.register_fake
def _(depth, kappa, table):
    parts = len(table) // 4
    return depth.new_empty((*depth.shape[:-1], parts, parts))


@torch.library.custom_op(
    "posegeom::part_hiding_backward",
    mutates_args=(),
    schema="(Tensor by_hides, Tensor depth, float kappa, int[] table) -> Tensor",
)
def _part_hiding_backward(by_hides, depth, kappa, table):
    joints, parts = depth.shape[-1], len(table) // 4
    by_depth = torch.empty_like(depth, memory_format=torch.contiguous_format)
    samples = depth.numel() // joints
    if samples == 0:
        return by_depth
    with on_device(depth):
        _part_hiding_bwd_kernel[(samples,)](
            by_hides.contiguous(),
            depth.contiguous(),
            index_table(tuple(table), depth.device),
            by_depth,
            *scalar(kappa),
            parts,
            joints,
            PARTS=padded(parts),
            JOINTS=padded(joints),
            COMPUTE=tl_dtype(depth),
            num_warps=1,
        )
    return by_depth


@_part_hiding_backward.register_fake
def _(by_hides, depth, kappa, table):
    return torch.empty_like(depth, memory_format=torch.contiguous_format)


def _part_hiding_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    depth, *ctx.settings = inputs
    ctx.save_for_backward(depth)


def _part_hiding_rule(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (depth,) = ctx.saved_tensors
    kappa, table = ctx.settings
    rest = (None,) * 2
    if torch.is_grad_enabled():

        def reference(depth: Tensor) -> Tensor:
            return hiding_of_joints(depth, kappa, parts_of(table))

        return (*differentiate_again(ctx, reference, (depth,), gradient), *rest)
    return (torch.ops.posegeom.part_hiding_backward(gradient, depth, kappa, table), *rest)


_part_hiding.register_autograd(_part_hiding_rule, setup_context=_part_hiding_context)


def part_hiding(depth: Tensor, kappa: float, puppet: Puppet) -> Tensor:
    """`segmentation.hiding_of_joints` of joints' depths (*B, J)."""
    hides: Tensor = torch.ops.posegeom.part_hiding(depth, kappa, joint_table(puppet))
    return hides
