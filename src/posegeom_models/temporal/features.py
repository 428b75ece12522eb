"""Res of L_reconst (003 eq. 2): the features that an image and its reconstruction are compared by."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from posegeom_models.backbones import STAGES, ResNetTrunk

FEATURES = ("stem", *STAGES)
"""Where features of a ResNet can be taken: after its first convolution, and after each stage."""


class FeatureNetwork(nn.Module):
    """Res_l of L_reconst: a ResNet-18 that never learns. Images (B, 3, H, W) to maps of the wanted stages."""

    def __init__(self, stages: Sequence[str], weights: str | None) -> None:
        super().__init__()
        self.wanted = tuple(stages)
        deepest = max(FEATURES.index(stage) for stage in stages)
        self.trunk = ResNetTrunk("resnet18", FEATURES[max(deepest, 1)], weights)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Always as in evaluation: its batch statistics are part of its weights."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps, in the order of the network."""
        trunk, found = self.trunk, []
        maps = (images - trunk.get_buffer("mean")) / trunk.get_buffer("deviation")
        convolution, norm, rectifier, pool = trunk.stem
        maps = rectifier(norm(convolution(maps)))
        if "stem" in self.wanted:
            found.append(maps)
        maps = pool(maps)
        for name, stage in zip(STAGES, trunk.stages, strict=False):
            maps = stage(maps)
            if name in self.wanted:
                found.append(maps)
        return found
