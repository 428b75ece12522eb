"""train, evaluate and predict as a person types them, on a model of a few steps."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("torchvision")

from posegeom_models import checkpoints
from posegeom_models.cli import main
from posegeom_models.data.mpi_inf_3dhp import CAMERAS, PROTOCOL
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.drawing import save_video, to_bytes
from posegeom_models.evaluation import Constants
from posegeom_models.ksp.batches import KspData
from posegeom_models.ksp.recipe import KspRecipe
from posegeom_models.runs import MODELS, Run, find_config
from tests import test_mpi_inf_3dhp as mpi
from tests.test_human36m import NUMBERS, SIZES, fetched

SMALLEST = """
network: {size: 32, stride: 4, backbone: resnet18, hidden: 16, appearance_widths: [8, 8, 16], pose_channels: 8,
  decoder_widths: [16, 8], translation: true}
data: {size: 32, clips: [6, 1, 2], identities: [2, 1, 1], frames: 4, anywhere: 0.0, cameras: 1, samples: 1}
training: {steps: 4, batch_size: 4, checkpoint_every: 2, accelerator: cpu, threads: 1, log_every: 1, picture_every: 4}
variant: semi
prior_samples: 4
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "smallest.yaml"
    path.write_text(SMALLEST)
    return path


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    folder = config.parent / "run"
    patch = pytest.MonkeyPatch()
    patch.setenv("POSEGEOM_DATA", str(config.parent / "nothing here"))
    assert main(["train", "ksp", "--config", str(config), "--out", str(folder), "--quiet", "true"]) == 0
    patch.undo()
    return folder


@pytest.fixture
def no_motion_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POSEGEOM_DATA", str(tmp_path / "nothing here"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "walk.mp4"
    shown = RenderedBenchmark(RenderedConfig(size=64, frames=6, clips=(1, 1, 1), anywhere=0.0, cameras=1), "test")[0]
    save_video([to_bytes(image) for image in shown.image.movedim(1, -1)], path, 15)
    return path


