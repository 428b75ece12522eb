"""Speed of the map operators on the CPU beside naive eager PyTorch, its compiled form, and kornia.

`make bench` runs this. Parity comes first: where an operator differs from the naive formula, no speed is reported.
Every contender is timed in turn, many rounds in one process; rows hold medians and go to results/<device>.json.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import posegeom as pg
from benchmarks import naive

BATCH, SIZE, SIGMA, WIDTH, GAMMA = 32, (128, 128), 3.0, 2.0, 0.224
BONES = pg.BODY_17.bones
ROUNDS = 15
Maps = Callable[[Tensor], Tensor]

OPERATORS: dict[str, tuple[Maps, Maps]] = {
    "joint_heatmaps": (
        lambda p: pg.joint_heatmaps(p, SIZE, SIGMA),
        lambda p: naive.joint_heatmaps(p, SIZE, SIGMA),
    ),
    "limb_maps": (
        lambda p: pg.limb_maps(p, BONES, SIZE, WIDTH),
        lambda p: naive.limb_maps(p, BONES, SIZE, WIDTH),
    ),
    "skeleton_image": (
        lambda p: pg.skeleton_image(p, BONES, SIZE, GAMMA),
        lambda p: naive.skeleton_image(p, BONES, SIZE, GAMMA),
    ),
}


def kornia_heatmaps() -> Maps | None:
    """Kornia's Gaussians, which sum to 1 instead of peaking at 1; None without kornia."""
    try:
        from kornia.geometry.subpix import render_gaussian2d
    except ImportError:
        return None

    def render(points: Tensor) -> Tensor:
        flat = points.reshape(-1, 2)
        maps: Tensor = render_gaussian2d(flat, torch.full_like(flat, SIGMA), SIZE, False)
        return maps.view(*points.shape[:-1], *SIZE)

    return render


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Relative L2 distance."""
    return float((got.detach() - expected.detach()).norm() / expected.detach().norm())


def check_parity(ours: Maps, formula: Maps, points: Tensor, cotangent: Tensor) -> None:
    """Raise unless values and gradients agree with the naive formula in float64 to 1e-5."""
    exact = points.double().requires_grad_()
    wide = formula(exact)
    (wanted,) = torch.autograd.grad(wide, exact, cotangent.double())
    leaf = points.clone().requires_grad_()
    value = ours(leaf)
    (found,) = torch.autograd.grad(value, leaf, cotangent)
    for name, error in (("value", relative_error(value, wide)), ("gradient", relative_error(found, wanted))):
        if not error <= 1e-5:
            raise SystemExit(f"parity failed: {name} differs by {error:.1e} (relative L2); no speed is reported")


def times(contenders: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of every contender, one after the other in every round."""
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(2):
        for run in contenders.values():
            run()
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            measured[name].append(1000 * (time.perf_counter() - start))
    return measured


def rows() -> list[dict[str, object]]:
    """One row per operator and direction."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(BATCH, 17, 2, generator=generator) * 100 + 14
    result: list[dict[str, object]] = []
    for name, (ours, formula) in OPERATORS.items():
        leaf = points.clone().requires_grad_()
        cotangent = torch.randn(ours(points).shape, generator=generator)
        check_parity(ours, formula, points, cotangent)
        compiled = torch.compile(formula)
        contenders = {"ours": ours, "eager": formula, "compiled": compiled}
        kornia = kornia_heatmaps() if name == "joint_heatmaps" else None
        if kornia is not None:
            contenders["kornia"] = kornia

        def forward(run: Maps) -> Callable[[], object]:
            return lambda: run(points)

        def both(run: Maps, leaf: Tensor = leaf, cotangent: Tensor = cotangent) -> Callable[[], object]:
            return lambda: torch.autograd.grad(run(leaf), leaf, cotangent)

        for direction, wrap in (("forward", forward), ("forward+backward", both)):
            measured = times({key: wrap(run) for key, run in contenders.items()})
            medians = {key: statistics.median(values) for key, values in measured.items()}
            deciles = statistics.quantiles(measured["ours"], n=10)
            row: dict[str, object] = {
                "operator": name,
                "shape": list(cotangent.shape),
                "dtype": "float32",
                "direction": direction,
                "median_ms": round(medians["ours"], 2),
                "p20_ms": round(deciles[1], 2),
                "p80_ms": round(deciles[7], 2),
            }
            row |= {
                f"times_{key}": round(value / medians["ours"], 2) for key, value in medians.items() if key != "ours"
            }
            result.append(row)
            print(json.dumps(row), flush=True)
    return result


def main() -> None:
    """Measure, print and write results/cpu.json."""
    root = Path(__file__).parents[1]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    content = {
        "device": f"cpu, {platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or "unknown",
        "rounds": ROUNDS,
        "rows": rows(),
    }
    target = root / "benchmarks" / "results" / "cpu.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {target.relative_to(root)}")


if __name__ == "__main__":
    main()
