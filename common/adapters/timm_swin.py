"""timm's SwinTransformer and SwinTransformerV2 with KP-RPE in their windows, added to their own position bias.

Each stage has a `KeypointRPE`, since heads and grids differ among stages. timm's window sizes and shifts are those that
a block really uses: it shrinks a window to a map that is smaller, and then shifts no more.

Coordinates: (x, y) as fractions of the image, x right and y down.
Shape letters: B batch, L keypoints, D layers of a stage, H heads, W windows, n positions of a window.
"""

from collections.abc import Callable, Sequence
from functools import partial
from operator import getitem
from typing import Any

import torch
from timm.models import swin_transformer, swin_transformer_v2
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
from common.rpe import KeypointGrid, KeypointRPE, Window, window_partition
from common.rpe.tables import constant_table

__all__ = ["MODELS", "KeypointSwinTransformer", "KeypointSwinTransformerV2", "adapt"]

LayerBias = Callable[[], Tensor]
"""Computes the bias of one layer: [B, W, H, n, n], or [B, H, n, n] for all windows."""


class _KeypointSwin(KeypointModel):
    kprpe: nn.ModuleList
    keypoint_grid: KeypointGrid

    def biased_layers(self, images: Tensor, keypoints: Tensor, visibility: Tensor | None) -> dict[str, Chain]:
        stages: Any = self.layers
        encodings: Any = self.kprpe
        image_hw = images.shape[-2:]
        (rows, cols), (height, width) = patch_grid(self, image_hw)
        layers = Chain()
        for stage, rpe in zip(stages, encodings, strict=False):  # stages may have been pruned
            if not isinstance(stage.downsample, nn.Identity):
                rows, cols, height, width = (rows + 1) // 2, (cols + 1) // 2, 2 * height, 2 * width
            if self.keypoint_grid == "window":  # whose size is the same for all blocks of a stage
                biases = _lazy(rpe(keypoints, stage.blocks[0].window.size_hw, visibility))
            else:
                points = fractions_of_map(keypoints, image_hw, (rows * height, cols * width))
                biases = _image_grid(rpe, points, (rows, cols), visibility, stage.blocks)
            layers.append(partial(stage, biases=biases))
        return {"layers": layers}


def _lazy(biases: Sequence[Tensor]) -> list[LayerBias]:
    read: Callable[[Sequence[Tensor], int], Tensor] = getitem
    return [partial(read, biases, layer) for layer in range(len(biases))]


def _image_grid(
    rpe: KeypointRPE,
    keypoints: Tensor,
    grid_hw: tuple[int, int],
    visibility: Tensor | None,
    blocks: Sequence[Any],
) -> list[LayerBias]:
    biases = _lazy(rpe(keypoints, grid_hw, visibility, [block.window for block in blocks]))
    if rpe.form == "absolute":  # which does not depend on the positions
        return biases
    for layer, block in enumerate(blocks):
        sides = zip(grid_hw, block.window.size_hw, block.window.shift_hw, strict=True)
        if any(cells % size and shift for cells, size, shift in sides):
            biases[layer] = partial(_shifted_then_padded, rpe, keypoints, grid_hw, visibility, blocks, layer)
    return biases


def _shifted_then_padded(
    rpe: KeypointRPE,
    keypoints: Tensor,
    grid_hw: tuple[int, int],
    visibility: Tensor | None,
    blocks: Sequence[Any],
    layer: int,
) -> Tensor:
    """[B, W, H, n, n] of a layer whose map timm shifts first and pads then; `Window` means the other order.

    Shifted windows are unshifted ones seen with the keypoints moved the other way, and once more by the image's size
    for what the shift wrapped around. So four sets of keypoints have the biases of all queries between them. What
    the queries in the padding get does not matter: timm throws their output away.
    """
    (rows, cols), (height, width), (down, right) = grid_hw, blocks[layer].window.size_hw, blocks[layer].window.shift_hw
    moves = [(across / cols, along / rows) for along in (down, down - rows) for across in (right, right - cols)]
    x, y = keypoints.unbind(-1)
    moved = torch.cat([torch.stack([x - across, y - along], dim=-1) for across, along in moves])
    seen = None if visibility is None else torch.cat([visibility] * len(moves))
    sets = rpe(moved, grid_hw, seen, [block.unshifted for block in blocks])[layer]
    sets = sets.unflatten(0, (len(moves), -1))  # [4, B, W, H, n, n]
    which = _wrapped(grid_hw, (height, width), (down, right), keypoints.device)  # [W, n]
    window = torch.arange(which.shape[0], device=which.device)[:, None]
    query = torch.arange(which.shape[1], device=which.device)
    return sets.permute(0, 2, 4, 1, 3, 5)[which, window, query].permute(2, 0, 3, 1, 4)


