"""From limb directions to joints and back: forward kinematics, canonical poses, flips, bones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from posegeom._checks import (
    check_batches,
    check_choice,
    check_floating,
    check_number,
    check_points,
    check_same_device,
    check_shape,
    compute_dtype,
)
from posegeom._dispatch import runs_triton
from posegeom.frames import cross, dot, frame_axes, gram_schmidt_frame, rotate, safe_norm, unit_vector
from posegeom.skeleton import Skeleton, Trunk, gather_joints

FRAMES = ("limb", "canonical")


class LocalPose(NamedTuple):
    """What `local_directions` measures and `forward_kinematics` takes."""

    directions: Tensor
    hip_angle: Tensor | None
    lengths: Tensor


class CanonicalPose(NamedTuple):
    """joints = rotation · canonical + translation."""

    canonical: Tensor
    rotation: Tensor
    translation: Tensor


def forward_kinematics(
    directions: Tensor,
    hip_angle: Tensor | None,
    skeleton: Skeleton,
    lengths: Tensor | None = None,
    frame: str = "limb",
    backend: str = "auto",
) -> Tensor:
    """Joints of a canonical pose from one direction per free joint and the hip line's angle.

    With ℓ_j the length of the bone that ends in joint j, and v_j the normalised direction of a free joint,

        p(root) = 0,   p(top) = (0, 0, ℓ),   p(left) = ℓ (0, cos α, sin α),   p(right) = −ℓ (0, cos α, sin α),
        p(j) = p(parent) + ℓ_j g_j,   g_j = [a b n] v_j  (frame="limb")   or   g_j = v_j  (frame="canonical").

    [a b n] is `gram_schmidt_frame(parent limb, +X)`, where the parent limb runs from j's grandparent to its
    parent. A free joint whose parent is the root has no parent limb and uses canonical axes.

    Args:
        directions: (*B, F, 3) for the F joints of `skeleton.free_joints`, any length from 1e-12 to 1e6.
        hip_angle: (*B,) radians, the left hip's angle from +Y towards +Z; None for a skeleton without trunk.
        skeleton: the tree; the trunk rule applies where it has a trunk.
        lengths: (N,) or (*B, N) bone lengths in the order of `skeleton.bones`, in the unit wanted for the
            joints; None takes `skeleton.lengths` (metres).
        frame: "limb" (004 §2) or "canonical" (002 §3.1a).
        backend: "auto"; "triton" to have the kernel or an error, "torch" never to have it (docs/kernels).

    Returns:
        (*B, J, 3) joints in the unit of `lengths`, in the dtype of `directions`.

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: a wrong shape or device, an unknown frame, a hip angle missing or not wanted, no lengths, or a
            backend that cannot run.

    Degenerate cases: a zero direction counts as (1, 0, 0), with zero gradient; a parent limb along ±X takes
    the frame's fallback axis. Values of `lengths` are not looked at: a negative one points the bone backwards.

    Source: 004 §2 with the frame of `gram_schmidt_frame`; 002 §3.1a.

    Example:
        >>> import torch
        >>> from posegeom import BODY_17, forward_kinematics
        >>> joints = forward_kinematics(torch.randn(8, 13, 3), torch.zeros(8), BODY_17)
        >>> joints.shape
        torch.Size([8, 17, 3])
        >>> joints[0, BODY_17.index("neck")]
        tensor([0.0000, 0.0000, 0.4900])
    """
    why = f"for skeleton {skeleton.name}"
    check_points("directions", directions, len(skeleton.free_joints), 3, why)
    check_choice("frame", frame, FRAMES)
    batch = directions.shape[:-2]
    dtype = compute_dtype(directions)
    if skeleton.trunk is None:
        if hip_angle is not None:
            raise ValueError(f"hip_angle must be None for skeleton {skeleton.name}, which has no trunk, got a tensor")
    else:
        if hip_angle is None:
            raise ValueError(f"hip_angle must be a (*B,) tensor for skeleton {skeleton.name}, got None")
        check_floating("hip_angle", hip_angle)
        check_batches(directions=batch, hip_angle=hip_angle.shape)
        batch = torch.broadcast_shapes(batch, hip_angle.shape)
    if lengths is None:
        if skeleton.lengths is None:
            raise ValueError(f"lengths must be given: skeleton {skeleton.name} has none of its own")
    else:
        check_floating("lengths", lengths)
        check_shape("lengths", lengths, ("*B", len(skeleton.bones)), why)
        check_batches(directions=batch, lengths=lengths.shape[:-1])
        batch = torch.broadcast_shapes(batch, lengths.shape[:-1])
    check_same_device(directions=directions, hip_angle=hip_angle, lengths=lengths)

    directions = directions.expand(*batch, *directions.shape[-2:])
    angle = None if hip_angle is None else hip_angle.to(dtype).expand(batch)
    if lengths is not None:
        lengths = lengths.to(dtype).expand(*batch, len(skeleton.bones))
    if runs_triton(backend, directions, angle, lengths):
        from posegeom.kernels.kinematics import forward_kinematics as kernel

        return kernel(directions, angle, lengths, skeleton, frame)
    bones = (skeleton.lengths or ()) if lengths is None else lengths.unsqueeze(-1).unbind(-2)
    return joints_of_directions(directions, angle, bones, skeleton, frame)


def joints_of_directions(
    directions: Tensor, hip_angle: Tensor | None, lengths: Sequence[Tensor | float], skeleton: Skeleton, frame: str
) -> Tensor:
    """`forward_kinematics` of tensors of one batch, unchecked; a bone's length is a number or (*B, 1)."""
    batch, dtype = directions.shape[:-2], compute_dtype(directions)
    length_of = dict(zip((child for _, child in skeleton.bones), lengths, strict=True))
    local = dict(zip(skeleton.free_joints, unit_vector(directions.to(dtype), zero_to_x=True).unbind(-2), strict=True))
    origin = directions.new_zeros((*batch, 3), dtype=dtype)
    limb: dict[int, Tensor] = {}
    if skeleton.trunk is not None and hip_angle is not None:
        limb = _trunk_limbs(hip_angle, skeleton.trunk)
    for level in skeleton.levels[1:]:
        free = [joint for joint in level if joint in local]
        frames = _LimbFrames.of(skeleton, free, limb, frame)
        limbs = frames.to_canonical([local[joint] for joint in free])
        limb.update(zip(free, limbs, strict=True))
    position = {skeleton.root: origin}
    for level in skeleton.levels[1:]:
        for joint in level:
            position[joint] = position[skeleton.parents[joint]] + length_of[joint] * limb[joint]
    return torch.stack([position[joint] for joint in range(len(skeleton.joints))], dim=-2).to(directions.dtype)


