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

pytestmark = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="Triton kernels need a GPU or TRITON_INTERPRET=1"
)
SEED = random.randrange(2**31)
CHAIN = pg.Skeleton("chain", tuple(f"j{k}" for k in range(12)), tuple(range(-1, 11)), tuple(range(12)))
# The root is not the first joint, and children come before their parents.
BACKWARDS = pg.Skeleton("backwards", ("a", "b", "c", "d", "e"), (1, 2, 3, -1, 2), (0, 1, 2, 3, 4))
ONE = pg.Skeleton("one", ("a",), (-1,), (0,))
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
        found.append([joints, *torch.autograd.grad(joints, active, pull)])
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


def test_a_nan_stays_in_the_limbs_that_hang_on_it():
    directions = torch.randn(2, 13, 3, device=DEVICE)
    elbow = pg.BODY_17.free_joints.index(pg.BODY_17.index("left_elbow"))
    directions[1, elbow, 1] = float("nan")
    joints = pg.forward_kinematics(directions, torch.zeros(2, device=DEVICE), pg.BODY_17, backend="triton")
    lost = {name for name, row in zip(pg.BODY_17.joints, joints[1], strict=True) if bool(row.isnan().any())}
    assert lost == {"left_elbow", "left_wrist"}
    assert bool(joints[0].isfinite().all())


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
def test_every_bit_is_that_of_the_plain_form():
    directions, _, lengths = given(pg.HAND_21, 1000)
    assert directions is not None
    assert lengths is not None
    plain, kernel = (
        pg.forward_kinematics(directions.float(), None, pg.HAND_21, lengths.float(), backend=backend)
        for backend in ("torch", "triton")
    )
    assert torch.equal(plain, kernel)
