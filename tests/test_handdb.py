"""HandDB's JSON files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posegeom import HAND_21
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.handdb import read_handdb


def hand(number: int) -> dict[str, object]:
    points = [[10.0 * joint + number, 5.5 * joint, 1.0] for joint in range(21)]
    points[20][2] = 0.0
    return {"hand_pts": points, "is_left": number % 2}


def folder(root: Path, count: int = 10) -> Path:
    for sequence in ("synth2", "synth3"):
        (root / sequence).mkdir(parents=True)
        for number in range(count):
            (root / sequence / f"{number:04d}.json").write_text(json.dumps(hand(number)))
    return root


def test_hands_are_read_and_split_eighty_to_twenty(tmp_path: Path) -> None:
    root = folder(tmp_path / "hand_labels_synth")
    train, test = list(read_handdb(tmp_path, "train")), list(read_handdb(root))
    assert [(sample.sequence, sample.frame) for sample in test] == [
        ("synth2", 8), ("synth2", 9), ("synth3", 8), ("synth3", 9),
    ]  # fmt: skip
    assert len(train) == 16
    assert len(list(read_handdb(root, "all", ["synth3"], step=2))) == 5
    sample = test[1]
    assert sample.skeleton is HAND_21
    assert sample.points is not None
    assert sample.known is not None
    assert sample.points[:3].tolist() == [[9, 0], [19, 5.5], [29, 11]]
    assert sample.known.tolist() == [True] * 20 + [False]
    assert sample.points[20].tolist() == [0, 0]
    assert (sample.left, test[0].left) == (True, False)
    assert sample.image == (root / "synth2" / "0009.jpg", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ('{"hand_pts": [[1, 2', r"not readable JSON \(truncated or damaged\)"),
        ("[]", r"hand_pts must be 21 times \[x, y, flag\], got none"),
        (json.dumps({"hand_pts": [[1, 2, 1]] * 20}), "hand_pts must be 21 times .* got 20"),
        (json.dumps({"hand_pts": [[1, float("nan"), 1]] * 21}), "in finite numbers, got"),
        (json.dumps({"hand_pts": [[1, "x", 1]] * 21}), "in finite numbers, got"),
        (json.dumps({"hand_pts": [[1, 2, 1]] * 21, "is_left": "yes"}), "is_left must be 0 or 1, got yes"),
        ("[" * 100000, "not readable JSON"),
    ],
)
def test_broken_hands_give_one_clear_error_or_are_skipped(tmp_path: Path, content: str, message: str) -> None:
    folder(tmp_path)
    (tmp_path / "synth2" / "0009.json").write_text(content)
    with pytest.raises(MotionFileError, match=rf"synth2/0009\.json: .*{message}"):
        list(read_handdb(tmp_path))
    with pytest.warns(UserWarning, match="HandDB: 1 of 4 files skipped"):
        assert len(list(read_handdb(tmp_path, skip_broken=True))) == 3


def test_missing_data_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"synth2: no HandDB here; get hand_labels_synth\.zip from"):
        read_handdb(tmp_path)
    for sequence in ("synth2", "synth3"):
        (tmp_path / sequence).mkdir()
    with pytest.raises(FileNotFoundError, match="no hands of HandDB here"):
        read_handdb(tmp_path)
