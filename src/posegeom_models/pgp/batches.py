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
from posegeom_models.data.shuffling import Shuffle, share_of
from posegeom_models.material import Material
from posegeom_models.pgp.configuration import PgpConfig, turn_of
from posegeom_models.pgp.networks import puppet_of
from posegeom_models.pgp.paint import Paint
from posegeom_models.pgp.saliency import salient
from posegeom_models.poses import Pose

BACKDROPS = 256
"""Random backgrounds for labelled frames."""

BLUR = 0.03
"""Largest standard deviation of the errors of found key points, in image sides."""

TURNS = ("iteration", "labelled", "views", "painted")


class Posed(NamedTuple):
    """Poses p_z of D_z before random cameras.

    Attributes:
        canonical: (B, J, 3) p_z^3D, canonical, metres, with the lengths that T_fk knows.
        rotation: (B, 3, 3) from canonical axes to the camera's.
        raw: (B, 3) the translations before they are bounded.
        errors: (B, J, 2) of the points, in image sides; None for none.
    """

    canonical: Tensor
    rotation: Tensor
    raw: Tensor
    errors: Tensor | None = None


class PgpBatch(NamedTuple):
    """Samples of one step.

    Attributes:
        target: I_t; or labelled frames, augmented; or frames of the first camera; or any, beside painted puppets.
        source: I_s, mirrored and turned; or the same instants by the second camera.
        recolored: (B, 3, H, W) I_t in other colours.
        salient: (B, H, W) m_sal of I_t.
        posed: p_z before random cameras.
        shift: (B, 3, 3) from the first camera's axes to the second's.
        scene: (B, 3, H, W) what is behind the drawings of p_z that E_p is shown; None for BG_c behind all of them.
        pose: p_z as the encoder would say it; the recipe adds it.
        lifted: poses of D_z that nobody draws; None unless network.lifted.
        paint: of the puppet in the poses `posed`, in a step on painted puppets.
    """

    target: Frames
    source: Frames | None = None
    recolored: Tensor | None = None
    salient: Tensor | None = None
    posed: Posed | None = None
    shift: Tensor | None = None
    scene: Tensor | None = None
    pose: Pose | None = None
    lifted: Posed | None = None
    paint: Paint | None = None


