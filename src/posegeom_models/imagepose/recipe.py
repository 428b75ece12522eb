"""001 in training: all of its networks, and the order of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.data.reels import Reel
from posegeom_models.evaluation import Prediction
from posegeom_models.imagepose.adversary import l_d, l_d_of_phi, l_omega, legible, reconstruction
from posegeom_models.imagepose.batches import ImageposeBatch, ImageposeData
from posegeom_models.imagepose.configuration import SKELETONS, ImageposeConfig
from posegeom_models.imagepose.lifter import LiftingNetworks
from posegeom_models.imagepose.networks import Discriminator, PointRegressor, SkipNetwork, drawn
from posegeom_models.imagepose.objective import Choices, l_nf, lifter_rate, prior_rate, staged_terms
from posegeom_models.imagepose.panels import panels
from posegeom_models.imagepose.views import normalised
from posegeom_models.runs import Model
from posegeom_models.training import Descent, frozen

BETAS = (0.5, 0.999)
"""Of Adam for networks of images, as in the work that they are from."""

WEIGHT_DECAY = 1e-5
"""Of Λ and the flow, as in the work that they are from."""


class Pose(NamedTuple):
    """What Φ, Ω and Λ say of images.

    Attributes:
        skeleton_image: (B, C, S, S) s, in [−1, 1] or thereabouts.
        points: (B, J, 2) y, pixels.
        joints: (B, J, 3) v about the root, in units of the normalised pose, in the camera's axes.
        elevation: (B,) of the camera, radians; positive looks down.
    """

    skeleton_image: Tensor
    points: Tensor
    joints: Tensor
    elevation: Tensor


class ImageposeNetworks(nn.Module):
    """All networks of 001 by their names there, and the flow."""

    def __init__(self, config: ImageposeConfig) -> None:
        super().__init__()
        skeleton = SKELETONS[config.skeleton]
        self.config, self.skeleton, self.masked = config.image, skeleton, config.masked
        width = config.image.width
        channels = config.image.channels
        self.phi = SkipNetwork(3, channels, width)
        self.omega = PointRegressor(len(skeleton.joints), width, channels)
        self.discriminator = Discriminator(config.image)
        self.lifting = LiftingNetworks(config.lifter, skeleton)
        # κ(y) and another frame to the image: only with the reconstruction.
        self.redrawing = SkipNetwork(channels + 3, 3, width) if config.lambda_image > 0 else None

    def kappa(self, points: Tensor) -> Tensor:
        """κ in [−1, 1], (B, C, S, S), of points (B, J, 2) in pixels."""
        return 2 * drawn(points, self.config, self.skeleton) - 1

    def unit(self, points: Tensor) -> Tensor:
        """Points in pixels, in [−1, 1] over the image."""
        return 2 * points / (self.config.size - 1) - 1

    def normalised(self, points: Tensor) -> Tensor:
        """Points in pixels, as Λ and the flow take them."""
        lifting = self.lifting
        return normalised(points, lifting.get_buffer("scale"), self.skeleton.root, lifting.config.base)

    def forward(self, images: Tensor) -> Pose:
        """The test-time path (§3.1): images (B, 3, S, S) in [0, 1] to their poses."""
        skeleton_image = self.phi(2 * images - 1)
        points = self.omega(skeleton_image).float()
        if self.config.mirrored:
            mirrored = self.omega(self.phi(2 * images.flip(-1) - 1)).float()
            points = (points + pg.flip_joints(mirrored, self.skeleton, width=self.config.size)) / 2
        return Pose(skeleton_image, points, *self.lifting(self.normalised(points)))


class Stage(NamedTuple):
    """How far training has come after the flow.

    Attributes:
        drawn: what Φ draws counts, for Λ and in L_Ω.
        lifting: share of Λ's steps that are over; None before them, or without them.
    """

    drawn: bool
    lifting: float | None


class ImageposeRecipe:
    """First the flow; then, each step, eq. (12) for Φ, Ω and Λ with D frozen, and L_D for D.

    Eq. (12) is one sum with one optimizer; or, where `joint` is false, Φ has L_D (and what the paper
    does not have), Ω has L_Ω, and Λ has the rest, with an optimizer each.
    """

    recordable = False

    def __init__(self, config: ImageposeConfig) -> None:
        self.config, self.skeleton = config, SKELETONS[config.skeleton]
        torch.manual_seed(config.training.seed)
        networks = self.networks = ImageposeNetworks(config)
        self.choices = Choices(config.ablation, config.norms, config.sigma, config.bones_from, config.elevation_from)
        lifter = networks.lifting.lifter
        drawing: list[nn.Module] = [networks.phi] if networks.redrawing is None else [networks.phi, networks.redrawing]
        learners: dict[str, list[nn.Module]] = {
            "omega": [networks.omega],
            "pose": [*drawing, networks.omega, lifter] if config.joint else drawing,
            "discriminator": [networks.discriminator],
        }
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            **{
                name: torch.optim.Adam([p for one in some for p in one.parameters()], config.learning_rate, BETAS)
                for name, some in learners.items()
            },
            "prior": _adam(networks.lifting.prior, config.prior_rate),
            **({} if config.joint else {"lifter": _adam(lifter, config.lifter_rate)}),
        }

    def step(self, train: Descent[ImageposeBatch], batch: ImageposeBatch, number: int) -> None:
        """One step of the flow, or one of the pose networks and one of D."""
        config, networks = self.config, self.networks
        if batch.statistics is not None:
            networks.lifting.adopt(batch.statistics)
        if number < config.prior_steps:
            self._set_rate("prior", prior_rate(config.prior_rate, number / config.prior_steps))
            train.minimize("prior", self._prior, batch)
            if config.omega_early:
                train.minimize("omega", lambda part: {"Omega": self._l_omega(part)}, batch)
            return
        stage = self._stage(number)
        # s = Φ(x) of each part of the batch, for the losses after the one that moves Φ.
        drawn: list[Tensor] = []
        if config.joint:
            with frozen(networks.lifting.prior, networks.discriminator):
                train.minimize("pose", lambda part: self._pose(part, stage, drawn), batch)
        else:
            self._apart(train, batch, stage, drawn)
        images = iter(drawn)
        train.minimize("discriminator", lambda part: self._discriminator(part, next(images)), batch)

    def _stage(self, number: int) -> Stage:
        config = self.config
        share = (number - config.prior_steps) / (config.training.steps - config.prior_steps)
        begin = 0.0 if config.lift_unpaired else config.drawn_from
        idle = config.ablation == "images" or begin == 1 or share < begin
        return Stage(share >= config.drawn_from, None if idle else (share - begin) / (1 - begin))

    def _apart(self, train: Descent[ImageposeBatch], batch: ImageposeBatch, stage: Stage, drawn: list[Tensor]) -> None:
        """Φ, Ω and Λ in turn, with what the one before says as data."""
        networks, read = self.networks, list[Tensor]()
        with frozen(networks.discriminator):
            train.minimize("pose", lambda part: self._drawing(part, self._draw(part, drawn)), batch)
        images, points = iter(drawn), iter(read)

        def reading(part: ImageposeBatch) -> Mapping[str, Tensor]:
            s = next(images) if stage.drawn else None
            y = None if s is None else networks.omega(s).float()
            read.extend([] if y is None else [y.detach()])
            return {"Omega": self._l_omega(part, s, y)}

        train.minimize("omega", reading, batch)
        if stage.lifting is None:
            return
        self._set_rate("lifter", lifter_rate(self.config.lifter_rate, stage.lifting))
        with frozen(networks.lifting.prior):
            train.minimize("lifter", lambda part: self._lifting(part, next(points, None), stage), batch)

    def _set_rate(self, name: str, rate: float) -> None:
        """Each has its own fall of the learning rate; the engine multiplies it with that of the whole run."""
        for group in self.optimizers[name].param_groups:
            group["initial_lr"] = rate

    def _prior(self, part: ImageposeBatch) -> Mapping[str, Tensor]:
        return {"NF": l_nf(self.networks.lifting.prior, self.networks.normalised(part.points))}

    def _draw(self, part: ImageposeBatch, drawn: list[Tensor]) -> Tensor:
        """s, which is noted as data, too."""
        assert part.image is not None  # the flow's steps are over
        s: Tensor = self.networks.phi(2 * part.image - 1)
        drawn.append(s.detach())
        return s

    def _pose(self, part: ImageposeBatch, stage: Stage, drawn: list[Tensor]) -> Mapping[str, Tensor]:
        """Eq. (12)."""
        s = self._draw(part, drawn)
        y = self.networks.omega(s).float() if stage.drawn else None
        terms = {**self._drawing(part, s), "Omega": self._l_omega(part, s, y)}
        return terms if stage.lifting is None else {**terms, **self._lifting(part, y, stage)}

    def _drawing(self, part: ImageposeBatch, s: Tensor) -> Mapping[str, Tensor]:
        """What Φ is told of s: L_D, and two terms in which Ω may not put joints where it serves."""
        networks, config = self.networks, self.config
        terms = {"D": config.lambda_d * l_d_of_phi(networks.discriminator(s), config.form)}
        if networks.redrawing is None and config.lambda_s == 0:
            return terms
        with frozen(networks.omega):
            again = networks.kappa(networks.omega(s).float())
        if config.lambda_s > 0:
            terms["s"] = config.lambda_s * legible(s, again)
        if networks.redrawing is not None and part.image is not None and part.other is not None:
            redrawn = networks.redrawing(torch.cat((again, 2 * part.other - 1), dim=1))
            terms["image"] = config.lambda_image * reconstruction(2 * part.image - 1, redrawn)
        return terms

    def _l_omega(self, part: ImageposeBatch, s: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """L_Ω, over unpaired poses, and over images once what Φ draws counts."""
        networks, config = self.networks, self.config
        whole = config.poses or config.training.batch_size
        # A share of the poses at hand, which are a process's, or a part's.
        points = part.points[: len(part.points) * (config.omega_poses or whole) // whole]
        said = networks.omega(networks.kappa(points)).float()
        again = None if s is None or y is None else (networks.kappa(y), s)
        return config.weight_omega * l_omega(networks.unit(said), networks.unit(points), again, config.lambda_omega)

    def _lifting(self, part: ImageposeBatch, y: Tensor | None, stage: Stage) -> Mapping[str, Tensor]:
        """L_base + L_NF + L_bl, of what Ω says of images and of unpaired poses."""
        assert stage.lifting is not None
        unpaired = part.points if self.config.lift_unpaired else None
        poses = torch.cat([points for points in (y, unpaired) if points is not None])
        networks = self.networks
        return staged_terms(networks.lifting, networks.normalised(poses), self.choices, stage.lifting)

    def _discriminator(self, part: ImageposeBatch, fake: Tensor) -> Mapping[str, Tensor]:
        networks = self.networks
        with torch.no_grad():
            real = networks.kappa(part.points[: len(fake)])
        return {"D": l_d(networks.discriminator(real), networks.discriminator(fake), self.config.form)}

    def pictures(self, batch: ImageposeBatch) -> Mapping[str, Tensor]:
        """Images, skeleton images s, what Ω reads from them, and unpaired ones; while the flow learns, those alone."""
        networks, few = self.networks, slice(0, 6)
        rows = [networks.kappa(batch.points[few])]
        if batch.image is not None:
            pose = networks(batch.image[few])
            rows = [2 * batch.image[few] - 1, pose.skeleton_image, networks.kappa(pose.points), *rows]
        strips = [torch.cat(list(row.expand(-1, 3, -1, -1)), dim=-1) for row in rows]
        return {"image, s, y, prior": (torch.cat(strips, dim=-2) + 1) / 2}


def _adam(network: nn.Module, rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), rate, weight_decay=WEIGHT_DECAY)


def predict(networks: nn.Module, images: Tensor) -> Prediction:
    """The pose in images (B, 3, H, W); in metres, if the mean bone is as long as the skeleton's."""
    assert isinstance(networks, ImageposeNetworks)
    pose: Pose = networks(images)
    return Prediction(_metres(pose.joints, networks.skeleton), pose.points)


def _metres(joints: Tensor, skeleton: pg.Skeleton) -> Tensor:
    if skeleton.lengths is None:
        return joints
    mean = pg.bone_vectors(joints, skeleton).norm(dim=-1).mean(-1).clamp(min=1e-6)
    in_metres: Tensor = joints * (sum(skeleton.lengths) / len(skeleton.lengths) / mean)[:, None, None]
    return in_metres


def drawn_panels(networks: nn.Module, reel: Reel, random: np.random.Generator) -> Mapping[str, npt.NDArray[np.uint8]]:
    """Panels of `posegeom_models.imagepose.panels`."""
    assert isinstance(networks, ImageposeNetworks)
    device = next(networks.parameters()).device

    def say(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            pose: Pose = networks(images.to(device))
        return pose.skeleton_image.cpu(), pose.points.cpu(), _metres(pose.joints, networks.skeleton).cpu()

    return panels(say, reel, networks.masked, random)


MODEL = Model(
    ImageposeConfig,
    ImageposeData,
    ImageposeRecipe,
    predict,
    lambda config: SKELETONS[config.skeleton],
    drawn_panels,
    masked=lambda config: config.masked,
)
