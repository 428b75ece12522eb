"""The share of posegeom in a whole training step: a ResNet-50 that predicts joints, and losses on every map."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

import posegeom as pg

BATCH = {"cpu": 4, "cuda": 64}
STEPS = {"cpu": 4, "cuda": 30}
SIZE = (128, 128)


def training_step(device: str) -> Iterator[dict[str, object]]:
    """One row: milliseconds of a step, of its posegeom part (forward and backward), and the share."""
    from torchvision.models import resnet50

    batch = BATCH[device]
    torch.manual_seed(0)
    network = resnet50(weights=None, num_classes=17 * 3).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    puppet = pg.Puppet.capsules(pg.BODY_17, SIZE).to(device)
    images = torch.rand(batch, 3, 224, 224, device=device)

    def losses(raw: Tensor) -> Tensor:
        """Every map operator once, from the network's (B, 17, 3)."""
        points, depth = torch.sigmoid(raw[..., :2]) * SIZE[0], 3 + raw[..., 2].tanh()
        drawn = pg.puppet_segmentation(points, depth, puppet, SIZE)
        return (
            pg.joint_heatmaps(points, SIZE, 3.0).square().mean()
            + pg.limb_maps(points, pg.BODY_17.bones, SIZE, 2.0).square().mean()
            + pg.skeleton_image(points, pg.BODY_17.bones, SIZE, 0.224).square().mean()
            + drawn.maps.square().mean()
        )

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    whole, part = [], []
    for step in range(STEPS[device] + 2):
        start = clock()
        optimizer.zero_grad(set_to_none=True)
        raw = network(images).view(batch, 17, 3)
        cut = raw.detach().requires_grad_()
        before = clock()
        losses(cut).backward()
        after = clock()
        raw.backward(cut.grad)
        optimizer.step()
        end = clock()
        if step >= 2:
            whole.append(1000 * (end - start))
            part.append(1000 * (after - before))
    yield {
        "encoder": "ResNet-50, 224 x 224",
        "batch": batch,
        "maps": list(SIZE),
        "step_ms": round(statistics.median(whole), 2),
        "posegeom_ms": round(statistics.median(part), 2),
        "share": round(statistics.median(part) / statistics.median(whole), 4),
    }
