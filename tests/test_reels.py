"""Reels of footage, and cuts of images, against films of which everything is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from posegeom import crop
from posegeom_models.data.cropping import (
    MARGIN,
    Square,
    middle_square,
    square_round,
    square_round_mask,
)
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.persons import PersonBox
from posegeom_models.data.reels import Film, Reel
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.data.repertoire import action_of

av = pytest.importorskip("av")

SIZE = (96, 128)
RATE = 10
SIDE = 24
"""Of the white square that walks, in pixels."""

WHITE = np.array([245, 245, 245])


def wall(shift: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A smooth pattern, wider than the picture; panned by `shift` pixels."""
    y, x = np.mgrid[: size[0], : size[1]]
    x = x + shift
    waves = [np.sin(x / 9) + np.cos(y / 11), np.sin((x + y) / 12), np.cos(x / 13) - np.sin(y / 8)]
    return (110 + 25 * np.stack(waves, -1)).clip(0, 255).astype(np.uint8)


def place(number: int) -> tuple[int, int]:
    """Left and top of the square in a frame; even, as colours are coded for two by two pixels."""
    return 2 * round(26 + 25 * np.sin(number / 9)), 2 * round(18 + 15 * np.sin(number / 7))


def film(path: Path, seconds: float, pan: float = 0.0) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"crf": "10", "preset": "ultrafast"}
        for number in range(round(seconds * RATE)):
            image = wall(round(pan * number))
            left, top = place(number)
            image[top : top + SIDE, left : left + SIDE] = WHITE
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 s before a still wall, 6 s panned, and 3 s, which are too short."""
    folder = tmp_path_factory.mktemp("films")
    film(folder / "a.mp4", 12)
    film(folder / "b.mp4", 6, pan=3.0)
    film(folder / "c.mp4", 3)
    return folder


@pytest.fixture(scope="module")
def footage(folder: Path) -> Reel:
    return Reel.from_footage(folder, 32, rate=5)


def sampled(image: np.ndarray, square: Square, side: int) -> Tensor:
    """(3, side, side) in 0 to 255, by the library's own crop, which looks up four pixels for each."""
    box = torch.tensor(square.box(image.shape[:2]), dtype=torch.float64)
    return crop(torch.from_numpy(image).double().movedim(-1, 0), box, (side, side))


def test_clips_are_cut_told_apart_and_timed(footage: Reel) -> None:
    """002's rule: 12 s are two clips of 6 s, 3 s none; only the panned one moves."""
    assert footage.clip.unique_consecutive(return_counts=True)[1].tolist() == [30, 30, 30]
    assert footage.clip.unique().tolist() == [0, 1, 2]
    assert torch.equal(footage.moving, footage.clip == 2)
    for clip in range(3):
        expected = torch.arange(30, dtype=torch.float64) / 5
        torch.testing.assert_close(footage.seconds[footage.clip == clip], expected, atol=1e-6, rtol=0)


def test_the_square_follows_who_walks_before_a_still_wall(footage: Reel) -> None:
    """The cut is 1.33 · 24 pixels wide: 24 of its 32 pixels are white, and the middle is in the middle."""
    still = footage.image[~footage.moving].double()
    white = still.amin(1) > 200
    assert (white.sum((1, 2)).sqrt() - 32 / MARGIN).abs().max() < 1.5
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    for axis in (x, y):
        middle = (white * axis).sum((1, 2)) / white.sum((1, 2))
        assert (middle - 15.5).abs().max() < 1.0


def test_backgrounds_are_the_wall_at_the_same_place(footage: Reel) -> None:
    numbers = [2 * frame for frame in range(30)]
    errors = []
    for number, background in zip(numbers, footage.background[footage.clip == 0], strict=True):
        left, top = place(number)
        truth = sampled(wall(), square_round((left, top, left + SIDE, top + SIDE)), 32)
        errors.append((background.double() - truth).abs().mean())
    assert torch.stack(errors).max() < 6  # coding, and a pixel that the square may be off
    assert torch.stack(errors).mean() < 3


