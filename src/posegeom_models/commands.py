"""`posegeom train`, `evaluate` and `predict`: the commands that make run folders and read them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from posegeom_models.data.image_sets import DATA_SETS
from posegeom_models.data.reels import Reel
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.data.repertoire import motion_folder
from posegeom_models.evaluation import evaluate, show, write
from posegeom_models.prediction import PredictOptions, predict_path
from posegeom_models.ranges import check_numbers
from posegeom_models.runs import Run, check_device, find_model, plain, resolved
from posegeom_models.training import launch, train

STANDARD = ("content", "identities", "frames", "frame_rate", "moving", "samples", "shadow", "seed")
"""Fields of the rendered benchmark in which every evaluation is of the standard one."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of `posegeom train` beside the model's configuration.

    Args:
        out: the run folder; default: runs/MODEL. A run that was begun there goes on.
        quiet: no progress bar.
    """

    out: Path | None = None
    quiet: bool = False


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `posegeom evaluate`.

    Args:
        run: a run folder of posegeom train.
        data: "rendered", the benchmark's test clips; or a data set: human36m (as h36m-fetch leaves it), mpi_inf_3dhp
            or threedpw, whose folder is `path`. lifting is scored on the motion alone, seen by random cameras.
        path: the data set's folder.
        split: train, validation or test.
        clips: how many of the rendered split's clips; 0 for all of the standard benchmark's.
        domain: of the rendered benchmark, A or B; default: the one trained on.
        anywhere: share of the rendered clips with the person small and anywhere; default: as in training.
        motion: folder with the motion files; default: the one trained on.
        every: take every how many-th frame of a clip.
        batch: images at a time.
        device: cpu or cuda.
        name: of the two files written into the run folder's evaluation/; default: made of what is evaluated.
        skip_broken: leave out files of the data set that cannot be read, and say how many they were.
    """

    run: Path
    data: str = "rendered"
    path: Path | None = None
    split: str = "test"
    clips: int = 0
    domain: str | None = None
    anywhere: float | None = None
    motion: Path | None = None
    every: int = 3
    batch: int = 64
    device: str = "cpu"
    name: str | None = None
    skip_broken: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "at least 1", "every", "batch")
        check_numbers(self, "at least 0", "clips")
        if self.data != "rendered" and self.data not in DATA_SETS:
            raise ValueError(f"data must be rendered, {', '.join(DATA_SETS)}; got {self.data!r}")
        check_device(self.device)
        if (self.data == "rendered") != (self.path is None):
            raise ValueError("a data set needs --path, its folder; the rendered benchmark has none")
        if self.data == "rendered" and self.skip_broken:
            raise ValueError("the rendered benchmark reads no files that could be broken: --skip_broken means nothing")
        unused = {"clips": self.clips, "domain": self.domain, "motion": self.motion}
        wrong = [f"--{name}" for name, value in {**unused, "anywhere": self.anywhere is not None}.items() if value]
        if self.data != "rendered" and wrong:
            raise ValueError(f"{self.data} has its own images and poses, where {wrong[0]} means nothing")


@dataclass(frozen=True)
class SynthesizeOptions:
    """Options of `posegeom synthesize`.

    Args:
        run: a run folder of posegeom train.
        out: folder for the pictures.
        domain: of the rendered test clips, A or B; default: the one trained on.
        seed: chooses the frames.
        scale: every pixel becomes a square so many pixels wide.
        device: cpu or cuda.
    """

    run: Path
    out: Path = Path("synthesis")
    domain: str | None = None
    seed: int = 0
    scale: int = 2
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.scale < 1:
            raise ValueError(f"scale must be at least 1, got {self.scale}")


@dataclass(frozen=True)
class PredictRunOptions(PredictOptions):
    """Options of `posegeom predict`.

    Args:
        run: a run folder of posegeom train.
        source: a video, a photograph, or a folder of them.
        out: folder for the results.
        device: where the model and the detector run, cpu or cuda.
    """

    run: Path = field(kw_only=True)
    source: Path = field(kw_only=True)
    out: Path = Path("predictions")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device(self.device)


def run_train(model: str, config: Any, options: TrainOptions) -> Path:
    """Train a model, from the start or from where its run folder is; return the folder."""
    folder = options.out or Path("runs") / model
    if config.data.motion is None:
        config = replace(config, data=replace(config.data, motion=motion_folder()))
    config = resolved(config)
    paper = find_model(model)
    run = Run.check(folder, model, config)
    fabric = launch(config.training)
    say = print if fabric.is_global_zero and not options.quiet else _silent
    motion = "built-in walks and jumps" if config.data.motion is None else f"motion from {config.data.motion}"
    say(f"{model} on {fabric.world_size} x {fabric.device.type}, {motion}; run folder {folder}")
    began = time.perf_counter()
    # First what takes no time: weights that are not there are missed before the frames are prepared.
    recipe = paper.recipe(config)
    source = paper.data(config, device=str(fabric.device))
    if fabric.is_global_zero:
        # Only now: what the networks or the data refuse leaves no folder behind.
        run.begin(str(fabric.device.type))
        if paper.predict is not None:
            source.constants.save(folder / "constants.safetensors")
    held = f"{len(source)} training poses" if paper.predict is None else f"{len(source.reel)} training frames"
    say(f"{held}, ready after {time.perf_counter() - began:.0f} s")
    values = train(recipe, source, config.training, folder, fabric, quiet=options.quiet)
    took = (time.perf_counter() - began) / 60
    losses = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    say(f"step {config.training.steps} after {took:.1f} minutes: {losses}" if losses else "nothing was left to do")
    say(f"next: posegeom evaluate {folder}")
    return folder


