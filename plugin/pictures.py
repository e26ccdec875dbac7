"""Pictures of gait data and results: sequences with their joints, matches, CMC curves, training curves.

Figures are built on their own `Figure` objects, so no pyplot state, window or display is involved. A file is written
whole or not at all; its suffix names the format (.png, .pdf, .svg).

Coordinates: joints are (x, y) in pixels of the normalised silhouette, the centre of the top-left pixel at (0, 0).
Shape letters: T frames, H and W silhouette size, L joints, S pixels of the picture per silhouette pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from common.keypoints import COCO_17, KeypointSchema
from common.runtime.curves import COLOURS, LINE_STYLES, Name, curve_group, curve_title, finish_axes, shortened_row
from common.runtime.figures import write_figure

__all__ = ["MatchPicture", "SweepPanel", "draw_matches", "draw_sequences", "draw_sweeps", "draw_training"]

SIDE_COLOURS = {"left": (0, 114, 178), "right": (213, 94, 0), "centre": (40, 40, 40)}  # RGB

VERDICTS: dict[bool | None, tuple[str, tuple[int, int, int]]] = {  # what is said of a match, and its frame in RGB
    True: ("same identity", (0, 158, 115)),
    False: ("other identity", (213, 94, 0)),
    None: ("identity not known", (150, 150, 150)),
}

BODY, GROUND, PAPER = 205, 244, 255  # grey levels
GAP, LABEL_HEIGHT, LEGEND_HEIGHT, DPI = 6, 24, 34, 100
LINE_HEIGHT, LETTER_WIDTH, FRAME_WIDTH = 14, 6, 4
LARGEST_SIDE = 2**16 - 1  # what Agg can draw
FRACTION_BITS = 4  # of cv2's fixed-point coordinates

SequenceRow = tuple[str, np.ndarray, np.ndarray | None]


def draw_sequences(
    path: str | Path,
    items: Sequence[SequenceRow],
    *,
    frames: int = 8,
    scale: int = 5,
    doubtful_below: float = 0.3,
    schema: KeypointSchema = COCO_17,
) -> None:
    """A contact sheet: one row a sequence, evenly chosen frames, joints and skeleton over the silhouette.

    The person's left is blue, the right orange, the rest dark. Joints of low confidence are hollow and their edges
    faint; joints of confidence 0, or not finite, are not drawn. A frame's index is in its lower left corner.

    Args:
        path: picture file.
        items: (row label, silhouettes [T, H, W], keypoints [T, L, 3] as x, y, confidence, or None). Silhouettes
            are bool, uint8 (0 to 255) or floats in [0, 1].
        frames: pictures a row at most; shorter sequences show every frame.
        scale: S, whole picture pixels per silhouette pixel.
        doubtful_below: confidence under which a joint is drawn as doubtful.
        schema: names, sides and edges of the L joints.

    Raises:
        ValueError: no items, shapes or dtypes that do not fit (the row is named), an unknown suffix, or a sheet
            beyond 65535 pixels.
    """
    path = Path(path)
    if not items or frames < 1 or scale < 1:
        raise ValueError(f"need items, frames >= 1 and scale >= 1, got {len(items)}, {frames} and {scale}")
    chosen = []
    for label, silhouettes, keypoints in items:
        _check_sequence(label, silhouettes, keypoints, len(schema))
        chosen.append(np.unique(np.linspace(0, len(silhouettes) - 1, frames).round().astype(int)))
    tiles = [np.array(silhouettes.shape[1:]) * scale for _, silhouettes, _ in items]  # (height, width) of a frame
    widths = [GAP + len(index) * (tile[1] + GAP) for index, tile in zip(chosen, tiles, strict=True)]
    width = int(max(*widths, 480))  # room for the legend
    height = int(LEGEND_HEIGHT + sum(tile[0] + LABEL_HEIGHT + GAP for tile in tiles) + GAP)
    if max(width, height) > LARGEST_SIDE:
        raise ValueError(f"{path}: the sheet would be {width} x {height} pixels, draw fewer rows or a lower scale")
    sheet = np.full((height, width, 3), PAPER, dtype=np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    top = LEGEND_HEIGHT
    for (label, silhouettes, keypoints), index, tile in zip(items, chosen, tiles, strict=True):
        _text(figure, GAP, top + LABEL_HEIGHT - 7, label, size=9)
        top += LABEL_HEIGHT
        for column, frame in enumerate(index):
            left = GAP + column * (tile[1] + GAP)
            joints = None if keypoints is None else np.asarray(keypoints[frame], dtype=np.float64)
            picture = _draw_frame(silhouettes[frame], joints, scale, doubtful_below, schema)
            sheet[top : top + tile[0], left : left + tile[1]] = picture
            _text(figure, left + 3, top + tile[0] - 4, str(frame), size=7, color="#777777")
        top += tile[0] + GAP
    figure.figimage(sheet, zorder=-1)
    marks = [Line2D([], [], color=_hex(colour), marker="o", lw=2, ms=5) for colour in SIDE_COLOURS.values()]
    marks.append(Line2D([], [], color="#999999", marker="o", lw=1, ms=5, mfc="white"))
    texts = ["person's left", "person's right", "centre", f"confidence < {doubtful_below:g}"]
    figure.legend(marks, texts, loc="upper left", bbox_to_anchor=(0, 1), ncol=4, frameon=False, fontsize=8)
    write_figure(figure, path)


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchPicture:
    """A sequence in a picture of matches."""

    label: str

    silhouettes: np.ndarray
    """[T, H, W] bool, uint8 (0 to 255) or floats in [0, 1]; every frame is drawn."""

    distance: float | None = None
    """From the probe; None for the probe itself."""

    same: bool | None = None
    """Whether the identity is the probe's; None where it is not known."""