def test_a_moving_clip_is_cut_in_the_middle_and_has_no_background(footage: Reel) -> None:
    moving = footage.clip == 2
    assert not footage.background[moving].any()
    assert middle_square(SIZE) == (16, 0, 96)
    image = wall(0)
    left, top = place(0)
    image[top : top + SIDE, left : left + SIDE] = WHITE
    thirds = image[:, 16:112].reshape(32, 3, 32, 3, 3).mean((1, 3))
    assert np.abs(footage.image[moving][0].movedim(0, -1).numpy() - thirds).mean() < 6


def test_pairs_are_of_one_clip_and_beyond_the_gap(footage: Reel) -> None:
    numbers = torch.arange(len(footage))
    for seed in range(3):
        partners = footage.partners(numbers, 2.0, np.random.default_rng(seed))
        assert torch.equal(footage.clip[numbers], footage.clip[partners])
        assert (footage.seconds[numbers] - footage.seconds[partners]).abs().min() >= 2.0


def test_nothing_of_footage_is_taken_for_truth(footage: Reel) -> None:
    assert not footage.known.any()
    assert not footage.labelled.any()
    assert not footage.segmented
    assert footage.action == ("", "", "")
    assert footage.identity.unique().tolist() == [-1]
    frames = footage.frames(torch.tensor([0, 40]))
    assert frames.image.shape == frames.background.shape == (2, 3, 32, 32)
    assert frames.canonical.isfinite().all()
    with pytest.raises(ValueError, match="must have labelled frames for a mean pose, got none"):
        footage.mean_pose()
    # As the docstring says: six bytes a pixel, and what is not known takes none.
    assert footage.image.untyped_storage().nbytes() + footage.background.untyped_storage().nbytes() == 90 * 6 * 32 * 32
    assert footage.labels.untyped_storage().nbytes() == 1
    assert footage.joints.untyped_storage().nbytes() == 4


def test_boxes_of_a_file_are_followed_and_frames_without_are_left_out(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 6)
    lines = ["video,frame,left,top,right,bottom,score"]
    for number in range(0, 40, 4):
        left, top = place(number)
        lines += [
            f"a.mp4,{number},0,0,128,96,0.5",  # someone less certain
            f"a.mp4,{number},{left - 4},{top - 4},{left + SIDE + 4},{top + SIDE + 4},0.9",
        ]
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("\n".join(lines))
    reel = Reel.from_footage(tmp_path, 48, rate=RATE, boxes=boxes, margin=1.0)
    # The last box is that of frame 36; those until half a second later are near enough.
    torch.testing.assert_close(reel.seconds, torch.arange(42, dtype=torch.float64) / RATE, atol=1e-6, rtol=0)
    for number in range(0, 40, 4):  # 32 pixels become 48: the white ones are 6 to 41
        image = reel.image[number].double()
        assert image[:, 8:40, 8:40].min() > 225
        edges = torch.cat((image[:, :4].flatten(1), image[:, -4:].flatten(1), image[..., :4].flatten(1)), dim=1)
        assert edges.max() < 200
    # What lies between boxes that are far apart is left out, and what follows is another clip.
    boxes.write_text("\n".join([lines[0], *(f"a.mp4,{number},4,4,36,36,0.9" for number in (0, 6, 40, 44))]))
    split = Reel.from_footage(tmp_path, 48, rate=RATE, boxes=boxes)
    assert torch.unique_consecutive(split.clip, return_counts=True)[1].tolist() == [
        6 + 1 + RATE // 2,
        4 + 1 + 2 * (RATE // 2),
    ]
    assert split.seconds.diff().max() < 1.5 / RATE
    film(tmp_path / "b.mp4", 6)
    with pytest.raises(MotionFileError, match=r"boxes\.csv: has no boxes of b\.mp4"):
        Reel.from_footage(tmp_path, 48, rate=RATE, boxes=boxes)


def test_a_detector_finds_the_boxes_where_no_file_has_them(folder: Path, footage: Reel) -> None:
    """Also before a wall that moves, where motion tells nothing of where the person is."""

    def detector(image: np.ndarray, frame: int) -> tuple[PersonBox, ...]:
        rows, columns = np.nonzero(image.min(-1) > 200)
        return (PersonBox(frame, columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, 0.9),)

    reel = Reel.from_footage(folder, 32, rate=5, detector=detector, margin=1.2)
    assert torch.equal(reel.moving, footage.moving)
    white = reel.image.double().amin(1) > 200
    assert (white.sum((1, 2)).sqrt() - 32 / 1.2).abs().max() < 1.5
    assert (white[:, 8:24, 8:24].double().mean((1, 2)) > 0.98).all()
    middle = footage.image[footage.moving].double().amin(1)[:, 8:24, 8:24] > 200
    assert middle.double().mean() < 0.9  # without a detector, there is the middle of the image


def test_broken_videos_are_refused_by_name_or_skipped_and_counted(tmp_path: Path) -> None:
    for name in ("a.mp4", "c.mp4"):
        film(tmp_path / name, 6)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(MotionFileError, match=r"b\.mp4: .*cut off"):
        Reel.from_footage(tmp_path, 16, rate=2)
    with pytest.warns(UserWarning, match=r"1 of 3 videos skipped: .*b\.mp4"):
        reel = Reel.from_footage(tmp_path, 16, rate=2, skip_broken=True)
    assert reel.clip.tolist() == [0] * 12 + [1] * 12
    assert torch.equal(reel.image[:12], reel.image[12:])  # a and c are one film


def test_a_video_that_breaks_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / name, 12)
    lines = ["video,frame,left,top,right,bottom", "b.mp4,0,0,0,96,96"]
    lines += ["b.mp4,40,0,0,96,96", "a.mp4,0,0,0,96,96", "a.mp4,100,0,0,9e6,9e6"]
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("\n".join(lines))
    with pytest.raises(MotionFileError, match=r"a\.mp4: at 9\.50 s: a square of .* pixels is too large"):
        Reel.from_footage(tmp_path, 16, rate=2, boxes=boxes)
    with pytest.warns(UserWarning, match=r"1 of 2 videos skipped: .*a\.mp4: at 9\.50 s"):
        reel = Reel.from_footage(tmp_path, 16, rate=2, boxes=boxes, skip_broken=True)
    assert reel.clip.tolist() == [0, 0, 1, 1, 1]  # frames 0 and 5; 35, 40 and 45
    assert reel.seconds.tolist() == pytest.approx([0, 0.5, 0, 0.5, 1.0])


