"""Image files as arrays, whole and broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posegeom_models.data import files
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.images import read_frame, read_image
from posegeom_models.data.samples import FrameReference


def test_images_are_read_as_rgb_or_as_they_are_stored(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_frame(FrameReference(tmp_path / "a.png")), pixels)
    labels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    indexed = Image.fromarray(labels).convert("P")
    indexed.putpalette(list(np.random.default_rng(1).integers(0, 256, 768)))
    for name, image in (("l.png", Image.fromarray(labels)), ("p.png", indexed)):
        image.save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name, gray=True), labels)


def test_sixteen_bits_become_the_upper_eight(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 12).astype(np.uint16).reshape(3, 4)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), np.repeat(ramp[..., None] // 256, 3, axis=-1))


def test_broken_images_give_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(MotionFileError, match=r"a\.jpg: not a readable image"):
            read_image(path)
    with pytest.raises(FileNotFoundError, match="no such image"):
        read_image(tmp_path / "b.jpg")
    path.write_bytes(content)
    monkeypatch.setattr(files, "MAX_BYTES", 5000)
    with pytest.raises(MotionFileError, match=r"a\.jpg: the image unpacks to 12288 bytes, more than 5000"):
        read_image(path)
    deep = tmp_path / "deep.png"
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 20)
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(deep)
    with pytest.raises(MotionFileError, match=r"deep\.png: must hold values up to 255, got 3000"):
        read_image(deep, gray=True)
