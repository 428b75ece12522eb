"""BVH files against rotations by SciPy, and broken ones."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posegeom_models.data import files
from posegeom_models.data.bvh import CMU_UNIT, read_bvh
from posegeom_models.data.files import MotionFileError

BVH = """HIERARCHY
ROOT hips
{
  OFFSET 5 6 7
  CHANNELS 6 Yposition Xposition Zposition Yrotation Zrotation Xrotation
  JOINT knee
  {
    OFFSET 0 -0.5 0
    CHANNELS 4 Xrotation Zrotation Yrotation Xposition
    End Site
    {
      OFFSET 0 -0.4 0.1
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.02
1 2 3 10 20 30 -40 5 6 0.25
1.5 2 3 0 0 0 0 0 0 0
"""


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def to_y_up(positions: np.ndarray) -> np.ndarray:
    x, y, z = np.moveaxis(positions, -1, 0)
    return np.stack([x, z, -y], axis=-1)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_channels_in_any_order_on_any_joint(tmp_path: Path, ending: str) -> None:
    motion = read_bvh(write(tmp_path / "a.bvh", BVH.replace("\n", ending)), scale=2)
    root = Rotation.from_euler("YZX", [10, 20, 30], degrees=True)
    knee = root * Rotation.from_euler("XZY", [-40, 5, 6], degrees=True)
    hips = np.array([2.0, 1, 3])  # the channels replace the OFFSET
    at_knee = hips + root.apply([0.25, -0.5, 0])
    want = 2 * np.stack([hips, at_knee, at_knee + knee.apply([0, -0.4, 0.1])])
    assert motion.joints == ("hips", "knee", "knee_end")
    assert motion.frame_rate == 50
    np.testing.assert_allclose(to_y_up(motion.positions[0]), want, atol=1e-12)
    assert motion.rotations is not None
    np.testing.assert_allclose(to_y_up(motion.rotations[0, 1].T), knee.as_matrix().T, atol=1e-12)


@pytest.mark.parametrize(("size", "unit"), [(1, 1), (100, 0.01), (1000, 0.001), (17.7, CMU_UNIT)])
def test_the_unit_is_told_from_the_size(tmp_path: Path, size: float, unit: float) -> None:
    text = BVH.replace("OFFSET 0 -0.5 0", f"OFFSET 0 {-size} 0").replace("0.25\n", "0\n")
    with_joint = read_bvh(
        write(
            tmp_path / "a.bvh",
            text.replace(" 4 Xr", " 3 Xr")
            .replace(" Xposition\n    E", "\n    E")
            .replace(" 6 0\n", " 6\n")
            .replace("0 0 0 0 0 0 0\n", "0 0 0 0 0 0\n"),
        )
    )
    bone = np.linalg.norm(with_joint.positions[0, 1] - with_joint.positions[0, 0])
    assert bone == pytest.approx(size * unit)


BROKEN_BVH = {
    "empty": ("", r"a\.bvh: the file is empty"),
    "blank": ("\n\n  \n", r"a\.bvh: the file is empty"),
    "binary": (b"\x7fELF\0\0\1\2" * 99, r"a\.bvh: not a text file"),
    "not a BVH": ("a poem\n", r"a\.bvh:1: a BVH file starts with HIERARCHY, got 'a'"),
    "random": (bytes(range(128, 256)) * 9, r"a\.bvh:1: a BVH file starts with HIERARCHY"),
    "truncated hierarchy": (BVH[:130], r"a\.bvh:7: the file ends inside the hierarchy \(truncated\)"),
    "MOTION too early": (BVH.replace("}\nMOTION", "MOTION"), r"a\.bvh:15: MOTION starts before .*'hips'"),
    "no motion": (BVH[: BVH.index("MOTION")], r"a\.bvh:15: the file ends inside the hierarchy"),
    "no frames": (BVH[: BVH.index("Frames")], r"a\.bvh:16: expected 'Frames: NUMBER'"),
    "no frame time": (BVH[: BVH.index("Frame T")], r"a\.bvh:17: expected 'Frame Time: NUMBER'"),
    "zero frames": (BVH.replace("Frames: 2", "Frames: 0"), r"a\.bvh:17: Frames must be positive, got 0"),
    "half a frame": (BVH.replace("Frames: 2", "Frames: 1.5"), r"a\.bvh:17: Frames must be positive"),
    "frame time 0": (BVH.replace("0.02", "0"), r"a\.bvh:18: Frame Time must be positive, got 0"),
    "frame time nan": (BVH.replace("0.02", "nan"), r"a\.bvh:18: Frame Time must hold finite numbers"),
    "frame time tiny": (BVH.replace("0.02", "5e-324"), r"a\.bvh: frame_rate must be positive, got inf"),
    "too few lines": (BVH.replace(": 2", ": 3"), r"a\.bvh:20: the file declares 3 frames but holds 2"),
    "too many lines": (BVH.replace(": 2", ": 1"), r"a\.bvh:20: the file declares 1 frames but holds 2"),
    "bomb": (BVH.replace(": 2", ": 99999999999999"), r"a\.bvh:20: the file declares 99999999999999 frames"),
    "a value missing": (BVH.replace("1.5 2 ", "1.5 "), r"a\.bvh:20: a motion line must have 10 values, got 9"),
    "a value more": (BVH.replace("1 2 3", "1 2 3 4"), r"a\.bvh:19: a motion line must have 10 values, got 11"),
    "NaN": (BVH.replace("10 20", "nan 20"), r"a\.bvh:19: a motion line must hold finite numbers, got 'nan'"),
    "infinity": (BVH.replace("10 20", "-inf 20"), r"a\.bvh:19: .* finite numbers, got '-inf'"),
    "overflow": (BVH.replace("10 20", "1e999 20"), r"a\.bvh:19: .* finite numbers, got '1e999'"),
    "too large": (
        BVH.replace("1.5 2 3", "1e308 2 3").replace("0 -0.5 0", "0 1e308 0"),
        r"a\.bvh: positions must be finite, got knee of frame 1 NaN or infinite",
    ),
    "a word": (BVH.replace("10 20", "__import__('os') 20"), r"a\.bvh:19: .* must hold numbers, got \"__import__"),
    "offset": (BVH.replace("0 -0.5 0", "0 -0.5"), r"a\.bvh:8: OFFSET must have 3 values, got 2"),
    "no offset": (BVH.replace("    OFFSET 0 -0.5 0\n", ""), r"a\.bvh:13: joint 'knee' has no OFFSET"),
    "channel count": (BVH.replace("CHANNELS 4", "CHANNELS 3"), r"a\.bvh:9: CHANNELS of 'knee' must be a count"),
    "channel name": (BVH.replace("Yrotation X", "Wrotation X"), r"a\.bvh:9: CHANNELS of 'knee' must be different"),
    "brace": (BVH.replace("}\nMOTION", "}\n}\nMOTION"), r"a\.bvh:16: '\}' without its '\{'"),
    "no name": (BVH.replace("JOINT knee", "JOINT"), r"a\.bvh:6: JOINT without a name"),
    "two roots": (BVH.replace("JOINT", "ROOT"), r"a\.bvh:6: a BVH file has one ROOT"),
    "one name twice": (BVH.replace("knee", "hips"), r"a\.bvh: joint names must differ, got 'hips'"),
}


@pytest.mark.parametrize("case", BROKEN_BVH)
def test_a_broken_bvh_gives_one_clear_error(tmp_path: Path, case: str) -> None:
    content, message = BROKEN_BVH[case]
    path = write(tmp_path / "a.bvh", content)
    with pytest.raises(MotionFileError, match=message) as caught:
        read_bvh(path, scale=1)
    assert str(caught.value).startswith(str(path))
    assert caught.value.__cause__ is None


def test_every_truncation_of_a_bvh_is_an_error(tmp_path: Path) -> None:
    # Up to the last value's digits, which a reader cannot miss.
    for length in range(len(BVH) - 2):
        with pytest.raises(MotionFileError):
            read_bvh(write(tmp_path / "a.bvh", BVH[:length]), scale=1)


def test_an_unknown_unit_asks_for_the_scale(tmp_path: Path) -> None:
    with pytest.raises(MotionFileError, match=r"cannot tell the unit: .* 5 units.*pass scale="):
        read_bvh(write(tmp_path / "a.bvh", BVH.replace("-0.5", "-5")))


def test_joints_without_channels_cannot_exhaust_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.bvh", BVH)
    monkeypatch.setattr(files, "MAX_BYTES", len(BVH))
    with pytest.raises(MotionFileError, match=f"2 frames of 3 joints need 576 bytes, more than {len(BVH)}"):
        read_bvh(path, scale=1)
    monkeypatch.setattr(files, "MAX_BYTES", len(BVH) - 1)
    with pytest.raises(MotionFileError, match=f"the file has {len(BVH)} bytes, more than"):
        read_bvh(path, scale=1)


def test_reading_two_megabytes_takes_about_a_second(motion_data: Path) -> None:
    start = time.process_time()
    read_bvh(motion_data / "raw/01_01.bvh")
    assert time.process_time() - start < 2
