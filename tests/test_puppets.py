"""`posegeom puppet`: a rendered person's true labels and joints make a puppet that covers that person again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import posegeom as pg

pytest.importorskip("jsonargparse")
pytest.importorskip("torchvision")

from posegeom_models.cli import main
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.pgp.networks import PgpNetworks
from tests.test_pgp_networks import SMALL

SIDE = 128


class Person(NamedTuple):
    """True labels (H, W) and joints (J, 2) of a picture."""

    labels: Tensor
    points: Tensor


@pytest.fixture(scope="module")
def person() -> Person:
    """A person whose parts are all to be seen."""
    config = RenderedConfig(size=SIDE, clips=(12, 1, 1), identities=(12, 1, 1), frames=1, anywhere=0.0, cameras=1)
    frames = RenderedBenchmark(config, "train").render(list(range(12)), [0] * 12)
    least = torch.stack([(frames.labels == part).flatten(1).sum(1) for part in range(1, 13)]).amin(0)
    best = int(least.argmax())
    assert int(least[best]) > 20
    return Person(frames.labels[best], frames.points[best])


@pytest.fixture
def files(person: Person, tmp_path: Path) -> tuple[Path, Path]:
    labels, anchors = tmp_path / "labels.png", tmp_path / "anchors.json"
    Image.fromarray(person.labels.numpy()).save(labels)
    points = person.points.tolist()
    anchors.write_text(json.dumps(dict(zip(pg.BODY_17.joints, points, strict=True))))
    return labels, anchors


def run(files: tuple[Path, Path], out: Path, *more: str) -> int:
    return main(["puppet", str(files[0]), str(files[1]), "--out", str(out), *more])


def test_the_puppet_covers_the_person_that_it_is_made_of(
    files: tuple[Path, Path], person: Person, tmp_path: Path
) -> None:
    assert run(files, tmp_path / "made" / "puppet.npz", "--erosion", "0", "--blur", "0") == 0
    puppet = pg.Puppet.load(tmp_path / "made" / "puppet.npz")
    assert puppet.parts == pg.Puppet.capsules(pg.BODY_17, (8, 8)).parts
    elbow, wrist = (pg.BODY_17.index(f"left_{joint}") for joint in ("elbow", "wrist"))
    forearm = puppet.anchors[puppet.parts.index("left_wrist")]
    torch.testing.assert_close(forearm[:2], person.points[[elbow, wrist]])
    drawn = pg.puppet_segmentation(person.points, torch.ones(17), puppet, (SIDE, SIDE))
    said, true = drawn.maps.argmax(0) < 12, person.labels > 0
    assert float((said & true).sum() / (said | true).sum()) > 0.97
    with Image.open(tmp_path / "made" / "puppet.png") as shown:
        # A row of three pictures and a grid of four by three parts, with their gaps, beside labels.
        assert shown.size == (92 + 4 * SIDE + 8, SIDE + 8 + 3 * SIDE + 8)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["puppet.npz", "puppet.png"]


def test_the_networks_draw_with_it(files: tuple[Path, Path], person: Person, tmp_path: Path) -> None:
    assert run(files, tmp_path / "puppet.npz") == 0
    networks = PgpNetworks(replace(SMALL, puppet=tmp_path / "puppet.npz")).eval()
    with torch.no_grad():
        pose = networks(torch.rand(1, 3, 32, 32))
        drawn = networks.drawn(pose)
    assert drawn.maps.shape == (1, 13, 32, 32)
    assert float(drawn.foreground.max()) > 0.5
    assert torch.equal(networks.puppet.shape, pg.Puppet.load(tmp_path / "puppet.npz").shape)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"neck": None}, "got none for neck"),
        ({"neck": [1]}, "neck must be [x, y] in pixels, got [1]"),
        ({"neck": ["3", 4]}, "neck must be [x, y] in pixels"),
        ({"neck": [1e9, 4]}, "neck must be in the picture of 128 x 128"),
        ({"nose": [4, 4]}, "BODY_17 has no joint 'nose'"),
    ],
)
def test_wrong_anchors_are_named(
    files: tuple[Path, Path], tmp_path: Path, change: dict[str, object], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    anchors = json.loads(files[1].read_text()) | change
    files[1].write_text(json.dumps({name: place for name, place in anchors.items() if place is not None}))
    assert run(files, tmp_path / "puppet.npz") == 2
    error = capsys.readouterr().err
    assert told in error
    assert "anchors.json" in error
    assert not list(tmp_path.glob("*puppet*"))


def test_wrong_pictures_are_named(
    files: tuple[Path, Path], person: Person, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = person.labels.numpy()
    wrong = {
        "labels must be 0 to 12, got 13": np.where(labels == 3, np.uint8(13), labels),
        "label 3 for part 'left_elbow'": np.where(labels == 3, np.uint8(0), labels),
        "one number a pixel; got one of mode RGB": np.stack([labels] * 3, axis=-1),
    }
    for told, picture in wrong.items():
        Image.fromarray(picture).save(files[0])
        assert run(files, tmp_path / "puppet.npz") == 2
        error = capsys.readouterr().err
        assert told in error
        assert "labels.png" in error
    files[0].write_bytes(files[0].read_bytes()[:200])
    assert run(files, tmp_path / "puppet.npz") == 2
    assert "not a readable image" in capsys.readouterr().err
    assert run((tmp_path / "nowhere.png", files[1]), tmp_path / "puppet.npz") == 2
    assert "no such image" in capsys.readouterr().err
    assert not list(tmp_path.glob("*puppet*"))


def test_wrong_options_are_named(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    files[1].write_text("[1, 2")
    for more, told in (
        (["--out", "puppet.txt"], "out must end in .npz"),
        (["--skeleton", "dog"], "skeleton must be one of BODY_17, H36M_17, HAND_21"),
        (["--out", str(files[0].with_suffix(".npz"))], "would take the labels' place"),
        ([], "not readable JSON"),
    ):
        assert main(["puppet", str(files[0]), str(files[1]), *more]) == 2
        assert told in capsys.readouterr().err
