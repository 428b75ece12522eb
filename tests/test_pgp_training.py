"""000 in training: Algorithm 1, who moves in which loss, its variants and ablations, and what it leaves behind."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from copy import copy
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("torchvision")

from posegeom_models.data.reels import Film, Reel
from posegeom_models.data.rendered import RenderedBenchmark
from posegeom_models.drawing import part_colors
from posegeom_models.pgp.batches import PgpBatch, PgpData
from posegeom_models.pgp.configuration import PgpConfig
from posegeom_models.pgp.recipe import MODEL, PgpRecipe, predict
from posegeom_models.pgp.synthesis import LABEL, PEOPLE, POSES, VIEWS, _cast, panels
from posegeom_models.poses import Pose
from posegeom_models.training import Descent, Objective, launch, train
from tests.test_pgp_data import CONFIG, LABELLED
from tests.test_pgp_networks import SMALL

POSE = {"encoder.trunk", "encoder.local_vectors", "encoder.camera_parameters"}
APPEARANCE = {"encoder.stem", "encoder.appearance_maps"}
IMAGE = {"decoder.stages", "decoder.image_head"}
PARTS = {"decoder.stages", "decoder.parts_head"}


@pytest.fixture(scope="module")
def data() -> PgpData:
    return PgpData(CONFIG)


class Watch(Descent[PgpBatch]):
    """A descent that notes what every loss changes: parameters, and batch statistics."""

    def minimize(self, name: str, objective: Objective[PgpBatch], batch: PgpBatch, case: Hashable = None) -> None:
        recipe = self.recipe
        before = {key: value.clone() for key, value in recipe.networks.state_dict().items()}
        super().minimize(name, objective, batch, case)
        after = recipe.networks.state_dict()
        changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
        parameters = {key for key, _ in recipe.networks.named_parameters()}
        self.moved[name] = _modules(changed & parameters), _modules(changed - parameters)

    def __init__(self, recipe: PgpRecipe, data: PgpData, number: int) -> None:
        super().__init__(launch(CONFIG.training), recipe.optimizers, data, CONFIG.training, number)
        self.recipe = recipe
        self.moved: dict[str, tuple[set[str], set[str]]] = {}


def _modules(keys: set[str]) -> set[str]:
    return {".".join(key.split(".")[:2]) for key in keys}


def watched(config: PgpConfig, data: PgpData, number: int) -> Watch:
    recipe = PgpRecipe(config)
    recipe.networks.train()
    watch = Watch(recipe, data, number)
    recipe.step(watch, data.batch(number, 0, 1), number)
    assert all(math.isfinite(value) for value in watch.finite_values().values())
    return watch


def test_odd_iterations_move_the_encoder_alone_and_then_the_consistency_losses_both(data: PgpData) -> None:
    moved = watched(CONFIG, data, 1).moved
    assert list(moved) == ["p3d_encoder", "a_encoder", "image_u", "image_c", "seg"]
    # p_3D is canonical: the camera has no part in it, and the appearance has one through the decoder.
    assert moved["p3d_encoder"][0] == (POSE | APPEARANCE) - {"encoder.camera_parameters"}
    with_points = watched(replace(CONFIG, lambda_points=1.0), data, 1).moved
    assert with_points["p3d_encoder"][0] == POSE | APPEARANCE
    assert moved["a_encoder"][0] == APPEARANCE
    for name in ("p3d_encoder", "a_encoder"):
        assert not any(key.startswith("decoder") for part in moved[name] for key in part)


def test_even_iterations_move_the_decoder_alone(data: PgpData) -> None:
    moved = watched(CONFIG, data, 2).moved
    assert list(moved) == ["p3d_decoder", "a_decoder", "image_u", "image_c", "seg"]
    for name in ("p3d_decoder", "a_decoder"):
        assert moved[name][0] == IMAGE
        assert moved[name][1] == IMAGE  # its own batch statistics
        assert not any(key.startswith("encoder") for part in moved[name] for key in part)


def test_each_consistency_loss_moves_what_it_depends_on(data: PgpData) -> None:
    moved = watched(CONFIG, data, 1).moved
    assert moved["image_u"][0] == POSE | APPEARANCE | IMAGE | PARTS
    assert moved["image_c"][0] == APPEARANCE | IMAGE
    assert moved["seg"][0] == APPEARANCE | PARTS


def test_a_resnet_is_shared_by_pose_and_appearance(data: PgpData) -> None:
    """The paper's encoder has one trunk that both branches move; the energies still leave the other side alone."""
    config = replace(CONFIG, network=replace(SMALL, backbone="resnet18"))
    moved = watched(config, data, 1).moved
    trunk, branches = "encoder.trunk", {"encoder.pose_maps", "encoder.local_vectors", "encoder.camera_parameters"}
    assert moved["image_u"][0] == {trunk, "encoder.appearance_maps"} | branches | IMAGE | PARTS
    assert moved["image_c"][0] == {trunk, "encoder.appearance_maps"} | IMAGE
    assert moved["a_encoder"][0] == {trunk, "encoder.appearance_maps"}
    assert watched(config, data, 2).moved["p3d_decoder"] == (IMAGE, IMAGE)


