"""What is chosen for a training of 000, and which losses a step takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from posegeom_models.data.rendered import RenderedConfig
from posegeom_models.pgp.networks import NetworkConfig
from posegeom_models.training import TrainingConfig

VARIANTS = ("unsup", "multi-view", "weakly", "semi")


@dataclass(frozen=True)
class PgpConfig:
    """000's values; "not given" where the paper leaves one open.

    Args:
        network: sizes of the networks.
        data: what is rendered.
        training: how long and where.
        footage: folder of videos to train on, cut into clips that are still or moving; None for the rendered benchmark.
        boxes: file with the boxes of the people in the footage; without it, what moves is taken for the person.
        variant: "unsup"; in the second stage, "multi-view" adds pairs of two cameras, "weakly" 2D labels, and "semi" 3D
            labels of a share of the frames (§4.1).
        labelled_share: of the training frames that have 3D labels in "semi".
        base_share: of the steps before the second stage, "finetuning". Not given.
        labelled_turns: steps on labels (or pairs of views) after each step of Algorithm 1 in the second stage. Not
            given.
        pairs: samples of a step of Algorithm 1, fewer than training.batch_size where labels cost less than pictures; 0
            for as many, the paper's.
        self_supervised: without it, all steps are on labels: the paper's Encoder(Only-3D-sup) (Fig. 4).
        with_unpaired: use the poses D_z. Without them (Table 3, second row) the predicted poses take their place.
        adaptation: minimize the energies (004 Table 1, without: third row).
        beta: β, the weight of m_sal in L_I^u; 0 is the ablation without m_sal (Table 3, third row). Not given.
        beta_later: β after `beta_steps` steps, less than before (004 §5). Not given.
        beta_steps: steps with the first β; the paper: 200,000.
        lambda_bones: weight of the bone-length constraint in the ablation "without_fk". Not given.
        lambda_points: weight of |q_z - q̂_z| in the energy of the pose. The paper: 0.
        lambda_view: weight of `posegeom_models.supervision.view_error`, where there are 3D labels and in the energy of
            the pose. The paper: 0.
        lambda_heat: weight of `posegeom_models.supervision.heat_error`, where there are labels and in the energy of the
            pose. The paper: 0.
        learning_rate: of each loss's Adagrad.
        pose_rate: learning rate of the trunk and the pose's branch in the losses of Algorithm 1 but L_{p_z^3D}, over
            `learning_rate`. Each loss takes steps of full length, however little it knows of the pose. The paper: 1.
        parts_rate: learning rate of D_seg in L_I^u, over `learning_rate`: while Î is poor, that loss takes parts away
            everywhere. The paper: 1.
        invariance_rate: learning rate of L_I^c and L_{a_s}, over `learning_rate`: an appearance that is the same for
            everybody solves both. The paper: 1.
        optimizer: "adagrad", the paper's, or "adam", which needs fewer steps.
        unpaired_poses: size of D_z. Not given.
        elevation: largest one of the random cameras that poses of D_z are seen by, in degrees. Not given.
        spread: standard deviation of their three restricted translations, before these are bounded. Not given.
        pair_gap: seconds between I_s and I_t at least. Not given.
        candidates: frames that I_s is chosen from: the one whose background is the least like I_t's. Not given.
        frame_step: every how many-th frame of a clip is used.
        turn: largest in-plane rotation in degrees, of I_s and of labelled frames. Not given.
        jitter: largest relative change of brightness, contrast and colour, of I_t and of labelled frames. Not given.
        scenes: share of the drawings of p_z that E_p is shown before random backgrounds in L_{p_z^3D}, in the place of
            BG_c. The paper: 0.
        elsewhere: share of the labelled frames of clips with a known background that are shown before another one. The
            paper: 0.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: RenderedConfig = field(default_factory=lambda: RenderedConfig(size=224, anywhere=0.0))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=1_600_000, batch_size=16))
    footage: Path | None = None
    boxes: Path | None = None
    variant: str = "unsup"
    labelled_share: float = 0.1
    base_share: float = 0.8
    labelled_turns: int = 1
    pairs: int = 0
    self_supervised: bool = True
    with_unpaired: bool = True
    adaptation: bool = True
    beta: float = 1.0
    beta_later: float = 0.2
    beta_steps: int = 200_000
    lambda_bones: float = 1.0
    lambda_points: float = 0.0
    lambda_view: float = 0.0
    lambda_heat: float = 0.0
    learning_rate: float = 1e-3
    pose_rate: float = 1.0
    parts_rate: float = 1.0
    invariance_rate: float = 1.0
    optimizer: str = "adagrad"
    unpaired_poses: int = 20_000
    elevation: float = 20.0
    spread: float = 0.7
    pair_gap: float = 0.5
    candidates: int = 4
    frame_step: int = 1
    turn: float = 20.0
    jitter: float = 0.3
    scenes: float = 0.0
    elsewhere: float = 0.0

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        if self.optimizer not in ("adagrad", "adam"):
            raise ValueError(f"optimizer must be adagrad or adam, got {self.optimizer!r}")
        if self.network.size != self.data.size:
            raise ValueError(f"network.size must be data.size, {self.data.size}, got {self.network.size}")
        if self.lambda_heat > 0 and self.network.backbone != "pyramid":
            raise ValueError(f"lambda_heat needs the pyramid's heatmaps, got network.backbone {self.network.backbone}")
        if not self.self_supervised and self.variant in ("unsup", "multi-view"):
            raise ValueError(f"self_supervised must be true for variant {self.variant}, which has no labels")
        for name in ("labelled_share", "base_share", "scenes", "elsewhere"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("labelled_turns", "candidates", "unpaired_poses"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        share = self.training.devices * self.training.machines * self.training.accumulate
        if self.pairs < 0 or self.pairs % share:
            raise ValueError(f"pairs must be a multiple of devices x machines x accumulate = {share}, got {self.pairs}")
        if self.variant == "multi-view":
            if self.network.ablation == "without_fk":
                raise ValueError("variant multi-view compares canonical poses, and ablation without_fk has none")
            if self.footage is None and self.data.cameras < 2:
                raise ValueError(f"variant multi-view needs data.cameras of at least 2, got {self.data.cameras}")
            if self.footage is not None:
                raise ValueError("variant multi-view needs cameras with known extrinsics, and footage has none")

    def samples_of(self, turn: Turn) -> int:
        """How many samples a step has."""
        return self.pairs or self.training.batch_size if turn.name == "iteration" else self.training.batch_size

    def beta_at(self, iteration: int) -> float:
        """The weight of m_sal in an iteration of Algorithm 1."""
        return min(self.beta, self.beta_later) if iteration >= self.beta_steps else self.beta


class Turn(NamedTuple):
    """What a step does: an iteration of Algorithm 1, by number, or "labelled" or "views", the second stage's."""

    name: str
    number: int


def turn_of(config: PgpConfig, step: int) -> Turn:
    """Algorithm 1; in the second stage, `labelled_turns` steps of the variant's supervision after each iteration."""
    name = "views" if config.variant == "multi-view" else "labelled"
    if not config.self_supervised:
        return Turn(name, step)
    begin = round(config.base_share * config.training.steps)
    if config.variant == "unsup" or step < begin:
        return Turn("iteration", step)
    period, place = divmod(step - begin, 1 + config.labelled_turns)
    if place == 0:
        return Turn("iteration", begin + period)
    return Turn(name, period * config.labelled_turns + place - 1)