def _trunk_limbs(hip_angle: Tensor, trunk: Trunk) -> dict[int, Tensor]:
    """Unit limbs of the three joints that the canonical rule places."""
    c, s, zero, one = (
        hip_angle.cos(),
        hip_angle.sin(),
        torch.zeros_like(hip_angle),
        torch.ones_like(hip_angle),
    )
    left = torch.stack((zero, c, s), dim=-1)
    return {trunk.top: torch.stack((zero, zero, one), dim=-1), trunk.left: left, trunk.right: -left}


class _LimbFrames(NamedTuple):
    """Axes a, b, n of the Gram-Schmidt frames of parent limbs against +X, (*B, K, 3) each, for one level's joints.

    Attributes:
        places: which of the joints they are for; the others have no parent limb, and canonical axes.
        axes: a, b, n; None for no joint at all.
    """

    places: list[int]
    axes: tuple[Tensor, Tensor, Tensor] | None

    @classmethod
    def of(cls, skeleton: Skeleton, joints: list[int], limb: dict[int, Tensor], frame: str) -> _LimbFrames:
        """The frames in which the directions of these joints are told."""
        places = [k for k, joint in enumerate(joints) if frame == "limb" and skeleton.parents[joint] in limb]
        if not places:
            return cls(places, None)
        limbs = torch.stack([limb[skeleton.parents[joints[k]]] for k in places], dim=-2)
        # Of length one but for rounding, which would add up along a chain: a step of Newton's method takes it off.
        limbs = limbs * (1.5 - 0.5 * dot(limbs, limbs))
        forward = torch.eye(1, 3, dtype=limbs.dtype, device=limbs.device).squeeze(0)
        return cls(places, frame_axes(limbs, forward.expand_as(limbs)))

    def to_canonical(self, local: list[Tensor]) -> list[Tensor]:
        """Unit limbs in canonical axes from the joints' local directions, in one step."""
        if self.axes is None:
            return local
        a, b, n = self.axes
        along, aside, upwards = self._chosen(local).unsqueeze(-1).unbind(-2)
        return self._with(local, along * a + aside * b + upwards * n)

    def to_local(self, limbs: list[Tensor]) -> list[Tensor]:
        """The inverse of `to_canonical`."""
        if self.axes is None:
            return limbs
        chosen = self._chosen(limbs)
        return self._with(limbs, torch.cat([dot(chosen, axis) for axis in self.axes], dim=-1))

    def _chosen(self, vectors: list[Tensor]) -> Tensor:
        return torch.stack([vectors[k] for k in self.places], dim=-2)

    def _with(self, vectors: list[Tensor], changed: Tensor) -> list[Tensor]:
        result = [*vectors]
        for k, vector in zip(self.places, changed.unbind(-2), strict=True):
            result[k] = vector
        return result


