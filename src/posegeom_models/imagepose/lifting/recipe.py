"""001's lifting alone, from given 2D poses: the flow is trained first, then Λ with the flow frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.imagepose.lifter import LifterConfig, LiftingNetworks, Statistics, principal_components
from posegeom_models.imagepose.lifting.evaluation import evaluate_lifting
from posegeom_models.imagepose.objective import (
    ABLATIONS,
    LENGTHS,
    NORMS,
    Choices,
    l_nf,
    lifter_rate,
    mean_lengths,
    prior_rate,
    staged_terms,
)
from posegeom_models.imagepose.views import Poses, ViewConfig, every_second_mirrored, head_distance, normalised
from posegeom_models.ranges import check_choices, check_numbers
from posegeom_models.runs import Model
from posegeom_models.training import Descent, TrainingConfig, frozen

SAMPLE = 16_384
"""Views from which statistics are computed, at most."""


@dataclass(frozen=True)
class LiftingConfig:
    """001's values; "not given" where the paper leaves one open: then those of the work on lifting that it extends.

    Args:
        network: sizes of Λ and of the flow.
        data: motion and cameras.
        training: how long and where; its steps are those of the flow and then those of Λ.
        prior_steps: steps of the flow's pre-training, at the beginning. Not given.
        prior_rate: learning rate of the flow, which falls to 0 by a cosine. Not given.
        learning_rate: of Λ, which falls exponentially to 0.6 %. Not given.
        weight_decay: of both. Not given.
        mirrored: every second pose is shown with left and right exchanged, as a mirror shows it. The paper: false.
        prior_noise: standard deviation of noise on the flow's training poses, in units of the normalised pose. The
            paper: 0.
        bones_from: share of Λ's steps after which L_bl joins. The paper: 0. Poses begin flat, and from there L_bl wants
            depth whatever its sign: the signs are then random before L_NF has told near from far, and stay.
        elevation_from: share of Λ's steps after which Λ's own elevations are used; until then every pose has
            `network.first_elevation`. The paper: 0.
        norms: "printed", squares in eqs. (4) to (6); or "public", norms and absolute differences.
        sigma: σ_b. Not given.
        lengths: b̄: "motion", the mean over the training poses; or "human36m".
        ablation: "none", "without_bl", or "base" (Table 3).
    """

    network: LifterConfig = field(default_factory=LifterConfig)
    data: ViewConfig = field(default_factory=ViewConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=240_000, batch_size=256))
    prior_steps: int = 120_000
    prior_rate: float = 1e-4
    learning_rate: float = 2e-4
    weight_decay: float = 1e-5
    mirrored: bool = False
    prior_noise: float = 0.0
    bones_from: float = 0.0
    elevation_from: float = 0.0
    norms: str = "printed"
    sigma: float = 0.1
    lengths: str = "motion"
    ablation: str = "none"

    def __post_init__(self) -> None:
        check_choices(self, norms=NORMS, ablation=ABLATIONS, lengths=LENGTHS)
        if not 1 <= self.prior_steps < self.training.steps:
            raise ValueError(f"prior_steps must be 1 to training.steps - 1, got {self.prior_steps}")
        check_numbers(self, "positive", "prior_rate", "learning_rate", "sigma")
        check_numbers(self, "at least 0", "prior_noise")
        check_numbers(self, "in [0, 1]", "bones_from", "elevation_from")


class LiftingBatch(NamedTuple):
    """One step's 2D poses.

    Attributes:
        points: (B, J, 2) normalised.
        statistics: of the training poses; only in the first step, which puts them into the networks.
    """

    points: Tensor
    statistics: Statistics | None = None


class LiftingData:
    """Every batch shows poses of the training recordings through new cameras."""

    def __init__(self, config: LiftingConfig, skeleton: pg.Skeleton = pg.H36M_17, device: str = "cpu") -> None:
        self.config, self.skeleton = config, skeleton
        self.poses = Poses("train", config.data, skeleton)
        self.statistics = _statistics(self.poses, config, torch.Generator().manual_seed(config.training.seed))

    def __len__(self) -> int:
        return len(self.poses)

    def batch(self, step: int, rank: int, world_size: int) -> LiftingBatch:
        """One process's share of the batch of a step."""
        shown = self.poses.views(*self._drawn(step)).points
        if self.config.mirrored:
            shown = every_second_mirrored(shown, self.skeleton)
        points = normalised(shown, self.statistics.scale, self.skeleton.root, self.config.network.base)
        return LiftingBatch(points[rank::world_size], self.statistics if step == 0 else None)

    def _drawn(self, step: int) -> tuple[Tensor, torch.Generator]:
        """Numbers of a step's poses, and what its cameras are drawn from."""
        training = self.config.training
        generator = torch.Generator().manual_seed((training.seed * 1_000_003 + step) * 4_093 + 1)
        return torch.randint(len(self.poses), (training.batch_size,), generator=generator), generator

    def part(self, batch: LiftingBatch, number: int, count: int) -> LiftingBatch:
        """One of `count` parts."""
        size = len(batch.points) // count
        return LiftingBatch(batch.points[number * size : (number + 1) * size], batch.statistics)

    def describe(self, step: int) -> str:
        """Clips of a step."""
        clips = self.poses.clip[self._drawn(step)[0]].unique().tolist()
        return "poses of " + ", ".join(self.poses.clips[clip] for clip in clips)


