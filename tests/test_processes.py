"""Two processes on one machine: the steps, curves and figures of one, and how both stop."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("lightning_fabric")
pytest.importorskip("torchmetrics")


from posegeom_models import checkpoints
from posegeom_models.evaluation import ClassScores, PointErrors, PoseErrors
from posegeom_models.training import Descent, TrainingConfig, frozen, launch, mean_over_processes, train
from tests.regression import PROCESSES, ChannelsLast, Numbers, TwoLosses, run, same


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
    attempt("phases", folder / "phases", Phases(), steps=6, checkpoint_every=3)
    attempt("one step", folder / "one step", Phases(), steps=1)
    attempt("phases cut off", folder / "cut off", Phases(), steps=3, checkpoint_every=3)
    attempt("phases resumed", folder / "cut off", Phases(), steps=6, checkpoint_every=3)
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


class Phases(TwoLosses):
    """A body with a normalisation learns; then it rests, as in evaluation, and the head learns. One layer has no part.

    Weights decay as part of the gradient, so that a gradient of zeros is not the same as none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.networks["body"] = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.networks["idle"] = nn.Linear(2, 2)
        parts = {"body": ("body", "idle"), "head": ("head", "idle")}
        self.optimizers = {
            name: torch.optim.Adam([p for one in some for p in self.networks[one].parameters()], 1e-2, weight_decay=0.1)
            for name, some in parts.items()
        }

    def step(self, train: Descent[tuple[Tensor, Tensor]], batch: tuple[Tensor, Tensor], number: int) -> None:
        def fit(part: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
            return {"squared": (self.networks["head"](self.networks["body"](part[0])) - part[1]).square().mean()}

        with frozen(self.networks["head" if number < 3 else "body"]):
            train.minimize("body" if number < 3 else "head", fit, batch)


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


def test_two_processes_go_on_as_they_would_have_and_are_one_network_at_rest(two_processes: Path) -> None:
    """What a normalisation remembers is of all processes, so that the checkpoint of one is that of all."""
    assert [said(two_processes, f"phases{how}") for how in ("", " cut off", " resumed")] == [[None, None]] * 3
    whole, resumed = Phases(), Phases()
    for recipe, folder in ((whole, "phases"), (resumed, "cut off")):
        checkpoints.find(two_processes / folder / "checkpoints")[-1].restore(recipe.networks)
    assert same(whole.networks, resumed.networks)
    x = Numbers(8)
    body, begun = Phases().networks["body"], whole.networks["body"]
    # The mean over the processes of what each batch's share adds: 0.9 of before, and 0.1 of the shares' mean.
    first = torch.stack([body[0](x.batch(0, rank, 2)[0]).mean(0) for rank in range(2)]).mean(0)
    saved = Phases()
    checkpoints.find(two_processes / "one step" / "checkpoints")[-1].restore(saved.networks)
    torch.testing.assert_close(saved.networks["body"][1].running_mean, 0.1 * first)
    assert int(begun[1].num_batches_tracked) == 3


def test_what_has_no_gradient_in_any_process_stays_as_it_is(two_processes: Path) -> None:
    trained = Phases()
    checkpoints.find(two_processes / "phases" / "checkpoints")[-1].restore(trained.networks)
    assert same(trained.networks["idle"], Phases().networks["idle"])
    assert not same(trained.networks["head"], Phases().networks["head"])


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
