"""The kernels of cameras against the plain forms in float64, on fresh random input.

Runs on a GPU, or in Triton's interpreter (TRITON_INTERPRET=1, as `make test` does). What is refused, and who decides
it, is tested everywhere.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import posegeom as pg
from posegeom.camera import NEAREST
from tests.cases import DEVICE, INTERPRETED

RUNS = INTERPRETED or DEVICE == "cuda"
with_kernels = pytest.mark.skipif(not RUNS, reason="Triton kernels need a GPU or TRITON_INTERPRET=1")
SEED = random.randrange(2**31)
NAN, INF = math.nan, math.inf
CAMERA = pg.PerspectiveCamera((120.0, 110.3), (30.1, 70.0), (64, 80))  # its centre lies below the image
CENTRED = pg.PerspectiveCamera(128.0, None, (128, 128))

Call = Callable[..., object]


def projection(points: Tensor, backend: str) -> object:
    return pg.project(points, CAMERA, backend)


def rotation(azimuth: Tensor, elevation: Tensor, roll: Tensor, backend: str) -> object:
    return pg.camera_rotation(azimuth, elevation, roll, backend=backend)


def angles(sincos: Tensor, backend: str) -> object:
    return pg.angles_from_sincos(sincos, backend)


def translation(raw: Tensor, backend: str) -> object:
    return pg.bounded_translation(raw, CAMERA, 1.1, 2.7, backend)


def results(found: object) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else tuple(found)  # type: ignore[arg-type]


def given(call: Call, *batch: int) -> list[Tensor]:
    """Random input of an operator in float64, in exact float32 steps."""
    g = torch.Generator().manual_seed(SEED)

    def draw(*shape: int) -> Tensor:
        return torch.randn((*batch, *shape), generator=g).double().to(DEVICE)

    if call is projection:
        points = draw(17, 3)
        points[..., 2] += 1.5  # most points lie before the camera, and some behind
        return [points.float().double()]
    if call is rotation:
        return [draw() * 4, draw() * 4, draw() * 4]
    return [draw(3, 2)] if call is angles else [draw(3) * 2]


def both(call: Call, values: list[Tensor], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Results and gradients of the kernel in `dtype`, and of the formula in float64."""
    found = []
    for backend, kept in (("triton", dtype), ("torch", torch.float64)):
        inputs = [value.detach().clone().to(kept).requires_grad_() for value in values]
        values_out = results(call(*inputs, backend))
        assert all(value.dtype == kept for value in values_out)
        g = torch.Generator().manual_seed(SEED)
        pulls = [torch.randn(value.shape, generator=g).to(dtype).to(DEVICE, kept) for value in values_out]
        gradients = torch.autograd.grad(values_out, inputs, pulls)
        assert all(gradient.dtype == kept for gradient in gradients)
        found.append([*(value.detach() for value in values_out), *gradients])
    return found[0], found[1]


def assert_near(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for value, exact in zip(found, wanted, strict=True):
        assert value.shape == exact.shape
        assert bool(value.isfinite().all())
        error = float((value.double() - exact).norm())
        assert error <= tolerance * float(exact.norm()), f"seed {SEED}: {error}"


CALLS = [projection, rotation, angles, translation]
every_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
poisoned = pytest.mark.usefixtures("unwritten_memory_is_nan")
single_and_double = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])


@with_kernels
@poisoned
@every_call
@single_and_double
def test_results_and_gradients_are_those_of_the_formula(call, dtype, tolerance):
    # 150: a full program and a part of one.
    assert_near(*both(call, given(call, 150), dtype), tolerance)
    assert_near(*both(call, given(call), dtype), tolerance)
    assert_near(*both(call, given(call, 2, 1, 3), dtype), tolerance)


@with_kernels
@poisoned
@every_call
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_half_precision_is_computed_in_single(call, dtype, tolerance):
    values = [value.to(dtype).double() for value in given(call, 40)]
    if call is projection:
        # Behind the camera pixels leave the range of float16, and twenty pixels off the axis it has few digits.
        values[0][..., 2] = values[0][..., 2].abs() + 1.0
    assert_near(*both(call, values, dtype), tolerance)


