"""Checkpoints that survive a power cut: tensors in safetensors, everything else in JSON, nothing pickled.

A checkpoint is a folder `step_00001200` with `networks.safetensors`, `optimizers.safetensors` and `state.json`. It is
written under a temporary name and renamed when all of it is on the disk, so a folder with the right name is complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

FOLDER = re.compile(r"step_(\d{8})")
HALF = re.compile(r"\.step_\d{8}\.tmp")
Optimizers = Mapping[str, Optimizer]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Args:
        path: its folder.
        step: how many steps had been taken.
    """

    path: Path
    step: int

    def restore(self, networks: nn.Module, optimizers: Optimizers | None = None) -> dict[str, Any]:
        """Fill networks and optimizers; return the state that was saved beside them.

        Raises:
            ValueError: the files are damaged or belong to another model; names the file and, then, the tensor.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            weights = load_file(self.path / "networks.safetensors")
            slots = load_file(self.path / "optimizers.safetensors") if optimizers is not None else {}
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"checkpoint {self.path} cannot be read: {error}") from error
        state = self.state()
        have = {name: tuple(value.shape) for name, value in networks.state_dict().items()}
        saved = {name: tuple(value.shape) for name, value in weights.items()}
        for name in sorted(have.keys() | saved.keys()):
            if have.get(name) != saved.get(name):
                raise ValueError(
                    f"checkpoint {self.path} is of another model: {name} is {saved.get(name, 'absent')} there and "
                    f"{have.get(name, 'absent')} here"
                )
        if optimizers is not None:
            # Without some of them, training would go on, but not as it would have without the stop.
            if sorted(slots) != state.get("slots"):
                raise ValueError(
                    f"checkpoint {self.path} cannot be read: optimizers.safetensors does not hold what state.json says"
                )
            for name, optimizer in optimizers.items():
                try:
                    _fill(optimizer, name, slots, state["optimizers"][name])
                except (LookupError, TypeError, ValueError, AttributeError) as error:
                    raise ValueError(
                        f"checkpoint {self.path} cannot be read: what it holds of optimizer {name!r} does not fit: "
                        f"{error!r}"
                    ) from None
        networks.load_state_dict(weights)
        return state

    def state(self) -> dict[str, Any]:
        """What was saved beside the tensors: "step", "seconds" and whatever else `save` was given.

        Raises:
            ValueError: state.json is damaged.
        """
        try:
            state: Any = json.loads((self.path / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"checkpoint {self.path} cannot be read: {error}") from error
        if not isinstance(state, dict) or not isinstance(state.get("seconds", 0.0), (int, float)):
            raise ValueError(f"checkpoint {self.path} cannot be read: state.json holds something else")
        return state


def save(
    folder: Path, step: int, networks: nn.Module, optimizers: Optimizers, state: Mapping[str, Any], keep: int
) -> Checkpoint:
    """Write a checkpoint into `folder` and delete all but the newest `keep` ones.

    Raises:
        OSError: it could not be written, for want of space say. Earlier checkpoints are untouched then.
    """
    from safetensors.torch import save_file

    target = folder / f"step_{step:08d}"
    temporary = folder / f".{target.name}.tmp"
    for known in find(folder):
        if known.step == step:
            return known  # a run that was resumed here: the same bits again
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    temporary.mkdir()
    try:
        save_file(_on_cpu(networks.state_dict()), temporary / "networks.safetensors")
        slots: dict[str, Tensor] = {}
        numbers = {name: _take_apart(optimizer, name, slots) for name, optimizer in optimizers.items()}
        save_file(_on_cpu(slots), temporary / "optimizers.safetensors")
        content = {**state, "step": step, "optimizers": numbers, "slots": sorted(slots)}
        (temporary / "state.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        os.replace(temporary, target)
        _flush(folder)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise
        raise OSError(f"checkpoint {target} could not be written: {error}") from error
    for old in find(folder)[:-keep]:
        shutil.rmtree(old.path)
    return Checkpoint(target, step)


def find(folder: Path) -> list[Checkpoint]:
    """The complete checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    matches = [(FOLDER.fullmatch(path.name), path) for path in folder.iterdir()]
    found = [Checkpoint(path, int(match[1])) for match, path in matches if match and (path / "state.json").is_file()]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def _sweep(folder: Path) -> None:
    """Delete what a kill left in the middle of being written or deleted; only one process writes here."""
    for path in folder.iterdir():
        half = FOLDER.fullmatch(path.name) and not (path / "state.json").is_file()
        if half or HALF.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory, as the format wants them."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def _take_apart(optimizer: Optimizer, name: str, slots: dict[str, Tensor]) -> dict[str, Any]:
    """Put an optimizer's tensors into `slots`; return the rest, which JSON can hold."""
    content = optimizer.state_dict()
    numbers: dict[str, Any] = {"groups": content["param_groups"], "state": {}}
    for parameter, values in content["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                slots[f"{name}/{parameter}/{key}"] = value
            else:
                numbers["state"].setdefault(str(parameter), {})[key] = value
    return numbers


def _fill(optimizer: Optimizer, name: str, slots: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {int(place): dict(values) for place, values in numbers["state"].items()}
    for path, value in slots.items():
        owner, place, key = path.rsplit("/", 2)
        if owner == name:
            state.setdefault(int(place), {})[key] = value
    here = optimizer.state_dict()["param_groups"]
    groups = [
        {key: tuple(value) if key == "betas" else value for key, value in group.items()} for group in numbers["groups"]
    ]
    for saved, group in zip(groups, here, strict=True):
        wanted = {**{key: 0.0 for key in saved if key == "initial_lr"}, **group}  # the engine's, once a step was taken
        wrong = [key for key in {**wanted, **saved} if not _alike(wanted.get(key), saved.get(key))]
        if wrong:
            raise ValueError(f"{wrong[0]} is {saved.get(wrong[0])!r}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, values in state.items():
        parameter = parameters[number]
        for key, value in values.items():
            if not isinstance(value, Tensor) or value.shape == ():
                continue
            if value.shape != parameter.shape:
                raise ValueError(f"{key} of parameter {number} is {tuple(value.shape)}")
            # Fused optimizers read it as it lies in memory, where the parameter may have its channels last.
            values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _alike(here: Any, saved: Any) -> bool:
    """Whether a setting of an optimizer is of the kind that it must be."""
    if isinstance(here, (int, float)) and not isinstance(here, bool):
        return isinstance(saved, (int, float)) and not isinstance(saved, bool)
    return type(here) is type(saved)


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
