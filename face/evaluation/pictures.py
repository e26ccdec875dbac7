"""Pictures of results on evaluation sets: ROC and DET curves of several networks or sets together.

Figures are built on their own `Figure` objects, so no pyplot state, window or display is involved. A file is written
whole or not at all; its suffix names the format (.png, .pdf, .svg).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common.runtime.curves import Name, curve_styles, curve_title, draw_cmc, finish_axes
from common.runtime.figures import write_figure
from face.evaluation.identification import IdentificationResult
from face.evaluation.protocols import TemplateDetails
from face.evaluation.roc import RocCurve, area_under, equal_error_rate
from face.evaluation.verification import VerificationResult

__all__ = ["Details", "draw_det", "draw_results", "draw_roc"]

Details = VerificationResult | IdentificationResult | TemplateDetails
"""What `SetResult` has beside its metrics."""

_SMALLEST_FAR = 1e-6  # shown at all, as in papers


def draw_results(folder: str | Path, set_name: str, results: Mapping[str, Details]) -> list[Path]:
    """All curves that a set has, of several models together.

    Args:
        folder: for roc_<set>.png and det_<set>.png (1:1), cmc_<set>.png (1:N).
        set_name: in the files' names.
        results: by model, all of one set. Several protocols get a line style each; of IJB-B and IJB-C the search in
            both galleries is drawn.

    Returns:
        The files, written.
    """
    folder = Path(folder)
    rocs: dict[Name, RocCurve] = {}
    ranks: dict[Name, np.ndarray] = {}
    for model, details in results.items():
        if isinstance(details, VerificationResult):
            rocs[model] = details.roc
        elif isinstance(details, IdentificationResult):
            ranks[model] = details.cmc
        else:
            for protocol, curve in details.rocs.items():
                rocs[_name(model, protocol, details.rocs)] = curve
            searches = {name: found for name, found in details.searches.items() if found.mated.any()}
            if "search" in searches:
                searches = {"search": searches["search"]}
            for protocol, found in searches.items():
                ranks[_name(model, protocol, searches)] = found.cmc
    written = []
    if rocs:
        written = [folder / f"roc_{set_name}.png", folder / f"det_{set_name}.png"]
        draw_roc(written[0], rocs, legend_below=True)
        draw_det(written[1], rocs)
    if ranks:
        written.append(folder / f"cmc_{set_name}.png")
        draw_cmc(written[-1], ranks, legend_below=True)
    return written


def draw_roc(path: str | Path, curves: Mapping[Name, RocCurve], *, legend_below: bool = False) -> None:
    """TAR over FAR, the latter on a logarithmic axis down to the smallest that a set can tell, or to 1e-6.

    Curves are stairs: between two operating points nothing is interpolated. Left of its own smallest FAR a curve shows
    its TAR without any false accept, faintly.

    Args:
        path: picture file.
        curves: by name. A name (network, set) gives each network one colour and each set one line style.
        legend_below: below the axes instead of among the curves.

    Raises:
        ValueError: no curves, or an unknown suffix.
    """
    figure, axes, left = _axes(curves)
    lowest = 100.0
    for name, style in curve_styles(curves).items():
        curve = curves[name]
        own, far, tar = _from_own(curve)
        axes.plot([min(left, own), own], [100 * tar[0]] * 2, lw=1.7, alpha=0.3, **style)
        label = f"{curve_title(name)}  {100 * area_under(curve):.2f}"
        axes.plot(far, 100 * tar, drawstyle="steps-post", lw=1.7, label=label, **style)
        at_left = max(0, int(np.searchsorted(far, left, side="right")) - 1)
        lowest = min(lowest, 100 * tar[at_left])
    axes.set_ylim(max(0, np.floor((lowest - 2) / 10) * 10), 101)
    axes.set(xlabel="false accept rate", ylabel="true accept rate (%)")
    finish_axes(axes, "area under the curve (%)", legend_below=legend_below)
    write_figure(figure, path)


def draw_det(path: str | Path, curves: Mapping[Name, RocCurve]) -> None:
    """Detection error trade-off: false rejects over false accepts, both on logarithmic axes; stairs, as `draw_roc`.

    A curve ends where it has no false rejects any more, which has no place on such an axis. On the grey line both
    rates are the same.

    Args:
        path: picture file.
        curves: as of `draw_roc`.

    Raises:
        ValueError: no curves, or an unknown suffix.
    """
    figure, axes, left = _axes(curves)
    smallest = 1.0
    for name, style in curve_styles(curves).items():
        own, far, tar = _from_own(curves[name])
        missed = 1 - tar
        missed[missed < 1e-12] = np.nan
        label = f"{curve_title(name)}  {100 * equal_error_rate(curves[name]):.2f}"
        axes.plot([min(left, own), own], [missed[0]] * 2, lw=1.7, alpha=0.3, **style)
        axes.plot(far, missed, drawstyle="steps-post", lw=1.7, label=label, **style)
        smallest = min(smallest, np.nanmin(missed, initial=1.0))
    bottom = 10 ** np.floor(np.log10(min(smallest, 0.1)))
    axes.plot([max(left, bottom), 1], [max(left, bottom), 1], color="0.8", lw=1, zorder=0)
    axes.set_yscale("log")
    axes.set_ylim(bottom, 1)
    axes.set(xlabel="false accept rate", ylabel="false reject rate")
    finish_axes(axes, "equal error rate (%)", legend_below=True)
    write_figure(figure, path)


def _name(model: str, protocol: str, protocols: Mapping[str, Any]) -> Name:
    return model if len(protocols) == 1 else (model, protocol.replace("_", " "))


def _axes(curves: Mapping[Name, RocCurve]) -> tuple[Figure, Any, float]:
    """A figure with FAR on its logarithmic axis, and where that begins."""
    if not curves:
        raise ValueError("need at least one ROC curve")
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    left = min(1 / curve.different for curve in curves.values()) / 2
    left = max(left, _SMALLEST_FAR)
    axes.set_xscale("log")
    axes.set_xlim(left, 1)
    return figure, axes, left


def _from_own(curve: RocCurve) -> tuple[float, np.ndarray, np.ndarray]:
    """The smallest FAR that a curve can tell, and FAR and TAR from there on."""
    own = 1 / curve.different
    beyond = curve.far >= own
    return own, np.append(own, curve.far[beyond]), np.append(curve.tar[~beyond].max(), curve.tar[beyond])
