"""Where the person is in each frame of a video or a photograph: by boxes, by a detector, by motion, or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posegeom_models.data.cropping import MARGIN, middle_square
from posegeom_models.data.files import MAX_BYTES, MotionFileError
from posegeom_models.data.footage import STILL, Clip, background_motion, median_background, sampled_frames
from posegeom_models.data.images import Image, read_image
from posegeom_models.data.persons import PersonBox, PersonDetector
from posegeom_models.data.saliency import motion_saliency
from posegeom_models.data.video import Video, VideoFrame

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Files that are taken for photographs; all others are taken for videos."""

_CROUCHED = 0.85
"""The benchmark's crops do not get smaller than this share of the standing person's."""

_AGREEING = 0.06
"""`_agreement` from which a camera stands. Frames of 128 pixels that have nothing in common give 0 ± 0.01, the rendered
benchmark's turning cameras up to 0.05, its standing ones 0.07 to 0.8."""

_EXIF_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF's orientation -> the number of Pillow's transposition that undoes it."""

Array = NDArray[np.float64]


class Track(NamedTuple):
    """Where the person is.

    Attributes:
        frames: (F,) numbers of frames, ascending.
        squares: (F, 4) left, top, right, bottom of the square to cut out, in an image that spans [0, W] × [0, H].
        found: how: "boxes", "detector", "motion", or "middle" where it was not.
    """

    frames: NDArray[np.int64]
    squares: Array
    found: str

    def at(self, frame: int) -> Array:
        """The square in any frame: between two that are known the mixture, before and after them the nearest."""
        return np.array([np.interp(frame, self.frames, edge) for edge in self.squares.T])


def frames_of(source: Path, rate: float | None) -> Iterator[tuple[int, VideoFrame]]:
    """Frames with their numbers in the file; of a photograph the one, upright."""
    if is_photo(source):
        yield 0, VideoFrame(0.0, _read_upright(source))
        return
    tick = 0
    with Video(source) as video:
        for number, frame in enumerate(video.frames()):
            if frame.image.shape[:2] != video.size:
                raise MotionFileError(f"{source}: its frames differ in size, {video.size} and {frame.image.shape[:2]}")
            if rate is not None:
                past = (frame.seconds + 1e-4) * rate
                if past < tick:
                    continue
                tick = math.floor(past) + 1
            yield number, frame


def is_photo(path: Path) -> bool:
    """Whether a file is taken for a photograph, by its name."""
    return path.suffix.lower() in IMAGES


def _read_upright(path: Path) -> Image:
    from PIL import Image as Pillow

    image = read_image(path)
    with Pillow.open(path) as opened:
        turn = _EXIF_TURNS.get(opened.getexif().get(0x0112, 1))
    return image if turn is None else np.asarray(Pillow.fromarray(image).transpose(Pillow.Transpose(turn)))


def find_person(
    source: Path,
    boxes: Sequence[PersonBox] | None = None,
    detector: PersonDetector | None = None,
    margin: float = MARGIN,
    rate: float | None = None,
) -> Track:
    """Where the person is in each frame; a line on the console says how it was found.

    Args:
        source: a video or a photograph.
        boxes: boxes that are known, of some frames.
        detector: else asked.
        margin: side of the square over the longer side of the person.
        rate: frames per second to look at; None for all.

    Raises:
        MotionFileError: the file cannot be read, or its frames differ in size.
        FileNotFoundError: no such file.
    """
    if boxes is not None:
        best = list({box.frame: box for box in reversed(boxes)}.values())[::-1]
        print(f"{source.name}: boxes of {len(best)} frames are given", flush=True)
        held = np.array([box[1:5] for box in best], dtype=np.float64)
        return Track(np.array([box.frame for box in best]), _squares(held, margin), "boxes")
    why = "no boxes, no detector"
    if detector is not None:
        track, why = _by_looking(source, detector, margin, rate), "the detector sees nobody"
        if track is not None:
            return track
    if not is_photo(source):
        found = _by_motion(source, margin, rate)
        if isinstance(found, Track):
            return found
        why = found
    _, frame = next(frames_of(source, None))
    left, top, side = middle_square(frame.image.shape[:2])
    square = (left, top, left + side, top + side)
    print(f"{source.name}: no person found ({why}); takes the middle square of the frame", flush=True)
    return Track(np.zeros(1, np.int64), np.array([square]), "middle")


def _by_looking(source: Path, detector: PersonDetector, margin: float, rate: float | None) -> Track | None:
    """The detector's surest person, and then whoever overlaps most with the one before."""
    frames, seconds, rows = [], [], []
    last: PersonBox | None = None
    for number, frame in frames_of(source, rate):
        people = detector(frame.image, number)
        if people:
            last = max(people, key=lambda box: (_overlap(box, last), box.score))
        frames.append(number)
        seconds.append(frame.seconds)
        rows.append(last[1:5] if people and last is not None else [math.nan] * 4)
    return _track(source, frames, seconds, rows, "detector", margin)


