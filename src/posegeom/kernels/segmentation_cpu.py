"""Puppet segmentation with an analytic backward for eager mode on the CPU.

Only the window of an image that some part covers is drawn, a few samples at a time, and of the L² factors of the
occlusion rule only those of a part on its own box; everywhere else they are 1. Nothing is kept of the drawing: the
backward draws it again. With `create_graph` the reference itself is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from posegeom._dispatch import takes_reference
from posegeom.kernels.puppet_cpu import (
    Lookup,
    Size,
    Slopes,
    compute_wild,
    differentiate_outputs,
    differentiate_wild,
)

Context = Any
Triple = tuple[Tensor, Tensor, Tensor]
Box = tuple[Any, slice, slice]

CHUNK = 1 << 17
"""Pixels of part maps, all samples and parts counted, that are worked on at a time: half a megabyte."""

STATE = 1 << 20
"""Numbers that the backward of the occlusion rule keeps for a strip of rows."""


class SegmentedParts(torch.autograd.Function):
    """m = s / Σ s, max_l φ_l and max_l ψ_l of parts that are looked up: see `puppet_segmentation`.

        s_l = φ_l Π_k (1 − o_lk φ_k),   s_bg = Π_k (1 − φ_k)

    The background is treated as one more part with φ = 1 that every other one hides: o_bg,k = 1.
    """

    @staticmethod
    def forward(
        ctx: Context,
        linear: Tensor,
        mu: Tensor,
        bar: Tensor,
        template: Tensor,
        hides: Tensor,
        size: Size,
        vanishing: float,
        reference: Callable[..., Triple],
    ) -> Triple:
        """Beyond the outputs only what a few samples need."""
        ctx.size, ctx.vanishing, ctx.reference = size, vanishing, reference
        ctx.save_for_backward(linear, mu, bar, template, hides)
        ctx.set_materialize_grads(False)
        looked = Lookup(linear, mu, bar, template, size, hides=hides)
        count = looked.count
        maps = linear.new_zeros(looked.samples, count + 1, *size)
        maps[:, count] = 1
        foreground, uncertainty = (linear.new_zeros(looked.samples, *size) for _ in range(2))
        hiding = _with_background(hides.reshape(looked.samples, count, count))
        for scene in _scenes(looked):
            phi, psi = _draw(looked, scene)
            foreground[scene.here] = phi.amax(1)
            uncertainty[scene.here] = psi.amax(1)
            visible = maps[scene.here]
            visible.fill_(1)
            visible[:, :count] = phi.clamp_(0, 1)
            for k, box in scene.boxes:
                visible[box].mul_(_factor(hiding[scene.samples, :, k], phi[:, k][box]))
            total = visible.sum(1, keepdim=True)
            visible.div_(torch.where(total < vanishing, 1.0, total))
        batch = linear.shape[:-3]
        maps, foreground, uncertainty = (v.view(*batch, *v.shape[1:]) for v in (maps, foreground, uncertainty))
        compute_wild(ctx, looked.wild, (linear, mu, bar, template, hides), (maps, foreground, uncertainty))
        if not any(ctx.needs_input_grad[:4]):
            ctx.mark_non_differentiable(foreground, uncertainty)  # they do not depend on who hides whom
        return maps, foreground, uncertainty

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """The drawing once more, then back through it, or the reference's own backward with create_graph."""
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[:5]
        if takes_reference(*(gradient for gradient in gradients if gradient is not None)):
            return (*differentiate_outputs(ctx, inputs, gradients), None, None, None)
        linear, mu, bar, template, hides = inputs
        batch = linear.shape[:-3]
        looked = Lookup(linear, mu, bar, template, ctx.size, whole=needed[3], hides=hides)
        slopes = Slopes(looked, needed[3])
        hiding = _with_background(hides.reshape(looked.samples, looked.count, looked.count))
        by_hiding = torch.zeros_like(hiding)
        by_maps, by_foreground, by_uncertainty = (
            None if gradient is None else gradient.reshape(looked.samples, *gradient.shape[len(batch) :])
            for gradient in gradients
        )
        for scene in _scenes(looked):
            phi, psi = _draw(looked, scene)
            by_phi = torch.zeros_like(phi)
            if by_maps is not None:
                by_phi, by_hiding[scene.samples] = _pull_visible(
                    phi, hiding[scene.samples], by_maps[scene.here], scene, ctx.vanishing
                )
            if by_foreground is not None:
                by_phi.add_(_pull_largest(phi, by_foreground[scene.here]))
            by_psi = None if by_uncertainty is None else _pull_largest(psi, by_uncertainty[scene.here])
            for pixels in looked.pixels(scene.samples, scene.window):
                pulls = (None if g is None else g.view(-1).index_select(0, pixels.place) for g in (by_phi, by_psi))
                slopes.add(pixels, *pulls)
        by_hiding[looked.wild] = 0
        by_hides = by_hiding[:, :-1].reshape(hides.shape) if needed[4] else None
        found = (*slopes.gradients(needed[:4]), by_hides)
        differentiate_wild(ctx, looked.wild, inputs, gradients, found)
        return (*found, None, None, None)


class Scene(NamedTuple):
    """Some samples and what of the image their parts cover."""

    samples: slice
    window: tuple[int, int, int, int]
    """Top, bottom, left and right, ends excluded."""
    boxes: list[tuple[int, Box]]
    """Numbers of the parts that are to be seen, with their boxes in the window."""

    @property
    def here(self) -> tuple[Any, ...]:
        """The index of this scene in (B, ..., H, W)."""
        return self.samples, *_box(*self.window)


