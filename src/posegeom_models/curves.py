"""What a training says while it runs: curves, pictures and a progress bar."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from posegeom_models.data.files import replace_text

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from posegeom_models.training import TrainingConfig

BESIDE, LOSS = 84, 24
"""Columns of a terminal that the progress bar takes with everything but losses, and that one loss takes."""


class Log:
    """Curves and pictures for TensorBoard, a line per point in metrics.jsonl, and a progress bar: process 0 alone."""

    def __init__(self, folder: Path, fabric: Fabric, config: TrainingConfig, start: int, quiet: bool) -> None:
        self.folder, self.config, self.start = folder, config, start
        self.active = fabric.is_global_zero
        self.quiet = quiet or not self.active
        self.waited = 0.0
        self.last, self.then = start, time.perf_counter()

    def __enter__(self) -> Log:
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            self.folder.mkdir(parents=True, exist_ok=True)
            self._cut_curves()
            self.writer = SummaryWriter(self.folder / "tensorboard", purge_step=self.start + 1)
        if not self.quiet:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[speed]}  {task.fields[losses]}"),
            )
            self.task = self.bar.add_task("", total=self.config.steps, completed=self.start, speed="", losses="")
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.quiet:
            self.bar.stop()
        if self.active:
            self.writer.close()

    def _cut_curves(self) -> None:
        """What a killed run noted after its last checkpoint is about to be noted again."""
        path = self.folder / "metrics.jsonl"
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            replace_text(path, "".join(line for line in lines if _step_of(line) <= self.start))

    def advance(self) -> None:
        """One more step."""
        if not self.quiet:
            self.bar.advance(self.task)

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """The terms of a step; and since the last point: samples a second, and the share of time waiting for data."""
        if not self.active:
            return
        now = time.perf_counter()
        elapsed = max(now - self.then, 1e-9)
        speed = (step - self.last) * self.config.batch_size / elapsed
        waiting = self.waited / elapsed
        self.last, self.then, self.waited = step, now, 0.0
        for name, value in (*values.items(), ("speed/samples per second", speed), ("speed/waiting", waiting)):
            self.writer.add_scalar(name, value, step)
        line = {"step": step, **values, "samples_per_second": round(speed, 2), "waiting": round(waiting, 4)}
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if not self.quiet:
            # As many as the terminal has room for beside the bar.
            few = max(0, (self.bar.console.width - BESIDE) // LOSS)
            losses = "  ".join(f"{name} {value:.3g}" for name, value in list(values.items())[:few])
            self.bar.update(self.task, speed=f"{speed:.0f}/s", losses=losses)

    def pictures(self, step: int, images: Mapping[str, Tensor]) -> None:
        """Images (3, H, W)."""
        for name, image in images.items():
            self.writer.add_image(name, image.detach().float().cpu().clamp(0, 1), step)


def _step_of(line: str) -> float:
    """The step that a line of metrics.jsonl is of; infinity for half a line, the last one of a killed run."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, LookupError, TypeError):
        return math.inf
