import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from posegeom import (
    BODY_17,
    PerspectiveCamera,
    angles_from_sincos,
    bounded_translation,
    camera_rotation,
    crop,
    elevation_azimuth_rotation,
    forward_kinematics,
    lift,
    project,
    unproject,
)

few = settings(max_examples=80, deadline=None)
seeds = st.integers(0, 2**31 - 1)
angles = st.floats(-10, 10, allow_nan=False)


def rotation_of(azimuth, elevation, roll):
    values = (torch.tensor(float(value), dtype=torch.float64) for value in (azimuth, elevation, roll))
    return camera_rotation(*values).numpy()


# --- rotations --------------------------------------------------------------------------------------------------------
@few
@given(angles, angles, angles)
def test_camera_rotation_is_the_stated_product(azimuth, elevation, roll):
    C = np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]])
    about = lambda axis, angle: Rotation.from_euler(axis, angle).as_matrix()  # noqa: E731
    expected = about("z", roll) @ about("x", elevation) @ C @ about("z", azimuth)
    np.testing.assert_allclose(rotation_of(azimuth, elevation, roll), expected, atol=1e-12)


def test_the_camera_at_rest_sees_the_face_and_the_left_hand_on_the_images_right():
    R = rotation_of(0, 0, 0)
    x, y, z = np.eye(3)
    np.testing.assert_array_equal(R @ x, [0, 0, -1])  # what faces +X faces the camera
    np.testing.assert_array_equal(R @ y, [1, 0, 0])  # the person's left is the image's right
    np.testing.assert_array_equal(R @ z, [0, -1, 0])  # up is up, with y down
    joints = forward_kinematics(torch.ones(13, 3), torch.zeros(()), BODY_17)
    seen = joints @ torch.from_numpy(R).float().T + torch.tensor([0.0, 0.0, 4.0])
    pixels, _ = project(seen, PerspectiveCamera(100.0, None, (128, 128)))
    assert pixels[BODY_17.index("left_hip"), 0] > pixels[BODY_17.index("right_hip"), 0]
    assert pixels[BODY_17.index("neck"), 1] < pixels[BODY_17.index("pelvis"), 1]


def test_a_positive_elevation_looks_down():
    # Seen from above, what is nearer to the camera on the floor is lower in the image than what is further away...
    R = rotation_of(0, 0.5, 0)
    near, far = R @ [1.0, 0, 0], R @ [-1.0, 0, 0]
    assert near[2] < far[2]
    assert near[1] > far[1]
    # ... and the camera, which stands at -Rᵀ t, is above the person.
    camera = -R.T @ [0, 0, 4.0]
    np.testing.assert_allclose(camera, [4 * math.cos(0.5), 0, 4 * math.sin(0.5)], atol=1e-12)


def test_a_positive_azimuth_turns_the_person_to_its_left_and_a_positive_roll_the_picture_clockwise():
    face = rotation_of(0.3, 0, 0) @ [1.0, 0, 0]
    np.testing.assert_allclose(face, [math.sin(0.3), 0, -math.cos(0.3)], atol=1e-12)  # towards the image's right
    up = rotation_of(0, 0, 0.3) @ [0, 0, 1.0]
    assert up[0] > 0  # the head leans to the right: clockwise
    assert up[1] < 0


@few
@given(seeds, st.floats(1e-6, 1e6))
def test_angles_are_read_from_unnormalised_pairs(seed, scale):
    angle = np.random.default_rng(seed).uniform(-np.pi, np.pi, size=(4, 3))
    pairs = torch.from_numpy(np.stack((np.sin(angle), np.cos(angle)), axis=-1) * scale)
    np.testing.assert_allclose(angles_from_sincos(pairs), angle, atol=1e-9)


def test_a_zero_pair_is_the_angle_zero_with_zero_gradient():
    pairs = torch.zeros(3, 2, requires_grad=True)
    result = angles_from_sincos(pairs)
    result.sum().backward()
    assert result.tolist() == [0, 0, 0]
    assert pairs.grad.abs().max() == 0


