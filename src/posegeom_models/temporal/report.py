"""`posegeom analyze`: what the codes of a run of 003 hold (§4.4), on the screen and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from posegeom_models.commands import STANDARD, progress
from posegeom_models.data.files import replace_text
from posegeom_models.data.reels import Film, Reel
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.data.shuffling import share_of
from posegeom_models.ranges import check_numbers
from posegeom_models.runs import Run, check_device
from posegeom_models.temporal.analyses import (
    Errors,
    acceleration_drift,
    cluster_accuracy,
    codes_of,
    gravity_offsets,
    label_curve,
    pose_distances,
)
from posegeom_models.temporal.configuration import TemporalConfig
from posegeom_models.temporal.networks import Codes, TemporalNetworks

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
        labels: so many training frames, spread evenly, that the label fractions are fractions of; 0: no curve.
            They are rendered anew.
        shares: the label fractions, from either code where there are two.
        steps: of Φ, for each fraction; 0 for as many as the second phase of the run has.
        distances: greatest distance between two poses of a training video, in frames as `near` and `away` count them.
        device: cpu or cuda.
    """

    run: Path
    split: str = "test"
    clips: int = 0
    every: int = 3
    labels: int = 0
    shares: tuple[float, ...] = (0.003, 0.01, 0.14, 0.5, 1.0)
    steps: int = 0
    distances: int = 40
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_numbers(self, "at least 1", "every", "distances")
        check_numbers(self, "at least 0", "clips", "labels", "steps")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares must be numbers above 0 and at most 1, got {list(self.shares)}")
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
    # As the sampler of the training counts them: the run's own frames, over its training set (Fig. 6).
    taught = Film.of(RenderedBenchmark(run.config.data, "train", networks.skeleton), run.config.frame_step)
    apart = pose_distances(taught, options.distances)
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
        found["labels"] = _curves(networks, run.config, taught, reel, codes, options)
    _show(found)
    path = options.run / "analysis" / f"{options.split}.json"
    path.parent.mkdir(exist_ok=True)
    replace_text(path, json.dumps(found, indent=1) + "\n")
    print(f"written: {path}")
    return path


def _curves(
    networks: TemporalNetworks, config: TemporalConfig, taught: Film, reel: Reel, codes: Codes, options: AnalyzeOptions
) -> dict[str, Any]:
    """Errors by share of the labels, from I_tv and, where there is one, from I_ti (§4.4.3); and of the labels' mean."""
    known = torch.nonzero(taught.labelled).flatten()
    numbers = known if len(known) <= options.labels else share_of(known, options.labels / len(known))
    curves: dict[str, Any] = {}
    steps = options.steps or config.pose_steps
    train, test = (taught, numbers), (codes, reel.joints)
    for name, here in codes._asdict().items():
        if here.shape[1]:
            with progress(f"poses from the {name} code", steps * len(options.shares)) as done:
                curve = label_curve(networks, config, train, test, options.shares, steps, name, done)
            curves[name] = {str(share): errors._asdict() for share, errors in curve.items()}
    root = networks.skeleton.root
    mean = (taught.joints[numbers] - taught.joints[numbers][:, root].unsqueeze(1)).mean(0)
    same = Errors.of(len(numbers), mean.expand_as(reel.joints), reel.joints, root)
    return {**curves, "mean_pose": {"1.0": same._asdict()}}


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
        title = "Mean of the labelled poses, mm" if name == "mean_pose" else f"Poses from the {name} code, mm"
        table = Table(title=title)
        for head in ("share of the labels", "labels", "N-MPJPE", "P-MPJPE", "MPJPE"):
            table.add_column(head, justify="right")
        for share, one in curve.items():
            errors = [f"{one[error]:.1f}" for error in ("n_mpjpe", "p_mpjpe", "mpjpe")]
            table.add_row(f"{100 * float(share):g} %", str(one["labels"]), *errors)
        console.print(table)
    told = [f"{place + 1}: {value:.0f}" for place, value in enumerate(found["pose_distance_mm"]) if value is not None]
    console.print(f"Pose distance in mm by distance in frames: {', '.join(told)}")
    drift = ", ".join(f"{far} m: {100 * value:.0f} %" for far, value in found["acceleration_drift"].items())
    console.print(f"Change of a fall's acceleration in the image, slanted by 0.2, by the camera's distance: {drift}")
    if "gravity_offset" in found:
        off = 100 * found["gravity_offset"]["median"]
        console.print(f"Middle of the box from the centre of gravity: {off:.1f} % of the image, median")
