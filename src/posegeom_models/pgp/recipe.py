"""000 in training: the order of its steps (Algorithm 1), and what the commands look for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.drawing import color_parts
from posegeom_models.evaluation import Prediction
from posegeom_models.pgp.batches import PgpBatch, PgpData
from posegeom_models.pgp.configuration import PgpConfig, turn_of
from posegeom_models.pgp.networks import PgpNetworks
from posegeom_models.pgp.objective import bone_error, l_a, l_image_c, l_image_u, l_p3d, l_seg, l_views
from posegeom_models.pgp.synthesis import panels, part_labels
from posegeom_models.poses import Pose
from posegeom_models.runs import Model
from posegeom_models.supervision import heat_error, supervised, view_error
from posegeom_models.training import Descent, frozen, statistics_kept


class PgpRecipe:
    """Algorithm 1 of 000: the energies by turns on the encoder and on the decoder, then the three consistency losses.

    In the second stage, steps on labels or on pairs of views come in between (§4.1). Every loss has its own optimizer;
    an energy has one for each side.
    """

    def __init__(self, config: PgpConfig, skeleton: pg.Skeleton = pg.BODY_17) -> None:
        self.config, self.skeleton = config, skeleton
        torch.manual_seed(config.training.seed)
        self.networks = PgpNetworks(config.network, skeleton)
        encoder, decoder = self.networks.encoder, list(self.networks.decoder.parameters())
        appearance = [*encoder.stem.parameters(), *encoder.appearance_maps.parameters()]
        apart = {id(parameter) for parameter in appearance}
        pose = [parameter for parameter in encoder.parameters() if id(parameter) not in apart]
        parts = list(self.networks.decoder.parts_head.parameters())
        drawing = [parameter for parameter in decoder if not any(parameter is other for other in parts)]
        doubt = config.parts_rate * config.learning_rate
        rate, slow = config.learning_rate, config.invariance_rate * config.learning_rate
        make = torch.optim.Adagrad if config.optimizer == "adagrad" else torch.optim.Adam

        def of_encoder(rate: float, pose_rate: float = config.pose_rate) -> list[dict[str, Any]]:
            return [{"params": pose, "lr": pose_rate * rate}, {"params": appearance, "lr": rate}]

        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "image_u": make([*of_encoder(rate), {"params": drawing}, {"params": parts, "lr": doubt}], rate),
            "image_c": make([*of_encoder(slow), {"params": decoder}], slow),
            "seg": make([*of_encoder(rate), {"params": decoder}], rate),
            "p3d_encoder": make(of_encoder(rate, 1.0), rate),
            "p3d_decoder": make(decoder, rate),
            "a_encoder": make(of_encoder(slow), slow),
            "a_decoder": make(decoder, slow),
            "labelled": make(pose, rate),
            "views": make(pose, rate),
        }
        self.iteration = 0

    def step(self, train: Descent[PgpBatch], batch: PgpBatch, number: int) -> None:
        """One iteration of Algorithm 1, or one step of supervision."""
        turn = turn_of(self.config, number)
        if turn.name != "iteration":
            train.minimize(turn.name, self._views if turn.name == "views" else self._labelled, batch)
            return
        self.iteration = turn.number
        if self.config.adaptation:
            odd = turn.number % 2 == 1
            learning, resting = ("encoder", self.networks.decoder) if odd else ("decoder", self.networks.encoder)
            with frozen(resting):
                train.minimize(f"p3d_{learning}", self._p3d, batch)
                train.minimize(f"a_{learning}", self._a, batch)
        train.minimize("image_u", self._image_u, batch)
        train.minimize("image_c", self._image_c, batch)
        train.minimize("seg", self._seg, batch)

    def _posed(self, part: PgpBatch) -> Pose:
        """p_z; without D_z the predicted p_t, which then is data as p_z was."""
        encoder, posed = self.networks.encoder, part.posed
        with torch.no_grad(), statistics_kept(encoder):
            if self.config.with_unpaired:
                assert posed is not None  # an iteration's batch has them
                return encoder.posed(posed.canonical, posed.rotation, encoder.translation(posed.raw))
            pose: Pose = encoder.pose(part.target.image)
            return pose

    def _source(self, part: PgpBatch) -> Tensor:
        assert part.source is not None  # an iteration's batches are pairs
        return part.source.image

    def _image_u(self, part: PgpBatch) -> Mapping[str, Tensor]:
        assert part.recolored is not None  # an iteration's batch has it
        assert part.salient is not None  # and this one
        beta, source = self.config.beta_at(self.iteration), self._source(part)
        terms = dict(l_image_u(self.networks, source, part.target.image, part.recolored, part.salient, beta))
        if self.config.network.ablation == "without_fk":
            pose = self.networks.encoder.pose(part.recolored)
            terms["bones"] = self.config.lambda_bones * bone_error(pose.joints, self.skeleton)
        return terms

    def _image_c(self, part: PgpBatch) -> Mapping[str, Tensor]:
        images = self._source(part), part.target.image
        return l_image_c(self.networks, *images, self._posed(part))

    def _seg(self, part: PgpBatch) -> Mapping[str, Tensor]:
        return l_seg(self.networks, self._source(part), self._posed(part))

    def _p3d(self, part: PgpBatch) -> Mapping[str, Tensor]:
        weights = self.config.lambda_points, self.config.lambda_view, self.config.lambda_heat
        return l_p3d(self.networks, self._source(part), self._posed(part), part.scene, *weights)

    def _a(self, part: PgpBatch) -> Mapping[str, Tensor]:
        return l_a(self.networks, self._source(part), self._posed(part))

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


def _halves(value: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if value is None:
        return None, None
    first, second = value.chunk(2)
    return first, second


def predict(networks: nn.Module, images: Tensor) -> Prediction:
    """The pose in images (B, 3, H, W), the parts of ŷ, which knows the person's shape, and of y_p, which does not."""
    assert isinstance(networks, PgpNetworks)
    pose, appearance = networks.encoder(images)
    shaped, unshaped = part_labels(networks, pose, appearance)
    return Prediction(pose.in_camera, pose.points, shaped, unaware=unshaped)


MODEL = Model(PgpConfig, PgpData, PgpRecipe, predict, lambda config: pg.BODY_17, panels)
