"""Closed-set identification: each probe is looked for in a gallery that has its person. Rank-k, mAP and the CMC curve.

Gallery images are ranked by cosine similarity. An image of another person that is exactly as similar as one of the
probe's own is ranked before it, so results depend on no order of rows, and embeddings that are all equal get no hit.
Similarities are computed in float64 and compared as float32, so that an image that is in a gallery twice is a tie,
whatever order a sum was taken in.

Shape letters: n probes, m gallery images, E embedding channels, P images of the probe's person in the gallery.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from face.evaluation.checks import check_embeddings

__all__ = ["RANKS", "IdentificationResult", "check_closed_set", "identify"]

RANKS = (1, 5, 10, 20)
_MAX_RANK = 50  # length of the CMC curve
_CELLS = 2**24  # similarities in memory at one time
_FEW = 8  # images of a person, up to which it is quicker to count by comparing than to sort


@dataclass(frozen=True, kw_only=True, eq=False)
class IdentificationResult:
    """Percentages over all probes."""

    rank: dict[int, float]
    """Rank-k for each k of RANKS: probes with an image of their person among the k most similar ones. A k beyond the
    gallery's size is left out."""

    mean_ap: float
    """Mean of `average_precision`."""

    cmc: np.ndarray
    """[min(50, m)] cumulative match curve; entry k - 1 is Rank-k."""

    first_match: np.ndarray
    """[n] rank of the most similar image of the probe's person, counted from 1."""

    average_precision: np.ndarray
    """[n] percent."""


def identify(
    probe: np.ndarray,
    gallery: np.ndarray,
    probe_labels: Sequence[str] | np.ndarray,
    gallery_labels: Sequence[str] | np.ndarray,
    *,
    name_of_probe: Callable[[int], str] = "probe row {}".format,
    name_of_gallery: Callable[[int], str] = "gallery row {}".format,
) -> IdentificationResult:
    """Metrics of probes against a gallery.

    Memory stays at about 2**24 similarities, however many probes there are.

    Args:
        probe: [n, E] float32 or float64, of any length.
        gallery: [m, E].
        probe_labels: [n] persons, strings or integers.
        gallery_labels: [m] persons of the same kind.
        name_of_probe: what an error calls a row's image.
        name_of_gallery: likewise.

    Raises:
        ValueError: NaN or infinity (the images are named), shapes or kinds that do not fit, or a probe whose person is
            not in the gallery.
    """
    check_embeddings(probe, name_of_probe)
    check_embeddings(gallery, name_of_gallery)
    if probe.shape[1] != gallery.shape[1]:
        raise ValueError(f"embeddings of probes and gallery differ in length: {probe.shape[1]} and {gallery.shape[1]}")
    wanted, offered = _codes(probe_labels, gallery_labels, len(probe), len(gallery))
    check_closed_set(probe_labels, gallery_labels, name_of_probe)
    probe, gallery = _directions(probe), _directions(gallery)
    order = np.argsort(offered, kind="stable")
    starts, ends = np.searchsorted(offered[order], wanted), np.searchsorted(offered[order], wanted, side="right")

    first_match = np.empty(len(probe), dtype=np.int64)
    average_precision = np.empty(len(probe))
    step = max(1, _CELLS // len(gallery))
    for begin in range(0, len(probe), step):
        similarities = (probe[begin : begin + step] @ gallery.T).astype(np.float32)
        for row, number in zip(similarities, range(begin, len(probe)), strict=False):
            places = _places(row, order[starts[number] : ends[number]])
            first_match[number] = places[0]
            average_precision[number] = 100 * np.mean(np.arange(1, len(places) + 1) / places)
    hits = np.bincount(first_match, minlength=len(gallery) + 1)[1:]
    cmc = 100 * np.cumsum(hits) / len(probe)
    return IdentificationResult(
        rank={k: float(cmc[k - 1]) for k in RANKS if k <= len(gallery)},
        mean_ap=float(average_precision.mean()),
        cmc=cmc[:_MAX_RANK],
        first_match=first_match,
        average_precision=average_precision,
    )


def check_closed_set(
    probe_labels: Sequence[str] | np.ndarray,
    gallery_labels: Sequence[str] | np.ndarray,
    name_of_probe: Callable[[int], str] = "probe row {}".format,
) -> None:
    """Refuse probes whose person is not in the gallery.

    Raises:
        ValueError: there are some; how many, and the first of them with their persons.
    """
    known = set(np.asarray(gallery_labels).tolist())
    labels = np.asarray(probe_labels).tolist()
    strangers = [number for number, label in enumerate(labels) if label not in known]
    if strangers:
        shown = ", ".join(f"{name_of_probe(number)} ({labels[number]})" for number in strangers[:5])
        more = ", ..." if len(strangers) > 5 else ""
        raise ValueError(
            f"{len(strangers)} of {len(labels)} probes are of persons that the gallery lacks, first: {shown}{more}"
        )


def _places(similarities: np.ndarray, own: np.ndarray) -> np.ndarray:
    """[P] ranks from 1, rising, of the images `own` among [m]."""
    others = similarities.copy()
    others[own] = -np.inf
    matches = np.sort(similarities[own])[::-1]
    if len(own) <= _FEW:
        before = np.array([np.count_nonzero(others >= value) for value in matches])
    else:
        before = len(others) - np.searchsorted(np.sort(others), matches)
    return before + np.arange(1, len(own) + 1)


def _directions(embeddings: np.ndarray) -> np.ndarray:
    embeddings = embeddings.astype(np.float64)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(lengths == 0, 1, lengths)


def _codes(
    probe: Sequence[str] | np.ndarray, gallery: Sequence[str] | np.ndarray, n: int, m: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels as integers, [n] and [m]."""
    arrays = []
    for name, labels, length in (("probe", probe, n), ("gallery", gallery, m)):
        array = np.asarray(labels)
        if array.shape != (length,) or array.dtype.kind not in "iuU":
            found = f"{array.dtype} {list(array.shape)}"
            raise ValueError(f"{name}_labels must be {length} strings or integers, got {found}")
        arrays.append(array)
    if (arrays[0].dtype.kind == "U") != (arrays[1].dtype.kind == "U"):
        found = f"{arrays[0].dtype} and {arrays[1].dtype}"
        raise ValueError(f"labels must be all strings or all integers, got {found}")
    codes = np.unique(np.concatenate(arrays), return_inverse=True)[1]
    return codes[:n], codes[n:]
