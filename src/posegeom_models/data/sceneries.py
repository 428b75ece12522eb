"""Places for the people of the rendered benchmark, drawn from a seed: rooms, the outdoors, and plain studios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from posegeom_models.data.identities import RGB, Range, hsv

SCENERIES = ("room", "outdoors", "studio")
"""Walls, pictures and furniture; grass or paving, trees, houses and a sky; a backdrop."""

FLOORS = ("plain", "tiles", "planks", "checks")
"""Floors, by the number in `Scenery.floor`."""


class Scenery(NamedTuple):
    """One place per frame: a square box with the floor at z = 0. Colours are RGB in [0, 1].

    Attributes:
        reach: (F,) metres from the middle to the walls.
        turn: (F, 2) cosine and sine of the angle that the walls are turned by.
        floor_colors: (F, 2, 3).
        floor: (F, 4) number of `FLOORS`, repeats per metre, strength of the pattern, strength of the noise.
        wall_colors: (F, 2, 3) at the floor and at the top (of a sky at the horizon and high up).
        wall: (F, 5) metres to the top, noise per metre, its strength, wallpaper's repeats per metre, its strength.
        skyline: (F, 3) height in metres, the share of it that varies, repeats per metre.
        skyline_color: (F, 3) of what is under the skyline: hills, or the base of a wall.
        clutter: (F, 4) size in metres of the cells of hanging and of standing things, shares of them that are full.
        palette: (F, 4, 3) colours of the things.
        shade: (F,) how much darker the box's corners are.
        salt: (F,) int32, chooses the noise.
    """

    reach: Tensor
    turn: Tensor
    floor_colors: Tensor
    floor: Tensor
    wall_colors: Tensor
    wall: Tensor
    skyline: Tensor
    skyline_color: Tensor
    clutter: Tensor
    palette: Tensor
    shade: Tensor
    salt: Tensor


Drawn = dict[str, float | Sequence[float] | Sequence[RGB]]


class _Draw:
    """Numbers and colours from a generator."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random

    def __call__(self, low: float, high: float) -> float:
        return float(self.random.uniform(low, high))

    def color(self, saturation: Range, value: Range, hue: float | None = None) -> RGB:
        hue = self(0, 1) if hue is None else hue
        return hsv(hue, self(*saturation), self(*value))

    def one(self, choices: Sequence[float]) -> float:
        return float(choices[int(self.random.integers(len(choices)))])


def draw_scenery(random: np.random.Generator, chances: Sequence[float], distance: float) -> Scenery:
    """A scenery (without F).

    Args:
        random: where it is drawn from; the same state gives the same scenery.
        chances: of each of `SCENERIES`.
        distance: metres from the middle within which all cameras are.
    """
    draw = _Draw(random)
    make = (_room, _outdoors, _studio)[random.choice(len(SCENERIES), p=list(chances))]
    angle = draw(0, 2 * math.pi)
    drawn = {"turn": (math.cos(angle), math.sin(angle)), **make(draw, distance)}
    columns = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in drawn.items()}
    return Scenery(**columns, salt=torch.tensor(random.integers(1 << 20), dtype=torch.int32, device="cpu"))


def _room(draw: _Draw, distance: float) -> Drawn:
    wood, hue = draw(0.05, 0.12), draw(0, 1)
    wainscot = draw(0, 1) < 0.4
    return {
        "reach": distance + draw(0.8, 3.0),
        "floor_colors": [draw.color((0.15, 0.55), (0.3, 0.75), wood), draw.color((0.1, 0.5), (0.25, 0.7), wood)],
        "floor": (draw.one(range(len(FLOORS))), draw(1.2, 4.0), draw(0.4, 1.0), draw(0.1, 0.35)),
        "wall_colors": [draw.color((0.05, 0.3), (0.55, 0.85), hue), draw.color((0.0, 0.2), (0.65, 0.95), hue)],
        "wall": (draw(2.4, 3.5), 3.0, draw(0.03, 0.12), draw(2.0, 7.0), draw(0.0, 0.1)),
        "skyline": (draw(0.8, 1.1) if wainscot else 0.12, 0.0, 1.0),
        "skyline_color": draw.color((0.05, 0.4), (0.3, 0.95), hue),
        "clutter": (draw(0.8, 1.3), draw(1.0, 1.7), draw(0.3, 0.8), draw(0.3, 0.7)),
        "palette": [draw.color((0.1, 0.7), (0.15, 0.9)) for _ in range(4)],
        "shade": 0.35,
    }


def _outdoors(draw: _Draw, distance: float) -> Drawn:
    reach, green = distance + draw(12, 30), draw(0.18, 0.33)
    paved = draw(0, 1) < 0.4
    ground = ((0.0, 0.12), (0.4, 0.65)) if paved else ((0.3, 0.6), (0.25, 0.55))
    sky = 0.58
    return {
        "reach": reach,
        "floor_colors": [draw.color(*ground, green) for _ in range(2)],
        "floor": (draw.one((1, 2, 3)) if paved else 0.0, draw(0.7, 2.5), 0.6, draw(0.3, 0.8)),
        "wall_colors": [draw.color((0.05, 0.25), (0.75, 0.95), sky), draw.color((0.25, 0.6), (0.5, 0.9), sky)],
        "wall": (reach, draw(0.05, 0.15), draw(0.3, 0.8), 1.0, 0.0),
        "skyline": (reach * draw(0.06, 0.2), draw(0.4, 0.9), draw(0.05, 0.15)),
        "skyline_color": draw.color((0.15, 0.5), (0.25, 0.55), green + draw(0.0, 0.15)),
        "clutter": (1.0, reach * draw(0.12, 0.25), 0.0, draw(0.5, 0.95)),
        "palette": [draw.color((0.1, 0.55), (0.2, 0.7), hue) for hue in (0.08, green, 0.03, green + 0.05)],
        "shade": 0.0,
    }


def _studio(draw: _Draw, distance: float) -> Drawn:
    hue = draw(0, 1)
    wall, other = (draw.color((0.0, 0.5), (0.3, 0.9), hue + draw(-0.1, 0.1)) for _ in range(2))
    return {
        "reach": distance + draw(0.5, 2.0),
        "floor_colors": [wall, other],
        "floor": (0.0, 1.0, 0.0, draw(0.0, 0.5)),
        "wall_colors": [wall, other],
        "wall": (draw(2.0, 4.0), draw(0.3, 1.5), draw(0.0, 0.5), 1.0, 0.0),
        "skyline": (0.0, 0.0, 1.0),
        "skyline_color": wall,
        "clutter": (1.0, 1.0, 0.0, 0.0),
        "palette": [wall] * 4,
        "shade": draw(0.0, 0.3),
    }
