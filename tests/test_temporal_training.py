"""003 in training: its stages, who moves in which loss, what its baselines have, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("torchvision")

import posegeom as pg
from posegeom_models.temporal import objective
from posegeom_models.temporal import recipe as recipe_module
from posegeom_models.temporal.batches import TemporalBatch, TemporalData, Videos
from posegeom_models.temporal.configuration import Stage, TemporalConfig, stage_of
from posegeom_models.temporal.networks import Codes
from posegeom_models.temporal.recipe import Encoded, TemporalRecipe, predict
from posegeom_models.temporal.regressors import in_box
from posegeom_models.training import Descent, Objective, launch, train
from tests.test_reels import film
from tests.test_temporal_configuration import BASELINES, CONFIG, built
from tests.test_temporal_networks import SMALL

CODES, POSE = 0, 8  # steps of the first phase and of the second
FIRST = {"detector", "encoder.trunk", "encoder.variant", "encoder.invariant", "decoder"}


@pytest.fixture(scope="module")
def data() -> TemporalData:
    return TemporalData(CONFIG)


@pytest.fixture(scope="module")
def falling() -> TemporalData:
    return TemporalData(FALLING)


FALLING = replace(
    CONFIG,
    data=replace(CONFIG.data, content="freefall", frames=15, cameras=1),
    training=replace(CONFIG.training, steps=14),
    pretraining_steps=2,
    prior_weight=0.0,
)


class Watch(Descent[TemporalBatch]):
    """A descent that notes what every loss changes: parameters, and batch statistics."""

    def __init__(self, recipe: TemporalRecipe, data: TemporalData, number: int) -> None:
        super().__init__(launch(CONFIG.training), recipe.optimizers, data, CONFIG.training, number)
        self.recipe = recipe
        self.moved: dict[str, tuple[set[str], set[str]]] = {}

    def minimize(
        self, name: str, objective: Objective[TemporalBatch], batch: TemporalBatch, case: Hashable = None
    ) -> None:
        networks = self.recipe.networks
        before = {key: value.clone() for key, value in networks.state_dict().items()}
        super().minimize(name, objective, batch, case)
        changed = {key for key, value in networks.state_dict().items() if not torch.equal(value, before[key])}
        parameters = {key for key, _ in networks.named_parameters()}
        self.moved[name] = _modules(changed & parameters), _modules(changed - parameters)


def _modules(keys: set[str]) -> set[str]:
    """The networks, and the encoder's trunk and output layers."""
    return {".".join(key.split(".")[: 2 if key.startswith("encoder") else 1]) for key in keys}


def watched(config: TemporalConfig, data: TemporalData, number: int) -> Watch:
    recipe = TemporalRecipe(config)
    recipe.networks.train()
    watch = Watch(recipe, data, number)
    recipe.step(watch, data.batch(number, 0, 1), number)
    assert all(math.isfinite(value) for value in watch.finite_values().values())
    return watch


def terms_of(config: TemporalConfig, data: TemporalData, number: int) -> set[str]:
    return {name.split("/")[1] for name in watched(config, data, number).values}


def test_stages_follow_one_another() -> None:
    config = replace(FALLING, training=replace(CONFIG.training, steps=9), pretraining_steps=2, pose_steps=4)
    stages = [stage_of(config, step) for step in range(9)]
    assert stages[:3] == [Stage("pretraining", 0, 2), Stage("pretraining", 1, 2), Stage("codes", 0, 3)]
    assert [stage.name for stage in stages] == ["pretraining"] * 2 + ["codes"] * 3 + ["pose"] * 4
    assert stages[-1] == Stage("pose", 3, 4)


def test_the_first_phase_moves_all_but_what_reads_poses(data: TemporalData) -> None:
    watch = watched(CONFIG, data, CODES)
    assert watch.moved["total"][0] == FIRST
    assert {name.split("/")[1] for name in watch.values} == {"pixels", "contrast", "prior"}


def moved_by_term(config: TemporalConfig, data: TemporalData, number: int, term: str) -> set[str]:
    """The networks that have a gradient of one term alone."""
    recipe = TemporalRecipe(config)
    recipe.networks.train()
    with torch.no_grad():  # the detector's layers begin with weights of 0, which hide those before them
        assert recipe.networks.detector is not None
        assert recipe.networks.detector.heat is not None
        recipe.networks.detector.heat.weight.normal_()
        recipe.networks.detector.boxes.weight.normal_()
    early = stage_of(config, number).name == "pretraining"
    value = recipe._total(data.batch(number, 0, 1), early)[term]
    named = dict(recipe.networks.named_parameters())
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return _modules({name for name, gradient in zip(named, found, strict=True) if gradient is not None})


