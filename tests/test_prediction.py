"""Prediction with a model that finds a red dot in the pixels it gets, so that all ways there and back are measured."""

from __future__ import annotations

import itertools
import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from posegeom import Skeleton
from posegeom_models import prediction, tracks
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.persons import PersonBox
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.data.video import Video
from posegeom_models.drawing import save_video
from posegeom_models.prediction import PredictOptions, predict_path
from posegeom_models.tracks import find_person

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

DOT = Skeleton("dot", ("root", "left_tip"), (-1, 0), (0, 1))
SIDE = 64
RATE = 20


def see_dot(images: Tensor) -> tuple[Tensor, Tensor]:
    """The middle of what is red, and a point 3 pixels to the right of it."""
    red = (images[:, 0] - images[:, 1:].amax(1)).clamp(min=0)
    weights = red / (red.sum((1, 2), keepdim=True) + 1e-9)
    place = torch.arange(images.shape[-1], dtype=weights.dtype)
    dot = torch.stack([(weights.sum(1) * place).sum(-1), (weights.sum(2) * place).sum(-1)], dim=-1)
    points = torch.stack([dot, dot + torch.tensor([3.0, 0.0])], dim=1)
    joints = torch.zeros(len(images), 2, 3)
    joints[:, 1, 1] = 1.0
    return joints, points


