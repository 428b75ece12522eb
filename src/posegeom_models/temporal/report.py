"""`posegeom analyze`: what the codes of a run of 003 hold (§4.4), on the screen and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from posegeom_models.commands import STANDARD
from posegeom_models.data.reels import Film, Reel
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.runs import Run, check_device
from posegeom_models.temporal.analyses import (
    acceleration_drift,
    cluster_accuracy,
    codes_of,
    gravity_offsets,
    label_curve,
    pose_distances,
)
from posegeom_models.temporal.configuration import TemporalConfig
from posegeom_models.temporal.networks import Codes, TemporalNetworks

SHARES = (0.003, 0.01, 0.14, 0.5, 1.0)
"""Of the labels, as in 003's tables."""

CAMERAS = (5.0, 10.0, 20.0, 40.0)
"""Metres between the camera and the fall, for the drift of its acceleration in the image."""


@dataclass(frozen=True)
class AnalyzeOptions:
    """Options of `posegeom analyze`.

    Args:
        run: a run folder of posegeom train temporal.
        split: whose people, motions and places are looked at: train, validation or test.
        clips: how many of its clips; 0 for all of the standard benchmark's.
        every: take every how many-th frame of a clip.
        labels: training frames that the label fractions are fractions of, spread evenly; 0 leaves the curve out. They
            are rendered anew.
        steps: of Φ, for each fraction.
        distances: greatest distance in frames between two poses of a video.
        device: cpu or cuda.
    """

    run: Path
    split: str = "test"
    clips: int = 0
    every: int = 3
    labels: int = 0
    steps: int = 1000
    distances: int = 40
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("clips", 0), ("labels", 0), ("steps", 1), ("distances", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        check_device(self.device)


def run_analyze(options: AnalyzeOptions) -> Path:
    """Analyse a run, print what is found, and write it into the run folder's analysis/; return that file's path."""
    run = Run.open(options.run)
    if not isinstance(run.config, TemporalConfig):
        raise ValueError(f"{options.run} holds a run of {run.model}; posegeom analyze is for those of temporal")
    networks = run.networks(options.device)
    assert isinstance(networks, TemporalNetworks)
    standard = RenderedConfig()
    data = replace(run.config.data, **{name: getattr(standard, name) for name in STANDARD})
    data = replace(data, clips=(options.clips,) * 3 if options.clips else standard.clips)
    benchmark = RenderedBenchmark(data, options.split, networks.skeleton)
    apart = pose_distances(Film.of(benchmark), options.distances)
    reel = Reel.render(benchmark, options.every, device=options.device)
    numbers = torch.arange(len(reel))
    codes = codes_of(networks, reel, numbers)
    found: dict[str, Any] = {
        "frames": len(reel),
        "pose_distance_mm": [None if bool(value.isnan()) else round(float(value), 2) for value in apart],
        "acceleration_drift": {str(far): acceleration_drift(far, 0.2, 1.0) for far in CAMERAS},
    }
    kept = {"time_variant": codes.variant, "time_invariant": codes.invariant}
    found["clusters"] = {
        name: cluster_accuracy(code, reel.identity)._asdict() for name, code in kept.items() if code.shape[1]
    }
    if networks.detector is not None:
        offsets = torch.cat([gravity_offsets(networks, reel, some) for some in numbers.split(64)])
        found["gravity_offset"] = {"mean": float(offsets.mean()), "median": float(offsets.median())}
    if options.labels:
        found["labels"] = _curves(networks, run.config, reel, codes, options)
    _show(found)
    path = options.run / "analysis" / f"{options.split}.json"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"written: {path}")
    return path


def _curves(
    networks: TemporalNetworks, config: TemporalConfig, reel: Reel, codes: Codes, options: AnalyzeOptions
) -> dict[str, Any]:
    """N-MPJPE by label fraction, from I_tv and, where there is one, from I_ti (§4.4.3)."""
    film = Film.of(RenderedBenchmark(config.data, "train", networks.skeleton), config.frame_step)
    numbers = torch.arange(len(film))[:: -(-len(film) // options.labels)]
    taught = codes_of(networks, film, numbers)
    curves = {}
    for name, there, here in zip(Codes._fields, taught, codes, strict=True):
        if here.shape[1]:
            train, test = (there, film.joints[numbers]), (here, reel.joints)
            curve = label_curve(networks, train, test, SHARES, options.steps, config.pose_rate)
            curves[name] = {str(share): errors._asdict() for share, errors in curve.items()}
    return curves


def _show(found: dict[str, Any]) -> None:
    """Tables on the screen."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"Clusters of codes against people, {found['frames']} frames")
    for head in ("code", "accuracy %", "chance %", "people"):
        table.add_column(head, justify="left" if head == "code" else "right")
    for name, one in found["clusters"].items():
        table.add_row(name, f"{100 * one['accuracy']:.1f}", f"{100 * one['chance']:.1f}", str(one["people"]))
    console.print(table)
    for name, curve in found.get("labels", {}).items():
        table = Table(title=f"Poses from the {name} code, mm")
        for head in ("share of the labels", "labels", "N-MPJPE", "P-MPJPE", "MPJPE"):
            table.add_column(head, justify="right")
        for share, one in curve.items():
            errors = [f"{one[error]:.1f}" for error in ("n_mpjpe", "p_mpjpe", "mpjpe")]
            table.add_row(f"{100 * float(share):g} %", str(one["labels"]), *errors)
        console.print(table)
    told = [f"{place + 1}: {value:.0f}" for place, value in enumerate(found["pose_distance_mm"]) if value is not None]
    console.print(f"Pose distance in mm by distance in frames: {', '.join(told)}")
    if "gravity_offset" in found:
        off = 100 * found["gravity_offset"]["median"]
        console.print(f"Middle of the box from the centre of gravity: {off:.1f} % of the image, median")
