"""Boxes round people: from a file, from masks, or by torchvision's Faster R-CNN when that is asked for."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from posegeom_models.data.files import MotionFileError, error_at, numbers_of, read_lines, shown
from posegeom_models.data.images import Image
from posegeom_models.data.jsonfile import is_number, read_json
from posegeom_models.data.packages import require
from posegeom_models.data.saliency import read_mask
from posegeom_models.data.video import Video

WEIGHTS = {
    "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "fasterrcnn_resnet50_fpn_v2": "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
    "fasterrcnn_mobilenet_v3_large_fpn": "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth",
    "fasterrcnn_mobilenet_v3_large_320_fpn": "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth",
}
"""The detectors of torchvision, and their weights at download.pytorch.org/models."""

_PERSON = 1  # COCO's number


class PersonBox(NamedTuple):
    """A box in an image that spans [0, W] × [0, H].

    Attributes:
        frame: number of the frame, from 0.
        left: pixels.
        top: pixels.
        right: pixels.
        bottom: pixels.
        score: in [0, 1].
    """

    frame: int
    left: float
    top: float
    right: float
    bottom: float
    score: float = 1.0


def read_boxes(path: str | Path) -> dict[str, tuple[PersonBox, ...]]:
    """Boxes by the name of their video (or image), each video's by frame, the best of a frame first.

    A .csv has the columns video, frame, left, top, right, bottom, and perhaps score, named in its first line. A .json
    is {"clip.mp4": [[frame, left, top, right, bottom, score], ...]}, with or without scores. A folder holds masks of
    what is salient, clip.mp4/000012.png for frame 12 (`posegeom_models.data.saliency.read_mask`); the boxes are round
    all that they show, and where they show nothing there is none.

    Raises:
        MotionFileError: the file is broken.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if path.is_dir():
        found = _mask_boxes(path)
    elif path.suffix.lower() == ".csv":
        found = _csv_boxes(path)
    elif path.suffix.lower() == ".json":
        found = _json_boxes(path)
    else:
        raise MotionFileError(
            f"{path}: boxes must be in a .csv, a .json or a folder of masks, got {path.suffix or 'no suffix'!r}"
        )
    if not found:
        raise MotionFileError(f"{path}: holds no boxes")
    return {video: tuple(sorted(boxes, key=lambda box: (box.frame, -box.score))) for video, boxes in found.items()}


def _box(values: list[float]) -> PersonBox:
    frame, left, top, right, bottom, score = values if len(values) == 6 else [*values, 1.0]
    if frame < 0 or frame != int(frame):
        raise ValueError(f"frame must be a number from 0, got {frame}")
    if not (left < right and top < bottom):
        raise ValueError(f"left must be below right and top above bottom, got {left}, {top}, {right}, {bottom}")
    if not 0 <= score <= 1:
        raise ValueError(f"score must be in [0, 1], got {score}")
    return PersonBox(int(frame), left, top, right, bottom, score)


def _csv_boxes(path: Path) -> dict[str, list[PersonBox]]:
    found: dict[str, list[PersonBox]] = {}
    columns = ["frame", "left", "top", "right", "bottom"]
    try:
        reader = csv.DictReader(read_lines(path), strict=True)
        missing = [name for name in ("video", *columns) if name not in (reader.fieldnames or ())]
        if missing:
            raise error_at(path, 1, f"has no column {', '.join(missing)}")
        if "score" in (reader.fieldnames or ()):
            columns.append("score")
        for row in reader:
            line = reader.line_num
            if row["video"] is None:
                raise error_at(path, line, "a box has no video")
            words = [row[name] for name in columns if row[name] is not None]
            values = numbers_of(path, line, words, len(columns), "a box")
            try:
                found.setdefault(row["video"], []).append(_box(values))
            except ValueError as error:
                raise error_at(path, line, str(error)) from None
    except csv.Error as error:
        raise MotionFileError(f"{path}: not a readable .csv: {error}") from None
    return found


