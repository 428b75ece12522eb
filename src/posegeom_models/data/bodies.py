"""What bodies are put together from: looks, places with directions, and solids that are added one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from posegeom.frames import cross, dot, safe_norm, unit_vector
from posegeom_models.data.identities import MATERIALS, Identity
from posegeom_models.data.renderer import Body, Cloth, Solids

SKIN, HAIR, TOP, BOTTOMS, SHOES, EYES = range(len(MATERIALS))


class Look(NamedTuple):
    """Identities of F frames as tensors; see `posegeom_models.data.identities.Identity`."""

    scale: Tensor
    girth: Tensor
    hair: Tensor
    bust: Tensor
    sleeve: Tensor
    trouser: Tensor
    waist: Tensor
    materials: Tensor
    salt: Tensor

    @staticmethod
    def of(identities: Sequence[Identity]) -> Look:
        """The looks of one identity per frame."""

        def numbers(name: str) -> Tensor:
            return torch.from_numpy(np.array([getattr(identity, name) for identity in identities], np.float32))

        columns = {name: numbers(name) for name in Look._fields if name != "salt"}
        salts = torch.tensor([identity.salt for identity in identities], dtype=torch.int32, device="cpu")
        return Look(**columns, salt=salts)


class Place(NamedTuple):
    """A point (F, 3) with orthonormal directions: a person's left, front and up."""

    origin: Tensor
    left: Tensor
    front: Tensor
    up: Tensor

    @classmethod
    def along(cls, origin: Tensor, up: Tensor, left: Tensor) -> Place:
        """The place whose up is a given unit vector, and whose left is as near as can be to another one."""
        left = upright(left, up)
        return cls(origin, left, cross(left, up), up)

    def at(self, left: Tensor | float = 0.0, front: Tensor | float = 0.0, up: Tensor | float = 0.0) -> Tensor:
        """The point so many metres away in each direction."""
        return self.origin + left * self.left + front * self.front + up * self.up

    def moved(self, left: Tensor | float = 0.0, front: Tensor | float = 0.0, up: Tensor | float = 0.0) -> Place:
        """The same directions at another point."""
        return self._replace(origin=self.at(left, front, up))


class Builder:
    """Collects solids, in metres of an adult of `identities.TALL`, which are then scaled to each frame's person.

    Attributes:
        scale: (F, 1) of the person.
        cut: metres along the cloth where the second material begins.
        cloth: where the cloth's axes are; None for the solid's own.
    """

    def __init__(self, look: Look) -> None:
        self.look = look
        self.scale = look.scale.unsqueeze(-1)
        self.cut: Tensor | float = 0.0
        self.cloth: Place | None = None
        self._points: list[tuple[Tensor, ...]] = []
        self._numbers: list[list[Tensor | float]] = []
        self._worn: list[tuple[int, int]] = []
        self._parts: list[int] = []

    def cone(
        self,
        part: int,
        start: Tensor,
        end: Tensor,
        radii: tuple[Tensor | float, Tensor | float],
        across: Tensor,
        stretch: tuple[float, float] = (1.0, 1.0),
        worn: tuple[int, int] = (SKIN, SKIN),
        girth: Tensor | float = 1.0,
    ) -> None:
        """A rounded cone from `start` to `end`, stretched across and at right angles to that.

        It wears `worn[0]` below and `worn[1]` above the cut.
        """
        size = self.scale * girth
        self._add(part, (start, end - start, across), [*stretch, 1.0], [size * radius for radius in radii], 1.0, worn)

    def ball(
        self,
        part: int,
        place: Place,
        radii: tuple[float, float, float],
        worn: tuple[int, int] = (SKIN, SKIN),
        girth: Tensor | float = 1.0,
    ) -> None:
        """An ellipsoid with radii to the left, to the front and upwards."""
        size = self.scale * girth * radii[2]
        stretch = [radius / radii[2] for radius in radii]
        self._add(part, (place.origin, place.up, place.left), stretch, [size, size], 0.0, worn)

    def _add(
        self,
        part: int,
        points: tuple[Tensor, Tensor, Tensor],
        stretch: list[float],
        radii: list[Tensor],
        long: float,
        worn: tuple[int, int],
    ) -> None:
        cloth = points if self.cloth is None else (self.cloth.origin, self.cloth.up, self.cloth.left)
        self._points.append((*points, *cloth))
        self._numbers.append([*stretch, *radii, self.cut, long])
        self._worn.append(worn)
        self._parts.append(part)

    def body(self) -> Body:
        """What was collected; the axes of all solids are made at once, which is several times faster."""
        start, bone, across, origin, up, left = (torch.stack(p, dim=1) for p in zip(*self._points, strict=True))
        one = torch.ones_like(self.scale)
        numbers = [torch.cat([one * number for number in column], -1) for column in zip(*self._numbers, strict=True)]
        wide, deep, tall, first, last, cut, long = numbers
        axes, cloth_axes = (
            torch.stack(Place.along(place, unit_vector(axis, zero_to_x=True), side)[1:], dim=-2)
            for place, axis, side in ((start, bone, across), (origin, up, left))
        )
        worn, parts = (torch.tensor(values, device=start.device) for values in (self._worn, self._parts))
        solids = Solids(
            start, axes, torch.stack((wide, deep, tall), -1), safe_norm(bone) * long, torch.stack((first, last), -1)
        )
        return Body(solids, Cloth(self.look.materials, worn, cut, origin, cloth_axes, self.look.salt), parts)


def upright(vector: Tensor, axis: Tensor) -> Tensor:
    """The unit vector nearest to `vector` at right angles to a unit axis; some such vector where they are parallel."""
    other = torch.stack((axis[..., 1], axis[..., 2], axis[..., 0]), dim=-1) + 1e-3
    vector = unit_vector(vector) + 1e-4 * other
    return unit_vector(vector - axis * dot(vector, axis), zero_to_x=True)
