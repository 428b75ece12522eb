"""Takes: who does what, where, in which light, and how the cameras film it. All of it is drawn from one seed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posegeom.skeleton import Skeleton
from posegeom_models.data.identities import TALL, Domain, Identity
from posegeom_models.data.repertoire import Recording, Window, perform, step_of, usual_lengths
from posegeom_models.data.sceneries import Scenery, draw_scenery

Array = NDArray[np.float64]

MARGIN = 0.06
"""Of an image's width, kept free round a person who is small and anywhere."""

_SHADOWS = {"foot": (0.20, 1.0), "ankle": (0.20, 0.8), "wrist": (0.18, 0.6), "hip": (0.32, 0.5)}
# Radius in metres and darkness of what is under a joint on the floor.


class Lighting(NamedTuple):
    """Light in the world: ambient and directed RGB (3,), and the unit vector (3,) towards the lamp."""

    ambient: Tensor
    directed: Tensor
    direction: Tensor


class Shot(NamedTuple):
    """One camera over the T frames of a take, float32.

    Attributes:
        rotation: (T, 3, 3) from the world to the camera.
        position: (T, 3) of the camera in the world, metres.
        focal: (T, 2) pixels.
        center: (T, 2) pixels.
    """

    rotation: Tensor
    position: Tensor
    focal: Tensor
    center: Tensor


class Take(NamedTuple):
    """A clip before it is rendered.

    Attributes:
        clip: its number in the split.
        person: number of the identity, over all splits and both domains.
        identity: the person.
        motion: name of the recording.
        joints: (T, J, 3) float32, world, metres.
        seconds: (T,) float64 from the first frame.
        airborne: (T,) bool.
        shadows: (T, S, 4) see `posegeom_models.data.backgrounds.render_scenery`.
        scenery: the place, without a frame axis.
        lighting: the light.
        moving: whether the cameras turn.
        anywhere: whether the person is small and anywhere in the image, or fills it.
        shots: one per camera.
    """

    clip: int
    person: int
    identity: Identity
    motion: str
    joints: Tensor
    seconds: Tensor
    airborne: Tensor
    shadows: Tensor
    scenery: Scenery
    lighting: Lighting
    moving: bool
    anywhere: bool
    shots: tuple[Shot, ...]


class Staging(NamedTuple):
    """What the benchmark wants of a take.

    Attributes:
        size: (H, W) of the images.
        frames: T.
        frame_rate: frames per second, nearest to which every how many-th recorded frame is taken.
        free_fall: choose a window with a flight, and keep the centre of gravity's path.
        moving: the camera turns.
        anywhere: the person is small and anywhere.
        cameras: how many.
        shadow: how dark the shadow under the feet is.
    """

    size: tuple[int, int]
    frames: int
    frame_rate: float
    free_fall: bool
    moving: bool
    anywhere: bool
    cameras: int
    shadow: float


