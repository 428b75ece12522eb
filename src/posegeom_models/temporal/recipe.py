"""003 in training: the order of its steps, and what the commands look for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.evaluation import Prediction
from posegeom_models.runs import Model
from posegeom_models.temporal.analyses import panels
from posegeom_models.temporal.batches import Labelled, TemporalBatch, TemporalData, Videos
from posegeom_models.temporal.configuration import TemporalConfig, stage_of
from posegeom_models.temporal.networks import Codes, TemporalNetworks
from posegeom_models.temporal.objective import (
    box_prior,
    l_2d,
    l_adversary,
    l_css,
    l_discriminator,
    l_dsl,
    l_mv_css,
    l_reconst,
    l_similarity,
    l_track,
    quadruples,
    random_order,
    recolored,
    scenes,
    swapped,
    turned,
)
from posegeom_models.temporal.reading import phi_groups, pose_terms
from posegeom_models.temporal.regressors import in_box
from posegeom_models.training import Descent, frozen


class Encoded(NamedTuple):
    """What S and the encoders make of the frames of Q videos.

    Attributes:
        image: (4Q, 3, S, S).
        boxes: (4Q, 4).
        codes: (Q, 4, D) and (Q, 4, E).
    """

    image: Tensor
    boxes: Tensor
    codes: Codes


class TemporalRecipe:
    """First the codes, of single videos (§3.4); then, with them frozen, the poses from them.

    The first phase minimizes L_total = L_reconst + α L^all_DSL + γ L_track + η L_2D with one optimizer; L_track counts
    in the pre-training, when L_DSL does not (S.1).
    """

    recordable = False

    def __init__(self, config: TemporalConfig, skeleton: pg.Skeleton = pg.BODY_17) -> None:
        self.config, self.skeleton = config, skeleton
        torch.manual_seed(config.training.seed)
        networks = self.networks = TemporalNetworks(
            config.network, skeleton, config.eta > 0, config.compares_features, config.disentangle == "adversary"
        )
        learners = [networks.detector, networks.encoder, networks.decoder, networks.theta if config.eta > 0 else None]
        self.learners = [network for network in learners if network is not None]
        rate = config.pose_rate
        late = phi_groups(networks.phi, config)
        if config.eta == 0:  # the linear probe learns beside Φ
            late.append({"params": list(networks.theta.parameters()), "lr": config.probe_rate, "weight_decay": 0.0})
        if config.end_to_end:
            late.append({"params": list(networks.encoder.parameters()), "lr": rate, "weight_decay": 0.0})
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "total": torch.optim.Adam([p for each in self.learners for p in each.parameters()], config.learning_rate),
            "pose": torch.optim.AdamW(late, rate),
        }
        if networks.discriminator is not None:
            parameters = networks.discriminator.parameters()
            self.optimizers["discriminator"] = torch.optim.Adam(parameters, config.learning_rate)
        self.rates = {name: [group["lr"] for group in each.param_groups] for name, each in self.optimizers.items()}

    def step(self, train: Descent[TemporalBatch], batch: TemporalBatch, number: int) -> None:
        """One step on L_total (and one of DrNet's discriminator), or one on L_3D."""
        config, networks, stage = self.config, self.networks, stage_of(self.config, number)
        if batch.statistics is not None:
            networks.phi.adopt(batch.statistics)
        if config.falling_rates:
            for name, optimizer in self.optimizers.items():
                for group, rate in zip(optimizer.param_groups, self.rates[name], strict=True):
                    group["initial_lr"] = stage.share * rate
        if stage.name == "pose":
            still = [each for each in self.learners if each is not networks.encoder or not config.end_to_end]
            with frozen(*still):
                train.minimize("pose", self._pose, batch)
            return
        early = stage.name == "pretraining"
        if networks.discriminator is None or early:
            train.minimize("total", lambda part: self._total(part, early), batch)
            return
        codes: list[Tensor] = []
        with frozen(networks.discriminator):
            train.minimize("total", lambda part: self._total(part, early, codes), batch)
        parts = iter(codes)  # the discriminator judges the codes that the encoder was judged by
        train.minimize("discriminator", lambda part: self._discriminator(part, next(parts)), batch)

    def see(self, videos: Videos) -> Encoded:
        """Boxes, and codes of crops; E_tv sees them in other colours where the latent is split."""
        networks, image = self.networks, videos.image.flatten(0, 1)
        boxes = networks.boxes(image)
        crops = networks.crops(image, boxes)
        jittered = recolored(crops, self.config.jitter) if self.config.network.split else None
        return Encoded(image, boxes, quadruples(networks.encoder(crops, jittered)))

    def reconstructed(self, videos: Videos, seen: Encoded, codes: Codes) -> Tensor:
        """Ĩ = M × D + (1 − M) × B (eq. 1) from codes (Q, 4, ·) in the boxes seen."""
        drawn = self.networks.draw(Codes(*(code.flatten(0, 1) for code in codes)), seen.boxes)
        return pg.composite(drawn.image, drawn.mask, videos.background.flatten(0, 1))

    def _total(self, part: TemporalBatch, early: bool, kept: list[Tensor] | None = None) -> Mapping[str, Tensor]:
        """The terms of L_total; the codes of the videos are `kept` for who wants them."""
        config, videos = self.config, part.videos
        assert videos is not None  # the first phase's batches are videos
        seen = self.see(videos)
        codes, terms = seen.codes, dict[str, Tensor]()
        if kept is not None:
            kept.append(codes.variant.detach())
        other = None if part.other_view is None else self.see(part.other_view)
        if self.networks.decoder is not None:
            if config.disentangle == "views":
                terms |= self._views(part, seen, other)
            else:
                if config.network.split:
                    order = random_order(len(codes.invariant), codes.invariant.shape[1], codes.invariant.device)
                    codes = codes._replace(invariant=swapped(codes.invariant, order))
                terms |= self._reconst(seen.image, self.reconstructed(videos, seen, codes))
        if config.contrast != "none" and not early:
            terms["contrast"] = config.alpha * self._contrast(seen, other, videos.distance)
        if config.disentangle == "adversary" and not early:
            discriminator = self.networks.discriminator
            assert discriminator is not None  # the configuration's
            same, _ = scenes(discriminator, seen.codes.variant, videos.clip)
            terms["similarity"] = config.lambda_similarity * l_similarity(seen.codes.invariant)
            terms["adversary"] = config.lambda_adversary * l_adversary(same)
        if early:
            track = l_track(seen.boxes.unflatten(0, (-1, 4)), config.fall)
            terms |= {name: config.gamma * value for name, value in track.items()}
        if config.eta > 0:
            terms["2D"] = config.eta * self._weak(videos, seen)
        if config.prior_weight > 0 and self.networks.detector is not None:
            boxes = seen.boxes if other is None else torch.cat((seen.boxes, other.boxes))
            terms["prior"] = box_prior(boxes, config.prior_weight, config.prior_extent, config.prior_centred)
        return terms

    def _reconst(self, image: Tensor, drawn: Tensor) -> Mapping[str, Tensor]:
        return l_reconst(image, drawn, self.networks.features, self.config.lambda_pixels, self.config.rho)

    def _contrast(self, seen: Encoded, other: Encoded | None, distance: Tensor) -> Tensor:
        config, variant = self.config, seen.codes.variant
        if config.contrast == "dsl":
            return l_dsl(variant, distance, config.away)
        if config.contrast == "css":
            return l_css(variant, config.temperature)
        assert other is not None  # mv-css has a second view
        return l_mv_css(variant, other.codes.variant, config.margin)

    def _weak(self, videos: Videos, seen: Encoded) -> Tensor:
        # Labels move with the boxes, but do not move them: a box that grew would shrink every error.
        target = in_box(videos.points.flatten(0, 1), seen.boxes.detach(), self.config.network.size)
        return l_2d(self.networks.points(seen.codes.variant.flatten(0, 1)), target, videos.known.flatten(0, 1))

    def _views(self, part: TemporalBatch, seen: Encoded, other: Encoded | None) -> Mapping[str, Tensor]:
        """NSD: each view is drawn from the other view's I_tv, turned, and its own I_ti of another instant."""
        videos, second, shift = part.videos, part.other_view, part.shift
        assert videos is not None  # the first phase's batches are videos,
        assert second is not None  # by two cameras,
        assert shift is not None  # whose rotations are known
        assert other is not None
        images, drawn = [], []
        for there, here, video, rotation in ((other, seen, videos, shift.mT), (seen, other, second, shift)):
            order = random_order(len(shift), shift.shape[1], shift.device)
            codes = Codes(turned(there.codes.variant, rotation), swapped(here.codes.invariant, order))
            images.append(here.image)
            drawn.append(self.reconstructed(video, here, codes))
        return self._reconst(torch.cat(images), torch.cat(drawn))

    def _discriminator(self, part: TemporalBatch, variant: Tensor) -> Mapping[str, Tensor]:
        discriminator = self.networks.discriminator
        assert part.videos is not None  # the first phase's batches are videos
        assert discriminator is not None  # DrNet's
        return {"scenes": l_discriminator(*scenes(discriminator, variant, part.videos.clip))}

    def _pose(self, part: TemporalBatch) -> Mapping[str, Tensor]:
        assert part.labelled is not None  # the second phase's batches have labels
        return pose_terms(self.networks, self.networks.phi, part.labelled, self.config)

    def pictures(self, batch: TemporalBatch) -> Mapping[str, Tensor]:
        """Images with their boxes' crops, masks and, where they are drawn, reconstructions of a few frames."""
        networks, few = self.networks, slice(0, 6)
        if batch.videos is not None:
            image, background = (value.flatten(0, 1)[few] for value in (batch.videos.image, batch.videos.background))
        else:
            assert isinstance(batch.labelled, Labelled)  # a batch is of one phase
            image = background = batch.labelled.image[few]
        boxes = networks.boxes(image)
        rows = [image, pg.paste(networks.crops(image, boxes), boxes, (self.config.network.size,) * 2)]
        if networks.decoder is not None:
            drawn = networks.draw(networks.encoder(networks.crops(image, boxes)), boxes)
            rows += [drawn.mask.expand_as(image), pg.composite(drawn.image, drawn.mask, background)]
        strips = [torch.cat(list(row), dim=-1) for row in rows]
        return {"image, box, mask, reconstruction": torch.cat(strips, dim=-2)}


def predict(networks: nn.Module, images: Tensor) -> Prediction:
    """The pose in images (B, 3, H, W), and the person's mask where there is a decoder."""
    assert isinstance(networks, TemporalNetworks)
    told = networks(images)
    joints = told.joints - told.joints[:, networks.skeleton.root].unsqueeze(1)
    mask = None if told.mask is None else told.mask.squeeze(1) > networks.config.threshold
    return Prediction(joints, told.points, mask=mask)


MODEL = Model(TemporalConfig, TemporalData, TemporalRecipe, predict, lambda config: pg.BODY_17, panels)
