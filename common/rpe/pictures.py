"""Pictures of a position bias: what one query and head adds to the logits of every key, laid over the image.

Source: Kim et al., "KeyPoint Relative Position Encoding for Face Recognition", CVPR 2024,
https://arxiv.org/abs/2403.14852, supplement 8: figure 12 (one image, layers side by side) and figure 13 (one layer,
images side by side). The query is a red star, keypoints are blue circles, a higher value is a stronger blue.
Beyond those figures: colour bars with the values, rectangular grids, and windows, where the bias is drawn in the
query's window and the rest of the image stays bare.

What softmax sees is differences along the keys of one query: a constant on a whole panel changes nothing.
Any additive bias will do, such as a table's. Light images read best: pass `1 - digit` for white on black.

Coordinates: keypoints are (x, y) as fractions of the image, x right and y down; cells are (row, col).
Shape letters: B images, D layers, H heads, L keypoints, E extra tokens, N = rows * cols cells, W windows,
n positions of a window, h x w pixels, Q queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from common.keypoints import KeypointSchema, check_fractions
from common.rpe.grids import Window, window_centres
from common.rpe.keypoint_rpe import KeypointBias
from common.runtime.figures import check_picture_path, write_figure

__all__ = ["ColourScale", "bias_map", "draw_bias_by_depth", "draw_bias_by_image", "spread_queries"]

ColourScale = Literal["figure", "panel"]
Array = np.ndarray | Tensor
Cell = tuple[int, int]

STAR, KEYPOINT = "#E3120B", "#0072B2"  # red as in the paper; the blue of Okabe and Ito
BLUES = colormaps["Blues"]  # ColorBrewer's, of even steps in lightness
OPACITY = 0.72  # of the bias over the image
CONTRAST = 0.5  # left to the image, which is drawn in grey: its colours would read as values
LUMINANCE = (0.299, 0.587, 0.114)

# Inches.
PANEL, WIDEST, NARROWEST, GAP = 1.7, 2.8, 0.8, 0.08
HEADER, TITLE, ROW_LABEL, MARGIN = 0.46, 0.22, 0.26, 0.1
SIDE_BAR, LOW_BAR = 0.9, 0.3
LONGEST_ROW = 8  # panels
LEAST_WIDTH, DPI, LARGEST_SIDE = 3.3, 150, 2**16 - 1


@dataclass(frozen=True)
class _Panel:
    image: np.ndarray  # [h, w] in [0, 1]
    keypoints: np.ndarray  # [L, 2], NaN where invisible
    values: np.ndarray  # [rows, cols], NaN where the query does not attend
    query: Cell
    label: str  # above it


def spread_queries(grid_hw: tuple[int, int]) -> list[Cell]:
    """Three cells down the diagonal: a quarter, half and three quarters of the way."""
    return list(dict.fromkeys((grid_hw[0] * part // 4, grid_hw[1] * part // 4) for part in (1, 2, 3)))


def bias_map(
    bias: Array,
    grid_hw: tuple[int, int],
    query: Cell,
    head: int = 0,
    window: Window | None = None,
    extra_tokens: int = 0,
) -> np.ndarray:
    """What a bias adds to one query's logits, each value in its key's cell.

    Args:
        bias: of one image and layer: [H, E + N, E + N]; with a window [H, n, n] or [1, H, n, n] (the same bias in
            every window) or [W, H, n, n].
        grid_hw: (rows, cols) of the feature map.
        query: (row, col) of its cell.
        head: from 0.
        window: how the layer cuts its map; None: every query attends everywhere.
        extra_tokens: E, tokens without a position, which come first and are passed over.

    Returns:
        [rows, cols] float64. NaN where the query does not attend: outside of its window, and in those cells of a
        shifted window that only the cyclic shift brought together with the query's (attention masks them).

    Raises:
        ValueError: a query or head out of range, a bias of another shape, values that are not finite.
    """
    rows, cols = grid_hw
    if not (0 <= query[0] < rows and 0 <= query[1] < cols):
        raise ValueError(f"query must be (row, col) within a grid of {rows} x {cols}, got {tuple(query)}")
    if window is not None and extra_tokens:
        raise ValueError(f"windows hold no extra tokens, got extra_tokens {extra_tokens}")
    cells, attended, index, place = _window_of(grid_hw, window or Window(grid_hw), query)
    size = extra_tokens + cells.shape[1]
    in_windows = window is not None and bias.ndim == 4
    if (
        bias.ndim != 3 + in_windows
        or bias.shape[-2:] != (size, size)
        or (in_windows and len(bias) not in (1, len(cells)))
    ):
        expected = ", ".join(map(str, [*([len(cells)] if in_windows else []), "H", size, size]))
        raise ValueError(f"bias must have shape [{expected}] on this grid, got {list(bias.shape)}")
    of_window = bias[index if len(bias) > 1 else 0] if in_windows else bias
    if not 0 <= head < len(of_window):
        raise ValueError(f"head must be 0 to {len(of_window) - 1}, got {head}")
    row = _numpy(of_window[head, extra_tokens + place, extra_tokens:])
    if not np.isfinite(row).all():
        raise ValueError(
            f"bias of head {head} and query {tuple(query)} must be finite, found {row[~np.isfinite(row)][0]}"
        )
    drawn = np.full(grid_hw, np.nan)
    drawn[tuple(cells[index, attended].T)] = row[attended]
    return drawn


def draw_bias_by_depth(
    path: str | Path,
    image: Array,
    keypoints: Array,
    biases: Sequence[Any],
    grid_hw: tuple[int, int],
    *,
    queries: Sequence[Cell] | None = None,
    layers: Sequence[int] | None = None,
    head: int = 0,
    windows: Sequence[Window] | None = None,
    visibility: Array | None = None,
    extra_tokens: int = 0,
    schema: KeypointSchema | None = None,
    scale: ColourScale = "figure",
    title: str = "KP-RPE bias",
) -> None:
    """One image: a row for each query, a column for each layer (the paper's figure 12).

    Args:
        path: picture file; its suffix names the format (.png, .pdf, .svg).
        image: [h, w] or [h, w, 3], bool, uint8, or floats in [0, 1].
        keypoints: [L, 2].
        biases: what `KeypointRPE` or `PositionBias` returns for a batch of this one image: for each layer
            [1, H, E + N, E + N], or with windows [1, H, n, n] or [1, W, H, n, n]. Only the asked layers are computed.
            A bias that does not depend on the image may lack the first axis.
        grid_hw: (rows, cols) of the feature map.
        queries: cells (row, col); None: `spread_queries`.
        layers: from 0; None: all.
        head: from 0.
        windows: one a layer, for biases inside windows.
        visibility: [L]; keypoints of visibility 0 are not drawn. None: all are.
        extra_tokens: E, see `bias_map`.
        schema: with one, its edges join the keypoints.
        scale: one range of colours for the "figure", or one for each "panel".
        title: what the picture shows; the head is added.

    Raises:
        ValueError: shapes, layers, a head or queries that do not fit; all biases zero, as in an untrained KP-RPE; an
            unknown suffix. No file is written.
    """
    picture, points = _image(image), _points(keypoints, visibility, schema, 2)
    chosen = range(len(biases)) if layers is None else layers
    cells = spread_queries(grid_hw) if queries is None else queries
    maps: dict[tuple[int, int], np.ndarray] = {}
    for layer in chosen:
        (bias,) = _layer_bias(biases, layer, images=1)
        window = _layer_window(windows, layer, len(biases))
        for number, query in enumerate(cells):
            maps[number, layer] = bias_map(bias, grid_hw, query, head, window, extra_tokens)
    rows = [
        [_Panel(picture, points, maps[number, layer], query, f"layer {layer}") for layer in chosen]
        for number, query in enumerate(cells)
    ]
    _draw(path, rows, f"{title}, head {head}", scale, schema)


def draw_bias_by_image(
    path: str | Path,
    images: Sequence[Array],
    keypoints: Array,
    biases: Sequence[Any],
    grid_hw: tuple[int, int],
    *,
    layer: int,
    queries: Sequence[Cell] | None = None,
    head: int = 0,
    windows: Sequence[Window] | None = None,
    visibility: Array | None = None,
    extra_tokens: int = 0,
    schema: KeypointSchema | None = None,
    labels: Sequence[str] | None = None,
    scale: ColourScale = "figure",
    title: str = "KP-RPE bias",
) -> None:
    """One layer: a row for each query, a column for each image (the paper's figure 13).

    Args:
        path, grid_hw, queries, head, windows, extra_tokens, schema, scale, title: as for `draw_bias_by_depth`.
        images: B of them; sizes may differ.
        keypoints: [B, L, 2].
        biases: as for `draw_bias_by_depth`, for the batch of B images. Only the asked layer is computed.
        layer: from 0.
        visibility: [B, L], see `draw_bias_by_depth`.
        labels: one an image, written above it.

    Raises:
        ValueError: as for `draw_bias_by_depth`.
    """
    pictures, points = [_image(image) for image in images], _points(keypoints, visibility, schema, 3)
    names = [f"image {number}" for number in range(len(pictures))] if labels is None else list(labels)
    if not len(pictures) == len(points) == len(names):
        raise ValueError(f"need as many keypoints and labels as images: {len(points)}, {len(names)}, {len(pictures)}")
    cells = spread_queries(grid_hw) if queries is None else queries
    bias = _layer_bias(biases, layer, images=len(pictures))
    window = _layer_window(windows, layer, len(biases))
    rows = [
        [
            _Panel(picture, point, bias_map(of_image, grid_hw, query, head, window, extra_tokens), query, name)
            for picture, point, of_image, name in zip(pictures, points, bias, names, strict=True)
        ]
        for query in cells
    ]
    _draw(path, rows, f"{title}, layer {layer}, head {head}", scale, schema)


def _window_of(grid_hw: tuple[int, int], window: Window, query: Cell) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Cells [W, n, 2] of the positions of all windows, which of the query's it attends to [n], its window and place."""
    centres = window_centres(grid_hw, window, torch.float64).numpy()
    cells = np.rint(centres[..., ::-1] * grid_hw - 0.5).astype(int)
    index, place = np.argwhere((cells == query).all(-1))[0].tolist()
    # The shift is smaller than the window, so that the first cell never came from the other side of the image.
    wrapped = cells[index] < cells[index, 0]
    attended = (wrapped == wrapped[place]).all(-1) & (cells[index] < grid_hw).all(-1)  # the latter: not of the padding
    return cells, attended, index, place


def _image(image: Array) -> np.ndarray:
    """[h, w] in [0, 1]"""
    values = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    fits = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
    if not fits or 0 in values.shape or not (values.dtype == np.uint8 or values.dtype.kind in "bf"):
        found = f"{values.dtype} {list(values.shape)}"
        raise ValueError(f"an image must be bool, uint8 or float of shape [h, w] or [h, w, 3], got {found}")
    if values.dtype.kind == "f" and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"a float image must be in [0, 1], got {values.min():g} to {values.max():g}")
    grey = values @ np.array(LUMINANCE) if values.ndim == 3 else values.astype(np.float64)
    return grey / 255 if values.dtype == np.uint8 else grey


def _points(keypoints: Array, visibility: Array | None, schema: KeypointSchema | None, axes: int) -> np.ndarray:
    """[L, 2] or [B, L, 2] with NaN in place of what is invisible."""
    points, seen = _numpy(keypoints).copy(), None if visibility is None else _numpy(visibility)
    shape = ["B", "L" if schema is None else len(schema), 2][3 - axes :]
    if points.ndim != axes or points.shape[-1] != 2 or (schema is not None and points.shape[-2] != len(schema)):
        raise ValueError(f"keypoints must have shape [{', '.join(map(str, shape))}], got {list(points.shape)}")
    if seen is not None and seen.shape != points.shape[:-1]:
        raise ValueError(f"visibility must have shape {list(points.shape[:-1])}, got {list(seen.shape)}")
    check_fractions(points, seen)
    if seen is not None:
        points[seen <= 0] = np.nan
    return points


def _numpy(values: Array) -> np.ndarray:
    """Float64 on the CPU, whatever it was."""
    return values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float64)


