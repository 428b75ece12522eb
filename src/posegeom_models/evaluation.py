"""One evaluator for all models: pose errors and part scores over a whole set, beside answers that look at no image."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

import posegeom as pg
from posegeom.capsules import part_joints
from posegeom_models.data.files import replace_text
from posegeom_models.data.lsp import IGNORED
from posegeom_models.data.reels import Reel


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


class PointErrors(Metric):
    """The mean distance of 2D points from where they are, in percent of the image's side, over all poses given.

    Args:
        side: of the images, in pixels.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Points (B, J, 2) in pixels."""
        self.total = self.total + (prediction - target).norm(dim=-1).mean(-1).sum().to(self.total)
        self.count = self.count + len(prediction)

    def compute(self) -> dict[str, float]:
        """The figure by its name, "2d"; nan over no poses."""
        return {"2d": 100 * float(self.total) / self.side / int(self.count) if self.count else float("nan")}


class ClassScores(Metric):
    """F1 and IoU of a segmentation, counted over the whole set.

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
        """Labels (B, H, W); pixels whose true one is `IGNORED` do not count."""
        known = target != IGNORED
        pairs = target[known].long() * self.classes + prediction[known].long()
        counts = torch.bincount(pairs, minlength=self.classes**2).view(self.classes, self.classes)
        self.confusion = self.confusion + counts

    def compute(self) -> dict[str, float]:
        """In [0, 1]: "f1" and "iou", means over the classes, "iou_front", without the background, and "iou_last".

        A class that never occurs counts as 0.
        """
        confusion = self.confusion.double()
        hit = confusion.diagonal()
        either = confusion.sum(0) + confusion.sum(1)
        iou = hit / (either - hit).clamp(min=1)
        f1 = 2 * hit / either.clamp(min=1)
        means = {"f1": f1.mean(), "iou": iou.mean(), "iou_front": iou[1:].mean(), "iou_last": iou[-1]}
        return {name: float(value) for name, value in means.items()}


class Prediction(NamedTuple):
    """What a model says of B images; None where it says nothing.

    Attributes:
        joints: (B, J, 3) metres about the pelvis, in the camera's axes (x right, y down, z forward).
        points: (B, J, 2) pixels of the image.
        labels: (B, H, W) parts, 0 the background, numbered like the rendered benchmark's.
        mask: (B, H, W) bool, the person; labels that are not 0 where there are labels.
        unaware: (B, H, W) parts as `labels`, told by the pose alone, without the person's shape.
    """

    joints: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    unaware: Tensor | None = None


Predict = Callable[[Tensor], Prediction]


