"""Videos as streams of frames, decoded by FFmpeg through PyAV: one frame in memory at a time, any moment by seeking."""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from posegeom_models.data.files import MotionFileError, check_size
from posegeom_models.data.images import Image
from posegeom_models.data.packages import require

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv", ".gif")
"""Files of a folder that are taken for videos."""

# Containers that hold their own frames. Playlists and lists of files, which name what else to open, are not among them.
_FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,m4v,mjpeg,gif,nut,ivf,dv"

_NO_TIME = 1e-4
"""Seconds; times closer than this are the same."""


class VideoFrame(NamedTuple):
    """One frame.

    Attributes:
        seconds: when it is shown, from the start of the video.
        image: (H, W, 3) uint8 RGB, upright: turned as the file says that it was filmed.
    """

    seconds: float
    image: Image


class Video:
    """A video file. Times are the file's own, so that a variable frame rate is no matter.

    Args:
        path: the file.
        keep_cut: take the frames before the cut of a truncated or damaged file, instead of refusing it.

    Attributes:
        size: (height, width) of the upright frames.
        seconds: how long it is, as the file says; 0 where it does not.
        rate: frames per second on average, as the file says; 0 where it does not.

    Raises:
        MotionFileError: no video, no frames, or cut off; one sentence with the file's name.
        FileNotFoundError: no such file.
        ImportError: PyAV is not installed.
    """

    def __init__(self, path: str | Path, keep_cut: bool = False) -> None:
        self.path, self.keep_cut = Path(path), keep_cut
        self._av = require("av", "reading videos")
        self._container: Any = None
        self._times: list[float] | None = None
        self._begin = 0.0
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such video")
        container, stream = self._open()
        with container:
            self.rate = float(stream.average_rate or 0)
            self.seconds = self._declared(container, stream)
            check_size(self.path, 3 * stream.width * stream.height, "each frame has")
            first = next(self._decode(container, stream), None)
            if first is None:
                raise self._wrong("holds no frames")
            # Times count from the first frame; the start that a stream declares can be another.
            self._begin = first[0]
            self.size: tuple[int, int] = self._upright(*first).image.shape[:2]
        if not keep_cut and self.seconds > 0:
            self._check_end()

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go; it is opened again when needed."""
        if self._container is not None:
            self._container[0].close()
            self._container = None

    def frames(self, start: float = 0.0, end: float = math.inf, rate: float | None = None) -> Iterator[VideoFrame]:
        """The frames shown from `start` until before `end`, in the order of time.

        Args:
            start: seconds.
            end: seconds.
            rate: at most so many frames per second: the first one at or after each tick. None: all frames.

        Raises:
            MotionFileError: the file is damaged further on, unless `keep_cut`.
            ValueError: a rate that is not positive.
        """
        if rate is not None and not rate > 0:
            raise ValueError(f"rate must be positive, got {rate}")
        container, stream = self._open()
        with container:
            tick = 0
            for seconds, frame in self._from(container, stream, start):
                if seconds < start - _NO_TIME:
                    continue
                if seconds >= end - _NO_TIME:
                    return
                if rate is not None:
                    past = (seconds - start + _NO_TIME) * rate
                    if past < tick:
                        continue
                    tick = math.floor(past) + 1
                yield self._upright(seconds, frame)

    def at(self, seconds: float) -> VideoFrame:
        """The frame shown at a moment, found by seeking; the first or last one for moments outside.

        Raises:
            MotionFileError: the file is damaged there.
        """
        if self._container is None:
            self._container = self._open()
        container, stream = self._container
        return next(self._shown_at(container, stream, [seconds]))

    def at_each(self, moments: Sequence[float]) -> Iterator[VideoFrame]:
        """The frames shown at moments, which must ascend, by one pass from the first of them to the last.

        Raises:
            MotionFileError: the file is damaged there.
        """
        container, stream = self._open()
        with container:
            yield from self._shown_at(container, stream, moments)

    def _shown_at(self, container: Any, stream: Any, moments: Sequence[float]) -> Iterator[VideoFrame]:
        frames = self._from(container, stream, moments[0] if moments else 0.0)
        shown, following = None, next(frames, None)
        for moment in moments:
            while following is not None and (shown is None or following[0] <= moment + _NO_TIME):
                shown, following = following, next(frames, None)
            if shown is None:
                raise self._wrong(f"no frame can be decoded at {moment:.2f} s")
            yield self._upright(*shown)

    def frame(self, number: int) -> VideoFrame:
        """A frame by its number, from 0. The first call looks through the file's packets, without decoding them.

        Raises:
            IndexError: there are fewer frames.
            MotionFileError: the file is damaged.
        """
        if self._times is None:
            container, stream = self._open()
            with container:
                stamps = [self._stamp(container, packet) for packet in self._packets(container, stream)]
                times = [float(stamp * stream.time_base) for stamp in stamps if stamp is not None]
            if not times:
                raise self._wrong("its frames have no times; put it into a container, e.g. an .mp4")
            if container.format.name == "avi":
                # Frames come out later than they went in, by the same time throughout.
                self._times = [time - min(times) for time in sorted(times)]
            else:
                # What lies before the beginning is there to decode the rest, and is not shown.
                self._times = [time - self._begin for time in sorted(times) if time >= self._begin - _NO_TIME]
        if not 0 <= number < len(self._times):
            raise IndexError(f"{self.path}: has frames 0 to {len(self._times) - 1}, got {number}")
        return self.at(self._times[number])

    def number_at(self, seconds: float) -> int:
        """The number of the frame shown at a moment."""
        if self._times is None:
            self.frame(0)
        assert self._times is not None
        return max(bisect_right(self._times, seconds + _NO_TIME) - 1, 0)

    def _wrong(self, what: str) -> MotionFileError:
        return MotionFileError(f"{self.path}: {what}")

    def _open(self) -> tuple[Any, Any]:
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        try:
            container = self._av.open(f"file:{self.path.resolve()}", container_options=options)
        except self._av.error.FFmpegError as error:
            raise self._wrong(f"not a video that can be decoded (or cut off): {error.strerror}") from None
        covers = self._av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & covers]
        if not streams:
            kinds = sorted({stream.type for stream in container.streams})
            container.close()
            raise self._wrong(f"holds no video ({' and '.join(kinds) or 'nothing'} only)")
        if streams[0].codec_context is None:
            container.close()
            raise self._wrong("its video is coded in a way that cannot be decoded here")
        return container, streams[0]

    def _declared(self, container: Any, stream: Any) -> float:
        """How long the file says that its video is, in seconds; 0 where it does not say."""
        if stream.duration:
            return float(stream.duration * stream.time_base)
        try:
            hours, minutes, seconds = (float(part) for part in stream.metadata.get("DURATION", "").split(":"))
            return 3600 * hours + 60 * minutes + seconds
        except ValueError:
            # The container's own length may be that of its sound.
            alone = len(container.streams) == 1
            return float(container.duration / self._av.time_base) if alone and container.duration else 0.0

    def _packets(self, container: Any, stream: Any) -> Iterator[Any]:
        try:
            for packet in container.demux(stream):
                if packet.size:
                    yield packet
        except self._av.error.FFmpegError as error:
            if not self.keep_cut:
                raise self._wrong(f"is cut off or damaged: {error.strerror}") from None

    def _check_end(self) -> None:
        """Raise unless there are packets until about the end that the file declares."""
        container, stream = self._open()
        with container:
            last = 0.0
            self._seek(container, stream, self.seconds)
            for packet in self._packets(container, stream):
                if packet.is_corrupt:
                    raise self._wrong("is cut off or damaged: a packet is incomplete")
                if packet.pts is not None:
                    shown = float(packet.duration * stream.time_base) if packet.duration else 0.0
                    last = max(last, float(packet.pts * stream.time_base) - self._begin + shown)
        if last < self.seconds - max(0.5, 0.05 * self.seconds):
            raise self._wrong(f"is cut off: {last:.2f} of {self.seconds:.2f} s are there")

    def _stamp(self, container: Any, of: Any) -> int | None:
        """When a frame or packet is shown, in the stream's units. AVI files do not say; there the order does."""
        stamp: int | None = of.dts if container.format.name == "avi" else of.pts
        return stamp

    def _seek(self, container: Any, stream: Any, seconds: float) -> None:
        """Go to the last key frame before a moment, where the container can."""
        target = max(seconds, 0.0) + self._begin
        with contextlib.suppress(self._av.error.FFmpegError, OverflowError):
            container.seek(round(target / stream.time_base), stream=stream, backward=True)

    def _from(self, container: Any, stream: Any, start: float) -> Iterator[tuple[float, Any]]:
        """Decoded frames with their times, from a key frame at or before `start` on."""
        # Containers seek by the time of decoding, which is before that of showing, and can so come a little late.
        for earlier in (0.0, 1.0, 10.0):
            self._seek(container, stream, start - earlier)
            frames = self._decode(container, stream)
            first = next(frames, None)
            if first is not None and first[0] <= max(start, 0.0) + _NO_TIME:
                yield first
                yield from frames
                return
            if start <= earlier:
                break
        # Some cannot seek at all: begin at the beginning.
        container, stream = self._open()
        with container:
            yield from self._decode(container, stream)

    def _decode(self, container: Any, stream: Any) -> Iterator[tuple[float, Any]]:
        step = max(1, round(1 / (stream.time_base * (stream.average_rate or 25))))
        last: int | None = None
        try:
            for frame in container.decode(stream):
                check_size(self.path, 3 * frame.width * frame.height, "a frame has")
                stamp = self._stamp(container, frame)
                if stamp is None or (last is not None and stamp <= last):
                    # Raw streams have no times, nor have the last frames of some files.
                    stamp = 0 if last is None else last + step
                last = stamp
                yield float(stamp * stream.time_base) - self._begin, frame
        except self._av.error.FFmpegError as error:
            if not self.keep_cut:
                raise self._wrong(f"is cut off or damaged: {error.strerror}") from None

    def _upright(self, seconds: float, frame: Any) -> VideoFrame:
        try:
            image = frame.to_ndarray(format="rgb24")
        except (self._av.error.FFmpegError, ValueError) as error:
            raise self._wrong(f"a frame cannot be turned into colours: {error}") from None
        return VideoFrame(seconds, np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4)))


def list_videos(folder: str | Path) -> tuple[Path, ...]:
    """The videos of a folder (not of the folders in it), by name.

    Raises:
        FileNotFoundError: no such folder, or no video in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    videos = tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()))
    if not videos:
        raise FileNotFoundError(f"{folder}: no videos in this folder; put clips there ({', '.join(SUFFIXES)})")
    return videos
