"""001 in training: all of its networks, and the order of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.data.reels import Reel
from posegeom_models.evaluation import Prediction
from posegeom_models.imagepose.adversary import l_d, l_d_of_phi, l_omega, reconstruction
from posegeom_models.imagepose.batches import ImageposeBatch, ImageposeData
from posegeom_models.imagepose.configuration import SKELETONS, ImageposeConfig
from posegeom_models.imagepose.lifter import LiftingNetworks, turn_and_lift_again
from posegeom_models.imagepose.networks import Discriminator, PointRegressor, SkipNetwork, drawn
from posegeom_models.imagepose.objective import l_nf, lifting_terms
from posegeom_models.imagepose.panels import panels
from posegeom_models.imagepose.views import normalised
from posegeom_models.runs import Model
from posegeom_models.training import Descent, frozen, statistics_kept


class Pose(NamedTuple):
    """What Φ, Ω and Λ say of images.

    Attributes:
        skeleton_image: (B, 1, S, S) s, in [−1, 1] or thereabouts.
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
        self.phi = SkipNetwork(3, 1, width)
        self.omega = PointRegressor(len(skeleton.joints), width)
        self.discriminator = Discriminator(config.image)
        self.lifting = LiftingNetworks(config.lifter, skeleton)
        # κ(y) and another frame to the image: only with the reconstruction.
        self.redrawing = SkipNetwork(4, 3, width) if config.lambda_image > 0 else None

    def kappa(self, points: Tensor) -> Tensor:
        """κ in [−1, 1], (B, 1, S, S), of points (B, J, 2) in pixels."""
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
        return Pose(skeleton_image, points, *self.lifting(self.normalised(points)))


class ImageposeRecipe:
    """First the flow; then, each step, eq. (12) for Φ, Ω and Λ with D frozen, and L_D for D."""

    def __init__(self, config: ImageposeConfig) -> None:
        self.config, self.skeleton = config, SKELETONS[config.skeleton]
        torch.manual_seed(config.training.seed)
        networks = self.networks = ImageposeNetworks(config)
        learners: list[nn.Module] = [networks.phi, networks.omega, networks.lifting.lifter]
        learners += [] if networks.redrawing is None else [networks.redrawing]
        parameters = [p for network in learners for p in network.parameters()]
        rate, betas = config.learning_rate, (0.5, 0.999)
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "prior": torch.optim.Adam(networks.lifting.prior.parameters(), config.prior_rate, weight_decay=1e-5),
            "omega": torch.optim.Adam(networks.omega.parameters(), rate, betas),
            "pose": torch.optim.Adam(parameters, rate, betas),
            "discriminator": torch.optim.Adam(networks.discriminator.parameters(), rate, betas),
        }

    def step(self, train: Descent[ImageposeBatch], batch: ImageposeBatch, number: int) -> None:
        """One step of the flow, or one of the pose networks and one of D."""
        config, networks = self.config, self.networks
        if batch.statistics is not None:
            networks.lifting.adopt(batch.statistics)
        if number < config.prior_steps:
            rate = config.prior_rate * (1 + math.cos(math.pi * number / config.prior_steps)) / 2
            for group in self.optimizers["prior"].param_groups:
                group["initial_lr"] = rate
            train.minimize("prior", self._prior, batch)
            if config.omega_early:
                train.minimize("omega", self._reading, batch)
            return
        share = (number - config.prior_steps) / (config.training.steps - config.prior_steps)
        with frozen(networks.lifting.prior, networks.discriminator):
            train.minimize("pose", lambda part: self._pose(part, share), batch)
        train.minimize("discriminator", self._discriminator, batch)

    def _prior(self, part: ImageposeBatch) -> Mapping[str, Tensor]:
        return {"NF": l_nf(self.networks.lifting.prior, self.networks.normalised(part.points))}

    def _reading(self, part: ImageposeBatch) -> Mapping[str, Tensor]:
        networks, points = self.networks, part.points[: self.config.training.batch_size]
        said = networks.omega(networks.kappa(points)).float()
        return {"u": ((networks.unit(said) - networks.unit(points)) ** 2).mean()}

    def _pose(self, part: ImageposeBatch, share: float) -> Mapping[str, Tensor]:
        networks, config, lifting = self.networks, self.config, self.networks.lifting
        assert part.image is not None  # the flow's steps are over
        skeleton_image = networks.phi(2 * part.image - 1)
        points = networks.omega(skeleton_image).float()
        again = networks.kappa(points)
        unpaired = part.points[: len(part.image)]
        said = networks.omega(networks.kappa(unpaired)).float()
        terms: dict[str, Tensor] = {
            "D": config.lambda_d * l_d_of_phi(networks.discriminator(skeleton_image), config.form),
            "Omega": config.weight_omega
            * l_omega(networks.unit(said), networks.unit(unpaired), again, skeleton_image, config.lambda_omega),
        }
        lifted = (share - config.lifting_from) / (1 - config.lifting_from) if config.lifting_from < 1 else -1.0
        if config.ablation != "images" and lifted >= 0:
            y = networks.normalised(points if config.joint else points.detach())
            if config.lift_unpaired:
                y = torch.cat((y, networks.normalised(part.points)))
            loop = turn_and_lift_again(lifting.lifter, y, lifting.config, self.skeleton.root)
            early = config.ablation == "none" and lifted < config.bones_from
            row = "without_bl" if early else config.ablation
            lengths = lifting.get_buffer("lengths")
            terms |= lifting_terms(loop, lifting.prior, self.skeleton, lengths, config.sigma, config.norms, row)
        if networks.redrawing is not None and part.other is not None:
            redrawn = networks.redrawing(torch.cat((again, 2 * part.other - 1), dim=1))
            terms["image"] = config.lambda_image * reconstruction(2 * part.image - 1, redrawn)
        return terms

    def _discriminator(self, part: ImageposeBatch) -> Mapping[str, Tensor]:
        networks = self.networks
        assert part.image is not None  # the flow's steps are over
        with torch.no_grad(), statistics_kept(networks.phi):
            fake = networks.phi(2 * part.image - 1)
            real = networks.kappa(part.points[: len(part.image)])
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
