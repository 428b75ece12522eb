"""Pictures of what 001 says of test frames: its poses, and those that are far off (Fig. 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import posegeom as pg
from posegeom_models.data.reels import Frames, Reel, rows_of
from posegeom_models.drawing import draw_skeleton, draw_skeleton_3d, label_rows, reach_of, tile, to_bytes

SHOWN = 8
"""Frames in a panel."""

CELL = 128
"""Pixels that a cell has at least: skeletons of fewer are blots. Smaller images are enlarged and then drawn on."""

FAR = 0.2
"""Metres of P-MPJPE from which a pose counts as failed (Fig. 5)."""

Picture = NDArray[np.uint8]
Say = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Images to skeleton images s in [−1, 1], points in pixels, and joints in metres."""


def panels(say: Say, reel: Reel, masked: bool, random: np.random.Generator) -> Mapping[str, Picture]:
    """The panel "poses", of any frames, and "failures", of those that are most off, if any is by `FAR`.

    Rows: what Φ is shown, s = Φ(x), y = Ω(s) over the image, v from the camera and from its right, the truth from
    there. In "failures" v is aligned with the truth (Procrustes), so that the two may be compared.

    Args:
        say: the model.
        reel: frames to choose from.
        masked: people are cut out of their images.
        random: chooses frames.
    """
    numbers = torch.from_numpy(random.permutation(len(reel)))
    frames = reel.frames(numbers)
    shown = frames.image * (frames.labels > 0).unsqueeze(1) if masked else frames.image
    skeleton_images, points, joints = (
        torch.cat(parts) for parts in zip(*(say(part) for part in shown.split(64)), strict=True)
    )
    errors = pg.p_mpjpe(joints, frames.joints, reduction="none").mean(-1)
    worst = errors.argsort(descending=True)
    aligned = pg.procrustes_align(joints, frames.joints).aligned
    pictures = {}
    for name, rows, poses in (
        ("poses", torch.arange(min(SHOWN, len(reel))), joints),
        ("failures", worst[errors[worst] > FAR][:SHOWN], aligned),
    ):
        if len(rows):
            pictures[name] = _panel(
                rows_of(frames, rows), shown[rows], skeleton_images[rows], points[rows], poses[rows], reel
            )
    return pictures


def _panel(
    frames: Frames, shown: Tensor, skeleton_images: Tensor, points: Tensor, joints: Tensor, reel: Reel
) -> Picture:
    skeleton, side = reel.skeleton, shown.shape[-1]
    root, times = skeleton.root, math.ceil(CELL / side)

    def enlarged(pictures: Tensor) -> list[Picture]:
        large = pictures.repeat_interleave(times, -1).repeat_interleave(times, -2)
        return [to_bytes(picture.movedim(0, -1)) for picture in large]

    truth = (frames.joints - frames.joints[:, root].unsqueeze(1)).double().numpy()
    about = (joints - joints[:, root].unsqueeze(1)).double().numpy()
    reach = reach_of(truth, skeleton)
    places = (times * (points + 0.5) - 0.5).double().numpy()  # pixel centres are integers
    drawn = ((skeleton_images + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)
    rows = [
        enlarged(shown),
        enlarged(drawn),
        [draw_skeleton(image, each, skeleton) for image, each in zip(enlarged(frames.image), places, strict=True)],
        *(
            [draw_skeleton_3d(pose, skeleton, times * side, turn, reach) for pose in poses]
            for turn in (0.0, 90.0)
            for poses in (about, truth)
        ),
    ]
    return label_rows(
        np.concatenate([tile(row, len(row), 0) for row in rows]),
        ["shown", "s", "y", "v, camera", "truth, camera", "v, right", "truth, right"],
    )
