"""Backgrounds: sceneries as a camera sees them.

Colours are functions of where a camera's ray meets the floor or a wall. So a turning camera's background pans with it,
and two cameras see one place.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from posegeom_models.data.sceneries import Scenery
from posegeom_models.data.textures import cells, fractal_noise, lattice, mix, soft, stripes, value_noise


class View(NamedTuple):
    """F cameras in the world.

    Attributes:
        rotation: (F, 3, 3) from the world to the camera.
        position: (F, 3) metres, above the floor and inside the box.
        focal: (F, 2) pixels.
        center: (F, 2) pixels.
    """

    rotation: Tensor
    position: Tensor
    focal: Tensor
    center: Tensor


class _Wall(NamedTuple):
    """Where rays meet the walls: metres along and up, the size of a pixel there, metres to the corner, which wall."""

    along: Tensor
    up: Tensor
    footprint: Tensor
    corner: Tensor
    number: Tensor


def render_scenery(
    scenery: Scenery, view: View, size: tuple[int, int], shadows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The place as the cameras see it, and the shadow on its floor.

    Args:
        scenery: F places.
        view: F cameras.
        size: (H, W).
        shadows: (F, S, 4) soft round shadows: x and y in the world, radius in metres, darkness in [0, 1];
            None for none.

    Returns:
        color (F, 3, H, W) without shadows, and shade (F, 1, H, W), by which they multiply it.
    """
    height, width = size
    rows = torch.arange(height, device=view.focal.device).to(view.focal.dtype)
    columns = torch.arange(width, device=view.focal.device).to(view.focal.dtype)
    x = ((columns - view.center[:, 0:1]) / view.focal[:, 0:1]).unsqueeze(-2)
    y = ((rows - view.center[:, 1:2]) / view.focal[:, 1:2]).unsqueeze(-1)
    turned = view.rotation
    ray = [_map(turned[:, 0, k]) * x + _map(turned[:, 1, k]) * y + _map(turned[:, 2, k]) for k in range(3)]
    cosine, sine = _map(scenery.turn[:, 0]), _map(scenery.turn[:, 1])
    cx, cy, cz = (_map(view.position[:, k]) for k in range(3))
    dx, dy, dz = cosine * ray[0] + sine * ray[1], cosine * ray[1] - sine * ray[0], ray[2]
    bx, by = cosine * cx + sine * cy, cosine * cy - sine * cx

    reach, pixel = _map(scenery.reach), 1 / _map(view.focal[:, 0])
    ahead_x, ahead_y = dx.sign(), dy.sign()
    to_x = (reach - bx * ahead_x) / dx.abs().clamp(min=1e-6)
    to_y = (reach - by * ahead_y) / dy.abs().clamp(min=1e-6)
    on_x = (to_x <= to_y).to(x.dtype)
    depth = torch.minimum(to_x, to_y).clamp(0, 1e4)
    hit_x, hit_y = bx + depth * dx, by + depth * dy
    # Round the box: y on the wall at +x, then 2W - x, 4W - y and 6W + x. From one corner there are two ways round, and
    # the shorter one counts, so that nothing breaks off where they meet.
    along = mix((4 + 2 * -ahead_y) * reach - ahead_y * hit_x, (2 - 2 * ahead_x) * reach + ahead_x * hit_y, on_x) + reach
    along = torch.minimum(along, 8 * reach - along)
    corner = reach - mix(hit_x, hit_y, on_x).abs()
    number = mix(2 + ahead_y, 0.5 * (1 + ahead_x), on_x)
    wall = _Wall(along, cz + depth * dz, depth * pixel, corner, number)
    standing = soft(wall.up, wall.footprint)  # 1 where the ray meets the floor first

    down = cz / (-dz).clamp(min=1e-4)
    down = torch.minimum(down, depth)
    floor_x, floor_y = bx + down * dx, by + down * dy
    walls = _walls(scenery, wall)
    # A pixel on the floor is as much longer as its ray is slanted.
    floor = _floor(scenery, floor_x, floor_y, down * pixel / (-dz).clamp(min=0.02))
    dark = 1 - 0.5 * _map(scenery.shade) * (
        1 - ((reach - torch.maximum(floor_x.abs(), floor_y.abs())) / 0.7).clamp(0, 1)
    )
    color = torch.stack([mix(w, f * dark, standing) for w, f in zip(walls, floor, strict=True)], dim=1).clamp(0, 1)

    world_x, world_y = cx + down * ray[0], cy + down * ray[1]
    shade = torch.ones_like(standing)
    for spot in () if shadows is None else shadows.unbind(1):
        off_x, off_y = world_x - _map(spot[:, 0]), world_y - _map(spot[:, 1])
        radius = _map(spot[:, 2])
        inside = (1 - (off_x * off_x + off_y * off_y) / (radius * radius)).clamp(min=0)
        shade = shade * (1 - _map(spot[:, 3]) * standing * inside * inside)
    return color, shade.unsqueeze(1)


