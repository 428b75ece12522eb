"""Poses predicted on people's own photographs and videos: find the person, cut it out, predict, write and draw."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posegeom import Skeleton
from posegeom_models.data.cropping import MARGIN, Square
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.images import Image
from posegeom_models.data.persons import load_detector, read_boxes
from posegeom_models.data.video import SUFFIXES, Video, VideoFrame
from posegeom_models.drawing import PAPER, VideoWriter, draw_skeleton, draw_skeleton_3d, reach_of
from posegeom_models.tracks import IMAGES, Track, find_person, frames_of, is_photo

Predict = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B, 3, S, S) in [0, 1] -> joints (B, J, 3), metres about the pelvis in the camera's axes (x right, y down, z
forward), and points (B, J, 2), pixels of the S × S crop, whose centres are integers."""

_IN_FLIGHT = 1 << 28
"""Bytes of frames that a batch may hold."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PredictOptions:
    """How people are found and what is written.

    Args:
        boxes: file with boxes round the person, see `posegeom_models.data.persons.read_boxes`. Between frames with a
            box they are interpolated.
        detector: file with the weights of torchvision's person detector, named as there.
        margin: side of the square crop over the longer side of the person.
        batch: frames predicted at once.
        rate: frames per second to predict; default: all.
        overlay: write the picture or video with the skeleton drawn in.
        device: where the detector runs.
        skip_broken: leave out files of a folder that cannot be read, and say how many they were.

    Raises:
        ValueError: a value out of range.
    """

    boxes: Path | None = None
    detector: Path | None = None
    margin: float = MARGIN
    batch: int = 16
    rate: float | None = None
    overlay: bool = True
    device: str = "cpu"
    skip_broken: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.margin < math.inf:
            raise ValueError(f"margin must be positive, got {self.margin}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError(f"rate must be positive, got {self.rate}")


def predict_path(
    predict: Predict, skeleton: Skeleton, side: int, source: Path, out: Path, options: PredictOptions | None = None
) -> list[Path]:
    """Predict poses in a video, a photograph, or all of them in a folder.

    For each, `out` gets STEM.npz with `joints` (T, J, 3), `points` (T, J, 2) in the pixels of the frame, `boxes`
    (T, 4) (left, top, right, bottom of what was cut out), `seconds` and `frame` (T,), `joint_names` and `parents` (J,);
    STEM.json with the same; and STEM.mp4 or STEM.png with the skeleton drawn in. All of them appear at once when they
    are complete; on an error or Ctrl-C none do.

    The person is looked for by the boxes, the detector, or motion before a still background, in this order. Motion
    finds someone who moves as a whole and leaves each place: the rest of someone who only waves belongs to the
    background. Where nothing is found the middle square of the frame is taken, and a line on the console says so.

    Args:
        predict: the model.
        skeleton: of its joints.
        side: S, of the images that it wants.
        source: the file or folder; folders in a folder are left out.
        out: a folder, made if it is missing.
        options: how.

    Returns:
        The files written.

    Raises:
        MotionFileError: a file that cannot be read, or boxes that lack one of the files.
        FileNotFoundError: no such file, or a folder with neither videos nor photographs.
        ValueError: results would replace their source, or the model's results are not as they must be.
    """
    options = options or PredictOptions()
    out, names = Path(out), _names(Path(source))
    if options.skip_broken and not Path(source).is_dir():
        raise ValueError(f"skip_broken is of the files of a folder, and {source} is one file")
    for path, name in names.items():
        for suffix in (".mp4", ".png"):
            if options.overlay and (out / f"{name}{suffix}").resolve() == path.resolve():
                raise ValueError(f"{path}: results in {out} would replace it; choose another folder for them")
    boxes = read_boxes(options.boxes) if options.boxes is not None else None
    missing = [path.name for path in names if boxes is not None and path.name not in boxes]
    if boxes is not None and missing:
        raise MotionFileError(
            f"{options.boxes}: holds no boxes of {missing[0]}, only of {', '.join(sorted(boxes)[:5])}"
        )
    detector = None if options.detector is None else load_detector(options.detector, options.device)
    written, skipped = [], []
    for path, name in names.items():
        given = boxes[path.name] if boxes is not None else None
        try:
            track = find_person(path, given, detector, options.margin, options.rate)
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=out) as folder:
                _predict_one(predict, skeleton, side, path, Path(folder) / name, track, options)
                written += [made.replace(out / made.name) for made in sorted(Path(folder).iterdir())]
        except MotionFileError as error:
            if not options.skip_broken:
                raise
            skipped.append(str(error))
    if skipped and not written:
        raise MotionFileError(f"{source}: none of its {len(names)} files can be read: {skipped[0]}")
    if skipped:
        print(f"{len(skipped)} of {len(names)} files skipped: {'; '.join(skipped)}", flush=True)
    return written


def draw_prediction(
    image: Image, points: Array, square: Array, joints: Array, skeleton: Skeleton, reach: float, caption: str = ""
) -> Image:
    """A frame with its skeleton and crop drawn in, and beside it the skeleton in space from two sides.

    Small frames are enlarged and very large ones reduced.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    height, width = image.shape[:2]
    scale = min(480 / height, max(1, 1920 / width)) if height < 480 else min(1, 1080 / height, 1920 / width)
    size = (max(1, round(width * scale)), 2 * max(1, round(height * scale / 2)))
    frame = Pillow.fromarray(image).resize(size, Pillow.Resampling.LANCZOS)
    # Pixel centres are integers: the upper left corner is at −½ before and after.
    stretch = np.array(size) / (width, height)
    left, top, right, bottom = (square * np.tile(stretch, 2) - 0.5).round().tolist()
    pen = ImageDraw.Draw(frame)
    for grown, color in ((1, (20, 23, 28)), (-1, (20, 23, 28)), (0, (242, 244, 248))):
        pen.rectangle((left - grown, top - grown, right + grown, bottom + grown), outline=color)
    drawn = draw_skeleton(np.asarray(frame), (points + 0.5) * stretch - 0.5, skeleton)
    view = max(size[1] // 2, 120)
    column = np.concatenate([draw_skeleton_3d(joints, skeleton, view, turn, reach) for turn in (0.0, 90.0)])
    panel = Pillow.fromarray(column)
    pen = ImageDraw.Draw(panel)
    letters, gap = min(max(view / 16, 10), 20), view // 24
    pen.line((gap, view, view - gap, view), fill=(205, 210, 217))
    for place, anchor, text in (
        ((gap, gap), "la", "from the camera"),
        ((gap, view + gap), "la", "from the side"),
        ((view - gap, 2 * view - gap), "rd", caption),
    ):
        pen.text(place, text, fill=(95, 102, 112), anchor=anchor, font_size=letters)
    if size[1] < 2 * view:
        # A frame like a ribbon: in the middle of a panel that can be read.
        ribbon, above = drawn, view - size[1] // 2
        drawn = np.full((2 * view, size[0], 3), PAPER, np.uint8)
        drawn[above : above + size[1]] = ribbon
    return np.concatenate((drawn, np.asarray(panel)), axis=1)


def _names(source: Path) -> dict[Path, str]:
    """The files to predict on, and what their results are called: their stems, made different where they are not."""
    if not source.is_dir():
        if not source.exists():
            raise FileNotFoundError(f"{source}: no such file or folder")
        return {source: source.stem}
    kinds = (*SUFFIXES, *IMAGES)
    files = sorted(path for path in source.iterdir() if path.suffix.lower() in kinds and path.is_file())
    if not files:
        raise FileNotFoundError(f"{source}: neither videos nor photographs in this folder ({', '.join(kinds)})")
    # Some file systems do not tell capital letters from small ones.
    often = Counter(path.stem.lower() for path in files)
    taken = {stem for stem, count in often.items() if count == 1}
    names = {}
    for path in files:
        name = path.stem
        if often[name.lower()] > 1:
            name = f"{path.stem}_{path.suffix[1:]}"
            while name.lower() in taken:
                name += "_"
            taken.add(name.lower())
        names[path] = name
    return names


def _predict_one(
    predict: Predict, skeleton: Skeleton, side: int, source: Path, stem: Path, track: Track, options: PredictOptions
) -> None:
    """Predict on one file and write what is known of it to STEM.npz and so on."""
    kept: dict[str, list[Any]] = {name: [] for name in ("joints", "points", "boxes", "seconds", "frame")}
    reach: float | None = None
    frames = frames_of(source, options.rate)
    with contextlib.ExitStack() as stack:
        writer = None
        if options.overlay and not is_photo(source):
            with Video(source) as video:
                rate = options.rate or min(video.rate, 240.0) or 25.0
            writer = stack.enter_context(VideoWriter(f"{stem}.mp4", rate))
        for batch in _batches(frames, options.batch):
            squares = np.stack([track.at(number) for number, _ in batch])
            cuts = [Square(left, top, right - left) for left, top, right, _ in squares.tolist()]
            crops = [cut.cut(frame.image, side) for cut, (_, frame) in zip(cuts, batch, strict=True)]
            images = torch.from_numpy(np.stack(crops)).movedim(-1, 1).float() / 255
            joints, inside = _call(predict, images, skeleton, source)
            points = np.stack([cut.back(those, side) for cut, those in zip(cuts, inside, strict=True)])
            reach = reach_of(joints, skeleton) if reach is None else reach
            kept["joints"].extend(joints)
            kept["points"].extend(points)
            kept["boxes"].extend(squares)
            for row, (number, frame) in enumerate(batch):
                kept["seconds"].append(frame.seconds)
                kept["frame"].append(number)
                if not options.overlay:
                    continue
                caption = f"{frame.seconds:.2f} s" if writer is not None else ""
                picture = draw_prediction(frame.image, points[row], squares[row], joints[row], skeleton, reach, caption)
                if writer is not None:
                    writer.write(picture, frame.seconds - kept["seconds"][0])
                else:
                    _save_png(picture, Path(f"{stem}.png"))
    _save_numbers(kept, skeleton, source, stem, track.found)


def _batches(frames: Iterator[tuple[int, VideoFrame]], count: int) -> Iterator[list[tuple[int, VideoFrame]]]:
    """Frames by the batch, fewer at once where they are large."""
    for first in frames:
        fitting = max(1, min(count, _IN_FLIGHT // first[1].image.nbytes))
        yield [first, *islice(frames, fitting - 1)]


def _call(predict: Predict, images: Tensor, skeleton: Skeleton, source: Path) -> tuple[Array, Array]:
    with torch.no_grad():
        results = predict(images)
    arrays = []
    for name, result, last in zip(("joints", "points"), results, (3, 2), strict=True):
        expected = (len(images), len(skeleton.joints), last)
        if tuple(result.shape) != expected:
            raise ValueError(f"{source}: the model's {name} must be {expected}, got {tuple(result.shape)}")
        if not result.isfinite().all():
            raise ValueError(f"{source}: the model's {name} are not all finite; its weights may be damaged")
        arrays.append(result.detach().cpu().double().numpy())
    return arrays[0], arrays[1]


def _save_png(picture: Image, path: Path) -> None:
    from PIL import Image as Pillow

    Pillow.fromarray(picture).save(path)


def _save_numbers(kept: dict[str, list[Any]], skeleton: Skeleton, source: Path, stem: Path, found: str) -> None:
    arrays: dict[str, Any] = {name: np.array(rows) for name, rows in kept.items()}
    single = {name: arrays[name].astype(np.float32) for name in ("joints", "points")}
    names, parents = np.array(skeleton.joints), np.array(skeleton.parents)
    np.savez_compressed(f"{stem}.npz", joint_names=names, parents=parents, **{**arrays, **single})
    head = {
        "source": source.name,
        "person_found_by": found,
        "units": "joints: metres about the root, x right, y down, z forward; points, boxes: pixels of the frame",
        "joint_names": list(skeleton.joints),
        "parents": list(skeleton.parents),
    }
    # A line for each frame, and for each thing that all of them share.
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    places = {"joints": 5, "points": 3, "boxes": 3, "seconds": 6, "frame": 0}
    rows = [
        json.dumps({name: np.round(arrays[name][row], places[name]).tolist() for name in reversed(places)})
        for row in range(len(arrays["frame"]))
    ]
    lines.append(' "frames": [\n  ' + ",\n  ".join(rows) + "\n ]")
    Path(f"{stem}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
