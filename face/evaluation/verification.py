"""Same person or not: accuracy over ten folds, TAR at a FAR, AUC and EER of pairs of embeddings.

Source: the protocol of LFW as deepinsight/insightface@7fadd42 (recognition/arcface_torch/eval/verification.py) and
mk-minchul/CVLface@d3d09c9 (evaluations/verifications/verification.py) compute it, whose numbers these are, to the last
digit, for embeddings of the same dtype: insightface adds up those of an image and its mirror in float64, CVLface in
float32. Embeddings are normalised; a pair is accepted where its squared distance is below a threshold; folds are
stretches of the list of pairs; each is judged by the threshold, of 0, 0.01, ..., 3.99, that is best on the other folds
(the smallest of equally good ones).
Deliberate differences: pairs are counted once into bins between thresholds instead of once for each threshold; their
TAR at a FAR (here `val`) stops under a recent SciPy wherever two thresholds have the same FAR, and is here what older
ones make of it: linear between the last threshold of one FAR and the first of the next; a fold with pairs of one kind
alone is refused by name (there: a division by zero).

Shape letters: n pairs, m images, E embedding channels, K folds, T thresholds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from face.evaluation.checks import check_embeddings
from face.evaluation.roc import RocCurve, area_under, equal_error_rate, roc_curve, tar_at_far

__all__ = ["FARS", "VAL_FAR", "VerificationResult", "check_folds", "pair_distances", "verify", "verify_distances"]

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Where TAR is given, as far down as a set has pairs for it."""

VAL_FAR = 1e-3
"""The FAR that insightface's `val` is for."""

_THRESHOLDS = np.arange(0, 4, 0.01)
_FINE_THRESHOLDS = np.arange(0, 4, 0.001)
_CHUNK = 2**14  # pairs whose differences are in memory at one time


@dataclass(frozen=True, kw_only=True, eq=False)
class VerificationResult:
    """Metrics in percent; the curves in fractions."""

    accuracy: float
    """Mean of `fold_accuracies`."""

    accuracy_std: float
    """Their standard deviation (of the population, as the sources have it)."""

    fold_accuracies: np.ndarray
    """[K] of each fold, at the threshold that is best on the others."""

    fold_thresholds: np.ndarray
    """[K] that threshold, a squared distance in [0, 4)."""

    fold_tar: np.ndarray
    """[T] TAR at 0, 0.01, ..., 3.99, as a fraction, mean over folds."""

    fold_far: np.ndarray
    """[T] FAR, likewise."""

    val: float
    """TAR at the threshold whose FAR on the other folds is VAL_FAR, mean over folds."""

    val_std: float
    """Standard deviation of that."""

    val_far: float
    """The FAR that the same thresholds have on the folds themselves, mean over folds."""

    auc: float
    """Area under the ROC curve of all pairs."""

    eer: float
    """Equal error rate of all pairs."""

    tar_at_far: dict[float, float]
    """For each of FARS that the set can tell (1 / FAR pairs of different persons), the largest TAR at no more."""

    roc: RocCurve
    """All operating points of all pairs."""


def verify(
    embeddings: np.ndarray,
    pairs: np.ndarray,
    same: np.ndarray,
    *,
    folds: int = 10,
    name_of: Callable[[int], str] = "row {}".format,
) -> VerificationResult:
    """Metrics of pairs of images.

    Args:
        embeddings: [m, E] float32 or float64, of any length; all zero counts as being at the origin.
        pairs: [n, 2] integers, rows of `embeddings`.
        same: [n] bool, whether a pair is of one person.
        folds: K.
        name_of: what an error calls the image of a row.

    Raises:
        ValueError: NaN or infinity (the images are named), shapes or dtypes that do not fit, fewer pairs than folds,
            or a fold without pairs of either kind.
    """
    check_folds(same, folds)
    if len(pairs) != len(same):
        raise ValueError(f"expected as many pairs as answers, got {len(pairs)} and {len(same)}")
    return verify_distances(pair_distances(embeddings, pairs, name_of=name_of), same, folds=folds)


def pair_distances(
    embeddings: np.ndarray, pairs: np.ndarray, *, name_of: Callable[[int], str] = "row {}".format
) -> np.ndarray:
    """Squared distances of normalised embeddings, [m, E] and [n, 2] to [n], in the dtype of the embeddings.

    Raises:
        ValueError: NaN or infinity (the images are named), or shapes or dtypes that do not fit.
    """
    check_embeddings(embeddings, name_of)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"pairs must be integers [n, 2], got {pairs.dtype} {list(pairs.shape)}")
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= len(embeddings)):
        raise ValueError(f"pairs must be of rows 0..{len(embeddings) - 1}, got {pairs.min()}..{pairs.max()}")
    lengths = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
    lengths[lengths == 0] = 1
    directions = embeddings / lengths[:, None]
    distances = np.empty(len(pairs), embeddings.dtype)
    for start in range(0, len(pairs), _CHUNK):
        first, second = pairs[start : start + _CHUNK].T
        distances[start : start + _CHUNK] = np.square(directions[first] - directions[second]).sum(axis=1)
    return distances