def test_training_leaves_a_run_that_says_what_it_is(run: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    assert facts["model"] == "ksp"
    assert "CPU cores" in facts["machine"]
    assert facts["torch"]
    assert [checkpoint.step for checkpoint in checkpoints.find(run / "checkpoints")] == [2, 4]
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert list((run / "tensorboard").iterdir())
    opened = Run.open(run)
    assert opened.config.network.decoder_widths == (16, 8)
    assert opened.config.variant == "semi"
    assert opened.facts["step"] == 4
    assert opened.facts["seconds"] > 0


def test_the_same_command_goes_on_and_another_configuration_is_refused(
    run: Path, config: Path, capsys: pytest.CaptureFixture[str], no_motion_data: None
) -> None:
    command = ["train", "ksp", "--config", str(config), "--out", str(run), "--quiet", "true"]
    before = (run / "checkpoints" / "step_00000004" / "networks.safetensors").read_bytes()
    assert main(command) == 0  # nothing left to do
    assert (run / "checkpoints" / "step_00000004" / "networks.safetensors").read_bytes() == before
    assert main([*command, "--network.hidden", "8"]) == 2
    said = capsys.readouterr().err.strip()
    assert "network.hidden: 16 there, 8 here" in said
    assert "\n" not in said


def test_evaluate_prints_a_table_and_writes_json_and_csv(
    run: Path, capsys: pytest.CaptureFixture[str], no_motion_data: None
) -> None:
    assert main(["evaluate", str(run), "--every", "15", "--clips", "2"]) == 0
    said = capsys.readouterr().out
    assert "6 test frames" in said
    assert "constant answer" in said
    scores = json.loads((run / "evaluation" / "rendered_test_A_clips2_every15.json").read_text())
    assert scores["frames"] == 6
    assert scores["config"]["training"]["steps"] == 4
    assert scores["run"]["step"] == 4
    assert scores["run"]["samples"] == 16
    assert 0 < scores["model"]["p_mpjpe"] < 2000
    rows = list(csv.DictReader((run / "evaluation" / "rendered_test_A_clips2_every15.csv").open()))
    assert float(rows[0]["p_mpjpe"]) == pytest.approx(scores["model"]["p_mpjpe"], abs=1e-3)
    assert main(["evaluate", str(run), "--every", "15", "--clips", "1", "--domain", "B", "--anywhere", "1"]) == 0
    assert (run / "evaluation" / "rendered_test_B_anywhere1.0_clips1_every15.json").is_file()


def test_help_says_what_the_command_does_and_not_what_it_inherits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "where the model and the detector run, cpu or cuda" in said
    assert "frames per second to predict; default: all" in said


def test_predict_writes_joints_and_an_overlay(run: Path, clip: Path, tmp_path: Path) -> None:
    assert main(["predict", str(run), str(clip), "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"walk.npz", "walk.json", "walk.mp4"}
    with np.load(tmp_path / "out" / "walk.npz") as held:
        assert held["joints"].shape == (6, 17, 3)
        assert held["points"].shape == (6, 17, 2)
        np.testing.assert_allclose(held["joints"][:, 0], 0, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["predict", "RUN", "TEXT"], "letter.mp4"),
        (["predict", "RUN", "nowhere.mp4"], "nowhere.mp4"),
        (["predict", "nowhere", "TEXT"], "nowhere: no such folder"),
        (["evaluate", "nowhere"], "nowhere: no such folder"),
        (["evaluate", "RUN", "--every", "0"], "every must be at least 1, got 0"),
        (["evaluate", "RUN", "--device", "gpu"], "device 'gpu' cannot be used"),
        (["evaluate", "RUN", "--device", "meta"], "device 'meta' cannot be used: must be cpu, cuda"),
        (["predict", "RUN", "TEXT", "--skip_broken", "true"], "letter.mp4 is one file"),
        (["evaluate", "RUN", "--skip_broken", "true"], "reads no files that could be broken"),
        (["evaluate", "RUN", "--data", "human36m", "--path", ".", "--domain", "B"], "where --domain means nothing"),
        (["evaluate", "RUN", "--data", "threedpw", "--path", ".", "--anywhere", "0"], "where --anywhere means nothing"),
        (["evaluate", "RUN", "--data", "threedpw", "--path", ".", "--clips", "3"], "where --clips means nothing"),
        (["evaluate", "RUN", "--data", "threedpw", "--path", ".", "--motion", "."], "where --motion means nothing"),
        (
            ["evaluate", "RUN", "--data", "mpi_inf_3dhp", "--path", ".", "--split", "validation"],
            "must be train or test",
        ),
        (["evaluate", "RUN", "--data", "human36m"], "needs --path"),
        (["evaluate", "RUN", "--data", "human36m", "--path", "nowhere"], "no human3.6m here"),
        (["evaluate", "RUN", "--data", "coco", "--path", "nowhere"], "data must be rendered, human36m"),
        (["evaluate", "RUN", "--split", "all"], "split must be one of"),
        (["train", "ksp", "--config", "huge"], "ships only paper, small, tiny"),
        (["train", "ksp", "--config", "CONFIG", "--variant", "none"], "variant must be one of unsup, weakly, semi"),
        (["train", "ksp", "--config", "CONFIG", "--training.steps", "many"], "training.steps"),
        (["train", "ksp", "--config", "CONFIG", "--stepz", "4"], "stepz"),
        (["train", "ksp", "--config", "CONFIG", "--network.weights", "nowhere.pth"], "nowhere.pth"),
        (["train", "ksp", "--config", "CONFIG", "--network.backbone", "resnet7"], "resnet7"),
        (["train", "ksp", "--config", "CONFIG", "--network.pose_channels", "-1"], "pose_channels must be at least 1"),
        (["train", "ksp", "--config", "CONFIG", "--network.appearance_widths", "[12,12]"], "must be multiples of 8"),
        (["train", "ksp", "--config", "CONFIG", "--training.seed", "99999999999"], "seed must be below 2**31"),
        (["train", "ksp", "--config", "CONFIG", "--learning_rate", "-1"], "learning_rate must be positive"),
        (["train", "ksp", "--config", "CONFIG", "--labelled_share", "0"], "labelled_share 0.0 of 24 frames leaves no"),
        (["train", "ksp", "--config", "CONFIG", "--data.moving", "1"], "L_P has no frames"),
        (["train", "ksp", "--config", "CONFIG", "--boxes", "nowhere.csv"], "boxes says where people are in footage"),
        (["train", "ksp", "--config", "CONFIG", "--skip_broken", "true"], "rendered clips are none"),
        (["train", "ksp", "--config", "CONFIG", "--data_set", "human36m"], "must be given together"),
        (
            ["train", "ksp", "--config", "CONFIG", "--data_set", "coco", "--path", "."],
            "data_set must be one of human36m",
        ),
        (["train", "ksp", "--config", "CONFIG", "--data_set", "human36m", "--path", "nowhere"], "no human3.6m here"),
        (["train", "ksp", "--config", "CONFIG", "--footage", "nowhere", "--variant", "unsup"], "nowhere"),
        (["train", "ksp", "--config", "TEXT"], "letter.mp4"),
        (["train", "nobody"], "nobody"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    words: list[str],
    complaint: str,
    run: Path,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    no_motion_data: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "letter.mp4"
    text.write_text("Dear sir or madam,\n")
    stand_ins = {"RUN": str(run), "TEXT": str(text), "CONFIG": str(config)}
    assert main([stand_ins.get(word, word) for word in words]) == 2
    said = capsys.readouterr().err.strip()
    assert complaint.lower() in said.lower()
    assert "\n" not in said
    assert not (tmp_path / "predictions").exists()
    assert not (tmp_path / "runs").exists()


def test_a_damaged_run_is_refused_by_name(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text((run / "run.json").read_text())
    (tmp_path / "config.yaml").write_text("network: [")
    assert main(["evaluate", str(tmp_path)]) == 2
    assert f"{tmp_path}: run.json or config.yaml cannot be read" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("!!python/object/apply:os.system ['touch harm']")
    assert main(["evaluate", str(tmp_path)]) == 2
    assert not Path("harm").exists()
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "[]"),
        ("run.json", '{"model": "ksp", "continued": 5}'),
        ("checkpoints/step_00000004/state.json", "[]"),
        ("constants.safetensors", None),
    ],
)
def test_a_damaged_file_of_a_run_is_one_clear_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_motion_data: None, name: str, content: str | None
) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / name
    if content is None:
        one = Constants.load(path, 17, 32)
        replace(one, points=torch.zeros(3, 2)).save(path)
    else:
        path.write_text(content)
    assert main(["evaluate", str(tmp_path / "run"), "--every", "15", "--clips", "1"]) == 2
    said = capsys.readouterr().err.strip()
    assert str({"run.json": path.parent, "state.json": path.parent}.get(path.name, path)) in said
    assert "\n" not in said


def test_an_old_run_json_that_says_less_goes_on(run: Path, config: Path, tmp_path: Path, no_motion_data: None) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text('{"model": "ksp"}')
    command = ["train", "ksp", "--config", str(config), "--out", str(tmp_path / "run"), "--quiet", "true"]
    assert main(command) == 0
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["continued"]) == 1


