"""Faces found and aligned by one differentiable network: images in, aligned images and their landmarks out.

Source: supplementary 3 and 7 of Kim et al., CVPR 2024, https://arxiv.org/abs/2403.14852, and the authors' code
(mk-minchul/CVLface@d3d09c9, aligners/differentiable_face_aligner). Written anew. Deliberate differences: the alignment
is on the tape, so that a loss on the aligned images trains the landmarks; aligned images are sampled from the images
given, not from the network's small ones; shrinking is antialiased; and landmarks and boxes come back as fractions of
the image given, whatever its shape.
`align_corners=True` with `sample_from="network"` is their way, to be fed with weights whose results must not change.
Where theirs gives no landmarks (images that are not square) or wrong numbers (boxes divided by the image's size twice,
and not freed of the padding; landmarks freed of the padding as if it were no whole number of pixels), this does not
follow.

Coordinates: (x, y), fractions of the image, see `face.alignment`.
Shape letters: B images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from face.alignment import align_faces
from face.dfa.network import DFANetwork, DFAPrediction
from face.dfa.pretrained import load_dfa

__all__ = ["AlignedFaces", "AlignerSettings", "FaceAligner", "load_aligner"]


@dataclass(frozen=True, kw_only=True)
class AlignerSettings:
    """A face aligner around its network."""

    out_hw: tuple[int, int] = (112, 112)
    """(rows, cols) of the aligned images."""

    padding_ratio: float = 0.0
    """What is put around an image on each side before the network sees it, of its longer side."""

    sample_from: Literal["input", "network"] = "input"
    """Whether aligned images are interpolated from the images given, or from what the network sees of them."""

    align_corners: bool = False
    """Resize and sample as the KP-RPE authors do, half a pixel off and without antialiasing."""

    supersample: int = 1
    """n for the mean of n x n samples at each pixel, for images that are shrunk much; see `face.alignment`."""

    fill: float = -1.0
    """What is outside of the image: -1 is black."""

    def __post_init__(self) -> None:
        if len(self.out_hw) != 2 or min(self.out_hw) < 1:
            raise ValueError(f"out_hw must be (rows, cols), both >= 1, got {self.out_hw}")
        if not 0 <= self.padding_ratio < float("inf"):
            raise ValueError(f"padding_ratio must be finite and >= 0, got {self.padding_ratio}")
        if self.sample_from not in ("input", "network"):
            raise ValueError(f"sample_from must be input or network, got {self.sample_from!r}")
        if self.supersample < 1:
            raise ValueError(f"supersample must be >= 1, got {self.supersample}")


class AlignedFaces(NamedTuple):
    """The face of each image, aligned."""

    images: Tensor
    """[B, 3, *out_hw]."""

    landmarks: Tensor
    """[B, 5, 2], fractions of the image given."""

    aligned_landmarks: Tensor
    """[B, 5, 2], fractions of the aligned image: what a recognizer with KP-RPE takes as keypoints."""

    score: Tensor
    """[B] in [0, 1], how sure it is that there is a face."""

    boxes: Tensor
    """[B, 4] (left, top, right, bottom), fractions of the image given."""

    valid: Tensor
    """[B], False where the landmarks cannot be aligned; the image is only resized then."""

    matrix: Tensor
    """[B, 3, 3] from pixel-index coordinates of the image given to those of the aligned one."""


class FaceAligner(nn.Module):
    """Images with one face each to aligned ones.

    Args:
        network: that finds the landmarks.
        settings: of the rest.
    """

    def __init__(self, network: DFANetwork, settings: AlignerSettings | None = None) -> None:
        super().__init__()
        self.network = network
        self.settings = settings or AlignerSettings()

    def forward(self, images: Tensor) -> AlignedFaces:
        """Find landmarks and align by them.

        An image that is not as high as it is wide is padded to a square (the network's shape, if that is none), itself
        in the middle. No images give no faces.

        Args:
            images: [B, 3, h, w], RGB in [-1, 1], of any one size.

        Raises:
            ValueError: images of another shape or dtype.
        """
        return self.align_groups([images])[0]

    def align_groups(self, groups: Sequence[Tensor]) -> list[AlignedFaces]:
        """The same of images of several sizes: the network, whose images have one size, runs once for all of them.

        Args:
            groups: [B, 3, h, w] each, of any sizes, as `forward` takes them; of one dtype.

        Returns:
            The faces of each group.

        Raises:
            ValueError: images of another shape or dtype.
        """
        for images in groups:
            if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 1 or not images.is_floating_point():
                raise ValueError(
                    f"images must be floating point of shape [B, 3, h, w], got {images.dtype} {list(images.shape)}"
                )
        views = [_View(images, self.network.image_hw, self.settings) for images in groups]
        if len(views) == 1:
            return [self._aligned(groups[0], views[0], self._predict(views[0].images))]
        if not views:
            return []
        found = self._predict(torch.cat([view.images for view in views]))
        parts = [tensor.split([len(images) for images in groups]) for tensor in found]
        return [
            self._aligned(images, view, DFAPrediction(*part))
            for images, view, *part in zip(groups, views, *parts, strict=True)
        ]

    def _aligned(self, images: Tensor, view: "_View", found: DFAPrediction) -> AlignedFaces:
        settings = self.settings
        landmarks = view.to_input(found.landmarks)
        from_network = settings.sample_from == "network"
        aligned = align_faces(
            view.images if from_network else images,
            found.landmarks if from_network else landmarks,
            settings.out_hw,
            fill=settings.fill,
            align_corners=settings.align_corners,
            supersample=settings.supersample,
        )
        matrix = view.from_input(aligned.matrix) if from_network else aligned.matrix
        boxes = view.to_input(found.boxes.unflatten(-1, (2, 2))).flatten(-2)
        return AlignedFaces(aligned.images, landmarks, aligned.landmarks, found.score, boxes, aligned.valid, matrix)

    def _predict(self, seen: Tensor) -> DFAPrediction:
        if not len(seen):  # which convolutions do, but not all of a network
            return DFAPrediction(seen.new_empty(0, 5, 2), seen.new_empty(0), seen.new_empty(0, 4))
        return self.network.predict(seen, aggregate=self.network.settings.aggregator)


def load_aligner(
    source: str | Path,
    settings: AlignerSettings | None = None,
    inference: bool = True,
    device: torch.device | str = "cpu",
) -> FaceAligner:
    """An aligner with trained weights, in evaluation mode.

    Args:
        source: what `face.dfa.pretrained.load_dfa` takes: a file, a folder, or the name of a model on the hub.
        settings: of the aligner.
        inference: True for frozen weights, batch norm folded into the convolutions; False to train through it.
        device: to put it on.
    """
    network = load_dfa(source, map_location=device)
    if inference:
        network = network.for_inference()
    return FaceAligner(network, settings).to(device).eval()


class _View:
    """What the network sees of images: the whole of each, padded and resized; and the way back."""

    def __init__(self, images: Tensor, seen_hw: tuple[int, int], settings: AlignerSettings) -> None:
        height, width = images.shape[-2:]
        left, right, top, bottom = _padding((height, width), seen_hw, settings.padding_ratio)
        whole_h, whole_w = top + height + bottom, left + width + right
        if whole_h > height or whole_w > width:
            padded = F.pad(images, (left, right, top, bottom), value=settings.fill)
        else:
            padded = images
        self.images = _resize(padded, seen_hw, settings.align_corners)
        self._scale = whole_w / width, whole_h / height
        self._shift = -left / width, -top / height
        if settings.align_corners:
            cols, rows, offset = (seen_hw[1] - 1) / max(whole_w - 1, 1), (seen_hw[0] - 1) / max(whole_h - 1, 1), 0.0
        else:
            cols, rows, offset = seen_hw[1] / whole_w, seen_hw[0] / whole_h, 0.5
        # Between pixel-index coordinates: of the image, and of what is seen of it.
        self._index_scale = cols, rows, 1.0
        self._index_shift = cols * (left + offset) - offset, rows * (top + offset) - offset, 0.0

    def from_input(self, matrix: Tensor) -> Tensor:
        """[B, 3, 3] on pixel-index coordinates of what is seen to the same on those of the image."""
        shift = (matrix * matrix.new_tensor(self._index_shift)).sum(-1, keepdim=True)
        return torch.cat([matrix[..., :2], matrix[..., 2:] + shift], -1) * matrix.new_tensor(self._index_scale)

    def to_input(self, points: Tensor) -> Tensor:
        """[..., 2] fractions of what is seen to fractions of the image; float32 at least."""
        points = points.to(torch.promote_types(points.dtype, torch.float32))
        if self._scale == (1.0, 1.0):
            return points
        return points * points.new_tensor(self._scale) + points.new_tensor(self._shift)


def _padding(hw: tuple[int, int], seen_hw: tuple[int, int], ratio: float) -> tuple[int, int, int, int]:
    """Pixels left, right, above and below: up to the shape of what is seen, then `ratio` of that on each side."""
    height, width = hw
    rows, cols = seen_hw
    whole_h, whole_w = max(height, round(width * rows / cols)), max(width, round(height * cols / rows))
    left, top = (whole_w - width) // 2, (whole_h - height) // 2
    around_w, around_h = int(whole_w * ratio), int(whole_h * ratio)
    return (
        left + around_w,
        whole_w - width - left + around_w,
        top + around_h,
        whole_h - height - top + around_h,
    )


def _resize(images: Tensor, hw: tuple[int, int], align_corners: bool) -> Tensor:
    if tuple(images.shape[-2:]) == tuple(hw):
        return images
    precise = images.to(torch.promote_types(images.dtype, torch.float32))  # no antialiasing in half precision on CPUs
    resized = F.interpolate(precise, size=hw, mode="bilinear", align_corners=align_corners, antialias=not align_corners)
    return resized.to(images.dtype)
