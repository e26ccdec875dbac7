"""Faces with their landmarks, as pictures.

Coordinates: landmarks are (x, y) as fractions of the image.
Shape letters: n faces, h x w pixels of each, L landmarks, S pixels of the picture for one of a face.
"""

import cv2
import numpy as np

from common.keypoints import fractions_to_pixels

__all__ = ["LANDMARK_COLOURS", "draw_landmarks", "face_grid"]

LANDMARK_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (86, 180, 233), (230, 159, 0))
"""RGB of each of the five, left and right apart, so that a mirrored face whose points did not change places is seen."""

_FRACTION_BITS = 4  # of cv2's fixed-point coordinates


def draw_landmarks(image: np.ndarray, keypoints: np.ndarray, scale: int = 1) -> np.ndarray:
    """An image with its landmarks as rings.

    Args:
        image: [h, w, 3] uint8 RGB.
        keypoints: [L, 2] fractions of the image; what is not finite is not drawn.
        scale: S.

    Returns:
        [S h, S w, 3] uint8 RGB; `image` is left as it is.
    """
    height, width = image.shape[0] * scale, image.shape[1] * scale
    picture = np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST))
    radius = max(3, round(0.018 * min(height, width)))
    for place, point in enumerate(fractions_to_pixels(np.asarray(keypoints, np.float64), (height, width))):
        if not np.isfinite(point).all() or np.abs(point).max() > 10 * max(height, width):
            continue
        x, y = (round(float(value) * 2**_FRACTION_BITS) for value in point)
        for colour, thickness in (((255, 255, 255), 4), (LANDMARK_COLOURS[place % len(LANDMARK_COLOURS)], 2)):
            cv2.circle(picture, (x, y), radius << _FRACTION_BITS, colour, thickness, cv2.LINE_AA, _FRACTION_BITS)
    return picture


def face_grid(
    images: np.ndarray, keypoints: np.ndarray | None, columns: int = 8, scale: int = 1, gap: int = 4
) -> np.ndarray:
    """Faces of one size in rows.

    Args:
        images: [n, h, w, 3] uint8 RGB, n >= 1.
        keypoints: [n, L, 2] fractions of the images, or None.
        columns: faces in a row.
        scale: S.
        gap: white pixels between faces.

    Returns:
        [H, W, 3] uint8 RGB.

    Raises:
        ValueError: no images, or as many landmarks as images do not have.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise ValueError(f"images must have shape [n, h, w, 3] with n >= 1, got {list(images.shape)}")
    if keypoints is not None and len(keypoints) != len(images):
        raise ValueError(f"{len(images)} images have landmarks of {len(keypoints)}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = images.shape[1] * scale, images.shape[2] * scale
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        points = np.empty((0, 2)) if keypoints is None else keypoints[place]
        sheet[top : top + height, left : left + width] = draw_landmarks(image, points, scale)
    return sheet