def test_folders_without_a_clip_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="background must be one of median, halves, got 'panorama'"):
        Reel.from_footage(tmp_path, 16, rate=2, background="panorama")
    with pytest.raises(FileNotFoundError, match="no videos in this folder"):
        Reel.from_footage(tmp_path, 16, rate=2)
    film(tmp_path / "a.mp4", 2)
    with pytest.raises(ValueError, match="no clip of 5 s or more with a person in 1 videos"):
        Reel.from_footage(tmp_path, 16, rate=2)


@pytest.mark.parametrize("square", [Square(20.3, 10.7, 30.0), Square(-9.5, 60.2, 50.5), Square(100.0, -3.0, 41.0)])
def test_an_enlarged_cut_is_the_librarys_crop(square: Square) -> None:
    cut = torch.from_numpy(square.cut(wall(), 64).copy()).movedim(-1, 0)
    assert (cut - sampled(wall(), square, 64)).abs().max() <= 1.0  # rounded to bytes, twice


def test_a_shrunk_cut_is_smoothed() -> None:
    board = (np.indices((90, 90)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, -1)
    inside = Square(0, 0, 90).cut(board, 9)[1:-1, 1:-1]
    assert np.abs(inside.astype(int) - 127.5).max() < 4
    assert sampled(board, Square(0, 0, 90), 9).std() == 0  # four of a board's pixels: this one would not show it
    assert sampled(board, Square(0.5, 0.5, 89), 9).std() > 20  # but this one does


def test_squares_know_their_edges() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:9, 7:15] = True
    assert square_round_mask(mask, margin=1.0) == (7, 2.5, 8)
    assert square_round_mask(mask, margin=2.0) == (3, -1.5, 16)
    assert square_round_mask(np.zeros((20, 30), bool)) is None
    with pytest.raises(ValueError, match="a box must have a size and margin be positive"):
        square_round((3.0, 4.0, 3.0, 4.0))
    with pytest.raises(ValueError, match="too large for an image of 20 × 30"):
        Square(0, 0, 1e7).cut(np.zeros((20, 30, 3), np.uint8), 16)


