"""Image relative position encoding (iRPE), the strongest baseline that does not know of keypoints.

Source: Wu et al., "Rethinking and Improving Relative Position Encoding for Vision Transformer", ICCV 2021,
https://arxiv.org/abs/2107.14222. With d(i, j) the bucket of the offset from query i to key j and q scaled by 1 /
sqrt(d), the logit of i and j gains

    on keys      q_i . r_d(i,j)   (contextual)   or   r_d(i,j)   (bias),
    on queries   k_j . r_d(j,i) / sqrt(d)        or   r_d(j,i),

and, on values (contextual only), the output of i gains sum_j a_ij r_d(i,j). Each place has tables r of its own in every
layer, one for all heads or one a head. Zero at the start.
Deliberate difference from the authors' code: on values, attention weights are summed by bucket before they meet the
table, so that no [H, N, N, d] tensor is made.
Shape letters: D layers, H heads, G head groups (H or 1), N queries and keys, K buckets, d channels of a head,
E extra tokens, R bucket tables.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from common.rpe.attention import AttentionBias
from common.rpe.buckets import DistanceMethod, bucket_ids, num_buckets
from common.rpe.grids import fixed_grid
from common.rpe.lookup import bucket_sum, look_up

__all__ = ["ImageRPE", "ImageRPEPlaces"]

ImageRPEPlaces = Literal["k", "q", "v", "qk", "kv", "qv", "qkv"]


class ImageRPE(nn.Module):
    """iRPE of a stack of layers.

    Args:
        num_heads: H >= 1.
        head_dim: d >= 1.
        num_layers: D >= 1.
        mode: "contextual" or "bias".
        places: what is encoded: queries, keys, values.
        per_head: tables of every head's own, instead of one for all.
        method: how an offset becomes a bucket, see `common.rpe.buckets`.
        ratio: scales the piecewise index.
        extra_tokens: E >= 0, tokens without a position before those of the grid.

    Raises:
        ValueError: a setting out of range or unknown, or values in bias mode.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        num_layers: int = 1,
        mode: Literal["contextual", "bias"] = "contextual",
        places: ImageRPEPlaces = "k",
        per_head: bool = False,
        method: DistanceMethod = "product",
        ratio: float = 1.9,
        extra_tokens: int = 0,
    ) -> None:
        super().__init__()
        for name, number in (("num_heads", num_heads), ("head_dim", head_dim), ("num_layers", num_layers)):
            if number < 1:
                raise ValueError(f"{name} must be >= 1, got {number}")
        if mode not in ("contextual", "bias"):
            raise ValueError(f"mode must be contextual or bias, got {mode!r}")
        if places not in get_args(ImageRPEPlaces):
            raise ValueError(f"places must be one of {', '.join(get_args(ImageRPEPlaces))}, got {places!r}")
        if mode == "bias" and "v" in places:
            raise ValueError(f"bias mode encodes queries and keys, not values: places must not hold v, got {places!r}")
        self.num_heads = num_heads
        self.num_layers = num_layers
        self.mode = mode
        self.places = places
        self.method = method
        self.ratio = ratio
        self.extra_tokens = extra_tokens
        self.num_buckets = num_buckets(method, ratio, extra_tokens)
        groups = num_heads if per_head else 1
        shape = {"bias": (self.num_buckets,), "contextual": (head_dim, self.num_buckets)}[mode]
        self.on_queries = _table(num_layers, groups, *shape) if "q" in places else None
        self.on_keys = _table(num_layers, groups, *shape) if "k" in places else None
        self.on_values = _table(num_layers, groups, self.num_buckets, head_dim) if "v" in places else None

    def extra_repr(self) -> str:
        return f"mode={self.mode}, places={self.places}, method={self.method}, ratio={self.ratio}"

    def forward(self, grid_hw: tuple[int, int]) -> Sequence[AttentionBias | Tensor]:
        """The encodings of all layers on a grid of (rows, cols): [H, N, N] in bias mode, else for `attention`."""
        ids = bucket_ids(fixed_grid(grid_hw), self.method, self.ratio, self._device(), self.extra_tokens)
        if self.mode == "contextual":
            return [_Contextual(self, layer, ids) for layer in range(self.num_layers)]
        return [self._bias(layer, ids) for layer in range(self.num_layers)]

    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _bias(self, layer: int, ids: Tensor) -> Tensor:
        terms = []
        for table, pairs in ((self.on_keys, ids), (self.on_queries, ids.mT)):
            if table is not None:
                terms.append(look_up(table[layer][:, None].expand(-1, ids.shape[-1], -1), pairs))
        return sum(terms[1:], terms[0]).expand(self.num_heads, -1, -1)


def _table(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


class _Contextual(AttentionBias):
    """One layer of contextual iRPE."""

    def __init__(self, rpe: ImageRPE, layer: int, ids: Tensor) -> None:
        self._rpe = rpe
        self._layer = layer
        self._ids = ids
        self.on_values = rpe.on_values is not None

    def logits(self, query: Tensor, key: Tensor) -> Tensor | None:
        scale = query.shape[-1] ** -0.5
        terms = []
        if self._rpe.on_keys is not None:
            terms.append(look_up((query * scale) @ self._rpe.on_keys[self._layer].to(query.dtype), self._ids))
        if self._rpe.on_queries is not None:
            # Rows are keys here: the bucket of (j, i) for key j, transposed at the end.
            terms.append(look_up((key * scale) @ self._rpe.on_queries[self._layer].to(key.dtype), self._ids).mT)
        return sum(terms[1:], terms[0]) if terms else None

    def values(self, weights: Tensor) -> Tensor:
        tables = self._rpe.on_values
        if tables is None:
            raise ValueError("this encoding does not encode values")
        return bucket_sum(weights, self._ids, self._rpe.num_buckets) @ tables[self._layer].to(weights.dtype)
