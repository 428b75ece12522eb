"""Clips held in memory, and the batches of frame pairs that training takes from them."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from posegeom.camera import project
from posegeom.kinematics import canonicalize
from posegeom.presets import BODY_17
from posegeom.procrustes import procrustes_align
from posegeom.skeleton import Skeleton, convert_joints
from posegeom_models.data.cropping import (
    JOINTS_MARGIN,
    MARGIN,
    Square,
    Strip,
    cut_clip,
    cut_samples,
    square_round,
    square_round_points,
)
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.filming import view_take
from posegeom_models.data.footage import BACKGROUNDS, SHORTEST, STILL, split_footage
from posegeom_models.data.persons import Detector, find_boxes, read_boxes
from posegeom_models.data.rendered import RenderedBenchmark
from posegeom_models.data.repertoire import action_of
from posegeom_models.data.samples import Sample, Samples
from posegeom_models.data.video import Video, list_videos

CHUNK = 256
"""Frames rendered at once."""


class Frames(NamedTuple):
    """Frames with everything that is known of them; images in [0, 1].

    Attributes:
        image: (B, 3, H, W).
        background: (B, 3, H, W) without the person.
        labels: (B, H, W) uint8, 0 the background.
        joints: (B, J, 3) metres in the camera's axes.
        canonical: (B, J, 3) the same pose in canonical axes.
        points: (B, J, 2) pixels.
        number: (B,) in the reel.
    """

    image: Tensor
    background: Tensor
    labels: Tensor
    joints: Tensor
    canonical: Tensor
    points: Tensor
    number: Tensor


def rows_of(batch: Any, rows: slice | Tensor) -> Any:
    """Some rows of a tensor, or of every tensor of a named tuple such as `Frames`; None stays None."""
    if batch is None or isinstance(batch, Tensor):
        return None if batch is None else batch[rows]
    return type(batch)(*(rows_of(value, rows) for value in batch))


@dataclass(frozen=True, eq=False)
class Reel:
    """Frames of many clips, one after the other; images and backgrounds as bytes, 6·H·W of them per frame.

    That is 98 kB per frame at 128 × 128 and 301 kB at 224 × 224; labels take H·W more where they are known.

    Args:
        image: (F, 3, H, W) uint8.
        background: (F, 3, H, W) uint8; zeros where `moving` and nothing else is known.
        labels: (F, H, W) uint8; zeros where not `segmented`.
        joints: (F, J, 3) metres in the camera's axes.
        points: (F, J, 2) pixels.
        clip: (F,) int64, ascending.
        seconds: (F,) float64 since the clip's first frame.
        moving: (F,) bool: the background moves, so that no clean background could be had from the clip alone.
        skeleton: of the joints.
        action: what is done in each clip that occurs, by the clips' numbers; "" where unknown. Empty: unknown in all.
        identity: (F,) int64 number of the person, -1 where unknown. Empty: unknown in all.
        known: (F, J) bool: `joints` and `points` are the truth; elsewhere they are zeros. Empty: known in all.
        segmented: `labels` are the truth.

    Raises:
        ValueError: actions that are not as many as the clips.
    """

    image: Tensor
    background: Tensor
    labels: Tensor
    joints: Tensor
    points: Tensor
    clip: Tensor
    seconds: Tensor
    moving: Tensor
    skeleton: Skeleton
    action: tuple[str, ...] = ()
    identity: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    known: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.bool))
    segmented: bool = True

    def __post_init__(self) -> None:
        clips = len(torch.unique(self.clip))
        if not self.action:
            object.__setattr__(self, "action", ("",) * clips)
        if len(self.action) != clips:
            raise ValueError(f"action must be one per clip that occurs ({clips}), got {len(self.action)}")
        if len(self.identity) != len(self):
            object.__setattr__(self, "identity", torch.full((len(self),), -1))
        if len(self.known) != len(self):
            object.__setattr__(self, "known", torch.ones(self.joints.shape[:-1], dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def render(
        cls,
        benchmark: RenderedBenchmark,
        every: int = 1,
        clips: Sequence[int] | None = None,
        device: str = "cpu",
        camera: int = 0,
    ) -> Reel:
        """Every so many-th frame of a benchmark's clips (all of them by default), kept on the CPU.

        Reels of two cameras hold the same instants, row by row.
        """
        chosen = range(len(benchmark)) if clips is None else clips
        wanted = [(clip, frame) for clip in chosen for frame in range(0, benchmark.config.frames, every)]
        parts = []
        for start in range(0, len(wanted), CHUNK):
            some = wanted[start : start + CHUNK]
            rendered = benchmark.render([clip for clip, _ in some], [frame for _, frame in some], camera, device)
            fields = (
                _bytes(rendered.image),
                _bytes(rendered.background),
                rendered.labels,
                rendered.joints,
                rendered.points,
                rendered.clip,
                rendered.seconds,
                rendered.moving,
                rendered.identity,
            )
            parts.append([value.cpu() for value in fields])
        values = map(torch.cat, zip(*parts, strict=True))
        image, background, labels, joints, points, clip, seconds, moving, identity = values
        action = tuple(action_of(benchmark.take(number).motion) for number in sorted(set(chosen)))
        skeleton = benchmark.skeleton
        return cls(image, background, labels, joints, points, clip, seconds, moving, skeleton, action, identity)

    @classmethod
    def from_samples(
        cls,
        samples: Iterable[Sample],
        skeleton: Skeleton,
        size: int,
        margin: float | None = None,
        rate: float | None = None,
        still: bool | None = None,
        missing: str = "error",
        skip_broken: bool = False,
    ) -> Reel:
        """The persons of a data set, each cut square round its box, or round its 2D points where there is no box.

        A clip is what one subject does in one sequence, view and action, in the order of time. Where its camera stands
        still, the background is the median of the sequence's frames; elsewhere (and for fewer than
        `posegeom_models.data.cropping.FEWEST` frames) it is zeros, and `moving` is true. Body parts are not known.

        Joints stay in the axes of the camera that filmed the whole image: they are not turned to the direction in which
        the crop is seen from it.

        Args:
            samples: of any order; they are held in memory, their images are not.
            skeleton: the joints wanted.
            size: height and width of the crops in pixels.
            margin: side of the square over the longer side of the box, or of the points; None for `MARGIN` and
                `JOINTS_MARGIN` of `posegeom_models.data.cropping`.
            rate: frames per second of the recordings, that `Sample.frame` counts; None for that of the data set's
                protocol, or else of the videos that the samples are frames of.
            still: whether the cameras stand still; None where the samples are to tell: those whose rotation and
                translation are known and stay the same.
            missing: what to do where the source has no such joint: "error", or "zeros" for zeros that are not `known`.
            skip_broken: leave out sequences with an image that is not there or cannot be read, and warn once at the end
                how many they were. What else of the samples to leave out, they know themselves.

        Raises:
            ValueError: samples without images, joints, or points and camera; no samples; joints that the source
                lacks, all of them named; no rate, or one that is not positive.
            MotionFileError: an image is broken, or of another size than its camera's.
            FileNotFoundError: no such image.
        """
        if missing not in ("error", "zeros"):
            raise ValueError(f"missing must be error or zeros, got {missing!r}")
        if rate is not None and not rate > 0:
            raise ValueError(f"rate must be positive, got {rate}")
        sequences: dict[tuple[str, str, str, str, str], list[_Pose]] = {}
        for sample in samples:
            key = (sample.source, sample.subject, sample.sequence, sample.view, sample.action)
            sequences.setdefault(key, []).append(_pose(sample, skeleton, margin, missing))
        if not sequences:
            raise ValueError("samples must be at least one, got none")
        if rate is None and isinstance(samples, Samples):
            rate = samples.protocol.frame_rate
        strip, order = Strip(size), list[_Pose]()
        people: dict[tuple[str, str], int] = {}
        identity: list[int] = []
        action, skipped = list[str](), list[str]()
        for number, (key, poses) in enumerate(sequences.items()):
            poses.sort(key=lambda pose: pose.sample.frame)
            of_sequence, begun = [pose.sample for pose in poses], len(strip)
            try:
                pace = rate or _rate_of(of_sequence)
                for cut in cut_samples(of_sequence, [pose.square for pose in poses], size, pace, still):
                    strip.add(number, cut)
            except (MotionFileError, FileNotFoundError) as error:
                if not skip_broken:
                    raise
                strip.keep(begun)
                skipped.append(str(error))
                continue
            # Who is not named is nobody in particular.
            identity += [people.setdefault(key[:2], len(people)) if key[1] else -1] * len(poses)
            order += poses
            action.append(key[-1])
        if skipped:
            warnings.warn(f"{len(skipped)} of {len(sequences)} sequences skipped: {skipped[0]}", stacklevel=2)
        if not order:
            raise ValueError(f"no sequence of {len(sequences)} has images that can be read: {skipped[0]}")
        known = torch.stack([pose.known for pose in order])
        points = torch.stack([pose.square.place(pose.points, size) for pose in order]).float()
        return cls(
            *strip.images(),
            torch.stack([pose.joints for pose in order]),
            torch.where(known.unsqueeze(-1), points, 0.0),
            *strip.times(),
            skeleton,
            tuple(action),
            torch.tensor(identity),
            known,
            segmented=False,
        )

    @classmethod
    def from_footage(
        cls,
        folder: str | Path,
        size: int,
        rate: float,
        boxes: str | Path | None = None,
        length: float = 10.0,
        shortest: float = SHORTEST,
        threshold: float = STILL,
        margin: float = MARGIN,
        skeleton: Skeleton = BODY_17,
        skip_broken: bool = False,
        detector: Detector | None = None,
        background: str = "median",
        follow: bool = True,
    ) -> Reel:
        """A folder of videos by 002's rule (§3.2): clips whose background stands still, and clips where it moves.

        Nobody is labelled: no joint is `known`. See `posegeom_models.data.cropping.cut_clip` for where the person is
        taken to be; where it leaves out frames, another clip begins, so that the frames of a clip are at equal times.
        Videos are decoded as a stream; what is kept is 6·size² bytes per frame.

        Args:
            folder: with the videos.
            size: height and width of the crops in pixels.
            rate: at most so many frames per second.
            boxes: a file with persons' boxes by the videos' names, see `posegeom_models.data.persons.read_boxes`.
            length: the most seconds of a clip.
            shortest: the least; shorter videos give none.
            threshold: of the background's motion, see `posegeom_models.data.footage.background_motion`.
            margin: side of the square over the longer side of the box.
            skeleton: of the joints that are not known.
            skip_broken: leave out videos that cannot be read, and warn once at the end how many they were.
            detector: finds the boxes where there is no file of them.
            background: of clips that stand still, one of `posegeom_models.data.footage.BACKGROUNDS`.
            follow: without it, every square is the middle of the picture; boxes are not looked at.

        Raises:
            MotionFileError: a video or the boxes cannot be read, or the boxes do not have a video.
            FileNotFoundError: no such folder or file, or no video in it.
            ValueError: no clip in any video.
        """
        if background not in BACKGROUNDS:
            raise ValueError(f"background must be one of {', '.join(BACKGROUNDS)}, got {background!r}")
        videos = list_videos(folder)
        found = None if boxes is None else read_boxes(boxes)
        strip, skipped = Strip(size), list[str]()
        for video in videos:
            begun = len(strip)
            try:
                if found is not None and video.name not in found:
                    raise MotionFileError(f"{boxes}: has no boxes of {video.name}")
                split = split_footage([video], threshold, length, shortest)
                of_video = None if found is None else found[video.name]
                if of_video is None and detector is not None and follow:
                    of_video = find_boxes(video, detector, rate)
                for clip in sorted(split.paired + split.unpaired, key=lambda clip: clip.start):
                    number = strip.clip[-1] + 1 if strip.clip else 0
                    behind = BACKGROUNDS[background](clip) if clip in split.paired else None
                    for cut in cut_clip(clip, size, rate, behind, of_video, margin, follow):
                        number += cut.gap
                        strip.add(number, cut)
            except MotionFileError as error:
                if not skip_broken:
                    raise
                strip.keep(begun)
                skipped.append(str(error))
        if skipped:
            warnings.warn(f"{len(skipped)} of {len(videos)} videos skipped: {skipped[0]}", stacklevel=2)
        if not len(strip):
            raise ValueError(f"{folder}: no clip of {shortest:g} s or more with a person in {len(videos)} videos")
        shape = (len(strip), len(skeleton.joints))
        # One zero that is shown everywhere takes no memory.
        nowhere = torch.zeros(1, 1, 1)
        return cls(
            *strip.images(),
            nowhere.expand(*shape, 3),
            nowhere.expand(*shape, 2),
            *strip.times(),
            skeleton,
            known=torch.zeros(shape, dtype=torch.bool),
            segmented=False,
        )

    @property
    def labelled(self) -> Tensor:
        """(F,) bool: every joint is known."""
        return self.known.all(-1)

    def actions(self, numbers: Tensor) -> tuple[str, ...]:
        """What is done in some frames, by number."""
        places = torch.searchsorted(torch.unique(self.clip), self.clip[numbers])
        return tuple(self.action[place] for place in places.tolist())

    def frames(self, numbers: Tensor) -> Frames:
        """Some frames, by number."""
        joints = self.joints[numbers]
        return Frames(
            self.image[numbers].float() / 255,
            self.background[numbers].float() / 255,
            self.labels[numbers],
            joints,
            self.canonical[numbers],
            self.points[numbers],
            numbers,
        )

    @functools.cached_property
    def canonical(self) -> Tensor:
        """(F, J, 3) the joints in canonical axes; without a trunk, turned so that they fit the first frame best."""
        if self.skeleton.trunk is not None:
            return canonicalize(self.joints, self.skeleton).canonical
        about = self.joints - self.joints[:, self.skeleton.root].unsqueeze(1)
        return about @ procrustes_align(about, about[:1].expand_as(about)).rotation.mT

    @functools.cached_property
    def _clips(self) -> tuple[Tensor, Tensor]:
        """The first frame of the clip that each frame is in, and the one after its last."""
        _, clip, counts = torch.unique_consecutive(self.clip, return_inverse=True, return_counts=True)
        ends = counts.cumsum(0)
        return (ends - counts)[clip], ends[clip]

    def partners(self, numbers: Tensor, gap: float, random: np.random.Generator) -> Tensor:
        """For each frame another one of its clip, at least `gap` seconds away where the clip is long enough."""
        starts, ends = self._clips
        partners = []
        for number, start, end in zip(numbers.tolist(), starts[numbers].tolist(), ends[numbers].tolist(), strict=True):
            away = (self.seconds[start:end] - self.seconds[number]).abs()
            far = torch.nonzero(away >= torch.clamp(away.max(), max=gap)).flatten()
            partners.append(start + int(far[random.integers(len(far))]))
        return torch.tensor(partners)

    def mean_pose(self) -> Tensor:
        """(J, 3) the mean canonical pose of the labelled frames: the answer that looks at no image.

        Raises:
            ValueError: no frame is labelled.
        """
        labelled = self.labelled
        if not labelled.any():
            raise ValueError("the reel must have labelled frames for a mean pose, got none with every joint known")
        return self.canonical[labelled].mean(0)


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Film(Reel):
    """A reel of the rendered benchmark whose frames are rendered when `frames` is first asked for them.

    Poses are known from the start. Training on a few thousand of many frames need not wait for all of them; and what is
    rendered once stays, also for the processes that prepare batches, which share the pictures' memory.

    Args:
        benchmark: what to render.
        place: (F, 2) clip and frame of each frame of the reel.
        camera: number of the camera.
        rendered: (F,) bool, the frames that `image`, `background` and `labels` hold; the others are zeros there.
    """

    benchmark: RenderedBenchmark = field(kw_only=True)
    place: Tensor = field(kw_only=True)
    camera: int = field(kw_only=True)
    rendered: Tensor = field(kw_only=True)

    @classmethod
    def of(cls, benchmark: RenderedBenchmark, every: int = 1, camera: int = 0) -> Film:
        """Every so many-th frame of all clips, none of them rendered yet."""
        size, picked = benchmark.config.size, slice(None, None, every)
        numbers = torch.arange(0, benchmark.config.frames, every)
        clips = range(len(benchmark))
        takes = [benchmark.take(clip) for clip in clips]
        seen = [view_take(take, camera, (size, size)) for take in takes]
        count, each = len(clips) * len(numbers), len(numbers)

        def spread(values: Iterable[int | bool]) -> Tensor:
            return torch.tensor(list(values)).repeat_interleave(each)

        return cls(
            torch.zeros(count, 3, size, size, dtype=torch.uint8),
            torch.zeros(count, 3, size, size, dtype=torch.uint8),
            torch.zeros(count, size, size, dtype=torch.uint8),
            torch.cat([joints[picked] for joints, _ in seen]),
            torch.cat([points[picked] for _, points in seen]),
            spread(clips),
            torch.cat([take.seconds[picked] for take in takes]),
            spread(take.moving for take in takes),
            benchmark.skeleton,
            tuple(action_of(take.motion) for take in takes),
            spread(take.person for take in takes),
            benchmark=benchmark,
            place=torch.stack((spread(clips), numbers.repeat(len(clips))), dim=1),
            camera=camera,
            rendered=torch.zeros(count, dtype=torch.bool),
        )

    def frames(self, numbers: Tensor) -> Frames:
        """Some frames, by number; those that are asked for the first time are rendered."""
        missing = torch.unique(numbers[~self.rendered[numbers]])
        for start in range(0, len(missing), CHUNK):
            some = missing[start : start + CHUNK]
            clips, frames = self.place[some].unbind(1)
            shown = self.benchmark.render(clips.tolist(), frames.tolist(), self.camera)
            self.image[some], self.background[some] = _bytes(shown.image), _bytes(shown.background)
            self.labels[some] = shown.labels
            self.rendered[some] = True
        return super().frames(numbers)


class _Pose(NamedTuple):
    """A sample with its square; joints (J, 3) float32, points (J, 2) float64 in the image and which are known (J,)."""

    sample: Sample
    square: Square
    joints: Tensor
    points: Tensor
    known: Tensor


def _rate_of(samples: Sequence[Sample]) -> float:
    """Of the video that samples are frames of; of a single file, whatever."""
    image = samples[0].image
    if image is not None and image.number is not None:
        with Video(image.path) as video:
            return video.rate
    if len(samples) > 1:
        raise ValueError(
            f"rate must be given: {samples[0].source} has no one rate, or did not come as Samples, and its images are "
            "no frames of videos"
        )
    return 1.0


def _pose(sample: Sample, skeleton: Skeleton, margin: float | None, missing: str) -> _Pose:
    """A sample's pose on the skeleton wanted; zeros for what is not known."""
    what = f"{sample.source}: frame {sample.frame} of {sample.sequence}"
    if sample.image is None or sample.joints is None:
        raise ValueError(f"{what} has no {'image' if sample.image is None else '3D joints'}; a reel needs both")
    joints = torch.tensor(sample.joints, dtype=torch.float64)
    if sample.points is not None:
        points = torch.tensor(sample.points, dtype=torch.float64)
    elif sample.camera is not None:
        points = project(joints, sample.camera)[0]
    else:
        raise ValueError(f"{what} has neither 2D points nor a camera to project its joints")
    placed = torch.ones(len(joints)) if sample.known is None else torch.tensor(sample.known, dtype=torch.float32)
    # A joint that is the middle of two is known where both are: elsewhere their mean is not 1.
    known = convert_joints(placed.unsqueeze(-1), sample.skeleton, skeleton, missing="nan").squeeze(-1)
    lacking = [joint for joint, value in zip(skeleton.joints, known.tolist(), strict=True) if math.isnan(value)]
    if lacking and missing == "error":
        raise ValueError(
            f"{sample.source} ({sample.skeleton.name}) has no {', '.join(lacking)}, which {skeleton.name} needs; "
            'choose a skeleton without, or pass missing="zeros" to leave them unknown'
        )
    if sample.box is None and not placed.any():
        raise ValueError(f"{what} has no box and no known joint to cut round")
    try:
        square = (
            square_round_points(points[placed == 1].numpy(), JOINTS_MARGIN if margin is None else margin)
            if sample.box is None
            else square_round(sample.box, MARGIN if margin is None else margin)
        )
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    joints, points = (
        convert_joints(values, sample.skeleton, skeleton, missing="nan").where((known == 1).unsqueeze(-1), 0.0)
        for values in (joints, points)
    )
    return _Pose(sample, square, joints.float(), points, known == 1)