@constant_table(maxsize=64)
def _wrapped(
    grid_hw: tuple[int, int], size_hw: tuple[int, int], shift_hw: tuple[int, int], device: torch.device
) -> Tensor:
    """[W, n]: 2 for rows that came round from the top, plus 1 for columns that came round from the left."""
    (rows, cols), (height, width), (down, right) = grid_hw, size_hw, shift_hw
    row = torch.arange(-(-rows // height) * height, device="cpu") >= rows - down
    col = torch.arange(-(-cols // width) * width, device="cpu") >= cols - right
    return window_partition((2 * row[:, None] + 1 * col)[..., None], size_hw)[..., 0].to(device)


class _KeypointStage(nn.Module):
    def forward(self, x: Tensor, biases: Sequence[LayerBias]) -> Tensor:
        blocks: Any = self.blocks
        blocks = Chain(partial(_run, block, bias) for block, bias in zip(blocks, biases, strict=True))
        return original(_KeypointStage, self, blocks=blocks).forward(x)


def _run(block: nn.Module, bias: LayerBias, x: Tensor) -> Tensor:
    """A block with its bias, which is computed here: in a checkpoint it is not kept."""
    return block(x, bias=bias())


class _KeypointBlock(nn.Module):
    window_size: tuple[int, int]
    shift_size: tuple[int, int]
    # Kept, since a NamedTuple that is made while torch.compile traces does not reach the cached tables whole.
    window: Window
    unshifted: Window

    def note_window(self) -> None:
        self.window, self.unshifted = Window(self.window_size, self.shift_size), Window(self.window_size)

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        timm_block: Any = super()
        timm_block.set_input_size(*args, **kwargs)
        self.note_window()

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        attn: Any = self.attn
        return original(_KeypointBlock, self, attn=partial(attn, bias=bias)).forward(x)


def _by_window(bias: Tensor, windows: int) -> Tensor:
    """To timm's order, [B * W, H, n, n], where `windows` is B * W."""
    if bias.ndim == 4:
        bias = bias[:, None].expand(-1, windows // len(bias), -1, -1, -1)
    return bias.flatten(0, 1)


# Stages, blocks and attention take more arguments than timm's, whence the ignored type errors.


class KeypointSwinTransformer(_KeypointSwin, swin_transformer.SwinTransformer):
    """timm's SwinTransformer, called with keypoints."""


class _SwinStage(_KeypointStage, swin_transformer.SwinTransformerStage):  # type: ignore[misc]
    pass


class _SwinBlock(_KeypointBlock, swin_transformer.SwinTransformerBlock):  # type: ignore[misc]
    pass


class _SwinAttention(swin_transformer.WindowAttention):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, bias: Tensor) -> Tensor:  # type: ignore[override]
        table = self._get_rel_pos_bias()  # [1, H, n, n]
        total = table + _by_window(bias, len(x)).to(table.dtype)
        return original(_SwinAttention, self, _get_rel_pos_bias=lambda: total).forward(x, mask)


class KeypointSwinTransformerV2(_KeypointSwin, swin_transformer_v2.SwinTransformerV2):
    """timm's SwinTransformerV2, called with keypoints."""


class _SwinV2Stage(_KeypointStage, swin_transformer_v2.SwinTransformerV2Stage):  # type: ignore[misc]
    pass


class _SwinV2Block(_KeypointBlock, swin_transformer_v2.SwinTransformerV2Block):  # type: ignore[misc]
    pass


class _SwinV2Attention(swin_transformer_v2.WindowAttention):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, bias: Tensor) -> Tensor:  # type: ignore[override]
        def softmax(logits: Tensor) -> Tensor:
            return self.softmax(logits + _by_window(bias, len(x)).to(logits.dtype))

        return original(_SwinV2Attention, self, softmax=softmax).forward(x, mask)


MODELS: dict[type, type] = {
    swin_transformer.SwinTransformer: KeypointSwinTransformer,
    swin_transformer_v2.SwinTransformerV2: KeypointSwinTransformerV2,
}
_PARTS: dict[type, type] = {
    swin_transformer.SwinTransformerStage: _SwinStage,
    swin_transformer.SwinTransformerBlock: _SwinBlock,
    swin_transformer.WindowAttention: _SwinAttention,
    swin_transformer_v2.SwinTransformerV2Stage: _SwinV2Stage,
    swin_transformer_v2.SwinTransformerV2Block: _SwinV2Block,
    swin_transformer_v2.WindowAttention: _SwinV2Attention,
}


def adapt(model: nn.Module, settings: dict[str, Any], keypoint_grid: KeypointGrid) -> None:
    """Put KP-RPE into one of `MODELS`.

    Raises:
        ValueError: see `add_kprpe`.
    """
    swin: Any = model
    check_patches(swin)
    for stage in swin.layers:
        for part in (stage, *stage.blocks, *(block.attn for block in stage.blocks)):
            if type(part) not in _PARTS:
                raise ValueError(
                    f"{type(model).__name__} has a part of class {type(part).__name__}, which is not timm's own; "
                    f"supported: {', '.join(f'{kind.__module__}.{kind.__name__}' for kind in _PARTS)}"
                )
    kprpe = nn.ModuleList(
        KeypointRPE(num_heads=stage.blocks[0].attn.num_heads, num_layers=len(stage.blocks), **settings)
        for stage in swin.layers
    )
    install(model, kprpe, {**MODELS, **_PARTS})
    for stage in swin.layers:
        for block in stage.blocks:
            block.note_window()
    swin.keypoint_grid = keypoint_grid
