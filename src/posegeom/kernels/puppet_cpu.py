"""Part maps with an analytic backward for eager mode on the CPU.

A part covers little of an image. Of every image row, the pixels whose positions in the canonical map can hit something
there are one run of columns, known beforehand; only these are looked up, a cache-sized piece at a time, and nothing is
kept of them: the backward looks them up again. With `create_graph` the reference itself is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import hardshrink, pad

from posegeom._dispatch import differentiate_reference, takes_reference

Context = Any
Size = tuple[int, int]
Pair = tuple[Tensor, Tensor]

PIECE = 1 << 15
"""Pixels that are looked up at a time; some twenty numbers are held for each."""

FURTHEST = 1e30
"""A sample that looks this far away, or at infinity or NaN, is left to the reference and its rules for such numbers."""

SHARED = (2, 3)
"""Inputs that all samples have in common: r̄ and the template."""


class SampledParts(torch.autograd.Function):
    """φ_c(A (u′ − μ) + r̄), bilinear, for both maps of a template (L, h, w, 2): see `part_maps`.

    With G the incoming gradient and ∇φ the slope of the canonical map at a pixel's position, g = G ∇φ gives

        ∂A = Σ g (u′ − μ)ᵀ,   ∂μ = −Aᵀ Σ g,   ∂r̄ = Σ g,

    and the template gets G in the shares of the four pixels that were mixed.
    """

    @staticmethod
    def forward(
        ctx: Context,
        linear: Tensor,
        mu: Tensor,
        bar: Tensor,
        template: Tensor,
        size: Size,
        reference: Callable[..., Pair],
    ) -> Pair:
        """Two buffers of the outputs' size: the outputs."""
        ctx.size, ctx.reference = size, reference
        ctx.save_for_backward(linear, mu, bar, template)
        ctx.set_materialize_grads(False)
        looked = Lookup(linear, mu, bar, template, size)
        shape, uncertainty = (linear.new_zeros(*linear.shape[:-2], *size) for _ in range(2))
        for pixels in looked.pixels():
            for image, values in zip((shape, uncertainty), looked.values(pixels), strict=True):
                image.view(-1).index_copy_(0, pixels.place, values)
        compute_wild(ctx, looked.wild, (linear, mu, bar, template), (shape, uncertainty))
        return shape, uncertainty

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Sums over the pixels of every part, or the reference's own backward with create_graph."""
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[:4]
        linear, mu, bar, template = inputs
        if takes_reference(*(gradient for gradient in gradients if gradient is not None)):
            return (*differentiate_outputs(ctx, inputs, gradients), None, None)
        looked = Lookup(linear, mu, bar, template, ctx.size, whole=needed[3])
        slopes = Slopes(looked, needed[3])
        flat = [None if gradient is None else gradient.reshape(-1) for gradient in gradients]
        for pixels in looked.pixels():
            slopes.add(pixels, *(g if g is None else g.index_select(0, pixels.place) for g in flat))
        found = slopes.gradients(needed)
        differentiate_wild(ctx, looked.wild, inputs, gradients, found)
        return (*found, None, None)