def draw_matches(path: str | Path, rows: Sequence[Sequence[MatchPicture]], *, scale: int = 2) -> None:
    """A probe a row, and its matches in order to the right of it, framed by whether they are right.

    A green frame is the same identity, an orange-red one another, a grey one not known; the distance stands above.

    Args:
        path: picture file.
        rows: the probe, then its matches, nearest first; rows may differ in length.
        scale: S, whole picture pixels per silhouette pixel.

    Raises:
        ValueError: no rows or an empty one, silhouettes of another shape or dtype (the sequence is named), an unknown
            suffix, or a sheet beyond 65535 pixels.
    """
    path = Path(path)
    if not rows or not all(rows) or scale < 1:
        raise ValueError(f"need rows with a probe each and scale >= 1, got {len(rows)} rows and {scale}")
    for item in (item for row in rows for item in row):
        _check_sequence(item.label, item.silhouettes, None, 0)
    strips = [[_strip(item, scale) for item in row] for row in rows]
    columns = max(map(len, strips))
    wide = [max(row[column].shape[1] for row in strips if column < len(row)) for column in range(columns)]
    lefts = np.cumsum([GAP, *(size + 2 * GAP for size in wide)])
    heights = [max(strip.shape[0] for strip in row) + LABEL_HEIGHT + LINE_HEIGHT + GAP for row in strips]
    width, height = max(int(lefts[-1]), 560), LEGEND_HEIGHT + sum(heights)  # room for the legend
    if max(width, height) > LARGEST_SIDE:
        raise ValueError(f"{path}: the sheet would be {width} x {height} pixels, draw fewer rows or a lower scale")
    sheet = np.full((height, width, 3), PAPER, dtype=np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    top = LEGEND_HEIGHT
    for row, pictures, tall in zip(rows, strips, heights, strict=True):
        for rank, (item, strip) in enumerate(zip(row, pictures, strict=True)):
            left = int(lefts[rank])
            title = "probe" if item.distance is None else f"{rank}.  {item.distance:.3f}"
            _text(figure, left, top + LINE_HEIGHT - 2, title, size=8, weight="bold")
            letters = wide[rank] // LETTER_WIDTH
            _text(figure, left, top + LABEL_HEIGHT + LINE_HEIGHT - 8, _shortened(item.label, letters), size=7)
            below = top + LABEL_HEIGHT + LINE_HEIGHT
            sheet[below : below + strip.shape[0], left : left + strip.shape[1]] = strip
        top += tall
    figure.figimage(sheet, zorder=-1)
    marks = [Line2D([], [], color=_hex(colour), lw=5) for _, colour in VERDICTS.values()]
    texts = [text for text, _ in VERDICTS.values()]
    figure.legend(marks, texts, loc="upper left", bbox_to_anchor=(0, 1), ncol=3, frameon=False, fontsize=8)
    write_figure(figure, path)


def draw_training(path: str | Path, histories: Mapping[Name, Sequence[tuple[int, float]]]) -> None:
    """Curves of what training logged, one panel a quantity.

    Long histories show every value faintly and their running mean boldly. A panel whose values are positive and span
    more than a factor of 50 has a logarithmic axis.

    Args:
        path: picture file.
        histories: name -> (iteration, value) pairs in order. A name (model, quantity) gives each model one colour and
            each quantity, such as one loss, a panel of its own; plain names share one panel. Values that are not
            finite leave a gap.

    Raises:
        ValueError: no histories, an empty one or one whose iterations do not rise (it is named), an unknown suffix.
    """
    if not histories:
        raise ValueError("need at least one history")
    panels: dict[str, list[Name]] = {}
    for name in histories:
        panels.setdefault(name[1] if isinstance(name, tuple) else "value", []).append(name)
    models = list(dict.fromkeys(curve_group(name) for name in histories))
    figure = Figure(figsize=(0.6 + 4.6 * len(panels), 3.8), dpi=150, layout="constrained")
    for number, (quantity, names) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), number)
        finite = []
        for name in names:
            pairs = np.asarray(histories[name], dtype=np.float64).reshape(-1, 2)
            iterations, values = pairs.T
            if not len(pairs) or (np.diff(iterations) <= 0).any():
                raise ValueError(
                    f"history of {curve_title(name)} must have rising iterations, got {shortened_row(iterations)}"
                )
            colour = COLOURS[models.index(curve_group(name)) % len(COLOURS)]
            window = len(values) // 25
            if window > 1:
                axes.plot(iterations, values, color=colour, lw=0.8, alpha=0.3)
                values = np.convolve(values, np.ones(window) / window, mode="valid")
                iterations = np.convolve(iterations, np.ones(window) / window, mode="valid")
            marker = "o" if len(values) <= 12 else ""  # a single value would not show as a line
            axes.plot(iterations, values, color=colour, lw=1.8, marker=marker, ms=4, label=curve_group(name))
            finite.append(values[np.isfinite(values)])
        together = np.concatenate(finite)
        if len(together) and together.min() > 0 and together.max() > 50 * together.min():
            axes.set_yscale("log")
        axes.set(xlabel="iteration", ylabel=quantity)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        finish_axes(axes)
    write_figure(figure, path)


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepPanel:
    """Curves over the strength of one thing, each of several runs."""

    title: str

    xlabel: str

    ylabel: str

    strengths: np.ndarray
    """[n], rising."""

    curves: Mapping[str, np.ndarray]
    """Model -> [runs, n]."""


