"""What every operator promises, checked for every case of cases.py.

On a machine with a GPU this runs there, kernels included. With TRITON_INTERPRET=1 the operators that have kernels run
them on the CPU, in Triton's interpreter; `make test` does both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import posegeom
from posegeom import _dispatch, camera, kinematics, maps, puppet, segmentation
from tests.cases import CASES as ALL_CASES
from tests.cases import DEVICE, INTERPRETED, Inputs, OpCase, outputs

CASES = [case for case in ALL_CASES if case.kernel or not INTERPRETED]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
FAST_ON_CPU = (
    ()
    if INTERPRETED or DEVICE != "cpu"
    else (
        "joint_heatmaps",
        "joint_heatmaps unweighted",
        "limb_maps",
        "limb_maps unweighted",
        "skeleton_image",
        "skeleton_image power 1, weighted",
    )
)

differentiable = pytest.mark.parametrize("case", [case for case in CASES if case.differentiable], ids=str)


def make(case: OpCase, dtype: torch.dtype = torch.float64, seed: int = 0) -> Inputs:
    values = case.inputs(torch.Generator().manual_seed(seed))
    return tuple(value.to(DEVICE, dtype if value.is_floating_point() else None) for value in values)


def leaves(case: OpCase, values: Inputs) -> Inputs:
    """Copies that require gradients where the case has them."""
    return tuple(
        value.detach().clone().requires_grad_(k not in case.constant and value.is_floating_point())
        for k, value in enumerate(values)
    )


def run(case: OpCase, values: Inputs, call: Callable[..., object] | None = None) -> tuple[Inputs, Inputs]:
    """Outputs, and gradients of all of them under fixed random cotangents (none for a count)."""
    inputs = leaves(case, values) if case.differentiable else values
    results = outputs((call or case.call)(*inputs))
    if not case.differentiable:
        return results, ()
    generator = torch.Generator().manual_seed(7)
    cotangents = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r) for r in results]
    wanted = [value for value in inputs if value.requires_grad]
    return results, torch.autograd.grad(results, wanted, cotangents)


def assert_same(first: Sequence[Tensor], second: Sequence[Tensor], **tolerance: float) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


def test_every_operator_has_a_case() -> None:
    functions = {name for name in posegeom.__all__ if name.islower() and callable(getattr(posegeom, name))}
    assert functions == {case.name.split()[0] for case in ALL_CASES}


@pytest.mark.parametrize("case", [case for case in CASES if case.kernel], ids=str)
def test_kernels_run_where_they_can_and_only_there(case: OpCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, a wrong dispatch would let every other test here compare the reference with itself."""
    seen = []

    def watch(module: ModuleType, name: str) -> None:
        decide = getattr(_dispatch, name)

        def watched(*arguments: object, **options: str) -> bool:
            seen.append(decide(*arguments, **options))
            return seen[-1]

        monkeypatch.setattr(module, name, watched)

    for module in (kinematics, maps, puppet, segmentation):
        watch(module, "runs_triton")
    watch(camera, "runs_triton_eagerly")
    run(case, make(case))
    assert seen
    assert seen[0] == (INTERPRETED or DEVICE == "cuda")


@differentiable
def test_gradients_agree_with_finite_differences(case: OpCase) -> None:
    inputs = leaves(case, make(case))
    assert gradcheck(lambda *x: outputs(case.call(*x)), inputs, fast_mode=True, check_forward_ad=True)


@differentiable
def test_gradients_of_gradients_agree_with_finite_differences(case: OpCase) -> None:
    inputs = leaves(case, make(case))
    if not case.smooth:
        # Linear: the gradient does not depend on the input, which leaves nothing to differentiate.
        _, first = run(case, make(case))
        _, second = run(case, tuple(2 * x if x.is_floating_point() else x for x in make(case)))
        assert_same(first, second, rtol=1e-12, atol=1e-12)
        return
    assert gradgradcheck(lambda *x: outputs(case.call(*x)), inputs, fast_mode=True, atol=1e-4)


# torch.compile cannot take a torch.Generator; the random rotation is compiled without one, further down.
@pytest.mark.parametrize("case", [case for case in CASES if case.name != "elevation_azimuth_rotation"], ids=str)
def test_compiles_into_one_dynamic_graph(case: OpCase) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(case.call, fullgraph=True, dynamic=True, backend="aot_eager")
    for values in (make(case), tuple(_repeated(case, k, x) for k, x in enumerate(make(case, seed=1)))):
        expected, got = run(case, values), run(case, values, compiled)
        assert_same(expected[0], got[0], rtol=1e-9, atol=1e-9)
        assert_same(expected[1], got[1], rtol=1e-9, atol=1e-9)


def test_random_rotation_compiles_without_a_generator() -> None:
    compiled = torch.compile(posegeom.elevation_azimuth_rotation, fullgraph=True, dynamic=True, backend="aot_eager")
    for elevation in (torch.linspace(-0.3, 0.4, 5, device=DEVICE), torch.linspace(-0.1, 0.2, 7, device=DEVICE)):
        torch.manual_seed(3)
        expected = posegeom.elevation_azimuth_rotation(elevation)
        torch.manual_seed(3)
        assert_same([compiled(elevation)], [expected], rtol=1e-6, atol=1e-6)