def test_frozen_sides_are_as_before_and_learn_again(data: PgpData) -> None:
    """Frozen parameters have no gradient and frozen norms use their running statistics; afterwards both are back."""
    recipe = PgpRecipe(CONFIG)
    recipe.networks.train()
    seen: list[tuple[bool, bool, bool]] = []
    watch = Watch(recipe, data, 2)
    minimize = watch.minimize

    def note(name: str, objective: Objective[PgpBatch], batch: PgpBatch, case: Hashable = None) -> None:
        encoder = recipe.networks.encoder
        frozen = not any(parameter.requires_grad for parameter in encoder.parameters())
        seen.append((frozen, encoder.trunk.training, recipe.networks.decoder.training))
        minimize(name, objective, batch, case)

    object.__setattr__(watch, "minimize", note)
    recipe.step(watch, data.batch(2, 0, 1), 2)
    assert seen == [(True, False, True)] * 2 + [(False, True, True)] * 3


def test_reencoded_images_are_no_part_of_the_running_statistics(data: PgpData) -> None:
    """The running statistics of the encoder's pose side are of photographs, and the energies show it drawings alone."""
    recipe = PgpRecipe(CONFIG)
    recipe.networks.train()
    encoder = recipe.networks.encoder
    sides = (encoder.trunk, encoder.local_vectors, encoder.camera_parameters)
    before = [value.clone() for side in sides for value in side.buffers() if value.is_floating_point()]
    watch = Watch(recipe, data, 1)
    batch = data.batch(1, 0, 1)
    batch = batch._replace(pose=recipe._p_z(batch))
    for name, objective in (("p3d_encoder", recipe._p3d), ("a_encoder", recipe._a), ("seg", recipe._seg)):
        watch.minimize(name, objective, batch)
    after = [value for side in sides for value in side.buffers() if value.is_floating_point()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    watch.minimize("image_u", partial(recipe._image_u, 1.0), batch)
    assert not all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_labels_and_views_move_the_poses_side_of_the_encoder(data: PgpData) -> None:
    assert watched(CONFIG, data, LABELLED).moved["labelled"][0] == POSE
    several = replace(CONFIG, variant="multi-view")
    moved = watched(several, PgpData(several), LABELLED).moved
    assert list(moved) == ["views"]
    assert moved["views"][0] == POSE


def test_branches_that_lift_key_points_learn_from_what_tells_depth(data: PgpData) -> None:
    """Poses without images and 3D labels move them; 2D labels and L_I^u move what finds the key points."""
    branches = {"encoder.local_vectors", "encoder.camera_parameters"}
    moves: dict[str, set[str]] = {}
    for variant in ("weakly", "semi"):
        config = replace(CONFIG, network=replace(SMALL, lifted=True), lifted_poses=16, variant=variant)
        lifting = copy(data)
        lifting.config = config
        for step in (1, LABELLED):
            moved = watched(config, lifting, step).moved
            assert list(moved)[-1] == "lifted"
            assert moved["lifted"][0] == branches
            moves |= {f"{variant}/{name}": parameters for name, (parameters, _) in moved.items()}
    assert moves["weakly/labelled"] == {"encoder.trunk"}
    assert moves["semi/labelled"] == {"encoder.trunk"} | branches
    for variant in ("weakly", "semi"):
        assert moves[f"{variant}/image_u"] & POSE == {"encoder.trunk"}
        assert moves[f"{variant}/p3d_encoder"] >= {"encoder.trunk", "encoder.local_vectors"}


def test_variants_have_the_terms_of_their_labels(data: PgpData) -> None:
    rich = replace(CONFIG, lambda_view=1.0, lambda_heat=1.0)
    assert set(watched(rich, data, LABELLED).values) == {f"labelled/{t}" for t in ("p_3D", "p_2D", "view", "heat")}
    weakly = replace(rich, variant="weakly")
    assert set(watched(weakly, data, LABELLED).values) == {"labelled/p_2D", "labelled/heat"}
    alone = replace(CONFIG, self_supervised=False)
    assert set(watched(alone, data, 0).values) == {"labelled/p_3D", "labelled/p_2D"}


def test_without_adaptation_there_are_no_energies(data: PgpData) -> None:
    moved = watched(replace(CONFIG, adaptation=False), data, 1).moved
    assert list(moved) == ["image_u", "image_c", "seg"]


def test_without_fk_bones_are_held_by_a_loss(data: PgpData) -> None:
    config = replace(CONFIG, network=replace(SMALL, ablation="without_fk"))
    assert "image_u/bones" in watched(config, data, 1).values
    assert "labelled/bones" in watched(config, data, LABELLED).values
    # Nothing else differs: the encoder sees p_t's image once, and moves its statistics once.
    passes = {}
    for ablation in ("none", "without_fk"):
        recipe = PgpRecipe(replace(CONFIG, network=replace(SMALL, ablation=ablation)))
        batch, trunk = data.batch(1, 0, 1), recipe.networks.train().encoder.trunk
        recipe._image_u(1.0, batch)
        passes[ablation] = {int(v) for name, v in trunk.named_buffers() if name.endswith("batches_tracked")}
    assert passes == {"none": {1}, "without_fk": {1}}


def test_without_unpaired_poses_the_predicted_ones_take_their_place(data: PgpData) -> None:
    batch = data.batch(1, 0, 1)
    recipe = PgpRecipe(replace(CONFIG, with_unpaired=False))
    recipe.networks.eval()
    torch.testing.assert_close(recipe._p_z(batch).points, recipe.networks.encoder.pose(batch.target.image).points)
    assert not recipe._p_z(batch).points.requires_grad
    given = PgpRecipe(CONFIG)._p_z(batch)
    assert batch.posed is not None
    torch.testing.assert_close(given.joints, batch.posed.canonical)
    assert watched(replace(CONFIG, with_unpaired=False), data, 1).moved["seg"][0] == APPEARANCE | PARTS


def test_an_iteration_has_one_pose_p_z_in_all_its_losses(data: PgpData) -> None:
    """Also where it is predicted: E moves in between."""
    recipe = PgpRecipe(replace(CONFIG, with_unpaired=False))
    recipe.networks.train()
    watch, batch = Watch(recipe, data, 1), data.batch(1, 0, 1)
    expected = recipe._p_z(batch)
    seen: list[Pose | None] = []
    minimize = watch.minimize

    def note(name: str, objective: Objective[PgpBatch], batch: PgpBatch, case: Hashable = None) -> None:
        seen.append(batch.pose)
        minimize(name, objective, batch, case)

    object.__setattr__(watch, "minimize", note)
    recipe.step(watch, batch, 1)
    assert len(seen) == 5
    for pose in seen:
        assert pose is not None
        assert torch.equal(pose.points, expected.points)


def test_saliency_weighs_less_in_later_iterations(data: PgpData) -> None:
    """The same step of the same networks, on this side of `beta_steps` and on the other."""
    values = {
        steps: watched(replace(CONFIG, beta=1.0, beta_later=0.25, beta_steps=steps), data, 1).values["image_u/image"]
        for steps in (1, 2)
    }
    assert float(values[1]) < 0.9 * float(values[2])


def test_without_saliency_a_brighter_mask_changes_nothing(data: PgpData) -> None:
    batch = data.batch(1, 0, 1)
    assert batch.salient is not None
    all_salient = batch._replace(salient=torch.ones_like(batch.salient))
    values = {}
    for beta in (0.0, 1.0):
        recipe = PgpRecipe(replace(CONFIG, beta=beta))
        recipe.networks.eval()
        with torch.no_grad():
            values[beta] = [float(recipe._image_u(beta, one)["image"]) for one in (batch, all_salient)]
    assert values[0.0][0] == values[0.0][1]
    assert values[1.0][0] < values[1.0][1]


def test_every_loss_has_an_optimizer_of_its_own() -> None:
    recipe = PgpRecipe(PgpConfig(network=SMALL, data=CONFIG.data))
    kinds = {type(optimizer) for optimizer in recipe.optimizers.values()}
    assert kinds == {torch.optim.Adagrad}
    assert len({id(optimizer) for optimizer in recipe.optimizers.values()}) == 11
    assert {group["lr"] for each in recipe.optimizers.values() for group in each.param_groups} == {1e-3}
    slow = PgpRecipe(replace(CONFIG, pose_rate=0.1, optimizer="adam"))
    assert [group["lr"] for group in slow.optimizers["image_u"].param_groups] == pytest.approx([1e-4, 1e-3, 1e-3, 1e-3])
    assert [group["lr"] for group in slow.optimizers["p3d_encoder"].param_groups] == [1e-3, 1e-3]
    assert [group["lr"] for group in slow.optimizers["labelled"].param_groups] == [1e-3]
    doubted = PgpRecipe(replace(CONFIG, parts_rate=0.1))
    rates = [group["lr"] for group in doubted.optimizers["image_u"].param_groups]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])
    slowed = doubted.optimizers["image_u"].param_groups[-1]["params"]
    assert {id(parameter) for parameter in slowed} == set(map(id, doubted.networks.decoder.parts_head.parameters()))
    varied = PgpRecipe(replace(CONFIG, invariance_rate=0.5))
    rates = {name: each.param_groups[-1]["lr"] for name, each in varied.optimizers.items()}
    assert {name for name, rate in rates.items() if rate == 5e-4} == {"image_c", "a_encoder", "a_decoder"}
    seen = PgpRecipe(replace(CONFIG, views_rate=0.5))
    rates = {name: each.param_groups[-1]["lr"] for name, each in seen.optimizers.items()}
    assert {name for name, rate in rates.items() if rate == 5e-4} == {"views"}


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, data: PgpData) -> None:
    def run(folder: Path, steps: int) -> Mapping[str, Tensor]:
        recipe: Any = PgpRecipe(CONFIG)
        training = replace(CONFIG.training, steps=steps)
        train(recipe, data, training, folder, launch(training), quiet=True)
        weights: Mapping[str, Tensor] = recipe.networks.state_dict()
        return weights

    whole = run(tmp_path / "whole", 10)
    run(tmp_path / "parts", 8)
    resumed = run(tmp_path / "parts", 10)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_replays_the_losses_that_it_would_compute(tmp_path: Path) -> None:
    """Odd and even iterations, steps on labels, and the second β."""
    values = []
    for graphs in (False, True):
        training = replace(CONFIG.training, steps=24, accelerator="cuda", graphs=graphs, log_every=1)
        config = replace(CONFIG, training=training, base_share=0.5, beta_steps=6)
        recipe: Any = PgpRecipe(config)
        train(recipe, PgpData(config), training, tmp_path / str(graphs), launch(training), quiet=True)
        lines = (tmp_path / str(graphs) / "metrics.jsonl").read_text().splitlines()
        values.append([json.loads(line) for line in lines])
    for plain, replayed in zip(*values, strict=True):
        for name in plain.keys() - {"samples_per_second", "waiting"}:
            assert replayed[name] == pytest.approx(plain[name], rel=0.05, abs=1e-4), (plain["step"], name)


