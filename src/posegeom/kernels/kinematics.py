"""Triton kernels of `forward_kinematics`.

In PyTorch a skeleton's chain of frames is some seven hundred small operations forward and backward, which on a GPU are
launches and nothing else. Here a lane follows one sample along the tree. On the way forward every operation is rounded
as PyTorch rounds it, and in the same order: `local_directions` measures a pose with plain operations, and a limb near
the threshold of its frame's fallback has to turn the same way again.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from posegeom._checks import compute_dtype
from posegeom.frames import PARALLEL, TINY
from posegeom.kernels.launch import differentiate_again, index_table, on_device, tl_dtype
from posegeom.kinematics import joints_of_directions
from posegeom.skeleton import Skeleton, Trunk

Context = Any

LANES = 32
"""Samples of a program: one warp, whose lanes each read only what they have written themselves."""

_LANES, _TINY, _PARALLEL = tl.constexpr(LANES), tl.constexpr(TINY), tl.constexpr(PARALLEL)

_TOP, _LEFT, _RIGHT = tl.constexpr(-1), tl.constexpr(-2), tl.constexpr(-3)
"""Places of the trunk's joints, which have no direction."""


@triton.jit
def _quotient(a, b):
    """Rounded to the nearest, as float64's own division is."""
    if a.dtype == tl.float64:
        quotient = a / b
    else:
        quotient = tl.div_rn(a, b)
    return quotient


@triton.jit
def _length(x, y, z):
    square = x * x + y * y + z * z
    if square.dtype == tl.float64:
        length = tl.sqrt(square)
    else:
        length = tl.sqrt_rn(square)
    return length


@triton.jit
def _unit(x, y, z, COMPUTE: tl.constexpr):
    """A vector's direction, its length, and whether that counts as zero; the direction is then that of x."""
    size = tl.maximum(tl.abs(x), tl.abs(y), propagate_nan=tl.PropagateNan.ALL)
    size = tl.maximum(size, tl.abs(z), propagate_nan=tl.PropagateNan.ALL)
    zero = size < tl.full((), _TINY, COMPUTE)
    scale = tl.where(zero, 1.0, size)
    x = tl.where(zero, 1.0, _quotient(x, scale))
    y = tl.where(zero, 0.0, _quotient(y, scale))
    z = tl.where(zero, 0.0, _quotient(z, scale))
    norm = _length(x, y, z)
    return _quotient(x, norm), _quotient(y, norm), _quotient(z, norm), norm * scale, zero


@triton.jit
def _pull_unit(gx, gy, gz, ux, uy, uz, length, zero):
    """The gradient to a vector from that to its direction u: (g − ⟨g, u⟩ u) / length."""
    along = gx * ux + gy * uy + gz * uz
    safe = tl.where(zero, 1.0, length)
    x = tl.where(zero, 0.0, _quotient(gx - along * ux, safe))
    y = tl.where(zero, 0.0, _quotient(gy - along * uy, safe))
    return x, y, tl.where(zero, 0.0, _quotient(gz - along * uz, safe))


@triton.jit
def _across(ax, ay, az, x, y, z):
    """What of a vector is orthogonal to the unit vector a."""
    along = ax * x + ay * y + az * z
    return x - along * ax, y - along * ay, z - along * az


@triton.jit
def _pull_across(gx, gy, gz, ax, ay, az, x, y, z):
    """Gradients to the vector and to a."""
    along, inward = ax * x + ay * y + az * z, gx * ax + gy * ay + gz * az
    by_x, by_y, by_z = gx - inward * ax, gy - inward * ay, gz - inward * az
    return by_x, by_y, by_z, -along * gx - inward * x, -along * gy - inward * y, -along * gz - inward * z


@triton.jit
def _newton(x, y, z):
    """A limb of length one but for rounding, and its factor."""
    factor = 1.5 - 0.5 * (x * x + y * y + z * z)
    return x * factor, y * factor, z * factor, factor


@triton.jit
def _followed(ax, ay, az, COMPUTE: tl.constexpr):
    """The axis that b follows: X; where a is along it Z, and Y where a is along that too."""
    parallel = tl.full((), _PARALLEL, COMPUTE)
    one, zero = tl.full((), 1.0, COMPUTE) + 0.0 * ax, 0.0 * ax
    upright_x, upright_y, upright_z = _across(ax, ay, az, zero, zero, one)
    sideways = upright_x * upright_x + upright_y * upright_y + upright_z * upright_z < parallel
    x, y, z = _across(ax, ay, az, one, zero, zero)
    along = x * x + y * y + z * z < parallel
    return tl.where(along, 0.0, one), tl.where(along & sideways, one, 0.0), tl.where(along & (sideways == 0), one, 0.0)