@with_kernels
@poisoned
@every_call
@pytest.mark.parametrize("layout", ["strided", "transposed", "expanded"])
def test_any_layout_of_inputs_and_gradients_gives_the_same_bits(call, layout):
    def laid(value: Tensor) -> Tensor:
        if layout == "strided":
            return torch.stack((value, torch.full_like(value, NAN)), dim=-1)[..., 0]
        if layout == "transposed":
            return value.mT.contiguous().mT
        return value[:1].expand_as(value)

    values = [value.float() for value in given(call, 3, 5)]
    if layout == "expanded":
        values = [value[:1].repeat(3, *(1,) * (value.ndim - 1)) for value in values]
    found = []
    for place in (laid, torch.Tensor.contiguous):
        inputs = [place(value).detach().requires_grad_() for value in values]
        out = results(call(*inputs, "triton"))
        pulls = [torch.linspace(-1, 1, value.numel(), device=DEVICE).view_as(value) for value in out]
        if layout == "expanded":
            pulls = [pull[:1].repeat(3, *(1,) * (pull.ndim - 1)) for pull in pulls]
        found.append([*out, *torch.autograd.grad(out, inputs, [place(pull) for pull in pulls])])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@with_kernels
@poisoned
@every_call
def test_an_empty_batch_has_empty_gradients(call):
    for batch in ((0,), (3, 0)):
        inputs = [value.requires_grad_() for value in given(call, *batch)]
        out = results(call(*inputs, "triton"))
        plain = results(call(*inputs, "torch"))
        assert [value.shape for value in out] == [value.shape for value in plain]
        gradients = torch.autograd.grad(out, inputs, [torch.ones_like(value) for value in out])
        assert [gradient.shape for gradient in gradients] == [value.shape for value in inputs]


