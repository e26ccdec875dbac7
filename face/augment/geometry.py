"""Mirror, rotation, scale and translation of a face image as one matrix, and landmarks that go along.

Source: Table 6 of Kim et al., CVPR 2024, https://arxiv.org/abs/2403.14852, and the distribution of the authors' code
(mk-minchul/CVLface@d3d09c9, run_v1/data_augs/aug_utils/transform_cv2.py). The image is rotated about its centre,
resized to the output times `scale`, moved, and mirrored; the product of all four is what interpolates, once.

Distribution, with u uniform in [-1, 1] wherever it stands:
    mirrored  with probability flip_prob
    angle     rotation_degrees * u with probability rotation_prob, else 0
    scale     uniform in scale_range
    shift     (room * (1 - scale) + extra * scale) / 2 * u of the output's width, and likewise (another u) of its
              height; room is translation_room, extra uniform in [0, translation_extra], one for both axes
A smaller face moves within the frame. For a larger one the room is negative, which makes no difference to u, but there
`extra` narrows it at first: so it is with the authors.

Deliberate differences: theirs halves sizes to whole pixels and centres at size / 2, half a pixel from the centre of the
pixels; here a mirror is image[:, ::-1] and settings without geometry leave the image as it is, byte for byte. An input
of another size than the output is resized to it as a whole; theirs cuts a window of the output's size. Their landmarks
are moved by a second matrix, in other units; here there is one.

Coordinates: (x, y), x right and y down. Matrices act on pixel-index coordinates (the centre of the first pixel is
(0, 0)), keypoints are fractions of the image: (pixel + 0.5) / size.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from common.keypoints import FIVE_POINT_FACE, flip_keypoints, transform_keypoints
from face.augment.settings import AugmentationSettings
from face.data.images import resize_image

__all__ = ["Placement", "draw_placement", "move_image", "move_keypoints", "placement_matrix"]


class Placement(NamedTuple):
    """Where in the output the input lies. The defaults are a plain resizing."""

    angle_degrees: float = 0.0
    """Rotation about the image's centre, anticlockwise as one sees it."""

    scale: float = 1.0
    """Size of the face, relative to plain resizing."""

    shift_x: float = 0.0
    """How far the image's centre moves right, as a fraction of the output's width, before the mirror."""

    shift_y: float = 0.0
    """How far it moves down, as a fraction of the output's height."""

    mirrored: bool = False
    """Whether left and right are exchanged, at last."""


def draw_placement(settings: AugmentationSettings, rng: np.random.Generator) -> Placement:
    """One placement from the distribution above. It takes seven numbers from `rng`, whatever the settings."""
    flip, rotate, angle, scale, x, y, extra = rng.random(7).tolist()
    smallest, largest = settings.scale_range
    scale = smallest + (largest - smallest) * scale
    room = settings.translation_room * (1 - scale) + settings.translation_extra * extra * scale
    return Placement(
        angle_degrees=settings.rotation_degrees * (2 * angle - 1) if rotate < settings.rotation_prob else 0.0,
        scale=scale,
        shift_x=room / 2 * (2 * x - 1),
        shift_y=room / 2 * (2 * y - 1),
        mirrored=flip < settings.flip_prob,
    )


def placement_matrix(placement: Placement, in_hw: tuple[int, int], out_hw: tuple[int, int]) -> np.ndarray:
    """[3, 3] float64, affine: pixels of an input of (height, width) to those of the output."""
    angle, scale, shift_x, shift_y, mirrored = placement
    (in_height, in_width), (out_height, out_width) = in_hw, out_hw
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along_x, along_y = scale * out_width / in_width, scale * out_height / in_height
    xx, xy, yx, yy = along_x * cosine, along_x * sine, -along_y * sine, along_y * cosine
    centre_x, centre_y = (in_width - 1) / 2, (in_height - 1) / 2
    x0 = (out_width - 1) / 2 + shift_x * out_width - xx * centre_x - xy * centre_y
    y0 = (out_height - 1) / 2 + shift_y * out_height - yx * centre_x - yy * centre_y
    if mirrored:
        xx, xy, x0 = -xx, -xy, out_width - 1 - x0
    return np.array([[xx, xy, x0], [yx, yy, y0], [0.0, 0.0, 1.0]])


def move_image(image: np.ndarray, placement: Placement, out_hw: tuple[int, int], border: int = 0) -> np.ndarray:
    """[h, w, 3] uint8 to [*out_hw, 3] uint8, interpolated (bilinear) once, or not at all for a mere mirror.

    Args:
        image: of any size. Beyond about twice the output's size, bilinear interpolation skips pixels.
        placement: where it comes to lie.
        out_hw: height and width of the output.
        border: grey level of what comes from outside the image.
    """
    if _in_place(placement):
        resized = resize_image(image, out_hw)
        return cv2.flip(resized, 1) if placement.mirrored else resized
    in_hw = (image.shape[0], image.shape[1])
    matrix = placement_matrix(placement, in_hw, out_hw)[:2]
    return cv2.warpAffine(image, matrix, (out_hw[1], out_hw[0]), borderValue=(border, border, border))


def move_keypoints(
    keypoints: np.ndarray, placement: Placement, in_hw: tuple[int, int], out_hw: tuple[int, int]
) -> np.ndarray:
    """[..., 5, 2] fractions of the input to fractions of the output; a mirror swaps left and right points too."""
    if _in_place(placement):
        return flip_keypoints(keypoints, FIVE_POINT_FACE) if placement.mirrored else keypoints
    (in_height, in_width), (out_height, out_width) = in_hw, out_hw
    to_pixels = np.array([[in_width, 0, -0.5], [0, in_height, -0.5], [0, 0, 1]])
    to_fractions = np.array([[1 / out_width, 0, 0.5 / out_width], [0, 1 / out_height, 0.5 / out_height], [0, 0, 1]])
    moved = transform_keypoints(keypoints, to_fractions @ placement_matrix(placement, in_hw, out_hw) @ to_pixels)
    return moved[..., FIVE_POINT_FACE.flip_order, :] if placement.mirrored else moved


def _in_place(placement: Placement) -> bool:
    """Whether nothing moves but by a mirror."""
    return placement[:4] == (0.0, 1.0, 0.0, 0.0)
