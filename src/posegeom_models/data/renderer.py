"""A batched ray caster for bodies made of rounded cones: depth, parts, colours and soft masks of many frames at once.

Every step is elementwise arithmetic or a minimum, so that a frame has the same bits whatever else is in its batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from posegeom.frames import rotate
from posegeom_models.data.textures import fractal_noise, pattern

TILE = 4
"""Samples along the side of a tile; a tile is intersected with every solid whose screen box touches it."""

FAR = 1e6
"""Metres; the depth of a ray that meets nothing is above this."""

NEAR = 0.05
"""Metres; what is nearer to the camera is not seen."""


class Solids(NamedTuple):
    """K rounded cones (the hull of two balls) per frame, each stretched along its own axes, in the camera's frame.

    With q = axes·(p − start), components divided by the stretches, a solid is the hull of the ball of radius
    `radii[0]` round 0 and that of radius `radii[1]` round (0, 0, height). Height 0 gives an ellipsoid.

    Args:
        start: (F, K, 3) metres.
        axes: (F, K, 3, 3) orthonormal rows: across, through, along.
        stretch: (F, K, 3) along these axes.
        height: (F, K) between the balls' centres, divided by the third stretch; at least 0.
        radii: (F, K, 2) metres.
    """

    start: Tensor
    axes: Tensor
    stretch: Tensor
    height: Tensor
    radii: Tensor


class Cloth(NamedTuple):
    """How the K solids of a frame are coloured, out of M materials.

    Args:
        materials: (F, M, 9): first colour RGB, second colour RGB, number of the pattern (see `textures.PATTERNS`), its
            repeats per metre, and the strength of the weave's noise.
        worn: (K, 2) integers: the materials of each solid below and above its `cut`.
        cut: (F, K) metres along the solid's own cloth axis, from `origin`.
        origin: (F, K, 3) where the cloth's axes start, camera's frame.
        axes: (F, K, 3, 3) rows: across, through, along.
        salt: (F,) int32.
    """

    materials: Tensor
    worn: Tensor
    cut: Tensor
    origin: Tensor
    axes: Tensor
    salt: Tensor


class Body(NamedTuple):
    """Solids with their cloth, and the part (K,) int64 of each, from 0; at most 254 parts."""

    solids: Solids
    cloth: Cloth
    parts: Tensor

    def of_frames(self, which: slice) -> Body:
        """Some of the frames."""
        cloth = self.cloth
        some = Cloth(*(values if values is cloth.worn else values[which] for values in cloth))
        return Body(Solids(*(values[which] for values in self.solids)), some, self.parts)


class Light(NamedTuple):
    """Ambient light (F, 3) and directed light (F, 3), RGB, from a direction (F, 3), a unit vector, camera's frame."""

    ambient: Tensor
    directed: Tensor
    direction: Tensor


class Foreground(NamedTuple):
    """What the rays saw.

    Attributes:
        color: (F, 3, H, W) premultiplied by the mask.
        mask: (F, 1, H, W) share of the pixel's samples that met a solid.
        labels: (F, H, W) uint8: 0 where the mask is below ½, else 1 + the part that most of the samples met.
        depth: (F, H, W) of the nearest sample; above `FAR` where there is none.
    """

    color: Tensor
    mask: Tensor
    labels: Tensor
    depth: Tensor


class _Rows(NamedTuple):
    """The intersection's constants, each (..., 1) to broadcast against rays.

    Written for the camera at the origin: a ray's point at depth t is t·(x, y, 1).
    """

    matrix: tuple[Tensor, ...]  # nine numbers: the solid's axes divided by its stretches
    origin: tuple[Tensor, Tensor, Tensor]  # the camera in the solid's frame
    height: Tensor
    first: Tensor
    last: Tensor


def _matrix(solids: Solids) -> Tensor:
    return solids.axes / solids.stretch.unsqueeze(-1)


def _table(solids: Solids) -> Tensor:
    """(F, K, 15): matrix, origin, height, radii."""
    matrix = _matrix(solids)
    origin = -rotate(matrix, solids.start)
    return torch.cat((matrix.flatten(-2), origin, solids.height.unsqueeze(-1), solids.radii), dim=-1)


