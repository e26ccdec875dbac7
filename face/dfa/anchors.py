"""Anchors of the face detector, and boxes and landmarks as offsets from them.

Source: SSD (https://arxiv.org/abs/1512.02325) and RetinaFace (https://arxiv.org/abs/1905.00641), with the sizes of the
differentiable face aligner (mk-minchul/CVLface@d3d09c9): faces that fill most of the image.
Coordinates: (x, y) as fractions of the image, x right and y down. An anchor is (cx, cy, w, h), a box (left, top, right,
bottom). Offsets are in units of the anchor: a shift by its size is 1 / 0.1, a size e times its own is 1 / 0.2.
Shape letters: B batch, A anchors.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "ANCHOR_SIZES",
    "STRIDES",
    "decode_boxes",
    "decode_landmarks",
    "encode_boxes",
    "encode_landmarks",
    "make_anchors",
]

STRIDES = (8, 16, 32)
ANCHOR_SIZES = ((64, 80), (96, 112), (128, 144))
_SHIFT, _SCALE = 0.1, 0.2  # the "variances" of SSD


def make_anchors(
    image_hw: tuple[int, int],
    strides: Sequence[int] = STRIDES,
    sizes: Sequence[Sequence[int]] = ANCHOR_SIZES,
) -> Tensor:
    """Square anchors at the centres of the cells of every level.

    Args:
        image_hw: (rows, cols) of the images in pixels.
        strides: pixels from cell to cell, for each level. A level has ceil(size / stride) cells along a side.
        sizes: sides of the anchors in pixels, for each level.

    Returns:
        [A, 4] float32, (cx, cy, w, h): level by level, row by row, the sizes of a cell one after the other.

    Raises:
        ValueError: a number below 1, or another number of strides than of levels.
    """
    if len(strides) != len(sizes):
        raise ValueError(f"each level needs a stride and its sizes, got {len(strides)} strides and {len(sizes)} levels")
    if min(*image_hw, *strides, *(size for level in sizes for size in level)) < 1:
        raise ValueError(f"image_hw, strides and sizes must be >= 1, got {image_hw}, {strides} and {sizes}")
    height, width = image_hw
    anchors = [
        ((col + 0.5) * stride / width, (row + 0.5) * stride / height, size / width, size / height)
        for stride, level in zip(strides, sizes, strict=True)
        for row in range(math.ceil(height / stride))
        for col in range(math.ceil(width / stride))
        for size in level
    ]
    return torch.tensor(anchors, dtype=torch.float64).float()


def decode_boxes(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Offsets [..., A, 4] (of the centre, of the logarithm of the size) from anchors [A, 4] to boxes [..., A, 4]."""
    centres = anchors[..., :2] + offsets[..., :2] * _SHIFT * anchors[..., 2:]
    half = anchors[..., 2:] * (offsets[..., 2:] * _SCALE).exp() / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [..., A, 4], or [..., 1, 4] for all anchors, to their offsets [..., A, 4] from anchors [A, 4].

    Boxes need a size above 0; others have infinite offsets.
    """
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    shifts = (centres - anchors[..., :2]) / (_SHIFT * anchors[..., 2:])
    scales = ((boxes[..., 2:] - boxes[..., :2]) / anchors[..., 2:]).log() / _SCALE
    return torch.cat([shifts, scales], dim=-1)


def decode_landmarks(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Offsets [..., A, 10] from the centres of anchors [A, 4] to landmarks [..., A, 5, 2]."""
    # As wide as the offsets, which is several times as fast as an axis of two.
    points = offsets.shape[-1] // 2
    centres, sizes = (torch.cat([part] * points, dim=-1) for part in anchors.split(2, dim=-1))
    return (centres + offsets * _SHIFT * sizes).unflatten(-1, (points, 2))


def encode_landmarks(landmarks: Tensor, anchors: Tensor) -> Tensor:
    """Landmarks [..., A, 5, 2], or [..., 1, 5, 2] for all anchors, to offsets [..., A, 10] from anchors [A, 4]."""
    return ((landmarks - anchors[..., None, :2]) / (_SHIFT * anchors[..., None, 2:])).flatten(-2)
