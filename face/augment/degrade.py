"""Blur and cutout: what poor cameras and whatever stands before a face do to it. Landmarks stay where they are.

Source: mk-minchul/CVLface@d3d09c9, run_v1/data_augs/gridsample_augmenter.py, for which blur and which cutout is drawn
how often. Most cutouts are a random-resized crop that is not resized: it stays where it was, on black.
Deliberate differences: the Gaussian has the kernel size that OpenCV finds fit for its standard deviation (imgaug, which
the authors use, cuts its tails at about 1.65 of them); low resolution keeps the aspect of an image that is not square.

No function here changes its input; one that has nothing to do returns it.
Images: [h, w, 3] uint8.
"""

import math

import cv2
import numpy as np

from face.augment.settings import AugmentationSettings

__all__ = [
    "INTERPOLATIONS",
    "cutout",
    "draw_rectangle",
    "keep_rectangle",
    "lower_resolution",
    "punch_holes",
    "random_blur",
]

INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
"""Ways of shrinking and of enlarging that `random_blur` draws from."""

_TRIES = 10


def random_blur(image: np.ndarray, settings: AugmentationSettings, rng: np.random.Generator) -> np.ndarray:
    """With `blur_prob`, an average of squares, a Gaussian, or a loss of resolution."""
    if rng.random() >= settings.blur_prob:
        return image
    kind, strength, down, up = rng.random(4).tolist()
    average, gaussian, _ = settings.blur_shares
    if kind < average:
        side = 1 + int(settings.blur_average_px * strength)
        return cv2.blur(image, (side, side))
    if kind < average + gaussian:
        sigma = settings.blur_sigma_px * strength
        return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0 else image
    smallest, largest = settings.blur_resize_range
    ways = len(INTERPOLATIONS)
    return lower_resolution(
        image,
        smallest + (largest - smallest) * strength,
        INTERPOLATIONS[int(ways * down)],
        INTERPOLATIONS[int(ways * up)],
    )


def lower_resolution(image: np.ndarray, share: float, down: int, up: int) -> np.ndarray:
    """Shrink to a share of the size, with interpolation `down` of OpenCV, and enlarge again with `up`."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, int(share * width)), max(1, int(share * height))), interpolation=down)
    return cv2.resize(small, (width, height), interpolation=up)


def cutout(image: np.ndarray, settings: AugmentationSettings, rng: np.random.Generator) -> np.ndarray:
    """With `cutout_prob`, one rectangle on black or, seldom, black holes."""
    if rng.random() >= settings.cutout_prob:
        return image
    if rng.random() < settings.cutout_holes_share:
        return punch_holes(image, settings.cutout_holes, settings.cutout_hole_px, rng)
    size_hw = (image.shape[0], image.shape[1])
    return keep_rectangle(image, *draw_rectangle(size_hw, settings.cutout_area, settings.cutout_aspect, rng))


def draw_rectangle(
    size_hw: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A rectangle within an image of (height, width): (top, left, height, width) in pixels.

    Area (a fraction of the image's) is uniform, width over height log-uniform, the place uniform. What does not fit is
    drawn again; after ten tries in vain it is the whole image.
    """
    height, width = size_hw
    for _ in range(_TRIES):
        share, shape, y, x = rng.random(4).tolist()
        pixels = height * width * (area[0] + (area[1] - area[0]) * share)
        ratio = aspect[0] * math.exp(math.log(aspect[1] / aspect[0]) * shape)
        kept_width, kept_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < kept_width <= width and 0 < kept_height <= height:
            top, left = int((height - kept_height + 1) * y), int((width - kept_width + 1) * x)
            return top, left, kept_height, kept_width
    return 0, 0, height, width


def keep_rectangle(image: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """The pixels of a rectangle where they were, black around them."""
    out = np.zeros_like(image)
    inside = np.s_[top : top + height, left : left + width]
    out[inside] = image[inside]
    return out


def punch_holes(image: np.ndarray, holes: tuple[int, int], side_px: int, rng: np.random.Generator) -> np.ndarray:
    """Black squares wholly within the image, which may overlap; as many as is drawn from (fewest, most)."""
    height, width = image.shape[:2]
    high, wide = min(side_px, height), min(side_px, width)
    count = int(rng.integers(holes[0], holes[1], endpoint=True))
    out = image.copy()
    for y, x in rng.random((count, 2)).tolist():
        top, left = int((height - high + 1) * y), int((width - wide + 1) * x)
        out[top : top + high, left : left + wide] = 0
    return out
