"""002: shapes of its networks, its losses by hand, and which parameters each of them moves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import posegeom as pg

pytest.importorskip("torchvision")

from posegeom_models.data.rendered import RenderedConfig
from posegeom_models.ksp.networks import KspNetworks, NetworkConfig, Pose
from posegeom_models.ksp.objective import Transformation, l_paired, l_unpaired, supervised
from posegeom_models.ksp.recipe import KspBatch, KspConfig, KspData, KspRecipe
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
    networks = KspNetworks(replace(SMALL, translation=False))
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
    pose = Pose(torch.zeros(1, 2, 3), torch.eye(3)[None], torch.zeros(1, 3), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    terms = supervised(pose, torch.full((1, 2, 3), 0.25), torch.tensor([[[2.0, 2.0], [3.0, 8.0]]]), 10)
    assert float(terms["p_3D"]) == pytest.approx(0.25)
    assert float(terms["p_2D"]) == pytest.approx((1 + 0 + 0 + 4) / 4 / 10)
    assert set(supervised(pose, None, pose.points, 10)) == {"p_2D"}


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
    networks, batch = recipe.networks.eval(), data.batch(0, 0, 1)
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
    assert [recipe.turns(number) for number in range(9)] == [
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
    unsup = KspRecipe(replace(CONFIG, variant="unsup"))
    assert {unsup.turns(number) for number in range(6, 12)} == {"prior", "paired"}
    without = KspRecipe(replace(CONFIG, with_unpaired=False))
    assert {without.turns(number) for number in range(6)} == {"prior", "paired"}


def test_targets_receive_no_gradient(recipe: KspRecipe, data: KspData) -> None:
    """With the drawn image cut off, the consistency terms may only move the re-encoding side."""
    networks, batch = recipe.networks.eval(), data.batch(0, 0, 1)
    networks.decoder.forward = lambda maps, appearance, background: background.detach()  # type: ignore[method-assign]
    seen: list[Tensor] = []
    encode = networks.pose_encoder.forward

    def watch(images: Tensor) -> Pose:
        pose = encode(images)
        pose.points.retain_grad()
        seen.append(pose.points)
        return pose

    networks.pose_encoder.forward = watch  # type: ignore[method-assign]
    images = batch.source.image, batch.target.image, batch.target.background
    l_paired(networks, *images, 1.0, 1.0)["p_2D"].backward()
    assert seen[0].grad is None
    assert seen[1].grad is not None


def test_labels_are_transformed_with_the_images(data: KspData) -> None:
    """Joints of augmented samples lie on the person: the drawn people cover their own joints."""
    augmented = data._augmented(torch.arange(4).repeat(8), torch.arange(32).numpy(), 5)
    backdrop = augmented.background
    points = augmented.points.round().long().clamp(0, 31)
    changed = (augmented.image - backdrop).abs().sum(1) > 0.05
    rows = torch.arange(32)[:, None].expand(-1, 17)
    assert changed[rows, points[..., 1], points[..., 0]].float().mean() > 0.8
    lengths = pg.bone_vectors(augmented.canonical, pg.BODY_17).norm(dim=-1)
    torch.testing.assert_close(lengths[0::4].std(0), torch.zeros(16), rtol=0, atol=1e-4)  # one sample, eight copies


def test_batches_are_functions_of_the_step_and_shares_make_the_whole(data: KspData) -> None:
    whole, again = data.batch(3, 0, 1), data.batch(3, 0, 1)
    shares = [data.batch(3, rank, 2) for rank in range(2)]
    assert torch.equal(whole.target.image, again.target.image)
    assert torch.equal(whole.prior.image, again.prior.image)
    for rank, share in enumerate(shares):
        assert torch.equal(share.source.number, whole.source.number[rank::2])
        assert torch.equal(share.prior.image, whole.prior.image[rank::2])
    clips = data.reel.clip
    assert torch.equal(clips[whole.source.number], clips[whole.target.number])
    assert not bool(data.reel.moving[whole.target.number].any())
    assert bool(data.reel.moving[whole.unpaired_target.number].all())
    assert "clip" in data.describe(3)


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
