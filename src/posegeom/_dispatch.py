"""The one place that decides which form of an operator runs: plain PyTorch, its fast form on the CPU, or Triton."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from posegeom._checks import check_choice

BACKENDS = ("auto", "torch", "triton")

HAS_TRITON = find_spec("triton") is not None

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Whether Triton will run its kernels on the CPU, for tests; it reads the variable once, when it is imported."""


def runs_triton(backend: str, *values: object) -> bool:
    """True where an operator hands these tensors (other values do not count) to its Triton kernel.

    "auto" takes the kernel wherever it can run and is right, "torch" never; "triton" takes it or raises.

    Raises:
        ValueError: an unknown backend, or "triton" where no kernel can run; the message says why.
    """
    check_choice("backend", backend, BACKENDS)
    if backend == "torch":
        return False
    given = [value for value in values if isinstance(value, Tensor)]
    return _settled(backend, _obstacle(given))


def runs_triton_eagerly(backend: str, *values: object, unless: str = "") -> bool:
    """`runs_triton` for kernels that save launches and nothing else: inside `torch.compile` the plain form is taken.

    `unless` is the operator's own reason why its kernel cannot take this call, or empty.

    Raises:
        ValueError: as `runs_triton`.
    """
    check_choice("backend", backend, BACKENDS)
    if backend == "torch":
        return False
    if torch.compiler.is_compiling():
        unless = "torch.compile fuses this operator's plain PyTorch form itself"
    return _settled(backend, unless) and runs_triton(backend, *values)


def _settled(backend: str, reason: str) -> bool:
    """True without a reason against the kernel; with one False, or an error where the kernel was asked for."""
    if reason and backend == "triton":
        raise ValueError(f'backend="triton" cannot run here: {reason}; use backend="auto" or "torch"')
    return not reason


def _obstacle(tensors: Sequence[Tensor]) -> str:
    """Why Triton kernels cannot take these tensors; empty where they can."""
    device = tensors[0].device
    if device.type != "cuda" and not (INTERPRETED and device.type == "cpu"):
        return f"the tensors are on {device}, and Triton kernels run on CUDA devices (or with TRITON_INTERPRET=1)"
    if not HAS_TRITON:
        return "the package triton is not installed"
    # Not is_exporting(): PyTorch 2.11 takes that for true in everything it compiles.
    if torch.compiler._is_exporting_flag or _is_traced():
        return "an exported program takes the plain PyTorch form, which runs everywhere"
    if _is_transformed():
        return "torch.func transforms (vmap, grad, jvp, ...) take the plain PyTorch form"
    # A custom operator has no forward-mode rule, and would silently give a tangent of zero.
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation takes the plain PyTorch form"
    if not torch.compiler.is_compiling() and not all(_is_plain(tensor) for tensor in tensors):
        return "tensor subclasses and batched gradients take the plain PyTorch form"
    return ""


def runs_eagerly_on_cpu(*tensors: Tensor | None) -> bool:
    """True where an analytic backward written for the CPU may replace the reference.

    Not while compiling or exporting (the compiler fuses the reference itself), not under a functorch transform or
    forward-mode differentiation (an `autograd.Function` without a jvp would silently give zero), and not for tensor
    subclasses.
    """
    if torch.compiler.is_compiling() or _is_traced():
        return False
    if _is_transformed() or torch.autograd.forward_ad._current_level >= 0:
        return False
    return all(tensor is None or (_is_plain(tensor) and tensor.device.type == "cpu") for tensor in tensors)


def _is_transformed() -> bool:
    """Inside vmap, grad or jvp of torch.func. The compiler traces `is not None` here as true, whatever is there."""
    return isinstance(torch._C._functorch.peek_interpreter_stack(), torch._C._functorch.CInterpreter)


def _is_traced() -> bool:
    """Inside torch.jit.trace, which the older ONNX exporter uses."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _is_plain(tensor: Tensor) -> bool:
    """No subclass, and none of the hidden batches of autograd.grad(is_grads_batched=True)."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and not torch._C._functorch.is_legacy_batchedtensor(tensor)


def takes_reference(*gradients: Tensor) -> bool:
    """True where a backward on the CPU must be made of traceable, batchable, differentiable steps."""
    return torch.is_grad_enabled() or not runs_eagerly_on_cpu(*gradients)


def differentiate_reference(
    reference: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    gradient: Tensor | Sequence[Tensor],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of the reference to the inputs that need one, with a graph for the next derivative if one is built.

    `gradient` holds one tensor per output of the reference.
    """
    again = torch.is_grad_enabled()
    if not again:
        inputs = [value.detach().requires_grad_(need) for value, need in zip(inputs, needed, strict=True)]
    with torch.enable_grad():
        wanted = [value for value, need in zip(inputs, needed, strict=True) if need]
        found = iter(torch.autograd.grad(reference(*inputs), wanted, gradient, create_graph=again, allow_unused=True))
    return tuple(next(found) if need else None for need in needed)
