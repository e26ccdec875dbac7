"""Who is it: probes searched for in a gallery that may lack their person (open set), or have it (closed set).

Source of the numbers: `evaluation` of deepinsight/insightface@7fadd42 (recognition/_evaluation_/ijb/ijb_1n.py), DIR_FAR
of mk-minchul/CVLface@d3d09c9 (evaluations/tinyface/metrics.py), and for open sets NIST's definition, on which IJB-B,
IJB-C and IJB-S build: FPIR is the share of probes without a mate in the gallery that find an entry above a threshold,
TPIR the share of probes with a mate that find it above the threshold and within a rank.
Deliberate differences: an entry of another person that is as similar as the probe's own is ranked before it (there:
what an unstable sort leaves), so that results depend on no order of rows. Cosines are taken in float64 and count as
equal where they differ by no more than 1e-12, so that an entry that is there twice is a tie, whatever order a sum was
taken in.

Memory stays at a block of 2**22 cosines (2**24 where the gallery has more than 4096 entries, as these are brought to
length 1 anew for each block) and one of the gallery, however many probes and entries there are.

Shape letters: n probes, m gallery entries, E embedding channels, I identities in the gallery, P entries of the probe's
person, K highest cosines that are kept, b probes of a block.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from face.evaluation.checks import check_embeddings

__all__ = [
    "FPIRS",
    "Counted",
    "SearchResult",
    "closed_set_tpir",
    "dir_at_far",
    "label_codes",
    "mean_tpir",
    "rank_rates",
    "search",
    "tpir_at_fpir",
]

FPIRS = (0.01, 0.1)
"""Where TPIR is given."""

Counted = Literal["entries", "identities"]

_MAX_RANK = 50  # length of the CMC curve
_CELLS = 2**22  # cosines in memory at one time, where the whole gallery is there, too
_LARGER = 4  # times as many where it is not, so that it is gone through less often
_ENTRIES = 2**12  # of the gallery, brought to length 1 at one time
_FEW = 8  # own entries of a probe, up to which it is quicker to count by comparing than to sort
_TIE = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """What n probes found. Rates are made of it by the functions of this module."""

    mated: np.ndarray
    """[n] bool, whether the gallery has the probe's person."""

    first_match: np.ndarray
    """[n] rank of that person's most similar entry, counted from 1; 0 where there is none."""

    own_best: np.ndarray
    """[n] cosine of that entry; minus infinity where there is none."""

    best_other: np.ndarray
    """[n] cosine of the most similar entry of another person; minus infinity where there is none."""

    average_precision: np.ndarray
    """[n] percent; NaN for probes without a mate."""

    highest_others: np.ndarray
    """[K] the largest cosines of all probes with entries of other persons, falling."""

    other_pairs: int
    """How many such cosines there are."""

    candidates: int
    """Entries or identities that ranks count: no rank is beyond them."""

    @property
    def cmc(self) -> np.ndarray:
        """[min(50, candidates)] percent of mated probes; entry k - 1 is Rank-k."""
        ranks = self.first_match[self.mated]
        if not len(ranks):
            raise ValueError("no probe has a mate in the gallery")
        hits = np.bincount(ranks, minlength=self.candidates + 1)[1:]
        return (100 * np.cumsum(hits) / len(ranks))[:_MAX_RANK]


