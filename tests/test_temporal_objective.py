"""The losses of 003 against values by hand, and which parameters each of them moves."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from torch import Tensor, nn

pytest.importorskip("torchvision")

from posegeom_models.temporal import objective
from posegeom_models.temporal.features import FeatureNetwork
from posegeom_models.temporal.objective import (
    box_prior,
    l_2d,
    l_3d,
    l_adversary,
    l_aligned,
    l_css,
    l_discriminator,
    l_dsl,
    l_mv_css,
    l_reconst,
    l_similarity,
    l_track,
    random_order,
    recolored,
    scenes,
    swapped,
    turned,
)


def code(*angles: float) -> Tensor:
    """(1, len, 2) unit codes at angles in degrees."""
    radians = torch.tensor([math.radians(angle) for angle in angles])
    return torch.stack((radians.cos(), radians.sin()), dim=-1)[None]


def test_l_reconst_is_a_mean_of_squares_and_one_for_each_map() -> None:
    image, drawn = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    drawn[0] = 0.5
    terms = l_reconst(image, drawn, None, 2.0, 3.0)
    assert set(terms) == {"pixels"}
    assert float(terms["pixels"]) == pytest.approx(2 * 0.25 / 2)

    class Halves(nn.Module):
        """Maps that are the image times 1 and times 3."""

        def forward(self, images: Tensor) -> list[Tensor]:
            return [images, 3 * images[:, :1]]

    both = l_reconst(image, drawn, Halves(), 2.0, 3.0)  # type: ignore[arg-type]
    assert float(both["features"]) == pytest.approx(3 * (0.125 + 9 * 0.125))


def test_feature_networks_give_the_wanted_stages_and_never_learn() -> None:
    torch.manual_seed(0)
    network = FeatureNetwork(("stem", "layer2"), None)
    network.train()
    assert not network.training
    assert not any(part.training for part in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    image, drawn = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64, requires_grad=True)
    assert [tuple(maps.shape) for maps in network(image)] == [(1, 64, 32, 32), (1, 128, 8, 8)]
    assert len(network.trunk.stages) == 2  # nothing deeper than wanted is computed
    terms = l_reconst(image, drawn, network, 1.0, 1.0)
    terms["features"].backward()
    assert drawn.grad is not None
    assert float(drawn.grad.abs().max()) > 0


def test_dsl_of_a_quadruple_by_hand() -> None:
    """Frames 20 (similar, weight 0.8), 150 (dissimilar, 0.5) and 300 apart (dissimilar, 1), d_max 200."""
    distance = torch.tensor([[0, 20, 150, 300]])
    loss = l_dsl(code(0, 60, 90, 120), distance, 200)
    assert float(loss) == pytest.approx(0.8 * 0.5 + 0.5 * 0.0 + 1.0 * 0.5, abs=1e-6)
    two = l_dsl(torch.cat((code(0, 60, 90, 120), code(0, 0, 90, 90))), distance.expand(2, 4), 200)
    assert float(two) == pytest.approx(float(loss) / 2, abs=1e-6)


@pytest.mark.parametrize(("distance", "sign"), [(10, -1), (99, -1), (100, 0), (101, 1), (199, 1), (400, 1)])
def test_dsl_pulls_before_half_of_d_max_pushes_after_it_and_rests_there(distance: int, sign: int) -> None:
    """The loss falls with the similarity of near frames and rises with that of far ones."""
    angle = torch.tensor(50.0, requires_grad=True)
    radians = torch.deg2rad(angle)
    other = torch.stack((radians.cos(), radians.sin()))
    variant = torch.stack((torch.tensor([1.0, 0.0]), other, torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])))[None]
    # Frames 2 and 3 are at right angles: they cost nothing where they are far.
    l_dsl(variant, torch.tensor([[0, distance, 200, 200]]), 200).backward()
    assert angle.grad is not None
    slope = float(angle.grad)  # the similarity is cos(angle), which falls as the angle grows
    weight = min(abs(2 * distance / 200 - 1), 1.0)
    assert slope == pytest.approx(-sign * weight * math.sin(math.radians(50)) * math.pi / 180, abs=1e-7)


def test_css_by_hand_with_two_negatives() -> None:
    codes = code(0, 60, 90, 180)
    expected = -math.log(math.exp(0.5 / 0.5) / (math.exp(0.5 / 0.5) + 1 + math.exp(-1 / 0.5)))
    assert float(l_css(codes, 0.5)) == pytest.approx(expected, abs=1e-5)


def test_mv_css_wants_the_other_view_closer_than_a_distant_frame() -> None:
    codes = torch.tensor([[[0.0], [9.0], [9.0], [2.0]]])
    other = torch.tensor([[[1.0], [7.0], [7.0], [7.0]]])
    assert float(l_mv_css(codes, other, 4.0)) == pytest.approx(1 + 4 - 4)
    assert float(l_mv_css(codes, other, 2.0)) == 0


def falling(height: list[float], scale: list[float] | None = None) -> Tensor:
    scale = scale or [0.3] * 4
    return torch.tensor([[[s, s, 0.1, u] for s, u in zip(scale, height, strict=True)]])


def test_l_track_is_zero_on_a_parabola_that_goes_down_the_image() -> None:
    parabola = [-0.6 + 0.1 * t + 0.5 * 0.08 * t**2 for t in range(4)]
    terms = l_track(falling(parabola), 0.05)
    assert set(terms) == {"const-acc", "order", "sc"}
    assert sum(float(value) for value in terms.values()) == pytest.approx(0, abs=1e-9)


def test_l_track_by_hand() -> None:
    """Going up by 0.1 three times costs 3 · (τ + 0.1) of order: y grows downwards in an image."""
    up = l_track(falling([0.3, 0.2, 0.1, 0.0]), 0.05)
    assert float(up["order"]) == pytest.approx(3 * 0.15, abs=1e-6)
    assert float(up["const-acc"]) == pytest.approx(0, abs=1e-9)
    jump = l_track(falling([0.0, 0.1, 0.4, 0.5], [0.3, 0.3, 0.5, 0.5]), 0.05)
    assert float(jump["const-acc"]) == pytest.approx(((0.0 + 3 * 0.4) - (0.5 + 3 * 0.1)) ** 2, abs=1e-6)
    assert float(jump["order"]) == 0
    assert float(jump["sc"]) == pytest.approx(2 * 0.2**2, abs=1e-6)


def test_pose_losses_by_hand() -> None:
    said = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    points = torch.tensor([[[3.0, 4.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]])
    assert float(l_2d(said, points)) == pytest.approx((25 + 0 + 0 + 1) / 2)
    known = torch.tensor([[False, True], [True, True]])
    assert float(l_2d(said, points, known)) == pytest.approx(1 / 2)
    deviation = torch.tensor([[1.0, 2.0, 4.0]])
    loss = l_3d(torch.zeros(1, 1, 3), torch.tensor([[[1.0, 2.0, 2.0]]]), deviation)
    assert float(loss) == pytest.approx((1 + 1 + 0.25) / 3)


def test_the_aligned_error_knows_shapes_and_no_directions() -> None:
    """None for a pose that is turned, grown and elsewhere; for one between two directions, that of a body gone flat."""
    generator = torch.Generator().manual_seed(0)
    joints = torch.randn(2, 17, 3, generator=generator)
    half = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])  # about the vertical
    behind = joints @ half.mT
    assert float(l_aligned(2 * behind + 1, joints)) == pytest.approx(0, abs=1e-4)
    # Only heights are left, which lie on a line: as SciPy aligns it.
    between = (joints + behind) / 2
    wanted = 0.0
    for one, other in zip(joints.double().numpy(), between.double().numpy(), strict=True):
        middle = one.mean(0)
        a, b = one - middle, other - other.mean(0)
        turn, scale = orthogonal_procrustes(b, a)
        wanted += float(np.linalg.norm(a - b @ turn * scale / (b**2).sum(), axis=1).mean()) / 2
    assert float(l_aligned(between, joints)) == pytest.approx(wanted, rel=1e-4)
    assert wanted > 0.5


def test_box_priors_hold_the_mean_box_and_leave_single_ones_free() -> None:
    spread = torch.tensor([[0.2, 0.3, -0.5, 0.1], [0.8, 0.7, 0.5, -0.1]])
    half = (0.5, 0.5)
    assert float(box_prior(spread, 0.1, half, True)) == pytest.approx(0, abs=1e-9)
    boxes = torch.tensor([[0.4, 0.6, 0.2, 0.0], [0.4, 0.8, 0.4, 0.2]])
    extent, place = ((0.4 - 0.5) ** 2 + (0.7 - 0.5) ** 2) / 2, (0.3**2 + 0.1**2) / 2
    assert float(box_prior(boxes, 0.1, half, True)) == pytest.approx(0.1 * (extent + place))
    assert float(box_prior(boxes, 0.1, half, False)) == pytest.approx(0.1 * extent)
    assert float(box_prior(boxes, 0.1, (0.4, 0.7), False)) == pytest.approx(0, abs=1e-9)  # x and y have their own


def test_the_mean_box_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a batch has the prior of the whole one; that the mean over processes is right is the engine's to test."""
    boxes = torch.tensor([[0.4, 0.6, 0.2, 0.0], [0.4, 0.8, 0.4, 0.2], [0.9, 0.1, 0.0, 0.3], [0.5, 0.5, 0.1, 0.1]])
    whole = float(box_prior(boxes, 0.1, (0.5, 0.5), True))
    assert float(box_prior(boxes[::2], 0.1, (0.5, 0.5), True)) != pytest.approx(whole)
    other = boxes[1::2].mean(0)
    monkeypatch.setattr(objective, "mean_over_processes", lambda values: (values.mean(0) + other) / 2)
    assert float(box_prior(boxes[::2], 0.1, (0.5, 0.5), True)) == pytest.approx(whole)


