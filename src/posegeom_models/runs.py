"""Run folders: what training leaves on disk, and the way back from there to a model.

A run folder holds `run.json` (which model, by which version, on what), `config.yaml` (everything that was chosen),
`constants.safetensors` (the answers that look at no image), `checkpoints/`, `metrics.jsonl` and `tensorboard/`; and
`puppet.npz`, where people are drawn by a puppet of one's own.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import nn

import posegeom
from posegeom_models import checkpoints
from posegeom_models.data.files import replace_text
from posegeom_models.data.reels import Reel
from posegeom_models.evaluation import Constants, Prediction

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

MODELS = {
    "ksp": "ksp",
    "pgp": "pgp",
    "imagepose": "imagepose",
    "lifting": "imagepose.lifting",
    "temporal": "temporal",
}
"""What can be trained, by name: the packages that hold a recipe.py and the configurations that ship."""

CHANGEABLE = (
    *("accumulate", "accelerator", "devices", "graphs", "machines", "threads", "workers"),
    *("checkpoint_every", "keep", "log_every", "picture_every"),
)
"""Fields of the configuration that may change when a run goes on: they say where and how, not what is learnt."""


class Model(NamedTuple):
    """A paper's package, as the command line sees it.

    Attributes:
        config: frozen dataclass with a `training` and a `data` field; all fields have defaults.
        data: (config, device) to where batches come from; has `constants`, the answers that look at no image.
        recipe: (config) to networks, optimizers and the order of steps.
        predict: (networks, images (B, 3, S, S) in [0, 1]) to what the model says of them; None: it takes no images, and
            its data has a length and no `constants`.
        skeleton: of the joints that it predicts, by configuration.
        panels: (networks, reel, random) to pictures by name: what the model can draw anew; None: nothing.
        masked: by configuration, whether it is shown people cut out of their images, black round them; None: never.
        evaluate: of a model that takes no images: (networks, config, pool of the motion files, every how many-th pose,
            batch) to scores, see `posegeom_models.evaluation.evaluate`.
    """

    config: Any
    data: Callable[..., Any]
    recipe: Callable[..., Any]
    predict: Callable[[nn.Module, torch.Tensor], Prediction] | None
    skeleton: Callable[[Any], posegeom.Skeleton]
    panels: Callable[[nn.Module, Reel, np.random.Generator], Mapping[str, NDArray[np.uint8]]] | None = None
    masked: Callable[[Any], bool] | None = None
    evaluate: Callable[[nn.Module, Any, str, int, int], Mapping[str, Any]] | None = None


def find_model(name: str) -> Model:
    """A model by its name."""
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    model: Model = importlib.import_module(f"posegeom_models.{MODELS[name]}.recipe").MODEL
    return model


def describe_model(name: str) -> str:
    """What a model is, in a line: its package's docstring."""
    package = importlib.import_module(f"posegeom_models.{MODELS[name]}")
    return (package.__doc__ or name).strip().replace("*", "")


def find_config(model: str, name: str) -> Path:
    """A configuration file: a path, or the name of one that ships with the model, such as "tiny".

    Raises:
        FileNotFoundError: neither; names those that ship.
        ValueError: the file holds no settings.
    """
    if Path(name).is_file():
        try:
            settings = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{name}: not a YAML file of settings: {error}") from None
        if not isinstance(settings, dict):
            raise ValueError(f"{name}: not a YAML file of settings such as training: {{steps: 100}}")
        return Path(name)
    shipped = shipped_configs(model)
    if name in shipped:
        return shipped[name]
    raise FileNotFoundError(f"{name}: no such file, and {model} ships only {', '.join(shipped)}")


