"""The batches of 002: pairs of one video's frames before known or random backgrounds, and labelled frames."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import posegeom as pg
from posegeom_models.data.augmentation import Changes, Transformation, before
from posegeom_models.data.reels import Film, Frames, rows_of
from posegeom_models.data.rendered import RenderedBenchmark
from posegeom_models.data.shuffling import Shuffle
from posegeom_models.ksp.configuration import KspConfig, place_of, turn_of
from posegeom_models.ksp.dolls import Dolls, make_dolls
from posegeom_models.ksp.imagined import Imagination, Imagined
from posegeom_models.material import Material

BACKDROPS = 256
"""Random backgrounds B_r."""


def within_clips(clip: Tensor, count: int) -> Tensor:
    """(F,) bool: which of F frames, whose clips are given, are in the first `count` clips that occur."""
    return torch.isin(clip, torch.unique(clip)[:count])


def augmented(frames: Frames, jitter: float, turn: float, skeleton: pg.Skeleton, random: np.random.Generator) -> Frames:
    """Frames with their colours jittered, mirrored and turned, with their labels (§4)."""
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    changes = Changes.random(len(frames.image), jitter, turn, generator)
    return changes.moved(frames._replace(image=changes.recolored(frames.image)), skeleton)


class KspBatch(NamedTuple):
    """Samples of one step, which takes one loss.

    Attributes:
        target: I_t of D_p or D_unp; or labelled frames, augmented: synthetic ones, or those of the second stage.
        source: I_s, for L_P and L_UNP.
        backdrop: (B, 3, H, W) random backgrounds B_r, for L_UNP.
        transformation: T, for L_UNP.
        imagined: poses without images, `imagined` of them for each frame; None where nothing is learnt from them.
    """

    target: Frames
    source: Frames | None = None
    backdrop: Tensor | None = None
    transformation: Transformation | None = None
    imagined: Imagined | None = None


class KspData:
    """002's data rule (§3.2, §3.3): D_p and D_unp by the motion of the background, and 20 rendered samples.

    Attributes:
        constants: the answers that look at no image.
    """

    def __init__(self, config: KspConfig, skeleton: pg.Skeleton = pg.BODY_17, device: str = "cpu") -> None:
        self.config, self.skeleton = config, skeleton
        benchmark = RenderedBenchmark(config.data, "train", skeleton)
        material = Material(
            benchmark,
            config.frame_step,
            device,
            config.footage,
            config.boxes,
            config.skip_broken,
            config.detector,
            config.data_set,
            config.path,
        )
        self.reel = material.reel()
        numbers = torch.arange(len(self.reel))
        still = numbers[~self.reel.moving]
        self.unpaired_reel = self.reel
        # Without a moving clip, D_unp is D_p without its backgrounds.
        moving = numbers[self.reel.moving] if bool(self.reel.moving.any()) else still
        if config.unpaired_domain is not None:
            other = RenderedBenchmark(replace(config.data, domain=config.unpaired_domain), "train", skeleton)
            self.unpaired_reel = Film.of(other, config.frame_step)
            moving = torch.arange(len(self.unpaired_reel))
        seed = config.training.seed
        known = numbers[self.reel.labelled]
        if len(known) == 0 and config.variant != "unsup":
            raise ValueError(
                f"variant {config.variant!r} needs labels of every joint, which these frames lack; choose unsup"
            )
        # Labels for whole stretches would favour a few poses: they are spread over all frames by chance.
        chosen = np.random.default_rng([seed, 1]).permutation(len(known))[: round(config.labelled_share * len(known))]
        labelled = known if config.variant == "weakly" else known[torch.from_numpy(chosen)]
        prior = torch.arange(config.prior_samples)
        if config.dolls > 0:
            again = prior.repeat(-(-config.dolls // config.prior_samples))
            prior = torch.cat((again, config.prior_samples + torch.arange(config.dolls)))
        if config.pair_clips > 0:
            still = still[within_clips(self.reel.clip[still], config.pair_clips)]
            moving = moving[within_clips(self.unpaired_reel.clip[moving], config.pair_clips)]
        if len(still) == 0:
            raise ValueError("L_P has no frames: no clip has a background that stands still")
        if len(labelled) == 0 and config.variant != "unsup":
            raise ValueError(f"labelled_share {config.labelled_share} of {len(known)} frames leaves no labelled frame")
        numbers_of = {"paired": still, "unpaired": moving, "labelled": labelled, "prior": prior}
        self.orders = {
            turn: Shuffle(those, 5 * seed + place)
            for place, (turn, those) in enumerate(numbers_of.items())
            if turn != "labelled" or config.variant != "unsup"
        }
        samples = benchmark.labelled_samples(config.prior_samples, device)
        self.samples = Dolls(*(getattr(samples, name).cpu() for name in Dolls._fields))
        self.imagination: Imagination | None = None
        if config.lambda_imagined > 0:
            taught = [(self.samples.joints, self.samples.points)]
            if config.variant == "semi":
                taught.append((self.reel.joints[labelled], self.reel.points[labelled]))
            joints, points = (torch.cat(those) for those in zip(*taught, strict=True))
            self.imagination = Imagination(joints, points, skeleton, config.data.size)
        if config.dolls > 0:
            dolls = make_dolls(samples, skeleton, config.dolls, torch.Generator().manual_seed(seed))
            self.samples = Dolls(*(torch.cat(both) for both in zip(self.samples, dolls, strict=True)))
        self.backdrops = benchmark.backdrops(range(BACKDROPS), device).cpu()
        self.constants = material.constants(self.reel, parts=False)

    def batch(self, step: int, rank: int, world_size: int) -> KspBatch:
        """One process's share of the batch of a step."""
        batch = self._frames(step, rank, world_size)
        still = self.config.closed_branches and turn_of(self.config, step) in ("paired", "unpaired")
        if self.imagination is None or still:
            return batch
        generator = torch.Generator().manual_seed(1_000_003 * self.config.training.seed + step)
        count = self.config.imagined * self.config.training.batch_size
        return batch._replace(imagined=self.imagination.draw(count, generator).rows(slice(rank, None, world_size)))

    def _frames(self, step: int, rank: int, world_size: int) -> KspBatch:
        size = self.config.training.batch_size
        random = np.random.default_rng([self.config.training.seed, step])
        turn, taken = place_of(self.config, step)
        numbers = self.orders[turn].deal(taken * size, size)
        shared = slice(rank, None, world_size)
        if turn == "prior":
            return KspBatch(rows_of(self._changed(self.prior_frames(numbers, random), random), shared))
        if turn == "labelled":
            return KspBatch(rows_of(self._changed(self._elsewhere(self.reel.frames(numbers), random), random), shared))
        reel = self.unpaired_reel if turn == "unpaired" else self.reel
        partners = reel.partners(numbers, self.config.pair_gap, random)
        target, source = reel.frames(numbers[shared]), reel.frames(partners[shared])
        if turn == "paired":
            return KspBatch(target, source)
        backdrop = self.backdrops[random.integers(len(self.backdrops), size=size)][shared]
        transformation = Transformation.random(size, np.deg2rad(self.config.turn), random)
        return KspBatch(target, source, backdrop, Transformation(*(value[shared] for value in transformation)))

    def _changed(self, frames: Frames, random: np.random.Generator) -> Frames:
        return augmented(frames, self.config.jitter, self.config.turn, self.skeleton, random)

    def _elsewhere(self, frames: Frames, random: np.random.Generator) -> Frames:
        """A share of the frames before random backgrounds, where B_t tells the person from the background."""
        backdrops = self.backdrops[random.integers(len(self.backdrops), size=len(frames.number))]
        chosen = torch.from_numpy(random.random(len(frames.number)) < self.config.elsewhere)
        return before(frames, backdrops, chosen & ~self.reel.moving[frames.number])

    def prior_frames(self, numbers: Tensor, random: np.random.Generator) -> Frames:
        """Synthetic samples before random backgrounds."""
        samples = self.samples
        background = self.backdrops[random.integers(len(self.backdrops), size=len(numbers))]
        labels, joints, points = samples.labels[numbers], samples.joints[numbers], samples.points[numbers]
        foreground, mask = samples.foreground[numbers], samples.mask[numbers]
        canonical = pg.canonicalize(joints, self.skeleton).canonical
        image = foreground + (1 - mask) * background
        return Frames(image, background, labels, joints, canonical, points, numbers)

    def part(self, batch: KspBatch, number: int, count: int) -> KspBatch:
        """One of `count` parts."""
        size = len(batch.target.number) // count
        rows = slice(number * size, (number + 1) * size)
        part: KspBatch = rows_of(batch._replace(imagined=None), rows)
        # There are several imagined poses to a frame, in any order.
        return (
            part if batch.imagined is None else part._replace(imagined=batch.imagined.rows(slice(number, None, count)))
        )

    def describe(self, step: int) -> str:
        """Clips and frames of a step."""
        (turn, taken), size = place_of(self.config, step), self.config.training.batch_size
        numbers = self.orders[turn].deal(taken * size, size).tolist()
        if turn == "prior":
            return f"synthetic samples {numbers}"
        reel = self.unpaired_reel if turn == "unpaired" else self.reel
        return "; ".join(f"clip {int(reel.clip[number])} at {float(reel.seconds[number]):.2f} s" for number in numbers)
