"""The batches of 003: quadruples of frames for the first phase, labelled frames for the second."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import posegeom as pg
from posegeom_models.data.augmentation import Changes
from posegeom_models.data.reels import Reel, rows_of
from posegeom_models.data.rendered import RenderedBenchmark
from posegeom_models.data.shuffling import Shuffle, share_of
from posegeom_models.material import Material
from posegeom_models.temporal.backgrounds import with_panoramas
from posegeom_models.temporal.configuration import TemporalConfig, stage_of
from posegeom_models.temporal.regressors import Statistics
from posegeom_models.temporal.sampling import FRAMES_OF_A_QUADRUPLE, Distances, FallSampler, FrameSampler, Quadruples


class Videos(NamedTuple):
    """Four frames of each of Q videos, the reference first.

    Attributes:
        image: (Q, 4, 3, S, S) I.
        background: (Q, 4, 3, S, S) B.
        points: (Q, 4, J, 2) pixels.
        known: (Q, 4, J) bool: the points that are labels.
        distance: (Q, 4) frames from the reference.
        clip: (Q,) numbers of the videos.
    """

    image: Tensor
    background: Tensor
    points: Tensor
    known: Tensor
    distance: Tensor
    clip: Tensor


class Labelled(NamedTuple):
    """B frames with labels.

    Attributes:
        image: (B, 3, S, S).
        joints: (B, J, 3) q_3D, metres about the root in the camera's axes.
        points: (B, J, 2) pixels.
    """

    image: Tensor
    joints: Tensor
    points: Tensor


class TemporalBatch(NamedTuple):
    """Samples of one step.

    Attributes:
        videos: of the first phase.
        other_view: the same instants by a second camera, where the configuration needs one.
        shift: (Q, 4, 3, 3) from the first camera's axes to the second's.
        labelled: of the second phase.
        statistics: of all labels; only in the first step, which puts them into Φ.
    """

    videos: Videos | None = None
    other_view: Videos | None = None
    shift: Tensor | None = None
    labelled: Labelled | None = None
    statistics: Statistics | None = None


class TemporalData:
    """003's samplers (§3.1.2, §3.2, S.1): frames of videos with a known background, and every so many-th one's labels.

    Attributes:
        reel: the frames, those of the first camera.
        constants: the answers that look at no image.
    """

    def __init__(self, config: TemporalConfig, skeleton: pg.Skeleton = pg.BODY_17, device: str = "cpu") -> None:
        self.config, self.skeleton = config, skeleton
        benchmark = RenderedBenchmark(config.data, "train", skeleton)
        footage, skip_broken = config.footage, config.skip_broken
        panorama = config.background == "panorama"
        material = Material(
            benchmark,
            config.frame_step,
            device,
            footage,
            config.boxes,
            skip_broken,
            background="median" if panorama else config.background,
            # A square that followed a fall would show none.
            follow=config.pretraining_steps == 0,
            shortest=config.shortest,
        )
        self.reel = material.reel()
        if panorama:
            self.reel = with_panoramas(self.reel)
        self.second: Reel | None = None
        if config.several_views:
            self.second = material.reel(camera=1)
            self.shifts = benchmark.shifts(config.frame_step)
        negatives = 2 if config.contrast == "css" else 1
        self.sampler = FrameSampler(self.reel, Distances(config.near, config.away), negatives)
        seed = config.training.seed
        self.orders = {"codes": Shuffle(self._usable(self.sampler.references), 3 * seed)}
        if config.pretraining_steps:
            falling = _falling(benchmark, config.frame_step) if config.footage is None else torch.ones(len(self.reel))
            self.falls = FallSampler(self.reel, falling.bool(), config.fall_step)
            self.orders["pretraining"] = Shuffle(self._usable(self.falls.references), 3 * seed + 1)
        known = torch.nonzero(self.reel.labelled).flatten()
        self.statistics: Statistics | None = None
        if len(known):
            # Sub-sampling is uniform over people and actions: every so many-th frame (S.1.1).
            chosen = share_of(known, config.labelled_share)
            self.orders["pose"] = Shuffle(chosen, 3 * seed + 2)
            self.statistics = Statistics.of(self.reel.joints[chosen], skeleton.root)
        elif config.pose_steps or config.eta > 0:
            raise ValueError("footage has no labels: pose_steps and eta must be 0")
        self.constants = material.constants(self.reel)

    def _usable(self, references: Tensor) -> Tensor:
        """Those of videos whose background is known, and of the clips that the first phase sees."""
        config, reel = self.config, self.reel
        # The renderer knows the background of a turning camera too, as 003's panorama does.
        kept = torch.ones(len(references), dtype=torch.bool) if config.footage is None else ~reel.moving[references]
        if config.seen_clips:
            kept &= reel.clip[references] < config.seen_clips
        if not kept.any():
            raise ValueError("no clip has a known background and four frames")
        return references[kept]

    def batch(self, step: int, rank: int, world_size: int) -> TemporalBatch:
        """One process's share of the batch of a step."""
        config, stage, shared = self.config, stage_of(self.config, step), slice(rank, None, world_size)
        statistics = self.statistics if step == 0 else None
        if stage.name == "pose":
            labelled = labelled_frames(self.reel, self._dealt(step), config, step)
            return TemporalBatch(labelled=rows_of(labelled, shared), statistics=statistics)
        references = self._dealt(step)
        if stage.name == "pretraining":
            found = self.falls.quadruples(references)
        else:
            found = self.sampler.quadruples(references, np.random.default_rng([config.training.seed, step]))
        mine = Quadruples(found.number[shared], found.distance[shared])
        videos = _videos(self.reel, mine)
        if self.second is None:
            return TemporalBatch(videos, statistics=statistics)
        return TemporalBatch(videos, _videos(self.second, mine), self.shifts[mine.number], statistics=statistics)

    def _dealt(self, step: int) -> Tensor:
        """The references, or the labelled frames, of a step."""
        stage = stage_of(self.config, step)
        size = self.config.labelled_frames if stage.name == "pose" else self.config.videos
        return self.orders[stage.name].deal(stage.number * size, size)

    def part(self, batch: TemporalBatch, number: int, count: int) -> TemporalBatch:
        """One of `count` parts."""
        first = batch.labelled if batch.videos is None else batch.videos
        assert first is not None  # a batch has one of them
        size = len(first.image) // count
        rows = slice(number * size, (number + 1) * size)
        videos, other, shift, labelled = (rows_of(value, rows) for value in batch[:4])
        return TemporalBatch(videos, other, shift, labelled, batch.statistics)

    def describe(self, step: int) -> str:
        """Clips and frames of a step."""
        reel, numbers = self.reel, self._dealt(step).tolist()
        told = "; ".join(f"clip {int(reel.clip[one])} at {float(reel.seconds[one]):.2f} s" for one in numbers)
        return told if stage_of(self.config, step).name == "pose" else f"videos round {told}"


