"""Images of a set moved by affine maps when they are read, and the maps: between a face as it is framed and as it is
aligned, and about the middle of the image.

The two ends of an alignment are what a recognition pipeline has without and with it (supplementary 7 and Figure 11 of
Kim et al., CVPR 2024, https://arxiv.org/abs/2403.14852): the image resized, height and width each on their own, and the
image under the least-squares similarity of its landmarks to the template, as `python -m face.align` writes it. Between
them (their Figure 5, which does not say how) the turn is interpolated as an angle, the short way round; the scale, and
the difference between the scales of height and width, as logarithms; and the place of the landmarks' mean on a straight
line. Matrices interpolated entry by entry would shrink a face on the way to another angle.

Coordinates: maps are from pixel-index coordinates of an image to those of the model's input; landmarks are fractions.
Shape letters: n images, H x W of the model's input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from common.keypoints import fractions_to_pixels, pixels_to_fractions, transform_keypoints
from common.runtime.progress import progress_bar
from face.alignment import align_faces, warp_images
from face.data.landmarks import Landmarks
from face.evaluation.images import ImageList
from face.models.base import pixels_to_input

__all__ = [
    "AlignmentPath",
    "MovedImages",
    "alignment_path",
    "centred_map",
    "image_sizes",
    "move_landmarks",
    "resize_maps",
]

_MOST_SAMPLES = 8  # along each axis, of a pixel
_PIXELS = 2**24  # of images that are handled at one time
_WORTH_A_BAR = 1000


class MovedImages:
    """A list of images under affine maps (the interface of `ImageList`).

    Args:
        images: n.
        matrices: [n, 3, 3], last rows (0, 0, 1): pixel-index coordinates of each image to those of the result.
        out_hw: (H, W).
    """

    def __init__(self, images: ImageList, matrices: np.ndarray, out_hw: tuple[int, int]) -> None:
        if matrices.shape != (len(images), 3, 3):
            raise ValueError(f"matrices must have shape [{len(images)}, 3, 3], got {list(matrices.shape)}")
        self._images, self._out_hw = images, out_hw
        self._matrices = matrices.astype(np.float32)

    @property
    def root(self) -> Path:
        """Of the images."""
        return self._images.root

    def __len__(self) -> int:
        return len(self._images)

    def key_of(self, index: int) -> str:
        return self._images.key_of(index)

    def name_of(self, index: int) -> str:
        return self._images.name_of(index)

    def read_bytes(self, index: int) -> bytes:
        """The moved image as a PNG."""
        return cv2.imencode(".png", self.read(index)[..., ::-1])[1].tobytes()

    def read(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3] RGB, black where the image has nothing; means over areas where it is shrunk."""
        image = np.ascontiguousarray(self._images.read(index).transpose(2, 0, 1))
        matrix = torch.from_numpy(self._matrices[index])
        shrinks = float(torch.linalg.vector_norm(matrix[:2, 0]).clamp(min=1e-3).reciprocal())
        moved = warp_images(
            pixels_to_input(torch.from_numpy(image)[None], "cpu"),
            matrix[None],
            self._out_hw,
            fill=-1.0,
            supersample=min(max(round(shrinks), 1), _MOST_SAMPLES),
        )
        return moved[0].add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def image_sizes(images: ImageList, progress: bool = False) -> np.ndarray:
    """int64 [n, 2] (height, width) of all images, which are decoded for it.

    Raises:
        ImageError: one does not decode; it is named.
    """
    sizes = np.empty((len(images), 2), np.int64)
    hidden = not progress or len(images) < _WORTH_A_BAR
    for index in progress_bar(range(len(images)), desc="reading sizes", unit="image", disable=hidden):
        sizes[index] = images.read(index).shape[:2]
    return sizes


def resize_maps(sizes: np.ndarray, out_hw: tuple[int, int]) -> np.ndarray:
    """float64 [n, 3, 3]: images of (height, width) [n, 2] resized, height and width each on their own."""
    matrices = np.zeros((len(sizes), 3, 3))
    scales = np.array(out_hw)[::-1] / sizes[:, ::-1]
    matrices[:, [0, 1], [0, 1]] = scales
    matrices[:, :2, 2] = scales / 2 - 0.5
    matrices[:, 2, 2] = 1
    return matrices


