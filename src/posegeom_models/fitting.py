"""Pose and cameras recovered from pictures alone, by gradient descent through posegeom's operators.

What is unknown of a frame: 13 directions, a hip angle, and per view a rotation and a translation. What is known: bone
lengths, the cameras' intrinsics, and pictures. Descent from one random start ends in a local minimum more often than
not, so a recipe starts many, keeps those of least loss, adds what descent cannot reach (the depth-mirrored twin, jolted
copies) and goes from wide blobs on small pictures to narrow ones on large pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from posegeom import (
    PerspectiveCamera,
    Puppet,
    Skeleton,
    bounded_translation,
    camera_rotation,
    canonicalize,
    forward_kinematics,
    gram_schmidt_frame,
    joint_heatmaps,
    local_directions,
    project,
    puppet_segmentation,
    skeleton_image,
)
from posegeom.capsules import TEMPLATE_HEIGHT

Progress = Callable[[int], None]


class Scene(NamedTuple):
    """Poses seen by cameras: joints (*B, J, 3) canonical, rotation (*B, V, 3, 3) and translation (*B, V, 3)."""

    joints: Tensor
    rotation: Tensor
    translation: Tensor


class Pictures(NamedTuple):
    """What a network would predict of every view, (*B, V, channels, S, S): parts and skeleton of one size."""

    parts: Tensor
    skeleton: Tensor


@dataclass(frozen=True)
class Studio:
    """Everything that is known beforehand: whom the cameras see, and through which lenses.

    Args:
        skeleton: the tree, with bone lengths.
        camera: intrinsics shared by all views, for pictures of `camera.size` (square).
        puppet_size: size of the canonical part maps.
    """

    skeleton: Skeleton
    camera: PerspectiveCamera
    puppet_size: int = 128
    puppet: Puppet = field(init=False, repr=False)
    radius: float = field(init=False)

    def __post_init__(self) -> None:
        if self.camera.size[0] != self.camera.size[1] or isinstance(self.camera.focal, Tensor):
            raise ValueError(f"camera must have a square picture and plain numbers, got {self.camera}")
        size = (self.puppet_size, self.puppet_size)
        object.__setattr__(self, "puppet", Puppet.capsules(self.skeleton, size))
        object.__setattr__(self, "radius", self.skeleton.reach())

    @property
    def size(self) -> int:
        """Side of a full-size picture in pixels."""
        return self.camera.size[0]

    def look(self, scene: Scene, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Pixels (*B, V, J, 2) of pictures of `size` and depths (*B, V, J)."""
        camera = self.camera if size is None else self.camera.resize((size, size))
        turned = scene.joints.unsqueeze(-3) @ scene.rotation.transpose(-1, -2)
        return project(turned + scene.translation.unsqueeze(-2), camera)

    def draw(self, points: Tensor, depth: Tensor, size: int, gamma: float) -> Pictures:
        """Part segmentation and skeleton image of points in pictures of `size`."""
        pelvis = depth[..., self.skeleton.root, None]
        focal = self.camera.focal[0] * size / self.size  # type: ignore[index]
        wide = (focal * TEMPLATE_HEIGHT / size) / pelvis
        drawn = puppet_segmentation(points, depth, self.puppet, (size, size), width_scale=wide)
        return Pictures(drawn.maps, skeleton_image(points, self.skeleton.bones, (size, size), gamma))


