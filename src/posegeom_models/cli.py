"""The command line: `posegeom demo`, `train`, `evaluate`, `predict`, `synthesize`, `puppet`, `render` and more."""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

COMMANDS = {
    "demo": "fit pose and cameras to pictures of real motion",
    "train": "train one of the papers' models",
    "evaluate": "score a trained model, beside answers that look at no image",
    "predict": "poses in a video, an image or a folder of them",
    "synthesize": "what a trained model draws anew: one person's pose, another's clothes",
    "analyze": "what the codes of a trained temporal model hold",
    "puppet": "a puppet of body parts from one labelled picture",
    "render": "a clip of the rendered benchmark as a video",
    "bench": "speed and memory of the operators on this machine (from a clone)",
    "info": "versions, backends and devices",
}

EXTRAS = "the command line needs the extra packages: pip install 'posegeom[models]'"


def _info() -> None:
    """Print versions, backends and devices."""
    import importlib.util
    from importlib.metadata import PackageNotFoundError, version

    import torch

    import posegeom

    print(f"posegeom     {posegeom.__version__}")
    print(f"python       {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in ("torch", "torchvision", "triton", "numpy", "scipy"):
        try:
            print(f"{package:<12} {version(package)}")
        except PackageNotFoundError:
            print(f"{package:<12} not installed")
    print(f"cpu          {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            print(f"cuda:{device:<7} {torch.cuda.get_device_name(device)}")
    else:
        print("cuda         no device")
    triton = "installed" if importlib.util.find_spec("triton") else "not installed"
    print(f"backends     torch; triton {triton}")


def _parser(**kwargs: Any) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    return ArgumentParser(exit_on_error=False, **kwargs)


def _add_options(
    commands: Any, name: str, options: type, run: Callable[[Any], object], positional: Sequence[str] = ()
) -> Callable[[Any], None]:
    """A command whose flags are the fields of a dataclass; `positional` ones are given without a flag."""
    parser = _parser(description=COMMANDS[name])
    parser.add_class_arguments(options, None, skip=set(positional))
    for field in dataclasses.fields(options):
        if field.name in positional:
            needed = field.default is dataclasses.MISSING
            parser.add_argument(
                field.name,
                nargs=None if needed else "?",
                type=Path if needed else Path | None,
                help=_told(options, field.name),
            )
    commands.add_subcommand(name, parser, help=COMMANDS[name])

    def go(chosen: Any) -> None:
        values = parser.instantiate(chosen)
        run(options(**{field.name: values[field.name] for field in dataclasses.fields(options)}))

    return go


def _told(options: type, field: str) -> str:
    """What a dataclass's docstring says of a field."""
    after = (options.__doc__ or "").split(f" {field}: ", 1)[1]
    lines = after.split("\n")
    told = [lines[0]]
    for line in lines[1:]:
        if not line.startswith(" " * 12):
            break
        told.append(line.strip())
    return " ".join(told)


def _add_train(commands: Any, arguments: Sequence[str]) -> Callable[[Any], None]:
    from posegeom_models.commands import TrainOptions, run_train
    from posegeom_models.runs import MODELS, build_config, config_parser, describe_model, shipped_configs

    train = _parser(description=COMMANDS["train"])
    commands.add_subcommand("train", train, help=COMMANDS["train"])
    papers = train.add_subcommands(required=True, dest="model")
    for model in MODELS:
        about = describe_model(model)
        shipped = ", ".join(shipped_configs(model))
        parser = config_parser(model, description=f"{about} Configurations that ship with it: {shipped}.")
        parser.add_argument(
            "--config",
            action="config",
            help="YAML file, or the name of one that ships with the model; of several, later ones win, and flags over "
            "all of them. Without it: the paper's sizes and steps, from random weights.",
        )
        parser.add_class_arguments(TrainOptions, None)
        papers.add_subcommand(model, parser, help=about)

    def go(chosen: Any) -> None:
        own = {field.name: chosen[chosen.model].pop(field.name) for field in dataclasses.fields(TrainOptions)}
        chosen[chosen.model].pop("config", None)
        run_train(chosen.model, build_config(chosen.model, chosen[chosen.model]), TrainOptions(**own))

    return go


def _with_config_files(arguments: Sequence[str]) -> list[str]:
    """`--config tiny` of `train MODEL` as the path of the file that ships with the model, and before all flags.

    The parser lets what comes later win, and a flag is meant to change what a file says wherever it stands.
    """
    from posegeom_models.runs import MODELS, find_config

    words = list(arguments)
    model = next((word for word in words[1:] if word in MODELS), None)
    if model is None:
        return words
    first = words.index(model) + 1
    files: list[str] = []
    flags: list[str] = []
    rest = iter(words[first:])
    for word in rest:
        name = next(rest, None) if word == "--config" else word.removeprefix("--config=")
        if name is None or name == word:
            flags.append(word)
        else:
            files.append(f"--config={find_config(model, name)}")
    return words[:first] + files + flags


def _add(commands: Any, name: str, arguments: Sequence[str]) -> Callable[[Any], None]:
    """Add one command with all of its flags; only then its modules are loaded."""
    if name == "train":
        return _add_train(commands, arguments)
    if name == "evaluate":
        from posegeom_models.commands import EvaluateOptions, run_evaluate

        return _add_options(commands, name, EvaluateOptions, run_evaluate, ["run"])
    if name == "predict":
        from posegeom_models.commands import PredictRunOptions, run_predict

        return _add_options(commands, name, PredictRunOptions, run_predict, ["run", "source"])
    if name == "synthesize":
        from posegeom_models.commands import SynthesizeOptions, run_synthesize

        return _add_options(commands, name, SynthesizeOptions, run_synthesize, ["run"])
    if name == "analyze":
        from posegeom_models.temporal.report import AnalyzeOptions, run_analyze

        return _add_options(commands, name, AnalyzeOptions, run_analyze, ["run"])
    if name == "puppet":
        from posegeom_models.puppets import PuppetOptions, run_puppet

        return _add_options(commands, name, PuppetOptions, run_puppet, ["labels", "anchors"])
    if name == "render":
        from posegeom_models.rendering import RenderOptions, run_render

        return _add_options(commands, name, RenderOptions, run_render, ["motion"])
    if name == "demo":
        from posegeom_models import demo

        return _add_options(commands, name, demo.DemoOptions, lambda options: demo.run_demo(options))
    commands.add_subcommand("info", _parser(description=_info.__doc__), help=COMMANDS["info"])
    return lambda chosen: _info()


def _bench(words: Sequence[str]) -> None:
    """Hand over to the benchmark suite, which is part of a clone and not of the installed package."""
    import subprocess

    clone = Path(__file__).parents[2]
    if not (clone / "benchmarks" / "run.py").is_file():
        raise FileNotFoundError("the benchmarks are not installed with the package; run posegeom bench from a clone")
    done = subprocess.run([sys.executable, "-m", "benchmarks.run", *words], cwd=clone, check=False)
    if done.returncode:
        raise ValueError(f"the benchmarks ended with exit code {done.returncode}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (0, 2 for bad input, 130 after Ctrl-C)."""
    try:
        import jsonargparse
    except ImportError:
        print(f"posegeom: {EXTRAS}", file=sys.stderr)
        return 2
    import posegeom

    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(
        prog="posegeom",
        description="Differentiable operators for articulated pose, and the models built on them.",
        version=posegeom.__version__,
    )
    commands = parser.add_subcommands(required=True, dest="command")
    try:
        if words[:1] == ["bench"]:
            _bench(words[1:])
            return 0
        run: Callable[[Any], None] | None = None
        for name, told in COMMANDS.items():
            if words[:1] == [name]:
                run = _add(commands, name, words)
            else:
                commands.add_subcommand(name, _parser(), help=told)
        if words[:1] == ["train"]:
            words = _with_config_files(words)
        chosen = parser.parse_args(words)
        if run is not None:
            run(chosen[chosen.command])
    except KeyboardInterrupt as interruption:
        said = str(interruption) or "interrupted"
        print(f"posegeom: {said}", file=sys.stderr)
        return 130
    except ImportError as error:
        hint = "" if "pip install" in str(error) else f": {EXTRAS}"
        print(f"posegeom: {error}{hint}", file=sys.stderr)
        return 2
    except (ValueError, OSError, ArithmeticError, jsonargparse.ArgumentError) as error:
        print(f"posegeom: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
