"""The rendered benchmark: real motion, rendered with people, clothes, light and places drawn from a seed.

Every frame is a function of the configuration, the split, the clip's number, the frame and the camera alone: it has the
same bits whatever else is rendered with it, by however many workers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posegeom.presets import BODY_17
from posegeom.puppet import Puppet
from posegeom.skeleton import Skeleton
from posegeom_models.data.backgrounds import View, render_scenery
from posegeom_models.data.filming import RenderedFrames, render_takes
from posegeom_models.data.identities import DOMAINS, Identity, draw_identity
from posegeom_models.data.repertoire import SPLITS, Recording, load_pool, usual_lengths, with_lengths
from posegeom_models.data.sceneries import Scenery, draw_scenery
from posegeom_models.data.takes import Staging, Take, make_take
from posegeom_models.drawing import LEFT, RIGHT, label_rows, part_colors, to_bytes
from posegeom_models.ranges import check_choices, check_numbers

# What a random stream is for, beside the seed: two streams share no numbers.
_PEOPLE, _CLIPS, _LABELLED, _BACKDROPS, _UNPAIRED = range(5)

_REMEMBERED = 2048
"""Takes kept ready; one is some 40 kB."""


@dataclass(frozen=True)
class RenderedConfig:
    """What is rendered; the defaults are the standard benchmark.

    Args:
        size: height and width of the images in pixels; the standard sizes are 128 and 64.
        domain: "A" or "B", see `posegeom_models.data.identities.DOMAINS`.
        motion: folder with the motion files (cmu17_train.npz, ...); None for the built-in walks and jumps.
        content: "daily", or "freefall" for jumps and dives, of which each clip holds a flight.
        identities: how many people are in train, validation and test.
        clips: how many clips are in train, validation and test.
        frames: per clip.
        frame_rate: frames per second; every how many-th recorded frame comes nearest to it.
        cameras: cameras that film each clip at the same instants.
        moving: share of the clips whose camera turns, so that the background moves (002's D_unp).
        anywhere: share of the clips with the person small and anywhere in the image; in the others every frame is a
            crop round the person.
        samples: rays along a pixel's side; their mean makes soft edges.
        shadow: how dark the shadow under the feet is; 0 for none.
        seed: of everything that is drawn.

    Raises:
        ValueError: a value out of range.
    """

    size: int = 128
    domain: str = "A"
    motion: Path | None = None
    content: str = "daily"
    identities: tuple[int, int, int] = (14, 2, 4)
    clips: tuple[int, int, int] = (560, 40, 160)
    frames: int = 45
    frame_rate: float = 15.0
    cameras: int = 2
    moving: float = 0.3
    anywhere: float = 0.25
    samples: int = 2
    shadow: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.motion is not None:
            object.__setattr__(self, "motion", Path(self.motion))
        check_choices(self, domain=DOMAINS)
        if self.content not in ("daily", "freefall"):
            raise ValueError(f"content must be 'daily' or 'freefall', got {self.content!r}")
        check_numbers(self, "at least 1", "size", "frames", "cameras", "samples")
        for name in ("identities", "clips"):
            counts = getattr(self, name)
            if len(counts) != len(SPLITS) or min(counts) < 1:
                raise ValueError(f"{name} must be three numbers of at least 1 ({', '.join(SPLITS)}), got {counts}")
        check_numbers(self, "in [0, 1]", "moving", "anywhere", "shadow")
        if not 0 < self.frame_rate < 1000:
            raise ValueError(f"frame_rate must be positive and below 1000, got {self.frame_rate}")
        check_numbers(self, "at least 0", "seed")


class RenderedBenchmark:
    """One split of the rendered benchmark: a sequence of clips.

    Identities and recordings are in one split each. `benchmark[number]` are all frames of a clip as the first camera
    sees them; `render` gives any frames of any clips, as training wants them.

    Args:
        config: what to render.
        split: "train", "validation" or "test".
        skeleton: the joints and parts wanted; BODY_17, any other skeleton of a person, or HAND_21 with its motions.

    Raises:
        FileNotFoundError: the motion folder lacks a file.
        ValueError: no such split, or motions that lack joints of the skeleton or are too short.

    Example:
        >>> from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
        >>> benchmark = RenderedBenchmark(RenderedConfig(size=64, frames=4, clips=(8, 2, 2)), "train")
        >>> frames = benchmark.render([0, 5], [3, 0])
        >>> frames.image.shape, frames.joints.shape
        (torch.Size([2, 3, 64, 64]), torch.Size([2, 17, 3]))
    """

    def __init__(self, config: RenderedConfig, split: str, skeleton: Skeleton = BODY_17) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        self.config, self.split, self.skeleton = config, split, skeleton
        self._recordings = self._pool(split)
        self._domain = DOMAINS[config.domain]
        self._number = SPLITS.index(split)
        self._size = (config.size, config.size)
        self._takes: dict[int, Take] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Other processes draw takes again: tensors are shared by an open file each, and thousands are too many of them.
        return {**self.__dict__, "_takes": {}}

    def __len__(self) -> int:
        return self.config.clips[self._number]

    def __getitem__(self, clip: int) -> RenderedFrames:
        return self.render([clip] * self.config.frames, range(self.config.frames))

    def shifts(self, every: int = 1) -> Tensor:
        """(F, 3, 3) from the first camera's axes to the second's, for every how many-th frame of all clips in order."""
        pairs = [self.take(clip).shots[:2] for clip in range(len(self))]
        return torch.cat([(second.rotation @ first.rotation.mT)[::every] for first, second in pairs])

    def take(self, clip: int) -> Take:
        """Who does what where in a clip, and how it is filmed."""
        if not 0 <= clip < len(self):
            raise IndexError(f"clip must be 0 to {len(self) - 1}, got {clip}")
        if clip not in self._takes:
            if len(self._takes) >= _REMEMBERED:
                del self._takes[next(iter(self._takes))]
            self._takes[clip] = self._make_take(clip)
        return self._takes[clip]

    def render(
        self,
        clips: Sequence[int],
        frames: Sequence[int],
        cameras: Sequence[int] | int = 0,
        device: torch.device | str = "cpu",
    ) -> RenderedFrames:
        """Any frames of any clips, in this order.

        Args:
            clips: B numbers.
            frames: B numbers below `config.frames`.
            cameras: B numbers below `config.cameras`, or one for all.
            device: where to render.
        """
        cameras = [cameras] * len(clips) if isinstance(cameras, int) else cameras
        if not len(clips) == len(frames) == len(cameras):
            raise ValueError(
                f"clips, frames and cameras must be as many, got {len(clips)}, {len(frames)} and {len(cameras)}"
            )
        for name, numbers, count in (("frames", frames, self.config.frames), ("cameras", cameras, self.config.cameras)):
            wrong = [number for number in numbers if not 0 <= number < count]
            if wrong:
                raise IndexError(f"{name} must be 0 to {count - 1}, got {wrong[0]}")
        takes = [self.take(clip) for clip in clips]
        return render_takes(takes, frames, cameras, self.skeleton, self._size, self.config.samples, device)

    def views(self, clip: int, frames: Sequence[int] | None = None) -> tuple[RenderedFrames, ...]:
        """The same instants of a clip through each camera, e.g. two for 000's multi-view pairs.

        With the two cameras' R and t known, joints₂ = R₂·R₁ᵀ·(joints₁ − t₁) + t₂.
        """
        frames = range(self.config.frames) if frames is None else frames
        return tuple(self.render([clip] * len(frames), frames, camera) for camera in range(self.config.cameras))

    def clips_with(self, moving: bool) -> tuple[int, ...]:
        """The clips with a turning camera (002's D_unp), or with a still one (D_p)."""
        return tuple(clip for clip in range(len(self)) if _share(clip, self.config.moving) == moving)

    def labelled_samples(self, count: int = 20, device: torch.device | str = "cpu") -> RenderedFrames:
        """Labelled images for 002's prior: other people, and poses that are as different from one another as can be.

        Poses come from the recordings that no clip of any split shows. Each is the one farthest from those before it
        among twelve times as many (in metres, about the pelvis).
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        random = self._random(_LABELLED)
        config = replace(self.config, frames=1, cameras=1, content="daily")
        staging = _staging(config, moving=False, anywhere=False)
        recordings = self._pool("unpaired")
        candidates = []
        for number in range(12 * count):
            cast = (-1 - number, draw_identity(random, self._domain))
            recording = recordings[random.integers(len(recordings))]
            candidates.append(make_take(random, number, cast, recording, self.skeleton, self._domain, staging))
        poses = torch.stack([take.joints[0] - take.joints[0, self.skeleton.root] for take in candidates]).numpy()
        chosen = [0]
        nearest = np.full(len(poses), np.inf)
        while len(chosen) < count:
            nearest = np.minimum(nearest, np.linalg.norm(poses - poses[chosen[-1]], axis=-1).mean(-1))
            chosen.append(int(nearest.argmax()))
        takes = [candidates[number] for number in chosen]
        first = [0] * count
        return render_takes(takes, first, first, self.skeleton, self._size, self.config.samples, device)

    def unpaired_poses(self, count: int) -> Tensor:
        """Poses without images (000's D_z): (count, J, 3) float32, metres about the root, Z up, facing anywhere.

        They come from recordings that no clip of any split shows, with the bone lengths of this split's people.
        """
        random = self._random(_UNPAIRED)
        recordings = self._pool("unpaired")
        sizes = np.array([len(recording.joints) for recording in recordings])
        poses = []
        for number in random.choice(len(recordings), size=count, p=sizes / sizes.sum()):
            recording = recordings[number]
            _, identity = self._person(int(random.integers(self.config.identities[self._number])))
            frame = int(random.integers(len(recording.joints)))
            lengths = identity.lengths(self.skeleton, usual_lengths(recording, self.skeleton))
            joints = with_lengths(recording.joints[frame : frame + 1], self.skeleton, lengths)[0]
            poses.append(joints - joints[self.skeleton.root])
        return torch.from_numpy(np.array(poses, np.float32).reshape(count, len(self.skeleton.joints), 3))

    def backdrops(self, numbers: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Backgrounds (B, 3, H, W) of places that no clip shows, by number: 002's random backgrounds."""
        sceneries, views = [], []
        size = self.config.size
        for number in numbers:
            random = self._random(_BACKDROPS, number)
            sceneries.append(draw_scenery(random, self._domain.sceneries, 4.0))
            heights = self._domain.camera_heights
            place = np.array([*random.uniform(-2, 2, size=2), random.uniform(*heights[random.integers(len(heights))])])
            yaw, pitch = random.uniform(0, 2 * np.pi), random.uniform(-0.2, 0.05)
            forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
            right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
            rotation = np.stack([right, np.cross(forward, right), forward])
            views.append((rotation, place, np.full(2, size * random.uniform(1.0, 2.5)), np.full(2, (size - 1) / 2)))
        if not views:
            return torch.empty(0, 3, size, size, device=device)
        view = View(*(torch.from_numpy(np.array(v, np.float32)).to(device) for v in zip(*views, strict=True)))
        scenery = Scenery(*(torch.stack(values).to(device) for values in zip(*sceneries, strict=True)))
        return render_scenery(scenery, view, (size, size))[0]

    def _pool(self, name: str) -> tuple[Recording, ...]:
        config = self.config
        return _load_pool(name, config.motion, self.skeleton, config.content, config.frames, config.frame_rate)

    def _random(self, stream: int, *numbers: int) -> np.random.Generator:
        domain = sorted(DOMAINS).index(self.config.domain)
        content = 0 if self.config.content == "daily" else 1
        return np.random.default_rng([self.config.seed, stream, domain, content, self._number, *numbers])

    def _person(self, number: int) -> tuple[int, Identity]:
        """The number-th person of this split, and that person's number of all."""
        counts = self.config.identities
        place = sum(counts[: self._number]) + number
        domain = sorted(DOMAINS).index(self.config.domain)
        # People are the same ones in every content, and however many there are.
        random = np.random.default_rng([self.config.seed, _PEOPLE, domain, self._number, number])
        return domain * sum(counts) + place, draw_identity(random, self._domain)

    def _make_take(self, clip: int) -> Take:
        random = self._random(_CLIPS, clip)
        recordings = self._recordings
        spare = np.array([len(recording.joints) for recording in recordings], dtype=np.float64)
        recording: Recording = recordings[random.choice(len(recordings), p=spare / spare.sum())]
        cast = self._person(clip % self.config.identities[self._number])
        anywhere = bool(random.random() < self.config.anywhere)
        staging = _staging(self.config, _share(clip, self.config.moving), anywhere)
        return make_take(random, clip, cast, recording, self.skeleton, self._domain, staging)


@functools.lru_cache(maxsize=16)
def _load_pool(
    pool: str, folder: Path | None, skeleton: Skeleton, content: str, frames: int, frame_rate: float
) -> tuple[Recording, ...]:
    """Read once for both domains and all sizes."""
    return load_pool(pool, folder, skeleton, content, frames, frame_rate)


def _share(clip: int, share: float) -> bool:
    """Whether a clip is among a share of all, spread evenly: exact for any number of clips, known without drawing."""
    return int((clip + 1) * share + 1e-9) > int(clip * share + 1e-9)


def _staging(config: RenderedConfig, moving: bool, anywhere: bool) -> Staging:
    size = (config.size, config.size)
    free_fall = config.content == "freefall"
    return Staging(size, config.frames, config.frame_rate, free_fall, moving, anywhere, config.cameras, config.shadow)


def contact_sheet(frames: RenderedFrames, skeleton: Skeleton, scale: int = 1) -> NDArray[np.uint8]:
    """What is known of some frames, as a picture: a column per frame, and labelled rows.

    Args:
        frames: B frames.
        skeleton: of their joints.
        scale: every pixel becomes a square so many pixels wide.

    Returns:
        (5 · H · scale, label + B · W · scale, 3) RGB: image, background, mask, parts, and the skeleton (joints that are
        hidden are hollow).
    """
    from PIL import Image, ImageDraw

    colors = part_colors(Puppet.capsules(skeleton, (8, 8)))
    parts = torch.cat((colors[-1:], colors[:-1]))[frames.labels.cpu().long()].movedim(-1, 1)
    image = frames.image.cpu()
    maps = (image, frames.background.cpu(), frames.mask.cpu().expand_as(image), parts, 0.35 + 0.4 * image)
    rows = [to_bytes(torch.cat(tuple(each.movedim(1, -1)), dim=1)) for each in maps]
    sheet = np.concatenate(rows).repeat(scale, axis=0).repeat(scale, axis=1)
    picture = Image.fromarray(sheet)
    pen = ImageDraw.Draw(picture)
    height, width = (side * scale for side in image.shape[-2:])
    # Pixel centres are integers, so that a point's place in the enlarged picture is (x + ½) · scale.
    points = (frames.points.cpu().numpy() + 0.5) * scale
    points += np.array([[width * column, height * (len(rows) - 1)] for column in range(len(points))])[:, None]
    thick = max(1, height // 90)
    for places, shown in zip(points.tolist(), frames.visible.tolist(), strict=True):
        for parent, child in skeleton.bones:
            name = skeleton.joints[child]
            side = LEFT if name.startswith("left_") else RIGHT if name.startswith("right_") else "#f2f4f8"
            pen.line([tuple(places[parent]), tuple(places[child])], fill=side, width=thick)
        for (x, y), seen in zip(places, shown, strict=True):
            box = (x - thick, y - thick, x + thick, y + thick)
            pen.ellipse(box, fill="#ffffff" if seen else None, outline="#ffffff")
    return label_rows(np.asarray(picture), ["image", "background", "mask", "parts", "joints"])
