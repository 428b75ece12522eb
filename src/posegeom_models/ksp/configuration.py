"""What can be chosen for 002, with the paper's values as defaults, and which loss a step takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from posegeom_models.data.rendered import RenderedConfig
from posegeom_models.ksp.networks import NetworkConfig
from posegeom_models.ranges import check_choices, check_numbers
from posegeom_models.training import OPTIMIZERS, TrainingConfig

VARIANTS = ("unsup", "weakly", "semi")
NOT_NEGATIVE = (
    *("lambda_1", "lambda_2", "lambda_view", "lambda_heat", "lambda_figure", "lambda_imagined"),
    *("pose_rate", "dolls", "pair_gap", "pair_clips", "turn", "jitter"),
)
"""Fields that may be 0."""


@dataclass(frozen=True)
class KspConfig:
    """002's values; "not given" where the paper leaves one open.

    Args:
        network: sizes of the networks.
        data: what is rendered.
        training: how long and where.
        footage: folder of videos to train on, cut into clips that are still or moving; None for the rendered benchmark.
        boxes: file with the boxes of the people in the footage; without it, what moves is taken for the person.
        detector: file with the weights of torchvision's person detector, which finds the people in place of boxes.
        data_set: human36m (as h36m-fetch leaves it), mpi_inf_3dhp or threedpw, whose training images are trained on.
            Poses that have all 17 joints are labels; but for mpi_inf_3dhp's they lack the feet or the head, so that
            the variant is unsup. None for the rendered benchmark.
        path: the data set's folder.
        variant: "unsup"; "weakly" adds 2D labels, "semi" adds 3D labels for a share of the frames, in the second stage.
        with_unpaired: use D_unp, frames whose background moves (Table 4, last row).
        unpaired_domain: D_unp are all frames of this domain, without labels or backgrounds: the model is adapted to
            it (Table 3, +3DHP without supervision). None for the moving clips of the domain trained on.
        skip_broken: leave out videos of the footage, or files of the data set, that cannot be read, and say how many.
        labelled_share: of the training frames that have 3D labels in "semi".
        base_share: of the steps that are the first stage; in the second one, L_UNP rests and labels join. Not given.
        labelled_turns: turns of the labels for each one of L_prior and L_P in the second stage. The paper: 1.
        prior_turns: turns of L_prior for each one of the other losses. The paper: 1.
        prior_samples: rendered people with labels.
        dolls: how many further samples are made of them (`posegeom_models.ksp.dolls`); as many turns in L_prior are
            theirs as the rendered ones'. The paper: 0.
        lambda_1: weight of |p_2D - p̂_2D| in L_P. Not given.
        lambda_2: weight of |f_a - f̂_a| in L_P and L_UNP. Not given.
        lambda_view: weight of `posegeom_models.supervision.view_error` where there are 3D labels. The paper: 0.
        lambda_heat: weight of `posegeom_models.supervision.heat_error` where there are labels. The paper: 0.
        lambda_figure: weight of `posegeom_models.ksp.objective.figure_error` in L_P. The paper: 0.
        lambda_imagined: weight of `posegeom_models.ksp.imagined.imagined_error`: wherever the branches learn, they
            also learn from poses put together from the prior samples and, in "semi", from the labelled frames, without
            images. Needs network.lifted. The paper: 0.
        closed_branches: L_P, L_UNP and 2D labels do not move the branches' parameters: many poses explain an image, and
            these losses would take any of them. Needs network.lifted. The paper: False.
        imagined: so many such poses for each image of a batch.
        learning_rate: of each loss's optimizer.
        pose_rate: the pose encoder's learning rate in L_P and L_UNP, over that of the other networks. With Adagrad or
            Adam these losses take full steps, however little they tell of the pose. The paper: 1.
        optimizer: "adagrad", the paper's, or "adam", which needs fewer steps.
        pair_gap: seconds between I_s and I_t at least. Not given.
        pair_clips: L_P and L_UNP take their frames from so many clips each; 0 for all of them. A frame that is asked
            for the first time has to be rendered, which on a CPU takes longer than learning from it.
        frame_step: every how many-th frame of a clip is used.
        turn: largest in-plane rotation in degrees, of T and of the prior samples. Not given.
        elsewhere: share of the labelled frames of clips with a known background that are shown before another one. The
            paper does so with the synthetic samples alone.
        jitter: largest relative change of brightness, contrast and colour of the prior samples. Not given.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: RenderedConfig = field(default_factory=lambda: RenderedConfig(size=224, anywhere=0.0))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=400_000, batch_size=16))
    footage: Path | None = None
    boxes: Path | None = None
    detector: Path | None = None
    data_set: str | None = None
    path: Path | None = None
    variant: str = "unsup"
    with_unpaired: bool = True
    unpaired_domain: str | None = None
    skip_broken: bool = False
    labelled_share: float = 0.05
    base_share: float = 0.5
    labelled_turns: int = 1
    prior_turns: int = 1
    prior_samples: int = 20
    dolls: int = 0
    lambda_1: float = 1.0
    lambda_2: float = 1.0
    lambda_view: float = 0.0
    lambda_heat: float = 0.0
    lambda_figure: float = 0.0
    lambda_imagined: float = 0.0
    closed_branches: bool = False
    imagined: int = 4
    learning_rate: float = 1e-3
    pose_rate: float = 1.0
    optimizer: str = "adagrad"
    pair_gap: float = 0.5
    pair_clips: int = 0
    frame_step: int = 1
    turn: float = 20.0
    jitter: float = 0.3
    elsewhere: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self, variant=VARIANTS, optimizer=OPTIMIZERS)
        if self.network.size != self.data.size:
            raise ValueError(f"network.size must be data.size, {self.data.size}, got {self.network.size}")
        if self.lambda_heat > 0 and self.network.backbone != "pyramid":
            raise ValueError(f"lambda_heat needs the pyramid's heatmaps, got network.backbone {self.network.backbone}")
        if self.lambda_imagined > 0 and not self.network.lifted:
            raise ValueError("lambda_imagined needs branches that see key points alone: set network.lifted")
        if self.closed_branches and not self.network.lifted:
            raise ValueError("closed_branches needs branches that see key points alone: set network.lifted")
        if self.unpaired_domain is not None and not self.with_unpaired:
            raise ValueError("unpaired_domain says what D_unp is, and with_unpaired: false leaves it out")
        check_numbers(self, "at least 0", *NOT_NEGATIVE)
        check_numbers(self, "positive", "learning_rate")
        check_numbers(self, "at least 1", "labelled_turns", "prior_turns", "prior_samples", "frame_step", "imagined")
        check_numbers(self, "in [0, 1]", "labelled_share", "base_share", "elsewhere")


def turn_of(config: KspConfig, step: int) -> str:
    """Which loss a step takes: L_prior, L_P and L_UNP in turn (§3.3); in the second stage labels in place of L_UNP."""
    return place_of(config, step)[0]


def place_of(config: KspConfig, step: int) -> tuple[str, int]:
    """A step's loss, and how many steps that loss took before."""
    first = [*["prior"] * config.prior_turns, "paired"]
    second = list(first)
    if config.with_unpaired:
        first.append("unpaired")
    if config.variant != "unsup":
        second += ["labelled"] * config.labelled_turns
    begin = math.ceil(config.base_share * config.training.steps)
    if step < begin:
        turn = first[step % len(first)]
        return turn, _taken(first, turn, step)
    turn = second[(step - begin) % len(second)]
    return turn, _taken(first, turn, begin) + _taken(second, turn, step - begin)


def _taken(order: Sequence[str], turn: str, steps: int) -> int:
    """How many of the first steps of an order that goes round and round take a loss."""
    rounds, rest = divmod(steps, len(order))
    return rounds * order.count(turn) + order[:rest].count(turn)
