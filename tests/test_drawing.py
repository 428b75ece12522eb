"""Drawings, measured in their pixels; videos, read back by the reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from posegeom import BODY_17, Skeleton
from posegeom_models.data.video import Video
from posegeom_models.drawing import (
    LEFT,
    PAPER,
    RIGHT,
    VideoWriter,
    draw_skeleton,
    draw_skeleton_3d,
    map_panel,
    reach_of,
    save_video,
    tile,
)

pytest.importorskip("PIL")

BONE = Skeleton("bone", ("left_a", "left_b"), (-1, 0), (0, 1))
CROSS = Skeleton("cross", ("root", "left_a", "left_b", "right_a", "right_b"), (-1, 0, 1, 0, 3), (0, 3, 4, 1, 2))


def rgb(color: str) -> np.ndarray:
    return np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)])


def shades(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Plain frames, each lighter than the one before."""
    return [np.full((*size, 3), 20 + 8 * number, np.uint8) for number in range(count)]


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (1, 1)])
def test_a_saved_video_is_read_back_frame_by_frame(tmp_path: Path, size: tuple[int, int]) -> None:
    pytest.importorskip("av")
    frames = shades(12, size)
    assert save_video(iter(frames), tmp_path / "a.mp4", 12.5) == 12
    with Video(tmp_path / "a.mp4") as video:
        read = list(video.frames())
        assert video.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        assert video.seconds == pytest.approx(12 / 12.5)
    assert [frame.seconds for frame in read] == pytest.approx([number / 12.5 for number in range(12)])
    for before, after in zip(frames, read, strict=True):
        assert np.abs(after.image.astype(int) - before[0, 0].astype(int)).max() <= 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_odd_sizes_repeat_the_last_row_and_column(tmp_path: Path) -> None:
    pytest.importorskip("av")
    frame = np.zeros((31, 31, 3), np.uint8)
    frame[-1] = 200
    save_video([frame], tmp_path / "a.mp4", 25)
    with Video(tmp_path / "a.mp4") as video:
        image = video.at(0.0).image
    assert image.shape == (32, 32, 3)
    assert image[-2:, :24].min() > 150
    assert image[:28].max() < 50


def test_frames_are_shown_when_they_are_told_to_be(tmp_path: Path) -> None:
    pytest.importorskip("av")
    times = [0.0, 0.04, 0.5, 0.51, 2.0]
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        for frame, seconds in zip(shades(5, (16, 16)), times, strict=True):
            writer.write(frame, seconds)
    with Video(tmp_path / "a.mp4") as video:
        assert [frame.seconds for frame in video.frames()] == pytest.approx(times)
        assert video.seconds == pytest.approx(2.04)


def test_the_first_bytes_say_where_the_frames_are(tmp_path: Path) -> None:
    pytest.importorskip("av")
    save_video(shades(3, (16, 16)), tmp_path / "a.mp4", 25)
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_after_an_error_nothing_is_left_and_what_was_there_stays(tmp_path: Path, error: type[BaseException]) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"earlier")

    def broken() -> Iterator[np.ndarray]:
        yield from shades(3, (16, 16))
        raise error

    with pytest.raises(error):
        save_video(broken(), tmp_path / "a.mp4", 25)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"earlier"


def test_a_video_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with pytest.raises(ValueError, match="needs at least one frame"):
        save_video([], tmp_path / "a.mp4", 25)
    with pytest.raises(ValueError, match="rate must be positive"):
        save_video(shades(1, (4, 4)), tmp_path / "a.mp4", 0)
    with pytest.raises(ValueError, match=r"one size, got \(4, 4\) and then \(4, 6\)"):
        save_video([*shades(1, (4, 4)), *shades(1, (4, 6))], tmp_path / "a.mp4", 25)
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8, got \(4, 4\) float64"):
        save_video([np.zeros((4, 4))], tmp_path / "a.mp4", 25)
    with VideoWriter(tmp_path / "b.mp4", 25) as writer:
        writer.write(shades(1, (4, 4))[0], 0.5)
        with pytest.raises(ValueError, match="order of time"):
            writer.write(shades(1, (4, 4))[0], 0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["b.mp4"]


def test_a_bone_lies_about_the_middle_of_its_ends_and_changes_nothing_else() -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (80, 100, 3), dtype=np.uint8)
    before = picture.copy()
    drawn = draw_skeleton(picture, np.array([[20.0, 40.0], [60.0, 40.0]]), BONE, width=4)
    assert (picture == before).all()
    rows, columns = np.nonzero((drawn != before).any(-1))
    assert rows.mean() == pytest.approx(40, abs=0.2)
    assert columns.mean() == pytest.approx(40, abs=0.2)
    # Half of 4 pixels, an edge of 1, and what a pixel reaches beyond its centre.
    assert rows.min() >= 40 - 4
    assert rows.max() <= 40 + 4
    assert columns.min() >= 20 - 4
    assert columns.max() <= 60 + 4
    assert (drawn[40, 25:55] == rgb(LEFT)).all()
    assert drawn[37, 40].max() < 80


