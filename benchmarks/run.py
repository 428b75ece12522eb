"""Measure everything and write results/<device>.json: `python -m benchmarks.run --device cpu`.

Parity comes first: where an operator differs from the plain formula in float64, no speed is reported.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.loading import loading
from benchmarks.measure import (
    backward,
    both,
    check_parity,
    copy_ceiling,
    fits,
    forward,
    kernel_time,
    peak_memory,
    quantiles,
    results,
    times,
)
from benchmarks.model_step import model_steps
from benchmarks.operators import Workload, workload
from benchmarks.rendered import rendered_frames
from benchmarks.training_step import training_step

SECTIONS = ("step", "model", "rendered", "loading", "speed", "memory", "scaling")
RESULTS = Path(__file__).parent / "results"
ROUNDS = {"cpu": 15, "cuda": 30}

# (operator, batch, items, side): what every device is measured at.
PLAN = {
    "cpu": [
        ("joint_heatmaps", 32, 17, 128),
        ("limb_maps", 32, 16, 128),
        ("skeleton_image", 32, 16, 128),
        ("part_maps", 16, 12, 128),
        ("puppet_segmentation", 16, 12, 128),
    ],
    "cuda": [
        (operator, batch, items, side)
        for operator, batch, items in (
            ("joint_heatmaps", 256, 17),
            ("limb_maps", 256, 16),
            ("skeleton_image", 1024, 16),
            ("part_maps", 64, 12),
            ("puppet_segmentation", 64, 12),
        )
        for side in (128, 256)
    ]
    + [
        (operator, batch, items, 0)
        for operator, items in (
            ("forward_kinematics", 17),
            ("project", 17),
            ("camera_rotation", 1),
            ("angles_from_sincos", 3),
            ("bounded_translation", 1),
        )
        for batch in (64, 4096)
    ],
}
DTYPES = {"cpu": [torch.float32], "cuda": [torch.float32, torch.bfloat16]}

# (operator, axis) to the values on that axis; the others stay at batch 8, 16 items, 64 pixels.
SCALING = {"batch": (1, 2, 4, 8, 16, 32, 64), "items": (1, 2, 4, 8, 16, 32, 64), "side": (16, 32, 64, 128, 256)}
SCALED = ("joint_heatmaps", "limb_maps", "skeleton_image")

BUDGET = {"cpu": 2**30, "cuda": 16 * 2**30}
"""Bytes that a batch may take, in the comparison of the largest batches."""


def formula_in_float64(load: Workload) -> Workload:
    """The same workload on the CPU in float64, for its formula."""
    narrow = load.inputs[0].dtype
    side = load.size[0] if load.size else 0
    return workload(load.operator, load.batch, load.items, side, "cpu", torch.float64, narrow)


def moved_bytes(load: Workload, direction: str) -> int:
    """What the direction must read and write: images once, and points and their gradients."""
    outputs = results(load.contenders["ours"](*load.inputs))
    images = sum(value.numel() * value.element_size() for value in outputs)
    inputs = sum(value.numel() * value.element_size() for value in load.inputs)
    both_ways = {"forward": images + inputs, "backward": images + 2 * inputs}
    return both_ways.get(direction, sum(both_ways.values()))


def speed_rows(device: str, ceiling: float, only: list[str] | None = None) -> Iterator[dict[str, object]]:
    """One row per operator (all of them, or `only` some), shape, dtype and direction."""
    # A backward is measured many times on one graph, which a compiled one must not overwrite.
    torch._functorch.config.donated_buffer = False
    for dtype in DTYPES[device]:
        for operator, batch, items, side in PLAN[device]:
            if only and operator not in only:
                continue
            load = workload(operator, batch, items, side, device, dtype)
            # The formula in float64 on the CPU is slow and large: a few samples of the batch say as much.
            small = workload(operator, min(batch, 4), items, side, device, dtype)
            formula = formula_in_float64(small).contenders["eager"]
            check_parity(small, formula, 1e-2 if dtype == torch.bfloat16 else 1e-5)
            torch._dynamo.reset()
            contenders = {**load.contenders, "compiled": torch.compile(load.contenders["eager"])}
            directions = {"forward": forward, "backward": backward} if device == "cuda" else {"forward": forward}
            if device == "cpu":
                directions["forward+backward"] = both
            for direction, wrap in directions.items():
                calls = {name: wrap(load, run) for name, run in contenders.items() if fits(wrap, load, run)}
                measured = times(calls, device, ROUNDS[device])
                median, low, high = quantiles(measured["ours"])
                moved = moved_bytes(load, direction)
                own = kernel_time(calls["ours"]) if device == "cuda" else None
                row: dict[str, object] = {
                    "operator": operator,
                    "shape": load.shape,
                    "dtype": str(dtype).removeprefix("torch."),
                    "direction": direction,
                    "median_ms": round(median, 4),
                    "p20_ms": round(low, 4),
                    "p80_ms": round(high, 4),
                    "bytes_moved": moved,
                    "fraction_of_ceiling": round(moved / ((own or median) / 1000) / ceiling, 3),
                }
                if own is not None:
                    row["kernel_ms"] = round(own, 4)
                for name, values in measured.items():
                    if name != "ours":
                        row[f"times_{name}"] = round(quantiles(values)[0] / median, 2)
                for name, call in calls.items():
                    row[f"peak_bytes_{name}"] = peak_memory(call, device)
                yield row


def renewed(rows: list[dict[str, object]], row: dict[str, object], commit: str) -> list[dict[str, object]]:
    """Rows of speed with one in its old one's place, or at the end; it says at which commit it was measured."""
    same = ("operator", "shape", "dtype", "direction")
    row = {**row, "commit": commit}
    places = [place for place, old in enumerate(rows) if all(old[key] == row[key] for key in same)]
    return [row if place in places else old for place, old in enumerate(rows)] + ([] if places else [row])


