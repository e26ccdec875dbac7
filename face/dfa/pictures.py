"""Pictures of how well landmarks are found: cumulative errors of several models, and faces with both landmarks.

Coordinates: landmarks are fractions of the crops.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.patheffects as patheffects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.keypoints import FIVE_POINT_FACE
from common.runtime.curves import Name, curve_styles, curve_title, finish_axes
from common.runtime.figures import write_figure
from face.dfa.dataset import CropSet
from face.dfa.landmark_errors import LandmarkResult, cumulative_errors
from face.pictures import SIDE_COLOURS

__all__ = ["draw_cumulative_errors", "draw_faces"]

_RIM = "#141414"
_PREDICTED = "#F0E442"  # Okabe and Ito's yellow, which no side of the face has
_UNITS = {"box": "sqrt(w h) of the box", "eyes": "the distance of the eyes", "landmarks": "sqrt(w h) of the landmarks"}


def _rim(width: float) -> list[patheffects.AbstractPathEffect]:
    """A dark edge, so that yellow is seen on skin."""
    return [patheffects.withStroke(linewidth=width, foreground=_RIM)]


_DOT: dict[str, Any] = {"marker": "o", "ls": "", "ms": 6.5, "mec": _RIM, "mew": 0.8}
_CROSS: dict[str, Any] = {"marker": "x", "ls": "", "ms": 5, "mew": 1.3, "mec": _PREDICTED, "path_effects": _rim(3)}


def draw_cumulative_errors(path: str | Path, results: Mapping[Name, LandmarkResult]) -> None:
    """The share of faces over the error that it stays within, up to the limit of the area under the curve.

    Curves are stairs: between the errors of two faces nothing is interpolated.

    Args:
        path: picture file.
        results: of the same settings, by name. A name (model, condition) gives each model one colour and each
            condition one line style.

    Raises:
        ValueError: no results, of different settings, or an unknown suffix.
    """
    settings = {result.settings for result in results.values()}
    if len(settings) != 1:
        raise ValueError(f"need results of one kind of settings, got {len(results)} results of {len(settings)} kinds")
    (common,) = settings
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for name, style in curve_styles(results).items():
        x, shares = cumulative_errors(results[name].per_face)
        label = f"{curve_title(name)}  {results[name].nme:.2f}"
        end = max(common.auc_percent, x[-1] if len(x) else 0)
        stairs = np.concatenate([[0], x, [end]]), np.concatenate([[0], shares, shares[-1:] if len(x) else [0]])
        axes.plot(*stairs, drawstyle="steps-post", lw=1.7, label=label, **style)
    axes.set_xlim(0, common.auc_percent)
    axes.set_ylim(0, 101)
    axes.set(xlabel=f"mean error of a face (% of {_UNITS[common.normaliser]})", ylabel="faces within it (%)")
    finish_axes(axes, "NME (%)")
    write_figure(figure, path)


def draw_faces(path: str | Path, result: LandmarkResult, crops: CropSet, columns: int = 8, title: str = "") -> None:
    """The faces of the smallest, the middle and the largest errors, with true and predicted landmarks.

    Args:
        path: picture file.
        result: of a model.
        crops: that it was evaluated on.
        columns: faces of each of the three rows, if there are so many; a face may be in two rows.
        title: above all.

    Raises:
        ValueError: no face with a prediction, columns below 1, or an unknown suffix.
        ImageError: an image does not decode.
    """
    errors = result.per_face
    order = [row for row in np.argsort(errors, kind="stable") if np.isfinite(errors[row])]
    if not order or columns < 1:
        raise ValueError(f"need faces with predictions and columns >= 1, got {len(order)} and {columns}")
    columns = min(columns, len(order))
    first = (len(order) - columns) // 2
    rows = {"best": order[:columns], "median": order[first : first + columns], "worst": order[-columns:]}
    figure = Figure(figsize=(1.6 * columns + 0.4, 6.2), dpi=120, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (kind, shown), line in zip(rows.items(), grid, strict=True):
        line[0].set_ylabel(kind, fontsize=11)
        for row, axes in zip(shown, line, strict=True):
            image = crops[int(result.indices[row])].image
            _draw_face(axes, image, result.truth[row], result.predicted[row])
            axes.set_title(f"{errors[row]:.1f} %", fontsize=9, pad=3)
    figure.legend(handles=_legend(), loc="outside lower center", ncol=4, frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    write_figure(figure, path)


def _draw_face(axes: Axes, image: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> None:
    axes.imshow(image, extent=(0, 1, 1, 0), interpolation="bilinear", aspect="auto")
    for true, found in zip(truth, predicted, strict=True):
        axes.plot(*zip(true, found, strict=True), color=_PREDICTED, lw=1.2, path_effects=_rim(2.4))
    for name, point in zip(FIVE_POINT_FACE.names, truth, strict=True):
        side = "left" if "left" in name else "right" if "right" in name else "centre"
        axes.plot(*point, mfc=_colour(side), **_DOT)
    axes.plot(*predicted.T, **_CROSS)
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    axes.set_box_aspect(1)
    for edge in axes.spines.values():
        edge.set_visible(False)


def _legend() -> list[Line2D]:
    names = {"left": "true, left of the image", "right": "true, right of the image", "centre": "true, nose"}
    dots = [Line2D([], [], mfc=_colour(side), label=name, **_DOT) for side, name in names.items()]
    return [*dots, Line2D([], [], label="predicted", **_CROSS)]


def _colour(side: str) -> tuple[float, ...]:
    return tuple(part / 255 for part in SIDE_COLOURS[side])