def _layer_bias(biases: Sequence[Any], layer: int, images: int) -> Sequence[Array]:
    """The bias of each image."""
    if not 0 <= layer < len(biases):
        raise ValueError(f"layer must be 0 to {len(biases) - 1}, got {layer}")
    bias = biases[layer]
    if isinstance(bias, KeypointBias):
        bias = bias.tensor()
    if not isinstance(bias, Tensor | np.ndarray):
        raise ValueError(f"layer {layer} must have a bias that is added to the logits, got {type(bias).__name__}")
    if bias.ndim == 3:
        return [bias] * images
    if bias.ndim < 3 or len(bias) != images:
        raise ValueError(f"the bias of layer {layer} must be of {images} image(s), got shape {list(bias.shape)}")
    return list(bias)


def _layer_window(windows: Sequence[Window] | None, layer: int, layers: int) -> Window | None:
    if windows is None:
        return None
    if len(windows) != layers:
        raise ValueError(f"windows must name one window for each of {layers} layers, got {len(windows)}")
    return windows[layer]


def _draw(
    path: str | Path,
    rows: Sequence[Sequence[_Panel]],
    title: str,
    scale: ColourScale,
    schema: KeypointSchema | None,
) -> None:
    """One row a query; long rows go on below, all queries together."""
    check_picture_path(path)
    if scale not in get_args(ColourScale):
        raise ValueError(f"scale must be figure or panel, got {scale!r}")
    every = [panel for row in rows for panel in row]
    if not every:
        raise ValueError(f"{path}: nothing to draw, need at least one query and one layer or image")
    if not any(np.nan_to_num(panel.values).any() for panel in every):
        raise ValueError("all biases are zero: this KP-RPE is untrained")
    shared = _range([panel.values for panel in every]) if scale == "figure" else None
    lines = [row[first : first + LONGEST_ROW] for first in range(0, len(rows[0]), LONGEST_ROW) for row in rows]
    titled = [number % len(rows) == 0 for number in range(len(lines))]

    below = 0.0 if shared else LOW_BAR
    longest = max(sum(_width(panel) + GAP for panel in line) for line in lines)
    width = max(ROW_LABEL + longest + (SIDE_BAR if shared else MARGIN), LEAST_WIDTH)
    height = HEADER + sum(titled) * TITLE + len(lines) * (PANEL + below + GAP) + MARGIN
    if max(width, height) * DPI > LARGEST_SIDE:
        raise ValueError(f"{path}: the picture would be {width:.0f} x {height:.0f} inches, draw fewer panels")
    figure = Figure(figsize=(width, height), dpi=DPI)
    top = HEADER
    for line, with_titles in zip(lines, titled, strict=True):
        top += TITLE * with_titles
        left = ROW_LABEL
        where = f"query: row {line[0].query[0]}, col {line[0].query[1]}"
        figure.text(MARGIN / width, 1 - (top + PANEL / 2) / height, where, size=8, rotation=90, ha="left", va="center")
        for panel in line:
            across = _width(panel)
            axes = _axes(figure, left, top, across, PANEL)
            colours = shared or _range([panel.values])
            _draw_panel(axes, panel, colours, schema)
            if with_titles:
                axes.set_title(_fit(panel.label, across), size=8, pad=3, parse_math=False)
            if not shared:
                _low_bar(_axes(figure, left + 0.05, top + PANEL + 0.05, across - 0.1, 0.07), colours)
            left += across + GAP
        top += PANEL + below + GAP
    if shared:
        tall = min(top - GAP - HEADER - TITLE, 2 * PANEL + GAP)
        _side_bar(_axes(figure, ROW_LABEL + longest + 0.03, HEADER + TITLE, 0.11, tall), shared)
    _header(figure, title, any(np.isnan(panel.values).any() for panel in every))
    write_figure(figure, path)


