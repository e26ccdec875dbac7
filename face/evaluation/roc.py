"""The receiver operating characteristic of distances, and what is read off it.

A pair is accepted where its distance is at most a threshold. The curve has a point for each distance that occurs, so
it is exact: equal distances are accepted together, and the area counts a tie as half.

Terms: FAR, false accept rate, accepted pairs among those of different persons; TAR, true accept rate, accepted pairs
among those of the same person. Both are fractions here.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["RocCurve", "area_under", "equal_error_rate", "roc_curve", "tar_at_far"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RocCurve:
    """Points from (0, 0), where nothing is accepted, to (1, 1), where everything is."""

    far: np.ndarray
    """[k] fractions, rising."""

    tar: np.ndarray
    """[k] fractions, rising."""

    thresholds: np.ndarray
    """[k] the largest distance accepted, rising; the first is minus infinity."""

    different: int
    """Pairs of different persons; FAR cannot tell steps below 1 / different."""


def roc_curve(distances: np.ndarray, same: np.ndarray) -> RocCurve:
    """Every operating point of a set of pairs.

    Args:
        distances: [n] without NaN, smaller is more alike.
        same: [n] bool, with both values in it.

    Raises:
        ValueError: shapes or dtypes that do not fit, NaN, or pairs of one kind alone.
    """
    if distances.ndim != 1 or distances.shape != same.shape or same.dtype != np.bool_:
        found = f"{list(distances.shape)} and {same.dtype} {list(same.shape)}"
        raise ValueError(f"expected distances [n] and same, bool [n], got {found}")
    if np.isnan(distances).any():
        raise ValueError(f"{np.isnan(distances).sum()} of {len(distances)} distances are NaN")
    positives = int(same.sum())
    negatives = len(same) - positives
    if not positives or not negatives:
        raise ValueError(f"a ROC needs pairs of both kinds, got {positives} same and {negatives} different")
    order = np.argsort(distances, kind="stable")
    ordered = distances[order]
    true = np.cumsum(same[order])
    last = np.append(np.nonzero(ordered[1:] != ordered[:-1])[0], len(ordered) - 1)  # of each run of equals
    return RocCurve(
        far=np.append(0.0, (last + 1 - true[last]) / negatives),
        tar=np.append(0.0, true[last] / positives),
        thresholds=np.append(-np.inf, ordered[last]),
        different=negatives,
    )


def tar_at_far(curve: RocCurve, far: float) -> float:
    """The largest TAR at a FAR of at most `far`; nothing is interpolated between operating points."""
    return float(curve.tar[np.searchsorted(curve.far, far, side="right") - 1])


def area_under(curve: RocCurve) -> float:
    """Chance that a pair of one person is closer than a pair of two, ties counted as half."""
    return float(np.diff(curve.far) @ (curve.tar[1:] + curve.tar[:-1]) / 2)


def equal_error_rate(curve: RocCurve) -> float:
    """FAR where it equals 1 - TAR, on the straight line between the operating points next to it."""
    surplus = curve.far + curve.tar - 1  # rises from -1 to 1
    after = int(np.argmax(surplus >= 0))
    before = after - 1
    weight = surplus[after] / (surplus[after] - surplus[before])
    return float(weight * curve.far[before] + (1 - weight) * curve.far[after])
