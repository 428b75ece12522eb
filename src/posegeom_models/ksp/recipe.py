"""002 in training: its configuration, its batches, and the order of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.data.augmentation import Changes, Transformation, before
from posegeom_models.data.reels import Film, Frames, rows_of
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.data.shuffling import Shuffle
from posegeom_models.evaluation import Prediction
from posegeom_models.ksp.dolls import Dolls, make_dolls
from posegeom_models.ksp.imagined import Imagination, Imagined, imagined_error
from posegeom_models.ksp.networks import KspNetworks, NetworkConfig
from posegeom_models.ksp.objective import l_paired, l_unpaired
from posegeom_models.ksp.samples import repainted, zoomed
from posegeom_models.ksp.synthesis import panels
from posegeom_models.material import Material
from posegeom_models.poses import Pose
from posegeom_models.runs import Model
from posegeom_models.supervision import heat_error, supervised, view_error
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
        prior_turns: turns of L_prior for each one of the other losses. The paper: 1.
        prior_samples: rendered people with labels.
        dolls: how many further samples are made of them (`posegeom_models.ksp.dolls`); as many turns in L_prior are
            theirs as the rendered ones'. The paper: 0.
        lambda_1: weight of |p_2D - p̂_2D| in L_P. Not given.
        lambda_2: weight of |f_a - f̂_a| in L_P and L_UNP. Not given.
        lambda_view: weight of `posegeom_models.supervision.view_error` where there are 3D labels. The paper: 0.
        lambda_heat: weight of `posegeom_models.supervision.heat_error` where there are labels. The paper: 0.
        lambda_figure: weight of `posegeom_models.ksp.objective.figure_error` in L_P. The paper: 0.
        lambda_imagined: weight of `posegeom_models.ksp.imagined.imagined_error`: wherever the branches learn, they
            also learn from poses put together from the prior samples, without images. Needs network.lifted. The paper:
            0.
        closed_branches: L_P, L_UNP and 2D labels do not move the branches' parameters: many poses explain an image, and
            these losses would take any of them. Needs network.lifted. The paper: False.
        imagined: so many such poses for each image of a batch.
        learning_rate: of each loss's Adagrad.
        pose_rate: the pose encoder's learning rate in L_P and L_UNP, over that of the other networks. With Adagrad or
            Adam these losses take full steps, however little they tell of the pose. The paper: 1.
        optimizer: "adagrad", the paper's, or "adam", which needs fewer steps.
        pair_gap: seconds between I_s and I_t at least. Not given.
        frame_step: every how many-th frame of a clip is used.
        turn: largest in-plane rotation in degrees, of T and of the prior samples. Not given.
        elsewhere: share of the labelled frames of clips with a known background that are shown before another one. The
            paper does so with the synthetic samples alone.
        jitter: largest relative change of brightness, contrast and colour of the prior samples. Not given.
        repainted: share of the prior samples whose body parts get other colours, each its own. The paper: 0.
        zoom: largest relative change of the prior samples' size, and a third of it of their place. The paper: 0.
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
    prior_turns: int = 1
    prior_samples: int = 20
    dolls: int = 0
    lambda_1: float = 1.0
    lambda_2: float = 1.0
    lambda_view: float = 0.0
    lambda_heat: float = 0.0
    lambda_figure: float = 0.0
    lambda_imagined: float = 0.0
    closed_branches: bool = False
    imagined: int = 4
    learning_rate: float = 1e-3
    pose_rate: float = 1.0
    optimizer: str = "adagrad"
    pair_gap: float = 0.5
    frame_step: int = 1
    turn: float = 20.0
    jitter: float = 0.3
    repainted: float = 0.0
    zoom: float = 0.0
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
        if self.lambda_imagined > 0 and not self.network.lifted:
            raise ValueError("lambda_imagined needs branches that see key points alone: set network.lifted")
        if self.closed_branches and not self.network.lifted:
            raise ValueError("closed_branches needs branches that see key points alone: set network.lifted")
        for name in ("pose_rate", "dolls", "lambda_imagined", "lambda_figure"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("labelled_turns", "prior_turns", "prior_samples", "frame_step", "imagined"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("labelled_share", "base_share", "elsewhere", "repainted", "zoom"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


def turn_of(config: KspConfig, step: int) -> str:
    """Which loss a step takes: L_prior, L_P and L_UNP in turn (§3.3); in the second stage labels in place of L_UNP."""
    return _place_of(config, step)[0]


def _place_of(config: KspConfig, step: int) -> tuple[str, int]:
    """A step's loss, and how many steps that loss took before."""
    first = [*["prior"] * config.prior_turns, "paired"]
    second = list(first)
    if config.with_unpaired:
        first.append("unpaired")
    if config.variant != "unsup":
        second += ["labelled"] * config.labelled_turns
    begin = math.ceil(config.base_share * config.training.steps)
    if step < begin:
        turn = first[step % len(first)]
        return turn, _taken(first, turn, step)
    turn = second[(step - begin) % len(second)]
    return turn, _taken(first, turn, begin) + _taken(second, turn, step - begin)


