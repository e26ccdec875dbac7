"""Pictures of compared faces: two crops side by side, as the model sees them, with their landmarks and what was said.

Coordinates: landmarks are (x, y) as fractions of the crops.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.runtime.figures import write_figure
from face.pictures import SIDE_COLOURS, face_grid

__all__ = ["PairPanel", "draw_pairs"]

_SIDE = 224  # pixels of a crop in the picture, about
_DPI = 100
_TITLE_PX, _NAMES_PX, _HEAD_PX, _LEGEND_PX, _GAP_PX = 24, 34, 30, 30, 18
_VERDICTS = {True: ("same person", "#007A5A"), False: ("different persons", "#B84A00"), None: ("", "#222222")}
_LONGEST = 34  # letters of a file's name


class PairPanel(NamedTuple):
    """Two faces."""

    crops: np.ndarray
    """[2, h, w, 3] uint8 RGB."""

    landmarks: np.ndarray | None
    """[2, 5, 2] fractions of the crops, NaN where there are none; None for none at all."""

    names: tuple[str, str]

    similarity: float

    same: bool | None
    """The decision; None without a threshold."""


def draw_pairs(path: str | Path, groups: Mapping[str, Sequence[PairPanel]], title: str = "", columns: int = 3) -> None:
    """Groups of pairs below each other, each under its name.

    Args:
        path: picture file.
        groups: name -> pairs; an empty name has no headline.
        title: above all.
        columns: pairs in a row at most.

    Raises:
        ValueError: no pairs, columns below 1, or an unknown suffix.
    """
    groups = {name: panels for name, panels in groups.items() if panels}
    if not groups or columns < 1:
        raise ValueError(f"need pairs and columns >= 1, got {len(groups)} groups and {columns}")
    everything = [panel for panels in groups.values() for panel in panels]
    scale = max(1, _SIDE // max(everything[0].crops.shape[1:3]))
    sheets = {id(panel): face_grid(panel.crops, panel.landmarks, columns=2, scale=scale) for panel in everything}
    high, wide = sheets[id(everything[0])].shape[:2]
    columns = min(columns, max(map(len, groups.values())))
    row_px = _TITLE_PX + high + _NAMES_PX
    rows = sum(-(-len(panels) // columns) for panels in groups.values())
    with_landmarks = any(panel.landmarks is not None for panel in everything)
    height = (_HEAD_PX if title else 0) + sum(_HEAD_PX for name in groups if name) + rows * row_px
    height += _LEGEND_PX if with_landmarks else 0
    width = columns * wide + (columns + 1) * _GAP_PX
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    top = 0
    if title:
        figure.text(0.5, 1 - (_HEAD_PX / 2) / height, title, ha="center", va="center", fontsize=12, parse_math=False)
        top += _HEAD_PX
    for name, panels in groups.items():
        if name:
            y = 1 - (top + _HEAD_PX / 2) / height
            figure.text(_GAP_PX / width, y, name, va="center", fontsize=11, weight="bold", parse_math=False)
            top += _HEAD_PX
        for place, panel in enumerate(panels):
            left = _GAP_PX + place % columns * (wide + _GAP_PX)
            above = top + place // columns * row_px + _TITLE_PX
            box = (left / width, 1 - (above + high) / height, wide / width, high / height)
            axes = figure.add_axes(box)
            axes.imshow(sheets[id(panel)], interpolation="none", aspect="auto")
            axes.axis("off")
            said, colour = _VERDICTS[panel.same]
            text = f"{panel.similarity:.3f}" + (f"  {said}" if said else "")
            axes.set_title(text, fontsize=11, color=colour, pad=4)
            for k, each in enumerate(panel.names):
                axes.text(0.25 + k / 2, -4 / high, _short(each), transform=axes.transAxes, ha="center", va="top",
                          fontsize=8, color="#444444", parse_math=False)  # fmt: skip
        top += -(-len(panels) // columns) * row_px
    if with_landmarks:
        figure.legend(handles=_legend(), loc="lower center", ncol=4, frameon=False, fontsize=8, handletextpad=0.2)
    write_figure(figure, path)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]


def _legend() -> list[Line2D]:
    left, right, centre = (tuple(part / 255 for part in SIDE_COLOURS[side]) for side in ("left", "right", "centre"))
    entries = (("left of the image", left, left), ("right", right, right), ("nose", centre, (0, 0, 0)))
    handles = [Line2D([], [], marker="o", ls="", ms=6, mfc=fill, mec=edge, label=name) for name, fill, edge in entries]
    return [*handles, Line2D([], [], marker="o", ls="", ms=6, mfc="w", mec="#666666", mew=2, label="mouth: hollow")]
