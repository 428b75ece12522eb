"""The samplers of 003: frames of one video, at the distances asked for, and falls that are free."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("torchvision")

import posegeom as pg
from posegeom_models.data.reels import Reel
from posegeom_models.temporal.objective import l_dsl
from posegeom_models.temporal.sampling import Distances, FallSampler, FrameSampler, Quadruples


def reel_of(*lengths: int) -> Reel:
    """Clips of so many frames each, without any picture in them."""
    clip = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    count = len(clip)
    nothing = torch.zeros(count, 3, 1, 1, dtype=torch.uint8)
    seconds = torch.cat([torch.arange(length, dtype=torch.float64) for length in lengths])
    return Reel(
        nothing,
        nothing,
        nothing[:, 0],
        torch.zeros(count, 17, 3),
        torch.zeros(count, 17, 2),
        clip,
        seconds,
        torch.zeros(count, dtype=torch.bool),
        pg.BODY_17,
    )


def drawn(sampler: FrameSampler, times: int) -> Quadruples:
    return sampler.quadruples(sampler.references.repeat(times), np.random.default_rng(0))


def apart(found: Quadruples) -> Tensor:
    return (found.number - found.number[:, :1]).abs()


@pytest.mark.parametrize("negatives", [1, 2])
def test_quadruples_never_cross_videos_and_say_their_true_distances(negatives: int) -> None:
    reel = reel_of(30, 4, 3, 57, 5, 22)
    found = drawn(FrameSampler(reel, Distances(3, 20), negatives), 40)
    assert 0 <= int(found.number.min()) <= int(found.number.max()) < len(reel)
    clips = reel.clip[found.number]
    assert bool((clips == clips[:, :1]).all())
    assert torch.equal(found.distance, apart(found))


def test_nearby_intermediate_and_away_frames_are_in_this_order_on_one_side() -> None:
    found = drawn(FrameSampler(reel_of(60, 60), Distances(3, 20)), 60)
    reference, near, between, away = found.distance.unbind(1)
    assert not reference.any()
    assert set(near.tolist()) == {1, 2, 3}
    assert bool((away >= 20).all())
    assert bool(((between > near) & (between < away)).all())
    side = (found.number[:, 1:] - found.number[:, :1]).sign()
    assert bool((side == side[:, :1]).all())
    assert set(side[:, 0].tolist()) == {-1, 1}
    # All distances that the clip has room for occur, also those between the nearby frame and `near`.
    assert int(away.max()) == 59
    assert set(between.tolist()) >= set(range(2, 50))


def test_with_two_negatives_both_are_away() -> None:
    found = drawn(FrameSampler(reel_of(60), Distances(3, 20), 2), 60)
    assert bool((found.distance[:, 2:] >= 20).all())
    assert bool((found.distance[:, 1] <= 3).all())


def test_only_frames_with_room_for_an_away_frame_are_references() -> None:
    """Of 25 frames with 20 between, the first and the last five; a clip of 20 frames has none."""
    sampler = FrameSampler(reel_of(25, 20), Distances(3, 20))
    assert sampler.references.tolist() == [*range(5), *range(20, 25)]


@pytest.mark.parametrize("negatives", [1, 2])
def test_no_away_frame_is_drawn_to_its_reference(negatives: int) -> None:
    """The loss of the sampled distances falls as away frames turn away from their reference, in clips of any length."""
    found = drawn(FrameSampler(reel_of(21, 9, 24, 40), Distances(3, 20), negatives), 20)
    angle = torch.full((len(found.number),), 0.9, requires_grad=True)
    reference, away = torch.tensor([1.0, 0.0]).expand(len(angle), 2), torch.stack((angle.cos(), angle.sin()), dim=-1)
    l_dsl(torch.stack((reference, reference, reference, away), dim=1), found.distance, 20).backward()
    assert angle.grad is not None
    assert bool((angle.grad < 0).all())


def test_clips_that_are_too_short_are_told_with_how_long_they_must_be() -> None:
    with pytest.raises(ValueError, match=r"longest clip has 20 frames, and away is 20: .* at least 21 frames, 41 for"):
        FrameSampler(reel_of(20, 3), Distances(3, 20))
    assert FrameSampler(reel_of(3, 4), Distances(1, 3)).references.tolist() == [3, 6]


def test_impossible_distances_are_refused() -> None:
    with pytest.raises(ValueError, match="two less than away"):
        FrameSampler(reel_of(9), Distances(3, 4))
    with pytest.raises(ValueError, match="negatives must be 1 or 2"):
        FrameSampler(reel_of(9), Distances(1, 3), 3)


def test_falls_are_four_frames_at_equal_times_in_the_air_of_one_video() -> None:
    reel = reel_of(12, 12)
    airborne = torch.zeros(24, dtype=torch.bool)
    airborne[3:11] = True
    airborne[12:24] = True
    airborne[20] = False  # a touch of the ground between two frames ends a fall
    sampler = FallSampler(reel, airborne, 2)
    assert sampler.references.tolist() == [3, 4, 12, 13]
    found = sampler.quadruples(torch.tensor([4, 13]))
    assert found.number.tolist() == [[4, 6, 8, 10], [13, 15, 17, 19]]
    assert found.distance.tolist() == [[0, 2, 4, 6]] * 2
    with pytest.raises(ValueError, match="four frames of a fall, 4 apart"):
        FallSampler(reel, airborne, 4)
    with pytest.raises(ValueError, match="step must be at least 1"):
        FallSampler(reel, airborne, 0)


def test_the_same_random_numbers_give_the_same_frames() -> None:
    sampler = FrameSampler(reel_of(40, 40), Distances(3, 20))
    first, second, other = (
        sampler.quadruples(torch.tensor([5, 50]), np.random.default_rng(seed)).number for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
