"""Tested, differentiable operators for articulated pose."""

from posegeom.presets import (
    BODY_17,
    COCO_17,
    H36M_17,
    HAND_21,
    LSP_14,
    MPI_INF_3DHP_17,
    MPI_INF_3DHP_28,
    SMPL_24,
)
from posegeom.skeleton import Skeleton, Trunk, convert_joints
