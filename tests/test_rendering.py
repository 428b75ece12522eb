"""`posegeom render`: what is in the files, and that nothing is left where something is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import rendered, report
from PIL import Image

from posegeom import BODY_17, center_of_gravity
from posegeom_models import rendering
from posegeom_models.data.filming import render_takes
from posegeom_models.data.mocap import Motion, MotionFileError
from posegeom_models.data.procedural import walk
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.data.video import Video
from posegeom_models.rendering import RenderOptions, run_render, spread


@pytest.fixture(autouse=True)
def no_motion_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POSEGEOM_DATA", str(tmp_path / "nothing here"))


def labels_of(out: Path, **options: Any) -> dict[str, np.ndarray]:
    """Render small frames and read what is known of them."""
    run_render(RenderOptions(**{"out": out, "size": 32, "frames": 6, "labels": True} | options))
    with np.load(out.with_suffix(".npz")) as file:
        return dict(file)


def write_motion(path: Path, motion: Motion, without: str = "") -> None:
    kept = [number for number, name in enumerate(motion.joints) if without == "" or without not in name]
    parents = [kept.index(motion.parents[number]) if motion.parents[number] in kept else -1 for number in kept]
    names = np.array([motion.joints[number] for number in kept])
    np.savez(path, positions=motion.positions[:, kept], joint_names=names, parents=parents, frame_rate=30.0)


def bones(joints: np.ndarray) -> np.ndarray:
    return np.stack([joints[:, child] - joints[:, parent] for parent, child in BODY_17.bones], axis=1)


def test_the_video_shows_the_frames_enlarged_and_the_sheet_some_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "clip.mp4"
    run_render(RenderOptions(out=out, size=32, frames=8, seed=5))
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"wrote {out} and {out.with_suffix('.png')}"
    assert "by person 0 of domain A: 8 frames of 32 x 32, 15 a second; " in second
    with Video(out) as video:
        assert (video.size, video.rate) == ((512, 512), 15.0)
        frames = [frame.image for frame in video.frames()]
    assert len(frames) == 8
    with Image.open(out.with_suffix(".png")) as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (5 * 256, 92 + 6 * 256, 3)
    for column, number in enumerate([0, 1, 3, 4, 6, 7]):
        shown = sheet[:256, 92 + column * 256 :][:, :256][4::8, 4::8].astype(float)
        filmed = frames[number].reshape(32, 16, 32, 16, 3).mean((1, 3))
        # H.264 keeps colours at half the size and not exactly.
        assert np.abs(shown - filmed).mean() < 4
    assert sorted(path.name for path in out.parent.iterdir()) == ["clip.mp4", "clip.png"]


def test_odd_and_large_sizes_can_be_shown(tmp_path: Path) -> None:
    for size, shown in ((33, 496), (300, 300)):
        out = tmp_path / f"{size}.mp4"
        run_render(RenderOptions(out=out, size=size, frames=2))
        with Video(out) as video:
            assert video.size == (shown, shown)


def test_labels_agree_with_one_another(tmp_path: Path) -> None:
    known = labels_of(tmp_path / "clip.mp4", size=64)
    assert known["joints"].shape == (6, 17, 3)
    assert known["labels"].shape == (6, 64, 64)
    assert tuple(known["joint_names"]) == BODY_17.joints
    assert len(known["part_names"]) == 13
    assert int(known["labels"].max()) < 13
    focal, center = known["focal"][:, None], known["center"][:, None]
    projected = known["joints"][..., :2] / known["joints"][..., 2:] * focal + center
    np.testing.assert_allclose(projected, known["points"], atol=1e-3)
    columns, rows = np.moveaxis(known["points"].round().astype(int).clip(1, 62), -1, 0)
    frames = np.arange(6)[:, None]
    near = [known["labels"][frames, rows + i, columns + k] > 0 for i in (-1, 0, 1) for k in (-1, 0, 1)]
    assert np.any(near, axis=0)[known["visible"]].all()
    np.testing.assert_allclose(np.diff(known["seconds"]), 1 / known["frame_rate"])


def test_a_motion_file_is_performed_as_it_is(tmp_path: Path) -> None:
    """Up to a rotation, which is the camera's, every bone points where it does in the file."""
    motion = walk(10, seed=3)
    write_motion(tmp_path / "walk.npz", motion)
    known = labels_of(tmp_path / "clip.mp4", motion=tmp_path / "walk.npz", frames=None, frame_rate=30.0)
    recorded, shown = bones(motion.to_skeleton(BODY_17).astype(float)), bones(known["joints"].astype(float))
    assert len(shown) == 10
    recorded, shown = (each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (recorded, shown))
    np.testing.assert_allclose(np.einsum("tij,tbj->tbi", known["rotation"], recorded), shown, atol=1e-4)
    # Every third frame, of which there are four.
    known = labels_of(tmp_path / "slow.mp4", motion=tmp_path / "walk.npz", frames=None, frame_rate=10.0)
    assert len(known["joints"]) == 4
    assert known["frame_rate"] == 10