def _overlap(box: PersonBox, last: PersonBox | None) -> float:
    """Intersection over union; 0 where there was nobody."""
    if last is None:
        return 0.0
    across = max(0.0, min(box.right, last.right) - max(box.left, last.left))
    along = max(0.0, min(box.bottom, last.bottom) - max(box.top, last.top))
    areas = sum((each.right - each.left) * (each.bottom - each.top) for each in (box, last))
    return across * along / (areas - across * along)


def _by_motion(source: Path, margin: float, rate: float | None) -> Track | str:
    """The person by what differs from a still background; else why there is none."""
    with Video(source) as video:
        height, width = video.size
        ends = video.seconds or max(frame.seconds for frame in video.frames()) + 1 / (video.rate or 25)
    clip = Clip(source, 0.0, ends)
    if background_motion(clip) > STILL or _agreement(clip) < _AGREEING:
        return "the camera moves"
    fitting = min(31, MAX_BYTES // (3 * height * width))
    # A box needs no more than some 320 pixels.
    step = max(1, round(max(height, width) / 320))
    background = median_background(clip, fitting - 1 + fitting % 2)[::step, ::step]
    frames, seconds, rows = [], [], []
    for number, frame in frames_of(source, rate):
        frames.append(number)
        seconds.append(frame.seconds)
        rows.append(_box_of_motion(np.ascontiguousarray(frame.image[::step, ::step]), background, step))
    track = _track(source, frames, seconds, rows, "motion", margin)
    return "nothing moves" if track is None else track


def _agreement(clip: Clip, frames: int = 7) -> float:
    """How well frames lie on the first one without being shifted: the phase correlation at 0, the median over frames.

    1 for a still picture. A slow pan over plain walls, too slight for `background_motion`, gives some 0.
    """
    spectra = []
    for frame in sampled_frames(clip, frames):
        factor = max(1, round(max(frame.image.shape[:2]) / 128))
        gray = frame.image[::factor, ::factor].mean(-1)
        # Faded out to the edges, which would otherwise lie on one another in every frame.
        fade = np.hanning(gray.shape[0] + 2)[1:-1, None] * np.hanning(gray.shape[1] + 2)[1:-1]
        spectra.append(np.fft.fft2((gray - gray.mean()) * fade))
    products = [spectrum * spectra[0].conj() for spectrum in spectra[1:]]
    sizes = [np.abs(product) for product in products]
    # Frequencies that hold next to nothing have no phase.
    phases = [
        (product / (size + 1e-3 * size.mean() + 1e-9)).real.mean()
        for product, size in zip(products, sizes, strict=True)
    ]
    return float(np.median(phases))


def _box_of_motion(image: Image, background: Image, step: int) -> list[float]:
    """Left, top, right, bottom of the largest moving thing and of what may belong to it; NaN where there is none."""
    from scipy import ndimage

    mask = motion_saliency(image, background)
    # More than this is a change of light, or the camera.
    if not 0 < mask.mean() < 0.6:
        return [math.nan] * 4
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())[1:]
    large = np.flatnonzero(sizes >= 0.1 * sizes.max()) + 1
    rows, columns = np.nonzero(np.isin(pieces, large))
    return [float(step * edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def _track(
    source: Path, frames: list[int], seconds: list[float], rows: list[Any], found: str, margin: float
) -> Track | None:
    """Boxes smoothed over time, with squares round them; None unless there is one in a quarter of the frames."""
    from scipy import ndimage

    boxes = np.array(rows, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(boxes).all(-1))
    if len(known) < max(1, len(boxes) / 4):
        return None
    print(f"{source.name}: person found by {found} in {len(known)} of {len(boxes)} frames", flush=True)
    every = np.arange(len(boxes))
    filled = np.stack([np.interp(every, known, edge) for edge in boxes[known].T], axis=-1)
    rate = (len(frames) - 1) / (seconds[-1] - seconds[0]) if len(frames) > 1 else 1.0

    def window(over: float) -> int:
        return 2 * round(over * rate) + 1

    if found == "motion":
        # A limb that rests belongs to the background for a while.
        filled[:, :2] = ndimage.minimum_filter1d(filled[:, :2], window(0.3), axis=0, mode="nearest")
        filled[:, 2:] = ndimage.maximum_filter1d(filled[:, 2:], window(0.3), axis=0, mode="nearest")
    longest = (filled[:, 2:] - filled[:, :2]).max(-1)
    tall = ndimage.maximum_filter1d(longest, window(2.0), mode="nearest")
    squares = _squares(filled, margin, _CROUCHED * tall)
    smooth = ndimage.gaussian_filter1d(squares, 0.15 * rate, axis=0, mode="nearest")
    return Track(np.array(frames), smooth, found)


def _squares(boxes: Array, margin: float, least: Array | float = 0.0) -> Array:
    """Squares (F, 4) about the middles of boxes (F, 4), `margin` times as large as their longer sides."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = margin * np.maximum((boxes[:, 2:] - boxes[:, :2]).max(-1), least)[:, None] / 2
    return np.concatenate((middle - half, middle + half), axis=1)
