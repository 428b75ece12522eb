"""000: its batches, what is done to frames and their labels, and what it takes for salient."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import posegeom as pg

pytest.importorskip("torchvision")

from posegeom_models.data.augmentation import Changes, before
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.reels import Frames, Reel
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.data.shuffling import Shuffle
from posegeom_models.material import Material
from posegeom_models.pgp.batches import PgpData
from posegeom_models.pgp.configuration import PgpConfig, Turn, turn_of
from posegeom_models.pgp.networks import PgpNetworks
from posegeom_models.pgp.saliency import conspicuous, salient
from posegeom_models.training import TrainingConfig
from tests.test_pgp_networks import SMALL
from tests.test_reels import film

CONFIG = PgpConfig(
    network=SMALL,
    data=RenderedConfig(size=32, clips=(6, 1, 1), identities=(2, 1, 1), frames=4, anywhere=0.0, cameras=2),
    training=TrainingConfig(steps=10, batch_size=4, checkpoint_every=4, accelerator="cpu"),
    variant="semi",
    labelled_share=0.25,
    base_share=0.6,
    unpaired_poses=64,
    pair_gap=0.05,
    elsewhere=0.5,
)
LABELLED = 7  # a step on labels


@pytest.fixture(scope="module")
def data() -> PgpData:
    return PgpData(CONFIG)


def still(count: int) -> Changes:
    """Changes that change nothing."""
    return Changes(
        torch.ones(count, 3, 1, 1),
        torch.zeros(count, 1, 1, 1),
        torch.zeros(count, dtype=torch.bool),
        torch.zeros(count),
    )


def all_tensors(batch: object) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    return [tensor for value in batch if value is not None for tensor in all_tensors(value)]  # type: ignore[attr-defined]


def test_the_second_stage_puts_supervision_between_the_iterations() -> None:
    names = [turn_of(CONFIG, step).name for step in range(10)]
    assert names == ["iteration"] * 7 + ["labelled", "iteration", "labelled"]
    assert [turn_of(CONFIG, step).number for step in range(10)] == [0, 1, 2, 3, 4, 5, 6, 0, 7, 1]
    often = replace(CONFIG, labelled_turns=3)
    assert [turn_of(often, step) for step in (6, 7, 9)] == [
        Turn("iteration", 6),
        Turn("labelled", 0),
        Turn("labelled", 2),
    ]
    assert {turn_of(replace(CONFIG, variant="unsup"), step).name for step in range(10)} == {"iteration"}
    assert turn_of(replace(CONFIG, variant="multi-view"), LABELLED).name == "views"
    alone = replace(CONFIG, self_supervised=False)
    assert [turn_of(alone, step) for step in range(2)] == [Turn("labelled", 0), Turn("labelled", 1)]


def test_saliency_counts_less_after_a_set_iteration() -> None:
    config = replace(CONFIG, beta=0.8, beta_later=0.3, beta_steps=5)
    assert [config.beta_at(number) for number in (0, 4, 5, 9)] == [0.8, 0.8, 0.3, 0.3]
    without = replace(config, beta=0.0)
    assert {without.beta_at(number) for number in range(9)} == {0.0}
    assert PgpConfig().beta_steps == 200_000


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"variant": "full"}, "variant must be"),
        ({"optimizer": "sgd"}, "optimizer must be"),
        ({"network": replace(SMALL, size=64)}, "network.size must be data.size"),
        ({"self_supervised": False, "variant": "unsup"}, "has no labels"),
        ({"labelled_share": 2.0}, "labelled_share must be in"),
        ({"scenes": 1.5}, "scenes must be in"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"variant": "multi-view", "data": replace(CONFIG.data, cameras=1)}, "data.cameras of 2, got 1"),
        ({"variant": "multi-view", "data": replace(CONFIG.data, cameras=3)}, "data.cameras of 2, got 3"),
        ({"variant": "multi-view", "network": replace(SMALL, ablation="without_fk")}, "canonical poses"),
        ({"lambda_heat": 1.0, "network": replace(SMALL, backbone="resnet18")}, "needs the pyramid"),
        ({"pairs": 3, "training": TrainingConfig(batch_size=4, accumulate=2)}, "pairs must be a multiple"),
        ({"training": TrainingConfig(batch_size=1)}, "training.batch_size must be at least 2 x"),
        ({"training": TrainingConfig(batch_size=4, accumulate=4)}, r"accumulate = 8, got 4: batch normalisation"),
        ({"pairs": 2, "training": TrainingConfig(batch_size=4, accumulate=2)}, r"pairs must be at least 2 x .* = 4"),
        ({"network": replace(SMALL, lifted=True), "with_unpaired": False}, "with_unpaired must be true"),
        ({"lifted_poses": 0}, "lifted_poses must be a multiple"),
        ({"labelled_share": 0.0}, "labelled_share must be above 0 for variant semi"),
        ({"frame_step": 0}, "frame_step must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"lambda_view": -1.0}, "lambda_view must be at least 0"),
        ({"pose_rate": float("nan")}, "pose_rate must be at least 0"),
        ({"pair_gap": -0.5}, "pair_gap must be at least 0"),
        ({"beta": 0.5, "beta_later": 0.6}, "beta_later must be at most beta, 0.5, got 0.6"),
    ],
)
def test_choices_that_do_not_fit_are_refused(wrong: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(CONFIG, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [0, 1, LABELLED])
def test_batches_are_functions_of_the_step_and_shares_make_the_whole(data: PgpData, step: int) -> None:
    whole, again = (all_tensors(data.batch(step, 0, 1)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))
    for rank in range(2):
        share = all_tensors(data.batch(step, rank, 2))
        for one, other in zip(share, whole, strict=True):
            torch.testing.assert_close(one, other[rank::2], rtol=0, atol=1e-6)
    batch = data.batch(step, 0, 1)
    parts = [all_tensors(data.part(batch, number, 2)) for number in range(2)]
    assert all(torch.equal(torch.cat(pair), one) for *pair, one in zip(*parts, whole, strict=True))
    assert "clip" in data.describe(step)


@pytest.mark.parametrize("step", [0, LABELLED])
def test_poses_without_images_are_dealt_out_as_the_frames_are(data: PgpData, step: int) -> None:
    several = copy(data)
    several.config = replace(CONFIG, network=replace(SMALL, lifted=True), lifted_poses=64)
    batch = several.batch(step, 0, 1)
    assert data.batch(step, 0, 1).lifted is None
    assert batch.lifted is not None
    assert batch.lifted.errors is not None
    assert batch.lifted.canonical.shape == (64, 17, 3)
    # Each pose has errors of a size of its own, none of them large.
    sizes = batch.lifted.errors.std((1, 2))
    assert float(sizes.min()) < 0.005
    assert 0.02 < float(sizes.max()) < 0.045
    whole = all_tensors(batch)
    for rank in range(2):
        for one, other in zip(all_tensors(several.batch(step, rank, 2)), whole, strict=True):
            torch.testing.assert_close(one, other[rank::2], rtol=0, atol=1e-6)
    parts = [all_tensors(several.part(batch, number, 2)) for number in range(2)]
    assert all(torch.equal(torch.cat(pair), one) for *pair, one in zip(*parts, whole, strict=True))


def test_an_iteration_may_have_fewer_samples_than_a_labelled_step() -> None:
    data = PgpData(replace(CONFIG, pairs=2))
    assert len(data.batch(0, 0, 1).target.number) == 2
    assert len(data.batch(LABELLED, 0, 1).target.number) == 4


def test_pairs_are_two_frames_of_one_video(data: PgpData) -> None:
    for step in range(4):
        batch = data.batch(step, 0, 1)
        assert batch.source is not None
        assert torch.equal(data.reel.clip[batch.source.number], data.reel.clip[batch.target.number])
        assert bool((batch.source.number != batch.target.number).all())
    alone = replace(CONFIG.data, frames=1)
    with pytest.raises(ValueError, match="pairs need clips of two frames, and there is none"):
        PgpData(replace(CONFIG, data=alone))
    assert len(PgpData(replace(CONFIG, data=alone, self_supervised=False)).orders["labelled"].numbers) == 2


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 1.0])
def test_labels_are_the_share_of_the_frames_that_was_asked_for(share: float) -> None:
    data = PgpData(replace(CONFIG, labelled_share=share, elsewhere=0.0))
    numbers = data.orders["labelled"].numbers
    assert len(numbers.unique()) == round(share * 24)
    # Of every clip, and not of the first ones alone: in 000's Fig. 4 the share is the abscissa.
    assert len(data.reel.clip[numbers].unique()) == min(len(numbers), 6)


def test_a_frame_that_is_alone_in_its_clip_is_in_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Reel.render(RenderedBenchmark(CONFIG.data, "train"))
    clip = whole.clip.clone()
    clip[-1] += 1
    lonely = replace(whole, clip=clip, action=())
    monkeypatch.setattr(Material, "reel", lambda self, camera=0: lonely)
    data = PgpData(CONFIG)
    assert torch.equal(data.orders["iteration"].numbers, torch.arange(23))


def test_footage_has_pairs_and_no_labels_and_may_be_broken(tmp_path: Path) -> None:
    pytest.importorskip("av")
    film(tmp_path / "still.mp4", 6)
    film(tmp_path / "turning.mp4", 6, pan=2.0)
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "still.mp4").read_bytes()[:2000])
    config = replace(CONFIG, footage=tmp_path, variant="unsup", elsewhere=0.0)
    with pytest.raises(MotionFileError, match=r"broken\.mp4"):
        PgpData(config)
    with pytest.warns(UserWarning, match="1 of 3 videos skipped"):
        filmed = PgpData(replace(config, skip_broken=True))
    assert set(filmed.orders) == {"iteration", "views", "painted"}
    assert filmed.reel.moving.unique().tolist() == [False, True]
    batch = filmed.batch(0, 0, 1)
    assert batch.source is not None
    assert batch.salient is not None
    assert torch.equal(filmed.reel.clip[batch.source.number], filmed.reel.clip[batch.target.number])
    (tmp_path / "broken.mp4").unlink()
    with pytest.raises(ValueError, match="variant 'weakly' needs labels, and footage has none"):
        PgpData(replace(config, variant="weakly"))


def test_the_source_is_the_candidate_with_the_most_distant_background(data: PgpData) -> None:
    preferred = 0
    for number in range(0, 24, 3):
        chosen = data.partner(number, np.random.default_rng(number))
        wanted = torch.tensor([number] * CONFIG.candidates)
        candidates = data.reel.partners(wanted, CONFIG.pair_gap, np.random.default_rng(number))
        field = data.reel.image if bool(data.reel.moving[number]) else data.reel.background

        def apart(other: int, number: int = number, field: Tensor = field) -> float:
            return float(((field[other].float() - field[number].float()) ** 2).mean())

        distances = [apart(int(other)) for other in candidates]
        assert chosen in candidates.tolist()
        assert apart(chosen) == max(distances)
        preferred += len(set(distances)) > 1
    assert preferred > 3


def test_a_flipped_image_has_a_flipped_pose(data: PgpData) -> None:
    """A mirror shows the right wrist where the left one was, and the left-hander's pose."""
    frames = data.reel.frames(torch.arange(6))
    flipped = still(6)._replace(flip=torch.ones(6, dtype=torch.bool)).moved(frames, pg.BODY_17)
    left, right = pg.BODY_17.index("left_wrist"), pg.BODY_17.index("right_wrist")
    torch.testing.assert_close(flipped.image, frames.image.flip(-1))
    torch.testing.assert_close(flipped.points[:, right, 0], 31 - frames.points[:, left, 0])
    torch.testing.assert_close(flipped.points[:, right, 1], frames.points[:, left, 1])
    torch.testing.assert_close(flipped.canonical[:, right], frames.canonical[:, left] * torch.tensor([1.0, -1.0, 1.0]))
    seen = pg.canonicalize(flipped.joints, pg.BODY_17).canonical
    torch.testing.assert_close(seen, flipped.canonical, rtol=0, atol=1e-4)


