"""The training engine: steps, optimizers per loss, processes, checkpoints and logs, on Lightning Fabric.

A model's recipe says what one step does, loss by loss. The engine gives it the batch of that step, and `Descent`,
which takes one optimizer step on one named loss. Everything random in a step follows from (seed, step, process), and
the batch from (seed, step), so that a run which was killed and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from posegeom_models import checkpoints
from posegeom_models.curves import Log
from posegeom_models.graphs import Gradients, Graphs
from posegeom_models.ranges import check_choices, check_numbers

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Batch = TypeVar("Batch")
Objective = Callable[[Batch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class TrainingConfig:
    """How long, where and how a model is trained.

    Args:
        steps: how many steps in all.
        batch_size: samples of one step over all processes.
        accumulate: in how many parts a process takes its share of a batch, to save memory.
        seed: of everything random.
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: processes on this machine.
        machines: machines; start the same command on each with torchrun.
        precision: "32-true" or "bf16-mixed". Geometry stays in float32.
        threads: CPU threads of a process; 0 leaves PyTorch's choice.
        workers: processes that prepare batches; 0 prepares them in the training process.
        checkpoint_every: steps between checkpoints.
        keep: how many checkpoints stay.
        log_every: steps between points of the curves.
        picture_every: steps between pictures in the log; 0 draws none.
        graphs: on a CUDA device, record the losses and their gradients as graphs and replay these: small networks then
            do not wait for their launches. For one device, and for `pgp`.
        clip_norm: largest norm of a loss's gradient; 0 for any.
        warmup: steps in which the learning rates rise to their values.
        decay: "none", or "cosine": from there the learning rates fall to 0 by a cosine over all steps.
    """

    steps: int = 10_000
    batch_size: int = 32
    accumulate: int = 1
    seed: int = 0
    accelerator: str = "auto"
    devices: int = 1
    machines: int = 1
    precision: str = "32-true"
    threads: int = 0
    workers: int = 0
    checkpoint_every: int = 500
    keep: int = 2
    log_every: int = 20
    picture_every: int = 0
    graphs: bool = False
    clip_norm: float = 0.0
    warmup: int = 0
    decay: str = "none"

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "at least 1",
            "steps",
            "batch_size",
            "accumulate",
            "devices",
            "machines",
            "checkpoint_every",
            "keep",
            "log_every",
        )
        share = self.batch_size / (self.devices * self.machines * self.accumulate)
        if share != int(share):
            raise ValueError(
                f"batch_size must be a multiple of devices x machines x accumulate = "
                f"{self.devices * self.machines * self.accumulate}, got {self.batch_size}"
            )
        if self.graphs and self.devices * self.machines * self.accumulate > 1:
            raise ValueError(
                "graphs must be false where devices, machines or accumulate is above 1, got "
                f"{self.devices}, {self.machines} and {self.accumulate}: a graph is of one process's whole batch"
            )
        check_numbers(self, "at least 0", "seed", "workers", "threads", "picture_every", "warmup", "clip_norm")
        if self.seed >= 2**31:  # the seeds of single steps, made of it, must fit into 63 bits
            raise ValueError(f"seed must be below 2**31, got {self.seed}")
        check_choices(self, precision=("32-true", "bf16-mixed"), decay=("none", "cosine"))

    def rate(self, step: int) -> float:
        """What a step's learning rates are multiplied with."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        return rise if self.decay == "none" else rise * (1 + math.cos(math.pi * step / self.steps)) / 2


OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    "adagrad": torch.optim.Adagrad,
    "adam": partial(torch.optim.Adam, fused=True),
}
"""PyTorch's, by the names in configurations; fused where that is to be had on every device."""


class Recipe(Protocol[Batch]):
    """A model in training, as its paper tells it.

    `networks` is all that is saved. `optimizers` has one optimizer per named loss. `recordable` says whether its losses
    may be recorded (`posegeom_models.graphs.Graphs`).
    """

    networks: nn.Module
    optimizers: Mapping[str, Optimizer]
    recordable: bool

    def step(self, train: Descent[Batch], batch: Batch, number: int) -> None:
        """Step `number`: one or more calls of `train.minimize`, in the paper's order."""

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Images (3, H, W) in [0, 1] for the log."""


class BatchSource(Protocol[Batch]):
    """Where batches come from."""

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        """This process's share of the batch of a step: the same whenever it is asked for.

        Samples are dealt so that the shares of all processes together are the batch of a single one.
        """

    def part(self, batch: Batch, number: int, count: int) -> Batch:
        """One of `count` equal parts of a process's batch."""

    def describe(self, step: int) -> str:
        """Which samples a step has, for the report on a step that went wrong."""


