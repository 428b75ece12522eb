"""The share of a training step that goes into its batch: whether training waits for data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from posegeom_models.runs import build_config, config_parser, find_config, find_model
from posegeom_models.training import Descent, launch, to_device

STEPS = {"cpu": 8, "cuda": 60}
MODELS = ("ksp",)


def loading(device: str) -> Iterator[dict[str, object]]:
    """One row per model at small.yaml: milliseconds of a step, and of making its batch, over the turns of its losses.

    The batch is made in the training process, before the step; small.yaml itself makes batches in other processes
    meanwhile. The frames were rendered before, as they are from the second epoch on.
    """
    for name in MODELS:
        model, text = find_model(name), find_config(name, "small").read_text(encoding="utf-8")
        config = build_config(name, config_parser(name).parse_string(text))
        config = replace(
            config,
            data=replace(config.data, clips=(24, 1, 1)),
            training=replace(config.training, accelerator=device, workers=0),
        )
        source, recipe = model.data(config, device=device), model.recipe(config)
        fabric = launch(config.training)
        to_device(recipe, fabric.device)
        networks = recipe.networks.train()
        making, stepping = [], []
        for step in range(STEPS[device] + 3):
            source.batch(step, 0, 1)  # renders what is new
            start = time.perf_counter()
            batch = fabric.to_device(source.batch(step, 0, 1))
            made = time.perf_counter()
            torch.manual_seed(step)
            recipe.step(Descent(fabric, recipe.optimizers, source, config.training, step), batch, step)
            if device == "cuda":
                torch.cuda.synchronize()
            if step >= 3:
                making.append(1000 * (made - start))
                stepping.append(1000 * (time.perf_counter() - made))
        del networks
        batch_ms, step_ms = statistics.mean(making), statistics.mean(stepping)
        yield {
            "model": name,
            "config": "small",
            "batch": config.training.batch_size,
            "size": config.data.size,
            "batch_ms": round(batch_ms, 2),
            "step_ms": round(step_ms, 2),
            "share": round(batch_ms / (batch_ms + step_ms), 4),
        }
