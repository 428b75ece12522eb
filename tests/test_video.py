"""Videos that the test encodes: every frame's number is drawn into its pixels, so that each one can be told."""

from __future__ import annotations

import contextlib
import itertools
import struct
import tracemalloc
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from posegeom_models.data import files
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.images import read_frame
from posegeom_models.data.samples import FrameReference
from posegeom_models.data.video import Video, list_videos

av = pytest.importorskip("av")

RATE = 25
BITS = 8


def numbered(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A picture whose columns of blocks are the bits of a number; the top row of pixels is red, the bottom blue."""
    height, width = size
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 200 + 20, width // BITS)
    image = np.repeat(np.broadcast_to(np.pad(row, (0, width - len(row))), (height, width))[..., None], 3, -1)
    image[: height // 4] = (220, 20, 20)
    image[-height // 4 :] = (20, 20, 220)
    return image


def number_of(image: np.ndarray) -> int:
    height, width = image.shape[:2]
    block = width // BITS
    middle = image[height // 2].mean(-1)
    return sum(int(middle[bit * block + block // 2] > 120) << bit for bit in range(BITS))


def encode(
    path: Path, count: int = 100, size: tuple[int, int] = (48, 64), codec: str = "libx264",
    times: list[int] | None = None, options: dict[str, str] | None = None, pixels: str = "yuv420p", sound: float = 0,
    preset: str = "ultrafast",
) -> Path:  # fmt: skip
    """`times` in thousandths of a second, else RATE frames per second."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        if codec == "libx264":
            stream.options = {"crf": "12", "g": "20", "preset": preset}
        audio = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(number, size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        if count == 0:
            container.start_encoding()
        container.mux(stream.encode())
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, int(8000 * sound)), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 8000, 0
            container.mux(audio.encode(silence))
            container.mux(audio.encode())
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("video") / "a.mp4")


def test_every_frame_comes_once_and_in_order(clip: Path) -> None:
    with Video(clip) as video:
        assert video.size == (48, 64)
        assert (video.rate, video.seconds) == (RATE, 4.0)
        frames = list(video.frames())
    assert [number_of(frame.image) for frame in frames] == list(range(100))
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(100) / RATE, atol=1e-6)
    assert frames[0].image.shape == (48, 64, 3)
    assert frames[0].image.dtype == np.uint8
    np.testing.assert_allclose(frames[0].image[3, 32], (220, 20, 20), atol=12)


def test_stretches_and_rates(clip: Path) -> None:
    video = Video(clip)
    assert [number_of(frame.image) for frame in video.frames(1.0, 1.2)] == [25, 26, 27, 28, 29]
    assert [number_of(frame.image) for frame in video.frames(2.99, rate=5)] == [75, 80, 85, 90, 95]
    assert [number_of(frame.image) for frame in video.frames(rate=1000)] == list(range(100))
    assert list(video.frames(9.0)) == []
    with pytest.raises(ValueError, match="rate must be positive"):
        next(video.frames(rate=0))


@pytest.mark.parametrize("preset", ["ultrafast", "fast"])  # without and with frames that are coded out of order
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov", ".ts"])
def test_any_moment_and_any_number_is_found_by_seeking(tmp_path: Path, suffix: str, preset: str) -> None:
    with Video(encode(tmp_path / f"a{suffix}", preset=preset)) as video:
        frames = list(video.frames())
        assert [number_of(frame.image) for frame in frames] == list(range(100))
        np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(100) / RATE, atol=2e-3)
        for number in (0, 99, 37, 38, 3, 60, 59):
            assert number_of(video.frame(number).image) == number
            assert number_of(video.at((number + 0.5) / RATE).image) == number
            assert video.number_at((number + 0.5) / RATE) == number
        assert number_of(video.at(1e9).image) == 99
        assert number_of(video.at(-1).image) == 0
        with pytest.raises(IndexError, match="has frames 0 to 99, got 100"):
            video.frame(100)
        moments = [0.0, 0.01, 0.05, 1.0, 3.99]
        assert [number_of(frame.image) for frame in video.at_each(moments)] == [0, 0, 1, 25, 99]


def test_a_variable_frame_rate_keeps_its_own_times(tmp_path: Path) -> None:
    gaps = np.random.default_rng(0).choice([20, 40, 100, 900], 30)
    times = [0, *np.cumsum(gaps).tolist()][:30]
    path = encode(tmp_path / "a.mkv", 30, times=times)
    with Video(path) as video:
        frames = list(video.frames())
        assert [number_of(frame.image) for frame in frames] == list(range(30))
        np.testing.assert_allclose([frame.seconds for frame in frames], np.array(times) / 1000, atol=2e-3)
        for number, (begin, end) in enumerate(itertools.pairwise(times)):
            assert number_of(video.at((begin + end) / 2000).image) == number
            assert number_of(video.frame(number).image) == number


