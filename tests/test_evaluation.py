"""The evaluator against figures worked out by hand."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import posegeom as pg

pytest.importorskip("torchmetrics")

from posegeom_models.data.reels import Reel
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.data.shuffling import Shuffle, share_of
from posegeom_models.evaluation import (
    HEADS,
    ClassScores,
    Constants,
    PointErrors,
    PoseErrors,
    Prediction,
    evaluate,
    show,
    write,
)


@pytest.fixture(scope="module")
def reel() -> Reel:
    config = RenderedConfig(size=32, clips=(3, 1, 1), identities=(2, 1, 1), frames=5, anywhere=0.0, cameras=1)
    return Reel.render(RenderedBenchmark(config, "train"))


def test_errors_are_means_over_all_poses_however_they_are_dealt() -> None:
    truth = torch.rand(7, 17, 3)
    off = truth.clone()
    off[2, 5] += torch.tensor([0.3, 0.0, 0.4])  # half a metre
    whole = PoseErrors(0)
    whole.update(off[:2], truth[:2])
    whole.update(off[2:], truth[2:])
    figures = whole.compute()
    assert figures["mpjpe"] == pytest.approx(1000 * 0.5 / (7 * 17), rel=1e-5)
    assert figures["pck"] == pytest.approx(100 * (1 - 1 / (7 * 17)), rel=1e-6)
    perfect = PoseErrors(0)
    perfect.update(truth, truth)
    assert perfect.compute()["p_mpjpe"] == pytest.approx(0, abs=1e-3)
    assert perfect.compute()["auc"] == pytest.approx(100 * 30 / 31)


def test_point_errors_are_percents_of_the_images_side() -> None:
    truth = torch.rand(5, 17, 2) * 32
    off = truth.clone()
    off[1, 4] += torch.tensor([3.0, 4.0])
    errors = PointErrors(32)
    errors.update(off[:3], truth[:3])
    errors.update(off[3:], truth[3:])
    assert errors.compute()["2d"] == pytest.approx(100 * 5 / (5 * 17) / 32, rel=1e-5)


def test_class_scores_by_hand() -> None:
    scores = ClassScores(3)
    scores.update(torch.tensor([[[0, 0, 1, 2]]]), torch.tensor([[[0, 1, 1, 1]]]))
    figures = scores.compute()
    assert figures["f1"] == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    assert figures["iou"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert figures["iou_front"] == pytest.approx((1 / 3 + 0) / 2)
    assert figures["iou_last"] == 0
    person = ClassScores(2)
    person.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 1]]]))
    assert person.compute()["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert person.compute()["iou_last"] == pytest.approx(2 / 3)


def test_class_scores_are_the_librarys_and_leave_out_what_nobody_labelled() -> None:
    random = torch.Generator().manual_seed(0)
    said, true = torch.randint(5, (2, 3, 8, 8), generator=random)
    true[:, 2:4] = 255
    scores = ClassScores(5)
    for row in range(3):
        scores.update(said[row : row + 1], true[row : row + 1])
    figures = scores.compute()
    iou = pg.part_iou(said, true, 5, reduction="none")
    assert figures["iou"] == pytest.approx(float(iou.mean()))
    assert figures["iou_front"] == pytest.approx(float(iou[1:].mean()))
    assert figures["f1"] == pytest.approx(float(pg.part_f1(said, true, 5)))


def test_constants_are_what_is_usual(reel: Reel, tmp_path: Path) -> None:
    constants = Constants.of(reel)
    torch.testing.assert_close(constants.points, reel.points.mean(0))
    person = reel.labels > 0

    def iou(mask: Tensor) -> float:
        return float((mask & person).sum() / (mask | person).sum())

    shares = person.float().mean(0)
    assert iou(constants.mask) >= max(iou(shares >= share) for share in (0.1, 0.3, 0.5))
    assert bool((constants.labels == reel.labels.mode(0).values).all())
    constants.save(tmp_path / "constants.safetensors")
    again = Constants.load(tmp_path / "constants.safetensors", 17, 32)
    assert torch.equal(again.joints, constants.joints)
    assert torch.equal(again.mask, constants.mask)
    with pytest.raises(ValueError, match=r"nowhere\.safetensors cannot be read"):
        Constants.load(tmp_path / "nowhere.safetensors", 17, 32)
    with pytest.raises(ValueError, match=r"constants\.safetensors: joints must be \(21, 3\) torch\.float"):
        Constants.load(tmp_path / "constants.safetensors", 21, 32)
    with pytest.raises(ValueError, match=r"constants\.safetensors: labels must be \(64, 64\)"):
        Constants.load(tmp_path / "constants.safetensors", 17, 64)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_constants_on_a_full_disk_are_those_of_before(reel: Reel, tmp_path: Path) -> None:
    import resource

    path = tmp_path / "constants.safetensors"
    constants = Constants.of(reel)
    constants.save(path)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, usual[1]))
    try:
        with pytest.raises(OSError, match=r"constants\.safetensors could not be written"):
            replace(constants, joints=constants.joints + 1).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert torch.equal(Constants.load(path, 17, 32).joints, constants.joints)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_perfect_model_beats_the_constants_and_the_files_say_so(reel: Reel, tmp_path: Path, capsys) -> None:
    place = iter(range(len(reel)))

    def know_everything(images: Tensor) -> Prediction:
        numbers = torch.tensor([next(place) for _ in images])
        joints = reel.joints[numbers]
        return Prediction(joints - joints[:, :1], reel.points[numbers], reel.labels[numbers])

    scores = evaluate(know_everything, reel, Constants.of(reel), batch=4)
    model, constant = scores["model"], scores["constant"]
    assert scores["frames"] == 15
    assert model["mpjpe"] == pytest.approx(0, abs=1e-3)
    assert model["2d"] == pytest.approx(0, abs=1e-4)
    assert model["f1_person"] == model["iou_parts"] == model["iou_parts_front"] == 1
    assert constant["p_mpjpe"] > 10
    expected = (reel.points - reel.points.mean(0)).norm(dim=-1).mean() / 32 * 100
    assert constant["2d"] == pytest.approx(float(expected), rel=1e-4)
    assert set(constant["actions"]) == set(reel.action)
    # The mean over actions, weighted by their frames, is the mean over all.
    actions = reel.actions(torch.arange(len(reel)))
    joined = sum(constant["actions"][action]["p_mpjpe"] for action in actions) / len(actions)
    assert joined == pytest.approx(constant["p_mpjpe"], rel=1e-6)
    write(tmp_path, "test", scores)
    assert json.loads((tmp_path / "test.json").read_text()) == scores
    rows = list(csv.reader((tmp_path / "test.csv").open()))
    assert [row[:2] for row in rows[:2]] == [["answer", "action"], ["model", "all"]]
    assert float(rows[1][rows[0].index("iou_person")]) == 1
    show(scores)
    said = capsys.readouterr().out
    assert "constant answer" in said
    assert f"{constant['p_mpjpe']:.1f}" in said


@pytest.mark.parametrize("columns", [80, 200])
def test_tables_fit_the_screen_with_every_name_in_full(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    figures = dict.fromkeys(HEADS, 0.5)
    show({"frames": 3, "model": figures, "unaware": {"f1_parts": 0.25}, "constant": figures})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert all(any(head in line for line in lines) for head, _ in HEADS.values())
    assert any(line.split("│")[1:3] == [" model               ", "        0.5 "] for line in lines) == (columns == 200)


def test_what_a_model_does_not_say_has_no_figure(reel: Reel) -> None:
    scores = evaluate(lambda images: Prediction(mask=torch.ones(len(images), 32, 32) > 0), reel, Constants.of(reel))
    assert set(scores["model"]) == set(scores["constant"]) == {"f1_person", "iou_person"}
    assert scores["model"]["iou_person"] == pytest.approx(float((reel.labels > 0).float().mean()))


def test_constants_for_a_model_that_tells_joints_alone_look_at_no_frame(
    reel: Reel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Constants.of(reel)
    with monkeypatch.context() as patch:
        patch.setattr(Reel, "frames", None)  # a film would render them
        Constants.of(reel, parts=False).save(tmp_path / "constants.safetensors")
    constants = Constants.load(tmp_path / "constants.safetensors", 17, 32)
    assert torch.equal(constants.joints, whole.joints)
    assert torch.equal(constants.points, whole.points)
    assert constants.mask is None
    assert constants.labels is None
    place = iter(range(len(reel)))

    def know_joints(images: Tensor) -> Prediction:
        numbers = torch.tensor([next(place) for _ in images])
        return Prediction(reel.joints[numbers], reel.points[numbers])

    scores = evaluate(know_joints, reel, constants)
    assert set(scores["model"]) == set(scores["constant"])
    assert scores["constant"]["p_mpjpe"] > 10


def test_joints_that_are_not_known_everywhere_are_in_no_figure(reel: Reel) -> None:
    known = torch.ones(15, 17, dtype=torch.bool)
    known[3, 16] = False
    partly = replace(reel, known=known)
    place = iter(range(15))

    def wrong_there(images: Tensor) -> Prediction:
        numbers = torch.tensor([next(place) for _ in images])
        joints = reel.joints[numbers].clone()
        joints[:, 16] += 5
        return Prediction(joints - joints[:, :1], reel.points[numbers])

    assert evaluate(wrong_there, partly, Constants.of(reel))["model"]["mpjpe"] == pytest.approx(0, abs=1e-3)


def test_partners_are_of_the_same_clip_and_far_enough(reel: Reel) -> None:
    import numpy as np

    numbers = torch.arange(len(reel))
    partners = reel.partners(numbers, 0.1, np.random.default_rng(0))
    assert torch.equal(reel.clip[numbers], reel.clip[partners])
    assert float((reel.seconds[numbers] - reel.seconds[partners]).abs().min()) >= 0.1
    far = reel.partners(numbers, 100.0, np.random.default_rng(0))  # longer than a clip: as far as can be
    assert float((reel.seconds[numbers] - reel.seconds[far]).abs().min()) > 0.1


@pytest.mark.parametrize(
    ("share", "count"), [(0.0, 0), (0.001, 1), (0.1, 2), (0.35, 8), (0.7, 17), (0.9, 22), (1.0, 24)]
)
def test_a_share_is_as_large_as_it_says_and_spread_over_everything(share: float, count: int) -> None:
    taken = share_of(100 + torch.arange(24), share)
    assert len(taken) == len(taken.unique()) == count
    if count > 1:
        gaps = taken.diff()
        assert int(gaps.max() - gaps.min()) <= 1
    assert len(share_of(torch.empty(0), share)) == 0


def test_a_shuffle_deals_every_number_once_an_epoch_from_any_place() -> None:
    order = Shuffle([4, 8, 15, 16, 23], seed=1)
    dealt = order.deal(0, 15)
    for epoch in range(3):
        assert sorted(dealt[5 * epoch : 5 * epoch + 5].tolist()) == [4, 8, 15, 16, 23]
    assert torch.equal(order.deal(7, 6), dealt[7:13])
    assert not torch.equal(order.deal(0, 5), order.deal(5, 5)) or not torch.equal(order.deal(0, 5), order.deal(10, 5))
    with pytest.raises(ValueError, match="no samples"):
        Shuffle([], seed=0)
