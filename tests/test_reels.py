"""Reels of footage and of data sets, against films and photographs of which everything is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor

from posegeom import BODY_17, COCO_17, H36M_17, SMPL_24, PerspectiveCamera, Skeleton, crop, project
from posegeom_models.data.cropping import (
    JOINTS_MARGIN,
    MARGIN,
    Square,
    middle_square,
    read_images,
    square_round,
    square_round_mask,
)
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.persons import PersonBox
from posegeom_models.data.reels import Film, Reel
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.data.repertoire import action_of
from posegeom_models.data.samples import FrameReference, Part, Protocol, Sample, Samples

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


def test_sequences_with_broken_images_are_refused_by_name_or_skipped_and_counted(tmp_path: Path) -> None:
    samples = photographs(tmp_path, 12)
    samples = [changed(sample, sequence=str(number // 4)) for number, sample in enumerate(samples)]
    whole = Reel.from_samples(samples, BODY_17, 24, rate=1)
    image = samples[5].image
    assert image is not None
    image.path.write_bytes(image.path.read_bytes()[:100])
    with pytest.raises(MotionFileError, match=image.path.name):
        Reel.from_samples(samples, BODY_17, 24, rate=1)
    with pytest.warns(UserWarning, match=f"1 of 3 sequences skipped: .*{image.path.name}"):
        reel = Reel.from_samples(samples, BODY_17, 24, rate=1, skip_broken=True)
    kept = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11])
    assert torch.equal(reel.image, whole.image[kept])
    assert torch.equal(reel.joints, whole.joints[kept])
    assert len(reel.action) == 2
    image.path.unlink()
    with pytest.warns(UserWarning, match="1 of 1 sequences"), pytest.raises(ValueError, match="no sequence of 1 has"):
        Reel.from_samples(samples[4:8], BODY_17, 24, rate=1, skip_broken=True)


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


def test_recordings_whose_video_is_not_there_are_refused_or_skipped(tmp_path: Path) -> None:
    """Also where the video is asked for its rate."""
    film(tmp_path / "a.mp4", 2)
    samples = [
        Sample("Synthetic", name, number, BODY_17, FrameReference(tmp_path / f"{name}.mp4", number),
               joints=pose(0), camera=CAMERA, box=(20.0, 20.0, 60.0, 60.0))
        for name in ("a", "b")
        for number in range(2)
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"b\.mp4"):
        Reel.from_samples(samples, BODY_17, 16)
    with pytest.warns(UserWarning, match=r"1 of 2 sequences skipped: .*b\.mp4"):
        reel = Reel.from_samples(samples, BODY_17, 16, skip_broken=True)
    assert reel.seconds.tolist() == pytest.approx([0, 1 / RATE])


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


CAMERA = PerspectiveCamera((210.0, 200.0), (71.0, 44.0), SIZE)

DOT = np.array([250.0, 250.0, 20.0])


def pose(number: int, skeleton: Skeleton = BODY_17) -> np.ndarray:
    """(J, 3) joints in the camera's axes: someone who walks to the right, every joint at a place of its own."""
    random = np.random.default_rng(7)
    joints = random.uniform((-0.25, -0.55, -0.2), (0.25, 0.55, 0.2), (len(skeleton.joints), 3))
    walked = np.array([-0.5 + 0.12 * number, 0.05 * np.sin(number), 4.0])
    return (joints + walked).astype(np.float32)


def projected(joints: np.ndarray, camera: PerspectiveCamera = CAMERA) -> np.ndarray:
    """The pinhole by hand."""
    (fx, fy), (cx, cy) = camera.focal, camera.center  # type: ignore[misc]
    return np.stack([fx * joints[:, 0] / joints[:, 2] + cx, fy * joints[:, 1] / joints[:, 2] + cy], -1)  # type: ignore[has-type]