def _map(values: Tensor) -> Tensor:
    """(F,) as (F, 1, 1)."""
    return values[:, None, None]


def _walls(scenery: Scenery, wall: _Wall) -> list[Tensor]:
    """Three maps (F, H, W)."""
    salt = _map(scenery.salt)
    top, grain, strength, repeats, paper = (_map(values) for values in scenery.wall.unbind(-1))
    rise = (wall.up / top).clamp(0, 1)
    noise = strength * (fractal_noise(wall.along * grain, wall.up * grain * 2, salt) - 0.5)
    stripe = paper * (stripes(wall.along * repeats) - 0.5)
    colors = [
        mix(_map(scenery.wall_colors[:, 0, k]), _map(scenery.wall_colors[:, 1, k]), rise) + noise + stripe
        for k in range(3)
    ]
    height, varies, steps = (_map(values) for values in scenery.skyline.unbind(-1))
    profile = height * (1 - varies * fractal_noise(wall.along * steps, torch.zeros_like(rise), salt + 40, 3))
    under = soft(wall.up - profile, wall.footprint) * (height > 0).to(rise.dtype)
    ground = 1 + 2 * noise
    colors = [mix(c, _map(scenery.skyline_color[:, k]) * ground, under) for k, c in enumerate(colors)]

    hanging, standing, hung, stood = (_map(values) for values in scenery.clutter.unbind(-1))
    colors = _hang(scenery, wall, colors, hanging, hung, salt + 100)
    colors = _stand(scenery, wall, colors, standing, stood, salt + 200)
    shade = _map(scenery.shade)
    dark = 1 - shade * (0.15 * wall.number + 0.4 * (1 - (wall.corner / 0.7).clamp(0, 1)))
    return [color * dark for color in colors]


def _hang(
    scenery: Scenery, wall: _Wall, colors: list[Tensor], cell: Tensor, full: Tensor, salt: Tensor
) -> list[Tensor]:
    """Pictures and windows, rectangles and discs with frames, one to a cell, in the second and third row."""
    (column, right), (row, up) = cells(wall.along / cell), cells(wall.up / cell)

    def chance(number: int) -> Tensor:
        return lattice(row, column, salt + 311 * number)

    there = (chance(0) < full).to(right.dtype) * ((row == 1) | (row == 2)).to(right.dtype)
    x, y = (right - 0.35 - 0.3 * chance(1)).abs(), (up - 0.35 - 0.3 * chance(2)).abs()
    wide, tall = 0.12 + 0.2 * chance(3), 0.12 + 0.2 * chance(4)
    off_x, off_y = x / wide, y / tall
    disc = ((off_x * off_x + off_y * off_y).sqrt() - 1) * torch.minimum(wide, tall)
    distance = mix(torch.maximum(x - wide, y - tall), disc, (chance(5) > 0.8).to(x.dtype))
    share = soft(distance * cell, wall.footprint) * there
    inner = soft((distance + 0.035) * cell, wall.footprint)
    frame, panel = _pick(scenery.palette, chance(6)), _pick(scenery.palette, chance(7))
    bright = 1.15 - 0.5 * value_noise(wall.along * 4, wall.up * 4, salt)
    return [
        mix(color, mix(edge, inside * bright, inner), share)
        for color, edge, inside in zip(colors, frame, panel, strict=True)
    ]


