"""What comes out of a sweep: tables and pictures.

sweep.json    settings, models, and all metrics of each model at each step
sweep.csv     the same metrics, a row for each model and step
sweep.png     curves, or heat maps, of one metric
steps.png     what images and landmarks are at each step
"""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.runtime.files import write_text
from face.data.images import resize_image
from face.evaluation.sweep_pictures import HeatMap, StepColumn, draw_curves, draw_heat_maps, draw_steps
from face.evaluation.sweep_settings import SweepStep, sweep_steps
from face.evaluation.sweeps import Sweep, SweepResult

__all__ = ["draw_sweep", "draw_sweep_steps", "format_sweep", "write_tables"]

_SHOWN = 3  # images at each step of a sweep with one axis
_NOISE = {
    "gaussian": "standard deviation of the landmarks' noise (fractions of the image)",
    "proportional": "noise of the landmarks, as a share of their coordinates",
    "printed": "α of eq. 12, which moves landmarks from the upper left corner",
}
_GRIDS = (
    (("rotation", "scale"), ("turned (degrees, clockwise)", "scaled")),
    (("shift_x", "shift_y"), ("shifted to the right (share of the width)", "shifted down (share of the height)")),
)


def write_tables(folder: Path, content: Mapping[str, Any], result: SweepResult) -> None:
    """`sweep.json`, with `content` in front, and `sweep.csv`."""
    rows = [
        {
            "model": row.model,
            **row.step.values,
            "variant": row.step.variant,
            **({} if row.mean_shift is None else {"mean_shift": row.mean_shift}),
            "metrics": row.metrics,
        }
        for row in result.rows
    ]
    record = {"settings": dataclasses.asdict(result.settings), **content, "notes": result.notes, "rows": rows}
    write_text(folder / "sweep.json", json.dumps(record, indent=1) + "\n")
    flat = [{**row, **row["metrics"]} for row in rows]  # type: ignore[dict-item]
    columns = [name for name in dict.fromkeys(name for row in flat for name in row) if name != "metrics"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_text(folder / "sweep.csv", text.getvalue())


def draw_sweep(path: Path, result: SweepResult, metric: str, set_name: str) -> None:
    """`sweep.png`."""
    settings, models = result.settings, result.models()
    if settings.kind == "affine":
        maps = [
            HeatMap(
                {model: result.grid(model, metric, axes) for model in models},
                result.axis(axes[0]),
                result.axis(axes[1]),
                *labels,
            )
            for axes, labels in _GRIDS
        ]
        draw_heat_maps(path, maps, f"{metric} (%) on {set_name}")
        return
    labels = {
        "alignment": "from the detector's frame (0) to the alignment (1)",
        "noise": _NOISE[settings.noise],
        "keypoints": "keypoints to see" + (" (mean and range of all choices)" if settings.subsets == "all" else ""),
    }
    draw_curves(
        path,
        {model: result.curve(model, metric) for model in models},
        xlabel=labels[settings.kind],
        ylabel=f"{metric} on {set_name} (%)",
        whole_numbers=settings.kind == "keypoints",
    )


def draw_sweep_steps(path: Path, sweep: Sweep, out_hw: tuple[int, int]) -> None:
    """`steps.png`, for a model whose images are [H, W]."""
    steps: dict[tuple[float, ...], SweepStep] = {}
    for step in sweep_steps(sweep.settings):
        steps.setdefault(tuple(step.values.items()), step)  # type: ignore[arg-type]  # the first variant of each
    if sweep.settings.kind == "affine":
        rows: dict[tuple[str, float], list[StepColumn]] = {}
        for step in steps.values():
            (across, x), (down, y) = step.values.items()
            title = f"{across.replace('_', ' ')} {x:g}\n{down.replace('_', ' ')} {y:g}"
            rows.setdefault((down, y), []).append(_column(sweep, step, out_hw, 1, title))
        draw_steps(path, list(rows.values()))
        return
    columns = [_column(sweep, step, out_hw, _SHOWN, f"{next(iter(step.values.values())):g}") for step in steps.values()]
    draw_steps(path, [columns])


def _column(sweep: Sweep, step: SweepStep, out_hw: tuple[int, int], count: int, title: str) -> StepColumn:
    content: Any = sweep.view(step, out_hw).content
    total = len(content.images)
    chosen = np.unique(np.arange(count) * total // count)
    points = None if content.landmarks is None else content.landmarks.points[chosen].copy()
    if points is not None and step.shown is not None:
        points[:, ~np.array(step.shown)] = np.nan
    images = np.stack([resize_image(content.images.read(int(index)), out_hw) for index in chosen])
    return StepColumn(title, images, points)


def format_sweep(result: SweepResult, metric: str) -> str:
    """A Markdown table: steps down, models across; of an affine sweep the middle and the extremes of each grid."""
    models = result.models()
    if result.settings.kind == "affine":
        head = ["model", *(f"{' x '.join(axes)}: {what}" for axes, _ in _GRIDS for what in ("mean", "lowest"))]
        lines = []
        for model in models:
            grids = [result.grid(model, metric, axes) for axes, _ in _GRIDS]
            lines.append([model, *(f"{value:.2f}" for grid in grids for value in (np.nanmean(grid), np.nanmin(grid)))])
        return _markdown([head, *lines])
    curves = {model: result.curve(model, metric) for model in models}
    steps = sorted({float(step) for curve in curves.values() for step in curve[0]})
    lines = []
    for step in steps:
        line = [f"{step:g}"]
        for model in models:
            known, values = curves[model]
            found = values[known == step]
            line.append(f"{np.nanmean(found):.2f}" if found.size else "-")
        lines.append(line)
    return _markdown([[result.settings.kind, *(f"{model}, {metric} (%)" for model in models)], *lines])


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in (rows[0], rule, *rows[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in aligned)