def _draw_panel(axes: Axes, panel: _Panel, colours: Normalize, schema: KeypointSchema | None) -> None:
    height, width = panel.image.shape
    rows, cols = panel.values.shape
    extent = (0, width, height, 0)
    options: dict[str, Any] = {"extent": extent, "interpolation": "nearest"}
    axes.imshow(1 - CONTRAST * (1 - panel.image), cmap="gray", vmin=0, vmax=1, **options)
    axes.imshow(np.ma.masked_invalid(panel.values), cmap=BLUES, norm=colours, alpha=OPACITY, **options)
    attended = np.argwhere(np.isfinite(panel.values))
    (top, left), (bottom, right) = attended.min(0), attended.max(0) + 1
    if len(attended) < rows * cols:
        corner = left / cols * width, top / rows * height
        size = (right - left) / cols * width, (bottom - top) / rows * height
        axes.add_patch(Rectangle(corner, *size, fill=False, ec="#333333", lw=0.8))
    points = panel.keypoints * (width, height)
    for first, second in schema.edges if schema else ():
        x, y = points[[first, second]].T
        axes.plot(x, y, color="white", lw=1.9)
        axes.plot(x, y, color=KEYPOINT, lw=1.0)
    size_points = 4.6 if len(points) <= 8 else 3.3
    axes.plot(*points.T, "o", ms=size_points, mfc=KEYPOINT, mec="white", mew=0.7)
    row, col = panel.query
    star = (col + 0.5) / cols * width, (row + 0.5) / rows * height
    axes.plot(*star, "*", ms=9, mfc=STAR, mec="white", mew=0.7, clip_on=False, zorder=3)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="#999999", linewidth=0.5)