def test_similarity_and_the_adversary_by_hand() -> None:
    invariant = torch.tensor([[[1.0, 2.0], [9.0, 9.0], [9.0, 9.0], [0.0, 0.0]]])
    assert float(l_similarity(invariant)) == pytest.approx((1 + 4) / 2)
    same, different = torch.tensor([0.0, math.log(3)]), torch.tensor([0.0, -math.log(3)])
    assert float(l_discriminator(same, different)) == pytest.approx(2 * (math.log(2) + math.log(4 / 3)) / 2, abs=1e-6)
    assert float(l_adversary(torch.tensor([0.0]))) == pytest.approx(math.log(2), abs=1e-6)
    sure = -0.5 * math.log(0.75) - 0.5 * math.log(0.25)
    assert float(l_adversary(torch.tensor([math.log(3)]))) == pytest.approx(sure, abs=1e-6)


def test_the_discriminator_compares_frames_of_one_video_and_of_two() -> None:
    variant = torch.arange(3.0).view(3, 1, 1) * 10 + torch.arange(4.0).view(1, 4, 1)

    def difference(pair: Tensor) -> Tensor:
        return pair[:, 1:] - pair[:, :1]

    same, different = scenes(difference, variant, torch.tensor([4, 5, 6]))  # type: ignore[arg-type]
    assert same.tolist() == [3.0, 3.0, 3.0]
    assert different.tolist() == [13.0, 13.0, -17.0]
    # Two quadruples of one video are no pair of two.
    same, different = scenes(difference, variant, torch.tensor([4, 4, 6]))  # type: ignore[arg-type]
    assert same.tolist() == [3.0, 3.0, 3.0]
    assert different.tolist() == [13.0, -17.0]
    assert float(l_discriminator(torch.zeros(2), torch.zeros(0))) == pytest.approx(math.log(2))


