"""A square about a face, cut from a photograph without rounding, and where crops come from.

Source of the padding: Kim et al., CVPR 2024, https://arxiv.org/abs/2403.14852, supplementary 3: crops by the annotated
boxes and a padding of 0.1. The square's side is max(w, h) (1 + 2 padding), its centre the box's; what lies outside of
the photograph is black.

Coordinates: boxes and frames are left, top, right, bottom; they and landmarks are fractions of the image that they
belong to unless a name ends in _px. Pixels are as in annotations.py: landmarks pixel-index, edges between pixels.
Shape letters: n faces, h x w pixels.
"""

from typing import NamedTuple, Protocol

import cv2
import numpy as np

from face.augment.geometry import Placement, placement_matrix
from face.data.images import decode_image
from face.dfa.annotations import FaceAnnotations

__all__ = [
    "FACE",
    "FACE_WITHOUT_LANDMARKS",
    "NO_FACE",
    "Crop",
    "CropSource",
    "PhotographCrops",
    "cut_frame",
    "frame_matrix",
    "map_points",
    "square_frames",
]

FACE, FACE_WITHOUT_LANDMARKS, NO_FACE = 1, -1, 0
"""What a crop holds, in the numbers of the authors' targets."""


class Crop(NamedTuple):
    """A face, and where in an image it is."""

    image: np.ndarray
    """[h, w, 3] uint8 RGB, at least what the frame holds, so far as the photograph reaches."""

    frame: np.ndarray
    """[4] the square to be cut from `image`; its edges may lie outside."""

    box: np.ndarray
    """[4] of the face; zeros where there is none."""

    landmarks: np.ndarray
    """[5, 2]; NaN where there are none."""

    kind: int
    """FACE, FACE_WITHOUT_LANDMARKS or NO_FACE."""


class CropSource(Protocol):
    """Crops by their index, 0 to n - 1; picklable, for worker processes."""

    kinds: np.ndarray
    """int64 [n], see `Crop.kind`."""

    def __len__(self) -> int: ...

    def name_of(self, index: int) -> str:
        """What messages call the crop."""
        ...

    def read(self, index: int) -> Crop:
        """The crop; ImageError if its image does not decode."""
        ...


def square_frames(boxes_px: np.ndarray, padding: float = 0.1) -> np.ndarray:
    """[..., 4] squares about boxes [..., 4], both with edges in pixels, in float64."""
    boxes = np.asarray(boxes_px, np.float64)
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]).max(axis=-1, keepdims=True) * (1 + 2 * padding) / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def frame_matrix(
    frame: np.ndarray, image_hw: tuple[int, int], out_hw: tuple[int, int], placement: Placement | None = None
) -> np.ndarray:
    """[3, 3] float64, affine: pixel-index coordinates of an image to those of its frame, resized and placed.

    Args:
        frame: [4] fractions of the image.
        image_hw: height and width of the image.
        out_hw: of the output.
        placement: where in the output the frame comes to lie; None: it fills it.
    """
    height, width = image_hw
    left, top, right, bottom = np.asarray(frame, np.float64) * (width, height, width, height)
    # Pixel-index coordinates of the frame begin half a pixel inside of its edge, as the image's do.
    to_frame = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top], [0.0, 0.0, 1.0]])
    return placement_matrix(placement or Placement(), (bottom - top, right - left), out_hw) @ to_frame


def cut_frame(image: np.ndarray, matrix: np.ndarray, out_hw: tuple[int, int], border: int = 0) -> np.ndarray:
    """An image under an affine matrix, interpolated (bilinear) once; where it shrinks, by the mean over areas.

    Args:
        image: [h, w, 3] uint8.
        matrix: [3, 3], pixel-index coordinates of the image to those of the output.
        out_hw: height and width of the output.
        border: grey level of what comes from outside the image.

    Returns:
        [*out_hw, 3] uint8.
    """
    height, width = out_hw
    shrinks = 1 / np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    finer = max(1, int(shrinks))  # up to twice smaller, bilinear interpolation leaves no pixel out
    if finer > 1:
        middle = (finer - 1) / 2
        matrix = np.array([[finer, 0.0, middle], [0.0, finer, middle], [0.0, 0.0, 1.0]]) @ matrix
    grey = (border, border, border)
    out = cv2.warpAffine(image, matrix[:2], (width * finer, height * finer), borderValue=grey)
    return cv2.resize(out, (width, height), interpolation=cv2.INTER_AREA) if finer > 1 else out


def map_points(
    points: np.ndarray, matrix: np.ndarray, image_hw: tuple[int, int], out_hw: tuple[int, int]
) -> np.ndarray:
    """[..., 2] fractions of an image to fractions of what `cut_frame` makes of it with the same matrix, in float64."""
    (height, width), (out_height, out_width) = image_hw, out_hw
    pixels = np.asarray(points, np.float64) * (width, height) - 0.5
    moved = pixels @ matrix[:2, :2].T + matrix[:2, 2]
    return (moved + 0.5) / (out_width, out_height)


class PhotographCrops:
    """Crops straight from the photographs, which are decoded for each face: for evaluation, and for trying things out.

    Args:
        annotations: of the photographs.
        padding: about the box, as a share of its longer side.
    """

    def __init__(self, annotations: FaceAnnotations, padding: float = 0.1) -> None:
        self.annotations, self.padding = annotations, padding
        self.kinds = np.where(annotations.has_landmarks, FACE, FACE_WITHOUT_LANDMARKS).astype(np.int64)
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.annotations)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_last": None}

    def name_of(self, index: int) -> str:
        """The photograph, and where its face is annotated."""
        return self.annotations.name_of(index)

    def read(self, index: int) -> Crop:
        """The whole photograph and where in it the face is.

        Raises:
            ImageError: it does not decode.
            OSError: it cannot be read.
        """
        faces = self.annotations
        image = self._photograph(int(faces.image_of[index]))
        scale = np.tile(image.shape[1::-1], 2)
        box = faces.boxes_px[index]
        return Crop(
            image=image,
            frame=square_frames(box, self.padding) / scale,
            box=box / scale,
            landmarks=(faces.landmarks_px[index] + 0.5) / scale[:2],
            kind=int(self.kinds[index]),
        )

    def _photograph(self, image: int) -> np.ndarray:
        """Faces of one photograph mostly come one after the other."""
        if self._last is None or self._last[0] != image:
            path = self.annotations.image_path(image)
            self._last = image, decode_image(path.read_bytes(), str(path))
        return self._last[1]
