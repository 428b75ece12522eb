"""Λ of 001 (§3), the loop of lifting, turning and projecting that trains it, and its prior on 2D poses."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.ranges import check_numbers

SLOPE = 0.01
"""Of the leaky rectifiers in Λ."""

PLANE = pg.PerspectiveCamera(1.0, (0.0, 0.0), (1, 1))
"""Projects to the plane at distance 1, with (0, 0) on the axis; there is no image."""


@dataclass(frozen=True)
class LifterConfig:
    """Sizes of Λ and of the flow; the defaults are those of the work on lifting that 001 extends.

    Args:
        width: of Λ's hidden layers.
        base: Δ, the depth that offsets are counted from, in units of the normalised pose.
        floor: the smallest depth (§3: "larger than one").
        first_elevation: of the camera in degrees, that Λ begins with. Not in the paper: it says on which side of the
            picture's plane people are, which poses from elevation 0 do not.
        components: principal components of the 2D poses that the flow sees; at most 2J − 2. Not given in the paper.
        blocks: coupling blocks of the flow. Not given in the paper.
        flow_width: of a block's hidden layer. Not given in the paper.
        finest: smallest standard deviation of a principal component, in units of the normalised pose: what varies less
            is measured by it. Not in the paper; 2D poses of few people have directions with almost no spread, along
            which a density is a wall.
    """

    width: int = 1024
    base: float = 10.0
    floor: float = 1.0
    first_elevation: float = 0.0
    components: int = 26
    blocks: int = 8
    flow_width: int = 1024
    finest: float = 1e-3

    def __post_init__(self) -> None:
        check_numbers(self, "at least 1", "width", "components", "blocks", "flow_width")
        if self.components < 2:
            raise ValueError(f"components must be at least 2, a coupling has two sides; got {self.components}")
        if not 0 < self.floor < self.base:
            raise ValueError(f"floor must be positive and below base, {self.base:g}; got {self.floor:g}")
        check_numbers(self, "positive", "finest")


class Statistics(NamedTuple):
    """What is computed once over the training poses.

    Attributes:
        scale: () mean distance from the root to the head in 2D points at distance 1.
        mean: (2J,) of the normalised 2D poses.
        components: (K, 2J) their first principal components, orthonormal.
        deviation: (K,) standard deviation along each.
        lengths: (N,) b̄, mean relative bone lengths.
    """

    scale: Tensor
    mean: Tensor
    components: Tensor
    deviation: Tensor
    lengths: Tensor


class _Residual(nn.Module):
    """x + σ(W₂ σ(W₁ x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        inner = nn.functional.leaky_relu(self.first(values), SLOPE)
        return values + nn.functional.leaky_relu(self.second(inner), SLOPE)


class Lifted(NamedTuple):
    """What Λ says of normalised 2D poses.

    Attributes:
        depth: (B, J) d, against Δ; 0 at the root.
        elevation: (B,) radians that turn the pose upright about the camera's x axis: minus the camera's elevation.
    """

    depth: Tensor
    elevation: Tensor


class Lifter(nn.Module):
    """Λ: normalised 2D poses (B, J, 2) to depths and elevation.

    A layer of `width`, a residual block that both heads share, and two more blocks for each head.
    """

    def __init__(self, config: LifterConfig, skeleton: pg.Skeleton) -> None:
        super().__init__()
        joints, width = len(skeleton.joints), config.width
        self.trunk = nn.Sequential(nn.Linear(2 * joints, width), _Residual(width), nn.LeakyReLU(SLOPE))
        self.depth, self.elevation = (
            nn.Sequential(
                *(part for _ in range(2) for part in (_Residual(width), nn.LeakyReLU(SLOPE))), nn.Linear(width, outputs)
            )
            for outputs in (joints, 1)
        )
        # Poses begin flat and seen from one elevation: random depths would choose random signs, which then stay.
        for head, first in ((self.depth, 0.0), (self.elevation, -math.radians(config.first_elevation))):
            last = head[-1]
            assert isinstance(last, nn.Linear)  # as made above
            nn.init.normal_(last.weight, std=0.01 / math.sqrt(width))
            nn.init.constant_(last.bias, first)
        # The root's depth is Δ: its output is not used.
        counts = torch.ones(joints)
        counts[skeleton.root] = 0
        self.register_buffer("counts", counts, persistent=False)

    def forward(self, points: Tensor) -> Lifted:
        """Normalised points (B, J, 2); in float32, as the geometry is, also under autocast."""
        with torch.autocast(points.device.type, enabled=False):
            values = self.trunk(points.float().flatten(1))
            return Lifted(self.depth(values) * self.get_buffer("counts"), self.elevation(values).squeeze(-1))


class PosePrior(nn.Module):
    """−log p_Y over normalised 2D poses (eqs. 7, 8): a normalising flow on their principal components.

    Components are divided by their standard deviations before the flow, which then starts near the data; the density
    is that of the undivided ones.
    """

    def __init__(self, config: LifterConfig, joints: int) -> None:
        import zuko  # type: ignore[import-untyped]

        super().__init__()
        if config.components > 2 * joints - 2:
            raise ValueError(
                f"components must be at most {2 * joints - 2}, for {joints} joints of which the root is fixed; "
                f"got {config.components}"
            )
        self.finest = config.finest
        self._made: Any = None
        # Scales between e⁻² and e²: with wider ones the density falls so steeply outside the data that a few poses of a
        # batch, which are far from it, have all of its gradient.
        self.flow = zuko.flows.RealNVP(
            config.components,
            transforms=config.blocks,
            randmask=True,
            univariate=functools.partial(zuko.transforms.MonotonicAffineTransform, slope=math.exp(-2)),
            hidden_features=(config.flow_width,),
        )
        self.register_buffer("mean", torch.zeros(2 * joints))
        self.register_buffer("components", torch.eye(config.components, 2 * joints))
        self.register_buffer("deviation", torch.ones(config.components))

    def adopt(self, statistics: Statistics) -> None:
        """Take the principal components of the training poses."""
        self.get_buffer("mean").copy_(statistics.mean)
        self.get_buffer("components").copy_(statistics.components)
        self.get_buffer("deviation").copy_(statistics.deviation.clamp(min=self.finest))

    def coordinates(self, points: Tensor) -> Tensor:
        """ȳ over its deviations, (B, K), of poses (B, J, 2)."""
        centred = points.flatten(1) - self.get_buffer("mean")
        return centred @ self.get_buffer("components").mT / self.get_buffer("deviation")

    def _distribution(self) -> Any:
        """The flow as a distribution, made once: making it asks where masks are not 0.

        A GPU would be waited for at every block of every step.
        """
        if self._made is None:
            self._made = self.flow()
        return self._made

    def _apply(self, fn: Any, recurse: bool = True) -> PosePrior:
        """To another device or type: what was made of the masks there is made anew."""
        self._made = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Of weights, with the masks that they were trained with."""
        self._made = None
        super()._load_from_state_dict(*args, **kwargs)

    def log_density(self, points: Tensor) -> Tensor:
        """The density's logarithm log p_Y(ȳ), (B,), of poses (B, J, 2)."""
        with torch.autocast(points.device.type, enabled=False):
            density: Tensor = self._distribution().log_prob(self.coordinates(points.float()))
            return density - self.get_buffer("deviation").log().sum()

    def sample(self, count: int) -> Tensor:
        """Poses (count, J, 2) drawn from the prior, by the global generator."""
        drawn = self._distribution().sample((count,)) * self.get_buffer("deviation")
        flat = drawn @ self.get_buffer("components") + self.get_buffer("mean")
        points: Tensor = flat.unflatten(-1, (-1, 2))
        return points


def principal_components(poses: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), the first components (count, D) and the standard deviations along them (count,), of (P, D).

    Raises:
        ValueError: fewer poses than components.
    """
    if len(poses) < count:
        raise ValueError(
            f"components must be at most the number of poses that they are of, {len(poses)}, got {count}; "
            "ask for fewer components or for more clips and frames"
        )
    mean = poses.mean(0)
    _, spread, components = torch.linalg.svd(poses - mean, full_matrices=False)
    return mean, components[:count], spread[:count] / math.sqrt(max(len(poses) - 1, 1))


def project(joints: Tensor, base: float) -> Tensor:
    """2D poses (B, J, 2) on the plane at distance 1 of joints (B, J, 3) about a root at distance `base`."""
    points, _ = pg.project(joints + joints.new_tensor([0.0, 0.0, base]), PLANE)
    return points


def about_root(points: Tensor, depth: Tensor, config: LifterConfig, root: int) -> Tensor:
    """Eq. (1), root at the origin: v (B, J, 3) of normalised points (B, J, 2) and depths d (B, J)."""
    joints = pg.lift(points, depth, config.base, config.floor)
    return joints - joints[:, root].unsqueeze(1)


class LiftingNetworks(nn.Module):
    """Λ, its prior, and what the training poses told of themselves."""

    def __init__(self, config: LifterConfig, skeleton: pg.Skeleton = pg.H36M_17) -> None:
        super().__init__()
        self.config, self.skeleton = config, skeleton
        self.lifter = Lifter(config, skeleton)
        self.prior = PosePrior(config, len(skeleton.joints))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("lengths", torch.ones(len(skeleton.bones)))

    def adopt(self, statistics: Statistics) -> None:
        """Take what is computed once over the training poses."""
        self.get_buffer("scale").copy_(statistics.scale)
        self.get_buffer("lengths").copy_(statistics.lengths)
        self.prior.adopt(statistics)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The test-time path: normalised points (B, J, 2) to v (B, J, 3) about the root, and the camera's elevation.

        v is in units of the normalised pose, in the camera's axes; the elevation (B,) is in radians, positive where the
        camera looks down.
        """
        depth, upright = self.lifter(points)
        return about_root(points, depth, self.config, self.skeleton.root), -upright


class Loop(NamedTuple):
    """The stages of §3 "Random rotations and projections", in the paper's letters.

    Attributes:
        y: (B, J, 2) the normalised 2D pose.
        v: (B, J, 3) lifted, about the root.
        v_hat: turned into the virtual view.
        y_hat: projected there.
        v_hat_again: v̂′, lifted from there.
        v_again: v′, turned back.
        y_again: y′, projected.
        elevation: (B,) as Λ says it of y.
    """

    y: Tensor
    v: Tensor
    v_hat: Tensor
    y_hat: Tensor
    v_hat_again: Tensor
    v_again: Tensor
    y_again: Tensor
    elevation: Tensor


def turn_and_lift_again(lifter: Callable[[Tensor], Lifted], y: Tensor, config: LifterConfig, root: int) -> Loop:
    """The whole loop, y → v → v̂ → ŷ → v̂′ → v′ → y′.

    R = R_e(fresh) · R_a · R_e(own), by the global generator (see `posegeom.elevation_azimuth_rotation`). The mean and
    deviation of the elevations are those of the poses that are lifted at once: of a process's share, where there are
    several processes, and of each part where gradients are accumulated.

    Args:
        lifter: Λ.
        y: normalised 2D poses, the root at 0.
        config: Δ and the floor.
        root: number of the root joint.
    """
    with torch.autocast(y.device.type, enabled=False):
        depth, elevation = lifter(y)
        v = about_root(y, depth, config, root)
        rotation = pg.elevation_azimuth_rotation(elevation)
        v_hat = v @ rotation.mT
        y_hat = project(v_hat, config.base)
        v_hat_again = about_root(y_hat, lifter(y_hat).depth, config, root)
        v_again = v_hat_again @ rotation
        return Loop(y, v, v_hat, y_hat, v_hat_again, v_again, project(v_again, config.base), elevation)