@with_kernels
@every_call
def test_two_runs_give_the_same_bits(call):
    first, second = (both(call, given(call, 300), torch.float32)[0] for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@with_kernels
@every_call
def test_gradients_and_their_gradients_agree_with_finite_differences(call):
    inputs = [value.requires_grad_() for value in given(call, 2)]
    if call is projection:
        inputs = [
            torch.cat((value[..., :2], value[..., 2:].abs() + 0.5), -1).detach().requires_grad_() for value in inputs
        ]
    assert gradcheck(lambda *x: call(*x, "triton"), inputs, fast_mode=True)
    assert gradgradcheck(lambda *x: call(*x, "triton"), inputs, fast_mode=True, atol=1e-4)


@with_kernels
@every_call
def test_second_derivatives_are_those_of_the_formula(call):
    found = []
    for backend in ("triton", "torch"):
        inputs = [value.requires_grad_() for value in given(call, 4)]
        # Of a single result too: the gradient to the others is then none at all.
        first = results(call(*inputs, backend))[-1 if call is projection else 0]
        weight = torch.linspace(0.5, 1.5, first.numel(), dtype=first.dtype, device=DEVICE).view_as(first)
        out = (first**3 * weight).sum()
        gradients = torch.autograd.grad(out, inputs, create_graph=True)
        again = torch.autograd.grad(sum((gradient**2).sum() for gradient in gradients), inputs)
        found.append([*(gradient.detach() for gradient in gradients), *again])
    assert_near(found[0], found[1], 1e-12)


@with_kernels
@every_call
def test_batches_of_gradients_are_taken(call):
    inputs = [value.requires_grad_() for value in given(call, 3)]
    first = results(call(*inputs, "triton"))[0]
    pulls = torch.randn(4, *first.shape, generator=torch.Generator().manual_seed(SEED)).double().to(DEVICE)
    batched = torch.autograd.grad(first, inputs, pulls, is_grads_batched=True, retain_graph=True)
    for number, pull in enumerate(pulls):
        single = torch.autograd.grad(first, inputs, pull, retain_graph=True)
        assert_near([gradient[number] for gradient in batched], list(single), 1e-12)


@with_kernels
@every_call
def test_nan_and_infinity_go_where_the_formula_has_them(call):
    values = [value.float() for value in given(call, 40)]
    rows = [value.view(40, -1) for value in values]
    for number in range(24):
        row = rows[number % len(rows)]
        row[number, number // len(rows) % row.shape[1]] = (NAN, INF, -INF)[
            number % 3 if len(rows) == 1 else number // 3 % 3
        ]
    found = []
    for backend in ("triton", "torch"):
        inputs = [value.clone().requires_grad_() for value in values]
        out = results(call(*inputs, backend))
        pulls = [torch.linspace(1, 2, value.numel(), device=DEVICE).view_as(value) for value in out]
        found.append([value.detach() for value in (*out, *torch.autograd.grad(out, inputs, pulls))])
    for kernel, plain in zip(*found, strict=True):
        torch.testing.assert_close(kernel, plain, equal_nan=True, rtol=1e-4, atol=1e-4)
    assert bool(found[0][0].isnan().any())
    assert not bool(found[0][0][24:].isnan().any())


@with_kernels
@poisoned
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_at_and_behind_the_nearest_depth_the_gradient_is_that_of_clamp(dtype):
    nearest = torch.tensor(NEAREST, dtype=dtype)
    below = torch.nextafter(nearest, torch.tensor(0.0, dtype=dtype))
    depths = torch.stack((nearest, below, torch.tensor(-3.0, dtype=dtype), torch.tensor(0.0, dtype=dtype), nearest * 2))
    points = torch.stack((depths * 0 + 0.5, depths * 0 - 0.25, depths), -1).to(DEVICE)
    found = []
    for backend in ("triton", "torch"):
        given_points = points.clone().requires_grad_()
        pixels, depth = pg.project(given_points, CAMERA, backend)
        assert torch.equal(depth, points[:, 2])
        found.append([pixels.detach(), *torch.autograd.grad(pixels.sum(), given_points)])
    assert (found[0][1][:, 2] != 0).tolist() == [False, False, False, False, True]
    # Whether at the bound itself the gradient passes depends on the version of PyTorch.
    found[1][1][0, 2] = 0
    assert_near(found[0], [value.double() for value in found[1]], 1e-5 if dtype == torch.float32 else 1e-14)


@with_kernels
@poisoned
@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)])
def test_pixels_and_depth_may_be_used_alone(wanted):
    found = []
    for backend in ("triton", "torch"):
        (points,) = (value.requires_grad_() for value in given(projection, 5))
        out = pg.project(points, CAMERA, backend)
        found.append(list(torch.autograd.grad(sum((out[k] ** 2).sum() for k in wanted), points)))
    assert_near(*found, 1e-12)


@with_kernels
@poisoned
def test_angles_broadcast_and_each_has_a_gradient_of_its_own_shape_and_dtype():
    g = torch.Generator().manual_seed(SEED)
    shapes, kinds = ((4, 1), (3,), ()), (torch.float32, torch.float64, torch.float16)
    values = [
        torch.randn(shape, generator=g).half().to(DEVICE, kind) for shape, kind in zip(shapes, kinds, strict=True)
    ]
    found = []
    for backend in ("triton", "torch"):
        inputs = [value.clone().requires_grad_() for value in values]
        out = pg.camera_rotation(*inputs, backend=backend)
        assert (out.shape, out.dtype) == ((4, 3, 3, 3), torch.float32)
        weight = torch.linspace(-1, 2, out.numel(), device=DEVICE).view_as(out)
        gradients = torch.autograd.grad(out, inputs, weight)
        assert [(value.shape, value.dtype) for value in gradients] == list(zip(shapes, kinds, strict=True))
        found.append([out.detach(), *gradients])
    assert_near(found[0], [value.double() for value in found[1]], 1e-3)