def make_take(
    random: np.random.Generator,
    clip: int,
    cast: tuple[int, Identity],
    recording: Recording,
    skeleton: Skeleton,
    domain: Domain,
    staging: Staging,
) -> Take:
    """Draw a take of one person (number and identity) doing a part of a recording."""
    person, identity = cast
    step = step_of(recording.rate, staging.frame_rate)
    window = Window(recording, _start(random, recording, step, staging), step, staging.frames)
    lengths = identity.lengths(skeleton, usual_lengths(recording, skeleton))
    joints = perform(window, skeleton, lengths, staging.free_fall)
    is_person = recording.mass is not None
    height = TALL * identity.scale if is_person else float(np.ptp(joints, axis=1).max())
    walked = float(np.linalg.norm(joints[..., :2], axis=-1).max())
    distance = walked + height * random.uniform(1.5, 2.6)
    scenery = draw_scenery(random, domain.sceneries, distance)
    lighting = _draw_lighting(random, domain)
    heights = domain.camera_heights[random.integers(len(domain.camera_heights))]
    seed = int(random.integers(1 << 62))
    azimuth = random.uniform(0, 2 * math.pi)
    shots = []
    for camera in range(staging.cameras):
        # Its own generator per camera, so that a second camera changes nothing for the first.
        own = np.random.default_rng([seed, camera])
        level = own.uniform(*heights) if is_person else joints[..., 2].mean() + height * own.uniform(-0.5, 1.0)
        away = distance * own.uniform(0.9, 1.0)
        position = np.array([away * math.cos(azimuth), away * math.sin(azimuth), level])
        shots.append(_film(own, joints, position, height, domain, staging))
        azimuth += own.uniform(math.radians(50), math.radians(130))
    return Take(
        clip,
        person,
        identity,
        recording.name,
        torch.from_numpy(joints.astype(np.float32)),
        torch.from_numpy(np.arange(staging.frames) * (step / recording.rate if recording.rate else 0.0)),
        torch.from_numpy(recording.flying[window.rows()].copy()),
        torch.from_numpy(_shadows(joints, skeleton, identity.scale, staging.shadow).astype(np.float32)),
        scenery,
        lighting,
        staging.moving,
        staging.anywhere,
        tuple(shots),
    )


