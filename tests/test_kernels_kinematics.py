"""The kernels of forward kinematics against the plain form in float64, on fresh random poses of any skeleton.

Runs on a GPU, or in Triton's interpreter (TRITON_INTERPRET=1, as `make test` does).
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

import posegeom as pg
from tests.cases import DEVICE, INTERPRETED

pytestmark = [
    pytest.mark.usefixtures("unwritten_memory_is_nan"),
    pytest.mark.skipif(not INTERPRETED and DEVICE == "cpu", reason="Triton kernels need a GPU or TRITON_INTERPRET=1"),
]
SEED = random.randrange(2**31)
CHAIN = pg.Skeleton("chain", tuple(f"j{k}" for k in range(12)), tuple(range(-1, 11)), tuple(range(12)))
# The root is not the first joint, and children come before their parents.
BACKWARDS = pg.Skeleton("backwards", ("a", "b", "c", "d", "e"), (1, 2, 3, -1, 2), (0, 1, 2, 3, 4))
ONE = pg.Skeleton("one", ("a",), (-1,), (0,))
CROSS = pg.Skeleton("cross", ("a", "b", "c", "d"), (-1, 0, 0, 0), (0, 1, 3, 2), trunk=pg.Trunk(0, 1, 2, 3))
TWO = pg.Skeleton("two", ("a", "b"), (-1, 0), (0, 1))
SKELETONS = [pg.BODY_17, pg.HAND_21, CHAIN, BACKWARDS]


def given(skeleton: pg.Skeleton, batch: int) -> list[Tensor | None]:
    """Directions, hip angle and lengths in float64, in exact float32 steps."""
    g = torch.Generator().manual_seed(SEED)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).double().to(DEVICE)

    hip_angle = None if skeleton.trunk is None else draw(batch)
    return [draw(batch, len(skeleton.free_joints), 3), hip_angle, draw(batch, len(skeleton.bones))]


def both(
    skeleton: pg.Skeleton, values: list[Tensor | None], dtype: torch.dtype, frame: str = "limb"
) -> tuple[list[Tensor], list[Tensor]]:
    """Joints and gradients of the kernel in `dtype`, and of the formula in float64."""
    found = []
    for backend, kept in (("triton", dtype), ("torch", torch.float64)):
        inputs = [None if value is None else value.to(kept).requires_grad_() for value in values]
        directions, hip_angle, lengths = inputs
        assert directions is not None
        joints = pg.forward_kinematics(directions, hip_angle, skeleton, lengths, frame, backend)
        pull = torch.randn(joints.shape, generator=torch.Generator().manual_seed(SEED)).to(DEVICE, kept)
        active = [value for value in inputs if value is not None]
        gradients = torch.autograd.grad(joints, active, pull, allow_unused=True)
        # A tree whose joints all belong to the trunk uses no direction.
        found.append(
            [joints, *(torch.zeros_like(a) if g is None else g for g, a in zip(gradients, active, strict=True))]
        )
    return found[0], found[1]


def assert_near(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for value, exact in zip(found, wanted, strict=True):
        assert bool(value.isfinite().all())
        error = float((value.double() - exact).norm().detach())
        assert error <= tolerance * float(exact.norm().detach()), f"seed {SEED}"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("skeleton", "frame"),
    [*((skeleton, "limb") for skeleton in SKELETONS), (pg.BODY_17, "canonical")],
    ids=lambda value: getattr(value, "name", value),
)
def test_joints_and_gradients_are_those_of_the_formula(skeleton, frame, dtype, tolerance):
    # 37 samples: a full program and a part of one.
    assert_near(*both(skeleton, given(skeleton, 37), dtype, frame), tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    values = [value.to(dtype).double() for value in given(pg.BODY_17, 5) if value is not None]
    assert_near(*both(pg.BODY_17, values, dtype), 1e-2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_limb_along_the_axis_that_its_frame_follows_takes_the_same_fallback(dtype, tolerance):
    directions, hip_angle, lengths = given(pg.BODY_17, 6)
    assert directions is not None
    x, y = torch.tensor([1.0, 0.0, 0.0], device=DEVICE), torch.tensor([0.0, 1.0, 0.0], device=DEVICE)
    directions[0], directions[1], directions[2, ::2], directions[3, 1::3] = x.double(), -x.double(), 0.0, y.double()
    # Shoulders (of the neck, which points up) along X, and elbows along those, by 1e-7 and not at all.
    directions[4] = x.double()
    directions[4, :, 1] = 1e-7
    directions[5, :, :] = torch.tensor([-1e-20, 0.0, 0.0])
    assert_near(*both(pg.BODY_17, [directions, hip_angle, lengths], dtype), tolerance)


@pytest.mark.parametrize("kind", ["the skeleton's own", "one for all", "no batch"])
def test_lengths_of_every_kind_and_inputs_of_fewer_samples_broadcast(kind):
    g = torch.Generator().manual_seed(SEED)
    directions = torch.randn(2, 1, 13, 3, generator=g).to(DEVICE)
    hip_angle = torch.randn(3, generator=g).to(DEVICE)
    lengths = None if kind == "the skeleton's own" else torch.rand(16, generator=g).to(DEVICE)
    if kind == "no batch":
        directions, hip_angle = directions[0, 0], hip_angle[0]
    results = []
    for backend in ("triton", "torch"):
        active = [value.clone().requires_grad_() for value in (directions, hip_angle, lengths) if value is not None]
        joints = pg.forward_kinematics(*active[:2], pg.BODY_17, *active[2:], backend=backend)
        weight = torch.linspace(-1, 1, joints.numel(), device=DEVICE).view_as(joints)
        results.append([joints.detach(), *torch.autograd.grad(joints, active, weight)])
    assert results[0][0].shape == ((17, 3) if kind == "no batch" else (2, 3, 17, 3))
    assert_near(results[0], [value.double() for value in results[1]], 1e-5)


def test_a_skeleton_of_one_joint_is_at_the_origin():
    joints = pg.forward_kinematics(torch.empty(2, 0, 3, device=DEVICE), None, ONE, torch.empty(0, device=DEVICE))
    assert torch.equal(joints, torch.zeros(2, 1, 3, device=DEVICE))


def test_a_nan_goes_where_the_formula_has_it():
    directions, hip_angle, lengths = (value.float() for value in given(pg.BODY_17, 7) if value is not None)
    elbow = pg.BODY_17.free_joints.index(pg.BODY_17.index("left_elbow"))
    nan = float("nan")
    for sample, row in enumerate(((nan, 0, 0), (0, nan, nan), (1, nan, 2), (float("inf"), 1, 0))):
        directions[sample, elbow] = torch.tensor(row)
    hip_angle[4], lengths[5, 3] = nan, nan
    found = []
    for backend in ("triton", "torch"):
        inputs = [value.clone().requires_grad_() for value in (directions, hip_angle, lengths)]
        joints = pg.forward_kinematics(inputs[0], inputs[1], pg.BODY_17, inputs[2], backend=backend)
        pull = torch.linspace(1, 2, joints.numel(), device=DEVICE).view_as(joints)
        found.append([value.isnan() for value in (joints, *torch.autograd.grad(joints, inputs, pull))])
    for kernel, plain in zip(*found, strict=True):
        assert torch.equal(kernel, plain)
    joints = found[0][0]
    assert bool(joints[:6].any(-1).any(-1).all())
    assert not bool(joints[6].any())


@pytest.mark.parametrize("skeleton", [CROSS, TWO], ids=lambda skeleton: skeleton.name)
def test_the_smallest_trees(skeleton):
    assert_near(*both(skeleton, given(skeleton, 1), torch.float64), 1e-12)


def test_the_hip_angle_and_the_lengths_may_be_of_another_dtype():
    directions, hip_angle, lengths = (value for value in given(pg.BODY_17, 3) if value is not None)
    results = []
    for backend in ("triton", "torch"):
        inputs = [directions.float().requires_grad_(), hip_angle.requires_grad_(), lengths.half().requires_grad_()]
        joints = pg.forward_kinematics(inputs[0], inputs[1], pg.BODY_17, inputs[2], backend=backend)
        found = torch.autograd.grad(joints, inputs, torch.ones_like(joints))
        assert [value.dtype for value in found] == [torch.float32, torch.float64, torch.float16]
        results.append([joints.detach(), *found])
    assert_near(results[0], [value.double() for value in results[1]], 1e-3)


def test_a_measured_pose_comes_back_even_where_thighs_lie_along_the_axis():
    # The plain `local_directions` has to foresee what the kernel will do at the threshold of its fallback.
    g = torch.Generator().manual_seed(SEED)
    offset = 10 ** (-8 + 6 * torch.rand(200, 13, 1, generator=g))
    directions = torch.tensor([1.0, 0.0, 0.0]) + offset * torch.randn(200, 13, 3, generator=g)
    angle = torch.randn(200, generator=g)
    joints = pg.forward_kinematics(directions.to(DEVICE), angle.to(DEVICE), pg.BODY_17, backend="torch")
    pose = pg.local_directions(joints, pg.BODY_17)
    again = pg.forward_kinematics(pose.directions, pose.hip_angle, pg.BODY_17, pose.lengths, backend="triton")
    assert float((again - joints).abs().max()) < 2e-5, f"seed {SEED}"


@pytest.mark.skipif(DEVICE == "cpu", reason="PyTorch's square root on a CPU is not rounded to the nearest")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_bit_of_the_joints_is_that_of_the_plain_form(dtype):
    directions, _, lengths = given(pg.HAND_21, 1000)
    assert directions is not None
    assert lengths is not None
    directions[::7] = torch.tensor([1.0, 1e-7, 0.0], device=DEVICE).double()  # at the threshold of the fallback
    plain, kernel = (
        pg.forward_kinematics(directions.to(dtype), None, pg.HAND_21, lengths.to(dtype), backend=backend)
        for backend in ("torch", "triton")
    )
    assert torch.equal(plain, kernel)
