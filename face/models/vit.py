"""The vision transformers of the KP-RPE paper: 112 px faces to embeddings, ViT-S and ViT-B.

Source: Kim et al., CVPR 2024, https://arxiv.org/abs/2403.14852, Table 3; layout and parameter names of the public face
transformers (insightface, CVLface), without a class token: all tokens are flattened into one linear layer.
Shape letters: B batch, L keypoints, N patches, C channels, E embedding channels.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common.rpe import PositionBiasSettings
from common.vit import VisionTransformer

__all__ = ["FaceViT", "translate_cvlface_keys", "vit_base", "vit_small"]


class FaceViT(VisionTransformer):
    """Face images and keypoints to embeddings.

    Args:
        num_features: E, channels of an embedding.
        settings: of `common.vit.VisionTransformer`.
    """

    def __init__(self, num_features: int = 512, **settings: Any) -> None:
        super().__init__(**settings)
        rows, cols = self._grid(self.image_hw)
        self.feature = nn.Sequential(
            nn.Linear(rows * cols * self.embed_dim, self.embed_dim, bias=False),
            nn.BatchNorm1d(self.embed_dim, eps=2e-5),
            nn.Linear(self.embed_dim, num_features, bias=False),
            nn.BatchNorm1d(num_features, eps=2e-5),
        )
        for layer in self.feature:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, images: Tensor, keypoints: Tensor | None = None, visibility: Tensor | None = None) -> Tensor:
        """[B, 3, 112, 112] RGB in [-1, 1], [B, L, 2] fractions of the image, [B, L] or None to embeddings [B, E]."""
        tokens = super().forward(images, keypoints, visibility)
        return self.feature(tokens[:, self.extra_tokens :].flatten(1))


def vit_small(position_bias: PositionBiasSettings | None = None, **settings: Any) -> FaceViT:
    """ViT-S of the paper: depth 12, 8 heads, 95.95 M parameters without a position bias. Without `position_bias`
    there is only the absolute encoding."""
    return FaceViT(depth=12, num_heads=8, mlp_ratio=5.0, position_bias=position_bias, **settings)


def vit_base(position_bias: PositionBiasSettings | None = None, **settings: Any) -> FaceViT:
    """ViT-B of the paper: depth 24, 16 heads, 114.87 M parameters without a position bias."""
    return FaceViT(depth=24, num_heads=16, mlp_ratio=3.0, position_bias=position_bias, **settings)


def translate_cvlface_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the authors' ViT, ViT + KP-RPE and ViT + iRPE (CVLface) under the names of `FaceViT`.

    A leading `net.` is dropped, as is the mask token, which only their masked training uses. `keypoint_linear` becomes
    KP-RPE's weight and bias; iRPE's tables, one in every block there, are stacked. Those of iRPE's cross method, two
    modules in a block there, are left under their names, at which strict loading stops.

    Raises:
        ValueError: a block has no table where another block has one.
    """
    out: dict[str, Tensor] = {}
    tables: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        name = name.removeprefix("net.")
        if name == "mask_token":
            continue
        found = re.fullmatch(r"blocks\.(\d+)\.attn\.rpe_([qkv])\.lookup_table_(?:weight|bias)", name)
        if found:
            target = {"q": "on_queries", "k": "on_keys", "v": "on_values"}[found[2]]
            tables.setdefault(f"position_bias.irpe.{target}", {})[int(found[1])] = value
        else:
            out[re.sub(r"^keypoint_linear\.", "position_bias.kprpe.", name)] = value
    for name, layers in tables.items():
        if sorted(layers) != list(range(len(layers))):
            raise ValueError(f"{name}: tables of blocks {sorted(layers)}, expected those of all blocks from 0 on")
        out[name] = torch.stack([layers[layer] for layer in range(len(layers))])
    return out
