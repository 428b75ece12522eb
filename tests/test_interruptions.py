"""Runs that are killed or stopped, and disks that fill up: what is left goes on, with the same bits."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("lightning_fabric")
pytest.importorskip("torchmetrics")


from posegeom_models import checkpoints
from posegeom_models.training import Descent
from tests.regression import PROCESSES, TwoLosses, run, same, saved_steps


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
