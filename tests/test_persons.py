"""Boxes from files, crops, and the detector with weights that the test makes up."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from posegeom_models.data.files import MotionFileError
from posegeom_models.data.persons import PersonBox, PersonDetector, read_boxes

CSV = "video,frame,left,top,right,bottom,score\na.mp4,7,1,2,30,40,0.5\na.mp4,0,1,2,30.5,40,0.9\nb.mp4,0,0,0,5,5,1\n"


def test_boxes_are_read_from_csv_and_json(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    boxes = {"a.mp4": [[7, 1, 2, 30, 40, 0.5], [0, 1, 2, 30.5, 40, 0.9]], "b.mp4": [[0, 0, 0, 5, 5]]}
    (tmp_path / "a.json").write_text(json.dumps(boxes))
    expected = {
        "a.mp4": (PersonBox(0, 1, 2, 30.5, 40, 0.9), PersonBox(7, 1, 2, 30, 40, 0.5)),
        "b.mp4": (PersonBox(0, 0, 0, 5, 5, 1.0),),
    }
    assert read_boxes(tmp_path / "a.csv") == read_boxes(tmp_path / "a.json") == expected
    (tmp_path / "b.csv").write_text("frame,right,left,bottom,top,video\n3,30,1,40,2,a.mp4\n")
    assert read_boxes(tmp_path / "b.csv") == {"a.mp4": (PersonBox(3, 1, 2, 30, 40),)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", CSV.replace("1,2,30,40", "1,2,nan,40"), r"a\.csv:2: a box must hold finite numbers, got 'nan'"),
        ("a.csv", CSV.replace("1,2,30,40", "1,2,x,40"), r"a\.csv:2: a box must hold numbers, got 'x'"),
        ("a.csv", CSV.replace("0,0,5,5", "5,0,5,5"), r"a\.csv:4: left must be below right"),
        ("a.csv", CSV.replace("7,", "7.5,"), r"a\.csv:2: frame must be a number from 0, got 7\.5"),
        ("a.csv", CSV.replace(",0.5\n", "\n"), r"a\.csv:2: a box must have 6 values, got 5"),
        ("a.csv", CSV.replace("left", "x0"), r"a\.csv:1: has no column left"),
        ("a.csv", CSV.split("\n")[0], r"a\.csv: holds no boxes"),
        ("a.csv", "", r"a\.csv: the file is empty"),
        ("a.json", "{", r"a\.json: not readable JSON"),
        ("a.json", "[" * 100000, r"a\.json: not readable JSON"),
        ("a.json", "[1, 2]", r"a\.json: must be \{"),
        ("a.json", '{"a": [[0, 1, 2, NaN, 4]]}', r"a\.json: a box of 'a' must be 5 or 6 numbers"),
        ("a.json", '{"a": [[0, 1, 2, 3]]}', r"a\.json: a box of 'a' must be 5 or 6 numbers"),
        ("a.json", '{"a": [[0, 1, 2, 3, 4, 2]]}', r"a\.json: a box of 'a': score must be in \[0, 1\], got 2"),
        ("a.json", '{"a": 3}', r"a\.json: boxes of 'a' must be a list"),
        ("a.txt", "1", r"a\.txt: boxes must be in a \.csv, a \.json or a folder of masks, got '\.txt'"),
    ],
)
def test_broken_boxes_give_one_clear_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(MotionFileError, match=message):
        read_boxes(tmp_path / name)


MODEL = "fasterrcnn_mobilenet_v3_large_320_fpn"


def test_boxes_are_round_what_masks_show(tmp_path: Path) -> None:
    (tmp_path / "walk.mp4").mkdir()
    for number, (left, top, right, bottom) in ((3, (5, 2, 20, 30)), (12, (0, 0, 1, 1)), (14, (0, 0, 0, 0))):
        mask = np.zeros((40, 60), np.uint8)
        mask[top:bottom, left:right] = 255
        Image.fromarray(mask).save(tmp_path / "walk.mp4" / f"{number:06d}.png")
    boxes = read_boxes(tmp_path)
    assert boxes == {"walk.mp4": (PersonBox(3, 5, 2, 20, 30), PersonBox(12, 0, 0, 1, 1))}
    (tmp_path / "walk.mp4" / "first.png").write_bytes(b"")
    with pytest.raises(MotionFileError, match=r"first\.png: a mask must be named by its frame's number"):
        read_boxes(tmp_path)


def test_the_detector_needs_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"w\.pth: no weights of the person detector; download https://"):
        PersonDetector("w.pth")
    with pytest.raises(ValueError, match="model must be one of fasterrcnn_resnet50_fpn"):
        PersonDetector("w.pth", "yolo")

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.touch, (Path("evil-ran"),))

    for content in (pickle.dumps(Evil()), b"", b"text"):
        Path("w.pth").write_bytes(content)
        with pytest.raises(MotionFileError, match=rf"w\.pth: does not hold the weights of {MODEL}"):
            PersonDetector("w.pth", MODEL)
    torch.save({"a": torch.ones(1)}, "w.pth")
    with pytest.raises(MotionFileError, match="does not hold the weights"):
        PersonDetector("w.pth", MODEL)
    assert not Path("evil-ran").exists()


def test_the_detector_gives_people_only(tmp_path: Path) -> None:
    """Untrained weights find nothing to speak of; what the network says is then made up."""
    detection = pytest.importorskip("torchvision.models.detection")
    torch.save(getattr(detection, MODEL)(weights=None, weights_backbone=None).state_dict(), tmp_path / "w.pth")
    detector = PersonDetector(tmp_path / "w.pth", MODEL, score=0.6)
    image = np.zeros((40, 60, 3), np.uint8)
    assert all(0 <= box.left < box.right <= 60 and box.score >= 0.6 for box in detector(image))

    def network(images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        assert images[0].shape == (3, 40, 60)
        boxes = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
        return [{"boxes": boxes, "labels": torch.tensor([1, 18, 1]), "scores": torch.tensor([0.75, 0.9, 0.5])}]

    detector._network = network
    assert detector(image, 4) == (PersonBox(4, 1, 2, 3, 4, 0.75),)