# --- projection -------------------------------------------------------------------------------------------------------
def opencv_projection(points, focal, center, distortion):
    """OpenCV's documented model, point by point."""
    k1, k2, p1, p2, k3 = distortion
    pixels = []
    for X, Y, Z in points:
        x, y = X / Z, Y / Z
        r2 = x**2 + y**2
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
        yd = y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
        pixels.append((focal[0] * xd + center[0], focal[1] * yd + center[1]))
    return np.array(pixels)


H36M_LENS = (-0.2098, 0.2477, -0.0009, -0.0014, -0.1424)  # the order of magnitude of real lenses


def random_points(seed, count=30):
    rng = np.random.default_rng(seed)
    points = rng.uniform((-1.2, -1.2, 2.5), (1.2, 1.2, 6.0), size=(count, 3))
    return points, rng


@few
@given(seeds)
def test_project_is_opencvs_model(seed):
    points, rng = random_points(seed)
    focal, center = rng.uniform(50, 1500, 2), rng.uniform(0, 1000, 2)
    distortion = np.array(H36M_LENS) * rng.uniform(-1, 1, 5)
    expected = opencv_projection(points, focal, center, distortion)
    plain = PerspectiveCamera(tuple(focal), tuple(center), (1000, 1000), tuple(distortion))
    tensors = PerspectiveCamera(*(torch.from_numpy(v) for v in (focal, center)), (1000, 1000), torch.tensor(distortion))
    for camera in (plain, tensors):
        pixels, depth = project(torch.from_numpy(points), camera)
        np.testing.assert_allclose(pixels, expected, atol=1e-9)
        np.testing.assert_array_equal(depth, points[:, 2])
    pixels, _ = project(torch.from_numpy(points).float(), plain)
    np.testing.assert_allclose(pixels, expected, atol=1e-2, rtol=1e-5)


def test_cameras_of_a_batch_are_each_applied_to_their_own_poses():
    points = torch.from_numpy(np.stack([random_points(k, 5)[0] for k in range(3)]))
    focal = torch.tensor([[100.0, 110.0], [200.0, 90.0], [50.0, 60.0]], dtype=torch.float64)
    lens = torch.tensor([H36M_LENS] * 3, dtype=torch.float64) * torch.tensor([[0.0], [1.0], [-1.0]])
    pixels, _ = project(points, PerspectiveCamera(focal, (3.0, 4.0), (64, 64), lens))
    for k in range(3):
        expected = opencv_projection(points[k].numpy(), focal[k].numpy(), (3.0, 4.0), lens[k].numpy())
        np.testing.assert_allclose(pixels[k], expected, atol=1e-10)


def test_points_behind_the_camera_are_projected_at_one_millimetre_and_keep_their_depth():
    points = torch.tensor([[1e-3, 2e-3, -5.0], [1e-3, 2e-3, 0.0], [1e-3, 2e-3, 5e-4]], dtype=torch.float64)
    pixels, depth = project(points, PerspectiveCamera(10.0, (0.0, 0.0), (8, 8)))
    np.testing.assert_allclose(pixels, [[10.0, 20.0]] * 3)
    assert depth.tolist() == [-5.0, 0.0, 5e-4]


def test_the_default_centre_is_the_middle_of_the_pixel_grid():
    camera = PerspectiveCamera(100.0, None, (48, 64))
    assert camera.center == (31.5, 23.5)
    pixels, _ = project(torch.tensor([[0.0, 0.0, 1.0]]), camera)
    assert pixels.tolist() == [[31.5, 23.5]]


@few
@given(seeds)
def test_unproject_undoes_project(seed):
    points, rng = random_points(seed)
    distortion = tuple(np.array(H36M_LENS) * rng.uniform(-1, 1, 5))
    for lens in (None, distortion):
        camera = PerspectiveCamera(tuple(rng.uniform(50, 1500, 2)), tuple(rng.uniform(0, 1000, 2)), (1000, 1000), lens)
        again = unproject(*project(torch.from_numpy(points), camera), camera)
        np.testing.assert_allclose(again, points, atol=1e-10)
        single = torch.from_numpy(points).float()
        np.testing.assert_allclose(unproject(*project(single, camera), camera), single, atol=1e-3)