def dotted(center: np.ndarray) -> np.ndarray:
    """The wall with a soft round dot of radius 2.5, whose middle is `center`."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cover = np.clip(3 - np.hypot(x - center[0], y - center[1]), 0, 1)[..., None]
    return np.round(wall() * (1 - cover) + DOT * cover).astype(np.uint8)


def photographs(folder: Path, count: int, joint: str = "neck") -> list[Sample]:
    """Images with a dot at one joint, R and t that stand still."""
    samples = []
    for number in range(count):
        joints = pose(number)
        points = projected(joints)
        path = folder / f"{number}.png"
        Pillow.fromarray(dotted(points[BODY_17.index(joint)])).save(path)
        samples.append(
            Sample(
                "Synthetic",
                "walk 1",
                3 * number,
                BODY_17,
                FrameReference(path),
                points=points.astype(np.float32),
                joints=joints,
                camera=CAMERA,
                rotation=np.eye(3),
                translation=np.zeros(3),
                view="front",
                subject="S1",
                action="walk",
            )
        )
    return samples


def changed(sample: Sample, **changes: object) -> Sample:
    return Sample(**(vars(sample) | changes))  # type: ignore[arg-type]


def middle_of_dot(image: Tensor, background: Tensor, color: np.ndarray) -> Tensor:
    """(2,) x and y of the middle of what has a colour: of the share c with I = c · color + (1 − c) · background."""
    toward = torch.from_numpy(color).double().view(3, 1, 1) - background
    share = ((image.double() - background) * toward).sum(0) / toward.square().sum(0)
    share = torch.where(share > 0.15, share, 0.0)
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in share.shape), indexing="ij")
    return torch.stack([(share * axis).sum() / share.sum() for axis in (x, y)])


@pytest.mark.parametrize("boxed", [False, True])
def test_points_of_a_crop_are_those_of_the_cropped_camera_and_the_dot_is_there(tmp_path: Path, boxed: bool) -> None:
    samples = photographs(tmp_path, 9)
    if boxed:
        samples = [
            changed(sample, box=(20.5 + 3 * number, 3.0, 60.0 + 3 * number, 90.25))
            for number, sample in enumerate(samples)
        ]
    reel = Reel.from_samples(samples, BODY_17, 100, rate=30)
    assert not reel.moving.any()
    for number, sample in enumerate(samples):
        if sample.box is None:
            edges = projected(pose(number))
            left, top, right, bottom = (*(edges.min(0) + 0.5), *(edges.max(0) + 0.5))
        else:
            left, top, right, bottom = sample.box
        half = (MARGIN if boxed else JOINTS_MARGIN) * max(right - left, bottom - top) / 2
        box = (2 * half / 128, 2 * half / 96, (left + right) / 128 - 1, (top + bottom) / 96 - 1)
        expected = project(torch.from_numpy(pose(number)).double(), CAMERA.crop(box, (100, 100)))[0]
        torch.testing.assert_close(reel.points[number].double(), expected, atol=1e-3, rtol=0)
        found = middle_of_dot(reel.image[number], sampled(wall(), Square(*corner(box)), 100), DOT)
        assert (found - expected[BODY_17.index("neck")]).abs().max() < 0.5
    torch.testing.assert_close(reel.joints, torch.stack([torch.from_numpy(pose(number)) for number in range(9)]))
    torch.testing.assert_close(reel.seconds, torch.arange(9, dtype=torch.float64) / 10)
    assert reel.labelled.all()
    assert reel.mean_pose().shape == (17, 3)


def corner(box: tuple[float, ...]) -> tuple[float, float, float]:
    """Left, top and side of a square given as half extents and middle."""
    return 64 * (1 + box[2] - box[0]), 48 * (1 + box[3] - box[1]), 128 * box[0]


def test_a_sequence_has_its_median_for_background(tmp_path: Path) -> None:
    """The dot goes on by 6 pixels and never comes back: the median is the wall."""
    samples = photographs(tmp_path, 9)
    reel = Reel.from_samples(samples, BODY_17, 100, rate=30)
    for number in range(9):
        edges = projected(pose(number)) + 0.5
        truth = sampled(wall(), square_round((*edges.min(0), *edges.max(0)), JOINTS_MARGIN), 100)
        assert (reel.background[number] - truth).abs().max() <= 1.0


def test_whether_a_camera_stands_still_is_told_by_its_place_or_by_the_caller(tmp_path: Path) -> None:
    samples = photographs(tmp_path, 6)
    carried = [changed(sample, translation=np.full(3, 0.01 * n)) for n, sample in enumerate(samples)]
    untold = [changed(sample, rotation=None) for sample in samples]

    def moving(some: list[Sample], still: bool | None = None) -> bool:
        reel = Reel.from_samples(some, BODY_17, 20, rate=30, still=still)
        assert bool(reel.background.any()) != bool(reel.moving.any())
        return bool(reel.moving.all())

    assert not moving(samples)
    assert moving(carried)
    assert moving(untold)
    assert not moving(untold, still=True)
    assert moving(samples, still=False)
    assert moving(samples[:4])  # too few for a median


def test_subjects_views_and_actions_are_clips_whatever_order_they_come_in(tmp_path: Path) -> None:
    first = photographs(tmp_path, 3)
    second = [changed(sample, view="side") for sample in first]
    third = [changed(sample, subject="S2", action="sit") for sample in first]
    fourth = [changed(sample, subject="") for sample in first]
    mixed = [sample for four in zip(first, second, third, fourth, strict=True) for sample in reversed(four)]
    reel = Reel.from_samples(reversed(mixed), BODY_17, 16, rate=15)
    assert reel.clip.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert reel.action == ("walk", "walk", "sit", "walk")
    assert reel.actions(torch.tensor([11, 0, 7])) == ("walk", "walk", "sit")
    assert reel.identity.tolist() == [0] * 6 + [1] * 3 + [-1] * 3
    assert reel.seconds.tolist() == pytest.approx([0, 0.2, 0.4] * 4)


def test_the_rate_is_the_protocols_or_must_be_given(tmp_path: Path) -> None:
    samples = photographs(tmp_path, 3)

    def read() -> Iterator[Sample]:
        yield from samples

    def stream(rate: float | None) -> Samples:
        protocol = Protocol("Synthetic", BODY_17, ("S1",), (), (), rate, None, None, (), "it", "it")
        return Samples(protocol, [Part(tmp_path, read)])

    assert Reel.from_samples(stream(6.0), BODY_17, 16).seconds.tolist() == pytest.approx([0, 0.5, 1.0])
    assert Reel.from_samples(stream(6.0), BODY_17, 16, rate=3).seconds.tolist() == pytest.approx([0, 1, 2])
    for lacking in (stream(None), samples):
        with pytest.raises(ValueError, match="rate must be given: Synthetic has no one rate"):
            Reel.from_samples(lacking, BODY_17, 16)
    assert Reel.from_samples(samples[2:], BODY_17, 16).seconds.tolist() == [0]  # a single image needs none


def test_joints_are_converted_and_those_that_the_source_lacks_are_named(tmp_path: Path) -> None:
    sample = photographs(tmp_path, 1)[0]
    joints = pose(0, COCO_17)
    known = np.array([joint != "left_hip" for joint in COCO_17.joints])
    spoilt = np.where(known[:, None], joints, 0)
    with pytest.raises(ValueError, match=r"Synthetic \(H36M_17\) has no left_foot, right_foot, which BODY_17 needs"):
        Reel.from_samples([changed(sample, skeleton=H36M_17)], BODY_17, 16)
    smpl = changed(sample, skeleton=SMPL_24, joints=pose(0, SMPL_24), points=None)
    with pytest.raises(ValueError, match=r"\(SMPL_24\) has no spine, nose, head_top, which H36M_17 needs"):
        Reel.from_samples([smpl], H36M_17, 16)
    body = changed(sample, skeleton=COCO_17, joints=spoilt, points=None, known=known)
    reel = Reel.from_samples([body], H36M_17, 16, missing="zeros")
    unknown = {joint for joint, there in zip(H36M_17.joints, reel.known[0].tolist(), strict=True) if not there}
    # COCO has no spine and no head; the pelvis is the middle of two hips, of which one is not known.
    assert unknown == {"pelvis", "left_hip", "spine", "head_top"}
    assert not reel.joints[0][~reel.known[0]].any()
    assert not reel.points[0][~reel.known[0]].any()
    assert not reel.labelled.any()
    ends = [COCO_17.index(f"{side}_shoulder") for side in ("left", "right")]
    neck = torch.from_numpy(joints[ends].mean(0))
    torch.testing.assert_close(reel.joints[0, H36M_17.index("neck")], neck)
    with pytest.raises(ValueError, match="missing must be error or zeros"):
        Reel.from_samples([body], H36M_17, 16, missing="nan")


def test_what_a_reel_cannot_do_without_is_one_clear_error(tmp_path: Path) -> None:
    (sample,) = photographs(tmp_path, 1)

    def refused(error: type[Exception], message: str, **changes: object) -> None:
        with pytest.raises(error, match=message):
            Reel.from_samples([changed(sample, **changes)], BODY_17, 16)

    refused(ValueError, "Synthetic: frame 0 of walk 1 has no image; a reel needs both", image=None)
    refused(ValueError, "frame 0 of walk 1 has no 3D joints; a reel needs both", joints=None)
    refused(ValueError, "has neither 2D points nor a camera to project its joints", points=None, camera=None)
    refused(ValueError, "frame 0 of walk 1: a box must have a size", box=(5.0, 5.0, 5.0, 5.0))
    refused(ValueError, "has no box and no known joint to cut round", known=np.zeros(17, bool))
    refused(FileNotFoundError, r"none\.png: no such image", image=FrameReference(tmp_path / "none.png"))
    half = PerspectiveCamera(100.0, None, (48, 64))
    refused(MotionFileError, r"0\.png: the image must be \(48, 64\) as its camera says, got \(96, 128\)", camera=half)
    refused(MotionFileError, r"0\.png: a square of .* pixels is too large", box=(0.0, 0.0, 1e8, 1e8))
    with pytest.raises(ValueError, match="size must be at least 1 pixel, got 0"):
        Reel.from_samples([sample], BODY_17, 0)
    with pytest.raises(ValueError, match="rate must be positive, got 0"):
        Reel.from_samples([sample], BODY_17, 16, rate=0)
    with pytest.raises(ValueError, match="samples must be at least one, got none"):
        Reel.from_samples([], BODY_17, 16)


def test_frames_of_a_video_are_found_by_their_numbers_in_one_pass(folder: Path, tmp_path: Path) -> None:
    """The white square is where `place` says, whichever frames are asked for."""
    path = folder / "a.mp4"
    Pillow.fromarray(wall()).save(tmp_path / "a.png")
    numbers = [17, 18, 18, 40, 119]
    references = [FrameReference(path, number) for number in numbers]
    images = list(read_images([*references, FrameReference(tmp_path / "a.png"), FrameReference(path, 0)]))
    assert np.array_equal(images[5], wall())
    for number, image in zip((*numbers, 0), (*images[:5], images[6]), strict=True):
        y, x = (axis.mean() for axis in np.nonzero(image.min(-1) > 200))
        left, top = place(number)
        assert (x, y) == pytest.approx((left + (SIDE - 1) / 2, top + (SIDE - 1) / 2), abs=0.3)
    for wrong in ([130], [5, 130]):
        with pytest.raises(MotionFileError, match=r"a\.mp4: has frames 0 to 119, got 130"):
            list(read_images([FrameReference(path, number) for number in wrong]))


def test_samples_may_be_frames_of_a_video(folder: Path, tmp_path: Path) -> None:
    """The middle of the white square is a joint: it is found there, before the wall that is the median."""
    samples = []
    for number in range(0, 100, 4):
        joints = pose(0)
        left, top = place(number)
        middle = np.array([left + (SIDE - 1) / 2, top + (SIDE - 1) / 2])
        joints[0] = np.append((middle - CAMERA.center) / CAMERA.focal, 1) * 4.0  # type: ignore[operator]
        samples.append(
            Sample(
                "Synthetic",
                "a",
                number,
                BODY_17,
                FrameReference(folder / "a.mp4", number),
                joints=joints,
                camera=CAMERA,
                box=(left - 6.0, top - 6.0, left + 30.0, top + 30.0),
            )
        )
    reel = Reel.from_samples(samples, BODY_17, 48, still=True)
    # The video knows its rate.
    torch.testing.assert_close(reel.seconds, 0.4 * torch.arange(25, dtype=torch.float64))
    for number in range(25):
        found = middle_of_dot(reel.image[number], reel.background[number].double(), WHITE)
        assert (found - reel.points[number, 0]).abs().max() < 0.5
        left, top = place(4 * number)
        truth = sampled(wall(), square_round((left - 6.0, top - 6.0, left + 30.0, top + 30.0)), 48)
        assert (reel.background[number] - truth).abs().mean() < 3


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