@dataclass(frozen=True, eq=False)
class Constants:
    """Answers that look at no image: what is usual in a training set.

    Means, not the best there could be. One pose fitted to all poses of the rendered benchmark's training set has a
    P-MPJPE on the test set that is 3 % lower than that of the mean in canonical axes.

    Args:
        joints: (J, 3) the mean canonical pose.
        points: (J, 2) the mean 2D pose.
        labels: (H, W) uint8, for each pixel the part (or background) that is there most often; None for models that
            tell joints alone.
        mask: (H, W) bool, the pixels where the person is often enough: of all shares, the one with the best IoU; None
            for models that tell joints alone.
    """

    joints: Tensor
    points: Tensor
    labels: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def of(cls, reel: Reel, parts: bool = True, most: int = 1024) -> Constants:
        """From the frames of a reel; with `parts`, labels and mask from at most so many of them, evenly spread."""
        if not parts:  # frames of a film would be rendered for nothing else
            return cls(reel.mean_pose(), reel.points.mean(0))
        every = -(-len(reel) // most)
        labels = reel.frames(torch.arange(0, len(reel), every)).labels
        person = (labels > 0).float().mean(0)
        best, most_iou = person > 1, -1.0
        for share in torch.linspace(0.02, 0.6, 30).tolist():
            mask = person >= share
            hit = float(person[mask].sum())
            iou = hit / (float(mask.sum()) + float(person.sum()) - hit + 1e-9)
            if iou > most_iou:
                best, most_iou = mask, iou
        often = torch.stack([(labels == number).float().mean(0) for number in range(int(labels.max()) + 1)])
        return cls(reel.mean_pose(), reel.points.mean(0), often.argmax(0).to(torch.uint8), best)

    def save(self, path: Path) -> None:
        """As safetensors, at once.

        Raises:
            OSError: it could not be written, for want of space say; what was there before is untouched.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        temporary = path.with_name(f".{path.name}.tmp")
        try:
            values = {name: getattr(self, name) for name in self._shapes(0, 0)}
            save_file({name: value.contiguous() for name, value in values.items() if value is not None}, temporary)
            temporary.replace(path)
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from None
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def _shapes(joints: int, side: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        return {
            "joints": ((joints, 3), torch.float32),
            "points": ((joints, 2), torch.float32),
            "labels": ((side, side), torch.uint8),
            "mask": ((side, side), torch.bool),
        }

    @classmethod
    def load(cls, path: Path, joints: int, side: int) -> Constants:
        """What `save` wrote.

        Args:
            path: the file.
            joints: J, that it must have.
            side: H and W, that it must have.

        Raises:
            ValueError: the file is not there, damaged, or of other joints or another size.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            loaded = cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        for name, (shape, dtype) in cls._shapes(joints, side).items():
            value = getattr(loaded, name)
            if value is not None and (tuple(value.shape), value.dtype) != (shape, dtype):
                raise ValueError(f"{path}: {name} must be {shape} {dtype}, got {tuple(value.shape)} {value.dtype}")
        return loaded


class _Scores:
    """One answer's figures while a reel goes by; what the answer does not say has none."""

    def __init__(self, reel: Reel, scored: Sequence[int] | None) -> None:
        self.reel = reel
        # What the source does not know in every frame is in no figure.
        self.known = torch.nonzero(reel.known.all(0)).flatten().tolist()
        self.root = self.known.index(reel.skeleton.root)
        self.scored = None if scored is None else [self.known.index(joint) for joint in scored if joint in self.known]
        self.errors = self._pose_errors()
        self.by_action: dict[str, PoseErrors] = defaultdict(self._pose_errors)
        self.parts = ClassScores(1 + len(part_joints(reel.skeleton)))
        self.person = ClassScores(2)
        self.off, self.off_either = (PointErrors(reel.image.shape[-1]) for _ in range(2))
        self.said: set[str] = set()

    def _pose_errors(self) -> PoseErrors:
        return PoseErrors(self.root, self.scored)

    def update(self, said: Prediction, numbers: Tensor) -> None:
        reel = self.reel
        self.said |= {name for name, value in said._asdict().items() if value is not None}
        if said.joints is not None:
            pose, truth = said.joints[:, self.known], reel.joints[numbers][:, self.known]
            self.errors.update(pose, truth)
            actions = reel.actions(numbers)
            for action in set(actions):
                rows = [row for row, name in enumerate(actions) if name == action]
                self.by_action[action].update(pose[rows], truth[rows])
        if said.points is not None:
            points, told = reel.points[numbers][:, self.known], said.points[:, self.known]
            exchanged = said.points[:, list(reel.skeleton.mirror)][:, self.known]
            nearer = (exchanged - points).norm(dim=-1).mean(-1) < (told - points).norm(dim=-1).mean(-1)
            self.off.update(told, points)
            self.off_either.update(torch.where(nearer[:, None, None], exchanged, told), points)
        if not reel.segmented:
            return
        if said.labels is not None:
            self.said.add("parts")
            self.parts.update(said.labels, reel.labels[numbers])
        mask = said.mask if said.mask is not None or said.labels is None else said.labels > 0
        if mask is not None:
            self.said.add("person")
            labels = reel.labels[numbers]
            self.person.update(mask, torch.where(labels == IGNORED, labels, (labels > 0).to(labels)))

    def compute(self) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        if "joints" in self.said:
            figures |= self.errors.compute()
        if "points" in self.said:
            figures |= self.off.compute()
            figures["2d_either_side"] = self.off_either.compute()["2d"]
        if "person" in self.said:
            person = self.person.compute()
            figures |= {"f1_person": person["f1"], "iou_person": person["iou_last"]}
        if "parts" in self.said:
            parts = self.parts.compute()
            figures |= {"f1_parts": parts["f1"], "iou_parts": parts["iou"], "iou_parts_front": parts["iou_front"]}
        if "joints" in self.said and set(self.by_action) != {""}:
            figures["actions"] = {action: self.by_action[action].compute() for action in sorted(self.by_action)}
        return figures


def evaluate(
    predict: Predict,
    reel: Reel,
    constants: Constants,
    batch: int = 64,
    scored: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
    masked: bool = False,
) -> dict[str, Any]:
    """Scores of a model on a reel, beside the answers that look at no image.

    Args:
        predict: the model.
        reel: the test frames.
        constants: from the training set, for the same skeleton and size of images.
        batch: images at a time.
        scored: numbers of the joints that count for PCK and AUC; None for all.
        progress: told how many frames are done.
        masked: show the model people cut out of their images, black round them.

    Raises:
        ValueError: `masked`, and nothing tells where the people are.

    Returns:
        {"model": figures, "constant": figures, "frames": count}. Errors in millimetres: "p_mpjpe", "n_mpjpe", "mpjpe";
        percent: "pck", "auc", "2d", the mean distance over the image's side, and "2d_either_side", where each pose may
        have left and right exchanged; in [0, 1]: "f1_person" (mean of person and background), "iou_person" (the
        person's), "f1_parts", "iou_parts" (means over parts and background), "iou_parts_front" (over the parts alone,
        004's "FG Parts"); "actions": the pose errors of each action. Of what a model does not predict there is nothing.
        Where it tells parts by the pose alone, "unaware" has their scores.
    """
    if masked and not reel.segmented:
        raise ValueError("the model was trained on people cut out of their images, and these frames have no masks")
    model, unaware, constant = (_Scores(reel, scored) for _ in range(3))
    for start in range(0, len(reel), batch):
        numbers = torch.arange(start, min(start + batch, len(reel)))
        frames = reel.frames(numbers)
        said = predict(frames.image * (frames.labels > 0).unsqueeze(1) if masked else frames.image)
        model.update(said, numbers)
        if said.unaware is not None:
            unaware.update(Prediction(labels=said.unaware), numbers)
        # The mean pose is turned like the truth: it knows the view, and still is the worse answer.
        turned = _turned(constants.joints, frames.joints, reel.skeleton)
        labels, mask = constants.labels, constants.mask
        masks_told = said.mask is not None or said.labels is not None
        same = Prediction(
            turned if said.joints is not None else None,
            constants.points.expand_as(frames.points) if said.points is not None else None,
            labels.expand_as(frames.labels) if labels is not None and said.labels is not None else None,
            mask.expand_as(frames.labels) if mask is not None and masks_told else None,
        )
        constant.update(same, numbers)
        if progress is not None:
            progress(int(numbers[-1]) + 1)
    scores = {"model": model.compute(), "constant": constant.compute(), "frames": len(reel)}
    return {**scores, "unaware": unaware.compute()} if unaware.said else scores


def _turned(pose: Tensor, joints: Tensor, skeleton: pg.Skeleton) -> Tensor:
    """A canonical pose (J, 3) turned like poses (B, J, 3); without a trunk, as it fits them best."""
    if skeleton.trunk is not None:
        return pose @ pg.canonicalize(joints, skeleton).rotation.mT
    return pose @ pg.procrustes_align(pose.expand_as(joints), joints).rotation.mT


HEADS = {
    "p_mpjpe": ("P-MPJPE mm", 1),
    "p_mpjpe_mirrored": ("with reflection", 1),
    "n_mpjpe": ("N-MPJPE mm", 1),
    "mpjpe": ("MPJPE mm", 1),
    "pck": ("PCK %", 1),
    "auc": ("AUC %", 1),
    "2d": ("2D %", 1),
    "f1_person": ("F1 person", 3),
    "iou_person": ("IoU person", 3),
    "f1_parts": ("F1 parts", 3),
    "iou_parts": ("IoU parts", 3),
    "iou_parts_front": ("IoU FG parts", 3),
    "mirrored": ("mirrored %", 1),
    "elevation": ("elevation °", 1),
    "elevation_deviation": ("±", 1),
}
"""How figures are called, and to how many decimals they are shown."""

ANSWERS = {
    "model": "model",
    "unaware": "parts without shape",
    "constant": "constant answer",
    "flat": "every depth 0",
    "truth": "truth",
}
"""How answers are called, where there are scores of them; the last two are there for lifting alone."""


def write(folder: Path, name: str, scores: Mapping[str, Any]) -> tuple[Path, Path]:
    """NAME.json, and NAME.csv with a row for each answer and, below it, for each of its actions."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.json", folder / f"{name}.csv"
    for path, text in zip(paths, (json.dumps(scores, indent=1) + "\n", _csv(scores)), strict=True):
        replace_text(path, text)
    return paths


def _csv(scores: Mapping[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    names = [name for name in HEADS if name in scores["model"]]
    writer.writerow(["answer", "action", *names])
    for answer in ANSWERS:
        figures = scores.get(answer, {})
        for action, row in (("all", figures), *figures.get("actions", {}).items()) if figures else ():
            writer.writerow([answer, action, *(f"{row[name]:.4f}" if name in row else "" for name in names)])
    return text.getvalue()


def show(scores: Mapping[str, Any]) -> None:
    """Tables on the screen: all frames, and the model's errors by action.

    An answer is a row, or a column where the screen is too narrow for rows.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    names = [name for name in HEADS if name in scores["model"]]
    there = {answer: label for answer, label in ANSWERS.items() if answer in scores}
    cells = [
        ["", *(HEADS[name][0] for name in names)],
        *(
            [label, *(f"{scores[answer][name]:.{HEADS[name][1]}f}" if name in scores[answer] else "" for name in names)]
            for answer, label in there.items()
        ),
    ]
    for heads, *rows in (cells, list(zip(*cells, strict=True))):
        table = Table(title=f"{scores['frames']} test frames")
        for place, head in enumerate(heads):
            table.add_column(head, justify="right" if place else "left")
        for row in rows:
            table.add_row(*row)
        if console.measure(table, options=console.options.update(max_width=1000)).maximum <= console.width:
            break
    console.print(table)
    if "actions" not in scores["model"]:
        return
    table = Table(title="P-MPJPE in mm by action")
    there = {answer: label for answer, label in there.items() if "actions" in scores[answer]}
    for head in ("action", *there.values()):
        table.add_column(head, justify="left" if head == "action" else "right")
    for action in scores["model"]["actions"]:
        table.add_row(
            action or "unknown",
            *(f"{scores[answer]['actions'][action]['p_mpjpe']:.1f}" for answer in there),
        )
    console.print(table)
