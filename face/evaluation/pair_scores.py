"""Same person or not, over millions of pairs of templates: their cosines, and TAR at a FAR.

Source: the protocol of IJB-B and IJB-C as deepinsight/insightface@7fadd42 (recognition/arcface_torch/eval_ijbc.py) and
mk-minchul/CVLface@d3d09c9 (evaluations/ijbbc/evaluate.py) compute it: of the operating points that scikit-learn's
roc_curve keeps, the one whose FAR is nearest to the target, the one with the larger TAR of two equally near ones.
Cosines are theirs to the bit, and so are the points: one for each cosine that occurs, without those (but the first and
the last) at which as many pairs of each kind are added as at the next.
Deliberate differences: nothing is said about a FAR below 1 / impostors; pairs are looked up in blocks that stay in a
processor's cache, cosines are sorted once by kind, and only the points that are kept are ever held. `tar_at_far` is the
plain definition beside it: the largest TAR of a threshold whose FAR is no more than the target.

Terms: genuine pairs are of one person, impostors of two; FAR and TAR are the shares of them that a threshold accepts.
Shape letters: T templates, E embedding channels, P pairs.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from face.evaluation.checks import check_embeddings
from face.evaluation.roc import RocCurve, area_under, equal_error_rate

__all__ = [
    "FARS",
    "PairScoreResult",
    "measure_scores",
    "nearest_point",
    "score_pairs",
    "score_roc",
]

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Where TAR is given, as far down as the impostors can tell."""

_CELLS = 2**17  # embedding channels of one side of the pairs in work: 1 MB in float64, which stays in the cache
_TILE = 2**19  # embedding channels of those templates of the first side that stay in the cache for a while
_PAIRS = 2**20  # pairs in work at one time in each thread
_STEPS = 2**17  # cosines that are made points of a curve at one time


@dataclass(frozen=True, kw_only=True, eq=False)
class PairScoreResult:
    """Rates in percent; the curve in fractions. Each FAR is one of FARS for which there are 1 / FAR impostors."""

    tar_at_nearest_far: dict[float, float]
    """TAR by FAR as insightface and CVLface print it, see above."""

    nearest_thresholds: dict[float, float]
    """The least cosine that is accepted there."""

    tar_at_far: dict[float, float]
    """The largest TAR at no more than a FAR."""

    thresholds: dict[float, float]
    """For `tar_at_far`: cosines above this are accepted."""

    auc: float
    """Area under the curve, a tie counted as half."""

    eer: float
    """Equal error rate, on the straight line between the operating points next to it."""

    genuine: int
    """Pairs of one person."""

    impostors: int
    """Pairs of two persons."""

    roc: RocCurve
    """See `score_roc`."""


def score_pairs(
    templates: np.ndarray, a: np.ndarray, b: np.ndarray, *, name_of: Callable[[int], str] = "template row {}".format
) -> np.ndarray:
    """Cosines of pairs, float64 [P], in little more memory than they take themselves.

    Args:
        templates: [T, E] float32 or float64 of length 1, as `pool_templates` gives them.
        a: [P] integers, rows of one side of the pairs (`template_rows` gives the rows of ids).
        b: [P], of the other.
        name_of: what an error calls a row.

    Raises:
        ValueError: NaN or infinity (the templates are named), shapes or dtypes that do not fit, rows out of range.
    """
    check_embeddings(templates, name_of)
    if a.ndim != 1 or a.shape != b.shape or a.dtype.kind not in "iu" or b.dtype.kind not in "iu":
        found = f"{a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
        raise ValueError(f"a and b must be integers [P], got {found}")
    templates = templates.astype(np.float64, copy=False)
    scores = np.empty(len(a))

    def score(begin: int) -> None:
        scores[begin : begin + _PAIRS] = _cosines(templates, a[begin : begin + _PAIRS], b[begin : begin + _PAIRS])

    # NumPy lets other threads run while it works on blocks, which have nothing in common.
    with ThreadPoolExecutor(_threads()) as pool:
        for _ in pool.map(score, range(0, len(a), _PAIRS)):
            pass
    return scores


