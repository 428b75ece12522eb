"""The people of the rendered benchmark: proportions, build and clothes, drawn from a seed; and its two domains."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posegeom.skeleton import Skeleton
from posegeom_models.data.textures import PATTERNS

Range = tuple[float, float]
RGB = tuple[float, float, float]

MATERIALS = ("skin", "hair", "top", "bottoms", "shoes", "eyes")
"""What a body is covered with, in the order of `Identity.materials`."""

TALL = 1.72
"""Metres from sole to crown of someone with BODY_17's own bone lengths; bodies are modelled at this size."""

_GROUPS = {
    "legs": ("knee", "ankle"),
    "arms": ("elbow", "wrist"),
    "trunk": ("neck", "spine", "spine1", "spine2", "spine3", "spine4"),
    "shoulders": ("shoulder", "clavicle", "collar"),
    "hips": ("hip",),
    "head": ("head", "head_top", "nose", "skull"),
    "feet": ("foot", "toe"),
}

_SKINS = (
    (0.96, 0.80, 0.69),
    (0.91, 0.72, 0.58),
    (0.84, 0.64, 0.49),
    (0.76, 0.56, 0.41),
    (0.62, 0.44, 0.31),
    (0.49, 0.33, 0.23),
    (0.37, 0.25, 0.18),
)
_HAIRS = ((0.09, 0.07, 0.06), (0.21, 0.13, 0.08), (0.36, 0.23, 0.13), (0.62, 0.45, 0.24), (0.55, 0.53, 0.51))


@dataclass(frozen=True)
class Domain:
    """What people, clothes, light, cameras and places of one domain look like.

    Args:
        stature: metres, shortest and tallest.
        girth: thickness of trunk and limbs, 1 for the modelled build.
        legs: length of the legs for the stature.
        cloths: how often each pattern of `PATTERNS` is worn.
        repeats: of a pattern, per metre.
        saturation: of clothes.
        brightness: of clothes.
        camera_heights: metres above the floor, ranges that are equally likely.
        roll: degrees that a camera is tilted sideways at most.
        ambient: ambient light.
        directed: directed light.
        tint: how far the light's colour is from white.
        sceneries: how often each of `posegeom_models.data.backgrounds.SCENERIES` is the background.
    """

    stature: Range
    girth: Range
    legs: Range
    cloths: tuple[float, ...]
    repeats: Range
    saturation: Range
    brightness: Range
    camera_heights: tuple[Range, ...]
    roll: float
    ambient: Range
    directed: Range
    tint: float
    sceneries: tuple[float, ...]


DOMAINS = {
    "A": Domain(
        stature=(1.60, 1.86),
        girth=(0.90, 1.10),
        legs=(0.97, 1.03),
        cloths=(0.5, 0.15, 0.15, 0.0, 0.0, 0.2, 0.0),
        repeats=(6.0, 11.0),
        saturation=(0.15, 0.70),
        brightness=(0.35, 0.95),
        camera_heights=((1.1, 1.8),),
        roll=2.0,
        ambient=(0.45, 0.60),
        directed=(0.45, 0.65),
        tint=0.04,
        sceneries=(0.8, 0.1, 0.1),
    ),
    "B": Domain(
        stature=(1.50, 1.98),
        girth=(0.82, 1.28),
        legs=(0.93, 1.08),
        cloths=(0.1, 0.0, 0.1, 0.3, 0.2, 0.05, 0.25),
        repeats=(5.0, 9.0),
        saturation=(0.45, 0.95),
        brightness=(0.25, 0.85),
        camera_heights=((0.3, 0.9), (2.2, 3.2)),
        roll=6.0,
        ambient=(0.30, 0.45),
        directed=(0.65, 0.90),
        tint=0.14,
        sceneries=(0.0, 0.75, 0.25),
    ),
}
"""A: indoors, eye level, plain clothes, even light. B: outdoors, low and high cameras, patterns, hard light."""


