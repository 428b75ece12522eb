"""Pictures of poses for people: coloured parts, stick figures in 3D, panels and animations."""

from __future__ import annotations

import colorsys
import contextlib
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posegeom import Puppet, Skeleton
from posegeom_models.data.packages import require

TRUTH, FITTED = "#7a7f87", "#d1495b"
LEFT, RIGHT, MIDDLE = "#2a9d8f", "#e07a2f", "#4a5568"
OUTLINE, LIGHT_MIDDLE = "#14171c", "#f2f4f8"
"""Round bones; and for middle bones over photographs, where `MIDDLE` is lost on dark clothes."""

PAPER, DARK = (242, 244, 247), (24, 26, 30)
"""Behind drawings, and behind labels."""

_FINE = 4
"""Lines are drawn so many times larger and averaged, which makes their edges soft."""

_LEVELS = ((16, 18, 24), (36, 70, 118), (42, 157, 143), (233, 196, 106), (255, 250, 235))
"""Colours of a map from 0 to its peak, ever lighter."""


def part_colors(puppet: Puppet) -> Tensor:
    """(L + 1, 3) RGB in [0, 1]: left parts in greens, right ones in oranges, middle ones in blues, black behind."""
    hues = {"left": 0.45, "right": 0.06, "middle": 0.60}
    colors = []
    seen = dict.fromkeys(hues, 0)
    for name in puppet.parts:
        side = name.split("_")[0] if name.startswith(("left_", "right_")) else "middle"
        level = seen[side]
        seen[side] += 1
        colors.append(colorsys.hsv_to_rgb(hues[side] + 0.018 * level, 0.75 - 0.09 * (level % 3), 0.95 - 0.13 * level))
    return torch.tensor([*colors, (0.0, 0.0, 0.0)])


def color_parts(maps: Tensor, puppet: Puppet) -> Tensor:
    """Soft segmentation (*B, L + 1, H, W) as RGB (*B, H, W, 3)."""
    return torch.einsum("...lhw,lc->...hwc", maps, part_colors(puppet).to(maps))


def to_bytes(picture: Tensor) -> NDArray[np.uint8]:
    """RGB in [0, 1] as uint8."""
    array: NDArray[np.uint8] = (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return array


def label_rows(picture: NDArray[np.uint8], labels: Sequence[str], width: int = 92) -> NDArray[np.uint8]:
    """A picture of equally high rows with a label to the left of each."""
    from PIL import Image, ImageDraw

    height = picture.shape[0]
    strip = Image.new("RGB", (width, height), (24, 26, 30))
    pen = ImageDraw.Draw(strip)
    for row, label in enumerate(labels):
        middle = (row + 0.5) * height / len(labels)
        pen.multiline_text((width / 2, middle), label, fill=(225, 228, 232), anchor="mm", align="center", font_size=13)
    return np.concatenate((np.asarray(strip), picture), axis=1)


def save_animation(frames: Sequence[NDArray[np.uint8]], path: Path, milliseconds: int = 100) -> None:
    """Write RGB frames as an endless GIF whose last frame stays for two seconds."""
    from PIL import Image

    images = [Image.fromarray(frame).quantize(128, dither=Image.Dither.NONE) for frame in frames]
    durations = [milliseconds] * (len(images) - 1) + [2000]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)


