"""Bodies of rounded cones round the joints of any skeleton, labelled with the parts of `Puppet.capsules`.

All numbers are metres of an adult of `posegeom_models.data.identities.TALL`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posegeom.capsules import CAPSULE_RADII, part_joints
from posegeom.frames import cross, dot, safe_norm, unit_vector
from posegeom.skeleton import Skeleton
from posegeom_models.data.bodies import BOTTOMS, EYES, HAIR, SHOES, SKIN, TOP, Builder, Look, Place, upright
from posegeom_models.data.renderer import Body, depth_along

FINGER_RADII = {"cmc": 0.015, "mcp": 0.0115, "pip": 0.0095, "dip": 0.0085, "tip": 0.0075, "ip": 0.0100}
"""By the last word of a hand joint's name."""

Parts = Sequence[tuple[str, tuple[int, ...]]]

SIDES = ((1.0, "left"), (-1.0, "right"))


def build_body(joints: Tensor, skeleton: Skeleton, look: Look) -> Body:
    """The body round joints (F, J, 3): a clothed person, a hand, or for other trees a cone round every bone.

    Skeletons with hips and shoulders get a trunk, a head, hands and shoes; where the skeleton has no feet, these stand
    at right angles to the shanks, and belong to them, as hands belong to the forearms.

    Raises:
        ValueError: a skeleton without bones.
    """
    parts = part_joints(skeleton)
    if not parts:
        raise ValueError(f"skeleton {skeleton.name} must have at least one bone, got none")
    builder = Builder(look)
    if parts[0][0] == "torso":
        _Person(builder, joints, skeleton).build(parts)
    elif {"wrist", "index_mcp", "middle_mcp", "pinky_mcp"} <= set(skeleton.joints):
        _build_hand(builder, joints, skeleton, parts)
    else:
        _build_bones(builder, joints, parts)
    return builder.body()


def visible_joints(joints: Tensor, body: Body, skeleton: Skeleton) -> Tensor:
    """Whether no part of the body that a joint does not belong to stands before it: (F, J) bool."""
    parts = part_joints(skeleton)
    names = [name for name, _ in parts]
    own = torch.zeros(len(skeleton.joints), len(parts), dtype=torch.bool, device="cpu")
    for number, (_, ends) in enumerate(parts):
        own[list(ends), number] = True
    if names[0] == "torso":
        # The joints of the trunk that no part ends in, and the neck, which is where the head's part begins.
        for joint, name in enumerate(skeleton.joints):
            if name == "neck" or not own[joint].any():
                own[joint, names.index("head") if name in ("nose", "skull") and "head" in names else 0] = True
    depth = depth_along(body.solids, joints) + own.to(joints.device)[:, body.parts] * 1e9
    return depth.amin(-1) >= joints[..., 2]