def draw_sweeps(path: str | Path, rows: Sequence[Sequence[SweepPanel]]) -> None:
    """Panels in rows: each model's mean as a line, its standard deviation over runs shaded, single runs as points.

    Panels of a row share their vertical axis, which starts at 0. One run alone has neither shade nor points. Titles
    stand above the first row only, the vertical axis' label left of the first column only.

    Args:
        path: picture file.
        rows: as many panels in each.

    Raises:
        ValueError: no panels, rows of different lengths, strengths that do not rise (the panel is named), curves that
            do not fit them or are not finite (model and panel are named), or an unknown suffix.
    """
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"need rows of equally many panels, got {[len(row) for row in rows]}")
    models = list(dict.fromkeys(name for row in rows for panel in row for name in panel.curves))
    columns = lengths.pop()
    figure = Figure(figsize=(0.8 + 2.9 * columns, 0.7 + 2.4 * len(rows)), dpi=150, layout="constrained")
    grid = figure.subplots(len(rows), columns, sharey="row", squeeze=False)
    for number, row in enumerate(rows):
        for axes, panel in zip(grid[number], row, strict=True):
            if panel.strengths.ndim != 1 or (np.diff(panel.strengths) <= 0).any():
                raise ValueError(f"{panel.title!r}: strengths must rise, got {shortened_row(panel.strengths)}")
            for name in panel.curves:
                _draw_sweep(axes, panel, name, models.index(name))
            axes.set_xlabel(panel.xlabel, fontsize=8)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            if number == 0:
                axes.set_title(panel.title, fontsize=9, parse_math=False)
        grid[number][0].set_ylabel(row[0].ylabel, fontsize=9)
        grid[number][0].set_ylim(bottom=0)
    handles = dict(zip(*grid[0][0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncol=len(models), frameon=False)
    write_figure(figure, path)


def _draw_sweep(axes: Any, panel: SweepPanel, name: str, number: int) -> None:
    """One model's line."""
    values = np.asarray(panel.curves[name], dtype=np.float64)
    if (
        values.ndim != 2
        or not values.size
        or values.shape[1:] != panel.strengths.shape
        or not np.isfinite(values).all()
    ):
        expected = f"finite values [runs, {len(panel.strengths)}]"
        raise ValueError(f"{name} in {panel.title!r}: expected {expected}, got {list(values.shape)}")
    style = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINE_STYLES[number % len(LINE_STYLES)]}
    mean = values.mean(axis=0)
    axes.plot(panel.strengths, mean, marker="o", ms=3.5, lw=1.7, label=name, **style)
    if len(values) > 1:
        deviation = values.std(axis=0, ddof=1)
        axes.fill_between(panel.strengths, mean - deviation, mean + deviation, color=style["color"], alpha=0.15, lw=0)
        strengths = np.broadcast_to(panel.strengths, values.shape)
        axes.scatter(strengths, values, s=8, color=style["color"], alpha=0.5, lw=0)


def _draw_frame(
    silhouette_HW: np.ndarray, joints_L3: np.ndarray | None, scale: int, doubtful_below: float, schema: KeypointSchema
) -> np.ndarray:
    """[H * S, W * S, 3] RGB."""
    level = silhouette_HW.astype(np.float64) / (255 if silhouette_HW.dtype == np.uint8 else 1)
    grey = np.rint(GROUND + (BODY - GROUND) * np.clip(level, 0, 1)).astype(np.uint8)
    picture = np.repeat(np.repeat(grey, scale, axis=0), scale, axis=1)[..., None].repeat(3, axis=-1)
    if joints_L3 is None:
        return picture
    xy_L2, confidence_L = joints_L3[:, :2], joints_L3[:, 2]
    drawn_L = np.isfinite(joints_L3).all(1) & (confidence_L > 0) & (np.abs(xy_L2) < 1e4).all(1)
    clear_L = drawn_L & (confidence_L >= doubtful_below)
    fixed_L2 = np.rint((np.where(drawn_L[:, None], xy_L2 + 0.5, 0) * scale - 0.5) * 2**FRACTION_BITS).astype(int)
    points = [(int(x), int(y)) for x, y in fixed_L2]
    options = {"lineType": cv2.LINE_AA, "shift": FRACTION_BITS}
    radius = int(max(2.0, 0.5 * scale) * 2**FRACTION_BITS)
    for first, second in schema.edges:
        if drawn_L[first] and drawn_L[second]:
            clear = bool(clear_L[first] and clear_L[second])
            colour = _edge_colour(schema, first, second)
            colour = colour if clear else _faint(colour)
            cv2.line(picture, points[first], points[second], colour, 2 if clear else 1, **options)
    for joint in np.nonzero(drawn_L)[0].tolist():
        colour = _edge_colour(schema, joint, joint)
        fill, rim = (colour, (PAPER,) * 3) if clear_L[joint] else ((PAPER,) * 3, colour)
        cv2.circle(picture, points[joint], radius + 2**FRACTION_BITS, rim, cv2.FILLED, **options)
        cv2.circle(picture, points[joint], radius, fill, cv2.FILLED, **options)
    return picture


def _strip(item: MatchPicture, scale: int) -> np.ndarray:
    """[h, w, 3] RGB: all frames side by side, in a frame of the verdict's colour unless it is a probe."""
    tiles = [_draw_frame(silhouette, None, scale, 0, COCO_17) for silhouette in item.silhouettes]
    inside = np.concatenate(tiles, axis=1)
    colour = (PAPER,) * 3 if item.distance is None else VERDICTS[item.same][1]
    height, width = inside.shape[:2]
    framed = np.empty((height + 2 * FRAME_WIDTH, width + 2 * FRAME_WIDTH, 3), dtype=np.uint8)
    framed[:] = colour
    framed[FRAME_WIDTH:-FRAME_WIDTH, FRAME_WIDTH:-FRAME_WIDTH] = inside
    return framed


def _shortened(text: str, letters: int) -> str:
    """The beginning and the end of a long text."""
    if len(text) <= letters:
        return text
    half = max(1, (letters - 1) // 2)
    return f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"


def _edge_colour(schema: KeypointSchema, first: int, second: int) -> tuple[int, int, int]:
    sides = {_side(schema.names[joint]) for joint in (first, second)}
    return SIDE_COLOURS[sides.pop() if len(sides) == 1 else "centre"]


def _side(name: str) -> str:
    words = name.split("_")
    return "left" if "left" in words else "right" if "right" in words else "centre"


def _faint(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (round(0.45 * part + 0.55 * PAPER) for part in colour)
    return red, green, blue


def _check_sequence(label: str, silhouettes: np.ndarray, keypoints: np.ndarray | None, joints: int) -> None:
    kinds = silhouettes.dtype == np.uint8 or silhouettes.dtype.kind in "bf"
    if silhouettes.ndim != 3 or 0 in silhouettes.shape or not kinds:
        found = f"{silhouettes.dtype} {list(silhouettes.shape)}"
        raise ValueError(f"{label}: silhouettes must be bool, uint8 or float of shape [T, H, W], got {found}")
    if silhouettes.dtype.kind == "f" and not ((silhouettes >= 0) & (silhouettes <= 1)).all():
        raise ValueError(f"{label}: float silhouettes must be in [0, 1], got {silhouettes.min()}..{silhouettes.max()}")
    if keypoints is not None and keypoints.shape != (len(silhouettes), joints, 3):
        expected = [len(silhouettes), joints, 3]
        raise ValueError(f"{label}: keypoints must have shape {expected}, got {list(keypoints.shape)}")


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _text(figure: Figure, x: float, y: float, text: str, **options: Any) -> None:
    """Text with its baseline at picture pixel (x, y), y down; `$` and `\\` are themselves."""
    width, height = figure.get_size_inches() * DPI
    figure.text(x / width, 1 - y / height, text, parse_math=False, **options)
