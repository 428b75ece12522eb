"""What 001 is shown: images of some recordings, 2D poses of the others, and what is computed of these."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import posegeom as pg

pytest.importorskip("torchvision")
pytest.importorskip("zuko")

from posegeom_models.data.rendered import RenderedBenchmark
from posegeom_models.imagepose.batches import ImageposeData
from posegeom_models.imagepose.objective import human36m_lengths
from tests.test_imagepose_recipe import CONFIG


@pytest.fixture(scope="module")
def data() -> ImageposeData:
    return ImageposeData(CONFIG)


def test_images_and_prior_are_of_different_recordings(data: ImageposeData) -> None:
    benchmark = RenderedBenchmark(CONFIG.data, "train", pg.H36M_17)

    def recordings(numbers: torch.Tensor) -> set[str]:
        return {benchmark.take(clip).motion.split("#")[0] for clip in data.reel.clip[numbers].tolist()}

    images, prior = recordings(data.own.images.numbers), recordings(data.own.prior)
    assert images
    assert prior
    assert not images & prior


def test_batches_follow_from_seed_and_step_and_shares_make_the_whole(data: ImageposeData) -> None:
    whole, again = data.batch(3, 0, 1), ImageposeData(CONFIG).batch(3, 0, 1)
    assert whole.image is not None
    assert whole.other is not None
    assert again.image is not None
    assert torch.equal(whole.image, again.image)
    assert torch.equal(whole.points, again.points)
    shares = [data.batch(3, rank, 2) for rank in range(2)]
    for name in ("points", "image", "other"):
        parts = [getattr(share, name) for share in shares]
        assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), getattr(whole, name)), name
    halves = [data.part(whole, number, 2).points for number in range(2)]
    assert torch.equal(torch.cat(halves), whole.points)
    early = data.batch(0, 0, 1)
    assert early.image is None
    assert early.statistics is not None
    assert "frames [" in data.describe(3)


def test_more_clips_of_the_priors_recordings_lend_poses(data: ImageposeData) -> None:
    more = ImageposeData(replace(CONFIG, prior_clips=30))
    assert len(more.points) > len(data.points)
    assert more.own.lent == data.own.lent
    benchmark = RenderedBenchmark(CONFIG.data, "train", pg.H36M_17)
    shown = {benchmark.take(clip).motion.split("#")[0] for clip in more.reel.clip[more.own.images.numbers].tolist()}
    for one in (data, more):
        assert one.recordings
        assert not one.recordings & shown
    # People and cameras of their own: no pose of the images' benchmark is among them.
    off = torch.cdist(more.points.flatten(1), more.reel.points.flatten(1))
    assert float(off.min()) > 0
    assert 0 < float(more.points.mean()) < 32


def test_the_prior_has_mirror_images_where_told(data: ImageposeData) -> None:
    both = ImageposeData(replace(CONFIG, mirrored=True))
    half = len(data.points)
    assert len(both.points) == 2 * half
    assert torch.equal(both.points[:half], data.points)
    exchanged = both.points[half:, list(pg.H36M_17.mirror)]
    torch.testing.assert_close(31 - exchanged[..., 0], data.points[..., 0])
    assert torch.equal(exchanged[..., 1], data.points[..., 1])
    left, right = (
        [n for n, (_, child) in enumerate(pg.H36M_17.bones) if pg.H36M_17.joints[child].startswith(side)]
        for side in ("left", "right")
    )
    lengths = both.statistics.lengths
    torch.testing.assert_close(lengths[left].sort().values, lengths[right].sort().values)


def test_bone_lengths_are_human36ms_where_told() -> None:
    data = ImageposeData(replace(CONFIG, lengths="human36m"))
    assert torch.equal(data.statistics.lengths, human36m_lengths(pg.H36M_17))


def test_masked_images_show_the_person_alone(data: ImageposeData) -> None:
    numbers = data.own.images.deal(3 * 4, 4)
    frames = data.reel.frames(numbers)
    image = data.batch(3, 0, 1).image
    assert image is not None
    person = (frames.labels > 0).unsqueeze(1).expand_as(image)
    assert torch.equal(image[person], frames.image[person])
    assert (image[~person] == 0).all()
    assert 0.02 < float(person.float().mean()) < 0.6


def test_turned_copies_move_images_and_poses_alike() -> None:
    """By a right angle a turned image is an exact one, and so are its points."""
    config = replace(CONFIG, rotations=(90.0,), masked=False)
    data, straight = ImageposeData(config), ImageposeData(replace(config, rotations=()))
    for step in range(3, 6):
        batch, plain = data.batch(step, 0, 1), straight.batch(step, 0, 1)
        assert batch.image is not None
        assert plain.image is not None
        for image, before in zip(batch.image, plain.image, strict=True):
            right = before.rot90(-1, (1, 2))
            off = [float((image - each).abs().max()) for each in (before, right)]
            assert min(off) < 1e-4
        for points, before in zip(batch.points, plain.points, strict=True):
            right = torch.stack((31 - before[:, 1], before[:, 0]), dim=-1)
            assert min(float((points - each).abs().max()) for each in (before, right)) < 1e-4


def test_images_of_another_domain_are_every_other_one_and_lend_no_poses(data: ImageposeData) -> None:
    both = ImageposeData(replace(CONFIG, more_images="B"))
    assert both.more is not None
    batch = both.batch(3, 0, 1)
    assert batch.image is not None
    own, more = both.own.images.deal(6, 2), both.more.images.deal(6, 2)
    expected = torch.stack((both.own.shown(own), both.more.shown(more)), dim=1).flatten(0, 1)
    assert torch.equal(batch.image, expected)
    shares = [both.batch(3, rank, 2).image for rank in range(2)]
    assert torch.equal(torch.stack([share for share in shares if share is not None], dim=1).flatten(0, 1), batch.image)
    assert torch.equal(both.statistics.mean, data.statistics.mean)
    assert "of domain B" in both.describe(3)
