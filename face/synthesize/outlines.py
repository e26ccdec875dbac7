"""WFLW's 98 points on a synthetic head.

Five are exact, the landmarks of `Head.landmarks`: 96 and 97 the eyes, 57 the nose, 76 and 82 the corners of the mouth.
The others are plausible: they lie along the outlines that features.py paints, at even steps of their parameter.
Order: 0 to 32 the jaw from the left of the image over the chin (16) to the right; 33 to 41 and 42 to 50 the brows; 51
to 54 the bridge of the nose, 55 to 59 below it; 60 to 67 and 68 to 75 the eyes, from their left corner over the upper
lid; 76 to 87 the lips outside and 88 to 95 inside, likewise; 96 and 97 the pupils.

Coordinates: the head's frame as in face.py; results are pixel-index, of the scene.
"""

import numpy as np
from numpy.typing import NDArray

from face.synthesize.pose import Head

__all__ = ["EXACT", "outline_points"]

Array = NDArray[np.float64]

EXACT = (96, 97, 57, 76, 82)
"""Where the five landmarks are, in the order of `common.FIVE_POINT_FACE`."""


def outline_points(head: Head) -> Array:
    """[98, 2] pixels of the scene."""
    left_brow, right_brow = _brow(head, -1.0), _brow(head, 1.0)
    flat = [_jaw(head), left_brow, right_brow]
    points = [head.on_surface(part[:, 0], part[:, 1]) for part in flat]
    points.append(head.project(_nose(head)))
    points += [head.on_surface(part[:, 0], part[:, 1]) for part in (_eye(head, -1.0), _eye(head, 1.0), _lips(head))]
    whole = np.concatenate([*points, np.zeros((2, 2))])
    whole[list(EXACT)] = head.landmarks()
    return whole


def _jaw(head: Head) -> Array:
    along = np.linspace(-1, 1, 33)
    y = head.shape.eye_y + (0.99 * head.chin - head.shape.eye_y) * np.cos(np.pi / 2 * along)
    return np.stack([0.97 * np.sign(along) * head.half_width(y), y], axis=1)


def _brow(head: Head, side: float) -> Array:
    """Five points above and four below, from the left end of the image."""
    shape = head.shape
    above, below = np.linspace(-1, 1, 5), np.linspace(1, -1, 6)[1:-1]
    t = side * np.concatenate([above, below])  # 1 at the outer end
    u = shape.brow_length * t
    middle = shape.eye_y - shape.brow_gap - 0.05 * head.take.brow_raise - shape.brow_arch * (1 - (t - 0.25) ** 2)
    half = 0.6 * shape.brow_thickness * np.where(np.arange(9) < 5, -1, 1)
    y = middle - np.tan(np.deg2rad(shape.brow_tilt)) * u + half
    return np.stack([side * (shape.eye_x * 1.02 + u), y], axis=1)


def _nose(head: Head) -> Array:
    """[9, 3]: four down the bridge, five from wing to wing."""
    shape = head.shape
    top, tip = head.surface(0.0, shape.eye_y, 0.05), head.nose_tip
    bridge = top + np.linspace(0, 0.9, 4)[:, None] * (tip - top)
    x = shape.nose_width * np.array([-0.9, -0.45, 0.0, 0.45, 0.9])
    return np.concatenate([bridge, head.surface(x, shape.nose_y + 0.07, 0.08)])


def _eye(head: Head, side: float) -> Array:
    """Left corner, three of the upper lid, right corner, three of the lower lid."""
    shape = head.shape
    opened = shape.eye_height * head.take.eyes_open
    t = np.array([-1, -0.5, 0, 0.5, 1, 0.5, 0, -0.5])
    full = 1 - t**2
    lids = np.where(np.arange(8) < 5, -opened * full**0.7, 0.9 * opened * full**0.8)
    tilt = np.deg2rad(-shape.eye_tilt) * side
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    return np.asarray(np.stack([shape.eye_width * t, lids], axis=1) @ turn + (side * shape.eye_x, shape.eye_y))


def _lips(head: Head) -> Array:
    """Twelve points around, eight around the opening, each from the left corner over the upper lip."""
    shape, opened = head.shape, head.take.mouth_open
    (left, corner), (right, _) = head.mouth_corners

    def line(t: Array, lower: bool, outside: bool) -> Array:
        full = 1 - t**2
        y = corner + (shape.mouth_y + 0.02 * opened - corner) * full + (0.17 if lower else -0.03) * opened * full
        if outside:
            y = y + (shape.lower_lip * full**0.85 if lower else -shape.upper_lip * full**0.75)
        return np.stack([0.5 * (left + right) + 0.5 * (right - left) * t, y], axis=1)

    around, inner = np.linspace(-1, 1, 7), np.linspace(-0.9, 0.9, 5)
    return np.concatenate(
        [
            line(around, lower=False, outside=True),
            line(around[-2:0:-1], lower=True, outside=True),
            line(inner, lower=False, outside=False),
            line(inner[-2:0:-1], lower=True, outside=False),
        ]
    )