def test_raw_files_stand_on_the_floor(tmp_path: Path, motion_data: Path) -> None:
    """Their own joint names must not hide that it is a person, whose lowest foot is a few centimetres above z = 0."""
    for name in ("01_01.amc", "salsa_25.bvh"):
        known = labels_of(tmp_path / "clip.mp4", motion=motion_data / "raw" / name)
        world = np.einsum("tji,tkj->tki", known["rotation"], known["joints"] - known["translation"][:, None])
        assert 0 < world[..., 2].min() < 0.1
        assert 1.3 < world[:, BODY_17.index("neck"), 2].mean() - world[..., 2].min() + 0.3 < 2.0


def test_a_folder_gives_its_test_clips(
    tmp_path: Path, motion_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSEGEOM_DATA", str(motion_data))
    for options in ({"clip": "exp_test_walking_1"}, {"clip": "0", "motion": motion_data}, {}):
        run_render(RenderOptions(out=tmp_path / "clip.mp4", size=16, frames=2, **options))
    said = capsys.readouterr().out.splitlines()[1::2]
    assert said[0].startswith("exp_test_walking_1 by person 0")
    with np.load(motion_data / "cmu17_test.npz") as file:
        known = {*file["clip_names"]}
    assert {line.split()[0] for line in said} <= known
    with pytest.raises(ValueError, match=r"no clip 'exp_test_walkin' .* \(test split\); nearest: exp_test_walking_"):
        run_render(RenderOptions(out=tmp_path / "clip.mp4", clip="exp_test_walkin"))


def test_persons_are_those_of_the_benchmarks_test_split(tmp_path: Path) -> None:
    lengths = []
    for person, seed in ((1, 0), (1, 0), (2, 0), (1, 7)):
        joints = labels_of(tmp_path / "clip.mp4", person=person, seed=seed, clip=str(len(lengths)))["joints"]
        lengths.append(np.linalg.norm(bones(joints), axis=-1).mean(0))
    np.testing.assert_allclose(lengths[0], lengths[1], atol=1e-4)
    assert np.abs(lengths[0] - lengths[2]).max() > 0.005
    assert np.abs(lengths[0] - lengths[3]).max() > 0.005
    benchmark = RenderedBenchmark(RenderedConfig(frames=4), "test")
    standard = benchmark.take(9).joints.numpy()  # of person 9 mod 4
    np.testing.assert_allclose(np.linalg.norm(bones(standard), axis=-1).mean(0), lengths[0], atol=1e-4)


def test_options_do_what_they_say(tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    usual = labels_of(out, frames=12)
    again = labels_of(out, frames=12)
    assert all(np.array_equal(usual[name], again[name]) for name in usual)
    assert np.array_equal(usual["rotation"], np.broadcast_to(usual["rotation"][:1], (12, 3, 3)))
    other = labels_of(out, frames=12, seed=1)
    assert np.abs(other["joints"] - usual["joints"]).max() > 0.01
    moving = labels_of(out, frames=12, moving=True)
    assert np.abs(np.diff(moving["rotation"], axis=0)).max() > 1e-3
    small = labels_of(out, frames=12, anywhere=True)
    assert np.ptp(small["points"], axis=1).max() < 0.6 * 32 < np.ptp(usual["points"], axis=1).max()
    # A second camera sees the same world from elsewhere.
    second = labels_of(out, frames=12, camera=1)
    world = [
        np.einsum("tji,tkj->tki", each["rotation"], each["joints"] - each["translation"][:, None])
        for each in (usual, second)
    ]
    np.testing.assert_allclose(*world, atol=1e-4)
    turn = usual["rotation"][0] @ second["rotation"][0].T
    assert 40 < np.degrees(np.arccos((np.trace(turn) - 1) / 2)) < 140
    # Domain B's cameras are low or high.
    height = {
        domain: -(known["rotation"][0].T @ known["translation"][0])[2]
        for domain, known in (("A", usual), ("B", labels_of(out, domain="B")))
    }
    assert 1.1 <= height["A"] <= 1.8
    assert 0.3 <= height["B"] <= 0.9 or 2.2 <= height["B"] <= 3.2


def test_free_falls_fall(tmp_path: Path) -> None:
    known = labels_of(tmp_path / "clip.mp4", content="freefall", frames=30, frame_rate=30.0)
    assert known["airborne"].sum() >= 5
    world = np.einsum("tji,tkj->tki", known["rotation"], known["joints"] - known["translation"][:, None])
    height = center_of_gravity(torch.from_numpy(world).double(), BODY_17)[:, 2].numpy()
    start = int(known["airborne"].argmax())
    length = int(np.argmin([*known["airborne"][start:], False]))
    flight = slice(start, start + length)
    assert 2 * np.polyfit(known["seconds"][flight], height[flight], 2)[0] == pytest.approx(-9.81, abs=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "C"}, "domain must be one of A, B, got 'C'"),
        ({"content": "sport"}, "content must be 'daily' or 'freefall', got 'sport'"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": 5000}, "size must be at most 1024, got 5000"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"frame_rate": 0.0}, "frame_rate must be positive"),
        ({"person": -1}, "person must be at least 0, got -1"),
        ({"camera": 100}, "camera must be 0 to 99, got 100"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"out": Path("clip.avi")}, r"out must be the name of an \.mp4 file, got clip\.avi"),
        ({"motion": Path("nowhere.bvh")}, r"nowhere\.bvh: no such motion file or folder"),
        ({"motion": Path("letter.bvh")}, r"letter\.bvh:1"),
        ({"motion": Path("empty")}, r"empty has no cmu17_train\.npz, cmu17_test\.npz"),
        ({"motion": Path("walk.npz"), "clip": "3"}, r"walk\.npz has clips 0 to 0, got 3"),
        ({"motion": Path("walk.npz"), "frames": 6}, r"walk\.npz: walk has 5 frames at 15 frames/s, got frames 6"),
        ({"motion": Path("walk.npz"), "content": "freefall"}, r"walk\.npz: walk has no free fall"),
        ({"motion": Path("armless.npz")}, r"armless\.npz: .* has no left_elbow, right_elbow, which BODY_17 needs"),
        ({"clip": "run"}, "no clip 'run' of enough frames among the 16 of the built-in motions; nearest: "),
        ({"clip": "99"}, "clip must be a name, or 0 to 15 in the built-in motions, got 99"),
        ({"motion": Path("clip.npz"), "labels": True}, r"clip\.npz is the motion itself"),
        ({"out": Path("folder.mp4")}, r"folder\.mp4 is a folder"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_motion(Path("walk.npz"), walk(10))
    write_motion(Path("clip.npz"), walk(10))
    write_motion(Path("armless.npz"), walk(10), without="elbow")
    Path("letter.bvh").write_text("Dear sir or madam,\n")
    Path("empty").mkdir()
    Path("folder.mp4").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, FileNotFoundError, MotionFileError), match=message) as caught:
        run_render(RenderOptions(**options))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interruption_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "clip.mp4"
    for suffix in (".mp4", ".png", ".npz"):
        out.with_suffix(suffix).write_text("old")
    monkeypatch.setattr(rendering, "CHUNK", 2 * 16**2)
    calls = []

    def render_some(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return render_takes(*arguments)

    monkeypatch.setattr(rendering, "render_takes", render_some)
    with pytest.raises(KeyboardInterrupt):
        run_render(RenderOptions(out=out, size=16, frames=8, labels=True))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "clip.mp4": "old",
        "clip.png": "old",
        "clip.npz": "old",
    }


