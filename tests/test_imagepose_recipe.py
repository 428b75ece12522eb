"""001 in training: what its batches hold, which networks each loss moves, and its test-time path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import posegeom as pg

pytest.importorskip("torchvision")
pytest.importorskip("zuko")

from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.imagepose.lifter import LifterConfig
from posegeom_models.imagepose.networks import ImageConfig
from posegeom_models.imagepose.recipe import ImageposeConfig, ImageposeData, ImageposeNetworks, ImageposeRecipe, predict
from posegeom_models.training import Descent, TrainingConfig, launch, train

CONFIG = ImageposeConfig(
    image=ImageConfig(size=32, width=4, patch_width=4, scales=1),
    lifter=LifterConfig(width=16, components=6, blocks=2, flow_width=16),
    data=RenderedConfig(size=32, clips=(12, 1, 1), identities=(2, 1, 1), frames=4, anywhere=0.0, cameras=1),
    training=TrainingConfig(steps=6, batch_size=4, checkpoint_every=2, accelerator="cpu"),
    prior_steps=2,
    lambda_image=1.0,
)


@pytest.fixture(scope="module")
def data() -> ImageposeData:
    return ImageposeData(CONFIG)


def _moved(recipe: ImageposeRecipe, data: ImageposeData, number: int) -> tuple[set[str], dict[str, float]]:
    """The networks that a step moves, and the step's terms."""
    networks = recipe.networks
    parts = {
        "phi": networks.phi,
        "omega": networks.omega,
        "lifter": networks.lifting.lifter,
        "prior": networks.lifting.prior,
        "discriminator": networks.discriminator,
        "redrawing": networks.redrawing or nn.Module(),
    }
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    networks.lifting.adopt(data.statistics)
    descent = Descent(launch(CONFIG.training), recipe.optimizers, data, CONFIG.training, number)
    recipe.step(descent, data.batch(number, 0, 1), number)
    moved = {
        name
        for name, part in parts.items()
        if any(not torch.equal(a, b) for a, b in zip(before[name], part.parameters(), strict=True))
    }
    return moved, descent.finite_values()


def test_images_and_prior_are_of_different_recordings(data: ImageposeData) -> None:
    benchmark = RenderedBenchmark(CONFIG.data, "train", pg.H36M_17)

    def recordings(numbers: torch.Tensor) -> set[str]:
        return {benchmark.take(clip).motion.split("#")[0] for clip in data.reel.clip[numbers].tolist()}

    images, prior = recordings(data.images.numbers), recordings(data.prior.numbers)
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


def test_masked_images_show_the_person_alone(data: ImageposeData) -> None:
    numbers = data.images.deal(3 * 4, 4)
    frames = data.reel.frames(numbers)
    image = data.batch(3, 0, 1).image
    assert image is not None
    person = (frames.labels > 0).unsqueeze(1).expand_as(image)
    assert torch.equal(image[person], frames.image[person])
    assert (image[~person] == 0).all()
    assert 0.02 < float(person.float().mean()) < 0.6


def test_each_stage_moves_its_own_networks(data: ImageposeData) -> None:
    moved, terms = _moved(ImageposeRecipe(CONFIG), data, 0)
    assert moved == {"prior"}
    assert set(terms) == {"prior/NF"}
    moved, terms = _moved(ImageposeRecipe(CONFIG), data, 3)
    assert moved == {"phi", "omega", "lifter", "discriminator", "redrawing"}
    seven = {f"pose/{term}" for term in ("D", "Omega", "2d", "3d", "def", "NF", "bl")}
    assert set(terms) == seven | {"pose/image", "discriminator/D"}


@pytest.mark.parametrize(
    ("row", "gone"),
    [
        ("images", {"2d", "3d", "def", "NF", "bl"}),
        ("base", {"NF", "bl"}),
        ("without_bl", {"bl"}),
    ],
)
def test_rows_of_table_3(data: ImageposeData, row: str, gone: set[str]) -> None:
    recipe = ImageposeRecipe(replace(CONFIG, ablation=row, lambda_image=0.0))
    moved, terms = _moved(recipe, data, 3)
    left = {"D", "Omega", "2d", "3d", "def", "NF", "bl"} - gone
    assert set(terms) == {f"pose/{term}" for term in left} | {"discriminator/D"}
    assert ("lifter" in moved) == (row != "images")


