import numpy as np
import pytest
import torch

from posegeom import (
    BODY_17,
    COCO_17,
    DE_LEVA_FEMALE,
    DE_LEVA_MALE,
    DEMPSTER,
    H36M_17,
    HAND_21,
    LSP_14,
    MPI_INF_3DHP_17,
    MPI_INF_3DHP_28,
    SMPL_24,
    center_of_gravity,
)

BODIES = (BODY_17, COCO_17, H36M_17, LSP_14, MPI_INF_3DHP_17, MPI_INF_3DHP_28, SMPL_24)
TABLES = (DE_LEVA_MALE, DE_LEVA_FEMALE, DEMPSTER)

# Published mass fractions: head, trunk, then one side's upper arm, forearm, hand, thigh, shank, foot.
MASSES = {
    "DE_LEVA_MALE": (0.0694, 0.4346, 0.0271, 0.0162, 0.0061, 0.1416, 0.0433, 0.0137),
    "DE_LEVA_FEMALE": (0.0668, 0.4257, 0.0255, 0.0138, 0.0056, 0.1478, 0.0481, 0.0129),
    "DEMPSTER": (0.081, 0.497, 0.028, 0.016, 0.006, 0.100, 0.0465, 0.0145),
}
# Published centres of gravity of trunk (suprasternale to mid-hip), upper arm, forearm, thigh and shank.
CENTERS = {
    "DE_LEVA_MALE": (0.4486, 0.5772, 0.4574, 0.4095, 0.4395),
    "DE_LEVA_FEMALE": (0.4151, 0.5754, 0.4559, 0.3612, 0.4352),
    "DEMPSTER": (0.50, 0.436, 0.430, 0.433, 0.433),
}
HEADS = {"DE_LEVA_MALE": 0.5002, "DE_LEVA_FEMALE": 0.4841, "DEMPSTER": 0.5}


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_masses_are_the_published_ones_and_sum_to_one(table):
    made = (*(segment.mass for segment in table.middle), *(segment.mass for segment in table.sided))
    assert made == MASSES[table.name]
    total = sum(segment.mass for segment in table.middle) + 2 * sum(segment.mass for segment in table.sided)
    assert total == pytest.approx(1.0, abs=1.01e-4)  # four printed decimals; the women's sum to 0.9999


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
@pytest.mark.parametrize("skeleton", BODIES, ids=lambda s: s.name)
def test_weights_of_every_body_sum_to_one(skeleton, table):
    weights = table.weights(skeleton)
    assert len(weights) == len(skeleton.joints)
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
@pytest.mark.parametrize("skeleton", BODIES, ids=lambda s: s.name)
def test_the_centre_of_gravity_moves_and_turns_with_the_body(skeleton, table):
    joints = torch.randn(3, len(skeleton.joints), 3, dtype=torch.float64)
    q, r = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turn, shift = torch.from_numpy(q * np.sign(np.diag(r))), torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    moved = center_of_gravity(joints @ turn.T + shift, skeleton, table)
    torch.testing.assert_close(moved, center_of_gravity(joints, skeleton, table) @ turn.T + shift)
    one_point = shift.expand(len(skeleton.joints), 3)
    torch.testing.assert_close(center_of_gravity(one_point, skeleton, table), shift)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_the_centre_of_gravity_of_h36m_is_the_sum_over_its_segments(table):
    joints = np.random.default_rng(1).normal(size=(17, 3))
    at = dict(zip(H36M_17.joints, joints, strict=True))
    head, trunk, upper, fore, hand, thigh, shank, foot = MASSES[table.name]
    c_trunk, c_upper, c_fore, c_thigh, c_shank = CENTERS[table.name]

    def between(a, b, fraction):
        return a + fraction * (b - a)

    hips = (at["left_hip"] + at["right_hip"]) / 2
    total = head * between(at["head_top"], at["neck"], HEADS[table.name]) + trunk * between(at["neck"], hips, c_trunk)
    for side in ("left", "right"):
        shoulder, elbow, wrist, hip, knee, ankle = (
            at[f"{side}_{joint}"] for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        )
        total += upper * between(shoulder, elbow, c_upper) + fore * between(elbow, wrist, c_fore) + hand * wrist
        total += thigh * between(hip, knee, c_thigh) + shank * between(knee, ankle, c_shank) + foot * ankle
    total /= head + trunk + 2 * (upper + fore + hand + thigh + shank + foot)
    made = center_of_gravity(torch.from_numpy(joints), H36M_17, table).numpy()
    np.testing.assert_allclose(made, total, atol=1e-12)


def test_feet_and_hands_that_are_there_carry_their_own_weight():
    joints = torch.zeros(17, 3, dtype=torch.float64)
    joints[BODY_17.index("left_foot"), 0] = 1.0
    assert center_of_gravity(joints, BODY_17)[0].item() == pytest.approx(0.0137 * 0.4415)
    joints = torch.zeros(24, 3, dtype=torch.float64)
    joints[SMPL_24.index("right_hand"), 0] = 1.0
    assert center_of_gravity(joints, SMPL_24)[0].item() == pytest.approx(0.0061 * 0.79)


def test_the_centre_of_gravity_is_that_of_the_motion_data(motion_data):
    data = np.load(motion_data / "freefall17.npz")
    made = center_of_gravity(torch.from_numpy(data["positions"]), H36M_17).numpy()
    distance = np.linalg.norm(made - data["com"], axis=1)
    assert distance.max() < 0.5e-3
    # What physics sees is the acceleration: the flights are ballistic with this centre as well.
    gravity = []
    for start, end in zip(data["flight_start"], data["flight_end"], strict=True):
        t = np.arange(end - start) / 120
        gravity.append(2 * np.polyfit(t, made[start:end, 2].astype(np.float64), 2)[0])
    assert np.mean(gravity) == pytest.approx(-9.81, abs=0.2)


def test_a_hand_is_no_body():
    with pytest.raises(ValueError, match=r"HAND_21.*head"):
        center_of_gravity(torch.zeros(21, 3), HAND_21)


def test_points_in_an_image_have_a_centre_too_and_gradients_are_the_weights():
    points = torch.randn(17, 2, dtype=torch.float64).requires_grad_()
    center = center_of_gravity(points, BODY_17)
    assert center.shape == (2,)
    (gradient,) = torch.autograd.grad(center.sum(), points)
    np.testing.assert_allclose(gradient[:, 0], DE_LEVA_MALE.weights(BODY_17), atol=1e-12)
