"""Retrieval evaluation of gait embeddings: part-wise distances, Rank-k, mAP and mINP, exact and without a sort order.

Source: the Gait3D protocol as OpenGait's `evaluate_Gait3D` defines it (distances averaged over the parts; a probe
without a true match in the gallery is left out of every average). mINP: Ye et al., https://arxiv.org/abs/2001.04193.
Nothing but the ranks of the true matches enters these numbers, so only those are computed: each row of distances is
sorted by value, and every true match is looked up in it.

Deliberate differences from OpenGait: equal distances are ranked by gallery index, where OpenGait's default quicksort
leaves their order open, so that its numbers can depend on the NumPy version; probes left out are counted and
reported; embeddings with NaN or infinity are refused instead of ranked; any device, no file read on the way.

Shape letters: n probes, m gallery sequences, c channels, p parts, P true matches of the probe that has most.
"""

import contextlib
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Metric", "RetrievalResult", "gait3d_evaluation", "part_distance", "retrieval_metrics"]

Metric = Literal["euc", "cos"]
RANKS = (1, 5, 10)
MAX_RANK = 50

# Side of the square blocks that distances are computed in: a block of float32 stays in a CPU's last-level cache, yet
# is large enough that threads which share their cores with other work seldom wait for each other.
_CPU_BLOCK, _GPU_BLOCK = 1024, 8192


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


