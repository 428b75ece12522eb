"""The engine on a small network: exact resumption, processes, interruption, disks that fill up."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Mapping
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("lightning_fabric")
pytest.importorskip("torchmetrics")

from safetensors.torch import load_file, save_file

from posegeom_models import checkpoints
from posegeom_models.evaluation import ClassScores, PointErrors, PoseErrors
from posegeom_models.training import (
    Descent,
    DivergenceError,
    TrainingConfig,
    frozen,
    launch,
    mean_over_processes,
    statistics_kept,
    train,
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


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.test_training", "lightning_fabric", "torch.utils.tensorboard"])


class Signalling(TwoLosses):
    """Says when its first step begins, and takes its time."""

    def __init__(self, pause: float, begun: Event | None = None) -> None:
        super().__init__()
        # Some megabytes, so that a checkpoint takes a while to write.
        self.networks.register_buffer("ballast", torch.zeros(500_000))
        self.pause, self.begun = pause, begun

    def step(self, train: Descent[tuple[Tensor, Tensor]], batch: tuple[Tensor, Tensor], number: int) -> None:
        if self.begun is not None:
            self.begun.set()
        time.sleep(self.pause)
        super().step(train, batch, number)


def train_slowly(folder: Path, steps: int = 40, pause: float = 0.02, begun: Event | None = None) -> None:
    torch.set_num_threads(1)
    run(folder, Signalling(pause, begun), steps=steps, checkpoint_every=3)


def start(
    folder: Path, target: Callable[..., None] = train_slowly, *arguments: object
) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=target, args=(folder, *arguments))
    process.start()
    return process


def finish(folder: Path, steps: int = 40) -> None:
    """Go on from where a run is, in this process and without a pause."""
    run(folder, Signalling(0.0), steps=steps, checkpoint_every=steps)


def saved_steps(folder: Path) -> list[int]:
    return [one.step for one in checkpoints.find(folder / "checkpoints")]


def weights(folder: Path) -> bytes:
    return (checkpoints.find(folder / "checkpoints")[-1].path / "networks.safetensors").read_bytes()


STEPS, PAUSE = 120, 0.002
"""More steps than ten processes can take before they are killed."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, STEPS)
    return weights(folder)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ten_kills_later_the_weights_are_those_of_an_undisturbed_run(tmp_path: Path, undisturbed: bytes) -> None:
    moments = [random.random() for _ in range(10)]
    print(f"killed {moments} times two intervals between checkpoints after the first step")
    reached = []
    for moment in moments:
        begun = PROCESSES.Event()
        process = start(tmp_path, train_slowly, STEPS, PAUSE, begun)
        assert begun.wait(60)
        time.sleep(moment * 6 * 2 * PAUSE)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        reached.append(saved_steps(tmp_path)[-1:])
    assert reached[-1] != [STEPS]
    finish(tmp_path, STEPS)
    assert weights(tmp_path) == undisturbed
    assert all(path.name.startswith("step_") for path in (tmp_path / "checkpoints").iterdir())


def train_and_die(folder: Path, flush: int) -> None:
    """Killed when so many files or folders of the checkpoints have been brought to the disk."""
    waited = os.fsync
    flushes = iter(range(1, 1000))

    def fsync(descriptor: int) -> None:
        waited(descriptor)
        if next(flushes) == flush:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync
    train_slowly(folder, STEPS, PAUSE)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_kill_at_any_stage_of_a_checkpoint_leaves_a_run_that_goes_on(tmp_path: Path, undisturbed: bytes) -> None:
    """A checkpoint is five flushes: its three files, its folder, and the folder around it once it has its name."""
    for flush in (6, 7, 8, 9, 10):
        process = start(tmp_path, train_and_die, flush)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    # Of the two checkpoints that each of them began, the first was complete, and the second one once: at the end.
    # The last kill came before the oldest one was deleted.
    assert saved_steps(tmp_path) == [3 * 4, 3 * 5, 3 * 6]
    finish(tmp_path, STEPS)
    assert weights(tmp_path) == undisturbed


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_control_c_leaves_a_checkpoint_of_the_last_step(tmp_path: Path) -> None:
    process = start(tmp_path)
    while not saved_steps(tmp_path):
        time.sleep(0.005)
    time.sleep(0.1)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join()
    assert process.exitcode != 0
    stopped = saved_steps(tmp_path)[-1]
    assert 3 <= stopped < 40
    finish(tmp_path)
    finish(tmp_path.with_name("whole"))
    assert weights(tmp_path) == weights(tmp_path.with_name("whole"))


