"""What is chosen for a training of 003 or of a baseline, and which stage a step belongs to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from posegeom_models.data.footage import BACKGROUNDS, SHORTEST
from posegeom_models.data.rendered import RenderedConfig
from posegeom_models.ranges import check_choices, check_numbers
from posegeom_models.temporal.networks import NetworkConfig
from posegeom_models.temporal.sampling import FRAMES_OF_A_QUADRUPLE
from posegeom_models.training import TrainingConfig

CONTRASTS = ("dsl", "css", "mv-css", "none")
DISENTANGLEMENTS = ("swap", "adversary", "views", "none")

NOT_NEGATIVE = (
    *("lambda_pixels", "rho", "alpha", "gamma", "eta", "prior_weight", "lambda_similarity", "lambda_adversary"),
    *("pretraining_steps", "pose_steps", "seen_clips", "pose_decay", "pose_batch", "lambda_aligned"),
)
"""Fields that may be 0."""


@dataclass(frozen=True)
class TemporalConfig:
    """003's values on Human3.6M; "not given" where the paper leaves one open.

    A baseline of §4.2 is a configuration: `network.detector`, `network.decoder` and `network.split` say which parts
    there are, `contrast` and `disentangle` which losses.

    Args:
        network: sizes of the networks.
        data: what is rendered.
        training: how long and where; batch_size counts frames, four to a video. Its steps are those of all stages.
        footage: folder of videos to train on, of which the clips with a still background are taken; None for the
            rendered benchmark.
        boxes: file with the boxes of the people in the footage; without it, what moves is taken for the person.
        skip_broken: leave out videos of the footage that cannot be read, and say how many.
        background: of the footage: "median" of still clips; "halves" for dives; "panorama" for cameras that turn, whose
            clips are left out otherwise (S.1).
        shortest: seconds that clips of the footage have at least, at most 10. 002's; falls are over sooner.
        contrast: on I_tv: "dsl" (eqs. 5, 6), "css" (eq. 3, with two away frames), "mv-css" (eq. 4, with a second view)
            or "none".
        disentangle: how I_ti is kept free of the pose: "swap" (§3.1.3), "adversary" (DrNet) or "views" (NSD); "none"
            without split.
        lambda_pixels: λ of L_reconst; the paper's is 0.05 on Ski.
        rho: ρ of L_reconst.
        alpha: α, weight of the contrastive loss.
        gamma: γ, weight of L_track.
        eta: η, weight of L_2D; the paper's is 10 where there are 2D labels.
        near: nearby frames are at most so many frames of the reel away. Whether the paper counts the frames of its
            videos or every fifth of them is not said.
        away: away frames are at least so many away; d_max of the DSL.
        temperature: τ of eq. (3). Not given.
        margin: β of eq. (4). Not given.
        fall: τ of eq. (10), in half images. Not given. Of footage, every frame counts as one of a free fall, and is
            the middle of its picture, whether or not the person is there.
        fall_step: frames between two of the four frames of L_track. Not given.
        prior_weight: of the prior on the boxes; 0 in free fall. Not given.
        prior_extent: half extents (s_x, s_y) of the mean box, in half images.
        prior_centred: the mean box is in the middle; the paper's on Human3.6M alone.
        jitter: how much the colours that E_tv sees are changed, see `temporal.objective.recolored`. Not given.
        lambda_similarity: weight of DrNet's content loss. Not given in 003.
        lambda_adversary: weight of DrNet's adversarial loss. Not given in 003.
        pretraining_steps: with L_reconst and γ L_track (of the first view) alone, in free fall (§3.2, S.1); 5,000
            suffice on Diving.
        pose_steps: of the second phase, at the end: the codes are frozen, and Φ (and the linear probe) learn.
        end_to_end: in the second phase the encoder learns with Φ (Fig. 9).
        labelled_share: of the training frames that have 3D labels: every so many-th frame.
        seen_clips: so many of the clips are seen in the first phase, 0 for all; labels are of all. The paper: all.
        learning_rate: of the first phase's Adam.
        pose_rate: of the second phase's Adam. Not given.
        pose_decay: decoupled weight decay of Φ's linear layers. The paper: none.
        probe_rate: of the linear probe, in the second phase. Not given.
        falling_rates: each phase's learning rate falls to 0 by a cosine. The paper: none does.
        pose_batch: labelled frames of a step; 0 for as many as training.batch_size.
        mirrored: half of the labelled frames are mirrored, with their labels. The paper: none.
        lambda_aligned: weight of Φ's error after the best similarity transform, see `temporal.objective.l_aligned`. The
            paper has no such term.
        label_turn: labelled frames are turned by up to so many degrees, with their labels. The paper: not at all.
        label_jitter: how much the colours of the labelled crops are changed, as `jitter`. The paper: not at all.
        label_shift: boxes of the labelled frames grow or shrink, and move, by up to this share of their extents. The
            paper: not at all.
        frame_step: every how many-th frame of a clip is used; the paper's is 5 on Human3.6M.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: RenderedConfig = field(default_factory=lambda: RenderedConfig(size=500, anywhere=1.0))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=300_000, batch_size=32))
    footage: Path | None = None
    boxes: Path | None = None
    skip_broken: bool = False
    background: str = "median"
    shortest: float = SHORTEST
    contrast: str = "dsl"
    disentangle: str = "swap"
    lambda_pixels: float = 2.0
    rho: float = 2.0
    alpha: float = 0.01
    gamma: float = 1.0
    eta: float = 0.0
    near: int = 10
    away: int = 200
    temperature: float = 0.1
    margin: float = 1.0
    fall: float = 0.02
    fall_step: int = 1
    prior_weight: float = 0.1
    prior_extent: tuple[float, float] = (0.5, 0.5)
    prior_centred: bool = True
    jitter: float = 0.3
    lambda_similarity: float = 1.0
    lambda_adversary: float = 0.1
    pretraining_steps: int = 0
    pose_steps: int = 50_000
    end_to_end: bool = False
    labelled_share: float = 1.0
    seen_clips: int = 0
    learning_rate: float = 1e-4
    pose_rate: float = 1e-3
    pose_decay: float = 0.0
    probe_rate: float = 1e-3
    falling_rates: bool = False
    pose_batch: int = 0
    mirrored: bool = False
    lambda_aligned: float = 0.0
    label_turn: float = 0.0
    label_jitter: float = 0.0
    label_shift: float = 0.0
    frame_step: int = 1

    def __post_init__(self) -> None:
        network = self.network
        check_choices(self, contrast=CONTRASTS, disentangle=DISENTANGLEMENTS, background=(*BACKGROUNDS, "panorama"))
        if self.background != "median" and self.footage is None:
            raise ValueError(f"background {self.background} is of footage, and there is none: add footage")
        if network.size != self.data.size:
            raise ValueError(f"network.size must be data.size, {self.data.size}, got {network.size}")
        if network.split == (self.disentangle == "none"):
            wanted = "swap, adversary or views" if network.split else "none"
            raise ValueError(f"disentangle must be {wanted} where network.split is {network.split}")
        if not network.decoder and (self.contrast == "none" or network.split):
            raise ValueError("without network.decoder there must be a contrast, and no network.split")
        if network.with_points and not self.eta > 0:
            raise ValueError("network.with_points needs weak labels, eta > 0")
        if self.disentangle == "views" and network.time_variant % 3:
            raise ValueError(
                f"views turns points: network.time_variant must be a multiple of 3, got {network.time_variant}"
            )
        if self.several_views:
            if self.footage is not None:
                raise ValueError("mv-css and views need cameras with known rotations, and footage has one")
            if self.data.cameras < 2:
                raise ValueError(f"mv-css and views need data.cameras of at least 2, got {self.data.cameras}")
        if not 1 <= self.near < self.away - 1:
            raise ValueError(f"near must be at least 1 and two less than away, got {self.near} and {self.away}")
        parts = self.training.devices * self.training.machines * self.training.accumulate
        share = FRAMES_OF_A_QUADRUPLE * parts
        for name, count in (("training.batch_size", self.training.batch_size), ("pose_batch", self.pose_batch)):
            if count % share:
                raise ValueError(
                    f"{name} must be a multiple of {FRAMES_OF_A_QUADRUPLE} x devices x machines x accumulate = "
                    f"{share}, got {count}"
                )
        if self.disentangle == "adversary" and self.videos // parts < 2:
            raise ValueError(
                "adversary compares two videos of a part of a batch: training.batch_size must be at least "
                f"{2 * share}, got {self.training.batch_size}"
            )
        if self.falling_rates and self.training.decay != "none":
            raise ValueError(f"falling_rates and training.decay {self.training.decay!r} both lower the learning rates")
        check_numbers(self, "at least 0", *NOT_NEGATIVE)
        check_numbers(self, "at least 1", "fall_step", "frame_step")
        check_numbers(self, "positive", "shortest", "temperature", "learning_rate", "pose_rate", "probe_rate")
        if self.pretraining_steps + self.pose_steps > self.training.steps:
            raise ValueError(
                f"training.steps must hold the {self.pretraining_steps} steps of the pre-training and the "
                f"{self.pose_steps} of the second phase, got {self.training.steps}"
            )
        if self.pretraining_steps and network.detector == "none":
            raise ValueError("pretraining_steps are for boxes, and network.detector is none")
        if self.pretraining_steps and self.boxes is not None:
            raise ValueError("boxes are followed, and whoever is followed does not fall: leave out boxes")
        if self.pretraining_steps and self.footage is None and self.data.content != "freefall":
            raise ValueError(f"pretraining_steps need data.content freefall, got {self.data.content!r}")
        if not 0 < self.labelled_share <= 1:
            raise ValueError(f"labelled_share must be in (0, 1], got {self.labelled_share}")
        for name, most in (("jitter", 1.0), ("label_jitter", 1.0), ("label_shift", 0.5), ("label_turn", 180.0)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be in [0, {most:g}], got {getattr(self, name)}")

    @property
    def several_views(self) -> bool:
        """A second camera's frames are needed."""
        return self.contrast == "mv-css" or self.disentangle == "views"

    @property
    def compares_features(self) -> bool:
        """L_reconst has its second term."""
        return self.rho > 0

    @property
    def videos(self) -> int:
        """Quadruples of a step."""
        return self.training.batch_size // FRAMES_OF_A_QUADRUPLE

    @property
    def labelled_frames(self) -> int:
        """Frames of a step of the second phase."""
        return self.pose_batch or self.training.batch_size


class Stage(NamedTuple):
    """A step's stage, "pretraining", "codes" or "pose"; its number there, and how many steps the stage has."""

    name: str
    number: int
    steps: int

    @property
    def share(self) -> float:
        """Of a learning rate that falls to 0 over the stage by a cosine."""
        return (1 + math.cos(math.pi * self.number / self.steps)) / 2


def stage_of(config: TemporalConfig, step: int) -> Stage:
    """Pre-training in free fall, then the codes, then the poses from them (§3.4, S.1)."""
    early, late = config.pretraining_steps, config.training.steps - config.pose_steps
    if step < early:
        return Stage("pretraining", step, early)
    if step < late:
        return Stage("codes", step - early, late - early)
    return Stage("pose", step - late, config.pose_steps)
