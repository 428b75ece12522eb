"""docs/results.md: what the trained models reached, from the evaluations kept in docs/results.

    python -m benchmarks.results [RUN ...]

Evaluations of the run folders given are first copied to docs/results, a JSON file each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import table
from posegeom_models.evaluation import HEADS

DOCS = Path(__file__).parents[1] / "docs"
KEPT = DOCS / "results"
Row = dict[str, Any]


def ksp_row(config: Row) -> tuple[str, float | None]:
    """What a run of 002 is called, and the paper's P-MPJPE on Human3.6M (Tables 2 and 4)."""
    variant = {"unsup": ("unsupervised", 89.4), "weakly": ("weakly (2D)", 63.8), "semi": ("semi (3D, 5 %)", 56.1)}
    name, paper = variant[config["variant"]]
    if config["variant"] != "unsup":
        return name, paper
    ablations = {"without_fk": ("w/o T_fk", 134.8), "without_maps": ("w/o T_m", 101.8)}
    if config["network"]["ablation"] in ablations:
        what, paper = ablations[config["network"]["ablation"]]
        return f"{name}, {what}", paper
    return (name, paper) if config["with_unpaired"] else (f"{name}, w/o D_unp", 91.1)


MODELS: dict[str, tuple[str, Callable[[Row], tuple[str, float | None]]]] = {
    "ksp": ("002, kinematic-structure-preserved representation (`ksp`)", ksp_row),
}
"""How each model's runs are told apart."""


def main() -> None:
    """Keep the evaluations of runs, and write the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    for run in parser.parse_args().runs:
        found = sorted((run / "evaluation").glob("*.json"))
        if not found:
            raise SystemExit(f"{run}: has not been evaluated (posegeom evaluate {run})")
        for path in found:
            KEPT.mkdir(exist_ok=True)
            kept = json.dumps(without_folders(json.loads(path.read_text(encoding="utf-8"))), indent=1)
            (KEPT / f"{run.name}_{path.name}").write_text(kept + "\n", encoding="utf-8")
    evaluations = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(KEPT.glob("*.json"))]
    (DOCS / "results.md").write_text(page(evaluations), encoding="utf-8")
    print(f"{len(evaluations)} evaluations in {DOCS / 'results.md'}")


def without_folders(value: Any) -> Any:
    """The same with every absolute path cut to its last name: where files lay is of no use to others."""
    if isinstance(value, dict):
        return {key: without_folders(each) for key, each in value.items()}
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def page(evaluations: list[Row]) -> str:
    """The page as text."""
    lines = [
        "# Results",
        "",
        "What the models reached on the [rendered benchmark](rendered.md). `python -m benchmarks.results` writes",
        "this page from the evaluations kept in `docs/results`. Errors are over all joints of the model's skeleton,",
        "in millimetres, P-MPJPE without reflection. Images, people and motions of the test split were not seen in",
        "training. The constant answer is the mean pose of the training set, turned like the truth: where a model's",
        "P-MPJPE is above it, the mean pose is the better answer. Minutes are those of training, with the frames",
        "that were rendered on the way, often beside other work on the same machine. The paper's number is that on",
        "the paper's own data, a different task: it is there for the order of the rows, not for their size.",
        "",
    ]
    for model, (title, named) in MODELS.items():
        rows = [each for each in evaluations if each["run"]["model"] == model]
        if rows:
            lines += [f"## {title}", "", *results_table(rows, named), ""]
    return "\n".join(lines)


def results_table(evaluations: list[Row], named: Callable[[Row], tuple[str, float | None]]) -> list[str]:
    """A line per evaluation, ordered by variant and seed."""
    figures = [name for name in HEADS if any(name in each["model"] for each in evaluations)]
    heads = ["variant", "trained on", "tested on", *(HEADS[name][0] for name in figures)]
    heads += ["constant: P-MPJPE", "paper, H36M", "size", "steps × batch", "minutes", "machine", "seed", "commit"]
    lines = []
    for each in evaluations:
        run, config, data = each["run"], each["config"], each["data"]
        name, paper = named(config)
        training = config["training"]
        cells = [name, config["data"]["domain"], data["domain"] or config["data"]["domain"]]
        cells += [f"{each['model'][key]:.{HEADS[key][1]}f}" if key in each["model"] else "" for key in figures]
        cells += [f"{each['constant'].get('p_mpjpe', float('nan')):.1f}", "" if paper is None else f"{paper:.1f}"]
        cells += [f"{config['data']['size']}²", f"{run['step']} × {training['batch_size']}"]
        threads = f", {training['threads']} thread" if training["threads"] == 1 else ""
        cells += [f"{run['seconds'] / 60:.1f}", run["machine"] + threads, str(training["seed"]), run["commit"] or ""]
        lines.append(cells)
    return table(heads, sorted(lines, key=lambda cells: (cells[0], cells[1], cells[2], cells[-2])))


if __name__ == "__main__":
    main()