def _range(values: Sequence[np.ndarray]) -> Normalize:
    low = min(float(np.nanmin(value)) for value in values)
    high = max(float(np.nanmax(value)) for value in values)
    return Normalize(low, high if high > low else low + (abs(low) or 1.0) * 1e-6)


def _side_bar(axes: Axes, colours: Normalize) -> None:
    """The figure's colour bar, at its right."""
    bar = axes.figure.colorbar(ScalarMappable(colours, BLUES), cax=axes, alpha=OPACITY)
    bar.set_label("$B_{ij}$, added to the logit", size=8)
    axes.tick_params(labelsize=7, width=0.6)
    bar.locator = MaxNLocator(5)
    bar.outline.set_linewidth(0.6)


def _low_bar(axes: Axes, colours: Normalize) -> None:
    """A panel's own colour bar, below it, with its two ends."""
    bar = axes.figure.colorbar(ScalarMappable(colours, BLUES), cax=axes, orientation="horizontal", alpha=OPACITY)
    low, high = float(colours.vmin or 0), float(colours.vmax or 0)
    bar.set_ticks([low, high], labels=[f"{end:.3g}".replace("-", "\N{MINUS SIGN}") for end in (low, high)])
    axes.tick_params(labelsize=6, length=0, pad=1.5)
    first, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    bar.outline.set_linewidth(0.4)