@pytest.mark.parametrize("flip", [False, True])
def test_a_turned_image_has_a_turned_pose(data: PgpData, flip: bool) -> None:
    """A bright spot at a joint is where the turned joint is, and so is what a pinhole in the middle sees."""
    camera = pg.PerspectiveCamera(64.0, None, (32, 32))
    joints = torch.randn(5, 17, 3).clamp(-2, 2) * 0.2 + torch.tensor([0.0, 0.0, 4.0])
    points, _ = pg.project(joints, camera)
    spot = pg.joint_heatmaps(points[:, :1], (32, 32), 1.0).expand(-1, 3, -1, -1)
    frames = data.reel.frames(torch.arange(5))._replace(image=spot, joints=joints, points=points)
    changes = still(5)._replace(angle=torch.linspace(-0.5, 0.5, 5), flip=torch.full((5,), flip))
    turned = changes.moved(frames, pg.BODY_17)
    shares = turned.image[:, 0] / turned.image[:, 0].sum((1, 2), keepdim=True)
    places = torch.arange(32.0)
    found = torch.stack(((shares.sum(1) * places).sum(-1), (shares.sum(2) * places).sum(-1)), dim=-1)
    torch.testing.assert_close(found, turned.points[:, 0], rtol=0, atol=0.1)
    torch.testing.assert_close(pg.project(turned.joints, camera)[0], turned.points, rtol=0, atol=1e-3)
    assert torch.equal(turned.canonical, frames.canonical) != flip