@pytest.mark.parametrize(
    ("recording", "action"),
    [
        ("exp_train_walking_extra_1#0", "walking"),
        ("exp_train_walking_13x", "walking"),
        ("exp_test_jumping_1#1", "jumping"),
        ("exp_train_directing_traffic_1", "directing_traffic"),
        ("exp_train_basketball_signal_5", "basketball_signal"),
        ("salsa_24#0", "salsa"),
        ("martial_03", "martial"),
        ("walk_12", "walk"),
        ("dive_0", "dive"),
        ("leap_confidence-74fps_right28", "confidence"),
        ("leap_three-claps_left23", "three-claps"),
        ("xr_fist_left", "fist"),
        ("01_05#2", ""),
        ("03_01", ""),
        ("", ""),
    ],
)
def test_actions_are_told_from_the_names_of_recordings(recording: str, action: str) -> None:
    assert action_of(recording) == action


def test_rendered_reels_know_action_person_and_camera() -> None:
    config = RenderedConfig(size=16, clips=(4, 1, 1), identities=(3, 1, 1), frames=3, anywhere=0.0, cameras=2)
    benchmark = RenderedBenchmark(config, "train")
    one, two = (Reel.render(benchmark, clips=[1, 3], camera=camera) for camera in range(2))
    assert one.clip.tolist() == [1, 1, 1, 3, 3, 3]
    assert one.action == tuple(benchmark.take(clip).motion.split("_")[0] for clip in (1, 3))
    assert one.actions(torch.tensor([5])) == one.action[1:]
    assert one.identity.tolist() == [1, 1, 1, 0, 0, 0]  # clip 3 is the first person's again
    assert one.labelled.all()
    assert one.segmented
    first, second = benchmark.views(3)
    torch.testing.assert_close(one.joints[3:], first.joints)
    torch.testing.assert_close(two.joints[3:], second.joints)
    assert not torch.equal(one.image, two.image)
    with pytest.raises(ValueError, match=r"action must be one per clip that occurs \(2\), got 1"):
        Reel(*(getattr(one, name) for name in list(vars(one))[:9]), action=("walk",))


def test_a_film_is_the_reel_that_it_renders_when_asked() -> None:
    benchmark = RenderedBenchmark(RenderedConfig(size=24, clips=(4, 1, 1), frames=6, cameras=2, samples=1), "train")
    whole, film = Reel.render(benchmark, 2, camera=1), Film.of(benchmark, 2, camera=1)
    torch.testing.assert_close(film.joints, whole.joints, rtol=0, atol=1e-5)
    torch.testing.assert_close(film.points, whole.points, rtol=0, atol=1e-3)
    for name in ("clip", "seconds", "moving", "identity"):
        assert torch.equal(getattr(film, name), getattr(whole, name)), name
    assert film.action == whole.action
    assert not bool(film.rendered.any())
    numbers = torch.tensor([7, 2, 7, 11])
    for _ in range(2):
        shown, wanted = film.frames(numbers), whole.frames(numbers)
        assert torch.equal(shown.image, wanted.image)
        assert torch.equal(shown.background, wanted.background)
        assert torch.equal(shown.labels, wanted.labels)
        assert film.rendered.nonzero().flatten().tolist() == [2, 7, 11]
    assert torch.equal(
        film.partners(numbers, 0.1, np.random.default_rng(3)), whole.partners(numbers, 0.1, np.random.default_rng(3))
    )


def test_partners_are_as_likely_as_each_other_and_at_least_the_gap_away() -> None:
    benchmark = RenderedBenchmark(RenderedConfig(size=16, clips=(3, 1, 1), frames=9, samples=1), "train")
    reel = Film.of(benchmark)
    random = np.random.default_rng(0)
    chosen = torch.stack([reel.partners(torch.tensor([13]), 0.2, random) for _ in range(400)]).flatten()
    apart = (reel.seconds - reel.seconds[13]).abs()
    allowed = [number for number in range(9, 18) if float(apart[number]) >= 0.2]
    counts = [int((chosen == number).sum()) for number in allowed]
    assert sum(counts) == 400
    assert min(counts) > 400 / len(allowed) / 2