def test_each_term_moves_what_it_depends_on(data: TemporalData, falling: TemporalData) -> None:
    variant = {"detector", "encoder.trunk", "encoder.variant"}
    assert moved_by_term(CONFIG, data, CODES, "pixels") == FIRST
    assert moved_by_term(CONFIG, data, CODES, "contrast") == variant
    assert moved_by_term(CONFIG, data, CODES, "prior") == {"detector"}
    weak = replace(CONFIG, eta=10.0)
    assert moved_by_term(weak, data, CODES, "2D") == variant | {"theta"}
    for term in ("const-acc", "order", "sc"):
        assert moved_by_term(FALLING, falling, 0, term) == {"detector"}
    drnet = replace(CONFIG, contrast="none", disentangle="adversary")
    assert moved_by_term(drnet, data, CODES, "similarity") == {"detector", "encoder.trunk", "encoder.invariant"}
    assert moved_by_term(drnet, data, CODES, "adversary") == variant | {"discriminator"}  # frozen in a step, see below


def test_weak_labels_do_not_move_their_own_targets(data: TemporalData) -> None:
    """L_2D has a gradient to the boxes through the crop alone: with the crop cut off there is none."""
    recipe = TemporalRecipe(replace(CONFIG, eta=10.0))
    recipe.networks.train()
    crops = recipe.networks.crops
    recipe.networks.crops = lambda images, boxes: crops(images, boxes).detach()  # type: ignore[method-assign]
    value = recipe._total(data.batch(CODES, 0, 1), False)["2D"]
    assert recipe.networks.detector is not None
    parameters = list(recipe.networks.detector.parameters())
    assert all(gradient is None for gradient in torch.autograd.grad(value, parameters, allow_unused=True))


def test_the_second_phase_moves_phi_and_the_probe_and_leaves_the_codes_as_they_are(data: TemporalData) -> None:
    watch = watched(CONFIG, data, POSE)
    assert list(watch.moved) == ["pose"]
    parameters, statistics = watch.moved["pose"]
    assert parameters == {"phi", "theta"}
    assert statistics == {"phi"}
    assert {name.split("/")[1] for name in watch.values} == {"3D", "2D"}


def test_with_weak_labels_theta_learns_first_and_rests_then(data: TemporalData) -> None:
    weak = replace(CONFIG, eta=10.0)
    assert watched(weak, data, CODES).moved["total"][0] == FIRST | {"theta"}
    watch = watched(weak, data, POSE)
    assert watch.moved["pose"][0] == {"phi"}
    assert {name.split("/")[1] for name in watch.values} == {"3D"}
    given = replace(weak, network=replace(SMALL, with_points=True))
    assert watched(given, data, POSE).moved["pose"][0] == {"phi"}  # no gradient to Θ through q̂_2D


def test_end_to_end_the_encoder_learns_with_phi(data: TemporalData) -> None:
    watch = watched(replace(CONFIG, end_to_end=True), data, POSE)
    assert watch.moved["pose"][0] == {"phi", "theta", "encoder.trunk", "encoder.variant"}


def test_pretraining_has_the_tracking_loss_and_no_contrast(falling: TemporalData) -> None:
    assert terms_of(FALLING, falling, 0) == {"pixels", "const-acc", "order", "sc"}
    assert terms_of(FALLING, falling, 3) == {"pixels", "contrast"}
    batch = falling.batch(0, 0, 1).videos
    assert batch is not None
    assert batch.distance.tolist() == [[0, 1, 2, 3]] * 2


def test_frames_of_falls_are_in_the_air_and_on_the_way_down(falling: TemporalData) -> None:
    """A jump is in free fall on its way up, too, where the order that eq. (10) wants is the wrong one."""
    benchmark = falling.reel.benchmark  # type: ignore[attr-defined]
    takes = [benchmark.take(clip) for clip in range(6)]
    airborne = torch.cat([take.airborne for take in takes])
    height = torch.cat([pg.center_of_gravity(take.joints, benchmark.skeleton)[:, 2] for take in takes])
    assert 0 < int(airborne.sum()) < len(airborne)
    rises = 0
    for first in range(len(airborne) - 4):
        rises += bool(airborne[first : first + 4].all() and height[first + 1] > height[first])
    assert rises > 0  # there are some that must not be taken
    for first in falling.falls.references.tolist():
        assert bool(airborne[first : first + 4].all())
        assert bool((height[first : first + 4].diff() < 0).all())


