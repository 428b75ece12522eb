"""One `OpCase` per operator: inputs to call it with, and its degenerate inputs with what is known of their gradients.

test_contract.py runs every case through every check.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

import posegeom as pg

Inputs = tuple[Tensor, ...]
B = 3
SIZE = (7, 9)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
ARM = pg.Skeleton("arm", ("shoulder", "elbow", "wrist", "thumb"), (-1, 0, 1, 1), (0, 1, 2, 3), (0.3, 0.25, 0.1))
TORSO = pg.Skeleton(
    "torso",
    ("pelvis", "neck", "left_hip", "right_hip", "left_knee"),
    (-1, 0, 0, 0, 2),
    (0, 1, 3, 2, 4),
    trunk=pg.Trunk(0, 1, 2, 3),
)
BONES = ARM.bones
PUPPET = pg.Puppet.capsules(pg.BODY_17, (16, 16)).to(DEVICE, torch.float64)
ARM_PUPPET = pg.Puppet.capsules(ARM, (12, 12)).to(DEVICE, torch.float64)
CAMERA = pg.PerspectiveCamera(120.0, (30.0, 33.0), (64, 64))
LENS = pg.PerspectiveCamera((120.0, 115.0), (30.0, 33.0), (64, 64), (-0.2, 0.1, 0.002, -0.001, 0.01))


@dataclass(frozen=True)
class Degenerate:
    """An input where a naive formula breaks: `gradients[k]` is the known gradient of sum(output) to input k."""

    name: str
    inputs: Inputs
    gradients: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class OpCase:
    """How the contract calls an operator.

    Args:
        name: the operator.
        call: the operator with everything fixed but its tensors.
        inputs: random tensors in float64, each with a leading batch of B unless listed in `shared`.
        shared: positions of the inputs without batch.
        constant: positions of the inputs without gradient (integers, masks).
        scalar: the output is one number for the whole batch (a loss): no vmap-against-batch comparison.
        smooth: second derivatives exist and are not zero everywhere.
        half: defined for half and bfloat16.
        inductor: also compiled with Inductor.
        degenerate: special inputs.
        huge: inputs may be as large as 1e6.
        kernel: taken through the interpreter of Triton too. (On a GPU every case with a kernel runs it.)
    """

    name: str
    call: Callable[..., object]
    inputs: Callable[[torch.Generator], Inputs]
    shared: tuple[int, ...] = ()
    constant: tuple[int, ...] = ()
    scalar: bool = False
    differentiable: bool = True
    smooth: bool = True
    half: bool = True
    inductor: bool = False
    degenerate: tuple[Degenerate, ...] = ()
    huge: bool = True
    kernel: bool = False

    def __str__(self) -> str:
        return self.name


def outputs(result: object) -> tuple[Tensor, ...]:
    """The tensors of an operator's result, in order."""
    if isinstance(result, Tensor):
        return (result,)
    return tuple(value for value in result if isinstance(value, Tensor))