def _stand(
    scenery: Scenery, wall: _Wall, colors: list[Tensor], cell: Tensor, full: Tensor, salt: Tensor
) -> list[Tensor]:
    """Furniture, trees and houses: boxes, and balls on a stem, on the floor before the wall, one to a cell."""
    column, right = cells(wall.along / cell)
    row, up = torch.zeros_like(column), wall.up / cell

    def chance(number: int) -> Tensor:
        return lattice(row, column, salt + 311 * number)

    there = (chance(0) < full).to(right.dtype)
    wide, tall = 0.15 + 0.25 * chance(1), 0.25 + 0.9 * chance(2)
    x = right - 0.42 - 0.16 * chance(3)
    box = torch.maximum(x.abs() - wide, up - tall)
    off_x, off_y = x / wide, (up - 0.62 * tall) / (0.45 * tall)
    ball = ((off_x * off_x + off_y * off_y).sqrt() - 1) * torch.minimum(wide, 0.45 * tall)
    ball = torch.minimum(ball, torch.maximum(x.abs() - 0.12 * wide, up - 0.5 * tall))
    distance = mix(box, ball, (chance(4) > 0.5).to(x.dtype))
    share = soft(distance * cell, wall.footprint) * there
    rough = 0.7 + 0.6 * fractal_noise(wall.along * 12 / cell, wall.up * 12 / cell, salt, 2)
    bright = (0.95 - 0.25 * (x / wide).clamp(-1, 1)) * rough
    return [
        mix(color, thing * bright, share)
        for color, thing in zip(colors, _pick(scenery.palette, chance(5)), strict=True)
    ]


def _pick(palette: Tensor, chance: Tensor) -> list[Tensor]:
    """One of the four colours (F, 4, 3) for numbers in [0, 1), as three maps."""
    number = (chance * 4).floor()
    picked = [torch.zeros_like(chance) for _ in range(3)]
    for color in range(4):
        chosen = (number == color).to(chance.dtype)
        picked = [total + chosen * _map(palette[:, color, k]) for k, total in enumerate(picked)]
    return picked


def _floor(scenery: Scenery, x: Tensor, y: Tensor, footprint: Tensor) -> list[Tensor]:
    """Three maps (F, H, W) of the floor at (x, y) metres."""
    salt = _map(scenery.salt)
    kind, repeats, strength, grain = (_map(values) for values in scenery.floor.unbind(-1))
    (row, up), (column, right) = cells(y * repeats), cells(x * repeats)
    plank, _ = cells(x * repeats * 0.2 + 7.3 * lattice(row, torch.zeros_like(row), salt + 5))
    is_plank = (kind == 2).to(x.dtype)
    tone = mix(lattice(row, column, salt + 6), lattice(row, plank, salt + 6), is_plank)
    joint = torch.minimum(up, 1 - up)
    joint = torch.minimum(joint, torch.minimum(right, 1 - right) + is_plank)
    groove = soft(joint / repeats - 0.006, footprint)
    checks = ((row + column) & 1).to(x.dtype)
    share = (kind == 3).to(x.dtype) * checks + (kind > 0).to(x.dtype) * (kind < 3).to(x.dtype) * (
        0.5 * tone + 0.3 * groove
    )
    # A pattern finer than the pixels is its mean.
    fade = (0.5 / (repeats * footprint)).clamp(0, 1)
    share = strength * mix(torch.full_like(share, 0.4), share, fade)
    noise = fractal_noise(x * 2.5, y * 2.5, salt + 7) - 0.5
    bright = 1 + grain * noise * (1 - 0.5 * footprint).clamp(0, 1)
    first, second = scenery.floor_colors[:, 0], scenery.floor_colors[:, 1]
    return [mix(_map(first[:, k]), _map(second[:, k]), share) * bright for k in range(3)]
