"""Keypoints of images in a CSV: the header `image,x0,y0,x1,y1,...` and a row for each image, by its file name.

Coordinates: (x, y) in pixels of the image, the centre of the upper left one being (0, 0).
Shape letters: B images, L keypoints.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["read_keypoints"]


def read_keypoints(path: Path, names: Sequence[str]) -> np.ndarray:
    """[B, L, 2] in pixels from a CSV `image,x0,y0,x1,y1,...`, for images by their file names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another header, a row of another length or without numbers, an image twice or not at all.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"images are told apart by their file names, got {', '.join(names)}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    points = (len(header) - 1) // 2
    expected = ["image", *(f"{axis}{point}" for point in range(points) for axis in "xy")]
    if not points or [entry.strip() for entry in header] != expected:
        raise ValueError(f"{path}: the header must be image,x0,y0,x1,y1,..., found {','.join(header) or 'no line'}")
    found: dict[str, np.ndarray] = {}
    for line, row in enumerate(rows, start=2):
        if not row or row[0] not in names:
            continue
        if row[0] in found:
            raise ValueError(f"{path}, line {line}: image {row[0]} comes twice")
        found[row[0]] = _numbers(row[1:], 2 * points, f"{path}, line {line}").reshape(points, 2)
    missing = [name for name in names if name not in found]
    if missing:
        others = [row[0] for row in rows if row]
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        raise ValueError(f"{path}: no keypoints of {', '.join(missing)}; it has {shown or 'no rows'}")
    return np.stack([found[name] for name in names])


def _numbers(entries: Sequence[str], count: int, where: str) -> np.ndarray:
    try:
        values = [float(entry) for entry in entries]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if len(values) != count or not all(map(math.isfinite, values)):
        raise ValueError(f"{where}: expected {count} finite numbers, found {','.join(entries)}")
    return np.array(values)
