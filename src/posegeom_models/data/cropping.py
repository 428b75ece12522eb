"""Persons cut out of whole frames: squares round them, what is inside at one size, and the same of the background."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from posegeom_models.data.files import MotionFileError, check_size
from posegeom_models.data.footage import Clip
from posegeom_models.data.images import Image, read_frame, read_image
from posegeom_models.data.persons import PersonBox
from posegeom_models.data.saliency import Mask, motion_saliency
from posegeom_models.data.samples import Array, FrameReference, Sample
from posegeom_models.data.video import Video

MARGIN = 1.33
"""Side of a square over the longer side of the person in it: 1.33 in the median of the rendered benchmark's centred
crops, 1.23 to 1.38 in nine of ten, and a model should be shown what it was trained on."""

JOINTS_MARGIN = 1.4
"""The same over the longer side of the joints, which end before the body does: 1.38 in the median of those crops."""

LARGEST = 8.0
"""Squares wider than so many images are mistakes; cutting them would only fill the memory."""

NEAR = 0.5
"""Seconds that a frame without a box may be away from one that has a box."""

FEWEST = 5
"""Frames that a median needs at least; of fewer, the person may be in most."""

_MOST = 31
"""Frames of a sequence that its median is taken over."""

_BLOCK = 256
"""Frames that memory is taken for at once."""

_PREVIEW = 320
"""Pixels across at which motion is looked for: enough for a square, and quick."""


class Square(NamedTuple):
    """A square in an image that spans [0, W] × [0, H], as boxes are given; it may reach beyond the image.

    Attributes:
        left: pixels.
        top: pixels.
        side: pixels.
    """

    left: float
    top: float
    side: float

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """(s_x, s_y, u_x, u_y), as `posegeom.crop` and `PerspectiveCamera.crop` want it, in an image of `size`."""
        height, width = size
        return (
            self.side / width,
            self.side / height,
            (2 * self.left + self.side) / width - 1,
            (2 * self.top + self.side) / height - 1,
        )

    def place(self, points: Tensor, side: int) -> Tensor:
        """Where points (*B, 2) of the image, in pixels, lie in its cut of `side` pixels."""
        # Pixel centres are integers: the image begins at −½.
        corner = points.new_tensor((self.left - 0.5, self.top - 0.5))
        return (points - corner) * (side / self.side) - 0.5

    def back(self, points: Array, side: int) -> Array:
        """Where points (*B, 2) of its cut of `side` pixels lie in the image: the inverse of `place`."""
        corner = np.array([self.left, self.top]) - 0.5
        return corner + (points + 0.5) * (self.side / side)

    def cut(self, image: Image, side: int) -> Image:
        """What is inside, (side, side, 3), smoothed as far as it shrinks; black outside the image.

        Raises:
            ValueError: the square is far larger than the image.
        """
        from PIL import Image as Pillow

        height, width = image.shape[:2]
        if self.side > LARGEST * max(height, width):
            raise ValueError(f"a square of {self.side:.0f} pixels is too large for an image of {height} × {width}")
        # The filter looks past the edge by one pixel of the cut.
        reach = math.ceil(max(1.0, self.side / side)) + 1
        left, top = math.floor(self.left) - reach, math.floor(self.top) - reach
        right, bottom = math.ceil(self.left + self.side) + reach, math.ceil(self.top + self.side) + reach
        around = Pillow.fromarray(image).crop((left, top, right, bottom))
        x, y = self.left - left, self.top - top
        inside = around.resize((side, side), Pillow.Resampling.BILINEAR, (x, y, x + self.side, y + self.side))
        return np.asarray(inside)


def square_round(edges: Sequence[float], margin: float = MARGIN) -> Square:
    """The square round a box (left, top, right, bottom).

    Raises:
        ValueError: a box without a size, or a margin that is not positive.
    """
    left, top, right, bottom = edges
    side = margin * max(right - left, bottom - top)
    if not (margin > 0 and 0 < side < math.inf):
        raise ValueError(f"a box must have a size and margin be positive, got {tuple(edges)} and {margin}")
    return Square((left + right - side) / 2, (top + bottom - side) / 2, side)


def square_round_points(points: Array, margin: float = JOINTS_MARGIN) -> Square:
    """The square round (J, 2) points, whose pixel centres are integers."""
    low, high = points.min(0) + 0.5, points.max(0) + 0.5
    return square_round((float(low[0]), float(low[1]), float(high[0]), float(high[1])), margin)


def square_round_mask(mask: Mask, margin: float = MARGIN) -> Square | None:
    """The square round what an (H, W) mask shows; None where it shows nothing."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return square_round((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), margin)


def middle_square(size: tuple[int, int]) -> Square:
    """The largest square in the middle of an image of `size`."""
    height, width = size
    side = min(height, width)
    return Square((width - side) / 2, (height - side) / 2, side)


