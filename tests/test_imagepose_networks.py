"""001's image networks: parameter counts and shapes of the work they come from, and their losses by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import posegeom as pg

pytest.importorskip("torchvision")

from posegeom_models.imagepose.adversary import l_d, l_d_of_phi, l_omega, legible, reconstruction
from posegeom_models.imagepose.networks import (
    Discriminator,
    ImageConfig,
    PointRegressor,
    SkipNetwork,
    channels_of,
    drawn,
)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_as_many_as_in_the_published_networks() -> None:
    assert _count(SkipNetwork(3, 1, 32)) == 3_124_801
    assert _count(PointRegressor(17, 32)) == 1_177_329
    assert [_count(scale) for scale in Discriminator(ImageConfig()).scales] == [2_762_689] * 3
    # Three channels cost two more planes of each first convolution.
    assert _count(PointRegressor(17, 32, 3)) == 1_177_329 + 2 * 49 * 32
    assert _count(Discriminator(ImageConfig(sides=True)).scales[0]) == 2_762_689 + 2 * 16 * 64


def test_shapes_at_128_pixels() -> None:
    image = torch.rand(2, 3, 128, 128)
    phi, omega = SkipNetwork(3, 1, 8), PointRegressor(17, 8)
    skeleton_image = phi(image)
    assert skeleton_image.shape == (2, 1, 128, 128)
    assert omega(skeleton_image).shape == (2, 17, 2)
    logits = Discriminator(ImageConfig(patch_width=4))(skeleton_image)
    assert [tuple(scale.shape) for scale in logits] == [(2, 1, 14, 14), (2, 1, 6, 6), (2, 1, 2, 2)]


def test_the_regressors_points_span_the_image() -> None:
    omega = PointRegressor(2, 4)
    maps = torch.zeros(1, 2, 16, 16)
    maps[0, 0, 0, 0], maps[0, 1, 15, 15] = 1e5, 1e5
    omega.down, omega.maps = torch.nn.Identity(), torch.nn.Identity()  # type: ignore[assignment]

    class Maps(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return maps

    omega.down = Maps()  # type: ignore[assignment]
    points = omega(torch.zeros(1, 1, 128, 128))
    torch.testing.assert_close(points, torch.tensor([[[0.0, 0.0], [127.0, 127.0]]]))


@pytest.mark.parametrize("size", [64, 128])
def test_lines_keep_their_width_relative_to_the_image(size: int) -> None:
    """Half-height at the same share of the side."""
    points = torch.tensor([[[0.1, 0.5], [0.9, 0.5]]]) * size - 0.5
    bar = pg.Skeleton("bar", ("left_end", "right_end"), (-1, 0), (0, 1))
    for power, gamma in ((2, 0.224), (1, 0.394)):
        image = drawn(points, ImageConfig(size=size, gamma=gamma, power=power, scales=1), bar)[0, 0]
        column = image[:, size // 2]
        distance = (torch.arange(size) - (size / 2 - 0.5)).abs() * 128 / size
        torch.testing.assert_close(column, torch.exp(-gamma * distance**power))


def test_one_channel_is_the_same_with_the_sides_exchanged_and_three_are_not() -> None:
    points = 32 * torch.rand(3, 17, 2, generator=torch.Generator().manual_seed(0))
    exchanged = points[:, list(pg.H36M_17.mirror)]
    one, three = ImageConfig(size=32, scales=1), ImageConfig(size=32, scales=1, sides=True)
    image, images = drawn(points, one, pg.H36M_17), drawn(points, three, pg.H36M_17)
    assert image.shape == (3, 1, 32, 32)
    assert images.shape == (3, 3, 32, 32)
    torch.testing.assert_close(images.amax(1, keepdim=True), image)
    # What eq. (2) draws has two poses; with a channel for each side, theirs are exchanged.
    torch.testing.assert_close(drawn(exchanged, one, pg.H36M_17), image)
    torch.testing.assert_close(drawn(exchanged, three, pg.H36M_17), images[:, [1, 0, 2]])
    assert float((images[:, 0] - images[:, 1]).abs().mean()) > 0.01


def test_neighbouring_fingers_are_in_different_channels() -> None:
    channels = channels_of(pg.HAND_21)
    assert sorted(bone for bones in channels for bone in bones) == sorted(pg.HAND_21.bones)
    finger = {pg.HAND_21.joints[child].split("_")[0]: n for n, bones in enumerate(channels) for _, child in bones}
    order = [finger[name] for name in ("thumb", "index", "middle", "ring", "pinky")]
    assert all(one != next_one for one, next_one in itertools.pairwise(order))
    assert len(channels[0]) + len(channels[1]) + len(channels[2]) == 20


def test_a_channel_without_bones_is_black() -> None:
    bar = pg.Skeleton("bar", ("left_end", "right_end"), (-1, 0), (1, 0))
    images = drawn(torch.tensor([[[4.0, 16.0], [28.0, 16.0]]]), ImageConfig(size=32, scales=1, sides=True), bar)[0]
    assert [float(image.amax()) for image in images] == [0, 1, 0]


def test_the_log_form_is_eq_3_with_the_sign_of_each_player() -> None:
    real, fake = [torch.tensor([[0.3, -1.0]])], [torch.tensor([[0.5, 2.0]])]
    probability = torch.sigmoid
    value = probability(real[0]).log().mean() + (1 - probability(fake[0])).log().mean()
    assert float(l_d(real, fake, "log")) == pytest.approx(-float(value), rel=1e-5)
    assert float(l_d_of_phi(fake, "log")) == pytest.approx(float((1 - probability(fake[0])).log().mean()), rel=1e-5)


@pytest.mark.parametrize("form", ["log", "lsgan"])
def test_each_player_moves_its_own_way(form: str) -> None:
    real, fake = (torch.full((1,), 0.5, requires_grad=True) for _ in range(2))
    up, down = torch.autograd.grad(l_d([real], [fake], form), (real, fake))
    assert up < 0 < down  # descent raises D(w) and lowers D(s)
    (phi,) = torch.autograd.grad(l_d_of_phi([fake], form), fake)
    assert phi < 0  # descent raises D(s)


def test_the_log_form_stays_finite_for_a_certain_discriminator() -> None:
    sure = torch.tensor([1e4], requires_grad=True)
    loss = l_d([-sure], [sure], "log") + l_d_of_phi([sure], "log")
    (gradient,) = torch.autograd.grad(loss, sure)
    assert math.isfinite(float(loss.detach()))
    assert math.isfinite(float(gradient))


def test_least_squares_by_hand_and_scales_count_alike() -> None:
    real = [torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0]])]
    fake = [torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0]])]
    assert float(l_d(real, fake, "lsgan")) == pytest.approx(((0 + 4) / 4 + (0 + 4) / 4 + 1 / 2 + 1 / 2) / 2)
    assert float(l_d_of_phi(fake, "lsgan")) == pytest.approx(((1 + 1) / 2 + 0) / 2)


def test_omegas_loss_by_hand_with_the_image_as_target() -> None:
    said, points = torch.full((2, 3, 2), 0.5), torch.full((2, 3, 2), 0.1)
    again = torch.zeros(2, 1, 4, 4, requires_grad=True)
    image = torch.ones(2, 1, 4, 4, requires_grad=True)
    assert float(l_omega(said, points, None, 0.1)) == pytest.approx(0.16)
    loss = l_omega(said, points, (again, image), 0.1)
    assert float(loss.detach()) == pytest.approx(0.16 + 0.1)
    to_again, to_image = torch.autograd.grad(loss, (again, image), allow_unused=True)
    assert to_again is not None
    assert to_image is None


def test_what_is_read_is_the_target_of_what_is_drawn() -> None:
    image, again = (torch.full((2, 1, 4, 4), value, requires_grad=True) for value in (0.5, 0.1))
    loss = legible(image, again)
    assert float(loss.detach()) == pytest.approx(0.16)
    to_image, to_again = torch.autograd.grad(loss, (image, again), allow_unused=True)
    torch.testing.assert_close(to_image, torch.full_like(image, 2 * 0.4 / 32))
    assert to_again is None


def test_reconstruction_is_the_mean_absolute_difference() -> None:
    assert float(reconstruction(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), -0.25))) == pytest.approx(0.25)