def local_directions(joints: Tensor, skeleton: Skeleton, frame: str = "limb") -> LocalPose:
    """The inverse of `forward_kinematics` for canonical joints.

    Each direction is measured from the parent as `forward_kinematics` will reconstruct it, in the frame of the
    parent limb as it will be reconstructed (a closed loop). Errors of float32 therefore do not add up along a
    limb, and the round trip stays within 2e-5 m even where a thigh along +X makes the frame ill-conditioned.

    Args:
        joints: (*B, J, 3) canonical joints (root at the origin, top on +Z, hip line in the YZ plane; see
            `canonicalize`), any unit.
        skeleton: their tree.
        frame: "limb" or "canonical", as in `forward_kinematics`.

    Returns:
        LocalPose(directions (*B, F, 3) of unit length, hip_angle (*B,) in radians or None for a skeleton
        without trunk, lengths (*B, N) in the unit of `joints`).

    Raises:
        TypeError: `joints` is no floating-point tensor.
        ValueError: a wrong shape or an unknown frame.

    Degenerate cases: a bone of length zero gets a direction of length one (any), with zero gradient. Joints
    that are not canonical lose what the trunk rule cannot express; nothing checks for it.

    Example:
        >>> import torch
        >>> from posegeom import BODY_17, forward_kinematics, local_directions
        >>> joints = forward_kinematics(torch.randn(13, 3), torch.tensor(0.2), BODY_17)
        >>> pose = local_directions(joints, BODY_17)
        >>> again = forward_kinematics(pose.directions, pose.hip_angle, BODY_17, pose.lengths)
        >>> bool((again - joints).abs().max() < 1e-5)
        True
    """
    check_points("joints", joints, len(skeleton.joints), 3, f"for skeleton {skeleton.name}")
    check_choice("frame", frame, FRAMES)
    points = joints.to(compute_dtype(joints))
    parts = points.unbind(-2)
    root = parts[skeleton.root]
    lengths = safe_norm(bone_vectors(points, skeleton))
    length_of = {child: lengths[..., bone, None] for bone, (_, child) in enumerate(skeleton.bones)}

    position = {skeleton.root: torch.zeros_like(root)}
    limb: dict[int, Tensor] = {}
    hip_angle: Tensor | None = None
    if skeleton.trunk is not None:
        trunk = skeleton.trunk
        hip_line = unit_vector((parts[trunk.left] - parts[trunk.right])[..., 1:], zero_to_x=True)
        hip_angle = torch.atan2(hip_line[..., 1], hip_line[..., 0])
        limb = _trunk_limbs(hip_angle, trunk)
    directions: dict[int, Tensor] = {}
    for level in skeleton.levels[1:]:
        free = [joint for joint in level if joint in skeleton.free_joints]
        if free:
            offsets = [(parts[joint] - root) - position[skeleton.parents[joint]] for joint in free]
            without_length = torch.stack([length_of[joint] for joint in free], dim=-2) == 0
            # A bone of no length has no direction; what is left of the difference is the parent's rounding.
            aims = unit_vector(torch.where(without_length, 0.0, torch.stack(offsets, dim=-2)), zero_to_x=True)
            frames = _LimbFrames.of(skeleton, free, limb, frame)
            direction = unit_vector(torch.stack(frames.to_local([*aims.unbind(-2)]), dim=-2), zero_to_x=True)
            directions.update(zip(free, direction.unbind(-2), strict=True))
            # Normalised again exactly as forward_kinematics will: the limb below has to be bit for bit the
            # one that it will see, or a frame near its threshold turns somewhere else.
            as_read = [*unit_vector(direction, zero_to_x=True).unbind(-2)]
            limb.update(zip(free, frames.to_canonical(as_read), strict=True))
        for joint in level:
            position[joint] = position[skeleton.parents[joint]] + length_of[joint] * limb[joint]
    stacked = (
        torch.stack([directions[joint] for joint in skeleton.free_joints], dim=-2)
        if skeleton.free_joints
        else points.new_zeros((*points.shape[:-2], 0, 3))
    )
    return LocalPose(
        stacked.to(joints.dtype),
        None if hip_angle is None else hip_angle.to(joints.dtype),
        lengths.to(joints.dtype),
    )