def _taken(order: Sequence[str], turn: str, steps: int) -> int:
    """How many of the first steps of an order that goes round and round take a loss."""
    rounds, rest = divmod(steps, len(order))
    return rounds * order.count(turn) + order[:rest].count(turn)


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
        footage, skip_broken = config.footage, config.skip_broken
        material = Material(benchmark, config.frame_step, device, footage, config.boxes, skip_broken)
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
            raise ValueError(f"variant {config.variant!r} needs labels, and footage has none; choose unsup")
        # Labels for whole stretches would favour a few poses: they are spread over all frames by chance.
        chosen = np.random.default_rng([seed, 1]).permutation(len(known))[: round(config.labelled_share * len(known))]
        labelled = known if config.variant == "weakly" else known[torch.from_numpy(chosen)]
        prior = torch.arange(config.prior_samples)
        if config.dolls > 0:
            again = prior.repeat(-(-config.dolls // config.prior_samples))
            prior = torch.cat((again, config.prior_samples + torch.arange(config.dolls)))
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
            self.imagination = Imagination(self.samples.joints, self.samples.points, skeleton, config.data.size)
        if config.dolls > 0:
            dolls = make_dolls(samples, skeleton, config.dolls, torch.Generator().manual_seed(seed))
            self.samples = Dolls(*(torch.cat(both) for both in zip(self.samples, dolls, strict=True)))
        self.backdrops = benchmark.backdrops(range(BACKDROPS), device).cpu()
        self.constants = material.constants(self.reel)

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
        turn, before = _place_of(self.config, step)
        numbers = self.orders[turn].deal(before * size, size)
        shared = slice(rank, None, world_size)
        if turn == "prior":
            return KspBatch(rows_of(self._augmented(self._prior_frames(numbers, random), random), shared))
        if turn == "labelled":
            return KspBatch(
                rows_of(self._augmented(self._elsewhere(self.reel.frames(numbers), random), random), shared)
            )
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
        generator = torch.Generator().manual_seed(int(random.integers(2**31)))
        changes = Changes.random(len(frames.image), self.config.jitter, self.config.turn, generator)
        return changes.moved(frames._replace(image=changes.recolored(frames.image)), self.skeleton)

    def _elsewhere(self, frames: Frames, random: np.random.Generator) -> Frames:
        """A share of the frames before random backgrounds, where B_t tells the person from the background."""
        backdrops = self.backdrops[random.integers(len(self.backdrops), size=len(frames.number))]
        chosen = torch.from_numpy(random.random(len(frames.number)) < self.config.elsewhere)
        return before(frames, backdrops, chosen & ~self.reel.moving[frames.number])

    def _prior_frames(self, numbers: Tensor, random: np.random.Generator) -> Frames:
        """Synthetic samples before random backgrounds."""
        samples = self.samples
        background = self.backdrops[random.integers(len(self.backdrops), size=len(numbers))]
        labels, joints, points = samples.labels[numbers], samples.joints[numbers], samples.points[numbers]
        foreground, mask = samples.foreground[numbers], samples.mask[numbers]
        canonical = pg.canonicalize(joints, self.skeleton).canonical
        generator = torch.Generator()
        if self.config.repainted > 0:
            generator.manual_seed(int(random.integers(2**31)))
            foreground = repainted(foreground, mask, labels, self.config.repainted, generator)
        if self.config.zoom > 0:
            generator.manual_seed(int(random.integers(2**31)))
            person = torch.cat((foreground, mask), dim=1)
            person, points = zoomed(person, points, self.config.zoom, generator)
            foreground, mask = person.split((3, 1), dim=1)
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
        (turn, before), size = _place_of(self.config, step), self.config.training.batch_size
        numbers = self.orders[turn].deal(before * size, size).tolist()
        if turn == "prior":
            return f"synthetic samples {numbers}"
        reel = self.unpaired_reel if turn == "unpaired" else self.reel
        return "; ".join(f"clip {int(reel.clip[number])} at {float(reel.seconds[number]):.2f} s" for number in numbers)


class KspRecipe:
    """002's order of steps: L_prior, L_P and L_UNP in turn, each with its own optimizer (§3.3, §4).

    In the second stage L_UNP rests, and the labels of the variant take its place.
    """

    def __init__(self, config: KspConfig, skeleton: pg.Skeleton = pg.BODY_17) -> None:
        self.config, self.skeleton = config, skeleton
        torch.manual_seed(config.training.seed)
        self.networks = KspNetworks(config.network, skeleton)
        make = torch.optim.Adagrad if config.optimizer == "adagrad" else torch.optim.Adam
        rate = config.learning_rate

        def groups(*names: str) -> list[dict[str, Any]]:
            rates = [rate * (config.pose_rate if name == "pose_encoder" else 1.0) for name in names]
            networks = [self.networks.get_submodule(name) for name in names]
            return [{"params": [*part.parameters()], "lr": own} for part, own in zip(networks, rates, strict=True)]

        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "prior": make(self.networks.pose_encoder.parameters(), rate),
            "paired": make(groups("pose_encoder", "appearance_encoder", "spatial_maps", "decoder"), rate),
            "unpaired": make(groups("pose_encoder", "appearance_encoder"), rate),
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
        return {**self._supervised(part, with_joints=True), **self._imagined(part)}

    def _labelled(self, part: KspBatch) -> Mapping[str, Tensor]:
        with_joints = self.config.variant == "semi"
        with self._without_depth() if not with_joints else nullcontext():
            terms = self._supervised(part, with_joints)
        return {**terms, **self._imagined(part)}

    def _imagined(self, part: KspBatch) -> Mapping[str, Tensor]:
        if part.imagined is None:
            return {}
        error = imagined_error(self.networks.pose_encoder, part.imagined)
        return {"imagined": self.config.lambda_imagined * error}

    def _without_depth(self) -> AbstractContextManager[None]:
        encoder = self.networks.pose_encoder
        closed = [encoder.local_kinematics, encoder.camera_parameters] if self.config.closed_branches else []
        return frozen(*closed)

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
        with self._without_depth():
            terms = l_paired(self.networks, *images, config.lambda_1, config.lambda_2, config.lambda_figure)
        return {**terms, **self._imagined(part)}

    def _unpaired(self, part: KspBatch) -> Mapping[str, Tensor]:
        config, source, backdrop, transformation = self.config, part.source, part.backdrop, part.transformation
        assert source is not None  # L_UNP's batches are pairs,
        assert backdrop is not None  # with random backgrounds
        assert transformation is not None  # and a T for each
        images = source.image, part.target.image, backdrop
        with self._without_depth():
            terms = l_unpaired(self.networks, *images, transformation, config.lambda_2)
        return {**terms, **self._imagined(part)}

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