def _repeated(case: OpCase, position: int, value: Tensor) -> Tensor:
    """Another batch size, so that a graph specialised to the first one would show."""
    return value if position in case.shared else torch.cat((value, value, value[:1]))


@pytest.mark.parametrize("case", [case for case in CASES if case.inductor], ids=str)
def test_compiles_with_inductor(case: OpCase) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(case.call, fullgraph=True, dynamic=True)
    values = make(case, torch.float32)
    expected, got = run(case, values), run(case, values, compiled)
    assert_same(expected[0], got[0], rtol=1e-4, atol=1e-4)
    assert_same(expected[1], got[1], rtol=1e-3, atol=1e-3)


FAST_PUPPETS = ("part_maps", "puppet_segmentation", "puppet_segmentation of an arm") if FAST_ON_CPU else ()


@pytest.mark.parametrize("case", [case for case in CASES if case.name in FAST_ON_CPU + FAST_PUPPETS], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fast_cpu_path_agrees_with_the_reference(
    case: OpCase, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = make(case, dtype)
    rounded = tuple(value.round() if value.shape[-1] == 2 else value for value in values)  # bones through pixels
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for given in (values, rounded):
        torch.use_deterministic_algorithms(True)  # fills new memory with NaN: an element left unwritten shows
        try:
            fast = run(case, given)
        finally:
            torch.use_deterministic_algorithms(False)
        with monkeypatch.context() as patch:
            for module in (maps, puppet, segmentation):
                patch.setattr(module, "runs_eagerly_on_cpu", lambda *tensors: False)
            reference = run(case, given)
        _assert_close_in_norm((*fast[0], *fast[1]), (*reference[0], *reference[1]), tolerance)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in FAST_ON_CPU], ids=str)
def test_fast_cpu_path_takes_batched_gradients_other_devices_and_in_place_edits(case: OpCase) -> None:
    inputs = leaves(case, make(case))
    (result,) = outputs(case.call(*inputs))
    cotangents = torch.randn(4, *result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(1))
    batched = torch.autograd.grad(result, inputs, cotangents, is_grads_batched=True, retain_graph=True)
    for k, cotangent in enumerate(cotangents):
        single = torch.autograd.grad(result, inputs, cotangent, retain_graph=True)
        _assert_close_in_norm([gradient[k] for gradient in batched], single, 1e-10)
    with torch.device("meta"):
        (elsewhere,) = outputs(case.call(*inputs))
        gradients = torch.autograd.grad(elsewhere.sum(), inputs)
    assert_same([elsewhere], [result])
    assert all(gradient.device.type == "cpu" for gradient in gradients)
    with torch.no_grad():
        edited = outputs(case.call(*inputs))[0]
        edited[0] = 0
    outputs(case.call(*inputs))[0].mul(2).clamp_(0, 1).sum().backward()


def _assert_close_in_norm(got: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    for a, b in zip(got, expected, strict=True):
        a, b = a.detach(), b.detach()
        assert float((a - b).norm()) <= tolerance * max(float(b.norm()), 1e-3)


@pytest.mark.parametrize("case", [case for case in CASES if not case.scalar], ids=str)
def test_vmap_is_the_batch(case: OpCase) -> None:
    values = make(case)
    dims = tuple(None if k in case.shared else 0 for k in range(len(values)))
    mapped = torch.vmap(lambda *x: outputs(case.call(*x)), in_dims=dims)(*values)
    assert_same(outputs(case.call(*values)), mapped, rtol=1e-10, atol=1e-10)


@differentiable
def test_reverse_and_forward_jacobians_agree(case: OpCase) -> None:
    values = tuple(x if k in case.shared else x[:2] for k, x in enumerate(make(case)))
    if case.name.startswith("deformation_loss"):
        values = (*values[:2], torch.tensor([[0, 1]], device=DEVICE))
    active = tuple(k for k, x in enumerate(values) if x.is_floating_point() and k not in case.constant)

    def call(*x: Tensor) -> Inputs:
        # A projection keeps image outputs cheap; the projection is the same for both.
        return tuple(
            (r * torch.linspace(0.5, 1.5, r.numel(), device=r.device).view(r.shape)).sum()
            for r in outputs(case.call(*x))
        )

    reverse = torch.func.jacrev(call, argnums=active)(*values)
    forward = torch.func.jacfwd(call, argnums=active, randomness="same")(*values)
    for a, b in zip(reverse, forward, strict=True):
        assert_same(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case.half], ids=str)
def test_half_precision_is_computed_in_float32(case: OpCase, dtype: torch.dtype) -> None:
    values = make(case, dtype)
    widened = tuple(value.float() if value.is_floating_point() else value for value in values)
    got = outputs(case.call(*values))
    expected = outputs(case.call(*widened))
    floating = [k for k, value in enumerate(expected) if value.is_floating_point()]
    # The interpreter truncates to bfloat16, where compiled kernels round to nearest.
    rough = {"rtol": 2**-7, "atol": 1e-30} if INTERPRETED and dtype == torch.bfloat16 else {}
    assert_same([got[k] for k in floating], [expected[k].to(dtype) for k in floating], **rough)