@triton.jit
def _axes(ax, ay, az, COMPUTE: tl.constexpr):
    """The axes b and n of the frame of a, and what the backward wants of the way to them."""
    rx, ry, rz = _followed(ax, ay, az, COMPUTE)
    x, y, z = _across(ax, ay, az, rx, ry, rz)
    cx, cy, cz, coarse, coarse_zero = _unit(x, y, z, COMPUTE)
    x, y, z = _across(ax, ay, az, cx, cy, cz)
    bx, by, bz, fine, fine_zero = _unit(x, y, z, COMPUTE)
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    return bx, by, bz, nx, ny, nz, rx, ry, rz, cx, cy, cz, coarse, coarse_zero, fine, fine_zero


@triton.jit
def _row(table, number):
    """Of a row of the table: joint, parent, place (of its direction, or in the trunk), framed, and bone."""
    here = table + 5 * number
    return tl.load(here), tl.load(here + 1), tl.load(here + 2), tl.load(here + 3), tl.load(here + 4)


@triton.jit
def _three(values, step, mask, COMPUTE: tl.constexpr):
    """Three numbers per lane, `step` apart; 0 where the mask is false."""
    x = tl.load(values, mask=mask, other=0.0).to(COMPUTE)
    y = tl.load(values + step, mask=mask, other=0.0).to(COMPUTE)
    return x, y, tl.load(values + 2 * step, mask=mask, other=0.0).to(COMPUTE)


@triton.jit
def _store_three(values, step, mask, x, y, z):
    kind = values.dtype.element_ty
    tl.store(values, x.to(kind), mask=mask)
    tl.store(values + step, y.to(kind), mask=mask)
    tl.store(values + 2 * step, z.to(kind), mask=mask)


@triton.jit
def _hip(hip_angle, sample, real, HAS_HIP: tl.constexpr, COMPUTE: tl.constexpr):
    """Cosine and sine of the hip line's angle."""
    angle = tl.zeros((_LANES,), COMPUTE)
    if HAS_HIP:
        angle = tl.load(hip_angle + sample, mask=real, other=0.0).to(COMPUTE)
    return tl.cos(angle), tl.sin(angle)


@triton.jit
def _limbs(directions, cos, sin, table, limbs, sample, real, samples, rows, free, COMPUTE: tl.constexpr):
    """Unit limbs of all joints, written to limbs (J, 3, samples), parents before their children."""
    for number in range(rows):
        joint, parent, place, framed, _ = _row(table, number)
        told = real & (place >= 0)
        x, y, z = _three(directions + (sample * free + tl.maximum(place, 0)) * 3, 1, told, COMPUTE)
        x, y, z, _, _ = _unit(x, y, z, COMPUTE)
        ax, ay, az = _three(limbs + parent * 3 * samples + sample, samples, real & (framed != 0), COMPUTE)
        ax, ay, az, _ = _newton(ax, ay, az)
        bx, by, bz, nx, ny, nz, _, _, _, _, _, _, _, _, _, _ = _axes(ax, ay, az, COMPUTE)
        turned_x, turned_y, turned_z = x * ax + y * bx + z * nx, x * ay + y * by + z * ny, x * az + y * bz + z * nz
        x, y, z = (
            tl.where(framed != 0, turned_x, x),
            tl.where(framed != 0, turned_y, y),
            tl.where(framed != 0, turned_z, z),
        )
        # The three joints of the trunk: up, and both ends of the hip line.
        side = tl.where(place == _LEFT, 1.0, -1.0)
        x = tl.where(place < 0, 0.0, x)
        y = tl.where(place < 0, tl.where(place == _TOP, 0.0, side * cos), y)
        z = tl.where(place < 0, tl.where(place == _TOP, 1.0, side * sin), z)
        _store_three(limbs + joint * 3 * samples + sample, samples, real, x, y, z)
        tl.debug_barrier()


