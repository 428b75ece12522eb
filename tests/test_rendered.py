"""The rendered benchmark: what its frames know of one another, and that they depend on nothing else."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample, max_pool2d

from posegeom import BODY_17, H36M_17, HAND_21, LSP_14, Puppet, center_of_gravity, project
from posegeom.capsules import part_joints
from posegeom_models.data.filming import render_takes
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig, RenderedFrames, contact_sheet

SMALL = RenderedConfig(size=64, frames=12, clips=(24, 6, 8), anywhere=0.4)
EVERYTHING = [field for field in RenderedFrames.__dataclass_fields__ if field != "camera"]


@pytest.fixture(scope="module")
def train() -> RenderedBenchmark:
    return RenderedBenchmark(SMALL, "train")


@pytest.fixture(scope="module")
def frames(train: RenderedBenchmark) -> RenderedFrames:
    clips = list(range(24))
    return train.render(clips, [clip % 12 for clip in clips])


def same(one: RenderedFrames, other: RenderedFrames) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in EVERYTHING) and torch.equal(
        one.camera.center, other.camera.center
    )


def test_frames_have_the_stated_shapes_and_ranges(frames: RenderedFrames) -> None:
    assert frames.image.shape == frames.background.shape == frames.foreground.shape == (24, 3, 64, 64)
    assert frames.mask.shape == (24, 1, 64, 64)
    assert frames.labels.shape == (24, 64, 64)
    assert frames.labels.dtype == torch.uint8
    for name in ("image", "background", "foreground", "mask"):
        values = getattr(frames, name)
        assert torch.isfinite(values).all()
        assert values.min() >= 0
        assert values.max() <= 1
    assert len(frames) == 24


def test_labels_are_the_puppets_parts_where_the_mask_is(frames: RenderedFrames) -> None:
    assert ((frames.labels > 0) == (frames.mask[:, 0] >= 0.5)).all()
    assert int(frames.labels.max()) <= len(Puppet.capsules(BODY_17, (8, 8)).parts)
    # Every part is seen somewhere, and every frame shows a person.
    assert set(frames.labels.unique().tolist()) == set(range(13))
    assert (frames.mask.sum((1, 2, 3)) > 20).all()


def test_parts_are_round_their_own_joints() -> None:
    """The middle of a forearm or shank whose ends are visible bears its label, or that of a part before it."""
    benchmark = RenderedBenchmark(replace(SMALL, size=128, anywhere=0.0), "train")
    frames = benchmark.render(list(range(24)), [5] * 24)
    right = seen = 0
    for part, (name, ends) in enumerate(part_joints(BODY_17)):
        if name.endswith(("wrist", "elbow", "knee", "ankle")):
            middle = frames.joints[:, list(ends)].mean(1, keepdim=True)
            pixels = project(middle, frames.camera)[0][:, 0].round().long()
            shown = frames.visible[:, list(ends)].all(1)
            labels = frames.labels[torch.arange(24), pixels[:, 1].clamp(0, 127), pixels[:, 0].clamp(0, 127)]
            right += int((labels[shown] == part + 1).sum())
            seen += int(shown.sum())
    assert seen > 60
    assert right / seen > 0.9


def test_visible_joints_are_in_the_mask_and_where_the_camera_puts_them(frames: RenderedFrames) -> None:
    points, _ = project(frames.joints, frames.camera)
    torch.testing.assert_close(points, frames.points)
    # One pixel of slack: a wrist of someone small is thinner than a pixel.
    near = max_pool2d((frames.mask > 0).float(), 3, 1, 1)
    grid = (frames.points + 0.5) / 64 * 2 - 1
    hit = grid_sample(near, grid[:, None], mode="nearest", align_corners=False)[:, 0, 0]
    assert (hit[frames.visible] > 0).all()
    share = float(frames.visible.float().mean())
    assert 0.5 < share < 0.98


def test_what_is_outside_the_image_is_not_visible(train: RenderedBenchmark) -> None:
    take = train.take(0)
    wide = take.shots[0]
    closer = take._replace(shots=(wide._replace(focal=wide.focal * 3, center=(wide.center - 31.5) * 3 + 31.5),))
    frames = render_takes([closer] * 12, range(12), [0] * 12, BODY_17, (64, 64))
    outside = ((frames.points < -0.5) | (frames.points > 63.5)).any(-1)
    assert outside.any()
    assert not frames.visible[outside].any()


def test_an_arm_behind_the_trunk_is_hidden() -> None:
    """Someone who walks is seen from the side at some time: then one side hides more joints than the other."""
    benchmark = RenderedBenchmark(replace(SMALL, anywhere=0.0), "train")
    frames = benchmark.render(list(range(24)), [0] * 24)
    left = [j for j, name in enumerate(BODY_17.joints) if name.startswith("left_")]
    right = [BODY_17.mirror[j] for j in left]
    nearer = frames.joints[:, left, 2] < frames.joints[:, right, 2]
    hidden_near = torch.where(nearer, ~frames.visible[:, left], ~frames.visible[:, right]).float().mean()
    hidden_far = torch.where(nearer, ~frames.visible[:, right], ~frames.visible[:, left]).float().mean()
    assert hidden_far > 5 * hidden_near + 0.05


def test_the_image_is_the_person_before_the_background(train: RenderedBenchmark) -> None:
    plain = RenderedBenchmark(replace(SMALL, shadow=0.0), "train")
    frames = plain.render([0, 1, 2], [0, 1, 2])
    torch.testing.assert_close(frames.composite(frames.background), frames.image)
    shaded = train.render([0, 1, 2], [0, 1, 2])
    assert torch.equal(shaded.background, frames.background)
    assert (shaded.image <= frames.image + 1e-6).all()
    assert (shaded.image < frames.image - 0.02).any()
    other = torch.full((3, 64, 64), 0.5)
    outside = (frames.mask == 0).expand_as(frames.image)
    assert (frames.composite(other)[outside] == 0.5).all()


def test_a_frame_has_the_same_bits_in_any_batch_and_process(train: RenderedBenchmark, frames: RenderedFrames) -> None:
    clips = [7, 3, 7, 19]
    again = RenderedBenchmark(SMALL, "train")  # nothing remembered
    some = again.render(clips, [clip % 12 for clip in clips])
    for place, clip in enumerate(clips):
        alone = RenderedBenchmark(SMALL, "train").render([clip], [clip % 12])
        for name in EVERYTHING:
            assert torch.equal(getattr(some, name)[place], getattr(frames, name)[clip]), name
            assert torch.equal(getattr(alone, name)[0], getattr(frames, name)[clip]), name
    copied = pickle.loads(pickle.dumps(train))  # as a worker gets it
    assert same(copied.render(clips, [0] * 4), train.render(clips, [0] * 4))
    whole = train[7]
    assert torch.equal(whole.image[7], frames.image[7])


def test_threads_change_no_bit(train: RenderedBenchmark) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = train.render(list(range(5)), [3] * 5)
        torch.set_num_threads(2)
        two = train.render(list(range(5)), [3] * 5)
    finally:
        torch.set_num_threads(before)
    assert same(one, two)


def test_seed_domain_and_split_change_the_frames(train: RenderedBenchmark) -> None:
    first = train.render([0, 1], [0, 0])
    for config, split in (
        (replace(SMALL, seed=1), "train"),
        (replace(SMALL, domain="B"), "train"),
        (SMALL, "validation"),
    ):
        other = RenderedBenchmark(config, split).render([0, 1], [0, 0])
        assert (other.image - first.image).abs().mean() > 0.05
    takes = [RenderedBenchmark(SMALL, split).take(0) for split in ("train", "validation", "test")]
    assert len({float(take.scenery.turn[0]) for take in takes}) == 3
    # More clips, or another size, are the same people doing the same.
    larger = RenderedBenchmark(replace(SMALL, size=96, clips=(99, 6, 8)), "train").render([0, 1], [0, 0])
    torch.testing.assert_close(larger.joints, first.joints)
    torch.testing.assert_close(larger.points, (first.points + 0.5) * 1.5 - 0.5, atol=1e-3, rtol=0)


def test_splits_and_domains_share_no_person() -> None:
    people = [
        {benchmark.take(clip).person for clip in range(len(benchmark))}
        for domain in "AB"
        for benchmark in (RenderedBenchmark(replace(SMALL, domain=domain), s) for s in ("train", "validation", "test"))
    ]
    assert [len(group) for group in people] == [14, 2, 4, 14, 2, 4]
    assert len(set().union(*people)) == 40


def test_a_person_keeps_bones_and_looks(train: RenderedBenchmark) -> None:
    of_first = [train.take(clip) for clip in range(24) if train.take(clip).person == 0]
    assert len(of_first) == 2
    first, second = of_first
    for parent, child in BODY_17.bones:
        bones = [(take.joints[:, child] - take.joints[:, parent]).norm(dim=-1) for take in of_first]
        torch.testing.assert_close(bones[0], bones[1], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(first.identity.materials, second.identity.materials)
    lengths = {round(float((t.joints[0, 2] - t.joints[0, 1]).norm()), 4) for t in map(train.take, range(14))}
    assert len(lengths) == 14


def test_a_turning_cameras_background_pans_by_its_homography() -> None:
    """A camera that turns about its centre maps pixels by K·R₀·R₁ᵀ·K⁻¹, whatever is there."""
    benchmark = RenderedBenchmark(replace(SMALL, size=128, moving=1.0, anywhere=1.0, frames=20), "train")
    errors, still = [], []
    for clip in range(4):
        pair = benchmark.render([clip, clip], [0, 12])
        assert pair.moving.all()
        k = torch.eye(3)
        k[0, 0], k[1, 1] = pair.camera.focal[0]
        k[:2, 2] = pair.camera.center[0]
        warp = k @ pair.rotation[0] @ pair.rotation[1].T @ k.inverse()
        y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
        source = torch.stack((x, y, torch.ones_like(x)), dim=-1) @ warp.T
        source = source[..., :2] / source[..., 2:]
        inside = ((source > 0) & (source < 127)).all(-1)
        assert inside.float().mean() > 0.2
        grid = (source + 0.5) / 64 - 1
        panned = grid_sample(pair.background[:1], grid[None], align_corners=False)[0]
        errors.append(float((panned - pair.background[1])[:, inside].abs().mean()))
        still.append(float((pair.background[0] - pair.background[1])[:, inside].abs().mean()))
    assert max(errors) < 0.02
    assert np.mean(errors) < 0.25 * np.mean(still)


def test_a_still_camera_has_one_background(train: RenderedBenchmark) -> None:
    assert set(train.clips_with(moving=True)) | set(train.clips_with(moving=False)) == set(range(24))
    assert len(train.clips_with(moving=True)) == round(24 * 0.3)
    clip = next(clip for clip in train.clips_with(moving=False) if train.take(clip).anywhere)
    whole = train[clip]
    assert not whole.moving.any()
    assert torch.equal(whole.background, whole.background[:1].expand_as(whole.background))
    crop = next(clip for clip in train.clips_with(moving=False) if not train.take(clip).anywhere)
    assert torch.equal(train[crop].rotation, train[crop].rotation[:1].expand(12, 3, 3))


def test_framings_are_what_they_say() -> None:
    for anywhere, shares in ((0.0, (0.6, 1.0)), (1.0, (0.05, 0.6))):
        frames = RenderedBenchmark(replace(SMALL, anywhere=anywhere, moving=0.0), "train").render(range(24), [6] * 24)
        inside = ((frames.points > -0.5) & (frames.points < 63.5)).all(-1)
        assert inside.float().mean() > 0.995
        extent = (frames.points.amax(1) - frames.points.amin(1)).amax(-1) / 64
        low, high = shares
        assert ((extent > low - 0.15) & (extent < high)).all()
        middles = (frames.points.amax(1) + frames.points.amin(1)) / 2
        spread = middles.std(0)
        assert (spread > 6).all() if anywhere else (spread < 3).all()


def test_two_cameras_see_the_same_joints(train: RenderedBenchmark) -> None:
    one, two = train.views(2, [0, 5, 9])
    turn = two.rotation @ one.rotation.transpose(1, 2)
    moved = (one.joints - one.translation[:, None]) @ turn.transpose(1, 2) + two.translation[:, None]
    torch.testing.assert_close(moved, two.joints, atol=1e-4, rtol=0)
    assert torch.equal(one.identity, two.identity)
    assert (one.rotation - two.rotation).abs().max() > 0.3
    # The first camera does not change when there are more.
    alone = RenderedBenchmark(replace(SMALL, cameras=1), "train").render([2] * 3, [0, 5, 9])
    assert torch.equal(alone.image, one.image)


def fall_of(frames: RenderedFrames) -> tuple[torch.Tensor, torch.Tensor]:
    """Heights of the centre of gravity in the world (T,), and time stamps."""
    world = (frames.joints.double() - frames.translation.double()[:, None]) @ frames.rotation.double()
    return center_of_gravity(world, BODY_17)[:, 2], frames.seconds


@pytest.mark.parametrize("real", [False, True])
def test_airborne_frames_fall_freely(request: pytest.FixtureRequest, real: bool) -> None:
    folder: Path | None = request.getfixturevalue("motion_data") if real else None
    config = RenderedConfig(size=16, motion=folder, content="freefall", frames=36, frame_rate=30, clips=(10, 1, 4))
    benchmark = RenderedBenchmark(config, "train")
    fits = []
    for clip in range(10):
        frames = benchmark[clip]
        assert frames.airborne.any()
        height, seconds = fall_of(frames)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], frames.airborne.numpy(), [False]]).astype(int)))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            if end - start >= 6:
                fit = np.polyfit(seconds[start:end], height[start:end], 2)
                residual = height[start:end] - torch.from_numpy(np.polyval(fit, seconds[start:end].numpy()))
                assert residual.abs().max() < (0.006 if real else 1e-4)
                fits.append(2 * fit[0])
    assert len(fits) >= 8
    np.testing.assert_allclose(fits, -9.81, atol=0.85 if real else 0.05)
    assert np.mean(fits) == pytest.approx(-9.81, abs=0.2)


def test_labelled_samples_differ_and_are_nobody_of_the_splits() -> None:
    benchmark = RenderedBenchmark(SMALL, "train")
    samples = benchmark.labelled_samples(6)
    assert len(samples) == 6
    assert (samples.identity < 0).all()
    assert len(samples.identity.unique()) == 6
    poses = samples.joints - samples.joints[:, :1]
    assert float(torch.pdist(poses.flatten(1)).min()) > 0.3
    assert same(samples, RenderedBenchmark(SMALL, "train").labelled_samples(6))


def test_unpaired_poses_are_other_motions_of_the_splits_people(train: RenderedBenchmark) -> None:
    poses = train.unpaired_poses(40)
    assert poses.shape == (40, 17, 3)
    assert torch.equal(poses, RenderedBenchmark(SMALL, "train").unpaired_poses(40))
    assert (poses[:, 0] == 0).all()
    arms = {round(float((pose[4] - pose[3]).norm()), 4) for pose in poses}
    known = {round(float((t.joints[0, 4] - t.joints[0, 3]).norm()), 4) for t in map(train.take, range(14))}
    assert arms <= known
    for clip in range(24):
        take = train.take(clip).joints
        # Neither turned nor shifted, one of the clip's poses would be this close.
        assert torch.cdist((take - take[:, :1]).flatten(1), poses.flatten(1)).min() > 1e-3


def test_backdrops_are_places_without_people(train: RenderedBenchmark) -> None:
    backdrops = train.backdrops([0, 1, 5])
    assert backdrops.shape == (3, 3, 64, 64)
    assert torch.equal(train.backdrops([5])[0], backdrops[2])
    assert (backdrops[0] - backdrops[1]).abs().mean() > 0.02
    assert train.backdrops([]).shape == (0, 3, 64, 64)


def test_real_motion_renders_for_every_skeleton_that_it_has(motion_data: Path) -> None:
    for skeleton in (BODY_17, H36M_17, LSP_14, HAND_21):
        config = replace(SMALL, motion=motion_data, frames=8)
        frames = RenderedBenchmark(config, "test", skeleton).render([0, 1], [0, 7])
        assert frames.joints.shape == (2, len(skeleton.joints), 3)
        assert (frames.mask.sum((1, 2, 3)) > 20).all()
        assert int(frames.labels.max()) <= len(Puppet.capsules(skeleton, (8, 8)).parts)


def test_contact_sheet_has_a_column_per_frame(frames: RenderedFrames, train: RenderedBenchmark) -> None:
    few = train.render([0, 1, 2], [0, 0, 0])
    sheet = contact_sheet(few, BODY_17, scale=2)
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] == 5 * 128
    picture = sheet[:128, -3 * 128 :].reshape(64, 2, 192, 2, 3)[:, 0, :, 0]
    expected = torch.cat(tuple(few.image.movedim(1, -1)), dim=1)
    np.testing.assert_allclose(picture / 255, expected.numpy(), atol=0.003)


def test_wrong_settings_teach() -> None:
    for change, message in (
        ({"domain": "C"}, "domain must be one of A, B, got 'C'"),
        ({"content": "sport"}, "content must be 'daily' or 'freefall'"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"identities": (1, 2)}, "identities must be three numbers"),
        ({"moving": 1.5}, r"moving must be in \[0, 1\], got 1.5"),
        ({"frame_rate": 0.0}, "frame_rate must be positive"),
        ({"seed": -1}, "seed must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(SMALL, **change)
    with pytest.raises(ValueError, match="split must be one of train, validation, test, got 'dev'"):
        RenderedBenchmark(SMALL, "dev")
    benchmark = RenderedBenchmark(SMALL, "train")
    with pytest.raises(IndexError, match="clip must be 0 to 23, got 24"):
        benchmark.render([24], [0])
    with pytest.raises(IndexError, match="frames must be 0 to 11, got 12"):
        benchmark.render([0], [12])
    with pytest.raises(ValueError, match="clips, frames and cameras must be as many, got 2, 1 and 2"):
        benchmark.render([0, 1], [0])
    with pytest.raises(ValueError, match="takes must be at least one"):
        benchmark.render([], [])
    with pytest.raises(ValueError, match=r"'jump_\d+' has no wrist, thumb_cmc"):
        RenderedBenchmark(SMALL, "train", HAND_21)
    with pytest.raises(FileNotFoundError, match=r"nowhere has no cmu17_train\.npz, cmu17_test\.npz; motion must be"):
        RenderedBenchmark(replace(SMALL, motion=Path("nowhere")), "train")


def test_a_copy_for_another_process_carries_no_takes_and_shows_the_same() -> None:
    """Every tensor that goes to a worker is an open file there, and a benchmark of many clips remembers thousands."""
    benchmark = RenderedBenchmark(SMALL, "train")
    shown = benchmark.render([0, 1], [0, 0])
    handed = pickle.dumps(benchmark)
    assert b"torch" not in handed
    assert torch.equal(pickle.loads(handed).render([0, 1], [0, 0]).image, shown.image)