def test_a_refused_command_does_not_stand_in_the_way_of_the_next_one(
    config: Path, tmp_path: Path, no_motion_data: None
) -> None:
    command = ["train", "ksp", "--config", str(config), "--out", str(tmp_path / "run"), "--quiet", "true"]
    assert main([*command, "--network.weights", "nowhere.pth"]) == 2
    assert not (tmp_path / "run").exists()
    # Nor does one that ended before its first checkpoint, here because its steps diverged.
    assert main([*command, "--learning_rate", "1e30", "--optimizer", "adam"]) == 2
    assert (tmp_path / "run" / "run.json").is_file()
    assert main(command) == 0
    assert Run.open(tmp_path / "run").config.learning_rate == 1e-3
    assert "continued" not in json.loads((tmp_path / "run" / "run.json").read_text())


def train_until_killed(config: str, folder: str) -> None:
    """posegeom train, killed within its last step, after the checkpoint of step 2."""
    whole = KspRecipe.step

    def step(self: KspRecipe, train: object, batch: object, number: int) -> None:
        whole(self, train, batch, number)  # type: ignore[arg-type]
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    KspRecipe.step = step  # type: ignore[assignment, method-assign]
    torch.set_num_threads(1)
    main(["train", "ksp", "--config", config, "--out", folder, "--quiet", "true"])


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_run_goes_on_to_the_same_weights(
    run: Path, config: Path, tmp_path: Path, no_motion_data: None
) -> None:
    # Forked, it has everything loaded that this process has.
    process = multiprocessing.get_context("fork").Process(
        target=train_until_killed, args=(str(config), str(tmp_path / "run"))
    )
    process.start()
    process.join(200)
    assert process.exitcode == -signal.SIGKILL
    assert [one.step for one in checkpoints.find(tmp_path / "run" / "checkpoints")] == [2]
    command = ["train", "ksp", "--config", str(config), "--out", str(tmp_path / "run"), "--quiet", "true"]
    assert main(command) == 0
    weights = [
        (folder / "checkpoints" / "step_00000004" / "networks.safetensors").read_bytes()
        for folder in (run, tmp_path / "run")
    ]
    assert weights[0] == weights[1]


