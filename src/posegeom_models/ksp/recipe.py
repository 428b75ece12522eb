"""002 in training: the order of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.drawing import map_panel
from posegeom_models.evaluation import Prediction
from posegeom_models.ksp.batches import KspBatch, KspData
from posegeom_models.ksp.configuration import KspConfig, turn_of
from posegeom_models.ksp.imagined import imagined_error
from posegeom_models.ksp.networks import KspNetworks
from posegeom_models.ksp.objective import l_paired, l_unpaired
from posegeom_models.ksp.synthesis import panels
from posegeom_models.poses import Pose
from posegeom_models.runs import Model
from posegeom_models.supervision import heat_error, supervised, view_error
from posegeom_models.training import OPTIMIZERS, Descent, frozen


class KspRecipe:
    """002's order of steps: L_prior, L_P and L_UNP in turn, each with its own optimizer (§3.3, §4).

    In the second stage L_UNP rests, and the labels of the variant take its place.
    """

    recordable = False  # nobody has tried it

    def __init__(self, config: KspConfig, skeleton: pg.Skeleton = pg.BODY_17) -> None:
        self.config, self.skeleton = config, skeleton
        torch.manual_seed(config.training.seed)
        self.networks = KspNetworks(config.network, skeleton)
        make = OPTIMIZERS[config.optimizer]
        rate = config.learning_rate

        def groups(*names: str) -> list[dict[str, Any]]:
            rates = [rate * (config.pose_rate if name == "pose_encoder" else 1.0) for name in names]
            networks = [self.networks.get_submodule(name) for name in names]
            return [{"params": [*part.parameters()], "lr": own} for part, own in zip(networks, rates, strict=True)]

        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "prior": make(self.networks.pose_encoder.parameters(), rate),
            "paired": make(groups("pose_encoder", "appearance_encoder", "spatial_maps", "decoder"), rate),
            "unpaired": make(groups("pose_encoder", "appearance_encoder"), rate),
            "labelled": make(self.networks.pose_encoder.parameters(), rate),
        }

    def step(self, train: Descent[KspBatch], batch: KspBatch, number: int) -> None:
        """One loss on one batch."""
        turn = turn_of(self.config, number)
        if turn == "unpaired":
            with frozen(self.networks.decoder, self.networks.spatial_maps):
                train.minimize(turn, self._unpaired, batch)
        else:
            losses = {"prior": self._prior, "paired": self._paired, "labelled": self._labelled}
            train.minimize(turn, losses[turn], batch)

    def _prior(self, part: KspBatch) -> Mapping[str, Tensor]:
        return self._taught(part, with_joints=True)

    def _labelled(self, part: KspBatch) -> Mapping[str, Tensor]:
        with_joints = self.config.variant == "semi"
        if with_joints or not self.config.closed_branches:
            return self._taught(part, with_joints)
        with self._without_depth():
            terms = self._supervised(part, self.networks.pose_encoder(part.target.image), with_joints)
        return {**terms, **self._imagined(part)}

    def _taught(self, part: KspBatch, with_joints: bool) -> Mapping[str, Tensor]:
        """Labels and imagined poses together: what both pass through is passed once."""
        encoder, image = self.networks.pose_encoder, part.target.image
        if part.imagined is None:
            return self._supervised(part, encoder(image), with_joints)
        pose, said = encoder.beside(image, part.imagined.found)
        return {**self._supervised(part, pose, with_joints), **self._imagined(part, said)}

    def _imagined(self, part: KspBatch, said: Pose | None = None) -> Mapping[str, Tensor]:
        if part.imagined is None:
            return {}
        if said is None:
            said = self.networks.pose_encoder.lift(part.imagined.found)
        error = imagined_error(said, part.imagined, self.config.network.size)
        return {"imagined": self.config.lambda_imagined * error}

    def _without_depth(self) -> AbstractContextManager[None]:
        encoder = self.networks.pose_encoder
        closed = [encoder.local_kinematics, encoder.camera_parameters] if self.config.closed_branches else []
        return frozen(*closed)

    def _supervised(self, part: KspBatch, pose: Pose, with_joints: bool) -> Mapping[str, Tensor]:
        config, target, side = self.config, part.target, self.config.network.size
        terms = dict(supervised(pose, side, target.canonical if with_joints else None, target.points))
        if with_joints and config.lambda_view > 0:
            about = target.joints - target.joints[:, self.skeleton.root].unsqueeze(1)
            terms["view"] = config.lambda_view * view_error(pose, about)
        if config.lambda_heat > 0:
            terms["heat"] = config.lambda_heat * heat_error(pose, target.points, side)
        return terms

    def _paired(self, part: KspBatch) -> Mapping[str, Tensor]:
        config, source = self.config, part.source
        assert source is not None  # L_P's batches are pairs
        images = source.image, part.target.image, part.target.background
        with self._without_depth():
            terms = l_paired(self.networks, *images, config.lambda_1, config.lambda_2, config.lambda_figure)
        return {**terms, **self._imagined(part)}

    def _unpaired(self, part: KspBatch) -> Mapping[str, Tensor]:
        config, source, backdrop, transformation = self.config, part.source, part.backdrop, part.transformation
        assert source is not None  # L_UNP's batches are pairs,
        assert backdrop is not None  # with random backgrounds
        assert transformation is not None  # and a T for each
        images = source.image, part.target.image, backdrop
        with self._without_depth():
            terms = l_unpaired(self.networks, *images, transformation, config.lambda_2)
        return {**terms, **self._imagined(part)}

    def pictures(self, batch: KspBatch) -> Mapping[str, Tensor]:
        """Source, target, reconstruction and the drawn pose, for a few samples; and what T_m makes of the first one."""
        networks, few = self.networks, slice(0, 6)
        target = batch.target.image[few]
        source = target if batch.source is None else batch.source.image[few]
        pose = networks.pose_encoder(target)
        maps = networks.spatial_maps(pose.points)
        image = networks.decoder(maps, networks.appearance_encoder(source), batch.target.background[few])
        size = (self.config.network.size, self.config.network.size)
        figure = pg.skeleton_image(pose.points, self.skeleton.bones, size, 0.224).unsqueeze(1).expand_as(image)
        rows = [torch.cat(list(row), dim=-1) for row in (source, target, image, 0.5 * target + 0.5 * figure)]
        drawn = networks.spatial_maps.draw(pose.points)[0].float().cpu().numpy()
        names = [*self.skeleton.joints, *(f"to {self.skeleton.joints[child]}" for _, child in self.skeleton.bones)]
        if self.config.network.ablation == "without_maps":
            names = [f"map {number}" for number in range(len(drawn))]
        panel = torch.from_numpy(map_panel(drawn, names, 64)).movedim(-1, 0).float() / 255
        return {"source, target, reconstruction, pose": torch.cat(rows, dim=-2), "T_m": panel}


def predict(networks: nn.Module, images: Tensor) -> Prediction:
    """The pose in images (B, 3, H, W)."""
    pose: Pose = networks(images)
    return Prediction(pose.in_camera, pose.points)


MODEL = Model(KspConfig, KspData, KspRecipe, predict, lambda config: pg.BODY_17, panels)
