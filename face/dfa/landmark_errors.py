"""How far predicted landmarks are from the true ones: normalised mean error, cumulative errors, failures.

Source: the normalised mean error (NME) of RetinaFace (https://arxiv.org/abs/1905.00641), which Kim et al., CVPR
2024, https://arxiv.org/abs/2403.14852, supplementary 3.1, follow: the distance of each of the five points in the units
of the face's size, sqrt(w h) of its annotated box; the mean over points, then over faces. Their 0.0518 is 5.18 here.

All figures are exact: curves are the stairs that the faces' errors make, areas are those under the stairs.
Units: errors, rates and areas in percent. A face without a prediction has infinite errors: it counts as a failure, but
not in the mean error, which would have none.
Coordinates: (x, y) in any unit that is the same along both axes; fractions of an oblong image are none.
Shape letters: n faces, k different errors.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from common.keypoints import FIVE_POINT_FACE

__all__ = [
    "LandmarkMetricSettings",
    "LandmarkResult",
    "Normaliser",
    "area_under",
    "cumulative_errors",
    "failure_rate",
    "point_errors",
]

Normaliser = Literal["box", "eyes", "landmarks"]
"""What an error is divided by: sqrt(w h) of the annotated box; the distance of the two eyes; sqrt(w h) of the smallest
box about the true landmarks."""

_LEFT_EYE, _RIGHT_EYE = (FIVE_POINT_FACE.names.index(f"image_{side}_eye") for side in ("left", "right"))


@dataclass(frozen=True, kw_only=True)
class LandmarkMetricSettings:
    """What is measured."""

    normaliser: Normaliser = "box"
    """What errors are divided by."""

    failure_percent: float = 10.0
    """A face with a mean error above this is a failure."""

    auc_percent: float = 10.0
    """The area under the curve of cumulative errors reaches up to this error."""

    def __post_init__(self) -> None:
        if self.normaliser not in get_args(Normaliser):
            raise ValueError(f"normaliser must be one of {', '.join(get_args(Normaliser))}, got {self.normaliser!r}")
        for name in ("failure_percent", "auc_percent"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class LandmarkResult:
    """Of one model on n faces."""

    indices: np.ndarray
    """int64 [n], of the crops in their source, in order."""

    truth: np.ndarray
    """float32 [n, 5, 2], fractions of the crops, which are square."""

    predicted: np.ndarray
    """float32 [n, 5, 2], fractions of the crops; NaN where there is no prediction."""

    scores: np.ndarray
    """float32 [n] in [0, 1], how sure the model is of a face; 0 where there is no prediction."""

    errors: np.ndarray
    """float64 [n, 5] percent; infinite where there is no prediction."""

    settings: LandmarkMetricSettings = field(default_factory=LandmarkMetricSettings)

    @property
    def per_face(self) -> np.ndarray:
        """float64 [n] percent, the mean over the points."""
        return self.errors.mean(axis=1)

    @property
    def found(self) -> int:
        """Faces with a prediction."""
        return int(np.isfinite(self.errors).all(axis=1).sum())

    @property
    def nme(self) -> float:
        """Mean over the faces with a prediction, in percent; NaN without any."""
        errors = self.per_face
        return float(errors[np.isfinite(errors)].mean()) if self.found else float("nan")

    @property
    def per_point(self) -> dict[str, float]:
        """The same of each point, by its name."""
        errors = self.errors[np.isfinite(self.errors).all(axis=1)]
        means = errors.mean(axis=0) if len(errors) else np.full(len(FIVE_POINT_FACE), np.nan)
        return dict(zip(FIVE_POINT_FACE.names, means.tolist(), strict=True))

    @property
    def failure_rate(self) -> float:
        """Percent of all faces."""
        return failure_rate(self.per_face, self.settings.failure_percent)

    @property
    def auc(self) -> float:
        """Percent of what it could be at most."""
        return area_under(self.per_face, self.settings.auc_percent)

    @property
    def metrics(self) -> dict[str, float]:
        """In percent, by name: nme, failure_rate@10, auc@10 (or what the settings say) and the points' nme_NAME."""
        settings = self.settings
        return {
            "nme": self.nme,
            f"failure_rate@{settings.failure_percent:g}": self.failure_rate,
            f"auc@{settings.auc_percent:g}": self.auc,
            **{f"nme_{name}": value for name, value in self.per_point.items()},
        }


def point_errors(
    predicted: np.ndarray,
    truth: np.ndarray,
    boxes: np.ndarray,
    normaliser: Normaliser = "box",
    name_of: Callable[[int], str] = "face {}".format,
) -> np.ndarray:
    """Distance of each landmark from the true one.

    Args:
        predicted: [n, 5, 2]; rows with NaN are faces without a prediction.
        truth: [n, 5, 2].
        boxes: [n, 4] left, top, right, bottom, in the same unit.
        normaliser: what distances are divided by.
        name_of: from a row to what messages call the face.

    Returns:
        float64 [n, 5] in percent of the normaliser, infinite where there is no prediction.

    Raises:
        ValueError: shapes that do not fit, true landmarks that are not finite, or a face whose normaliser is not
            positive (its two eyes in one place, say); it is named.
    """
    predicted, truth, boxes = (np.asarray(values, np.float64) for values in (predicted, truth, boxes))
    count = len(truth)
    shapes = [list(values.shape) for values in (predicted, truth, boxes)]
    if shapes != [[count, len(FIVE_POINT_FACE), 2]] * 2 + [[count, 4]]:
        raise ValueError(f"expected landmarks [n, 5, 2], true ones [n, 5, 2] and boxes [n, 4], got {shapes}")
    unknown = ~np.isfinite(truth).all(axis=(1, 2))
    if unknown.any():
        raise ValueError(f"{name_of(int(unknown.argmax()))}: its true landmarks are not finite")
    size = _sizes(truth, boxes, normaliser)
    wrong = ~(size > 0)
    if wrong.any():
        raise ValueError(
            f"{name_of(int(wrong.argmax()))}: the normaliser {normaliser!r} is {size[wrong][0]:g}, must be positive"
        )
    errors = 100 * np.linalg.norm(predicted - truth, axis=-1) / size[:, None]
    errors[~np.isfinite(predicted).all(axis=(1, 2))] = np.inf
    return errors


def _sizes(truth: np.ndarray, boxes: np.ndarray, normaliser: Normaliser) -> np.ndarray:
    """[n]"""
    if normaliser == "eyes":
        return np.linalg.norm(truth[:, _LEFT_EYE] - truth[:, _RIGHT_EYE], axis=-1)
    sides = np.ptp(truth, axis=1) if normaliser == "landmarks" else boxes[:, 2:] - boxes[:, :2]
    return np.sqrt(sides.clip(min=0).prod(axis=1))


def cumulative_errors(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of faces with an error up to x.

    Args:
        errors: [n] of the faces, n >= 1; those that are infinite are never reached.

    Returns:
        x [k], the different finite errors, rising, and the share at and after each [k], in percent.
    """
    values, counts = np.unique(errors[np.isfinite(errors)], return_counts=True)
    return values, 100 * counts.cumsum() / len(errors)


def failure_rate(errors: np.ndarray, threshold: float) -> float:
    """Percent of [n] errors that are above a threshold."""
    return float(100 * (errors > threshold).mean())


def area_under(errors: np.ndarray, limit: float) -> float:
    """Area under the cumulative curve of [n] errors from 0 to a limit, in percent of that of faces without error."""
    return float(100 * (1 - errors / limit).clip(min=0).mean())
