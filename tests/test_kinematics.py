import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from posegeom import (
    BODY_17,
    COCO_17,
    H36M_17,
    HAND_21,
    LSP_14,
    MPI_INF_3DHP_17,
    MPI_INF_3DHP_28,
    SMPL_24,
    Skeleton,
    affine_points,
    bone_angles,
    bone_vectors,
    canonicalize,
    flip_joints,
    forward_kinematics,
    gram_schmidt_frame,
    local_directions,
)

PRESETS = (BODY_17, COCO_17, H36M_17, HAND_21, LSP_14, MPI_INF_3DHP_17, MPI_INF_3DHP_28, SMPL_24)
few = settings(max_examples=80, deadline=None)
seeds = st.integers(0, 2**31 - 1)

# Vectors of every length that matters, axes and zero among them.
vectors = st.builds(
    lambda direction, exponent: np.float32(direction) * np.float32(10.0**exponent),
    st.one_of(
        st.tuples(*[st.floats(-1, 1, width=32)] * 3),
        st.sampled_from([(1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)]),
    ).map(np.array),
    st.integers(-12, 6),
)


def check_rotations(matrix, tolerance=1e-5):
    R = matrix.double().numpy()
    assert np.abs(R.swapaxes(-1, -2) @ R - np.eye(3)).max(initial=0) <= tolerance
    assert np.abs(np.linalg.det(R) - 1).max(initial=0) <= tolerance


