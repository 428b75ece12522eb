"""A motion and the skeletons whose joints it finds among those of its source."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from posegeom import BODY_17, COCO_17, H36M_17
from posegeom_models.data.clips import read_npz
from posegeom_models.data.mocap import read_motion
from posegeom_models.data.motion import Motion


@pytest.mark.parametrize(
    ("raw", "npz", "clip"),
    [
        ("01_01.amc", "cmu17_train.npz", "01_01"),
        ("salsa_25.bvh", "cmu17_test.npz", "salsa_25"),
        ("snu_backflip.bvh", "acro17.npz", "snu_backflip"),
    ],
)
def test_source_names_become_the_reduced_joints(motion_data: Path, raw: str, npz: str, clip: str) -> None:
    """Legs exactly; above the spine the .npz gave bones a constant length, which moves joints up to 40 mm."""
    file = np.load(motion_data / npz)
    motion, reduced = read_motion(motion_data / "raw" / raw), read_npz(motion_data / npz, clip)
    rows = slice(None)
    if "frame" in file:
        rows = file["frame"][file["clip"] == list(file["clip_names"]).index(clip)]
    ours, theirs = motion.to_skeleton(H36M_17)[rows], reduced.to_skeleton(H36M_17)
    height = np.median(theirs - ours, axis=(0, 1)) * [0, 0, 1] if raw == "salsa_25.bvh" else 0
    apart = np.linalg.norm(ours + height - theirs, axis=-1)
    if raw == "salsa_25.bvh":  # moved up by a constant, estimated here from the moved joints too
        apart = np.linalg.norm(ours - ours[:, :1] - theirs + theirs[:, :1], axis=-1)
    assert apart[:, :7].max() < 2e-6
    assert apart.max() < 0.040
    assert np.median(apart) < 0.005
    if "feet" in file:
        feet = motion.to_skeleton(BODY_17)[rows] - ours[:, :1]
        want = reduced.to_skeleton(BODY_17) - theirs[:, :1]
        assert np.linalg.norm(feet - want, axis=-1)[:, [12, 16]].max() < 0.002


def test_bvh11_names_stand_for_the_same_body(motion_data: Path) -> None:
    motion = read_motion(motion_data / "raw/131_03.bvh")
    body = motion.to_skeleton(BODY_17)
    for name, source in (("left_shoulder", "LeftShoulder"), ("right_knee", "RightKnee"), ("neck", "lowerneck")):
        place = motion.positions[:, motion.joints.index(source)]
        np.testing.assert_array_equal(body[:, BODY_17.index(name)], place)


def test_npz_becomes_body_17(motion_data: Path) -> None:
    file = np.load(motion_data / "cmu17_test.npz")
    rows = file["clip"] == 3
    motion = read_npz(motion_data / "cmu17_test.npz", 3)
    assert motion.name == file["clip_names"][3]
    assert motion.frame_rate == 30
    body = motion.to_skeleton(BODY_17)
    assert body.dtype == np.float32
    source = {"neck": 8, "head": 10, "left_wrist": 13, "right_ankle": 3, "pelvis": 0}
    for name, number in source.items():
        np.testing.assert_array_equal(body[:, BODY_17.index(name)], file["positions"][rows, number])
    np.testing.assert_array_equal(body[:, BODY_17.index("left_foot")], file["feet"][rows, 0])
    np.testing.assert_array_equal(body[:, BODY_17.index("right_foot")], file["feet"][rows, 1])


def test_a_skeleton_without_the_joints_is_told_which(motion_data: Path) -> None:
    with pytest.raises(ValueError, match=r"rat23.* has no .*left_wrist.*BODY_17 needs; its joints are Snout"):
        read_npz(motion_data / "rat23.npz").to_skeleton(BODY_17)
    with pytest.raises(ValueError, match="has no left_eye, right_eye, left_ear, right_ear, which COCO_17 needs"):
        read_npz(motion_data / "cmu17_test.npz", 0).to_skeleton(COCO_17)


def test_a_motion_checks_itself() -> None:
    with pytest.raises(ValueError, match=r"positions must be \(T, 2, 3\) for 2 joint names, got \(4, 3, 3\)"):
        Motion("m", ("a", "b"), (-1, 0), np.zeros((4, 3, 3)), 30)
    with pytest.raises(ValueError, match="frame_rate must be positive"):
        Motion("m", ("a",), (-1,), np.zeros((2, 1, 3)), math.inf)