def test_predictions_hold_pose_and_parts(data: PgpData) -> None:
    networks = PgpRecipe(CONFIG).networks.eval()
    image = data.reel.frames(torch.arange(3)).image
    with torch.no_grad():
        said = predict(networks, image)
    assert said.joints is not None
    assert said.joints.shape == (3, 17, 3)
    torch.testing.assert_close(said.joints[:, 0], torch.zeros(3, 3))
    assert said.points is not None
    assert torch.equal(said.points, networks(image).points)
    for labels in (said.labels, said.unaware):
        assert labels is not None
        assert labels.shape == (3, 32, 32)
        assert int(labels.max()) <= 12
    # Only one of the two knows what the decoder was told of the person.
    with torch.no_grad():
        networks.decoder.parts_head.output.bias.data[-1] = 100.0
        bare = predict(networks, image)
    assert bare.labels is not None
    assert bare.unaware is not None
    assert int(bare.labels.max()) == 0
    assert torch.equal(bare.unaware, said.unaware)


@pytest.mark.parametrize("people", [1, 2, 4])
def test_the_panels_show_different_people_as_far_as_there_are_any(data: PgpData, people: int) -> None:
    config = replace(data.config.data, clips=(20, 1, 1), identities=(people, 1, 1), frames=1)
    reel = Film.of(RenderedBenchmark(config, "train"))
    for seed in range(5):
        cast = _cast(reel, np.random.default_rng(seed))
        assert len(set(cast)) == len(cast) == POSES + PEOPLE
        shown = {int(reel.identity[reel.clip == clip][0]) for clip in cast[POSES:]}
        assert len(shown) == min(people, PEOPLE)


