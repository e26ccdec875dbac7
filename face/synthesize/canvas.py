"""Filled shapes and lines on a finer grid than the image's, so that edges come out smooth.

Coordinates: pixel-index, of the image for everything that comes in; the finer grid is nobody else's business.
Shape letters: K points, P pieces, h and w image height and width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Canvas", "between"]

Array = NDArray[np.floating]
Colour = tuple[float, float, float] | Array

FINER = 2
FRACTION_BITS = 4


class Canvas:
    """An image [h, w, 3] uint8 RGB being painted, and a mask of what is `solid`: lit as a part of the head."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self.size_hw = image.shape[0], image.shape[1]
        finer_wh = image.shape[1] * FINER, image.shape[0] * FINER
        self.pixels = cv2.resize(image, finer_wh, interpolation=cv2.INTER_NEAREST)
        self.mask = np.zeros(self.size_hw, np.uint8)

    def finished(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The image [h, w, 3] and which pixels are solid [h, w], 0 or 1."""
        image = cv2.resize(self.pixels, self.size_hw[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(image, np.uint8), self.mask

    def polygon(self, points: Array, colour: Colour, solid: bool = False) -> None:
        """Fill a polygon [K, 2]."""
        cv2.fillPoly(self.pixels, [_fixed(points)], _rgb(colour), cv2.LINE_8, FRACTION_BITS)
        if solid:
            cv2.fillPoly(self.mask, [_fixed(points, 1)], (1,), cv2.LINE_8, FRACTION_BITS)

    def strip(self, first: Array, second: Array, colour: Colour, solid: bool = False) -> None:
        """Fill what is between two lines [K, 2], piece by piece: they may cross."""
        pieces = between(first, second)
        for piece in _fixed(pieces):
            cv2.fillPoly(self.pixels, [piece], _rgb(colour), cv2.LINE_8, FRACTION_BITS)
        for piece in _fixed(pieces, 1) if solid else ():
            cv2.fillPoly(self.mask, [piece], (1,), cv2.LINE_8, FRACTION_BITS)

    def hull(self, points: Array, colour: Colour, solid: bool = False) -> None:
        """Fill the convex hull of points [..., 2]."""
        self.polygon(np.asarray(cv2.convexHull(points.reshape(-1, 2).astype(np.float32))[:, 0], float), colour, solid)

    def line(self, points: Array, colour: Colour, width: float, closed: bool = False) -> None:
        """A line through points [K, 2], `width` in pixels of the image."""
        thickness = max(1, round(width * FINER))
        cv2.polylines(self.pixels, [_fixed(points)], closed, _rgb(colour), thickness, cv2.LINE_AA, FRACTION_BITS)

    def disc(self, centre: Array, radius: float, colour: Colour, solid: bool = False) -> None:
        """A disc about `centre` [2], `radius` in pixels of the image."""
        x, y = _fixed(centre)
        r = round(radius * FINER * (1 << FRACTION_BITS))
        cv2.circle(self.pixels, (int(x), int(y)), r, _rgb(colour), cv2.FILLED, cv2.LINE_8, FRACTION_BITS)
        if solid:
            x, y = _fixed(centre, 1)
            cv2.circle(self.mask, (int(x), int(y)), r // FINER, (1,), cv2.FILLED, cv2.LINE_8, FRACTION_BITS)

    @contextmanager
    def through(self, points: Array, margin: float, opacity: float = 1.0) -> Iterator[None]:
        """What is painted in here shows inside a polygon alone, as if through a window.

        Args:
            points: [K, 2] the window, or [P, K, 2] several that make one.
            margin: how far beyond the window may be painted, in pixels of the image.
            opacity: of what is painted, from 0 to 1.
        """
        rows, columns = self.pixels.shape[:2]
        pieces = points.reshape(-1, *points.shape[-2:])
        low = np.floor((pieces.min(axis=(0, 1)) - margin) * FINER).astype(int)
        high = np.ceil((pieces.max(axis=(0, 1)) + margin + 1) * FINER).astype(int)
        left, right = np.clip([low[0], high[0]], 0, columns)
        top, bottom = np.clip([low[1], high[1]], 0, rows)
        part = self.pixels[top:bottom, left:right]
        before = part.copy()
        yield
        if not part.size:
            return
        window = np.zeros(part.shape[:2], np.uint8)
        corner = (np.array([left, top]) * (1 << FRACTION_BITS)).astype(np.int32)
        for piece in _fixed(pieces) - corner:
            cv2.fillPoly(window, [piece], (255,), cv2.LINE_8, FRACTION_BITS)
        if opacity < 1:
            part[:] = cv2.addWeighted(part, opacity, before, 1 - opacity, 0)
        np.copyto(part, before, where=(window == 0)[..., None])

    def glaze(self, points: Array, colour: Colour, opacity: float) -> None:
        """Fill a polygon [K, 2], or several [P, K, 2] as one, that lets what is below shine through."""
        with self.through(points, 1.0, opacity):
            for piece in points.reshape(-1, *points.shape[-2:]):
                self.polygon(piece, colour)


def between(first: Array, second: Array) -> Array:
    """[K - 1, 4, 2] pieces of what is between two lines [K, 2]."""
    return np.stack([first[:-1], first[1:], second[1:], second[:-1]], axis=1)


def _fixed(points: Array, finer: int = FINER) -> NDArray[np.int32]:
    """[..., 2] on a grid `finer` than the image's, in OpenCV's fixed-point numbers."""
    one = 1 << FRACTION_BITS
    return np.rint(points * (finer * one) + (0.5 * finer - 0.5) * one).astype(np.int32)


def _rgb(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return float(red), float(green), float(blue)
