"""002: shapes of its networks, its losses by hand, and which parameters each of them moves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import posegeom as pg
from posegeom.frames import rotate

pytest.importorskip("torchvision")

from posegeom_models.backbones import KeyPyramid
from posegeom_models.data.augmentation import Transformation
from posegeom_models.data.reels import Reel
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.ksp.batches import KspBatch, KspData, augmented, within_clips
from posegeom_models.ksp.configuration import KspConfig, place_of, turn_of
from posegeom_models.ksp.networks import KspNetworks, NetworkConfig, PoseEncoder
from posegeom_models.ksp.objective import l_paired, l_unpaired
from posegeom_models.ksp.recipe import KspRecipe
from posegeom_models.poses import Pose
from posegeom_models.runs import build_config, config_parser, find_config
from posegeom_models.supervision import heat_error, supervised, view_error
from posegeom_models.training import Descent, TrainingConfig, launch, train

SMALL = NetworkConfig(
    size=32,
    stride=4,
    backbone="resnet18",
    hidden=16,
    appearance_widths=(8, 8, 16),
    pose_channels=8,
    decoder_widths=(16, 8),
    translation=True,
)
PAIRED, UNPAIRED = 1, 2  # steps that take L_P and L_UNP
CONFIG = KspConfig(
    network=SMALL,
    data=RenderedConfig(size=32, clips=(6, 1, 1), identities=(2, 1, 1), frames=4, anywhere=0.0, cameras=1),
    training=TrainingConfig(steps=12, batch_size=4, checkpoint_every=4, accelerator="cpu"),
    variant="semi",
    prior_samples=4,
)


@pytest.fixture(scope="module")
def data() -> KspData:
    return KspData(CONFIG)


@pytest.fixture
def recipe() -> KspRecipe:
    return KspRecipe(CONFIG)


def test_the_papers_networks_have_the_papers_shapes() -> None:
    networks = KspNetworks(NetworkConfig()).eval()
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        pose = networks(image)
        maps, appearance = networks.spatial_maps(pose.points), networks.appearance_encoder(image)
        drawn = networks.decoder(maps, appearance, image)
    assert networks.pose_encoder.local_kinematics[-1].out_features == 40
    assert networks.pose_encoder.camera_parameters[-1].out_features == 6
    assert maps.shape == (1, 128, 14, 14)
    assert appearance.shape == (1, 512, 14, 14)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in networks.appearance_encoder.modules()) == 10
    assert drawn.shape == image.shape
    lengths = pg.bone_vectors(pose.joints, pg.BODY_17).norm(dim=-1)[0]
    torch.testing.assert_close(lengths, torch.tensor(pg.BODY_17.lengths), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ablation", ["without_fk", "without_maps"])
def test_ablations_replace_one_transformation_by_a_network(ablation: str) -> None:
    networks = KspNetworks(replace(SMALL, ablation=ablation))
    pose = networks(torch.rand(2, 3, 32, 32))
    assert pose.joints.shape == (2, 17, 3)
    assert networks.spatial_maps(pose.points).shape == (2, 8, 8, 8)
    lengths = pg.bone_vectors(pose.joints, pg.BODY_17).norm(dim=-1)
    fixed = torch.allclose(lengths[0], torch.tensor(pg.BODY_17.lengths), atol=1e-4)
    assert fixed == (ablation != "without_fk")


def test_at_rest_the_camera_sees_the_persons_face_in_the_middle() -> None:
    networks = KspNetworks(replace(SMALL, translation=False)).eval()
    last = networks.pose_encoder.camera_parameters[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    pose = networks(torch.rand(1, 3, 32, 32))
    middle = torch.tensor([15.5, 15.5])
    torch.testing.assert_close(pose.points[0, 0], middle, rtol=0, atol=1e-4)  # the pelvis
    hips = pg.BODY_17.index("left_hip"), pg.BODY_17.index("right_hip")
    assert pose.points[0, hips[0], 0] > pose.points[0, hips[1], 0]  # its left on the image's right


def test_supervised_terms_by_hand() -> None:
    turn = pg.camera_rotation(torch.tensor([0.4]), torch.tensor([0.1]), torch.tensor([0.0]))
    points = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    pose = Pose(torch.tensor([[[0.0, 0.0, 0.0], [0.3, 0.0, 0.4]]]), turn, torch.zeros(1, 3), points)
    terms = supervised(pose, 10, torch.full((1, 2, 3), 0.25), torch.tensor([[[2.0, 2.0], [3.0, 8.0]]]))
    assert float(terms["p_3D"]) == pytest.approx((3 * 0.25 + 0.05 + 0.25 + 0.15) / 6)
    assert float(terms["p_2D"]) == pytest.approx((1 + 0 + 0 + 4) / 4 / 10)
    assert set(supervised(pose, 10, None, points)) == {"p_2D"}
    seen = pose.joints @ turn.mT
    assert float(view_error(pose, seen)) == pytest.approx(0, abs=1e-7)
    assert float(view_error(pose, seen + 0.5)) == pytest.approx(0.5)


def test_heat_error_is_the_divergence_from_the_labels_gaussian() -> None:
    points = torch.tensor([[[13.5, 5.5]]])  # cell (3, 1) of 4-pixel cells
    target = pg.joint_heatmaps(torch.tensor([[[3.0, 1.0]]]), (8, 8), 0.7)
    pose = Pose(*[torch.zeros(1)] * 4, heat=torch.log(target + 1e-12))  # type: ignore[arg-type]
    assert float(heat_error(pose, points, 32)) == pytest.approx(0, abs=1e-3)
    flat = pose._replace(heat=torch.zeros(1, 1, 8, 8))
    share = (target / target.sum()).flatten()
    entropy = -(share * share.clamp(min=1e-12).log()).sum()
    assert float(heat_error(flat, points, 32)) == pytest.approx(math.log(64) - float(entropy), abs=1e-3)


def test_the_pyramids_key_points_follow_what_is_in_the_image() -> None:
    """Moving the image by the deepest stride moves every key point by as much, away from the edges."""
    torch.manual_seed(0)
    pyramid = KeyPyramid(4, 6).eval()
    image = torch.zeros(1, 3, 128, 128) + 0.45
    image[:, :, 40:60, 40:60] = torch.rand(1, 3, 20, 20)
    _, here = pyramid(image)
    _, there = pyramid(image.roll((16, 32), (2, 3)))
    inner = (slice(None), slice(None), slice(12, 24), slice(12, 20))
    moved = there.roll((-4, -8), (2, 3))
    # Zeros beyond the edges are seen by the deepest stage, if only a little.
    relief = float((here[inner] - here[inner].mean((2, 3), keepdim=True)).abs().max())
    torch.testing.assert_close(moved[inner], here[inner], rtol=0, atol=0.02 * relief)
    assert float((there[inner] - here[inner]).abs().max()) > 0.5 * relief
    features, _ = pyramid(image)
    assert features.shape == (1, pyramid.channels)


@pytest.mark.parametrize("flip", [True, False], ids=["flip", "turn"])
def test_points_found_in_a_transformed_image_come_back(flip: bool) -> None:
    points = torch.rand(3, 17, 2) * 30 + 16
    size = (61, 61)
    maps = pg.joint_heatmaps(points, size, 1.5)
    transformation = Transformation(torch.full((3,), flip), torch.tensor([0.3, -0.2, 0.1]) * (0 if flip else 1))
    seen = pg.soft_argmax(transformation.images(maps), 0.02)
    # The map at place j of a mirrored image shows joint j of the other side.
    order = list(pg.BODY_17.mirror) if flip else list(range(17))
    back = transformation.inverse_points(seen[:, order], 61, pg.BODY_17)
    torch.testing.assert_close(back, points, rtol=0, atol=0.5)
    assert (seen - points).norm(dim=-1).mean() > 1


def perfect(networks: KspNetworks, batch: KspBatch) -> None:
    """Make the decoder return its background, and every code a constant."""
    networks.decoder.forward = lambda maps, appearance, background: background  # type: ignore[method-assign]


def test_l_paired_is_the_image_error_plus_what_reencoding_changes(recipe: KspRecipe, data: KspData) -> None:
    networks, batch = recipe.networks.eval(), data.batch(PAIRED, 0, 1)
    perfect(networks, batch)
    image, target = batch.target.background, batch.target.image
    terms = l_paired(networks, target, target, image, 2.0, 3.0)
    again = networks.pose_encoder(image)
    assert float(terms["image"]) == pytest.approx(float((image - target).abs().mean()), rel=1e-5)
    moved = (networks.pose_encoder(target).points - again.points).abs().mean() / 32
    assert float(terms["p_2D"]) == pytest.approx(2 * float(moved), rel=1e-4)
    codes = networks.appearance_encoder(target) - networks.appearance_encoder(image)
    assert float(terms["f_a"]) == pytest.approx(3 * float(codes.abs().mean()), rel=1e-4)
    same = l_paired(networks, target, target, target, 1.0, 1.0)
    assert [float(value) for value in same.values()] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


def test_l_unpaired_has_no_image_term_and_vanishes_for_equal_codes(recipe: KspRecipe, data: KspData) -> None:
    networks, batch = recipe.networks.eval(), data.batch(0, 0, 1)
    still = Transformation(torch.zeros(4, dtype=torch.bool), torch.zeros(4))
    perfect(networks, batch)
    image = batch.target.image
    terms = l_unpaired(networks, image, image, image, still, 1.0)
    assert set(terms) == {"p_2D", "f_a"}
    assert float(terms["f_a"]) == pytest.approx(0, abs=1e-5)
    assert float(terms["p_2D"]) == pytest.approx(0, abs=1e-3)  # T resamples the image, even where it turns by nothing


def moved_by(recipe: KspRecipe, data: KspData, number: int) -> set[str]:
    """The networks whose parameters a step moves."""
    before = {name: value.clone() for name, value in recipe.networks.named_parameters()}
    descent = Descent(launch(CONFIG.training), recipe.optimizers, data, CONFIG.training, number)
    recipe.networks.train()
    recipe.step(descent, data.batch(number, 0, 1), number)
    assert all(math.isfinite(value) for value in descent.finite_values().values())
    return {
        name.split(".")[0] for name, value in recipe.networks.named_parameters() if not torch.equal(value, before[name])
    }


def test_each_loss_moves_its_own_networks(recipe: KspRecipe, data: KspData) -> None:
    assert [turn_of(CONFIG, number) for number in range(9)] == [
        *("prior", "paired", "unpaired") * 2,
        *("prior", "paired", "labelled"),
    ]
    assert moved_by(recipe, data, 0) == {"pose_encoder"}
    assert moved_by(recipe, data, 1) == {"pose_encoder", "appearance_encoder", "spatial_maps", "decoder"}
    statistics = {name: value.clone() for name, value in recipe.networks.decoder.named_buffers()}
    assert moved_by(recipe, data, 2) == {"pose_encoder", "appearance_encoder"}
    assert all(torch.equal(value, statistics[name]) for name, value in recipe.networks.decoder.named_buffers())
    assert moved_by(recipe, data, 8) == {"pose_encoder"}


def test_variants_and_the_last_row_of_the_ablation_change_the_order() -> None:
    unsup = replace(CONFIG, variant="unsup")
    assert {turn_of(unsup, number) for number in range(6, 12)} == {"prior", "paired"}
    without = replace(CONFIG, with_unpaired=False)
    assert {turn_of(without, number) for number in range(6)} == {"prior", "paired"}
    often = replace(CONFIG, labelled_turns=2)
    assert [turn_of(often, number) for number in range(6, 10)] == ["prior", "paired", "labelled", "labelled"]


@pytest.mark.parametrize("loss", ["paired", "unpaired"])
@pytest.mark.parametrize("term", ["p_2D", "f_a"])
def test_targets_receive_no_gradient(recipe: KspRecipe, data: KspData, loss: str, term: str) -> None:
    """With the drawn image cut off, the consistency terms may only move the re-encoding side."""
    networks, batch = recipe.networks.eval(), data.batch(UNPAIRED, 0, 1)
    networks.decoder.forward = lambda maps, appearance, background: background.detach()  # type: ignore[method-assign]
    seen: list[Tensor] = []
    encoder = networks.pose_encoder if term == "p_2D" else networks.appearance_encoder
    encode = encoder.forward

    def watch(images: Tensor) -> Pose | Tensor:
        code = encode(images)
        watched = code.points if isinstance(code, Pose) else code
        watched.retain_grad()
        seen.append(watched)
        return code

    encoder.forward = watch  # type: ignore[assignment, method-assign]
    assert batch.source is not None
    assert batch.backdrop is not None
    assert batch.transformation is not None
    images = batch.source.image, batch.target.image, batch.backdrop
    if loss == "paired":
        l_paired(networks, *images, 1.0, 1.0)[term].backward()
    else:
        l_unpaired(networks, *images, batch.transformation, 1.0)[term].backward()
    assert len(seen) == 2
    assert seen[0].grad is None
    assert seen[1].grad is not None


def test_the_camera_can_come_as_close_as_the_benchmarks_crops_need() -> None:
    """Angles and translation alone, fitted to true poses: what is left is what the networks can at best reach."""
    reel = Reel.render(
        RenderedBenchmark(RenderedConfig(size=64, clips=(8, 1, 1), frames=2, samples=1, anywhere=0), "train")
    )
    tiny = build_config("ksp", config_parser("ksp").parse_string(find_config("ksp", "tiny").read_text())).network
    encoder = PoseEncoder(tiny, pg.BODY_17)
    raw, angles = torch.zeros(16, 3, requires_grad=True), torch.zeros(16, 3, requires_grad=True)
    rotation = pg.canonicalize(reel.joints, pg.BODY_17).rotation
    optimizer = torch.optim.Adam([raw, angles], 0.05)
    for _ in range(150):
        turned = rotate(rotation.unsqueeze(1), reel.canonical)
        turned = rotate(pg.camera_rotation(*angles.unbind(-1)).unsqueeze(1), turned)
        shift = pg.bounded_translation(raw, encoder.camera, encoder.reach)
        points, _ = pg.project(turned + shift.unsqueeze(1), encoder.camera)
        loss = (points - reel.points).norm(dim=-1).mean() / 64
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01


def test_geometry_is_computed_in_float32_under_autocast() -> None:
    encoder = PoseEncoder(replace(SMALL, backbone="pyramid", width=4), pg.BODY_17).eval()
    features = torch.randn(3, encoder.trunk.channels), torch.randn(3, 34, 8, 8)
    encoder.trunk.forward = lambda images: features  # type: ignore[assignment, method-assign]
    exact = encoder(torch.rand(3, 3, 32, 32))
    for branch in (encoder.local_kinematics, encoder.camera_parameters):
        known = branch(features[0])
        branch.forward = lambda _, known=known: known  # type: ignore[method-assign, misc]
    turn = Transformation(torch.tensor([False, True, False]), torch.tensor([0.3, 0.0, -0.2]))
    image = torch.rand(3, 3, 32, 32)
    moved = turn.images(image)
    with torch.autocast("cpu", torch.bfloat16):
        halved = encoder(torch.rand(3, 3, 32, 32))
        torch.testing.assert_close(turn.images(image), moved)
    for name in ("joints", "rotation", "points", "in_camera"):
        torch.testing.assert_close(getattr(halved, name), getattr(exact, name))


def test_labels_are_transformed_with_the_images(data: KspData) -> None:
    """Joints of augmented samples lie on the person: the drawn people cover their own joints."""
    random = np.random.default_rng(5)
    numbers = torch.arange(4).repeat(8)
    samples, people = data.samples, data.prior_frames(numbers, random)
    moved = augmented(people, CONFIG.jitter, CONFIG.turn, data.skeleton, random)
    # The same random numbers once more, for people of pure red before black: what is red shows the person.
    red = torch.zeros(32, 3, 32, 32)
    red[:, :1] = samples.mask[numbers]
    random = np.random.default_rng(5)
    random.integers(len(data.backdrops), size=32)  # what `prior_frames` drew
    shown = augmented(people._replace(image=red), 0.0, CONFIG.turn, data.skeleton, random).image[:, 0] > 0.2
    points = moved.points.round().long().clamp(0, 31)
    rows = torch.arange(32)[:, None].expand(-1, 17)
    assert shown[rows, points[..., 1], points[..., 0]].float().mean() > 0.8
    lengths = pg.bone_vectors(moved.canonical, pg.BODY_17).norm(dim=-1)
    torch.testing.assert_close(lengths[0::4].std(0), torch.zeros(16), rtol=0, atol=1e-4)  # one sample, eight copies


def test_augmented_joints_in_the_camera_project_to_the_augmented_points(data: KspData) -> None:
    """Turned and mirrored joints, seen by a pinhole in the middle of the crop, are where the points are."""
    camera = pg.PerspectiveCamera(64.0, None, (32, 32))
    joints = torch.randn(8, 17, 3) * 0.3 + torch.tensor([0.0, 0.0, 4.0])
    points, _ = pg.project(joints, camera)
    frames = data.reel.frames(torch.arange(8))._replace(joints=joints, points=points)
    frames = frames._replace(canonical=pg.canonicalize(joints, pg.BODY_17).canonical)
    moved = augmented(frames, CONFIG.jitter, CONFIG.turn, data.skeleton, np.random.default_rng(0))
    seen, _ = pg.project(moved.joints, camera)
    torch.testing.assert_close(seen, moved.points, rtol=0, atol=1e-3)
    assert (moved.points - points).abs().max() > 1
    # Three accounts of one pose: sides are exchanged in all of them or in none.
    again = pg.canonicalize(moved.joints, pg.BODY_17).canonical
    torch.testing.assert_close(again, moved.canonical, rtol=0, atol=1e-3)
    # A mirrored person's left wrist is where the right one was: as far from the pelvis, along the same height.
    wrists = pg.BODY_17.index("left_wrist"), pg.BODY_17.index("right_wrist")
    height = torch.stack([frames.canonical[:, wrist, 2] for wrist in wrists], dim=-1)
    after = torch.stack([moved.canonical[:, wrist, 2] for wrist in wrists], dim=-1)
    exchanged = (after - height.flip(-1)).abs().max(-1).values < 1e-4
    kept = (after - height).abs().max(-1).values < 1e-4
    assert bool((exchanged | kept).all())
    assert 0 < int(exchanged.sum()) < 8


def test_batches_are_functions_of_the_step_and_shares_make_the_whole(data: KspData) -> None:
    clips = data.reel.clip
    for step, turn in ((0, "prior"), (1, "paired"), (2, "unpaired"), (8, "labelled")):
        assert turn_of(CONFIG, step) == turn
        whole, again = data.batch(step, 0, 1), data.batch(step, 0, 1)
        assert torch.equal(whole.target.image, again.target.image)
        for rank in range(2):
            share = data.batch(step, rank, 2)
            assert torch.equal(share.target.image, whole.target.image[rank::2])
            if whole.source is not None and share.source is not None:
                assert torch.equal(share.source.number, whole.source.number[rank::2])
                assert torch.equal(clips[whole.source.number], clips[whole.target.number])
        parts = [data.part(whole, number, 2) for number in range(2)]
        assert torch.equal(torch.cat([part.target.image for part in parts]), whole.target.image)
    assert not bool(data.reel.moving[data.batch(1, 0, 1).target.number].any())
    assert bool(data.reel.moving[data.batch(2, 0, 1).target.number].all())
    numbers = torch.cat([data.batch(step, 0, 1).target.number for step in (0, 3)])
    assert sorted(numbers.tolist()) == sorted([*range(4)] * 2)  # four samples, dealt evenly over the steps of L_prior
    assert "clip" in data.describe(1)
    assert "synthetic" in data.describe(0)


def test_every_loss_goes_through_its_samples_without_gaps() -> None:
    config = replace(CONFIG, prior_turns=3, labelled_turns=2, training=replace(CONFIG.training, steps=40))
    turns = [turn_of(config, step) for step in range(40)]
    assert turns[:5] == ["prior", "prior", "prior", "paired", "unpaired"]
    assert turns[20:26] == ["prior", "prior", "prior", "paired", "labelled", "labelled"]
    for turn in set(turns):
        places = [place_of(config, step)[1] for step in range(40) if turns[step] == turn]
        assert places == list(range(len(places)))


def test_what_a_configuration_cannot_mean_is_said_by_the_name_of_the_setting() -> None:
    one_kind = replace(CONFIG, data=replace(CONFIG.data, moving=1.0))
    with pytest.raises(ValueError, match="L_P has no frames: no clip has a background that stands still"):
        KspData(one_kind)
    with pytest.raises(ValueError, match=r"labelled_share 0\.01 of 24 frames leaves no labelled frame"):
        KspData(replace(CONFIG, labelled_share=0.01))
    KspData(replace(CONFIG, labelled_share=0.01, variant="unsup"))
    for name in ("lambda_1", "lambda_2", "lambda_view", "lambda_heat", "turn", "jitter", "pair_gap", "pair_clips"):
        with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
            replace(CONFIG, **{name: -1})
    for rate in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="learning_rate must be positive"):
            replace(CONFIG, learning_rate=rate)
    with pytest.raises(ValueError, match="unpaired_domain says what D_unp is, and with_unpaired: false leaves it out"):
        replace(CONFIG, with_unpaired=False, unpaired_domain="B")
    with pytest.raises(ValueError, match=r"appearance_widths must be multiples of 8, got \(12, 12\)"):
        replace(SMALL, appearance_widths=(12, 12))
    with pytest.raises(ValueError, match=r"weights are of a ResNet, and the pyramid is none: leave out 'a\.pth'"):
        replace(SMALL, backbone="pyramid", weights="a.pth")
    with pytest.raises(ValueError, match="pose_channels must be at least 1, got -1"):
        replace(SMALL, pose_channels=-1)


def test_pairs_can_be_kept_to_a_few_clips(data: KspData) -> None:
    assert within_clips(torch.tensor([2, 2, 5, 7, 7, 9]), 2).tolist() == [True] * 3 + [False] * 3
    few = KspData(replace(CONFIG, pair_clips=1))
    for turn, moving in (("paired", False), ("unpaired", True)):
        numbers = few.orders[turn].deal(0, 8)
        assert len(set(data.reel.clip[numbers].tolist())) == 1
        assert set(data.reel.moving[numbers].tolist()) == {moving}


def test_pictures_show_pairs_and_the_maps_between_pose_and_image(recipe: KspRecipe, data: KspData) -> None:
    with torch.no_grad():
        pictures = recipe.pictures(data.batch(PAIRED, 0, 1))
    assert set(pictures) == {"source, target, reconstruction, pose", "T_m"}
    panel = pictures["T_m"]
    # 17 joints and 16 limbs of 64 by 64 pixels, each with its name below.
    assert panel.shape == (3, 6 * (64 + 18 + 4) + 4, 6 * 68 + 4)
    assert 0 <= float(panel.min()) < float(panel.max()) <= 1
    points = recipe.networks.pose_encoder(data.batch(PAIRED, 0, 1).target.image).points
    drawn = recipe.networks.spatial_maps.draw(points)
    torch.testing.assert_close(drawn[:, 0], pg.joint_heatmaps((points[:, :1] + 0.5) / 4 - 0.5, (8, 8), 0.7)[:, 0])


def test_d_unp_can_be_of_another_domain() -> None:
    adapted = KspData(replace(CONFIG, unpaired_domain="B", variant="unsup"))
    paired, unpaired = adapted.batch(PAIRED, 0, 1), adapted.batch(UNPAIRED, 0, 1)
    people = adapted.reel.identity[paired.target.number], adapted.unpaired_reel.identity[unpaired.target.number]
    assert not set(people[0].tolist()) & set(people[1].tolist())
    assert unpaired.target.image.shape == paired.target.image.shape


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, data: KspData) -> None:
    def run(folder: Path, steps: int) -> KspRecipe:
        config = replace(CONFIG, training=replace(CONFIG.training, steps=12))
        recipe = KspRecipe(config)
        training = replace(config.training, steps=steps)
        train(recipe, data, training, folder, launch(training), quiet=True)
        return recipe

    whole = run(tmp_path / "whole", 12).networks.state_dict()
    run(tmp_path / "parts", 8)
    resumed = run(tmp_path / "parts", 12).networks.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
