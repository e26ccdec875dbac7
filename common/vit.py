"""A vision transformer with global attention and the position encoding as one setting.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, https://arxiv.org/abs/2010.11929; the variant
and the parameter names are those of the public face transformers (insightface, and CVLface's ViT + KP-RPE and ViT +
iRPE): qkv without bias, ReLU6, the last norm in float32.
Deliberate differences: images and patches may be rectangular, and an image may have another size than the model was
built for where nothing is bound to the size (no absolute encoding, no table).
Shape letters: B batch, L keypoints, E extra tokens (1 with a class token, else 0), N = rows * cols patches, C channels,
H heads, d channels of a head.
"""

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.rpe import AttentionBias, PositionBias, PositionBiasSettings, attention
from common.rpe.attention import AttentionImplementation

__all__ = ["VisionTransformer", "under_autocast"]


class Attention(nn.Module):
    """Multi-head self-attention under a position bias."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, implementation: AttentionImplementation) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.implementation = implementation
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | AttentionBias | None) -> Tensor:
        """[B, E + N, C] to the same."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, E + N, d]
        out = attention(query, key, value, bias, implementation=self.implementation)
        return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm, with residuals and stochastic depth."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path: float,
        implementation: AttentionImplementation,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads, qkv_bias, implementation)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=nn.ReLU6)

    def forward(self, x: Tensor, bias: Tensor | AttentionBias | None) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), bias))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens: [B, C_in, h, w] to [B, N, C]."""

    def __init__(self, patch_hw: tuple[int, int], in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_hw, stride=patch_hw)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Images to tokens.

    Args:
        image_hw: (rows, cols) of the images in pixels, multiples of `patch_hw`.
        patch_hw: (rows, cols) of a patch.
        in_channels: of the images.
        embed_dim: C, a multiple of num_heads.
        depth: number of blocks.
        num_heads: H.
        mlp_ratio: hidden width of the MLPs over C.
        position_bias: what is added to the attention logits.
        absolute: whether tokens start with a learned embedding of their position.
        class_token: whether a learned token stands before the patches. It has no position.
        qkv_bias: whether queries, keys and values have a bias term.
        drop_path: stochastic depth of the last block; it grows linearly from 0 at the first.
        implementation: of attention, see `common.attention`.
        checkpointing: whether training keeps only what enters each block, and computes the rest again for the backward
            pass.

    Raises:
        ValueError: sizes that do not fit each other, or a setting out of range.
    """

    def __init__(
        self,
        image_hw: tuple[int, int] = (112, 112),
        patch_hw: tuple[int, int] = (8, 8),
        in_channels: int = 3,
        embed_dim: int = 512,
        depth: int = 12,
        num_heads: int = 8,
        mlp_ratio: float = 5.0,
        position_bias: PositionBiasSettings | None = None,
        absolute: bool = True,
        class_token: bool = False,
        qkv_bias: bool = False,
        drop_path: float = 0.0,
        implementation: AttentionImplementation = "auto",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} cannot be split into {num_heads} heads")
        self.image_hw = image_hw
        self.patch_hw = patch_hw
        self.in_channels = in_channels
        self.embed_dim = embed_dim
        self.checkpointing = checkpointing
        self.extra_tokens = int(class_token)
        grid_hw = self._grid(image_hw)
        self.patch_embed = PatchEmbed(patch_hw, in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        tokens = self.extra_tokens + grid_hw[0] * grid_hw[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim)) if absolute else None
        rates = [drop_path * block / max(1, depth - 1) for block in range(depth)]
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, qkv_bias, rate, implementation) for rate in rates
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.apply(_initialise)
        for parameter in (self.pos_embed, self.cls_token):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)
        # Last, so that models that differ in it alone start with the same weights in all else.
        settings = position_bias or PositionBiasSettings(position_bias="none")
        self.position_bias = PositionBias(
            settings, num_heads, embed_dim // num_heads, depth, grid_hw, self.extra_tokens
        )

    def _grid(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        if any(size < patch or size % patch for size, patch in zip(image_hw, self.patch_hw, strict=True)):
            raise ValueError(f"images of {tuple(image_hw)} pixels cannot be cut into patches of {self.patch_hw}")
        return image_hw[0] // self.patch_hw[0], image_hw[1] // self.patch_hw[1]

    def forward(self, images: Tensor, keypoints: Tensor | None = None, visibility: Tensor | None = None) -> Tensor:
        """Tokens after the last norm, the class token first if there is one.

        Args:
            images: [B, C_in, h, w].
            keypoints: [B, L, 2], (x, y) as fractions of the image; needed for KP-RPE.
            visibility: [B, L] in [0, 1] or None.

        Returns:
            [B, E + N, C], float32 (float64 for a float64 model).

        Raises:
            ValueError: images of another shape than the model takes, or no keypoints where they are needed.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"images must have shape [B, {self.in_channels}, h, w], got {list(images.shape)}")
        image_hw = (images.shape[2], images.shape[3])
        if self.pos_embed is not None and image_hw != tuple(self.image_hw):
            raise ValueError(f"the absolute encoding was built for images of {self.image_hw}, got {image_hw}")
        biases = self.position_bias(self._grid(image_hw), keypoints, visibility)
        x = self.patch_embed(images)
        if under_autocast(x):
            # With the absolute encoding the residual stream is float32 anyway; so are models compared that have none.
            x = x.float()
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        for block, bias in zip(self.blocks, biases, strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, bias, use_reentrant=False)
            else:
                x = block(x, bias)
        # Half-precision sums over the residual stream are what breaks first in deep transformers.
        return self.norm(x.to(torch.promote_types(x.dtype, torch.float32)))


def under_autocast(x: Tensor) -> bool:
    """Whether autocast is on where a tensor is; the meta device, on which operations are only counted, has none."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
