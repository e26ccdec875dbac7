"""Reading values by bucket for every pair of tokens, and its transpose, each the other's derivative.

Torch's `gather` would keep the table for its backward although only the ids are needed: per image and layer, N times
K values a head. These keep nothing that grows with the batch.
Shape letters: N queries, M keys, K buckets, R bucket tables, `...` any leading axes.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["bucket_sum", "look_up"]


def _at(ids: Tensor, lead: torch.Size) -> Tensor:
    return ids.expand(*lead, *ids.shape)


class _Read(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(table: Tensor, ids: Tensor) -> Tensor:
        return table.gather(-1, _at(ids, table.shape[:-2]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        table, ids = inputs
        ctx.save_for_backward(ids)
        ctx.buckets = table.shape[-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(grad, ctx.saved_tensors[0], ctx.buckets), None


class _Sum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, ids: Tensor, buckets: int) -> Tensor:
        sums = values.new_zeros(*values.shape[:-1], buckets)
        return sums.scatter_add(-1, _at(ids, values.shape[:-2]), values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Read.apply(grad, ctx.saved_tensors[0]), None, None


def look_up(table: Tensor, ids: Tensor) -> Tensor:
    """out[..., i, j] = sum over tables r of table[..., i, ids[r, i, j]].

    Args:
        table: [..., N, K].
        ids: [R, N, M] int64 in [0, K).

    Returns:
        [..., N, M].
    """
    out: Tensor = _Read.apply(table, ids[0])
    for more in ids[1:]:
        out = out + _Read.apply(table, more)
    return out


def bucket_sum(values: Tensor, ids: Tensor, buckets: int) -> Tensor:
    """out[..., i, k] = sum over tables r and keys j with ids[r, i, j] = k of values[..., i, j]: look_up transposed.

    Args:
        values: [..., N, M].
        ids: [R, N, M] int64 in [0, K).
        buckets: K.

    Returns:
        [..., N, K].
    """
    out: Tensor = _Sum.apply(values, ids[0], buckets)
    for more in ids[1:]:
        out = out + _Sum.apply(values, more, buckets)
    return out
