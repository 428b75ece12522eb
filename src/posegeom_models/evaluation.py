"""One evaluator for all models: pose errors and part scores over a whole set, beside answers that look at no image."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

import posegeom as pg
from posegeom_models.data.reels import Frames, Reel


class PoseErrors(Metric):
    """MPJPE, N-MPJPE, P-MPJPE (mm), PCK at 150 mm and AUC (%) over all poses given, root at the pelvis.

    Sums add up over processes, so the result is that of one process over all poses.

    Args:
        root: number of the pelvis.
        joints: the joints that count for PCK and AUC; None for all.
    """

    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self, root: int, joints: Sequence[int] | None = None) -> None:
        super().__init__()
        self.root, self.joints = root, joints
        self.add_state("sums", torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Poses (B, J, 3) in metres, in any common axes."""
        prediction, target = prediction.double(), target.double()
        root, joints = self.root, self.joints
        if len(prediction) == 0:
            return
        means = (
            pg.p_mpjpe(prediction, target),
            pg.n_mpjpe(prediction, target, root=root),
            pg.mpjpe(prediction, target, root=root),
            pg.pck(prediction, target, root=root, joints=joints),
            pg.auc(prediction, target, root=root, joints=joints),
        )
        self.sums = self.sums + len(prediction) * torch.stack(means).to(self.sums)
        self.count = self.count + len(prediction)

    def compute(self) -> dict[str, float]:
        """The five figures by their names; nan over no poses."""
        values = self.sums / self.count
        scales = {"p_mpjpe": 1000, "n_mpjpe": 1000, "mpjpe": 1000, "pck": 100, "auc": 100}
        return {name: scale * float(value) for (name, scale), value in zip(scales.items(), values, strict=True)}


class PartScores(Metric):
    """F1 and IoU of part segmentation, counted over the whole set: person against background, and mean over parts.

    Args:
        classes: number of classes, class 0 the background.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("confusion", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Labels (B, H, W)."""
        pairs = target.long().flatten() * self.classes + prediction.long().flatten()
        counts = torch.bincount(pairs, minlength=self.classes**2).view(self.classes, self.classes)
        self.confusion = self.confusion + counts

    def compute(self) -> dict[str, float]:
        """Figures in [0, 1], over the classes person and background, and over all; nan where a class never occurs."""
        confusion = self.confusion.double()
        two = torch.stack(
            (
                torch.stack((confusion[0, 0], confusion[0, 1:].sum())),
                torch.stack((confusion[1:, 0].sum(), confusion[1:, 1:].sum())),
            )
        )
        result = {}
        for name, counts in (("person", two), ("parts", confusion)):
            hit = counts.diagonal()
            either = counts.sum(0) + counts.sum(1)
            result[f"f1_{name}"] = float((2 * hit / either).mean())
            result[f"iou_{name}"] = float((hit / (either - hit)).mean())
        return result


Predict = Callable[[Tensor], tuple[Tensor, Tensor]]


def evaluate(predict: Predict, reel: Reel, mean_pose: Tensor, mean_points: Tensor, batch: int = 64) -> dict[str, Any]:
    """Scores of a model on a reel, beside the mean pose and the mean 2D pose of the training set.

    Args:
        predict: images (B, 3, H, W) to joints (B, J, 3) about the pelvis in the camera's axes and points (B, J, 2).
        reel: the test frames.
        mean_pose: (J, 3) canonical.
        mean_points: (J, 2) pixels.
        batch: images at a time.

    Returns:
        {"model": scores, "mean": scores, "frames": count}; "2d" is the mean distance in percent of the image's side.
    """
    root = reel.skeleton.root
    errors = {"model": PoseErrors(root), "mean": PoseErrors(root)}
    off = dict.fromkeys(errors, 0.0)
    side = reel.image.shape[-1]
    for start in range(0, len(reel), batch):
        frames: Frames = reel.frames(torch.arange(start, min(start + batch, len(reel))))
        with torch.no_grad():
            joints, points = predict(frames.image)
        # The mean pose is turned like the truth: it knows the view, and still is the worse answer.
        turned = mean_pose.expand_as(frames.canonical) @ pg.canonicalize(frames.joints, reel.skeleton).rotation.mT
        for name, pose, place in (("model", joints, points), ("mean", turned, mean_points.expand_as(frames.points))):
            errors[name].update(pose.cpu(), frames.joints)
            off[name] += float((place.cpu() - frames.points).norm(dim=-1).mean(-1).sum())
    return {
        **{name: {**errors[name].compute(), "2d": 100 * off[name] / side / max(len(reel), 1)} for name in errors},
        "frames": len(reel),
    }


def write(folder: Path, scores: Mapping[str, Any]) -> None:
    """evaluation.json, and evaluation.csv with a row per answer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    with (folder / "evaluation.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = list(scores["model"])
        writer.writerow(["answer", *names])
        for answer in ("model", "mean"):
            writer.writerow([answer, *(f"{scores[answer][name]:.4f}" for name in names)])


def show(scores: Mapping[str, Any]) -> None:
    """A table on the screen."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{scores['frames']} test frames")
    heads = {
        "p_mpjpe": "P-MPJPE mm",
        "n_mpjpe": "N-MPJPE mm",
        "mpjpe": "MPJPE mm",
        "pck": "PCK %",
        "auc": "AUC %",
        "2d": "2D %",
    }
    table.add_column("")
    for head in heads.values():
        table.add_column(head, justify="right")
    for answer, label in (("model", "model"), ("mean", "mean pose")):
        table.add_row(label, *(f"{scores[answer][name]:.1f}" for name in heads))
    Console().print(table)