def _rows(table: Tensor) -> _Rows:
    columns = [column.unsqueeze(-1).contiguous() for column in table.unbind(-1)]
    return _Rows(tuple(columns[:9]), (columns[9], columns[10], columns[11]), columns[12], columns[13], columns[14])


def _first_hit(rows: _Rows, x: Tensor, y: Tensor) -> Tensor:
    """Depth at which the ray (x, y, 1) enters the solid; above `FAR` (and perhaps infinite) where it misses.

    The hull's surface is a piece of either ball or, between them, of the cone c²·ρ² = (r₀ − s·z)² that touches both,
    with s = (r₀ − r₁)/h and c² = 1 − s², where r₀·s ≤ z ≤ h + r₁·s. For a ray o + t·d every piece gives a quadratic
    A·t² + 2·B·t + C = 0 whose nearer root is C/(√(B² − A·C) − B), also where A ≤ 0.
    """
    m, (ox, oy, oz), height, first, last = rows
    dx, dy, dz = m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5], m[6] * x + m[7] * y + m[8]
    around, along = dx * dx + dy * dy, dz * dz
    whole = around + along
    flat_start = ox * ox + oy * oy
    flat = ox * dx + oy * dy
    toward = flat + oz * dz
    hit = _nearer_root(whole, toward, flat_start + oz * oz - first * first)
    above = oz - height
    hit = torch.minimum(hit, _nearer_root(whole, toward - height * dz, flat_start + above * above - last * last))

    sine = ((first - last) / height.clamp(min=1e-6)).clamp(-1, 1)
    squared = 1 - sine * sine
    rim = first - sine * oz
    slope = sine * dz
    side = _nearer_root(
        squared * around - slope * slope, squared * flat + rim * slope, squared * flat_start - rim * rim
    )
    z = oz + side.clamp(max=FAR) * dz
    outside = (first * sine - z).relu() + (z - (height + last * sine)).relu()
    return torch.minimum(hit, side + outside * 1e30)


