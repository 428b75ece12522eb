"""The engine on a small network: losses and their optimizers, exact resumption, curves, settings."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("lightning_fabric")
pytest.importorskip("torchmetrics")


from posegeom_models import checkpoints
from posegeom_models.training import (
    Descent,
    DivergenceError,
    TrainingConfig,
    frozen,
    launch,
    statistics_kept,
    to_device,
    train,
)
from tests.regression import ChannelsLast, Numbers, TwoLosses, run, same, saved_steps


def test_a_loss_moves_the_parameters_of_its_own_optimizer_alone(tmp_path: Path) -> None:
    recipe = TwoLosses()
    before = {name: value.clone() for name, value in recipe.networks.state_dict().items()}
    config = TrainingConfig(steps=1, batch_size=8, accelerator="cpu")
    descent = Descent(launch(config), recipe.optimizers, Numbers(8), config)
    descent.minimize("fit", lambda part: {"l": recipe.networks["head"](recipe.networks["body"](part[0])).sum()},
                     Numbers(8).batch(0, 0, 1))  # fmt: skip
    moved = {name for name, value in recipe.networks.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}
    assert all(p.grad is None for p in recipe.networks.parameters())


def test_training_lowers_the_loss_and_writes_curves_and_checkpoints(tmp_path: Path) -> None:
    run(tmp_path, steps=300, log_every=50, checkpoint_every=100, picture_every=100)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 150, 200, 250, 300]
    assert lines[-1]["fit/squared"] < 0.3 * lines[0]["fit/squared"]
    assert [one.step for one in checkpoints.find(tmp_path / "checkpoints")] == [200, 300]
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("kind", ["a GPU", "double precision"])
def test_what_an_optimizer_remembers_moves_with_its_parameters(kind: str) -> None:
    if kind == "a GPU" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    recipe = TwoLosses()
    # Adagrad has its sums as soon as it is made, when the networks are still on the CPU.
    recipe.optimizers = {"fit": torch.optim.Adagrad(recipe.networks.parameters(), lr=0.1)}
    device = torch.device("cuda" if kind == "a GPU" else "cpu")
    recipe.networks.to(torch.float64)
    to_device(recipe, device)
    (group,) = recipe.optimizers["fit"].param_groups
    for parameter in recipe.networks.parameters():
        parameter.grad = torch.ones_like(parameter)
        total = recipe.optimizers["fit"].state[parameter]["sum"]
        assert (total.device.type, total.dtype) == (device.type, torch.float64)
    before = [parameter.detach().clone() for parameter in group["params"]]
    recipe.optimizers["fit"].step()
    assert all(not torch.equal(old, new) for old, new in zip(before, group["params"], strict=True))


class SlowToBegin(Numbers):
    """Needs a while for its first batch."""

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Tensor, Tensor]:
        time.sleep(1.0 if step == 0 else 0.0)
        return super().batch(step, rank, world_size)


def test_speed_and_waiting_are_those_since_the_point_before(tmp_path: Path) -> None:
    config = TrainingConfig(steps=40, batch_size=8, accelerator="cpu", log_every=20)
    train(TwoLosses(), SlowToBegin(8), config, tmp_path, launch(config), quiet=True)
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first["waiting"] > 0.5
    assert first["samples_per_second"] < 20 * 8 / 1.0
    assert second["waiting"] < 0.3
    assert second["samples_per_second"] > first["samples_per_second"]


@pytest.mark.parametrize("last", ["weights", "images"])
def test_a_fused_optimizer_moves_weights_with_their_channels_last_as_a_plain_one(tmp_path: Path, last: str) -> None:
    """It reads weights, gradients and moments as they lie in memory: in another order, each weight gets another's."""
    fused, plain = run(tmp_path / "fused", ChannelsLast(last)), run(tmp_path / "plain", ChannelsLast(last, False))
    for one, other in zip(fused.networks.parameters(), plain.networks.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    run(tmp_path / "parts", ChannelsLast(last), steps=8)
    assert same(run(tmp_path / "parts", ChannelsLast(last)).networks, fused.networks)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", steps=8)
    resumed = run(tmp_path / "parts")
    assert same(whole.networks, resumed.networks)
    assert resumed.optimizers["fit"].state_dict()["state"][0]["step"] == 12


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    recipes = []
    for accumulate in (1, 4):
        recipe = TwoLosses()
        recipe.networks.eval()  # no dropout, whose noise would differ
        config = TrainingConfig(steps=1, batch_size=8, accumulate=accumulate, accelerator="cpu")
        descent = Descent(launch(config), recipe.optimizers, Numbers(8), config)
        recipe.step(descent, Numbers(8).batch(3, 0, 1), 3)
        recipes.append((recipe, descent.finite_values()))
    for a, b in zip(recipes[0][0].networks.parameters(), recipes[1][0].networks.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert recipes[0][1] == pytest.approx(recipes[1][1], rel=1e-5)


def test_a_loss_that_is_not_a_number_stops_with_step_term_and_samples(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"step 6: term fit/squared is nan; the samples were samples of step 6"):
        run(tmp_path, TwoLosses(poison_at=6))
    assert [one.step for one in checkpoints.find(tmp_path / "checkpoints")] == [4]


class Overflow(TwoLosses):
    """A finite loss whose gradient is not."""

    def step(self, train: Descent[tuple[Tensor, Tensor]], batch: tuple[Tensor, Tensor], number: int) -> None:
        def root(part: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
            value = self.networks["head"](self.networks["body"](part[0])).square().mean()
            return {"root": (value - value.detach() + (0.0 if number == 5 else 1.0)).sqrt()}

        train.minimize("fit", root, batch)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="step 5: a weight is not finite after it"):
        run(tmp_path, Overflow(), steps=6, checkpoint_every=2)
    assert saved_steps(tmp_path)[-1] == 4


def test_learning_rates_rise_and_fall_as_told(tmp_path: Path) -> None:
    config = TrainingConfig(steps=100, warmup=3, decay="cosine")
    assert config.rate(0) == pytest.approx(1 / 4)
    assert config.rate(50) == pytest.approx(0.5)
    assert config.rate(99) == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2)
    assert TrainingConfig(steps=100).rate(99) == 1
    # A first Adam step is as long as the learning rate, whatever the gradient.
    recipe = TwoLosses()
    before = recipe.networks["head"].bias.detach().clone()
    run(tmp_path, recipe, steps=1, warmup=4, checkpoint_every=1)
    moved = (recipe.networks["head"].bias - before).abs().item()
    assert moved == pytest.approx(1e-2 / 5, rel=1e-3)


def test_running_statistics_are_kept_where_they_should_be() -> None:
    norm = nn.BatchNorm1d(3)
    with statistics_kept(norm):
        shown = norm(torch.randn(8, 3) + 5)
    assert shown.mean().abs().item() < 1e-5  # the batch's own statistics were used
    torch.testing.assert_close(norm.running_mean, torch.zeros(3))
    norm(torch.randn(8, 3) + 5)
    assert norm.running_mean.mean() > 0.3


def test_curves_of_a_killed_run_go_on_where_its_checkpoint_is(tmp_path: Path) -> None:
    run(tmp_path, steps=4, checkpoint_every=2, log_every=1)
    path = tmp_path / "metrics.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "lost": 1}\n["lost"]\n{"lost": 1}\nlost\n{"step": 1, "lost": 2}')  # cut off, or damaged
    run(tmp_path, steps=6, checkpoint_every=2, log_every=1)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert "lost" not in path.read_text()


def test_frozen_networks_keep_parameters_and_batch_statistics() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = torch.randn(5, 3, requires_grad=True)
    with frozen(network):
        network(x).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert x.grad is not None
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert network[1].training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 6, "accumulate": 4}, r"batch_size must be a multiple of devices x machines x accumulate = 4"),
        ({"seed": 2**31}, r"seed must be below 2\*\*31, got 2147483648"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"decay": "linear"}, "decay must be one of none, cosine, got 'linear'"),
        ({"precision": "16"}, "precision must be one of 32-true, bf16-mixed, got '16'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)


def test_an_accelerator_that_is_not_there_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    with pytest.raises(ValueError, match="accelerator 'cuda' cannot be used"):
        launch(TrainingConfig(accelerator="cuda"))


def test_mixed_precision_trains(tmp_path: Path) -> None:
    recipe = run(tmp_path, steps=3, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in recipe.networks.parameters())
