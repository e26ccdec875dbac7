"""Layers of the landmark network: body, feature pyramid, context modules, mixers, and folding norms into convolutions.

Sources: see `face.dfa.network`. Layers that are applied to the same features there, one beside the other, are one wider
layer here.
Shape letters: B batch, C channels, A anchors.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from timm.models.mlp_mixer import MixerBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval

__all__ = ["Context", "ConvNorm", "FeaturePyramid", "Mixer", "MobileNet", "fold_norms", "initialise"]


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and, unless its slope is None, leaky ReLU: [B, C_in, h, w] to [B, C, h', w'], with
    h' = ceil(h / stride)."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int = 1, slope: float | None = 0.1, groups: int = 1
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
        ]
        if slope is not None:
            layers.append(nn.LeakyReLU(slope, inplace=True))
        super().__init__(*layers)


def _separable(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    depthwise = ConvNorm(in_channels, in_channels, 3, stride, groups=in_channels)
    return nn.Sequential(depthwise, ConvNorm(in_channels, channels, 1))


class MobileNet(nn.Module):
    """MobileNet v1 (https://arxiv.org/abs/1704.04861) of a quarter of its width, without its last layers: images to
    the features at strides 8, 16 and 32."""

    channels = (64, 128, 256)

    def __init__(self) -> None:
        super().__init__()
        stages = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)), ((128, 2), *[(128, 1)] * 5), ((256, 2), (256, 1))
        self.stages = nn.ModuleList()
        channels = 8
        for stage in stages:
            layers: list[nn.Module] = [] if len(self.stages) else [ConvNorm(3, channels, 3, stride=2)]
            for width, stride in stage:
                layers.append(_separable(channels, width, stride))
                channels = width
            self.stages.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class FeaturePyramid(nn.Module):
    """Features at strides 8, 16 and 32 to as many of `channels` channels, the coarse ones added into the finer ones."""

    def __init__(self, in_channels: Sequence[int], channels: int, slope: float) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvNorm(width, channels, 1, slope=slope) for width in in_channels)
        self.merge = nn.ModuleList(ConvNorm(channels, channels, 3, slope=slope) for _ in in_channels[1:])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (layer(x) for layer, x in zip(self.lateral, features, strict=True))
        middle = self.merge[1](middle + _enlarged(coarse, middle))
        return [self.merge[0](fine + _enlarged(middle, fine)), middle, coarse]


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


class Context(nn.Module):
    """SSH's context module (https://arxiv.org/abs/1708.03979): a half of the channels sees 3 x 3 pixels around each,
    a quarter 5 x 5 and a quarter 7 x 7, through one, two and three convolutions: [B, C, h, w] to the same."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        half, quarter = self.widths = channels // 2, channels // 4
        self.slope = slope
        self.first = ConvNorm(channels, half + quarter, 3, slope=None)
        self.second = ConvNorm(quarter, 2 * quarter, 3, slope=None)
        self.third = ConvNorm(quarter, quarter, 3, slope=None)

    def forward(self, x: Tensor) -> Tensor:
        near, x = self.first(x).split(self.widths, dim=1)
        middle, x = self.second(F.leaky_relu(x, self.slope)).split(self.widths[1], dim=1)
        far = self.third(F.leaky_relu(x, self.slope))
        return torch.cat([near, middle, far], dim=1).relu_()


class Mixer(MixerBlock):
    """timm's MixerBlock (https://arxiv.org/abs/2105.01601), which mixes A tokens, then their C channels, without
    transposing: [B, A, C] to the same."""

    def forward(self, x: Tensor) -> Tensor:
        tokens: Any = self.mlp_tokens
        hidden = tokens.act(tokens.fc1.weight @ self.norm1(x) + tokens.fc1.bias[:, None])
        x = x + tokens.fc2.weight @ hidden + tokens.fc2.bias[:, None]
        return x + self.mlp_channels(self.norm2(x))


def initialise(module: nn.Module, std: float | None = None) -> None:
    """Fresh weights of all convolutions and linear layers in a module: normal where a deviation is given, else He's for
    convolutions and Glorot's for linear layers. Biases are 0."""
    for layer in module.modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        if std is not None:
            nn.init.normal_(layer.weight, std=std)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0.1)
        else:
            nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def fold_norms(module: nn.Module) -> None:
    """Fold every batch norm that is registered right after a convolution into it, in evaluation, in place.

    Modules must apply the two in the order in which they are registered, as all in this package and timm's ResNets do.
    """
    children = list(module.named_children())
    for (conv_name, conv), (norm_name, norm) in itertools.pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())
    for child in module.children():
        fold_norms(child)
