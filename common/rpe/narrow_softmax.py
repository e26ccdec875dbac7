"""Softmax over rows that are narrower than a CPU's vectors, such as those of a window of 3 x 5 positions.

Torch's CPU kernel goes over a row vector by vector, and falls back to single numbers where the row is shorter than one:
a row of 15 takes several times as long as a row of 16. Here each step goes over all rows at once.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["VECTOR", "narrow_softmax"]

VECTOR = 16
"""float32 numbers in the widest vectors (AVX-512)."""


class _NarrowSoftmax(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor) -> Tensor:
        weights = (logits - logits.amax(-1, keepdim=True)).exp_()
        return weights.div_(weights.sum(-1, keepdim=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        product = grad * weights
        return torch.addcmul(product, weights, product.sum(-1, keepdim=True), value=-1)


def narrow_softmax(logits: Tensor) -> Tensor:
    """softmax(logits, -1), differentiable any number of times: [..., N] floating point to the same."""
    weights: Tensor = _NarrowSoftmax.apply(logits)
    return weights
