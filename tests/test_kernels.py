"""Triton kernels against the plain formulas in float64, on fresh random inputs, and their life as PyTorch operators.

Runs on a GPU, or in Triton's interpreter (TRITON_INTERPRET=1, as `make test` does); elsewhere only what concerns
machines without either. Agreement is the relative L2 distance, over all outputs and gradients of a call.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import posegeom as pg
from tests.cases import DEVICE, INTERPRETED

pytestmark = pytest.mark.usefixtures("unwritten_memory_is_nan")
RUNS = INTERPRETED or DEVICE == "cuda"
with_kernels = pytest.mark.skipif(not RUNS, reason="Triton kernels need a GPU or TRITON_INTERPRET=1")
SEED = random.randrange(2**31)
SIZES = [(1, 1), (7, 13), (65, 129)]
CHAIN = pg.Skeleton("chain", ("a", "b", "c", "d"), (-1, 0, 1, 1), (0, 1, 2, 3))
STAR = pg.Skeleton("star", tuple(f"j{k}" for k in range(25)), (-1, *(0,) * 24), tuple(range(25)))  # 24 parts
ONE_BONE = pg.Skeleton("stick", ("a", "b"), (-1, 0), (0, 1))


@dataclass(frozen=True)
class Call:
    """An operator, and how its tensors are made from a generator for a skeleton and an image size.

    `kinked`: its gradient jumps, where bilinear sampling goes from one pixel of a template to the next.
    """

    run: Callable[..., object]
    tensors: Callable[[torch.Generator, pg.Skeleton, tuple[int, int]], list[Tensor]]
    kinked: bool = False


def points(g: torch.Generator, skeleton: pg.Skeleton, size: tuple[int, int]) -> Tensor:
    return torch.rand(2, len(skeleton.joints), 2, generator=g, dtype=torch.float64) * torch.tensor(size).flip(0)


def spread(g: torch.Generator, *shape: int) -> Tensor:
    return 1 + 2 * torch.rand(*shape, generator=g, dtype=torch.float64)


def weights(g: torch.Generator, skeleton: pg.Skeleton) -> Tensor:
    return torch.rand(2, len(skeleton.joints), generator=g, dtype=torch.float64)


PUPPETS: dict[str, pg.Puppet] = {}


def puppet_of(skeleton: pg.Skeleton) -> pg.Puppet:
    """A template of noise, every pixel of which matters, in steps that half precision holds exactly."""
    if skeleton.name not in PUPPETS:
        made = pg.Puppet.capsules(skeleton, (9, 11))
        g = torch.Generator().manual_seed(SEED)
        shape, uncertainty = torch.randint(17, (2, *made.shape.shape), generator=g).double() / 16
        PUPPETS[skeleton.name] = pg.Puppet(
            shape, uncertainty, made.anchors.double().round(), made.anchor_counts, made.joints, made.parts, skeleton
        ).to(DEVICE)
    return PUPPETS[skeleton.name]


def with_template(skeleton: pg.Skeleton, shape: Tensor, uncertainty: Tensor) -> pg.Puppet:
    puppet = puppet_of(skeleton).to(dtype=shape.dtype)
    return pg.Puppet(
        shape, uncertainty, puppet.anchors, puppet.anchor_counts, puppet.joints, puppet.parts, puppet.skeleton
    )


CALLS = {
    "joint_heatmaps": Call(
        lambda k, size, p, **how: pg.joint_heatmaps(p, size, 2.5, **how),
        lambda g, k, size: [points(g, k, size)],
    ),
    "joint_heatmaps with sigma and visible": Call(
        lambda k, size, p, s, v, **how: pg.joint_heatmaps(p, size, s, v, **how),
        lambda g, k, size: [points(g, k, size), spread(g, len(k.joints)), weights(g, k)],
    ),
    "limb_maps": Call(
        lambda k, size, p, **how: pg.limb_maps(p, k.bones, size, 1.7, **how),
        lambda g, k, size: [points(g, k, size)],
    ),
    "limb_maps with width, stretch and visible": Call(
        lambda k, size, p, w, s, v, **how: pg.limb_maps(p, k.bones, size, w, s, v, **how),
        lambda g, k, size: [
            points(g, k, size),
            spread(g, 2, len(k.bones)),
            0.3 * spread(g, len(k.bones)),
            weights(g, k),
        ],
    ),
    "skeleton_image": Call(
        lambda k, size, p, **how: pg.skeleton_image(p, k.bones, size, 0.2, **how),
        lambda g, k, size: [points(g, k, size)],
    ),
    "skeleton_image power 1": Call(
        lambda k, size, p, **how: pg.skeleton_image(p, k.bones, size, 0.4, 1, **how),
        lambda g, k, size: [points(g, k, size)],
    ),
    "skeleton_image with visible": Call(
        lambda k, size, p, v, **how: pg.skeleton_image(p, k.bones, size, 0.2, 2, v, **how),
        lambda g, k, size: [points(g, k, size), weights(g, k)],
    ),
    "part_maps": Call(
        lambda k, size, p, w, **how: pg.part_maps(p, puppet_of(k).to(dtype=w.dtype), size, w, **how),
        lambda g, k, size: [points(g, k, size), spread(g, 2, 1)],
        kinked=True,
    ),
    "part_maps with a template to learn": Call(
        lambda k, size, p, s, u, **how: pg.part_maps(p, with_template(k, s, u), size, **how),
        lambda g, k, size: [points(g, k, size), *torch.rand(2, *puppet_of(k).shape.shape, generator=g).double()],
        kinked=True,
    ),
    "puppet_segmentation": Call(
        lambda k, size, p, d, w, **how: pg.puppet_segmentation(
            p, d, puppet_of(k).to(dtype=w.dtype), size, width_scale=w, **how
        ),
        lambda g, k, size: [points(g, k, size), spread(g, 2, len(k.joints)), spread(g, 2, 1)],
        kinked=True,
    ),
    "puppet_segmentation with a template to learn": Call(
        lambda k, size, p, d, s, u, **how: pg.puppet_segmentation(p, d, with_template(k, s, u), size, **how),
        lambda g, k, size: [
            points(g, k, size),
            spread(g, 2, len(k.joints)),
            *torch.rand(2, *puppet_of(k).shape.shape, generator=g).double(),
        ],
        kinked=True,
    ),
    "puppet_segmentation after the paper": Call(
        lambda k, size, p, d, **how: pg.puppet_segmentation(p, d, puppet_of(k).to(dtype=p.dtype), size, "paper", **how),
        lambda g, k, size: [points(g, k, size), spread(g, 2, len(k.joints))],
        kinked=True,
    ),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def evaluate(
    call: Call, skeleton: pg.Skeleton, size: tuple[int, int], values: list[Tensor], backend: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of them all under cotangents that depend on their shapes alone."""
    inputs = [value.detach().clone().requires_grad_() for value in values]
    result = call.run(skeleton, size, *inputs, backend=backend)
    results = [result] if isinstance(result, Tensor) else list(result)
    g = torch.Generator().manual_seed(SEED + 1)
    cotangents = [torch.randn(r.shape, generator=g, dtype=torch.float64).to(r) for r in results]
    return results, list(torch.autograd.grad(results, inputs, cotangents))


