"""Digits in their frames: upright at a random place, or under a random affine transform, and their five keypoints.

Source: affNIST (Tieleman, https://www.cs.toronto.edu/~tijmen/affNIST): rotation up to 20 degrees, shear up to 0.2,
vertical and horizontal scale from 0.8 to 1.2, all uniform, then a uniform translation that keeps the whole digit
inside a frame of 40 x 40. Each digit is interpolated once, bilinearly.
Keypoints (KP-RPE paper, section 3): the corners and the centre of the upright box that covers the digit, found in the
very image that the model sees, in training and testing alike.
Deliberate difference: affNIST's published files are not used, since they exist for MNIST alone; the transforms are
drawn here.

Coordinates: (x, y), x right and y down, in pixels (the centre of the top-left pixel is (0, 0)); keypoints as fractions
of the frame, whose corners are (0, 0) and (1, 1).
Shape letters: N digits, L = 5 keypoints, h x w a digit's image, F x F its frame.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

__all__ = [
    "FRAME",
    "KEYPOINTS",
    "AffineRanges",
    "affine_frames",
    "box_keypoints",
    "fitting_translations",
    "linear_maps",
    "upright_frames",
    "warp",
]

FRAME = 40
"""Height and width of a frame, in pixels."""

KEYPOINTS = 5
"""Corners of the box row by row, then its centre."""

FOREGROUND = 32
"""Grey level, of 255, from which a pixel belongs to the digit. Interpolation leaves fainter ones around it."""

_CHUNK = 2048  # images warped at a time, for the memory that it takes


@dataclass(frozen=True, kw_only=True)
class AffineRanges:
    """What the transforms of the test set are drawn from, uniformly and independently. The defaults are affNIST's.

    Raises:
        ValueError: a negative angle or shear, or scales that are not 0 < lowest <= highest.
    """

    rotation_degrees: float = 20.0
    """Largest angle, either way."""

    shear: float = 0.2
    """Largest shear, either way; 1 would make a square a parallelogram of 45 degrees."""

    scale: tuple[float, float] = (0.8, 1.2)
    """Lowest and highest scale, drawn for x and y separately."""

    def __post_init__(self) -> None:
        low, high = self.scale
        if self.rotation_degrees < 0 or self.shear < 0 or not 0 < low <= high:
            raise ValueError(f"rotation and shear must be >= 0 and scale 0 < lowest <= highest, got {self}")


def upright_frames(digits: np.ndarray, rng: np.random.Generator, frame: int = FRAME) -> np.ndarray:
    """Put each image [h, w] at a random place of a black frame, in whole pixels.

    Args:
        digits: [N, h, w] uint8.
        rng: gives the places.
        frame: F, at least h and w.

    Returns:
        [N, F, F] uint8.

    Raises:
        ValueError: an image that is larger than the frame.
    """
    count, height, width = digits.shape
    if max(height, width) > frame:
        raise ValueError(f"images of {height} x {width} do not fit in a frame of {frame} x {frame}")
    top = rng.integers(0, frame - height + 1, count)
    left = rng.integers(0, frame - width + 1, count)
    frames = np.zeros((count, frame, frame), np.uint8)
    rows = (top[:, None] + np.arange(height))[:, :, None]
    cols = (left[:, None] + np.arange(width))[:, None, :]
    frames[np.arange(count)[:, None, None], rows, cols] = digits
    return frames


def affine_frames(
    digits: np.ndarray, rng: np.random.Generator, ranges: AffineRanges | None = None, frame: int = FRAME
) -> np.ndarray:
    """Move each digit by a random affine transform of its own that keeps it inside the frame.

    Args:
        digits: [N, h, w] uint8.
        rng: gives the transforms.
        ranges: None: affNIST's.
        frame: F.

    Returns:
        [N, F, F] uint8.

    Raises:
        ValueError: a digit that is too large for the frame under its transform, or blank.
    """
    linear = linear_maps(len(digits), rng, ranges or AffineRanges())
    lowest, highest = fitting_translations(digits, linear, frame)
    translation = lowest + rng.random((len(digits), 2)) * (highest - lowest)
    return warp(digits, np.concatenate([linear, translation[:, :, None]], axis=2), frame)


def linear_maps(count: int, rng: np.random.Generator, ranges: AffineRanges) -> np.ndarray:
    """[N, 2, 2], old (x, y) to new: rotated first, then sheared along x, then scaled."""
    angle = np.deg2rad(ranges.rotation_degrees) * rng.uniform(-1, 1, count)
    shear = ranges.shear * rng.uniform(-1, 1, count)
    scale = rng.uniform(*ranges.scale, (count, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    rotated = np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=1)
    sheared = rotated.copy()
    sheared[:, 0] += shear[:, None] * rotated[:, 1]
    return scale[:, :, None] * sheared


def fitting_translations(digits: np.ndarray, linear: np.ndarray, frame: int = FRAME) -> tuple[np.ndarray, np.ndarray]:
    """The translations that lose nothing of a digit, not even the faintest trace that interpolation makes.

    Args:
        digits: [N, h, w].
        linear: [N, 2, 2], see `linear_maps`.
        frame: F.

    Returns:
        Lowest and highest translation [N, 2] of (x, y), in pixels.

    Raises:
        ValueError: a digit that fits nowhere, or blank; its number is given.
    """
    blank = ~digits.any(axis=(1, 2))
    if blank.any():
        raise ValueError(f"digit {int(blank.argmax())} is blank")
    _, height, width = digits.shape
    low, high = np.empty((2, len(digits), 2))
    y, x = np.mgrid[:height, :width]
    for begin in range(0, len(digits), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        outside = digits[part, None] == 0
        moved = np.einsum("nij,jhw->nihw", linear[part], np.stack([x, y]).astype(np.float64))
        low[part] = np.where(outside, np.inf, moved).min(axis=(2, 3))
        high[part] = np.where(outside, -np.inf, moved).max(axis=(2, 3))
    # Bilinear interpolation spreads a pixel over the square of two pixels around it, which moves as the pixel does.
    spread = np.abs(linear).sum(axis=2)
    lowest, highest = spread - 1 - low, frame - spread - high
    lost = (lowest > highest).any(axis=1)
    if lost.any():
        raise ValueError(f"digit {int(lost.argmax())} is too large for a frame of {frame} x {frame} when transformed")
    return lowest, highest


def warp(digits: np.ndarray, matrices: np.ndarray, frame: int = FRAME) -> np.ndarray:
    """Move images by affine transforms, with one bilinear interpolation; what lies outside an image is black.

    Args:
        digits: [N, h, w] uint8.
        matrices: [N, 2, 3], old (x, y, 1) in pixels to new (x, y), of an invertible linear part.
        frame: F.

    Returns:
        [N, F, F] uint8, rounded.
    """
    _, height, width = digits.shape
    inverse = np.linalg.inv(matrices[:, :, :2])
    origin = -np.einsum("nij,nj->ni", inverse, matrices[:, :, 2])  # where the frame's first pixel comes from
    y, x = np.mgrid[:frame, :frame].astype(np.float64)
    size = np.array([width, height])
    frames = np.empty((len(digits), frame, frame), np.uint8)
    for begin in range(0, len(digits), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        source = np.einsum("nij,jhw->nhwi", inverse[part], np.stack([x, y])) + origin[part, None, None]
        places = torch.from_numpy((source * 2 + 1) / size - 1).float()  # as grid_sample wants them
        images = torch.from_numpy(digits[part, None].astype(np.float32))
        moved = F.grid_sample(images, places, mode="bilinear", padding_mode="zeros", align_corners=False)
        frames[part] = moved[:, 0].round_().numpy().astype(np.uint8)
    return frames


def box_keypoints(images: np.ndarray, foreground: int = FOREGROUND) -> np.ndarray:
    """Corners and centre of the tight upright box around each digit.

    Args:
        images: [N, F, F'] uint8.
        foreground: grey level from which a pixel belongs to the digit; in a fainter image its brightest pixels do.

    Returns:
        [N, 5, 2] float32, (x, y) as fractions of the image: upper left, upper right, lower left and lower right corner
        (of the box that covers the pixels' areas, not their centres), then the centre.

    Raises:
        ValueError: a blank image; its number is given.
    """
    _, height, width = images.shape
    mask = images >= np.minimum(foreground, np.maximum(images.max(axis=(1, 2), keepdims=True), 1))
    rows, cols = mask.any(axis=2), mask.any(axis=1)
    if not rows.any(axis=1).all():
        raise ValueError(f"image {int(rows.any(axis=1).argmin())} is blank, it has no box")
    top, left = rows.argmax(axis=1) / height, cols.argmax(axis=1) / width
    bottom = 1 - rows[:, ::-1].argmax(axis=1) / height
    right = 1 - cols[:, ::-1].argmax(axis=1) / width
    x = np.stack([left, right, left, right, (left + right) / 2], axis=1)
    y = np.stack([top, top, bottom, bottom, (top + bottom) / 2], axis=1)
    return np.stack([x, y], axis=-1).astype(np.float32)
