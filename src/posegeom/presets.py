"""The joint sets of the papers and of the public data sets, as `Skeleton`s with one vocabulary of names.

Orders are those on disk. "neck" is the thorax end (Human3.6M 8, MPI-INF-3DHP "neck"), "nose" is Human3.6M 9
(called neck/nose, jaw or head centre elsewhere; MPI-INF-3DHP "head"), "head_top" is Human3.6M 10.
"""

from __future__ import annotations

from posegeom.skeleton import Skeleton, Trunk


def _mirror(joints: tuple[str, ...]) -> tuple[int, ...]:
    """Left and right joints swapped by their names; every other joint is its own mirror."""

    def other(name: str) -> str:
        if name.startswith("left_"):
            return "right_" + name.removeprefix("left_")
        if name.startswith("right_"):
            return "left_" + name.removeprefix("right_")
        return name

    return tuple(joints.index(other(name)) for name in joints)


def _skeleton(
    name: str,
    joints: str,
    parents: tuple[int, ...],
    lengths: dict[str, float] | None = None,
    trunk: tuple[str, str, str, str] | None = None,
) -> Skeleton:
    """A skeleton from a text of joint names; `lengths` by joint name without its side, in metres."""
    names = tuple(joints.split())
    bone_lengths = None
    if lengths is not None:
        bone_lengths = tuple(
            lengths[joint.removeprefix("left_").removeprefix("right_")]
            for joint, parent in zip(names, parents, strict=True)
            if parent != -1
        )
    fixed = None if trunk is None else Trunk(*(names.index(joint) for joint in trunk))
    return Skeleton(name, names, parents, _mirror(names), bone_lengths, fixed)


_LIMBS = {"elbow": 0.277, "wrist": 0.248, "hip": 0.1337, "knee": 0.443, "ankle": 0.443, "shoulder": 0.151}
# Mean of four Human3.6M subjects; the foot (ankle to ball) of CMU subject 01.

BODY_17 = _skeleton(
    "BODY_17",
    "pelvis neck head left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist "
    "left_hip left_knee left_ankle left_foot right_hip right_knee right_ankle right_foot",
    (-1, 0, 1, 1, 3, 4, 1, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15),
    {**_LIMBS, "neck": 0.490, "head": 0.2315, "foot": 0.134},
    ("pelvis", "neck", "left_hip", "right_hip"),
)
"""The tree of papers 000 and 002: 16 limbs, one hip angle and 13 free directions."""

H36M_17 = _skeleton(
    "H36M_17",
    "pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine neck nose head_top "
    "left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist",
    (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
    {**_LIMBS, "spine": 0.236, "neck": 0.254, "nose": 0.1165, "head_top": 0.115},
    ("pelvis", "spine", "left_hip", "right_hip"),
)
"""Human3.6M reduced to 17 joints, right leg first, left arm first."""

MPI_INF_3DHP_17 = _skeleton(
    "MPI_INF_3DHP_17",
    "head_top neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
    "right_hip right_knee right_ankle left_hip left_knee left_ankle pelvis spine nose",
    (1, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, -1, 14, 1),
    trunk=("pelvis", "spine", "left_hip", "right_hip"),
)
"""The test set's 17 joints; its "head" is called nose here (the head's centre, as Human3.6M 9)."""

MPI_INF_3DHP_28 = _skeleton(
    "MPI_INF_3DHP_28",
    "spine3 spine4 spine2 spine pelvis neck nose head_top "
    "left_clavicle left_shoulder left_elbow left_wrist left_hand "
    "right_clavicle right_shoulder right_elbow right_wrist right_hand "
    "left_hip left_knee left_ankle left_foot left_toe right_hip right_knee right_ankle right_foot right_toe",
    (2, 0, 3, 4, -1, 1, 5, 6, 5, 8, 9, 10, 11, 5, 13, 14, 15, 16, 4, 18, 19, 20, 21, 4, 23, 24, 25, 26),
    trunk=("pelvis", "spine", "left_hip", "right_hip"),
)
"""The training set's 28 joints; its "head" is called nose here."""

COCO_17 = _skeleton(
    "COCO_17",
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow "
    "left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle",
    (-1, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
)
"""COCO key points, as a tree from the nose; no pelvis and no neck."""

LSP_14 = _skeleton(
    "LSP_14",
    "right_ankle right_knee right_hip left_hip left_knee left_ankle "
    "right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist neck head_top",
    (1, 2, 12, 12, 3, 4, 7, 8, 12, 12, 9, 10, -1, 12),
)
"""Leeds Sports Pose, as a tree from the neck."""

SMPL_24 = _skeleton(
    "SMPL_24",
    "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 "
    "left_foot right_foot neck left_collar right_collar skull left_shoulder right_shoulder "
    "left_elbow right_elbow left_wrist right_wrist left_hand right_hand",
    (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21),
)
"""The joints of the SMPL body; its "head" (the base of the skull, not the top) is called skull here."""

HAND_21 = _skeleton(
    "HAND_21",
    "wrist thumb_cmc thumb_mcp thumb_ip thumb_tip "
    + " ".join(
        f"{finger}_{joint}" for finger in ("index", "middle", "ring", "pinky") for joint in ("mcp", "pip", "dip", "tip")
    ),
    (-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19),
)
"""One hand, each finger from its root to its tip."""