def train_slowly_with_a_worker(folder: Path) -> None:
    os.setsid()  # a process group of its own, as a terminal gives each command
    torch.set_num_threads(1)
    run(folder, Signalling(0.02), steps=400, checkpoint_every=3, workers=1)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_control_c_of_a_terminal_reaches_workers_too_and_still_saves(tmp_path: Path) -> None:
    """And until then the worker prepared the batches that the training process would have."""
    process = start(tmp_path, train_slowly_with_a_worker)
    while process.is_alive() and not saved_steps(tmp_path):
        time.sleep(0.005)
    os.killpg(process.pid or 0, signal.SIGINT)
    process.join()
    assert process.exitcode == 1  # Interrupted, after the checkpoint; not a worker that "exited unexpectedly"
    stopped = saved_steps(tmp_path)[-1]
    assert 3 <= stopped < 400
    run(tmp_path / "alone", Signalling(0.0), steps=stopped, checkpoint_every=stopped)
    assert weights(tmp_path) == weights(tmp_path / "alone")


class Large(TwoLosses):
    def __init__(self) -> None:
        super().__init__()
        self.networks.register_buffer("ballast", torch.zeros(50_000))


def fill_the_disk(folder: Path) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    with pytest.raises(OSError, match=r"checkpoint .*step_00000008 could not be written"):
        run(folder, Large(), steps=8)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    first = run(tmp_path, Large(), steps=4)
    process = start(tmp_path, fill_the_disk)
    process.join()
    assert process.exitcode == 0
    assert saved_steps(tmp_path) == [4]
    recipe = Large()
    state = checkpoints.find(tmp_path / "checkpoints")[0].restore(recipe.networks, recipe.optimizers)
    assert state["step"] == 4
    assert same(recipe.networks, first.networks)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]