def normal(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Callable[[torch.Generator], Tensor]:
    return lambda g: shift + scale * torch.randn(*shape, generator=g, dtype=torch.float64)


def uniform(low: float, high: float, *shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda g: low + (high - low) * torch.rand(*shape, generator=g, dtype=torch.float64)


def integers(high: int, *shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda g: torch.randint(high, shape, generator=g)


def given(*makers: Callable[[torch.Generator], Tensor]) -> Callable[[torch.Generator], Inputs]:
    return lambda g: tuple(make(g) for make in makers)


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def _points(g: torch.Generator, joints: int = 4) -> Tensor:
    """Points inside the image, away from integers and half-integers so that bilinear kinks do not meet a check."""
    return torch.rand(B, joints, 2, generator=g, dtype=torch.float64) * 5 + 1.137


def _in_front(g: torch.Generator) -> Tensor:
    return torch.randn(B, 5, 3, generator=g, dtype=torch.float64) * 0.4 + f64([0.0, 0.0, 3.0])


def _probabilities(g: torch.Generator) -> Tensor:
    return torch.softmax(torch.randn(B, 4, *SIZE, generator=g, dtype=torch.float64), dim=1)


def _boxes(g: torch.Generator) -> Tensor:
    return torch.cat((0.4 + 0.3 * torch.rand(B, 2, generator=g), 0.4 * torch.rand(B, 2, generator=g) - 0.2), 1).double()


def _poses(joints: int = 6, dims: int = 3) -> Callable[[torch.Generator], Tensor]:
    return normal(B, joints, dims)


WRIST_ON_ELBOW = pg.forward_kinematics(torch.ones(1, 13, 3, dtype=torch.float64), zeros(1), pg.BODY_17)
WRIST_ON_ELBOW[:, 5] = WRIST_ON_ELBOW[:, 4]
COINCIDENT = zeros(1, 4, 2) + 3.0
CUBE = f64([[[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]])
LINE = torch.linspace(-1, 1, 6, dtype=torch.float64).view(1, 6, 1) * f64([1.0, 2.0, -1.0])

CASES = (
    OpCase(
        "gram_schmidt_frame",
        pg.gram_schmidt_frame,
        given(normal(B, 3), normal(B, 3)),
        inductor=True,
        degenerate=(
            Degenerate("zero primary", (zeros(1, 3), f64([[0.0, 1.0, 0.0]])), {0: zeros(1, 3)}),
            Degenerate("zero reference", (f64([[1.0, 0.0, 0.0]]), zeros(1, 3)), {1: zeros(1, 3)}),
            Degenerate("parallel", (f64([[2.0, 0.0, 0.0]]), f64([[1.0, 0.0, 0.0]])), {1: zeros(1, 3)}),
            Degenerate("parallel along z", (f64([[0.0, 0.0, 2.0]]), f64([[0.0, 0.0, -1.0]])), {1: zeros(1, 3)}),
        ),
    ),
    OpCase(
        "forward_kinematics",
        lambda d, a, n: pg.forward_kinematics(d, a, pg.BODY_17, n),
        given(normal(B, 13, 3), normal(B), uniform(0.1, 0.5, B, 16)),
        inductor=True,
        degenerate=(
            Degenerate("zero directions", (zeros(1, 13, 3), zeros(1), zeros(1, 16) + 0.2), {0: zeros(1, 13, 3)}),
            Degenerate("zero lengths", (zeros(1, 13, 3) + 1, zeros(1), zeros(1, 16)), {0: zeros(1, 13, 3)}),
        ),
    ),
    OpCase(
        "forward_kinematics canonical",
        lambda d, a: pg.forward_kinematics(d, a, pg.H36M_17, frame="canonical"),
        given(normal(B, 13, 3), normal(B)),
    ),
    OpCase(
        "forward_kinematics of a small trunk",
        lambda d, a, n: pg.forward_kinematics(d, a, TORSO, n),
        given(normal(B, 1, 3), normal(B), uniform(0.1, 0.5, B, 4)),
        kernel=True,
        degenerate=(
            Degenerate("a zero direction", (zeros(1, 1, 3), zeros(1), zeros(1, 4) + 0.2), {0: zeros(1, 1, 3)}),
        ),
    ),
    OpCase(
        "forward_kinematics without trunk",
        lambda d: pg.forward_kinematics(d, None, ARM),
        given(normal(B, 3, 3)),
        kernel=True,
    ),
    OpCase(
        "local_directions",
        lambda j: pg.local_directions(j, pg.BODY_17),
        given(_poses(17)),
        degenerate=(
            Degenerate("all joints at the root", (zeros(1, 17, 3),), {0: zeros(1, 17, 3)}),
            Degenerate("a wrist on its elbow", (WRIST_ON_ELBOW,)),
        ),
    ),
    OpCase(
        "canonicalize",
        lambda j: pg.canonicalize(j, pg.BODY_17),
        given(_poses(17)),
        degenerate=(Degenerate("all joints in one point", (zeros(1, 17, 3) + 1,)),),
    ),
    OpCase("flip_joints", lambda j: pg.flip_joints(j, ARM), given(_poses(4)), smooth=False),
    OpCase("flip_joints 2D", lambda p: pg.flip_joints(p, ARM, width=64), given(normal(B, 4, 2)), smooth=False),
    OpCase("affine_points", pg.affine_points, given(normal(B, 4, 2), normal(B, 2, 3))),
    OpCase("bone_vectors", lambda j: pg.bone_vectors(j, ARM), given(_poses(4)), smooth=False),
    OpCase(
        "bone_angles",
        lambda j: pg.bone_angles(j, ARM),
        given(_poses(4)),
        degenerate=(
            Degenerate("zero bones", (zeros(1, 4, 3),), {0: zeros(1, 4, 3)}),
            Degenerate("straight", (f64([[[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]]]),), {0: zeros(1, 4, 3)}),
        ),
    ),
    OpCase("bone_angles 2D", lambda j: pg.bone_angles(j, ARM), given(normal(B, 4, 2))),
    OpCase(
        "convert_joints",
        lambda j: pg.convert_joints(j, pg.COCO_17, pg.LSP_14, missing="nan")[..., :13, :],
        given(_poses(17)),
        smooth=False,
    ),
    OpCase(
        "project",
        lambda p: pg.project(p, CAMERA),
        given(_in_front),
        kernel=True,
        inductor=True,
        degenerate=(Degenerate("on the camera plane", (f64([[[0.0, 0.0, 0.0]]]),), {0: f64([[[1.2e5, 1.2e5, 1.0]]])}),),
    ),
    OpCase("project with a lens", lambda p: pg.project(p, LENS), given(_in_front)),
    OpCase(
        "project with camera tensors",
        lambda p, f, c: pg.project(p, pg.PerspectiveCamera(f, c, (64, 64))),
        given(_in_front, uniform(90, 120, B, 2), uniform(30, 34, B, 2)),
    ),
    OpCase(
        "unproject",
        lambda u, d: pg.unproject(u, d, LENS),
        given(uniform(5, 60, B, 5, 2), uniform(1, 4, B, 5)),
    ),
    OpCase("camera_rotation", pg.camera_rotation, given(normal(B), normal(B), normal(B)), kernel=True),
    OpCase(
        "angles_from_sincos",
        pg.angles_from_sincos,
        given(normal(B, 3, 2)),
        kernel=True,
        degenerate=(Degenerate("zero pair", (zeros(1, 3, 2),), {0: zeros(1, 3, 2)}),),
    ),
    OpCase(
        "bounded_translation",
        lambda raw, radius: pg.bounded_translation(raw, CAMERA, radius),
        given(normal(B, 3), uniform(0.8, 1.2, B)),
        inductor=True,
    ),
    OpCase(
        "bounded_translation with one radius",
        lambda raw: pg.bounded_translation(raw, CAMERA, 1.1),
        given(normal(B, 3)),
        kernel=True,
    ),
    OpCase("lift", pg.lift, given(normal(B, 4, 2, scale=0.1), normal(B, 4))),
    OpCase(
        "elevation_azimuth_rotation",
        lambda e: pg.elevation_azimuth_rotation(e, torch.Generator(DEVICE).manual_seed(3)),
        given(normal(B, scale=0.3)),
        scalar=True,
        degenerate=(Degenerate("equal elevations", (zeros(2) + 0.2,)), Degenerate("one sample", (zeros(1) + 0.2,))),
    ),
    OpCase(
        "joint_heatmaps",
        lambda p, s, v: pg.joint_heatmaps(p, SIZE, s, v),
        given(_points, uniform(1, 2, B, 4), uniform(0.2, 1, B, 4)),
        kernel=True,
        inductor=True,
        degenerate=(
            Degenerate("sigma 0", (f64([[[3.0, 3.0]]]), zeros(1, 1), zeros(1, 1) + 1), {1: zeros(1, 1)}),
            Degenerate(
                "on the middle pixel of an odd image",
                (f64([[[4.0, 3.0]]]), zeros(1, 1) + 1.5, zeros(1, 1) + 1),
                {0: zeros(1, 1, 2)},
            ),
        ),
    ),
    OpCase(
        "limb_maps",
        lambda p, w, s, v: pg.limb_maps(p, BONES, SIZE, w, s, v),
        given(_points, uniform(1, 2, B, 3), uniform(0.3, 0.6, B, 3), uniform(0.2, 1, B, 4)),
        kernel=True,
        inductor=True,
        degenerate=(Degenerate("coincident joints", (COINCIDENT, zeros(3) + 1, zeros(3) + 0.3, zeros(1, 4) + 1)),),
    ),
    OpCase("joint_heatmaps unweighted", lambda p: pg.joint_heatmaps(p, SIZE, 1.5), given(_points), kernel=True),
    OpCase("limb_maps unweighted", lambda p: pg.limb_maps(p, BONES, SIZE, 1.5), given(_points), kernel=True),
    OpCase(
        "skeleton_image",
        lambda p: pg.skeleton_image(p, BONES, SIZE, 0.2),
        given(_points),
        kernel=True,
        inductor=True,
        degenerate=(
            # Everything in the middle of an odd image: by symmetry the gradients of all joints add up to 0.
            Degenerate("coincident joints", (COINCIDENT,)),
        ),
    ),
    OpCase(
        "skeleton_image power 1, weighted",
        lambda p, v: pg.skeleton_image(p, BONES, SIZE, 0.4, 1, v),
        given(_points, uniform(0.2, 1, B, 4)),
        kernel=True,
        degenerate=(Degenerate("on a pixel", (f64([[[3, 3], [5, 3], [3, 5], [1, 1]]]), zeros(1, 4) + 1)),),
    ),
    OpCase("soft_argmax", lambda h: pg.soft_argmax(h, 0.5), given(normal(B, 2, *SIZE))),
    OpCase("soft_argmax marginal", lambda h: pg.soft_argmax(h, 0.5, marginal=True), given(normal(B, 2, *SIZE))),
    OpCase(
        "part_transforms",
        lambda p, w: pg.part_transforms(p, PUPPET, w, SIZE),
        given(lambda g: _points(g, 17), uniform(0.5, 1.5, B, 12)),
        half=False,  # entries reach |r|/1e-3 px: out of float16's range
        degenerate=(Degenerate("coincident joints", (zeros(1, 17, 2) + 3, zeros(1, 12) + 1)),),
    ),
    OpCase(
        "part_maps",
        lambda p, s, u: pg.part_maps(
            p,
            pg.Puppet(s, u, ARM_PUPPET.anchors, ARM_PUPPET.anchor_counts, ARM_PUPPET.joints, ARM_PUPPET.parts, ARM),
            SIZE,
        ),
        given(_points, uniform(0, 1, 3, 12, 12), uniform(0, 1, 3, 12, 12)),
        kernel=True,
        shared=(1, 2),
        degenerate=(Degenerate("coincident joints", (COINCIDENT, ARM_PUPPET.shape, ARM_PUPPET.uncertainty)),),
    ),
    OpCase("foreground_map", pg.foreground_map, given(uniform(0, 1, B, 3, *SIZE)), smooth=False),
    OpCase("uncertainty_map", pg.uncertainty_map, given(uniform(0, 1, B, 3, *SIZE)), smooth=False),
    OpCase("part_depth", lambda d: pg.part_depth(d, PUPPET), given(uniform(2, 4, B, 17)), smooth=False),
    OpCase(
        "depth_aware_segmentation",
        pg.depth_aware_segmentation,
        given(uniform(0, 1, B, 3, *SIZE), uniform(2, 3, B, 3)),
        degenerate=(
            Degenerate("equal depth", (zeros(1, 3, 2, 2) + 1, zeros(1, 3) + 2)),
            Degenerate("no depth", (zeros(1, 3, 2, 2) + 0.5, zeros(1, 3)), {1: zeros(1, 3)}),
            Degenerate("nothing there", (zeros(1, 3, 2, 2), zeros(1, 3) + 2), {1: zeros(1, 3)}),
        ),
    ),
    OpCase(
        "depth_aware_segmentation paper",
        lambda s, d: pg.depth_aware_segmentation(s, d, rule="paper"),
        given(uniform(0, 1, B, 3, *SIZE), uniform(0.2, 0.4, B, 3)),
    ),
    OpCase("hard_segmentation", pg.hard_segmentation, given(uniform(0, 1, B, 4, *SIZE)), differentiable=False),
    OpCase(
        "puppet_segmentation",
        lambda p, d: pg.puppet_segmentation(p, d, PUPPET, SIZE),
        given(lambda g: _points(g, 17), uniform(2, 4, B, 17)),
        inductor=True,
        degenerate=(Degenerate("coincident joints", (zeros(1, 17, 2) + 3, zeros(1, 17))),),
    ),
    OpCase(
        "puppet_segmentation of an arm",
        lambda p, d, w: pg.puppet_segmentation(p, d, ARM_PUPPET, SIZE, width_scale=w),
        given(_points, uniform(2, 4, B, 4), uniform(0.5, 1.5, B, 3)),
        kernel=True,
        degenerate=(Degenerate("coincident joints", (COINCIDENT, zeros(1, 4), zeros(1, 3) + 1)),),
    ),
    OpCase(
        "crop",
        lambda i, b: pg.crop(i, b, (5, 6)),
        given(normal(B, 2, *SIZE), _boxes),
        degenerate=(Degenerate("empty box", (zeros(1, 2, *SIZE) + 1, zeros(1, 4)), {1: zeros(1, 4)}),),
    ),
    OpCase(
        "paste",
        lambda i, b: pg.paste(i, b, SIZE),
        given(normal(B, 2, 5, 6), _boxes),
        degenerate=(Degenerate("empty box", (zeros(1, 2, 5, 6) + 1, zeros(1, 4))),),
    ),
    OpCase("paste border", lambda i, b: pg.paste(i, b, SIZE, "border"), given(normal(B, 2, 5, 6), _boxes)),
    OpCase("composite", pg.composite, given(normal(B, 2, *SIZE), uniform(0, 1, B, 1, *SIZE), normal(B, 2, *SIZE))),
    OpCase(
        "distance_similarity_loss",
        lambda a, b, d: pg.distance_similarity_loss(a, b, d, 40.0),
        given(normal(B, 5), normal(B, 5), integers(60, B)),
        constant=(2,),
        scalar=True,
        degenerate=(
            Degenerate("zero code", (zeros(1, 5), zeros(1, 5), torch.tensor([3])), {0: zeros(1, 5), 1: zeros(1, 5)}),
            Degenerate("equal codes", (zeros(1, 5) + 1, zeros(1, 5) + 1, torch.tensor([0])), {0: zeros(1, 5)}),
        ),
    ),
    OpCase(
        "info_nce_loss",
        lambda a, p, n: pg.info_nce_loss(a, p, n, 0.2),
        given(normal(B, 5), normal(B, 5), normal(B, 4, 5)),
        scalar=True,
        degenerate=(Degenerate("zero codes", (zeros(1, 5), zeros(1, 5), zeros(1, 2, 5)), {0: zeros(1, 5)}),),
    ),
    OpCase(
        "temporal_triplet_loss",
        lambda a, p, n: pg.temporal_triplet_loss(a, p, n, 3.0),
        given(normal(B, 5), normal(B, 5), normal(B, 5)),
        scalar=True,
    ),
    OpCase(
        "gravity_tracking_loss",
        lambda b: pg.gravity_tracking_loss(b, 0.1),
        given(normal(B, 6, 4)),
        scalar=True,
    ),
    OpCase(
        "relative_bone_lengths",
        lambda j: pg.relative_bone_lengths(j, ARM),
        given(_poses(4)),
        degenerate=(Degenerate("one point", (zeros(1, 4, 3),), {0: zeros(1, 4, 3)}),),
    ),
    OpCase(
        "bone_length_nll",
        lambda j, m, s: pg.bone_length_nll(j, ARM, m, s),
        given(_poses(4), uniform(0.5, 1.5, 3), uniform(0.5, 1, 3)),
        shared=(1, 2),
        scalar=True,
    ),
    OpCase(
        "deformation_loss",
        lambda a, b, p: pg.deformation_loss(a, b, p),
        given(_poses(4), _poses(4), lambda g: torch.tensor([[0, 1], [1, 2]])),
        shared=(2,),
        constant=(2,),
        scalar=True,
    ),
    OpCase(
        "deformation_loss power 1",
        lambda a, b, p: pg.deformation_loss(a, b, p, power=1),
        given(_poses(4), _poses(4), lambda g: torch.tensor([[0, 1], [1, 2]])),
        shared=(2,),
        constant=(2,),
        scalar=True,
        degenerate=(
            Degenerate(
                "no change", (zeros(2, 4, 3) + 1, zeros(2, 4, 3) + 1, torch.tensor([[0, 1]])), {0: zeros(2, 4, 3)}
            ),
        ),
    ),
    OpCase(
        "masked_l1",
        pg.masked_l1,
        given(normal(B, 2, *SIZE), normal(B, 2, *SIZE), uniform(0, 1, B, *SIZE)),
        scalar=True,
    ),
    OpCase(
        "segmentation_uncertainty_loss",
        pg.segmentation_uncertainty_loss,
        given(_probabilities, integers(4, B, *SIZE), uniform(0, 1, B, *SIZE)),
        constant=(1,),
        scalar=True,
        huge=False,
        degenerate=(
            Degenerate("probability 0", (zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), zeros(1, 2, 2))),
        ),
    ),
    OpCase(
        "mpjpe",
        lambda p, t, m: pg.mpjpe(p, t, m, root=0),
        given(_poses(), _poses(), uniform(0.1, 1, B, 6)),
        scalar=True,
        degenerate=(
            Degenerate("no error", (CUBE, CUBE, zeros(1, 8) + 1), {0: zeros(1, 8, 3)}),
            Degenerate("all masked", (CUBE, CUBE + 1, zeros(1, 8)), {0: zeros(1, 8, 3)}),
        ),
    ),
    OpCase(
        "n_mpjpe",
        pg.n_mpjpe,
        given(_poses(), _poses()),
        scalar=True,
        degenerate=(Degenerate("prediction 0", (zeros(1, 8, 3), CUBE)),),
    ),
    OpCase(
        "p_mpjpe",
        pg.p_mpjpe,
        given(_poses(), _poses()),
        scalar=True,
        degenerate=(
            Degenerate("cube on itself", (CUBE, CUBE.clone())),
            Degenerate("line on a line", (LINE, LINE.flip(-1))),
            Degenerate("one point", (zeros(1, 8, 3), CUBE)),
        ),
    ),
    OpCase("mpjve", pg.mpjve, given(normal(B, 4, 5, 3), normal(B, 4, 5, 3)), scalar=True),
    OpCase(
        "procrustes_align",
        pg.procrustes_align,
        given(_poses(), _poses()),
        degenerate=(
            Degenerate("cube on itself", (CUBE, CUBE.clone())),
            Degenerate("line on a line", (LINE, LINE.flip(-1))),
            Degenerate("mirrored", (CUBE * f64([1.0, 2.0, 3.0]), CUBE * f64([-1.0, 2.0, 3.0]))),
            Degenerate("one point on one point", (zeros(1, 4, 3), zeros(1, 4, 3))),
        ),
    ),
    OpCase(
        "pck", lambda p, t: pg.pck(p, t, threshold=1.5), given(_poses(), _poses()), scalar=True, differentiable=False
    ),
    OpCase(
        "auc",
        lambda p, t: pg.auc(p, t, thresholds=(0.5, 1.0, 2.0)),
        given(_poses(), _poses()),
        scalar=True,
        differentiable=False,
    ),
    OpCase(
        "part_iou",
        lambda p, t: pg.part_iou(p, t, 3),
        given(integers(3, B, *SIZE), integers(3, B, *SIZE)),
        constant=(0, 1),
        scalar=True,
        differentiable=False,
        half=False,
    ),
    OpCase(
        "part_f1",
        lambda p, t: pg.part_f1(p, t, 3),
        given(integers(3, B, *SIZE), integers(3, B, *SIZE)),
        constant=(0, 1),
        scalar=True,
        differentiable=False,
        half=False,
    ),
    OpCase(
        "mean_landmark_error",
        lambda p, t: pg.mean_landmark_error(p, t, (64, 48)),
        given(normal(B, 4, 2), normal(B, 4, 2)),
        scalar=True,
        degenerate=(Degenerate("no error", (COINCIDENT, COINCIDENT.clone()), {0: zeros(1, 4, 2)}),),
    ),
    OpCase(
        "center_of_gravity",
        lambda j: pg.center_of_gravity(j, pg.BODY_17),
        given(_poses(17)),
        smooth=False,
        degenerate=(Degenerate("one point", (zeros(1, 17, 3) + 2,)),),
    ),
)
