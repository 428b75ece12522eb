"""Configurations of 003: the paper's values, its data sets, the smaller ones, its baselines, and what is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torchvision")

from posegeom_models.data.rendered import RenderedConfig
from posegeom_models.temporal.configuration import TemporalConfig
from posegeom_models.temporal.recipe import MODEL
from posegeom_models.training import TrainingConfig
from tests.test_temporal_networks import SMALL

CONFIG = TemporalConfig(
    network=SMALL,
    data=RenderedConfig(size=32, clips=(6, 1, 1), identities=(2, 1, 1), frames=8, anywhere=1.0, cameras=2, samples=1),
    training=TrainingConfig(steps=12, batch_size=8, checkpoint_every=4, accelerator="cpu"),
    near=1,
    away=4,
    rho=0.0,
    pose_steps=4,
    labelled_share=0.25,
)

BASELINES = ("dsl", "dsl_stn", "dsl_stn_dec", "ae_stn_dec", "css_stn_dec_split", "css", "mv_css", "drnet", "nsd")
FOLDER = Path(__file__).parents[1] / "src" / "posegeom_models" / "temporal"


@cache
def config_files() -> Any:
    """The parser of configuration files, which takes long to build."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TemporalConfig, None)
    parser.add_argument("--config", action="config")
    return parser


@cache
def built(*names: str) -> TemporalConfig:
    """What configuration files say, each on top of the one before."""
    parser = config_files()
    words = [word for name in names for word in ("--config", str(FOLDER / f"{name}.yaml"))]
    parsed = parser.parse_args(words)
    parsed.pop("config")
    made = parser.instantiate(parsed)
    return TemporalConfig(**{field.name: made[field.name] for field in fields(TemporalConfig)})


def test_the_papers_values() -> None:
    config = built("paper")
    assert MODEL.config is TemporalConfig
    assert config == TemporalConfig(
        network=replace(config.network, feature_weights="IMAGENET1K_V1"),
        data=replace(config.data, size=500, anywhere=1.0, frames=401),
        training=replace(config.training, checkpoint_every=2000, picture_every=2000),
    )
    assert (config.lambda_pixels, config.rho, config.alpha, config.gamma) == (2, 2, 0.01, 1)
    assert (config.near, config.away, config.learning_rate) == (10, 200, 1e-4)
    assert (config.training.steps, config.pose_steps, config.training.batch_size) == (300_000, 50_000, 32)


def test_the_papers_other_data_sets_are_files_on_top_of_it() -> None:
    """S.1 and S.1.2: distances, iterations of both phases, and what else it chose; §4.5 with weak labels."""
    told = {
        "diving": (3, 20, 5_000 + 500_000, 40_000),
        "ski": (5, 40, 400_000, 100_000),
        "mpi_inf_3dhp": (10, 450, 550_000, 50_000),
        "weak": (10, 200, 200_000, 100_000),
    }
    configs = {name: built("paper", name) for name in told}
    for name, (near, away, codes, poses) in told.items():
        config = configs[name]
        assert (config.near, config.away) == (near, away), name
        assert (config.training.steps, config.pose_steps) == (codes + poses, poses), name
        assert config.data.frames > 2 * away, name  # every frame can be a reference
    diving, ski, mpi, weak = configs.values()
    assert [config.network.time_variant for config in (diving, ski, mpi)] == [900, 600, 900]
    assert ski.lambda_pixels == 0.05
    assert (diving.training.batch_size, diving.pretraining_steps, diving.prior_weight) == (16, 5000, 0)
    assert not ski.prior_centred
    assert (weak.eta, weak.network.regressor, weak.network.hidden, weak.network.with_points) == (
        10,
        "residual",
        1024,
        True,
    )
    assert built("paper").data.frames > 2 * built("paper").away


def test_the_smaller_configurations_are_valid() -> None:
    for name, config in (("small", built("small")), ("tiny", built("tiny"))):
        assert config.data.size == config.network.size, name
    assert built("tiny", "anywhere").data.anywhere == 1
    assert built("tiny").labelled_share == 0.01


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_configurations_of_the_same_sizes(name: str) -> None:
    """Each one is tiny.yaml but for the parts and losses that §4.2 says."""
    ours, baseline = built("tiny"), built("tiny", name)
    parts = ("detector", "decoder", "split")
    same = replace(baseline.network, **{part: getattr(ours.network, part) for part in parts})
    assert same == ours.network
    chosen = {part: getattr(baseline, part) for part in ("contrast", "disentangle")}
    rest = replace(ours, network=baseline.network, data=baseline.data, **chosen)
    assert baseline == rest
    assert replace(baseline.data, cameras=1) == ours.data


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contrast": "triplet"}, "contrast must be one of dsl, css, mv-css, none, got 'triplet'"),
        ({"disentangle": "none"}, "disentangle must be swap, adversary or views where network.split is True"),
        ({"near": 4, "away": 5}, "near must be at least 1 and two less than away, got 4 and 5"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"frame_step": 0}, "frame_step must be at least 1, got 0"),
        ({"rho": -1.0}, "rho must be at least 0, got -1.0"),
        ({"pose_steps": -1}, "pose_steps must be at least 0, got -1"),
        ({"label_turn": -1.0}, r"label_turn must be in \[0, 180\], got -1.0"),
        ({"jitter": 1.5}, r"jitter must be in \[0, 1\], got 1.5"),
        (
            {"disentangle": "adversary", "training": replace(CONFIG.training, batch_size=4)},
            "two videos of a part of a batch: training.batch_size must be at least 8, got 4",
        ),
        (
            {"falling_rates": True, "training": replace(CONFIG.training, decay="cosine")},
            "falling_rates and training.decay 'cosine' both lower",
        ),
        ({"pose_batch": 6}, "pose_batch must be a multiple of 4"),
        ({"pretraining_steps": 1}, "pretraining_steps need data.content freefall, got 'daily'"),
        ({"pose_steps": 13}, "training.steps must hold the 0 steps of the pre-training and the 13 of the second phase"),
        ({"labelled_share": 0.0}, r"labelled_share must be in \(0, 1\], got 0.0"),
        ({"network": replace(SMALL, with_points=True)}, "needs weak labels, eta > 0"),
        ({"network": replace(SMALL, decoder=False)}, "without network.decoder there must be a contrast, and no"),
        ({"background": "halves"}, "background halves is of footage, and there is none"),
        ({"shortest": 0.0}, "shortest must be positive"),
        ({"network": replace(SMALL, size=64)}, "network.size must be data.size, 32, got 64"),
        ({"network": replace(SMALL, time_variant=25), "disentangle": "views"}, "a multiple of 3, got 25"),
        ({"data": replace(CONFIG.data, cameras=1), "contrast": "mv-css"}, "data.cameras of at least 2, got 1"),
    ],
)
def test_impossible_choices_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **settings)