def test_gradients_through_the_lens_are_those_of_finite_differences():
    points = torch.from_numpy(random_points(1, 4)[0]).requires_grad_()
    intrinsics = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ((90.0, 80.0), (30.0, 31.0))]
    lens = torch.tensor(H36M_LENS, dtype=torch.float64, requires_grad=True)

    def there_and_back(points, focal, center, lens):
        pixels, depth = project(points, PerspectiveCamera(focal, center, (64, 64), lens))
        return pixels, unproject(pixels + 1, depth, PerspectiveCamera(focal, center, (64, 64), lens))

    torch.autograd.gradcheck(there_and_back, (points, *intrinsics, lens))


# --- crops and sizes --------------------------------------------------------------------------------------------------
def blob(center, size, sigma):
    rows, columns = np.mgrid[: size[0], : size[1]]
    drawn = np.exp(-((columns - center[0]) ** 2 + (rows - center[1]) ** 2) / (2 * sigma**2))
    return torch.from_numpy(drawn)[None]


def centroid(image):
    weights = image[0].numpy()
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]]
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


@pytest.mark.parametrize(
    ("box", "size"),
    [((0.5, 0.6, 0.1, -0.2), (96, 80)), ((1.0, 1.0, 0.0, 0.0), (48, 64)), ((1.3, 1.1, 0.2, 0.1), (96, 128))],
)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_cropped_camera_projects_to_where_the_dot_is_in_the_crop(box, size, as_tensor):
    camera = PerspectiveCamera((150.0, 140.0), (60.0, 50.0), (96, 128))
    point = torch.tensor([[0.05, -0.11, 2.0]], dtype=torch.float64)
    pixels, _ = project(point, camera)
    image = blob(pixels[0].numpy(), camera.size, sigma=4.0)
    boxes = torch.tensor(box, dtype=torch.float64)
    found = centroid(crop(image, boxes, size))
    cropped = camera.crop(boxes if as_tensor else box, size)
    assert cropped.size == size
    np.testing.assert_allclose(project(point, cropped)[0][0], found, atol=0.02)


def test_a_resized_camera_projects_to_where_the_dot_is_in_the_resized_image():
    camera = PerspectiveCamera((150.0, 140.0), (60.0, 50.0), (96, 128), (-0.1, 0.02, 0.001, -0.002, 0.0))
    point = torch.tensor([[0.05, -0.11, 2.0]], dtype=torch.float64)
    image = blob(project(point, camera)[0][0].numpy(), camera.size, sigma=4.0)
    for size in ((48, 64), (192, 200), (96, 128)):
        smaller = torch.nn.functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
        np.testing.assert_allclose(project(point, camera.resize(size))[0][0], centroid(smaller), atol=0.05)


def test_crop_by_default_keeps_the_size_and_the_whole_box_is_the_camera_itself():
    camera = PerspectiveCamera((150.0, 140.0), (60.0, 50.0), (96, 128), (0.1, 0.0, 0.0, 0.0, 0.0))
    same = camera.crop((1.0, 1.0, 0.0, 0.0))
    assert (same.focal, same.center, same.size, same.distortion) == (
        camera.focal,
        camera.center,
        camera.size,
        camera.distortion,
    )


# --- translations -----------------------------------------------------------------------------------------------------
raws = st.one_of(st.floats(-5, 5, width=32), st.sampled_from([0.0, 1e6, -1e6, 50.0, -50.0, 1e-6]))