def test_the_panels_and_the_logs_pictures_have_their_rows(data: PgpData) -> None:
    several = replace(CONFIG.data, clips=(POSES + PEOPLE, 1, 1), frames=1, cameras=1)
    recipe = PgpRecipe(CONFIG)
    drawn = panels(recipe.networks.eval(), Reel.render(RenderedBenchmark(several, "train")), np.random.default_rng(0))
    cell = 32 + 4
    assert drawn["pose_transfer"].shape == ((1 + 2 * PEOPLE) * cell + 4, LABEL + (1 + POSES) * cell + 4, 3)
    assert drawn["view_synthesis"].shape == (3 * PEOPLE * cell + 4, LABEL + (1 + VIEWS) * cell + 4, 3)
    with pytest.raises(ValueError, match="needs frames of 8 clips, got 6"):
        panels(recipe.networks, data.reel, np.random.default_rng(0))
    with torch.no_grad():
        for step in (0, LABELLED):
            (picture,) = recipe.pictures(data.batch(step, 0, 1)).values()
            assert picture.shape == (3, 6 * 32, 4 * 32)
    assert len(part_colors(recipe.networks.puppet)) == 13


@pytest.mark.parametrize("name", ["paper", "small", "tiny", "weakly"])
def test_the_shipped_configurations_are_valid(name: str) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PgpConfig, None)
    path = Path(__file__).parents[1] / "src" / "posegeom_models" / "pgp" / f"{name}.yaml"
    built = parser.instantiate(parser.parse_path(str(path)))
    config = PgpConfig(**{field.name: built[field.name] for field in fields(PgpConfig)})
    assert MODEL.config is PgpConfig
    if name == "paper":
        assert config == PgpConfig(
            network=replace(config.network, weights="IMAGENET1K_V1"),
            data=replace(config.data, cameras=1),
            training=replace(config.training, checkpoint_every=2000, picture_every=2000),
        )
        assert config.training.steps == 1_600_000
        assert config.training.batch_size == 16
