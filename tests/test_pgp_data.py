"""000: its batches, what is done to frames and their labels, and what it takes for salient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import posegeom as pg

pytest.importorskip("torchvision")

from posegeom_models.data.augmentation import Changes, before
from posegeom_models.data.reels import Frames
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.pgp.batches import PgpData
from posegeom_models.pgp.configuration import PgpConfig, Turn, turn_of
from posegeom_models.pgp.networks import PgpNetworks
from posegeom_models.pgp.saliency import conspicuous, salient
from posegeom_models.training import TrainingConfig
from tests.test_pgp_networks import SMALL

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
        ({"variant": "multi-view", "data": replace(CONFIG.data, cameras=1)}, "data.cameras of at least 2"),
        ({"variant": "multi-view", "network": replace(SMALL, ablation="without_fk")}, "canonical poses"),
        ({"lambda_heat": 1.0, "network": replace(SMALL, backbone="resnet18")}, "needs the pyramid"),
        ({"pairs": 3, "training": TrainingConfig(batch_size=4, accumulate=2)}, "pairs must be a multiple"),
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


def test_an_iteration_may_have_fewer_samples_than_a_labelled_step() -> None:
    data = PgpData(replace(CONFIG, pairs=2))
    assert len(data.batch(0, 0, 1).target.number) == 2
    assert len(data.batch(LABELLED, 0, 1).target.number) == 4


def test_pairs_are_of_one_video_and_labels_of_a_tenth(data: PgpData) -> None:
    for step in range(4):
        batch = data.batch(step, 0, 1)
        assert batch.source is not None
        assert torch.equal(data.reel.clip[batch.source.number], data.reel.clip[batch.target.number])
        assert bool((batch.source.number != batch.target.number).all())
    assert PgpConfig().labelled_share == 0.1
    assert torch.equal(data.orders["labelled"].numbers, torch.arange(0, 24, 4))  # a quarter of 24 frames here


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


def test_a_turned_image_has_a_turned_pose(data: PgpData) -> None:
    """A bright spot at a joint is where the turned joint is, and so is what a pinhole in the middle sees."""
    camera = pg.PerspectiveCamera(64.0, None, (32, 32))
    joints = torch.randn(5, 17, 3).clamp(-2, 2) * 0.2 + torch.tensor([0.0, 0.0, 4.0])
    points, _ = pg.project(joints, camera)
    spot = pg.joint_heatmaps(points[:, :1], (32, 32), 1.0).expand(-1, 3, -1, -1)
    frames = data.reel.frames(torch.arange(5))._replace(image=spot, joints=joints, points=points)
    turned = still(5)._replace(angle=torch.linspace(-0.5, 0.5, 5)).moved(frames, pg.BODY_17)
    shares = turned.image[:, 0] / turned.image[:, 0].sum((1, 2), keepdim=True)
    places = torch.arange(32.0)
    found = torch.stack(((shares.sum(1) * places).sum(-1), (shares.sum(2) * places).sum(-1)), dim=-1)
    torch.testing.assert_close(found, turned.points[:, 0], rtol=0, atol=0.1)
    torch.testing.assert_close(pg.project(turned.joints, camera)[0], turned.points, rtol=0, atol=1e-3)
    assert torch.equal(turned.canonical, frames.canonical)


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
