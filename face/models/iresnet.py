"""IResNet, the convolutional baseline of face recognition: 112 px faces to embeddings.

Sources: Deng et al., "ArcFace", CVPR 2019, https://arxiv.org/abs/1801.07698; layers in the order of CVLface's IR_18,
IR_50 and IR_101 (mk-minchul/CVLface@d3d09c9, models/iresnet), which are the released IR networks of AdaFace too:
`face.models.cvlface.translate_iresnet_keys` brings their weights under the names used here. insightface's iresnet is
another network (a convolution in the first shortcut, a shift after the last norm).
Deliberate differences: other parameter names, and images of any size.
Shape letters: B batch, C channels, E embedding channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from face.models.base import FaceModel, check_images, in_float32

__all__ = ["IRESNET_SIZES", "IResNet", "IResNetSettings", "build_iresnet"]

IRESNET_SIZES: dict[str, dict[str, Any]] = {
    "iresnet18": {"depths": (2, 2, 2, 2)},
    "iresnet50": {"depths": (3, 4, 14, 3)},
    "iresnet101": {"depths": (3, 13, 30, 3)},
}


class Block(nn.Module):
    """Norm, convolution, norm, PReLU, convolution, norm, beside a shortcut: [B, C_in, h, w] to [B, C, h', w'], with
    h' = ceil(h / stride)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.act = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)
        # Of as many channels the shortcut takes every stride-th pixel as it is.
        self.shortcut: nn.Module = nn.MaxPool2d(1, stride)
        if in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.norm2(self.conv1(self.norm1(x))))
        return self.norm3(self.conv2(out)) + self.shortcut(x)


class IResNet(FaceModel):
    """Face images to embeddings; keypoints are ignored.

    Args:
        depths: blocks of the four stages, each of which halves rows and columns (rounded up).
        width: C of the stem and the first stage; each later stage doubles it.
        image_hw: (rows, cols) of the images in pixels.
        dropout: probability that a value before the last linear layer is dropped in training.
        num_features: E, channels of an embedding.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self, depths: Sequence[int], width: int, image_hw: tuple[int, int], dropout: float, num_features: int
    ) -> None:
        super().__init__()
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"depths must be four numbers of blocks, all >= 1, got {tuple(depths)}")
        if min(width, num_features, *image_hw) < 1:
            raise ValueError(
                f"width, num_features and image_hw must be >= 1, got {width}, {num_features} and {tuple(image_hw)}"
            )
        self.image_hw = image_hw
        self.num_features = num_features
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width))
        self.blocks = nn.ModuleList()
        channels, (rows, cols) = width, image_hw
        for stage, depth in enumerate(depths):
            for block in range(depth):
                self.blocks.append(Block(channels, width * 2**stage, stride=1 if block else 2))
                channels = width * 2**stage
            rows, cols = -(-rows // 2), -(-cols // 2)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(rows * cols * channels, num_features)
        self.feature_norm = nn.BatchNorm1d(num_features, affine=False)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor, keypoints: Tensor | None = None, visibility: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] RGB in [-1, 1] to embeddings [B, E]."""
        check_images(images, self.image_hw)
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.feature_norm(in_float32(self.linear, self.dropout(self.norm(x)).flatten(1)))


@dataclass(frozen=True, kw_only=True)
class IResNetSettings:
    """An IResNet, by name and by settings of one's own."""

    num_features: int = 512
    """E, channels of an embedding."""

    image_hw: tuple[int, int] = (112, 112)
    """(rows, cols) of the images in pixels."""

    depths: tuple[int, int, int, int] = (3, 4, 14, 3)
    """Blocks of each stage. A model's name sets this."""

    width: int = 64
    """Channels of the stem and the first stage."""

    dropout: float = 0.4
    """Before the last linear layer."""


def build_iresnet(settings: IResNetSettings) -> IResNet:
    """The network of these settings.

    Raises:
        ValueError: a setting out of range.
    """
    return IResNet(settings.depths, settings.width, settings.image_hw, settings.dropout, settings.num_features)