class _Person:
    """The solids of a person."""

    def __init__(self, builder: Builder, joints: Tensor, skeleton: Skeleton) -> None:
        self.builder, self.joints, self.skeleton = builder, joints, skeleton
        girth = builder.look.girth
        self.trunk_girth, self.arm_girth, self.leg_girth = girth[:, 0:1], girth[:, 1:2], girth[:, 2:3]
        middle_hip = (self.of("left_hip") + self.of("right_hip")) * 0.5
        pelvis = self.of("pelvis") if "pelvis" in skeleton else middle_hip
        shoulders = (self.of("left_shoulder") + self.of("right_shoulder")) * 0.5
        neck = self.of("neck") if "neck" in skeleton else shoulders
        up = unit_vector(neck - pelvis, zero_to_x=True)
        self.chest = Place.along(neck, up, self.of("left_shoulder") - self.of("right_shoulder"))
        self.pelvis = Place.along(pelvis, up, self.of("left_hip") - self.of("right_hip"))
        spine = next((name for name in ("spine", "spine2", "spine1") if name in skeleton), None)
        self.waist = (pelvis + neck) * 0.5 if spine is None else self.of(spine)

    def of(self, name: str) -> Tensor:
        return self.joints[:, self.skeleton.index(name)]

    def build(self, parts: Parts) -> None:
        limbs = {
            "elbow": self._upper_arm,
            "wrist": self._forearm,
            "hand": self._hand,
            "knee": self._thigh,
            "ankle": self._shank,
            "foot": self._foot,
            "toe": lambda *_: None,  # in the shoe
        }
        for number, (name, ends) in enumerate(parts):
            side = next((side for side in ("left_", "right_") if name.startswith(side)), "")
            if name == "torso":
                self._torso(number)
            elif name == "head":
                self._head(number, self.joints[:, ends[0]], self.joints[:, ends[1]])
            elif name.removeprefix(side) in limbs:
                limbs[name.removeprefix(side)](number, self.joints[:, ends[0]], self.joints[:, ends[1]], side)
            else:
                self.builder.cut = 0.0
                self.builder.cone(
                    number, self.joints[:, ends[0]], self.joints[:, ends[1]], (0.04, 0.04), self.chest.left
                )

    def _torso(self, part: int) -> None:
        builder, s, pelvis, chest = self.builder, self.builder.scale, self.pelvis, self.chest
        builder.cloth = Place(pelvis.origin, chest.left, chest.front, chest.up)
        builder.cut = builder.look.waist.unsqueeze(-1) * s
        worn, girth = (BOTTOMS, TOP), self.trunk_girth

        def cone(
            start: Tensor,
            end: Tensor,
            radii: tuple[float, float],
            across: Tensor,
            stretch: tuple[float, float] = (1.0, 1.0),
        ) -> None:
            builder.cone(part, start, end, radii, across, stretch, worn, girth)

        left, right = (pelvis.at(sign * 0.058 * s, up=0.012 * s) for sign, _ in SIDES)
        cone(left, right, (0.108, 0.108), pelvis.front, (1, 0.95))
        ribs = (self.waist + chest.origin) * 0.5 - 0.01 * s * chest.up
        top = chest.at(up=-0.105 * s)
        cone(pelvis.at(up=0.05 * s), self.waist, (0.142, 0.125), chest.left, (1, 0.70))
        cone(self.waist, ribs, (0.125, 0.143), chest.left, (1, 0.69))
        cone(ribs, top, (0.143, 0.128), chest.left, (1, 0.67))
        nape = chest.at(up=0.035 * s, front=-0.008 * s)
        bust = builder.look.bust.unsqueeze(-1) * girth
        for sign, side in SIDES:
            seat = pelvis.moved(sign * 0.07 * s, -0.045 * s, -0.035 * s)
            builder.ball(part, seat, (0.082, 0.075, 0.088), worn, girth)
            breast = chest._replace(origin=(ribs + top) * 0.5).moved(sign * 0.062 * s, 0.042 * s, -0.012 * s)
            builder.ball(part, breast, (1.15, 0.95, 1.15), worn, bust)
            shoulder = self.of(f"{side}_shoulder")
            blade = shoulder - sign * 0.045 * s * chest.left - 0.045 * s * chest.up
            cone(top, blade, (0.085, 0.068), chest.front, (0.85, 1))
            cone(nape, shoulder, (0.050, 0.050), chest.front)
        builder.cloth = None

    def _head(self, part: int, start: Tensor, end: Tensor) -> None:
        builder, s = self.builder, self.builder.scale
        up = unit_vector(end - start, zero_to_x=True)
        head = Place.along(end, up, self.chest.left).moved(front=0.012 * s, up=-0.085 * s)
        builder.cut = 0.045 * s
        neck = head.at(front=-0.025 * s, up=-0.05 * s)
        builder.cone(part, start - 0.02 * s * up, neck, (0.060, 0.054), head.left, worn=(TOP, SKIN))
        builder.ball(part, head, (0.074, 0.095, 0.103))
        jaw, chin = head.at(front=0.018 * s, up=-0.03 * s), head.at(front=0.048 * s, up=-0.088 * s)
        builder.cone(part, jaw, chin, (0.066, 0.036), head.left)
        bridge, nose = head.at(front=0.088 * s, up=0.002 * s), head.at(front=0.103 * s, up=-0.026 * s)
        builder.cone(part, bridge, nose, (0.009, 0.013), head.left)
        for sign, _ in SIDES:
            eye, ear = head.moved(sign * 0.031 * s, 0.083 * s, 0.004 * s), head.moved(sign * 0.074 * s, up=-0.012 * s)
            builder.ball(part, eye, (0.014, 0.010, 0.009), (EYES, EYES))
            builder.ball(part, ear, (0.012, 0.020, 0.030))
        volume, length = builder.look.hair[:, 0:1], builder.look.hair[:, 1:2]
        # Without hair the cap stays inside the skull, and the tail has no radius.
        builder.ball(
            part,
            head.moved(front=-0.022 * s, up=0.026 * s),
            (0.080, 0.092, 0.090),
            (HAIR, HAIR),
            0.85 + 0.2 * volume,
        )
        tail = head.at(front=-0.048 * s, up=-0.015 * s - 0.15 * s * length)
        radii = (0.066 * volume, 0.060 * volume)
        builder.cone(part, head.at(front=-0.04 * s), tail, radii, head.left, (1.1, 0.75), (HAIR, HAIR))

    def _upper_arm(self, part: int, shoulder: Tensor, elbow: Tensor, _: str) -> None:
        builder, front = self.builder, self.chest.front
        builder.cut = _garment_end(builder.look.sleeve, elbow - shoulder, 0.0)
        worn, girth = (TOP, SKIN), self.arm_girth
        builder.cone(part, shoulder, elbow, (0.053, 0.041), front, worn=worn, girth=girth)
        deltoid = shoulder + 0.3 * (elbow - shoulder)
        builder.cone(part, shoulder, deltoid, (0.055, 0.0505), front, (1.05, 1.0), worn, girth)

    def _forearm(self, part: int, elbow: Tensor, wrist: Tensor, side: str) -> None:
        builder, s = self.builder, self.builder.scale
        worn, girth = (TOP, SKIN), self.arm_girth
        builder.cut = _garment_end(builder.look.sleeve, wrist - elbow, 1.0)
        along = unit_vector(wrist - elbow, zero_to_x=True)
        # Both halves wear one cloth. The elbow is the upper arm's, or the two would flicker at one depth.
        builder.cloth = Place.along(elbow, along, self.chest.front)
        belly = elbow + 0.28 * (wrist - elbow)
        builder.cone(part, elbow, belly, (0.040, 0.043), self.chest.front, worn=worn, girth=girth)
        builder.cone(part, belly, wrist, (0.043, 0.028), self.chest.front, worn=worn, girth=girth)
        builder.cloth = None
        if f"{side}hand" not in self.skeleton:
            self._hand(part, wrist, wrist + 0.165 * s * along)

    def _hand(self, part: int, wrist: Tensor, fingers: Tensor, _: str = "") -> None:
        builder, s, front = self.builder, self.builder.scale, self.chest.front
        builder.cut = 0.0
        along = unit_vector(fingers - wrist, zero_to_x=True)
        hand = Place.along(wrist, along, front)  # the thumb's side is "left"
        palm = hand.at(up=0.075 * s)
        builder.cone(part, hand.at(up=0.02 * s), palm, (0.034, 0.042), front, (1.0, 0.45))
        builder.cone(part, palm, hand.at(up=0.150 * s), (0.040, 0.026), front, (1.0, 0.40))
        thumb = hand.at(0.022 * s, up=0.03 * s), hand.at(0.054 * s, up=0.085 * s)
        builder.cone(part, *thumb, (0.016, 0.012), front)

    def _thigh(self, part: int, hip: Tensor, knee: Tensor, _: str) -> None:
        builder = self.builder
        builder.cut = _garment_end(builder.look.trouser, knee - hip, 0.0)
        # The hip joints of marker-based skeletons are far out at the side.
        inner = hip + 0.22 * (self.pelvis.origin - hip)
        builder.cone(part, inner, knee, (0.088, 0.057), self.pelvis.front, worn=(BOTTOMS, SKIN), girth=self.leg_girth)

    def _shank(self, part: int, knee: Tensor, ankle: Tensor, side: str) -> None:
        builder, s = self.builder, self.builder.scale
        worn, girth = (BOTTOMS, SKIN), self.leg_girth
        builder.cut = _garment_end(builder.look.trouser, ankle - knee, 1.0)
        along = unit_vector(ankle - knee, zero_to_x=True)
        ahead = upright(self.pelvis.front, along)
        builder.cloth = Place.along(knee, along, self.pelvis.left)
        calf = knee + 0.28 * (ankle - knee) - 0.014 * s * ahead
        builder.cone(part, knee, calf, (0.055, 0.055), ahead, worn=worn, girth=girth)
        builder.cone(part, calf, ankle, (0.055, 0.037), ahead, worn=worn, girth=girth)
        builder.cloth = None
        if f"{side}foot" not in self.skeleton:
            self._shoe(part, ankle, ankle + 0.118 * s * ahead + 0.065 * s * along, along)

    def _foot(self, part: int, ankle: Tensor, ball: Tensor, side: str) -> None:
        self._shoe(part, ankle, ball, unit_vector(ankle - self.of(f"{side}knee"), zero_to_x=True))

    def _shoe(self, part: int, ankle: Tensor, ball: Tensor, down: Tensor) -> None:
        builder, s = self.builder, self.builder.scale
        builder.cut = 0.0
        worn = (SHOES, SHOES)
        toward = unit_vector(ball - ankle, zero_to_x=True)
        # A foot's sideways direction is at right angles to the shank too; where the two are in line, the hips tell it.
        hinge, hips = cross(toward, down), self.pelvis.left
        side = upright(hinge + 0.2 * hips * torch.where(dot(hinge, hips) < 0, -1.0, 1.0), toward)
        below = cross(side, toward)
        below = below * torch.where(dot(below, down) < 0, -1.0, 1.0)
        # The sole is some 30 degrees flatter than the line from the ankle to the ball of the foot.
        ahead, under = 0.87 * toward - 0.49 * below, 0.49 * toward + 0.87 * below
        length = safe_norm(ball - ankle, keepdim=True)
        heel = ankle + length * (-0.30 * ahead + 0.30 * under)
        toes = ball + s * (0.052 * ahead - 0.004 * under)
        builder.cone(part, heel, ball, (0.037, 0.034), side, (1.0, 0.9), worn)
        builder.cone(part, ball, toes, (0.039, 0.029), side, (1.05, 0.75), worn)
        builder.cone(part, ankle, ankle + 0.62 * (ball - ankle), (0.043, 0.037), side, (0.95, 1.0), worn)


