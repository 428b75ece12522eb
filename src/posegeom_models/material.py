"""What a training is shown, rendered clips or a folder of videos, and the answers that need no image of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from posegeom_models.data.reels import Film, Reel
from posegeom_models.data.rendered import RenderedBenchmark
from posegeom_models.evaluation import Constants


@dataclass(frozen=True, eq=False)
class Material:
    """Where a training's frames come from.

    Args:
        benchmark: rendered clips.
        every: every how many-th frame of a clip is used.
        device: where they are rendered.
        footage: folder of videos that take the rendered clips' place; None for none.
        boxes: file with the boxes of the people in the footage.
        skip_broken: leave out videos of the footage that cannot be read.
    """

    benchmark: RenderedBenchmark
    every: int = 1
    device: str = "cpu"
    footage: Path | None = None
    boxes: Path | None = None
    skip_broken: bool = False

    def reel(self, camera: int = 0) -> Reel:
        """The frames that one camera sees."""
        benchmark, config = self.benchmark, self.benchmark.config
        if self.footage is not None:
            rate = config.frame_rate / self.every
            return Reel.from_footage(
                self.footage,
                config.size,
                rate,
                self.boxes,
                skeleton=benchmark.skeleton,
                skip_broken=self.skip_broken,
            )
        # A GPU renders all of them in seconds; on a CPU, training does not wait for frames that it may never use.
        if torch.device(self.device).type == "cuda":
            return Reel.render(benchmark, self.every, device=self.device, camera=camera)
        return Film.of(benchmark, self.every, camera)

    def constants(self, reel: Reel) -> Constants:
        """The answers that look at no image, for what `reel` gave."""
        # What footage shows is not known: there they are the rendered people's.
        told = (
            reel
            if self.footage is None
            else Reel.render(self.benchmark, self.benchmark.config.frames, device=self.device)
        )
        return Constants.of(told)