@with_kernels
@poisoned
@single_and_double
def test_angles_of_every_direction_and_size(dtype, tolerance):
    turn = torch.linspace(-math.pi, math.pi, 2001, dtype=torch.float64)
    size = 10.0 ** torch.linspace(-17, 6, 2001, dtype=torch.float64)
    pairs = (torch.stack((turn.sin(), turn.cos()), -1) * size[:, None]).to(dtype).to(DEVICE)
    found = pg.angles_from_sincos(pairs, "triton").double()
    wanted = torch.atan2(pairs[:, 0].double(), pairs[:, 1].double())
    assert float((found - wanted).abs().max()) <= (1e-6 if dtype == torch.float32 else 2e-15)
    # Near an angle of zero the digits are counted from its size on.
    small = torch.stack((10.0 ** torch.linspace(-30, -1, 100), torch.ones(100)), -1).to(dtype).to(DEVICE)
    torch.testing.assert_close(pg.angles_from_sincos(small, "triton"), small[:, 0].atan(), rtol=tolerance / 4, atol=0.0)


@with_kernels
@poisoned
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_axes_negative_zeros_and_the_zero_pair(dtype):
    numbers = (0.0, -0.0, 1.0, -1.0, 1e-19, -1e-19, 1e-16)
    pairs = torch.tensor([(sine, cosine) for sine in numbers for cosine in numbers], dtype=dtype, device=DEVICE)
    found = []
    for backend in ("triton", "torch"):
        given_pairs = pairs.clone().requires_grad_()
        out = pg.angles_from_sincos(given_pairs, backend)
        found.append([out.detach(), *torch.autograd.grad(out.sum(), given_pairs)])
    (kernel, by_kernel), (plain, by_plain) = found
    torch.testing.assert_close(kernel, plain, rtol=1e-6, atol=0.0)
    # The two numbers of a gradient have one scale, and the plain form loses what is small beside the other.
    assert bool(((by_kernel - by_plain).norm(dim=-1) <= 1e-5 * by_plain.norm(dim=-1)).all())
    zero = pairs.abs().amax(-1) < 1e-18
    assert bool((found[0][0][zero] == 0).all())
    assert bool((found[0][1][zero] == 0).all())


@with_kernels
@poisoned
@single_and_double
def test_translations_of_numbers_of_every_size(dtype, tolerance):
    sizes = 10.0 ** torch.linspace(-30, 6, 73, dtype=torch.float64)
    numbers = torch.cat((sizes, -sizes, torch.zeros(1, dtype=torch.float64))).to(dtype).to(DEVICE)
    # In the middle of the image x is half its room times tanh, and the digits of a small x are all there.
    raw = torch.stack((numbers, -numbers, numbers * 0), -1)
    found = pg.bounded_translation(raw, CENTRED, 1.0, backend="triton").double()
    room = found[73 - 1, 0]  # tanh(1e6) = 1
    torch.testing.assert_close(found[:, 0], room * numbers.double().tanh(), rtol=tolerance / 10, atol=0.0)
    assert torch.equal(found[:, 1], -found[:, 0])
    # At both ends of the distance, at the near one of which no room is left along one axis.
    ends = numbers.new_tensor([[-2.0, 3.0, -80.0], [0.5, 0.1, 80.0], [7.0, -1e-3, -1e6], [1e6, -1e6, 1e6]])
    for camera in (CAMERA, CENTRED):
        near, exact = (
            pg.bounded_translation(ends.to(kept), camera, 1.3, 2.0, backend)
            for backend, kept in (("triton", dtype), ("torch", torch.float64))
        )
        assert_near([near], [exact], tolerance)