def centred_map(
    out_hw: tuple[int, int], degrees: float = 0.0, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """float64 [3, 3]: pixels of an input turned and scaled about its middle, and shifted.

    Args:
        out_hw: (H, W).
        degrees: clockwise.
        scale: above 1 enlarges.
        shift: (x, y) as fractions of the width and the height.
    """
    middle = (np.array(out_hw)[::-1] - 1) / 2
    angle = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = middle - linear @ middle + np.array(shift) * np.array(out_hw)[::-1]
    return matrix


def move_landmarks(landmarks: Landmarks, matrices: np.ndarray, sizes: np.ndarray, out_hw: tuple[int, int]) -> Landmarks:
    """Landmarks under the maps of their images: fractions of these to fractions of the result; NaN stays NaN."""
    points = np.empty_like(landmarks.points)
    for size in np.unique(sizes, axis=0):
        chosen = np.flatnonzero((sizes == size).all(1))
        pixels = fractions_to_pixels(landmarks.points[chosen].astype(np.float64), (int(size[0]), int(size[1])))
        moved = transform_keypoints(pixels, matrices[chosen].astype(np.float64))
        points[chosen] = pixels_to_fractions(moved, out_hw)
    return Landmarks(points=points, scores=landmarks.scores, found=landmarks.found)


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignmentPath:
    """The way of each image from its frame (0) to its alignment (1)."""

    sizes: np.ndarray
    """int64 [n, 2] (height, width)."""

    resized: np.ndarray
    """float64 [n, 3, 3], the maps at 0."""

    aligned: np.ndarray
    """float32 [n, 3, 3], the maps at 1."""

    centres: np.ndarray
    """float64 [n, 2], means of the landmarks in pixel-index coordinates of the images."""

    out_hw: tuple[int, int]
    """(H, W)."""

    def at(self, share: float) -> np.ndarray:
        """[n, 3, 3] maps at a share of the way; those of the ends as they are."""
        if share in (0, 1):
            return self.aligned if share else self.resized
        aligned = self.aligned.astype(np.float64)
        scale = np.hypot(aligned[:, 0, 0], aligned[:, 1, 0]) ** share
        angle = share * np.arctan2(aligned[:, 1, 0], aligned[:, 0, 0])
        along_x, along_y = (self.resized[:, axis, axis] ** (1 - share) for axis in (0, 1))
        matrices = np.zeros_like(aligned)
        turn = np.stack(
            [np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], 1
        )
        matrices[:, :2, :2] = scale[:, None, None] * turn * np.stack([along_x, along_y], -1)[:, None]
        before, after = (transform_keypoints(self.centres[:, None], ends)[:, 0] for ends in (self.resized, aligned))
        place = (1 - share) * before + share * after
        matrices[:, :2, 2] = place - (matrices[:, :2, :2] @ self.centres[..., None])[..., 0]
        matrices[:, 2, 2] = 1
        return matrices


def alignment_path(
    images: ImageList, landmarks: Landmarks, out_hw: tuple[int, int], sizes: np.ndarray | None = None
) -> AlignmentPath:
    """The ways of all images of a set.

    Args:
        images: n.
        landmarks: of all of them.
        out_hw: (H, W) of the model's input, where the template has its places.
        sizes: of `image_sizes`, if known.

    Raises:
        ValueError: images without landmarks, or with such that give no alignment; how many, and the first of them.
        ImageError: an image does not decode.
    """
    _refuse(images, np.flatnonzero(~landmarks.found), "no landmarks")
    sizes = image_sizes(images) if sizes is None else sizes
    matrices = np.empty((len(images), 3, 3), np.float32)
    valid = np.zeros(len(images), bool)
    centres = np.empty((len(images), 2))
    for height, width in np.unique(sizes, axis=0).tolist():
        members = np.flatnonzero((sizes == (height, width)).all(1))
        centres[members] = fractions_to_pixels(landmarks.points[members].astype(np.float64), (height, width)).mean(1)
        step = max(1, _PIXELS // (height * width))
        for begin in range(0, len(members), step):
            part = members[begin : begin + step]
            # What matters is the very matrix that images are aligned with, and not the pixels.
            nothing = torch.zeros(1, 1, 1, 1).expand(len(part), 1, height, width)
            made = align_faces(nothing, torch.from_numpy(landmarks.points[part]), out_hw)
            matrices[part], valid[part] = made.matrix.numpy(), made.valid.numpy()
    _refuse(images, np.flatnonzero(~valid), "landmarks that give no alignment")
    return AlignmentPath(
        sizes=sizes, resized=resize_maps(sizes, out_hw), aligned=matrices, centres=centres, out_hw=out_hw
    )


def _refuse(images: ImageList, indices: Sequence[int] | np.ndarray, what: str) -> None:
    if len(indices):
        shown = ", ".join(images.name_of(int(index)) for index in indices[:5]) + (", ..." if len(indices) > 5 else "")
        raise ValueError(f"{len(indices)} of {len(images)} images have {what}, first: {shown}")