def _start(random: np.random.Generator, recording: Recording, step: int, staging: Staging) -> int:
    latest = len(recording.joints) - 1 - step * (staging.frames - 1)
    if not staging.free_fall:
        return int(random.integers(latest + 1))
    # A window round a flight that is drawn among all of them.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], recording.flying, [False]]).astype(int)))
    flight = int(random.integers(len(edges) // 2))
    middle = int(edges[2 * flight] + edges[2 * flight + 1]) // 2
    share = random.uniform(0.3, 0.7)
    return min(max(middle - round(share * step * staging.frames), 0), latest)


def _draw_lighting(random: np.random.Generator, domain: Domain) -> Lighting:
    azimuth, elevation = random.uniform(0, 2 * math.pi), math.radians(random.uniform(25, 70))
    flat = math.cos(elevation)
    direction = (flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation))
    warm = random.uniform(-domain.tint, domain.tint)
    tint = np.array([1 + warm, 1.0, 1 - warm])
    ambient, directed = random.uniform(*domain.ambient), random.uniform(*domain.directed)
    columns = (ambient * (2 - tint), directed * tint, np.array(direction))
    return Lighting(*(torch.from_numpy(column.astype(np.float32)) for column in columns))


def _film(
    random: np.random.Generator,
    joints: Array,
    position: Array,
    height: float,
    domain: Domain,
    staging: Staging,
) -> Shot:
    """A camera at one place, looking at the middle of what happens, or turning after it."""
    frames = len(joints)
    middle = (joints.max(1) + joints.min(1)) / 2
    target = np.broadcast_to((middle.max(0) + middle.min(0)) / 2, middle.shape)
    if staging.moving:
        # It follows late and not all the way, and sways.
        lag = max(1, frames // 4)
        padded = np.concatenate([np.repeat(middle[:1], lag, axis=0), middle])
        late = np.stack([padded[t : t + lag + 1].mean(0) for t in range(frames)])
        target = target + 0.7 * (late - target)
    yaw, pitch = np.zeros(frames), np.zeros(frames)
    if staging.moving:
        turn = np.arange(frames) / max(frames - 1, 1)
        for angles, degrees in ((yaw, (4, 9)), (pitch, (1, 3))):
            size, phase, cycles = math.radians(random.uniform(*degrees)), random.uniform(0, 1), random.uniform(0.3, 1.2)
            angles += size * np.sin(2 * np.pi * (cycles * turn + phase))
    roll = math.radians(random.uniform(-domain.roll, domain.roll))
    rotation = _looking(target - position, yaw, pitch, roll)
    seen = np.einsum("tij,tkj->tki", rotation, joints - position)
    plane = seen[..., :2] / np.maximum(seen[..., 2:], 0.2)
    frame = _anywhere if staging.anywhere else _centred
    focal, center = frame(random, plane, height / np.maximum(seen[..., 2].mean(1), 0.2), staging.size)
    columns = (rotation, np.broadcast_to(position, (frames, 3)), focal, center)
    return Shot(*(torch.from_numpy(column.astype(np.float32)) for column in columns))


def _looking(toward: Array, yaw: Array, pitch: Array, roll: float) -> Array:
    """Rotations (T, 3, 3) of cameras that look along (T, 3), turned by yaw and pitch (T,), tilted by roll."""
    azimuth = np.arctan2(toward[:, 1], toward[:, 0]) + yaw
    elevation = np.arctan2(toward[:, 2], np.hypot(toward[:, 0], toward[:, 1])) + pitch
    flat, zero = np.cos(elevation), np.zeros_like(yaw)
    forward = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1)
    right = np.stack([np.sin(azimuth), -np.cos(azimuth), zero], axis=-1)
    down = np.cross(forward, right)
    cos, sin = math.cos(roll), math.sin(roll)
    return np.stack([cos * right + sin * down, cos * down - sin * right, forward], axis=1)


def _centred(random: np.random.Generator, plane: Array, tall: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Focal lengths and centres (T, 2) of crops round the person, as wide as someone standing there needs.

    `plane` (T, J, 2) are the joints and `tall` (T,) the person's height on the image plane at distance 1.
    """
    low, high = plane.min(1), plane.max(1)
    loose, off = random.uniform(1.28, 1.45), random.uniform(-0.04, 0.04, size=2)
    side = np.maximum(loose * (high - low).max(-1), 0.85 * loose * tall)
    middle = (low + high) / 2 + off * side[:, None]
    height, width = size
    focal = np.repeat((min(size) / side)[:, None], 2, axis=1)
    return focal, np.array([(width - 1) / 2, (height - 1) / 2]) - focal * middle


def _anywhere(random: np.random.Generator, plane: Array, tall: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """A still lens (T, 2) for which the person is a quarter to a half of the image high, and anywhere in it.

    Someone who goes far is smaller, so as to stay in the image.
    """
    extent = np.array(size[::-1], dtype=np.float64)
    flat = plane.reshape(-1, 2)
    reach = 0.07 * tall.max()  # skin, hands and feet beyond the joints
    low, high = flat.min(0) - reach, flat.max(0) + reach
    focal = random.uniform(0.25, 0.5) * size[0] / tall.mean()
    focal = min(focal, float(((1 - 2 * MARGIN) * extent / (high - low)).min()))
    free = extent - focal * (high - low) - 2 * MARGIN * extent
    corner = MARGIN * extent + random.uniform(size=2) * np.maximum(free, 0) - 0.5
    center = corner - focal * low
    return np.full((len(plane), 2), focal), np.tile(center, (len(plane), 1))


def _shadows(joints: Array, skeleton: Skeleton, scale: float, shadow: float) -> Array:
    """Soft spots (T, S, 4) under a person's feet, hands and hips, paler and wider the higher these are."""
    spots = [np.tile([0.0, 0.0, 1.0, 0.0], (len(joints), 1))]
    for joint, name in enumerate(skeleton.joints):
        side, _, kind = name.partition("_")
        if side in ("left", "right") and kind in _SHADOWS:
            radius, dark = _SHADOWS[kind]
            height = joints[:, joint, 2] / scale
            wide = radius * scale * (1 + 0.5 * np.clip(height, 0, 2))
            darkness = shadow * dark * np.clip(1.15 - height / 1.2, 0, 1) ** 2
            spots.append(np.stack([joints[:, joint, 0], joints[:, joint, 1], wide, darkness], axis=-1))
    return np.stack(spots[1:] or spots, axis=1)
