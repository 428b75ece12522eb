"""The analyses of 003 on data of which the answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("torchvision")

import posegeom as pg
from posegeom_models.data.reels import Reel
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.temporal.analyses import (
    PEOPLE,
    Errors,
    acceleration_drift,
    cluster_accuracy,
    codes_of,
    gravity_offsets,
    label_curve,
    panels,
    pose_distances,
    swaps,
)
from posegeom_models.temporal.configuration import TemporalConfig
from posegeom_models.temporal.networks import Codes, TemporalNetworks
from tests.test_temporal_networks import SMALL
from tests.test_temporal_sampling import reel_of


@pytest.fixture(scope="module")
def reel() -> Reel:
    config = RenderedConfig(size=32, clips=(12, 1, 1), identities=(3, 1, 1), frames=2, cameras=1, samples=1)
    return Reel.render(RenderedBenchmark(config, "train"))


@pytest.fixture
def networks() -> TemporalNetworks:
    torch.manual_seed(0)
    return TemporalNetworks(SMALL, compared=False).eval()


def test_pose_distances_of_joints_that_move_at_a_steady_speed() -> None:
    """One joint of 17 goes 34 mm a frame, the body as a whole goes somewhere else: 2 mm a frame on average."""
    joints = torch.zeros(9, 17, 3)
    joints[:, 5, 0] = 0.034 * torch.arange(9)
    joints += torch.randn(9, 1, 3, generator=torch.Generator().manual_seed(0))
    still = reel_of(5, 4)
    reel = replace(still, joints=joints)
    found = pose_distances(reel, 5)
    assert found[:4].tolist() == pytest.approx([2.0, 4.0, 6.0, 8.0], abs=1e-3)
    assert bool(found[4].isnan())  # no clip is so long


def test_clusters_of_people_are_found_whatever_they_are_called() -> None:
    generator = torch.Generator().manual_seed(0)
    people = torch.tensor([7, 3, 12]).repeat_interleave(40)
    middles = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]]).repeat_interleave(40, 0)
    apart = cluster_accuracy(middles + 0.1 * torch.randn(120, 2, generator=generator), people)
    assert apart.accuracy == 1
    assert apart.people == 3
    assert apart.chance == pytest.approx(0.42, abs=0.06)  # the best of six matchings of thirds by chance
    noise = cluster_accuracy(torch.randn(120, 2, generator=generator), people)
    assert abs(noise.accuracy - noise.chance) < 0.1
    with pytest.raises(ValueError, match="at least two people, got 1"):
        cluster_accuracy(torch.randn(5, 2), torch.zeros(5))


def test_codes_are_those_of_the_test_time_path(networks: TemporalNetworks, reel: Reel) -> None:
    numbers = torch.tensor([5, 0, 9])
    codes = codes_of(networks, reel, numbers, batch=2)
    said = networks(reel.frames(numbers).image).codes
    torch.testing.assert_close(codes.variant, said.variant.detach())
    torch.testing.assert_close(codes.invariant, said.invariant.detach())


def pose_in_pixels(count: int, inputs: int) -> tuple[TemporalNetworks, Reel, TemporalConfig]:
    """Frames whose pixels are a pose, and networks that read `inputs` mixtures of its numbers from them for a code."""
    generator = torch.Generator().manual_seed(1)
    network = replace(SMALL, time_variant=inputs, hidden=64, regressor_dropout=0.0)
    config = TemporalConfig(network, RenderedConfig(size=32), pose_batch=64, pose_rate=3e-3, falling_rates=True)
    networks = TemporalNetworks(network, compared=False).eval()
    mixing = torch.linalg.qr(torch.randn(51, 51, generator=generator)).Q[:, :inputs]
    poses = (0.2 * torch.randn(count, 17, 3, generator=generator)).clamp(-1, 1)
    poses[:, 0] = 0
    image = torch.zeros(count, 3 * 32 * 32, dtype=torch.uint8)
    image[:, :51] = (127.5 * (poses.flatten(1) + 1)).round().to(torch.uint8)
    reel = replace(reel_of(count), joints=poses, image=image.view(count, 3, 32, 32), known=torch.ones(count, 17).bool())
    networks.crops = lambda images, boxes: images  # type: ignore[method-assign]

    def encode(crops: Tensor, jittered: Tensor | None = None) -> Codes:
        return Codes(5 * (2 * crops.flatten(1)[:, :51] - 1) @ mixing, torch.zeros(len(crops), 8))

    networks.encoder.forward = encode  # type: ignore[method-assign]
    return networks, reel, config


def test_more_labels_make_better_poses_of_codes_that_hold_them() -> None:
    """Codes that are the pose, seen through a fixed turn, teach with all labels what they do not with a few."""
    networks, reel, config = pose_in_pixels(400, 51)
    numbers, others = torch.arange(300), torch.arange(300, 400)
    test = codes_of(networks, reel, others), reel.joints[others]
    before = {name: value.clone() for name, value in networks.state_dict().items()}
    noise = torch.get_rng_state()
    told: list[int] = []
    curve = label_curve(networks, config, (reel, numbers), test, (1.0, 0.02), 150, progress=told.append)
    assert told == list(range(1, 301))
    assert [curve[share].labels for share in (1.0, 0.02)] == [300, 6]
    assert curve[1.0].n_mpjpe < 0.8 * curve[0.02].n_mpjpe
    mean = reel.joints[:300].mean(0).expand(100, -1, -1)
    assert curve[1.0].mpjpe < 0.8 * 1000 * float(pg.mpjpe(mean, test[1]))
    assert Errors.of(1, mean, test[1], 0).mpjpe == pytest.approx(1000 * float(pg.mpjpe(mean, test[1])))
    assert all(torch.equal(value, before[name]) for name, value in networks.state_dict().items())
    assert torch.equal(torch.get_rng_state(), noise)
    assert networks.phi is not None
    assert all(parameter.requires_grad for parameter in networks.parameters())


def test_gravity_offsets_are_zero_for_boxes_round_the_projected_centre_of_gravity(
    networks: TemporalNetworks, reel: Reel
) -> None:
    """The renderer's own camera projects the centre of gravity in space."""
    config = RenderedConfig(size=32, clips=(12, 1, 1), identities=(3, 1, 1), frames=2, cameras=1, samples=1)
    frames = RenderedBenchmark(config, "train").render([2, 4], [1, 0])
    center = pg.center_of_gravity(frames.joints, pg.BODY_17)
    points, _ = pg.project(center.unsqueeze(1), frames.camera)
    boxes = torch.full((2, 4), 0.5)
    boxes[:, 2:] = (2 * points.squeeze(1) + 1) / 32 - 1
    networks.boxes = lambda images: boxes  # type: ignore[method-assign]
    numbers = torch.tensor([5, 8])
    torch.testing.assert_close(reel.joints[numbers], frames.joints)
    assert float(gravity_offsets(networks, reel, numbers).max()) < 1e-4
    boxes[:, 2] += 0.5
    torch.testing.assert_close(gravity_offsets(networks, reel, numbers), torch.full((2,), 0.25), atol=1e-4, rtol=0)


