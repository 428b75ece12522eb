"""A template of body parts (`Puppet`) and its deformation to a pose: part transforms and part maps."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from posegeom._checks import (
    check_batches,
    check_floating,
    check_integer,
    check_number,
    check_points,
    check_same_device,
    check_shape,
    check_size,
    compute_dtype,
)
from posegeom._dispatch import runs_eagerly_on_cpu, runs_triton
from posegeom.capsules import draw_capsule, part_joints
from posegeom.frames import safe_norm, unit_vector
from posegeom.kernels.puppet_cpu import SampledParts
from posegeom.skeleton import Skeleton

Size = tuple[int, int]

NARROWEST = 1e-3
"""Width scales below this count as this."""

SHORTEST = 1e-3
"""Limbs shorter than this many pixels are scaled as if they were this long."""

TORSO_FLOOR = 0.3
"""Smallest width of a projected torso, in units of its canonical width."""


class PartMaps(NamedTuple):
    """Deformed part maps, each (*B, L, H, W)."""

    shape: Tensor
    uncertainty: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Puppet:
    """Canonical part maps with the points that hang on the skeleton's joints.

    Args:
        shape: (L, h, w) canonical part maps φ_c in [0, 1].
        uncertainty: (L, h, w) canonical shape uncertainty ψ_c in [0, 1].
        anchors: (L, 4, 2) pixels of the canonical maps. A limb's two anchors (parent end, child end) are rows 0 and
            1, repeated in rows 2 and 3; a torso's four are upper left, upper right, lower left, lower right.
        anchor_counts: (L,) integers, 2 or 4.
        joints: per part, the 2 or 4 joints of `skeleton` that its anchors land on.
        parts: the parts' names.
        skeleton: the tree that `joints` count in.

    Raises:
        TypeError, ValueError: fields that do not fit together.

    Example:
        >>> from posegeom import BODY_17, Puppet
        >>> puppet = Puppet.capsules(BODY_17, (64, 64))
        >>> puppet.parts[:4]
        ('torso', 'head', 'left_elbow', 'left_wrist')
        >>> puppet.shape.shape
        torch.Size([12, 64, 64])
    """

    shape: Tensor
    uncertainty: Tensor
    anchors: Tensor
    anchor_counts: Tensor
    joints: tuple[tuple[int, ...], ...]
    parts: tuple[str, ...]
    skeleton: Skeleton

    def __post_init__(self) -> None:
        object.__setattr__(self, "joints", tuple(tuple(int(joint) for joint in part) for part in self.joints))
        object.__setattr__(self, "parts", tuple(self.parts))
        count = len(self.parts)
        for name in ("shape", "uncertainty", "anchors"):
            check_floating(name, getattr(self, name))
        check_shape("shape", self.shape, (count, "h", "w"), f"for {count} parts")
        check_shape("uncertainty", self.uncertainty, tuple(self.shape.shape), "like shape")
        check_shape("anchors", self.anchors, (count, 4, 2), f"for {count} parts")
        check_integer("anchor_counts", self.anchor_counts)
        check_shape("anchor_counts", self.anchor_counts, (count,), f"for {count} parts")
        check_same_device(
            shape=self.shape,
            uncertainty=self.uncertainty,
            anchors=self.anchors,
            anchor_counts=self.anchor_counts,
        )
        if count == 0 or len(self.joints) != count:
            raise ValueError(f"joints must hold one entry per part ({count}, at least 1), got {len(self.joints)}")
        for name, part in zip(self.parts, self.joints, strict=True):
            if len(part) not in (2, 4):
                raise ValueError(f"joints must be 2 or 4 per part, got {len(part)} for {name!r}")
            if not all(0 <= joint < len(self.skeleton.joints) for joint in part):
                raise ValueError(f"joints must be in 0..{len(self.skeleton.joints) - 1}, got {part} for {name!r}")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Puppet:
        """The same puppet on another device or in another floating-point type."""
        return Puppet(
            self.shape.to(device=device, dtype=dtype),
            self.uncertainty.to(device=device, dtype=dtype),
            self.anchors.to(device=device, dtype=dtype),
            self.anchor_counts.to(device=device),
            self.joints,
            self.parts,
            self.skeleton,
        )

    def save(self, path: str | Path) -> None:
        """Write this puppet as .npz, readable without pickle."""
        padded = [(*part, *part) if len(part) == 2 else part for part in self.joints]
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            shape=self.shape.detach().cpu().numpy(),
            uncertainty=self.uncertainty.detach().cpu().numpy(),
            anchors=self.anchors.detach().cpu().numpy(),
            anchor_counts=self.anchor_counts.cpu().numpy(),
            joints=np.array(padded, dtype=np.int64),
            parts=np.array(self.parts),
            # The skeleton travels along, so that a puppet for somebody's dog needs no second file.
            skeleton=np.array(self.skeleton.to_json()),
        )
        Path(path).write_bytes(buffer.getvalue())

    def __repr__(self) -> str:
        size = tuple(self.shape.shape[-2:])
        return f"Puppet({len(self.parts)} parts of {size}, skeleton={self.skeleton.name}, device={self.shape.device})"

    @classmethod
    def load(cls, path: str | Path) -> Puppet:
        """Read a puppet that `save` wrote.

        Raises:
            ValueError: the file is no such puppet; names the file. Nothing in it is ever executed.
        """
        try:
            with np.load(Path(path), allow_pickle=False) as content:
                counts = content["anchor_counts"]
                joints = content["joints"]
                return cls(
                    torch.from_numpy(content["shape"]),
                    torch.from_numpy(content["uncertainty"]),
                    torch.from_numpy(content["anchors"]),
                    torch.from_numpy(counts),
                    tuple(tuple(row[:count]) for row, count in zip(joints.tolist(), counts.tolist(), strict=True)),
                    tuple(str(part) for part in content["parts"]),
                    Skeleton.from_json(str(content["skeleton"])),
                )
        except FileNotFoundError:
            raise
        except Exception as error:  # zipfile, numpy and json raise a dozen kinds for a damaged file
            raise ValueError(f"{path} is not a puppet file: {error}") from error

    @classmethod
    def capsules(cls, skeleton: Skeleton, size: tuple[int, int]) -> Puppet:
        """A puppet of soft capsules: torso (with trunk and shoulders), head, and every other bone.

        Short trunk bones (pelvis to hips, neck to shoulders, the spine) have no part of their own: the torso
        covers them. Sizes come from `skeleton.lengths` where it has them; radii are those of `posegeom.capsules`. The
        canonical scale is h pixels to 2.2 m.

        Args:
            skeleton: the tree.
            size: (h, w) of the canonical maps; best the size that poses will be drawn at.

        Returns:
            The puppet in float32 on the CPU. BODY_17 has 12 parts.

        Raises:
            ValueError: a wrong size, or a skeleton without bones.
        """
        parts = part_joints(skeleton)
        if not parts:
            raise ValueError(f"skeleton {skeleton.name} must have at least one bone, got none")
        drawn = [draw_capsule(skeleton, name, joints, check_size(size)) for name, joints in parts]
        shape, uncertainty, anchors = (torch.stack(column) for column in zip(*drawn, strict=True))
        return cls(
            shape,
            uncertainty,
            anchors,
            torch.tensor([len(joints) for _, joints in parts], device="cpu"),
            tuple(joints for _, joints in parts),
            tuple(name for name, _ in parts),
            skeleton,
        )

    @classmethod
    def from_labels(
        cls,
        label_image: Tensor | np.ndarray,
        anchor_points: Mapping[str, Sequence[float]] | Tensor | np.ndarray,
        skeleton: Skeleton,
        erosion: float,
        blur: float,
    ) -> Puppet:
        """A puppet from one labelled picture of a person.

        The parts are those of `Puppet.capsules(skeleton, ...)`; label k + 1 is part k, 0 is background. Each
        part's mask is eroded and blurred (shape); the blurred difference of its dilation and erosion is its
        uncertainty.

        Args:
            label_image: (h, w) integers.
            anchor_points: the picture's joints in pixels, as a mapping from joint names to (x, y) or as (J, 2).
            skeleton: the tree.
            erosion: radius in pixels of erosion and dilation, ≥ 0.
            blur: standard deviation in pixels of the Gaussian, ≥ 0.

        Returns:
            The puppet in float32 on the CPU.

        Raises:
            TypeError, ValueError: a picture that is no (h, w) integers, a part without pixels, a missing joint.

        Source: 000 §3.1, "erosion followed by Gaussian blurring of binary part segments".

        Example:
            A robot of two parts, painted as two bars that meet at its elbow.

            >>> import torch
            >>> from posegeom import Puppet, Skeleton
            >>> arm = Skeleton("arm", ("base", "elbow", "hand"), (-1, 0, 1), mirror=(0, 1, 2))
            >>> labels = torch.zeros(16, 32, dtype=torch.int64)
            >>> labels[6:10, 2:16], labels[6:10, 16:30] = 1, 2
            >>> joints = {"base": (2, 7.5), "elbow": (15.5, 7.5), "hand": (29, 7.5)}
            >>> puppet = Puppet.from_labels(labels, joints, arm, erosion=1.0, blur=0.5)
            >>> puppet.parts, puppet.shape.shape
            (('elbow', 'hand'), torch.Size([2, 16, 32]))
        """
        from scipy import ndimage

        labels = np.asarray(label_image)
        if labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise ValueError(f"label_image must be (h, w) integers, got {labels.shape} of {labels.dtype}")
        radius = check_number("erosion", erosion, at_least=0)
        spread = check_number("blur", blur, at_least=0)
        points = _joint_positions(anchor_points, skeleton)
        reach = math.floor(radius)
        disc_y, disc_x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        disc = disc_x**2 + disc_y**2 <= radius**2
        parts = part_joints(skeleton)
        shape, uncertainty, anchors = [], [], []
        for number, (name, joints) in enumerate(parts, start=1):
            mask = labels == number
            if not mask.any():
                raise ValueError(f"label_image must hold label {number} for part {name!r}, got none")
            eroded = ndimage.binary_erosion(mask, disc, border_value=1)  # the picture's edge cuts, it does not erode
            if not eroded.any():
                raise ValueError(
                    f"erosion must leave something of part {name!r}, got {erosion} px, which leaves nothing"
                )
            dilated = ndimage.binary_dilation(mask, disc)
            shape.append(ndimage.gaussian_filter(eroded.astype(np.float32), spread))
            edge = dilated.astype(np.float32) - eroded.astype(np.float32)
            uncertainty.append(ndimage.gaussian_filter(edge, spread))
            anchors.append([points[joint] for joint in (joints if len(joints) == 4 else joints * 2)])
        return cls(
            torch.from_numpy(np.stack(shape)).clamp(0, 1),
            torch.from_numpy(np.stack(uncertainty)).clamp(0, 1),
            torch.tensor(anchors, dtype=torch.float32, device="cpu"),
            torch.tensor([len(joints) for _, joints in parts], device="cpu"),
            tuple(joints for _, joints in parts),
            tuple(name for name, _ in parts),
            skeleton,
        )

    def draw(self) -> Tensor:
        """A picture of all parts side by side, anchors marked: (3, rows · h, columns · w) RGB in [0, 1].

        Shape is white, uncertainty orange, anchors are red dots.
        """
        count, height, width = self.shape.shape
        columns = math.ceil(math.sqrt(count))
        rows = math.ceil(count / columns)
        picture = torch.zeros(3, rows * height, columns * width)
        orange = torch.tensor([0.9, 0.5, 0.1]).view(3, 1, 1)
        for part in range(count):
            row, column = divmod(part, columns)
            shape = self.shape[part].detach().float().cpu()
            tile = shape + (1 - shape) * orange * self.uncertainty[part].detach().float().cpu()
            for x, y in self.anchors[part].detach().cpu().tolist():
                left, top = round(x), round(y)
                if 0 <= left < width and 0 <= top < height:
                    tile[:, max(top - 1, 0) : top + 2, max(left - 1, 0) : left + 2] = torch.tensor(
                        [1.0, 0.0, 0.0]
                    ).view(3, 1, 1)
            tile[:, -1], tile[:, :, -1] = 0.25, 0.25
            picture[:, row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
        return picture.clamp(0, 1)


def _joint_positions(
    points: Mapping[str, Sequence[float]] | Tensor | np.ndarray, skeleton: Skeleton
) -> dict[int, tuple[float, float]]:
    """Positions by joint number, of those joints that parts hang on."""
    needed = sorted({joint for _, joints in part_joints(skeleton) for joint in joints})
    if isinstance(points, Mapping):
        known = {skeleton.index(name): name for name in points if name in skeleton}
        lacking = [skeleton.joints[joint] for joint in needed if joint not in known]
        if lacking:
            raise ValueError(
                f"anchor_points must name every joint that a part hangs on, got none for {', '.join(lacking)}"
            )
        return {joint: (float((p := points[known[joint]])[0]), float(p[1])) for joint in needed}
    array = np.asarray(points, dtype=np.float64)
    if array.shape != (len(skeleton.joints), 2):
        raise ValueError(
            f"anchor_points must be ({len(skeleton.joints)}, 2) for skeleton {skeleton.name}, got {array.shape}"
        )
    return {joint: (float(array[joint, 0]), float(array[joint, 1])) for joint in needed}


def part_transforms(
    points: Tensor, puppet: Puppet, width_scale: float | Tensor = 1.0, size: tuple[int, int] | None = None
) -> Tensor:
    """The affine map from output pixels to each part's canonical pixels.

        u = R(φ) · diag(γ_x, γ_y) · R(θ) · (u′ − μ) + r̄

    with q the part's axis in the pose (from its first to its second anchor's joint; for a torso from the middle of
    the shoulders to the middle of the hips), μ its middle, θ = −atan2(q), r the same axis in the canonical map, r̄
    its middle and φ its angle, and

        γ_x = |r| / max(|q|, 1e-3 px),   γ_y = ρ / width_scale,   ρ = h / H the puppet-to-output pixel ratio.

    A limb is thus stretched along its axis only. A torso is also scaled across: 1/γ_y is the mean projected distance
    between left and right joints over the canonical one, with its sign (a back view is mirrored), and at least 0.3 in
    units of width_scale / ρ, so that a profile view still has a torso.

    Args:
        points: (*B, J, 2) pixels of the joints of `puppet.skeleton`.
        puppet: the template.
        width_scale: how much wider than in the template limbs are drawn: a number > 0, or a tensor that broadcasts
            with (*B, 1) (a person further away is thinner) or (*B, L); its values below 1e-3 count as 1e-3.
        size: (H, W) of the output; None if it is the puppet's own size (ρ = 1).

    Returns:
        (*B, L, 2, 3) matrices on (x′, y′, 1), in the dtype of `points`.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or range.

    Degenerate cases: a limb of length zero has θ = 0 and shrinks to a line of 1e-3 px; gradients stay finite. A torso
    in exact profile counts as seen from the front. Both anchors of a limb land on its joints to 1e-3 px; in float32
    that holds for puppets whose parts lie along X (capsules), and for slanted ones for limbs longer than about 2 px:
    below, the third column is too large to be exact (`part_maps` does without it).

    Source: 004 §1 with the order of its factors mended: as printed, anchors land 31 px off (docs/notes).

    Example:
        >>> import torch
        >>> from posegeom import BODY_17, Puppet, part_transforms
        >>> part_transforms(torch.rand(4, 17, 2) * 63, Puppet.capsules(BODY_17, (64, 64))).shape
        torch.Size([4, 12, 2, 3])
    """
    linear, mu, bar = part_affines(points, puppet, width_scale, size)
    shift = bar - linear[..., 0] * mu[..., 0:1] - linear[..., 1] * mu[..., 1:2]
    return torch.cat((linear, shift.unsqueeze(-1)), dim=-1).to(points.dtype)


def part_affines(
    points: Tensor,
    puppet: Puppet,
    width_scale: float | Tensor,
    size: tuple[int, int] | None,
    backend: str = "torch",
) -> tuple[Tensor, Tensor, Tensor]:
    """A (*B, L, 2, 2), μ (*B, L, 2) and r̄ (L, 2) of u = A (u′ − μ) + r̄, in the computing dtype.

    Apart, they keep their precision where the sum r̄ − A μ has none: for a limb of almost no length, A is huge.
    """
    check_points("points", points, len(puppet.skeleton.joints), 2, f"for skeleton {puppet.skeleton.name}")
    check_same_device(points=points, **{"puppet.shape": puppet.shape})
    compute = compute_dtype(points)
    count = len(puppet.parts)
    ratio = 1.0 if size is None else puppet.shape.shape[-2] / check_size(size)[0]
    across: float | Tensor
    if isinstance(width_scale, Tensor):
        check_floating("width_scale", width_scale)
        check_same_device(points=points, width_scale=width_scale)
        scale = width_scale.to(compute).clamp(min=NARROWEST)
        if scale.ndim > 0:
            check_batches(**{"points and parts": (*points.shape[:-2], count), "width_scale": scale.shape})
        across = (scale / ratio).expand(torch.broadcast_shapes(scale.shape, (*points.shape[:-2], count)))
    else:
        across = check_number("width_scale", width_scale, above=0) / ratio
    # The kernel has no gradient for the anchors.
    if runs_triton(backend, points, puppet.anchors, width_scale) and not puppet.anchors.requires_grad:
        from posegeom.kernels import puppet_joints as kernels

        return kernels.part_affines(points.to(compute), across, puppet)
    if not isinstance(across, Tensor):
        across = points.new_full((count,), across, dtype=compute).expand(*points.shape[:-2], count)
    return affines_of_parts(points.to(compute), across, puppet.anchors.to(compute), puppet.joints)


def affines_of_parts(
    points: Tensor, across: Tensor, anchors: Tensor, joints: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """`part_affines` unchecked, for width scales (*B, L) in units of ρ, anchors (L, 4, 2) and each part's joints."""
    q_start, q_end, q_left, q_right = _part_axes(points, joints)
    first, second = anchors[:, 0:2], anchors[:, 2:4]
    number = torch.arange(len(joints), device=points.device).unsqueeze(-1)
    four = torch.zeros_like(number, dtype=torch.bool)
    for part, own in enumerate(joints):
        if len(own) == 4:
            four = four | (number == part)
    r_start = torch.where(four, first.mean(-2), first[:, 0])
    r_end = torch.where(four, second.mean(-2), first[:, 1])
    q, r = q_end - q_start, r_end - r_start
    q_unit, r_unit = unit_vector(q, zero_to_x=True), unit_vector(r, zero_to_x=True)
    gamma_x = safe_norm(r) / safe_norm(q).clamp(min=SHORTEST)

    # A torso's projected width along the normal of its axis, over the canonical one: its sign tells front from back.
    r_width = _across_axis(r_unit, first[:, 0] - first[:, 1] + second[:, 0] - second[:, 1]) / 2
    q_width = _across_axis(q_unit, q_left - q_right)
    stretch = q_width / torch.where(four.squeeze(-1), r_width, 1.0)
    floor = TORSO_FLOOR * across
    stretch = torch.where(stretch < 0, torch.minimum(stretch, -floor), torch.maximum(stretch, floor))
    gamma_y = 1 / torch.where(four.squeeze(-1), stretch, across)

    cos, sin = q_unit.unbind(-1)
    cos_r, sin_r = r_unit.unbind(-1)
    xx, xy, yx, yy = gamma_x * cos, gamma_x * sin, -gamma_y * sin, gamma_y * cos  # diag(γ) R(θ)
    rows = [
        cos_r * xx - sin_r * yx,
        cos_r * xy - sin_r * yy,
        sin_r * xx + cos_r * yx,
        sin_r * xy + cos_r * yy,
    ]
    matrix = torch.stack(torch.broadcast_tensors(*rows), dim=-1)
    mu = ((q_start + q_end) / 2).expand(*matrix.shape[:-1], 2)
    return matrix.reshape(*matrix.shape[:-1], 2, 2), mu, (r_start + r_end) / 2


