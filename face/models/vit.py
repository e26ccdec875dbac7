"""The vision transformers of the KP-RPE paper: 112 px faces to embeddings, ViT-S, ViT-B and ViT-L.

Sources: Kim et al., CVPR 2024, https://arxiv.org/abs/2403.14852, Table 3; layout and parameter names of the public face
transformers (insightface, CVLface), without a class token: all tokens are flattened into one linear layer. ViT-S and
ViT-B are CVLface's (mk-minchul/CVLface@d3d09c9); ViT-L, which CVLface has not, has insightface's width, depth and heads
(deepinsight/insightface@7fadd42, `vit_l`), but patches of 8 px as the others, where insightface's have 9. ViT-T is for
demonstrations and tests.
Shape letters: B batch, L keypoints, N patches, C channels, E embedding channels.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from common.rpe import PositionBiasSettings
from common.rpe.attention import AttentionImplementation
from common.vit import VisionTransformer
from face.models.base import FaceModel, bias_settings, embedding_head, in_float32

__all__ = ["VIT_SIZES", "FaceViT", "ViTSettings", "build_vit", "vit_base", "vit_small"]

VIT_SIZES: dict[str, dict[str, Any]] = {
    "vit_tiny": {"embed_dim": 128, "depth": 6, "num_heads": 4, "mlp_ratio": 3.0},
    "vit_small": {"embed_dim": 512, "depth": 12, "num_heads": 8, "mlp_ratio": 5.0},
    "vit_base": {"embed_dim": 512, "depth": 24, "num_heads": 16, "mlp_ratio": 3.0},
    "vit_large": {"embed_dim": 768, "depth": 24, "num_heads": 8, "mlp_ratio": 4.0},
}


class FaceViT(VisionTransformer, FaceModel):
    """Face images and keypoints to embeddings.

    Args:
        num_features: E, channels of an embedding.
        settings: of `common.vit.VisionTransformer`.
    """

    def __init__(self, num_features: int = 512, **settings: Any) -> None:
        super().__init__(**settings)
        self.num_features = num_features
        self.needs_keypoints = self.position_bias.settings.position_bias == "kprpe"
        rows, cols = self._grid(self.image_hw)
        self.feature = embedding_head(rows * cols * self.embed_dim, self.embed_dim, num_features)

    def forward(self, images: Tensor, keypoints: Tensor | None = None, visibility: Tensor | None = None) -> Tensor:
        """[B, 3, 112, 112] RGB in [-1, 1], [B, L, 2] fractions of the image, [B, L] or None to embeddings [B, E]."""
        tokens = super().forward(images, keypoints, visibility)
        return in_float32(self.feature, tokens[:, self.extra_tokens :].flatten(1))


@dataclass(frozen=True, kw_only=True)
class ViTSettings(PositionBiasSettings):
    """A face ViT, by name and by settings of one's own.

    Raises:
        ValueError: as PositionBiasSettings. Sizes that do not fit each other are refused when the model is built.
    """

    absolute: bool = True
    """Whether tokens start with a learned embedding of their position, beside the position bias. The rows of the
    paper's ablation: "none" is position_bias none with absolute false; the absolute encoding alone, which is the public
    ViT, is none with true; iRPE is irpe with irpe_on qkv, KP-RPE is kprpe, and both come beside the absolute encoding
    (true)."""

    num_features: int = 512
    """E, channels of an embedding."""

    image_hw: tuple[int, int] = (112, 112)
    """(rows, cols) of the images in pixels, multiples of those of a patch."""

    patch_hw: tuple[int, int] = (8, 8)
    """(rows, cols) of a patch in pixels."""

    embed_dim: int = 512
    """C, a multiple of the number of heads. A model's name sets this and the next three."""

    depth: int = 12
    """Number of blocks."""

    num_heads: int = 8
    """Heads of every block."""

    mlp_ratio: float = 5.0
    """Hidden width of the MLPs over C."""

    drop_path: float = 0.0
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""

    checkpointing: bool = False
    """Whether training computes each block again in the backward pass, for less memory."""

    implementation: AttentionImplementation = "auto"
    """Of attention, see `common.attention`."""


def build_vit(settings: ViTSettings) -> FaceViT:
    """The network of these settings.

    Raises:
        ValueError: sizes that do not fit each other.
    """
    return FaceViT(
        num_features=settings.num_features,
        image_hw=settings.image_hw,
        patch_hw=settings.patch_hw,
        embed_dim=settings.embed_dim,
        depth=settings.depth,
        num_heads=settings.num_heads,
        mlp_ratio=settings.mlp_ratio,
        position_bias=bias_settings(settings),
        absolute=settings.absolute,
        drop_path=settings.drop_path,
        checkpointing=settings.checkpointing,
        implementation=settings.implementation,
    )


def vit_small(position_bias: PositionBiasSettings | None = None, **settings: Any) -> FaceViT:
    """ViT-S of the paper: depth 12, 8 heads, 95.95 M parameters without a position bias. Without `position_bias`
    there is only the absolute encoding."""
    return FaceViT(**{**VIT_SIZES["vit_small"], **settings}, position_bias=position_bias)


def vit_base(position_bias: PositionBiasSettings | None = None, **settings: Any) -> FaceViT:
    """ViT-B of the paper: depth 24, 16 heads, 114.87 M parameters without a position bias."""
    return FaceViT(**{**VIT_SIZES["vit_base"], **settings}, position_bias=position_bias)