@few
@given(st.tuples(raws, raws, raws), seeds, st.booleans())
def test_a_sphere_round_the_person_stays_in_the_image_for_every_raw(raw, seed, off_image):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(16, 512, 2).tolist()
    focal = rng.uniform(0.3, 3.0, 2) * max(height, width)
    spread = 1.5 if off_image else 0.5  # principal points of crops may lie outside the image
    center = (0.5 + rng.uniform(-spread, spread, 2)) * (width, height)
    camera = PerspectiveCamera(tuple(focal), tuple(center), (height, width))
    radius, far = rng.uniform(0.1, 2.0), rng.uniform(1.1, 6.0)
    translation = bounded_translation(torch.tensor(raw), camera, radius, far).double().numpy()
    offsets = rng.normal(size=(400, 3))
    offsets = offsets / np.linalg.norm(offsets, axis=1, keepdims=True) * radius * rng.uniform(0.9, 1.0, (400, 1))
    points = translation + offsets
    # The extreme points as well: the sphere's tangent planes through the camera's centre.
    for axis, focus, middle, extent in ((0, focal[0], center[0], width), (1, focal[1], center[1], height)):
        for edge in (-0.5, extent - 0.5):
            normal = np.zeros(3)
            normal[axis], normal[2] = 1.0, -(edge - middle) / focus
            normal *= radius / np.linalg.norm(normal)
            points = np.concatenate((points, np.stack((translation + normal, translation - normal))))
    assert (points[:, 2] > 0).all()
    pixels = points[:, :2] / points[:, 2:] * focal + center
    assert pixels.min() >= -0.5 - 1e-3
    assert pixels[:, 0].max() <= width - 0.5 + 1e-3
    assert pixels[:, 1].max() <= height - 0.5 + 1e-3


@few
@given(seeds, st.floats(-30, 30))
def test_the_distance_is_the_closed_form(seed, raw_z):
    rng = np.random.default_rng(seed)
    focal, center, radius, far = rng.uniform(50, 300, 2), rng.uniform(10, 90, 2), rng.uniform(0.2, 2), rng.uniform(2, 5)
    camera = PerspectiveCamera(tuple(focal), tuple(center), (80, 100))
    raw = torch.tensor([0.3, -0.2, raw_z], dtype=torch.float64)
    nearest = []
    for f, c, extent in zip(focal, center, (100, 80), strict=True):
        # The bisector of the two edge rays: a sphere on it at distance ρ / sin(half angle) touches both edges.
        left, right = math.atan((c + 0.5) / f), math.atan((extent - 0.5 - c) / f)
        nearest.append(radius / math.sin((left + right) / 2) * math.cos((right - left) / 2))
    expected = max(nearest) * (1 + (far - 1) / (1 + math.exp(-raw_z)))
    assert bounded_translation(raw, camera, radius, far)[2].item() == pytest.approx(expected, rel=1e-9)


def test_raw_covers_the_whole_room_there_is():
    camera = PerspectiveCamera(100.0, None, (100, 100))
    left = bounded_translation(torch.tensor([-50.0, 0.0, 50.0], dtype=torch.float64), camera, 1.0)
    x, _, z = left.tolist()
    # The sphere touches the left edge's plane: its distance from the plane x = -z/2 is the radius.
    assert (x + z / 2) / math.sqrt(1 + 0.25) == pytest.approx(1.0)
    centred = bounded_translation(torch.zeros(3, dtype=torch.float64), camera, 1.0)
    assert centred[:2].abs().max() < 1e-12


# --- lifting ----------------------------------------------------------------------------------------------------------
def test_lift_is_equation_one():
    points = torch.tensor([[0.1, -0.2], [0.3, 0.4]], dtype=torch.float64)
    offset = torch.tensor([0.5, -9.7], dtype=torch.float64, requires_grad=True)
    joints = lift(points, offset)
    np.testing.assert_allclose(joints.detach(), [[1.05, -2.1, 10.5], [0.3, 0.4, 1.0]])
    joints.sum().backward()
    np.testing.assert_allclose(offset.grad, [0.1 - 0.2 + 1, 0.0])
    np.testing.assert_allclose(lift(points, offset, base=4.0, floor=2.0).detach()[:, 2], [4.5, 2.0])


