import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn.functional import grid_sample

from posegeom import (
    BODY_17,
    COCO_17,
    H36M_17,
    HAND_21,
    LSP_14,
    MPI_INF_3DHP_28,
    PerspectiveCamera,
    Puppet,
    bounded_translation,
    camera_rotation,
    canonicalize,
    part_maps,
    part_transforms,
    project,
)

few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**31 - 1)

# A person drawn with every limb slanted, in a picture of 120 × 100 pixels.
DRAWN = {
    "pelvis": (50, 62),
    "neck": (52, 30),
    "head": (55, 14),
    "left_shoulder": (62, 32),
    "left_elbow": (72, 44),
    "left_wrist": (86, 50),
    "right_shoulder": (41, 31),
    "right_elbow": (31, 45),
    "right_wrist": (17, 39),
    "left_hip": (57, 61),
    "left_knee": (64, 80),
    "left_ankle": (61, 98),
    "left_foot": (72, 106),
    "right_hip": (43, 62),
    "right_knee": (33, 79),
    "right_ankle": (30, 99),
    "right_foot": (19, 107),
}
PARTS = (
    ("torso", ("left_shoulder", "right_shoulder", "left_hip", "right_hip")),
    ("head", ("neck", "head")),
    *(
        (f"{side}_{end}", (f"{side}_{start}", f"{side}_{end}"))
        for group in (
            (("shoulder", "elbow"), ("elbow", "wrist")),
            (("hip", "knee"), ("knee", "ankle"), ("ankle", "foot")),
        )
        for side in ("left", "right")
        for start, end in group
    ),
)


def drawn_labels():
    """Label k + 1 is part k; thick lines, and a filled trunk below them."""
    y, x = np.mgrid[:120, :100]
    labels = np.zeros((120, 100), dtype=np.int64)
    for number, (_, joints) in enumerate(PARTS, start=1):
        corners = np.array([DRAWN[joint] for joint in joints], dtype=float)
        a, b = (corners[:2].mean(0), corners[2:].mean(0)) if len(corners) == 4 else corners
        r = np.clip(((x - a[0]) * (b - a)[0] + (y - a[1]) * (b - a)[1]) / ((b - a) ** 2).sum(), 0, 1)
        distance = np.hypot(x - a[0] - r * (b - a)[0], y - a[1] - r * (b - a)[1])
        labels[distance <= (9 if len(corners) == 4 else 3.5)] = number
    return labels


def slanted_puppet(erosion=1.0, blur=1.0):
    return Puppet.from_labels(drawn_labels(), DRAWN, BODY_17, erosion, blur)


def landed_anchors(transforms, puppet):
    """Where the canonical anchors come to lie in the output, (*B, L, 4, 2), by the inverse affine in float64."""
    matrix = transforms.double().numpy()
    offset = puppet.anchors.double().numpy() - matrix[..., None, :, 2]
    return np.einsum("...ij,...kj->...ki", np.linalg.inv(matrix[..., :2]), offset)


def anchor_errors(points, puppet, **options):
    """Distances of two-anchor parts' anchors from their joints, (*B, L2, 2)."""
    landed = landed_anchors(part_transforms(points, puppet, **options), puppet)
    two = [k for k, joints in enumerate(puppet.joints) if len(joints) == 2]
    wanted = np.stack([points.double().numpy()[..., list(puppet.joints[k]), :] for k in two], axis=-3)
    return np.linalg.norm(landed[..., two, :2, :] - wanted, axis=-1)


# --- transforms -------------------------------------------------------------------------------------------------------
def transform_in_numpy(points, puppet, part, width_scale, ratio):
    """R(φ) diag(γx, γy) R(θ) (u′ − μ) + r̄ of a limb, as the specification writes it."""

    def turn(angle):
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    a, b = points[list(puppet.joints[part])]
    r_a, r_b = puppet.anchors[part, :2].double().numpy()
    q, r = b - a, r_b - r_a
    theta, phi = -np.arctan2(q[1], q[0]), np.arctan2(r[1], r[0])
    gamma = np.diag([np.linalg.norm(r) / max(np.linalg.norm(q), 1e-3), ratio / width_scale])
    linear = turn(phi) @ gamma @ turn(theta)
    return np.concatenate((linear, ((r_a + r_b) / 2 - linear @ (a + b) / 2)[:, None]), axis=1)


