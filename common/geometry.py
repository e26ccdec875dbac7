"""Least-squares similarities and affine maps from points to points: closed form, batched, differentiable.

A similarity is read as a complex number: with the points as p = x + iy about their (weighted) mean, the map is
p -> a p, and a = sum(w conj(p) q) / sum(w |p|^2). That is Umeyama's solution in two dimensions without its singular
value decomposition, whose gradient is undefined where singular values meet: S. Umeyama, "Least-squares estimation of
transformation parameters between two point patterns", TPAMI 1991. Written from the mathematics.
Deliberate differences from scikit-image's SimilarityTransform, which face alignment commonly uses: batches, weights,
gradients, a flag instead of NaN where there is no answer. Neither ever mirrors.

Coordinates: (x, y), any unit, the same for all points of a set. Matrices act on (x, y, 1), see
`common.keypoints.transform_keypoints`.
Shape letters: L points, `...` any leading axes.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["Fit", "fit_affine", "fit_similarity"]

Array = TypeVar("Array", np.ndarray, Tensor)

# Points are one when they differ by no more than rounding: this many units of the dtype's last place.
_ROUNDING = 32.0
# Means of fourth powers of differences are the most that is computed. Where the fourth power of a coordinate is beyond
# this part of the largest number, they or their gradients could overflow.
_LARGEST_SHARE = 1 / 64


@dataclass(frozen=True)
class Fit(Generic[Array]):
    """Maps that were fitted: `matrix` [..., 3, 3] and `valid` [...], which is False where the map is undefined."""

    matrix: Array
    valid: Array


def fit_similarity(source: Array, target: Array, weights: Array | None = None) -> Fit[Array]:
    """The rotation, scaling and shift that moves `source` closest to `target`, by least squares. Never a mirror image.

    Args:
        source: [..., L, 2] floating point.
        target: [..., L, 2]; leading axes broadcast against those of `source`, so one target serves a batch.
        weights: [..., L] of each squared distance, >= 0; None for all equal. A point of weight 0 may be NaN.

    Returns:
        `matrix` [..., 3, 3], its last row (0, 0, 1), and `valid` [...]. Where the points of `source` coincide, where
        the best map would shrink everything to one point (the points of `target` coincide, or are a mirror image
        that no rotation comes near), or where a value is not finite or so large that its fourth power overflows
        (1.5e9 in float32), or a weight negative, the matrix is the identity, its gradient zero and `valid` False.
        Half precision is computed in float32.

    Raises:
        ValueError: wrong shapes, or an integer dtype.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> fit_similarity(points, torch.tensor([[0.0, 0.0], [0.0, 2.0]])).matrix.tolist()
        [[0.0, -2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    _check(source, target, weights)
    if isinstance(source, np.ndarray):
        return _through_torch(fit_similarity, source, target, weights)
    centred = _Centred(source, target, weights)
    p, q, w = centred.source, centred.target, centred.weights
    spread = (w * p.square().sum(-1)).sum(-1)
    apart = centred.valid & (spread > centred.least_spread(centred.reach))
    divisor = torch.where(apart, spread, 1.0)
    cos = (w * (p * q).sum(-1)).sum(-1) / divisor
    sin = (w * (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0])).sum(-1) / divisor
    target_spread = (w * q.square().sum(-1)).sum(-1)
    # Against rounding in q too: a target far from the origin that is one point is so only up to rounding.
    least = centred.least_spread(centred.target_reach) + (_ROUNDING * _eps(p)) ** 2 * target_spread
    valid = apart & ((cos.square() + sin.square()) * spread > least)
    return centred.fit(torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2), valid)


def fit_affine(source: Array, target: Array, weights: Array | None = None) -> Fit[Array]:
    """The affine map that moves `source` closest to `target`, by least squares.

    Args:
        source: [..., L, 2] floating point.
        target: [..., L, 2]; leading axes broadcast.
        weights: [..., L] of each squared distance, >= 0; None for all equal. A point of weight 0 may be NaN.

    Returns:
        `matrix` [..., 3, 3], its last row (0, 0, 1), and `valid` [...]. Where the points of `source` lie on a line,
        or a value is not finite or too large (as above) or a weight negative, the matrix is the identity, its
        gradient zero and `valid` False. The map may mirror, and may be singular. Half precision is computed in float32.

    Raises:
        ValueError: wrong shapes, or an integer dtype.
    """
    _check(source, target, weights)
    if isinstance(source, np.ndarray):
        return _through_torch(fit_affine, source, target, weights)
    centred = _Centred(source, target, weights)
    p, q = centred.source, centred.target
    weighted = (centred.weights[..., None] * p).mT  # [..., 2, L]
    own, cross = weighted @ p, (weighted @ q).mT  # both [..., 2, 2]
    xx, xy, yy = own[..., 0, 0], own[..., 0, 1], own[..., 1, 1]
    determinant, spread = xx * yy - xy.square(), xx + yy
    # Both eigenvalues of `own` are above rounding; their product is the determinant, their sum the spread.
    thin = spread * (centred.least_spread(centred.reach) + _ROUNDING * _eps(p) * spread)
    valid = centred.valid & (determinant > thin)
    adjugate = torch.stack([torch.stack([yy, -xy], -1), torch.stack([-xy, xx], -1)], -2)
    return centred.fit(cross @ adjugate / torch.where(valid, determinant, 1.0)[..., None, None], valid)