def test_view_rotations_follow_the_stated_distributions():
    own = torch.from_numpy(np.random.default_rng(0).normal(0.2, 0.3, 40_000))
    R = elevation_azimuth_rotation(own, torch.Generator().manual_seed(1)).numpy()
    np.testing.assert_allclose(R @ R.swapaxes(1, 2), np.broadcast_to(np.eye(3), R.shape), atol=1e-12)
    # R Rx(own)ᵀ = Rx(fresh) Ry(azimuth): SciPy puts it together again.
    undone = R @ Rotation.from_euler("x", own.numpy()[:, None]).as_matrix().swapaxes(1, 2)
    azimuth = np.arctan2(undone[:, 0, 2], undone[:, 0, 0])
    fresh = np.arctan2(undone[:, 2, 1], undone[:, 1, 1])
    rebuilt = Rotation.from_euler("x", fresh[:, None]) * Rotation.from_euler("y", azimuth[:, None])
    np.testing.assert_allclose(rebuilt.as_matrix(), undone, atol=1e-9)
    assert fresh.mean() == pytest.approx(-own.mean().item(), abs=0.006)
    assert fresh.std() == pytest.approx(own.std().item(), rel=0.02)
    counts, _ = np.histogram(azimuth, bins=16, range=(-np.pi, np.pi))
    assert np.abs(counts - 2500).max() < 5 * math.sqrt(2500)
    assert abs(np.corrcoef(fresh, azimuth)[0, 1]) < 0.02


def test_gradients_flow_through_mean_and_deviation():
    own = torch.tensor([0.1, -0.3, 0.25, 0.6], dtype=torch.float64, requires_grad=True)

    def rotation(own):
        return elevation_azimuth_rotation(own, torch.Generator().manual_seed(5))

    torch.autograd.gradcheck(rotation, (own,))
    # One sample's elevation moves the others' rotations, through the batch's mean and deviation.
    (gradient,) = torch.autograd.grad(rotation(own)[1, 2, 2], own)
    assert gradient[0] != 0


def test_the_same_generator_gives_the_same_views_and_the_global_one_is_left_alone():
    own = torch.linspace(-0.5, 0.5, 7)
    state = torch.get_rng_state()
    first = elevation_azimuth_rotation(own, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(elevation_azimuth_rotation(own, torch.Generator().manual_seed(3)), first)
    assert not torch.equal(elevation_azimuth_rotation(own, torch.Generator().manual_seed(4)), first)


def test_one_sample_or_equal_elevations_have_no_spread():
    for own in (torch.tensor([0.4]), torch.full((5,), 0.4)):
        own.requires_grad_()
        R = elevation_azimuth_rotation(own, torch.Generator().manual_seed(0))
        assert R.isfinite().all()
        R.sum().backward()
        assert own.grad.isfinite().all()


def test_pixels_and_depth_share_the_batch_of_points_and_camera_and_are_results_of_their_own():
    points = torch.rand(7, 3) + torch.tensor([0.0, 0.0, 2.0])
    before = points.clone()
    pixels, depth = project(points, PerspectiveCamera(torch.rand(5, 2) + 50, None, (64, 64)))
    assert pixels.shape == (5, 7, 2)
    assert depth.shape == (5, 7)
    depth.zero_()
    assert torch.equal(points, before)


@pytest.mark.parametrize("distortion", [(0.0, 0.0, 0.0, 0.0, 1.0), (-0.3, 0.1, 0.0, 0.0, 10.0)])
def test_unprojecting_far_outside_a_strong_lens_is_finite(distortion):
    pixels = torch.tensor([[1e6, -1e6], [1e6, 3.0], [30.0, 30.0]]).requires_grad_()
    points = unproject(pixels, torch.ones(3), PerspectiveCamera(100.0, None, (64, 64), distortion))
    assert bool(points.isfinite().all())
    assert bool(torch.autograd.grad(points.sum(), pixels)[0].isfinite().all())