def test_the_swap_panel_has_people_in_its_columns_and_poses_in_its_rows(networks: TemporalNetworks, reel: Reel) -> None:
    drawn = panels(networks, reel, np.random.default_rng(0))
    cell = 32 + 4
    assert drawn["swap"].shape == ((1 + PEOPLE) * cell + 4, (1 + PEOPLE) * cell + 4, 3)
    assert drawn["side_views"].shape == (PEOPLE * cell + 4, 4 * cell + 4, 3)
    whole = TemporalNetworks(replace(SMALL, split=False), compared=False).eval()
    assert set(panels(whole, reel, np.random.default_rng(0))) == {"side_views"}
    with pytest.raises(ValueError, match=f"needs frames of {2 * PEOPLE} clips, got 2"):
        panels(networks, reel_of(4, 4), np.random.default_rng(0))


def test_swaps_take_the_pose_from_rows_and_the_looks_from_columns(networks: TemporalNetworks) -> None:
    """D that paints a frame's code of looks and masks nothing away: every row of the panel is the same."""

    def paint(codes: Codes) -> tuple[Tensor, Tensor]:
        looks = codes.invariant[:, :1].sigmoid()
        return looks.view(-1, 1, 1, 1).expand(-1, 3, 16, 16), torch.ones(len(looks), 1, 16, 16)

    assert networks.decoder is not None
    assert networks.encoder.invariant is not None
    networks.decoder.forward = paint  # type: ignore[method-assign]
    with torch.no_grad():
        networks.encoder.invariant.weight.normal_(0, 30)
    image = torch.rand(2 * PEOPLE, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    networks.boxes = lambda images: torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(len(images), 4)  # type: ignore[method-assign]
    drawn = swaps(networks, image, torch.zeros_like(image))
    cells = drawn[20::36, 20::36, 0].astype(int)[: 1 + PEOPLE, : 1 + PEOPLE]
    looks = networks.encoder(networks.crops(image, networks.boxes(image))).invariant[:PEOPLE, 0].sigmoid()
    assert cells[1].tolist()[1:] == pytest.approx((255 * looks).tolist(), abs=1)
    assert (cells[1:, 1:] == cells[1, 1:]).all()


def test_a_fall_parallel_to_the_image_has_a_steady_acceleration_there_and_a_slanted_one_far_off_nearly_so() -> None:
    assert acceleration_drift(5, 0.0, 1.0) < 1e-6
    # y = f (p − h)/(d + s p), p = g t²/2: the second derivative at both ends by hand.
    distance, slant, height, g, seconds = 8.0, 0.3, 3.0, 9.81, 0.8

    def image(t: float) -> float:
        p = g * t**2 / 2
        return 1000 * (p - height) / (distance + slant * p)

    step = 1e-3
    ends = [(image(t - step) - 2 * image(t) + image(t + step)) / step**2 for t in (step, seconds - step)]
    drift = acceleration_drift(distance, slant, seconds, height, frames=401)
    assert drift * 0.5 * (ends[0] + ends[1]) == pytest.approx(abs(ends[0] - ends[1]), rel=0.15)
    assert acceleration_drift(80, 0.3, 0.8) < 0.15 * acceleration_drift(8, 0.3, 0.8)
    with pytest.raises(ValueError, match="must stay before the camera"):
        acceleration_drift(1.0, -1.0, 1.0)
