"""What is measured: every operator with a fast path, beside the same thing in plain formulas and in other libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import posegeom as pg
from benchmarks import naive
from posegeom.segmentation import SHARPNESS

Size = tuple[int, int]
Contender = Callable[..., object]

SIGMA, WIDTH, GAMMA = 3.0, 2.0, 0.224
CAMERA = pg.PerspectiveCamera(150.0, None, (128, 128))
RADIUS, FAR = 1.0, 3.0


@dataclass(frozen=True)
class Workload:
    """One operator at one size, () where it draws nothing: `items` are joints, bones or parts.

    `contenders` take the tensors of `inputs`, of which the first `active` have gradients. "ours" and "eager" are always
    there; the others do what "eager" does.
    """

    operator: str
    batch: int
    items: int
    size: Size | tuple[()]
    inputs: tuple[Tensor, ...]
    active: int
    contenders: dict[str, Contender]

    @property
    def shape(self) -> list[int]:
        """Batch, items, and height and width where there is an image."""
        return [self.batch, self.items, *self.size]


def star(bones: int) -> tuple[tuple[int, int], ...]:
    """So many bones from joint 0 to every other one; BODY_17's own where that is its number."""
    return pg.BODY_17.bones if bones == 16 else tuple((0, child) for child in range(1, bones + 1))


def person(generator: torch.Generator, batch: int, side: int) -> Tensor:
    """Joints of standing people with limbs bent at random, about 0.6 images high: (batch, 17, 2)."""
    directions = torch.randn(batch, 13, 3, generator=generator) * 0.5
    directions[..., 1] += torch.tensor([-1.0, -1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    joints = pg.forward_kinematics(directions, torch.randn(batch, generator=generator), pg.BODY_17, frame="canonical")
    flat = joints[..., :2]
    low, high = flat.amin(-2, keepdim=True), flat.amax(-2, keepdim=True)
    return (flat - (low + high) / 2) / (high - low)[..., 1:].clamp(min=1) * 0.6 * side + side / 2


def camera_call(operator: str, batch: int, items: int) -> tuple[tuple[Tensor, ...], dict[str, Contender]]:
    """Inputs and contenders of an operator of cameras, `items` of which each sample has."""
    generator = torch.Generator().manual_seed(0)
    if operator == "project":
        points = torch.randn(batch, items, 3, generator=generator) * 0.4 + torch.tensor([0.0, 0.0, 3.0])
        return (points,), {
            "ours": lambda p: pg.project(p, CAMERA)[0],
            "eager": lambda p: naive.project(p, 150.0, (63.5, 63.5)),
        }
    if operator == "camera_rotation":
        angles = tuple(torch.randn(batch, items, generator=generator) for _ in range(3))
        return angles, {"ours": pg.camera_rotation, "eager": naive.camera_rotation}
    if operator == "angles_from_sincos":
        pairs = torch.randn(batch, items, 2, generator=generator)
        return (pairs,), {"ours": pg.angles_from_sincos, "eager": naive.angles_from_sincos}
    raw = torch.randn(batch, items, 3, generator=generator)
    return (raw,), {
        "ours": lambda r: pg.bounded_translation(r, CAMERA, RADIUS, FAR),
        "eager": lambda r: naive.bounded_translation(r, 150.0, 128, RADIUS, FAR),
    }


def workload(
    operator: str,
    batch: int,
    items: int,
    side: int,
    device: str,
    dtype: torch.dtype,
    rounded: torch.dtype | None = None,
) -> Workload:
    """An operator on random input; the same numbers on every device, those that `rounded` can hold."""
    generator = torch.Generator().manual_seed(0)
    size = (side, side)
    contenders: dict[str, Contender]
    if operator == "forward_kinematics":
        given = torch.randn(batch, 13, 3, generator=generator), torch.randn(batch, generator=generator)
        contenders = {
            "ours": lambda d, a: pg.forward_kinematics(d, a, pg.BODY_17),
            "eager": lambda d, a: naive.forward_kinematics(d, a, pg.BODY_17),
        }
        inputs = tuple(value.to(device, rounded or dtype).to(dtype) for value in given)
        return Workload(operator, batch, items, (), inputs, 2, contenders)
    if operator in ("project", "camera_rotation", "angles_from_sincos", "bounded_translation"):
        values, contenders = camera_call(operator, batch, items)
        inputs = tuple(value.to(device, rounded or dtype).to(dtype) for value in values)
        return Workload(operator, batch, items, (), inputs, len(inputs), contenders)
    joints = items + 1 if operator in ("limb_maps", "skeleton_image") else items
    points = (torch.rand(batch, joints, 2, generator=generator) * 0.8 + 0.1) * side
    points = points.to(device, rounded or dtype).to(dtype)
    bones = star(items)
    if operator == "joint_heatmaps":
        contenders = {
            "ours": lambda p: pg.joint_heatmaps(p, size, SIGMA),
            "eager": lambda p: naive.joint_heatmaps(p, size, SIGMA),
            **kornia_heatmaps(size),
        }
        return Workload(operator, batch, items, size, (points,), 1, contenders)
    if operator == "limb_maps":
        contenders = {
            "ours": lambda p: pg.limb_maps(p, bones, size, WIDTH),
            "eager": lambda p: naive.limb_maps(p, bones, size, WIDTH),
        }
        return Workload(operator, batch, items, size, (points,), 1, contenders)
    if operator == "skeleton_image":
        contenders = {
            "ours": lambda p: pg.skeleton_image(p, bones, size, GAMMA),
            "eager": lambda p: naive.skeleton_image(p, bones, size, GAMMA),
        }
        return Workload(operator, batch, items, size, (points,), 1, contenders)
    points = person(generator, batch, side).to(device, rounded or dtype).to(dtype)
    depth = (torch.rand(batch, 17, generator=generator) + 3).to(device, rounded or dtype).to(dtype)
    puppet = pg.Puppet.capsules(pg.BODY_17, size).to(device, rounded or dtype).to(dtype=dtype)
    if operator == "part_maps":
        contenders = {
            "ours": lambda p: tuple(pg.part_maps(p, puppet, size)),
            "eager": lambda p: tuple(
                naive.part_maps(pg.part_transforms(p, puppet), template, size)
                for template in (puppet.shape, puppet.uncertainty)
            ),
        }
        return Workload(operator, batch, len(puppet.parts), size, (points,), 1, contenders)
    contenders = {
        "ours": lambda p, d: tuple(pg.puppet_segmentation(p, d, puppet, size)),
        "eager": lambda p, d: naive.puppet_segmentation(
            pg.part_transforms(p, puppet), pg.part_depth(d, puppet), puppet.shape, puppet.uncertainty, size, SHARPNESS
        ),
    }
    return Workload(operator, batch, len(puppet.parts), size, (points, depth), 2, contenders)


def kornia_heatmaps(size: Size) -> dict[str, Contender]:
    """Kornia's Gaussians, which sum to 1 instead of peaking at 1; nothing without kornia."""
    try:
        from kornia.geometry.subpix import render_gaussian2d
    except ImportError:
        return {}

    def render(points: Tensor) -> Tensor:
        flat = points.reshape(-1, 2)
        maps: Tensor = render_gaussian2d(flat, torch.full_like(flat, SIGMA), size, False)
        return maps.view(*points.shape[:-1], *size)

    return {"kornia": render}