def _nearer_root(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    square = b * b - a * c
    root = (c / (square.relu().sqrt() - b)).clamp(-FAR, FAR)
    # Adding is several times faster than torch.where on a CPU; FAR² is beyond every hit.
    return root + ((-square).relu() + (NEAR - root).relu()) * 1e30


def _screen_boxes(solids: Solids, focal: Tensor, center: Tensor, size: tuple[int, int]) -> Tensor:
    """(F, K, 4) first and last sample column, first and last row that a solid may touch, within the image.

    A ball of radius r round (x, z) is seen between the tangents (x·z ± r·√(x² + z² − r²))/(z² − r²).
    """
    height, width = size
    start = solids.start
    end = start + (solids.height * solids.stretch[..., 2]).unsqueeze(-1) * solids.axes[..., 2, :]
    largest = torch.maximum(torch.maximum(solids.stretch[..., 0], solids.stretch[..., 1]), solids.stretch[..., 2])
    bounds = []
    for axis, last in ((0, width - 1), (1, height - 1)):
        low, high = None, None
        for middle, radius in ((start, solids.radii[..., 0] * largest), (end, solids.radii[..., 1] * largest)):
            x, z = middle[..., axis], middle[..., 2]
            space = z * z - radius * radius
            behind = ((z <= radius) | (space <= 1e-6)).to(x.dtype)
            reach = radius * (x * x + space).relu().sqrt()
            space = space.clamp(min=1e-6)
            # What is not wholly in front of the camera may be anywhere.
            left, right = (x * z - reach) / space - behind * FAR, (x * z + reach) / space + behind * FAR
            low = left if low is None else torch.minimum(low, left)
            high = right if high is None else torch.maximum(high, right)
        assert low is not None
        assert high is not None
        scale, middle_pixel = focal[:, axis : axis + 1], center[:, axis : axis + 1]
        bounds += [
            (low * scale + middle_pixel).ceil().clamp(0, last + 1),
            (high * scale + middle_pixel).floor().clamp(-1, last),
        ]
    return torch.stack(bounds, dim=-1)


def _z_buffer(solids: Solids, focal: Tensor, center: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Depth (F, h, w) and number (F, h, w, int64; −1 for none) of the nearest solid at every sample."""
    height, width = size
    frames, count = solids.height.shape
    down, across = -(-height // TILE), -(-width // TILE)
    device = solids.start.device
    boxes = _screen_boxes(solids, focal, center, size).reshape(-1, 4).long()
    left, right, top, bottom = (boxes // TILE).unbind(-1)
    seen = (boxes[:, 1] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 2])
    wide = right - left + 1
    tiles = wide * (bottom - top + 1) * seen
    solid = torch.repeat_interleave(tiles)
    nth = torch.arange(len(solid), device=device) - (tiles.cumsum(0) - tiles)[solid]
    wide = wide[solid]
    row, column = top[solid] + nth // wide, left[solid] + nth % wide
    tile = (solid // count * down + row) * across + column

    lane = torch.arange(TILE * TILE, device=device)
    lane_x, lane_y = (lane % TILE).to(focal.dtype), (lane // TILE).to(focal.dtype)
    frame = solid // count
    table = torch.cat((_table(solids).flatten(0, 1)[solid], focal[frame], center[frame]), dim=1)
    rows = _rows(table[:, :15])
    fx, fy, cx, cy = (column.unsqueeze(-1).contiguous() for column in table[:, 15:].unbind(-1))
    x = (lane_x + ((column * TILE).to(focal.dtype).unsqueeze(-1) - cx)) / fx
    y = (lane_y + ((row * TILE).to(focal.dtype).unsqueeze(-1) - cy)) / fy
    hit = _first_hit(rows, x, y)

    shape = (frames * down * across, TILE * TILE)
    where = tile.unsqueeze(-1).expand_as(hit)
    depth = torch.full(shape, 2 * FAR, dtype=hit.dtype, device=device).scatter_reduce_(0, where, hit, "amin")
    # The solid with the highest number of those at the same depth, so that ties do not depend on the order.
    won = (hit == depth[tile]).to(hit.dtype) * (solid % count + 1).to(hit.dtype).unsqueeze(-1)
    number = torch.zeros(shape, dtype=hit.dtype, device=device).scatter_reduce_(0, where, won, "amax")
    number = torch.where(depth < FAR, number, 0.0).long() - 1

    def as_image(values: Tensor) -> Tensor:
        image = values.view(frames, down, across, TILE, TILE).transpose(2, 3)
        return image.reshape(frames, down * TILE, across * TILE)[:, :height, :width]

    return as_image(depth), as_image(number)


def _shade(
    solids: Solids, cloth: Cloth, light: Light, seen: tuple[Tensor, Tensor], depth: Tensor, x: Tensor, y: Tensor
) -> Tensor:
    """Colour (N, 3) of N samples: (frame, solid) seen, depth (N,), ray (x, y, 1).

    Lambert: albedo · (ambient + directed · max(0, n·l)).
    """
    frame, solid = seen
    place = torch.stack((x * depth, y * depth, depth), dim=-1)
    flat = frame * solids.height.shape[1] + solid

    def of_solid(values: Tensor) -> Tensor:
        return values.flatten(0, 1).index_select(0, flat)

    matrix = of_solid(_matrix(solids))
    local = rotate(matrix, place - of_solid(solids.start))
    first, last = of_solid(solids.radii).unbind(-1)
    height = of_solid(solids.height)
    sine = ((first - last) / height.clamp(min=1e-6)).clamp(-1, 1)
    # The ball of the hull that the point lies on has its centre here on the axis.
    middle = (local[:, 2] - first * sine) / (1 - sine * sine).clamp(min=1e-6)
    middle = torch.minimum(middle.clamp(min=0), height)
    local = torch.stack((local[:, 0], local[:, 1], local[:, 2] - middle), dim=-1)
    normal = rotate(matrix.transpose(-1, -2), local)
    length = (normal[:, 0] * normal[:, 0] + normal[:, 1] * normal[:, 1] + normal[:, 2] * normal[:, 2]).sqrt()
    toward = light.direction.index_select(0, frame)
    cosine = normal[:, 0] * toward[:, 0] + normal[:, 1] * toward[:, 1] + normal[:, 2] * toward[:, 2]
    cosine = (cosine / length.clamp(min=1e-9)).clamp(min=0).unsqueeze(-1)
    ambient, directed = light.ambient.index_select(0, frame), light.directed.index_select(0, frame)

    worn = rotate(of_solid(cloth.axes), place - of_solid(cloth.origin))
    upper = worn[:, 2] >= of_solid(cloth.cut)
    lower_material, upper_material = cloth.worn.index_select(0, solid).unbind(-1)
    material = torch.where(upper, upper_material, lower_material)
    chosen = cloth.materials.flatten(0, 1).index_select(0, frame * cloth.materials.shape[1] + material)
    salt = cloth.salt.index_select(0, frame)
    share = pattern(worn, chosen[:, 6], chosen[:, 7], salt).unsqueeze(-1)
    albedo = chosen[:, :3] + (chosen[:, 3:6] - chosen[:, :3]) * share
    weave = fractal_noise(9 * (worn[:, 0] + 0.7 * worn[:, 1]), 9 * worn[:, 2], salt + 91, 2) - 0.5
    albedo = albedo * (1 + chosen[:, 8] * weave).unsqueeze(-1)
    return (albedo * (ambient + directed * cosine)).clamp(0, 1)


def _pool(values: Tensor, samples: int) -> list[Tensor]:
    """The S² samples of every pixel of (F, H·S, W·S, ...), each (F, H, W, ...)."""
    return [values[:, down::samples, across::samples] for down in range(samples) for across in range(samples)]


def render(
    body: Body, light: Light, focal: Tensor, center: Tensor, size: tuple[int, int], samples: int = 2
) -> Foreground:
    """Bodies in front of nothing, seen by one pinhole camera per frame.

    Args:
        body: K solids of F frames.
        light: what falls on them.
        focal: (F, 2) pixels.
        center: (F, 2) pixels; pixel centres are integers.
        size: (H, W).
        samples: samples along a pixel's side; their mean gives soft edges.

    Returns:
        See `Foreground`.
    """
    solids, cloth, parts = body
    height, width = size
    fine = (height * samples, width * samples)
    fine_focal, fine_center = focal * samples, (center + 0.5) * samples - 0.5
    depth, number = _z_buffer(solids, fine_focal, fine_center, fine)
    frame, row, column = (number >= 0).nonzero().unbind(-1)
    sample = (frame * fine[0] + row) * fine[1] + column
    solid = number.reshape(-1).index_select(0, sample)
    middle, scale = fine_center.index_select(0, frame), fine_focal.index_select(0, frame)
    x = (column.to(focal.dtype) - middle[:, 0]) / scale[:, 0]
    y = (row.to(focal.dtype) - middle[:, 1]) / scale[:, 1]
    lit = _shade(solids, cloth, light, (frame, solid), depth.reshape(-1).index_select(0, sample), x, y)
    color = lit.new_zeros((depth.numel(), 3)).index_copy_(0, sample, lit).view(*depth.shape, 3)
    met = (
        torch.cat((parts.new_zeros(1), parts + 1))
        .to(torch.uint8)
        .index_select(0, number.flatten() + 1)
        .view(number.shape)
    )

    share = 1 / (samples * samples)
    colors, labels = _pool(color, samples), _pool(met, samples)
    total = colors[0]
    for other in colors[1:]:
        total = total + other
    mask = torch.zeros_like(total[..., 0])
    for label in labels:
        mask = mask + (label > 0).to(mask.dtype)
    mask = mask * share
    return Foreground(
        (total * share).movedim(-1, 1).contiguous(),
        mask.unsqueeze(1),
        _most_frequent(labels) * (mask >= 0.5),
        torch.stack(_pool(depth, samples)).amin(0),
    )


def _most_frequent(labels: list[Tensor]) -> Tensor:
    """The commonest of the labels above 0; of equally common ones the highest."""
    best = torch.zeros_like(labels[0], dtype=torch.int32)
    for label in labels:
        count = torch.zeros_like(best)
        for other in labels:
            count = count + (other == label)
        best = torch.maximum(best, (count * 256 + label) * (label > 0))
    return (best & 255).to(torch.uint8)


def depth_along(solids: Solids, points: Tensor) -> Tensor:
    """Depth (F, J, K) at which the ray towards each of J points (F, J, 3) first meets each solid, or above `FAR`."""
    z = points[..., 2].clamp(min=NEAR)
    rows = _rows(_table(solids).unsqueeze(1))
    x, y = (points[..., 0] / z)[..., None, None], (points[..., 1] / z)[..., None, None]
    return _first_hit(rows, x, y).squeeze(-1)