@dataclass(frozen=True, eq=False)
class Guess:
    """K candidate answers for each of F frames.

    Args:
        directions: (K, F, J_free, 3), any length.
        hip_angle: (K, F).
        axes: (K, F, V, 2, 3) the first two rows of a camera's rotation, before Gram-Schmidt.
        shift: (K, F, V, 3) raw values of `bounded_translation`.
        path: scenes that these candidates went through, for an animation.
    """

    directions: Tensor
    hip_angle: Tensor
    axes: Tensor
    shift: Tensor
    path: tuple[Scene, ...] = ()

    @property
    def values(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four unknowns."""
        return self.directions, self.hip_angle, self.axes, self.shift

    def scene(self, studio: Studio) -> Scene:
        """T_fk and the camera of every candidate."""
        joints = forward_kinematics(self.directions, self.hip_angle, studio.skeleton)
        rotation = gram_schmidt_frame(self.axes[..., 0, :], self.axes[..., 1, :]).transpose(-1, -2)
        return Scene(joints, rotation, bounded_translation(self.shift, studio.camera, studio.radius))

    def keep(self, loss: Tensor, count: int) -> Guess:
        """The `count` candidates of least loss (K, F) of every frame, best first."""
        order = loss.argsort(0)[:count]

        def chosen(values: Tensor) -> Tensor:
            index = order.reshape(order.shape + (1,) * (values.ndim - 2)).expand(order.shape + values.shape[2:])
            return values.gather(0, index)

        path = tuple(Scene(*map(chosen, scene)) for scene in self.path)
        return _guess(map(chosen, self.values), path)

    def joined(self, other: Guess) -> Guess:
        """These candidates and others."""
        path = tuple(
            Scene(*(torch.cat(pair) for pair in zip(mine, theirs, strict=True)))
            for mine, theirs in zip(self.path, other.path, strict=True)
        )
        return _guess((torch.cat(pair) for pair in zip(self.values, other.values, strict=True)), path)

    def mirrored(self, studio: Studio) -> Guess:
        """The depth-mirrored twins, which look the same from far away.

        With Z = diag(1, 1, −1), a camera sees Z R p almost as it sees R p. Mirroring the pose by any reflection M
        and every camera to Z R M, again a rotation, mirrors depth in all views at once.
        """
        scene = self.scene(studio)
        mirror = scene.joints.new_tensor([1.0, -1.0, 1.0])
        depth = scene.joints.new_tensor([[1.0], [1.0], [-1.0]])
        pose = canonicalize(scene.joints * mirror, studio.skeleton)
        local = local_directions(pose.canonical, studio.skeleton)
        assert local.hip_angle is not None  # a skeleton that can be canonicalised has a hip line
        rotation = (depth * scene.rotation * mirror) @ pose.rotation.unsqueeze(-3)
        return Guess(local.directions, local.hip_angle, rotation[..., :2, :], self.shift, self.path)

    def jolted(self, copies: int, generator: torch.Generator) -> Guess:
        """`copies` of every candidate, each with limbs and cameras turned by about 20 degrees."""

        def repeated(values: Tensor) -> Tensor:
            return values.repeat(copies, *(1,) * (values.ndim - 1))

        jolts = (0.4, 0.1, 0.4, 0.3)
        units = (torch.nn.functional.normalize(self.directions, dim=-1), *self.values[1:])
        moved = [
            repeated(values) + size * torch.randn(repeated(values).shape, generator=generator)
            for values, size in zip(units, jolts, strict=True)
        ]
        return _guess(moved, tuple(Scene(*map(repeated, scene)) for scene in self.path))


def _guess(values: Iterable[Tensor], path: tuple[Scene, ...] = ()) -> Guess:
    directions, hip_angle, axes, shift = values
    return Guess(directions, hip_angle, axes, shift, path)


def random_guess(studio: Studio, candidates: int, frames: int, views: int, generator: torch.Generator) -> Guess:
    """Random limbs, and upright people seen from anywhere."""
    turn = (torch.rand(candidates, frames, views, generator=generator) * 2 - 1) * math.pi
    tilt = torch.randn(candidates, frames, views, generator=generator) * 0.2
    rotation = camera_rotation(turn, tilt, torch.zeros_like(turn))
    return Guess(
        torch.randn(candidates, frames, len(studio.skeleton.free_joints), 3, generator=generator) * 0.5,
        torch.zeros(candidates, frames),
        rotation[..., :2, :],
        torch.tensor([0.0, 0.0, -2.0]).expand(candidates, frames, views, 3),
    )


@dataclass(frozen=True)
class Stage:
    """One descent of all candidates: picture size, blob width (σ or γ in pixels of that size), steps, step size."""

    size: int
    width: float
    steps: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """How candidates are made, refined and thinned out.

    Args:
        starts: random starts a frame.
        search: wide heatmaps; afterwards `survivors` are kept and their depth-mirrored twins added.
        refine: heatmaps; afterwards the best `jolt_from` are kept and `jolts` jolted copies of each added.
        settle: the same again for those; the best two are kept.
        polish: heatmaps at growing sizes; the best one is kept after the first.
        redraw: part segmentation and skeleton image instead of heatmaps, for when heatmaps cannot be trusted; starts
            with the best candidate and its twin.
    """

    starts: int = 16
    survivors: int = 5
    jolt_from: int = 2
    jolts: int = 4
    search: Stage = Stage(32, 4.0, 120, 0.10)
    refine: Stage = Stage(32, 2.5, 150, 0.08)
    settle: Stage = Stage(32, 2.5, 150, 0.08)
    polish: tuple[Stage, ...] = (Stage(64, 2.5, 70, 0.05), Stage(128, 2.5, 40, 0.02))
    redraw: tuple[Stage, ...] = (Stage(32, 0.15, 60, 0.03), Stage(64, 0.06, 80, 0.02))

    @property
    def heatmap_steps(self) -> int:
        """Gradient steps of `fit_heatmaps`."""
        return sum(stage.steps for stage in (self.search, self.refine, self.settle, *self.polish))

    @property
    def redraw_steps(self) -> int:
        """Gradient steps of `fit_drawings`."""
        return sum(stage.steps for stage in self.redraw)


Loss = Callable[[Tensor, Tensor], Tensor]


def heatmap_loss(peaks: Tensor, stage: Stage, full_size: int) -> Loss:
    """Squared difference of heatmaps, per candidate and frame, in units of one blob's own energy.

    Args:
        peaks: (F, V, J, 2) where the given heatmaps peak, in pixels of the full size.
        stage: picture size and σ.
        full_size: side of a full-size picture.
    """
    ratio = stage.size / full_size
    size = (stage.size, stage.size)
    target = joint_heatmaps((peaks + 0.5) * ratio - 0.5, size, stage.width)
    energy = math.pi * stage.width**2

    def loss(points: Tensor, depth: Tensor) -> Tensor:
        difference = joint_heatmaps(points, size, stage.width) - target
        return (difference * difference).sum((-1, -2, -3, -4)) / energy

    return loss


def drawing_loss(target: Pictures, studio: Studio, stage: Stage) -> Loss:
    """Squared difference of part segmentation and of skeleton image, per candidate and frame, in percent of pixels."""

    def loss(points: Tensor, depth: Tensor) -> Tensor:
        drawn = studio.draw(points, depth, stage.size, stage.width)
        parts = ((drawn.parts - target.parts) ** 2).sum(-3).mean((-1, -2)).sum(-1)
        skeleton = ((drawn.skeleton - target.skeleton) ** 2).mean((-1, -2)).sum(-1)
        return 100 * (parts + skeleton)

    return loss


def descend(
    guess: Guess, studio: Studio, stage: Stage, loss: Loss, progress: Progress | None = None, snapshots: int = 0
) -> tuple[Guess, Tensor]:
    """Adam with a cosine schedule on all candidates at once; they do not interact.

    Returns:
        The candidates after the last step, and their loss (K, F).
    """
    values = [value.detach().clone().requires_grad_() for value in guess.values]
    speeds = (1.0, 1.0, 1.0, 2.0)  # translations are in units of half an image
    optimizer = torch.optim.Adam([{"params": [value], "lr": 0.0} for value in values], lr=stage.rate, betas=(0.9, 0.95))
    path = list(guess.path)
    every = max(stage.steps // snapshots, 1) if snapshots else stage.steps + 1
    for step in range(stage.steps):
        rate = stage.rate * (0.02 + 0.49 * (1 + math.cos(math.pi * step / stage.steps)))
        for group, speed in zip(optimizer.param_groups, speeds, strict=True):
            group["lr"] = rate * speed
        scene = _guess(values).scene(studio)
        if step % every == 0 and snapshots:
            path.append(Scene(*(part.detach() for part in scene)))
        optimizer.zero_grad()
        loss(*studio.look(scene, stage.size)).sum().backward()
        optimizer.step()
        if progress is not None:
            progress(1)
    after = _guess((value.detach() for value in values), tuple(path))
    with torch.no_grad():
        return after, loss(*studio.look(after.scene(studio), stage.size))


def fit_heatmaps(
    peaks: Tensor,
    studio: Studio,
    recipe: Recipe,
    generator: torch.Generator,
    progress: Progress | None = None,
    keep: int = 1,
) -> tuple[Guess, Tensor]:
    """Recover poses and cameras from joint heatmaps.

    Args:
        peaks: (F, V, J, 2) peaks of the given heatmaps in full-size pixels. Only heatmaps drawn there enter the loss.
        studio: what is known.
        recipe: how to search.
        generator: for the random starts.
        progress: called with the number of steps done since the last call.
        keep: candidates wanted of every frame.

    Returns:
        The best candidates and their loss (keep, F).
    """
    frames, views = peaks.shape[:2]

    def refined(guess: Guess, stage: Stage, snapshots: int) -> tuple[Guess, Tensor]:
        return descend(guess, studio, stage, heatmap_loss(peaks, stage, studio.size), progress, snapshots)

    guess, loss = refined(random_guess(studio, recipe.starts, frames, views, generator), recipe.search, 8)
    guess = guess.keep(loss, recipe.survivors)
    guess, loss = refined(guess.joined(guess.mirrored(studio)), recipe.refine, 6)
    guess = guess.keep(loss, recipe.jolt_from)
    guess, loss = refined(guess.joined(guess.jolted(recipe.jolts, generator)), recipe.settle, 3)
    guess, loss = guess.keep(loss, max(2, keep)), loss.sort(0).values[: max(2, keep)]
    for stage in recipe.polish:
        guess, loss = refined(guess, stage, 2)
        guess, loss = guess.keep(loss, keep), loss.sort(0).values[:keep]
    return guess, loss


def fit_drawings(
    guess: Guess,
    drawings: Sequence[Pictures],
    studio: Studio,
    recipe: Recipe,
    progress: Progress | None = None,
) -> tuple[Guess, Tensor]:
    """Improve a guess with part segmentation and skeleton image alone.

    Args:
        guess: one candidate a frame.
        drawings: the given pictures, one per stage of `recipe.redraw`, at its size and γ.
        studio: what is known.
        recipe: the stages.
        progress: called with the number of steps done since the last call.

    Returns:
        One candidate a frame and its loss (1, F).
    """
    guess = guess.joined(guess.mirrored(studio))
    loss = torch.empty(0)
    for stage, target in zip(recipe.redraw, drawings, strict=True):
        guess, loss = descend(guess, studio, stage, drawing_loss(target, studio, stage), progress)
        guess, loss = guess.keep(loss, 1), loss.sort(0).values[:1]
    return guess, loss