def random_poses(skeleton, batch, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(*batch, len(skeleton.free_joints), 3, generator=generator, dtype=dtype)
    hip_angle = torch.rand(batch, generator=generator, dtype=dtype) * 6.28 - 3.14 if skeleton.trunk else None
    lengths = torch.rand(*batch, len(skeleton.bones), generator=generator, dtype=dtype) + 0.1
    return directions, hip_angle, lengths


# --- Gram-Schmidt -----------------------------------------------------------------------------------------------------
def test_the_frame_is_the_q_of_a_qr_decomposition():
    rng = np.random.default_rng(0)
    primary, reference = rng.normal(size=(2, 200, 3))
    frame = gram_schmidt_frame(torch.from_numpy(primary), torch.from_numpy(reference)).numpy()
    for p, r, f in zip(primary, reference, frame, strict=True):
        q, upper = np.linalg.qr(np.stack((p, r), axis=1))
        q = q * np.sign(np.diag(upper))
        np.testing.assert_allclose(f[:, :2], q, atol=1e-12)
        np.testing.assert_allclose(f[:, 2], np.cross(q[:, 0], q[:, 1]), atol=1e-12)
        # SciPy agrees that it is a rotation: its own orthogonalisation changes nothing.
        np.testing.assert_allclose(Rotation.from_matrix(f).as_matrix(), f, atol=1e-12)


@few
@given(vectors, vectors)
def test_frames_are_rotations_whatever_the_vectors(primary, reference):
    check_rotations(gram_schmidt_frame(torch.from_numpy(primary), torch.from_numpy(reference)))


@few
@given(vectors, st.floats(-2, 2, width=32), vectors, st.integers(-9, 0))
def test_frames_of_nearly_parallel_vectors_are_rotations(primary, multiple, noise, exponent):
    size = np.abs(primary).max()
    noise = noise / max(np.abs(noise).max(), np.float32(1e-30)) * size * np.float32(10.0**exponent)
    reference = (primary * np.float32(multiple) + noise).astype(np.float32)
    check_rotations(gram_schmidt_frame(torch.from_numpy(primary), torch.from_numpy(reference)))


def test_parallel_vectors_fall_back_to_z_and_then_to_y():
    def frame(primary, reference):
        return gram_schmidt_frame(torch.tensor(primary), torch.tensor(reference)).tolist()

    x_z = [[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]  # a = X, b = Z, n = X x Z = -Y
    assert frame([3.0, 0.0, 0.0], [5.0, 0.0, 0.0]) == x_z
    assert frame([3.0, 0.0, 0.0], [-5.0, 0.0, 0.0]) == x_z
    assert frame([3.0, 0.0, 0.0], [0.0, 0.0, 0.0]) == x_z
    assert frame([0.0, 0.0, 2.0], [0.0, 0.0, 7.0]) == [[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert frame([0.0, 0.0, 0.0], [0.0, 1.0, 0.0]) == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


# --- forward kinematics -----------------------------------------------------------------------------------------------
def fk_in_numpy(directions, hip_angle, skeleton, lengths, frame):
    """Plain recursion over the joints' parents, one pose at a time."""
    bone_of = {child: bone for bone, (_, child) in enumerate(skeleton.bones)}
    direction_of = dict(zip(skeleton.free_joints, directions, strict=True))

    def limb(joint):
        if skeleton.trunk is not None and joint in skeleton.trunk[1:]:
            side = np.array([0.0, np.cos(hip_angle), np.sin(hip_angle)])
            return {1: np.array([0.0, 0.0, 1.0]), 2: side, 3: -side}[skeleton.trunk.index(joint)]
        v = direction_of[joint] / np.linalg.norm(direction_of[joint])
        parent = skeleton.parents[joint]
        if frame == "canonical" or skeleton.parents[parent] == -1:
            return v
        a = limb(parent)
        b = np.cross(np.cross(a, [1.0, 0.0, 0.0]), a)  # (a × X) × a, the part of X across a
        b /= np.linalg.norm(b)
        return np.stack((a, b, np.cross(a, b)), axis=1) @ v

    def position(joint):
        if skeleton.parents[joint] == -1:
            return np.zeros(3)
        return position(skeleton.parents[joint]) + lengths[bone_of[joint]] * limb(joint)

    return np.stack([position(joint) for joint in range(len(skeleton.joints))])


@pytest.mark.parametrize("frame", ["limb", "canonical"])
@pytest.mark.parametrize("skeleton", PRESETS, ids=lambda s: s.name)
def test_forward_kinematics_is_the_plain_recursion(skeleton, frame):
    directions, hip_angle, lengths = random_poses(skeleton, (6,), seed=1)
    joints = forward_kinematics(directions, hip_angle, skeleton, lengths, frame=frame)
    for k in range(6):
        angle = None if hip_angle is None else hip_angle[k].item()
        expected = fk_in_numpy(directions[k].numpy(), angle, skeleton, lengths[k].numpy(), frame)
        np.testing.assert_allclose(joints[k].numpy(), expected, atol=1e-12)


@few
@given(
    st.sampled_from(PRESETS), st.sampled_from(["limb", "canonical"]), seeds, st.lists(vectors, min_size=1, max_size=8)
)
def test_forward_kinematics_keeps_every_bone_length(skeleton, frame, seed, extreme):
    directions, hip_angle, lengths = random_poses(skeleton, (2,), seed, torch.float32)
    for k, vector in enumerate(extreme):
        directions[0, k % directions.shape[1]] = torch.from_numpy(vector)
    joints = forward_kinematics(directions, hip_angle, skeleton, lengths, frame=frame)
    for bone, (parent, child) in enumerate(skeleton.bones):
        length = np.linalg.norm((joints[:, child] - joints[:, parent]).double().numpy(), axis=-1)
        np.testing.assert_allclose(length, lengths[:, bone].double().numpy(), rtol=1e-5, atol=2e-6)


def test_the_trunk_rule_places_pelvis_neck_and_hips():
    angle = torch.tensor([0.0, 0.3, -2.0], dtype=torch.float64)
    joints = forward_kinematics(torch.ones(3, 13, 3, dtype=torch.float64), angle, BODY_17).numpy()
    assert np.abs(joints[:, 0]).max() == 0
    np.testing.assert_allclose(joints[:, 1], [[0, 0, 0.49]] * 3)
    side = 0.1337 * torch.stack((0 * angle, angle.cos(), angle.sin()), dim=-1)
    np.testing.assert_allclose(joints[:, 9], side, atol=1e-15)
    np.testing.assert_allclose(joints[:, 13], -side, atol=1e-15)


@few
@given(seeds, st.integers(-11, 6))
def test_directions_are_normalised_at_any_scale(seed, exponent):
    directions, hip_angle, _ = random_poses(BODY_17, (2,), seed, torch.float32)
    joints = forward_kinematics(directions, hip_angle, BODY_17)
    scaled = forward_kinematics(directions * 10.0**exponent, hip_angle, BODY_17)
    torch.testing.assert_close(scaled, joints, atol=1e-5, rtol=0)


def test_a_zero_direction_counts_as_x():
    directions, hip_angle, _ = random_poses(BODY_17, (), seed=3)
    zeros, x = directions.clone(), directions.clone()
    zeros[4], x[4] = 0.0, torch.tensor([1.0, 0.0, 0.0])
    assert torch.equal(forward_kinematics(zeros, hip_angle, BODY_17), forward_kinematics(x, hip_angle, BODY_17))


@pytest.mark.parametrize("frame", ["limb", "canonical"])
def test_gradients_of_forward_kinematics_are_those_of_finite_differences(frame):
    directions, hip_angle, lengths = (value.requires_grad_() for value in random_poses(BODY_17, (), seed=5))
    torch.autograd.gradcheck(
        lambda d, a, length: forward_kinematics(d, a, BODY_17, length, frame), (directions, hip_angle, lengths)
    )


# --- the way back -----------------------------------------------------------------------------------------------------
def body_17_of(positions, feet):
    """BODY_17 from the motion data's 17 joints and its feet, by the documented columns."""
    index = {"pelvis": 0, "neck": 8, "head": 10}
    index |= {"left_shoulder": 11, "left_elbow": 12, "left_wrist": 13, "left_hip": 4, "left_knee": 5, "left_ankle": 6}
    index |= {"right_shoulder": 14, "right_elbow": 15, "right_wrist": 16, "right_hip": 1, "right_knee": 2}
    index |= {"right_ankle": 3, "left_foot": 17, "right_foot": 18}
    return np.concatenate((positions, feet), axis=1)[:, [index[name] for name in BODY_17.joints]]


def round_trip_error(joints, skeleton, frame="limb"):
    worst = 0.0
    for chunk in joints.split(2048):
        pose = local_directions(chunk, skeleton, frame)
        again = forward_kinematics(pose.directions, pose.hip_angle, skeleton, pose.lengths, frame)
        worst = max(worst, (again.double() - chunk.double()).norm(dim=-1).max().item())
    return worst


@pytest.mark.parametrize("name", ["cmu17_train", "cmu17_test", "freefall17", "acro17"])
def test_every_frame_of_real_motion_survives_the_round_trip(motion_data, name):
    data = np.load(motion_data / f"{name}.npz")
    h36m = canonicalize(torch.from_numpy(data["positions"]), H36M_17).canonical
    assert round_trip_error(h36m, H36M_17) <= 2e-5
    assert round_trip_error(h36m[::5], H36M_17, "canonical") <= 2e-5
    if "feet" in data.files:
        body = canonicalize(torch.from_numpy(body_17_of(data["positions"], data["feet"])), BODY_17).canonical
        assert round_trip_error(body, BODY_17) <= 2e-5


@few
@given(seeds, st.integers(-10, -1), st.sampled_from([-1.0, 1.0]))
def test_thighs_along_x_survive_the_round_trip(seed, exponent, sign):
    generator = torch.Generator().manual_seed(seed)
    directions, hip_angle, _ = random_poses(BODY_17, (16,), seed)
    for name in ("left_knee", "right_knee", "left_ankle", "right_ankle", "left_elbow"):
        straight = torch.tensor([sign, 0.0, 0.0], dtype=torch.float64)
        off = torch.randn(16, 3, generator=generator, dtype=torch.float64) * 10.0**exponent
        directions[:, BODY_17.free_joints.index(BODY_17.index(name))] = straight + off
    joints = forward_kinematics(directions, hip_angle, BODY_17, frame="canonical").float()
    assert round_trip_error(joints, BODY_17) <= 2e-5


@pytest.mark.parametrize("skeleton", PRESETS, ids=lambda s: s.name)
def test_local_directions_give_back_directions_angle_and_lengths(skeleton):
    directions, hip_angle, lengths = random_poses(skeleton, (3, 2), seed=7)
    for frame in ("limb", "canonical"):
        joints = forward_kinematics(directions, hip_angle, skeleton, lengths, frame)
        pose = local_directions(joints, skeleton, frame)
        expected = directions / directions.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(pose.directions, expected, atol=1e-10, rtol=0)
        torch.testing.assert_close(pose.lengths, lengths, atol=1e-12, rtol=0)
        if hip_angle is not None:
            torch.testing.assert_close(pose.hip_angle, hip_angle, atol=1e-12, rtol=0)


def test_canonical_poses_are_what_the_convention_says(motion_data):
    positions = np.load(motion_data / "cmu17_test.npz")["positions"][::7]
    canonical, rotation, translation = canonicalize(torch.from_numpy(positions), H36M_17)
    assert canonical[:, 0].abs().max() == 0
    top, left, right = canonical[:, 7], canonical[:, 4], canonical[:, 1]
    assert top[:, :2].abs().max() <= 2e-6
    assert (top[:, 2] > 0).all()
    assert left[:, 0].abs().max() <= 2e-6
    assert (left[:, 1] > 0).all()
    torch.testing.assert_close(right, -left, atol=5e-6, rtol=0)
    check_rotations(rotation)
    back = np.einsum("bij,bkj->bki", rotation.double(), canonical.double()) + translation.double().numpy()[:, None]
    np.testing.assert_allclose(back, positions, atol=3e-6)
    # People face +X: the toes of a walking person are in front of the ankles, the nose in front of the neck.
    data = np.load(motion_data / "cmu17_test.npz")
    body = canonicalize(torch.from_numpy(body_17_of(data["positions"], data["feet"])[::7]), BODY_17).canonical
    walking = np.char.startswith(data["action"][data["clip"]][::7], "walk")
    if walking.any():
        assert (body[walking, 12, 0] > body[walking, 11, 0]).float().mean() > 0.95


@few
@given(seeds)
def test_canonical_poses_do_not_depend_on_where_a_person_stands(seed):
    rng = np.random.default_rng(seed)
    joints = rng.normal(size=(17, 3))
    turn, shift = Rotation.random(random_state=seed).as_matrix(), rng.normal(size=3)
    first = canonicalize(torch.from_numpy(joints), BODY_17)
    second = canonicalize(torch.from_numpy(joints @ turn.T + shift), BODY_17)
    np.testing.assert_allclose(second.canonical, first.canonical, atol=1e-9)
    np.testing.assert_allclose(second.rotation, turn @ first.rotation.numpy(), atol=1e-9)
    np.testing.assert_allclose(second.translation, joints[0] @ turn.T + shift, atol=1e-12)


# --- flips, affine maps, bones ----------------------------------------------------------------------------------------
@few
@given(st.sampled_from(PRESETS), seeds, st.sampled_from([2, 3]))
def test_a_flip_twice_is_the_identity(skeleton, seed, dims):
    joints = torch.randn(2, len(skeleton.joints), dims, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(flip_joints(flip_joints(joints, skeleton), skeleton), joints)
    flipped = flip_joints(joints, skeleton)
    for parent, child in skeleton.bones:
        mirrored = (skeleton.mirror[parent], skeleton.mirror[child])
        torch.testing.assert_close(
            (flipped[:, child] - flipped[:, parent]).norm(dim=-1),
            (joints[:, mirrored[1]] - joints[:, mirrored[0]]).norm(dim=-1),
        )


def test_flips_mirror_pixels_and_the_left_right_axis():
    points = torch.rand(17, 2) * 127
    flipped = flip_joints(points, COCO_17, width=128)
    left_wrist, right_wrist = COCO_17.index("left_wrist"), COCO_17.index("right_wrist")
    assert flipped[left_wrist, 0] == -points[right_wrist, 0] + 127
    assert flipped[left_wrist, 1] == points[right_wrist, 1]
    torch.testing.assert_close(flip_joints(flipped, COCO_17, width=128), points)
    joints = forward_kinematics(torch.randn(13, 3), torch.tensor(0.0), BODY_17)
    assert flip_joints(joints, BODY_17)[9, 1] > 0  # the left hip stays left
    assert flip_joints(joints, BODY_17)[9].tolist() == [joints[13, 0], -joints[13, 1], joints[13, 2]]


@few
@given(seeds, st.sampled_from([2, 3]))
def test_affine_points_are_the_homogeneous_product(seed, dims):
    rng = np.random.default_rng(seed)
    points, matrix = rng.normal(size=(4, 5, dims)), rng.normal(size=(4, dims, dims + 1))
    moved = affine_points(torch.from_numpy(points), torch.from_numpy(matrix)).numpy()
    homogeneous = np.concatenate((points, np.ones((4, 5, 1))), axis=-1)
    np.testing.assert_allclose(moved, np.einsum("bij,bkj->bki", matrix, homogeneous), atol=1e-12)


def test_bone_vectors_go_from_parent_to_child():
    joints = torch.randn(2, 21, 3)
    vectors = bone_vectors(joints, HAND_21)
    for bone, (parent, child) in enumerate(HAND_21.bones):
        assert torch.equal(vectors[:, bone], joints[:, child] - joints[:, parent])


@few
@given(seeds, st.sampled_from([BODY_17, HAND_21, LSP_14]))
def test_bone_angles_are_those_of_arccos(seed, skeleton):
    joints = np.random.default_rng(seed).normal(size=(len(skeleton.joints), 3))
    angles = bone_angles(torch.from_numpy(joints), skeleton).numpy()
    for bone, (parent, child) in enumerate(skeleton.bones):
        if skeleton.parents[parent] == -1:
            assert angles[bone] == 0
            continue
        u, v = joints[parent] - joints[skeleton.parents[parent]], joints[child] - joints[parent]
        cosine = np.dot(u, v) / np.linalg.norm(u) / np.linalg.norm(v)
        assert abs(angles[bone] - np.arccos(np.clip(cosine, -1, 1))) < 1e-6
        flat = bone_angles(torch.from_numpy(joints[:, :2]), skeleton).numpy()[bone]
        signed = np.angle(complex(*v[:2]) / complex(*u[:2]))
        assert abs(np.angle(np.exp(1j * (flat - signed)))) < 1e-9


def test_straight_and_folded_bones_have_finite_gradients():
    arm = Skeleton("arm", ("a", "b", "c"), (-1, 0, 1), (0, 1, 2))
    for end, expected in ((2.0, 0.0), (0.5, np.pi), (1.0, 0.0)):
        joints = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [end, 0, 0]], requires_grad=True)
        angle = bone_angles(joints, arm)[1]
        assert abs(angle.item() - expected) < 1e-6
        angle.backward()
        assert joints.grad.isfinite().all()


@pytest.mark.parametrize("along", [1.0, -1.0])
def test_exactly_straight_and_folded_bones_have_no_gradient_in_any_direction(along):
    arm = Skeleton("arm", ("a", "b", "c"), (-1, 0, 1), (0, 1, 2))
    upper = torch.randn(1000, 3, generator=torch.Generator().manual_seed(3))
    joints = torch.stack((-upper, torch.zeros_like(upper), along * upper), dim=1).requires_grad_()
    angles = bone_angles(joints, arm)[:, 1]
    assert torch.equal(angles, torch.full_like(angles, 0.0 if along > 0 else np.pi))
    angles.sum().backward()
    assert torch.equal(joints.grad, torch.zeros_like(joints))


def test_long_chains_keep_their_lengths_and_their_frames():
    # Along +X each frame is near its fallback; limbs a few 1e-7 too long would lose their second axis there.
    count = 60
    chain = Skeleton("chain", tuple(f"j{k}" for k in range(count)), (-1, *range(count - 1)), tuple(range(count)))
    turns = torch.linspace(1e-5, 1e-3, 4001)
    directions = torch.zeros(len(turns), count - 1, 3)
    directions[..., 0], directions[..., 1] = 1, turns[:, None]
    directions[:, -1] = torch.tensor([0.0, 0.0, 1.0])
    joints = forward_kinematics(directions, None, chain, torch.ones(count - 1))
    assert (joints.diff(dim=1).norm(dim=-1) - 1).abs().max() < 2e-5