def canonicalize(joints: Tensor, skeleton: Skeleton) -> CanonicalPose:
    """Move a pose to the canonical frame: root at 0, top on +Z, facing +X, left hip towards +Y.

    With p the joints and t = p(root),

        z = unit(p(top) − t),   x = unit((p(left) − p(right)) × z),   y = z × x,   R = [x y z],
        canonical = Rᵀ (p − t),   so that p = R canonical + t.

    Args:
        joints: (*B, J, 3) joints in any right-handed frame and unit.
        skeleton: their tree; it must have a trunk.

    Returns:
        CanonicalPose(canonical (*B, J, 3), rotation (*B, 3, 3), translation (*B, 3)).

    Raises:
        TypeError: `joints` is no floating-point tensor.
        ValueError: a wrong shape, or a skeleton without trunk.

    Degenerate cases: a top at the root or a hip line along the trunk gives a proper rotation all the same
    (see `gram_schmidt_frame`), but which one is a convention.

    Example:
        >>> import torch
        >>> from posegeom import BODY_17, canonicalize
        >>> pose = canonicalize(torch.randn(4, 17, 3), BODY_17)
        >>> pose.canonical[:, 0].abs().max()
        tensor(0.)
    """
    check_points("joints", joints, len(skeleton.joints), 3, f"for skeleton {skeleton.name}")
    if skeleton.trunk is None:
        raise ValueError(f"skeleton must have a trunk to be canonicalised, got {skeleton.name} without one")
    points = joints.to(compute_dtype(joints))
    parts = points.unbind(-2)
    trunk = skeleton.trunk
    root = parts[trunk.root]
    frame = gram_schmidt_frame(parts[trunk.top] - root, parts[trunk.left] - parts[trunk.right])
    up, left, backward = frame.unbind(-1)
    rotation = torch.stack((-backward, left, up), dim=-1)
    canonical = rotate(rotation.transpose(-1, -2).unsqueeze(-3), points - root.unsqueeze(-2))
    return CanonicalPose(canonical.to(joints.dtype), rotation.to(joints.dtype), root.to(joints.dtype))


def flip_joints(
    joints_or_points: Tensor, skeleton: Skeleton, width: float | None = None, axis: int | None = None
) -> Tensor:
    """Mirror a pose and swap its left and right joints.

    2D points: x → width − 1 − x in pixels, or x → −x without `width` (points about the image's middle).
    3D joints: y → −y, the left-right axis of a canonical person. `axis` names another axis to negate, such as
    0 for joints in a camera's frame.

    Args:
        joints_or_points: (*B, J, 2) or (*B, J, 3).
        skeleton: their tree, whose `mirror` swaps the sides.
        width: image width in pixels, 2D only.
        axis: the axis to mirror; default 0 in 2D, 1 in 3D.

    Returns:
        The mirrored pose, in shape and dtype of the input. Twice gives the input back.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: a wrong shape, a width for 3D joints or for another axis than x.

    Example:
        >>> import torch
        >>> from posegeom import COCO_17, flip_joints
        >>> points = torch.zeros(17, 2)
        >>> flip_joints(points, COCO_17, width=128)[0]
        tensor([127.,   0.])
    """
    check_floating("joints_or_points", joints_or_points)
    check_shape(
        "joints_or_points",
        joints_or_points,
        ("*B", len(skeleton.joints), "D"),
        f"for skeleton {skeleton.name}",
    )
    dims = joints_or_points.shape[-1]
    if dims not in (2, 3):
        raise ValueError(f"joints_or_points must have 2 or 3 coordinates, got {dims}")
    mirrored_axis = (0 if dims == 2 else 1) if axis is None else axis
    if mirrored_axis not in range(dims):
        raise ValueError(f"axis must be in 0..{dims - 1}, got {axis}")
    if width is not None:
        check_number("width", width, above=0)
        if dims == 3 or mirrored_axis != 0:
            raise ValueError("width must be None unless 2D points are mirrored along x")
    swapped = gather_joints(joints_or_points, skeleton.mirror)
    columns = list(swapped.unbind(-1))
    mirrored = -columns[mirrored_axis]
    columns[mirrored_axis] = mirrored if width is None else mirrored + (width - 1)
    return torch.stack(columns, dim=-1)


