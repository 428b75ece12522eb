"""001 in training: its configuration, its batches, and the order of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.data.reels import Film, Frames, Reel, Shuffle
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.evaluation import Constants, Prediction
from posegeom_models.imagepose.adversary import FORMS, l_d, l_d_of_phi, l_omega, reconstruction
from posegeom_models.imagepose.lifter import (
    LifterConfig,
    LiftingNetworks,
    Statistics,
    principal_components,
    turn_and_lift_again,
)
from posegeom_models.imagepose.networks import Discriminator, ImageConfig, PointRegressor, SkipNetwork, drawn
from posegeom_models.imagepose.objective import ABLATIONS, NORMS, l_nf, lifting_terms
from posegeom_models.imagepose.views import head_distance, normalised
from posegeom_models.runs import Model
from posegeom_models.training import Descent, TrainingConfig, frozen, statistics_kept

ROWS = (*ABLATIONS, "images")
"""Of Table 3, from its last row to its first: "images" is L_D + L_Ω, with nothing for Λ to learn from."""


@dataclass(frozen=True)
class ImageposeConfig:
    """001's values; "not given" where the paper leaves one open.

    Args:
        image: sizes of Φ, Ω and D, and κ.
        lifter: sizes of Λ and of the flow.
        data: what is rendered.
        training: how long and where; its steps are those of the flow and then those of everything else.
        prior_steps: steps of the flow's pre-training, at the beginning. Not given.
        prior_rate: learning rate of the flow, which falls to 0 by a cosine. Not given.
        learning_rate: of the other networks. Not given; that of the work that Φ, Ω and D are from.
        prior_share: of the recordings whose 2D poses are the prior; the images are of the others.
        masked: cut the person out of the images, as 001 does; then they have to be cut out at test time too.
        form: of L_D, "log" (eq. 3) or "lsgan".
        norms: of eqs. (4) to (6), "printed" or "public".
        sigma: σ_b. Not given.
        lambda_omega: λ of eq. (9).
        lambda_d: weight of L_D for Φ. The paper: 1.
        lambda_image: weight of `posegeom_models.imagepose.adversary.reconstruction`. The paper: 0.
        bones_from: share of the steps after the flow's from which L_bl counts. The paper: 0; see `LiftingConfig`.
        ablation: row of Table 3: "none", "without_bl", "base" or "images".
        pair_gap: seconds at least between a frame and the one that lends the reconstruction its looks.
        frame_step: every how many-th frame of a clip is used.
    """

    image: ImageConfig = field(default_factory=ImageConfig)
    lifter: LifterConfig = field(default_factory=LifterConfig)
    data: RenderedConfig = field(default_factory=lambda: RenderedConfig(size=128, anywhere=0.0))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=320_000, batch_size=16))
    prior_steps: int = 20_000
    prior_rate: float = 1e-4
    learning_rate: float = 2e-4
    prior_share: float = 0.4
    masked: bool = True
    form: str = "log"
    norms: str = "printed"
    sigma: float = 0.1
    lambda_omega: float = 0.1
    lambda_d: float = 1.0
    lambda_image: float = 0.0
    bones_from: float = 0.0
    ablation: str = "none"
    pair_gap: float = 0.5
    frame_step: int = 1

    def __post_init__(self) -> None:
        for name, choices in (("form", FORMS), ("norms", NORMS), ("ablation", ROWS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.image.size != self.data.size:
            raise ValueError(f"image.size must be data.size, {self.data.size}, got {self.image.size}")
        if not 1 <= self.prior_steps < self.training.steps:
            raise ValueError(f"prior_steps must be 1 to training.steps - 1, got {self.prior_steps}")
        if not 0 < self.prior_share < 1:
            raise ValueError(f"prior_share must be between 0 and 1, got {self.prior_share}")
        if not 0 <= self.bones_from <= 1:
            raise ValueError(f"bones_from must be in [0, 1], got {self.bones_from}")


class ImageposeBatch(NamedTuple):
    """Samples of one step.

    Attributes:
        points: (B, J, 2) u, unpaired 2D poses in pixels.
        image: (B, 3, S, S) x; None while the flow is trained.
        other: (B, 3, S, S) another frame of each image's clip, for the reconstruction.
        statistics: of the prior; only in the first step, which puts them into the networks.
    """

    points: Tensor
    image: Tensor | None = None
    other: Tensor | None = None
    statistics: Statistics | None = None


class ImageposeData:
    """Images of some recordings, and 2D poses of the others.

    Attributes:
        constants: the answers that look at no image.
    """

    def __init__(self, config: ImageposeConfig, skeleton: pg.Skeleton = pg.H36M_17, device: str = "cpu") -> None:
        self.config, self.skeleton = config, skeleton
        benchmark = RenderedBenchmark(config.data, "train", skeleton)
        on_gpu = torch.device(device).type == "cuda"
        self.reel: Reel = (
            Reel.render(benchmark, config.frame_step, device=device)
            if on_gpu
            else Film.of(benchmark, config.frame_step)
        )
        recordings = [benchmark.take(clip).motion.split("#")[0] for clip in range(len(benchmark))]
        names, share = sorted(set(recordings)), config.prior_share
        lent = {name for place, name in enumerate(names) if int((place + 1) * share) > int(place * share)}
        if not lent or len(lent) == len(names):
            raise ValueError(f"prior_share {share:g} of {len(names)} recordings leaves no images or no prior")
        is_prior = torch.tensor([name in lent for name in recordings])[self.reel.clip]
        numbers, seed = torch.arange(len(self.reel)), config.training.seed
        self.images, self.prior = Shuffle(numbers[~is_prior], 2 * seed), Shuffle(numbers[is_prior], 2 * seed + 1)
        self.statistics = self._statistics(numbers[is_prior])
        self.constants = Constants.of(self.reel)

    def _statistics(self, numbers: Tensor) -> Statistics:
        config, skeleton = self.config, self.skeleton
        points = self.reel.points[numbers]
        scale = head_distance(points, skeleton)
        flat = normalised(points, scale, skeleton.root, config.lifter.base).flatten(1)
        lengths = pg.relative_bone_lengths(self.reel.joints[numbers], skeleton).mean(0)
        return Statistics(scale, *principal_components(flat, config.lifter.components), lengths)

    def batch(self, step: int, rank: int, world_size: int) -> ImageposeBatch:
        """One process's share of the batch of a step."""
        config, size, shared = self.config, self.config.training.batch_size, slice(rank, None, world_size)
        points = self.reel.points[self.prior.deal(step * size, size)][shared]
        statistics = self.statistics if step == 0 else None
        if step < config.prior_steps:
            return ImageposeBatch(points, statistics=statistics)
        numbers = self.images.deal(step * size, size)
        image, other = self._seen(self.reel.frames(numbers[shared])), None
        if config.lambda_image > 0:
            random = np.random.default_rng([config.training.seed, step])
            other = self._seen(self.reel.frames(self.reel.partners(numbers, config.pair_gap, random)[shared]))
        return ImageposeBatch(points, image, other, statistics)

    def _seen(self, frames: Frames) -> Tensor:
        """What Φ is shown of frames."""
        return frames.image * (frames.labels > 0).unsqueeze(1) if self.config.masked else frames.image

    def part(self, batch: ImageposeBatch, number: int, count: int) -> ImageposeBatch:
        """One of `count` parts."""
        size = len(batch.points) // count
        rows = slice(number * size, (number + 1) * size)
        image, other = (None if images is None else images[rows] for images in (batch.image, batch.other))
        return ImageposeBatch(batch.points[rows], image, other, batch.statistics)

    def describe(self, step: int) -> str:
        """Frames of a step."""
        size = self.config.training.batch_size
        told = f"2D poses of frames {self.prior.deal(step * size, size).tolist()}"
        if step < self.config.prior_steps:
            return told
        return f"frames {self.images.deal(step * size, size).tolist()}, {told}"


