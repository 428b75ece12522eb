"""Pictures of poses for people: coloured parts, stick figures in 3D, panels and animations."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posegeom import Puppet, Skeleton

TRUTH, FITTED = "#7a7f87", "#d1495b"
LEFT, RIGHT, MIDDLE = "#2a9d8f", "#e07a2f", "#4a5568"


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
