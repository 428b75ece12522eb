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
    name += " + imagined poses" if config.get("lambda_imagined", 0) > 0 else ""
    name += f", D_unp of {config['unpaired_domain']}" if config["unpaired_domain"] else ""
    if config["variant"] != "unsup":
        return name, paper
    ablations = {"without_fk": ("w/o T_fk", 134.8), "without_maps": ("w/o T_m", 101.8)}
    if config["network"]["ablation"] in ablations:
        what, paper = ablations[config["network"]["ablation"]]
        return f"{name}, {what}", paper
    return (name, paper) if config["with_unpaired"] else (f"{name}, w/o D_unp", 91.1)


ROWS_OF_001 = {
    "none": ("all losses", 96.7),
    "without_bl": ("w/o L_bl", 112.3),
    "base": ("L_D + L_Ω + L_base", 122.1),
    "images": ("L_D + L_Ω", 139.3),
}
"""Table 3 of 001."""


def imagepose_row(config: Row) -> tuple[str, float | None]:
    """What a run of 001 is called, and the paper's P-MPJPE on Human3.6M (Table 3)."""
    name, paper = ROWS_OF_001[config["ablation"]]
    name += ", with reconstruction" if config["lambda_image"] > 0 else ""
    name += ", in three channels" if config["image"].get("sides", False) else ""
    name += ", both ways" if config["image"].get("mirrored", False) else ""
    if config["skeleton"] == "HAND_21":
        return f"hands, {name}{'' if config['rotations'] else ', no turned copies'}", None
    return f"{name}, images also of {config['more_images']}" if config["more_images"] else name, paper


def lifting_row(config: Row) -> tuple[str, float | None]:
    """What a run of 001's lifting is called, and the P-MPJPE of the work that it extends (001 Table 1)."""
    names = {"none": "all losses", "without_bl": "w/o L_bl", "base": "L_base"}
    return names[config["ablation"]], 36.7 if config["ablation"] == "none" else None


def pgp_row(config: Row) -> tuple[str, float | None]:
    """What a run of 000 is called, and the papers' P-MPJPE on Human3.6M (000 Tables 2 and 3, 004 Table 1)."""
    variants = {
        "unsup": ("unsupervised", 99.2),
        "multi-view": ("multi-view", 85.8),
        "weakly": ("weakly (2D)", 62.4),
        "semi": (f"semi (3D, {100 * config['labelled_share']:.0f} %)", 50.8),
    }
    name, paper = variants[config["variant"]]
    name += " + poses of D_z without images" if config["network"].get("lifted", False) else ""
    name += " + painted puppets" if config.get("painted_turns", 0) else ""
    name += ", both ways" if config["network"].get("mirrored", False) else ""
    if not config["self_supervised"]:
        return f"{name}, labels alone", None
    ablations = {
        "w/o T_fk∘T_c": (config["network"]["ablation"] == "without_fk", 126.8),
        "w/o q_z": (not config["with_unpaired"], 178.9),
        "w/o m_sal": (config["beta"] == 0, 189.4),
        "w/o adaptation": (not config["adaptation"], 123.7),
    }
    for what, (chosen, number) in ablations.items():
        if chosen:
            return f"{name}, {what}", number if config["variant"] == "unsup" else None
    return name, paper


ROWS_OF_003 = {
    ("dsl", "swap", True, True, True): "all losses",
    ("css", "swap", True, True, True): "CSS-STN-Dec-Split",
    ("dsl", "none", True, True, False): "DSL-STN-Dec",
    ("dsl", "none", True, False, False): "DSL-STN",
    ("dsl", "none", False, False, False): "DSL",
    ("none", "none", True, True, False): "AE-STN-Dec",
    ("css", "none", False, False, False): "CSS",
    ("mv-css", "none", False, False, False): "MV-CSS",
    ("none", "adversary", True, True, True): "DrNet",
    ("none", "views", True, True, True): "NSD",
}
"""Tables 1 and 5 of 003: contrast and disentanglement, and whether there are a detector, a decoder and two codes."""