def test_iterations_move_the_source_and_recolour_the_target(data: PgpData) -> None:
    batch = data.batch(1, 0, 1)
    assert batch.source is not None
    assert batch.recolored is not None
    plain = data.reel.frames(batch.target.number)
    assert torch.equal(batch.target.image, plain.image)
    assert torch.equal(batch.target.points, plain.points)
    assert float((batch.recolored - plain.image).abs().mean()) > 0.01
    # Colours alone: each channel is a straight line of what it was, where it is not cut off.
    for row in range(4):
        for channel in range(3):
            x, y = plain.image[row, channel].flatten(), batch.recolored[row, channel].flatten()
            inside = (y > 0) & (y < 1)
            residual = np.polyfit(x[inside].numpy(), y[inside].numpy(), 1, full=True)[1]
            assert float(residual.sum()) < 1e-6
    source = data.reel.frames(batch.source.number)
    assert not torch.allclose(batch.source.points, source.points, atol=0.1)


def test_labelled_frames_before_other_backgrounds_keep_the_person() -> None:
    person = torch.zeros(2, 1, 16, 16)
    person[:, :, 4:12, 4:12] = 1
    background, backdrop = torch.full((2, 3, 16, 16), 0.2), torch.full((2, 3, 16, 16), 0.9)
    image = person * 0.6 + (1 - person) * background
    nothing = torch.zeros(2)
    frames = Frames(image, background, nothing, nothing, nothing, nothing, torch.arange(2))
    moved = before(frames, backdrop, torch.tensor([True, False]))
    assert torch.equal(moved.image[1], image[1])
    assert torch.equal(moved.image[0, :, 4:12, 4:12], image[0, :, 4:12, 4:12])
    torch.testing.assert_close(moved.image[0, :, :3], backdrop[0, :, :3])


