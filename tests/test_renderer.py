"""The ray caster against closed forms, and against distances between lines and segments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from posegeom.frames import unit_vector
from posegeom_models.data.renderer import FAR, Body, Cloth, Foreground, Light, Solids, depth_along, render

SIZE, FOCAL = (96, 128), 160.0
CENTER = (70.0, 41.5)


def solids(*each: tuple[object, ...]) -> Solids:
    """One frame of solids from (start, end, first radius, last radius, stretch)."""
    columns = []
    for start, end, first, last, stretch in each:
        a, b = torch.tensor(start, dtype=torch.float32), torch.tensor(end, dtype=torch.float32)
        along = unit_vector(b - a) if not torch.equal(a, b) else torch.tensor([0.0, 0.0, 1.0])
        side = unit_vector(torch.linalg.cross(along, torch.tensor([0.3, 0.9, -0.2])))
        axes = torch.stack((side, torch.linalg.cross(along, side), along))
        height = (b - a).norm() / stretch[2]
        columns.append((a, axes, torch.tensor(stretch), height, torch.tensor([first, last])))
    return Solids(*(torch.stack(column)[None] for column in zip(*columns, strict=True)))


def body(shapes: Solids, color: tuple[float, float, float] = (0.5, 0.25, 0.75)) -> Body:
    """Every solid its own part, in one plain colour."""
    count = shapes.height.shape[1]
    materials = torch.tensor([[[*color, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]]])
    worn = torch.zeros(count, 2, dtype=torch.int64)
    cloth = Cloth(materials, worn, torch.zeros(1, count), shapes.start, shapes.axes, torch.zeros(1, dtype=torch.int32))
    return Body(shapes, cloth, torch.arange(count))


def light(
    direction: tuple[float, float, float] = (0.0, 0.0, -1.0), ambient: float = 0.3, directed: float = 0.6
) -> Light:
    toward = unit_vector(torch.tensor([direction]))
    return Light(torch.full((1, 3), ambient), torch.full((1, 3), directed), toward)


def draw(shapes: Solids, samples: int = 1, lamp: Light | None = None) -> Foreground:
    focal, center = torch.tensor([[FOCAL, FOCAL]]), torch.tensor([CENTER])
    return render(body(shapes), lamp or light(), focal, center, SIZE, samples)


def rays() -> np.ndarray:
    """(H, W, 3) through the pixel centres, at z = 1."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([(x - CENTER[0]) / FOCAL, (y - CENTER[1]) / FOCAL, np.ones_like(x, dtype=float)], axis=-1)


BALL = ((0.2, -0.1, 2.0), (0.2, -0.1, 2.0), 0.35, 0.35, (1.0, 1.0, 1.0))


def test_a_balls_silhouette_has_the_area_of_its_ellipse() -> None:
    """(d·c)² = |d|²·(|c|² − r²) is a conic dᵀ·M·d = 0, of area π·|det M|/|det M₂₂|^(3/2)."""
    c, r = np.array(BALL[0]), BALL[2]
    conic = np.outer(c, c) - (c @ c - r * r) * np.eye(3)
    area = math.pi * abs(np.linalg.det(conic)) / abs(np.linalg.det(conic[:2, :2])) ** 1.5
    mask = draw(solids(BALL), samples=4).mask[0, 0].double()
    assert float(mask.sum()) == pytest.approx(area * FOCAL**2, rel=2e-3)
    middle = np.linalg.solve(conic[:2, :2], -conic[:2, 2]) * FOCAL + np.array(CENTER)
    y, x = torch.meshgrid(*(torch.arange(float(side), dtype=torch.float64) for side in SIZE), indexing="ij")
    assert float((mask * x).sum() / mask.sum()) == pytest.approx(middle[0], abs=0.03)
    assert float((mask * y).sum() / mask.sum()) == pytest.approx(middle[1], abs=0.03)