def test_the_swap_draws_each_frame_with_another_ones_time_invariant_code(
    data: TemporalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = torch.tensor([[1, 2, 3, 0], [2, 3, 0, 1]])
    monkeypatch.setattr(recipe_module, "random_order", lambda count, frames, device: order)
    recipe = TemporalRecipe(replace(CONFIG, network=replace(SMALL, dropout=0.0), jitter=0.0))
    recipe.networks.train()
    batch = data.batch(CODES, 0, 1)
    assert batch.videos is not None
    assert recipe.networks.encoder.invariant is not None
    with torch.no_grad():
        recipe.networks.encoder.invariant.weight.normal_(0, 5)  # codes that differ from frame to frame
        term = recipe._total(batch, False)["pixels"]
        seen = recipe.see(batch.videos)
        exchanged = torch.stack([codes[row] for codes, row in zip(seen.codes.invariant, order, strict=True)])
        own, other = (
            recipe.reconstructed(batch.videos, seen, Codes(seen.codes.variant, invariant))
            for invariant in (seen.codes.invariant, exchanged)
        )
    assert own.shape == (8, 3, 32, 32)
    assert float(term) == pytest.approx(2 * float((other - seen.image).square().mean()), rel=1e-5)
    assert float(term) != pytest.approx(2 * float((own - seen.image).square().mean()), rel=1e-4)


def test_drnets_discriminator_and_encoder_learn_by_turns(data: TemporalData) -> None:
    moved = watched(replace(CONFIG, contrast="none", disentangle="adversary"), data, CODES).moved
    assert list(moved) == ["total", "discriminator"]
    assert moved["total"][0] == FIRST
    assert moved["discriminator"] == ({"discriminator"}, set())


@pytest.fixture(scope="module")
def two_views() -> TemporalData:
    return TemporalData(replace(CONFIG, disentangle="views", contrast="none"))


def test_views_are_the_same_instants_and_their_shift_is_that_of_the_cameras(two_views: TemporalData) -> None:
    batch = two_views.batch(CODES, 0, 1)
    assert batch.videos is not None
    assert batch.other_view is not None
    assert batch.shift is not None
    assert two_views.second is not None
    numbers = two_views.sampler.quadruples(two_views._dealt(CODES), np.random.default_rng([0, CODES])).number.flatten()
    about = [reel.joints[numbers] - reel.joints[numbers][:, :1] for reel in (two_views.reel, two_views.second)]
    torch.testing.assert_close(about[0] @ batch.shift.flatten(0, 1).mT, about[1], rtol=0, atol=1e-4)
    assert not torch.equal(batch.videos.image, batch.other_view.image)


def test_drnets_discriminator_judges_the_codes_that_its_encoder_was_judged_by(
    data: TemporalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass through the encoder: the same numbers, and no gradient to it from the discriminator's own step."""
    recipe = TemporalRecipe(replace(CONFIG, contrast="none", disentangle="adversary"))
    recipe.networks.train()
    judged = []

    def scenes(discriminator: Any, variant: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
        judged.append(variant)
        return objective.scenes(discriminator, variant, clip)

    monkeypatch.setattr(recipe_module, "scenes", scenes)
    recipe.step(Watch(recipe, data, CODES), data.batch(CODES, 0, 1), CODES)
    first, second = judged
    assert torch.equal(first, second)
    assert first.requires_grad
    assert not second.requires_grad


def test_drnets_terms_wait_for_the_end_of_the_pretraining(falling: TemporalData) -> None:
    drnet = replace(FALLING, contrast="none", disentangle="adversary")
    assert terms_of(drnet, falling, 0) == {"pixels", "const-acc", "order", "sc"}
    assert terms_of(drnet, falling, 3) == {"pixels", "similarity", "adversary", "scenes"}


def test_nsd_draws_each_view_from_the_other_ones_pose(two_views: TemporalData) -> None:
    config = two_views.config
    moved = watched(config, two_views, CODES).moved
    assert moved["total"][0] == FIRST
    recipe = TemporalRecipe(config)
    recipe.networks.eval()
    batch = two_views.batch(CODES, 0, 1)
    assert batch.videos is not None
    assert batch.other_view is not None
    assert batch.shift is not None
    seen, other = recipe.see(batch.videos), recipe.see(batch.other_view)
    drawn: list[tuple[Tensor, Codes]] = []

    def reconstructed(videos: Videos, here: Encoded, codes: Codes) -> Tensor:
        drawn.append((here.boxes, codes))
        return here.image

    recipe.reconstructed = reconstructed  # type: ignore[assignment, method-assign]
    recipe._views(batch, seen, other)
    forth = batch.shift.flatten(0, 1)  # from the first camera's axes to the second's
    for (boxes, codes), there, here, rotation in (
        (drawn[0], other, seen, forth.mT),
        (drawn[1], seen, other, forth),
    ):
        assert boxes is here.boxes  # in its own box,
        points = there.codes.variant.flatten(0, 1).unflatten(-1, (-1, 3))
        expected = torch.stack([turn @ point for turn, point in zip(rotation, points.mT, strict=True)]).mT
        torch.testing.assert_close(codes.variant.flatten(0, 1), expected.flatten(1))  # from the other one's pose,
        assert {tuple(row) for row in codes.invariant.flatten(0, 1).tolist()} == {
            tuple(row) for row in here.codes.invariant.flatten(0, 1).tolist()
        }  # and its own looks


def test_the_prior_is_on_the_boxes_of_both_views(two_views: TemporalData) -> None:
    config = replace(two_views.config, prior_extent=(0.3, 0.6))
    recipe = TemporalRecipe(config)
    first = torch.tensor([0.2, 0.5, 0.0, 0.0]).expand(8, 4)
    second = torch.tensor([0.4, 0.7, 0.0, 0.0]).expand(8, 4)
    boxes = iter((first, second))
    recipe.networks.boxes = lambda images: next(boxes)  # type: ignore[method-assign]
    terms = recipe._total(two_views.batch(CODES, 0, 1), False)
    assert float(terms["prior"]) == pytest.approx(0, abs=1e-9)  # the first one's alone would be off by 0.1


def test_footage_has_still_clips_alone_and_no_labels(tmp_path: Path) -> None:
    pytest.importorskip("av")
    film(tmp_path / "still.mp4", 6)
    film(tmp_path / "turning.mp4", 6, pan=2.0)
    config = replace(CONFIG, footage=tmp_path, pose_steps=0)
    data = TemporalData(config)
    seen = data.reel.clip[data.orders["codes"].numbers]
    assert bool((seen == 0).all())
    assert bool(data.reel.moving[data.reel.clip == 1].all())
    assert watched(config, data, CODES).moved["total"][0] == FIRST
    dives = TemporalData(replace(config, background="halves", shortest=2.0, pretraining_steps=2, prior_weight=0.0))
    # Whoever falls in the picture falls in the cuts, which are the same place in all frames, as their background is.
    still = torch.nonzero(dives.reel.clip == dives.reel.clip[0]).flatten()
    assert bool((dives.reel.background[still] == dives.reel.background[0]).all())
    assert torch.equal(dives.reel.background[0, :, 17:], dives.reel.image[0, :, 17:])  # below the row of the seam
    assert not torch.equal(data.reel.background[0], dives.reel.background[0])
    with pytest.raises(ValueError, match="whoever is followed does not fall"):
        replace(dives.config, boxes=tmp_path / "boxes.csv")
    with pytest.raises(ValueError, match="footage has no labels: pose_steps and eta must be 0"):
        TemporalData(replace(config, pose_steps=4))


def test_only_the_first_clips_are_seen_where_it_is_so_told() -> None:
    few = TemporalData(replace(CONFIG, seen_clips=2))
    assert set(few.reel.clip[few.orders["codes"].numbers].tolist()) == {0, 1}
    assert len(torch.unique(few.reel.clip[few.orders["pose"].numbers])) == 6


def test_shares_of_two_processes_are_the_batch_of_one(data: TemporalData) -> None:
    for step in (CODES, POSE):
        whole, shares = data.batch(step, 0, 1), [data.batch(step, rank, 2) for rank in range(2)]
        part = [data.part(whole, number, 2) for number in range(2)]
        if step == POSE:
            images = [each.labelled.image for each in (whole, *shares, *part) if each.labelled is not None]
        else:
            images = [each.videos.image for each in (whole, *shares, *part) if each.videos is not None]
        assert torch.equal(images[1], images[0][0::2])
        assert torch.equal(images[2], images[0][1::2])
        assert torch.equal(torch.cat(images[3:]), images[0])
        assert "clip" in data.describe(step)


def test_learning_rates_fall_within_each_phase_where_it_is_so_told(data: TemporalData) -> None:
    recipe = TemporalRecipe(replace(CONFIG, falling_rates=True, learning_rate=0.1, pose_rate=0.2))
    rates = []
    for number in (0, 4, 7, 8, 10):
        recipe.step(Watch(recipe, data, number), data.batch(number, 0, 1), number)
        name = "total" if number < POSE else "pose"
        rates.append(recipe.optimizers[name].param_groups[0]["lr"])
    wanted = [0.1, 0.05, 0.1 * (1 + math.cos(math.pi * 7 / 8)) / 2, 0.2, 0.1]
    assert rates == pytest.approx(wanted)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, data: TemporalData) -> None:
    """Stopped in the first phase, and resumed into the second."""

    def run(folder: Path, steps: int) -> Mapping[str, Tensor]:
        recipe: Any = TemporalRecipe(CONFIG)
        training = replace(CONFIG.training, steps=steps)
        train(recipe, data, training, folder, launch(training), quiet=True)
        weights: Mapping[str, Tensor] = recipe.networks.state_dict()
        return weights

    whole = run(tmp_path / "whole", 12)
    run(tmp_path / "parts", 4)
    resumed = run(tmp_path / "parts", 12)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_predictions_hold_pose_points_and_mask(data: TemporalData) -> None:
    networks = TemporalRecipe(CONFIG).networks.eval()
    frames = data.reel.frames(torch.arange(3))
    with torch.no_grad():
        said = predict(networks, frames.image)
    assert said.joints is not None
    assert said.points is not None
    assert said.mask is not None
    assert (said.joints.shape, said.points.shape, said.mask.shape) == ((3, 17, 3), (3, 17, 2), (3, 32, 32))
    assert said.mask.dtype == torch.bool
    for threshold in (0.5, 0.001, 0.999):
        networks.config = replace(networks.config, threshold=threshold)
        with torch.no_grad():
            drawn = predict(networks, frames.image).mask
            assert drawn is not None
            assert torch.equal(drawn, networks(frames.image).mask[:, 0] > threshold)
    assert float(said.joints[:, 0].abs().max()) == 0
    with torch.no_grad():
        variant = networks(frames.image).codes.variant
        probed = networks.theta(variant).unflatten(1, (-1, 2))
        torch.testing.assert_close(in_box(said.points, networks.boxes(frames.image), 32), probed, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        (picture,) = TemporalRecipe(CONFIG).pictures(data.batch(CODES, 0, 1)).values()
    assert picture.shape == (3, 4 * 32, 6 * 32)


ROWS = {
    "dsl": (False, False, False, "dsl", "none"),
    "dsl_stn": (True, False, False, "dsl", "none"),
    "dsl_stn_dec": (True, True, False, "dsl", "none"),
    "ae_stn_dec": (True, True, False, "none", "none"),
    "css_stn_dec_split": (True, True, True, "css", "swap"),
    "css": (False, False, False, "css", "none"),
    "mv_css": (False, False, False, "mv-css", "none"),
    "drnet": (True, True, True, "none", "adversary"),
    "nsd": (True, True, True, "none", "views"),
}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_have_the_parts_and_losses_of_the_papers_table(name: str, two_views: TemporalData) -> None:
    chosen = built("tiny", name)
    stn, decoder, split, contrast, disentangle = ROWS[name]
    assert (chosen.network.detector != "none", chosen.network.decoder, chosen.network.split) == (stn, decoder, split)
    assert (chosen.contrast, chosen.disentangle) == (contrast, disentangle)
    network = replace(SMALL, detector="stack" if stn else "none", decoder=decoder, split=split)
    config = replace(CONFIG, network=network, contrast=contrast, disentangle=disentangle)
    data = TemporalData(config) if contrast == "css" else two_views
    watch = watched(config, data, CODES)
    moved = {"encoder.trunk", "encoder.variant"} | ({"encoder.invariant"} if split else set())
    moved |= ({"detector"} if stn else set()) | ({"decoder"} if decoder else set())
    assert watch.moved["total"][0] == moved
    terms = {name.split("/")[1] for name in watch.values if name.startswith("total")}
    expected = ({"pixels"} if decoder else set()) | ({"contrast"} if contrast != "none" else set())
    expected |= ({"prior"} if stn else set()) | ({"similarity", "adversary"} if disentangle == "adversary" else set())
    assert terms == expected
