"""Faces cut out loosely and brought to any size, several times from one scene as the frames of a video are.

Coordinates: landmarks are pixel-index coordinates of the crop.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from common.keypoints import fractions_to_pixels, pixels_to_fractions
from face.data.images import resize_image
from face.synthesize.crops import detector_crop
from face.synthesize.images import Purpose, Split, generator, render_scene
from face.synthesize.settings import SynthesisSettings

__all__ = ["LooseCrop", "draw_loose_crops", "encode_jpeg"]

_NARROWEST = 0.9  # width of a crop, as a share of its height


class LooseCrop(NamedTuple):
    """A face, and what a detector says of it."""

    image: NDArray[np.uint8]
    """[h, w, 3] RGB."""

    landmarks_px: NDArray[np.float64]
    """[5, 2]."""

    score: float
    """In [0, 1]."""

    @property
    def landmarks(self) -> NDArray[np.float64]:
        """[5, 2], fractions of the image."""
        height, width = self.image.shape[:2]
        return pixels_to_fractions(self.landmarks_px, (height, width))


def draw_loose_crops(
    settings: SynthesisSettings, identity: int, number: int, frames: int, heights: tuple[int, int]
) -> list[LooseCrop]:
    """Crops of one scene of a benchmark's identity.

    Args:
        settings: poses, cameras, and how badly crops are placed (half as badly as unaligned ones).
        identity: whose face.
        number: of the scene.
        frames: number of crops.
        heights: of crops in pixels, from and to; one is drawn for all of them, and each differs a little from it.
    """
    scene = render_scene(settings, Split.BENCHMARK, identity, number)
    rng = generator(settings.seed, Purpose.CROP, Split.BENCHMARK, identity, number)
    mean_height = rng.uniform(*heights)
    crops = []
    for _ in range(frames):
        side = settings.crop_size
        square = detector_crop(scene, side, settings.crop_shift / 2, settings.crop_scale / 2, rng)
        width = round(side * rng.uniform(_NARROWEST, 1.0))
        left = int(rng.integers(0, side - width, endpoint=True))
        cut = fractions_to_pixels(square.landmarks, (side, side)) - [left, 0.0]
        height = max(heights[0], round(mean_height * rng.uniform(0.9, 1.1)))
        size_hw = height, max(1, round(height * width / side))
        image = np.asarray(resize_image(square.image[:, left : left + width], size_hw), np.uint8)
        landmarks = fractions_to_pixels(pixels_to_fractions(cut, (side, width)), size_hw)
        crops.append(LooseCrop(image, landmarks, round(rng.uniform(0.6, 1.0), 3)))
    return crops


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """The bytes of a JPEG file of an RGB image."""
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
