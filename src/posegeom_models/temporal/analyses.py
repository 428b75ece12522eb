"""The analyses of 003 (§4.4): how poses part with time, what is in which code, and codes exchanged between people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import posegeom as pg
from posegeom_models.data.jumping import GRAVITY
from posegeom_models.data.reels import Reel
from posegeom_models.data.shuffling import share_of
from posegeom_models.drawing import DARK, draw_skeleton_3d, tile, to_bytes
from posegeom_models.temporal.configuration import TemporalConfig
from posegeom_models.temporal.networks import Codes, TemporalNetworks
from posegeom_models.temporal.reading import fit

PEOPLE = 6
"""Columns of the panel, as in Fig. 5."""

STARTS = 10
"""K-means from so many starts; the one with the least spread counts."""

DEALS = 20


def pose_distances(reel: Reel, most: int) -> Tensor:
    """Mean MPJPE (most,) in millimetres between pelvis-centred poses 1 to `most` frames apart in a video (Fig. 6).

    Poses are in the camera's axes, as in 003: a turning body is a changing pose. nan where no two frames are so far
    apart.

    Args:
        reel: labelled frames.
        most: the greatest distance.
    """
    joints = reel.joints - reel.joints[:, reel.skeleton.root].unsqueeze(1)
    found = []
    for distance in range(1, most + 1):
        pairs = (reel.clip[distance:] == reel.clip[:-distance]) & reel.labelled[distance:] & reel.labelled[:-distance]
        apart = (joints[distance:][pairs] - joints[:-distance][pairs]).norm(dim=-1)
        found.append(1000 * apart.double().mean())
    return torch.stack(found) if found else torch.empty(0, dtype=torch.float64)


def codes_of(networks: TemporalNetworks, reel: Reel, numbers: Tensor, batch: int = 64) -> Codes:
    """Codes of some frames, on the CPU, as at test time."""
    device = next(networks.parameters()).device
    found = []
    for some in numbers.split(batch):
        image = reel.frames(some).image.to(device)
        with torch.no_grad():
            codes = networks.encoder(networks.crops(image, networks.boxes(image)))
        found.append(Codes(*(code.float().cpu() for code in codes)))
    variant, invariant = (torch.cat(each) for each in zip(*found, strict=True))
    return Codes(variant, invariant)


class Clusters(NamedTuple):
    """How well clusters of codes are people.

    Attributes:
        accuracy: share of the codes whose cluster's person is theirs, clusters matched to people one to one.
        chance: the accuracy of the same clusters against people who are dealt out anew by chance, the mean of many
            times.
        people: their number, which is that of the clusters.
    """

    accuracy: float
    chance: float
    people: int


def cluster_accuracy(codes: Tensor, identity: Tensor, seed: int = 0) -> Clusters:
    """K-means of codes (N, D) with as many clusters as there are people, against who they are (N,) (§4.4.3).

    Args:
        codes: I_tv or I_ti.
        identity: numbers of the people.
        seed: of the starts.

    Raises:
        ValueError: fewer than two people.
    """
    people, who = torch.unique(identity, return_inverse=True)
    if len(people) < 2:
        raise ValueError(f"codes must be of at least two people, got {len(people)}")
    values = codes.double().numpy()
    best: NDArray[np.int32] | None = None
    least = np.inf
    for start in range(STARTS):
        middles, labels = kmeans2(values, len(people), minit="++", seed=seed * STARTS + start)
        spread = float(((values - middles[labels]) ** 2).sum())
        if spread < least:
            best, least = labels, spread
    assert best is not None  # of the starts
    random = np.random.default_rng(seed)
    by_chance = [_matched(best, random.permutation(who.numpy())) for _ in range(DEALS)]
    return Clusters(_matched(best, who.numpy()), float(np.mean(by_chance)), len(people))


def _matched(clusters: NDArray[Any], people: NDArray[Any]) -> float:
    """The share of the codes that are right if each cluster is given to one person in the best way."""
    count = int(max(clusters.max(), people.max())) + 1
    table = np.bincount(clusters * count + people, minlength=count**2).reshape(count, count)
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / len(people))


class Errors(NamedTuple):
    """Pose errors in millimetres, with so many labels."""

    labels: int
    mpjpe: float
    n_mpjpe: float
    p_mpjpe: float

    @classmethod
    def of(cls, labels: int, said: Tensor, joints: Tensor, root: int) -> Errors:
        """Of poses (N, J, 3) against joints (N, J, 3), both in the camera's axes."""
        said, wanted = (value - value[:, root].unsqueeze(1) for value in (said, joints))
        errors = pg.mpjpe(said, wanted, root=root), pg.n_mpjpe(said, wanted, root=root), pg.p_mpjpe(said, wanted)
        return cls(labels, *(1000 * float(error) for error in errors))


