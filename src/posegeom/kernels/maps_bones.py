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
    parts,
    VALUES: tl.constexpr,
    BONES: tl.constexpr,
    JOINTS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Gradients to the joints of one sample: the sums of its bones' ends, over all parts of the image, in order."""
    sample = tl.program_id(0).to(tl.int64)
    bone, joint = tl.arange(0, BONES), tl.arange(0, JOINTS)
    real = bone < bones
    start_x = tl.zeros((BONES,), COMPUTE)
    start_y, end_x, end_y = start_x, start_x, start_x
    for part in range(parts):
        here = sums + ((sample * parts + part) * bones + bone) * VALUES
        start_x += tl.load(here, mask=real, other=0.0)
        start_y += tl.load(here + 1, mask=real, other=0.0)
        end_x += tl.load(here + 2, mask=real, other=0.0)
        end_y += tl.load(here + 3, mask=real, other=0.0)
    parent = tl.load(parents + bone, mask=real, other=-1)
    child = tl.load(children + bone, mask=real, other=-1)
    starts, ends = parent[None, :] == joint[:, None], child[None, :] == joint[:, None]
    x = tl.sum(tl.where(starts, start_x[None, :], 0.0) + tl.where(ends, end_x[None, :], 0.0), axis=1)
    y = tl.sum(tl.where(starts, start_y[None, :], 0.0) + tl.where(ends, end_y[None, :], 0.0), axis=1)
    here = out + (sample * joints + joint) * 2
    tl.store(here, x.to(out.dtype.element_ty), mask=joint < joints)
    tl.store(here + 1, y.to(out.dtype.element_ty), mask=joint < joints)


def joints_from_bones(sums: Tensor, points: Tensor, parents: Tensor, children: Tensor) -> Tensor:
    """The points' gradient from (*B, parts, N, values), whose first four values belong to a bone's start and end."""
    out = torch.empty_like(points, memory_format=torch.contiguous_format)
    parts, bones, values = sums.shape[-3:]
    joints = points.shape[-2]
    _joints_from_bones_kernel[(out.numel() // (2 * joints),)](
        sums,
        parents,
        children,
        out,
        bones,
        joints,
        parts,
        VALUES=values,
        BONES=padded(bones),
        JOINTS=padded(joints),
        COMPUTE=tl_dtype(points),
        num_warps=1,
    )
    return out