def _box(top: int, bottom: int, left: int, right: int) -> Box:
    """The index of some rows and columns in (..., H, W)."""
    return ..., slice(top, bottom), slice(left, right)


def _scenes(looked: Lookup) -> Iterator[Scene]:
    """All samples, some at a time, without those in which nothing is seen."""
    step = max(CHUNK // max(looked.count * looked.size[0] * looked.size[1], 1), 1)
    for first in range(0, looked.samples, step):
        samples = slice(first, min(first + step, looked.samples))
        edges = looked.boxes[samples]
        tops, lefts = edges[..., ::2].amin(0).T.tolist()
        bottoms, rights = edges[..., 1::2].amax(0).T.tolist()
        top, bottom, left, right = min(tops), max(bottoms), min(lefts), max(rights)
        sides = zip(tops, bottoms, lefts, rights, strict=True)
        boxes = [(k, _box(a - top, b - top, c - left, d - left)) for k, (a, b, c, d) in enumerate(sides) if b > a]
        if boxes:
            yield Scene(samples, (top, bottom, left, right), boxes)


def _draw(looked: Lookup, scene: Scene) -> tuple[Tensor, Tensor]:
    """Both part maps of a scene, (b, L, h, w) of its window."""
    top, bottom, left, right = scene.window
    samples = scene.samples.stop - scene.samples.start
    maps = looked.mu.new_zeros(2, samples, looked.count, bottom - top, right - left)
    for pixels in looked.pixels(scene.samples, scene.window):
        for image, values in zip(maps, looked.values(pixels), strict=True):
            image.view(-1).index_copy_(0, pixels.place, values)
    phi, psi = maps
    return phi, psi


def _with_background(hides: Tensor) -> Tensor:
    """(B, L + 1, L): every part hides the background, which comes last."""
    return torch.cat((hides, torch.ones_like(hides[:, :1])), dim=1)


def _factor(hides: Tensor, part: Tensor) -> Tensor:
    """1 − o φ, how much part φ (b, h, w) leaves of all others: (b, L + 1, h, w)."""
    return torch.addcmul(part.new_ones(()), hides[..., None, None], part.unsqueeze(1), value=-1)


def _pull_visible(
    raw: Tensor, hiding: Tensor, gradient: Tensor, scene: Scene, vanishing: float
) -> tuple[Tensor, Tensor]:
    """Gradients of m = s / Σ s to φ (b, L, h, w), before it is clamped, and to o (b, L + 1, L) with the background."""
    samples, count, height, _ = raw.shape
    phi = raw.clamp(0, 1)
    by_phi, by_hiding = torch.empty_like(phi), torch.zeros_like(hiding)
    kept = 2 * samples * (count + 1) * sum(columns.stop - columns.start for _, (_, _, columns) in scene.boxes)
    step = max(STATE // kept, 1)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        boxes = [
            (k, (..., slice(max(rows.start, top) - top, min(rows.stop, bottom) - top), columns))
            for k, (_, rows, columns) in scene.boxes
            if rows.start < bottom and rows.stop > top
        ]
        here = (..., slice(top, bottom), slice(None))
        by_phi[here], shadow = _pull_products(phi[here], hiding, gradient[here], boxes, vanishing)
        by_hiding += shadow
    return by_phi.mul_(phi == raw), by_hiding


def _pull_products(
    phi: Tensor, hiding: Tensor, gradient: Tensor, boxes: list[tuple[int, Box]], vanishing: float
) -> tuple[Tensor, Tensor]:
    """Back through the products without a division: those before each factor times those after it."""
    samples, count, height, width = phi.shape
    parts, shares = phi.unsqueeze(1).unbind(2), hiding[..., None, None].unbind(2)
    product = phi.new_ones(samples, count + 1, height, width)
    one = phi.new_ones(())
    steps = []
    for k, box in boxes:
        part, here = parts[k][box].contiguous(), product[box]
        factor = torch.addcmul(one, shares[k], part, value=-1)
        steps.append((k, box, part, factor, here.clone()))
        here.mul_(factor)
    visible = product.clone()
    visible[:, :count].mul_(phi)
    total = visible.sum(1, keepdim=True)
    nothing = total < vanishing
    total.masked_fill_(nothing, 1)
    mean = visible.mul_(gradient).sum(1, keepdim=True).div_(total).masked_fill_(nothing, 0)
    pull = torch.sub(gradient, mean, out=visible).div_(total)
    by_phi = pull[:, :count] * product[:, :count]
    pull[:, :count].mul_(phi)
    by_parts, by_shares = by_phi.unsqueeze(1).unbind(2), list(torch.zeros_like(hiding).split(1, dim=-1))
    with torch.autocast("cpu", enabled=False):
        for k, box, part, factor, before in reversed(steps):
            after = pull[box]
            by_factor = before.mul_(after).flatten(2)
            after.mul_(factor)
            by_parts[k][box].sub_(torch.bmm(shares[k].view(samples, 1, -1), by_factor).view(part.shape))
            by_shares[k] = torch.bmm(by_factor, part.view(samples, -1, 1))
    return by_phi, torch.cat(by_shares, dim=-1).neg_()


def _pull_largest(maps: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the largest of (b, L, h, w): equal ones share it."""
    largest = (maps == maps.amax(1, keepdim=True)).to(maps.dtype)
    return largest.mul_((gradient / largest.sum(1)).unsqueeze(1))