def test_ctrl_c_leaves_a_run_that_goes_on(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_motion_data
) -> None:
    whole = KspRecipe.step

    def interrupted(self: KspRecipe, train: object, batch: object, number: int) -> None:
        whole(self, train, batch, number)  # type: ignore[arg-type]
        if number == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(KspRecipe, "step", interrupted)
    command = ["train", "ksp", "--config", str(config), "--out", str(tmp_path / "run"), "--quiet", "true"]
    assert main(command) == 130
    assert "stopped after step 3" in capsys.readouterr().err
    assert checkpoints.find(tmp_path / "run" / "checkpoints")[-1].step == 3
    monkeypatch.setattr(KspRecipe, "step", whole)
    assert main(command) == 0
    assert checkpoints.find(tmp_path / "run" / "checkpoints")[-1].step == 4


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["paper", "small", "tiny"])
def test_what_ships_is_a_configuration(model: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_config(model, name).is_file()
    with pytest.raises(SystemExit) as ended:
        main(["train", model, "--config", name, "--print_config"])
    assert ended.value.code in (0, None)
    printed = capsys.readouterr().out
    assert "training:" in printed
    assert "steps:" in printed


def test_flags_win_over_files_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--variant", "weakly", "--config", "tiny", "--training.steps=7", "--config=unsup"]
    with pytest.raises(SystemExit):
        main(["train", "ksp", *words, "--print_config"])
    said = yaml.safe_load(capsys.readouterr().out)
    assert (said["variant"], said["training"]["steps"]) == ("weakly", 7)
    with pytest.raises(SystemExit):
        main(["train", "ksp", "--help"])
    assert "Configurations that ship with it: paper, small, tiny, unsup." in " ".join(capsys.readouterr().out.split())


def test_synthesize_draws_every_pose_with_every_person(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_motion_data: None
) -> None:
    assert main(["synthesize", str(run), "--out", str(tmp_path), "--scale", "1"]) == 0
    with Image.open(tmp_path / "synthesis.png") as panel:
        assert panel.size == (7 * 36 + 4, 6 * 36 + 4)  # a corner and six columns; two rows of sources and four poses
    assert "synthesis.png" in capsys.readouterr().out


def test_training_on_a_folder_of_videos(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], no_motion_data: None
) -> None:
    """002's own data rule: clips that are still or moving, backgrounds by the median, people by their motion."""
    (tmp_path / "footage").mkdir()
    random = np.random.default_rng(0)
    for number, still in enumerate((True, False)):
        scene = random.integers(0, 255, (64, 256, 3)).astype(np.uint8).repeat(2, 0).repeat(2, 1)[:96]
        frames = []
        for time in range(60):
            start = 0 if still else 4 * time
            frame = scene[:, start : start + 128].copy()
            frame[30:70, 10 + time : 30 + time] = (250, 40, 40)
            frames.append(frame)
        save_video(frames, tmp_path / "footage" / f"{number}.mp4", 10)
    command = ["train", "ksp", "--config", str(config), "--out", str(tmp_path / "run"), "--quiet", "true"]
    assert main([*command, "--footage", str(tmp_path / "footage"), "--variant", "unsup"]) == 0
    assert checkpoints.find(tmp_path / "run" / "checkpoints")[-1].step == 4
    assert main([*command, "--footage", str(tmp_path / "footage"), "--out", str(tmp_path / "other")]) == 2
    assert "variant 'semi' needs labels of every joint, which these frames lack" in capsys.readouterr().err