def search(
    probe: np.ndarray,
    gallery: np.ndarray,
    probe_labels: Sequence[str] | Sequence[int] | np.ndarray,
    gallery_labels: Sequence[str] | Sequence[int] | np.ndarray,
    *,
    counted: Counted = "entries",
    keep: int = 0,
    name_of_probe: Callable[[int], str] = "probe row {}".format,
    name_of_gallery: Callable[[int], str] = "gallery row {}".format,
) -> SearchResult:
    """Compare probes with a gallery, a block at a time.

    Args:
        probe: [n, E] float32 or float64, of any length.
        gallery: [m, E]; a person may have several entries.
        probe_labels: [n] persons, strings or integers; the gallery need not have them.
        gallery_labels: [m] persons of the same kind. Distractors of unknown persons may share a label no probe has.
        counted: what a rank counts. entries: each row of the gallery, as CVLface; identities: each person once, by the
            most similar entry, as NIST (distractors then need labels of their own).
        keep: K, how many of the highest cosines with other persons are kept, as `closed_set_tpir` needs them.
        name_of_probe: what an error calls a row's image or template.
        name_of_gallery: likewise.

    Raises:
        ValueError: NaN or infinity (what has it is named), or shapes, kinds or settings that do not fit.
    """
    if counted not in ("entries", "identities") or keep < 0:
        raise ValueError(f"counted must be entries or identities, got {counted!r}; keep must be >= 0, got {keep}")
    check_embeddings(probe, name_of_probe)
    check_embeddings(gallery, name_of_gallery)
    if probe.shape[1] != gallery.shape[1]:
        raise ValueError(f"embeddings of probes and gallery differ in length: {probe.shape[1]} and {gallery.shape[1]}")
    wanted, offered = label_codes(probe_labels, gallery_labels, len(probe), len(gallery))
    order = np.argsort(offered, kind="stable")
    ordered = offered[order]
    persons = None
    if counted == "identities":
        persons = np.nonzero(np.append(True, ordered[1:] != ordered[:-1]))[0]
        ordered = ordered[persons]
    starts, ends = np.searchsorted(ordered, wanted), np.searchsorted(ordered, wanted, side="right")

    n, candidates = len(probe), len(ordered)
    first_match = np.zeros(n, np.int64)
    own_best, best_other = np.full(n, -np.inf), np.full(n, -np.inf)
    precision = np.full(n, np.nan)
    highest = np.empty(0)
    for begin, cosines in _blocks(probe, gallery, order):
        if persons is not None and candidates < len(order):
            cosines = np.maximum.reduceat(cosines, persons, axis=1)
        rows = slice(begin, begin + len(cosines))
        own = _take_own(cosines, starts[rows], ends[rows])  # other persons' stay
        best_other[rows] = cosines.max(axis=1)
        mated = np.nonzero(ends[rows] > starts[rows])[0]
        if len(mated):
            places = _places(cosines, own)
            first_match[rows] = places[:, 0]
            own_best[rows] = np.where(np.isnan(own[:, 0]), -np.inf, own[:, 0])
            found = np.arange(1, places.shape[1] + 1) / np.maximum(places, 1) * (places > 0)
            precision[begin + mated] = 100 * found[mated].sum(axis=1) / (ends - starts)[begin + mated]
        if keep:
            highest = _highest(highest, cosines, keep)
    first_match[ends == starts] = 0
    return SearchResult(
        mated=ends > starts,
        first_match=first_match,
        own_best=own_best,
        best_other=best_other,
        average_precision=precision,
        highest_others=np.sort(highest)[::-1],
        other_pairs=n * candidates - int((ends - starts).sum()),
        candidates=candidates,
    )


def rank_rates(result: SearchResult, ranks: Sequence[int] = (1, 5, 10, 20)) -> dict[int, float]:
    """Rank-k in percent of mated probes; ranks that the gallery does not have are left out.

    Raises:
        ValueError: no probe is mated.
    """
    places = result.first_match[result.mated]
    if not len(places):
        raise ValueError("no probe has a mate in the gallery")
    return {k: 100 * float(np.mean(places <= k)) for k in ranks if k <= result.candidates}


def closed_set_tpir(result: SearchResult, fpirs: Sequence[float] = FPIRS) -> dict[float, float]:
    """What ijb_1n.py prints as `pr` at a `far`, in percent, where every probe has a mate.

    The threshold is the cosine at place ceil(far * n) among all cosines of probes with other persons' entries; nothing
    in it is a probe without a mate. `search` must have kept as many; a FPIR for which there are fewer is left out.

    Raises:
        ValueError: a probe without a mate, or fewer cosines kept than are needed.
    """
    n = len(result.mated)
    if not result.mated.all():
        raise ValueError(f"{n - result.mated.sum()} of {n} probes have no mate: this is no closed set")
    rates = {}
    for fpir in fpirs:
        place = math.ceil(n * fpir)
        if place > result.other_pairs:
            continue
        if place > len(result.highest_others):
            raise ValueError(f"needs the {place} highest cosines, got {len(result.highest_others)}: search with keep")
        rates[fpir] = 100 * float(np.sum(result.own_best > result.highest_others[place - 1] + _TIE)) / n
    return rates


def tpir_at_fpir(
    result: SearchResult, fpirs: Sequence[float] = FPIRS, ranks: Sequence[int] = (1,)
) -> dict[tuple[float, int], float]:
    """TPIR in percent by (FPIR, rank), as NIST defines it; by the lowest threshold whose FPIR is no more than that.

    A FPIR below 1 / unmated probes and a rank beyond the gallery are left out.

    Raises:
        ValueError: no mated or no unmated probes.
    """
    others = _unmated(result)
    rates: dict[tuple[float, int], float] = {}
    for fpir in fpirs:
        if len(others) < round(1 / fpir):
            continue
        allowed = int(fpir * len(others) * (1 + 1e-12))
        threshold = others[allowed] if allowed < len(others) else -np.inf
        rates |= _detected(result, fpir, result.own_best > threshold + _TIE, ranks)
    return rates