def differentiate_outputs(
    ctx: Context, inputs: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients of those outputs of ctx.reference(*inputs, ctx.size) that have a gradient themselves."""
    given = [k for k, gradient in enumerate(gradients) if gradient is not None]
    if not given:
        return (None,) * len(inputs)

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        results = ctx.reference(*values, ctx.size)
        return tuple(results[k] for k in given)

    present = [gradient for gradient in gradients if gradient is not None]
    return differentiate_reference(call, inputs, present, ctx.needs_input_grad[: len(inputs)])


def compute_wild(ctx: Context, wild: Sequence[int], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Put the reference's values of some samples into `outputs`."""
    leading = inputs[0].ndim - 3
    for sample in wild:
        for image, values in zip(outputs, ctx.reference(*_samples(inputs, sample), ctx.size), strict=True):
            _sample(image, leading, sample).copy_(values)


def differentiate_wild(
    ctx: Context,
    wild: Sequence[int],
    inputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    found: Sequence[Tensor | None],
) -> None:
    """Put the reference's gradients of some samples into `found`."""
    leading = inputs[0].ndim - 3
    for sample in wild:
        pulled = [None if gradient is None else _sample(gradient, leading, sample) for gradient in gradients]
        parts = differentiate_outputs(ctx, _samples(inputs, sample), pulled)
        for k, (whole, part) in enumerate(zip(found, parts, strict=True)):
            if whole is not None and part is not None:
                (whole if k in SHARED else _sample(whole, leading, sample)).add_(part)


def _samples(inputs: Sequence[Tensor], number: int) -> list[Tensor]:
    """The inputs of one sample, as a batch of one: linear, mu, bar, template and perhaps more."""
    leading = inputs[0].ndim - 3
    return [value if k in SHARED else _sample(value, leading, number) for k, value in enumerate(inputs)]


def _sample(values: Tensor, leading: int, number: int) -> Tensor:
    return values.reshape(math.prod(values.shape[:leading]), *values.shape[leading:])[number : number + 1]


class Pixels(NamedTuple):
    """Some pixels of some parts, each field (P,)."""

    runs: slice
    """The runs that they are of, out of all of them."""
    run: Tensor
    """The run of each, counted from the first one of these."""
    place: Tensor
    """Where each lies in the flattened output."""
    dx: Tensor
    """u′_x − μ_x."""
    x: Tensor
    """Position in the canonical map with its border of zeros, not yet clamped."""
    y: Tensor
    corner: Tensor
    """Upper left one of the four canonical pixels around it, in `Lookup.table`."""
    right: Tensor
    """Share of the two right ones of these."""
    low: Tensor
    """Share of the two lower ones."""


class Lookup:
    """Which pixels of an image to look up for every part, and the looking up.

    Args:
        linear: (*B, L, 2, 2).
        mu: (*B, L, 2).
        bar: (L, 2).
        template: (L, h, w, 2).
        size: (H, W) of the image.
        whole: take all pixels that meet the canonical map (its own gradient needs them), not only those that meet
            something that is not 0 there.
        hides: (*B, L, L), which must be finite as well.
    """

    def __init__(
        self,
        linear: Tensor,
        mu: Tensor,
        bar: Tensor,
        template: Tensor,
        size: Size,
        whole: bool = False,
        hides: Tensor | None = None,
    ) -> None:
        self.shapes = linear.shape, mu.shape
        self.count, self.height, self.width, _ = template.shape
        self.size = size
        self.samples = math.prod(mu.shape[:-2])
        self.linear = linear.reshape(self.samples, self.count, 2, 2)
        self.mu, self.bar = mu.reshape(self.samples, self.count, 2), bar
        # The template's own gradient asks even the faintest values which one is the largest at a pixel.
        maps = template.movedim(-1, 0).contiguous()
        maps = maps if whole else _without_tails(maps)
        # A border of zeros makes "outside" an ordinary pixel, as in the reference; one row per map.
        self.table = pad(maps, (1, 1, 1, 1)).view(2, -1)
        self.dy = torch.arange(size[0], dtype=mu.dtype, device=mu.device) - self.mu[..., 1:]  # (B, L, H)
        tame = self._furthest().amax((1, 2)) < FURTHEST
        if hides is not None:
            tame &= hides.isfinite().all(-1).all(-1).view(self.samples)
        self.wild: list[int] = (~tame).nonzero().flatten().tolist()
        self.start, self.length = self._runs(_support(maps, whole), tame)
        self.boxes = self._boxes()
        self._prepare()

    def _furthest(self) -> Tensor:
        """No position of a part is further out along x and y than this, (B, L, 2)."""
        rows, columns = self.size
        last = torch.tensor([columns - 1, rows - 1], device=self.mu.device)
        far = torch.maximum(self.mu.double().abs(), (last - self.mu.double()).abs())
        return (self.linear.double().abs() * far.unsqueeze(-2)).sum(-1) + self.bar.double().abs()

    def _runs(self, support: Tensor, tame: Tensor) -> Pair:
        """First column and number of columns to look up in each row of the image, (B, L, H) integers.

        The positions of a row lie on a line; a run is the part of it inside the support (L, 2, 2).
        """
        linear, mu, bar, dy = (value.double() for value in (self.linear, self.mu, self.bar, self.dy))
        columns = self.size[1]
        # Wide enough for what float32 does to the positions themselves: what lies outside is then outside for certain.
        slack = 1e-6 * self._furthest() + 1e-6
        low, high = torch.zeros_like(dy), torch.full_like(dy, columns - 1)
        for axis in range(2):
            slope = linear[..., axis, 0, None]
            slope = torch.where(slope < 0, slope.clamp(max=-1e-30), slope.clamp(min=1e-30))
            middle = (support[:, axis, 1] + support[:, axis, 0]) / 2
            half = ((support[:, axis, 1] - support[:, axis, 0]) / 2 + slack[..., axis]).unsqueeze(-1)
            offset = middle.unsqueeze(-1) - bar[:, axis, None] - linear[..., axis, 1, None] * dy
            reach = (half / slope).abs()
            at = mu[..., :1] + offset / slope
            low, high = torch.maximum(low, at - reach), torch.minimum(high, at + reach)
        empty = (support[:, :, 1] < support[:, :, 0]).any(-1)[:, None] | ~tame[:, None, None] | (high < low)
        start = low.ceil().masked_fill_(empty, 0)
        length = (high.floor() - start).add_(1).masked_fill_(empty, 0).clamp_(min=0)
        return start.to(torch.int64), length.to(torch.int64)

    def _boxes(self) -> Tensor:
        """Top, bottom, left and right of what every part covers, ends excluded: (B, L, 4), H, 0, W, 0 if nothing."""
        rows, columns = self.size
        there = self.length > 0
        row = torch.arange(rows, device=there.device)
        edges = (
            torch.where(there, row, rows).amin(-1),
            torch.where(there, row + 1, 0).amax(-1),
            torch.where(there, self.start, columns).amin(-1),
            torch.where(there, self.start + self.length, 0).amax(-1),
        )
        return torch.stack(edges, dim=-1)

    def _prepare(self) -> None:
        """What is constant along a run, (B · L · H,) each."""
        linear, shape = self.linear, self.dy.shape
        part = torch.arange(self.count, device=linear.device) * ((self.height + 2) * (self.width + 2))
        columns = (
            self.mu[..., 0, None],
            linear[..., 0, 0, None],
            linear[..., 0, 1, None] * self.dy,
            self.bar[:, 0, None],
            linear[..., 1, 0, None],
            linear[..., 1, 1, None] * self.dy,
            self.bar[:, 1, None],
        )
        self.along = [column.expand(shape).reshape(-1) for column in columns]
        self.part = part.unsqueeze(-1).expand(shape).reshape(-1)

    def pixels(self, samples: slice | None = None, window: tuple[int, int, int, int] | None = None) -> Iterator[Pixels]:
        """All pixels to look up for some samples, a piece at a time, in a fixed order.

        `window` holds top, bottom, left and right of the output if it is not the whole image.
        """
        first, last, _ = (samples or slice(None)).indices(self.samples)
        top, bottom, left, right = window or (0, self.size[0], 0, self.size[1])
        length = self.length[first:last].reshape(-1)
        start = self.start[first:last].reshape(-1)
        before = length.cumsum(0) - length
        total = int(length.sum())
        row = torch.arange(self.size[0], device=length.device)
        image = torch.arange((last - first) * self.count, device=length.device).unsqueeze(-1)
        origin = ((image * (bottom - top) + row - top) * (right - left) - left).flatten() + start
        skipped = first * self.count * self.size[0]
        marks = torch.arange(0, total + PIECE, PIECE, device=length.device)
        bounds = torch.searchsorted(before, marks).tolist() if total else []
        for begin, end in zip(bounds, [*bounds[1:-1], length.shape[0]], strict=False):
            piece = slice(begin, end)
            run = torch.repeat_interleave(length[piece])
            if run.shape[0] == 0:
                continue
            number = torch.arange(run.shape[0], device=run.device) + before[begin]
            column = number + (start[piece] - before[piece]).index_select(0, run)
            place = number + (origin[piece] - before[piece]).index_select(0, run)
            yield self._positions(slice(skipped + begin, skipped + end), run, place, column)

    def _positions(self, runs: slice, run: Tensor, place: Tensor, column: Tensor) -> Pixels:
        """The same steps as in the reference, so that a position on a canonical pixel's edge falls to the same side."""
        mu_x, xx, xy, bar_x, yx, yy, bar_y = (values[runs].index_select(0, run) for values in self.along)
        dx = column.to(mu_x.dtype) - mu_x
        x = (xx * dx).add_(xy).add_(bar_x).add_(1)
        y = (yx * dx).add_(yy).add_(bar_y).add_(1)
        inner_x, inner_y = x.clamp(0, self.width + 1), y.clamp(0, self.height + 1)
        left, top = inner_x.floor().clamp_(max=self.width), inner_y.floor().clamp_(max=self.height)
        corner = (top.to(torch.int64) * (self.width + 2)).add_(left.to(torch.int64))
        corner += self.part[runs].index_select(0, run)
        return Pixels(runs, run, place, dx, x, y, corner, inner_x.sub_(left), inner_y.sub_(top))

    def corners(self, corner: Tensor, channel: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Upper left, upper right, lower left and lower right canonical values, (P,) each."""
        table = self.table[channel]
        below = corner + (self.width + 2)
        upper, lower = table.index_select(0, corner), table.index_select(0, below)
        # Shifted views: the right neighbour of every cell.
        table = table[1:]
        return upper, table.index_select(0, corner), lower, table.index_select(0, below)

    def values(self, pixels: Pixels) -> Pair:
        """The bilinear values of both maps."""
        right, low = pixels.right, pixels.low
        shape, uncertainty = (self._mix(self.corners(pixels.corner, channel), right, low) for channel in range(2))
        return shape, uncertainty

    @staticmethod
    def _mix(corners: tuple[Tensor, ...], right: Tensor, low: Tensor) -> Tensor:
        upper_left, upper_right, lower_left, lower_right = corners
        left, high = 1 - right, 1 - low
        upper = upper_left.mul_(left).add_(upper_right.mul_(right))
        lower = lower_left.mul_(left).add_(lower_right.mul_(right))
        return upper.mul_(high).add_(lower.mul_(low))


class Slopes:
    """Gradients of a `Lookup`'s inputs, added up piece by piece."""

    def __init__(self, looked: Lookup, template: bool) -> None:
        self.looked = looked
        # Of every run: the sums of g_x, g_x dx, g_y and g_y dx.
        self.sums = looked.mu.new_zeros(4, looked.dy.numel())
        self.table = torch.zeros_like(looked.table) if template else None

    def add(self, pixels: Pixels, *gradients: Tensor | None) -> None:
        """Add the gradients (P,) of both maps, None for 0, at some pixels."""
        looked, corner = self.looked, pixels.corner
        right, low = pixels.right, pixels.low
        left, high = 1 - right, 1 - low
        given = [(channel, gradient) for channel, gradient in enumerate(gradients) if gradient is not None]
        if not given:
            return
        if self.table is not None:
            below = looked.width + 2
            for shift, share in ((0, left * high), (1, right * high), (below, left * low), (below + 1, right * low)):
                for channel, gradient in given:
                    # One pixel after the other: the order of the sum is fixed.
                    self.table[channel, shift:].scatter_add_(0, corner, share * gradient)
        corners: list[Tensor] = []
        for channel, gradient in given:
            pulled = [value.mul_(gradient) for value in looked.corners(corner, channel)]
            corners = [a.add_(b) for a, b in zip(corners, pulled, strict=True)] if corners else pulled
        upper_left, upper_right, lower_left, lower_right = corners
        # Clamped positions do not move.
        by_x = (upper_right - upper_left).mul_(high).add_((lower_right - lower_left).mul_(low))
        by_x.mul_((pixels.x >= 0) & (pixels.x <= looked.width + 1))
        by_y = lower_left.sub_(upper_left).mul_(left).add_(lower_right.sub_(upper_right).mul_(right))
        by_y.mul_((pixels.y >= 0) & (pixels.y <= looked.height + 1))
        sums = self.sums[:, pixels.runs]
        for row, values in enumerate((by_x, by_x * pixels.dx, by_y, by_y * pixels.dx)):
            sums[row].scatter_add_(0, pixels.run, values)

    def gradients(self, needed: tuple[bool, ...]) -> list[Tensor | None]:
        """Gradients of linear, mu, bar and template."""
        looked = self.looked
        x, x_dx, y, y_dx = self.sums.view(4, *looked.dy.shape)
        pull = torch.stack((x.sum(-1), y.sum(-1)), dim=-1)
        columns = (x_dx.sum(-1), (x * looked.dy).sum(-1), y_dx.sum(-1), (y * looked.dy).sum(-1))
        by_linear = torch.stack(columns, dim=-1).view(looked.linear.shape)
        by_mu = -(looked.linear * pull.unsqueeze(-1)).sum(-2)
        by_template = None
        if self.table is not None:
            by_template = self.table.view(2, looked.count, looked.height + 2, looked.width + 2)[..., 1:-1, 1:-1]
            by_template = by_template.movedim(0, -1).contiguous()
        for values in (by_linear, by_mu):
            values[looked.wild] = 0  # not the NaN of 0 times infinity
        found = by_linear.view(looked.shapes[0]), by_mu.view(looked.shapes[1]), pull.sum(0), by_template
        return [value if need else None for value, need in zip(found, needed, strict=True)]


def _without_tails(maps: Tensor) -> Tensor:
    """Canonical maps with values up to ε² of the largest one as 0.

    A soft edge fades out through numbers that no sum of an image feels, far from its part, and ends in those too small
    for a normal number, with which processors take a hundred times as long.
    """
    least, greatest = torch.aminmax(maps)
    faint = torch.finfo(maps.dtype).eps ** 2 * float(torch.maximum(-least, greatest))
    return hardshrink(maps, faint) if math.isfinite(faint) else maps


def _support(maps: Tensor, whole: bool) -> Tensor:
    """First and last position along x and y, (L, 2, 2), at which a part may not be 0; the last one first if none is.

    Without `whole` they lie one canonical pixel around all values of (2, L, h, w) that are not 0.
    """
    _, count, height, width = maps.shape
    if whole:
        return maps.new_tensor([[-1, width], [-1, height]], dtype=torch.float64).expand(count, 2, 2)
    size = torch.maximum(*maps.abs())
    edges = []
    for axis, side in ((1, width), (2, height)):
        there = size.amax(axis) != 0
        number = torch.arange(side, device=there.device)
        edges.append(torch.where(there, number - 1, side).amin(-1))
        edges.append(torch.where(there, number + 1, -2).amax(-1))
    return torch.stack(edges, dim=-1).view(count, 2, 2).double()
