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
    PARTS: tl.constexpr,
    JOINTS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Gradients to the joints of one sample: its bones' ends, over all parts of the image, added in order."""
    sample = tl.program_id(0).to(tl.int64)
    joint, lane = tl.arange(0, JOINTS), tl.arange(0, PARTS)
    x = tl.zeros((JOINTS,), COMPUTE)
    y = x
    for bone in range(bones):
        starts, ends = tl.load(parents + bone) == joint, tl.load(children + bone) == joint
        for first in range(0, parts, PARTS):
            part = first + lane
            here = sums + ((sample * parts + part) * bones + bone) * VALUES
            real = part < parts
            x += tl.where(starts, tl.sum(tl.load(here, mask=real, other=0.0), axis=0), 0.0)
            y += tl.where(starts, tl.sum(tl.load(here + 1, mask=real, other=0.0), axis=0), 0.0)
            x += tl.where(ends, tl.sum(tl.load(here + 2, mask=real, other=0.0), axis=0), 0.0)
            y += tl.where(ends, tl.sum(tl.load(here + 3, mask=real, other=0.0), axis=0), 0.0)
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
        PARTS=min(padded(parts), 64),
        JOINTS=padded(joints),
        COMPUTE=tl_dtype(points),
        num_warps=1,
    )
    return out