class DivergenceError(ArithmeticError):
    """A loss was not a number."""


@dataclass
class Descent(Generic[Batch]):
    """One step's way down: every call of `minimize` moves the parameters of one optimizer.

    Args:
        fabric: devices and processes.
        optimizers: by the name of their loss.
        source: for the parts of a batch.
        config: accumulation and clipping.
        step: number of the step.
        graphs: recordings of the losses; None to compute them anew.
    """

    fabric: Fabric
    optimizers: Mapping[str, Optimizer]
    source: BatchSource[Batch]
    config: TrainingConfig
    step: int = 0
    graphs: Graphs | None = None
    values: dict[str, Tensor] = field(default_factory=dict)

    def minimize(self, name: str, objective: Objective[Batch], batch: Batch, case: Hashable = None) -> None:
        """One step of optimizer `name` on the sum of the terms that `objective` gives for (parts of) the batch.

        Only that optimizer's parameters receive a gradient; it is the mean over all parts and processes.

        Args:
            name: of the loss.
            objective: its terms for a batch.
            batch: this process's share.
            case: numbers that `objective` was made with, if they change in a training: a recording is of one case.

        Raises:
            DivergenceError: a term is NaN or infinite; names the step, the term and the samples.
        """
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.config.rate(self.step)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        sums: list[Tensor | None] = [None] * len(parameters)
        count = self.config.accumulate
        for number in range(count):
            part = batch if count == 1 else self.source.part(batch, number, count)
            compute = partial(self._gradients, objective, parameters)
            terms, found = compute(part) if self.graphs is None else self.graphs.gradients((name, case), compute, part)
            self._note(name, terms, count)
            for place, gradient in enumerate(found):
                if gradient is not None:  # the parameter had a part in the loss
                    earlier = sums[place]
                    sums[place] = gradient if earlier is None else earlier + gradient
        self._average(parameters, sums)
        for parameter, mean in zip(parameters, sums, strict=True):
            # Fused optimizers read both as they lie in memory, and autograd.grad does not lay gradients out for them.
            if mean is not None and mean.stride() != parameter.stride():
                mean = torch.empty_like(parameter).copy_(mean)
            parameter.grad = mean
        if self.config.clip_norm > 0:
            nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _gradients(self, objective: Objective[Batch], parameters: Sequence[Tensor], part: Batch) -> Gradients:
        with self.fabric.autocast():
            terms = objective(part)
            total = torch.stack([term.float() if term.dtype != torch.float64 else term for term in terms.values()])
            total = total.sum() / self.config.accumulate
        found = torch.autograd.grad(total, parameters, allow_unused=True)
        return Gradients({term: value.detach() for term, value in terms.items()}, list(found))

    def _note(self, name: str, terms: Mapping[str, Tensor], count: int) -> None:
        for term, value in terms.items():
            label = f"{name}/{term}"
            self.values[label] = self.values.get(label, torch.zeros((), device=value.device)) + value / count

    def _average(self, parameters: Sequence[Tensor], gradients: list[Tensor | None]) -> None:
        """The mean gradient of all processes; where one has none, others may, and zeros stand in for it.

        Where no process has one, there is none: an optimizer would take zeros for a gradient, decay, and count steps.
        """
        if self.fabric.world_size == 1:
            return
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        mine = [gradient is not None for gradient in gradients]
        joined = torch.cat([*(gradient.flatten() for gradient in filled), filled[0].new_tensor(mine)])
        mean = torch.as_tensor(self.fabric.all_reduce(joined, reduce_op="mean"))
        *pieces, shares = mean.split([*(gradient.numel() for gradient in filled), len(filled)])
        somewhere = mine if all(mine) else (shares > 0).tolist()
        for place, piece in enumerate(pieces):
            gradients[place] = piece.view_as(filled[place]) if somewhere[place] else None

    def finite_values(self) -> dict[str, float]:
        """This step's terms, means over all processes; raises `DivergenceError` where one is no finite number.

        A term that is not finite for one process is not finite for any: all of them stop, and none waits for another.
        """
        if not self.values:
            return {}
        terms = torch.stack([value.float() for value in self.values.values()])
        if self.fabric.world_size > 1:
            terms = torch.as_tensor(self.fabric.all_reduce(terms, reduce_op="mean"))
        numbers = terms.tolist()
        for label, number in zip(self.values, numbers, strict=True):
            if not math.isfinite(number):
                raise DivergenceError(
                    f"step {self.step}: term {label} is {number}; the samples were {self.source.describe(self.step)}"
                )
        return dict(zip(self.values, numbers, strict=True))


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within it, modules are as in evaluation: no gradient to their parameters, norms by running statistics."""
    flags = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for module in modules:
            module.eval()
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for part, training in modes:
            part.training = training


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Within it, batch normalisation uses the batch's statistics without adding them to its running ones.

    For passes over images that no test image is like, such as the re-encoding of a reconstruction.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean over dimension 0 of the batch that all processes hold together, with gradients to every share."""
    mean = values.mean(0)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from torch.distributed.nn.functional import all_reduce

        mean = all_reduce(mean) / torch.distributed.get_world_size()
    return mean


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during training, after the checkpoint was written."""


class _Interruption:
    """Notes Ctrl-C, so that a step is finished and saved; a second one ends at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Interruption:
        try:
            self._before = signal.signal(signal.SIGINT, self._note)
        except ValueError:  # not in the main thread: Ctrl-C is not ours
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class _Steps(torch.utils.data.Dataset[Any]):
    """A source's batches by number of the step, for PyTorch's loader and its worker processes."""

    def __init__(self, source: BatchSource[Any], rank: int, world_size: int) -> None:
        self.source, self.rank, self.world_size = source, rank, world_size

    def __getitem__(self, step: int) -> Any:
        return self.source.batch(step, self.rank, self.world_size)


