"""Reels of data sets' samples: crops, backgrounds, clips, joints and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor

from posegeom import BODY_17, COCO_17, H36M_17, SMPL_24, PerspectiveCamera, Skeleton, project
from posegeom_models.data.cropping import (
    JOINTS_MARGIN,
    MARGIN,
    Square,
    read_images,
    square_round,
)
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.reels import Reel
from posegeom_models.data.samples import FrameReference, Part, Protocol, Sample, Samples
from tests.test_reels import RATE, SIDE, SIZE, WHITE, film, place, sampled, wall

CAMERA = PerspectiveCamera((210.0, 200.0), (71.0, 44.0), SIZE)

DOT = np.array([250.0, 250.0, 20.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    film(folder / "a.mp4", 12)
    return folder


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
