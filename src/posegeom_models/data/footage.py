"""Clips of footage: the split by motion of the background, and backgrounds by the median (002, §3.2)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posegeom_models.data.files import MotionFileError, check_size
from posegeom_models.data.images import Image
from posegeom_models.data.video import Video, VideoFrame

SHORTEST = 5.0
"""Seconds; 002 takes clips longer than this."""

STILL = 0.03
"""`background_motion` up to which a background stands still. Coding noise gives some 0.01, a slow pan 0.1."""

_PREVIEW = 64

Floats = NDArray[np.float32]


class Clip(NamedTuple):
    """A stretch of a video.

    Attributes:
        path: the video.
        start: seconds.
        end: seconds.
    """

    path: Path
    start: float
    end: float


class FootageSplit(NamedTuple):
    """Clips with a still background (002's D_p), those with a moving one (D_unp), and what could not be read."""

    paired: tuple[Clip, ...]
    unpaired: tuple[Clip, ...]
    skipped: tuple[str, ...]


def cut_clips(video: str | Path, length: float = 10.0, shortest: float = SHORTEST) -> tuple[Clip, ...]:
    """Cut a video into clips of equal length, each between `shortest` and `length` seconds where that is possible.

    Args:
        video: the file.
        length: the most seconds of a clip.
        shortest: videos shorter than this give none.

    Raises:
        MotionFileError: the file cannot be read, or does not say how long it is.
        ValueError: lengths that do not fit.
    """
    if not 0 < shortest <= length:
        raise ValueError(f"shortest must be positive and at most length ({length}), got {shortest}")
    video = Path(video)
    with Video(video) as opened:
        seconds = opened.seconds
    if seconds <= 0:
        raise MotionFileError(f"{video}: does not say how long it is")
    count = math.ceil(seconds / length - 1e-9)
    if seconds / count < shortest:
        count = math.floor(seconds / shortest)
    edges = np.linspace(0, seconds, count + 1)
    return tuple(Clip(video, float(start), float(end)) for start, end in pairwise(edges))


def sampled_frames(clip: Clip, count: int) -> Iterator[VideoFrame]:
    """Frames at `count` moments evenly spread over a clip, by one pass through it."""
    step = (clip.end - clip.start) / count
    with Video(clip.path) as video:
        yield from video.at_each([clip.start + (number + 0.5) * step for number in range(count)])


def background_motion(clip: Clip, frames: int = 8, share: float = 0.6) -> float:
    """How much the background of a clip moves: the pixel-wise L2 difference among its frames.

    For every two of `frames` frames, at 64 pixels across, the distances of the pixels' colours are sorted, and the
    root mean square is taken of the `share` smallest: a person who covers 10 to 20 % of the picture, in one place in
    the one frame and in another in the other, does not count. The result is the mean over all twos.

    Args:
        clip: the clip.
        frames: how many are compared.
        share: of the pixels.

    Returns:
        In units of the colour range: 0 for a still picture, 0.01 for coding noise, 0.1 and more for a pan.

    Raises:
        MotionFileError: the video cannot be read.
        ValueError: fewer than two frames, a share outside (0, 1].
    """
    if frames < 2 or not 0 < share <= 1:
        raise ValueError(f"frames must be at least 2 and share in (0, 1], got {frames} and {share}")
    small = np.stack([_preview(frame.image) for frame in sampled_frames(clip, frames)])
    kept = max(1, round(share * small.shape[1]))
    totals = []
    for first in range(frames):
        for second in range(first + 1, frames):
            squares = np.square(small[first] - small[second]).mean(-1)
            totals.append(math.sqrt(float(np.partition(squares, kept - 1)[:kept].mean())))
    return float(np.mean(totals))


def _preview(image: Image) -> Floats:
    """(P, 3) colours in [0, 1] of an image shrunk by the mean to some 64 pixels across."""
    height, width = image.shape[:2]
    factor = min(max(1, round(max(height, width) / _PREVIEW)), height, width)
    rows, columns = height // factor, width // factor
    # The rest at the right and lower edges, narrower than one block, is left out.
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, 3)
    colors: Floats = blocks.mean((1, 3), dtype=np.float32).reshape(-1, 3) / np.float32(255)
    return colors


def split_footage(
    videos: Sequence[str | Path],
    threshold: float = STILL,
    length: float = 10.0,
    shortest: float = SHORTEST,
    skip_broken: bool = False,
) -> FootageSplit:
    """Cut videos into clips and part them by the motion of their backgrounds.

    Args:
        videos: the files, e.g. those of `list_videos`.
        threshold: see `background_motion`; 002 gives none.
        length: the most seconds of a clip.
        shortest: the least.
        skip_broken: leave out videos that cannot be read, and warn once at the end how many they were.

    Raises:
        MotionFileError: a video cannot be read.
    """
    paired: list[Clip] = []
    unpaired: list[Clip] = []
    skipped: list[str] = []
    for video in videos:
        try:
            clips = [(clip, background_motion(clip)) for clip in cut_clips(video, length, shortest)]
        except MotionFileError as error:
            if not skip_broken:
                raise
            skipped.append(str(error))
            continue
        for clip, motion in clips:
            (paired if motion <= threshold else unpaired).append(clip)
    if skipped:
        warnings.warn(f"{len(skipped)} of {len(videos)} videos skipped: {skipped[0]}", stacklevel=2)
    return FootageSplit(tuple(paired), tuple(unpaired), tuple(skipped))


def median_background(clip: Clip, frames: int = 31) -> Image:
    """A clip's background: per pixel and channel the median over frames evenly spread over it.

    Memory grows with `frames`, not with the clip's length. A place is right if the person is off it in more than half
    of the frames and the camera does not move.

    Args:
        clip: the clip.
        frames: odd, so that the median is a value that was seen.

    Raises:
        MotionFileError: the video cannot be read, or its frames differ in size.
        ValueError: an even number of frames.
    """
    if frames < 1 or frames % 2 == 0:
        raise ValueError(f"frames must be odd, got {frames}")
    stack: Image | None = None
    for number, frame in enumerate(sampled_frames(clip, frames)):
        if stack is None:
            check_size(clip.path, frames * frame.image.size, "the frames of the median have")
            stack = np.empty((frames, *frame.image.shape), np.uint8)
        if frame.image.shape != stack.shape[1:]:
            raise MotionFileError(
                f"{clip.path}: its frames differ in size, {stack.shape[1:3]} and {frame.image.shape[:2]}"
            )
        stack[number] = frame.image
    assert stack is not None  # sampled_frames gives as many as it is asked for
    background: Image = np.empty(stack.shape[1:], np.uint8)
    for row in range(stack.shape[1]):
        background[row] = np.partition(stack[:, row], frames // 2, axis=0)[frames // 2]
    return background


def halves_background(clip: Clip) -> Image:
    """A dive's background: the lower half of the first frame, before the diver is there, and the upper of the last.

    As 003 has it (S.1), for clips of a camera that does not move in which a median would show the diver or the splash.

    Raises:
        MotionFileError: the video cannot be read, or its frames differ in size.
    """
    with Video(clip.path) as video:
        # Half a frame before the end is still of this clip.
        first, last = (frame.image for frame in video.at_each((clip.start, clip.end - 0.5 / video.rate)))
    if first.shape != last.shape:
        raise MotionFileError(f"{clip.path}: its frames differ in size, {first.shape[:2]} and {last.shape[:2]}")
    half = len(first) // 2
    return np.concatenate((last[:half], first[half:]))


BACKGROUNDS = {"median": median_background, "halves": halves_background}
"""Of clips whose camera stands still."""