def test_the_discriminators_step_leaves_the_running_statistics_of_phi_alone(data: ImageposeData) -> None:
    recipe = ImageposeRecipe(CONFIG)
    batch = data.batch(3, 0, 1)
    recipe.networks.train()
    before = {name: value.clone() for name, value in recipe.networks.phi.named_buffers() if "running" in name}
    recipe._discriminator(batch)
    for name, value in recipe.networks.phi.named_buffers():
        if "running" in name:
            assert torch.equal(value, before[name]), name


def test_a_run_that_was_cut_off_ends_with_the_same_weights(data: ImageposeData, tmp_path: Path) -> None:
    class Cut(ImageposeRecipe):
        def step(self, train, batch, number):  # type: ignore[no-untyped-def]
            if number == 5:
                raise RuntimeError("power cut")
            super().step(train, batch, number)

    fabric, whole, resumed = launch(CONFIG.training), ImageposeRecipe(CONFIG), ImageposeRecipe(CONFIG)
    train(whole, data, CONFIG.training, tmp_path / "whole", fabric, quiet=True)
    with pytest.raises(RuntimeError, match="power cut"):
        train(Cut(CONFIG), data, CONFIG.training, tmp_path / "cut", fabric, quiet=True)
    train(resumed, data, CONFIG.training, tmp_path / "cut", fabric, quiet=True)
    for name, value in whole.networks.state_dict().items():
        assert torch.equal(value, resumed.networks.state_dict()[name]), name


def test_predictions_are_in_pixels_and_metres() -> None:
    networks = ImageposeRecipe(CONFIG).networks.eval()
    with torch.no_grad():
        said = predict(networks, torch.rand(2, 3, 32, 32))
    assert said.joints is not None
    assert said.points is not None
    assert said.points.shape == (2, 17, 2)
    assert (said.joints[:, 0] == 0).all()
    lengths = pg.bone_vectors(said.joints, pg.H36M_17).norm(dim=-1).mean(-1)
    mean = sum(pg.H36M_17.lengths or ()) / 16
    torch.testing.assert_close(lengths, torch.full((2,), mean), rtol=1e-4, atol=0)


def test_pictures_are_drawn_in_both_stages(data: ImageposeData) -> None:
    recipe = ImageposeRecipe(CONFIG)
    recipe.networks.eval()
    with torch.no_grad():
        (early,) = recipe.pictures(data.batch(0, 0, 1)).values()
        (later,) = recipe.pictures(data.batch(3, 0, 1)).values()
    assert early.shape == (3, 32, 4 * 32)
    assert later.shape == (3, 4 * 32, 4 * 32)


def test_networks_of_a_hand_have_its_joints() -> None:
    networks = ImageposeNetworks(CONFIG, pg.HAND_21).eval()
    with torch.no_grad():
        pose = networks(torch.rand(2, 3, 32, 32))
    assert pose.points.shape == (2, 21, 2)
    assert pose.joints.shape == (2, 21, 3)
    assert networks.kappa(pose.points).shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda: replace(CONFIG, form="wgan"), "form"),
        (lambda: replace(CONFIG, ablation="bones"), "ablation"),
        (lambda: replace(CONFIG, prior_steps=6), "prior_steps"),
        (lambda: replace(CONFIG, prior_share=1.0), "prior_share"),
        (lambda: replace(CONFIG, bones_from=-0.1), "bones_from"),
        (lambda: replace(CONFIG, image=ImageConfig(size=64, scales=1)), "image.size"),
        (lambda: ImageConfig(size=36), "size"),
        (lambda: ImageConfig(size=64, scales=3), "scales"),
        (lambda: ImageConfig(power=3), "power"),
    ],
)
def test_a_wrong_value_is_refused_by_name(change: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        change()
