"""Tested, differentiable operators for articulated pose.

Modules: skeleton, presets, frames, kinematics, camera, maps, puppet, segmentation, crop, losses, metrics,
procrustes, body.
Every public name can be imported from here.
"""

from posegeom.body import DE_LEVA_FEMALE, DE_LEVA_MALE, DEMPSTER, Segment, SegmentTable, center_of_gravity
from posegeom.camera import (
    PerspectiveCamera,
    angles_from_sincos,
    bounded_translation,
    camera_rotation,
    elevation_azimuth_rotation,
    lift,
    project,
    unproject,
)
from posegeom.crop import composite, crop, paste
from posegeom.frames import gram_schmidt_frame
from posegeom.kinematics import (
    CanonicalPose,
    LocalPose,
    affine_points,
    bone_angles,
    bone_vectors,
    canonicalize,
    flip_joints,
    forward_kinematics,
    local_directions,
)
from posegeom.losses import (
    TrackingLoss,
    bone_length_nll,
    deformation_loss,
    distance_similarity_loss,
    gravity_tracking_loss,
    info_nce_loss,
    masked_l1,
    relative_bone_lengths,
    segmentation_uncertainty_loss,
    temporal_triplet_loss,
)
from posegeom.maps import joint_heatmaps, limb_maps, skeleton_image, soft_argmax
from posegeom.metrics import (
    auc,
    mean_landmark_error,
    mpjpe,
    mpjve,
    n_mpjpe,
    p_mpjpe,
    part_f1,
    part_iou,
    pck,
)
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
from posegeom.procrustes import Alignment, procrustes_align
from posegeom.puppet import PartMaps, Puppet, foreground_map, part_maps, part_transforms, uncertainty_map
from posegeom.segmentation import (
    PuppetSegmentation,
    depth_aware_segmentation,
    hard_segmentation,
    part_depth,
    puppet_segmentation,
)
from posegeom.skeleton import Skeleton, Trunk, convert_joints

__version__ = "0.1.0"

__all__ = [
    "BODY_17",
    "COCO_17",
    "DEMPSTER",
    "DE_LEVA_FEMALE",
    "DE_LEVA_MALE",
    "H36M_17",
    "HAND_21",
    "LSP_14",
    "MPI_INF_3DHP_17",
    "MPI_INF_3DHP_28",
    "SMPL_24",
    "Alignment",
    "CanonicalPose",
    "LocalPose",
    "PartMaps",
    "PerspectiveCamera",
    "Puppet",
    "PuppetSegmentation",
    "Segment",
    "SegmentTable",
    "Skeleton",
    "TrackingLoss",
    "Trunk",
    "affine_points",
    "angles_from_sincos",
    "auc",
    "bone_angles",
    "bone_length_nll",
    "bone_vectors",
    "bounded_translation",
    "camera_rotation",
    "canonicalize",
    "center_of_gravity",
    "composite",
    "convert_joints",
    "crop",
    "deformation_loss",
    "depth_aware_segmentation",
    "distance_similarity_loss",
    "elevation_azimuth_rotation",
    "flip_joints",
    "foreground_map",
    "forward_kinematics",
    "gram_schmidt_frame",
    "gravity_tracking_loss",
    "hard_segmentation",
    "info_nce_loss",
    "joint_heatmaps",
    "lift",
    "limb_maps",
    "local_directions",
    "masked_l1",
    "mean_landmark_error",
    "mpjpe",
    "mpjve",
    "n_mpjpe",
    "p_mpjpe",
    "part_depth",
    "part_f1",
    "part_iou",
    "part_maps",
    "part_transforms",
    "paste",
    "pck",
    "procrustes_align",
    "project",
    "puppet_segmentation",
    "relative_bone_lengths",
    "segmentation_uncertainty_loss",
    "skeleton_image",
    "soft_argmax",
    "temporal_triplet_loss",
    "uncertainty_map",
    "unproject",
]
