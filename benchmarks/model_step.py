"""The share of posegeom in the steps of a model's own training, which calls its operators wherever the paper does.

The calls of a step are made again, each with a backward of its own where the step had one for all: that is a little
more than their part in the step. Rotations and products of matrices from `posegeom.frames` are not among them.
"""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

import posegeom as pg
from benchmarks.measure import results
from posegeom_models.pgp.configuration import turn_of
from posegeom_models.runs import build_config, config_parser, find_config, find_model
from posegeom_models.training import Descent, launch, to_device

ROUNDS = {"cpu": 2, "cuda": 12}
CONFIGURATIONS = {"cpu": ("tiny",), "cuda": ("small", "paper")}
OPTIONS = ["--variant=semi", "--base_share=0", "--labelled_turns=1", "--network.weights=null"]
"""An iteration of Algorithm 1 and a step on labels take turns; what weights are worth has no part in their time."""


class Call(NamedTuple):
    """One call of an operator in a step, and whether gradients were on."""

    operator: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    graded: bool

    def again(self) -> None:
        """The operator forward, and backward where the step had a gradient for it."""
        leaves: list[Tensor] = []

        def cut(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            value = value.detach().requires_grad_(value.requires_grad)
            leaves.extend([value] if value.requires_grad else [])
            return value

        named = {name: cut(value) for name, value in self.named.items()}
        with torch.set_grad_enabled(self.graded):
            outputs = results(self.operator(*map(cut, self.arguments), **named))
        outputs = [value for value in outputs if value.requires_grad]
        if leaves and outputs:
            torch.autograd.grad(outputs, leaves, [torch.ones_like(value) for value in outputs], allow_unused=True)


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """The calls of posegeom's public functions, as they are made."""
    calls: list[Call] = []
    own = {name: getattr(pg, name) for name in pg.__all__ if inspect.isfunction(getattr(pg, name))}

    def recording(operator: Callable[..., Any]) -> Callable[..., Any]:
        def record(*arguments: Any, **named: Any) -> Any:
            calls.append(Call(operator, arguments, named, torch.is_grad_enabled()))
            return operator(*arguments, **named)

        return record

    for name, operator in own.items():
        setattr(pg, name, recording(operator))
    try:
        yield calls
    finally:
        for name, operator in own.items():
            setattr(pg, name, operator)


def model_steps(device: str) -> Iterator[dict[str, object]]:
    """One row per configuration and kind of pgp's steps, for a device."""
    for name in CONFIGURATIONS[device]:
        yield from _steps_of(name, device)


def _steps_of(configuration: str, device: str) -> Iterator[dict[str, object]]:
    """Milliseconds of a step, and of the same step's operators alone.

    A step's calls of operators are recorded with their arguments, and then made again, forward and backward, without
    what is between them.
    """
    parser = config_parser("pgp")
    parsed = parser.parse_string(find_config("pgp", configuration).read_text(encoding="utf-8"))
    parsed.update(parser.parse_args(OPTIONS, defaults=False))
    config = build_config("pgp", parsed)
    config = replace(
        config,
        data=replace(config.data, clips=(24, 1, 1)),
        training=replace(config.training, accelerator=device, workers=0),
        unpaired_poses=200,
    )
    model = find_model("pgp")
    source, recipe = model.data(config, device=device), model.recipe(config)
    fabric = launch(config.training)
    to_device(recipe, fabric.device)
    recipe.networks.train()
    whole: dict[str, list[float]] = {}
    part: dict[str, list[float]] = {}
    operators: dict[str, int] = {}
    samples: dict[str, int] = {}

    def milliseconds(run: Callable[[], None]) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start)

    for step in range(2 * ROUNDS[device] + 2):
        batch = fabric.to_device(source.batch(step, 0, 1))

        def go(step: int = step, batch: Any = batch) -> None:
            torch.manual_seed(step)
            recipe.step(Descent(fabric, recipe.optimizers, source, config.training, step), batch, step)

        with recorded() as calls:
            go()

        def operators_alone(calls: list[Call] = calls) -> None:
            with fabric.autocast():
                for call in calls:
                    call.again()

        operators_alone()
        turn = turn_of(config, step)
        name = turn.name
        if name not in samples:  # the first of each kind compiles kernels
            samples[name] = config.samples_of(turn)
            continue
        whole.setdefault(name, []).append(milliseconds(go))
        part.setdefault(name, []).append(milliseconds(operators_alone))
        operators[name] = len(calls)
    for name in whole:
        step_ms, posegeom_ms = statistics.median(whole[name]), statistics.median(part[name])
        yield {
            "model": "pgp",
            "config": configuration,
            "step": name,
            "batch": samples[name],
            "size": config.data.size,
            "operators": operators[name],
            "step_ms": round(step_ms, 2),
            "posegeom_ms": round(posegeom_ms, 2),
            "share": round(posegeom_ms / step_ms, 4),
        }