class Pose(NamedTuple):
    """What Φ, Ω and Λ say of images.

    Attributes:
        skeleton_image: (B, 1, S, S) s, in [−1, 1] or thereabouts.
        points: (B, J, 2) y, pixels.
        joints: (B, J, 3) v about the root, in units of the normalised pose, in the camera's axes.
        elevation: (B,) of the camera, radians; positive looks down.
    """

    skeleton_image: Tensor
    points: Tensor
    joints: Tensor
    elevation: Tensor


class ImageposeNetworks(nn.Module):
    """All networks of 001 by their names there, and the flow."""

    def __init__(self, config: ImageposeConfig, skeleton: pg.Skeleton = pg.H36M_17) -> None:
        super().__init__()
        self.config, self.skeleton = config.image, skeleton
        width = config.image.width
        self.phi = SkipNetwork(3, 1, width)
        self.omega = PointRegressor(len(skeleton.joints), width)
        self.discriminator = Discriminator(config.image)
        self.lifting = LiftingNetworks(config.lifter, skeleton)
        # κ(y) and another frame to the image: only with the reconstruction.
        self.redrawing = SkipNetwork(4, 3, width) if config.lambda_image > 0 else None

    def kappa(self, points: Tensor) -> Tensor:
        """κ in [−1, 1], (B, 1, S, S), of points (B, J, 2) in pixels."""
        return 2 * drawn(points, self.config, self.skeleton) - 1

    def unit(self, points: Tensor) -> Tensor:
        """Points in pixels, in [−1, 1] over the image."""
        return 2 * points / (self.config.size - 1) - 1

    def normalised(self, points: Tensor) -> Tensor:
        """Points in pixels, as Λ and the flow take them."""
        lifting = self.lifting
        return normalised(points, lifting.get_buffer("scale"), self.skeleton.root, lifting.config.base)

    def forward(self, images: Tensor) -> Pose:
        """The test-time path (§3.1): images (B, 3, S, S) in [0, 1] to their poses."""
        skeleton_image = self.phi(2 * images - 1)
        points = self.omega(skeleton_image).float()
        return Pose(skeleton_image, points, *self.lifting(self.normalised(points)))


