"""Recordings against independently computed positions and against one another, whichever reader reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from posegeom import H36M_17
from posegeom_models.data.mocap import MotionFileError, read_motion

RAW = ("01_01.amc", "01_01.bvh", "131_03.bvh", "snu_backflip.bvh", "salsa_25.bvh")


def to_y_up(positions: np.ndarray) -> np.ndarray:
    x, y, z = np.moveaxis(positions, -1, 0)
    return np.stack([x, z, -y], axis=-1)


@pytest.mark.parametrize("name", RAW)
def test_joints_are_where_an_independent_reader_puts_them(motion_data: Path, name: str) -> None:
    expected = np.load(motion_data / "raw" / "expected.npz")
    motion = read_motion(motion_data / "raw" / name)
    assert motion.joints == tuple(expected[f"{name}/names"])
    assert motion.parents == tuple(expected[f"{name}/parents"])
    got = to_y_up(motion.positions[expected[f"{name}/frames"]])
    # The AMC's expected values were stored from rounded axes: 0.3 µm.
    np.testing.assert_allclose(got, expected[f"{name}/metres"], atol=1e-6)
    if name.endswith(".bvh"):
        frames, frame_time, _ = expected[f"{name}/header"]
        assert len(motion.positions) == frames
        assert motion.frame_rate == pytest.approx(1 / frame_time)


def test_asf_amc_and_bvh_of_one_recording_agree(motion_data: Path) -> None:
    """The BVH has one rest frame more, and lacks the thorax and wrist bones: put back, all 17 joints agree."""
    amc, bvh = read_motion(motion_data / "raw/01_01.amc"), read_motion(motion_data / "raw/01_01.bvh")
    one, two = amc.to_skeleton(H36M_17), bvh.to_skeleton(H36M_17)[1:]
    apart = np.linalg.norm(one - two, axis=-1)
    legs_and_spine, above = list(range(8)), [8, 9, 10, 11, 12, 14, 15]
    assert apart[:, legs_and_spine].max() < 5.5e-6  # 0.005 mm, the rounding of the files' angles
    np.testing.assert_allclose(apart[:, above], 0.1166, atol=1e-4)

    def bone(end: str, start: str) -> np.ndarray:
        return amc.positions[:, amc.joints.index(end)] - amc.positions[:, amc.joints.index(start)]

    restored = two.copy()
    restored[:, 8:] += bone("thorax", "upperback")[:, None]
    restored[:, 13] += bone("lwrist", "lradius")
    restored[:, 16] += bone("rwrist", "rradius")
    assert np.linalg.norm(one - restored, axis=-1).max() < 5.5e-6


@pytest.mark.parametrize("name", RAW)
def test_bones_keep_their_lengths(motion_data: Path, name: str) -> None:
    motion = read_motion(motion_data / "raw" / name)
    for joint, parent in enumerate(motion.parents):
        if parent != -1:
            bone = np.linalg.norm(motion.positions[:, joint] - motion.positions[:, parent], axis=-1)
            assert np.ptp(bone) < 1e-9, motion.joints[joint]


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    for name in ("a.bvh", "a.npz"):
        with pytest.raises(FileNotFoundError, match=rf"{name}: no such motion file"):
            read_motion(tmp_path / name)
    (tmp_path / "01_01.amc").write_text(":FULLY-SPECIFIED\n1\n")
    with pytest.raises(FileNotFoundError, match=r"found neither 01_01\.asf nor 01\.asf beside it; pass asf="):
        read_motion(tmp_path / "01_01.amc")
    with pytest.raises(MotionFileError, match=r"expected \.bvh, \.amc or \.npz, got '\.fbx'"):
        read_motion(tmp_path / "a.fbx")
    with pytest.raises(MotionFileError, match=r"an \.asf is a skeleton without motion"):
        read_motion(tmp_path / "a.asf")