def _leave_interruptions(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; only the training process answers it, by saving."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def launch(config: TrainingConfig) -> Fabric:
    """Devices and processes, as the configuration (or torchrun) has them.

    Raises:
        ValueError: the accelerator is not there.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    if config.threads:
        torch.set_num_threads(config.threads)
    several = config.devices * config.machines > 1
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.machines,
            strategy="ddp" if several else "auto",
            precision=config.precision,  # type: ignore[arg-type]
        )
    except (MisconfigurationException, RuntimeError) as error:
        raise ValueError(f"accelerator {config.accelerator!r} cannot be used: {error}") from error
    fabric.launch()
    return fabric


def to_device(recipe: Recipe[Batch], device: torch.device) -> None:
    """Move a recipe's networks, and with them what its optimizers remember: Adagrad has its sums from the beginning."""
    recipe.networks.to(device)
    for optimizer in recipe.optimizers.values():
        # Loading puts every sum and mean where its parameter is now.
        optimizer.load_state_dict(optimizer.state_dict())


def train(
    recipe: Recipe[Batch],
    source: BatchSource[Batch],
    config: TrainingConfig,
    folder: Path,
    fabric: Fabric,
    quiet: bool = False,
) -> dict[str, float]:
    """Train until `config.steps`, from the newest checkpoint in `folder` if there is one; return the last values.

    Raises:
        ValueError: the checkpoint is damaged or another model's, or other processes do not have it; graphs are asked
            for and the recipe's losses cannot be recorded.
        DivergenceError: a loss was not finite. The last checkpoint is from before that.
        Interrupted: Ctrl-C; a checkpoint of the last finished step has been written.
        OSError: a checkpoint could not be written; the one before it is untouched.
    """
    if config.graphs and not recipe.recordable:
        raise ValueError("training.graphs must be false: this model's losses change from step to step")
    to_device(recipe, fabric.device)
    graphs = Graphs() if config.graphs and fabric.device.type == "cuda" else None
    saved = checkpoints.find(folder / "checkpoints")
    start, seconds = saved[-1].step if saved else 0, 0.0
    _check_same_start(fabric, start, folder)
    if saved:
        seconds = saved[-1].restore(recipe.networks, recipe.optimizers).get("seconds", 0.0)
    began = time.perf_counter()
    _share_weights(fabric, recipe.networks)
    loader = torch.utils.data.DataLoader(
        _Steps(source, fabric.global_rank, fabric.world_size),
        batch_size=None,
        sampler=range(start, config.steps),
        num_workers=config.workers,
        pin_memory=fabric.device.type == "cuda",
        multiprocessing_context="spawn" if config.workers else None,
        worker_init_fn=_leave_interruptions,
    )
    values: dict[str, float] = {}
    before: Descent[Batch] | None = None
    with _Interruption() as interruption, Log(folder, fabric, config, start, quiet) as log:
        recipe.networks.train()
        waited = time.perf_counter()
        for step, batch in zip(range(start, config.steps), loader, strict=True):
            batch = fabric.to_device(batch)
            log.waited += time.perf_counter() - waited
            # Everything random in the step follows from its number: nothing needs to be saved to resume it.
            torch.manual_seed((config.seed * 1_000_003 + step) * 4_093 + fabric.global_rank)
            descent = Descent(fabric, recipe.optimizers, source, config, step, graphs)
            recipe.step(descent, batch, step)
            _share_statistics(fabric, recipe.networks)
            # One step late: looking at a step's values at once would keep a GPU waiting for its next step.
            if before is not None:
                before.finite_values()
            before = descent
            done, last = step + 1, step + 1 == config.steps
            stop = _anywhere(fabric, interruption.asked)
            saving = done % config.checkpoint_every == 0 or last or stop
            if done % config.log_every == 0 or saving:
                values = descent.finite_values()
                log.point(done, values)
            log.advance()
            if config.picture_every and done % config.picture_every == 0 and fabric.is_global_zero:
                recipe.networks.eval()
                with torch.no_grad():
                    log.pictures(done, recipe.pictures(batch))
                recipe.networks.train()
            if saving:
                if _anywhere(fabric, not _all_finite(recipe.networks)):
                    raise DivergenceError(
                        f"step {step}: a weight is not finite after it; the samples were {source.describe(step)}"
                    )
                if fabric.is_global_zero:
                    spent = seconds + time.perf_counter() - began
                    state = {"seed": config.seed, "values": values, "seconds": round(spent, 1)}
                    checkpoints.save(
                        folder / "checkpoints", done, recipe.networks, recipe.optimizers, state, config.keep
                    )
                fabric.barrier()
            if stop and not last:
                raise Interrupted(f"stopped after step {done}; the same command goes on from there")
            waited = time.perf_counter()
    return values


def _check_same_start(fabric: Fabric, start: int, folder: Path) -> None:
    """Raise on every process unless all of them found the same checkpoint: only the first one writes any."""
    if fabric.world_size == 1:
        return
    steps = torch.as_tensor(fabric.all_gather(torch.tensor(start, device=fabric.device))).tolist()
    if len(set(steps)) > 1:
        raise ValueError(
            f"the processes would go on from different steps, {', '.join(map(str, steps))}: all machines must see the "
            f"checkpoints of {folder}, so put it on a disk that they share"
        )


def _share_weights(fabric: Fabric, networks: nn.Module) -> None:
    """Every process starts from the weights of the first one."""
    if fabric.world_size > 1:
        for value in networks.state_dict().values():
            torch.distributed.broadcast(value, 0)


def _share_statistics(fabric: Fabric, networks: nn.Module) -> None:
    """Every process gets the mean of the running statistics, which each has of its own share of the batches.

    Networks at rest go by them, and checkpoints hold the first process's: all of them must be one network.
    """
    if fabric.world_size == 1:
        return
    norms = [part for part in networks.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    kept = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
    if kept:
        means = torch.as_tensor(fabric.all_reduce(torch.cat(kept), reduce_op="mean"))
        for value, mean in zip(kept, means.split([len(value) for value in kept]), strict=True):
            value.copy_(mean)


def _all_finite(networks: nn.Module) -> bool:
    return all(bool(value.isfinite().all()) for value in networks.parameters())


def _anywhere(fabric: Fabric, flag: bool) -> bool:
    """Whether any process says so; all of them have to stop together."""
    if fabric.world_size == 1:
        return flag
    count = fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum")
    return bool(torch.as_tensor(count) > 0)