def test_a_share_of_the_labelled_frames_with_a_still_background_is_before_another(data: PgpData) -> None:
    few = replace(CONFIG, labelled_share=1.0, jitter=0.0, turn=0.0, training=replace(CONFIG.training, batch_size=48))
    shares = {}
    for elsewhere in (0.0, 0.5, 1.0):
        several = copy(data)
        several.config = replace(few, elsewhere=elsewhere)
        several.orders = {"labelled": Shuffle(torch.arange(24), 0)}
        target = several.batch(LABELLED, 0, 1).target
        plain = data.reel.frames(target.number)
        # Half of them are mirrored: nothing else may have happened to those that stay where they were.
        same = [(target.image == image).flatten(1).all(1) for image in (plain.image, plain.image.flip(-1))]
        changed = ~(same[0] | same[1])
        moving = data.reel.moving[target.number]
        assert 0 < int(moving.sum()) < 48
        assert not bool((changed & moving).any())
        shares[elsewhere] = float(changed[~moving].float().mean())
        for row in torch.nonzero(changed).flatten().tolist():
            behind = (
                nn.functional.max_pool2d((plain.image[row] - plain.background[row]).abs().sum(0)[None], 3, 1, 1) == 0
            )
            for image, empty in ((target.image[row], behind[0]), (target.image[row].flip(-1), behind[0])):
                apart = (image - data.backdrops)[..., empty].abs().amax((1, 2))
                if float(apart.min()) < 1e-5:
                    break
            else:
                raise AssertionError(f"frame {row} is before no backdrop")
    assert shares[0.0] == 0
    assert 0.2 < shares[0.5] < 0.8
    assert shares[1.0] == 1