def test_sheets_show_the_first_and_the_last_frame() -> None:
    assert spread(1, 6) == [0]
    assert spread(4, 6) == [0, 1, 2, 3]
    assert spread(45, 6) == [0, 9, 18, 26, 35, 44]


def test_options_are_flags(tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(RenderOptions, None)
    flags = ["--motion", "a.bvh", "--clip", "3", "--size", "64", "--frames", "9", "--moving", "true"]
    values = parser.parse_args(flags).as_dict()
    assert RenderOptions(**values) == RenderOptions(Path("a.bvh"), "3", size=64, frames=9, moving=True)


def test_the_page_about_the_benchmark_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "rendered.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code, printed = re.findall(r"```(?:python)?\n(.*?)```", page.split("## From Python")[1], re.DOTALL)[:2]
    exec(code, {})
    assert capsys.readouterr().out == printed
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (92 + 3 * 128, 5 * 128)


def test_the_renderers_speed_is_a_row_and_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "SIZES", {"cpu": (16, 24)})
    monkeypatch.setattr(rendered, "BATCH", {"cpu": 3})
    monkeypatch.setattr(rendered, "ROUNDS", {"cpu": 1})
    rows = list(rendered.rendered_frames("cpu"))
    assert [row["size"] for row in rows] == [[16, 16], [24, 24]]
    assert all(row["frames_per_second"] > 0 for row in rows)
    lines = report.rendered_table(rows)
    assert len(lines) == 4
    assert lines[2].startswith("| 16 × 16 | 1 | 3 | ")