def _garment_end(reach: Tensor, bone: Tensor, before: float) -> Tensor:
    """Metres along a bone (F, 1) to where a garment ends that reaches (F,) bones far, `before` of them above."""
    return (reach.unsqueeze(-1) - before).clamp(-1, 1.2) * safe_norm(bone, keepdim=True)


def _build_hand(builder: Builder, joints: Tensor, skeleton: Skeleton, parts: Parts) -> None:
    across = joints[:, skeleton.index("index_mcp")] - joints[:, skeleton.index("pinky_mcp")]
    for number, (name, (first, last)) in enumerate(parts):
        start, end = joints[:, first], joints[:, last]
        radii = [FINGER_RADII.get(skeleton.joints[joint].split("_")[-1], 0.022) for joint in (first, last)]
        if first == skeleton.index("wrist"):
            builder.cone(number, start, end, (0.019, radii[1]), across, (1.0, 0.8))
        else:
            builder.cone(number, start, end, (radii[0], radii[1]), across)
        if name == "middle_mcp":
            palm = start + 0.15 * (end - start), start + 0.85 * (end - start)
            builder.cone(number, *palm, (0.024, 0.033), across, (1.0, 0.40))


def _build_bones(builder: Builder, joints: Tensor, parts: Parts) -> None:
    for number, (name, (first, last)) in enumerate(parts):
        start, end = joints[:, first], joints[:, last]
        bone = end - start
        known = CAPSULE_RADII.get(name.removeprefix("left_").removeprefix("right_"))
        # The builder multiplies by its scale, which a share of the bone's own length must not feel.
        radius = 0.12 * safe_norm(bone, keepdim=True) / builder.scale if known is None else known
        across = torch.stack((bone[:, 1], bone[:, 2], bone[:, 0]), dim=-1)
        builder.cone(number, start, end, (radius, radius), across)