def distance(got: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative L2 distance of a pair of tensors."""
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        a, b = a.detach().double(), b.detach().double()
        worst = max(worst, float((a - b).norm() / b.norm().clamp(min=1e-6)))
        assert bool(a.isfinite().all()) or not bool(b.isfinite().all())
    return worst


def compare(call: Call, skeleton: pg.Skeleton, size: tuple[int, int], values: list[Tensor], tolerance: float) -> None:
    """The kernel, on these values, against the reference on the same values in float64."""
    got = evaluate(call, skeleton, size, values, "triton")
    expected = evaluate(call, skeleton, size, [value.double() for value in values], "torch")
    assert all(value.dtype == values[0].dtype for value in got[0])
    for kind, a, b in zip(("value", "gradient"), got, expected, strict=True):
        error = distance(a, b)
        if error > tolerance and kind == "gradient" and call.kinked:
            # A template's slope jumps at its pixels, and so does the gradient of a position that rounding moves across
            # one: in float32 that happens to the formula too, on the same values, and by as much.
            formula = evaluate(call, skeleton, size, values, "torch")[1]
            assert error <= 2 * distance(formula, b), f"{kind} differs by {error:.1e} (relative L2), seed {SEED}"
            continue
        assert error <= tolerance, f"{kind} differs by {error:.1e} (relative L2), seed {SEED}"


def make(call: Call, skeleton: pg.Skeleton, size: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    print(f"seed {SEED}")
    g = torch.Generator().manual_seed(SEED)
    return [value.to(DEVICE, dtype) for value in call.tensors(g, skeleton, size)]


@with_kernels
@every_call
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients_agree_with_the_formula(call: Call, size: tuple[int, int], dtype: torch.dtype) -> None:
    values = make(call, CHAIN, size, dtype)
    compare(call, CHAIN, size, values, 1e-5 if dtype == torch.float32 else 1e-10)


@with_kernels
@every_call
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_loses_only_what_its_result_cannot_hold(call: Call, dtype: torch.dtype) -> None:
    compare(call, CHAIN, (19, 23), make(call, CHAIN, (19, 23), dtype), 1e-2)


@with_kernels
@every_call
@pytest.mark.parametrize("skeleton", [ONE_BONE, STAR, pg.BODY_17], ids=lambda skeleton: skeleton.name)
def test_any_number_of_bones_and_parts(call: Call, skeleton: pg.Skeleton) -> None:
    compare(call, skeleton, (5, 9), make(call, skeleton, (5, 9), torch.float64), 1e-10)


@with_kernels
@every_call
@pytest.mark.parametrize("move", ["together", "far", "far apart"])
def test_degenerate_points(call: Call, move: str) -> None:
    values = make(call, CHAIN, (7, 13), torch.float64)
    if move == "together":
        values[0] = torch.zeros_like(values[0]) + 3.0
    elif move == "far":
        values[0] = values[0] + 1e5
    else:
        values[0] = (values[0] - 5.2) * 1e4
    compare(call, CHAIN, (7, 13), values, 1e-7)


@with_kernels
@every_call
def test_strides_of_inputs_and_gradients_do_not_matter(call: Call) -> None:
    values = make(call, CHAIN, (7, 13), torch.float64)
    straight = evaluate(call, CHAIN, (7, 13), values, "triton")

    def bent(skeleton: pg.Skeleton, size: tuple[int, int], *inputs: Tensor, backend: str) -> tuple[Tensor, ...]:
        spaced = [torch.stack((x, torch.full_like(x, 7.0)), -1).movedim(0, -1)[..., 0, :] for x in inputs]
        result = call.run(skeleton, size, *(x.movedim(-1, 0) for x in spaced), backend=backend)
        results = (result,) if isinstance(result, Tensor) else tuple(result)
        # Backward through a transposed copy hands the operator a gradient with strange strides.
        return tuple(
            r.transpose(-1, -2).clone(memory_format=torch.contiguous_format).transpose(-1, -2) for r in results
        )

    crooked = evaluate(Call(bent, call.tensors), CHAIN, (7, 13), values, "triton")
    assert distance(crooked[0], straight[0]) == 0
    assert distance(crooked[1], straight[1]) < 1e-12


@with_kernels
@pytest.mark.parametrize("hidden", ["all", "some", "nan"])
def test_bool_masks_hide_joints(hidden: str) -> None:
    g = torch.Generator().manual_seed(SEED)
    p = points(g, CHAIN, (7, 13)).to(DEVICE)
    visible = torch.tensor([[True, False, True, True], [False] * 4], device=DEVICE)
    if hidden == "all":
        visible = torch.zeros_like(visible)
    if hidden == "nan":
        p[0, 1], p[1] = float("nan"), float("nan")
    for run in (
        lambda p, how: pg.joint_heatmaps(p, (7, 13), 2.0, visible, backend=how),
        lambda p, how: pg.limb_maps(p, CHAIN.bones, (7, 13), 2.0, visible=visible, backend=how),
        lambda p, how: pg.skeleton_image(p, CHAIN.bones, (7, 13), 0.2, 2, visible, backend=how),
    ):
        results = []
        for how in ("triton", "torch"):
            leaf = p.clone().requires_grad_()
            value = run(leaf, how)
            (gradient,) = torch.autograd.grad(value.square().sum(), leaf)
            assert bool(value.isfinite().all())
            assert bool(gradient.isfinite().all())
            results.append((value, gradient))
        torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


@with_kernels
@every_call
def test_a_nan_joint_spoils_what_it_spoils_in_the_formula(call: Call) -> None:
    values = make(call, CHAIN, (7, 13), torch.float64)
    values[0][0, 3] = float("nan")
    with torch.no_grad():
        results = [call.run(CHAIN, (7, 13), *values, backend=how) for how in ("triton", "torch")]
    for a, b in zip(*([r] if isinstance(r, Tensor) else list(r) for r in results), strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert bool(a[1].isfinite().all())


@with_kernels
@every_call
def test_second_derivatives_are_those_of_the_formula(call: Call) -> None:
    values = make(call, CHAIN, (3, 4), torch.float64)
    found = []
    for how in ("triton", "torch"):
        inputs = [value.clone().requires_grad_() for value in values]
        result = call.run(CHAIN, (3, 4), *inputs, backend=how)
        results = [result] if isinstance(result, Tensor) else list(result)
        first = torch.autograd.grad(sum(r.square().sum() for r in results), inputs, create_graph=True)
        found.append(list(torch.autograd.grad(sum(f.square().sum() for f in first), inputs)))
    assert distance(found[0], found[1]) < 1e-9


@with_kernels
@every_call
def test_gradients_only_where_they_are_asked_for(call: Call) -> None:
    values = make(call, CHAIN, (5, 6), torch.float64)
    whole = evaluate(call, CHAIN, (5, 6), values, "triton")[1]
    for k in range(len(values)):
        inputs = [value.clone().requires_grad_(place == k) for place, value in enumerate(values)]
        result = call.run(CHAIN, (5, 6), *inputs, backend="triton")
        results = [result] if isinstance(result, Tensor) else list(result)
        g = torch.Generator().manual_seed(SEED + 1)
        cotangents = [torch.randn(r.shape, generator=g, dtype=torch.float64).to(r) for r in results]
        pairs = [(r, c) for r, c in zip(results, cotangents, strict=True) if r.requires_grad]
        torch.autograd.backward([r for r, _ in pairs], [c for _, c in pairs])
        assert distance([inputs[k].grad], [whole[k]]) < 1e-12
        assert all(value.grad is None for place, value in enumerate(inputs) if place != k)


@with_kernels
def test_one_output_alone_has_a_gradient() -> None:
    values = make(CALLS["puppet_segmentation"], CHAIN, (7, 13), torch.float64)
    for output in range(3):
        found = []
        for how in ("triton", "torch"):
            inputs = [value.clone().requires_grad_() for value in values]
            result = CALLS["puppet_segmentation"].run(CHAIN, (7, 13), *inputs, backend=how)
            found.append(list(torch.autograd.grad(result[output].square().sum(), inputs[0])))
        assert distance(found[0], found[1]) < 1e-10


@with_kernels
def test_part_gradients_of_two_runs_are_equal_bit_for_bit() -> None:
    call = CALLS["part_maps with a template to learn"]
    values = make(call, CHAIN, (33, 40), torch.float32)
    first, second = (evaluate(call, CHAIN, (33, 40), values, "triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def registered() -> list[tuple[object, tuple[object, ...]]]:
    """Every operator that a kernel is registered under, with arguments to call it with."""
    from posegeom.kernels import (
        kinematics,
        maps_heatmaps,
        maps_limbs,
        maps_skeleton,
        puppet,
        puppet_joints,
        segmentation,
        segmentation_hiding,
    )

    g = torch.Generator().manual_seed(SEED)
    p = points(g, CHAIN, (5, 6)).to(DEVICE).requires_grad_()
    joint, bone = (spread(g, 2, n).to(DEVICE).requires_grad_() for n in (4, 3))
    affine = [torch.randn(2, 3, *tail, generator=g, dtype=torch.float64) for tail in ((2, 2), (2,))]
    linear, mu = (value.to(DEVICE).requires_grad_() for value in affine)
    bar = torch.rand(3, 2, generator=g, dtype=torch.float64).to(DEVICE).requires_grad_()
    template = torch.rand(3, 5, 6, 2, generator=g, dtype=torch.float64).to(DEVICE).requires_grad_()
    hides = torch.rand(2, 3, 3, generator=g, dtype=torch.float64).to(DEVICE).requires_grad_()
    parents, children, f64 = [0, 1, 1], [1, 2, 3], torch.float64
    anchors, table = torch.rand(3, 4, 2, generator=g, dtype=f64).to(DEVICE), [0, 1, -1, -1, 1, 2, -1, -1, 0, 1, 2, 3]
    depth = spread(g, 2, 4).to(DEVICE).requires_grad_()

    def maps(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=f64).to(DEVICE)

    directions, angle, bones = (maps(*shape).requires_grad_() for shape in ((2, 1, 3), (2,), (2, 4)))
    trunk = ([], [-1, 0, 0, 0, 2], [0, 1, 2, 3], "limb")
    return [
        (kinematics._forward_kinematics, (directions, angle, bones, *trunk)),
        (
            kinematics._forward_kinematics,
            (maps(2, 3, 3).requires_grad_(), None, None, [0.5] * 3, [-1, 0, 1, 1], [], "limb"),
        ),
        (
            kinematics._forward_kinematics_backward,
            (maps(2, 5, 3), directions.detach(), angle.detach(), bones.detach(), *trunk),
        ),
        (
            kinematics._forward_kinematics_backward,
            (maps(2, 4, 3), maps(2, 3, 3), None, None, [0.5] * 3, [-1, 0, 1, 1], [], "canonical"),
        ),
        (maps_heatmaps._joint_heatmaps, (p, joint, joint, 0.0, 5, 6, f64)),
        (maps_heatmaps._joint_heatmaps, (p, None, None, 0.5, 5, 6, f64)),
        (maps_heatmaps._joint_heatmaps_backward, (maps(2, 4, 5, 6), p.detach(), None, joint.detach(), 0.5)),
        (maps_limbs._limb_maps, (p, bone, bone, bone, 0.0, 0.0, parents, children, 5, 6, f64)),
        (maps_limbs._limb_maps_backward, (maps(2, 3, 5, 6), p.detach(), None, None, None, 0.5, 0.3, parents, children)),
        (maps_skeleton._skeleton_image, (p, bone, parents, children, 0.2, 2, 5, 6, f64)),
        (maps_skeleton._skeleton_image_backward, (maps(2, 5, 6), p.detach(), None, parents, children, 0.2, 1)),
        (puppet._part_maps, (linear, mu, bar, template, 5, 6, f64)),
        (
            puppet._part_maps_backward,
            (*maps(2, 2, 3, 5, 6), *(x.detach() for x in (linear, mu, bar, template)), True),
        ),
        (segmentation._puppet_segmentation, (linear, mu, bar, template.detach(), hides, 5, 6, f64)),
        (
            segmentation._puppet_segmentation_backward,
            (maps(2, 4, 5, 6), *maps(2, 2, 5, 6), *(x.detach() for x in (linear, mu, bar, template, hides))),
        ),
        (puppet_joints._part_affines, (p, bone, anchors, 0.0, table)),
        (
            puppet_joints._part_affines_backward,
            (maps(2, 3, 2, 2), maps(2, 3, 2), p.detach(), None, anchors, 1.0, table),
        ),
        (segmentation_hiding._part_hiding, (depth, 9.0, table)),
        (segmentation_hiding._part_hiding_backward, (maps(2, 3, 3), depth.detach(), 9.0, table)),
    ]


@with_kernels
def test_registered_operators_pass_opcheck() -> None:
    operators = registered()
    assert len({id(operator) for operator, _ in operators}) == 16
    for operator, arguments in operators:
        torch.library.opcheck(operator, arguments)


@with_kernels
@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_forward_mode_and_vmap_never_meet_a_kernel(backend: str) -> None:
    p = torch.rand(2, 4, 2, device=DEVICE, dtype=torch.float64)

    def draw(p: Tensor) -> Tensor:
        return pg.joint_heatmaps(p, (5, 6), 2.0, backend=backend)

    if backend == "triton":
        with pytest.raises(ValueError, match=r'backend="triton" cannot run here: torch\.func'):
            torch.func.vmap(draw)(p)
        with pytest.raises(ValueError, match=r"forward-mode|torch\.func"):
            torch.func.jvp(draw, (p,), (p,))
        return
    tangent = torch.func.jvp(draw, (p,), (torch.ones_like(p),))[1]
    assert float(tangent.abs().sum()) > 0.1
    with torch.autograd.forward_ad.dual_level():
        dual = draw(torch.autograd.forward_ad.make_dual(p, torch.ones_like(p)))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, tangent)
    torch.testing.assert_close(torch.func.vmap(draw)(p), draw(p))


@with_kernels
@every_call
def test_compiled_programs_hold_the_kernels(call: Call) -> None:
    targets: list[str] = []

    def look(graph: torch.fx.GraphModule, inputs: object) -> object:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    puppet_of(CHAIN)  # made before: random numbers with a seed cannot be compiled
    values = make(call, CHAIN, (5, 6), torch.float64)
    compiled = torch.compile(lambda *x: call.run(CHAIN, (5, 6), *x, backend="auto"), backend=look, fullgraph=True)
    compiled(*values)
    assert any("posegeom." in target for target in targets)


@with_kernels
@pytest.mark.parametrize("weights", [(-0.5, -0.4, -1.0, -0.8), (-1.0, 0.5, -0.7, 0.2)], ids=str)
def test_negative_weights_are_no_special_case(weights: tuple[float, ...]) -> None:
    call = CALLS["skeleton_image with visible"]
    values = make(call, CHAIN, (40, 40), torch.float64)
    values[1] = torch.tensor(weights, dtype=torch.float64, device=DEVICE).expand(2, 4)
    compare(call, CHAIN, (40, 40), values, 1e-10)


@with_kernels
def test_huge_widths_and_far_points_have_the_gradients_of_the_formula() -> None:
    p = torch.tensor([[3.0, 3.0], [1e20, 2.0], [4.0, 1.0], [5.0, 5.0]], device=DEVICE)
    sigma = torch.tensor([1e25, 2.0, 1.0, 1.0], device=DEVICE)
    width = torch.tensor([1e30, 1.0, 1e19], device=DEVICE)
    found = []
    for how in ("triton", "torch"):
        inputs = [value.clone().requires_grad_() for value in (p, sigma, width)]
        maps = pg.joint_heatmaps(inputs[0], (7, 9), inputs[1], backend=how).sum()
        limbs = pg.limb_maps(inputs[0][[0, 2, 3]], [(0, 1), (1, 2), (0, 2)], (7, 9), inputs[2], backend=how).sum()
        found.append(
            [torch.autograd.grad(maps, inputs[:2], retain_graph=True), torch.autograd.grad(limbs, inputs[::2])]
        )
        assert all(bool(value.isfinite().all()) for pair in found[-1] for value in pair)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@with_kernels
def test_a_nan_joint_reaches_the_templates_gradient() -> None:
    call = CALLS["part_maps with a template to learn"]
    values = make(call, CHAIN, (7, 13), torch.float64)
    values[0][0, 3] = float("nan")
    assert bool(evaluate(call, CHAIN, (7, 13), values, "triton")[1][1].isnan().any())


@with_kernels
def test_export_takes_the_plain_form() -> None:
    class Draw(torch.nn.Module):
        def forward(self, p: Tensor) -> Tensor:
            return pg.skeleton_image(p, CHAIN.bones, (5, 6), 0.2)

    program = torch.export.export(Draw(), (torch.rand(2, 4, 2, device=DEVICE),))
    assert not any("posegeom" in str(node.target) for node in program.graph.nodes)


@pytest.mark.skipif(RUNS, reason="concerns machines where kernels cannot run")
@every_call
def test_asking_for_a_kernel_that_cannot_run_says_why(call: Call) -> None:
    values = make(call, CHAIN, (5, 6), torch.float64)
    with pytest.raises(ValueError, match=r'backend="triton" cannot run here: the tensors are on cpu'):
        call.run(CHAIN, (5, 6), *values, backend="triton")


@every_call
def test_an_unknown_backend_is_named(call: Call) -> None:
    values = make(call, CHAIN, (5, 6), torch.float64)
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'torch', 'triton', got 'cuda'"):
        call.run(CHAIN, (5, 6), *values, backend="cuda")


def test_without_triton_everything_runs_on_the_plain_form() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, posegeom as pg\n"
        "p = torch.rand(17, 2, requires_grad=True)\n"
        "pg.skeleton_image(p, pg.BODY_17.bones, (5, 6), 0.2).sum().backward()\n"
        "print(float(p.grad.abs().sum()) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.skipif(not RUNS or DEVICE == "cpu", reason="needs a GPU")
def test_more_than_two_to_the_31_elements() -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 12 * 2**30:
        pytest.skip("needs 12 GiB of free GPU memory")
    p = torch.rand(2**31 // (1024 * 1024) + 2, 1, 2, device=DEVICE) * 1023
    maps = pg.joint_heatmaps(p, (1024, 1024), 3.0, dtype=torch.bfloat16, backend="triton")
    expected = pg.joint_heatmaps(p[-1:], (1024, 1024), 3.0, backend="torch")
    assert maps.numel() > 2**31
    torch.testing.assert_close(maps[-1:].float(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@every_call
def test_kernels_run_on_the_device_of_their_tensors(call: Call) -> None:
    torch.cuda.set_device(0)
    g = torch.Generator().manual_seed(SEED)
    values = [value.to("cuda:1") for value in call.tensors(g, CHAIN, (7, 13))]
    if "puppet" in call.run.__code__.co_names or len(values) > 3:
        pytest.skip("the puppet of this file is on the first GPU")
    compare(call, CHAIN, (7, 13), values, 1e-10)
