"""000 from the command line: train, evaluate, predict and synthesize, with one run of a few steps."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import posegeom as pg

pytest.importorskip("jsonargparse")
pytest.importorskip("torchvision")

from posegeom_models import checkpoints
from posegeom_models.cli import main
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.drawing import to_bytes
from posegeom_models.pgp.networks import PgpNetworks
from posegeom_models.pgp.synthesis import LABEL, PEOPLE, POSES, VIEWS
from posegeom_models.runs import Run

SMALLEST = """
network: {size: 32, stride: 4, backbone: pyramid, width: 4, hidden: 16, appearance_widths: [8, 16],
  appearance_channels: 8, decoder_widths: [16, 8], squeeze: 2, radius: 0.8}
data: {size: 32, clips: [6, 1, 2], identities: [2, 1, 1], frames: 4, anywhere: 0.0, cameras: 1, samples: 1}
training: {steps: 5, batch_size: 4, checkpoint_every: 5, accelerator: cpu, threads: 1, log_every: 1, picture_every: 5,
  precision: bf16-mixed}
variant: semi
base_share: 0.4
labelled_share: 0.5
unpaired_poses: 64
pair_gap: 0.05
optimizer: adam
lambda_view: 1.0
lambda_heat: 1.0
lambda_points: 1.0
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pgp")
    (folder / "smallest.yaml").write_text(SMALLEST)
    pg.Puppet.capsules(pg.BODY_17, (48, 48)).save(folder / "mine.npz")
    patch = pytest.MonkeyPatch()
    patch.setenv("POSEGEOM_DATA", str(folder / "nothing here"))
    command = ["train", "pgp", "--config", str(folder / "smallest.yaml"), "--out", str(folder / "run")]
    assert main([*command, "--network.puppet", str(folder / "mine.npz"), "--quiet", "true"]) == 0
    patch.undo()
    # From here on a run is all there is: what it was trained with need not stay.
    (folder / "mine.npz").unlink()
    return folder / "run"


@pytest.fixture(autouse=True)
def no_motion_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POSEGEOM_DATA", str(tmp_path / "nothing here"))


def test_training_with_half_precision_goes_through_all_losses(run: Path) -> None:
    assert [checkpoint.step for checkpoint in checkpoints.find(run / "checkpoints")] == [5]
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {name.split("/")[0] for point in points for name in point}
    assert {"image_u", "image_c", "seg", "p3d_encoder", "p3d_decoder", "a_encoder", "a_decoder", "labelled"} <= losses


def test_parts_with_and_without_shape_are_scored_beside_the_constant_mask(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    command = ["evaluate", str(run), "--clips", "2", "--every", "15", "--name", "few"]
    assert main(command) == 0
    assert "parts without shape" in capsys.readouterr().out
    scores = json.loads((run / "evaluation" / "few.json").read_text())
    parts = {"f1_person", "iou_person", "f1_parts", "iou_parts", "iou_parts_front"}
    assert parts < set(scores["model"])
    assert parts < set(scores["constant"])
    assert set(scores["unaware"]) == parts
    with (run / "evaluation" / "few.csv").open() as file:
        rows = {row["answer"]: row for row in csv.DictReader(file) if row["action"] == "all"}
    assert list(rows) == ["model", "unaware", "constant"]
    assert rows["unaware"]["p_mpjpe"] == ""
    assert float(rows["unaware"]["f1_person"]) == pytest.approx(scores["unaware"]["f1_person"], abs=1e-4)


def test_a_run_keeps_the_puppet_that_it_was_trained_with(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = Run.open(run).networks()
    assert isinstance(networks, PgpNetworks)
    assert networks.puppet.shape.shape == (12, 48, 48)
    assert torch.equal(networks.puppet.shape, pg.Puppet.load(run / "puppet.npz").shape)
    (tmp_path / "smallest.yaml").write_text(SMALLEST)
    command = ["train", "pgp", "--config", str(tmp_path / "smallest.yaml"), "--out", str(tmp_path / "run")]
    assert main([*command, "--network.puppet", str(tmp_path / "nowhere.npz"), "--quiet", "true"]) == 2
    assert "nowhere.npz" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_predict_writes_joints_of_a_picture(run: Path, tmp_path: Path) -> None:
    shown = RenderedBenchmark(RenderedConfig(size=64, frames=1, clips=(1, 1, 1), anywhere=0.0, cameras=1), "test")[0]
    Image.fromarray(to_bytes(shown.image[0].movedim(0, -1))).save(tmp_path / "person.png")
    assert main(["predict", str(run), str(tmp_path / "person.png"), "--out", str(tmp_path / "said")]) == 0
    assert list((tmp_path / "said").rglob("*person*"))


def test_synthesize_draws_both_panels(run: Path, tmp_path: Path) -> None:
    assert main(["synthesize", str(run), "--out", str(tmp_path), "--scale", "1"]) == 0
    with Image.open(tmp_path / "pose_transfer.png") as panel:
        assert panel.size == (LABEL + (1 + POSES) * 36 + 4, (1 + 2 * PEOPLE) * 36 + 4)
    with Image.open(tmp_path / "view_synthesis.png") as panel:
        assert panel.size == (LABEL + (1 + VIEWS) * 36 + 4, 3 * PEOPLE * 36 + 4)