def test_odd_sizes(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", 5, (37, 67), "libx264", pixels="yuv444p")
    with Video(path) as video:
        assert video.size == (37, 67)
        assert [number_of(frame.image) for frame in video.frames()] == list(range(5))


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a rotation into the track header of an .mp4, as phones do."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4
    start = at + (52 if content[at] == 1 else 40)
    a, b, c, d = (value * 65536 for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("matrix", "size", "red"),
    [
        ((0, 1, -1, 0), (64, 48), (slice(20, 40), slice(-6, -2))),  # a quarter clockwise: the top comes to the right
        ((0, -1, 1, 0), (64, 48), (slice(20, 40), slice(2, 6))),
        ((-1, 0, 0, -1), (48, 64), (slice(-6, -2), slice(20, 40))),
    ],
)
def test_frames_come_upright(
    tmp_path: Path, matrix: tuple[int, int, int, int], size: tuple[int, int], red: tuple[slice, slice]
) -> None:
    with Video(turned(encode(tmp_path / "a.mp4", 5), matrix)) as video:
        image = video.at(0).image
        assert video.size == image.shape[:2] == size
        np.testing.assert_allclose(image[red].mean((0, 1)), (220, 20, 20), atol=12)


def test_sound_that_is_longer_than_the_picture_is_no_cut(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv"):
        with Video(encode(tmp_path / name, 25, sound=5)) as video:
            assert len(list(video.frames())) == 25
            assert video.seconds == pytest.approx(1.0, abs=0.1)


def cut(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


FAST = {"movflags": "faststart"}


@pytest.mark.parametrize("name", ["a.mp4", "fast.mp4", "a.mkv", "a.avi"])
def test_a_video_cut_in_half_is_refused_or_kept_until_the_cut(tmp_path: Path, name: str) -> None:
    path = cut(encode(tmp_path / name, 200, options=FAST if name == "fast.mp4" else None))
    with pytest.raises(MotionFileError, match=r"cut off") as caught:
        Video(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    if name == "a.mp4":  # its index was at the end
        with pytest.raises(MotionFileError, match="cut off"):
            Video(path, keep_cut=True)
        return
    with Video(path, keep_cut=True) as video:
        numbers = [number_of(frame.image) for frame in video.frames()]
    assert 60 < len(numbers) < 140
    assert numbers[:-2] == list(range(len(numbers) - 2))


def test_what_is_no_video_gives_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str, content: bytes, message: str) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(MotionFileError, match=message) as caught:
            Video(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)

    refused("text.mp4", b"this is no video\n" * 100, "not a video that can be decoded")
    refused("empty.mp4", b"", "not a video that can be decoded")
    refused("noise.mp4", np.random.default_rng(0).bytes(5000), "not a video that can be decoded")
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    refused("sound.mp4", (tmp_path / "a.wav").read_bytes(), "not a video that can be decoded|holds no video")
    with av.open(str(tmp_path / "b.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux(audio.encode(silence))
        container.mux(audio.encode())
    refused("only.mp4", (tmp_path / "b.mp4").read_bytes(), r"holds no video \(audio only\)")
    for name in ("none.mp4", "none.mkv", "none.avi"):
        refused(name, encode(tmp_path / f"c{name[4:]}", 0).read_bytes(), "holds no |not a video that can be decoded")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4: no such video"):
        Video(tmp_path / "nowhere.mp4")
    large = encode(tmp_path / "large.mp4", 2)
    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    with pytest.raises(MotionFileError, match=r"large\.mp4: each frame has 9216 bytes, more than 1000"):
        Video(large)


def test_lists_that_name_other_files_are_never_followed(tmp_path: Path, clip: Path) -> None:
    """FFmpeg opens playlists whatever their suffix is; these would decode the clip, or fetch an address."""
    for name, text in (
        ("concat.mp4", f"ffconcat version 1.0\nfile '{clip}'\n"),
        ("list.mp4", f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{clip}\n#EXT-X-ENDLIST\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(MotionFileError, match="not a video that can be decoded"):
            Video(tmp_path / name)


def test_a_damaged_video_gives_no_other_error(tmp_path: Path, clip: Path) -> None:
    content = clip.read_bytes()
    random = np.random.default_rng(0)
    for number in range(30):
        damaged = bytearray(content)
        for at in random.integers(len(content), size=20):
            damaged[at] ^= 1 << random.integers(8)
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(damaged)
        with contextlib.suppress(MotionFileError), Video(path) as video:
            sum(1 for _ in video.frames())
            video.at(2.0)


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    peaks = []
    for count in (40, 240):
        path = encode(tmp_path / f"{count}.mp4", count, (96, 128))
        tracemalloc.start()
        with Video(path) as video:
            for _ in video.frames():
                pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 10 * 96 * 128 * 3


def test_folders(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no videos in this folder; put clips there"):
        list_videos(tmp_path)
    for name in ("b.MP4", "a.mkv", "notes.txt"):
        (tmp_path / name).write_bytes(clip.read_bytes())
    assert [path.name for path in list_videos(tmp_path)] == ["a.mkv", "b.MP4"]
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list_videos(tmp_path / "none")


def test_a_sample_refers_to_a_frame_by_its_number(clip: Path) -> None:
    assert number_of(read_frame(FrameReference(clip, 42))) == 42
