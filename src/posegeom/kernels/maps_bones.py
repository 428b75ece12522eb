"""From gradients of bones to gradients of the joints that they share."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from posegeom.kernels.launch import padded, tl_dtype


@triton.jit
def _joints_from_bones_kernel(
    sums,
    parents,
    children,
    out,
    bones,
    joints,
    VALUES: tl.constexpr,
    JOINTS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Gradients to the joints of one sample: those of its bones' ends, added in the order of the bones."""
    sample = tl.program_id(0).to(tl.int64)
    joint = tl.arange(0, JOINTS)
    x = tl.zeros((JOINTS,), COMPUTE)
    y = x
    for bone in range(bones):
        starts, ends = tl.load(parents + bone) == joint, tl.load(children + bone) == joint
        here = sums + (sample * bones + bone) * VALUES
        x += tl.where(starts, tl.load(here), 0.0)
        y += tl.where(starts, tl.load(here + 1), 0.0)
        x += tl.where(ends, tl.load(here + 2), 0.0)
        y += tl.where(ends, tl.load(here + 3), 0.0)
    here = out + (sample * joints + joint) * 2
    tl.store(here, x.to(out.dtype.element_ty), mask=joint < joints)
    tl.store(here + 1, y.to(out.dtype.element_ty), mask=joint < joints)


def joints_from_bones(sums: Tensor, points: Tensor, parents: Tensor, children: Tensor) -> Tensor:
    """The points' gradient from (*B, N, values), whose first four values belong to a bone's start and end."""
    out = torch.empty_like(points, memory_format=torch.contiguous_format)
    (bones, values), joints = sums.shape[-2:], points.shape[-2]
    _joints_from_bones_kernel[(out.numel() // (2 * joints),)](
        sums,
        parents,
        children,
        out,
        bones,
        joints,
        VALUES=values,
        JOINTS=padded(joints),
        COMPUTE=tl_dtype(points),
        num_warps=1,
    )
    return out
