"""Image encoders that several papers share: ResNets up to a stage, small networks with key points, convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from posegeom.kinematics import flip_joints
from posegeom.maps import soft_argmax
from posegeom.skeleton import Skeleton

STAGES = ("layer1", "layer2", "layer3", "layer4")
"""ResNet stages, of stride 4, 8, 16 and 32. Caffe's res4f is the end of layer3."""

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Of ImageNet's images, with which torchvision's weights were trained."""


def halvings_of(size: int, stride: int, decoder_widths: Sequence[int]) -> int:
    """How often an encoder of a stride halves images of a size: as often as its decoder must double them again.

    Raises:
        ValueError: the stride is no power of two, does not divide the size, or the decoder has not that many widths.
    """
    halvings = stride.bit_length() - 1
    if stride < 2 or stride != 2**halvings or size % stride:
        raise ValueError(f"stride must be a power of two that divides size, got {stride} for {size}")
    if len(decoder_widths) != halvings:
        raise ValueError(f"decoder_widths must be {halvings} for stride {stride}, got {decoder_widths}")
    return halvings


def check_trunk(backbone: str, weights: str | None, lifted: bool, mirrored: bool) -> None:
    """Raise a ValueError where fields of a configuration ask for what its backbone is not."""
    if lifted and backbone != "pyramid":
        raise ValueError(f"lifted needs the pyramid's key points, got backbone {backbone!r}")
    if mirrored and not lifted:
        raise ValueError("mirrored takes means of key points, and the branches see more than these: set lifted")
    if weights is not None and backbone == "pyramid":
        raise ValueError(f"weights are of a ResNet, and the pyramid is none: leave out {weights!r}")


class ResNetTrunk(nn.Module):
    """A torchvision ResNet up to the end of a stage: images (B, 3, H, W) in [0, 1] to (B, channels, H/s, W/s).

    Args:
        name: of the network in torchvision ("resnet18", "resnet50", ...).
        stage: the last stage, one of "layer1" to "layer4".
        weights: a weight enum of torchvision by name ("IMAGENET1K_V1"; downloaded by torchvision when it is not in its
            cache), a local file of weights, or None for random ones.

    Raises:
        ValueError: no such network, stage or weights.
    """

    def __init__(self, name: str, stage: str = "layer3", weights: str | None = None) -> None:
        from torchvision import models

        super().__init__()
        if stage not in STAGES:
            raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {stage!r}")
        if name not in models.list_models(module=models) or not name.startswith("resnet"):
            raise ValueError(f"network must be a ResNet of torchvision such as resnet18 or resnet50, got {name!r}")
        is_file = weights is not None and Path(weights).suffix != ""
        try:
            network = models.get_model(name, weights=None if is_file else weights)
        except KeyError as error:
            raise ValueError(
                f"weights must be a file or one of torchvision's names for {name}, got {weights!r}"
            ) from error
        if is_file:
            try:
                network.load_state_dict(read_weights(Path(str(weights))))
            except RuntimeError as error:
                raise ValueError(
                    f"{weights} holds no weights of {name}: {str(error).splitlines()[-1].strip()}"
                ) from None
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        names = STAGES[: STAGES.index(stage) + 1]
        self.stages = nn.Sequential(*(getattr(network, name) for name in names))
        self.stride = 4 * 2 ** (len(names) - 1)
        *_, last = (layer for layer in self.stages.modules() if isinstance(layer, nn.BatchNorm2d))
        self.channels = int(last.num_features)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The last stage's maps."""
        normalised = (images - self.get_buffer("mean")) / self.get_buffer("deviation")
        maps: Tensor = self.stages(self.stem(normalised))
        return maps


