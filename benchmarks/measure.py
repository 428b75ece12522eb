"""How times, memory and agreement are measured, on the CPU and on CUDA devices."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.operators import Contender, Workload

Run = Callable[[], object]
Times = dict[str, list[float]]


def results(value: object) -> list[Tensor]:
    """The tensors that an operator returned."""
    return [value] if isinstance(value, Tensor) else [part for part in value if isinstance(part, Tensor)]  # type: ignore[attr-defined]


def cotangents(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients to start a backward with, the same for every contender."""
    if not outputs:
        return []
    # Drawn where they are needed: gigabytes of them from the CPU would take longer than everything measured.
    generator = torch.Generator(outputs[0].device).manual_seed(1)
    return [torch.randn(value.shape, generator=generator, device=value.device).to(value.dtype) for value in outputs]


def leaves(load: Workload, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Copies of the inputs, with gradients where they have them."""
    return [
        value.detach().clone().to(dtype or value.dtype).requires_grad_(place < load.active)
        for place, value in enumerate(load.inputs)
    ]


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Relative L2 distance."""
    return float((got.detach().double() - expected.detach().double()).norm() / expected.detach().double().norm())


def check_parity(load: Workload, formula: Contender, tolerance: float) -> None:
    """Raise SystemExit unless our values and gradients are those of the formula, evaluated in float64 on the CPU."""
    given = leaves(load)
    got = results(load.contenders["ours"](*given))
    pulls = cotangents(got)
    found = torch.autograd.grad(got, given[: load.active], pulls)
    exact = [value.detach().double().cpu().requires_grad_(value.requires_grad) for value in given]
    wide = results(formula(*exact))
    wanted = torch.autograd.grad(wide, exact[: load.active], [pull.double().cpu() for pull in pulls])
    pairs = [("value", a, b) for a, b in zip(got, wide, strict=True)]
    pairs += [("gradient", a, b) for a, b in zip(found, wanted, strict=True)]
    for name, a, b in pairs:
        error = relative_error(a.cpu(), b)
        if not error <= tolerance:
            raise SystemExit(
                f"parity failed: {name} of {load.operator} differs by {error:.1e} (relative L2); no speed is reported"
            )


def forward(load: Workload, run: Contender) -> Run:
    """A call without gradients."""
    inputs = [value.detach() for value in load.inputs]
    return lambda: run(*inputs)


def both(load: Workload, run: Contender) -> Run:
    """Forward and backward."""
    inputs = leaves(load)
    pulls = cotangents(results(run(*inputs)))
    return lambda: torch.autograd.grad(results(run(*inputs)), inputs[: load.active], pulls)


def backward(load: Workload, run: Contender) -> Run:
    """The backward alone, on a graph that is kept."""
    inputs = leaves(load)
    outputs = results(run(*inputs))
    pulls = cotangents(outputs)
    return lambda: torch.autograd.grad(outputs, inputs[: load.active], pulls, retain_graph=True)


def fits(direction: Callable[[Workload, Contender], Run], load: Workload, run: Contender) -> bool:
    """Whether a contender finds the memory that it needs."""
    try:
        direction(load, run)()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def times(contenders: dict[str, Run], device: str, rounds: int) -> Times:
    """Milliseconds of every contender, one after the other in every round, after two rounds of warm-up."""
    measured: Times = {name: [] for name in contenders}
    for attempt in range(rounds + 2):
        for name, run in contenders.items():
            took = _on_cuda(run) if device == "cuda" else _on_cpu(run)
            if attempt >= 2:
                measured[name].append(took)
    return measured


def _on_cpu(run: Run) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


CACHE = 256 * 2**20
"""Bytes written before a measurement on a GPU, so that nothing of the last one is still in its cache."""

AHEAD = 16
"""How often they are written: the device is busy for a millisecond, in which the call is launched whole."""


def _on_cuda(run: Run) -> float:
    flush = torch.empty(CACHE, dtype=torch.int8, device="cuda")
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(AHEAD):
        flush.zero_()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 20 % and 80 % quantile."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return statistics.median(values), deciles[1], deciles[7]


def kernel_time(run: Run) -> float | None:
    """Milliseconds that posegeom's own kernels take in a call on a GPU, without what PyTorch does around them."""
    flush = torch.empty(CACHE, dtype=torch.int8, device="cuda")
    calls = 10
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            flush.zero_()
            run()
        torch.cuda.synchronize()
    own = [event for event in profiler.events() or () if event.name.startswith("_") and event.name.endswith("_kernel")]
    took = sum(event.device_time for event in own if event.device_type.name == "CUDA")
    return took / calls / 1000 if own else None


def peak_memory(run: Run, device: str) -> int:
    """Bytes that a call has allocated at its worst moment, beyond what was there before it."""
    run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = run()
        peak = torch.cuda.max_memory_allocated() - before
        del kept
        return int(peak)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = run()
    del kept
    # The memory timeline: signed sizes of all allocations in order.
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def copy_ceiling(device: str) -> float:
    """Bytes a second, read and written, of a large copy: what no kernel that lives on memory can beat."""
    count = 2**28 if device == "cuda" else 2**26
    source = torch.empty(count, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    took = times({"copy": lambda: target.copy_(source)}, device, 9)["copy"]
    return 2 * 4 * count / (statistics.median(took) / 1000)
