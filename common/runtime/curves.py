"""Curves of several results in one picture: their colours and line styles, and cumulative match curves.

Shape letters: R ranks.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common.runtime.figures import write_figure

__all__ = [
    "COLOURS",
    "LINE_STYLES",
    "Name",
    "curve_group",
    "curve_styles",
    "curve_title",
    "draw_cmc",
    "finish_axes",
    "shortened_row",
]

# Okabe and Ito's palette, told apart by readers with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))

_HALF_LINE = 36  # characters of a legend's entry, of which two fit beside each other
_LINE_INCHES = 0.19  # height of a legend's line

Name = str | tuple[str, str]
"""Of a curve: plain, or (model, condition), such as the test set."""


def curve_group(name: Name) -> str:
    """What a curve has its colour from: the model."""
    return name if isinstance(name, str) else name[0]


def curve_title(name: Name) -> str:
    """What a legend says."""
    return name if isinstance(name, str) else ", ".join(name)


def curve_styles(names: Iterable[Name]) -> dict[Name, dict[str, Any]]:
    """Options of a plot for each curve: each model has one colour, each condition one line style."""
    names = list(names)
    groups = list(dict.fromkeys(map(curve_group, names)))
    conditions = list(dict.fromkeys(name[1] for name in names if isinstance(name, tuple)))
    styles: dict[Name, dict[str, Any]] = {}
    for name in names:
        condition = conditions.index(name[1]) if isinstance(name, tuple) else 0
        colour = COLOURS[groups.index(curve_group(name)) % len(COLOURS)]
        styles[name] = {"color": colour, "linestyle": LINE_STYLES[condition % len(LINE_STYLES)]}
    return styles


def draw_cmc(
    path: str | Path, curves: Mapping[Name, np.ndarray], *, max_rank: int = 20, legend_below: bool = False
) -> None:
    """Cumulative match curves.

    Args:
        path: picture file.
        curves: name -> [R] percent, entry k - 1 being Rank-k. Names as for `curve_styles`.
        max_rank: ranks shown at most.
        legend_below: see `finish_axes`.

    Raises:
        ValueError: no curves, a curve that is no rising row of percentages (it is named), or an unknown suffix.
    """
    if not curves or max_rank < 1:
        raise ValueError(f"need curves and max_rank >= 1, got {len(curves)} and {max_rank}")
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    lowest, longest = 100.0, 1
    for name, style in curve_styles(curves).items():
        curve = np.asarray(curves[name], dtype=np.float64)
        if curve.ndim != 1 or not len(curve) or not ((curve >= 0) & (curve <= 100 + 1e-9)).all():
            raise ValueError(f"CMC of {curve_title(name)} must be a row of percentages, got {shortened_row(curve)}")
        if (np.diff(curve) < 0).any():
            raise ValueError(f"CMC of {curve_title(name)} falls from one rank to the next: {shortened_row(curve)}")
        shown = curve[:max_rank]
        lowest, longest = min(lowest, shown[0]), max(longest, len(shown))
        label = f"{curve_title(name)}  {shown[0]:.1f}"
        axes.plot(np.arange(1, len(shown) + 1), shown, marker="o", ms=3.5, lw=1.7, label=label, **style)
    axes.set(xlabel="rank", ylabel="probes with a match so far (%)")
    axes.set_xlim(0.5, longest + 0.5)
    axes.set_ylim(max(0, np.floor((lowest - 2) / 10) * 10), 101)
    axes.set_xticks([1, *range(5, longest + 1, 5)] if longest > 8 else range(1, longest + 1))
    finish_axes(axes, "Rank-1 (%)", legend_below=legend_below)
    write_figure(figure, path)


def finish_axes(axes: Any, legend_title: str | None = None, *, legend_below: bool = False) -> None:
    """A faint grid, no box, and a legend.

    Args:
        axes: with labelled curves; for `legend_below`, alone on a figure of constrained layout.
        legend_title: above the legend's entries.
        legend_below: put it below the axes, where it hides no curve however many there are; the figure grows with it.
    """
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    style: dict[str, Any] = {"frameon": False, "handlelength": 3, "fontsize": 9, "title": legend_title}
    style |= {"title_fontsize": 9, "alignment": "left"}
    if not legend_below:
        axes.legend(**style)
        return
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if len(labels) > 3 and max(map(len, labels)) <= _HALF_LINE else 1
    width, height = axes.figure.get_size_inches()
    axes.figure.set_size_inches(width, height + _LINE_INCHES * (math.ceil(len(labels) / columns) + 1))
    axes.figure.legend(handles, labels, loc="outside lower left", ncols=columns, **style)


def shortened_row(values: np.ndarray) -> str:
    """Some numbers of an array, for an error message."""
    return np.array2string(values, threshold=6, edgeitems=3, precision=3)