def shipped_configs(model: str) -> Mapping[str, Path]:
    """The configuration files that ship with a model, by their names."""
    folder = Path(__file__).parent.joinpath(*MODELS[model].split("."))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def config_parser(model: str, **kwargs: Any) -> ArgumentParser:
    """The typed options of a model, as YAML and as flags."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False, **kwargs)
    parser.add_class_arguments(find_model(model).config, None)
    return parser


def build_config(model: str, parsed: Any) -> Any:
    """The dataclass from what a parser of `config_parser` read."""
    config = find_model(model).config
    built = config_parser(model).instantiate(parsed)
    return config(**{field.name: built[field.name] for field in dataclasses.fields(config)})


@dataclass(frozen=True)
class Run:
    """A run folder.

    Args:
        folder: where it is.
        model: name of the model.
        config: its configuration.
    """

    folder: Path
    model: str
    config: Any

    @classmethod
    def open(cls, folder: Path) -> Run:
        """A run that was begun.

        Raises:
            FileNotFoundError: no such folder, or it holds no run.
            ValueError: its files are damaged.
        """
        if not (folder / "run.json").is_file():
            what = "no such folder" if not folder.is_dir() else "holds no run (there is no run.json in it)"
            raise FileNotFoundError(f"{folder}: {what}; posegeom train makes one")
        try:
            model = _read_facts(folder)["model"]
            parser = config_parser(model)
            parsed = parser.parse_string((folder / "config.yaml").read_text(encoding="utf-8"))
            config = build_config(model, parsed)
        except Exception as error:  # YAML, JSON and the parser have many ways to refuse a damaged file
            what = " ".join(str(error).split())
            raise ValueError(f"{folder}: run.json or config.yaml cannot be read: {what}") from None
        return cls(folder, model, config)

    @classmethod
    def check(cls, folder: Path, model: str, config: Any) -> Run:
        """The run that a folder holds or is to hold; nothing is written.

        A run that ended before its first checkpoint holds nothing, and any other one may take its place.

        Raises:
            ValueError: the folder holds another model's run, or one with another configuration; names the field.
        """
        if (folder / "run.json").is_file() and checkpoints.find(folder / "checkpoints"):
            there = cls.open(folder)
            if there.model != model:
                raise ValueError(f"{folder} holds a run of {there.model}; choose another --out")
            different = _difference(there.config, config)
            if different:
                raise ValueError(f"{folder} holds a run with another configuration ({different}); choose another --out")
        return cls(folder, model, config)

    def begin(self, device: str) -> None:
        """Write run.json and config.yaml, or, where a run goes on, what is new in them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        here = {
            "posegeom": posegeom.__version__,
            "commit": _commit(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": _machine(device),
        }
        told: dict[str, Any] = {"model": self.model, **here}
        goes_on = (self.folder / "run.json").is_file() and bool(checkpoints.find(self.folder / "checkpoints"))
        if goes_on:
            told = _read_facts(self.folder)
            before = [{name: told.get(name) for name in here}, *told.get("continued", [])]
            if here not in before:
                told["continued"] = [*before[1:], here]
        replace_text(self.folder / "run.json", json.dumps(told, indent=1) + "\n")
        replace_text(self.folder / "config.yaml", yaml.safe_dump(plain(self.config), sort_keys=False))
        puppet = getattr(getattr(self.config, "network", None), "puppet", None)
        if puppet is not None and not (goes_on and self._puppet.is_file()):
            temporary = self._puppet.with_name(".puppet.npz.tmp")
            shutil.copyfile(puppet, temporary)
            os.replace(temporary, self._puppet)

    @property
    def _puppet(self) -> Path:
        """The puppet that training began with, which need not stay where it was."""
        return self.folder / "puppet.npz"

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says; and of the newest checkpoint the step, the samples until then, and the seconds."""
        newest = self._newest()
        samples = newest.step * self.config.training.batch_size
        told = {"step": newest.step, "samples": samples, "seconds": newest.state().get("seconds")}
        return {**_read_facts(self.folder), **told}

    def _newest(self) -> checkpoints.Checkpoint:
        saved = checkpoints.find(self.folder / "checkpoints")
        if not saved:
            raise FileNotFoundError(f"{self.folder}: has no checkpoint yet")
        return saved[-1]

    def networks(self, device: str = "cpu") -> nn.Module:
        """The trained networks of the newest checkpoint.

        Raises:
            FileNotFoundError: nothing has been saved yet.
            ValueError: the checkpoint is damaged.
        """
        newest = self._newest()
        config = self.config
        network = getattr(config, "network", None)
        begun = [name for name in ("weights", "feature_weights") if getattr(network, name, None) is not None]
        # The checkpoint has all weights: those that training began with need not be there any more.
        instead: dict[str, Any] = dict.fromkeys(begun)
        if getattr(network, "puppet", None) is not None and self._puppet.is_file():
            instead["puppet"] = self._puppet
        if instead:
            config = dataclasses.replace(config, network=dataclasses.replace(config.network, **instead))
        networks: nn.Module = find_model(self.model).recipe(config).networks
        newest.restore(networks)
        return networks.to(device).eval()

    def predictor(self, device: str = "cpu") -> Callable[[torch.Tensor], Prediction]:
        """The trained model of the newest checkpoint: images (B, 3, S, S) to a prediction on the CPU.

        Raises:
            FileNotFoundError: nothing has been saved yet.
            ValueError: the checkpoint is damaged, or the model takes no images.
        """
        model = find_model(self.model).predict
        if model is None:
            raise ValueError(f"{self.folder} holds a run of {self.model}, which takes 2D poses and no images")
        networks = self.networks(device)

        def predict(images: torch.Tensor) -> Prediction:
            with torch.no_grad():
                said = model(networks, images.to(device))
            return Prediction(*(None if value is None else value.cpu() for value in said))

        return predict

    @property
    def masked(self) -> bool:
        """Whether the model is shown people cut out of their images."""
        masked = find_model(self.model).masked
        return masked is not None and masked(self.config)

    def constants(self) -> Constants:
        """The answers that look at no image, from this run's training set.

        Raises:
            ValueError: they are not there, damaged, or those of another skeleton or size.
        """
        skeleton = find_model(self.model).skeleton(self.config)
        return Constants.load(self.folder / "constants.safetensors", len(skeleton.joints), self.config.data.size)


def plain(value: Any) -> Any:
    """A configuration as YAML and JSON hold it."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _difference(there: Any, here: Any) -> str:
    """The first field in which two configurations differ, as "field: 1 there, 2 here"; empty where none does."""
    for field in dataclasses.fields(here):
        old, new = getattr(there, field.name), getattr(here, field.name)
        if dataclasses.is_dataclass(new):
            deeper = _difference(old, new)
            if deeper:
                return f"{field.name}.{deeper}"
        elif old != new and field.name not in CHANGEABLE:
            return f"{field.name}: {old} there, {new} here"
    return ""


def resolved(config: Any) -> Any:
    """A configuration whose paths hold from every folder."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changed[field.name] = resolved(value)
        elif isinstance(value, Path):
            changed[field.name] = value.resolve()
    return dataclasses.replace(config, **changed)


def check_device(name: str) -> None:
    """Raise unless this machine has a device of that name, and it can compute."""
    try:
        if torch.device(name).type not in ("cpu", "cuda", "mps"):
            raise ValueError("must be cpu, cuda, cuda:1 and so on, or mps")
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None


def _read_facts(folder: Path) -> dict[str, Any]:
    """What a folder's run.json says.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        told: Any = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder}: run.json cannot be read: {error}") from None
    if not isinstance(told, dict) or not isinstance(told.get("continued", []), list):
        raise ValueError(f"{folder}: run.json cannot be read: it must hold what a run.json of posegeom train holds")
    return told


def _commit() -> str | None:
    """The commit of the source, where it is a clone; with a + for changes that are not in it."""
    source = Path(__file__).parent
    try:
        said = [
            subprocess.run(["git", *words], cwd=source, capture_output=True, text=True, check=True).stdout.strip()
            for words in (
                [
                    "ls-files",
                    "--error-unmatch",
                    Path(__file__).name,
                ],  # fails where the clone around is another project's
                ["rev-parse", "--short", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no", "."],
            )
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return said[1] + ("+" if said[2] else "")


def _machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores, {platform.machine()}"