@every_call
def test_a_compiler_is_given_the_plain_form(call):
    torch._dynamo.reset()
    inputs = [value.requires_grad_() for value in given(call, 3)]
    compiled = torch.compile(lambda *x: call(*x, "auto"), fullgraph=True, dynamic=True, backend="aot_eager")
    plain = results(call(*inputs, "torch"))
    for got, wanted in zip(results(compiled(*inputs)), plain, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@every_call
def test_nobody_can_insist_on_a_kernel_while_compiling(call, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(ValueError, match=r"torch\.compile fuses this operator's plain PyTorch form itself"):
        call(*given(call, 3), "triton")


@every_call
def test_transforms_and_forward_mode_take_the_plain_form(call):
    values = given(call, 3)
    mapped = torch.vmap(lambda *x: results(call(*x, "auto")))(*values)
    for got, wanted in zip(mapped, results(call(*values, "torch")), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    tangents = [torch.ones_like(value) for value in values]
    _, pushed = torch.func.jvp(lambda *x: results(call(*x, "auto"))[0], tuple(values), tuple(tangents))
    assert bool((pushed != 0).any())
    with torch.autograd.forward_ad.dual_level():
        dual = [torch.autograd.forward_ad.make_dual(value, ones) for value, ones in zip(values, tangents, strict=True)]
        tangent = torch.autograd.forward_ad.unpack_dual(results(call(*dual, "auto"))[0]).tangent
    torch.testing.assert_close(tangent, pushed)


@pytest.mark.parametrize(
    ("camera", "radius", "why"),
    [
        (
            pg.PerspectiveCamera(torch.tensor([9.0, 9.0]), None, (8, 8)),
            1.0,
            "focal length and centre are Python numbers",
        ),
        (
            pg.PerspectiveCamera(9.0, torch.tensor([[3.0, 4.0]]), (8, 8)),
            1.0,
            "focal length and centre are Python numbers",
        ),
        (CAMERA, torch.tensor([1.0, 2.0]), "only a radius that is a Python number"),
    ],
)
def test_a_tensor_in_the_camera_takes_the_plain_form_and_its_gradient(camera, radius, why):
    camera = camera.to(DEVICE)
    values = [camera.focal, camera.center, radius]
    learned = next(value for value in values if isinstance(value, Tensor)).to(DEVICE).requires_grad_()
    camera = pg.PerspectiveCamera(*(learned if isinstance(v, Tensor) else v for v in values[:2]), camera.size)
    radius = learned if isinstance(radius, Tensor) else radius
    raw = torch.rand(2, 3, device=DEVICE)
    with pytest.raises(ValueError, match=rf'backend="triton" cannot run here: .*{why}.*use backend="auto" or "torch"'):
        pg.bounded_translation(raw, camera, radius, backend="triton")
    (gradient,) = torch.autograd.grad(pg.bounded_translation(raw, camera, radius).sum(), learned)
    assert bool((gradient != 0).any())
    if "radius" in why:
        return
    points = torch.rand(2, 5, 3, device=DEVICE) + 1
    with pytest.raises(ValueError, match=rf'backend="triton" cannot run here: .*{why}'):
        pg.project(points, camera, "triton")
    (gradient,) = torch.autograd.grad(pg.project(points, camera)[0].sum(), learned)
    assert bool((gradient != 0).any())


def test_a_lens_takes_the_plain_form():
    points = torch.rand(2, 5, 3, device=DEVICE) + 1
    lens = pg.PerspectiveCamera(100.0, None, (64, 64), (0.1, 0.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r'backend="triton" cannot run here: the kernel knows no lens'):
        pg.project(points, lens, "triton")
    assert torch.equal(pg.project(points, lens)[0], pg.project(points, lens, "torch")[0])


@every_call
def test_an_unknown_backend_is_refused(call):
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'torch', 'triton', got 'cuda'"):
        call(*given(call, 2), "cuda")


@pytest.mark.skipif(RUNS, reason="concerns machines where kernels cannot run")
@every_call
def test_asking_for_a_kernel_where_none_can_run_says_why(call):
    with pytest.raises(ValueError, match=r'backend="triton" cannot run here: the tensors are on cpu'):
        call(*given(call, 2), "triton")
