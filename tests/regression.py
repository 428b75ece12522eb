"""A small regression that the engine's tests train: its batches, its networks, and processes to train it in."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from posegeom_models import checkpoints
from posegeom_models.training import Descent, TrainingConfig, launch, train

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["tests.test_interruptions", "tests.test_processes", "lightning_fabric", "torch.utils.tensorboard"]
)


class Numbers:
    """Batches of random regression samples, the same for every share of the processes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(self.size, 4, generator=generator)
        y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]]) + 0.1
        return x[rank::world_size], y[rank::world_size]

    def part(self, batch: tuple[Tensor, Tensor], number: int, count: int) -> tuple[Tensor, Tensor]:
        return batch[0].chunk(count)[number], batch[1].chunk(count)[number]

    def describe(self, step: int) -> str:
        return f"samples of step {step}"


class TwoLosses:
    """A network with a body and a head, each moved by a loss of its own; noise from the global generator."""

    recordable = False

    def __init__(self, poison_at: int = -1) -> None:
        torch.manual_seed(0)
        self.networks = nn.ModuleDict(
            {"body": nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.1)), "head": nn.Linear(8, 1)}
        )
        self.optimizers = {
            "fit": torch.optim.Adam(self.networks["head"].parameters(), 1e-2),
            "shape": torch.optim.Adagrad(self.networks["body"].parameters(), 1e-2),
        }
        self.poison_at = poison_at

    def step(self, train: Descent[tuple[Tensor, Tensor]], batch: tuple[Tensor, Tensor], number: int) -> None:
        def fit(part: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
            x, y = part
            noise = float("nan") if number == self.poison_at else 0.0
            return {"squared": (self.networks["head"](self.networks["body"](x)) - y).square().mean() + noise}

        def shape(part: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
            x, y = part
            return {
                "absolute": (self.networks["head"](self.networks["body"](x)) - y).abs().mean(),
                "small": 1e-3 * self.networks["body"][0].weight.square().sum(),
            }

        train.minimize("fit", fit, batch)
        train.minimize("shape", shape, batch)

    def pictures(self, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        return {"noise": torch.rand(3, 8, 8)}


class ChannelsLast(TwoLosses):
    """A convolution whose weights or images have their channels last, and an optimizer that reads them as they lie.

    Gradients of weights then lie like the weights in one case and not in the other.
    """

    def __init__(self, last: str = "weights", fused: bool = True) -> None:
        super().__init__()
        convolution = nn.Conv2d(2, 8, (1, 2))
        self.images = torch.channels_last if last == "images" else torch.contiguous_format
        if last == "weights":
            convolution.to(memory_format=torch.channels_last)
        self.networks["body"] = nn.Sequential(convolution, nn.Flatten(), nn.Tanh())
        self.optimizers = {"fit": torch.optim.Adam(self.networks.parameters(), 1e-2, fused=fused)}

    def step(self, train: Descent[tuple[Tensor, Tensor]], batch: tuple[Tensor, Tensor], number: int) -> None:
        def fit(part: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
            images = part[0].view(-1, 2, 1, 2).contiguous(memory_format=self.images)
            return {"squared": (self.networks["head"](self.networks["body"](images)) - part[1]).square().mean()}

        train.minimize("fit", fit, batch)


def run(folder: Path, recipe: TwoLosses | None = None, **settings: object) -> TwoLosses:
    config = TrainingConfig(**{"steps": 12, "batch_size": 8, "checkpoint_every": 4, "accelerator": "cpu", **settings})
    recipe = recipe or TwoLosses()
    train(recipe, Numbers(config.batch_size), config, folder, launch(config), quiet=True)
    return recipe


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved_steps(folder: Path) -> list[int]:
    """Of the checkpoints of a run."""
    return [one.step for one in checkpoints.find(folder / "checkpoints")]
