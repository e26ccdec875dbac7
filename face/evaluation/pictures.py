"""Pictures of results on evaluation sets: ROC curves of several networks or sets together.

Figures are built on their own `Figure` objects, so no pyplot state, window or display is involved. A file is written
whole or not at all; its suffix names the format (.png, .pdf, .svg).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from common.runtime.curves import Name, curve_styles, curve_title, finish_axes
from common.runtime.figures import write_figure
from face.evaluation.roc import RocCurve, area_under

__all__ = ["draw_roc"]


def draw_roc(path: str | Path, curves: Mapping[Name, RocCurve]) -> None:
    """TAR over FAR, the latter on a logarithmic axis down to the smallest that a set can tell.

    Curves are stairs: between two operating points nothing is interpolated. Left of its own smallest FAR a curve shows
    its TAR without any false accept, faintly.

    Args:
        path: picture file.
        curves: by name. A name (network, set) gives each network one colour and each set one line style.

    Raises:
        ValueError: no curves, or an unknown suffix.
    """
    if not curves:
        raise ValueError("need at least one ROC curve")
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    smallest = min(1 / curve.different for curve in curves.values())
    left, lowest = smallest / 2, 100.0
    for name, style in curve_styles(curves).items():
        curve = curves[name]
        own = 1 / curve.different
        beyond = curve.far >= own
        none_accepted = 100 * curve.tar[~beyond].max()
        far = np.append(own, curve.far[beyond])
        tar = np.append(none_accepted, 100 * curve.tar[beyond])
        axes.plot([left, own], [none_accepted] * 2, lw=1.7, alpha=0.3, **style)
        label = f"{curve_title(name)}  {100 * area_under(curve):.2f}"
        axes.plot(far, tar, drawstyle="steps-post", lw=1.7, label=label, **style)
        lowest = min(lowest, none_accepted)
    axes.set_xscale("log")
    axes.set_xlim(left, 1)
    axes.set_ylim(max(0, np.floor((lowest - 2) / 10) * 10), 101)
    axes.set(xlabel="false accept rate", ylabel="true accept rate (%)")
    finish_axes(axes, "area under the curve (%)")
    write_figure(figure, path)