@every_case
def test_autocast_changes_nothing(case: OpCase) -> None:
    values = make(case, torch.float32)
    expected = run(case, values)

    def under_autocast(*inputs: Tensor) -> object:
        with torch.autocast(DEVICE, torch.bfloat16):
            return case.call(*inputs)

    got = run(case, values, under_autocast)
    assert_same(expected[0], got[0])
    assert_same(expected[1], got[1])


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dtype_and_gradient_dtype_are_those_of_the_input(case: OpCase, dtype: torch.dtype) -> None:
    results, gradients = run(case, make(case, dtype))
    if not case.constant or case.differentiable:
        assert all(value.dtype == dtype for value in results if value.is_floating_point())
    assert all(gradient.dtype == dtype for gradient in gradients)


def _every_other(value: Tensor) -> Tensor:
    """The same values, each with a gap behind it in memory."""
    return torch.stack((value, torch.zeros_like(value)), dim=-1)[..., 0]


def _backwards(value: Tensor) -> Tensor:
    """The same values, stored with the axes in reverse order."""
    order = list(range(value.ndim))[::-1]
    return value.permute(order).contiguous().permute(order)


@every_case
@pytest.mark.parametrize("layout", [_every_other, _backwards], ids=["strided", "permuted"])
def test_memory_layout_does_not_matter(case: OpCase, layout: Callable[[Tensor], Tensor]) -> None:
    values = make(case)
    expected = run(case, values)
    got = run(case, values, lambda *inputs: case.call(*map(layout, inputs)))
    assert_same(expected[0], got[0], rtol=1e-12, atol=1e-12)
    assert_same(expected[1], got[1], rtol=1e-12, atol=1e-12)


@every_case
def test_expanded_inputs_equal_copies(case: OpCase) -> None:
    values = make(case)

    def spread(value: Tensor, position: int, copy: bool) -> Tensor:
        if position in case.shared:
            return value
        expanded = value[:1].expand(value.shape)
        return expanded.contiguous() if copy else expanded

    copies = tuple(spread(value, k, True) for k, value in enumerate(values))
    views = tuple(spread(value, k, False) for k, value in enumerate(values))
    assert_same(outputs(case.call(*copies)), outputs(case.call(*views)), rtol=1e-12, atol=1e-12)


@every_case
def test_empty_batch_gives_empty_or_zero_with_a_graph(case: OpCase) -> None:
    values = tuple(value if k in case.shared else value[:0] for k, value in enumerate(make(case)))
    if case.name.startswith("deformation_loss"):
        values = (*values[:2], values[2][:0])
    results, gradients = run(case, values)
    for result in results:
        assert result.numel() == 0 or bool((result == 0).all())
    for gradient in gradients:
        assert bool(gradient.isfinite().all())


DEGENERATE = [(case, special) for case in CASES for special in case.degenerate]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("case", "special"), DEGENERATE, ids=[f"{case.name}: {s.name}" for case, s in DEGENERATE])
def test_degenerate_inputs_have_finite_values_and_known_gradients(case: OpCase, special, dtype: torch.dtype) -> None:
    values = tuple(value.to(DEVICE, dtype if value.is_floating_point() else None) for value in special.inputs)
    inputs = leaves(case, values)
    results = outputs(case.call(*inputs))
    assert all(bool(result.isfinite().all()) for result in results)
    wanted = [k for k, value in enumerate(inputs) if value.requires_grad]
    gradients = torch.autograd.grad(sum(result.sum() for result in results), [inputs[k] for k in wanted])
    for k, gradient in zip(wanted, gradients, strict=True):
        assert bool(gradient.isfinite().all()), f"gradient of input {k}"
        if "wrist" in special.name:
            assert float(gradient.abs().max()) < 1e3  # not one over the rounding of a bone without length
        if k in special.gradients:
            torch.testing.assert_close(gradient.double().cpu(), special.gradients[k], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e6, 1e-12], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case.huge], ids=str)
def test_huge_and_tiny_inputs_stay_finite(case: OpCase, scale: float) -> None:
    values = make(case, torch.float32)
    scaled = tuple(
        (value / value.abs().max().clamp(min=1e-9) * scale if value.is_floating_point() else value) for value in values
    )
    results, gradients = run(case, scaled)
    assert all(bool(result.isfinite().all()) for result in results)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@every_case
def test_two_runs_agree_bit_for_bit(case: OpCase) -> None:
    values = make(case, torch.float32)
    copies = 2 if INTERPRETED else 40  # the interpreter runs one program after the other anyway
    values = tuple(v if k in case.shared else torch.cat([v] * copies) for k, v in enumerate(values))
    torch.set_num_threads(2)  # what could go in another order would, with more than one
    try:
        first, second = run(case, values), run(case, values)
    finally:
        torch.set_num_threads(1)
    assert_same(first[0], second[0])
    assert_same(first[1], second[1])
