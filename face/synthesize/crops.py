"""The two ways in which face images come: aligned by their landmarks, or cut out as a detector frames a face.

Coordinates: landmarks in pixel-index coordinates of the scene come in, fractions of the crop go out.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from common.geometry import fit_similarity
from common.keypoints import pixels_to_fractions, transform_keypoints
from face.reference import reference_landmarks
from face.synthesize.render import Scene

__all__ = ["Crop", "aligned_crop", "detector_crop"]

BOX_MARGIN = 1.2  # side of an undisturbed crop, as a multiple of the longer side of the face's box


@dataclass(frozen=True)
class Crop:
    """image [size, size, 3] uint8 RGB; landmarks [5, 2] as fractions of it."""

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float64]


def aligned_crop(scene: Scene, size: int) -> Crop:
    """The scene under the similarity that takes its landmarks closest to the reference."""
    return _warped(scene, fit_similarity(scene.landmarks, reference_landmarks((size, size))).matrix, size)


def detector_crop(scene: Scene, size: int, shift: float, scale: float, rng: np.random.Generator) -> Crop:
    """A square about the face's box, neither placed nor sized well; nothing is turned.

    Args:
        scene: the image.
        size: of the crop in pixels.
        shift: largest error of its place along each axis, as a share of its side.
        scale: largest error of its size, as a share of it.
        rng: for both errors.
    """
    left, top, right, bottom = scene.box
    side = BOX_MARGIN * max(right - left, bottom - top)
    off_x, off_y, off_size = rng.uniform(-1, 1, 3)
    centre = np.array([left + right, top + bottom]) / 2 + shift * side * np.array([off_x, off_y])
    zoom = size / (side * (1 + scale * off_size))
    # The crop's centre is at (size - 1) / 2 in pixel-index coordinates.
    move = (size - 1) / 2 - zoom * centre
    return _warped(scene, np.array([[zoom, 0, move[0]], [0, zoom, move[1]], [0, 0, 1]]), size)


def _warped(scene: Scene, matrix: NDArray[np.float64], size: int) -> Crop:
    image = cv2.warpAffine(scene.image, matrix[:2], (size, size), flags=cv2.INTER_LINEAR)
    landmarks = pixels_to_fractions(transform_keypoints(scene.landmarks, matrix), (size, size))
    return Crop(np.asarray(image, np.uint8), landmarks)