class VideoWriter:
    """An H.264 video (MP4) written frame by frame; memory does not grow with its length.

    It is written beside its place and gets its name when the `with` block ends well. After an error or Ctrl-C nothing
    is left of it, and a file that had the name before is untouched.

    Args:
        path: the file; its folder must exist.
        rate: frames per second.

    Attributes:
        frames: how many were written.

    Raises:
        ValueError: a rate that is not positive; at the end of the block: no frames.
        ImportError: PyAV is not installed.
    """

    def __init__(self, path: str | Path, rate: float) -> None:
        if not 0 < rate < math.inf:
            raise ValueError(f"rate must be positive and finite, got {rate}")
        self.path, self.rate, self.frames = Path(path), rate, 0
        self._av = require("av", "writing videos")
        self._part = self.path.with_name(f".{self.path.name}.tmp")
        self._container: Any = None
        self._stream: Any = None
        self._size, self._last = (0, 0), -1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._container is not None:
                with contextlib.suppress(self._av.error.FFmpegError):
                    self._container.close()
            self._part.unlink(missing_ok=True)

    def write(self, frame: NDArray[np.uint8], seconds: float | None = None) -> None:
        """Append a frame.

        Args:
            frame: (H, W, 3) uint8 RGB, all of one size. Odd sizes grow by a repeated last row or column, which H.264
                needs.
            seconds: when it is shown, later than the frame before; None for the next tick of `rate`.

        Raises:
            ValueError: another shape, dtype or size, or a time that does not come after the last one.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"frame must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
        if self._container is None:
            self._open(frame.shape[0], frame.shape[1])
        if frame.shape[:2] != self._size:
            raise ValueError(f"frames of a video must have one size, got {self._size} and then {frame.shape[:2]}")
        tick = self.frames if seconds is None else seconds * self.rate
        stamp = round(tick / (Fraction(self.rate) * self._stream.codec_context.time_base))
        if stamp <= self._last:
            raise ValueError(f"frames must come in the order of time, got {seconds} s")
        even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        picture.pts, picture.time_base = stamp, self._stream.codec_context.time_base
        self._container.mux(self._stream.encode(picture))
        self.frames, self._last = self.frames + 1, stamp

    def _open(self, height: int, width: int) -> None:
        self._size = (height, width)
        # Whole frames at the beginning of the file let a browser start before it has all of it.
        place = f"file:{self._part.resolve()}"
        self._container = self._av.open(place, "w", format="mp4", options={"movflags": "faststart"})
        self._stream = self._container.add_stream("libx264", rate=Fraction(self.rate).limit_denominator(1001))
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        # Without frames that look ahead (bf), a file with uneven times says rightly how long it is.
        self._stream.pix_fmt, self._stream.options = "yuv420p", {"crf": "18", "preset": "veryfast", "bf": "0"}
        # Fine enough for any times; 90000 is a multiple of all usual rates.
        self._stream.codec_context.time_base = Fraction(1, 90000)

    def _finish(self) -> None:
        if not self.frames:
            raise ValueError(f"{self.path}: a video needs at least one frame, got none")
        self._container.mux(self._stream.encode())
        self._container.close()
        self._container = None
        self._part.replace(self.path)


def save_video(frames: Iterable[NDArray[np.uint8]], path: str | Path, rate: float) -> int:
    """Write RGB frames (H, W, 3) as an H.264 video (MP4), one at a time, and return how many they were.

    Args:
        frames: uint8, all of one size; odd sizes grow by a repeated last row or column.
        path: the file; written beside its place and renamed at the end, so that no half of it is ever left.
        rate: frames per second.

    Raises:
        ValueError: no frames, frames that differ in size, a rate that is not positive.
        ImportError: PyAV is not installed.
    """
    with VideoWriter(path, rate) as writer:
        for frame in frames:
            writer.write(frame)
    return writer.frames


def plot_skeleton(axes: Any, joints: NDArray[np.floating[Any]], skeleton: Skeleton, color: str | None = None) -> None:
    """Draw joints (J, 3) on a matplotlib 3D axes; without a color, left is green and right is orange."""
    for parent, child in skeleton.bones:
        name = skeleton.joints[child]
        side = LEFT if name.startswith("left_") else RIGHT if name.startswith("right_") else MIDDLE
        axes.plot(*joints[[parent, child]].T, color=color or side, linewidth=2, solid_capstyle="round")


def frame_skeletons(axes: Any, joints: NDArray[np.floating[Any]], azimuth: float = 20.0) -> None:
    """Equal scales, no ticks, the box just large enough for joints (..., 3)."""
    flat = joints.reshape(-1, 3)
    middle = (flat.max(0) + flat.min(0)) / 2
    reach = (flat.max(0) - flat.min(0)).max() / 2 * 1.02
    axes.set_xlim(middle[0] - reach, middle[0] + reach)
    axes.set_ylim(middle[1] - reach, middle[1] + reach)
    axes.set_zlim(middle[2] - reach, middle[2] + reach)
    axes.set_box_aspect((1, 1, 1), zoom=1.4)
    axes.view_init(elev=12, azim=azimuth)
    axes.set_axis_off()


def side_color(joint: str, middle: str = MIDDLE) -> str:
    """The colour of a joint and of the bone that ends in it, by its name."""
    return LEFT if joint.startswith("left_") else RIGHT if joint.startswith("right_") else middle


def draw_skeleton(
    picture: NDArray[np.uint8], points: NDArray[np.floating[Any]], skeleton: Skeleton, width: float | None = None
) -> NDArray[np.uint8]:
    """A picture with a skeleton drawn over it: left green, right orange, each line with a thin dark edge.

    Args:
        picture: (H, W, 3) uint8 RGB.
        points: (J, 2) pixels, whose centres are integers; what lies outside is not seen, nor is what is not finite.
        skeleton: which points are joined.
        width: of the bones in pixels; None for one that fits the skeleton's size.
    """
    from PIL import Image, ImageDraw

    known = points[np.isfinite(points).all(-1)]
    if not len(known):
        return np.array(picture)
    extent = np.array(picture.shape[1::-1])
    if width is None:
        width = float(np.clip(np.ptp(known, axis=0).max() / 64, 2.5, 12))
    low = np.clip(np.floor(known.min(0) - 2 * width), 0, extent).astype(int)
    high = np.clip(np.ceil(known.max(0) + 2 * width) + 1, 0, extent).astype(int)
    drawn: NDArray[np.uint8] = picture.copy()
    if (high <= low).any():
        return drawn
    # Only the part that changes is enlarged. Averaging gives its other pixels back as they were.
    part = picture[low[1] : high[1], low[0] : high[0]]
    large = Image.fromarray(part.repeat(_FINE, 0).repeat(_FINE, 1))
    places = np.clip(points - low, -4 * extent, 5 * extent)
    groups = [list(range(len(skeleton.bones)))]
    _draw_bones(ImageDraw.Draw(large), _enlarged(places), skeleton, width * _FINE, groups, LIGHT_MIDDLE)
    drawn[low[1] : high[1], low[0] : high[0]] = np.asarray(large.reduce(_FINE))
    return drawn


def draw_skeleton_3d(
    joints: NDArray[np.floating[Any]], skeleton: Skeleton, size: int, azimuth: float = 0.0, reach: float | None = None
) -> NDArray[np.uint8]:
    """A skeleton in space without perspective, on a plain light ground; what is nearer covers what is farther.

    Args:
        joints: (J, 3) metres about the middle of the picture, in a camera's axes (x right, y down, z forward).
        skeleton: which joints are joined.
        size: height and width of the picture.
        azimuth: degrees by which the viewer walks round the person, from the camera (0) to its right (90).
        reach: metres from the middle to the edge; None for the skeleton's own (`reach_of`).

    Returns:
        (size, size, 3) uint8 RGB.
    """
    from PIL import Image, ImageDraw

    reach = reach_of(joints, skeleton) if reach is None else reach
    turn = math.radians(azimuth)
    across = joints[:, 0] * math.cos(turn) + joints[:, 2] * math.sin(turn)
    depth = joints[:, 2] * math.cos(turn) - joints[:, 0] * math.sin(turn)
    flat = np.stack([across, joints[:, 1]], axis=-1) / reach
    places = np.clip((flat * size + size - 1) / 2, -size, 2 * size)
    middles = [depth[list(bone)].sum() for bone in skeleton.bones]
    large = Image.new("RGB", (size * _FINE, size * _FINE), PAPER)
    order = [[int(bone)] for bone in np.argsort(np.negative(middles), kind="stable")]
    _draw_bones(ImageDraw.Draw(large), _enlarged(places), skeleton, max(size / 48, 2.0) * _FINE, order, MIDDLE)
    averaged: NDArray[np.uint8] = np.asarray(large.reduce(_FINE))
    return averaged


def reach_of(joints: NDArray[np.floating[Any]], skeleton: Skeleton) -> float:
    """How far from the root any pose of these bones can reach, in metres, and a little more.

    Args:
        joints: (..., J, 3); of several poses the median lengths count.
        skeleton: of the joints.
    """
    flat = joints.reshape(-1, len(skeleton.joints), 3)
    far = np.zeros(len(skeleton.joints))
    for level in skeleton.levels[1:]:
        for joint in level:
            parent = skeleton.parents[joint]
            bone = np.linalg.norm(flat[:, joint] - flat[:, parent], axis=-1)
            far[joint] = far[parent] + np.median(bone)
    return 1.06 * float(far.max()) or 1.0


def tile(pictures: Sequence[NDArray[np.uint8]], columns: int, gap: int = 4) -> NDArray[np.uint8]:
    """Pictures (H, W, 3) of one size as a grid, row by row; what is left over is dark."""
    if not pictures or columns < 1:
        raise ValueError(f"tile needs pictures and at least one column, got {len(pictures)} and {columns}")
    height, width = pictures[0].shape[:2]
    rows = math.ceil(len(pictures) / columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    grid: NDArray[np.uint8] = np.full(shape, DARK, np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        grid[top : top + height, left : left + width] = picture
    return grid


def map_panel(
    maps: NDArray[np.floating[Any]], names: Sequence[str], side: int = 128, peak: float | None = None
) -> NDArray[np.uint8]:
    """A stack of maps as a labelled grid in one scale of colours, dark at 0 and light at the peak.

    Args:
        maps: (C, H, W): heatmaps, limb maps, part maps.
        names: C labels.
        side: height of each map in the grid, in pixels.
        peak: the value shown lightest; None for the greatest of all maps.
    """
    from PIL import Image

    if maps.ndim != 3 or len(maps) != len(names) or not maps.size:
        raise ValueError(f"maps must be (C, H, W) with C names, got {maps.shape} and {len(names)}")
    # The default of 1 shows a stack that is nothing but zeros as dark.
    peak = float(np.nanmax(maps)) if peak is None else peak
    shares = np.clip(np.nan_to_num(maps) / (peak if peak > 0 else 1.0), 0, 1)
    levels = np.linspace(0, 1, len(_LEVELS))
    colors = np.stack([np.interp(shares, levels, channel) for channel in zip(*_LEVELS, strict=True)], axis=-1)
    size = (max(1, round(side * maps.shape[2] / maps.shape[1])), side)
    pictures = []
    for picture, name in zip(colors.round().astype(np.uint8), names, strict=True):
        scaled = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))
        pictures.append(np.concatenate((scaled, _caption(name.replace("_", " "), size[0]))))
    return tile(pictures, math.ceil(math.sqrt(len(pictures) * side / size[0])))


def _caption(name: str, width: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (width, 18), DARK)
    pen = ImageDraw.Draw(strip)
    # Long names in narrow columns get smaller letters.
    letters = min(12.0, max(7.0, 12.0 * (width - 4) / max(pen.textlength(name, font_size=12), 1.0)))
    pen.text((width / 2, 9), name, fill=(225, 228, 232), anchor="mm", font_size=letters)
    caption: NDArray[np.uint8] = np.asarray(strip)
    return caption


def _enlarged(places: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Pixel positions in a picture whose every pixel has become `_FINE` by `_FINE`."""
    return (places + 0.5) * _FINE - 0.5


def _draw_bones(
    pen: Any,
    places: NDArray[np.floating[Any]],
    skeleton: Skeleton,
    width: float,
    groups: Sequence[Sequence[int]],
    middle: str,
) -> None:
    """Draw groups of bones, one over the other, with a dark edge round each group."""
    edge = max(_FINE, width / 4)
    for group in groups:
        for color, thick in ((OUTLINE, width + 2 * edge), (None, width)):
            for bone in group:
                parent, child = skeleton.bones[bone]
                ends = places[[parent, child]]
                if not np.isfinite(ends).all():
                    continue
                fill = color or side_color(skeleton.joints[child], middle)
                pen.line([tuple(end) for end in ends.tolist()], fill=fill, width=max(1, round(thick)))
                for x, y in ends.tolist():
                    pen.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=fill)
