"""From the offset between two positions of a grid to the id of a bucket. Integers only, no parameters.

Source: Wu et al., "Rethinking and Improving Relative Position Encoding for Vision Transformer" (iRPE), ICCV 2021,
https://arxiv.org/abs/2107.14222, equations 18 to 23; KP-RPE (https://arxiv.org/abs/2403.14852) uses the same with
alpha, beta, gamma = r, 2 r, 8 r. The published setting is the product method with r = 1.9: 49 buckets.
Offsets count grid steps (rows, columns), query minus key. Positions are numbered row by row.
Shape letters: N positions = rows * cols, K buckets, R tables (2 for the cross method, else 1).
"""

import math
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["DistanceMethod", "bucket_ids", "num_buckets"]

DistanceMethod = Literal["product", "euclidean", "quant", "cross"]


def _half_range(ratio: float) -> int:
    return int(2 * ratio)


def _check(method: str, ratio: float) -> None:
    if method not in get_args(DistanceMethod):
        raise ValueError(f"method must be one of {', '.join(get_args(DistanceMethod))}, got {method!r}")
    if not 0 < ratio < math.inf:
        raise ValueError(f"ratio must be > 0 and finite, got {ratio}")


def num_buckets(method: DistanceMethod, ratio: float = 1.9) -> int:
    """How many buckets K a method has: (2 b + 1) squared for product, twice 2 b + 1 for cross (rows, then columns),
    else 2 b + 1, where b = floor(2 ratio).

    Raises:
        ValueError: unknown method, or a ratio that is not positive and finite.
    """
    _check(method, ratio)
    side = 2 * _half_range(ratio) + 1
    return {"product": side * side, "cross": 2 * side}.get(method, side)


def _piecewise(offset: Tensor, ratio: float) -> Tensor:
    """iRPE's index: exact up to alpha, then logarithmic, and constant from gamma on. Result in [-b, b]."""
    alpha, beta, gamma = ratio, 2 * ratio, 8 * ratio
    size = offset.abs().double()
    far = alpha + torch.log(size.clamp(min=1e-9) / alpha) / math.log(gamma / alpha) * (beta - alpha)
    far = far.round().clamp(max=beta).trunc()
    return (offset.sign() * torch.where(size <= alpha, size.round(), far)).long()


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a table first built while evaluating must serve training too
def bucket_ids(
    grid_hw: tuple[int, int],
    method: DistanceMethod = "product",
    ratio: float = 1.9,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Bucket of every (query, key) pair of a grid. Cached: treat the result as read-only.

    Args:
        grid_hw: (rows, cols), both >= 1.
        method: how a two-dimensional offset becomes a bucket.
        ratio: r, scales the piecewise index.
        device: where the table lives.

    Returns:
        [R, N, N] int64 in [0, K). R is 2 for cross (bias = value of the row bucket + value of the column bucket,
        the two ranges being disjoint), else 1.

    Raises:
        ValueError: an empty grid, an unknown method, a ratio that is not positive and finite.
    """
    _check(method, ratio)
    rows, cols = grid_hw
    if rows < 1 or cols < 1:
        raise ValueError(f"grid_hw must be (rows, cols), both >= 1, got {grid_hw}")
    half = _half_range(ratio)
    side = 2 * half + 1
    row = torch.arange(rows).repeat_interleave(cols)
    col = torch.arange(cols).repeat(rows)
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
    return ids.to(device)
