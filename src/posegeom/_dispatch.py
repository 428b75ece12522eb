"""The one place that decides which form of an operator runs."""

from __future__ import annotations

import torch
from torch import Tensor


def runs_eagerly_on_cpu(*tensors: Tensor | None) -> bool:
    """True where an analytic backward written for the CPU may replace the reference.

    Not while compiling or exporting (the compiler fuses the reference itself), not under a functorch transform or
    forward-mode differentiation (an `autograd.Function` without a jvp would silently give zero), and not for tensor
    subclasses.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    if torch.autograd.forward_ad._current_level >= 0:
        return False
    return all(
        tensor is None
        or (
            type(tensor) in (Tensor, torch.nn.Parameter)
            and tensor.device.type == "cpu"
            and not torch._C._functorch.is_legacy_batchedtensor(tensor)  # autograd.grad(is_grads_batched=True)
        )
        for tensor in tensors
    )