def test_what_is_unlike_the_edges_is_conspicuous() -> None:
    torch.manual_seed(0)
    image = 0.3 + 0.03 * torch.randn(2, 3, 40, 40)
    empty = conspicuous(image)
    assert float(empty.mean()) < 0.35
    image[0, :, 10:30, 15:25] = torch.tensor([0.8, 0.2, 0.2]).view(3, 1, 1)
    seen = conspicuous(image)[0]
    assert float(seen[10:30, 15:25].min()) > 0.95
    assert seen.shape == (40, 40)


def test_rendered_people_are_salient() -> None:
    config = RenderedConfig(size=64, clips=(20, 1, 1), identities=(6, 1, 1), frames=1, anywhere=0.0, cameras=1)
    shown = RenderedBenchmark(config, "train").render(range(20), [0] * 20)
    nothing = torch.zeros(20)
    frames = Frames(shown.image, shown.background, shown.labels, nothing, nothing, nothing, torch.arange(20))
    person = shown.labels > 0

    def overlap(masks: Tensor) -> Tensor:
        return (masks * person).flatten(1).sum(1) / torch.maximum(masks, person.float()).flatten(1).sum(1)

    known = salient(frames, torch.zeros(20, dtype=torch.bool))
    unknown = salient(frames, torch.ones(20, dtype=torch.bool))
    share = float(person.float().mean())
    assert float(overlap(known).mean()) > 0.6
    # A chance mask has the person's share of the picture; the picture alone tells more than that.
    assert float((unknown * person).sum() / person.sum()) > 2 * float((unknown * ~person).sum() / (~person).sum())
    assert float(overlap(unknown).mean()) > 1.5 * share
    assert torch.equal(salient(frames, shown.moving)[shown.moving], unknown[shown.moving])


def test_unpaired_poses_have_the_known_lengths_and_stand_upright(data: PgpData) -> None:
    lengths = pg.bone_vectors(data.unpaired, pg.BODY_17).norm(dim=-1)
    torch.testing.assert_close(lengths[0], torch.tensor(pg.BODY_17.lengths), rtol=1e-3, atol=1e-4)
    truth = pg.canonicalize(RenderedBenchmark(CONFIG.data, "train").unpaired_poses(64), pg.BODY_17).canonical
    assert float(pg.p_mpjpe(data.unpaired, truth)) < 0.06  # other people's lengths, the same articulation
    encoder = PgpNetworks(SMALL).encoder
    heads, feet = [], []
    for step in range(6):
        posed = data.batch(step, 0, 1).posed
        assert posed is not None
        pose = encoder.posed(posed.canonical, posed.rotation, encoder.translation(posed.raw))
        assert float(pose.points.min()) > -0.5
        assert float(pose.points.max()) < 31.5
        heads.append(pose.points[:, pg.BODY_17.index("head"), 1])
        feet.append(pose.points[:, pg.BODY_17.index("left_foot"), 1])
    assert float((torch.cat(heads) < torch.cat(feet)).float().mean()) > 0.85