class ImageposeRecipe:
    """First the flow; then, each step, eq. (12) for Φ, Ω and Λ with D frozen, and L_D for D."""

    def __init__(self, config: ImageposeConfig, skeleton: pg.Skeleton = pg.H36M_17) -> None:
        self.config, self.skeleton = config, skeleton
        torch.manual_seed(config.training.seed)
        networks = self.networks = ImageposeNetworks(config, skeleton)
        learners: list[nn.Module] = [networks.phi, networks.omega, networks.lifting.lifter]
        learners += [] if networks.redrawing is None else [networks.redrawing]
        parameters = [p for network in learners for p in network.parameters()]
        rate, betas = config.learning_rate, (0.5, 0.999)
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "prior": torch.optim.Adam(networks.lifting.prior.parameters(), config.prior_rate, weight_decay=1e-5),
            "pose": torch.optim.Adam(parameters, rate, betas),
            "discriminator": torch.optim.Adam(networks.discriminator.parameters(), rate, betas),
        }

    def step(self, train: Descent[ImageposeBatch], batch: ImageposeBatch, number: int) -> None:
        """One step of the flow, or one of the pose networks and one of D."""
        config, networks = self.config, self.networks
        if batch.statistics is not None:
            networks.lifting.adopt(batch.statistics)
        if number < config.prior_steps:
            rate = config.prior_rate * (1 + math.cos(math.pi * number / config.prior_steps)) / 2
            for group in self.optimizers["prior"].param_groups:
                group["initial_lr"] = rate
            train.minimize("prior", self._prior, batch)
            return
        share = (number - config.prior_steps) / (config.training.steps - config.prior_steps)
        with frozen(networks.lifting.prior, networks.discriminator):
            train.minimize("pose", lambda part: self._pose(part, share), batch)
        train.minimize("discriminator", self._discriminator, batch)

    def _prior(self, part: ImageposeBatch) -> Mapping[str, Tensor]:
        return {"NF": l_nf(self.networks.lifting.prior, self.networks.normalised(part.points))}

    def _pose(self, part: ImageposeBatch, share: float) -> Mapping[str, Tensor]:
        networks, config, lifting = self.networks, self.config, self.networks.lifting
        assert part.image is not None  # the flow's steps are over
        skeleton_image = networks.phi(2 * part.image - 1)
        points = networks.omega(skeleton_image).float()
        again = networks.kappa(points)
        said = networks.omega(networks.kappa(part.points)).float()
        terms: dict[str, Tensor] = {
            "D": config.lambda_d * l_d_of_phi(networks.discriminator(skeleton_image), config.form),
            "Omega": l_omega(
                networks.unit(said), networks.unit(part.points), again, skeleton_image, config.lambda_omega
            ),
        }
        if config.ablation != "images":
            y = networks.normalised(points)
            loop = turn_and_lift_again(lifting.lifter, y, lifting.config, self.skeleton.root)
            early = config.ablation == "none" and share < config.bones_from
            row = "without_bl" if early else config.ablation
            lengths = lifting.get_buffer("lengths")
            terms |= lifting_terms(loop, lifting.prior, self.skeleton, lengths, config.sigma, config.norms, row)
        if networks.redrawing is not None and part.other is not None:
            redrawn = networks.redrawing(torch.cat((again, 2 * part.other - 1), dim=1))
            terms["image"] = config.lambda_image * reconstruction(2 * part.image - 1, redrawn)
        return terms

    def _discriminator(self, part: ImageposeBatch) -> Mapping[str, Tensor]:
        networks = self.networks
        assert part.image is not None  # the flow's steps are over
        with torch.no_grad(), statistics_kept(networks.phi):
            fake = networks.phi(2 * part.image - 1)
            real = networks.kappa(part.points)
        return {"D": l_d(networks.discriminator(real), networks.discriminator(fake), self.config.form)}

    def pictures(self, batch: ImageposeBatch) -> Mapping[str, Tensor]:
        """Images, skeleton images s, what Ω reads from them, and unpaired ones; while the flow learns, those alone."""
        networks, few = self.networks, slice(0, 6)
        rows = [networks.kappa(batch.points[few])]
        if batch.image is not None:
            pose = networks(batch.image[few])
            rows = [2 * batch.image[few] - 1, pose.skeleton_image, networks.kappa(pose.points), *rows]
        strips = [torch.cat(list(row.expand(-1, 3, -1, -1)), dim=-1) for row in rows]
        return {"image, s, y, prior": (torch.cat(strips, dim=-2) + 1) / 2}


def predict(networks: nn.Module, images: Tensor) -> Prediction:
    """The pose in images (B, 3, H, W); in metres, if the mean bone is as long as the skeleton's."""
    assert isinstance(networks, ImageposeNetworks)
    pose: Pose = networks(images)
    skeleton, joints = networks.skeleton, pose.joints
    if skeleton.lengths is not None:
        mean = pg.bone_vectors(joints, skeleton).norm(dim=-1).mean(-1).clamp(min=1e-6)
        joints = joints * (sum(skeleton.lengths) / len(skeleton.lengths) / mean)[:, None, None]
    return Prediction(joints, pose.points)


def no_panels(networks: nn.Module, reel: Reel, random: np.random.Generator) -> Mapping[str, Any]:
    """001 draws nothing anew."""
    raise ValueError("imagepose makes no images; posegeom synthesize is for models that do")


MODEL = Model(ImageposeConfig, ImageposeData, ImageposeRecipe, predict, lambda config: pg.H36M_17, no_panels)
