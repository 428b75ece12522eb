"""The argument checks that every public function shares: types, shapes, devices and plain numbers.

Only what is known without looking at a tensor's values is checked, so no check waits for a GPU,
breaks a `torch.compile` graph or stops `vmap`. Every message names the argument, what came and what
was expected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

Dimension = int | str
"""One entry of an expected shape: a size, or the name of a free size ("N", "*B" for leading dimensions)."""


def check_floating(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is a floating-point tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a floating-point torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got dtype {value.dtype}")


def check_integer(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is an integer tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be an integer torch.Tensor, got {type(value).__name__}")
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer tensor, got dtype {value.dtype}")


def check_shape(name: str, value: Tensor, expected: Sequence[Dimension], why: str = "") -> None:
    """Raise ValueError unless the trailing sizes of `value` are `expected`.

    A leading "*B" in `expected` allows any number of batch dimensions; other strings match any size.
    """
    wanted = list(expected)
    free = len(wanted) > 0 and wanted[0] == "*B"
    tail = wanted[1:] if free else wanted
    shape = tuple(value.shape)
    right = len(shape) >= len(tail) if free else len(shape) == len(tail)
    if right:
        for size, want in zip(shape[len(shape) - len(tail) :], tail, strict=True):
            if isinstance(want, int) and size != want:
                right = False
    if not right:
        form = ", ".join(str(want) for want in wanted)
        comma = "," if len(wanted) == 1 else ""
        reason = f" {why}" if why else ""
        raise ValueError(f"{name} must be ({form}{comma}){reason}, got {shape}")


def check_points(name: str, value: Any, joints: Dimension, dims: int, why: str = "") -> None:
    """Raise unless `value` is a floating-point (*B, joints, dims) tensor."""
    check_floating(name, value)
    check_shape(name, value, ("*B", joints, dims), why)


def check_same_device(**tensors: Any) -> None:
    """Raise ValueError unless all tensors among the arguments lie on the device of the first one."""
    given = [(name, value) for name, value in tensors.items() if isinstance(value, Tensor)]
    for name, value in given[1:]:
        first, reference = given[0]
        if value.device != reference.device:
            raise ValueError(f"{name} is on {value.device}, but {first} is on {reference.device}: expected one device")


def check_same_shape(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors have the shape of the first one."""
    first, *rest = tensors.items()
    for name, value in rest:
        if value.shape != first[1].shape:
            raise ValueError(
                f"{name} must have the shape of {first[0]}, {tuple(first[1].shape)}, got {tuple(value.shape)}"
            )


def check_batches(**shapes: Iterable[int]) -> tuple[int, ...]:
    """The shape that the arguments' leading dimensions broadcast to; raise ValueError unless they do."""
    try:
        return tuple(torch.broadcast_shapes(*(tuple(shape) for shape in shapes.values())))
    except RuntimeError:
        told = ", ".join(f"{tuple(shape)} of {name}" for name, shape in shapes.items())
        raise ValueError(f"leading dimensions *B must fit together, got {told}") from None


def check_broadcast(name: str, shape: Iterable[int], target: Iterable[int], form: str) -> None:
    """Raise ValueError unless `shape` broadcasts to exactly `target`; `form` says it in the reader's terms."""
    have, want = tuple(shape), tuple(target)
    fits = len(have) <= len(want) and all(a in (1, b) for a, b in zip(reversed(have), reversed(want), strict=False))
    if not fits:
        raise ValueError(f"{name} must be {form}, got {have}")


def check_number(name: str, value: Any, *, above: float | None = None, at_least: float | None = None) -> float:
    """Return a Python number as float; raise TypeError for anything else and ValueError outside the range."""
    if isinstance(value, bool) or not isinstance(value, int | float | Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(value)
    if not -math.inf < number < math.inf:
        raise ValueError(f"{name} must be a finite number, got {value}")
    if above is not None and not number > above:
        raise ValueError(f"{name} must be > {above:g}, got {value}")
    if at_least is not None and not number >= at_least:
        raise ValueError(f"{name} must be >= {at_least:g}, got {value}")
    return number


def check_size(size: Any, name: str = "size") -> tuple[int, int]:
    """Return an image size as (height, width) of positive ints."""
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        raise ValueError(f"{name} must be (height, width), got {size!r}")
    height, width = size
    for side in (height, width):
        if isinstance(side, bool) or not isinstance(side, Integral | torch.SymInt):
            raise TypeError(f"{name} must be (height, width) as ints, got {size!r}")
        if side < 1:
            raise ValueError(f"{name} must be (height, width) of at least 1, got {size!r}")
    return height, width


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def compute_dtype(value: Tensor) -> torch.dtype:
    """The dtype an operator computes in: float64 stays, everything smaller is float32."""
    return torch.float64 if value.dtype == torch.float64 else torch.float32