def _silent(*_: object) -> None:
    pass


def run_evaluate(options: EvaluateOptions) -> Path:
    """Score a run; print tables, and write them as JSON and CSV into its folder. Return the JSON's path."""
    run = Run.open(options.run)
    evaluate_poses = find_model(run.model).evaluate
    if evaluate_poses is None:
        predict, constants = run.predictor(options.device), run.constants()
        reel, scored = _test_reel(run, options)
        with progress("evaluating", len(reel)) as advance:
            scores = evaluate(predict, reel, constants, options.batch, scored, advance, run.masked)
        of = [options.data, options.split]
        of += [options.domain or run.config.data.domain] if options.data == "rendered" else []
    else:
        config = _pose_config(run, options)
        networks = run.networks(options.device)
        scores = dict(evaluate_poses(networks, config, options.split, options.every, options.batch))
        of = ["poses", options.split]
    given = {
        "anywhere": options.anywhere,
        "clips": options.clips or None,
        "every": None if options.every == 3 else options.every,
        "motion": None if options.motion is None else options.motion.name,
    }
    name = "_".join(of + [f"{key}{value}" for key, value in given.items() if value is not None])
    told = {key: value for key, value in dataclasses.asdict(options).items() if key not in ("run", "name", "device")}
    told = {key: value.name if isinstance(value, Path) else value for key, value in told.items()}
    told["data"] = of[0]
    scores = {"run": run.facts, "config": plain(run.config), "data": told, **scores}
    show(scores)
    paths = write(options.run / "evaluation", options.name or name, scores)
    print(f"written: {paths[0]} and {paths[1].name}")
    return paths[0]


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar that is told how much is done."""
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _pose_config(run: Run, options: EvaluateOptions) -> Any:
    """The configuration whose motion a model that takes no images is scored on."""
    unused = {"data": options.data != "rendered", "clips": options.clips, "domain": options.domain}
    unused["anywhere"] = options.anywhere is not None
    wrong = [f"--{name}" for name, value in unused.items() if value]
    if wrong:
        raise ValueError(f"{run.model} is scored on 2D poses of recorded motion, where {wrong[0]} means nothing")
    if options.motion is None:
        return run.config
    return replace(run.config, data=replace(run.config.data, motion=options.motion))


def _test_reel(run: Run, options: EvaluateOptions) -> tuple[Reel, list[int] | None]:
    """The frames to score, and the joints that count for PCK."""
    skeleton = find_model(run.model).skeleton(run.config)
    data = run.config.data
    if options.data == "rendered":
        # The standard benchmark's clips, however many and whichever were trained on.
        standard: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(RenderedConfig)}
        told = {"domain": options.domain, "anywhere": options.anywhere, "motion": options.motion}
        chosen = {name: value for name, value in told.items() if value is not None}
        counts = tuple(options.clips or count for count in standard["clips"])
        data = replace(data, clips=counts, **{name: standard[name] for name in STANDARD}, **chosen)
        reel = Reel.render(RenderedBenchmark(data, options.split, skeleton), options.every, device=options.device)
        return reel, None
    assert options.path is not None  # EvaluateOptions asks for it
    skip = options.skip_broken
    samples = DATA_SETS[options.data](options.path, options.split, options.every, skip)
    # No score asks for the seconds of a frame: where recordings differ in their rates, any will do.
    rate = samples.protocol.frame_rate or 1.0
    reel = Reel.from_samples(samples, skeleton, data.size, rate=rate, still=False, missing="zeros", skip_broken=skip)
    scored = [skeleton.index(joint) for joint in samples.protocol.scored if joint in skeleton]
    return reel, scored or None


def run_predict(options: PredictRunOptions) -> list[Path]:
    """Predict with a run on videos and photographs; return the files written."""
    run = Run.open(options.run)
    predictor = run.predictor(options.device)
    if run.masked:
        print(f"{run.model} was trained on people cut out of their images; here it sees them as they are")
    skeleton = find_model(run.model).skeleton(run.config)

    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        said = predictor(images)
        if said.joints is None or said.points is None:
            raise ValueError(f"{run.model} does not say where people's joints are")
        return said.joints, said.points

    written = predict_path(predict, skeleton, run.config.data.size, options.source, options.out, options)
    for path in written:
        print(f"written: {path}")
    return written


def run_synthesize(options: SynthesizeOptions) -> list[Path]:
    """Draw what a run can make anew of test frames; return the pictures written."""
    from PIL import Image

    run = Run.open(options.run)
    panels = find_model(run.model).panels
    if panels is None:
        raise ValueError(f"{options.run} holds a run of {run.model}, which draws nothing anew")
    networks = run.networks(options.device)
    reel, _ = _test_reel(run, EvaluateOptions(options.run, domain=options.domain, every=15, clips=24))
    pictures = panels(networks, reel, np.random.default_rng(options.seed))
    options.out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, picture in pictures.items():
        path = options.out / f"{name}.png"
        enlarged = picture.repeat(options.scale, axis=0).repeat(options.scale, axis=1)
        Image.fromarray(enlarged).save(path)
        print(f"written: {path}")
        written.append(path)
    return written
