"""`posegeom puppet`: a puppet from one picture of a person whose parts and joints somebody marked (000 §3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import posegeom as pg
from posegeom.capsules import part_joints
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.images import Image, read_image
from posegeom_models.data.jsonfile import is_number, read_json
from posegeom_models.drawing import color_parts, label_rows, part_colors, tile, to_bytes

SKELETONS = {skeleton.name: skeleton for skeleton in (pg.BODY_17, pg.H36M_17, pg.HAND_21)}
"""Whose puppets can be made, by name."""


@dataclass(frozen=True)
class PuppetOptions:
    """Options of `posegeom puppet`.

    Args:
        labels: an indexed or grey picture (PNG) of a person: 0 where the background is, 1 + k where part k is. The
            parts and their numbers are those of the built-in puppet; a number that is not there is named.
        anchors: JSON with the pixel of every joint that a part hangs on: {"neck": [x, y], ...}.
        out: file for the puppet (.npz); the preview lies beside it as .png.
        skeleton: of the joints: BODY_17, H36M_17 or HAND_21.
        erosion: how far into each part its outline is uncertain, in pixels, and as far out; default: 1/128 of the
            picture's height.
        blur: standard deviation of the Gaussian over the maps, in pixels; default: 1/256 of the picture's height.
    """

    labels: Path = field(kw_only=True)
    anchors: Path = field(kw_only=True)
    out: Path = Path("puppet.npz")
    skeleton: str = "BODY_17"
    erosion: float | None = None
    blur: float | None = None

    def __post_init__(self) -> None:
        if self.skeleton not in SKELETONS:
            raise ValueError(f"skeleton must be one of {', '.join(SKELETONS)}, got {self.skeleton!r}")
        if self.out.suffix != ".npz":
            raise ValueError(f"out must end in .npz, got {self.out}")


def read_labels(path: Path, parts: int) -> Image:
    """A picture (H, W) of labels up to `parts`.

    Raises:
        MotionFileError: not a picture, one in colours, or with other labels.
        FileNotFoundError: no such file.
    """
    from PIL import Image as Pillow

    labels = read_image(path, gray=True)
    with Pillow.open(path) as opened:
        mode = opened.mode
    if mode not in ("P", "L", "I;16", "I"):
        raise MotionFileError(f"{path}: must be an indexed or grey picture, one number a pixel; got one of mode {mode}")
    if labels.max(initial=0) > parts:
        raise MotionFileError(f"{path}: labels must be 0 to {parts}, got {labels.max()}")
    return labels


def read_anchors(path: Path, skeleton: pg.Skeleton, size: tuple[int, int]) -> Mapping[str, tuple[float, float]]:
    """Joints (x, y) by name, all of them in a picture of `size` (H, W).

    Raises:
        MotionFileError: not an object of joints with two numbers each, a joint that the skeleton does not have, or one
            outside of the picture; names it.
        FileNotFoundError: no such file.
    """
    told = read_json(path)
    if not isinstance(told, dict):
        raise MotionFileError(f'{path}: must be an object such as {{"neck": [64, 40]}}, got {type(told).__name__}')
    anchors = {}
    for name, place in told.items():
        if name not in skeleton:
            raise MotionFileError(f"{path}: {skeleton.name} has no joint {name!r}; it has {', '.join(skeleton.joints)}")
        if not (isinstance(place, list) and len(place) == 2 and all(is_number(value) for value in place)):
            raise MotionFileError(f"{path}: {name} must be [x, y] in pixels, got {place!r}")
        x, y = map(float, place)
        if not (-0.5 <= x <= size[1] - 0.5 and -0.5 <= y <= size[0] - 0.5):
            raise MotionFileError(f"{path}: {name} must be in the picture of {size[1]} x {size[0]}, got [{x:g}, {y:g}]")
        anchors[name] = (x, y)
    return anchors


def preview(puppet: pg.Puppet, labels: Image, anchors: Mapping[str, tuple[float, float]]) -> NDArray[np.uint8]:
    """The labels beside the puppet in the very pose they show, its outline's uncertainty, and below all parts alone."""
    skeleton, size = puppet.skeleton, labels.shape
    points = torch.zeros(len(skeleton.joints), 2)
    for name, place in anchors.items():
        points[skeleton.index(name)] = torch.tensor(place)
    # A picture does not say which part is in front.
    drawn = pg.puppet_segmentation(points, torch.ones(len(points)), puppet, (size[0], size[1]))
    colors = part_colors(puppet).roll(1, dims=0)
    grey = drawn.uncertainty.expand(3, -1, -1)
    alone = puppet.draw()
    first = [colors[torch.from_numpy(labels.astype(np.int64))], color_parts(drawn.maps, puppet), grey.movedim(0, -1)]
    top = tile([to_bytes(picture) for picture in first], 3)
    bottom = tile([to_bytes(alone.movedim(0, -1))], 1)
    width = max(top.shape[1], bottom.shape[1])
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in (top, bottom)]
    named = [label_rows(rows[0], ["labels,\npuppet,\nuncertain"]), label_rows(rows[1], ["parts"])]
    return np.concatenate(named)


def run_puppet(options: PuppetOptions) -> Path:
    """Make a puppet and its preview; return the puppet's path."""
    from PIL import Image as Pillow

    shown = options.out.with_suffix(".png")
    if shown.resolve() == options.labels.resolve():
        raise ValueError(f"the preview {shown} would take the labels' place; choose another --out")
    skeleton = SKELETONS[options.skeleton]
    parts = part_joints(skeleton)
    labels = read_labels(options.labels, len(parts))
    height, width = labels.shape
    anchors = read_anchors(options.anchors, skeleton, (height, width))
    erosion = height / 128 if options.erosion is None else options.erosion
    blur = height / 256 if options.blur is None else options.blur
    try:
        puppet = pg.Puppet.from_labels(labels, anchors, skeleton, erosion, blur)
    except ValueError as error:
        raise MotionFileError(f"{options.labels} and {options.anchors}: {error}") from None
    picture = Pillow.fromarray(preview(puppet, labels, anchors))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for path, save in ((options.out, puppet.save), (shown, picture.save)):
        temporary = path.with_name(f".tmp-{path.name}")
        save(temporary)
        temporary.replace(path)
        print(f"written: {path}")
    return options.out
