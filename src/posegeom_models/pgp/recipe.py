"""000 in training: the order of its steps (Algorithm 1), and what the commands look for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.drawing import color_parts
from posegeom_models.evaluation import Prediction
from posegeom_models.pgp.batches import PgpBatch, PgpData, Posed
from posegeom_models.pgp.configuration import PgpConfig, turn_of
from posegeom_models.pgp.networks import PgpNetworks
from posegeom_models.pgp.objective import (
    bone_error,
    l_a,
    l_image_c,
    l_image_u,
    l_lifted,
    l_p3d,
    l_painted,
    l_seg,
    l_views,
)
from posegeom_models.pgp.synthesis import panels, part_labels
from posegeom_models.poses import Pose
from posegeom_models.runs import Model
from posegeom_models.supervision import heat_error, supervised, view_error
from posegeom_models.training import OPTIMIZERS, Descent, frozen, statistics_kept


class PgpRecipe:
    """Algorithm 1 of 000: the energies by turns on the encoder and on the decoder, then the three consistency losses.

    In the second stage, steps on labels or on pairs of views come in between (§4.1). Every loss has its own optimizer;
    an energy has one for each side.
    """

    recordable = True

    def __init__(self, config: PgpConfig, skeleton: pg.Skeleton = pg.BODY_17) -> None:
        self.config, self.skeleton = config, skeleton
        torch.manual_seed(config.training.seed)
        self.networks = PgpNetworks(config.network, skeleton)
        encoder, decoder = self.networks.encoder, list(self.networks.decoder.parameters())
        appearance = [*encoder.stem.parameters(), *encoder.appearance_maps.parameters()]
        parts = list(self.networks.decoder.parts_head.parameters())
        pose, drawing = _without(encoder.parameters(), appearance), _without(decoder, parts)
        # What lifts key points learns from nothing that leaves the depth open.
        branches = [*encoder.local_vectors.parameters(), *encoder.camera_parameters.parameters()]
        without_depth = _without(pose, branches) if config.network.lifted else pose
        rate = config.learning_rate
        parts_rate, invariance_rate = config.parts_rate * rate, config.invariance_rate * rate
        make = OPTIMIZERS[config.optimizer]

        def of_encoder(
            rate: float, pose_rate: float = config.pose_rate, pose: list[nn.Parameter] = pose
        ) -> list[dict[str, Any]]:
            return [{"params": pose, "lr": pose_rate * rate}, {"params": appearance, "lr": rate}]

        image_u = of_encoder(rate, pose=without_depth)
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "image_u": make([*image_u, {"params": drawing}, {"params": parts, "lr": parts_rate}], rate),
            "image_c": make([*of_encoder(invariance_rate), {"params": decoder}], invariance_rate),
            "seg": make([*of_encoder(rate), {"params": decoder}], rate),
            "p3d_encoder": make(of_encoder(rate, 1.0), rate),
            "p3d_decoder": make(decoder, rate),
            "a_encoder": make(of_encoder(invariance_rate), invariance_rate),
            "a_decoder": make(decoder, invariance_rate),
            "painted": make(pose, rate),
            "labelled": make(pose if config.variant == "semi" else without_depth, rate),
            "views": make(pose, config.views_rate * rate),
            "lifted": make(branches, rate),
        }

    def step(self, train: Descent[PgpBatch], batch: PgpBatch, number: int) -> None:
        """One iteration of Algorithm 1, or one step of supervision; then poses without images, if there are some."""
        turn = turn_of(self.config, number)
        if turn.name == "iteration":
            self._iteration(train, batch, turn.number)
        else:
            losses = {"painted": self._painted, "views": self._views, "labelled": self._labelled}
            train.minimize(turn.name, losses[turn.name], batch)
        if batch.lifted is not None:
            train.minimize("lifted", self._lifted, batch)

    def _iteration(self, train: Descent[PgpBatch], batch: PgpBatch, number: int) -> None:
        # One p_z in the whole iteration, also where it is predicted and E moves in between.
        with train.fabric.autocast():
            batch = batch._replace(pose=self._p_z(batch))
        beta = self.config.beta_at(number)
        if self.config.adaptation:
            odd = number % 2 == 1
            learning, resting = ("encoder", self.networks.decoder) if odd else ("decoder", self.networks.encoder)
            with frozen(resting):
                train.minimize(f"p3d_{learning}", self._p3d, batch)
                train.minimize(f"a_{learning}", self._a, batch)
        train.minimize("image_u", partial(self._image_u, beta), batch, case=beta)
        train.minimize("image_c", self._image_c, batch)
        train.minimize("seg", self._seg, batch)

    def _p_z(self, batch: PgpBatch) -> Pose:
        """p_z; without D_z the predicted p_t, which then is data as p_z was."""
        encoder, posed = self.networks.encoder, batch.posed
        with torch.no_grad(), statistics_kept(encoder):
            if self.config.with_unpaired:
                assert posed is not None  # an iteration's batch has them
                return self._of(posed)
            pose: Pose = encoder.pose(batch.target.image)
            return pose

    def _posed(self, part: PgpBatch) -> Pose:
        assert part.pose is not None  # `step` has found it
        return part.pose

    def _source(self, part: PgpBatch) -> Tensor:
        assert part.source is not None  # an iteration's batches are pairs
        return part.source.image

    def _image_u(self, beta: float, part: PgpBatch) -> Mapping[str, Tensor]:
        assert part.recolored is not None  # an iteration's batch has it
        assert part.salient is not None  # and this one
        pose = self.networks.encoder.pose(part.recolored)
        terms = dict(l_image_u(self.networks, self._source(part), part.target.image, pose, part.salient, beta))
        if self.config.network.ablation == "without_fk":
            terms["bones"] = self.config.lambda_bones * bone_error(pose.joints, self.skeleton)
        return terms

    def _image_c(self, part: PgpBatch) -> Mapping[str, Tensor]:
        images = self._source(part), part.target.image
        return l_image_c(self.networks, *images, self._posed(part))

    def _seg(self, part: PgpBatch) -> Mapping[str, Tensor]:
        return l_seg(self.networks, self._source(part), self._posed(part))

    def _p3d(self, part: PgpBatch) -> Mapping[str, Tensor]:
        return l_p3d(self.networks, self._source(part), self._posed(part), part.scene, *self._weights())

    def _weights(self) -> tuple[float, float, float]:
        return self.config.lambda_points, self.config.lambda_view, self.config.lambda_heat

    def _painted(self, part: PgpBatch) -> Mapping[str, Tensor]:
        assert part.posed is not None  # a batch of painted puppets has them
        assert part.paint is not None  # and this
        return l_painted(self.networks, self._of(part.posed), part.paint, part.target.image, *self._weights())

    def _of(self, posed: Posed) -> Pose:
        """Poses before random cameras, as the encoder would say them."""
        encoder = self.networks.encoder
        return encoder.posed(posed.canonical, posed.rotation, encoder.translation(posed.raw))

    def _a(self, part: PgpBatch) -> Mapping[str, Tensor]:
        return l_a(self.networks, self._source(part), self._posed(part))

    def _lifted(self, part: PgpBatch) -> Mapping[str, Tensor]:
        lifted = part.lifted
        assert lifted is not None  # `step` has looked
        assert lifted.errors is not None  # the batches' poses without images have them
        pose = self._of(lifted)
        return l_lifted(self.networks, pose, pose.points + self.config.network.size * lifted.errors)

    def _views(self, part: PgpBatch) -> Mapping[str, Tensor]:
        assert part.shift is not None  # a batch of two views has it
        poses = self.networks.encoder.pose(torch.cat((part.target.image, self._source(part))))
        first, second = (Pose(*values) for values in zip(*(_halves(value) for value in poses), strict=True))
        return l_views(first, second, part.shift)

    def _labelled(self, part: PgpBatch) -> Mapping[str, Tensor]:
        config, target, side = self.config, part.target, self.config.network.size
        pose = self.networks.encoder.pose(target.image)
        about = target.joints - target.joints[:, self.skeleton.root].unsqueeze(1)
        with_joints, direct = config.variant == "semi", config.network.ablation == "without_fk"
        joints = (about if direct else target.canonical) if with_joints else None
        terms = dict(supervised(pose, side, joints, target.points))
        if with_joints and config.lambda_view > 0:
            terms["view"] = config.lambda_view * view_error(pose, about)
        if config.lambda_heat > 0:
            terms["heat"] = config.lambda_heat * heat_error(pose, target.points, side)
        if direct:
            terms["bones"] = config.lambda_bones * bone_error(pose.joints, self.skeleton)
        return terms

    def pictures(self, batch: PgpBatch) -> Mapping[str, Tensor]:
        """Rows of source, target, Î, the puppet in the target's pose, ŷ and the pose, for a few samples."""
        networks, few = self.networks, slice(0, 6)
        target = batch.target.image[few]
        source = target if batch.source is None else batch.source.image[few]
        pose, puppet = networks.encoder.pose(target), networks.puppet
        maps = networks.drawn(pose).maps
        image, said = networks.decoder(maps[:, :-1], networks.encoder.appearance(source))
        unshaped, shaped = (color_parts(value, puppet).movedim(-1, 1) for value in (maps, said))
        size = (self.config.network.size, self.config.network.size)
        figure = pg.skeleton_image(pose.points, self.skeleton.bones, size, 0.224).unsqueeze(1).expand_as(image)
        shown = (source, target, image, unshaped, shaped, 0.5 * target + 0.5 * figure)
        rows = [torch.cat(list(row), dim=-1) for row in shown]
        return {"source, target, image, puppet, parts, pose": torch.cat(rows, dim=-2)}


def _without(parameters: Iterable[nn.Parameter], others: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    apart = {id(parameter) for parameter in others}
    return [parameter for parameter in parameters if id(parameter) not in apart]


def _halves(value: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if value is None:
        return None, None
    first, second = value.chunk(2)
    return first, second


def predict(networks: nn.Module, images: Tensor) -> Prediction:
    """The pose in images (B, 3, H, W), the parts of ŷ, which knows the person's shape, and of y_p, which does not."""
    assert isinstance(networks, PgpNetworks)
    encoder = networks.encoder
    both_ways = networks.config.mirrored
    pose, appearance = (encoder.both_ways(images), encoder.appearance(images)) if both_ways else encoder(images)
    shaped, unshaped = part_labels(networks, pose, appearance)
    return Prediction(pose.in_camera, pose.points, shaped, unaware=unshaped)


MODEL = Model(PgpConfig, PgpData, PgpRecipe, predict, lambda config: pg.BODY_17, panels)