def test_codes_are_exchanged_within_a_video_alone() -> None:
    codes = torch.arange(8.0).view(2, 4, 1)
    order = torch.tensor([[1, 0, 3, 2], [3, 2, 1, 0]])
    assert swapped(codes, order).squeeze(-1).tolist() == [[1, 0, 3, 2], [7, 6, 5, 4]]
    torch.manual_seed(0)
    orders = random_order(500, 4, torch.device("cpu"))
    assert torch.equal(orders.sort(1).values, torch.arange(4).expand(500, 4))
    counts = torch.stack([(orders == frame).float().mean(0) for frame in range(4)])
    assert float((counts - 0.25).abs().max()) < 0.08


def test_turned_codes_are_rotated_points_and_turn_back() -> None:
    variant = torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0, 3.0]).expand(1, 4, 6)
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).expand(1, 4, 3, 3)
    moved = turned(variant, quarter)
    assert moved[0, 0].tolist() == [0.0, 1.0, 0.0, -2.0, 0.0, 3.0]
    torch.testing.assert_close(turned(moved, quarter.mT), variant)


def test_recolored_crops_keep_their_shapes_and_their_order_of_brightness() -> None:
    torch.manual_seed(3)
    ramp = torch.linspace(0.2, 0.8, 16).expand(5, 3, 16, 16)
    changed = recolored(ramp, 0.3)
    assert bool((changed.diff(dim=-1) >= 0).all())
    assert float((changed - ramp).abs().amax((1, 2, 3)).min()) > 0.01
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    torch.testing.assert_close(recolored(ramp, 0.0), ramp)


def test_recolored_crops_have_other_hues_and_saturations() -> None:
    """Grey stays grey; a colour's hue and saturation, by Python's own formulas, spread as far as they are to."""
    torch.manual_seed(0)
    grey = torch.full((400, 3, 2, 2), 0.5)
    changed = recolored(grey, 0.4)
    torch.testing.assert_close(changed, changed[:, :1].expand_as(changed), rtol=0, atol=1e-5)
    dull = torch.tensor([0.55, 0.5, 0.5]).view(1, 3, 1, 1)  # red, hue 0, and far from where values are cut off
    found = recolored(dull.expand(400, 3, 1, 1), 0.4).view(400, 3)
    hues = torch.tensor([colorsys.rgb_to_hsv(*each)[0] for each in found.tolist()])
    turned_by = (360 * hues + 180) % 360 - 180
    # A turn of ±72° about grey; HSV's hexagon has the same corners, but its angles are not quite those of the circle.
    assert 60 < float(turned_by.max()) < 80
    assert -80 < float(turned_by.min()) < -60
    chroma = found.var(1, correction=0).sqrt() / dull.var(1, correction=0).sqrt().squeeze()
    # The mean of a crop is of all its channels: contrast 1 ± 0.4 and saturation 1 ± 0.4 multiply.
    assert 0.36 - 1e-3 < float(chroma.min()) < 0.55
    assert 1.6 < float(chroma.max()) < 1.96 + 1e-3