def test_unpaired_poses_are_seen_from_all_sides(data: PgpData) -> None:
    """Azimuths in all quadrants, elevations up to the limit, no roll, and a place of its own for each."""
    posed = data._posed(256, torch.Generator().manual_seed(0))
    chosen = (posed.canonical.unsqueeze(1) - data.unpaired).abs().amax((2, 3)).argmin(1)
    assert len(chosen.unique()) > 40
    camera = posed.rotation @ data.upright[chosen].mT
    right, _, away = camera.unbind(1)  # the camera's axes in the world, whose +Z is up
    quadrants = torch.stack((away[:, 0] > 0, away[:, 1] > 0), dim=-1).float()
    counts = torch.bincount((quadrants @ torch.tensor([2.0, 1.0])).long(), minlength=4)
    assert int(counts.min()) > 40
    assert float(right[:, 2].abs().max()) < 1e-5
    limit = math.radians(CONFIG.elevation)
    elevation = torch.asin(away[:, 2])
    assert 0.9 * limit < float(elevation.abs().max()) <= limit + 1e-5
    assert float(elevation.min()) < -0.5 * limit < 0.5 * limit < float(elevation.max())
    torch.testing.assert_close(posed.raw.std(0), torch.full((3,), CONFIG.spread), rtol=0.15, atol=0)
    level = copy(data)
    level.config = replace(CONFIG, elevation=0.0)
    posed = level._posed(64, torch.Generator().manual_seed(0))
    chosen = (posed.canonical.unsqueeze(1) - data.unpaired).abs().amax((2, 3)).argmin(1)
    assert float((posed.rotation @ data.upright[chosen].mT)[:, 2, 2].abs().max()) < 1e-5


def test_views_are_of_the_same_instants_and_their_shift_is_the_cameras() -> None:
    data = PgpData(replace(CONFIG, variant="multi-view"))
    batch = data.batch(LABELLED, 0, 1)
    assert batch.source is not None
    assert batch.shift is not None
    torch.testing.assert_close(batch.source.canonical, batch.target.canonical, rtol=0, atol=1e-4)
    about = [frames.joints - frames.joints[:, :1] for frames in (batch.target, batch.source)]
    torch.testing.assert_close(about[0] @ batch.shift.mT, about[1], rtol=0, atol=1e-4)
    assert float((about[0] - about[1]).abs().max()) > 0.05


def test_a_share_of_the_drawings_has_a_scene_behind_it() -> None:
    training = TrainingConfig(steps=10, batch_size=64, accelerator="cpu")
    config = replace(CONFIG, scenes=0.25, training=training, network=replace(SMALL, background=0.5))
    data = PgpData(config)
    batch = data.batch(0, 0, 1)
    assert batch.scene is not None
    bare = (batch.scene == 0.5).flatten(1).all(1)
    assert 0.55 < float(bare.float().mean()) < 0.95
    places = data.backdrops.flatten(1)
    assert all(bool((places == scene.flatten()).all(1).any()) for scene in batch.scene[~bare])
    # Two processes have the scenes of one.
    halves = [data.batch(0, rank, 2).scene for rank in (0, 1)]
    for rank, half in enumerate(halves):
        assert half is not None
        assert torch.equal(half, batch.scene[rank::2])
    assert PgpData(replace(config, scenes=0.0)).batch(0, 0, 1).scene is None