def _threads() -> int:
    """Cores that this process may use; more than 8 would wait for memory, and take some each."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _cosines(templates: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of some pairs, float64 [p], in their order."""
    rows = [np.array(side, dtype=np.intp) for side in (a, b)]
    for side in rows:
        if side.min() < 0 or side.max() >= len(templates):
            raise ValueError(f"rows must be 0..{len(templates) - 1}, got {side.min()}..{side.max()}")
    # Some templates of one side, and those of the other one after the other: what many pairs share is read once.
    tile = max(1, _TILE // templates.shape[1])
    order = np.argsort(rows[0] // tile * len(templates) + rows[1])
    rows = [side[order] for side in rows]
    step = max(1, _CELLS // templates.shape[1])
    left, right = (np.empty((step, templates.shape[1])) for _ in range(2))
    sorted_cosines = np.empty(len(order))
    for start in range(0, len(order), step):
        stop = min(start + step, len(order))
        x, y = left[: stop - start], right[: stop - start]
        templates.take(rows[0][start:stop], axis=0, out=x, mode="clip")  # in range; other modes take a copy
        templates.take(rows[1][start:stop], axis=0, out=y, mode="clip")
        np.multiply(x, y, out=x)
        np.sum(x, axis=1, out=sorted_cosines[start:stop])
    cosines = np.empty(len(order))
    cosines[order] = sorted_cosines
    return cosines


def measure_scores(scores: np.ndarray, same: np.ndarray, *, fars: Sequence[float] = FARS) -> PairScoreResult:
    """Rates of pairs.

    Args:
        scores: [P] cosines, or whatever is larger for what is more alike.
        same: [P] bool, whether a pair is genuine.
        fars: targets; those below 1 / impostors are left out.

    Raises:
        ValueError: shapes or dtypes that do not fit, NaN, or pairs of one kind alone.
    """
    impostors, genuine = _distances(scores, same)
    curve = _curve(impostors, genuine)
    told = [far for far in fars if len(impostors) >= round(1 / far)]
    nearest = {far: nearest_point(curve, far) for far in told}
    cuts = {far: _cut(impostors, far) for far in told}
    return PairScoreResult(
        tar_at_nearest_far={far: 100 * float(curve.tar[point]) for far, point in nearest.items()},
        nearest_thresholds={far: -float(curve.thresholds[point]) for far, point in nearest.items()},
        tar_at_far={far: 100 * float(np.searchsorted(genuine, cut)) / len(genuine) for far, cut in cuts.items()},
        thresholds={far: -cut for far, cut in cuts.items()},
        auc=100 * area_under(curve),
        eer=100 * equal_error_rate(curve),
        genuine=len(genuine),
        impostors=len(impostors),
        roc=curve,
    )


def score_roc(scores: np.ndarray, same: np.ndarray) -> RocCurve:
    """The operating points that scikit-learn's roc_curve keeps.

    `thresholds` are minus cosines, as everything in a RocCurve that is larger is less alike.

    Raises:
        ValueError: as `measure_scores`.
    """
    return _curve(*_distances(scores, same))


def nearest_point(curve: RocCurve, far: float) -> int:
    """The operating point whose FAR is nearest, the last of equally near ones."""
    return len(curve.far) - 1 - int(np.abs(curve.far[::-1] - far).argmin())


def _distances(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minus scores, sorted: of impostors and of genuine pairs."""
    if scores.ndim != 1 or scores.shape != same.shape or same.dtype != np.bool_ or scores.dtype.kind != "f":
        found = f"{scores.dtype} {list(scores.shape)} and {same.dtype} {list(same.shape)}"
        raise ValueError(f"expected floats [P] and same, bool [P], got {found}")
    sides = []
    for kind in (~same, same):
        side = scores[kind]
        np.negative(side, out=side)
        side.sort()
        sides.append(side)
    impostors, genuine = sides
    if not len(impostors) or not len(genuine):
        raise ValueError(f"pairs of both kinds are needed, got {len(genuine)} genuine and {len(impostors)} impostors")
    bad = sum(int(np.isnan(side[-1:]).any()) for side in sides)  # NaN is sorted to the end
    if bad:
        raise ValueError(f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN")
    return impostors, genuine


def _cut(impostors: np.ndarray, far: float) -> float:
    """The distance from which on nothing may be accepted, so that at most a share `far` of impostors is."""
    allowed = int(far * len(impostors) * (1 + 1e-12))  # 0.29 * 100 is a little less than 29
    return float(impostors[allowed]) if allowed < len(impostors) else np.inf


def _curve(impostors: np.ndarray, genuine: np.ndarray) -> RocCurve:
    """From distances of both kinds, sorted."""
    parts = list(_kept_points(impostors, genuine))
    distances, false, true = (np.concatenate(part) for part in zip(*parts, strict=True))
    return RocCurve(
        far=np.append(0.0, false / len(impostors)),
        tar=np.append(0.0, true / len(genuine)),
        thresholds=np.append(-np.inf, distances),
        different=len(impostors),
    )


def _kept_points(impostors: np.ndarray, genuine: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Distances, and the impostors and genuine pairs up to them, of the points that stay, a stretch at a time.

    A point stays where another number of pairs of either kind is added at the next; so do the first and the last one.
    """
    held: tuple[np.ndarray, ...] = (np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
    false = true = 0  # before what is held
    begun = False
    for values, *added in _steps(impostors, genuine):
        values, more_false, more_true = (np.append(old, new) for old, new in zip(held, (values, *added), strict=True))
        stays = (np.diff(more_false) != 0) | (np.diff(more_true) != 0)
        if not begun and len(stays):
            stays[0] = begun = True
        all_false, all_true = false + np.cumsum(more_false), true + np.cumsum(more_true)
        chosen = np.nonzero(stays)[0]
        yield values[chosen], all_false[chosen], all_true[chosen]
        held = (values[-1:], more_false[-1:], more_true[-1:])
        false, true = int(all_false[-1] - more_false[-1]), int(all_true[-1] - more_true[-1])
    yield held[0], false + held[1], true + held[2]


def _steps(impostors: np.ndarray, genuine: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Distances that occur, rising, and how many impostors and genuine pairs have each, a stretch at a time."""
    start = taken = 0
    while start < len(impostors):
        stop = min(start + _STEPS, len(impostors))
        stop = int(np.searchsorted(impostors, impostors[stop - 1], side="right"))  # equals stay together
        upto = len(genuine)
        if stop < len(impostors):
            upto = int(np.searchsorted(genuine, impostors[stop - 1], side="right"))
        values, false = _runs(impostors[start:stop])
        others, true = _runs(genuine[taken:upto])
        places = np.searchsorted(values, others)
        new = np.append(values, np.nan)[places] != others
        values = np.insert(values, places[new], others[new])
        false = np.insert(false, places[new], 0)
        more = np.zeros(len(values), np.int64)
        more[np.searchsorted(values, others)] = true
        yield values, false, more
        start, taken = stop, upto


def _runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, and how often."""
    if not len(ordered):
        return ordered, np.empty(0, np.int64)
    starts = np.nonzero(np.append(True, ordered[1:] != ordered[:-1]))[0]
    return ordered[starts], np.diff(starts, append=len(ordered))