class Identity(NamedTuple):
    """One person.

    Attributes:
        factors: of bone lengths by the groups of `Identity.group_names()`; "" is every other bone.
        scale: stature divided by that of the modelled body.
        girth: of trunk, arms and legs.
        hair: volume (0 for none) and length (0 to 1).
        bust: radius in metres; below 0.03 it is inside the chest.
        sleeve: how far the sleeves reach: 1 to the elbow, 2 to the wrist.
        trouser: how far the trousers reach: 1 to the knee, 2 to the ankle.
        waist: metres above the hips where the top begins.
        materials: (6, 9) in the order of `MATERIALS`, see `posegeom_models.data.renderer.Cloth`.
        salt: of the cloths' noise.
    """

    factors: dict[str, float]
    scale: float
    girth: tuple[float, float, float]
    hair: tuple[float, float]
    bust: float
    sleeve: float
    trouser: float
    waist: float
    materials: NDArray[np.float32]
    salt: int

    def lengths(self, skeleton: Skeleton, usual: NDArray[np.float64]) -> NDArray[np.float64]:
        """This person's bone lengths (N,) in metres, from the usual ones in the order of `skeleton.bones`."""
        names = (skeleton.joints[child].removeprefix("left_").removeprefix("right_") for _, child in skeleton.bones)
        groups = (next((group for group, members in _GROUPS.items() if name in members), "") for name in names)
        lengths: NDArray[np.float64] = usual * self.scale * np.array([self.factors[group] for group in groups])
        return lengths


def draw_identity(random: np.random.Generator, domain: Domain) -> Identity:
    """Someone of a domain; the same generator state gives the same person."""
    legs = random.uniform(*domain.legs)
    factors = {
        "": 1.0,
        "legs": legs,
        "arms": random.uniform(0.95, 1.05) * (1 + legs) / 2,
        "trunk": 2 - legs,
        "shoulders": random.uniform(0.96, 1.12),
        "hips": random.uniform(0.86, 0.98),
        "head": random.uniform(1.06, 1.14),
        "feet": random.uniform(0.95, 1.08),
    }
    build = random.uniform(*domain.girth)
    girth = tuple(build * random.uniform(0.96, 1.04) for _ in range(3))
    bald = random.random() < 0.08
    slight = random.random() < 0.5
    skin = _SKINS[random.integers(len(_SKINS))]
    hair = skin if bald else _HAIRS[random.integers(len(_HAIRS))]
    return Identity(
        factors=factors,
        scale=random.uniform(*domain.stature) / TALL,
        girth=(girth[0], girth[1] * (0.92 if slight else 1.04), girth[2]),
        hair=(0.0 if bald else random.uniform(0.6, 1.0), 0.0 if bald else random.uniform(0.0, 1.0) * slight),
        bust=random.uniform(0.055, 0.07) if slight else 0.02,
        sleeve=float(random.choice([0.55, 0.75, 1.9, 1.95])),
        trouser=float(random.choice([0.75, 1.85, 1.9, 1.95])),
        waist=random.uniform(0.02, 0.10),
        materials=_materials(random, domain, skin, hair),
        salt=int(random.integers(1 << 20)),
    )


def _materials(random: np.random.Generator, domain: Domain, skin: RGB, hair: RGB) -> NDArray[np.float32]:
    def garment(dark: float = 1.0) -> list[float]:
        hue, other = random.uniform(), random.uniform(0.0, 0.25)
        first = hsv(hue, random.uniform(*domain.saturation), dark * random.uniform(*domain.brightness))
        # The second colour differs in brightness, so that the pattern shows.
        value = max(first) + (0.45 if max(first) < 0.5 else -0.4)
        second = hsv(hue + other, random.uniform(*domain.saturation), min(max(value, 0.08), 0.97))
        kind = random.choice(len(PATTERNS), p=domain.cloths)
        return [*first, *second, float(kind), random.uniform(*domain.repeats), random.uniform(0.10, 0.30)]

    top, bottoms = garment(), garment(0.7)
    if random.random() < 0.7:
        bottoms[6] = 0.0  # most trousers are plain
    shade = random.uniform(0.05, 0.9)
    shoes = (shade, shade * random.uniform(0.7, 1.0), shade * random.uniform(0.6, 1.0))
    plain = [
        [*skin, *skin, 0.0, 1.0, 0.06],
        [*hair, *hair, 0.0, 1.0, 0.45],
        top,
        bottoms,
        [*shoes, *shoes, 0.0, 1.0, 0.2],
        [0.10, 0.08, 0.08, 0.1, 0.1, 0.1, 0.0, 1.0, 0.0],
    ]
    return np.array(plain, np.float32)


def hsv(hue: float, saturation: float, value: float) -> RGB:
    """A colour as RGB; the hue is taken modulo 1."""
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