def _header(figure: Figure, title: str, windows: bool) -> None:
    width, height = figure.get_size_inches()
    figure.text(MARGIN / width, 1 - 0.2 / height, title, size=10, parse_math=False)
    dot: dict[str, Any] = {"ls": "", "mec": "white", "mew": 0.7}
    marks: list[Any] = [
        Line2D([], [], marker="*", mfc=STAR, ms=10, **dot),
        Line2D([], [], marker="o", mfc=KEYPOINT, ms=6, **dot),
    ]
    texts = ["query", "keypoints"]
    if windows:
        marks.append(Rectangle((0, 0), 1, 1, fill=False, ec="#333333", lw=0.8))
        texts.append("its window")
    where = (0.0, 1 - 0.25 / height)
    figure.legend(marks, texts, loc="upper left", bbox_to_anchor=where, ncol=3, frameon=False, fontsize=8,
                  borderaxespad=0.0, handlelength=1.3, handletextpad=0.4, columnspacing=1.2)  # fmt: skip


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at inches from the upper left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def _width(panel: _Panel) -> float:
    """Inches of a panel, whose height is PANEL; images beyond the limits leave room at their sides or above them."""
    height, width = panel.image.shape
    return min(max(PANEL * width / height, NARROWEST), WIDEST)


def _fit(text: str, inches: float) -> str:
    """Text of size 8 within a width: too long a one loses its middle."""
    room = max(int(inches / 0.068), 5)
    if len(text) <= room:
        return text
    head = (room - 1) // 2
    return f"{text[:head]}…{text[len(text) - (room - 1 - head) :]}"