def verify_distances(distances: np.ndarray, same: np.ndarray, *, folds: int = 10) -> VerificationResult:
    """Metrics of squared distances of normalised embeddings, [n] in [0, 4], and whether pairs are of one person, [n].

    Raises:
        ValueError: as `verify`.
    """
    check_folds(same, folds)
    curve = roc_curve(distances, same)
    fold_of = _fold_of(len(same), folds)
    kinds = np.stack([np.bincount(fold_of[~same], minlength=folds), np.bincount(fold_of[same], minlength=folds)])
    different_K, same_K = kinds

    false_KT, true_KT = _accepted(distances, same, fold_of, folds, _THRESHOLDS)
    right_KT = true_KT + different_K[:, None] - false_KT
    best_K = (right_KT.sum(axis=0) - right_KT).argmax(axis=1)  # the first of equals
    accuracies = 100 * (right_KT[np.arange(folds), best_K] / (same_K + different_K))

    val_K, far_K = _at_far(distances, same, fold_of, folds, kinds)
    return VerificationResult(
        accuracy=float(accuracies.mean()),
        accuracy_std=float(accuracies.std()),
        fold_accuracies=accuracies,
        fold_thresholds=_THRESHOLDS[best_K],
        fold_tar=(true_KT / same_K[:, None]).mean(axis=0),
        fold_far=(false_KT / different_K[:, None]).mean(axis=0),
        val=100 * float(val_K.mean()),
        val_std=100 * float(val_K.std()),
        val_far=100 * float(far_K.mean()),
        auc=100 * area_under(curve),
        eer=100 * equal_error_rate(curve),
        tar_at_far={far: 100 * tar_at_far(curve, far) for far in FARS if curve.different >= round(1 / far)},
        roc=curve,
    )


def check_folds(same: np.ndarray, folds: int = 10) -> None:
    """Refuse pairs that do not make `folds` folds with pairs of both kinds in each.

    Raises:
        ValueError: another shape or dtype than bool [n], fewer than two folds, fewer pairs than folds, or a fold with
            pairs of one kind alone.
    """
    if same.ndim != 1 or same.dtype != np.bool_:
        raise ValueError(f"same must be bool [n], got {same.dtype} {list(same.shape)}")
    if folds < 2 or len(same) < folds:
        raise ValueError(f"expected at least 2 folds and a pair in each, got {folds} folds and {len(same)} pairs")
    fold_of = _fold_of(len(same), folds)
    for fold in range(folds):
        members = np.nonzero(fold_of == fold)[0]
        if same[members].all() or not same[members].any():
            kind = "the same person" if same[members[0]] else "different persons"
            raise ValueError(
                f"fold {fold + 1} of {folds}, pairs {members[0]} to {members[-1]}, has pairs of {kind} alone: order "
                "the pairs so that every fold has both kinds"
            )


def _fold_of(pairs: int, folds: int) -> np.ndarray:
    """[n] stretches of the list, the first ones longer by a pair where they cannot be equal."""
    sizes = np.full(folds, pairs // folds)
    sizes[: pairs % folds] += 1
    return np.repeat(np.arange(folds), sizes)


def _accepted(
    distances: np.ndarray, same: np.ndarray, fold_of: np.ndarray, folds: int, thresholds: np.ndarray
) -> np.ndarray:
    """[2, K, T] pairs below each threshold: of different persons, and of the same."""
    first = np.searchsorted(thresholds, distances, side="right")  # the smallest threshold above the distance
    bins = len(thresholds) + 1
    cells = (same * folds + fold_of) * bins + first
    return np.bincount(cells, minlength=2 * folds * bins).reshape(2, folds, bins).cumsum(axis=2)[:, :, :-1]


def _at_far(
    distances: np.ndarray, same: np.ndarray, fold_of: np.ndarray, folds: int, kinds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[K] TAR and [K] FAR of each fold, at the threshold with a FAR of VAL_FAR on the others."""
    false_KT = _accepted(distances, same, fold_of, folds, _FINE_THRESHOLDS)[0]
    others_KT = (false_KT.sum(axis=0) - false_KT) / (kinds[0].sum() - kinds[0])[:, None]
    thresholds_K = np.array([_threshold_at(far_T, VAL_FAR) for far_T in others_KT])
    accepted = distances < thresholds_K[fold_of]
    true_K = np.bincount(fold_of[accepted & same], minlength=folds)
    false_K = np.bincount(fold_of[accepted & ~same], minlength=folds)
    return true_K / kinds[1], false_K / kinds[0]


def _threshold_at(far_T: np.ndarray, target: float) -> float:
    """Where the FAR of the fine thresholds reaches the target; 0, which accepts nothing, where it never does."""
    if far_T[-1] < target:
        return 0.0
    above = int(np.searchsorted(far_T, target, side="right"))
    if above == len(far_T):  # it ends at the target itself
        return float(_FINE_THRESHOLDS[np.searchsorted(far_T, target)])
    low, high = far_T[above - 1], far_T[above]
    scale = 1 / (high - low)
    upper = _FINE_THRESHOLDS[above] * (scale * (target - low))
    return float(_FINE_THRESHOLDS[above - 1] * (scale * (high - target)) + upper)