# Counts are never constants of a kernel, as 1 and multiples of 16 would be: a last, smaller batch compiles nothing.
@triton.jit(do_not_specialize=["samples", "rows", "free", "length_step", "root"])
def _forward_kinematics_fwd_kernel(
    directions,
    hip_angle,
    lengths,
    table,
    limbs,
    positions,
    joints_out,
    samples,
    rows,
    free,
    length_step,
    root,
    HAS_HIP: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Joints of 32 samples."""
    samples = samples.to(tl.int64)  # and with it all offsets
    sample = tl.program_id(0).to(tl.int64) * _LANES + tl.arange(0, _LANES)
    real = sample < samples
    cos, sin = _hip(hip_angle, sample, real, HAS_HIP, COMPUTE)
    nothing = tl.zeros((_LANES,), COMPUTE)
    _store_three(positions + root * 3 * samples + sample, samples, real, nothing, nothing, nothing)
    _store_three(joints_out + (sample * (rows + 1) + root) * 3, 1, real, nothing, nothing, nothing)
    _limbs(directions, cos, sin, table, limbs, sample, real, samples, rows, free, COMPUTE)
    for number in range(rows):
        joint, parent, _, _, bone = _row(table, number)
        x, y, z = _three(positions + parent * 3 * samples + sample, samples, real, COMPUTE)
        along_x, along_y, along_z = _three(limbs + joint * 3 * samples + sample, samples, real, COMPUTE)
        length = tl.load(lengths + sample * length_step + bone, mask=real, other=0.0).to(COMPUTE)
        x, y, z = x + length * along_x, y + length * along_y, z + length * along_z
        _store_three(positions + joint * 3 * samples + sample, samples, real, x, y, z)
        _store_three(joints_out + (sample * (rows + 1) + joint) * 3, 1, real, x, y, z)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["samples", "rows", "free", "length_step"])
def _forward_kinematics_bwd_kernel(
    gradient,
    directions,
    hip_angle,
    lengths,
    table,
    limbs,
    pulls,
    by_directions,
    by_hip_angle,
    by_lengths,
    samples,
    rows,
    free,
    length_step,
    HAS_HIP: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Gradients of 32 samples, children before their parents.

    pulls (J, 6, samples), on positions and limbs, are zeros at first.
    """
    samples = samples.to(tl.int64)  # and with it all offsets
    sample = tl.program_id(0).to(tl.int64) * _LANES + tl.arange(0, _LANES)
    real = sample < samples
    cos, sin = _hip(hip_angle, sample, real, HAS_HIP, COMPUTE)
    _limbs(directions, cos, sin, table, limbs, sample, real, samples, rows, free, COMPUTE)
    by_hip = tl.zeros((_LANES,), COMPUTE)
    for step in range(rows):
        joint, parent, place, framed, bone = _row(table, rows - 1 - step)
        turns, told = framed != 0, real & (place >= 0)
        here, above = pulls + joint * 6 * samples + sample, pulls + parent * 6 * samples + sample
        # On the joint's place: its own, and that of all that hang on it.
        px, py, pz = _three(gradient + (sample * (rows + 1) + joint) * 3, 1, real, COMPUTE)
        more_x, more_y, more_z = _three(here, samples, real, COMPUTE)
        px, py, pz = px + more_x, py + more_y, pz + more_z
        gx, gy, gz = _three(here + 3 * samples, samples, real, COMPUTE)
        limb_x, limb_y, limb_z = _three(limbs + joint * 3 * samples + sample, samples, real, COMPUTE)
        length = tl.load(lengths + sample * length_step + bone, mask=real, other=0.0).to(COMPUTE)
        by_length = px * limb_x + py * limb_y + pz * limb_z
        tl.store(by_lengths + sample * rows + bone, by_length.to(by_lengths.dtype.element_ty), mask=real)
        gx, gy, gz = gx + length * px, gy + length * py, gz + length * pz
        side = tl.where(place == _LEFT, 1.0, -1.0)
        by_hip += tl.where((place == _LEFT) | (place == _RIGHT), side * (gz * cos - gy * sin), 0.0)
        # Through the frame of the parent limb, to the direction and to that limb.
        source = directions + (sample * free + tl.maximum(place, 0)) * 3
        x, y, z = _three(source, 1, told, COMPUTE)
        vx, vy, vz, long, zero = _unit(x, y, z, COMPUTE)
        lx, ly, lz = _three(limbs + parent * 3 * samples + sample, samples, real & turns, COMPUTE)
        ax, ay, az, factor = _newton(lx, ly, lz)
        bx, by, bz, nx, ny, nz, rx, ry, rz, cx, cy, cz, coarse, coarse_zero, fine, fine_zero = _axes(
            ax, ay, az, COMPUTE
        )
        local_x = tl.where(turns, gx * ax + gy * ay + gz * az, gx)
        local_y = tl.where(turns, gx * bx + gy * by + gz * bz, gy)
        local_z = tl.where(turns, gx * nx + gy * ny + gz * nz, gz)
        x, y, z = _pull_unit(local_x, local_y, local_z, vx, vy, vz, long, zero)
        _store_three(by_directions + (sample * free + tl.maximum(place, 0)) * 3, 1, told, x, y, z)
        by_nx, by_ny, by_nz = vz * gx, vz * gy, vz * gz
        by_bx, by_by, by_bz = vy * gx, vy * gy, vy * gz
        # n = a × b
        by_bx += by_ny * az - by_nz * ay
        by_by += by_nz * ax - by_nx * az
        by_bz += by_nx * ay - by_ny * ax
        by_ax = vx * gx + by * by_nz - bz * by_ny
        by_ay = vx * gy + bz * by_nx - bx * by_nz
        by_az = vx * gz + bx * by_ny - by * by_nx
        x, y, z = _pull_unit(by_bx, by_by, by_bz, bx, by, bz, fine, fine_zero)
        x, y, z, on_x, on_y, on_z = _pull_across(x, y, z, ax, ay, az, cx, cy, cz)
        by_ax, by_ay, by_az = by_ax + on_x, by_ay + on_y, by_az + on_z
        x, y, z = _pull_unit(x, y, z, cx, cy, cz, coarse, coarse_zero)
        _, _, _, on_x, on_y, on_z = _pull_across(x, y, z, ax, ay, az, rx, ry, rz)
        by_ax, by_ay, by_az = by_ax + on_x, by_ay + on_y, by_az + on_z
        inward = by_ax * lx + by_ay * ly + by_az * lz
        x, y, z = by_ax * factor - inward * lx, by_ay * factor - inward * ly, by_az * factor - inward * lz
        old_x, old_y, old_z = _three(above, samples, real, COMPUTE)
        _store_three(above, samples, real, old_x + px, old_y + py, old_z + pz)
        old_x, old_y, old_z = _three(above + 3 * samples, samples, real & turns, COMPUTE)
        _store_three(above + 3 * samples, samples, real & turns, old_x + x, old_y + y, old_z + z)
        tl.debug_barrier()
    if HAS_HIP:
        tl.store(by_hip_angle + sample, by_hip.to(by_hip_angle.dtype.element_ty), mask=real)


@cache
def _tree(parents: tuple[int, ...], trunk: tuple[int, ...]) -> Skeleton:
    """A skeleton again, of what an operator is told of it."""
    numbers = tuple(range(len(parents)))
    return Skeleton("tree", tuple(map(str, numbers)), parents, numbers, trunk=Trunk(*trunk) if trunk else None)


@cache
def _rows(parents: tuple[int, ...], trunk: tuple[int, ...], frame: str) -> tuple[int, ...]:
    """The table: five numbers for each joint but the root, parents before their children."""
    tree = _tree(parents, trunk)
    place = {joint: number for number, joint in enumerate(tree.free_joints)}
    if tree.trunk is not None:
        place |= {tree.trunk.top: _TOP.value, tree.trunk.left: _LEFT.value, tree.trunk.right: _RIGHT.value}
    bone = {child: number for number, (_, child) in enumerate(tree.bones)}
    numbers: list[int] = []
    for level in tree.levels[1:]:
        for joint in level:
            parent = parents[joint]
            framed = frame == "limb" and parent != tree.root and place[joint] >= 0
            numbers += [joint, parent, place[joint], int(framed), bone[joint]]
    return tuple(numbers)


@lru_cache(maxsize=256)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on a device, copied there once."""
    return torch.tensor(values, dtype=dtype, device=device)


def _given(directions, hip_angle, lengths, own, parents, trunk, frame):
    """What both kernels read: directions, hip angle, lengths and the table."""
    device = directions.device
    return (
        directions.contiguous(),
        directions if hip_angle is None else hip_angle.contiguous(),
        _constant(tuple(own), compute_dtype(directions), device) if lengths is None else lengths.contiguous(),
        index_table(_rows(tuple(parents), tuple(trunk), frame), device),
    )


@torch.library.custom_op(
    "posegeom::forward_kinematics",
    mutates_args=(),
    schema="(Tensor directions, Tensor? hip_angle, Tensor? lengths, float[] own, int[] parents, int[] trunk, "
    "str frame) -> Tensor",
)
def _forward_kinematics(directions, hip_angle, lengths, own, parents, trunk, frame):
    batch, count, dtype = directions.shape[:-2], len(parents), compute_dtype(directions)
    joints = directions.new_empty((*batch, count, 3))
    samples = batch.numel()
    if samples == 0:
        return joints
    limbs, positions = directions.new_empty((2, count, 3, samples), dtype=dtype)
    with on_device(directions):
        _forward_kinematics_fwd_kernel[(triton.cdiv(samples, LANES),)](
            *_given(directions, hip_angle, lengths, own, parents, trunk, frame),
            limbs,
            positions,
            joints,
            samples,
            count - 1,
            directions.shape[-2],
            0 if lengths is None else count - 1,
            parents.index(-1),
            HAS_HIP=hip_angle is not None,
            COMPUTE=tl_dtype(directions),
            num_warps=1,
            enable_fp_fusion=False,
        )
    return joints


@_forward_kinematics.register_fake
def _(directions, hip_angle, lengths, own, parents, trunk, frame):
    return directions.new_empty((*directions.shape[:-2], len(parents), 3))


@torch.library.custom_op(
    "posegeom::forward_kinematics_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor directions, Tensor? hip_angle, Tensor? lengths, float[] own, int[] parents, "
    "int[] trunk, str frame) -> (Tensor, Tensor, Tensor)",
)
def _forward_kinematics_backward(gradient, directions, hip_angle, lengths, own, parents, trunk, frame):
    batch, count, dtype = directions.shape[:-2], len(parents), compute_dtype(directions)
    by_directions = torch.empty_like(directions, memory_format=torch.contiguous_format)
    by_hip_angle = directions.new_empty(0 if hip_angle is None else batch, dtype=dtype)
    by_lengths = directions.new_empty((*batch, count - 1), dtype=dtype)
    samples = batch.numel()
    if samples == 0:
        return by_directions, by_hip_angle, by_lengths
    limbs = directions.new_empty((count, 3, samples), dtype=dtype)
    pulls = directions.new_zeros((count, 6, samples), dtype=dtype)
    with on_device(directions):
        _forward_kinematics_bwd_kernel[(triton.cdiv(samples, LANES),)](
            gradient.contiguous(),
            *_given(directions, hip_angle, lengths, own, parents, trunk, frame),
            limbs,
            pulls,
            by_directions,
            by_hip_angle,
            by_lengths,
            samples,
            count - 1,
            directions.shape[-2],
            0 if lengths is None else count - 1,
            HAS_HIP=hip_angle is not None,
            COMPUTE=tl_dtype(directions),
            num_warps=1,
            enable_fp_fusion=False,
        )
    return by_directions, by_hip_angle, by_lengths


@_forward_kinematics_backward.register_fake
def _(gradient, directions, hip_angle, lengths, own, parents, trunk, frame):
    batch, dtype = directions.shape[:-2], compute_dtype(directions)
    return (
        torch.empty_like(directions, memory_format=torch.contiguous_format),
        directions.new_empty(0 if hip_angle is None else batch, dtype=dtype),
        directions.new_empty((*batch, len(parents) - 1), dtype=dtype),
    )


def _forward_kinematics_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    directions, hip_angle, lengths, *ctx.settings = inputs
    ctx.save_for_backward(directions, hip_angle, lengths)


def _forward_kinematics_rule(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
    directions, hip_angle, lengths = ctx.saved_tensors
    rest = (None,) * 4
    own, parents, trunk, frame = ctx.settings
    if torch.is_grad_enabled():

        def reference(directions: Tensor, hip_angle: Tensor | None, lengths: Tensor | None) -> Tensor:
            bones = own if lengths is None else lengths.unsqueeze(-1).unbind(-2)
            return joints_of_directions(directions, hip_angle, bones, _tree(tuple(parents), tuple(trunk)), frame)

        return (*differentiate_again(ctx, reference, (directions, hip_angle, lengths), gradient), *rest)
    by_directions, by_hip_angle, by_lengths = torch.ops.posegeom.forward_kinematics_backward(
        gradient, directions, hip_angle, lengths, own, parents, trunk, frame
    )
    return (
        by_directions,
        None if hip_angle is None else by_hip_angle,
        None if lengths is None else by_lengths,
        *rest,
    )


_forward_kinematics.register_autograd(_forward_kinematics_rule, setup_context=_forward_kinematics_context)


def forward_kinematics(
    directions: Tensor, hip_angle: Tensor | None, lengths: Tensor | None, skeleton: Skeleton, frame: str
) -> Tensor:
    """`kinematics.joints_of_directions` of tensors of one batch; `lengths` (*B, N), or None for the skeleton's own."""
    own = [] if lengths is not None else list(skeleton.lengths or ())
    trunk = [] if skeleton.trunk is None else list(skeleton.trunk)
    joints: Tensor = torch.ops.posegeom.forward_kinematics(
        directions, hip_angle, lengths, own, list(skeleton.parents), trunk, frame
    )
    return joints