def dir_at_far(
    result: SearchResult, fars: Sequence[float] = FPIRS, ranks: Sequence[int] = (1, 5)
) -> dict[tuple[float, int], float]:
    """CVLface's DIR_FAR in percent by (FAR, rank): the cosine of unmated probe number round(FAR * unmated) is accepted.

    FAR may be exceeded where cosines are equal; where that number is 0 the threshold is 1e-5 above all.

    Raises:
        ValueError: no mated or no unmated probes.
    """
    others = _unmated(result)
    rates: dict[tuple[float, int], float] = {}
    for far in fars:
        accepted = int(np.round(far * len(others)))
        threshold = others[accepted - 1] if accepted else others[0] + 1e-5
        rates |= _detected(result, far, result.own_best >= threshold - _TIE, ranks)
    return rates


def mean_tpir(rates: Sequence[dict[tuple[float, int], float]]) -> dict[tuple[float, int], float]:
    """Mean over galleries (IJB-B's S1 and S2, IJB-C's G1 and G2), of what all of them have."""
    shared = [key for key in rates[0] if all(key in other for other in rates[1:])]
    return {key: float(np.mean([found[key] for found in rates])) for key in shared}


def label_codes(
    probe: Sequence[str] | Sequence[int] | np.ndarray,
    gallery: Sequence[str] | Sequence[int] | np.ndarray,
    n: int,
    m: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels as integers, [n] and [m], that are equal where labels are.

    Raises:
        ValueError: labels of another number or kind than said, or strings on one side and integers on the other.
    """
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


def _unmated(result: SearchResult) -> np.ndarray:
    """Falling cosines of the best entries of probes without a mate."""
    others = np.sort(result.best_other[~result.mated])[::-1]
    if not len(others) or not result.mated.any():
        raise ValueError(
            f"needs probes with and without a mate in the gallery, got {result.mated.sum()} and {len(others)}"
        )
    return others


def _detected(
    result: SearchResult, far: float, accepted: np.ndarray, ranks: Sequence[int]
) -> dict[tuple[float, int], float]:
    places, accepted = result.first_match[result.mated], accepted[result.mated]
    return {(far, k): 100 * float(np.mean(accepted & (places <= k))) for k in ranks if k <= result.candidates}


def _blocks(probe: np.ndarray, gallery: np.ndarray, order: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """First probe and [b, m] cosines of stretches of probes, columns in the order given. The array is used again."""
    resident = _directions(gallery[order]) if len(gallery) <= _ENTRIES else None
    cells = _CELLS if resident is not None else _LARGER * _CELLS
    step = min(len(probe), max(1, cells // len(gallery)))
    buffer = np.empty((step, len(gallery)))
    for begin in range(0, len(probe), step):
        some = _directions(probe[begin : begin + step])
        cosines = buffer[: len(some)]
        for start in range(0, len(gallery), _ENTRIES):
            entries = resident if resident is not None else _directions(gallery[order[start : start + _ENTRIES]])
            np.matmul(some, entries.T, out=cosines[:, start : start + _ENTRIES])
        yield begin, cosines


def _take_own(cosines: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """[b, max P] cosines with own entries, falling, NaN at the end; minus infinity takes their place."""
    counts = ends - starts
    own = np.full((len(cosines), max(1, counts.max())), np.nan)
    rows = np.repeat(np.arange(len(cosines)), counts)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = np.repeat(starts, counts) + places
    own[rows, places] = -cosines[rows, columns]
    own.sort(axis=1)
    cosines[rows, columns] = -np.inf
    return -own


def _places(others: np.ndarray, own: np.ndarray) -> np.ndarray:
    """[b, max P] ranks from 1 of own entries, 0 where there is none."""
    counts = np.count_nonzero(~np.isnan(own), axis=1)
    before = np.zeros(own.shape, np.int64)
    for place in range(min(own.shape[1], _FEW)):
        before[:, place] = np.count_nonzero(others >= own[:, place, None] - _TIE, axis=1)
    for row in np.nonzero(counts > _FEW)[0]:
        ordered = np.sort(others[row])
        before[row, : counts[row]] = len(ordered) - np.searchsorted(ordered, own[row, : counts[row]] - _TIE)
    places = before + np.arange(1, own.shape[1] + 1)
    return np.where(np.isnan(own), 0, places)


def _highest(highest: np.ndarray, cosines: np.ndarray, keep: int) -> np.ndarray:
    """[K] the largest of both, in any order."""
    least = highest.min() if len(highest) == keep else -np.inf
    highest = np.append(highest, cosines[cosines > least])
    return np.partition(highest, len(highest) - keep)[len(highest) - keep :] if len(highest) > keep else highest


def _directions(embeddings: np.ndarray) -> np.ndarray:
    embeddings = embeddings.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
    embeddings /= np.where(lengths == 0, 1, lengths)[:, None]
    return embeddings