def test_a_balls_depth_is_that_of_the_quadratic() -> None:
    c, r, d = np.array(BALL[0]), BALL[2], rays()
    a, b = (d * d).sum(-1), d @ c
    root = b * b - a * (c @ c - r * r)
    seen = draw(solids(BALL))
    sure = np.abs(root) > 1e-4
    np.testing.assert_array_equal((seen.mask[0, 0].numpy() > 0)[sure], (root > 0)[sure])
    hit = (root > 1e-4) & sure
    np.testing.assert_allclose(seen.depth[0].numpy()[hit], ((b - np.sqrt(np.maximum(root, 0))) / a)[hit], atol=2e-4)
    assert (seen.depth[0].numpy()[(root < 0) & sure] > FAR).all()


def to_axis(start: object, end: object, count: int = 401) -> tuple[np.ndarray, np.ndarray]:
    """Distance (H, W, count) of every ray's line to points along a segment, and where these are, 0 to 1."""
    share = np.linspace(0, 1, count)
    points = np.array(start) + share[:, None] * (np.array(end, dtype=float) - np.array(start))
    d = rays()
    along = d @ points.T
    square = (points**2).sum(-1) - along**2 / (d * d).sum(-1)[..., None]
    return np.sqrt(np.maximum(square, 0)), share


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        ((-0.3, -0.2, 2.0), (0.4, 0.25, 2.3), 0.12, 0.12),
        ((-0.3, 0.2, 2.0), (0.3, -0.1, 1.6), 0.20, 0.05),
        ((-0.1, 0.0, 2.4), (0.05, 0.05, 1.5), 0.05, 0.18),  # nearly along the view
        ((0.0, 0.0, 2.0), (0.1, 0.0, 2.0), 0.25, 0.05),  # one ball inside the other
    ],
)
def test_a_rounded_cones_silhouette_is_where_a_ray_comes_near_its_axis(
    start: object, end: object, first: float, last: float
) -> None:
    """A ray meets the hull of two balls iff it meets one of the balls between them."""
    distance, share = to_axis(start, end)
    over = (distance - (first + (last - first) * share)).min(-1)
    sure = np.abs(over) > 1e-3
    mask = draw(solids((start, end, first, last, (1.0, 1.0, 1.0)))).mask[0, 0].numpy() > 0
    np.testing.assert_array_equal(mask[sure], (over < 0)[sure])
    assert mask.any()


def test_a_stretched_solid_is_the_plain_one_in_stretched_space() -> None:
    """Its points are those whose coordinates along its axes, divided by the stretches, lie in the plain solid."""
    start, end, stretch = (-0.2, -0.1, 2.0), (0.3, 0.2, 2.2), (1.0, 0.4, 1.3)
    shapes = solids((start, end, 0.2, 0.12, stretch))
    into = shapes.axes[0, 0].double().numpy() / np.array(stretch)[:, None]
    depths = np.linspace(1.6, 2.6, 251)
    local = (rays()[::2, ::2, None] * depths[:, None] - np.array(start)) @ into.T
    height = float(shapes.height)
    # Distance to the hull of balls on the third axis: the nearest ball, over many.
    share = np.linspace(0, 1, 41)
    across = np.hypot(local[..., 0], local[..., 1])
    inside = np.zeros(across.shape, dtype=bool)
    for s in share:
        inside |= np.hypot(across, local[..., 2] - s * height) <= 0.2 + s * (0.12 - 0.2)
    seen = draw(shapes)
    mask, expected = seen.mask[0, 0, ::2, ::2].numpy() > 0, inside.any(-1)
    assert (mask != expected).sum() <= 0.02 * expected.sum()  # grazing rays pass between two depths
    both = mask & expected
    np.testing.assert_allclose(seen.depth[0, ::2, ::2].numpy()[both], depths[inside.argmax(-1)][both], atol=0.02)


def test_the_nearer_of_two_capsules_hides_the_other() -> None:
    near = ((-0.5, 0.0, 2.0), (0.5, 0.0, 2.0), 0.08, 0.08, (1.0, 1.0, 1.0))
    far = ((0.0, -0.4, 2.5), (0.0, 0.4, 2.5), 0.08, 0.08, (1.0, 1.0, 1.0))
    middle = (round(CENTER[1]), round(CENTER[0]))
    for order, label in (((near, far), 1), ((far, near), 2)):
        seen = draw(solids(*order), samples=2)
        assert int(seen.labels[0][middle]) == label
        assert int(seen.labels[0, middle[0] - 15, middle[1]]) == 3 - label
        # The far one is whole beside the near one's image.
        assert float(seen.depth[0][middle]) == pytest.approx(2.0 - 0.08, abs=2e-3)


