"""Geometry on keypoints: homographies, mirrors, units, and the check that fractions really are fractions.

Every function takes a NumPy array or a tensor and returns the same kind; gradients pass through tensors.

Coordinates: (x, y), x right and y down. "Pixels" are pixel-index coordinates, the centre of the first pixel is
(0, 0); "fractions" span the image, so its corners are (0, 0) and (1, 1): fraction = (pixel + 0.5) / size.
A third channel, where present, is a confidence or visibility and is carried along untouched.
Shape letters: L keypoints, C 2 or 3 channels, `...` any leading axes.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from common.keypoints.schema import KeypointSchema

__all__ = [
    "check_fractions",
    "flip_keypoints",
    "fractions_to_pixels",
    "pixels_to_fractions",
    "transform_keypoints",
]

Array = TypeVar("Array", np.ndarray, Tensor)

# A joint may leave the crop, so single coordinates far outside [0, 1] are legal. Pixels betray themselves by most of
# the coordinates being beyond this many image sizes.
_FAR_OUTSIDE = 2.0


def _check_shape(keypoints: Array) -> None:
    if keypoints.ndim < 2 or keypoints.shape[-1] not in (2, 3):
        raise ValueError(f"keypoints must have shape [..., L, 2] or [..., L, 3], got {list(keypoints.shape)}")


def _with_xy(keypoints: Array, x: Array, y: Array) -> Array:
    """The same keypoints at other places, of which there may be more; further channels stay, and so does a floating
    point dtype (fractions of whole pixels are no integers)."""
    shape = (*x.shape, keypoints.shape[-1] - 2)
    if isinstance(keypoints, Tensor):
        moved = torch.cat([torch.stack([x, y], dim=-1), keypoints[..., 2:].expand(shape)], dim=-1)
        return moved.to(keypoints.dtype) if keypoints.is_floating_point() else moved
    moved = np.concatenate([np.stack([x, y], axis=-1), np.broadcast_to(keypoints[..., 2:], shape)], axis=-1)
    return moved.astype(keypoints.dtype, copy=False) if keypoints.dtype.kind == "f" else moved


def transform_keypoints(keypoints: Array, matrix: Array) -> Array:
    """Move keypoints by a homography, the same way that `cv2.warpPerspective(image, matrix)` moves the image.

    Args:
        keypoints: [..., L, C], (x, y) in the units of `matrix`.
        matrix: [3, 3] for all, or [..., 3, 3] with leading axes that broadcast against those of the keypoints; old
            homogeneous coordinates to new ones. Affine if its last row is (0, 0, 1).

    Returns:
        [..., L, C], as many as there are matrices. A point on the horizon of the homography comes out infinite, as
        mathematics has it.

    Raises:
        ValueError: wrong shapes.
    """
    _check_shape(keypoints)
    if tuple(matrix.shape[-2:]) != (3, 3):
        raise ValueError(f"matrix must have shape [..., 3, 3], got {list(matrix.shape)}")
    x, y = keypoints[..., 0], keypoints[..., 1]
    rows = (matrix[..., row, :, None] for row in range(3))  # each [..., 3, 1], against x of [..., L]
    u, v, w = (row[..., 0, :] * x + row[..., 1, :] * y + row[..., 2, :] for row in rows)
    return _with_xy(keypoints, u / w, v / w)


def flip_keypoints(keypoints: Array, schema: KeypointSchema, width: float = 1.0) -> Array:
    """Mirror left to right: x becomes width - x, and left and right keypoints trade names.

    Args:
        keypoints: [..., L, C] with the order of `schema`.
        schema: says which keypoints trade places.
        width: 1.0 for fractions; for pixel-index coordinates pass `columns - 1`.

    Raises:
        ValueError: wrong shape, or another number of keypoints than the schema has.
    """
    _check_shape(keypoints)
    if keypoints.shape[-2] != len(schema):
        raise ValueError(
            f"schema {schema.name} has {len(schema)} keypoints, got keypoints of shape {list(keypoints.shape)}"
        )
    mirrored = _with_xy(keypoints, width - keypoints[..., 0], keypoints[..., 1])
    return mirrored[..., schema.flip_order, :]


def pixels_to_fractions(keypoints: Array, size_hw: tuple[int, int]) -> Array:
    """[..., L, C] in pixel-index coordinates of an image of (height, width) to fractions of it."""
    _check_shape(keypoints)
    height, width = size_hw
    return _with_xy(keypoints, (keypoints[..., 0] + 0.5) / width, (keypoints[..., 1] + 0.5) / height)


def fractions_to_pixels(keypoints: Array, size_hw: tuple[int, int]) -> Array:
    """[..., L, C] in fractions of an image of (height, width) to its pixel-index coordinates."""
    _check_shape(keypoints)
    height, width = size_hw
    return _with_xy(keypoints, keypoints[..., 0] * width - 0.5, keypoints[..., 1] * height - 0.5)


def check_fractions(keypoints: Array, visibility: Array | None = None, source: str = "keypoints") -> None:
    """Refuse keypoints that are in pixels where fractions of the image are due.

    Reads values, so on an accelerator it waits for them: call it where samples are loaded.

    Args:
        keypoints: [..., L, C].
        visibility: [..., L]; keypoints of visibility 0 are not looked at.
        source: what the error message calls them (a file, a batch).

    Raises:
        ValueError: more than half of the visible keypoints are over two image sizes away, or one is not finite.
    """
    _check_shape(keypoints)
    xy = keypoints[..., :2]
    if visibility is not None:
        xy = xy[visibility > 0]
    if not xy.size if isinstance(xy, np.ndarray) else not xy.numel():
        return
    largest = abs(xy).max(-1)
    reach = largest.values if isinstance(largest, torch.return_types.max) else largest
    if not bool((reach < float("inf")).all()):
        raise ValueError(f"{source}: visible keypoints must be finite, found NaN or infinite coordinates")
    if float((reach > _FAR_OUTSIDE).sum()) > 0.5 * len(reach.reshape(-1)):
        raise ValueError(
            f"{source}: keypoints must be fractions of the image (about 0 to 1), but most of them reach beyond "
            f"{_FAR_OUTSIDE:g} (largest {float(reach.max()):.4g}): are they in pixels? See pixels_to_fractions"
        )
