"""Clips, the split by background motion, and medians, on films of a square that walks before a known wall."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from posegeom_models.data.files import MotionFileError
from posegeom_models.data.footage import (
    STILL,
    Clip,
    background_motion,
    cut_clips,
    halves_background,
    median_background,
    split_footage,
)

av = pytest.importorskip("av")

SIZE = (72, 96)
RATE = 10


def wall(shift: int = 0) -> np.ndarray:
    """A smooth pattern, wider than the picture; panned by `shift` pixels."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    x = x + shift
    waves = [np.sin(x / 7) + np.cos(y / 9), np.sin((x + y) / 11), np.cos(x / 13) - np.sin(y / 6)]
    return (127 + 45 * np.stack(waves, -1)).clip(0, 255).astype(np.uint8)


def film(path: Path, seconds: float, pan: float = 0.0) -> Path:
    """A red square of 15 % of the picture that walks to and fro; the camera pans by `pan` pixels a frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"crf": "18", "preset": "ultrafast"}
        for number in range(round(seconds * RATE)):
            image = wall(round(pan * number))
            left = round(31 + 31 * np.sin(number / 6))
            image[20:52, left : left + 32] = (230, 10, 10)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("footage") / "still.mp4", 12)


@pytest.mark.parametrize(
    ("seconds", "length", "edges"),
    [
        (12, 10, [0, 6, 12]),
        (12, 12, [0, 12]),
        (12, 5, [0, 6, 12]),  # not three of 4 s, which would be too short
        (12, 6, [0, 6, 12]),
        (4, 10, []),
    ],
)
def test_videos_are_cut_into_equal_clips(tmp_path: Path, seconds: float, length: float, edges: list[float]) -> None:
    path = film(tmp_path / "a.mp4", seconds)
    clips = cut_clips(path, length)
    assert [clip.start for clip in clips] == pytest.approx(edges[:-1])
    assert [clip.end for clip in clips] == pytest.approx(edges[1:])
    with pytest.raises(ValueError, match="shortest must be positive and at most length"):
        cut_clips(path, 4)


def test_a_pan_is_told_from_a_person_who_walks(tmp_path: Path, still: Path) -> None:
    pans = [film(tmp_path / f"{pan}.mp4", 6, pan) for pan in (0.5, 2.0)]
    quiet = background_motion(Clip(still, 0, 6))
    moving = [background_motion(Clip(path, 0, 6)) for path in pans]
    assert quiet < STILL / 2
    assert min(moving) > 2 * STILL
    # With every pixel counted, the person alone would be taken for motion of the background.
    assert background_motion(Clip(still, 0, 6), share=1.0) > STILL
    with pytest.raises(ValueError, match="frames must be at least 2"):
        background_motion(Clip(still, 0, 6), frames=1)


def lossless(path: Path, images: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "bgr0"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    return path


def test_motion_is_the_root_mean_square_of_the_smallest_differences(tmp_path: Path) -> None:
    """Two grey levels, by hand: lossless, the left half of the picture brightens from 0.2 to 0.6 of white."""
    images = np.full((60, *SIZE, 3), 51, np.uint8)
    images[30:, :, :48] = 153
    path = lossless(tmp_path / "a.mkv", images)
    half = 0.4 * np.sqrt(0.5)
    assert background_motion(Clip(path, 0, 6), frames=2, share=1.0) == pytest.approx(half, abs=2e-3)
    assert background_motion(Clip(path, 0, 6), frames=2, share=0.75) == pytest.approx(0.4 * np.sqrt(1 / 3), abs=2e-2)
    assert background_motion(Clip(path, 0, 6), frames=2, share=0.4) == 0


def test_footage_is_split_and_broken_videos_are_counted(tmp_path: Path, still: Path) -> None:
    pan = film(tmp_path / "pan.mp4", 6, 2.0)
    broken = tmp_path / "broken.mp4"
    broken.write_text("this is no video")
    with pytest.raises(MotionFileError, match=r"broken\.mp4: not a video"):
        split_footage([still, broken, pan])
    with pytest.warns(UserWarning, match=r"1 of 3 videos skipped: .*broken\.mp4"):
        split = split_footage([still, broken, pan], skip_broken=True)
    assert [clip.path for clip in split.paired] == [still, still]
    assert [clip.path for clip in split.unpaired] == [pan]
    assert len(split.skipped) == 1


def test_a_dives_background_is_of_the_first_frames_bottom_and_the_last_ones_top(tmp_path: Path) -> None:
    path = lossless(tmp_path / "a.mkv", np.full((40, *SIZE, 3), np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)))
    # The clip is of the frames 10 to 29.
    background = halves_background(Clip(path, 10 / RATE, 30 / RATE))
    half = SIZE[0] // 2
    assert (background[:half] == 29).all()
    assert (background[half:] == 10).all()


def test_the_median_is_the_wall_without_the_person(still: Path) -> None:
    background = median_background(Clip(still, 0, 12))
    assert background.dtype == np.uint8
    assert np.abs(background.astype(int) - wall()).mean() < 6  # the coding's loss
    one = median_background(Clip(still, 0, 12), frames=1)
    assert np.abs(one.astype(int) - wall()).mean() > 10  # the person stands in it
    with pytest.raises(ValueError, match="frames must be odd, got 4"):
        median_background(Clip(still, 0, 12), frames=4)
