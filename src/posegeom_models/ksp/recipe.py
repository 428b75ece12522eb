"""002 in training: its configuration, its batches, and the order of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.data.reels import Film, Frames, Reel, Shuffle
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.evaluation import Constants, Prediction
from posegeom_models.ksp.networks import KspNetworks, NetworkConfig, Pose
from posegeom_models.ksp.objective import (
    Transformation,
    heat_error,
    l_paired,
    l_unpaired,
    supervised,
    turned,
    view_error,
)
from posegeom_models.ksp.synthesis import panels
from posegeom_models.runs import Model
from posegeom_models.training import Descent, TrainingConfig, frozen

VARIANTS = ("unsup", "weakly", "semi")

BACKDROPS = 256
"""Random backgrounds B_r."""


@dataclass(frozen=True)
class KspConfig:
    """002's values; "not given" where the paper leaves one open.

    Args:
        network: sizes of the networks.
        data: what is rendered.
        training: how long and where.
        footage: folder of videos to train on, cut into clips that are still or moving; None for the rendered benchmark.
        boxes: file with the boxes of the people in the footage; without it, what moves is taken for the person.
        variant: "unsup"; "weakly" adds 2D labels, "semi" adds 3D labels for a share of the frames, in the second stage.
        with_unpaired: use D_unp, frames whose background moves (Table 4, last row).
        unpaired_domain: D_unp are all frames of this domain, without labels or backgrounds: the model is adapted to
            it (Table 3, +3DHP without supervision). None for the moving clips of the domain trained on.
        skip_broken: leave out videos of the footage that cannot be read, and say how many.
        labelled_share: of the training frames that have 3D labels in "semi".
        base_share: of the steps that are the first stage; in the second one, L_UNP rests and labels join. Not given.
        labelled_turns: turns of the labels for each one of L_prior and L_P in the second stage. The paper: 1.
        prior_samples: rendered people with labels.
        lambda_1: weight of |p_2D - p̂_2D| in L_P. Not given.
        lambda_2: weight of |f_a - f̂_a| in L_P and L_UNP. Not given.
        lambda_view: weight of `posegeom_models.ksp.objective.view_error` where there are 3D labels. The paper: 0.
        lambda_heat: weight of `posegeom_models.ksp.objective.heat_error` where there are labels. The paper: 0.
        learning_rate: of each loss's Adagrad.
        optimizer: "adagrad", the paper's, or "adam", which needs fewer steps.
        pair_gap: seconds between I_s and I_t at least. Not given.
        frame_step: every how many-th frame of a clip is used.
        turn: largest in-plane rotation in degrees, of T and of the prior samples. Not given.
        elsewhere: share of the labelled frames of clips with a known background that are shown before another one. The
            paper does so with the synthetic samples alone.
        jitter: largest relative change of brightness, contrast and colour of the prior samples. Not given.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: RenderedConfig = field(default_factory=lambda: RenderedConfig(size=224, anywhere=0.0))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=400_000, batch_size=16))
    footage: Path | None = None
    boxes: Path | None = None
    variant: str = "unsup"
    with_unpaired: bool = True
    unpaired_domain: str | None = None
    skip_broken: bool = False
    labelled_share: float = 0.05
    base_share: float = 0.5
    labelled_turns: int = 1
    prior_samples: int = 20
    lambda_1: float = 1.0
    lambda_2: float = 1.0
    lambda_view: float = 0.0
    lambda_heat: float = 0.0
    learning_rate: float = 1e-3
    optimizer: str = "adagrad"
    pair_gap: float = 0.5
    frame_step: int = 1
    turn: float = 20.0
    jitter: float = 0.3
    elsewhere: float = 0.0

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        if self.optimizer not in ("adagrad", "adam"):
            raise ValueError(f"optimizer must be adagrad or adam, got {self.optimizer!r}")
        if self.network.size != self.data.size:
            raise ValueError(f"network.size must be data.size, {self.data.size}, got {self.network.size}")
        if self.lambda_heat > 0 and self.network.backbone != "pyramid":
            raise ValueError(f"lambda_heat needs the pyramid's heatmaps, got network.backbone {self.network.backbone}")
        for name in ("labelled_turns", "prior_samples", "frame_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("labelled_share", "base_share", "elsewhere"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


def turn_of(config: KspConfig, step: int) -> str:
    """Which loss a step takes: L_prior, L_P and L_UNP in turn (§3.3); in the second stage labels in place of L_UNP."""
    return _place_of(config, step)[0]


def _place_of(config: KspConfig, step: int) -> tuple[str, int]:
    """A step's loss, and how many steps that loss took before."""
    first, second = ["prior", "paired"], ["prior", "paired"]
    if config.with_unpaired:
        first.append("unpaired")
    if config.variant != "unsup":
        second += ["labelled"] * config.labelled_turns
    begin = math.ceil(config.base_share * config.training.steps)
    if step < begin:
        return first[step % len(first)], step // len(first)
    turn = second[(step - begin) % len(second)]
    rounds, rest = divmod(step - begin, len(second))
    before = rounds * second.count(turn) + second[:rest].count(turn)
    if turn in first:
        before += begin // len(first) + (first.index(turn) < begin % len(first))
    return turn, before


class KspBatch(NamedTuple):
    """Samples of one step, which takes one loss.

    Attributes:
        target: I_t of D_p or D_unp; or labelled frames, augmented: synthetic ones, or those of the second stage.
        source: I_s, for L_P and L_UNP.
        backdrop: (B, 3, H, W) random backgrounds B_r, for L_UNP.
        transformation: T, for L_UNP.
    """

    target: Frames
    source: Frames | None = None
    backdrop: Tensor | None = None
    transformation: Transformation | None = None


class KspData:
    """002's data rule (§3.2, §3.3): D_p and D_unp by the motion of the background, and 20 rendered samples.

    Attributes:
        constants: the answers that look at no image.
    """

    def __init__(self, config: KspConfig, skeleton: pg.Skeleton = pg.BODY_17, device: str = "cpu") -> None:
        self.config, self.skeleton = config, skeleton
        benchmark = RenderedBenchmark(config.data, "train", skeleton)
        self.reel: Reel
        if config.footage is None:
            # A GPU renders all of them in seconds; on a CPU, training does not wait for frames that it may never use.
            on_gpu = torch.device(device).type == "cuda"
            self.reel = (
                Reel.render(benchmark, config.frame_step, device=device)
                if on_gpu
                else Film.of(benchmark, config.frame_step)
            )
        else:
            rate = config.data.frame_rate / config.frame_step
            self.reel = Reel.from_footage(
                config.footage,
                config.data.size,
                rate,
                config.boxes,
                skeleton=skeleton,
                skip_broken=config.skip_broken,
            )
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
            raise ValueError(f"variant {config.variant!r} needs labels, and footage has none; choose unsup")
        # Labels for whole stretches would favour a few poses: they are spread over all frames by chance.
        chosen = np.random.default_rng([seed, 1]).permutation(len(known))[: round(config.labelled_share * len(known))]
        labelled = known if config.variant == "weakly" else known[torch.from_numpy(chosen)]
        prior = torch.arange(config.prior_samples)
        numbers_of = {"paired": still, "unpaired": moving, "labelled": labelled, "prior": prior}
        self.orders = {
            turn: Shuffle(those, 5 * seed + place)
            for place, (turn, those) in enumerate(numbers_of.items())
            if turn != "labelled" or config.variant != "unsup"
        }
        self.samples = benchmark.labelled_samples(config.prior_samples, device).to("cpu")
        self.backdrops = benchmark.backdrops(range(BACKDROPS), device).cpu()
        # What footage shows is not known: there the constant answers are the rendered people's.
        told = self.reel if config.footage is None else Reel.render(benchmark, config.data.frames, device=device)
        self.constants = Constants.of(told)

    def batch(self, step: int, rank: int, world_size: int) -> KspBatch:
        """One process's share of the batch of a step."""
        size = self.config.training.batch_size
        random = np.random.default_rng([self.config.training.seed, step])
        turn, before = _place_of(self.config, step)
        numbers = self.orders[turn].deal(before * size, size)
        shared = slice(rank, None, world_size)
        if turn == "prior":
            return KspBatch(_rows(self._augmented(self._prior_frames(numbers, random), random), shared))
        if turn == "labelled":
            return KspBatch(_rows(self._augmented(self._elsewhere(self.reel.frames(numbers), random), random), shared))
        reel = self.unpaired_reel if turn == "unpaired" else self.reel
        partners = reel.partners(numbers, self.config.pair_gap, random)
        target, source = reel.frames(numbers[shared]), reel.frames(partners[shared])
        if turn == "paired":
            return KspBatch(target, source)
        backdrop = self.backdrops[random.integers(len(self.backdrops), size=size)][shared]
        transformation = Transformation.random(size, np.deg2rad(self.config.turn), random)
        return KspBatch(target, source, backdrop, Transformation(*(value[shared] for value in transformation)))

    def _augmented(self, frames: Frames, random: np.random.Generator) -> Frames:
        """Frames with their colours jittered, mirrored and turned, with their labels (§4)."""
        config, skeleton = self.config, self.skeleton
        generator = torch.Generator().manual_seed(int(random.integers(2**31)))
        count, side = len(frames.image), config.data.size
        gain = 1 + config.jitter * (2 * torch.rand(count, 3, 1, 1, generator=generator) - 1)
        lift = 0.3 * config.jitter * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
        flip = torch.rand(count, generator=generator) < 0.5
        angle = (2 * torch.rand(count, generator=generator) - 1) * np.deg2rad(config.turn)
        image = Transformation(torch.zeros_like(flip), angle).images((frames.image * gain + lift).clamp(0, 1))
        points = turned(frames.points, angle, side)
        # The camera rolls with the image: exactly so where the middle of the crop is on its axis, else nearly.
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        x, y, z = frames.joints.unbind(-1)
        joints = torch.stack((cos * x - sin * y, sin * x + cos * y, z), dim=-1)
        flips = flip[:, None, None]
        return frames._replace(
            image=torch.where(flips.unsqueeze(-1), image.flip(-1), image),
            joints=torch.where(flips, pg.flip_joints(joints, skeleton, axis=0), joints),
            canonical=torch.where(flips, pg.flip_joints(frames.canonical, skeleton, axis=1), frames.canonical),
            points=torch.where(flips, pg.flip_joints(points, skeleton, width=side), points),
        )

    def _elsewhere(self, frames: Frames, random: np.random.Generator) -> Frames:
        """A share of the frames before random backgrounds, where B_t tells the person from the background.

        I + (1 − m)(B_r − B_t), m = min(1, 6 · |I − B_t|) widened by a pixel.
        """
        difference = (frames.image - frames.background).abs().sum(1, keepdim=True)
        person = nn.functional.max_pool2d((6 * difference).clamp(max=1), 3, 1, 1)
        backdrop = self.backdrops[random.integers(len(self.backdrops), size=len(frames.number))]
        moved = frames.image + (1 - person) * (backdrop - frames.background)
        chosen = torch.from_numpy(random.random(len(frames.number)) < self.config.elsewhere)
        chosen &= ~self.reel.moving[frames.number]
        return frames._replace(image=torch.where(chosen.view(-1, 1, 1, 1), moved, frames.image))

    def _prior_frames(self, numbers: Tensor, random: np.random.Generator) -> Frames:
        """Synthetic samples before random backgrounds."""
        samples = self.samples
        background = self.backdrops[random.integers(len(self.backdrops), size=len(numbers))]
        image = samples.foreground[numbers] + (1 - samples.mask[numbers]) * background
        canonical = pg.canonicalize(samples.joints[numbers], self.skeleton).canonical
        labels, joints, points = samples.labels[numbers], samples.joints[numbers], samples.points[numbers]
        return Frames(image, background, labels, joints, canonical, points, numbers)

    def part(self, batch: KspBatch, number: int, count: int) -> KspBatch:
        """One of `count` parts."""
        size = len(batch.target.number) // count
        rows = slice(number * size, (number + 1) * size)
        return KspBatch(
            _rows(batch.target, rows),
            None if batch.source is None else _rows(batch.source, rows),
            None if batch.backdrop is None else batch.backdrop[rows],
            None if batch.transformation is None else Transformation(*(value[rows] for value in batch.transformation)),
        )

    def describe(self, step: int) -> str:
        """Clips and frames of a step."""
        (turn, before), size = _place_of(self.config, step), self.config.training.batch_size
        numbers = self.orders[turn].deal(before * size, size).tolist()
        if turn == "prior":
            return f"synthetic samples {numbers}"
        reel = self.unpaired_reel if turn == "unpaired" else self.reel
        return "; ".join(f"clip {int(reel.clip[number])} at {float(reel.seconds[number]):.2f} s" for number in numbers)


def _rows(frames: Frames, rows: slice) -> Frames:
    return Frames(*(value[rows] for value in frames))


class KspRecipe:
    """002's order of steps: L_prior, L_P and L_UNP in turn, each with its own optimizer (§3.3, §4).

    In the second stage L_UNP rests, and the labels of the variant take its place.
    """

    def __init__(self, config: KspConfig, skeleton: pg.Skeleton = pg.BODY_17) -> None:
        self.config, self.skeleton = config, skeleton
        torch.manual_seed(config.training.seed)
        self.networks = KspNetworks(config.network, skeleton)
        encoders = [self.networks.pose_encoder, self.networks.appearance_encoder]
        make = torch.optim.Adagrad if config.optimizer == "adagrad" else torch.optim.Adam
        rate = config.learning_rate
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "prior": make(self.networks.pose_encoder.parameters(), rate),
            "paired": make(self.networks.parameters(), rate),
            "unpaired": make([p for network in encoders for p in network.parameters()], rate),
            "labelled": make(self.networks.pose_encoder.parameters(), rate),
        }

    def step(self, train: Descent[KspBatch], batch: KspBatch, number: int) -> None:
        """One loss on one batch."""
        turn = turn_of(self.config, number)
        if turn == "unpaired":
            with frozen(self.networks.decoder, self.networks.spatial_maps):
                train.minimize(turn, self._unpaired, batch)
        else:
            losses = {"prior": self._prior, "paired": self._paired, "labelled": self._labelled}
            train.minimize(turn, losses[turn], batch)

    def _prior(self, part: KspBatch) -> Mapping[str, Tensor]:
        return self._supervised(part, with_joints=True)

    def _labelled(self, part: KspBatch) -> Mapping[str, Tensor]:
        return self._supervised(part, self.config.variant == "semi")

    def _supervised(self, part: KspBatch, with_joints: bool) -> Mapping[str, Tensor]:
        config, target, side = self.config, part.target, self.config.network.size
        pose = self.networks.pose_encoder(target.image)
        terms = dict(supervised(pose, side, target.canonical if with_joints else None, target.points))
        if with_joints and config.lambda_view > 0:
            about = target.joints - target.joints[:, self.skeleton.root].unsqueeze(1)
            terms["view"] = config.lambda_view * view_error(pose, about)
        if config.lambda_heat > 0:
            terms["heat"] = config.lambda_heat * heat_error(pose, target.points, side)
        return terms

    def _paired(self, part: KspBatch) -> Mapping[str, Tensor]:
        config, source = self.config, part.source
        assert source is not None  # L_P's batches are pairs
        images = source.image, part.target.image, part.target.background
        return l_paired(self.networks, *images, config.lambda_1, config.lambda_2)

    def _unpaired(self, part: KspBatch) -> Mapping[str, Tensor]:
        config, source, backdrop, transformation = self.config, part.source, part.backdrop, part.transformation
        assert source is not None  # L_UNP's batches are pairs,
        assert backdrop is not None  # with random backgrounds
        assert transformation is not None  # and a T for each
        images = source.image, part.target.image, backdrop
        return l_unpaired(self.networks, *images, transformation, config.lambda_2)

    def pictures(self, batch: KspBatch) -> Mapping[str, Tensor]:
        """Source, target, reconstruction and the drawn pose, for a few samples."""
        networks, few = self.networks, slice(0, 6)
        target = batch.target.image[few]
        source = target if batch.source is None else batch.source.image[few]
        pose = networks.pose_encoder(target)
        maps = networks.spatial_maps(pose.points)
        image = networks.decoder(maps, networks.appearance_encoder(source), batch.target.background[few])
        size = (self.config.network.size, self.config.network.size)
        figure = pg.skeleton_image(pose.points, self.skeleton.bones, size, 0.224).unsqueeze(1).expand_as(image)
        rows = [torch.cat(list(row), dim=-1) for row in (source, target, image, 0.5 * target + 0.5 * figure)]
        return {"source, target, reconstruction, pose": torch.cat(rows, dim=-2)}


def predict(networks: nn.Module, images: Tensor) -> Prediction:
    """The pose in images (B, 3, H, W)."""
    pose: Pose = networks(images)
    return Prediction(pose.in_camera, pose.points)


MODEL = Model(KspConfig, KspData, KspRecipe, predict, lambda config: pg.BODY_17, panels)
