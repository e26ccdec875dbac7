"""Faces with their landmarks, as pictures.

The points on the image's left are blue, those on its right orange, filled for eyes and hollow for mouth corners, the
nose white: a mirror that forgets to swap left and right shows at once.

Coordinates: landmarks are (x, y) as fractions of the image.
Shape letters: n faces, h x w pixels of each, S pixels of the picture for one of a face.
"""

from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.keypoints import FIVE_POINT_FACE, fractions_to_pixels
from common.runtime.figures import write_figure

__all__ = ["GAP", "LEGEND_HEIGHT", "SIDE_COLOURS", "draw_landmarks", "face_grid", "write_sheet"]

# Okabe and Ito's blue and orange, told apart by readers with any kind of colour vision.
SIDE_COLOURS = {"left": (0, 114, 178), "right": (213, 94, 0), "centre": (255, 255, 255)}  # RGB
PAPER, RIM = (255, 255, 255), (20, 20, 20)
GAP, LEGEND_HEIGHT, DPI = 6, 34, 100
_FRACTION_BITS = 4  # of cv2's fixed-point coordinates


def draw_landmarks(image: np.ndarray, keypoints: np.ndarray | None, scale: int = 1) -> np.ndarray:
    """An image with its landmarks, enlarged without interpolation.

    Args:
        image: [h, w, 3] uint8 RGB.
        keypoints: [5, 2] fractions of the image, or None; a point that is not finite, or far away, is not drawn.
        scale: S.

    Returns:
        [S h, S w, 3] uint8 RGB; `image` is left as it is.
    """
    picture = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)
    if keypoints is None:
        return picture
    size_hw = (picture.shape[0], picture.shape[1])
    options = {"lineType": cv2.LINE_AA, "shift": _FRACTION_BITS}
    radius = max(2, 2 * scale)
    pixels = fractions_to_pixels(np.asarray(keypoints, np.float64), size_hw)
    for name, point in zip(FIVE_POINT_FACE.names, pixels, strict=True):
        if not np.isfinite(point).all() or np.abs(point).max() > 10 * max(size_hw):
            continue
        x, y = (round(float(value) * 2**_FRACTION_BITS) for value in point)
        colour = SIDE_COLOURS[_side(name)]
        cv2.circle(picture, (x, y), (radius + 1) << _FRACTION_BITS, RIM, cv2.FILLED, **options)
        cv2.circle(picture, (x, y), radius << _FRACTION_BITS, colour, cv2.FILLED, **options)
        if "mouth" in name:
            cv2.circle(picture, (x, y), (radius << _FRACTION_BITS) // 2, PAPER, cv2.FILLED, **options)
    return picture


def face_grid(images: np.ndarray, keypoints: np.ndarray | None, columns: int = 8, scale: int = 1) -> np.ndarray:
    """Faces of one size in rows.

    Args:
        images: [n, h, w, 3] uint8 RGB, n >= 1.
        keypoints: [n, 5, 2] fractions of the images, or None.
        columns: faces in a row, >= 1.
        scale: S, >= 1.

    Returns:
        [H, W, 3] uint8 RGB.

    Raises:
        ValueError: no images, as many landmarks as images do not have, or columns or scale below 1.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise ValueError(f"images must have shape [n, h, w, 3] with n >= 1, got {list(images.shape)}")
    if keypoints is not None and len(keypoints) != len(images):
        raise ValueError(f"{len(images)} images have landmarks of {len(keypoints)}")
    if min(columns, scale) < 1:
        raise ValueError(f"columns and scale must be >= 1, got {columns} and {scale}")
    columns = min(columns, len(images))
    high, wide = images.shape[1] * scale + GAP, images.shape[2] * scale + GAP
    sheet = np.empty((-(-len(images) // columns) * high + GAP, columns * wide + GAP, 3), np.uint8)
    sheet[:] = PAPER
    for place, image in enumerate(images):
        top, left = place // columns * high + GAP, place % columns * wide + GAP
        tile = draw_landmarks(image, None if keypoints is None else keypoints[place], scale)
        sheet[top : top + high - GAP, left : left + wide - GAP] = tile
    return sheet


def write_sheet(sheet: np.ndarray, path: str | Path, with_legend: bool = True) -> None:
    """Write a sheet of faces, one picture pixel for each of its own, under a legend of the landmarks.

    Args:
        sheet: [H, W, 3] uint8 RGB.
        path: picture file, written whole or not at all; the suffix names the format.
        with_legend: whether there is the legend.

    Raises:
        ValueError: a suffix that no format has.
        OSError: the picture cannot be written.
    """
    height, width = sheet.shape[:2]
    above = LEGEND_HEIGHT if with_legend else 0
    figure = Figure(figsize=(width / DPI, (height + above) / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, height / (height + above)))
    axes.imshow(sheet, interpolation="none", aspect="auto")
    axes.axis("off")
    if with_legend:
        names = [name.removeprefix("image_").replace("_", " ") for name in FIVE_POINT_FACE.names]
        handles = [_legend_entry(name) for name in FIVE_POINT_FACE.names]
        figure.legend(handles, names, loc="upper center", ncol=len(names), frameon=False, fontsize=9)
    write_figure(figure, path)


def _legend_entry(name: str) -> Line2D:
    red, green, blue = (part / 255 for part in SIDE_COLOURS[_side(name)])
    centre = (1.0, 1.0, 1.0) if "mouth" in name else (red, green, blue)
    edge = (red, green, blue) if "mouth" in name else tuple(part / 255 for part in RIM)
    return Line2D([], [], marker="o", ls="", ms=7, mfc=centre, mec=edge, mew=2 if "mouth" in name else 1)


def _side(name: str) -> str:
    """Of the image."""
    return "left" if "left" in name else "right" if "right" in name else "centre"