def label_curve(
    networks: TemporalNetworks,
    config: TemporalConfig,
    train: tuple[Reel, Tensor],
    test: tuple[Codes, Tensor],
    shares: Sequence[float],
    steps: int,
    code: str = "variant",
    progress: Callable[[int], None] | None = None,
) -> Mapping[float, Errors]:
    """Errors against the share of the labels that a fresh Φ learns from, on frozen codes (Tables 1, 3 to 5).

    Args:
        networks: trained; nothing in them changes.
        config: of the second phase.
        train: a reel, and the numbers of its labelled frames that all shares are of.
        test: codes of other videos, and joints (N, J, 3) in the camera's axes.
        shares: of the labels, evenly spread.
        steps: of the second phase.
        code: "variant" or "invariant", the code that Φ reads.
        progress: told how many steps are done, of all shares together.
    """
    reel, numbers = train
    codes, joints = test
    device = next(networks.parameters()).device
    found = {}
    for number, share in enumerate(shares):
        some = share_of(numbers, share)
        further = None if progress is None else partial(_further, progress, number * steps)
        phi = fit(networks, reel, some, config, steps, code, further)
        with torch.no_grad():
            variant, read = (value.to(device) for value in (codes.variant, getattr(codes, code)))
            said = phi(read, networks.points(variant)).cpu()
        found[share] = Errors.of(len(some), said, joints, networks.skeleton.root)
    return found


