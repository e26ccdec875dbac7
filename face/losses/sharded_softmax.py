"""Cosines to class centres and their softmax, where each process has some of the classes and all see the whole batch.

Source: the model-parallel softmax of An et al., CVPR 2022, https://arxiv.org/abs/2203.15565. Without a process group,
or in a group of one, nothing is communicated.
Deliberate differences from the public code (deepinsight/insightface@7fadd42, mk-minchul/CVLface@d3d09c9): processes may
have different numbers of rows; the loss is a log-sum-exp, not the logarithm of a probability that is kept above 1e-30;
weights are normalised inside the product, without a normalised copy.
Shape letters: B rows of the batch of all processes, C classes of this process, E channels of an embedding.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.runtime.distribution import world_size

__all__ = ["LEAST_NORM", "exchange_sizes", "gather_rows", "sharded_cross_entropy", "unit_cosines"]

LEAST_NORM = 1e-8
"""Shorter embeddings and weights are divided by this instead of their length."""


def exchange_sizes(rows: int, device: torch.device) -> list[int]:
    """How many rows each process has. On a GPU this waits for what it was given to do."""
    if world_size() == 1:
        return [rows]
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([rows], dtype=torch.int64, device=device))
    return torch.cat(sizes).tolist()


def gather_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows of all processes, in the processes' order.

    A process's rows get the sum of their gradients in all processes, times the number of processes: of a loss that is
    the same in all of them, DistributedDataParallel's mean of the model's gradients is then the gradient.

    Args:
        rows: [n, ...], n the process's own of `sizes`.
        sizes: number of rows in each process.

    Returns:
        [sum of sizes, ...].
    """
    return rows if world_size() == 1 else _GatherRows.apply(rows, list(sizes))


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        most = max(sizes)
        if most == 0:
            return rows.clone()
        own = rows.contiguous()
        if len(rows) < most:  # a collective takes equal shapes
            own = rows.new_zeros((most, *rows.shape[1:]))
            own[: len(rows)] = rows
        parts = [torch.empty_like(own) for _ in sizes]
        dist.all_gather(parts, own)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        if max(ctx.sizes) == 0:
            return gradient, None
        total = gradient * len(ctx.sizes)
        dist.all_reduce(total)
        return total.split(ctx.sizes)[dist.get_rank()], None


def unit_cosines(unit_rows: Tensor, weight: Tensor) -> Tensor:
    """Cosines of rows of length 1 and the rows of a weight, whatever their length.

    Args:
        unit_rows: [B, E], of length 1.
        weight: [C, E], of the same dtype. A row shorter than 1e-8 is divided by that.

    Returns:
        [B, C].
    """
    return _UnitCosines.apply(unit_rows, weight)


class _UnitCosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, unit_rows: Tensor, weight: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(weight, dim=1)
        inverse = norms.clamp(min=LEAST_NORM).reciprocal()
        cosines = (unit_rows @ weight.T).mul_(inverse)
        ctx.save_for_backward(unit_rows, weight, inverse, norms > LEAST_NORM, cosines)
        return cosines

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        unit_rows, weight, inverse, has_length, cosines = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            gradient = gradient * inverse
            of_rows = gradient @ weight if ctx.needs_input_grad[0] else None
            of_weight = None
            if ctx.needs_input_grad[1]:
                # d cosine / d w = (unit row - cosine w / |w|) / |w|
                along = (gradient * cosines).sum(0) * inverse * has_length
                of_weight = (gradient.T @ unit_rows).addcmul_(weight, along[:, None], value=-1)
        return of_rows, of_weight


def sharded_cross_entropy(logits: Tensor, labels: Tensor, row_weights: Tensor) -> Tensor:
    """Weighted sum over rows of the cross-entropy of all processes' classes; the same in every process.

    Args:
        logits: [B, C], of this process's classes, C >= 1.
        labels: [B] int64, the column of a row's class, or -1 where it is another process's. A row that has none in any
            process needs the weight 0.
        row_weights: [B], such as 1 / B for a mean; without a gradient.

    Returns:
        [] loss.
    """
    return _ShardedCrossEntropy.apply(logits, labels, row_weights)


class _ShardedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, row_weights: Tensor) -> Tensor:
        has_class = labels >= 0
        columns = labels.clamp(min=0)[:, None]
        largest = logits.amax(1)
        several = world_size() > 1
        if several:
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        exponentials = (logits - largest[:, None]).exp_()
        targets = torch.where(has_class, logits.gather(1, columns)[:, 0] - largest, 0.0)
        sums = torch.stack([exponentials.sum(1), targets])
        if several:
            dist.all_reduce(sums)
        losses = sums[0].log() - sums[1]
        ctx.save_for_backward(exponentials, sums[0], columns, has_class, row_weights)
        return (losses * row_weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        exponentials, sums, columns, has_class, row_weights = ctx.saved_tensors
        weights = row_weights * gradient
        out = exponentials * (weights / sums)[:, None]
        out.scatter_add_(1, columns, torch.where(has_class, -weights, 0.0)[:, None])
        return out, None, None
