"""From the offset between two positions of a grid to the id of a bucket. Integers only, no parameters.

Source: Wu et al., "Rethinking and Improving Relative Position Encoding for Vision Transformer" (iRPE), ICCV 2021,
https://arxiv.org/abs/2107.14222, equations 18 to 23; KP-RPE (https://arxiv.org/abs/2403.14852) uses the same with
alpha, beta, gamma = r, 2 r, 8 r. The published setting is the product method with r = 1.9: 49 buckets.
Offsets count grid steps (rows, columns), query minus key. Positions are numbered row by row. Extra tokens (a class
token, registers) have no position: they come first, and every pair with one of them is in a bucket of its own.
Shape letters: E extra tokens, N = E + rows * cols tokens, K buckets, R tables (2 for the cross method, else 1).
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from common.rpe.tables import constant_table

__all__ = ["DistanceMethod", "bucket_ids", "num_buckets", "num_tables"]

DistanceMethod = Literal["product", "euclidean", "quant", "cross"]


def _half_range(ratio: float) -> int:
    return int(2 * ratio)


def _check(method: str, ratio: float) -> None:
    if method not in get_args(DistanceMethod):
        raise ValueError(f"method must be one of {', '.join(get_args(DistanceMethod))}, got {method!r}")
    if not 0 < ratio < math.inf:
        raise ValueError(f"ratio must be > 0 and finite, got {ratio}")


def num_buckets(method: DistanceMethod, ratio: float = 1.9, extra_tokens: int = 0) -> int:
    """How many buckets K a method has: (2 b + 1) squared for product, twice 2 b + 1 for cross (rows, then columns),
    else 2 b + 1, where b = floor(2 ratio). Extra tokens add one, in each table of the method.

    Raises:
        ValueError: unknown method, a ratio that is not positive and finite, or a negative number of extra tokens.
    """
    _check(method, ratio)
    if extra_tokens < 0:
        raise ValueError(f"extra_tokens must be >= 0, got {extra_tokens}")
    side = 2 * _half_range(ratio) + 1
    positions = {"product": side * side, "cross": 2 * side}.get(method, side)
    return positions + (num_tables(method) if extra_tokens else 0)


def num_tables(method: DistanceMethod) -> int:
    """How many buckets R a pair of tokens is in: 2 for cross (the bias is the sum of both values), else 1."""
    return 2 if method == "cross" else 1


def _piecewise(offset: Tensor, ratio: float) -> Tensor:
    """iRPE's index: exact up to alpha, then logarithmic, and constant from gamma on. Result in [-b, b]."""
    alpha, beta, gamma = ratio, 2 * ratio, 8 * ratio
    size = offset.abs().double()
    far = alpha + torch.log(size.clamp(min=1e-9) / alpha) / math.log(gamma / alpha) * (beta - alpha)
    far = far.round().clamp(max=beta).trunc()
    return (offset.sign() * torch.where(size <= alpha, size.round(), far)).long()


@constant_table(maxsize=64)
def bucket_ids(
    grid_hw: tuple[int, int],
    method: DistanceMethod = "product",
    ratio: float = 1.9,
    device: torch.device | str = "cpu",
    extra_tokens: int = 0,
) -> Tensor:
    """Bucket of every (query, key) pair of tokens. Cached: treat the result as read-only.

    Args:
        grid_hw: (rows, cols), both >= 1.
        method: how a two-dimensional offset becomes a bucket.
        ratio: r, scales the piecewise index.
        device: where the table lives.
        extra_tokens: E, tokens without a position before those of the grid; pairs with them are in the last buckets.

    Returns:
        [R, N, N] int64 in [0, K). R is 2 for cross (bias = value of the row bucket + value of the column bucket,
        the two ranges being disjoint), else 1.

    Raises:
        ValueError: an empty grid, an unknown method, a ratio that is not positive and finite, extra_tokens < 0.
    """
    buckets = num_buckets(method, ratio, extra_tokens)
    rows, cols = grid_hw
    if rows < 1 or cols < 1:
        raise ValueError(f"grid_hw must be (rows, cols), both >= 1, got {grid_hw}")
    half = _half_range(ratio)
    side = 2 * half + 1
    row = torch.arange(rows, device="cpu").repeat_interleave(cols)
    col = torch.arange(cols, device="cpu").repeat(rows)
    dy = row[:, None] - row[None, :]
    dx = col[:, None] - col[None, :]
    if method == "product":
        ids = ((_piecewise(dy, ratio) + half) * side + _piecewise(dx, ratio) + half)[None]
    elif method == "cross":
        ids = torch.stack([_piecewise(dy, ratio) + half, _piecewise(dx, ratio) + half + side])
    else:
        square = dy**2 + dx**2
        distance = square.double().sqrt().round() if method == "euclidean" else square
        ids = (_piecewise(distance, ratio) + half)[None]
    if extra_tokens:
        tables, total = len(ids), extra_tokens + rows * cols
        extra = torch.arange(buckets - tables, buckets, device="cpu")
        padded = extra[:, None, None].repeat(1, total, total)
        padded[:, extra_tokens:, extra_tokens:] = ids
        ids = padded
    return ids.to(device)
