"""A contact sheet of one face, augmented again and again, its landmarks drawn over it.

The points on the image's left are blue, those on its right orange, filled for eyes and hollow for mouth corners, the
nose white: a mirror that forgets to swap left and right shows at once.
Shape letters: S picture pixels per image pixel.
"""

import math
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.keypoints import FIVE_POINT_FACE, fractions_to_pixels
from common.runtime.figures import check_picture_path, write_figure
from face.augment.augmentation import FaceAugmentation
from face.augment.settings import AugmentationSettings

__all__ = ["draw_augmented", "draw_tile"]

# Okabe and Ito's blue and orange, told apart by readers with any kind of colour vision.
SIDE_COLOURS = {"left": (0, 114, 178), "right": (213, 94, 0), "centre": (255, 255, 255)}  # RGB
PAPER, RIM = (255, 255, 255), (20, 20, 20)
GAP, LEGEND_HEIGHT, DPI = 6, 34, 100
FRACTION_BITS = 4  # of cv2's fixed-point coordinates


def draw_augmented(
    path: str | Path,
    image: np.ndarray,
    keypoints: np.ndarray | None,
    settings: AugmentationSettings | None = None,
    *,
    seed: int = 0,
    count: int = 23,
    columns: int = 8,
    out_hw: tuple[int, int] = (112, 112),
    scale: int = 2,
) -> None:
    """The image as it is, merely resized, then `count` augmentations of it, row by row.

    Args:
        path: picture file; the suffix names the format.
        image: [h, w, 3] uint8 RGB.
        keypoints: [5, 2] fractions of the image, or None: then none are drawn.
        settings: of the augmentation; by default those of the KP-RPE paper.
        seed: of the random numbers.
        count: augmentations, >= 1.
        columns: tiles in a row, >= 1.
        out_hw: of an augmented image.
        scale: S, whole picture pixels per image pixel.

    Raises:
        ValueError: what `FaceAugmentation` refuses; a suffix that no format has; a count, columns or scale below 1.
    """
    check_picture_path(path)
    if min(count, columns, scale) < 1:
        raise ValueError(f"count, columns and scale must be >= 1, got {count}, {columns} and {scale}")
    augment = FaceAugmentation(settings, out_hw)
    rng = np.random.default_rng(seed)
    samples = [augment.plain(image, keypoints), *(augment(image, keypoints, rng) for _ in range(count))]
    columns = min(columns, len(samples))
    high, wide = out_hw[0] * scale + GAP, out_hw[1] * scale + GAP
    sheet = np.empty((math.ceil(len(samples) / columns) * high + GAP, columns * wide + GAP, 3), np.uint8)
    sheet[:] = PAPER
    for number, (tile, points) in enumerate(samples):
        top, left = number // columns * high + GAP, number % columns * wide + GAP
        sheet[top : top + high - GAP, left : left + wide - GAP] = draw_tile(tile, points, scale)
    _write_sheet(sheet, path, with_legend=keypoints is not None)


def draw_tile(image: np.ndarray, keypoints: np.ndarray | None, scale: int) -> np.ndarray:
    """[h * S, w * S, 3] uint8 RGB: enlarged without interpolation, keypoints [5, 2] (fractions) drawn over it."""
    picture = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)
    if keypoints is None:
        return picture
    pixels = fractions_to_pixels(keypoints.astype(np.float64), (picture.shape[0], picture.shape[1]))
    options = {"lineType": cv2.LINE_AA, "shift": FRACTION_BITS}
    radius = max(2, 2 * scale)
    for name, (x, y) in zip(FIVE_POINT_FACE.names, pixels * 2**FRACTION_BITS, strict=True):
        centre, colour = (round(x), round(y)), SIDE_COLOURS[_side(name)]
        hollow = "mouth" in name
        cv2.circle(picture, centre, (radius + 1) << FRACTION_BITS, RIM, cv2.FILLED, **options)
        cv2.circle(picture, centre, radius << FRACTION_BITS, colour, cv2.FILLED, **options)
        if hollow:
            cv2.circle(picture, centre, (radius << FRACTION_BITS) // 2, PAPER, cv2.FILLED, **options)
    return picture


def _write_sheet(sheet: np.ndarray, path: str | Path, with_legend: bool) -> None:
    """One picture pixel for each of the sheet's, a legend above."""
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
