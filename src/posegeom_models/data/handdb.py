"""HandDB (OpenPose's hands): synthetic hands with 21 key points in JSON files beside the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from posegeom.presets import HAND_21
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.jsonfile import is_number, read_json
from posegeom_models.data.samples import FrameReference, Part, Protocol, Sample, Samples, check_step

PROTOCOL = Protocol(
    source="HandDB",
    skeleton=HAND_21,
    train=("synth2", "synth3"),
    validation=(),
    test=("synth2", "synth3"),
    frame_rate=None,
    train_step=1,
    test_step=1,
    scored=HAND_21.joints,
    obtain="hand_labels_synth.zip from domedb.perception.cs.cmu.edu/handdb.html",
    layout="synth2/0000.json with synth2/0000.jpg below it",
)
"""001 takes synth2 and synth3 (5591 hands) and splits them 80/20, it does not say how: here the first 80 % of each are
trained on and the last 20 % tested, since neighbours look alike.
"""

_POINTS = len(HAND_21.joints)


def read_handdb(
    root: str | Path,
    split: str = "test",
    sequences: Sequence[str] = PROTOCOL.train,
    step: int = 1,
    skip_broken: bool = False,
) -> Samples:
    """The synthetic hands of HandDB. Points that are marked as not labelled are not `known`, and zeros.

    Args:
        root: folder with synth1 to synth4 (hand_labels_synth), or the folder that it is in.
        split: "train", "test", or "all".
        sequences: which of the folders.
        step: take every how many-th hand.
        skip_broken: see `Samples`.

    Raises:
        FileNotFoundError: nothing there.
        MotionFileError: (while reading) a file is broken.
    """
    check_step(step)
    root = Path(root)
    PROTOCOL.members(split)
    if (root / "hand_labels_synth").is_dir():
        root = root / "hand_labels_synth"
    parts = []
    for sequence in sequences:
        PROTOCOL.check_there(root / sequence)
        paths = sorted((root / sequence).glob("*.json"))
        cut = round(0.8 * len(paths))
        chosen = {"train": range(cut), "test": range(cut, len(paths))}.get(split, range(len(paths)))
        parts += [Part(paths[number], partial(_read, paths[number], number)) for number in chosen[::step]]
    if not parts:
        raise FileNotFoundError(f"{root}: no hands of HandDB here; get {PROTOCOL.obtain}, and put {PROTOCOL.layout}")
    return Samples(PROTOCOL, parts, skip_broken)


def _read(path: Path, number: int) -> Iterator[Sample]:
    held = read_json(path)
    rows = held.get("hand_pts") if isinstance(held, dict) else None
    if not isinstance(rows, list) or len(rows) != _POINTS:
        got = len(rows) if isinstance(rows, list) else "none"
        raise MotionFileError(f"{path}: hand_pts must be {_POINTS} times [x, y, flag], got {got}")
    for row in rows:
        if not isinstance(row, list) or len(row) != 3 or not all(map(is_number, row)):
            raise MotionFileError(f"{path}: hand_pts must be [x, y, flag] in finite numbers, got {str(row)[:60]}")
    array = np.array(rows, np.float64)
    known = array[:, 2] > 0
    left = held.get("is_left")
    if left not in (None, 0, 1):
        raise MotionFileError(f"{path}: is_left must be 0 or 1, got {str(left)[:40]}")
    yield Sample(
        "HandDB",
        path.parent.name,
        number,
        HAND_21,
        FrameReference(path.with_suffix(".jpg")),
        points=np.where(known[:, None], array[:, :2], 0).astype(np.float32),
        known=known,
        left=None if left is None else bool(left),
    )
