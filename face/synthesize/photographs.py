"""Photographs with one to many synthetic faces, near and far, sharp and blurred.

Heads are painted one after the other, those far away first, each on what is there already. A head is put where it hides
no face that was painted before; where there is no such place it is left out.

Coordinates: pixels of the photograph. Landmarks are pixel-index, boxes have their edges between pixels.
Shape letters: h x w pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from face.synthesize.conditions import (
    Light,
    Occluder,
    draw_camera,
    draw_light,
    draw_occluder,
    paint_backdrop,
    photograph,
)
from face.synthesize.face import draw_face
from face.synthesize.images import Purpose, Split, generator
from face.synthesize.outlines import outline_points
from face.synthesize.pose import Head, draw_take
from face.synthesize.render import paint_scene
from face.synthesize.settings import SynthesisSettings

__all__ = ["EVENTS", "PaintedFace", "Photograph", "render_photograph"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Event:
    """What photographs of one kind show. Heights are of the faces, as shares of the photograph's shorter side."""

    name: str
    faces: tuple[int, int]
    heights: tuple[float, float]
    share: float


_EVENTS = (
    _Event(name="0--Crowd", faces=(8, 20), heights=(0.012, 0.09), share=0.25),
    _Event(name="1--Group", faces=(2, 7), heights=(0.06, 0.25), share=0.45),
    _Event(name="2--Portrait", faces=(1, 1), heights=(0.25, 0.6), share=0.3),
)
EVENTS = tuple(event.name for event in _EVENTS)
"""Folders of the photographs."""

_BOX_UNITS = 1.45  # mean height of a face's box, in units of its head
_SMALLEST = 13.0  # height in pixels that are left, below which nobody could place landmarks
_SOFTEST = 0.11  # and the standard deviation of the blur above which nobody could, in units of the head
_TRIES = 12


@dataclass(frozen=True)
class PaintedFace:
    """A face of a photograph."""

    box: NDArray[np.int64]
    """[4] left, top, right, bottom, whole pixels."""

    landmarks: Array
    """[5, 2] in the order of `common.FIVE_POINT_FACE`."""

    hidden: NDArray[np.bool_]
    """[5] landmarks behind something."""

    outline: Array
    """[98, 2], see outlines.py."""

    clear: bool
    """Whether it is large and sharp enough for landmarks to be placed by eye."""


@dataclass(frozen=True)
class Photograph:
    """image [h, w, 3] uint8 RGB; faces of `event`, those far away first."""

    image: NDArray[np.uint8]
    faces: list[PaintedFace]
    event: str


def render_photograph(settings: SynthesisSettings, split: Split, number: int) -> Photograph:
    """The photograph of a number: it depends on the seed, and on what the settings say of poses and cameras."""
    rng = generator(settings.seed, Purpose.PHOTOGRAPH, split, number)
    event = _EVENTS[int(rng.choice(len(_EVENTS), p=[event.share for event in _EVENTS]))]
    long_side, aspect = settings.photograph_size, rng.uniform(0.6, 1.0)
    height, width = round(long_side * aspect), long_side
    if rng.random() < 0.3:  # held upright
        height, width = width, height
    image = paint_backdrop(rng, long_side)[:height, :width].copy()
    camera, light = draw_camera(rng, settings.poor_camera / 2), draw_light(rng)
    low, high = np.log(event.heights)
    count = int(rng.integers(event.faces[0], event.faces[1], endpoint=True))
    units = np.sort(np.exp(rng.uniform(low, high, count))) * min(height, width) / _BOX_UNITS
    faces: list[PaintedFace] = []
    for unit in units.tolist():
        head = _placed(settings, rng, unit, (height, width), [face.box for face in faces])
        occluder = draw_occluder(rng, settings.occlusion, head.box) if head is not None else None
        sigma = unit * float(rng.uniform(0.04, 0.3)) if rng.random() < 0.2 else 0.0
        clothes = rng.uniform(20, 230, 3)
        if head is None:
            continue
        _paint(image, head, light, clothes, occluder, sigma)
        left, top, right, bottom = np.array(head.box) + 0.5
        box = np.array([np.floor(left), np.floor(top), np.ceil(right), np.ceil(bottom)], np.int64)
        hidden = _hidden(head.landmarks(), occluder, (height, width))
        softness = max(sigma, camera.blur, camera.motion / 3)
        large = (bottom - top) * camera.shrink >= _SMALLEST
        clear = bool(large and softness <= _SOFTEST * unit and hidden.sum() <= 2)
        faces.append(PaintedFace(box, head.landmarks(), hidden, outline_points(head), clear))
    return Photograph(photograph(image, camera, rng), faces, event.name)


