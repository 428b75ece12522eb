"""The kernels from joints to a puppet's parts against their plain forms in float64, on fresh random poses.

Runs on a GPU, or in Triton's interpreter (TRITON_INTERPRET=1, as `make test` does).
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

import posegeom as pg
from posegeom.puppet import part_affines
from posegeom.segmentation import SHARPNESS, hiding_of_joints
from tests.cases import DEVICE, INTERPRETED

pytestmark = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="Triton kernels need a GPU or TRITON_INTERPRET=1"
)
SEED = random.randrange(2**31)
PUPPET = pg.Puppet.capsules(pg.BODY_17, (64, 64))
JOINT = {name: number for number, name in enumerate(pg.BODY_17.joints)}


def pose(kind: str) -> Tensor:
    """Three poses in float64: any; with limbs of no length; in exact profile; or with mirrored torsos."""
    g = torch.Generator().manual_seed(SEED)
    p = torch.rand(3, 17, 2, generator=g, dtype=torch.float64) * 60
    if kind == "no length":
        p[0, JOINT["left_elbow"]] = p[0, JOINT["left_shoulder"]]
        p[1] = p[1, :1]
    for left, right in (("left_shoulder", "right_shoulder"), ("left_hip", "right_hip")):
        if kind == "profile":
            p[:, JOINT[left]] = p[:, JOINT[right]]
        if kind in ("front", "back"):
            p[:, JOINT[left], 0] = 40 if kind == "front" else 20
            p[:, JOINT[right], 0] = 20 if kind == "front" else 40
    return p.to(DEVICE)


def distance(found: list[Tensor], wanted: list[Tensor], seed: int = SEED) -> float:
    difference = sum(float((a.double() - b.double()).norm() ** 2) for a, b in zip(found, wanted, strict=True))
    return (difference / sum(float(b.double().norm() ** 2) for b in wanted)) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["any", "no length", "profile", "front", "back"])
@pytest.mark.parametrize("scaled", [False, True])
def test_affine_maps_and_their_gradients_are_those_of_the_formula(dtype, kind, scaled) -> None:
    g = torch.Generator().manual_seed(SEED)
    width = 0.5 + torch.rand(2, 3, 12, generator=g, dtype=torch.float64).to(DEVICE)  # more samples than poses
    pulls = [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((2, 3, 12, 2, 2), (2, 3, 12, 2))]
    if not scaled:
        pulls = [pull[0] for pull in pulls]
    results = []
    for backend, kept in (("torch", torch.float64), ("triton", dtype)):
        # In exact float32 steps, so that both see the same pose.
        inputs = [pose(kind).float().to(kept).requires_grad_()]
        if scaled:
            inputs.append(width.float().to(kept).requires_grad_())
        puppet = PUPPET.to(DEVICE, kept)
        outputs = part_affines(inputs[0], puppet, inputs[1] if scaled else 1.3, (32, 32), backend)
        found = torch.autograd.grad(outputs[:2], inputs, [pull.to(DEVICE, kept) for pull in pulls])
        results.append((list(outputs), list(found)))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for found, wanted in zip(results[1], results[0], strict=True):
        assert distance(found, wanted) < tolerance, f"seed {SEED}"
        assert all(bool(value.isfinite().all()) for value in found)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_hiding_and_its_gradient_are_those_of_the_formula(dtype, tolerance) -> None:
    g = torch.Generator().manual_seed(SEED)
    depth = 3 + torch.rand(3, 17, generator=g, dtype=torch.float64)
    depth[0, JOINT["left_wrist"]] = -9.0  # a part behind the camera counts as nearest
    pull = torch.randn(3, 12, 12, generator=g, dtype=torch.float64)
    wanted, found = [], []
    for backend, kept in (("torch", torch.float64), ("triton", dtype)):
        leaf = depth.float().to(DEVICE, kept).requires_grad_()
        if backend == "torch":
            hides = hiding_of_joints(leaf, SHARPNESS, PUPPET.joints)
        else:
            from posegeom.kernels.segmentation_hiding import part_hiding

            hides = part_hiding(leaf, SHARPNESS, PUPPET)
        into = wanted if backend == "torch" else found
        into += [hides, *torch.autograd.grad(hides, leaf, pull.to(DEVICE, kept))]
    assert distance(found[:1], wanted[:1]) < tolerance, f"seed {SEED}"
    assert distance(found[1:], wanted[1:]) < tolerance, f"seed {SEED}"


def test_anchors_that_learn_take_the_plain_form() -> None:
    puppet = PUPPET.to(DEVICE, torch.float64)
    learning = pg.Puppet(
        puppet.shape,
        puppet.uncertainty,
        puppet.anchors.clone().requires_grad_(),
        puppet.anchor_counts,
        puppet.joints,
        puppet.parts,
        puppet.skeleton,
    )
    maps = pg.part_maps(pose("any"), learning, (16, 16), backend="triton")
    assert float(torch.autograd.grad(maps.shape.sum(), learning.anchors)[0].abs().sum()) > 0


def test_a_nan_joint_stays_with_its_parts() -> None:
    p = pose("any")
    p[1, JOINT["left_wrist"]] = float("nan")
    p[2, JOINT["left_hip"]] = float("nan")
    plain, kernel = (
        part_affines(p, PUPPET.to(DEVICE, torch.float64), 1.0, None, how)[0] for how in ("torch", "triton")
    )
    assert torch.equal(plain.isnan(), kernel.isnan())
    assert int(kernel[1].isnan().any(-1).any(-1).sum()) == 1


def test_no_poses_give_no_maps() -> None:
    nothing = torch.zeros(0, 17, 2, device=DEVICE)
    linear, mu, _ = part_affines(nothing, PUPPET.to(DEVICE), 1.0, None, "triton")
    assert linear.shape == (0, 12, 2, 2)
    assert mu.shape == (0, 12, 2)