def part_distance(probe: Tensor, gallery: Tensor, metric: Metric = "euc") -> Tensor:
    """Mean over the parts of the distances between part embeddings.

    `euc` is the Euclidean distance, `cos` one minus the cosine. Products run in float32 whatever autocast or the
    matmul precision allow (float64 for float64 input), in blocks: beside the result and a copy of the input in
    another order, memory does not grow with n and m.

    Args:
        probe: [n, c, p] floating point.
        gallery: [m, c, p] on the same device.
        metric: "euc" or "cos".

    Returns:
        [n, m] float32 or float64, on the device of the input, without a gradient.

    Raises:
        ValueError: other shapes, dtypes or metric; NaN or infinity in an embedding (the first rows are named).
    """
    if metric not in get_args(Metric):
        raise ValueError(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
    for name, embeddings in (("probe", probe), ("gallery", gallery)):
        if embeddings.ndim != 3 or 0 in embeddings.shape or not embeddings.is_floating_point():
            shape = list(embeddings.shape)
            raise ValueError(f"{name} must be floating point of shape [n, c, p], got {embeddings.dtype} {shape}")
        _refuse_non_finite(embeddings.detach().flatten(1).isfinite().all(1).cpu().numpy(), f"{name} embeddings")
    if probe.shape[1:] != gallery.shape[1:]:
        raise ValueError(f"probe and gallery differ in [c, p]: {list(probe.shape)} and {list(gallery.shape)}")
    dtype = torch.promote_types(torch.promote_types(probe.dtype, gallery.dtype), torch.float32)
    with torch.no_grad(), torch.autocast(probe.device.type, enabled=False), _full_precision_products():
        probe_PNC, gallery_PNC = (x.to(dtype).permute(2, 0, 1).contiguous() for x in (probe, gallery))
        if metric == "cos":
            return _mean_cosine_distance(probe_PNC, gallery_PNC)
        return _mean_euclidean_distance(probe_PNC, gallery_PNC)


@contextlib.contextmanager
def _full_precision_products() -> Iterator[None]:
    """No TF32 or bfloat16 inside float32 products, whatever a training run allowed for speed."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul")]  # noqa: B009
        allowed = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, precision in zip(backends, allowed, strict=True):
                backend.fp32_precision = precision
    else:  # PyTorch up to 2.8
        allowed_everywhere = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("highest")
            yield
        finally:
            torch.set_float32_matmul_precision(allowed_everywhere)


def _mean_cosine_distance(probe_PNC: Tensor, gallery_PNC: Tensor) -> Tensor:
    # The mean of the parts' cosines is one product of the parts laid end to end.
    probe_NX, gallery_NX = (F.normalize(x, dim=2).transpose(0, 1).flatten(1) for x in (probe_PNC, gallery_PNC))
    return 1 - probe_NX @ gallery_NX.T / len(probe_PNC)


def _mean_euclidean_distance(probe_PNC: Tensor, gallery_PNC: Tensor) -> Tensor:
    parts, n, m = len(probe_PNC), probe_PNC.shape[1], gallery_PNC.shape[1]
    block = _GPU_BLOCK if probe_PNC.is_cuda else _CPU_BLOCK
    probe_norms, gallery_norms = probe_PNC.square().sum(2), gallery_PNC.square().sum(2)  # [p, n], [p, m]
    total = probe_PNC.new_zeros(n, m)
    for row in range(0, n, block):
        rows = slice(row, row + block)
        for column in range(0, m, block):
            columns = slice(column, column + block)
            for part in range(parts):
                # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y, which rounding can take below zero for x near y
                squares = torch.addmm(
                    gallery_norms[part, None, columns], probe_PNC[part, rows], gallery_PNC[part, columns].T, alpha=-2
                )
                squares.add_(probe_norms[part, rows, None]).relu_().sqrt_()
                total[rows, columns] += squares
    return total.div_(parts)


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
    same_NM = _same_identity(_as_labels(probe_labels, "probe", n), _as_labels(gallery_labels, "gallery", m))
    if min(ranks, default=1) < 1 or max_rank < 1:
        raise ValueError(f"ranks and max_rank must be >= 1, got {list(ranks)} and {max_rank}")
    if gallery_mask is None:
        _refuse_non_finite(np.isfinite(distances_NM).all(1), "distance rows")
    else:
        mask_NM = np.asarray(gallery_mask.cpu() if isinstance(gallery_mask, Tensor) else gallery_mask)
        if mask_NM.shape != (n, m) or mask_NM.dtype != np.bool_:
            shape = list(mask_NM.shape)
            raise ValueError(f"gallery_mask must be bool of shape [{n}, {m}], got {mask_NM.dtype} {shape}")
        _refuse_non_finite((np.isfinite(distances_NM) | ~mask_NM).all(1), "distance rows")
        same_NM &= mask_NM
        distances_NM = np.where(mask_NM, distances_NM, np.inf)  # behind everything that counts

    counts = same_NM.sum(1)
    valid = counts > 0
    if not valid.any():
        raise ValueError(f"none of the {n} probes has a true match among its {m} gallery sequences")
    if max(ranks, default=1) > m:
        warnings.warn(
            f"the gallery has {m} sequence(s): ranks beyond that, of {list(ranks)}, are taken as {m}", stacklevel=2
        )
    places_NP = _match_places(distances_NM, same_NM, counts)[valid]
    counts, first, ordinals = counts[valid], places_NP[:, 0], np.arange(1, places_NP.shape[1] + 1)
    precision_NP = np.where(ordinals <= counts[:, None], ordinals / places_NP, 0)
    last = places_NP[np.arange(len(counts)), counts - 1]
    average_precision, first_match = np.full(n, np.nan), np.zeros(n, dtype=np.int64)
    average_precision[valid] = 100 * precision_NP.sum(1) / counts
    first_match[valid] = first
    cmc = 100 * np.cumsum(np.bincount(first, minlength=m + 1)[1:]) / len(counts)
    return RetrievalResult(
        rank={k: float(cmc[min(k, m) - 1]) for k in ranks},
        mean_ap=float(average_precision[valid].mean()),
        mean_inp=float(100 * (counts / last).mean()),
        cmc=cmc[:max_rank],
        average_precision=average_precision,
        first_match=first_match,
        probes_without_match=int(n - len(counts)),
    )


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


def gait3d_evaluation(
    embeddings: Tensor | np.ndarray,
    labels: Sequence[str],
    types: Sequence[str],
    views: Sequence[str],
    probe_names: Collection[str],
    metric: Metric = "euc",
) -> tuple[dict[str, float], RetrievalResult]:
    """The Gait3D protocol: sequences named in `probe_names` against all the others.

    Args:
        embeddings: [n, c, p] of all test sequences.
        labels: identity of each sequence ("0001").
        types: its folder below the identity ("camid0_videoid2").
        views: its folder below that ("seq0").
        probe_names: "ID-TYPE-VIEW" of the probes, the `PROBE_SET` of the partition file.
        metric: as in `part_distance`.

    Returns:
        OpenGait's `scalar/test_accuracy/{Rank-1,Rank-5,Rank-10,mAP,mINP}` in percent, and all details.

    Raises:
        ValueError: lengths that differ, a sequence named twice, NaN or infinity in an embedding (sequences are
            named), no probe or no gallery, or no probe with a true match.

    Warns:
        UserWarning: probe names that no sequence has, or a gallery of fewer than 10.
    """
    features = torch.as_tensor(embeddings)
    lengths = [len(x) for x in (features, labels, types, views)]
    if len(set(lengths)) > 1:
        raise ValueError(f"embeddings, labels, types and views must have equal lengths, got {lengths}")
    names = ["-".join(parts) for parts in zip(labels, types, views, strict=True)]
    probe_names = set(probe_names)
    distinct, copies = np.unique(names, return_counts=True)
    if len(distinct) < len(names):
        raise ValueError(f"{len(names) - len(distinct)} sequence(s) come twice: {_some(distinct[copies > 1])}")
    _refuse_non_finite(features.flatten(1).isfinite().all(1).cpu().numpy(), "embeddings", names)
    is_probe = np.array([name in probe_names for name in names], dtype=bool)
    if is_probe.all() or not is_probe.any():
        raise ValueError(
            f"need probes and gallery, got {is_probe.sum()} probes among {len(names)} sequences "
            f"({_some(names)}); probe names: {_some(sorted(probe_names))}"
        )
    absent = sorted(probe_names.difference(names))
    if absent:
        warnings.warn(f"{len(absent)} probe name(s) have no sequence: {_some(absent)}", stacklevel=2)
    at = torch.from_numpy(is_probe).to(features.device)
    identities = np.asarray(labels)
    distances = part_distance(features[at], features[~at], metric)
    result = retrieval_metrics(distances, identities[is_probe], identities[~is_probe])
    scores = {f"Rank-{k}": value for k, value in result.rank.items()}
    scores |= {"mAP": result.mean_ap, "mINP": result.mean_inp}
    return {f"scalar/test_accuracy/{name}": value for name, value in scores.items()}, result


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


def _same_identity(probe: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    if (probe.dtype.kind == "U") != (gallery.dtype.kind == "U"):
        raise ValueError(f"labels must be all strings or all integers, got {probe.dtype} and {gallery.dtype}")
    _, codes = np.unique(np.concatenate([probe, gallery]), return_inverse=True)
    return codes[: len(probe), None] == codes[None, len(probe) :]


def _refuse_non_finite(finite: np.ndarray, what: str, names: Sequence[str] | None = None) -> None:
    bad = np.nonzero(~finite)[0]
    if len(bad):
        shown = _some([names[int(i)] for i in bad] if names else bad)
        raise ValueError(f"{len(bad)} of {len(finite)} {what} hold NaN or infinity, first: {shown}")


def _some(items: Collection[Any]) -> str:
    return ", ".join(str(item) for item in list(items)[:5]) + (", ..." if len(items) > 5 else "")
