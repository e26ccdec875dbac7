"""Rank-k, mAP, mINP and CMC of a distance matrix, exact and without a sort order.

Source: the definitions of OpenGait's `evaluate_rank` (a probe without a true match in the gallery is left out of every
average). mINP: Ye et al., https://arxiv.org/abs/2001.04193. Nothing but the ranks of the true matches enters these
numbers, so only those are computed: each row of distances is sorted by value, and every true match is looked up in it.

Deliberate differences from OpenGait: equal distances are ranked by gallery index, where OpenGait's default quicksort
leaves their order open, so that its numbers can depend on the NumPy version; probes left out are counted and
reported.

Shape letters: n probes, m gallery sequences, P true matches of the probe that has most, G groups of the gallery.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plugin.evaluation.messages import refuse_non_finite

__all__ = [
    "ProbeScores",
    "RetrievalResult",
    "first_match_by_group",
    "nearest",
    "retrieval_metrics",
    "same_identity",
    "score_probes",
]

RANKS = (1, 5, 10)
MAX_RANK = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalResult:
    """Percentages over the probes that have a true match in the gallery."""

    rank: dict[int, float]
    """Rank-k in percent for each k asked for (k as asked, also where the gallery was smaller)."""

    mean_ap: float
    """Mean average precision in percent."""

    mean_inp: float
    """Mean inverse negative penalty in percent: true matches over the rank of the last of them."""

    cmc: np.ndarray
    """[min(max_rank, m)] cumulative match curve in percent; entry k - 1 is Rank-k."""

    average_precision: np.ndarray
    """[n] percent, NaN for a probe without a true match."""

    first_match: np.ndarray
    """[n] rank of the nearest true match, counted from 1; 0 for a probe without one."""

    probes_without_match: int
    """Probes left out of every average, as their identity has no sequence in the gallery."""


def retrieval_metrics(
    distances: Tensor | np.ndarray,
    probe_labels: Sequence[Any] | np.ndarray | Tensor,
    gallery_labels: Sequence[Any] | np.ndarray | Tensor,
    ranks: Sequence[int] = RANKS,
    *,
    max_rank: int = MAX_RANK,
    gallery_mask: Tensor | np.ndarray | None = None,
) -> RetrievalResult:
    """Rank-k, mAP, mINP and the CMC curve of a distance matrix.

    Galleries are ranked by distance, equal distances by gallery index (a stable sort).

    Args:
        distances: [n, m] floating point, smaller is nearer.
        probe_labels: n identities, strings or integers.
        gallery_labels: m identities of the same kind.
        ranks: the k of each Rank-k. A k beyond the gallery size is taken as the gallery size, with a warning.
        max_rank: length of the CMC curve, cut to the gallery size.
        gallery_mask: [n, m] bool, False where a gallery sequence is not to be compared with a probe, such as one
            of the same camera. None compares all.

    Raises:
        ValueError: shapes or kinds that do not fit, an empty side, a rank below 1, NaN or infinity among the
            distances that count, or no probe with a true match in its gallery.
    """
    distances_NM = _as_floating_array(distances)
    n, m = distances_NM.shape
    same_NM = same_identity(_as_labels(probe_labels, "probe", n), _as_labels(gallery_labels, "gallery", m))
    if min(ranks, default=1) < 1 or max_rank < 1:
        raise ValueError(f"ranks and max_rank must be >= 1, got {list(ranks)} and {max_rank}")
    if gallery_mask is None:
        refuse_non_finite(np.isfinite(distances_NM).all(1), "distance rows")
    else:
        mask_NM = np.asarray(gallery_mask.cpu() if isinstance(gallery_mask, Tensor) else gallery_mask)
        if mask_NM.shape != (n, m) or mask_NM.dtype != np.bool_:
            shape = list(mask_NM.shape)
            raise ValueError(f"gallery_mask must be bool of shape [{n}, {m}], got {mask_NM.dtype} {shape}")
        refuse_non_finite((np.isfinite(distances_NM) | ~mask_NM).all(1), "distance rows")
        same_NM &= mask_NM
        distances_NM = np.where(mask_NM, distances_NM, np.inf)  # behind everything that counts

    scores = score_probes(distances_NM, same_NM)
    valid = scores.first_match > 0
    if not valid.any():
        raise ValueError(f"none of the {n} probes has a true match among its {m} gallery sequences")
    if max(ranks, default=1) > m:
        warnings.warn(
            f"the gallery has {m} sequence(s): ranks beyond that, of {list(ranks)}, are taken as {m}", stacklevel=2
        )
    cmc = 100 * np.cumsum(np.bincount(scores.first_match[valid], minlength=m + 1)[1:]) / valid.sum()
    return RetrievalResult(
        rank={k: float(cmc[min(k, m) - 1]) for k in ranks},
        mean_ap=float(scores.average_precision[valid].mean()),
        mean_inp=float(scores.inverse_negative_penalty[valid].mean()),
        cmc=cmc[:max_rank],
        average_precision=scores.average_precision,
        first_match=scores.first_match,
        probes_without_match=int(n - valid.sum()),
    )


class ProbeScores(NamedTuple):
    """What each probe got."""

    first_match: np.ndarray
    """[n] rank of the nearest true match, counted from 1; 0 for a probe without one."""

    average_precision: np.ndarray
    """[n] percent, NaN for a probe without a true match."""

    inverse_negative_penalty: np.ndarray
    """[n] percent, NaN likewise."""


def score_probes(distances_NM: np.ndarray, same_NM: np.ndarray) -> ProbeScores:
    """Ranks of true matches, and what follows from them.

    Args:
        distances_NM: [n, m] float32 or float64 without NaN, infinite where a pair does not count.
        same_NM: [n, m] bool, the true matches; none of them at an infinite distance.
    """
    n = len(same_NM)
    counts = same_NM.sum(1)
    valid = counts > 0
    first_match, average_precision, penalty = np.zeros(n, dtype=np.int64), np.full(n, np.nan), np.full(n, np.nan)
    if valid.any():
        places_NP = _match_places(distances_NM, same_NM, counts)[valid]
        counts, ordinals = counts[valid], np.arange(1, places_NP.shape[1] + 1)
        precision_NP = np.where(ordinals <= counts[:, None], ordinals / places_NP, 0)
        first_match[valid] = places_NP[:, 0]
        average_precision[valid] = 100 * precision_NP.sum(1) / counts
        penalty[valid] = 100 * (counts / places_NP[np.arange(len(counts)), counts - 1])
    return ProbeScores(first_match, average_precision, penalty)


def first_match_by_group(
    distances_NM: np.ndarray, same_NM: np.ndarray, groups_M: np.ndarray, num_groups: int
) -> np.ndarray:
    """Rank of each probe's nearest true match in each part of the gallery, without any sorting.

    Args:
        distances_NM: [n, m] floating point, finite.
        same_NM: [n, m] bool, the true matches.
        groups_M: [m] the part that each gallery sequence belongs to, from 0; negative: to none.
        num_groups: G.

    Returns:
        [n, G] ranks from 1, equal distances ranked by gallery index; 0 where a part has no true match.
    """
    first_NG = np.zeros((len(distances_NM), num_groups), dtype=np.int64)
    for group in range(num_groups):
        columns = np.nonzero(groups_M == group)[0]
        if not len(columns):
            continue
        values, same = distances_NM[:, columns], same_NM[:, columns]
        match = np.where(same, values, np.inf).argmin(1)  # the first of equals
        best = values[np.arange(len(values)), match][:, None]
        before = (values < best) | ((values == best) & (np.arange(len(columns)) < match[:, None]))
        first_NG[:, group] = np.where(same.any(1), before.sum(1) + 1, 0)
    return first_NG


def nearest(distances_NM: np.ndarray, k: int) -> np.ndarray:
    """[n, k] gallery indices of the k smallest distances, nearest first, equal distances by gallery index.

    Raises:
        ValueError: k is not within 1 and m.
    """
    n, m = distances_NM.shape
    if not 1 <= k <= m:
        raise ValueError(f"k must be within 1 and the {m} gallery sequences, got {k}")
    limit_N1 = np.partition(distances_NM, k - 1, axis=1)[:, k - 1, None]
    within = distances_NM <= limit_N1
    found = np.empty((n, k), dtype=np.int64)
    plain = within.sum(1) == k  # otherwise several lie at the same distance as the k-th
    found[plain] = np.nonzero(within[plain])[1].reshape(-1, k)
    for row in np.nonzero(~plain)[0]:
        columns = np.nonzero(within[row])[0]
        found[row] = columns[np.argsort(distances_NM[row, columns], kind="stable")[:k]]
    order = np.argsort(np.take_along_axis(distances_NM, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def _match_places(distances_NM: np.ndarray, same_NM: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[n, P] ranks of each probe's true matches from 1, ascending; m + 1 fills the places beyond its count."""
    n, m = distances_NM.shape
    rows, columns = np.nonzero(same_NM)
    slots = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    values_NP = np.full((n, counts.max()), np.inf, dtype=distances_NM.dtype)
    values_NP[rows, slots] = distances_NM[rows, columns]

    ordered, wanted = torch.from_numpy(np.sort(distances_NM, axis=1)), torch.from_numpy(values_NP)
    nearer = torch.searchsorted(ordered, wanted).numpy()[rows, slots]
    not_farther = torch.searchsorted(ordered, wanted, right=True).numpy()[rows, slots]
    tied = np.nonzero(not_farther - nearer > 1)[0]
    step = max(1, 2**24 // m)
    for chunk in (tied[i : i + step] for i in range(0, len(tied), step)):
        equal = distances_NM[rows[chunk]] == distances_NM[rows[chunk], columns[chunk]][:, None]
        nearer[chunk] += (equal & (np.arange(m) < columns[chunk][:, None])).sum(1)

    places_NP = np.full(values_NP.shape, m + 1)
    places_NP[rows, slots] = nearer + 1
    return np.sort(places_NP, axis=1)


def _as_floating_array(distances: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(distances, Tensor):
        distances = distances.detach().cpu()
        distances = (distances.float() if distances.dtype in (torch.float16, torch.bfloat16) else distances).numpy()
    array = np.asarray(distances)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind != "f":
        raise ValueError(f"distances must be floating point of shape [n, m], got {array.dtype} {list(array.shape)}")
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)


def _as_labels(labels: Any, name: str, length: int) -> np.ndarray:
    array = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if array.shape != (length,) or array.dtype.kind not in "iuU":
        found = f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"{name}_labels must be {length} strings or integers, got {found}")
    return array


def same_identity(probe: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """[n, m] bool: whether two labels, strings or integers, are equal.

    Raises:
        ValueError: strings on one side and integers on the other.
    """
    if (probe.dtype.kind == "U") != (gallery.dtype.kind == "U"):
        raise ValueError(f"labels must be all strings or all integers, got {probe.dtype} and {gallery.dtype}")
    _, codes = np.unique(np.concatenate([probe, gallery]), return_inverse=True)
    return codes[: len(probe), None] == codes[None, len(probe) :]