def test_labels_are_there_where_the_mask_is() -> None:
    seen = draw(solids(BALL, ((-0.3, 0.2, 1.5), (0.3, -0.1, 1.6), 0.1, 0.05, (1.0, 0.5, 1.0))), samples=3)
    assert ((seen.labels > 0) == (seen.mask[:, 0] >= 0.5)).all()
    assert set(seen.labels.unique().tolist()) == {0, 1, 2}
    assert 0 < float(((seen.mask > 0) & (seen.mask < 1)).float().mean()) < 0.05


def test_a_ball_is_brightest_where_its_normal_points_to_the_lamp() -> None:
    """Lambert: albedo · (ambient + directed) there, albedo · ambient on the side away from the lamp."""
    direction = (0.5, -0.6, -0.7)
    toward = np.array(direction) / np.linalg.norm(direction)
    color = draw(solids(BALL), lamp=light(direction)).color[0].numpy()
    brightest = np.unravel_index(color.sum(0).argmax(), SIZE)
    np.testing.assert_allclose(color[:, brightest[0], brightest[1]], np.array([0.5, 0.25, 0.75]) * 0.9, rtol=1e-3)
    point = np.array(BALL[0]) + BALL[2] * toward
    expected = point[:2] / point[2] * FOCAL + np.array(CENTER)
    assert np.hypot(brightest[1] - expected[0], brightest[0] - expected[1]) < 2
    back = draw(solids(BALL), lamp=light((0.0, 0.0, 1.0)))
    dark = back.color[0][:, back.mask[0, 0] > 0]
    np.testing.assert_allclose(
        dark.numpy(), np.array([[0.15], [0.075], [0.225]]) * np.ones_like(dark.numpy()), rtol=1e-5
    )


def test_a_capsules_normals_are_at_right_angles_to_its_axis() -> None:
    """Seen from the side, it is as bright all along; a cone's normals lean to its thin end."""
    middle = round(CENTER[1])
    seen = draw(solids(((-0.3, 0.0, 2.0), (0.3, 0.0, 2.0), 0.1, 0.1, (1.0, 1.0, 1.0))))
    along = seen.color[0, 1, middle, 50:90]
    assert (seen.mask[0, 0, middle, 50:90] == 1).all()
    np.testing.assert_allclose(along, 0.25 * 0.9, rtol=2e-3)
    slope = 0.15 / 0.6  # of the radii: the sine of that angle
    cone = draw(solids(((-0.3, 0.0, 2.0), (0.3, 0.0, 2.0), 0.2, 0.05, (1.0, 1.0, 1.0))))
    expected = 0.25 * (0.3 + 0.6 * math.sqrt(1 - slope**2))
    assert float(cone.color[0, 1, middle, round(CENTER[0])]) == pytest.approx(expected, rel=0.01)


def test_the_depth_along_a_point_is_the_z_buffers() -> None:
    shapes = solids(BALL, ((-0.3, 0.2, 1.5), (0.3, -0.1, 1.6), 0.1, 0.05, (1.0, 0.5, 1.0)))
    seen = draw(shapes)
    rows, columns = (seen.depth[0] < FAR).nonzero(as_tuple=True)
    points = torch.from_numpy(rays()[rows, columns]).float()[None] * 3
    np.testing.assert_allclose(
        depth_along(shapes, points).amin(-1)[0], seen.depth[0, rows, columns], atol=1e-3
    )  # rounding, where a ray grazes


def test_what_is_behind_the_camera_or_outside_the_image_is_not_drawn() -> None:
    plain = (1.0, 1.0, 1.0)
    for start, end in (((0.0, 0.0, -2.0), (0.0, 0.1, -2.0)), ((5.0, 0.0, 2.0), (5.0, 1.0, 2.0))):
        assert float(draw(solids((start, end, 0.2, 0.2, plain))).mask.sum()) == 0
    through = draw(solids(((0.0, 0.05, -1.0), (0.1, 0.1, 3.0), 0.02, 0.02, plain)))
    assert torch.isfinite(through.color).all()
