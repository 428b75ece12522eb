"""What 001 is shown: images of some recordings, and 2D poses of the others."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import posegeom as pg
from posegeom_models.data.augmentation import Transformation, turned
from posegeom_models.data.filming import view_take
from posegeom_models.data.rendered import RenderedBenchmark
from posegeom_models.data.repertoire import load_pool
from posegeom_models.data.shuffling import Shuffle
from posegeom_models.evaluation import Constants
from posegeom_models.imagepose.configuration import SKELETONS, ImageposeConfig
from posegeom_models.imagepose.lifter import Statistics, principal_components
from posegeom_models.imagepose.objective import mean_lengths
from posegeom_models.imagepose.views import head_distance, normalised
from posegeom_models.material import Material


class ImageposeBatch(NamedTuple):
    """Samples of one step.

    Attributes:
        points: (P, J, 2) u, unpaired 2D poses in pixels; as many as images, or a multiple.
        image: (B, 3, S, S) x; None while the flow is trained.
        other: (B, 3, S, S) another frame of each image's clip, for the reconstruction.
        statistics: of the prior; only in the first step, which puts them into the networks.
    """

    points: Tensor
    image: Tensor | None = None
    other: Tensor | None = None
    statistics: Statistics | None = None


def _recording(benchmark: RenderedBenchmark, clip: int) -> str:
    return benchmark.take(clip).motion.split("#")[0]


def _lent(config: ImageposeConfig, skeleton: pg.Skeleton) -> frozenset[str]:
    """The recordings that lend 2D poses: the same ones whatever is drawn of them."""
    data, share = config.data, config.prior_share
    pool = load_pool("train", data.motion, skeleton, data.content, data.frames, data.frame_rate)
    names = sorted({recording.name.split("#")[0] for recording in pool})
    return frozenset(name for place, name in enumerate(names) if int((place + 1) * share) > int(place * share))


class Album:
    """The frames of one domain, shared out: to recordings whose images are shown, and to those that lend 2D poses.

    Attributes:
        reel: all frames.
        images: deals those that are shown.
        prior: (P,) numbers of those that lend their 2D poses.
        prior_clips: numbers of the clips that these are of.
        lent: names of the recordings that may lend poses.
    """

    def __init__(self, config: ImageposeConfig, domain: str, skeleton: pg.Skeleton, seed: int, device: str) -> None:
        benchmark = self.benchmark = RenderedBenchmark(replace(config.data, domain=domain), "train", skeleton)
        self.config, self.reel = config, Material(benchmark, config.frame_step, device).reel()
        self.lent = _lent(config, skeleton)
        is_prior = torch.tensor([_recording(benchmark, clip) in self.lent for clip in range(len(benchmark))])
        if is_prior.all() or not is_prior.any():
            raise ValueError(
                f"prior_share {config.prior_share:g} of {len(is_prior)} clips leaves no images or no prior"
            )
        self.prior_clips = is_prior.nonzero().flatten().tolist()
        numbers, of_prior = torch.arange(len(self.reel)), is_prior[self.reel.clip]
        self.images, self.prior = Shuffle(numbers[~of_prior], seed), numbers[of_prior]

    def shown(self, numbers: Tensor) -> Tensor:
        """What Φ is shown of frames, (B, 3, S, S)."""
        frames = self.reel.frames(numbers)
        return frames.image * (frames.labels > 0).unsqueeze(1) if self.config.masked else frames.image

    def pairs(self, first: int, count: int, shared: slice, random: np.random.Generator) -> tuple[Tensor, Tensor | None]:
        """A share of `count` images from place `first` on, and for each another frame of its clip, if needed."""
        numbers = self.images.deal(first, count)
        if self.config.lambda_image == 0:
            return self.shown(numbers[shared]), None
        others = self.reel.partners(numbers, self.config.pair_gap, random)
        return self.shown(numbers[shared]), self.shown(others[shared])


class ImageposeData:
    """Images of some recordings, and 2D poses of the others.

    Attributes:
        points: (P, J, 2) the prior's poses, pixels.
        joints: (P, J, 3) what they are views of; of these, bone lengths alone are used.
        recordings: names of the recordings that they are of.
        constants: the answers that look at no image.
    """

    def __init__(self, config: ImageposeConfig, device: str = "cpu") -> None:
        self.config, self.skeleton = config, SKELETONS[config.skeleton]
        seed, skeleton = config.training.seed, self.skeleton
        self.own = Album(config, config.data.domain, skeleton, 3 * seed, device)
        self.more = None
        if config.more_images is not None:
            self.more = Album(config, config.more_images, skeleton, 3 * seed + 2, device)
        self.reel = self.own.reel
        self.points, self.joints, self.recordings = self._unpaired()
        self.prior = Shuffle(torch.arange(len(self.points)), 3 * seed + 1)
        self.angles = torch.tensor([0.0, *(math.radians(angle) for angle in config.rotations)])
        self.statistics = self._statistics()
        self.constants = Constants.of(self.reel, parts=False)

    def _unpaired(self) -> tuple[Tensor, Tensor, frozenset[str]]:
        """The prior's poses, what they are views of, and the names of their recordings."""
        config, size = self.config, (self.config.data.size, self.config.data.size)
        benchmark, clips = self.own.benchmark, self.own.prior_clips
        if config.prior_clips > 0:
            more = replace(config.data, seed=config.data.seed + 1, clips=(config.prior_clips, 1, 1))
            benchmark = RenderedBenchmark(more, "train", self.skeleton)
            clips = [clip for clip in range(len(benchmark)) if _recording(benchmark, clip) in self.own.lent]
            if not clips:
                raise ValueError(
                    f"none of {config.prior_clips} prior_clips is of a recording that lends poses; ask for more"
                )
            seen = [view_take(benchmark.take(clip), 0, size) for clip in clips]
            joints, points = (torch.cat(parts) for parts in zip(*seen, strict=True))
        else:
            points, joints = self.reel.points[self.own.prior], self.reel.joints[self.own.prior]
        if config.mirrored:
            points = torch.cat((points, pg.flip_joints(points, self.skeleton, width=config.data.size)))
            joints = torch.cat((joints, pg.flip_joints(joints, self.skeleton, axis=0)))
        return points, joints, frozenset(_recording(benchmark, clip) for clip in clips)

    @property
    def _poses(self) -> int:
        """2D poses of a step."""
        return self.config.poses or self.config.training.batch_size

    def _statistics(self) -> Statistics:
        config, skeleton, points = self.config, self.skeleton, self.points
        copies = [turned(points, angle.expand(len(points)), config.data.size) for angle in self.angles]
        scale = head_distance(points, skeleton)
        flat = normalised(torch.cat(copies), scale, skeleton.root, config.lifter.base).flatten(1)
        lengths = mean_lengths(config.lengths, self.joints, skeleton)
        return Statistics(scale, *principal_components(flat, config.lifter.components), lengths)

    def batch(self, step: int, rank: int, world_size: int) -> ImageposeBatch:
        """One process's share of the batch of a step."""
        config, size, shared = self.config, self._poses, slice(rank, None, world_size)
        random = np.random.default_rng([config.training.seed, step])
        places = torch.from_numpy(random.integers(len(self.angles), size=(2, size)))[:, shared]
        angles = self.angles[places]
        points = turned(self.points[self.prior.deal(step * size, size)][shared], angles[0], config.data.size)
        statistics = self.statistics if step == 0 else None
        if step < config.prior_steps:
            return ImageposeBatch(points, statistics=statistics)
        image, other = self._pairs(step, shared, random)
        if len(self.angles) > 1:
            turn = Transformation(torch.zeros(len(image), dtype=torch.bool), angles[1, : len(image)])
            image, other = turn.images(image), None if other is None else turn.images(other)
        return ImageposeBatch(points, image, other, statistics)

    def _pairs(self, step: int, shared: slice, random: np.random.Generator) -> tuple[Tensor, Tensor | None]:
        size = self.config.training.batch_size
        if self.more is None:
            return self.own.pairs(step * size, size, shared, random)
        # Every other image is of the other domain.
        whole = slice(None)
        counts = (size - size // 2, size // 2)
        both = [
            album.pairs(step * count, count, whole, random)
            for album, count in zip((self.own, self.more), counts, strict=True)
        ]
        order = torch.stack((torch.arange(size) % 2, torch.arange(size) // 2))
        rows = (order[0] * counts[0] + order[1])[shared]
        others = [other for _, other in both if other is not None]
        return torch.cat([image for image, _ in both])[rows], torch.cat(others)[rows] if others else None

    def part(self, batch: ImageposeBatch, number: int, count: int) -> ImageposeBatch:
        """One of `count` parts."""

        def rows(values: Tensor) -> Tensor:
            size = len(values) // count
            return values[number * size : (number + 1) * size]

        image, other = (None if images is None else rows(images) for images in (batch.image, batch.other))
        return ImageposeBatch(rows(batch.points), image, other, batch.statistics)

    def describe(self, step: int) -> str:
        """Frames of a step."""
        size = self.config.training.batch_size
        told = f"unpaired 2D poses {self.prior.deal(step * self._poses, self._poses).tolist()}"
        if step < self.config.prior_steps:
            return told
        if self.more is None:
            return f"frames {self.own.images.deal(step * size, size).tolist()}, {told}"
        few = size // 2
        own, more = self.own.images.deal(step * (size - few), size - few), self.more.images.deal(step * few, few)
        return f"frames {own.tolist()}, of domain {self.config.more_images} {more.tolist()}, {told}"