def scaling_rows(device: str) -> Iterator[dict[str, object]]:
    """Medians of forward and backward along each axis, for us and for the plain formula."""
    for operator in SCALED:
        for axis, values in SCALING.items():
            for value in values:
                at = {"batch": 8, "items": 16, "side": 64} | {axis: value}
                load = workload(operator, at["batch"], at["items"], at["side"], device, torch.float32)
                pair = {name: load.contenders[name] for name in ("ours", "eager")}
                measured = times({name: both(load, run) for name, run in pair.items()}, device, 7)
                medians = {f"{name}_ms": round(quantiles(took)[0], 4) for name, took in measured.items()}
                yield {"operator": operator, "axis": axis, "value": value, **medians}


def memory_rows(device: str) -> Iterator[dict[str, object]]:
    """The largest batch whose forward and backward stay within a budget, ours beside the plain formula."""
    for operator, _, items, side in PLAN[device]:
        if not side:  # no image, no memory
            continue
        row: dict[str, object] = {"operator": operator, "size": [side, side], "budget_bytes": BUDGET[device]}
        for name in ("ours", "eager"):
            row[f"batch_{name}"] = largest_batch(operator, items, side, device, name)
        yield row


def largest_batch(operator: str, items: int, side: int, device: str, name: str) -> int:
    """The largest batch, of those with at most three binary digits that are not 0, that fits the budget."""

    def within(batch: int) -> bool:
        load = workload(operator, batch, items, side, device, torch.float32)
        inputs = [value.detach().requires_grad_() for value in load.inputs]
        run = load.contenders[name]

        def step() -> object:
            outputs = results(run(*inputs))
            return torch.autograd.grad(outputs, inputs[: load.active], [torch.ones_like(value) for value in outputs])

        return peak_memory(step, device) <= BUDGET[device]

    batch = 1
    while within(2 * batch):
        batch *= 2
    for step in (batch // 2, batch // 4):
        if step and within(batch + step):
            batch += step
    return batch


def machine(device: str) -> dict[str, str]:
    """What the figures were measured on."""
    root = Path(__file__).parents[1]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    try:
        import triton

        version = str(triton.__version__)
    except ImportError:
        version = "none"
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"CPU, {_processor()}, {torch.get_num_threads()} threads"
    )
    return {
        "device": name,
        "torch": torch.__version__,
        "triton": version,
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
    }


def _processor() -> str:
    """The processor's name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Speed and memory of posegeom's operators.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", choices=SECTIONS, action="append")
    parser.add_argument("--operator", choices=sorted({plan[0] for plan in PLAN["cuda"]}), action="append")
    arguments = parser.parse_args()
    if arguments.operator and arguments.only != ["speed"]:
        parser.error("--operator chooses rows of speed: add --only speed and no other section")
    device = arguments.device
    missing = set(arguments.operator or ()) - {plan[0] for plan in PLAN[device]}
    if missing:
        parser.error(f"{min(missing)} has no form of its own to measure on {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is available; run with --device cpu")
    ceiling = copy_ceiling(device)
    here = machine(device)
    content: dict[str, object] = {**here, "copy_ceiling_gb_s": round(ceiling / 1e9, 1)}
    slug = "cpu" if device == "cpu" else "-".join(torch.cuda.get_device_name().lower().split())
    target = RESULTS / f"{slug}.json"
    if arguments.only and target.is_file():
        content = json.loads(target.read_text(encoding="utf-8"))
    if arguments.operator and any(content[key] != here[key] for key in ("device", "torch", "triton")):
        raise SystemExit(f"{target} has rows of another machine or version: measure all of speed anew")
    sections = {
        "step": training_step(device),
        "model": model_steps(device),
        "rendered": rendered_frames(device),
        "loading": loading(device),
        "speed": speed_rows(device, ceiling, arguments.operator),
        "memory": memory_rows(device),
        "scaling": scaling_rows(device),
    }
    target.parent.mkdir(exist_ok=True)
    for name, section in sections.items():
        if arguments.only and name not in arguments.only:
            continue
        rows: list[dict[str, object]] = content.get(name, []) if arguments.operator else []  # type: ignore[assignment]
        if not arguments.operator:
            # A section measured on its own says on what: the rest of the file may be from another machine.
            others = dict(content.get("machines", {}))  # type: ignore[call-overload]
            content["machines"] = {**others, name: here} if arguments.only else others
        for row in section:
            rows = renewed(rows, row, here["commit"]) if arguments.operator else [*rows, row]
            content[name] = rows
            print(json.dumps(row), flush=True)
            # After every row: what was measured is kept whatever happens next.
            target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    report.main()


if __name__ == "__main__":
    main()