def _statistics(poses: Poses, config: LiftingConfig, generator: torch.Generator) -> Statistics:
    count = min(len(poses), SAMPLE)
    numbers = torch.randperm(len(poses), generator=generator)[:count]
    points, skeleton = poses.views(numbers, generator).points, poses.skeleton
    if config.mirrored:
        points = every_second_mirrored(points, skeleton)
    scale = head_distance(points, skeleton)
    flat = normalised(points, scale, skeleton.root, config.network.base).flatten(1)
    lengths = mean_lengths(config.lengths, poses.joints, skeleton)
    mean, components, deviation = principal_components(flat, config.network.components)
    return Statistics(scale, mean, components, (deviation**2 + config.prior_noise**2).sqrt(), lengths)


class LiftingRecipe:
    """First L_NF over data moves the flow, then L_base + L_NF + L_bl moves Λ; each has its own optimizer and rates."""

    recordable = False

    def __init__(self, config: LiftingConfig, skeleton: pg.Skeleton = pg.H36M_17) -> None:
        self.config, self.skeleton = config, skeleton
        torch.manual_seed(config.training.seed)
        self.networks = LiftingNetworks(config.network, skeleton)
        self.choices = Choices(config.ablation, config.norms, config.sigma, config.bones_from, config.elevation_from)
        decay, networks = config.weight_decay, self.networks
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(network.parameters(), rate, weight_decay=decay, fused=True)
            for name, network, rate in (
                ("prior", networks.prior, config.prior_rate),
                ("lifter", networks.lifter, config.learning_rate),
            )
        }

    def step(self, train: Descent[LiftingBatch], batch: LiftingBatch, number: int) -> None:
        """One loss on one batch."""
        config = self.config
        if batch.statistics is not None:
            self.networks.adopt(batch.statistics)
        if number < config.prior_steps:
            self._set_rate("prior", prior_rate(config.prior_rate, number / config.prior_steps))
            train.minimize("prior", self._prior, batch)
            return
        share = (number - config.prior_steps) / (config.training.steps - config.prior_steps)
        self._set_rate("lifter", lifter_rate(config.learning_rate, share))
        with frozen(self.networks.prior):
            train.minimize("lifter", lambda part: staged_terms(self.networks, part.points, self.choices, share), batch)

    def _set_rate(self, name: str, rate: float) -> None:
        """Each stage has its own fall of the learning rate; the engine multiplies it with that of the whole run."""
        for group in self.optimizers[name].param_groups:
            group["initial_lr"] = rate

    def _prior(self, part: LiftingBatch) -> Mapping[str, Tensor]:
        noise = self.config.prior_noise * torch.randn_like(part.points)
        return {"NF": l_nf(self.networks.prior, part.points + noise)}

    def pictures(self, batch: LiftingBatch) -> Mapping[str, Tensor]:
        """2D poses, and what is lifted from them as seen from the person's side and from above."""
        joints, _ = self.networks(batch.points[:6])
        x, y, z = joints.unbind(-1)
        side, size = 96, (96, 96)
        middle, unit = (side - 1) / 2, side / 4
        rows = []
        for across, down in ((x, y), (z, y), (x, z)):
            points = torch.stack((across, down), dim=-1) * unit + middle
            figures = pg.skeleton_image(points, self.skeleton.bones, size, 0.5)
            rows.append(torch.cat(list(figures), dim=-1))
        return {"2D, side, above": torch.cat(rows, dim=-2).expand(3, -1, -1)}


def _evaluated(networks: nn.Module, config: LiftingConfig, pool: str, every: int, batch: int) -> Mapping[str, Any]:
    assert isinstance(networks, LiftingNetworks)
    return evaluate_lifting(networks, config.data, pool, every, batch)


MODEL = Model(LiftingConfig, LiftingData, LiftingRecipe, None, lambda config: pg.H36M_17, evaluate=_evaluated)
