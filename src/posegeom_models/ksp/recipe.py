"""002 in training: its configuration, its batches, and the order of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.data.reels import Frames, Reel, Shuffle
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.ksp.networks import KspNetworks, NetworkConfig
from posegeom_models.ksp.objective import Transformation, l_paired, l_unpaired, supervised
from posegeom_models.training import Descent, TrainingConfig, frozen

VARIANTS = ("unsup", "weakly", "semi")


@dataclass(frozen=True)
class KspConfig:
    """002's values; "not given" where the paper leaves one open.

    Args:
        network: sizes of the networks.
        data: what is rendered.
        training: how long and where.
        variant: "unsup"; "weakly" adds 2D labels, "semi" adds 3D labels for a share of the frames, in the second stage.
        with_unpaired: use D_unp, frames whose background moves (Table 4, last row).
        labelled_share: of the training frames that have 3D labels in "semi".
        base_share: of the steps that are the first stage; in the second one, L_UNP rests and labels join. Not given.
        prior_samples: rendered people with labels.
        lambda_1: weight of |p_2D - p̂_2D| in L_P. Not given.
        lambda_2: weight of |f_a - f̂_a| in L_P and L_UNP. Not given.
        learning_rate: of each loss's Adagrad.
        optimizer: "adagrad", the paper's, or "adam", which needs fewer steps.
        pair_gap: seconds between I_s and I_t at least. Not given.
        frame_step: every how many-th frame of a clip is used.
        turn: largest in-plane rotation in degrees, of T and of the prior samples. Not given.
        jitter: largest relative change of brightness, contrast and colour of the prior samples. Not given.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: RenderedConfig = field(default_factory=lambda: RenderedConfig(size=224, anywhere=0.0))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=400_000, batch_size=16))
    variant: str = "unsup"
    with_unpaired: bool = True
    labelled_share: float = 0.05
    base_share: float = 0.5
    prior_samples: int = 20
    lambda_1: float = 1.0
    lambda_2: float = 1.0
    learning_rate: float = 1e-3
    optimizer: str = "adagrad"
    pair_gap: float = 0.5
    frame_step: int = 1
    turn: float = 20.0
    jitter: float = 0.3

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        if self.optimizer not in ("adagrad", "adam"):
            raise ValueError(f"optimizer must be adagrad or adam, got {self.optimizer!r}")
        if self.network.size != self.data.size:
            raise ValueError(f"network.size must be data.size, {self.data.size}, got {self.network.size}")
        for name in ("labelled_share", "base_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


class KspBatch(NamedTuple):
    """Samples of one step, all of one length.

    Attributes:
        source: I_s of D_p.
        target: I_t of D_p, with B_t.
        labelled: frames with the labels of the second stage.
        unpaired_source: I_s of D_unp.
        unpaired_target: I_t of D_unp.
        backdrop: (B, 3, H, W) random backgrounds B_r.
        prior: labelled synthetic samples before random backgrounds, augmented.
    """

    source: Frames
    target: Frames
    labelled: Frames
    unpaired_source: Frames
    unpaired_target: Frames
    backdrop: Tensor
    prior: Frames


class KspData:
    """002's data rule over the rendered benchmark (§3.2, §3.3): D_p and D_unp by the motion of the background."""

    def __init__(self, config: KspConfig, skeleton: pg.Skeleton = pg.BODY_17, device: str = "cpu") -> None:
        self.config, self.skeleton = config, skeleton
        benchmark = RenderedBenchmark(config.data, "train", skeleton)
        self.reel = Reel.render(benchmark, config.frame_step, device=device)
        numbers = torch.arange(len(self.reel))
        still = numbers[~self.reel.moving]
        # Without a moving clip, D_unp is D_p without its backgrounds.
        moving = numbers[self.reel.moving] if bool(self.reel.moving.any()) else still
        seed = config.training.seed
        # Labels for whole stretches would favour a few poses: every so many-th frame has them.
        every = round(1 / config.labelled_share) if config.labelled_share > 0 else len(numbers)
        labelled = still if config.variant == "weakly" else still[::every]
        self.paired = Shuffle(still, 5 * seed)
        self.unpaired = Shuffle(moving, 5 * seed + 1)
        self.labelled = Shuffle(labelled, 5 * seed + 2)
        self.prior = Shuffle(range(config.prior_samples), 5 * seed + 3)
        samples = benchmark.labelled_samples(config.prior_samples, device)
        self.samples = samples.to("cpu")
        self.backdrops = benchmark.backdrops(range(64), device).cpu()

    def batch(self, step: int, rank: int, world_size: int) -> KspBatch:
        """One process's share of the batch of a step."""
        size = self.config.training.batch_size
        random = np.random.default_rng([self.config.training.seed, step])
        shared = slice(rank, None, world_size)
        target, unpaired = (order.deal(step * size, size) for order in (self.paired, self.unpaired))
        source = self.reel.partners(target, self.config.pair_gap, random)
        unpaired_source = self.reel.partners(unpaired, self.config.pair_gap, random)
        prior, drawn, backdrop = (
            self.prior.deal(step * size, size),
            random.integers(2**31),
            random.integers(64, size=size),
        )
        augmented = self._augmented(prior, backdrop, int(drawn))
        return KspBatch(
            self.reel.frames(source[shared]),
            self.reel.frames(target[shared]),
            self.reel.frames(self.labelled.deal(step * size, size)[shared]),
            self.reel.frames(unpaired_source[shared]),
            self.reel.frames(unpaired[shared]),
            self.backdrops[random.integers(64, size=size)][shared],
            Frames(*(value[shared] for value in augmented)),
        )

    def _augmented(self, numbers: Tensor, backdrop: np.ndarray, seed: int) -> Frames:
        """Synthetic samples before random backgrounds, with colours jittered; mirrored and turned with their labels."""
        config, samples = self.config, self.samples
        generator = torch.Generator().manual_seed(seed)
        count, side = len(numbers), config.data.size
        image = samples.foreground[numbers] + (1 - samples.mask[numbers]) * self.backdrops[backdrop]
        gain = 1 + config.jitter * (2 * torch.rand(count, 3, 1, 1, generator=generator) - 1)
        lift = 0.3 * config.jitter * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
        image = (image * gain + lift).clamp(0, 1)
        flip = torch.rand(count, generator=generator) < 0.5
        angle = (2 * torch.rand(count, generator=generator) - 1) * np.deg2rad(config.turn)
        image = Transformation(torch.zeros_like(flip), angle).images(image)
        image = torch.where(flip.view(-1, 1, 1, 1), image.flip(-1), image)
        canonical = pg.canonicalize(samples.joints[numbers], self.skeleton).canonical
        mirrored = pg.flip_joints(canonical, self.skeleton, axis=1)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        x, y = (samples.points[numbers] - (side - 1) / 2).unbind(-1)
        points = torch.stack((cos * x - sin * y, sin * x + cos * y), dim=-1) + (side - 1) / 2
        points = torch.where(flip[:, None, None], pg.flip_joints(points, self.skeleton, width=side), points)
        canonical = torch.where(flip[:, None, None], mirrored, canonical)
        blank = torch.zeros(count, side, side, dtype=torch.uint8)
        return Frames(image, self.backdrops[backdrop], blank, canonical, canonical, points, numbers)

    def part(self, batch: KspBatch, number: int, count: int) -> KspBatch:
        """One of `count` parts."""

        def cut(value: Tensor) -> Tensor:
            return value.chunk(count)[number]

        def of(frames: Frames) -> Frames:
            return Frames(*(cut(value) for value in frames))

        return KspBatch(
            of(batch.source),
            of(batch.target),
            of(batch.labelled),
            of(batch.unpaired_source),
            of(batch.unpaired_target),
            cut(batch.backdrop),
            of(batch.prior),
        )

    def describe(self, step: int) -> str:
        """Clips and frames of a step."""
        size = self.config.training.batch_size
        told = [
            f"clip {int(self.reel.clip[number])} at {float(self.reel.seconds[number]):.2f} s"
            for number in self.paired.deal(step * size, size).tolist()
        ]
        return "; ".join(told)


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

    def turns(self, number: int) -> str:
        """Which loss step `number` takes."""
        config = self.config
        losses = ["prior", "paired"]
        if number < config.base_share * config.training.steps:
            losses += ["unpaired"] if config.with_unpaired else []
        elif config.variant != "unsup":
            losses.append("labelled")
        return losses[number % len(losses)]

    def step(self, train: Descent[KspBatch], batch: KspBatch, number: int) -> None:
        """One loss on one batch."""
        config, networks = self.config, self.networks
        side = config.network.size
        turn = self.turns(number)

        def prior(part: KspBatch) -> Mapping[str, Tensor]:
            return supervised(networks.pose_encoder(part.prior.image), part.prior.canonical, part.prior.points, side)

        def paired(part: KspBatch) -> Mapping[str, Tensor]:
            images = part.source.image, part.target.image, part.target.background
            return l_paired(networks, *images, config.lambda_1, config.lambda_2)

        def unpaired(part: KspBatch) -> Mapping[str, Tensor]:
            images = part.unpaired_source.image, part.unpaired_target.image, part.backdrop
            transformation = Transformation.random(len(part.backdrop), np.deg2rad(config.turn), part.backdrop.device)
            return l_unpaired(networks, *images, transformation, config.lambda_2)

        def labelled(part: KspBatch) -> Mapping[str, Tensor]:
            joints = part.labelled.canonical if config.variant == "semi" else None
            return supervised(networks.pose_encoder(part.labelled.image), joints, part.labelled.points, side)

        if turn == "unpaired":
            with frozen(networks.decoder, networks.spatial_maps):
                train.minimize("unpaired", unpaired, batch)
        else:
            train.minimize(turn, {"prior": prior, "paired": paired, "labelled": labelled}[turn], batch)

    def pictures(self, batch: KspBatch) -> Mapping[str, Tensor]:
        """Source, target, reconstruction and the drawn pose, for a few samples."""
        networks, few = self.networks, slice(0, 6)
        source, target = batch.source.image[few], batch.target.image[few]
        pose = networks.pose_encoder(target)
        maps = networks.spatial_maps(pose.points)
        image = networks.decoder(maps, networks.appearance_encoder(source), batch.target.background[few])
        size = (self.config.network.size, self.config.network.size)
        figure = pg.skeleton_image(pose.points, self.skeleton.bones, size, 0.224).unsqueeze(1).expand_as(image)
        rows = [torch.cat(list(row), dim=-1) for row in (source, target, image, 0.5 * target + 0.5 * figure)]
        return {"source, target, reconstruction, pose": torch.cat(rows, dim=-2)}


def predict(networks: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Joints (B, J, 3) about the pelvis in the camera's axes, and points (B, J, 2), of images (B, 3, H, W)."""
    pose = networks(images)
    return pose.in_camera, pose.points
