"""The batches of 000: pairs of one video's frames, poses without images, labelled frames, and pairs of views."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import posegeom as pg
from posegeom_models.data.augmentation import Changes, before
from posegeom_models.data.reels import Frames, Reel, rows_of
from posegeom_models.data.rendered import RenderedBenchmark
from posegeom_models.data.shuffling import Shuffle
from posegeom_models.material import Material
from posegeom_models.pgp.configuration import PgpConfig, turn_of
from posegeom_models.pgp.saliency import salient

BACKDROPS = 256
"""Random backgrounds for labelled frames."""

TURNS = ("iteration", "labelled", "views")


class Posed(NamedTuple):
    """Poses p_z of D_z before random cameras.

    Attributes:
        canonical: (B, J, 3) p_z^3D, canonical, metres, with the lengths that T_fk knows.
        rotation: (B, 3, 3) from canonical axes to the camera's.
        raw: (B, 3) the translations before they are bounded.
    """

    canonical: Tensor
    rotation: Tensor
    raw: Tensor


class PgpBatch(NamedTuple):
    """Samples of one step.

    Attributes:
        target: I_t; or labelled frames, augmented; or frames of the first camera.
        source: I_s, mirrored and turned; or the same instants by the second camera.
        recolored: (B, 3, H, W) I_t in other colours.
        salient: (B, H, W) m_sal of I_t.
        posed: p_z.
        shift: (B, 3, 3) from the first camera's axes to the second's.
        scene: (B, 3, H, W) what is behind the drawings of p_z that E_p is shown; None for BG_c behind all of them.
    """

    target: Frames
    source: Frames | None = None
    recolored: Tensor | None = None
    salient: Tensor | None = None
    posed: Posed | None = None
    shift: Tensor | None = None
    scene: Tensor | None = None


class PgpData:
    """000's data rules (§3.3, §4).

    Attributes:
        reel: the frames, those of the first camera.
        constants: the answers that look at no image.
    """

    def __init__(self, config: PgpConfig, skeleton: pg.Skeleton = pg.BODY_17, device: str = "cpu") -> None:
        self.config, self.skeleton = config, skeleton
        benchmark = RenderedBenchmark(config.data, "train", skeleton)
        material = Material(benchmark, config.frame_step, device, config.footage, config.boxes)
        self.reel = material.reel()
        self.second: Reel | None = None
        if config.variant == "multi-view":
            self.second = material.reel(camera=1)
            self.shifts = benchmark.shifts(config.frame_step)
        known = torch.nonzero(self.reel.labelled).flatten()
        if len(known) == 0 and config.variant in ("weakly", "semi"):
            raise ValueError(f"variant {config.variant!r} needs labels, and footage has none; choose unsup")
        # Labels for whole stretches would favour a few poses: every so many-th frame has them.
        every = round(1 / config.labelled_share) if config.labelled_share > 0 else max(1, len(known))
        labelled = known[::every] if config.variant == "semi" else known
        numbers = torch.arange(len(self.reel))
        numbers_of = {"iteration": numbers, "labelled": labelled if len(labelled) else numbers, "views": numbers}
        seed = config.training.seed
        self.orders = {turn: Shuffle(numbers_of[turn], 5 * seed + place) for place, turn in enumerate(TURNS)}
        unpaired = pg.canonicalize(benchmark.unpaired_poses(config.unpaired_poses), skeleton)
        local = pg.local_directions(unpaired.canonical, skeleton)
        # The articulation is D_z's, the lengths are those that T_fk knows: any other pose could not be told again.
        self.unpaired = pg.forward_kinematics(local.directions, local.hip_angle, skeleton)
        self.upright = unpaired.rotation
        self.backdrops = benchmark.backdrops(
            range(BACKDROPS if config.elsewhere + config.scenes > 0 else 0), device
        ).cpu()
        self.constants = material.constants(self.reel)

    def batch(self, step: int, rank: int, world_size: int) -> PgpBatch:
        """One process's share of the batch of a step."""
        config, turn = self.config, turn_of(self.config, step)
        size = config.samples_of(turn)
        numbers = self.orders[turn.name].deal(turn.number * size, size)
        shared = slice(rank, None, world_size)
        generator = torch.Generator().manual_seed((config.training.seed * 1_000_003 + step) * 2 + 1)
        changes = Changes.random(size, config.jitter, config.turn, generator).rows(shared)
        if turn.name == "views":
            assert self.second is not None  # the variant's
            mine = numbers[shared]
            return PgpBatch(self.reel.frames(mine), self.second.frames(mine), shift=self.shifts[mine])
        if turn.name == "labelled":
            frames = self._elsewhere(self.reel.frames(numbers[shared]), shared, generator)
            recolored = frames._replace(image=changes.recolored(frames.image))
            return PgpBatch(changes.moved(recolored, self.skeleton))
        posed = self._posed(size, generator)
        target = self.reel.frames(numbers[shared])
        rows = range(size)[shared]
        randoms = [np.random.default_rng([config.training.seed, step, row]) for row in rows]
        partners = [self.partner(int(numbers[row]), random) for row, random in zip(rows, randoms, strict=True)]
        source = changes.moved(self.reel.frames(torch.tensor(partners)), self.skeleton)
        m_sal = salient(target, self.reel.moving[target.number])
        scene = None if config.scenes == 0 else self._scene(size, generator)[shared]
        return PgpBatch(target, source, changes.recolored(target.image), m_sal, rows_of(posed, shared), scene=scene)

    def partner(self, number: int, random: np.random.Generator) -> int:
        """I_s for I_t: of some frames of the clip, the one whose background is the least like I_t's (§3.3a).

        Where the background is not known, the whole images are compared, as in the paper.
        """
        wanted = torch.tensor([number] * self.config.candidates)
        partners = self.reel.partners(wanted, self.config.pair_gap, random)
        if len(torch.unique(partners)) == 1:
            return int(partners[0])
        here, there = self.reel.frames(wanted[:1]), self.reel.frames(partners)
        if bool(self.reel.moving[number]):
            apart = there.image - here.image
        else:
            apart = there.background - here.background
        return int(partners[int((apart**2).mean((1, 2, 3)).argmax())])

    def _posed(self, size: int, generator: torch.Generator) -> Posed:
        """Poses of D_z that stand upright before a camera of random azimuth, elevation and translation."""
        config = self.config
        chosen = torch.randint(len(self.unpaired), (size,), generator=generator)
        azimuth = (2 * torch.rand(size, generator=generator) - 1) * math.pi
        elevation = (2 * torch.rand(size, generator=generator) - 1) * math.radians(config.elevation)
        camera = pg.camera_rotation(azimuth, elevation, torch.zeros(size))
        raw = config.spread * torch.randn(size, 3, generator=generator)
        return Posed(self.unpaired[chosen], camera @ self.upright[chosen], raw)

    def _scene(self, size: int, generator: torch.Generator) -> Tensor:
        """Random backgrounds (B, 3, H, W) for a share of the drawings, and BG_c for the others."""
        places = torch.randint(len(self.backdrops), (size,), generator=generator)
        chosen = torch.rand(size, 1, 1, 1, generator=generator) < self.config.scenes
        return torch.where(chosen, self.backdrops[places], self.config.network.background)

    def _elsewhere(self, frames: Frames, shared: slice, generator: torch.Generator) -> Frames:
        """A share of the labelled frames before random backgrounds."""
        config, size = self.config, self.config.training.batch_size
        if config.elsewhere == 0:
            return frames
        places = torch.randint(len(self.backdrops), (size,), generator=generator)[shared]
        chosen = (torch.rand(size, generator=generator) < config.elsewhere)[shared]
        return before(frames, self.backdrops[places], chosen & ~self.reel.moving[frames.number])

    def part(self, batch: PgpBatch, number: int, count: int) -> PgpBatch:
        """One of `count` parts."""
        size = len(batch.target.number) // count
        rows = slice(number * size, (number + 1) * size)
        return PgpBatch(*(rows_of(value, rows) for value in batch))

    def describe(self, step: int) -> str:
        """Clips and frames of a step."""
        turn = turn_of(self.config, step)
        size = self.config.samples_of(turn)
        numbers = self.orders[turn.name].deal(turn.number * size, size).tolist()
        return "; ".join(
            f"clip {int(self.reel.clip[number])} at {float(self.reel.seconds[number]):.2f} s" for number in numbers
        )