class _Centred:
    """Points about their weighted means; what is not finite or too large is taken out (`valid` is False there)."""

    def __init__(self, source: Tensor, target: Tensor, weights: Tensor | None) -> None:
        self.dtype = torch.promote_types(source.dtype, target.dtype)
        work = torch.promote_types(self.dtype, torch.float32)
        source, target = torch.broadcast_tensors(source.to(work), target.to(work))
        weights = source.new_ones(source.shape[-2]) if weights is None else weights.to(work)
        weights = torch.broadcast_tensors(weights, source[..., 0])[0]
        source, target = source.expand(*weights.shape, 2), target.expand(*weights.shape, 2)

        limit = (torch.finfo(work).max * _LARGEST_SHARE) ** 0.25
        known = ((source.abs() <= limit) & (target.abs() <= limit)).all(-1)  # False for NaN
        right = (weights >= 0) & (known | (weights == 0))
        total = torch.where(right, weights, 0.0).sum(-1)
        self.valid = right.all(-1) & (total > 0) & total.isfinite()
        use = known & self.valid[..., None]
        source, target = torch.where(use[..., None], source, 0.0), torch.where(use[..., None], target, 0.0)
        # Shares of the whole, so that the scale of the weights has no say in what counts as rounding.
        weights = torch.where(self.valid[..., None], weights, 1.0)
        self.weights = weights / weights.sum(-1, keepdim=True)
        self.reach, self.target_reach = (x.detach().abs().amax((-2, -1)) for x in (source, target))
        self.source_mean = (self.weights[..., None] * source).sum(-2)
        self.target_mean = (self.weights[..., None] * target).sum(-2)
        self.source = source - self.source_mean[..., None, :]
        self.target = target - self.target_mean[..., None, :]

    @staticmethod
    def least_spread(reach: Tensor) -> Tensor:
        """Squared distance that rounding can put between equal points of this size."""
        # The second term (3e-10 squared in float32) is where gradients would overflow, as they do for large numbers.
        return (_ROUNDING * _eps(reach) * reach).square() + torch.finfo(reach.dtype).tiny ** 0.5

    def fit(self, linear: Tensor, valid: Tensor) -> Fit[Tensor]:
        shift = self.target_mean - (linear @ self.source_mean[..., None])[..., 0]
        upper = torch.cat([linear, shift[..., None]], dim=-1)
        last = upper.new_tensor([0.0, 0.0, 1.0]).expand(*upper.shape[:-2], 1, 3)
        matrix = torch.cat([upper, last], dim=-2)
        valid = valid & matrix.detach().isfinite().all(-1).all(-1)
        identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
        return Fit(torch.where(valid[..., None, None], matrix, identity).to(self.dtype), valid)


def _eps(like: Tensor) -> float:
    return torch.finfo(like.dtype).eps


def _check(source: Array, target: Array, weights: Array | None) -> None:
    for name, points in (("source", source), ("target", target)):
        if points.ndim < 2 or points.shape[-1] != 2 or points.shape[-2] < 1:
            raise ValueError(f"{name} must have shape [..., L, 2] with L >= 1, got {list(points.shape)}")
        floating = points.is_floating_point() if isinstance(points, Tensor) else points.dtype.kind == "f"
        if not floating:
            raise ValueError(f"{name} must be floating point, got {points.dtype}")
    if source.shape[-2] != target.shape[-2]:
        raise ValueError(
            f"source and target must have as many points, got shapes {list(source.shape)} and {list(target.shape)}"
        )
    if weights is not None and (weights.ndim < 1 or weights.shape[-1] != source.shape[-2]):
        raise ValueError(f"weights must have shape [..., L] with L = {source.shape[-2]}, got {list(weights.shape)}")


def _through_torch(function, source: np.ndarray, target: np.ndarray, weights: np.ndarray | None) -> Fit[np.ndarray]:
    found = function(
        *(None if given is None else torch.from_numpy(np.array(given)) for given in (source, target, weights))
    )
    return Fit(found.matrix.numpy(), found.valid.numpy())
