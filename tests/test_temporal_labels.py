"""003's second phase: labelled frames, how they are changed, and what Φ learns from them."""

from __future__ import annotations

import math
from copy import copy, deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("torchvision")

import posegeom as pg
from posegeom_models.temporal import reading
from posegeom_models.temporal.batches import TemporalBatch, TemporalData, labelled_frames
from posegeom_models.temporal.reading import fit, pose_terms
from posegeom_models.temporal.recipe import TemporalRecipe
from posegeom_models.temporal.regressors import in_box
from tests.test_temporal_configuration import CONFIG
from tests.test_temporal_networks import SMALL
from tests.test_temporal_training import POSE, Watch


@pytest.fixture(scope="module")
def data() -> TemporalData:
    return TemporalData(CONFIG)


def test_labels_are_every_so_many_th_frame(data: TemporalData) -> None:
    numbers = data.orders["pose"].numbers
    assert numbers.tolist() == list(range(0, 48, 4))
    about = data.reel.joints[::4] - data.reel.joints[::4, :1]
    assert data.statistics is not None
    torch.testing.assert_close(data.statistics.mean, about.mean(0))
    batch = data.batch(POSE, 0, 1).labelled
    assert batch is not None
    assert float(batch.joints[:, 0].abs().max()) == 0
    assert data.batch(0, 0, 1).statistics is not None  # the first step's batch has them for Φ
    assert data.batch(POSE, 0, 1).statistics is None


def test_mirrored_labels_are_those_of_mirrored_people(data: TemporalData) -> None:
    config, numbers = replace(CONFIG, mirrored=True), torch.arange(6)
    plain, changed = (labelled_frames(data.reel, numbers, one, 1) for one in (CONFIG, config))
    flips = (changed.image - plain.image).abs().amax((1, 2, 3)) > 1e-3
    assert 0 < int(flips.sum()) < 6
    torch.testing.assert_close(changed.image[~flips], plain.image[~flips], rtol=0, atol=1e-4)
    torch.testing.assert_close(changed.image[flips], plain.image[flips].flip(-1), rtol=0, atol=1e-4)
    left, right = pg.BODY_17.index("left_wrist"), pg.BODY_17.index("right_wrist")
    across = torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(changed.joints[flips, left], plain.joints[flips, right] * across)
    expected = torch.stack((31 - plain.points[flips, right, 0], plain.points[flips, right, 1]), dim=-1)
    torch.testing.assert_close(changed.points[flips, left], expected)