class CutFrame(NamedTuple):
    """A person cut from a frame.

    Attributes:
        seconds: of the frame, from the start of the video or sequence.
        image: (side, side, 3) uint8.
        background: the same place without the person; None where it is not known.
        square: where it was cut.
        gap: frames between the one before and this were left out.
    """

    seconds: float
    image: Image
    background: Image | None
    square: Square
    gap: bool = False


def cut_clip(
    clip: Clip,
    side: int,
    rate: float,
    background: Image | None,
    boxes: Sequence[PersonBox] | None = None,
    margin: float = MARGIN,
    follow: bool = True,
) -> Iterator[CutFrame]:
    """The person of a clip, frame by frame, with one frame of the video in memory at a time.

    With `boxes`, the square is round the best box of the frame, or of the nearest one that has a box; frames without a
    box within half a second are left out. Otherwise, before a known background, it is round what differs from it (all
    of it: everyone who moves); where nothing does, it stays where it was, and begins in the middle. In a moving clip it
    is the middle of the image.

    Args:
        clip: the clip.
        side: of the cuts, in pixels.
        rate: at most so many frames per second.
        background: what is behind the person in the whole clip; None where the camera moves.
        boxes: those of the clip's video, by frame, the best of a frame first, as `read_boxes` gives them.
        margin: see `MARGIN`.
        follow: without it, the square is the middle of the image in all frames, so that whoever falls in the image
            falls in the cuts too.

    Raises:
        MotionFileError: the video cannot be read, or a box does not fit it.
    """
    preview = None if background is None or boxes is not None or not follow else _Preview(background)
    with Video(clip.path) as video:
        boxed = None if boxes is None or not follow else _Boxed(boxes, NEAR * video.rate)
        square, gap, begun = middle_square(video.size), False, False
        for frame in video.frames(clip.start, clip.end, rate):
            near = None if boxed is None else boxed.near(video.number_at(frame.seconds))
            if boxed is not None and near is None:
                gap = begun
                continue
            try:
                if near is not None:
                    square = square_round((near.left, near.top, near.right, near.bottom), margin)
                elif preview is not None:
                    square = preview.square(frame.image, margin) or square
                behind = None if background is None else square.cut(background, side)
                cut = CutFrame(frame.seconds, square.cut(frame.image, side), behind, square, gap)
            except ValueError as error:
                raise MotionFileError(f"{clip.path}: at {frame.seconds:.2f} s: {error}") from None
            gap, begun = False, True
            yield cut


class _Boxed:
    """The best box of each frame of a video, and the frame nearest to any other."""

    def __init__(self, boxes: Sequence[PersonBox], reach: float) -> None:
        self.reach = reach
        self.best: Mapping[int, PersonBox] = {box.frame: box for box in reversed(boxes)}
        self.numbers = sorted(self.best)

    def near(self, number: int) -> PersonBox | None:
        place = bisect_left(self.numbers, number)
        around = self.numbers[max(place - 1, 0) : place + 1]
        nearest = min(around, key=lambda other: abs(other - number), default=None)
        return None if nearest is None or abs(nearest - number) > self.reach else self.best[nearest]


