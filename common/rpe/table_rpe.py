"""Swin's plain relative position bias: a learned table over the offsets inside a window.

Source: Liu et al., "Swin Transformer", ICCV 2021, https://arxiv.org/abs/2103.14030, equation 4; windows of any number
of axes, as in Video Swin. Parameter name, layout and initialisation are those of the public code.
Shape letters: H heads, n positions of a window.
"""

import math

import torch
from torch import Tensor, nn

__all__ = ["TableRPE"]


class TableRPE(nn.Module):
    """A table with one value for every offset between two positions of a window, and every head.

    Args:
        window_size: positions along each axis of the window, e.g. (rows, cols) or (frames, rows, cols); all >= 1.
        num_heads: H.
        extra_tokens: E >= 0, tokens without a position before those of the window; pairs with one of them share a
            value, the last row of the table.

    Raises:
        ValueError: an empty window, no head, or a negative number of extra tokens.
    """

    relative_position_index: Tensor  # [E + n, E + n]

    def __init__(self, window_size: tuple[int, ...], num_heads: int, extra_tokens: int = 0) -> None:
        super().__init__()
        if not window_size or min(window_size) < 1 or num_heads < 1:
            raise ValueError(f"window_size and num_heads must be >= 1, got {window_size} and {num_heads}")
        if extra_tokens < 0:
            raise ValueError(f"extra_tokens must be >= 0, got {extra_tokens}")
        self.window_size = tuple(window_size)
        spans = [2 * size - 1 for size in self.window_size]
        rows = math.prod(spans) + (extra_tokens > 0)
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        axes = torch.meshgrid(*(torch.arange(size) for size in self.window_size), indexing="ij")
        index = torch.zeros(1, 1, dtype=torch.long)
        for axis, size, span in zip(axes, self.window_size, spans, strict=True):
            position = axis.flatten()
            index = index * span + (position[:, None] - position[None, :] + size - 1)
        if extra_tokens:
            index = nn.functional.pad(index, (extra_tokens, 0, extra_tokens, 0), value=rows - 1)
        # Follows from the window: built again on construction, not part of a checkpoint.
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self) -> Tensor:
        """[H, E + n, E + n], in the dtype of the table."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