def _json_boxes(path: Path) -> dict[str, list[PersonBox]]:
    held = read_json(path)
    if not isinstance(held, dict):
        raise MotionFileError(f'{path}: must be {{"clip.mp4": [[frame, left, top, right, bottom], ...]}}')
    found: dict[str, list[PersonBox]] = {}
    for video, boxes in held.items():
        if not isinstance(boxes, list):
            raise MotionFileError(f"{path}: boxes of {shown(video)} must be a list")
        for values in boxes:
            if not isinstance(values, list) or len(values) not in (5, 6) or not all(map(is_number, values)):
                raise MotionFileError(
                    f"{path}: a box of {shown(video)} must be 5 or 6 numbers, got {shown(str(values))}"
                )
            try:
                found.setdefault(video, []).append(_box([float(value) for value in values]))
            except ValueError as error:
                raise MotionFileError(f"{path}: a box of {shown(video)}: {error}") from None
    return found


def _mask_boxes(folder: Path) -> dict[str, list[PersonBox]]:
    found: dict[str, list[PersonBox]] = {}
    for video in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in sorted(video.iterdir()):
            if not path.stem.isdecimal():
                raise MotionFileError(f"{path}: a mask must be named by its frame's number, such as 000012.png")
            mask = read_mask(path)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if len(rows):
                edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
                found.setdefault(video.name, []).append(PersonBox(int(path.stem), *map(float, edges)))
    return found


class PersonDetector:
    """torchvision's Faster R-CNN, trained on COCO; finds people.

    Args:
        weights: the file with its weights (a state dict); nothing is ever downloaded.
        model: one of `WEIGHTS`.
        score: people found with less certainty are left out.
        device: where to compute.

    Raises:
        FileNotFoundError: no such file; the sentence says where the weights are had from.
        MotionFileError: the file does not hold these weights.
        ValueError: no such model.
        ImportError: torchvision is not installed.
    """

    def __init__(
        self,
        weights: str | Path,
        model: str = "fasterrcnn_resnet50_fpn",
        score: float = 0.5,
        device: torch.device | str = "cpu",
    ) -> None:
        if model not in WEIGHTS:
            raise ValueError(f"model must be one of {', '.join(WEIGHTS)}, got {model!r}")
        detection = require("torchvision.models.detection", "detecting people", "torchvision")
        weights = Path(weights)
        if not weights.is_file():
            raise FileNotFoundError(
                f"{weights}: no weights of the person detector; download https://download.pytorch.org/models/"
                f"{WEIGHTS[model]} and pass its path"
            )
        self.score, self.device = score, torch.device(device)
        self._network: Any = getattr(detection, model)(weights=None, weights_backbone=None)
        try:
            self._network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:  # a pickle that may be anything
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise MotionFileError(f"{weights}: does not hold the weights of {model}: {what[:200]}") from None
        self._network.eval().to(self.device)

    def __call__(self, image: Image, frame: int = 0) -> tuple[PersonBox, ...]:
        """The people in an image, the surest first.

        Args:
            image: (H, W, 3) uint8 RGB.
            frame: number given to the boxes.
        """
        pixels = torch.from_numpy(image).to(self.device).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            (found,) = self._network([pixels])
        people = (found["labels"] == _PERSON) & (found["scores"] >= self.score)
        rows = zip(found["boxes"][people].tolist(), found["scores"][people].tolist(), strict=True)
        return tuple(PersonBox(frame, box[0], box[1], box[2], box[3], score) for box, score in rows)


Detector = Callable[[Image, int], tuple[PersonBox, ...]]
"""An image (H, W, 3) and the number of its frame -> the people in it, the surest first; such as a `PersonDetector`."""


def load_detector(weights: str | Path, device: torch.device | str = "cpu") -> PersonDetector:
    """The detector of which a file holds the weights, by the file's name; the first of `WEIGHTS` for any other name."""
    model = {file: model for model, file in WEIGHTS.items()}.get(Path(weights).name, next(iter(WEIGHTS)))
    return PersonDetector(weights, model, device=device)


def find_boxes(video: str | Path, detector: Detector, rate: float | None = None) -> tuple[PersonBox, ...]:
    """The people in a video, by frame and the surest of a frame first, as `read_boxes` gives them.

    Args:
        video: the file, which is decoded as a stream.
        detector: asked for one frame after the other.
        rate: at most so many frames per second; None for all.

    Raises:
        MotionFileError: the video cannot be read.
    """
    with Video(video) as opened:
        return tuple(
            box for frame in opened.frames(rate=rate) for box in detector(frame.image, opened.number_at(frame.seconds))
        )