def _placed(
    settings: SynthesisSettings,
    rng: np.random.Generator,
    unit: float,
    size_hw: tuple[int, int],
    faces: list[NDArray[np.int64]],
) -> Head | None:
    """Somebody, somewhere; None where there is no room."""
    face = draw_face(rng)
    take = draw_take(rng, settings.max_yaw, settings.max_pitch, settings.max_roll)
    places = rng.random((_TRIES, 2))
    boxes = np.array(faces).reshape(-1, 4)
    height, width = size_hw
    margin = 0.9 * unit
    for x, y in places.tolist():
        # The middle of a face is wholly in the photograph, its rim may not be.
        head = Head(face, take, unit, (margin + x * (width - 2 * margin), margin + y * (height - 2 * margin)))
        covers = np.array([_part(head, (-1.15, -1.4, 1.15, 1.4)), _part(head, (-2.4, 1.2, 2.4, 3.0))])
        meets = (boxes[:, None, :2] < covers[:, 2:]) & (boxes[:, None, 2:] > covers[:, :2])
        if not meets.all(axis=-1).any():
            return head
    return None


def _part(head: Head, units: tuple[float, float, float, float]) -> Array:
    """[4] a box about the head in pixels, from one in units of it."""
    return np.array(units) * head.pixels_per_unit + np.tile(head.centre, 2)


def _paint(
    image: NDArray[np.uint8], head: Head, light: Light, clothes: Array, occluder: Occluder | None, sigma: float
) -> None:
    """One more head in a photograph, which is changed. Only what is about it is painted on."""
    height, width = image.shape[:2]
    left, top, right, bottom = _part(head, (-2.7, -2.0, 2.7, 3.0)).astype(int).tolist()
    left, top, right, bottom = max(left - 2, 0), max(top - 2, 0), min(right + 2, width), min(bottom + 2, height)
    part = image[top:bottom, left:right]
    corner = np.array([left, top])
    moved = Head(head.face, head.take, head.pixels_per_unit, tuple((head.centre - corner).tolist()))
    before = None if occluder is None else Occluder(occluder.points - corner, occluder.colour)
    scene = paint_scene(moved, part.copy(), light=light, clothes=clothes, occluder=before).image
    if sigma:  # of the head alone, not of what is behind it
        changed = (scene != part).any(axis=-1).astype(np.float32)
        weight = cv2.GaussianBlur(changed, (0, 0), sigma)[..., None]
        soft = cv2.GaussianBlur(scene, (0, 0), sigma)
        scene = np.rint(part + weight * (soft.astype(np.float32) - part)).astype(np.uint8)
    part[:] = scene


def _hidden(landmarks: Array, occluder: Occluder | None, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """[5] landmarks that something is before, or that the photograph ends before."""
    height, width = size_hw
    outside = ((landmarks < -0.5) | (landmarks > np.array([width, height]) - 0.5)).any(axis=1)
    if occluder is None:
        return np.asarray(outside)
    polygon = occluder.points.astype(np.float32)
    behind = [cv2.pointPolygonTest(polygon, (float(x), float(y)), False) >= 0 for x, y in landmarks]
    return np.asarray(outside | np.array(behind))
