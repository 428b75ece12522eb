"""What is chosen for a training of 000, and which losses a step takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from posegeom_models.backbones import check_trunk, halvings_of
from posegeom_models.data.rendered import RenderedConfig
from posegeom_models.ranges import check_choices, check_numbers
from posegeom_models.training import OPTIMIZERS, TrainingConfig

VARIANTS = ("unsup", "multi-view", "weakly", "semi")

ABLATIONS = ("none", "without_fk")

NOT_NEGATIVE = (
    "painted_turns",
    *("beta", "beta_later", "beta_steps", "lambda_bones", "lambda_points", "lambda_view", "lambda_heat"),
    *("pose_rate", "parts_rate", "invariance_rate", "views_rate", "elevation", "spread", "pair_gap", "turn", "jitter"),
)
"""Fields that may be 0."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the networks; the defaults are the paper's where it gives one, but `weights`.

    Args:
        size: side of the images in pixels; not given in the paper, 224 is what its ResNet-50 was trained with.
        stride: of the appearance a, a power of two; not given in the paper. A ResNet is cut where it has this stride.
        backbone: of E, a ResNet of torchvision; or "pyramid", a small network for training from random weights
            (`posegeom_models.backbones.KeyPyramid`), beside which the appearance has convolutions of its own.
        weights: of a ResNet; the paper's are ImageNet's ("IMAGENET1K_V1"), None downloads nothing.
        width: of the pyramid.
        pool: a ResNet's maps are averaged to pool x pool before the fully connected branches; not given in the paper.
        hidden: width of the hidden layers of the two fully connected branches; not given in the paper.
        appearance_widths: of the convolutions beside a pyramid; the first ones halve the resolution.
        appearance_channels: Ch of the appearance a; not given in the paper.
        standardized: bring a to mean 0 and deviation 1 over the batch. The paper does not say so: without it, an
            appearance that is the same for everybody solves L_I^c and L_{a_s}.
        decoder_widths: of D and its heads, one for each doubling of the resolution, the last for D_I's and D_seg's;
            not given in the paper.
        squeeze: a residual block Res(c/squeeze, c/squeeze, c) has c maps; 4 in ResNet-50.
        focal: of the fixed camera, in image sides; not given in the paper.
        radius: metres round the pelvis that the restricted translations keep in the image; not given in the paper.
            None for the farthest that a joint can be.
        far: the largest distance that the restricted translations allow, in units of the least; not given in the paper.
        puppet: file of a puppet (`posegeom.Puppet.save`), such as one made of a labelled picture by
            `posegeom.Puppet.from_labels`; None for the built-in capsules.
        lifted: the pose's branches see the joints' key points and nothing else of the image, so that they also learn
            from poses of D_z that nobody has drawn; 2D labels and L_I^u, which tell no depth, leave them alone. Needs
            the pyramid. The paper: False.
        mirrored: at test time, key points are the means of those of the image and of its mirror image. Needs lifted.
            The paper: False.
        background: BG_c, the grey behind the people that D_I draws; not given in the paper.
        ablation: "without_fk" predicts the joints directly, in the camera's axes (Table 3, first row).
    """

    size: int = 224
    stride: int = 16
    backbone: str = "resnet50"
    weights: str | None = None
    width: int = 24
    pool: int = 1
    hidden: int = 1024
    appearance_widths: tuple[int, ...] = (64, 128, 256, 512)
    appearance_channels: int = 64
    standardized: bool = False
    decoder_widths: tuple[int, ...] = (256, 128, 64, 32)
    squeeze: int = 4
    focal: float = 2.0
    radius: float | None = None
    far: float = 3.0
    puppet: Path | None = None
    lifted: bool = False
    mirrored: bool = False
    background: float = 0.0
    ablation: str = "none"

    def __post_init__(self) -> None:
        check_choices(self, ablation=ABLATIONS)
        check_numbers(self, "in [0, 1]", "background")
        check_numbers(self, "at least 1", "width", "pool", "hidden", "appearance_channels", "squeeze")
        for name in ("appearance_widths", "decoder_widths"):
            if min(getattr(self, name), default=1) < 1:
                raise ValueError(f"{name} must be numbers of at least 1, got {getattr(self, name)}")
        check_numbers(self, "positive", "focal")
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"radius must be above 0, or null for the farthest that a joint can be, got {self.radius}")
        if not self.far > 1:
            raise ValueError(f"far must be above 1, got {self.far}")
        halvings = halvings_of(self.size, self.stride, self.decoder_widths)
        check_trunk(self.backbone, self.weights, self.lifted, self.mirrored)
        if self.backbone == "pyramid":
            if len(self.appearance_widths) < halvings:
                raise ValueError(f"appearance_widths must be at least {halvings}, got {self.appearance_widths}")
        elif not 4 <= self.stride <= 32:
            raise ValueError(f"stride must be 4, 8, 16 or 32 for a ResNet, got {self.stride}")


@dataclass(frozen=True)
class PgpConfig:
    """000's values; "not given" where the paper leaves one open.

    Args:
        network: sizes of the networks.
        data: what is rendered.
        training: how long and where.
        footage: folder of videos to train on, cut into clips that are still or moving; None for the rendered benchmark.
        boxes: file with the boxes of the people in the footage; without it, what moves is taken for the person.
        skip_broken: leave out videos of the footage that cannot be read.
        variant: "unsup"; in the second stage, "multi-view" adds pairs of two cameras, "weakly" 2D labels, and "semi" 3D
            labels of a share of the frames (§4.1).
        labelled_share: of the training frames that have 3D labels in "semi", evenly spread.
        base_share: of the steps before the second stage, "finetuning". Not given.
        labelled_turns: steps on labels (or pairs of views) after each step of Algorithm 1 in the second stage. Not
            given.
        painted_turns: steps on the puppet in random paint (`posegeom_models.pgp.objective.l_painted`) after each step
            of Algorithm 1, in both stages. The paper: 0.
        pairs: samples of a step of Algorithm 1, fewer than training.batch_size where labels cost less than pictures; 0
            for as many, the paper's.
        self_supervised: without it, all steps are on labels: the paper's Encoder(Only-3D-sup) (Fig. 4).
        with_unpaired: use the poses D_z. Without them (Table 3, second row) the predicted poses take their place.
        adaptation: minimize the energies (004 Table 1, without: third row).
        beta: β, the weight of m_sal in L_I^u; 0 is the ablation without m_sal (Table 3, third row). Not given.
        beta_later: β after `beta_steps` iterations, no more than before (004 §5); nothing to a `beta` of 0. Not given.
        beta_steps: iterations of Algorithm 1 with the first β; the paper: 200,000. Steps on labels do not count.
        lambda_bones: weight of the bone-length constraint in the ablation "without_fk". Not given.
        lambda_points: weight of |q_z - q̂_z| in the energy of the pose. The paper: 0.
        lambda_view: weight of `posegeom_models.supervision.view_error`, where there are 3D labels and in the energy of
            the pose. The paper: 0.
        lambda_heat: weight of `posegeom_models.supervision.heat_error`, where there are labels and in the energy of the
            pose. The paper: 0.
        learning_rate: of each loss's optimizer.
        pose_rate: learning rate of the trunk and the pose's branch in the losses of Algorithm 1 but L_{p_z^3D}, over
            `learning_rate`. Each loss takes steps of full length, however little it knows of the pose. The paper: 1.
        parts_rate: learning rate of D_seg in L_I^u, over `learning_rate`: while Î is poor, that loss takes parts away
            everywhere. The paper: 1.
        invariance_rate: learning rate of L_I^c and L_{a_s}, over `learning_rate`: an appearance that is the same for
            everybody solves both. The paper: 1.
        views_rate: learning rate of the loss of two views, over `learning_rate`: a pose that is the same for everybody
            solves the half of it. The paper: 1.
        optimizer: "adagrad", the paper's, or "adam", which needs fewer steps.
        lifted_poses: with network.lifted, so many poses of D_z teach the pose's branches in every step, as key points
            without an image.
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
    skip_broken: bool = False
    variant: str = "unsup"
    labelled_share: float = 0.1
    base_share: float = 0.8
    labelled_turns: int = 1
    painted_turns: int = 0
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
    views_rate: float = 1.0
    optimizer: str = "adagrad"
    lifted_poses: int = 128
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
        check_choices(self, variant=VARIANTS, optimizer=OPTIMIZERS)
        if self.network.size != self.data.size:
            raise ValueError(f"network.size must be data.size, {self.data.size}, got {self.network.size}")
        if self.lambda_heat > 0 and self.network.backbone != "pyramid":
            raise ValueError(f"lambda_heat needs the pyramid's heatmaps, got network.backbone {self.network.backbone}")
        if self.painted_turns and not (self.self_supervised and self.with_unpaired):
            raise ValueError("painted_turns needs the poses D_z: self_supervised and with_unpaired must be true")
        if not self.self_supervised and self.variant in ("unsup", "multi-view"):
            raise ValueError(f"self_supervised must be true for variant {self.variant}, which has no labels")
        check_numbers(self, "in [0, 1]", "labelled_share", "base_share", "scenes", "elsewhere")
        if self.variant == "semi" and self.labelled_share == 0:
            raise ValueError("labelled_share must be above 0 for variant semi, got 0; variant unsup has no labels")
        check_numbers(self, "at least 1", "labelled_turns", "candidates", "unpaired_poses", "frame_step")
        check_numbers(self, "positive", "learning_rate")
        check_numbers(self, "at least 0", *NOT_NEGATIVE)
        if self.beta_later > self.beta > 0:
            raise ValueError(f"beta_later must be at most beta, {self.beta}, got {self.beta_later}")
        if self.network.lifted and not self.with_unpaired:
            raise ValueError("network.lifted learns depth from the poses D_z: with_unpaired must be true")
        share = self.training.devices * self.training.machines * self.training.accumulate
        for name, least in (("pairs", 0), ("lifted_poses", 1)):
            count = getattr(self, name)
            if count < least or count % share:
                raise ValueError(f"{name} must be a multiple of devices x machines x accumulate = {share}, got {count}")
        for name, count in (("training.batch_size", self.training.batch_size), ("pairs", self.pairs)):
            if count == share:
                raise ValueError(
                    f"{name} must be at least 2 x devices x machines x accumulate = {2 * share}, got {count}: batch "
                    "normalisation needs two samples in every part of a batch"
                )
        if self.variant == "multi-view":
            if self.network.ablation == "without_fk":
                raise ValueError("variant multi-view compares canonical poses, and ablation without_fk has none")
            if self.footage is None and self.data.cameras != 2:
                raise ValueError(f"variant multi-view needs data.cameras of 2, got {self.data.cameras}")
            if self.footage is not None:
                raise ValueError("variant multi-view needs cameras with known extrinsics, and footage has none")

    def samples_of(self, turn: Turn) -> int:
        """How many samples a step has."""
        return self.pairs or self.training.batch_size if turn.name == "iteration" else self.training.batch_size

    def beta_at(self, iteration: int) -> float:
        """The weight of m_sal in an iteration of Algorithm 1."""
        return self.beta_later if iteration >= self.beta_steps and self.beta > 0 else self.beta


class Turn(NamedTuple):
    """What a step does, by number: an "iteration" of Algorithm 1, "painted", or later on "labelled" or "views"."""

    name: str
    number: int


def turn_of(config: PgpConfig, step: int) -> Turn:
    """Algorithm 1, with `painted_turns` steps on painted puppets after each iteration.

    In the second stage, `labelled_turns` steps of the variant's supervision come after these.
    """
    name = "views" if config.variant == "multi-view" else "labelled"
    if not config.self_supervised:
        return Turn(name, step)
    begin = round(config.base_share * config.training.steps)
    painted, supervised, first = config.painted_turns, 0, 0
    if config.variant != "unsup" and step >= begin:
        supervised = config.labelled_turns
        # The base stage's last round may have been cut short.
        first = -(-begin // (1 + painted))
        step -= begin
    period, place = divmod(step, 1 + painted + supervised)
    if place == 0:
        return Turn("iteration", first + period)
    if place <= painted:
        return Turn("painted", (first + period) * painted + place - 1)
    return Turn(name, period * supervised + place - 1 - painted)
