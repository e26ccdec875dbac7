"""A silhouette's crop, resize and centring, and the keypoints put through the very same.

Source: what OpenGait's `datasets/pretreatment.py` makes of a silhouette (`imgs2pickle`, image size 64; after GaitSet,
https://arxiv.org/abs/1811.06186), observed and written anew; for every frame that both keep the pixels are the same
bit by bit. The rules, for a crop of 8-bit grey values:

1. pixels sum to 10000 or less: no person, dropped;
2. rows are cropped to the first and last that are not all zero: h rows stay, all w columns stay;
3. cubic resize (no anti-aliasing) to 64 rows and floor(64 w / h) columns;
4. the centre is the first column at which the running sum of columns passes half of all; in column 0: dropped;
5. 64 columns from 32 left of the centre on, zero where the image ends. `width=44` then cuts 10 columns off each
   side, as OpenGait's `BaseSilCuttingTransform` does with 64-wide silhouettes when it loads them.

Deliberate differences: a crop so narrow that step 3 leaves no column is dropped as having no centre (OpenGait
stops with an error), and keypoints, which OpenGait leaves in pixels of the raw crop, go along.

Coordinates: (x, y), x right, y down, the centre of the top-left pixel at (0, 0), before and after. `cv2.resize`
maps pixel areas, so a coordinate goes by (source + 0.5) * scale - 0.5, with its own scale for x since the number of
columns is rounded down.
Shape letters: T frames, W columns of the normalised silhouette (64 or 44).
"""

from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

import cv2
import numpy as np

from plugin.prepare.raw import NUM_JOINTS, DroppedFrame

__all__ = ["HEIGHT", "SIDE_CUT", "Placement", "clean_keypoints", "normalise_silhouette", "place_keypoints"]

HEIGHT = 64
"""Rows of a normalised silhouette, and its columns before any cut."""

SIDE_CUT = 10
"""Columns that the 44-wide form lacks on either side."""

_NO_DATA_SUM = 10000


class Placement(NamedTuple):
    """Where a frame's crop went: x' = (x + 0.5) * scale_x - 0.5 - left, y' = (y - top + 0.5) * scale_y - 0.5."""

    scale_x: float
    scale_y: float
    top: float
    left: float

    @classmethod
    def from_similarity(cls, scale: float, shift_x: float, shift_y: float) -> "Placement":
        """The placement with x' = scale * x + shift_x and y' = scale * y + shift_y."""
        offset = 0.5 * scale - 0.5
        return cls(scale, scale, (offset - shift_y) / scale, offset - shift_x)


def normalise_silhouette(crop: np.ndarray) -> tuple[np.ndarray, Placement]:
    """Crop, resize and centre one silhouette.

    Args:
        crop: [rows, columns] uint8, grey values of the human crop.

    Returns:
        [64, 64] uint8, and where the pixels of `crop` lie in it.

    Raises:
        DroppedFrame: "empty_silhouette" or "no_centre" (rules 1, 3 and 4 above).
        ValueError: not a two-dimensional uint8 array.
    """
    if crop.ndim != 2 or crop.dtype != np.uint8:
        raise ValueError(f"expected a silhouette of [rows, columns] uint8, got {list(crop.shape)} {crop.dtype}")
    total = cv2.sumElems(crop)[0]
    if total <= _NO_DATA_SUM:
        raise DroppedFrame("empty_silhouette", f"pixels sum to {total:.0f}, needs more than {_NO_DATA_SUM}")
    _, top, _, rows = cv2.boundingRect(crop)
    columns = crop.shape[1]
    resized_columns = int(HEIGHT * (columns / rows))
    if resized_columns == 0:
        raise DroppedFrame("no_centre", f"{columns} columns and {rows} rows leave no column at {HEIGHT} rows")
    resized = cv2.resize(crop[top : top + rows], (resized_columns, HEIGHT), interpolation=cv2.INTER_CUBIC)
    left = _centre_column(resized) - HEIGHT // 2

    window = np.zeros((HEIGHT, HEIGHT), np.uint8)
    first, last = max(left, 0), min(left + HEIGHT, resized_columns)
    window[:, first - left : last - left] = resized[:, first:last]
    return window, Placement(resized_columns / columns, HEIGHT / rows, top, left)


def _centre_column(resized: np.ndarray) -> int:
    # A few dozen columns: Python's own sums are quicker than three calls into NumPy.
    running = list(accumulate(cv2.reduce(resized, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0].tolist()))
    centre = bisect_right(running, running[-1] / 2)
    if not 0 < centre < len(running):  # at the far end: nothing is left after the resize
        raise DroppedFrame("no_centre", f"half of the silhouette lies in column 0 of {len(running)}")
    return centre


def place_keypoints(keypoints: np.ndarray, placements: np.ndarray) -> np.ndarray:
    """Put keypoints through the crop, resize and centring of their frames' silhouettes.

    Args:
        keypoints: [T, 17, 3] (x, y, confidence), x and y in pixels of the raw crop.
        placements: [T, 4], one `Placement` a frame.

    Returns:
        [T, 17, 3] float64, x and y in pixels of the 64 x 64 silhouette. Joints may lie outside of it.
    """
    scale_x, scale_y, top, left = np.asarray(placements, np.float64).reshape(-1, 4, 1).transpose(1, 0, 2)
    placed = np.array(keypoints, np.float64)
    placed[..., 0] = (keypoints[..., 0] + 0.5) * scale_x - 0.5 - left
    placed[..., 1] = (keypoints[..., 1] - top + 0.5) * scale_y - 0.5
    return placed


def clean_keypoints(keypoints: np.ndarray) -> np.ndarray:
    """Joints as they are stored: confidence clipped to [0, 1], and (0, 0, 0) for a joint that is missing.

    A joint is missing when its confidence is zero or less, or any of its three values is not finite.

    Args:
        keypoints: [T, 17, 3] (x, y, confidence).

    Returns:
        [T, 17, 3] float32.
    """
    if keypoints.ndim != 3 or keypoints.shape[1:] != (NUM_JOINTS, 3):
        raise ValueError(f"expected keypoints of [T, {NUM_JOINTS}, 3], got {list(keypoints.shape)}")
    with np.errstate(over="ignore"):  # too large for float32 is as good as infinite
        cleaned = np.array(keypoints, np.float32)
    present = np.isfinite(cleaned).all(axis=-1) & (cleaned[..., 2] > 0)
    cleaned[~present] = 0
    np.minimum(cleaned[..., 2], 1, out=cleaned[..., 2])
    return cleaned
