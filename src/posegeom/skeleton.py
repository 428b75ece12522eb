"""A tree of named joints (`Skeleton`) and the way from one joint set to another (`convert_joints`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from posegeom._checks import check_choice, check_floating, check_shape, compute_dtype

ALIASES = {"head": "head_top", "head_top": "head"}
"""Two names of one joint: the head's end is called "head" in BODY_17 and "head_top" elsewhere."""

DERIVED = {
    "pelvis": ("left_hip", "right_hip"),
    "neck": ("left_shoulder", "right_shoulder"),
}
"""Joints that `convert_joints` may make up when the source lacks them: the mean of two others."""


class Trunk(NamedTuple):
    """The four joints that the canonical rule places without a predicted direction, as joint numbers.

    `top`, `left` and `right` are children of `root`: the neck (or the spine) and the two hips.
    """

    root: int
    top: int
    left: int
    right: int


@dataclass(frozen=True)
class Skeleton:
    """A rooted tree of named joints.

    Args:
        name: what people call it, used in error messages.
        joints: the joints' names, J of them, all different.
        parents: the parent's number of each joint, -1 for the one root.
        mirror: the joint that each joint becomes when left and right are swapped; an involution.
        lengths: bone lengths in metres, one per bone in the order of `bones`, or None.
        trunk: the joints placed by the canonical rule (see `forward_kinematics`), or None for a tree
            without one.

    Attributes:
        root: the number of the joint without a parent.
        bones: (parent, child) of every joint but the root, in joint order; N = J - 1 of them.
        levels: joints by their distance from the root; levels[0] holds the root alone.
        free_joints: the joints that `forward_kinematics` needs a direction for, in joint order.

    Raises:
        ValueError: a cycle, no root or several, a mirror that is not its own inverse, repeated names,
            a trunk whose top, left and right are not children of the root, lengths that do not fit.

    Example:
        >>> from posegeom import Skeleton
        >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1), (0, 1, 2), (0.28, 0.25))
        >>> arm.bones
        ((0, 1), (1, 2))
        >>> arm.index("wrist")
        2
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    mirror: tuple[int, ...]
    lengths: tuple[float, ...] | None = None
    trunk: Trunk | None = None
    root: int = field(init=False, repr=False, compare=False)
    bones: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)
    levels: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    free_joints: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("joints", "parents", "mirror"):
            if isinstance(getattr(self, name), str) or not isinstance(getattr(self, name), Iterable):
                raise TypeError(f"{name} must be a sequence, got {getattr(self, name)!r}")
        object.__setattr__(self, "joints", tuple(str(joint) for joint in self.joints))
        object.__setattr__(self, "parents", tuple(int(parent) for parent in self.parents))
        object.__setattr__(self, "mirror", tuple(int(joint) for joint in self.mirror))
        if self.lengths is not None:
            object.__setattr__(self, "lengths", tuple(float(length) for length in self.lengths))
        if self.trunk is not None:
            object.__setattr__(self, "trunk", Trunk(*(int(joint) for joint in self.trunk)))
        self._check()
        # Derived once, as plain attributes: torch.compile reads them as constants.
        object.__setattr__(self, "root", self.parents.index(-1))
        object.__setattr__(self, "bones", tuple((p, j) for j, p in enumerate(self.parents) if p != -1))
        object.__setattr__(self, "levels", self._levels())
        fixed = set(self.trunk) if self.trunk is not None else {self.root}
        free = tuple(joint for joint in range(len(self.joints)) if joint not in fixed)
        object.__setattr__(self, "free_joints", free)

    def _levels(self) -> tuple[tuple[int, ...], ...]:
        levels: list[tuple[int, ...]] = [(self.root,)]
        while level := tuple(j for j, parent in enumerate(self.parents) if parent in levels[-1]):
            levels.append(level)
        return tuple(levels)

    def _check(self) -> None:
        count = len(self.joints)

        def wrong(what: str) -> ValueError:
            return ValueError(f"skeleton {self.name!r}: {what}")

        if count == 0:
            raise wrong("joints must name at least one joint, got none")
        repeated = sorted({joint for joint in self.joints if self.joints.count(joint) > 1})
        if repeated:
            raise wrong(f"joints must have different names, got {', '.join(repeated)} more than once")
        if len(self.parents) != count:
            raise wrong(f"parents must have one entry per joint ({count}), got {len(self.parents)}")
        outside = [parent for parent in self.parents if not -1 <= parent < count]
        if outside:
            raise wrong(f"parents must be joint numbers below {count} or -1, got {outside[0]}")
        roots = [joint for joint, parent in enumerate(self.parents) if parent == -1]
        if len(roots) != 1:
            raise wrong(f"parents must hold exactly one root (-1), got {len(roots)}")
        for joint in range(count):
            above, steps = joint, 0
            while above != -1:
                above, steps = self.parents[above], steps + 1
                if steps > count:
                    raise wrong(f"parents must form a tree, got a cycle through {self.joints[joint]!r}")
        if sorted(self.mirror) != list(range(count)):
            raise wrong(f"mirror must be a permutation of 0..{count - 1}, got {self.mirror}")
        for joint, other in enumerate(self.mirror):
            if self.mirror[other] != joint:
                raise wrong(f"mirror must be its own inverse, got {joint} -> {other} -> {self.mirror[other]}")
        if self.lengths is not None:
            if len(self.lengths) != count - 1:
                raise wrong(f"lengths must have one entry per bone ({count - 1}), got {len(self.lengths)}")
            bad = [length for length in self.lengths if not 0 < length < float("inf")]
            if bad:
                raise wrong(f"lengths must be positive and finite, got {bad[0]}")
        if self.trunk is not None:
            if self.trunk.root != roots[0]:
                raise wrong(f"trunk.root must be the root {roots[0]}, got {self.trunk.root}")
            fixed = self.trunk[1:]
            if len(set(fixed)) != 3:
                raise wrong(f"trunk must name three different joints beside the root, got {fixed}")
            for field, joint in zip(("top", "left", "right"), fixed, strict=True):
                if not 0 <= joint < count or self.parents[joint] != roots[0]:
                    raise wrong(f"trunk.{field} must be a child of the root, got joint {joint}")

    def index(self, name: str) -> int:
        """The number of the joint called `name`; "head" and "head_top" are one joint.

        Raises:
            ValueError: no joint of this skeleton has that name.
        """
        for candidate in (name, ALIASES.get(name, name)):
            if candidate in self.joints:
                return self.joints.index(candidate)
        raise ValueError(f"skeleton {self.name!r} has no joint {name!r}; its joints are {', '.join(self.joints)}")

    def __contains__(self, name: object) -> bool:
        return name in self.joints or ALIASES.get(str(name)) in self.joints

    def reach(self) -> float:
        """The farthest that a joint can be from the root, in metres: the longest chain of bones.

        The radius that `bounded_translation` needs.

        Raises:
            ValueError: the skeleton has no lengths.
        """
        if self.lengths is None:
            raise ValueError(f"skeleton {self.name} must have lengths to have a reach, got none")
        length_of = dict(zip((child for _, child in self.bones), self.lengths, strict=True))
        distance = {self.root: 0.0}
        for level in self.levels[1:]:
            for joint in level:
                distance[joint] = distance[self.parents[joint]] + length_of[joint]
        return max(distance.values())

    def to_json(self) -> str:
        """This skeleton as a JSON text."""
        content = {
            "name": self.name,
            "joints": self.joints,
            "parents": self.parents,
            "mirror": self.mirror,
            "lengths": self.lengths,
            "trunk": None if self.trunk is None else self.trunk._asdict(),
        }
        return json.dumps(content, indent=2) + "\n"

    def to_file(self, path: str | Path) -> None:
        """Write this skeleton as JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def from_file(cls, path: str | Path) -> Skeleton:
        """Read a skeleton that `to_file` (or a person) wrote.

        Raises:
            ValueError: the file is no JSON, lacks a field, or describes no valid skeleton; names the file.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> Skeleton:
        """The skeleton that a JSON text describes (see `to_file`)."""
        try:
            content = json.loads(text)
        except RecursionError:
            raise ValueError("a skeleton file is not nested, got a deep nest of brackets") from None
        if not isinstance(content, dict):
            raise ValueError(f"a skeleton file holds one JSON object, got {type(content).__name__}")
        known = {"name", "joints", "parents", "mirror", "lengths", "trunk"}
        missing = {"name", "joints", "parents", "mirror"} - content.keys()
        if missing or content.keys() - known:
            raise ValueError(
                f"a skeleton file needs name, joints, parents, mirror and may have lengths, trunk; "
                f"missing: {sorted(missing) or 'nothing'}, unknown: {sorted(content.keys() - known) or 'nothing'}"
            )
        _check_list("joints", content["joints"], str)
        _check_list("parents", content["parents"], int)
        _check_list("mirror", content["mirror"], int)
        if content.get("lengths") is not None:
            _check_list("lengths", content["lengths"], (int, float))
        try:
            trunk = content.get("trunk")
            return cls(
                str(content["name"]),
                tuple(content["joints"]),
                tuple(content["parents"]),
                tuple(content["mirror"]),
                None if content.get("lengths") is None else tuple(content["lengths"]),
                None if trunk is None else Trunk(**trunk),
            )
        except TypeError as error:
            raise ValueError(f"a skeleton field has the wrong type: {error}") from error


def _check_list(name: str, values: object, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(values, list) or not all(isinstance(v, kinds) and not isinstance(v, bool) for v in values):
        kind = "names" if kinds is str else "whole numbers" if kinds is int else "numbers"
        raise ValueError(f"{name} must be a list of {kind}, got {str(values)[:60]}")


def gather_joints(points: Tensor, indices: Sequence[int]) -> Tensor:
    """Pick joints by number: (*B, J, D) -> (*B, len(indices), D).

    Written as unbind and stack, whose backward is a stack again: no scatter, so gradients are
    bit-identical from run to run on every device, and a NaN stays in its own joint.
    """
    parts = points.unbind(-2)
    return torch.stack([parts[index] for index in indices], dim=-2)


def convert_joints(joints: Tensor, source: Skeleton, target: Skeleton, missing: str = "error") -> Tensor:
    """Reorder joints of one skeleton to those of another, by name.

    Joints that the source lacks are derived where a published convention does so: pelvis is the middle of
    the hips, neck the middle of the shoulders. Nothing else is made up.

    Args:
        joints: (*B, J_source, D) 2D points or 3D joints, any unit.
        source: the skeleton of `joints`.
        target: the skeleton wanted.
        missing: what to do with a target joint that is neither there nor derivable: "error", or "nan" to
            fill it with NaN.

    Returns:
        (*B, J_target, D) in the dtype of `joints`.

    Raises:
        ValueError: joints of a wrong shape, or missing joints (all of them named) with missing="error".

    Example:
        >>> import torch
        >>> from posegeom import COCO_17, LSP_14, convert_joints
        >>> points = torch.rand(2, 17, 2)
        >>> convert_joints(points, COCO_17, LSP_14, missing="nan").shape
        torch.Size([2, 14, 2])
    """
    check_floating("joints", joints)
    check_shape("joints", joints, ("*B", len(source.joints), "D"), f"for skeleton {source.name}")
    check_choice("missing", missing, ("error", "nan"))
    parts = joints.unbind(-2)
    converted: list[Tensor] = []
    lacking: list[str] = []
    for name in target.joints:
        if name in source:
            converted.append(parts[source.index(name)])
        elif name in DERIVED and all(end in source for end in DERIVED[name]):
            first, second = DERIVED[name]
            one, other = (parts[source.index(end)].to(compute_dtype(joints)) for end in (first, second))
            converted.append(((one + other) / 2).to(joints.dtype))
        else:
            lacking.append(name)
            converted.append(torch.full_like(parts[0], float("nan")))
    if lacking and missing == "error":
        raise ValueError(
            f"skeleton {source.name} has no {', '.join(lacking)}, which {target.name} needs; "
            'pass missing="nan" to fill them with NaN'
        )
    return torch.stack(converted, dim=-2)
