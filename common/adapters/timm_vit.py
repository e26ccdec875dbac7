"""timm's VisionTransformer and Eva with KP-RPE at image level.

timm hands an attention mask to every block, and adds it to the logits after their scaling: the mask here is the bias.
The tokens without a position (class, distillation, registers) come first, as `KeypointRPE` has them.

Coordinates: (x, y) as fractions of the image, x right and y down.
Shape letters: B batch, L keypoints, D layers, H heads, E tokens without a position, N patches.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import AttentionRope
from timm.models import deit, eva, vision_transformer
from torch import Tensor, nn

from common.adapters.timm_base import (
    Chain,
    KeypointModel,
    check_patches,
    fractions_of_map,
    install,
    original,
    patch_grid,
)
from common.rpe import KeypointRPE

__all__ = [
    "MODELS",
    "KeypointEva",
    "KeypointVisionTransformer",
    "KeypointVisionTransformerDistilled",
    "adapt",
]


class _KeypointViT(KeypointModel):
    kprpe: KeypointRPE

    def biased_layers(self, images: Tensor, keypoints: Tensor, visibility: Tensor | None) -> dict[str, Chain]:
        image_hw = images.shape[-2:]
        grid_hw, patch_hw = patch_grid(self, image_hw)
        covered_hw = [cells * pixels for cells, pixels in zip(grid_hw, patch_hw, strict=True)]
        biases = self.kprpe(fractions_of_map(keypoints, image_hw, covered_hw), grid_hw, visibility)
        blocks: Any = self.blocks
        return {"blocks": Chain(partial(_run, block, biases, layer) for layer, block in enumerate(blocks))}


def _run(
    block: nn.Module,
    biases: Sequence[Tensor],
    layer: int,
    x: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    **others: Any,
) -> Tensor:
    """A block with its bias [B, H, E + N, E + N], which is computed here: in a checkpoint it is not kept."""
    if attn_mask is not None or is_causal:
        raise ValueError("attn_mask and is_causal cannot be given beside KP-RPE, whose bias is the mask")
    return block(x, attn_mask=biases[layer].to(_query_dtype(x)), **others)


def _query_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the queries that a block makes of x. A float32 mask beside half-precision queries can be silently
    wrong in some fused kernels."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


# The classes below take more arguments than timm's, whence the ignored type errors.


class KeypointVisionTransformer(_KeypointViT, vision_transformer.VisionTransformer):  # type: ignore[misc]
    """timm's VisionTransformer, called with keypoints."""

    def get_intermediate_layers(
        self,
        x: Tensor,
        *args: Any,
        keypoints: Tensor | None = None,
        visibility: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As timm's, whose arguments it takes: images to the features of several layers."""
        with_keypoints = partial(self.forward_intermediates, keypoints=keypoints, visibility=visibility)
        timm_model = original(KeypointModel, self, forward_intermediates=with_keypoints)
        return timm_model.get_intermediate_layers(x, *args, **kwargs)


class KeypointVisionTransformerDistilled(KeypointVisionTransformer, deit.VisionTransformerDistilled):  # type: ignore[misc]
    """timm's VisionTransformerDistilled (DeiT), called with keypoints."""


class KeypointEva(_KeypointViT, eva.Eva):  # type: ignore[misc]
    """timm's Eva (EVA, EVA-02, DINOv3 and others with rotary positions), called with keypoints."""


MODELS: dict[type, type] = {
    vision_transformer.VisionTransformer: KeypointVisionTransformer,
    deit.VisionTransformerDistilled: KeypointVisionTransformerDistilled,
    eva.Eva: KeypointEva,
}
_BLOCKS = (
    vision_transformer.Block,
    vision_transformer.ResPostBlock,
    vision_transformer.ParallelScalingBlock,
    vision_transformer.ParallelThingsBlock,
    eva.EvaBlock,
    eva.EvaBlockPostNorm,
)
_ATTENTION = (vision_transformer.Attention, eva.EvaAttention, AttentionRope)


def adapt(model: nn.Module, settings: dict[str, Any]) -> None:
    """Put KP-RPE into one of `MODELS`. Blocks with several attentions side by side share a bias among them.

    Raises:
        ValueError: see `add_kprpe`.
    """
    vit: Any = model
    check_patches(vit)
    for block in vit.blocks:
        _check_block(block, type(model).__name__)
    rate = getattr(vit.patch_drop, "prob", 0.0)
    if rate > 0:
        raise ValueError(
            f"{type(model).__name__} drops patches at random (patch_drop_rate={rate:g}), so that positions and tokens "
            "would not match: create it with patch_drop_rate=0"
        )
    heads = {module.num_heads for block in vit.blocks for module in block.modules() if hasattr(module, "num_heads")}
    if len(heads) != 1:
        raise ValueError(f"the blocks must have equally many heads, got {sorted(heads)}")
    kprpe = KeypointRPE(
        num_heads=heads.pop(), num_layers=len(vit.blocks), extra_tokens=vit.num_prefix_tokens, **settings
    )
    install(model, kprpe, MODELS)


def _check_block(block: nn.Module, owner: str) -> None:
    attention = [module for name, module in block.named_modules() if name.split(".")[-1] == "attn"]
    for module, known, what in [
        (block, _BLOCKS, "blocks"),
        *((module, _ATTENTION, "attention") for module in attention),
    ]:
        if type(module) not in known:
            raise ValueError(
                f"{owner} has {what} of class {type(module).__name__}, which cannot take one additive bias a head; "
                f"supported: {', '.join(kind.__name__ for kind in known)}"
            )