@few
@given(seeds, st.floats(0.3, 3), st.booleans())
def test_limb_transforms_are_the_stated_product(seed, width_scale, slanted):
    rng = np.random.default_rng(seed)
    puppet = slanted_puppet() if slanted else Puppet.capsules(BODY_17, (64, 64))
    points = rng.uniform(0, 64, (17, 2))
    made = part_transforms(torch.from_numpy(points), puppet, width_scale, size=(32, 48)).numpy()
    ratio = puppet.shape.shape[1] / 32
    for part, joints in enumerate(puppet.joints):
        if len(joints) == 2:
            expected = transform_in_numpy(points, puppet, part, width_scale, ratio)
            np.testing.assert_allclose(made[part], expected, atol=1e-6)


def poses_with_short_limbs(seed, dtype, spread, exponent):
    """Any pose; one in three has limbs of 10^exponent pixels, and one limb points at the camera."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.3, 0.7, (17, 2)) * spread
    for number, (parent, child) in enumerate(BODY_17.bones):
        if rng.random() < 1 / 3:
            points[child] = points[parent] + rng.uniform(-0.5, 0.5, 2) * 10.0**exponent
        if number == seed % 16:
            points[child] = points[parent]
    return torch.from_numpy(points).to(dtype)


@few
@given(seeds, st.sampled_from([torch.float32, torch.float64]), st.floats(1, 300), st.integers(-4, 1))
def test_both_anchors_of_every_capsule_land_on_their_joints_for_any_pose(seed, dtype, spread, exponent):
    points = poses_with_short_limbs(seed, dtype, spread, exponent)
    puppet = Puppet.capsules(BODY_17, (128, 128))
    assert anchor_errors(points, puppet).max() <= 1.001e-3  # a limb of length zero is a thousandth pixel long
    assert anchor_errors(points, puppet, width_scale=0.6, size=(64, 64)).max() <= 1.001e-3


@few
@given(seeds, st.sampled_from([torch.float64, torch.float32]), st.floats(1, 300), st.integers(-4, 1))
def test_both_anchors_of_every_slanted_limb_land_on_their_joints_for_any_pose(seed, dtype, spread, exponent):
    points = poses_with_short_limbs(seed, dtype, spread, exponent)
    puppet = slanted_puppet()
    two = [k for k, joints in enumerate(puppet.joints) if len(joints) == 2]
    ends = points.double().numpy()[np.array([puppet.joints[k] for k in two])]
    length = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1)
    # The third column of the matrix grows with |r|/|q|; below some pixels float32 cannot hold it across a slanted limb.
    exact = length > (2 if dtype == torch.float32 else 0)
    exact |= (length == 0) & (dtype == torch.float64)
    for options in ({}, {"width_scale": 0.6, "size": (64, 64)}):
        errors = anchor_errors(points, puppet, **options)
        assert errors[exact].max(initial=0) <= 1.001e-3
        assert errors.max() <= 0.3


def real_poses(motion_data, count):
    """BODY_17 poses of real motion, seen by random cameras in 128 × 128 pixels: points (count, 17, 2)."""
    data = np.load(motion_data / "cmu17_test.npz")
    rows = np.random.default_rng(0).choice(len(data["positions"]), count, replace=False)
    joints = dict(zip(H36M_17.joints, data["positions"][rows].swapaxes(0, 1), strict=True))
    joints |= {"head": joints["head_top"], "left_foot": data["feet"][rows, 0], "right_foot": data["feet"][rows, 1]}
    body = torch.from_numpy(np.stack([joints[name] for name in BODY_17.joints], axis=1)).double()
    body = canonicalize(body, BODY_17).canonical
    generator = torch.Generator().manual_seed(1)
    angles = torch.rand(3, count, generator=generator, dtype=torch.float64) - 0.5
    turn, tilt, roll = angles * torch.tensor([[2 * np.pi], [1.0], [0.4]])
    camera = PerspectiveCamera(1.145 * 128, None, (128, 128))  # the field of view of Human3.6M's cameras
    raw = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    shift = bounded_translation(raw, camera, body.norm(dim=-1).amax(-1))
    seen = torch.einsum("bij,bkj->bki", camera_rotation(turn, tilt, roll), body) + shift[:, None]
    return project(seen, camera)[0]


def torso_facts(points, puppet):
    """Signed projected mean width over the canonical one, by plain NumPy, (B,)."""
    ls, rs, lh, rh = (points[:, joint].numpy() for joint in puppet.joints[0])
    axis = (lh + rh - ls - rs) / 2
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    left_to_right = (ls - rs + lh - rh) / 2
    across = axis[:, 0] * left_to_right[:, 1] - axis[:, 1] * left_to_right[:, 0]
    corners = puppet.anchors[0].double().numpy()
    r_axis = corners[2:].mean(0) - corners[:2].mean(0)
    r_axis /= np.linalg.norm(r_axis)
    r_width = (corners[0] - corners[1] + corners[2] - corners[3]) / 2
    return across / (r_axis[0] * r_width[1] - r_axis[1] * r_width[0])


def test_torso_anchors_land_within_a_pixel_on_real_poses(motion_data):
    points = real_poses(motion_data, 2000)
    puppet = Puppet.capsules(BODY_17, (128, 128))
    wide = np.abs(torso_facts(points, puppet)) > 0.3
    assert wide.mean() > 0.5
    landed = landed_anchors(part_transforms(points, puppet), puppet)[:, 0]
    wanted = points[:, list(puppet.joints[0])].numpy()
    errors = np.linalg.norm(landed - wanted, axis=-1)[wide]
    assert np.median(errors) <= 1.0


def test_a_torso_seen_from_behind_is_mirrored(motion_data):
    points = real_poses(motion_data, 300)
    puppet = Puppet.capsules(BODY_17, (128, 128))
    ratio = torso_facts(points, puppet)
    matrix = part_transforms(points, puppet)[:, 0, :, :2].numpy()
    np.testing.assert_array_equal(np.sign(np.linalg.det(matrix)), np.sign(ratio))
    assert {-1, 1} == set(np.sign(ratio))
    # The two scales: along the axis exact, across the projected width, floored at 0.3 of the canonical one.
    expected = 1 / np.maximum(np.abs(ratio), 0.3)
    lengths = np.linalg.norm(
        points[:, list(puppet.joints[0][2:])].mean(1).numpy() - points[:, list(puppet.joints[0][:2])].mean(1).numpy(),
        axis=-1,
    )
    corners = puppet.anchors[0].double().numpy()
    along = np.linalg.norm(corners[2:].mean(0) - corners[:2].mean(0)) / lengths
    np.testing.assert_allclose(np.abs(np.linalg.det(matrix)), along * expected, rtol=1e-4)


def test_a_torso_in_profile_has_three_tenths_of_its_width():
    points = torch.from_numpy(np.array([DRAWN[name] for name in BODY_17.joints], dtype=np.float64))
    for name in ("shoulder", "hip"):
        points[BODY_17.index(f"left_{name}")] = points[BODY_17.index(f"right_{name}")]
    puppet = Puppet.capsules(BODY_17, (128, 128))
    linear = part_transforms(points, puppet)[0, :, :2].numpy()
    across = np.linalg.svd(linear)[1]
    assert np.abs(across - 1 / 0.3).min() < 1e-5
    assert np.linalg.det(linear) > 0
    # At half the puppet's resolution a pixel is two of the puppet's, and the floor goes with it.
    smaller = part_transforms(points, puppet, size=(64, 64))[0, :, :2].numpy()
    assert np.abs(np.linalg.svd(smaller)[1] - 2 / 0.3).min() < 1e-5


# --- maps -------------------------------------------------------------------------------------------------------------
@few
@given(seeds, st.booleans(), st.sampled_from([(24, 24), (20, 33), (48, 40)]))
def test_part_maps_are_grid_sample_of_the_template(seed, slanted, size):
    puppet = (slanted_puppet() if slanted else Puppet.capsules(BODY_17, (40, 48))).to(dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(2, 17, 2, generator=generator, dtype=torch.float64) * 40 - 4
    drawn = part_maps(points, puppet, size, width_scale=0.8)
    transforms = part_transforms(points, puppet, 0.8, size)
    y, x = torch.meshgrid(torch.arange(size[0]).double(), torch.arange(size[1]).double(), indexing="ij")
    looked_at = torch.einsum("blij,hwj->blhwi", transforms, torch.stack((x, y, torch.ones_like(x)), -1))
    h, w = puppet.shape.shape[1:]
    grid = (2 * looked_at + 1) / torch.tensor([w, h]) - 1
    for source, result in ((puppet.shape, drawn.shape), (puppet.uncertainty, drawn.uncertainty)):
        images = source.expand(2, *source.shape).flatten(0, 1)[:, None]
        expected = grid_sample(images, grid.flatten(0, 1), align_corners=False).view_as(result)
        torch.testing.assert_close(result, expected, atol=1e-9, rtol=0)


def test_gradients_of_part_maps_are_those_of_finite_differences():
    puppet = Puppet.capsules(BODY_17, (16, 16)).to(dtype=torch.float64)
    points = (torch.rand(17, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 12).requires_grad_()
    strength = torch.rand(12, dtype=torch.float64).requires_grad_()

    def draw(points, strength):
        return part_maps(
            points, dataclasses.replace(puppet, shape=puppet.shape * strength[:, None, None]), (4, 5)
        ).shape

    torch.autograd.gradcheck(draw, (points, strength), atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e3, 1e6])
def test_extreme_poses_have_finite_maps_and_gradients(scale):
    puppet = Puppet.capsules(BODY_17, (16, 16))
    points = (torch.randn(17, 2, generator=torch.Generator().manual_seed(0)) * scale).requires_grad_()
    maps = part_maps(points, puppet, (16, 16))
    assert maps.shape.isfinite().all()
    (gradient,) = torch.autograd.grad(maps.shape.sum() + maps.uncertainty.sum(), points)
    assert gradient.isfinite().all()


# --- templates --------------------------------------------------------------------------------------------------------
def test_capsules_of_body_17_are_its_twelve_parts():
    puppet = Puppet.capsules(BODY_17, (64, 48))
    assert puppet.parts == tuple(name for name, _ in PARTS)
    assert puppet.joints == tuple(tuple(BODY_17.index(joint) for joint in joints) for _, joints in PARTS)
    assert puppet.anchor_counts.tolist() == [4] + [2] * 11
    assert torch.equal(puppet.anchors[1:, :2], puppet.anchors[1:, 2:])
    assert puppet.shape.shape == puppet.uncertainty.shape == (12, 64, 48)
    assert puppet.shape.min() >= 0
    assert puppet.shape.max() <= 1


@pytest.mark.parametrize(
    ("skeleton", "count"),
    [(BODY_17, 12), (H36M_17, 10), (MPI_INF_3DHP_28, 16), (HAND_21, 20), (LSP_14, 13), (COCO_17, 16)],
)
def test_capsules_exist_for_every_kind_of_skeleton(skeleton, count):
    puppet = Puppet.capsules(skeleton, (64, 64))
    assert len(puppet.parts) == len(puppet.joints) == count
    middles = puppet.anchors.mean(1).round().long()
    for shape, (x, y) in zip(puppet.shape, middles.tolist(), strict=True):
        assert shape[y, x] > 0.4  # each part is there, between its anchors
    for drawn in (puppet, slanted_puppet()):
        assert drawn.draw().shape[0] == 3
        assert 0 <= drawn.draw().min() <= drawn.draw().max() <= 1


@pytest.mark.parametrize(("erosion", "blur"), [(1.0, 1.0), (2.5, 1.5), (0.0, 0.8), (1.5, 0.0)])
def test_labels_are_eroded_dilated_and_blurred(erosion, blur):
    labels = drawn_labels()
    puppet = slanted_puppet(erosion, blur)
    reach = np.arange(-12, 13)
    kernel = np.exp(-0.5 * (reach / max(blur, 1e-3)) ** 2)
    kernel /= kernel.sum()
    for number in range(1, 13):
        # A disc of that radius fits inside / touches: exact Euclidean distances say so.
        mask = labels == number
        eroded = ndimage.distance_transform_edt(mask) > erosion
        dilated = ndimage.distance_transform_edt(~mask) <= erosion
        for image, made in ((eroded, puppet.shape), (dilated & ~eroded, puppet.uncertainty)):
            blurred = np.apply_along_axis(np.convolve, 0, image.astype(float), kernel, mode="same")
            blurred = np.apply_along_axis(np.convolve, 1, blurred, kernel, mode="same")
            np.testing.assert_allclose(made[number - 1], blurred, atol=2e-4)  # SciPy cuts its kernel off at 4 σ
    for part, (_, joints) in enumerate(PARTS):
        wanted = [DRAWN[joint] for joint in (joints if len(joints) == 4 else joints * 2)]
        assert puppet.anchors[part].tolist() == [list(map(float, point)) for point in wanted]


def test_labels_take_points_as_an_array_and_name_what_is_missing():
    array = np.array([DRAWN[name] for name in BODY_17.joints], dtype=float)
    by_array = Puppet.from_labels(torch.from_numpy(drawn_labels()), array, BODY_17, 1.0, 1.0)
    assert torch.equal(by_array.anchors, slanted_puppet().anchors)
    without = {name: point for name, point in DRAWN.items() if name != "left_knee"}
    with pytest.raises(ValueError, match="left_knee"):
        Puppet.from_labels(drawn_labels(), without, BODY_17, 1.0, 1.0)
    labels = drawn_labels()
    labels[labels == 5] = 0
    with pytest.raises(ValueError, match=r"label 5.*right_elbow"):
        Puppet.from_labels(labels, DRAWN, BODY_17, 1.0, 1.0)
    with pytest.raises(ValueError, match="label_image"):
        Puppet.from_labels(drawn_labels().astype(float), DRAWN, BODY_17, 1.0, 1.0)
    with pytest.raises(ValueError, match="erosion must be >= 0"):
        Puppet.from_labels(drawn_labels(), DRAWN, BODY_17, -1.0, 1.0)


# --- files ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("skeleton", [BODY_17, HAND_21], ids=lambda s: s.name)
def test_a_file_gives_the_same_puppet_back(skeleton, tmp_path):
    puppet = Puppet.capsules(skeleton, (20, 24))
    puppet.save(tmp_path / "puppet.npz")
    again = Puppet.load(tmp_path / "puppet.npz")
    for name in ("shape", "uncertainty", "anchors", "anchor_counts"):
        assert torch.equal(getattr(again, name), getattr(puppet, name))
        assert getattr(again, name).dtype == getattr(puppet, name).dtype
    assert (again.joints, again.parts, again.skeleton) == (puppet.joints, puppet.parts, puppet.skeleton)
    with np.load(tmp_path / "puppet.npz", allow_pickle=False) as content:
        assert content["shape"].shape == puppet.shape.shape  # readable by anyone, without pickle


class Exploit:
    def __reduce__(self):
        return (pytest.fail, ("a pickle in a puppet file was executed",))


def test_damaged_and_pickled_files_are_refused(tmp_path):
    path = tmp_path / "puppet.npz"
    Puppet.capsules(BODY_17, (16, 16)).save(path)
    good = path.read_bytes()
    with np.load(path) as content:
        fields = dict(content)
    broken = {
        "empty": b"",
        "half": good[: len(good) // 2],
        "text": b"no archive",
        "pickle": pickle.dumps(Exploit()),
        "flipped": good[:200] + bytes(byte ^ 0xFF for byte in good[200:400]) + good[400:],
    }
    for name, content in broken.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            Puppet.load(path)
    objects = np.empty(1, dtype=object)
    objects[0] = Exploit()
    changes = {
        "objects": {"parts": objects},
        "integers": {"shape": np.zeros((12, 16, 16), dtype=np.int64)},
        "counts": {"anchor_counts": np.full(12, 3)},
        "joints": {"joints": fields["joints"] + 20},
        "tree": {"skeleton": np.array('{"name": "a"}')},
        "shapes": {"uncertainty": fields["uncertainty"][:, :-1]},
    }
    for name, change in changes.items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, **{**fields, **change})
        with pytest.raises(ValueError, match=name):
            Puppet.load(path)
    np.savez(tmp_path / "lacking.npz", **{key: value for key, value in fields.items() if key != "anchors"})
    with pytest.raises(ValueError, match="lacking"):
        Puppet.load(tmp_path / "lacking.npz")
    with pytest.raises(FileNotFoundError):
        Puppet.load(tmp_path / "nowhere.npz")
