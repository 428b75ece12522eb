"""What a training is shown, rendered clips, footage or a data set, and the answers that need no image of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from posegeom_models.data.footage import SHORTEST
from posegeom_models.data.image_sets import DATA_SETS, STANDING
from posegeom_models.data.persons import load_detector
from posegeom_models.data.reels import Film, Reel
from posegeom_models.data.rendered import RenderedBenchmark
from posegeom_models.evaluation import Constants


@dataclass(frozen=True, eq=False)
class Material:
    """Where a training's frames come from.

    Args:
        benchmark: rendered clips.
        every: every how many-th frame of a clip is used.
        device: where they are rendered, and where the detector runs.
        footage: folder of videos that take the rendered clips' place; None for none.
        boxes: file with the boxes of the people in the footage.
        skip_broken: leave out videos, or files of the data set, that cannot be read.
        detector: file with the weights of torchvision's person detector, which finds the people in the footage.
        data_set: one of `posegeom_models.data.image_sets.DATA_SETS`, whose training images take the rendered clips'
            place.
        path: its folder.
        background: of the footage, see `Reel.from_footage`.
        follow: whether its squares follow the person, see there.
        shortest: seconds that its clips have at least.

    Raises:
        ValueError: what is given has no effect, or contradicts itself.
    """

    benchmark: RenderedBenchmark
    every: int = 1
    device: str = "cpu"
    footage: Path | None = None
    boxes: Path | None = None
    skip_broken: bool = False
    detector: Path | None = None
    data_set: str | None = None
    path: Path | None = None
    background: str = "median"
    follow: bool = True
    shortest: float = SHORTEST

    def __post_init__(self) -> None:
        for name in ("boxes", "detector"):
            if getattr(self, name) is not None and self.footage is None:
                raise ValueError(f"{name} says where people are in footage, and there is none: add --footage")
        if self.boxes is not None and self.detector is not None:
            raise ValueError("boxes and detector both say where people are: give one of them")
        if self.footage is not None and self.data_set is not None:
            raise ValueError("footage and data_set would both take the rendered clips' place: give one of them")
        if self.skip_broken and self.footage is None and self.data_set is None:
            raise ValueError("skip_broken is of files that are read, and rendered clips are none: add --footage")
        if (self.data_set is None) != (self.path is None):
            raise ValueError("data_set and path, its folder, must be given together")
        if self.data_set is not None and self.data_set not in DATA_SETS:
            raise ValueError(f"data_set must be one of {', '.join(DATA_SETS)}, got {self.data_set!r}")

    def reel(self, camera: int = 0) -> Reel:
        """The frames that one camera sees."""
        benchmark, config = self.benchmark, self.benchmark.config
        if self.footage is not None:
            rate = config.frame_rate / self.every
            detector = None if self.detector is None else load_detector(self.detector, self.device)
            return Reel.from_footage(
                self.footage,
                config.size,
                rate,
                self.boxes,
                skeleton=benchmark.skeleton,
                skip_broken=self.skip_broken,
                detector=detector,
                background=self.background,
                follow=self.follow,
                shortest=self.shortest,
            )
        if self.data_set is not None and self.path is not None:
            samples = DATA_SETS[self.data_set](self.path, "train", self.every, self.skip_broken)
            return Reel.from_samples(
                samples,
                benchmark.skeleton,
                config.size,
                still=self.data_set in STANDING,
                missing="zeros",  # a pose that lacks joints is no label, and its image is as good as any
                skip_broken=self.skip_broken,
            )
        # A GPU renders all of them in seconds; on a CPU, training does not wait for frames that it may never use.
        if torch.device(self.device).type == "cuda":
            return Reel.render(benchmark, self.every, device=self.device, camera=camera)
        return Film.of(benchmark, self.every, camera)

    def constants(self, reel: Reel, parts: bool = True) -> Constants:
        """The answers that look at no image, for what `reel` gave; with `parts`, also for a model that tells parts."""
        if self.footage is None and bool(reel.labelled.any()):
            return Constants.of(reel, parts)
        # What footage shows is not known, nor where all joints are in some data sets: there they are the rendered
        # people's.
        return Constants.of(Reel.render(self.benchmark, self.benchmark.config.frames, device=self.device), parts)