def labelled_frames(reel: Reel, numbers: Tensor, config: TemporalConfig, step: int) -> Labelled:
    """Frames by number with their poses; mirrored and turned as `config` has it, by the step's chance."""
    frames = reel.frames(numbers)
    if config.mirrored or config.label_turn:
        generator = torch.Generator().manual_seed(config.training.seed * 1_000_003 + step)
        changes = Changes.random(len(numbers), 0.0, config.label_turn, generator)
        frames = changes._replace(flip=changes.flip & config.mirrored).moved(frames, reel.skeleton)
    about = frames.joints - frames.joints[:, reel.skeleton.root].unsqueeze(1)
    return Labelled(frames.image, about, frames.points)


def _videos(reel: Reel, found: Quadruples) -> Videos:
    frames = reel.frames(found.number.flatten())
    known = reel.known[found.number]
    image, background, points = (
        value.unflatten(0, (-1, FRAMES_OF_A_QUADRUPLE)) for value in (frames.image, frames.background, frames.points)
    )
    return Videos(image, background, points, known, found.distance, reel.clip[found.number[:, 0]])


def _falling(benchmark: RenderedBenchmark, every: int) -> Tensor:
    """(F,) bool: in free fall and on the way down. Jumps are in free fall on their way up, too, where eq. (10) errs."""
    found = []
    for clip in range(len(benchmark)):
        take = benchmark.take(clip)
        height = pg.center_of_gravity(take.joints, benchmark.skeleton)[:, 2]
        down = height.diff() < 0
        found.append((take.airborne & torch.cat((down, down[-1:])))[::every])
    return torch.cat(found)