def _further(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def gravity_offsets(networks: TemporalNetworks, reel: Reel, numbers: Tensor) -> Tensor:
    """(B,) distance of the box's middle from the projected centre of gravity, in image sides (S.2).

    The projection of a weighted mean of joints is the mean of their projections with weights w_j z_j.
    """
    device = next(networks.parameters()).device
    frames = reel.frames(numbers)
    with torch.no_grad():
        boxes = networks.boxes(frames.image.to(device)).float().cpu()
    weights = pg.DE_LEVA_MALE.weights(reel.skeleton)
    far = torch.tensor(weights) * frames.joints[..., 2]
    center = (far.unsqueeze(-1) * frames.points).sum(1) / far.sum(1, keepdim=True)
    size = frames.image.shape[-1]
    middle = ((boxes[:, 2:] + 1) * size - 1) / 2
    offset: Tensor = (middle - center).norm(dim=-1) / size
    return offset


def acceleration_drift(distance: float, slant: float, seconds: float, height: float = 3.0, frames: int = 61) -> float:
    """How much the vertical acceleration in the image changes while a body falls freely (S.3).

        (max ÿ − min ÿ) / mean ÿ   over the fall, y(t) the height in the image of a pinhole camera

    The body falls straight down by g t²/2, and moves towards the camera or away from it by `slant` of the way it falls;
    0 means that the fall is parallel to the image, where eq. (7) holds exactly.

    Args:
        distance: of the camera from where the fall begins, metres.
        slant: metres away from the camera per metre fallen; negative towards it.
        seconds: of the fall.
        height: of the body over the camera's axis at the beginning, metres.
        frames: moments at which the acceleration is taken.

    Raises:
        ValueError: the body falls through the camera.
    """
    times = torch.linspace(0, seconds, frames, dtype=torch.float64)
    fallen = GRAVITY / 2 * times**2
    depth = distance + slant * fallen
    if not bool((depth > 0).all()):
        raise ValueError(f"the body must stay before the camera, got distance {distance} and slant {slant}")
    points = torch.stack((torch.zeros_like(times), fallen - height, depth), dim=-1)
    seen, _ = pg.project(points, pg.PerspectiveCamera(1000.0, (0.0, 0.0), (1, 1)))
    acceleration = seen[:, 1].diff(n=2)
    return float((acceleration.max() - acceleration.min()) / acceleration.mean().abs())


def panels(networks: nn.Module, reel: Reel, random: np.random.Generator) -> Mapping[str, NDArray[np.uint8]]:
    """The panel "side_views", and where there are a decoder and a split latent also "swap".

    Args:
        networks: of 003, trained.
        reel: frames of different clips are taken from it.
        random: chooses them.
    """
    assert isinstance(networks, TemporalNetworks)
    clips = torch.unique(reel.clip)
    if len(clips) < 2 * PEOPLE:
        raise ValueError(f"a panel needs frames of {2 * PEOPLE} clips, got {len(clips)}")
    numbers = []
    for clip in random.permutation(clips.numpy())[: 2 * PEOPLE]:
        here = torch.nonzero(reel.clip == int(clip)).flatten()
        numbers.append(int(here[random.integers(len(here))]))
    device = next(networks.parameters()).device
    frames = reel.frames(torch.tensor(numbers))
    image, background = frames.image.to(device), frames.background.to(device)
    drawn = {"side_views": side_views(networks, image[:PEOPLE])}
    if networks.decoder is not None and networks.config.split:
        drawn["swap"] = swaps(networks, image, background)
    return drawn


def side_views(networks: TemporalNetworks, images: Tensor) -> NDArray[np.uint8]:
    """Rows of an image, the pose that Φ reads from it, and the same seen from both sides (Fig. 7)."""
    with torch.no_grad():
        said = networks(images)
    joints = (said.joints - said.joints[:, networks.skeleton.root].unsqueeze(1)).float().cpu().numpy()
    size = images.shape[-1]
    cells = []
    for image, pose in zip(images, joints, strict=True):
        cells.append(to_bytes(image.float().cpu().movedim(0, -1)))
        cells += [draw_skeleton_3d(pose, networks.skeleton, size, azimuth) for azimuth in (0.0, 90.0, -90.0)]
    return tile(cells, 4)


def swaps(networks: TemporalNetworks, image: Tensor, background: Tensor) -> NDArray[np.uint8]:
    """People in the first row, poses in the first column, and what D makes of both codes (Fig. 5).

    Args:
        networks: with a decoder and a split latent.
        image: (2 PEOPLE, 3, S, S), first the people.
        background: of the same size.
    """
    with torch.no_grad():
        boxes = networks.boxes(image)
        codes = networks.encoder(networks.crops(image, boxes))
        rows = []
        for place in range(PEOPLE, 2 * PEOPLE):
            # The pose, the box and the place of one image, the looks of the others.
            again = slice(place, place + 1)
            mixed = Codes(codes.variant[again].expand(PEOPLE, -1), codes.invariant[:PEOPLE])
            drawn = networks.draw(mixed, boxes[again].expand(PEOPLE, -1))
            made = pg.composite(drawn.image, drawn.mask, background[again].expand(PEOPLE, -1, -1, -1))
            rows.append([image[place], *made])
    blank = (torch.tensor(DARK, device=image.device) / 255).view(3, 1, 1).expand_as(image[0])
    pictures = [[blank, *image[:PEOPLE]], *rows]
    cells = [to_bytes(each.float().cpu().movedim(0, -1)) for row in pictures for each in row]
    return tile(cells, 1 + PEOPLE)