def wall(size: tuple[int, int]) -> np.ndarray:
    """Squares of random grays."""
    blocks = np.random.default_rng(3).integers(90, 130, (size[0] // 8 + 1, size[1] // 8 + 1), dtype=np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1], None].repeat(3, -1)


def walker(number: int, size: tuple[int, int] = (120, 200)) -> tuple[np.ndarray, tuple[float, float]]:
    """A white figure, 21 by 49 pixels, that walks before a wall with a red dot in its middle; and where the dot is."""
    image = wall(size)
    x, y = 20 + 4 * number, 60
    image[y - 24 : y + 25, x - 10 : x + 11] = 240
    image[y - 4 : y + 5, x - 4 : x + 5] = (220, 10, 10)
    return image, (x, y)


def lossless(path: Path, images: list[np.ndarray], times: list[int] | None = None) -> Path:
    """Frames with the very pixels; `times` in thousandths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "bgr0"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lossless(tmp_path_factory.mktemp("clip") / "walk.mkv", [walker(number)[0] for number in range(40)])


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_video_is_predicted_at_the_places_that_are_seen_in_it(
    walk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = []

    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(tuple(images.shape))
        return see_dot(images)

    files = predict_path(predict, DOT, SIDE, walk, tmp_path / "out", PredictOptions(batch=16))
    assert "walk.mkv: person found by motion in 40 of 40 frames" in capsys.readouterr().out
    assert sizes == [(16, 3, SIDE, SIDE), (16, 3, SIDE, SIDE), (8, 3, SIDE, SIDE)]
    assert left_in(tmp_path / "out") == ["walk.json", "walk.mp4", "walk.npz"]
    assert sorted(files) == sorted((tmp_path / "out").iterdir())
    truth = np.array([walker(number)[1] for number in range(40)])
    with np.load(tmp_path / "out" / "walk.npz", allow_pickle=False) as held:
        np.testing.assert_allclose(held["points"][:, 0], truth, atol=0.2)
        np.testing.assert_allclose(held["seconds"], np.arange(40) / RATE, atol=1e-3)
        assert (held["frame"] == np.arange(40)).all()
        assert held["joints"].shape == (40, 2, 3)
        assert tuple(held["joint_names"]) == DOT.joints
        assert tuple(held["parents"]) == DOT.parents
        boxes = held["boxes"]
        # The figure is 49 pixels high; the box follows it, a little late at the ends of the walk.
        np.testing.assert_allclose(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        assert (boxes[:, 2] - boxes[:, 0] > 1.2 * 49).all()
        assert np.abs((boxes[:, 0] + boxes[:, 2]) / 2 - truth[:, 0])[8:-8].max() < 4
        assert (boxes[:, 0] < truth[:, 0] - 10).all()
        assert (boxes[:, 2] > truth[:, 0] + 11).all()
        points = held["points"]
    told = json.loads((tmp_path / "out" / "walk.json").read_text())
    assert told["person_found_by"] == "motion"
    assert told["joint_names"] == list(DOT.joints)
    np.testing.assert_allclose([frame["points"] for frame in told["frames"]], points, atol=1e-3)
    np.testing.assert_allclose([frame["boxes"] for frame in told["frames"]], boxes, atol=1e-3)
    with Video(tmp_path / "out" / "walk.mp4") as video:
        assert video.size == (480, 800 + 240)
        assert sum(1 for _ in video.frames()) == 40


def test_a_rendered_person_is_found_by_motion(tmp_path: Path) -> None:
    config = RenderedConfig(size=128, frames=24, clips=(1, 1, 4), moving=0, anywhere=1, samples=1)
    for number in range(2):
        frames = RenderedBenchmark(config, "test")[number]
        images = (frames.image.movedim(1, -1) * 255).round().to(torch.uint8).numpy()
        save_video(images, tmp_path / "a.mp4", 15)
        track = find_person(tmp_path / "a.mp4")
        assert track.found == "motion"
        for frame, points in enumerate(frames.points.numpy()):
            left, top, right, bottom = track.at(frame)
            # Two pixels for what the video's coding, which differs with the number of cores, takes from toes.
            assert left < points[:, 0].min() + 2
            assert points[:, 0].max() < right + 2
            assert top < points[:, 1].min() + 2
            assert points[:, 1].max() < bottom + 2
            # Limbs that rest, shadows and ghosts make it some larger than in the benchmark's own crops.
            assert 1.2 < (right - left) / np.ptp(points, axis=0).max() < 2.5


def test_before_a_moving_background_the_middle_is_taken_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = wall((120, 400))
    for step in (1, 6):
        images = [scene[:, step * number : step * number + 200].copy() for number in range(30)]
        track = find_person(lossless(tmp_path / "pan.mkv", images))
        assert track.found == "middle"
        assert "pan.mkv: no person found (the camera moves); takes the middle square" in capsys.readouterr().out
        np.testing.assert_allclose(track.at(7), (40, 0, 160, 120))
    find_person(lossless(tmp_path / "still.mkv", [scene] * 3))
    assert "no person found (nothing moves)" in capsys.readouterr().out


def test_boxes_of_a_file_are_taken_as_they_are(walk: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(
        "video,frame,left,top,right,bottom,score\n"
        "walk.mkv,0,10,36,30,85,0.4\nwalk.mkv,0,0,0,100,100,0.2\nwalk.mkv,10,50,36,70,85,0.9\nother.mp4,0,0,0,5,5,1\n"
    )
    options = PredictOptions(boxes=tmp_path / "boxes.csv", margin=2.0, overlay=False)
    predict_path(see_dot, DOT, SIDE, walk, tmp_path / "out", options)
    with np.load(tmp_path / "out" / "walk.npz") as held:
        boxes, points = held["boxes"], held["points"]
    np.testing.assert_allclose(boxes[0], (20 - 49, 60.5 - 49, 20 + 49, 60.5 + 49))
    np.testing.assert_allclose(boxes[5], boxes[0] + (20, 0, 20, 0))
    np.testing.assert_allclose(boxes[10:20], np.tile(boxes[0] + (40, 0, 40, 0), (10, 1)))
    np.testing.assert_allclose(points[:20, 0], [walker(number)[1] for number in range(20)], atol=0.2)
    assert left_in(tmp_path / "out") == ["walk.json", "walk.npz"]
    with pytest.raises(MotionFileError, match=r"holds no boxes of b\.mkv, only of other\.mp4, walk\.mkv"):
        predict_path(see_dot, DOT, SIDE, Path(shutil.copy(walk, tmp_path / "b.mkv")), tmp_path / "b", options)
    assert left_in(tmp_path / "b") == []


def test_a_detected_person_is_followed_past_surer_strangers(walk: Path) -> None:
    def detector(image: np.ndarray, frame: int) -> tuple[PersonBox, ...]:
        person = PersonBox(frame, 10 + 4 * frame, 36, 31 + 4 * frame, 85, 0.8)
        stranger = PersonBox(frame, 150, 0, 190, 60, 0.9)
        return () if 10 <= frame < 14 else (stranger, person) if 3 < frame < 20 else (person,)

    track = find_person(walk, detector=detector)  # type: ignore[arg-type]
    assert track.found == "detector"
    for frame in range(10, 30):
        left, _, right, _ = track.at(frame)
        assert (left + right) / 2 == pytest.approx(20.5 + 4 * frame, abs=1)
        assert right - left == pytest.approx(1.33 * 49, abs=0.5)
    assert find_person(walk, detector=lambda image, frame: ()).found == "motion"  # type: ignore[arg-type,return-value]


def test_a_rate_takes_every_so_many_frames_and_keeps_their_numbers(walk: Path, tmp_path: Path) -> None:
    predict_path(see_dot, DOT, SIDE, walk, tmp_path, PredictOptions(rate=5))
    with np.load(tmp_path / "walk.npz") as held:
        assert held["frame"].tolist() == list(range(0, 40, 4))
        np.testing.assert_allclose(held["points"][:, 0], [walker(number)[1] for number in range(0, 40, 4)], atol=0.2)
    with Video(tmp_path / "walk.mp4") as video:
        assert [frame.seconds for frame in video.frames()] == pytest.approx([0.2 * number for number in range(10)])
        assert video.seconds == pytest.approx(2.0)


def test_uneven_times_are_kept(tmp_path: Path) -> None:
    times = [0, 40, 80, 300, 320, 900, 940, 1500]
    source = lossless(tmp_path / "a.mkv", [walker(5 * number)[0] for number in range(8)], times)
    predict_path(see_dot, DOT, SIDE, source, tmp_path / "out")
    with np.load(tmp_path / "out" / "a.npz") as held:
        np.testing.assert_allclose(held["seconds"], np.array(times) / 1000)
        np.testing.assert_allclose(held["points"][:, 0], [walker(5 * number)[1] for number in range(8)], atol=0.2)
    with Video(tmp_path / "out" / "a.mp4") as video:
        assert [frame.seconds for frame in video.frames()] == pytest.approx([time / 1000 for time in times], abs=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (33, 47), (9, 400)])
@pytest.mark.parametrize("count", [1, 3])
def test_tiny_odd_and_short_videos_and_photographs_work(tmp_path: Path, size: tuple[int, int], count: int) -> None:
    images = [np.full((*size, 3), (200, 10, 10 + number), np.uint8) for number in range(count)]
    lossless(tmp_path / "a.mkv", images)
    Image.fromarray(images[0]).save(tmp_path / "b.png")
    files = predict_path(see_dot, DOT, SIDE, tmp_path, tmp_path / "out")
    assert sorted(path.name for path in files) == ["a.json", "a.mp4", "a.npz", "b.json", "b.npz", "b.png"]
    with np.load(tmp_path / "out" / "a.npz") as held:
        # All of the crop is red: its middle is the frame's.
        middle = ((size[1] - 1) / 2, (size[0] - 1) / 2)
        np.testing.assert_allclose(held["points"][:, 0], np.tile(middle, (count, 1)), atol=1e-3)
    with Video(tmp_path / "out" / "a.mp4") as video:
        assert sum(1 for _ in video.frames()) == count


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_they_say(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    image = np.zeros((40, 60, 3), np.uint8)
    image[8:13, 18:23] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    rows, columns = np.nonzero(upright[..., 0])
    (tmp_path / "boxes.json").write_text(
        json.dumps({"a.png": [[0, 0, 0, upright.shape[1], upright.shape[0]]]}), encoding="utf-8"
    )
    predict_path(see_dot, DOT, SIDE, tmp_path / "a.png", tmp_path / "out", PredictOptions(tmp_path / "boxes.json"))
    with np.load(tmp_path / "out" / "a.npz") as held:
        np.testing.assert_allclose(held["points"][0, 0], (columns.mean(), rows.mean()), atol=0.1)
    height, width = (480, 720) if orientation < 5 else (480, 320)
    assert Image.open(tmp_path / "out" / "a.png").size == (width + 240, height)


def test_the_skeleton_is_drawn_where_the_points_are(tmp_path: Path) -> None:
    Image.fromarray(np.full((240, 320, 3), 128, np.uint8)).save(tmp_path / "a.png")

    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, 2, 3), torch.tensor([[[20.0, 31.5], [44.0, 31.5]]])

    predict_path(predict, DOT, SIDE, tmp_path / "a.png", tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out" / "a.png")).astype(int)
    # The crop is the middle 240 x 240 of the frame, which is shown twice as large.
    line = np.array([0x2A, 0x9D, 0x8F])
    rows, columns = np.nonzero((picture[:, :640] == line).all(-1))
    middle = 2 * (40 + 240 * (32.5 / 64)) - 0.5
    assert columns.mean() == pytest.approx(middle, abs=0.5)
    assert rows.mean() == pytest.approx(2 * 120 - 0.5, abs=0.5)
    assert np.ptp(columns) == pytest.approx(2 * 240 * 24 / 64, abs=6)


def test_files_of_one_name_get_results_of_two(tmp_path: Path) -> None:
    image = walker(1)[0]
    for name in ("a.png", "A.bmp", "a_png.bmp", "b.PNG"):
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not looked at")
    files = predict_path(see_dot, DOT, SIDE, tmp_path, tmp_path / "out", PredictOptions(overlay=False))
    assert left_in(tmp_path / "out") == sorted(
        f"{stem}.{suffix}" for stem, suffix in itertools.product(("A_bmp", "a_png_", "a_png", "b"), ("json", "npz"))
    )
    assert len(files) == 8
    sources = {json.loads(path.read_text())["source"] for path in files if path.suffix == ".json"}
    assert sources == {"a.png", "A.bmp", "a_png.bmp", "b.PNG"}


def test_bad_input_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for name in ("text.mp4", "text.png", "text.txt"):
        (tmp_path / name).write_text("these are words " * 50)
        with pytest.raises(MotionFileError, match=name):
            predict_path(see_dot, DOT, SIDE, tmp_path / name, out)
    with pytest.raises(FileNotFoundError, match="neither videos nor photographs"):
        predict_path(see_dot, DOT, SIDE, tmp_path / "empty", out)
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4: no such file"):
        predict_path(see_dot, DOT, SIDE, tmp_path / "gone.mp4", out)
    pytest.importorskip("torchvision")
    with pytest.raises(FileNotFoundError, match="no weights of the person detector"):
        predict_path(see_dot, DOT, SIDE, tmp_path / "text.png", out, PredictOptions(detector=tmp_path / "w.pth"))
    assert left_in(out) == []


def test_results_do_not_replace_their_source(tmp_path: Path) -> None:
    Image.fromarray(walker(1)[0]).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="would replace it"):
        predict_path(see_dot, DOT, SIDE, tmp_path / "a.png", tmp_path)
    files = predict_path(see_dot, DOT, SIDE, tmp_path / "a.png", tmp_path, PredictOptions(overlay=False))
    assert [path.name for path in files] == ["a.json", "a.npz"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_stops_in_the_middle_leaves_what_was_there(
    walk: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    predict_path(see_dot, DOT, SIDE, walk, tmp_path, PredictOptions(rate=2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = itertools.count()

    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        if next(calls) == 2:
            raise error
        return see_dot(images)

    with pytest.raises(error):
        predict_path(predict, DOT, SIDE, walk, tmp_path, PredictOptions(batch=5))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("joints", "points", "message"),
    [
        (torch.zeros(1, 3, 3), torch.zeros(1, 2, 2), r"joints must be \(1, 2, 3\), got \(1, 3, 3\)"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), r"points must be \(1, 2, 2\), got \(1, 2, 3\)"),
        (torch.zeros(1, 2, 3) / 0, torch.zeros(1, 2, 2), "joints are not all finite"),
    ],
)
def test_a_models_wrong_answer_is_refused(tmp_path: Path, joints: Tensor, points: Tensor, message: str) -> None:
    Image.fromarray(walker(1)[0]).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        predict_path(lambda images: (joints, points), DOT, SIDE, tmp_path / "a.png", tmp_path / "out")
    assert left_in(tmp_path / "out") == []


def test_few_large_frames_are_in_memory_at_once(walk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "_IN_FLIGHT", 3 * 120 * 200 * 3 + 1)
    monkeypatch.setattr(tracks, "MAX_BYTES", 9 * 120 * 200 * 3)
    counts = []

    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        counts.append(len(images))
        return see_dot(images)

    predict_path(predict, DOT, SIDE, walk, tmp_path, PredictOptions(batch=16, overlay=False))
    assert counts == [3] * 13 + [1]


def test_options_out_of_range_are_refused() -> None:
    for name, value in (("margin", 0.0), ("batch", 0), ("rate", -1.0), ("margin", float("nan"))):
        with pytest.raises(ValueError, match=f"{name} must be"):
            PredictOptions(**{name: value})  # type: ignore[arg-type]
