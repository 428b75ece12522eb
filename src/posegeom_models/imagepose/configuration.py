"""What is chosen for a training of 001."""

from __future__ import annotations

from dataclasses import dataclass, field

import posegeom as pg
from posegeom_models.data.identities import DOMAINS
from posegeom_models.data.rendered import RenderedConfig
from posegeom_models.imagepose.adversary import FORMS
from posegeom_models.imagepose.lifter import LifterConfig
from posegeom_models.imagepose.networks import ImageConfig
from posegeom_models.imagepose.objective import ABLATIONS, LENGTHS, NORMS
from posegeom_models.ranges import check_choices, check_numbers
from posegeom_models.training import TrainingConfig

ROWS = (*ABLATIONS, "images")
"""Of Table 3, from its last row to its first: "images" is L_D + L_Ω, with nothing for Λ to learn from."""

SKELETONS = {skeleton.name: skeleton for skeleton in (pg.H36M_17, pg.BODY_17, pg.HAND_21)}

NOT_NEGATIVE = (
    *("poses", "omega_poses", "prior_clips", "pair_gap"),
    *("weight_omega", "lambda_omega", "lambda_d", "lambda_image", "lambda_s"),
)
"""Fields that may be 0."""


@dataclass(frozen=True)
class ImageposeConfig:
    """001's values; "not given" where the paper leaves one open.

    Args:
        image: sizes of Φ, Ω and D, and κ.
        lifter: sizes of Λ and of the flow.
        data: what is rendered.
        training: how long and where; its steps are those of the flow and then those of everything else.
        prior_steps: steps of the flow's pre-training, at the beginning. Not given.
        prior_rate: learning rate of the flow, which falls to 0 by a cosine. Not given.
        learning_rate: of the other networks. Not given; that of the work that Φ, Ω and D are from.
        lifter_rate: of Λ, which falls exponentially to 0.6 %, where Λ is trained apart (`joint` is false); that of the
            work that Λ is from.
        skeleton: H36M_17, BODY_17 or HAND_21, whose images are of hands.
        prior_share: of the recordings whose 2D poses are the prior; the images are of the others. Of HandDB the paper
            takes half.
        prior_clips: how many clips of these recordings, with people and cameras of their own, lend 2D poses; none is
            rendered. 0 for those of the rendered clips that show no image.
        poses: 2D poses of a step, a multiple of training.batch_size, where the flow and Ω (and Λ, with `lift_unpaired`)
            are to see more of them than there are images; 0 for as many.
        omega_poses: those of them that Ω sees, likewise a multiple; 0 for all.
        mirrored: the prior has a mirror image of each of its poses, too, left and right exchanged. The paper: false.
        lengths: b̄: "motion", the mean over the 3D poses that the prior's 2D poses are views of; or "human36m".
        more_images: a domain whose images are shown as often as those of `data.domain`, and whose 2D poses are not in
            the prior (Table 2, Ours⁺); None for none.
        rotations: degrees by which copies of the images, and of the prior's poses, are turned clockwise; of hands the
            paper adds copies at 45° and 90°. Each sample is of one of these copies, or not turned.
        masked: cut the person out of the images, as 001 does; then they have to be cut out at test time too.
        form: of L_D, "log" (eq. 3) or "lsgan".
        norms: of eqs. (4) to (6), "printed" or "public".
        sigma: σ_b. Not given.
        weight_omega: of L_Ω. The paper: 1.
        omega_early: Ω learns to read unpaired skeleton images while the flow is trained. The paper: false.
        lambda_omega: λ of eq. (9).
        lambda_d: weight of L_D for Φ. The paper: 1.
        lambda_image: weight of `posegeom_models.imagepose.adversary.reconstruction`. The paper: 0.
        lambda_s: weight of `posegeom_models.imagepose.adversary.legible`. The paper: 0.
        bones_from: share of the steps with Λ after which L_bl joins. The paper: 0; see `LiftingConfig`.
        elevation_from: share of the steps with Λ after which its own elevations are used. The paper: 0; see
            `LiftingConfig`.
        drawn_from: share of the steps after the flow's from which what Φ draws counts: for Λ, which is trained on the
            poses that it shows, and for λ ‖κ(y) − s‖². Before, it shows nothing yet. The paper: 0.
        lift_unpaired: Λ is trained on the unpaired 2D poses too, as soon as the flow is. The paper: false.
        joint: eq. (12) is one sum with one optimizer for Φ, Ω and Λ, so that L_base, L_NF and L_bl reach Φ and Ω too;
            or Φ, Ω and Λ have a loss and an optimizer each. Either way the reconstruction does not move Ω. The paper:
            true.
        ablation: row of Table 3: "none", "without_bl", "base" or "images".
        pair_gap: seconds at least between a frame and the one that lends the reconstruction its looks.
        frame_step: every how many-th frame of a clip is used.
    """

    image: ImageConfig = field(default_factory=ImageConfig)
    lifter: LifterConfig = field(default_factory=LifterConfig)
    data: RenderedConfig = field(default_factory=lambda: RenderedConfig(size=128, anywhere=0.0))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=320_000, batch_size=16))
    prior_steps: int = 20_000
    prior_rate: float = 1e-4
    learning_rate: float = 2e-4
    lifter_rate: float = 2e-4
    skeleton: str = "H36M_17"
    prior_share: float = 0.4
    prior_clips: int = 0
    poses: int = 0
    omega_poses: int = 0
    mirrored: bool = False
    lengths: str = "motion"
    more_images: str | None = None
    rotations: tuple[float, ...] = ()
    masked: bool = True
    form: str = "log"
    norms: str = "printed"
    sigma: float = 0.1
    weight_omega: float = 1.0
    omega_early: bool = False
    lambda_omega: float = 0.1
    lambda_d: float = 1.0
    lambda_image: float = 0.0
    lambda_s: float = 0.0
    bones_from: float = 0.0
    elevation_from: float = 0.0
    drawn_from: float = 0.0
    lift_unpaired: bool = False
    joint: bool = True
    ablation: str = "none"
    pair_gap: float = 0.5
    frame_step: int = 1

    def __post_init__(self) -> None:
        check_choices(self, form=FORMS, norms=NORMS, ablation=ROWS, lengths=LENGTHS, skeleton=SKELETONS)
        if self.more_images is not None and self.more_images not in set(DOMAINS) - {self.data.domain}:
            raise ValueError(f"more_images must be another domain than {self.data.domain}, got {self.more_images!r}")
        if self.image.size != self.data.size:
            raise ValueError(f"image.size must be data.size, {self.data.size}, got {self.image.size}")
        if not 1 <= self.prior_steps < self.training.steps:
            raise ValueError(f"prior_steps must be 1 to training.steps - 1, got {self.prior_steps}")
        for name in ("poses", "omega_poses"):
            if getattr(self, name) % self.training.batch_size:
                raise ValueError(
                    f"{name} must be a multiple of {self.training.batch_size} images, got {getattr(self, name)}"
                )
        if self.omega_poses > (self.poses or self.training.batch_size):
            raise ValueError(f"omega_poses must be at most poses, {self.poses}, got {self.omega_poses}")
        if not 0 < self.prior_share < 1:
            raise ValueError(f"prior_share must be between 0 and 1, got {self.prior_share}")
        skeleton = SKELETONS[self.skeleton]
        if skeleton.mirror == tuple(range(len(skeleton.joints))):
            for name, mirrored in (("mirrored", self.mirrored), ("image.mirrored", self.image.mirrored)):
                if mirrored:
                    raise ValueError(f"{name} needs a skeleton with a left and a right side, got {self.skeleton}")
        check_numbers(self, "positive", "prior_rate", "learning_rate", "lifter_rate", "sigma")
        check_numbers(self, "in [0, 1]", "bones_from", "elevation_from", "drawn_from")
        check_numbers(self, "at least 0", *NOT_NEGATIVE)
        check_numbers(self, "at least 1", "frame_step")
