"""Takes made into images with everything that is known of them, any frames of any takes in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from posegeom.camera import PerspectiveCamera, project
from posegeom.frames import rotate
from posegeom.skeleton import Skeleton
from posegeom_models.data.anatomy import build_body, visible_joints
from posegeom_models.data.backgrounds import View, render_scenery
from posegeom_models.data.bodies import Look
from posegeom_models.data.renderer import Light, render
from posegeom_models.data.sceneries import Scenery
from posegeom_models.data.takes import Lighting, Take

CHUNK = {"cpu": 1 << 18, "cuda": 1 << 22}
"""Samples rendered at once: what a CPU's cache holds, and what a GPU's memory allows."""


@dataclass(frozen=True, eq=False)
class RenderedFrames:
    """B rendered frames with everything that is known of them.

    Args:
        image: (B, 3, H, W) RGB in [0, 1].
        background: (B, 3, H, W) the same view without the person (and the person's shadow).
        foreground: (B, 3, H, W) the person alone, times `mask`: foreground + (1 − mask) · other is the person before
            another background.
        mask: (B, 1, H, W) share of the pixel that the person covers.
        labels: (B, H, W) uint8; 0 is the background (where the mask is below ½), 1 + k the part k of
            `posegeom.capsules.part_joints`, which is also that of `Puppet.capsules`.
        points: (B, J, 2) pixels.
        joints: (B, J, 3) metres in the camera's axes.
        visible: (B, J) bool: in the image, with no other part of the body before it.
        camera: intrinsics, (B, 2) each.
        rotation: (B, 3, 3) from the world to the camera: joints = rotation · world + translation.
        translation: (B, 3) metres.
        identity: (B,) int64, numbers of people over all splits and both domains.
        clip: (B,) int64, in the split.
        frame: (B,) int64, in the clip.
        seconds: (B,) float64 since the clip's first frame.
        moving: (B,) bool: the clip's camera turns.
        airborne: (B,) bool: in free fall; only told in "freefall" content.
    """

    image: Tensor
    background: Tensor
    foreground: Tensor
    mask: Tensor
    labels: Tensor
    points: Tensor
    joints: Tensor
    visible: Tensor
    camera: PerspectiveCamera
    rotation: Tensor
    translation: Tensor
    identity: Tensor
    clip: Tensor
    frame: Tensor
    seconds: Tensor
    moving: Tensor
    airborne: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def to(self, device: torch.device | str) -> RenderedFrames:
        """The same on another device."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def composite(self, backgrounds: Tensor) -> Tensor:
        """The people before other backgrounds (B, 3, H, W), or before one (3, H, W)."""
        return self.foreground + (1 - self.mask) * backgrounds


def view_take(take: Take, camera: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Joints (T, J, 3) in a camera's axes and points (T, J, 2) of all frames of a take, without an image.

    Args:
        take: the take.
        camera: number of the camera.
        size: (H, W) that the take was filmed for.
    """
    shot = take.shots[camera]
    joints = rotate(shot.rotation.unsqueeze(1), take.joints - shot.position.unsqueeze(1))
    points, _ = project(joints, PerspectiveCamera(shot.focal, shot.center, size))
    return joints, points


def render_takes(
    takes: Sequence[Take],
    frames: Sequence[int],
    cameras: Sequence[int],
    skeleton: Skeleton,
    size: tuple[int, int],
    samples: int = 2,
    device: torch.device | str = "cpu",
) -> RenderedFrames:
    """One frame of each of B takes (which may repeat), through one of its cameras, in this order.

    Args:
        takes: B takes, at least one.
        frames: B frame numbers.
        cameras: B camera numbers.
        skeleton: of the takes' joints.
        size: (H, W) that the takes were filmed for.
        samples: rays along a pixel's side.
        device: where to render.
    """
    if not takes:
        raise ValueError("takes must be at least one, got none")
    device = torch.device(device)
    # What a take has once is stacked once, and then spread over its frames.
    once = {id(take): take for take in takes}
    place = {key: number for number, key in enumerate(once)}
    of_take = torch.tensor([place[id(take)] for take in takes], device=device)

    def spread(values: Iterable[Tensor]) -> Tensor:
        return torch.stack(list(values)).to(device).index_select(0, of_take)

    def per_frame(values: Iterable[Tensor]) -> Tensor:
        return torch.stack([value[frame] for value, frame in zip(values, frames, strict=True)]).to(device)

    def per_take(values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values), device=device)

    with torch.no_grad():
        shots = [take.shots[camera] for take, camera in zip(takes, cameras, strict=True)]
        view = View(*(per_frame(values) for values in zip(*shots, strict=True)))
        look = Look.of([take.identity for take in once.values()])
        look = Look(*(values.to(device).index_select(0, of_take) for values in look))
        scenery = Scenery(*(spread(values) for values in zip(*(take.scenery for take in once.values()), strict=True)))
        lighting = Lighting(
            *(spread(values) for values in zip(*(take.lighting for take in once.values()), strict=True))
        )
        world = per_frame(take.joints for take in takes)
        joints = rotate(view.rotation.unsqueeze(1), world - view.position.unsqueeze(1))
        light = Light(lighting.ambient, lighting.directed, rotate(view.rotation, lighting.direction))
        body = build_body(joints, skeleton, look)
        shadows = per_frame(take.shadows for take in takes)

        chunk = max(1, CHUNK.get(device.type, CHUNK["cuda"]) // (size[0] * size[1] * samples * samples))
        seen, backgrounds = [], []
        for start in range(0, len(takes), chunk):
            part = slice(start, start + chunk)
            some_view = View(*(values[part] for values in view))
            some_light = Light(*(values[part] for values in light))
            some_scenery = Scenery(*(values[part] for values in scenery))
            seen.append(render(body.of_frames(part), some_light, some_view.focal, some_view.center, size, samples))
            backgrounds.append(render_scenery(some_scenery, some_view, size, shadows[part]))
        color, mask, labels, _ = (torch.cat(values) for values in zip(*seen, strict=True))
        background, shade = (torch.cat(values) for values in zip(*backgrounds, strict=True))
        camera = PerspectiveCamera(view.focal, view.center, size)
        points, _ = project(joints, camera)
        inside = ((points > -0.5) & (points < points.new_tensor(size[::-1]) - 0.5)).all(-1)
        return RenderedFrames(
            image=color + (1 - mask) * background * shade,
            background=background,
            foreground=color,
            mask=mask,
            labels=labels,
            points=points,
            joints=joints,
            visible=visible_joints(joints, body, skeleton) & inside,
            camera=camera,
            rotation=view.rotation,
            translation=-rotate(view.rotation, view.position),
            identity=per_take(take.person for take in takes),
            clip=per_take(take.clip for take in takes),
            frame=per_take(frames),
            seconds=per_frame(take.seconds for take in takes),
            moving=per_take(take.moving for take in takes),
            airborne=per_frame(take.airborne for take in takes),
        )