def test_turned_labels_are_those_of_a_camera_that_rolls(data: TemporalData) -> None:
    """A frame's points turn about the middle, and its joints, projected anew, are where the points are."""
    numbers = torch.arange(12)
    plain, changed = (labelled_frames(data.reel, numbers, replace(CONFIG, label_turn=turn), 1) for turn in (0.0, 30.0))
    about = [points - 15.5 for points in (plain.points, changed.points)]
    torch.testing.assert_close(about[0].norm(dim=-1), about[1].norm(dim=-1))
    angles = [points[..., 1].atan2(points[..., 0]) for points in about]
    turn = (angles[1] - angles[0] + math.pi) % (2 * math.pi) - math.pi
    torch.testing.assert_close(turn, turn[:, :1].expand_as(turn), rtol=0, atol=1e-3)
    assert 0.1 < float(turn.abs().max()) < math.radians(30)
    wanted = torch.stack((changed.joints, plain.joints))[..., :2]
    spins = [joints[:, 9, 1].atan2(joints[:, 9, 0]) for joints in wanted]
    of_joints = (spins[0] - spins[1] + math.pi) % (2 * math.pi) - math.pi
    torch.testing.assert_close(of_joints, turn[:, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close(changed.joints[..., 2], plain.joints[..., 2])
    brightest = [each.image.sum(1).flatten(1) for each in (plain, changed)]
    assert not torch.equal(*brightest)


def test_two_processes_change_labelled_frames_as_one_does(data: TemporalData) -> None:
    config = replace(CONFIG, mirrored=True, label_turn=10.0)
    whole = labelled_frames(data.reel, data._dealt(POSE), config, POSE)
    twin = copy(data)
    twin.config = config
    shares = [twin.batch(POSE, rank, 2).labelled for rank in range(2)]
    assert shares[0] is not None
    assert shares[1] is not None
    assert torch.equal(shares[0].image, whole.image[0::2])
    assert torch.equal(shares[1].image, whole.image[1::2])


def test_fit_is_the_second_phase(data: TemporalData, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same Φ, a run and `fit` end with the same one: rates, decay, 2D poses and changes of the frames."""
    config = replace(
        CONFIG,
        network=replace(SMALL, with_points=True, regressor_dropout=0.0),
        eta=10.0,
        pose_decay=0.3,
        falling_rates=True,
        label_turn=5.0,
        mirrored=True,
    )
    recipe = TemporalRecipe(config)
    networks = recipe.networks
    assert data.statistics is not None
    networks.phi.adopt(data.statistics)
    first = deepcopy(networks.phi)
    numbers = data.orders["pose"].numbers
    monkeypatch.setattr(networks, "fresh_phi", lambda code: deepcopy(first))
    # The chance of a step is that of its number in the run, and in `fit` that of its number there.
    monkeypatch.setattr(reading, "labelled_frames", lambda a, b, c, step: labelled_frames(a, b, c, POSE + step))
    fitted = fit(networks, data.reel, numbers, config, 4)
    networks.train()
    for number in range(POSE, POSE + 4):
        labelled = labelled_frames(data.reel, data._dealt(number), config, number)
        recipe.step(Watch(recipe, data, number), TemporalBatch(labelled=labelled), number)
    there = networks.phi.state_dict()
    assert not torch.equal(there["layers.0.weight"], first.state_dict()["layers.0.weight"])
    for name, value in fitted.state_dict().items():
        torch.testing.assert_close(value, there[name], msg=name)


def test_crops_of_labelled_frames_are_changed_and_their_labels_with_them(data: TemporalData) -> None:
    """The probe's target is in the changed box, and colours change while points do not."""
    recipe = TemporalRecipe(replace(CONFIG, label_shift=0.2, label_jitter=0.5))
    networks = recipe.networks.eval().requires_grad_(False)
    labelled = data.batch(POSE, 0, 1).labelled
    assert labelled is not None
    cut: list[tuple[Tensor, Tensor]] = []
    plain = networks.crops
    networks.crops = lambda images, boxes: cut.append((images, boxes)) or plain(images, boxes)  # type: ignore[method-assign, func-returns-value]
    said = in_box(labelled.points, networks.boxes(labelled.image), 32)
    networks.points = lambda variant: said  # type: ignore[method-assign]
    terms = pose_terms(networks, networks.phi, labelled, recipe.config)
    ((_, boxes),) = cut
    own = networks.boxes(labelled.image)
    grown = boxes[:, :2] / own[:, :2]
    assert 0.8 <= float(grown.min()) < 0.95
    assert 1.05 < float(grown.max()) <= 1.2
    moved = (boxes[:, 2:] - own[:, 2:]) / own[:, :2]
    assert 0.05 < float(moved.abs().max()) <= 0.2
    expected = (in_box(labelled.points, boxes, 32) - said).square().sum(-1).sum(1).mean() / 17
    assert float(terms["2D"]) == pytest.approx(float(expected), rel=1e-5)


def test_phi_adopts_the_statistics_in_the_first_step(data: TemporalData) -> None:
    recipe = TemporalRecipe(CONFIG)
    recipe.step(Watch(recipe, data, 0), data.batch(0, 0, 1), 0)
    assert data.statistics is not None
    torch.testing.assert_close(recipe.networks.phi.get_buffer("mean"), data.statistics.mean)


def test_phi_and_the_probe_have_rates_and_a_decay_of_their_own() -> None:
    config = replace(CONFIG, pose_rate=0.1, probe_rate=0.2, pose_decay=0.3, end_to_end=True)
    groups = TemporalRecipe(config).optimizers["pose"].param_groups
    expected = [(0.1, 0.3), (0.1, 0), (0.2, 0), (0.1, 0)]
    assert [(group["lr"], group["weight_decay"]) for group in groups] == expected
    # What decays are matrices: no bias, and no gain of a normalisation.
    assert {parameter.ndim for parameter in groups[0]["params"]} == {2}
    assert {parameter.ndim for parameter in groups[1]["params"]} == {1}
    assert len(TemporalRecipe(replace(CONFIG, eta=10.0)).optimizers["pose"].param_groups) == 2


def test_phis_decay_is_decoupled_from_its_gradient() -> None:
    """Without a gradient, weights shrink by rate · decay of themselves, however large they are, and nothing else moves.

    As a part of Adam's gradient the decay would move every value by the rate, and Φ to nothing in a few thousand steps.
    """
    recipe = TemporalRecipe(replace(CONFIG, pose_rate=0.1, pose_decay=0.3))
    before = deepcopy(dict(recipe.networks.phi.named_parameters()))
    for parameter in recipe.networks.phi.parameters():
        parameter.grad = torch.zeros_like(parameter)
    recipe.optimizers["pose"].step()
    for name, value in recipe.networks.phi.named_parameters():
        share = 1 - 0.1 * 0.3 if value.ndim == 2 else 1.0
        torch.testing.assert_close(value, share * before[name], msg=name)