def test_a_bone_outside_or_without_an_end_is_left_out() -> None:
    picture = np.full((20, 30, 3), 99, np.uint8)
    for points in ([[-50, -50], [-9, -9]], [[np.nan, 3], [5, 5]], [[np.nan, 3], [np.inf, 5]]):
        assert (draw_skeleton(picture, np.array(points, float), BONE) == 99).all()
    crossing = draw_skeleton(picture, np.array([[-1e9, 10.0], [1e9, 10.0]]), BONE, width=2)
    assert (crossing[10] == rgb(LEFT)).all()
    assert (crossing[:5] == 99).all()


def test_the_side_view_shows_what_is_farther_from_the_camera_on_its_right() -> None:
    joints = np.array([[0.0, 0, 0], [0, 0, 1]])
    front, beside = (draw_skeleton_3d(joints, BONE, 101, azimuth, reach=1.25) for azimuth in (0.0, 90.0))
    assert (front[50, 50] == rgb(LEFT)).all()
    assert (front[50, 60:] == PAPER).all()
    # One metre is 0.8 of the way from the middle to the edge.
    assert (beside[50, 52:90] == rgb(LEFT)).all()
    assert (beside[50, 97:] == PAPER).all()
    assert (beside[50, :45] == PAPER).all()
    up = draw_skeleton_3d(np.array([[0.0, 0, 0], [0, -1, 0]]), BONE, 101, 30.0, reach=1.25)
    assert (up[12:49, 50] == rgb(LEFT)).all()


@pytest.mark.parametrize(("depth", "color"), [(0.3, LEFT), (-0.3, RIGHT)])
def test_what_is_nearer_covers_what_is_farther(depth: float, color: str) -> None:
    # The left bone lies across at depth 0, the right one upright before or behind it.
    joints = np.array([[0.0, 0.9, 0], [-0.8, 0, 0], [0.8, 0, 0], [0, -0.8, depth], [0, 0.8, depth]])
    picture = draw_skeleton_3d(joints, CROSS, 101, reach=1.0)
    assert (picture[50, 50] == rgb(color)).all()


def test_the_reach_is_the_longest_way_from_the_root() -> None:
    joints = np.random.default_rng(1).normal(size=(7, 17, 3))
    lengths = np.array(BODY_17.lengths)
    for number, (parent, child) in enumerate(BODY_17.bones):
        bone = joints[:, child] - joints[:, parent]
        bone *= lengths[number] / np.linalg.norm(bone, axis=-1, keepdims=True)
        joints[:, child] = joints[:, parent] + bone
    arm, leg = 0.490 + 0.151 + 0.277 + 0.248, 0.1337 + 0.443 + 0.443 + 0.134
    assert reach_of(joints, BODY_17) == pytest.approx(1.06 * max(arm, leg))
    assert np.linalg.norm(joints - joints[:, :1], axis=-1).max() < reach_of(joints, BODY_17)
    assert reach_of(np.zeros((17, 3)), BODY_17) == 1.0


def test_a_tile_holds_its_pictures_in_order() -> None:
    pictures = [np.full((4, 6, 3), number, np.uint8) for number in (50, 100, 150)]
    grid = tile(pictures, columns=2, gap=1)
    assert grid.shape == (11, 15, 3)
    assert (grid[1:5, 1:7] == 50).all()
    assert (grid[1:5, 8:14] == 100).all()
    assert (grid[6:10, 1:7] == 150).all()
    assert grid[6:10, 8:14].max() < 40
    with pytest.raises(ValueError, match="at least one column"):
        tile([], 1)


def test_maps_are_lighter_where_they_are_greater() -> None:
    ramp = np.linspace(0, 1, 32)[None, None].repeat(32, 1).repeat(2, 0) * np.array([1, 0.5])[:, None, None]
    panel = map_panel(ramp, ["whole", "half"], side=32).astype(float).mean(-1)
    whole, half = panel[10, 4:36], panel[10, 40:72]
    assert (np.diff(whole) > 0).all()
    assert whole[-1] > 240
    assert half[-1] == pytest.approx(whole[15:17].mean(), abs=2)
    with pytest.raises(ValueError, match="C names, got"):
        map_panel(ramp, ["one"])