class PgpData:
    """000's data rules (§3.3, §4).

    Attributes:
        reel: the frames, those of the first camera.
        constants: the answers that look at no image.
    """

    def __init__(self, config: PgpConfig, skeleton: pg.Skeleton = pg.BODY_17, device: str = "cpu") -> None:
        self.config, self.skeleton = config, skeleton
        benchmark = RenderedBenchmark(config.data, "train", skeleton)
        footage, skip_broken = config.footage, config.skip_broken
        material = Material(benchmark, config.frame_step, device, footage, config.boxes, skip_broken)
        self.reel = material.reel()
        self.second: Reel | None = None
        if config.variant == "multi-view":
            self.second = material.reel(camera=1)
            self.shifts = benchmark.shifts(config.frame_step)
        known = torch.nonzero(self.reel.labelled).flatten()
        if len(known) == 0 and config.variant in ("weakly", "semi"):
            raise ValueError(f"variant {config.variant!r} needs labels, and footage has none; choose unsup")
        # Labels for whole stretches would favour a few poses: they are spread over all frames.
        labelled = share_of(known, config.labelled_share) if config.variant == "semi" else known
        numbers = torch.arange(len(self.reel))
        # A frame that is alone in its clip has no partner in another pose.
        _, clip, counts = torch.unique_consecutive(self.reel.clip, return_inverse=True, return_counts=True)
        paired = torch.nonzero(counts[clip] > 1).flatten()
        if len(paired) == 0 and config.self_supervised:
            raise ValueError(
                "pairs need clips of two frames, and there is none: raise data.frames, or lower frame_step"
            )
        numbers_of = {"iteration": paired, "labelled": labelled, "views": numbers, "painted": numbers}
        self.orders = {
            turn: Shuffle(those, 5 * config.training.seed + TURNS.index(turn))
            for turn, those in numbers_of.items()
            if len(those) > 0
        }
        unpaired = pg.canonicalize(benchmark.unpaired_poses(config.unpaired_poses), skeleton)
        local = pg.local_directions(unpaired.canonical, skeleton)
        # The articulation is D_z's, the lengths are those that T_fk knows: any other pose could not be told again.
        self.unpaired = pg.forward_kinematics(local.directions, local.hip_angle, skeleton)
        self.upright = unpaired.rotation
        with_backdrops = config.elsewhere + config.scenes + config.painted_turns > 0
        self.backdrops = benchmark.backdrops(range(BACKDROPS if with_backdrops else 0), device).cpu()
        self.parts = puppet_of(config.network, skeleton).parts
        self.constants = material.constants(self.reel)

    def batch(self, step: int, rank: int, world_size: int) -> PgpBatch:
        """One process's share of the batch of a step."""
        config, turn = self.config, turn_of(self.config, step)
        size = config.samples_of(turn)
        shared = slice(rank, None, world_size)
        generator = torch.Generator().manual_seed((config.training.seed * 1_000_003 + step) * 2 + 1)
        numbers = self.orders[turn.name].deal(turn.number * size, size)
        if turn.name == "painted":
            posed = rows_of(self._posed(size, generator), shared)
            paint = rows_of(Paint.random(size, self.parts, self.backdrops, generator), shared)
            lifted = self._lifted(shared, generator)
            return PgpBatch(self.reel.frames(numbers[shared]), posed=posed, paint=paint, lifted=lifted)
        changes = Changes.random(size, config.jitter, config.turn, generator).rows(shared)
        if turn.name == "views":
            assert self.second is not None  # the variant's
            mine = numbers[shared]
            lifted = self._lifted(shared, generator)
            return PgpBatch(self.reel.frames(mine), self.second.frames(mine), shift=self.shifts[mine], lifted=lifted)
        if turn.name == "labelled":
            frames = self._elsewhere(self.reel.frames(numbers[shared]), shared, generator)
            frames = frames._replace(image=changes.recolored(frames.image))
            return PgpBatch(changes.moved(frames, self.skeleton), lifted=self._lifted(shared, generator))
        posed = self._posed(size, generator)
        target = self.reel.frames(numbers[shared])
        rows = range(size)[shared]
        randoms = [np.random.default_rng([config.training.seed, step, row]) for row in rows]
        partners = [self.partner(int(numbers[row]), random) for row, random in zip(rows, randoms, strict=True)]
        source = changes.moved(self.reel.frames(torch.tensor(partners)), self.skeleton)
        m_sal = salient(target, self.reel.moving[target.number])
        scene = None if config.scenes == 0 else self._scene(size, generator)[shared]
        recolored, posed = changes.recolored(target.image), rows_of(posed, shared)
        lifted = self._lifted(shared, generator)
        return PgpBatch(target, source, recolored, m_sal, posed, scene=scene, lifted=lifted)

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

    def _lifted(self, shared: slice, generator: torch.Generator) -> Posed | None:
        """This process's share of the poses without images, with errors as key points that are found in images have."""
        count, joints = self.config.lifted_poses, len(self.skeleton.joints)
        if not self.config.network.lifted:
            return None
        posed = self._posed(count, generator)
        deviation = BLUR * torch.rand(count, 1, 1, generator=generator)
        errors = deviation * torch.randn(count, joints, 2, generator=generator)
        lifted: Posed = rows_of(posed._replace(errors=errors), shared)
        return lifted

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
        parts = []
        for value in batch:
            # There are as many poses without images whatever the step has of images.
            size = 0 if value is None else len(value if isinstance(value, Tensor) else value[0]) // count
            parts.append(rows_of(value, slice(number * size, (number + 1) * size)))
        return PgpBatch(*parts)

    def describe(self, step: int) -> str:
        """Clips and frames of a step."""
        turn = turn_of(self.config, step)
        size = self.config.samples_of(turn)
        numbers = self.orders[turn.name].deal(turn.number * size, size).tolist()
        return "; ".join(
            f"clip {int(self.reel.clip[number])} at {float(self.reel.seconds[number]):.2f} s" for number in numbers
        )
