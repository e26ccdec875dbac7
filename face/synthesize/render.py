"""Paint a scene: backdrop, shoulders, head, light, and what the camera makes of it.

Coordinates: pixel-index, of the scene. Parts are painted from back to front on a finer grid (canvas.py); the light
falls on an ellipsoid about the head, which is close enough to its surface to shade it.
Shape letters: h and w scene height and width, G side of the coarse grid that is shaded.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from face.synthesize.canvas import Canvas
from face.synthesize.conditions import Camera, Light, Occluder, photograph
from face.synthesize.features import (
    SIDES,
    faces_viewer,
    paint_beard,
    paint_brows,
    paint_ear,
    paint_eyes,
    paint_glasses,
    paint_mouth,
    paint_nose,
    paint_skin,
)
from face.synthesize.hair import paint_hair_behind, paint_hair_in_front
from face.synthesize.pose import Head

__all__ = ["Scene", "paint_scene"]

Array = NDArray[np.float64]

COARSE = 48
TEXTURE = 48


@dataclass(frozen=True)
class Scene:
    """A face and what is around it.

    image [h, w, 3] uint8 RGB; landmarks [5, 2] in pixels, in the order of `common.FIVE_POINT_FACE`; box: left, top,
    right and bottom of the face in pixels.
    """

    image: NDArray[np.uint8]
    landmarks: Array
    box: tuple[float, float, float, float]


def paint_scene(
    head: Head,
    backdrop: NDArray[np.uint8],
    *,
    light: Light | None = None,
    clothes: Array | None = None,
    occluder: Occluder | None = None,
    camera: Camera | None = None,
    rng: np.random.Generator | None = None,
) -> Scene:
    """One image of a head.

    Args:
        head: who, how and where.
        backdrop: [h, w, 3] uint8 RGB, the scene without anybody.
        light: None for paint as it is, without light, shade and texture of the skin.
        clothes: [3] RGB; None for no shoulders.
        occluder: what hides a part of the face.
        camera: None for a perfect one.
        rng: for the camera's noise; needed with a camera.

    Raises:
        ValueError: a camera without `rng`.
    """
    canvas = Canvas(backdrop)
    _paint_neck(canvas, head, clothes)
    _paint_head(canvas, head, light)
    image, solid = canvas.finished()
    if light is not None:
        image = _lit(image, solid, head, light)
    if occluder is not None:
        front = Canvas(image)
        front.polygon(occluder.points, occluder.colour)
        image = front.finished()[0]
    if camera is not None:
        if rng is None:
            raise ValueError("a camera needs rng for its noise, got None")
        image = photograph(image, camera, rng)
    return Scene(image, head.landmarks(), head.box)


def _paint_neck(canvas: Canvas, head: Head, clothes: Array | None) -> None:
    """The neck leaves the head and goes straight down, whatever way the head is turned."""
    if clothes is None:
        return
    unit, skin = head.pixels_per_unit, np.array(head.face.paints.skin)
    half, width = 0.62 * head.shape.width, head.shape.width
    joints = head.project(np.array([[-half, 0.55, -0.25], [half, 0.55, -0.25]]))
    base = head.centre + np.array([[half + 0.08, 1.5], [-half - 0.08, 1.5]]) * unit
    canvas.polygon(np.concatenate([joints, base]), skin * 0.78, solid=True)
    x = np.array([-3.6, -2.6, -1.0, -0.75, 0.75, 1.0, 2.6, 3.6]) * width
    y = np.array([4.0, 1.75, 1.38, 1.3, 1.3, 1.38, 1.75, 4.0])
    shoulders = head.centre + np.stack([x, y], 1) * unit
    canvas.polygon(shoulders, clothes, solid=True)
    collar = head.centre + np.array([[-0.75 * width, 1.29], [0.75 * width, 1.29], [0.0, 1.75]]) * unit
    canvas.polygon(collar, skin * 0.85, solid=True)


def _paint_head(canvas: Canvas, head: Head, light: Light | None) -> None:
    paint_hair_behind(canvas, head)
    for side in SIDES:
        if not faces_viewer(head, side):
            paint_ear(canvas, head, side)
    paint_skin(canvas, head)
    paint_beard(canvas, head)
    for side in SIDES:
        if faces_viewer(head, side):
            paint_ear(canvas, head, side)
    paint_mouth(canvas, head)
    paint_eyes(canvas, head)
    paint_brows(canvas, head)
    paint_nose(canvas, head, None if light is None else light.direction)
    paint_hair_in_front(canvas, head)
    paint_glasses(canvas, head)


def _texture(seed: int) -> NDArray[np.float32]:
    """[TEXTURE, TEXTURE] patches of lighter and darker skin about 1, coarse and fine."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((7, 7), dtype=np.float32) * 0.04
    fine = rng.standard_normal((TEXTURE, TEXTURE), dtype=np.float32) * 0.03
    return np.asarray(1 + cv2.resize(coarse, (TEXTURE, TEXTURE), interpolation=cv2.INTER_CUBIC) + fine, np.float32)


def _lit(image: NDArray[np.uint8], solid: NDArray[np.uint8], head: Head, light: Light) -> NDArray[np.uint8]:
    """Light, blush and skin texture on what is solid; the backdrop has its own light already."""
    height, width = image.shape[:2]
    shape, turn = head.shape, head.rotation.astype(np.float32)
    along = (np.arange(COARSE, dtype=np.float32) + 0.5) / COARSE
    x = np.tile((along * width - 0.5 - head.centre[0]) / head.pixels_per_unit, (COARSE, 1)).astype(np.float32)
    y = np.tile((along * height - 0.5 - head.centre[1]) / head.pixels_per_unit, (COARSE, 1)).T.astype(np.float32)
    radii = 1.06 * np.array([shape.width, shape.chin, shape.depth], np.float32)
    # Points u of the ellipsoid have u A u = 1; the depth that the viewer meets solves a quadratic.
    a = (turn / radii**2) @ turn.T
    b = a[0, 2] * x + a[1, 2] * y
    c = a[0, 0] * x * x + 2 * a[0, 1] * x * y + a[1, 1] * y * y - 1
    root = b * b - a[2, 2] * c
    points = cv2.merge([x, y, (np.sqrt(np.maximum(root, 0)) - b) / a[2, 2]])
    normals = points @ a
    normals /= np.sqrt((normals * normals).sum(axis=-1, keepdims=True))
    facing = np.maximum(normals @ light.direction.astype(np.float32), 0)
    shade = light.ambient.astype(np.float32) + light.lamp.astype(np.float32) * facing[..., None]

    own = points @ turn  # in the head's frame
    around = (np.arctan2(own[..., 0], own[..., 2]) / np.pi + 1) / 2 * (TEXTURE - 1)
    down = (np.clip(own[..., 1], -1.2, 1.2) / 2.4 + 0.5) * (TEXTURE - 1)
    pattern = cv2.remap(_texture(head.face.texture_seed), around, down, cv2.INTER_LINEAR)
    pattern = np.where(root > 0, pattern, np.float32(1))
    cheeks = np.exp(-((np.abs(own[..., 0]) - 0.4) ** 2 + (own[..., 1] - 0.34) ** 2) / 0.025) * (own[..., 2] > 0)
    blush = 1 - cheeks[..., None] * np.array([0, 1, 0.9], np.float32) * np.float32(0.05 + 0.2 * head.face.blush)
    factor = cv2.resize(shade * blush * pattern[..., None], (width, height))
    lit = cv2.multiply(image, factor, dtype=cv2.CV_8U)
    return np.where(solid[..., None] > 0, lit, image)
