"""What came out: a table, bars with every seed's point, and the digits that the models saw.

Figures are built on `Figure` objects of their own, see `common.runtime.figures`.
"""

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.affnist.experiment import Frames, Run
from common.affnist.models import MODELS, draw_dots
from common.keypoints import fractions_to_pixels
from common.runtime.figures import write_figure
from common.runtime.files import write_bytes, write_text

__all__ = ["draw_results", "draw_samples", "format_table", "write_samples"]

# Okabe and Ito's palette, told apart by readers with any kind of colour vision.
COLOURS = {"clean": "#0072B2", "affine": "#D55E00"}
BOX = "#E69F00"
TITLES = {"clean": "clean", "affine": "affine, unseen"}
BASELINE = "absolute"


def format_table(runs: Sequence[Run]) -> str:
    """Accuracies in percent as a Markdown table: mean ± standard deviation over seeds (lowest to highest).

    The last column is the difference to the absolute encoding on affine digits, taken seed by seed: models of one seed
    started alike and saw the same digits.

    Raises:
        ValueError: no runs.
    """
    if not runs:
        raise ValueError("need at least one run")
    head = ["model", "clean", "affine, unseen", f"affine − {MODELS[BASELINE].title}", "parameters", "s a run"]
    rows = []
    baseline = {run.seed: run.affine for run in runs if run.model == BASELINE}
    for name in _names(runs):
        own = [run for run in runs if run.model == name]
        gains = [run.affine - baseline[run.seed] for run in own if run.seed in baseline]
        rows.append(
            [
                MODELS[name].title,
                _spread([run.clean for run in own]),
                _spread([run.affine for run in own]),
                "" if name == BASELINE or not gains else _spread(gains, "+"),
                f"{own[0].parameters:,}",
                f"{statistics.median(run.seconds for run in own):.0f}",
            ]
        )
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    seeds = sorted({run.seed for run in runs})
    note = (
        f"Percent right on test digits, seeds {', '.join(map(str, seeds))}: mean ± standard deviation over the seeds "
        "(lowest to highest)."
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}"


def _names(runs: Sequence[Run]) -> list[str]:
    """The models that there are, in the order of figure 1."""
    present = {run.model for run in runs}
    return [name for name in MODELS if name in present]


def _spread(values: Sequence[float], sign: str = "") -> str:
    mean = f"{statistics.fmean(values):{sign}.2f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.2f} ({min(values):{sign}.2f} to {max(values):{sign}.2f})"


def draw_results(path: str | Path, runs: Sequence[Run], title: str) -> None:
    """Bars of the mean accuracies with their standard deviations over seeds, and a point for every seed.

    Raises:
        ValueError: no runs, or a suffix that is no picture's.
    """
    if not runs:
        raise ValueError("need at least one run")
    names = _names(runs)
    figure = Figure(figsize=(1.6 + 1.5 * max(len(names), 2), 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for side, (part, colour) in zip((-0.2, 0.2), COLOURS.items(), strict=True):
        for place, name in enumerate(names):
            values = [getattr(run, part) for run in runs if run.model == name]
            mean = statistics.fmean(values)
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            label = TITLES[part] if place == 0 else None
            axes.bar(place + side, mean, 0.36, color=colour, alpha=0.75, label=label)
            if deviation:
                axes.errorbar(place + side, mean, deviation, color="black", capsize=4, lw=1.2)
            offsets = np.linspace(-0.1, 0.1, len(values)) if len(values) > 1 else [0.0]
            axes.plot(
                place + side + np.asarray(offsets), values, "o", ms=4, mfc="white", mec="black", mew=0.8, zorder=3
            )
            top = max(*values, mean + deviation)
            axes.annotate(
                f"{mean:.1f}", (place + side, top), (0, 4), textcoords="offset points", ha="center", fontsize=8
            )
    axes.set_xticks(range(len(names)), [MODELS[name].title.replace(", ", ",\n") for name in names])
    axes.set(ylabel="test digits classified rightly (%)", ylim=(0, 112), yticks=range(0, 101, 20))
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], ls="", marker="o", ms=4, mfc="white", mec="black", label="one seed"))
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="upper left", ncol=3)
    write_figure(figure, path)


def draw_samples(path: str | Path, parts: dict[str, Frames], columns: int = 10) -> None:
    """Digits in their frames with their box and keypoints, a row for each of `parts`; the last part once more as a
    model sees it that has the keypoints drawn onto the image.

    Raises:
        ValueError: no parts, or a suffix that is no picture's.
    """
    if not parts:
        raise ValueError("need at least one part")
    rows = [(title, frames, False) for title, frames in parts.items()]
    rows.append(("keypoints\ndrawn", rows[-1][1], True))
    figure = Figure(figsize=(0.9 * columns + 0.9, 0.9 * len(rows) + 0.1), dpi=150)
    grid = figure.add_gridspec(
        len(rows),
        columns,
        left=0.9 / (0.9 * columns + 0.9),
        right=0.995,
        bottom=0.01,
        top=0.99,
        wspace=0.05,
        hspace=0.05,
    )
    for row, (title, frames, drawn) in enumerate(rows):
        for column in range(min(columns, len(frames.labels))):
            axes = figure.add_subplot(grid[row, column])
            _draw_frame(axes, frames.images[column], frames.keypoints[column], drawn)
            if column == 0:
                axes.set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center", parse_math=False)
    write_figure(figure, path)


def _draw_frame(axes: Axes, image: np.ndarray, keypoints: np.ndarray, drawn: bool) -> None:
    """One frame [h, w] uint8: with its box and keypoints laid over it, or with the dots that a model sees."""
    height, width = image.shape
    if drawn:
        dots = draw_dots(torch.from_numpy(keypoints[None]), (height, width))[0].numpy()
        colour = np.array([230, 159, 0]) / 255
        grey = image[..., None].repeat(3, axis=-1) / 255
        mixed = grey * (1 - dots[..., None]) + colour * dots[..., None]
        axes.imshow(mixed.clip(0, 1), interpolation="nearest")
    else:
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        x, y = fractions_to_pixels(keypoints, (height, width)).T
        axes.plot(x[[0, 1, 3, 2, 0]], y[[0, 1, 3, 2, 0]], color=BOX, lw=0.8)
        axes.plot(x, y, "o", ms=2.6, mfc=COLOURS["clean"], mec="white", mew=0.4)
    axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes.spines[:].set_visible(False)


def write_samples(folder: Path, parts: dict[str, Frames], count: int = 4) -> None:
    """The first frames of each part as PNG files, and `keypoints.csv` (image,x0,y0,... in pixels) beside them.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    points = next(iter(parts.values())).keypoints.shape[1]
    writer.writerow(["image", *(f"{axis}{point}" for point in range(points) for axis in "xy")])
    for part, frames in parts.items():
        pixels = fractions_to_pixels(frames.keypoints, (frames.images.shape[1], frames.images.shape[2]))
        for number in range(min(count, len(frames.labels))):
            name = f"{part}-{number}-{frames.labels[number]}.png"
            _write_png(folder / name, frames.images[number])
            writer.writerow([name, *(f"{value:g}" for value in pixels[number].ravel())])
    write_text(folder / "keypoints.csv", table.getvalue())


def _write_png(path: Path, image: np.ndarray) -> None:
    whole, content = cv2.imencode(".png", image)
    if not whole:
        raise OSError(f"{path}: the image could not be encoded")
    write_bytes(path, content.tobytes())
