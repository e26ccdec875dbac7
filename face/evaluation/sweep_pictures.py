"""Pictures of sweeps: curves or heat maps of several models, and what images and landmarks are at each step.

Coordinates: landmarks are (x, y) as fractions of the images.
Shape letters: k steps, v variants of a step, n images shown, h x w pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.runtime.curves import curve_styles, finish_axes
from common.runtime.figures import write_figure
from face.pictures import GAP, face_grid

__all__ = ["HeatMap", "StepColumn", "draw_curves", "draw_heat_maps", "draw_steps"]

_DPI = 100
_LABEL_PX = 34


def draw_curves(
    path: str | Path,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    xlabel: str,
    ylabel: str,
    whole_numbers: bool = False,
) -> None:
    """A line for each model: the mean over a step's variants, and their range shaded.

    Args:
        path: picture file.
        curves: model -> steps [k] and percent [k, v], NaN where a step has fewer variants.
        xlabel, ylabel: of the axes.
        whole_numbers: whether steps are such.

    Raises:
        ValueError: no curves, or an unknown suffix.
    """
    if not curves:
        raise ValueError("need at least one curve")
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    styles = curve_styles(curves)
    for name, (steps, values) in curves.items():
        style = styles[name]
        axes.plot(steps, np.nanmean(values, axis=1), marker="o", ms=3.5, lw=1.7, label=name, **style)
        if values.shape[1] > 1:
            low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, lw=0)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if whole_numbers:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish_axes(axes)
    write_figure(figure, path)


class HeatMap(NamedTuple):
    """One row of heat maps: the same two things for each model."""

    values: Mapping[str, np.ndarray]
    """Model -> percent [rows, columns]."""

    columns: Sequence[float]

    rows: Sequence[float]

    xlabel: str

    ylabel: str


def draw_heat_maps(path: str | Path, maps: Sequence[HeatMap], title: str = "") -> None:
    """Models side by side, then each further model's difference to the first; values in the cells.

    Args:
        path: picture file.
        maps: of the same models.
        title: above all.

    Raises:
        ValueError: no maps, or an unknown suffix.
    """
    if not maps or not maps[0].values:
        raise ValueError("need at least one heat map of one model")
    models = list(maps[0].values)
    wide = 2 * len(models) - 1
    most = max(len(each.columns) for each in maps)
    figure = Figure(
        figsize=(0.6 + wide * max(2.6, 0.46 * most + 0.9), 0.5 + 2.9 * len(maps)), dpi=150, layout="constrained"
    )
    grid = figure.subplots(len(maps), wide, squeeze=False)
    for line, each in zip(grid, maps, strict=True):
        everything = np.stack([each.values[model] for model in models])
        low, high = np.nanmin(everything), np.nanmax(everything)
        for axes, model in zip(line, models, strict=False):
            _draw_map(axes, each.values[model], each, "viridis", (low, max(high, low + 1e-6)), "{:.0f}")
            axes.set_title(model, fontsize=9, parse_math=False)
        first = each.values[models[0]]
        differences = [each.values[model] - first for model in models[1:]]
        reach = max([np.nanmax(np.abs(values)) for values in differences], default=0) or 1.0
        for axes, model, values in zip(line[len(models) :], models[1:], differences, strict=True):
            _draw_map(axes, values, each, "PuOr_r", (-reach, reach), "{:+.0f}")
            axes.set_title(f"{model} − {models[0]}", fontsize=9, parse_math=False)
        line[0].set_ylabel(each.ylabel, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    write_figure(figure, path)


def _draw_map(
    axes: Any, values: np.ndarray, labels: HeatMap, colours: str, limits: tuple[float, float], form: str
) -> None:
    shown = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = shown.cmap(shown.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(column, row, form.format(value), ha="center", va="center", fontsize=7,
                      color="white" if dark else "black")  # fmt: skip
    axes.set_xticks(range(len(labels.columns)), [f"{value:g}" for value in labels.columns], fontsize=7)
    axes.set_yticks(range(len(labels.rows)), [f"{value:g}" for value in labels.rows], fontsize=7)
    axes.set_xlabel(labels.xlabel, fontsize=8)


class StepColumn(NamedTuple):
    """Some images at one step."""

    title: str

    images: np.ndarray
    """[n, h, w, 3] uint8 RGB."""

    landmarks: np.ndarray | None
    """[n, 5, 2] fractions of the images, NaN where hidden; None for none."""


def draw_steps(path: str | Path, rows: Sequence[Sequence[StepColumn]]) -> None:
    """The same images at each step: steps side by side, the images of one below each other.

    Args:
        path: picture file.
        rows: blocks below each other, each of steps side by side; all of images of one size.

    Raises:
        ValueError: no steps, or an unknown suffix.
    """
    if not rows or not all(rows):
        raise ValueError("need at least one step in each row")
    sheets = [[face_grid(step.images, step.landmarks, columns=1) for step in row] for row in rows]
    width = max(sum(sheet.shape[1] for sheet in row) for row in sheets)
    height = sum(row[0].shape[0] + _LABEL_PX for row in sheets)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    top = 0
    for row, row_sheets in zip(rows, sheets, strict=True):
        left = 0
        for step, sheet in zip(row, row_sheets, strict=True):
            high, wide = sheet.shape[:2]
            place = (left / width, 1 - (top + _LABEL_PX + high) / height, wide / width, high / height)
            axes = figure.add_axes(place)
            axes.imshow(sheet, interpolation="none", aspect="auto")
            axes.axis("off")
            middle = (left + wide / 2) / width, 1 - (top + _LABEL_PX - GAP / 2) / height
            figure.text(*middle, step.title, ha="center", va="bottom", fontsize=7.5, parse_math=False)
            left += wide
        top += _LABEL_PX + row_sheets[0].shape[0]
    write_figure(figure, path)