def _part_axes(points: Tensor, joints: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Start and end of every part's axis, and the mean of a torso's left and right joints, each (*B, L, 2)."""
    placed = points.unbind(-2)
    columns: tuple[list[Tensor], ...] = ([], [], [], [])
    for own in joints:
        chosen = [placed[joint] for joint in own]
        if len(chosen) == 4:
            upper_left, upper_right, lower_left, lower_right = chosen
            values = (
                (upper_left + upper_right) / 2,
                (lower_left + lower_right) / 2,
                (upper_left + lower_left) / 2,
                (upper_right + lower_right) / 2,
            )
        else:
            values = (chosen[0], chosen[1], chosen[0], chosen[1])
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    start, end, left, right = (torch.stack(column, dim=-2) for column in columns)
    return start, end, left, right


def _across_axis(axis: Tensor, vectors: Tensor) -> Tensor:
    """The component of `vectors` along the normal (−a_y, a_x) of the unit vector a."""
    return axis[..., 0] * vectors[..., 1] - axis[..., 1] * vectors[..., 0]


def part_maps(
    points: Tensor, puppet: Puppet, size: tuple[int, int], width_scale: float | Tensor = 1.0, backend: str = "auto"
) -> PartMaps:
    """The puppet's parts moved to a pose: φ_p(u′) = φ_c(A u′), bilinear, zero outside the canonical map.

    Args:
        points: (*B, J, 2) pixels of the joints of `puppet.skeleton`.
        puppet: the template.
        size: (H, W) of the maps.
        width_scale: as in `part_transforms`.
        backend: "auto"; "triton" to have the kernel or an error, "torch" never to have it (docs/kernels).

    Returns:
        PartMaps(shape, uncertainty), each (*B, L, H, W) in [0, 1], in the dtype of `points`; differentiable in the
        points, the width scale and the puppet's maps.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or range.

    Degenerate cases: see `part_transforms`. A pose far outside gives zeros with zero gradient.

    Source: 000 §3.1, φ_p = S ∘ φ_c and ψ_p = S ∘ ψ_c; 004 §1.

    Example:
        >>> import torch
        >>> from posegeom import BODY_17, Puppet, part_maps
        >>> maps = part_maps(torch.rand(17, 2) * 63, Puppet.capsules(BODY_17, (64, 64)), (64, 64))
        >>> maps.shape.shape
        torch.Size([12, 64, 64])
    """
    size = check_size(size)
    check_floating("points", points)
    affines = part_affines(points, puppet, width_scale, size, backend)
    template = stacked_template(puppet, compute_dtype(points))
    if runs_triton(backend, points, template, width_scale):
        from posegeom.kernels import puppet as kernels

        return PartMaps(*kernels.part_maps(*affines, template, size, points.dtype))
    maps = sample_parts(*affines, template, size)
    return PartMaps(*(values.to(points.dtype) for values in maps))


def stacked_template(puppet: Puppet, dtype: torch.dtype) -> Tensor:
    """Canonical shape and uncertainty side by side, (L, h, w, 2)."""
    return torch.stack((puppet.shape, puppet.uncertainty), dim=-1).to(dtype)


def sample_parts(linear: Tensor, mu: Tensor, bar: Tensor, template: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """`part_maps` unchecked: φ_c(A (u′ − μ) + r̄) for A (*B, L, 2, 2), μ (*B, L, 2), r̄ (L, 2), template (L, h, w, 2)."""
    if runs_eagerly_on_cpu(linear, mu, bar, template):
        maps: tuple[Tensor, Tensor] = SampledParts.apply(linear, mu, bar, template, size, sample_everywhere)
        return maps
    return sample_everywhere(linear, mu, bar, template, size)


def sample_everywhere(linear: Tensor, mu: Tensor, bar: Tensor, template: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """The reference of `sample_parts`."""
    rows, columns = (torch.arange(n, device=mu.device, dtype=mu.dtype) for n in size)
    linear, mu, bar = linear[..., None, None], mu[..., None, None], bar[..., None, None]
    dx, dy = columns - mu[..., 0, :, :], rows.unsqueeze(-1) - mu[..., 1, :, :]
    x = linear[..., 0, 0, :, :] * dx + linear[..., 0, 1, :, :] * dy + bar[..., 0, :, :]
    y = linear[..., 1, 0, :, :] * dx + linear[..., 1, 1, :, :] * dy + bar[..., 1, :, :]
    shape, uncertainty = _sample(template, x, y).unbind(-1)
    return shape, uncertainty


def _sample(template: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear values of maps (L, h, w, K) at positions (*B, L, H, W), zero outside: (*B, L, H, W, K)."""
    count, height, width, _ = template.shape
    # A border of zeros makes "outside" an ordinary pixel; positions are clamped into it, with zero gradient.
    padded = torch.nn.functional.pad(template, (0, 0, 1, 1, 1, 1)).flatten(1, 2)
    x = keep_within(x + 1, 0, width + 1)
    y = keep_within(y + 1, 0, height + 1)
    # A NaN position must not become an index; its value is NaN all the same, through the weights.
    left = x.detach().nan_to_num().floor().clamp(0, width)
    top = y.detach().nan_to_num().floor().clamp(0, height)
    part = torch.arange(count, device=x.device).view(-1, 1, 1) * ((height + 2) * (width + 2))
    corner = part + (top * (width + 2) + left).to(torch.int64)
    flat = padded.flatten(0, 1)
    right_weight, bottom_weight = (x - left).unsqueeze(-1), (y - top).unsqueeze(-1)
    upper = _rows(flat, corner) * (1 - right_weight) + _rows(flat, corner + 1) * right_weight
    corner = corner + (width + 2)
    lower = _rows(flat, corner) * (1 - right_weight) + _rows(flat, corner + 1) * right_weight
    return upper * (1 - bottom_weight) + lower * bottom_weight


def keep_within(values: Tensor, low: float, high: float) -> Tensor:
    """Clamp with a gradient at the bounds themselves; whether torch.clamp has one depends on the version of PyTorch."""
    return torch.where(values < low, low, torch.where(values > high, high, values))


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """table[index], whose backward adds up in a fixed order: sorted on CUDA, one after the other on the CPU."""
    if table.is_cuda:
        return table[index]
    return table.index_select(0, index.flatten()).view(*index.shape, table.shape[1])


def foreground_map(shape: Tensor | PartMaps) -> Tensor:
    """One map of the whole person, w_fg(u) = max_l φ_l(u).

    Args:
        shape: (*B, L, H, W) part maps, or the `PartMaps` that hold them.

    Returns:
        (*B, H, W).

    Raises:
        TypeError, ValueError: no floating-point (*B, L, H, W).

    Degenerate cases: parts of equal strength share the gradient.

    Source: 000 §3.1b.

    Example:
        >>> import torch
        >>> from posegeom import foreground_map
        >>> foreground_map(torch.tensor([[[0.2, 0.0]], [[0.1, 0.7]]]))
        tensor([[0.2000, 0.7000]])
    """
    return _strongest("shape", shape.shape if isinstance(shape, PartMaps) else shape)


def uncertainty_map(uncertainty: Tensor | PartMaps) -> Tensor:
    """One map of where a person's outline is uncertain, w_unc(u) = max_l ψ_l(u).

    Args:
        uncertainty: (*B, L, H, W) part uncertainties, or the `PartMaps` that hold them.

    Returns:
        (*B, H, W).

    Raises:
        TypeError, ValueError: no floating-point (*B, L, H, W).

    Source: 000 §3.1a.

    Example:
        >>> import torch
        >>> from posegeom import uncertainty_map
        >>> uncertainty_map(torch.tensor([[[0.2, 0.0]], [[0.1, 0.7]]]))
        tensor([[0.2000, 0.7000]])
    """
    return _strongest("uncertainty", uncertainty.uncertainty if isinstance(uncertainty, PartMaps) else uncertainty)


def _strongest(name: str, maps: Tensor) -> Tensor:
    check_floating(name, maps)
    check_shape(name, maps, ("*B", "L", "H", "W"))
    if maps.shape[-3] == 0:
        raise ValueError(f"{name} must hold at least one part, got {tuple(maps.shape)}")
    return maps.amax(-3)
