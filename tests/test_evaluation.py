"""The evaluator against figures worked out by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("torchmetrics")

from posegeom_models.data.reels import Reel, Shuffle
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.evaluation import PartScores, PoseErrors, evaluate, write


@pytest.fixture(scope="module")
def reel() -> Reel:
    config = RenderedConfig(size=32, clips=(3, 1, 1), identities=(2, 1, 1), frames=5, anywhere=0.0, cameras=1)
    return Reel.render(RenderedBenchmark(config, "train"))


def test_errors_are_means_over_all_poses_however_they_are_dealt() -> None:
    truth = torch.rand(7, 17, 3)
    off = truth.clone()
    off[2, 5] += torch.tensor([0.3, 0.0, 0.4])  # half a metre
    whole, parts = PoseErrors(0), [PoseErrors(0), PoseErrors(0)]
    whole.update(off, truth)
    parts[0].update(off[:2], truth[:2])
    parts[1].update(off[2:], truth[2:])
    figures = whole.compute()
    assert figures["mpjpe"] == pytest.approx(1000 * 0.5 / (7 * 17), rel=1e-5)
    assert figures["pck"] == pytest.approx(100 * (1 - 1 / (7 * 17)), rel=1e-6)
    joined = (parts[0].sums + parts[1].sums) / (parts[0].count + parts[1].count)
    torch.testing.assert_close(joined, whole.sums / whole.count)
    perfect = PoseErrors(0)
    perfect.update(truth, truth)
    assert perfect.compute()["p_mpjpe"] == pytest.approx(0, abs=1e-3)
    assert perfect.compute()["auc"] == pytest.approx(100 * 30 / 31)


def test_part_scores_by_hand() -> None:
    scores = PartScores(3)
    scores.update(torch.tensor([[[0, 0, 1, 2]]]), torch.tensor([[[0, 1, 1, 1]]]))
    figures = scores.compute()
    # Background: hit 1, false 1. Person: hit 2, missed 1.
    assert figures["f1_person"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert figures["iou_person"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert figures["iou_parts"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)


def test_a_perfect_model_beats_the_mean_pose_and_the_files_say_so(reel: Reel, tmp_path: Path) -> None:
    place = iter(range(len(reel)))

    def know_everything(images: Tensor) -> tuple[Tensor, Tensor]:
        numbers = torch.tensor([next(place) for _ in images])
        joints = reel.joints[numbers]
        return joints - joints[:, :1], reel.points[numbers]

    scores = evaluate(know_everything, reel, reel.mean_pose(), reel.points.mean(0), batch=4)
    assert scores["frames"] == 15
    assert scores["model"]["mpjpe"] == pytest.approx(0, abs=1e-3)
    assert scores["model"]["2d"] == pytest.approx(0, abs=1e-4)
    assert scores["mean"]["p_mpjpe"] > 10
    expected = (reel.points - reel.points.mean(0)).norm(dim=-1).mean() / 32 * 100
    assert scores["mean"]["2d"] == pytest.approx(float(expected), rel=1e-4)
    write(tmp_path, scores)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == scores
    rows = list(csv.reader((tmp_path / "evaluation.csv").open()))
    assert [row[0] for row in rows] == ["answer", "model", "mean"]


def test_partners_are_of_the_same_clip_and_far_enough(reel: Reel) -> None:
    import numpy as np

    numbers = torch.arange(len(reel))
    partners = reel.partners(numbers, 0.1, np.random.default_rng(0))
    assert torch.equal(reel.clip[numbers], reel.clip[partners])
    assert float((reel.seconds[numbers] - reel.seconds[partners]).abs().min()) >= 0.1
    far = reel.partners(numbers, 100.0, np.random.default_rng(0))  # longer than a clip: as far as can be
    assert float((reel.seconds[numbers] - reel.seconds[far]).abs().min()) > 0.1


def test_a_shuffle_deals_every_number_once_an_epoch_from_any_place() -> None:
    order = Shuffle([4, 8, 15, 16, 23], seed=1)
    dealt = order.deal(0, 15)
    for epoch in range(3):
        assert sorted(dealt[5 * epoch : 5 * epoch + 5].tolist()) == [4, 8, 15, 16, 23]
    assert torch.equal(order.deal(7, 6), dealt[7:13])
    assert not torch.equal(order.deal(0, 5), order.deal(5, 5)) or not torch.equal(order.deal(0, 5), order.deal(10, 5))
    with pytest.raises(ValueError, match="no samples"):
        Shuffle([], seed=0)