def affine_points(points: Tensor, matrix: Tensor) -> Tensor:
    """Move every point by an affine map, p → A p + t.

    Args:
        points: (*B, J, D).
        matrix: (*B, D, D + 1), the columns of A and then t; broadcast over the batch.

    Returns:
        (*B, J, D) in the dtype of `points`.

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: shapes that do not fit, different devices.

    Example:
        >>> import torch
        >>> from posegeom import affine_points
        >>> affine_points(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, -1.0, 5.0], [1.0, 0.0, 0.0]]))
        tensor([[3., 1.]])
    """
    check_floating("points", points)
    check_floating("matrix", matrix)
    check_shape("points", points, ("*B", "J", "D"))
    dims = points.shape[-1]
    check_shape("matrix", matrix, ("*B", dims, dims + 1), f"for points of {dims} coordinates")
    check_same_device(points=points, matrix=matrix)
    check_batches(points=points.shape[:-2], matrix=matrix.shape[:-2])
    dtype = compute_dtype(points)
    columns = matrix.to(dtype).unsqueeze(-3)
    moved = columns[..., dims]
    for axis in range(dims):
        moved = moved + columns[..., axis] * points[..., axis : axis + 1].to(dtype)
    return moved.to(points.dtype)


def bone_vectors(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Child − parent of every bone, in the order of `skeleton.bones`.

    Args:
        joints: (*B, J, D).
        skeleton: their tree.

    Returns:
        (*B, N, D) in unit and dtype of `joints`.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: a wrong number of joints, or a skeleton without bones.

    Example:
        >>> import torch
        >>> from posegeom import HAND_21, bone_vectors
        >>> bone_vectors(torch.rand(2, 21, 3), HAND_21).shape
        torch.Size([2, 20, 3])
    """
    check_floating("joints", joints)
    check_shape("joints", joints, ("*B", len(skeleton.joints), "D"), f"for skeleton {skeleton.name}")
    if not skeleton.bones:
        raise ValueError(f"skeleton {skeleton.name} must have at least one bone, got none")
    children = gather_joints(joints, [child for _, child in skeleton.bones])
    return children - gather_joints(joints, [parent for parent, _ in skeleton.bones])


def bone_angles(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """The angle between every bone and the bone it hangs on; 0 is straight.

    With u the parent bone and v the bone: atan2(|u × v|, ⟨u, v⟩) in 3D, within [0, π]; in 2D
    atan2(u × v, ⟨u, v⟩), signed, positive from x towards y.

    Args:
        joints: (*B, J, 2) or (*B, J, 3).
        skeleton: their tree.

    Returns:
        (*B, N) radians in the order of `skeleton.bones`. A bone at the root hangs on nothing: 0, no gradient.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: a wrong shape.

    Degenerate cases: a bone of length zero gives 0 with zero gradient. Exactly straight or folded 3D bones
    give 0 or π with zero gradient (the angle has a kink there).

    Example:
        >>> import torch
        >>> from posegeom import Skeleton, bone_angles
        >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1), (0, 1, 2))
        >>> bone_angles(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]), arm)
        tensor([0.0000, 1.5708])
    """
    check_floating("joints", joints)
    bones = bone_vectors(joints.to(compute_dtype(joints)), skeleton)
    dims = bones.shape[-1]
    if dims not in (2, 3):
        raise ValueError(f"joints must have 2 or 3 coordinates, got {dims}")
    units = unit_vector(bones)
    bone_of = {child: bone for bone, (_, child) in enumerate(skeleton.bones)}
    hanging = [bone for bone, (parent, _) in enumerate(skeleton.bones) if parent in bone_of]
    angles = list(torch.zeros_like(units[..., 0]).unbind(-1))
    if hanging:
        lower = gather_joints(units, hanging)
        upper = gather_joints(units, [bone_of[skeleton.bones[bone][0]] for bone in hanging])
        cosine = (upper * lower).sum(-1)
        if dims == 2:
            sine = upper[..., 0] * lower[..., 1] - upper[..., 1] * lower[..., 0]
        else:
            sine = safe_norm(cross(upper, lower))
        # Two zeros (a bone of length zero) have no angle: atan2(0, 1) is 0, with a finite gradient.
        nothing = (sine == 0) & (cosine == 0)
        measured = torch.atan2(sine, torch.where(nothing, 1.0, cosine))
        for bone, angle in zip(hanging, measured.unbind(-1), strict=True):
            angles[bone] = angle
    return torch.stack(angles, dim=-1).to(joints.dtype)