class _Preview:
    """A background, shrunk, and the square round what differs from it."""

    def __init__(self, background: Image) -> None:
        self.factor = max(1, max(background.shape[:2]) // _PREVIEW)
        self.background = self._shrunk(background)

    def square(self, image: Image, margin: float) -> Square | None:
        found = square_round_mask(motion_saliency(self._shrunk(image), self.background), margin)
        return None if found is None else Square(*(self.factor * value for value in found))

    def _shrunk(self, image: Image) -> Image:
        from PIL import Image as Pillow

        return np.asarray(Pillow.fromarray(image).reduce(self.factor))


def read_images(references: Sequence[FrameReference]) -> Iterator[Image]:
    """Images one after the other; those of a video that follow one another in time, by one pass through it.

    Raises:
        MotionFileError: a file is broken, or a video has fewer frames.
        FileNotFoundError: no such file.
    """
    for (path, in_video), run in itertools.groupby(references, lambda each: (each.path, each.number is not None)):
        if in_video:
            yield from _numbered(path, [each.number for each in run if each.number is not None])
        else:
            for _ in run:
                yield read_image(path)


def _numbered(path: Path, numbers: Sequence[int]) -> Iterator[Image]:
    """Frames of a video by their numbers, which ascend but may repeat."""
    with Video(path) as video:
        try:
            first = video.frame(numbers[0])
        except IndexError as error:
            raise MotionFileError(str(error)) from None
        number, frames = numbers[0] - 1, video.frames(first.seconds)
        image = first.image
        for wanted in numbers:
            while number < wanted:
                following = next(frames, None)
                if following is None:
                    raise MotionFileError(f"{path}: has frames 0 to {number}, got {wanted}")
                number, image = number + 1, following.image
            yield image


def cut_samples(
    samples: Sequence[Sample], squares: Sequence[Square], side: int, rate: float, still: bool | None
) -> Iterator[CutFrame]:
    """The persons of a sequence of samples, in the order of time, cut from their images.

    Args:
        samples: with images.
        squares: one per sample.
        side: of the cuts, in pixels.
        rate: frames per second of the recording.
        still: the camera stands still, and the background is the median over up to 31 of the frames, if there are
            `FEWEST`. None: where the samples know its rotation and translation, and these stay the same.

    Raises:
        MotionFileError: an image is broken, or of another size than its camera's or the sequence's.
        FileNotFoundError: no such image.
    """
    references = [sample.image for sample in samples if sample.image is not None]
    still = _stands_still(samples) if still is None else still
    background = _median(references) if still and len(references) >= FEWEST else None
    for sample, square, image in zip(samples, squares, read_images(references), strict=True):
        where = references[0].path if sample.image is None else sample.image.path
        size = image.shape[:2]
        if sample.camera is not None and not np.allclose(size, sample.camera.size, rtol=0.01):
            raise MotionFileError(
                f"{where}: the image must be {sample.camera.size} as its camera says, got {size}; "
                "the joints' pixels are those of images that were not resized"
            )
        if background is not None and size != background.shape[:2]:
            raise MotionFileError(f"{where}: the image must be {background.shape[:2]} like the sequence's, got {size}")
        try:
            behind = None if background is None else square.cut(background, side)
            cut = CutFrame(sample.frame / rate, square.cut(image, side), behind, square)
        except ValueError as error:
            raise MotionFileError(f"{where}: {error}") from None
        yield cut


def _stands_still(samples: Sequence[Sample]) -> bool:
    """Whether the samples say that their camera stays where it is."""
    first = samples[0]
    return all(
        one is not None and other is not None and np.allclose(one, other, rtol=0, atol=1e-6)
        for sample in samples
        for one, other in ((first.rotation, sample.rotation), (first.translation, sample.translation))
    )


def _median(references: Sequence[FrameReference]) -> Image:
    """The median per pixel and channel over an odd number of images, evenly spread."""
    count = min(len(references), _MOST)
    count -= 1 - count % 2
    chosen = [references[int((number + 0.5) * len(references) / count)] for number in range(count)]
    stack: Image | None = None
    for number, reference in enumerate(chosen):
        image = read_frame(reference)
        if stack is None:
            check_size(reference.path, count * image.size, "the images of the median have")
            stack = np.empty((count, *image.shape), np.uint8)
        if image.shape != stack.shape[1:]:
            raise MotionFileError(
                f"{reference.path}: the image must be {stack.shape[1:3]} like the sequence's, got {image.shape[:2]}"
            )
        stack[number] = image
    assert stack is not None  # there are at least FEWEST
    # Row by row: a partition of the whole would be a second copy of it.
    rows = [np.partition(stack[:, row], count // 2, axis=0)[count // 2] for row in range(stack.shape[1])]
    return np.stack(rows)


class Strip:
    """Cut frames as they come, in blocks, so that making one tensor of them needs no second copy."""

    def __init__(self, side: int) -> None:
        if side < 1:
            raise ValueError(f"size must be at least 1 pixel, got {side}")
        self.side = side
        self.blocks: list[Image] = []
        self.clip: list[int] = []
        self.moving: list[bool] = []
        self.moments: list[float] = []

    def __len__(self) -> int:
        return len(self.clip)

    def add(self, clip: int, cut: CutFrame) -> None:
        """One more frame."""
        block, place = divmod(len(self), _BLOCK)
        if block == len(self.blocks):
            self.blocks.append(np.empty((_BLOCK, 2, 3, self.side, self.side), np.uint8))
        self.blocks[block][place, 0] = cut.image.transpose(2, 0, 1)
        self.blocks[block][place, 1] = 0 if cut.background is None else cut.background.transpose(2, 0, 1)
        self.clip.append(clip)
        self.moving.append(cut.background is None)
        self.moments.append(cut.seconds)

    def keep(self, count: int) -> None:
        """Forget all but the first frames."""
        del self.clip[count:], self.moving[count:], self.moments[count:]

    def images(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, backgrounds, and labels that are zeros without memory; the blocks are given up."""
        image, background = (torch.empty(len(self), 3, self.side, self.side, dtype=torch.uint8) for _ in range(2))
        for start in range(0, len(self), _BLOCK):
            block = torch.from_numpy(self.blocks.pop(0)[: len(self) - start])
            image[start : start + _BLOCK], background[start : start + _BLOCK] = block.unbind(1)
        return image, background, torch.zeros(1, 1, 1, dtype=torch.uint8).expand(len(self), self.side, self.side)

    def times(self) -> tuple[Tensor, Tensor, Tensor]:
        """Clips, seconds since their first frames, and which are moving."""
        first: dict[int, float] = {}
        seconds = [
            moment - first.setdefault(clip, moment) for clip, moment in zip(self.clip, self.moments, strict=True)
        ]
        return torch.tensor(self.clip), torch.tensor(seconds, dtype=torch.float64), torch.tensor(self.moving)
