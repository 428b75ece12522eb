"""003 as a person types it: train, evaluate, predict, synthesize, analyze, on a model of a few steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torchvision")

from posegeom_models import runs
from posegeom_models.cli import main
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.drawing import save_video, to_bytes
from posegeom_models.runs import Run
from posegeom_models.temporal.configuration import TemporalConfig
from posegeom_models.temporal.recipe import TemporalRecipe

SMALLEST = """
network: {size: 32, reduction: 2, detector: stack, crop: 16, encoder: pyramid, width: 4, keys: 6, time_variant: 24,
  time_invariant: 8, maps: 8, decoder_widths: [8, 4], decoder_normalised: true, hidden: 16}
data: {size: 32, clips: [6, 1, 2], identities: [2, 1, 1], frames: 8, anywhere: 1.0, cameras: 1, samples: 1}
training: {steps: 6, batch_size: 8, checkpoint_every: 3, accelerator: cpu, threads: 1, log_every: 1, picture_every: 3}
rho: 0.0
near: 1
away: 4
pose_steps: 2
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("temporal")
    (folder / "smallest.yaml").write_text(SMALLEST)
    patch = pytest.MonkeyPatch()
    patch.setenv("POSEGEOM_DATA", str(folder / "nothing here"))
    command = ["train", "temporal", "--config", str(folder / "smallest.yaml"), "--out", str(folder / "run")]
    assert main([*command, "--quiet", "true"]) == 0
    patch.undo()
    return folder / "run"


@pytest.fixture(autouse=True)
def _no_motion_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POSEGEOM_DATA", str(tmp_path / "nothing here"))


def test_a_baseline_goes_on_top_of_another_configuration(run: Path, tmp_path: Path) -> None:
    smallest = str(run.parent / "smallest.yaml")
    command = ["train", "temporal", "--config", smallest, "--config", "dsl_stn", "--out", str(tmp_path / "run")]
    assert main([*command, "--quiet", "true"]) == 0
    config = Run.open(tmp_path / "run").config
    assert isinstance(config, TemporalConfig)
    assert (config.network.detector, config.network.decoder, config.network.split) == ("stack", False, False)
    assert main(["evaluate", str(tmp_path / "run"), "--every", "15", "--clips", "2"]) == 0
    (scores,) = (tmp_path / "run" / "evaluation").glob("*.json")
    assert "iou_person" not in json.loads(scores.read_text())["model"]  # without a decoder there is no mask


def test_evaluate_scores_poses_points_and_masks(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--every", "15", "--clips", "2"]) == 0
    assert "constant answer" in capsys.readouterr().out
    scores = json.loads((run / "evaluation" / "rendered_test_A_clips2_every15.json").read_text())
    assert {"p_mpjpe", "n_mpjpe", "mpjpe", "2d", "iou_person"} <= set(scores["model"])
    assert scores["run"]["step"] == 6


def test_predict_writes_joints_in_metres_about_the_pelvis(run: Path, tmp_path: Path) -> None:
    clip = tmp_path / "walk.mp4"
    shown = RenderedBenchmark(RenderedConfig(size=64, frames=4, clips=(1, 1, 1), anywhere=0.0, cameras=1), "test")[0]
    save_video([to_bytes(image) for image in shown.image.movedim(1, -1)], clip, 15)
    assert main(["predict", str(run), str(clip), "--out", str(tmp_path / "out")]) == 0
    with np.load(tmp_path / "out" / "walk.npz") as told:
        assert told["joints"].shape[1:] == (17, 3)
        assert np.abs(told["joints"][:, 0]).max() < 1e-6
        assert np.isfinite(told["points"]).all()


def test_synthesize_draws_swaps_and_side_views(run: Path, tmp_path: Path) -> None:
    assert main(["synthesize", str(run), "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"swap.png", "side_views.png"}


def test_analyze_writes_what_the_codes_hold(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", str(run), "--clips", "4", "--every", "15", "--labels", "24", "--steps", "5", "--distances", "9"]
    assert main([*words, "--shares", "[0.14, 1.0]"]) == 0
    said = capsys.readouterr().out
    assert "Clusters of codes against people, 12 frames" in said
    found = json.loads((run / "analysis" / "test.json").read_text())
    assert found["clusters"]["time_invariant"]["people"] == 4
    distances = found["pose_distance_mm"]
    # In the run's own frames, of which its clips have eight.
    assert [value is None for value in distances] == [False] * 7 + [True] * 2
    assert 0 < distances[0] < distances[6]
    assert {share: one["labels"] for share, one in found["labels"]["variant"].items()} == {"0.14": 3, "1.0": 24}
    assert found["labels"]["mean_pose"]["1.0"]["labels"] == 24
    assert "of a fall's acceleration" in " ".join(said.split())
    assert main(["analyze", str(run), "--every", "0"]) == 2
    assert main(["analyze", str(run), "--shares", "[0.14, 1.4]"]) == 2


def test_a_runs_weights_are_all_in_its_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that training began with need not be there any more."""
    opened = Run.open(run)
    asked: list[TemporalConfig] = []
    model = runs.find_model("temporal")

    def recipe(config: TemporalConfig) -> TemporalRecipe:
        asked.append(config)
        return TemporalRecipe(config)

    monkeypatch.setattr(runs, "find_model", lambda name: model._replace(recipe=recipe))
    network = replace(opened.config.network, weights="gone.pth", feature_weights="gone.pth")
    replace(opened, config=replace(opened.config, network=network)).networks()
    assert (asked[0].network.weights, asked[0].network.feature_weights) == (None, None)
