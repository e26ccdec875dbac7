"""What every face model has in common: its signature, and the settings that it was built from.

Shape letters: B batch, L keypoints, E embedding channels.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from common.rpe import PositionBiasSettings
from common.vit import under_autocast

__all__ = [
    "FaceModel",
    "FaceModelConfig",
    "WeightsOrigin",
    "bias_settings",
    "check_images",
    "embedding_head",
    "in_float32",
]


@dataclass(frozen=True, kw_only=True)
class FaceModelConfig:
    """What `face.models.registry.create_model` needs to build a model again."""

    name: str
    """A registered name, such as vit_base."""

    settings: dict[str, Any]
    """All settings of it, those left at their defaults too, as plain YAML types."""


@dataclass(frozen=True, kw_only=True)
class WeightsOrigin:
    """Where a model's weights were read from."""

    source: str
    """The file."""

    layout: str
    """Whose names its tensors had: kprpe (this project's), cvlface or adaface."""

    colour_order: str
    """What the weights took, RGB or BGR, as found or as given. The model takes RGB."""


class FaceModel(nn.Module):
    """Face images, and keypoints where they are needed, to embeddings."""

    config: FaceModelConfig
    """Set by `create_model`; a model that was built otherwise has none."""

    origin: WeightsOrigin | None = None
    """Set by `load_pretrained`."""

    image_hw: tuple[int, int]
    """(rows, cols) of the images."""

    num_features: int
    """E."""

    needs_keypoints: bool = False
    """Whether `forward` must be given keypoints. A model that needs none ignores them."""

    def forward(self, images: Tensor, keypoints: Tensor | None = None, visibility: Tensor | None = None) -> Tensor:
        """Embeddings of a batch, not normalised.

        Args:
            images: [B, 3, *image_hw], RGB in [-1, 1].
            keypoints: [B, L, 2], (x, y) as fractions of the image.
            visibility: [B, L] in [0, 1], how far each keypoint counts; None: all count fully.

        Returns:
            [B, E].

        Raises:
            ValueError: images of another shape, or no keypoints where they are needed.
        """
        raise NotImplementedError


def bias_settings(settings: PositionBiasSettings) -> PositionBiasSettings:
    """The fields of the position bias alone, of a class that adds others."""
    return PositionBiasSettings(**{field.name: getattr(settings, field.name) for field in fields(PositionBiasSettings)})


def check_images(images: Tensor, image_hw: tuple[int, int]) -> None:
    """Raises ValueError for images of another shape than [B, 3, *image_hw]."""
    if images.ndim != 4 or images.shape[1:] != (3, *image_hw):
        raise ValueError(f"images must have shape [B, 3, {image_hw[0]}, {image_hw[1]}], got {list(images.shape)}")


def pixels_to_input(images: Tensor, device: torch.device | str) -> Tensor:
    """[..., 3, h, w] uint8 to what every model takes: float32 in [-1, 1], on a device."""
    return images.to(device, non_blocking=True).float().div_(127.5).sub_(1.0)


def in_float32(head: nn.Module, x: Tensor) -> Tensor:
    """The last layers of a model, in float32 under autocast too: what they give is what cosines are made of."""
    if not under_autocast(x):
        return head(x)
    with torch.autocast(x.device.type, enabled=False):
        return head(x.float())


def embedding_head(in_features: int, hidden: int, num_features: int) -> nn.Sequential:
    """All tokens, flattened, to embeddings: the head of the public face transformers."""
    head = nn.Sequential(
        nn.Linear(in_features, hidden, bias=False),
        nn.BatchNorm1d(hidden, eps=2e-5),
        nn.Linear(hidden, num_features, bias=False),
        nn.BatchNorm1d(num_features, eps=2e-5),
    )
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
    return head
