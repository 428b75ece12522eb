"""Unit vectors, rotations about an axis and Gram-Schmidt frames.

Nothing here is a matrix product, and vectors of two and three components are summed in index order: autocast and
TF32 cannot reach it, and two calls on the same numbers give the same bits whatever the batch is, which the closed
loop of `local_directions` relies on. Components come from `unbind`, whose backward is one operation; that of a
slice or an index is several for each component.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posegeom._checks import check_batches, check_floating, check_same_device, check_shape, compute_dtype

TINY = 1e-18
"""A vector whose largest component is below this counts as zero; its gradient, 1/|v|, stays finite above it."""

PARALLEL = 1e-12
"""Squared sine under which two vectors count as parallel."""


def unit_vector(vectors: Tensor, zero_to_x: bool = False) -> Tensor:
    """The unit vector v / |v| for (*B, D), at any scale from 1e-18 up.

    A zero vector gives zeros, or (1, 0, ...) with `zero_to_x`; its gradient is zero.
    """
    # The result does not depend on the vector's scale, so dividing by a scale without gradient first is
    # exact to every order, and keeps |v|² away from under- and overflow.
    scale = vectors.detach().abs().amax(-1, keepdim=True)
    zero = scale < TINY
    x_axis = torch.eye(1, vectors.shape[-1], dtype=vectors.dtype, device=vectors.device).squeeze(0)
    scaled = torch.where(zero, x_axis, vectors / torch.where(zero, 1.0, scale))
    unit = scaled / _squared_norm(scaled).sqrt()
    return unit if zero_to_x else torch.where(zero, 0.0, unit)


def safe_norm(vectors: Tensor, keepdim: bool = False) -> Tensor:
    """|v| over the last axis with gradient v / |v|, and gradient 0 at v = 0."""
    scale = vectors.detach().abs().amax(-1, keepdim=True)
    zero = scale < TINY
    scaled = vectors / torch.where(zero, 1.0, scale)
    squared = (scaled * scaled).sum(-1, keepdim=True)
    norm = torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt()) * scale
    return norm if keepdim else norm.squeeze(-1)


def _squared_norm(vectors: Tensor) -> Tensor:
    """|v|² over the last axis, summed in index order for two and three components."""
    squares = vectors * vectors
    if vectors.shape[-1] > 3:
        return squares.sum(-1, keepdim=True)
    return _in_order(squares).unsqueeze(-1)


def _in_order(terms: Tensor) -> Tensor:
    """The sum over the last axis in index order."""
    total, *rest = terms.unbind(-1)
    for term in rest:
        total = total + term
    return total


def dot(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ over the last axis, which is kept, (*B, 1), summed in index order."""
    return _in_order(a * b).unsqueeze(-1)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """The cross product a × b of 3-vectors, broadcasting."""
    (ax, ay, az), (bx, by, bz) = a.unbind(-1), b.unbind(-1)
    # torch.linalg.cross multiplies and adds in one step, and its u × u is not 0.
    return torch.stack((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx), dim=-1)


def rotate(matrix: Tensor, vectors: Tensor) -> Tensor:
    """R v for matrices (*B, 3, 3) and vectors (*B, 3), broadcasting."""
    first, second, third = matrix.unbind(-1)
    x, y, z = vectors.unsqueeze(-1).unbind(-2)
    return first * x + second * y + third * z


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The matrix product first · second of (*B, 3, 3) rotations."""
    columns = [rotate(first, column) for column in second.unbind(-1)]
    return torch.stack(columns, dim=-1)


def axis_rotation(angle: Tensor, axis: str) -> Tensor:
    """Right-handed rotation by `angle` (*B,) radians about the x, y or z axis, as (*B, 3, 3)."""
    c, s = torch.cos(angle), torch.sin(angle)
    one, zero = torch.ones_like(c), torch.zeros_like(c)
    rows = {
        "x": (one, zero, zero, zero, c, -s, zero, s, c),
        "y": (c, zero, s, zero, one, zero, -s, zero, c),
        "z": (c, -s, zero, s, c, zero, zero, zero, one),
    }[axis]
    return torch.stack(rows, dim=-1).reshape(*c.shape, 3, 3)


def gram_schmidt_frame(primary: Tensor, reference: Tensor) -> Tensor:
    """The right-handed orthonormal frame of a direction and a reference.

    With a = p/|p|, the columns are

        a,   b = (r − ⟨a, r⟩ a) / |r − ⟨a, r⟩ a|,   n = a × b.

    Args:
        primary: (*B, 3) the direction p that becomes the first axis; any length.
        reference: (*B, 3) the vector r that the second axis follows as far as it can; any length,
            broadcast against `primary`.

    Returns:
        (*B, 3, 3), columns a, b, n; determinant +1, in the dtype of `primary`.

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: an argument's last size is not 3, or the two lie on different devices.

    Degenerate cases: a zero `primary` gives a = (1, 0, 0) with zero gradient. A reference that is zero or
    almost parallel to p (|b⊥|² < 1e-12 |r|²) is replaced by +Z, and by +Y where +Z is parallel too; the
    frame then does not depend on it.

    Source: 004 §2, with the second axis made orthogonal to the first: the paper's a and b = +X are not,
    and n = a × b vanishes for a limb along ±X (docs/notes).

    Example:
        >>> import torch
        >>> from posegeom import gram_schmidt_frame
        >>> gram_schmidt_frame(torch.tensor([0.0, 0.0, 2.0]), torch.tensor([1.0, 0.0, 5.0]))
        tensor([[0., 1., 0.],
                [0., 0., 1.],
                [1., 0., 0.]])
    """
    for name, value in (("primary", primary), ("reference", reference)):
        check_floating(name, value)
        check_shape(name, value, ("*B", 3))
    check_same_device(primary=primary, reference=reference)
    check_batches(primary=primary.shape[:-1], reference=reference.shape[:-1])
    dtype = compute_dtype(primary)
    first, second = torch.broadcast_tensors(primary.to(dtype), reference.to(dtype))
    axes = frame_axes(unit_vector(first, zero_to_x=True), unit_vector(second))
    return torch.stack(axes, dim=-1).to(primary.dtype)


def frame_axes(a: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The columns a, b, n of `gram_schmidt_frame` from a itself and a reference of length one or zero, unchecked."""
    _, along_y, along_z = torch.eye(3, dtype=a.dtype, device=a.device).unbind(0)
    across = _across(a, reference)
    # Which vector is followed has no gradient. The last one cannot be parallel where the one before it is.
    upright, along = a.detach(), across.detach()
    spare = torch.where(_squared_norm(_across(upright, along_z)) < PARALLEL, along_y, along_z)
    across = torch.where(_squared_norm(along) < PARALLEL, _across(a, spare), across)
    b = unit_vector(across, zero_to_x=True)
    # Once more: just above the threshold, rounding leaves a part along a of 5 % in float32.
    b = unit_vector(_across(a, b), zero_to_x=True)
    return a, b, cross(a, b)


def _across(axis: Tensor, vectors: Tensor) -> Tensor:
    """The part of `vectors` that is orthogonal to the unit vector `axis`."""
    return vectors - dot(axis, vectors) * axis
