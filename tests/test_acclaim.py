"""ASF and AMC files against rotations by SciPy, and broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from posegeom_models.data.acclaim import read_asf_amc
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.mocap import read_motion

ASF = """:version 1.10
:units
  mass 1.0
  length 0.0254
  angle deg
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
  orientation 0 0 0
:bonedata
  begin
    id 1
    name thigh
    direction 0 -1 0
    length 0.4
    axis 10 20 30 XYZ
    dof rx ry rz
    limits (-160.0 20.0)
           (-70.0 70.0)
           (-60.0 70.0)
  end
  begin
    id 2
    name shank
    direction 0 -0.8 0.6
    length 0.5
    axis 0 0 0 XYZ
    dof rx
    limits (-10.0 170.0)
  end
:hierarchy
  begin
    root thigh
    thigh shank
  end
"""

AMC = """:FULLY-SPECIFIED
:DEGREES
1
root 1 2 3 10 20 30
thigh 5 6 7
shank 40
2
root 1 2 3 0 0 0
thigh 0 0 0
shank 0
"""


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def to_y_up(positions: np.ndarray) -> np.ndarray:
    x, y, z = np.moveaxis(positions, -1, 0)
    return np.stack([x, z, -y], axis=-1)


def test_asf_amc_follows_its_definition(tmp_path: Path) -> None:
    motion = read_asf_amc(write(tmp_path / "a.asf", ASF), write(tmp_path / "a_1.amc", AMC))
    root = Rotation.from_euler("xyz", [10, 20, 30], degrees=True)
    axes = Rotation.from_euler("xyz", [10, 20, 30], degrees=True)
    thigh = root * axes * Rotation.from_euler("xyz", [5, 6, 7], degrees=True) * axes.inv()
    shank = thigh * Rotation.from_euler("x", 40, degrees=True)
    start = np.array([1.0, 2, 3])
    knee = start + thigh.apply([0, -0.4, 0])
    want = np.stack([start, knee, knee + shank.apply([0, -0.4, 0.3])])
    np.testing.assert_allclose(to_y_up(motion.positions[0]), want, atol=1e-12)
    assert (motion.joints, motion.parents, motion.frame_rate) == (("root", "thigh", "shank"), (-1, 0, 1), 120)
    found = read_motion(tmp_path / "a_1.amc", frame_rate=60)
    np.testing.assert_array_equal(found.positions, motion.positions)
    assert found.frame_rate == 60


BROKEN_ASF = {
    "empty": ("", r"a\.asf: the file is empty"),
    "binary": (b"\0\1\2", r"a\.asf: not a text file"),
    "not an ASF": ("HIERARCHY\n", r"a\.asf:1: an ASF file starts with a section"),
    "truncated": (ASF[: ASF.index("id 2")], r"a\.asf:\d+: the file has no ':hierarchy' section \(truncated"),
    "cut hierarchy": (ASF.replace("    thigh shank\n", ""), r"a\.asf:\d+: the hierarchy does not reach bone 'shank'"),
    "unknown bone": (ASF.replace("thigh shank", "thigh toe"), r"a\.asf:\d+: the hierarchy names 'toe'"),
    "two parents": (ASF.replace("root thigh", "root thigh shank"), r"a\.asf:\d+: bone 'shank' has two parents"),
    "no length": (ASF.replace("    length 0.4\n", ""), r"a\.asf:\d+: a bone without length ends here"),
    "NaN": (ASF.replace("length 0.5", "length nan"), r"a\.asf:27: length must hold finite numbers, got 'nan'"),
    "direction": (ASF.replace("0 -1 0", "0 -1"), r"a\.asf:15: direction must have 3 values, got 2"),
    "axis": (ASF.replace("10 20 30 XYZ", "10 20 30 XXZ"), r"a\.asf:17: axis must be three angles and an order"),
    "dof": (ASF.replace("dof rx ry rz", "dof rx l"), r"a\.asf:18: the dof of bone 'thigh' must be"),
    "order": (ASF.replace("TX TY TZ RX", "TX TY TZ"), r"a\.asf:7: the root's order must be"),
    "unit": (ASF.replace("0.0254", "0"), r"a\.asf:4: the unit length must be positive"),
}

BROKEN_AMC = {
    "empty": ("", r"a\.amc: the file is empty"),
    "no frames": (":DEGREES\n", r"a\.amc: the file holds no frames"),
    "not an AMC": ("hello there\n", r"a\.amc:1: expected the number of the first frame, got 'hello'"),
    "unknown bone": (AMC.replace("shank 40", "wing 40"), r"a\.amc:6: bone 'wing' is not in the skeleton a\.asf"),
    "truncated": (AMC.removesuffix("shank 0\n"), r"a\.amc:9: the frame that ends here lacks shank"),
    "lost bone": (AMC.replace("thigh 5 6 7\n", ""), r"a\.amc:6: the frame that ends here lacks thigh"),
    "lost frame": (AMC.replace("\n2\n", "\n3\n"), r"a\.amc:7: expected frame 2, got frame 3"),
    "too few values": (AMC.replace("thigh 5 6 7", "thigh 5 6"), r"a\.amc:5: bone thigh must have 3 values, got 2"),
    "NaN": (AMC.replace("5 6 7", "5 NaN 7"), r"a\.amc:5: bone thigh must hold finite numbers, got 'NaN'"),
    "a word": (AMC.replace("5 6 7", "5 six 7"), r"a\.amc:5: bone thigh must hold numbers, got 'six'"),
    "twice": (AMC.replace("shank 40", "thigh 5 6 7"), r"a\.amc:6: bone 'thigh' is there twice"),
}


@pytest.mark.parametrize("case", [*(("asf", name) for name in BROKEN_ASF), *(("amc", name) for name in BROKEN_AMC)])
def test_a_broken_asf_or_amc_gives_one_clear_error(tmp_path: Path, case: tuple[str, str]) -> None:
    kind, name = case
    content, message = (BROKEN_ASF if kind == "asf" else BROKEN_AMC)[name]
    asf = write(tmp_path / "a.asf", content if kind == "asf" else ASF)
    amc = write(tmp_path / "a.amc", content if kind == "amc" else AMC)
    with pytest.raises(MotionFileError, match=message) as caught:
        read_asf_amc(asf, amc)
    assert caught.value.__cause__ is None
