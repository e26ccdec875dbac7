"""Images that come with landmarks in pixels, as they are or aligned by these.

Source: insightface@7fadd42 (recognition/arcface_torch/eval_ijbc.py, python-package norm_crop): the least-squares
similarity from an image's landmarks to the 112 px template, then cv2.warpAffine with black outside. The warp is the
same call, so that embeddings are those of the public scripts; `face.alignment` does the same in torch.
Deliberate differences: the similarity is computed in float64, there in the float32 of the landmarks, which changes
about 3 of 100,000 values of the images, by 1; landmarks without a similarity are refused, of which scikit-image makes
NaN.

An image of unknown size has no landmarks in fractions of it: they come with the image when it is read. Of aligned
images, whose size is known, they are known before.

Coordinates: pixel-index coordinates come in (the centre of the first pixel is (0, 0)), fractions go out.
Shape letters: n images, h x w pixels.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from common.geometry import fit_similarity
from common.keypoints import pixels_to_fractions, transform_keypoints
from face.data.landmarks import Landmarks
from face.evaluation.images import ImageList
from face.reference import REFERENCE_SIZE, reference_landmarks

__all__ = ["AlignedImages", "MarkedImage", "UnalignedImages"]


class MarkedImage(NamedTuple):
    """An image and where its landmarks are."""

    image: np.ndarray
    """uint8 [h, w, 3] RGB."""

    landmarks: np.ndarray
    """[5, 2] float32, fractions of the image."""


class _MarkedImages:
    """What both views have in common."""

    def __init__(self, images: ImageList, landmarks_px: np.ndarray) -> None:
        if landmarks_px.shape != (len(images), 5, 2):
            raise ValueError(f"landmarks_px must have shape [{len(images)}, 5, 2], got {list(landmarks_px.shape)}")
        self.images = images
        self.landmarks_px = landmarks_px

    @property
    def root(self) -> Path:
        return self.images.root

    def __len__(self) -> int:
        return len(self.images)

    def key_of(self, index: int) -> str:
        return self.images.key_of(index)

    def name_of(self, index: int) -> str:
        return self.images.name_of(index)


class UnalignedImages(_MarkedImages):
    """An `ImageList` as it is, and its landmarks.

    Args:
        images: n.
        landmarks_px: [n, 5, 2], pixel-index coordinates of each.

    Raises:
        ValueError: landmarks of another shape.
    """

    def read_bytes(self, index: int) -> bytes:
        return self.images.read_bytes(index)

    def read(self, index: int) -> np.ndarray:
        return self.images.read(index)

    def read_marked(self, index: int) -> MarkedImage:
        """The image and its landmarks as fractions of it.

        Raises:
            ImageError: it does not decode; it is named.
        """
        image = self.read(index)
        height, width = image.shape[:2]
        points = pixels_to_fractions(self.landmarks_px[index].astype(np.float64), (height, width))
        return MarkedImage(image, points.astype(np.float32))


class AlignedImages(_MarkedImages):
    """An `ImageList` whose images are aligned by their landmarks when they are read.

    Args:
        images: n.
        landmarks_px: [n, 5, 2], pixel-index coordinates of each.
        out_hw: (height, width) of aligned images.

    Raises:
        ValueError: landmarks of another shape, or such as no similarity takes to the template (one point, NaN); how
            many, and the first images that have them.
    """

    landmarks: Landmarks
    """Where the similarity takes them: fractions of the aligned images. Found everywhere, with scores of 1."""

    def __init__(
        self, images: ImageList, landmarks_px: np.ndarray, out_hw: tuple[int, int] = (REFERENCE_SIZE, REFERENCE_SIZE)
    ) -> None:
        super().__init__(images, landmarks_px)
        self.out_hw = out_hw
        points = landmarks_px.astype(np.float64)
        fit = fit_similarity(points, reference_landmarks(out_hw))
        if not fit.valid.all():
            bad = np.flatnonzero(~fit.valid)
            shown = ", ".join(images.name_of(int(index)) for index in bad[:5]) + (", ..." if len(bad) > 5 else "")
            raise ValueError(
                f"{images.root}: landmarks of {len(bad)} of {len(images)} images give no alignment, first: {shown}"
            )
        self.matrices = fit.matrix
        moved = pixels_to_fractions(transform_keypoints(points, fit.matrix), out_hw)
        self.landmarks = Landmarks(
            points=moved.astype(np.float32),
            scores=np.ones(len(images), np.float32),
            found=np.ones(len(images), bool),
        )

    def read_bytes(self, index: int) -> bytes:
        """The aligned image as PNG."""
        return cv2.imencode(".png", self.read(index)[..., ::-1])[1].tobytes()

    def read(self, index: int) -> np.ndarray:
        """uint8 [*out_hw, 3] RGB.

        Raises:
            ImageError: the image does not decode; it is named.
        """
        height, width = self.out_hw
        return cv2.warpAffine(self.images.read(index), self.matrices[index, :2], (width, height), borderValue=0.0)

    def read_marked(self, index: int) -> MarkedImage:
        """The aligned image and where its landmarks are."""
        return MarkedImage(self.read(index), self.landmarks.points[index])