def test_damaged_and_foreign_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    recipe = run(tmp_path, steps=4)
    newest = checkpoints.find(tmp_path / "checkpoints")[-1]
    with pytest.raises(ValueError, match=r"of another model: 0\.bias is absent there and \(3,\) here"):
        newest.restore(nn.Sequential(nn.Linear(2, 3)))
    path = newest.path / "networks.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="cannot be read"):
        newest.restore(recipe.networks)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", "{}"),
        ("state.json", "[]"),
        ("state.json", "[" * 100_000),
        ("state.json", "no JSON"),
        ("state.json", {"seconds": "long"}),
        ("state.json", {"slots": []}),
        ("state.json", {"optimizers": {"fit": 5}}),
        ("state.json", {"optimizers": {"fit": {"groups": [], "state": {}}}}),
        ("state.json", {"optimizers": {"fit": {"groups": [{"lr": "high", "params": [0, 1]}], "state": {}}}}),
        ("state.json", {"optimizers": {"fit": {"groups": [], "state": {"x": {}}}}}),
        ("optimizers.safetensors", {}),
        ("optimizers.safetensors", {"fit/0/exp_avg": torch.zeros(1, 8)}),
        ("optimizers.safetensors", "all of another shape"),
        ("optimizers.safetensors", "no tensors"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_moves_nothing(tmp_path: Path, name: str, content: object) -> None:
    run(tmp_path, steps=4)
    newest = checkpoints.find(tmp_path / "checkpoints")[-1]
    path = newest.path / name
    if content == "all of another shape":
        save_file({key: torch.zeros(7, 7) for key in load_file(path)}, path)
    elif isinstance(content, str):
        path.write_text(content)
    elif name == "state.json" and isinstance(content, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
    else:
        save_file(content, path)
    recipe = TwoLosses()
    before = {key: value.clone() for key, value in recipe.networks.state_dict().items()}
    with pytest.raises(ValueError, match=f"checkpoint {newest.path} cannot be read"):
        newest.restore(recipe.networks, recipe.optimizers)
    assert all(torch.equal(value, before[key]) for key, value in recipe.networks.state_dict().items())


def test_what_a_kill_left_half_written_or_half_deleted_is_swept(tmp_path: Path) -> None:
    run(tmp_path, steps=4)
    folder = tmp_path / "checkpoints"
    for name in (".step_00000008.tmp", ".step_00000006.tmp", "step_00000002"):
        (folder / name).mkdir()
        (folder / name / "networks.safetensors").write_bytes(b"half")
    (folder / "step_by_step").mkdir()  # nobody's but its owner's
    run(tmp_path, steps=8)
    assert {path.name for path in folder.iterdir()} == {"step_00000004", "step_00000008", "step_by_step"}


def figures(rows: slice) -> list[dict[str, float]]:
    """The evaluator's metrics over some rows of one made-up set, with all the processes there are."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(9, 17, 3, generator=generator)
    poses, points = (truth + 0.2 * torch.rand(truth.shape, generator=generator) for _ in range(2))
    labels = torch.randint(0, 3, (9, 8, 8), generator=generator)
    said = torch.where(torch.rand(labels.shape, generator=generator) < 0.5, labels, 0)
    errors, off, scores = PoseErrors(0), PointErrors(32), ClassScores(3)
    errors.update(poses[rows], truth[rows])
    off.update(points[rows, :, :2], truth[rows, :, :2])
    scores.update(said[rows], labels[rows])
    return [errors.compute(), off.compute(), scores.compute()]


LEADING = ((0, "mpjpe"), (1, "2d"), (2, "f1"))
"""One figure of each metric."""


def be_one_of_two(rank: int, port: int, folder: Path) -> None:
    """As torchrun starts them: train together, apart and poisoned; say in a file how that ended."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    fabric = launch(TrainingConfig(batch_size=8, devices=2, accelerator="cpu"))
    assert (fabric.global_rank, fabric.world_size) == (rank, 2)
    said: dict[str, Any] = {}

    def attempt(what: str, place: Path, recipe: TwoLosses, **settings: Any) -> None:
        config = TrainingConfig(batch_size=8, devices=2, accelerator="cpu", **settings)
        try:
            train(recipe, Numbers(8), config, place, fabric, quiet=True)
        except Exception as error:
            said[what] = f"{type(error).__name__}: {error}"

    attempt("whole", folder / "two", BatchStatistics(), steps=3, checkpoint_every=3, log_every=1)
    attempt("channels last", folder / "last", ChannelsLast(), steps=3, checkpoint_every=3)
    attempt("apart", folder / ("two" if rank == 0 else "elsewhere"), BatchStatistics(), steps=6)
    attempt("poisoned", folder / "poisoned", TwoLosses(poison_at=1 if rank == 1 else -1), steps=4)
    # Unequal shares: a mean of the two processes' means would be another figure.
    said["figures"] = figures(slice(0, 2) if rank == 0 else slice(2, 9))
    (folder / f"said{rank}.json").write_text(json.dumps(said))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two gloo processes left: "two" is a run, "said0.json" and "said1.json" are how each of them ended."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [PROCESSES.Process(target=be_one_of_two, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
        process.kill()  # one that waits for the other for ever
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    return folder


class BatchStatistics(TwoLosses):
    """Losses on the mean of the whole batch, which no share of it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.networks["body"][2].p = 0.0
        self.optimizers = {"spread": torch.optim.SGD(self.networks.parameters(), 0.1)}

    def step(self, train: Descent[tuple[Tensor, Tensor]], batch: tuple[Tensor, Tensor], number: int) -> None:
        def spread(part: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
            codes = self.networks["body"](part[0])
            centre = mean_over_processes(codes)
            fit = (self.networks["head"](codes) - part[1]).square().mean()
            return {"fit": fit, "centre": centre.square().sum(), "variance": (codes - centre).square().mean()}

        train.minimize("spread", spread, batch)


def alone(folder: Path) -> BatchStatistics:
    config = TrainingConfig(steps=3, batch_size=8, accelerator="cpu", checkpoint_every=3, log_every=1)
    recipe = BatchStatistics()
    train(recipe, Numbers(8), config, folder, launch(config), quiet=True)
    return recipe


def said(folder: Path, what: str) -> list[Any]:
    return [json.loads((folder / f"said{rank}.json").read_text()).get(what) for rank in range(2)]


def test_two_processes_take_the_step_of_one_on_the_joined_batch(two_processes: Path, tmp_path: Path) -> None:
    assert said(two_processes, "whole") == [None, None]
    one, together = alone(tmp_path), BatchStatistics()
    checkpoints.find(two_processes / "two" / "checkpoints")[-1].restore(together.networks)
    for a, b in zip(together.networks.parameters(), one.networks.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_two_processes_share_weights_with_their_channels_last(two_processes: Path, tmp_path: Path) -> None:
    assert said(two_processes, "channels last") == [None, None]
    one, together = run(tmp_path, ChannelsLast(), steps=3), ChannelsLast()
    checkpoints.find(two_processes / "last" / "checkpoints")[-1].restore(together.networks)
    for a, b in zip(together.networks.parameters(), one.networks.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_the_curves_of_two_processes_are_those_of_the_joined_batch(two_processes: Path, tmp_path: Path) -> None:
    alone(tmp_path)
    curves = [
        [json.loads(line)["spread/fit"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (two_processes / "two", tmp_path)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def test_metrics_of_two_processes_with_unequal_shares_are_those_of_one(two_processes: Path) -> None:
    alone = figures(slice(None))
    for together in said(two_processes, "figures"):
        for ours, theirs in zip(together, alone, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6)
    means = [(figures(slice(0, 2))[place][name] + figures(slice(2, 9))[place][name]) / 2 for place, name in LEADING]
    assert not any(
        mean == pytest.approx(alone[place][name], rel=1e-4) for mean, (place, name) in zip(means, LEADING, strict=True)
    )


def test_a_machine_that_does_not_see_the_checkpoints_stops_all_of_them(two_processes: Path) -> None:
    for message in said(two_processes, "apart"):
        assert message is not None
        assert message.startswith("ValueError: the processes would go on from different steps, 3, 0: all machines must")


def test_a_loss_that_is_no_number_in_one_process_stops_all_of_them(two_processes: Path) -> None:
    message = "DivergenceError: step 1: term fit/squared is nan; the samples were samples of step 1"
    assert said(two_processes, "poisoned") == [message, message]


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