def temporal_row(config: Row) -> tuple[str, float | None]:
    """What a run of 003 is called; the paper has no P-MPJPE of it on Human3.6M."""
    network = config["network"]
    found = network["detector"] != "none"
    name = ROWS_OF_003[config["contrast"], config["disentangle"], found, network["decoder"], network["split"]]
    data = config["data"]
    name += ", anywhere" if data["anywhere"] > 0 else ""
    name += f", clips of {data['frames'] / data['frame_rate']:g} s"
    return f"{name}, {100 * config['labelled_share']:g} % labels", None


MODELS: dict[str, tuple[str, Callable[[Row], tuple[str, float | None]]]] = {
    "ksp": ("002, kinematic-structure-preserved representation (`ksp`)", ksp_row),
    "pgp": ("000 and 004, part-guided novel image synthesis (`pgp`)", pgp_row),
    "imagepose": ("001, 3D pose from a single image (`imagepose`)", imagepose_row),
    "lifting": ("001, lifting from given 2D poses (`lifting`; the paper's number is with reflection)", lifting_row),
    "temporal": ("003, contrastive disentanglement of video (`temporal`)", temporal_row),
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
        "Scores of parts are the model's, then those of the parts without shape, then the constant answer's; F1",
        "of the person is the mean of person and background, IoU the person's alone. 2D is the mean error in",
        "percent of the image's side; PCK and AUC are at 150 mm. Steps of which some are missing were stopped by",
        "the clock; a commit with + had changes that were not committed. The whole configuration of a row is in",
        "its JSON in `docs/results`.",
        "",
        "What rows are called, and how to get them: 002, imagined poses `--lambda_imagined 1`, w/o D_unp",
        "`--with_unpaired false`, w/o T_fk and T_m `--network.ablation without_fk` and `without_maps`. 000, poses",
        "of D_z without images `--network.lifted true`, painted puppets `--painted_turns` above 0, w/o T_fk∘T_c",
        "`--network.ablation without_fk`, w/o q_z `--with_unpaired false`, w/o m_sal `--beta 0`, w/o adaptation",
        "`--adaptation false`. 001, with reconstruction `--lambda_image` above 0, in three channels `--image.sides",
        "true`, rows of its Table 3 `--ablation`. Both ways: `--image.mirrored true` or `--network.mirrored true`.",
        "003, baselines by their configurations, labels `--labelled_share`.",
        "",
    ]
    for model, (title, named) in MODELS.items():
        rows = [each for each in evaluations if each["run"]["model"] == model]
        if rows:
            lines += [f"## {title}", "", *results_table(rows, named), ""]
    return "\n".join(lines)


def figure(evaluation: Row, key: str) -> str:
    """The model's figure; of parts, also that of the parts without shape and that of the constant answer."""
    answers = ("model", "unaware", "constant") if key.startswith(("f1", "iou")) else ("model",)
    told = [evaluation[answer][key] for answer in answers if key in evaluation.get(answer, {})]
    return " / ".join(f"{value:.{HEADS[key][1]}f}" for value in told)


def of_all(step: int, steps: int) -> str:
    """How many steps there were to be, where a run was stopped before."""
    return f" of {steps}" if step < steps else ""


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
        # Lifting has motion and no images: no domain, no size.
        own = config["data"].get("domain", "")
        cells = [name, own, data["domain"] or own]
        cells += [figure(each, key) for key in figures]
        cells += [f"{each['constant'].get('p_mpjpe', float('nan')):.1f}", "" if paper is None else f"{paper:.1f}"]
        cells += [
            f"{config['data']['size']}²" if "size" in config["data"] else "",
            # A run that was stopped early has not had its slow last steps.
            f"{run['step']}{of_all(run['step'], training['steps'])} × {training['batch_size']}",
        ]
        threads = f", {training['threads']} thread" if training["threads"] == 1 else ""
        cells += [f"{run['seconds'] / 60:.1f}", run["machine"] + threads, str(training["seed"]), run["commit"] or ""]
        lines.append(cells)
    return table(heads, sorted(lines, key=lambda cells: (cells[0], cells[1], cells[2], cells[-2])))


if __name__ == "__main__":
    main()