def test_training_and_evaluating_on_a_data_set(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], no_motion_data: None
) -> None:
    """Human3.6M as h36m-fetch leaves it: one person to learn from, one to test on, and then files that are broken."""
    root = tmp_path / "h36m"
    for subject in ("S1", "S9"):
        fetched(root, subject=subject)
        for view, (height, width) in SIZES.items():
            images = root / subject / "Directions-1" / "imageSequence" / view
            images.mkdir(parents=True)
            for number in NUMBERS:
                Image.new("RGB", (width, height), (number, 90, 60)).save(images / f"img_{number:06d}.jpg")
    command = ["train", "ksp", "--config", str(config), "--out", str(tmp_path / "run"), "--quiet", "true"]
    command += ["--data_set", "human36m", "--path", str(root)]
    assert main([*command, "--variant", "unsup"]) == 0
    source = KspData(Run.open(tmp_path / "run").config)
    assert len(source.reel) == 4 * len(NUMBERS)
    assert not bool(source.reel.moving.any())
    assert not bool(source.reel.labelled.any())  # Human3.6M's 17 joints have no feet
    assert source.batch(1, 0, 1).source is not None
    evaluate = ["evaluate", str(tmp_path / "run"), "--data", "human36m", "--path", str(root), "--every", "1"]
    assert main(evaluate) == 0
    assert f"{4 * len(NUMBERS)} test frames" in capsys.readouterr().out
    # A recording that is cut off, and one whose image is.
    whole = (root / "S9" / "Directions-1" / "annot.h5").read_bytes()
    (root / "S9" / "Directions-2").mkdir()
    (root / "S9" / "Directions-2" / "annot.h5").write_bytes(whole[: len(whole) // 2])
    view = next(iter(SIZES))
    (root / "S9" / "Directions-1" / "imageSequence" / view / f"img_{NUMBERS[0]:06d}.jpg").write_bytes(b"no image")
    assert main(evaluate) == 2
    assert "Directions-2" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="1 of 4 sequences skipped"), pytest.warns(match="1 of 2 files skipped"):
        assert main([*evaluate, "--skip_broken", "true"]) == 0
    assert f"{3 * len(NUMBERS)} test frames" in capsys.readouterr().out


def test_recordings_of_different_rates_are_trained_and_scored_on(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], no_motion_data: None
) -> None:
    """MPI-INF-3DHP has no one rate: training asks the videos, and no score asks."""
    folder = mpi.train(tmp_path) / "imageSequence"
    folder.mkdir()
    video = folder / "video_0.avi"
    save_video(
        [np.full((2048, 2048, 3), 40 * number, np.uint8) for number in range(mpi.FRAMES)], tmp_path / "a.mp4", 50
    )
    (tmp_path / "a.mp4").rename(video)
    for view in CAMERAS[1:]:
        video.with_name(f"video_{view}.avi").hardlink_to(video)
    for name in PROTOCOL.test:
        images = mpi.recording(tmp_path, name).with_name("imageSequence")
        images.mkdir()
        Image.new("RGB", (1920, 1080) if name in ("TS5", "TS6") else (2048, 2048)).save(images / "img_000001.jpg")
        for number in range(2, mpi.FRAMES + 1):
            (images / f"img_{number:06d}.jpg").hardlink_to(images / "img_000001.jpg")
    run = tmp_path / "run"
    command = ["train", "ksp", "--config", str(config), "--out", str(run), "--quiet", "true", "--variant", "unsup"]
    assert main([*command, "--data_set", "mpi_inf_3dhp", "--path", str(tmp_path), "--pair_gap", "0.02"]) == 0
    reel = KspData(Run.open(run).config).reel
    assert reel.seconds[: mpi.FRAMES].tolist() == pytest.approx([number / 50 for number in range(mpi.FRAMES)])
    evaluate = ["evaluate", str(run), "--data", "mpi_inf_3dhp", "--path", str(tmp_path), "--every", "1"]
    assert main(evaluate) == 0, capsys.readouterr().err
    assert "24 test frames" in capsys.readouterr().out


def test_predict_on_a_folder_leaves_out_what_is_broken_when_told_to(
    run: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("a.mp4", "c.mp4"):
        shutil.copy(clip, folder / name)
    (folder / "b.mp4").write_text("Dear sir or madam,")
    command = ["predict", str(run), str(folder), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "b.mp4" in capsys.readouterr().err
    assert main([*command, "--skip_broken", "true"]) == 0
    assert "1 of 3 files skipped" in capsys.readouterr().out
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"a", "c"}
    for name in ("a.mp4", "c.mp4"):
        (folder / name).write_text("Dear sir or madam,")
    assert main([*command, "--skip_broken", "true"]) == 2
    assert "none of its 3 files can be read" in capsys.readouterr().err