class KeyPyramid(nn.Module):
    """A small network that is trained from nothing: four stages down, two back up, and key points read from the maps.

        images (B, 3, H, W) in [0, 1] → stages of stride 2, 4, 8, 16 → back up to stride 4 → K heatmaps

    An encoder that averages its maps has to learn where things are as numbers. Key points, the expected positions under
    each map's softmax, have their place from the start, and learn from a few hundred images what the other needs many
    thousands for.

    Args:
        width: channels of the first stage; each further one has twice as many.
        keys: K.

    Attributes:
        channels: of the features: the K positions, the K peaks' heights, and the mean of the deepest stage.
    """

    def __init__(self, width: int, keys: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [
                ConvolutionStack(3, (width,), (2,), groups=0),
                ConvolutionStack(width, (2 * width,) * 2, (2, 1), groups=0),
                ConvolutionStack(2 * width, (4 * width,) * 2, (2, 1), groups=0),
                ConvolutionStack(4 * width, (8 * width,) * 2, (2, 1), groups=0),
            ]
        )
        self.narrow = nn.ModuleList([nn.Conv2d(8 * width, 4 * width, 1), nn.Conv2d(4 * width, 2 * width, 1)])
        self.merge = nn.ModuleList(
            [
                ConvolutionStack(4 * width, (4 * width,), (1,), groups=0),
                ConvolutionStack(2 * width, (2 * width,), (1,), groups=0),
            ]
        )
        self.heads = nn.Conv2d(2 * width, keys, 1)
        self.stride = 4
        self.channels = 3 * keys + 8 * width
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)  # some 15 % less time on a CPU

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, channels), and the logits of the heatmaps (B, K, H/4, W/4)."""
        maps = ((images - self.get_buffer("mean")) / self.get_buffer("deviation")).to(memory_format=torch.channels_last)
        stages = []
        for stage in self.down:
            maps = stage(maps)
            stages.append(maps)
        deepest = maps.mean((2, 3))
        for narrow, merge, finer in zip(self.narrow, self.merge, (stages[2], stages[1]), strict=True):
            size = finer.shape[-2:]
            up = nn.functional.interpolate(narrow(maps), size=size, mode="bilinear", align_corners=False)
            maps = merge(finer + up)
        logits: Tensor = self.heads(maps).float()
        height, width = logits.shape[-2:]
        x, y = soft_argmax(logits).unbind(-1)
        places = torch.stack((x / width, y / height), dim=-1) - 0.5
        peaks = logits.flatten(2).softmax(-1).amax(-1)
        return torch.cat((places.flatten(1), peaks, deepest.float()), dim=1), logits


def key_points(heat: Tensor, size: int) -> Tensor:
    """(B, J, 2) expected positions, in pixels of images of a size, under the softmax of heatmaps (B, J, h, w)."""
    return (soft_argmax(heat) + 0.5) * (size / heat.shape[-1]) - 0.5


def key_points_both_ways(trunk: KeyPyramid, images: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Means of the key points of images (B, 3, H, W) and of their mirror images, (B, J, 2); and the images' heatmaps.

    The network's first J maps are of the skeleton's joints.
    """
    size, joints = images.shape[-1], len(skeleton.joints)
    heat, mirrored = (trunk(seen)[1][:, :joints] for seen in (images, images.flip(-1)))
    back = flip_joints(key_points(mirrored, size), skeleton, width=size)
    return (key_points(heat, size) + back) / 2, heat


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights from a .safetensors file or from a PyTorch file, of which nothing but tensors is read.

    Raises:
        ValueError: no such file, or no weights in it; names it.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of weights {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged or hostile file raises whatever its bytes lead to
        raise ValueError(f"{path} holds no weights that can be read safely: {error}") from error


class ConvolutionStack(nn.Module):
    """3 x 3 convolutions with normalisation and ReLU: (B, C, H, W) to (B, widths[-1], H/s, W/s), s = 2^(strides).

    Args:
        channels: C.
        widths: of every convolution.
        strides: 1 or 2 for every convolution.
        groups: of the group normalisation, which knows no batch; 0 for batch normalisation.
    """

    def __init__(self, channels: int, widths: Sequence[int], strides: Sequence[int], groups: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, stride in zip(widths, strides, strict=True):
            norm = nn.GroupNorm(groups, width) if groups else nn.BatchNorm2d(width)
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), norm, nn.ReLU(inplace=True)]
            channels = width
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """The last convolution's maps."""
        maps: Tensor = self.layers(images)
        return maps
