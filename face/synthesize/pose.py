"""A head in three dimensions, turned and seen: from the places of its parts to pixels of the scene.

The surface is a stack of superellipses; parts are drawn on it as flat polygons and projected by scaled orthography
(weak perspective: a face is shallow against its distance). The five landmarks are projected by the same function as
the parts, which is what makes them exact.

Coordinates: the head's frame as in face.py. Image (x, y) in pixel-index coordinates of the scene: a whole number is
the centre of a pixel. Positive yaw turns the face to the right of the image, positive pitch down, positive roll
clockwise.
Shape letters: K points, R rings, S points of a ring, `...` any leading axes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from face.synthesize.face import Face

__all__ = ["ANGLES", "Head", "Take", "draw_take"]

Array = NDArray[np.float64]

RINGS, AROUND = 22, 36
CROSS_SECTION_POWER = 2.4  # of the head's horizontal cross section; above 2 the front is flatter than an ellipse

ANGLES = np.linspace(-np.pi, np.pi, AROUND, endpoint=False)
"""[S] of the points of a ring of the mesh; 0 is in front."""

_SIN, _COS = (np.sign(f) * np.abs(f) ** (2 / CROSS_SECTION_POWER) for f in (np.sin(ANGLES), np.cos(ANGLES)))
_HEIGHTS = -np.cos(np.linspace(0.04, np.pi - 0.04, RINGS))
_UP, _DOWN = np.linspace(1, 0, 64), np.linspace(0, 1, 65)[1:]


@dataclass(frozen=True, kw_only=True)
class Take:
    """Pose and expression in one image: nothing here tells who it is. Angles in degrees."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    mouth_open: float = 0.0  # 0 to 1
    smile: float = 0.0  # -0.5 to 1
    brow_raise: float = 0.0  # -1 to 1
    eyes_open: float = 1.0  # 0.1 to 1.2
    gaze: tuple[float, float] = (0.0, 0.0)  # each -1 to 1
    wears_glasses: bool = True  # those who have some
    unshaven: float = 0.0  # 0 to 1


def draw_take(rng: np.random.Generator, max_yaw: float, max_pitch: float, max_roll: float) -> Take:
    """Pose and expression at random; every angle is normal and cut at its largest, which is two deviations."""
    yaw, pitch, roll = np.clip(rng.normal(size=3) / 2, -1, 1) * (max_yaw, max_pitch, max_roll)
    opened = rng.random() < 0.3
    return Take(
        yaw=float(yaw),
        pitch=float(pitch),
        roll=float(roll),
        mouth_open=float(rng.uniform(0.2, 1.0)) if opened else 0.0,
        smile=float(np.clip(rng.normal(0.3, 0.4), -0.5, 1.0)),
        brow_raise=float(np.clip(rng.normal(0, 0.4), -1, 1)),
        eyes_open=float(rng.uniform(0.1, 0.4)) if rng.random() < 0.05 else float(rng.uniform(0.75, 1.15)),
        gaze=(float(rng.uniform(-0.8, 0.8)), float(rng.uniform(-0.6, 0.6))),
        wears_glasses=bool(rng.random() < 0.85),
        unshaven=float(rng.uniform(0, 0.25)),
    )


def _rotation(take: Take) -> Array:
    yaw, pitch, roll = np.deg2rad([take.yaw, take.pitch, take.roll])
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


class Head:
    """A face in a pose, at a place in the scene.

    Args:
        face: who.
        take: pose and expression.
        pixels_per_unit: size.
        centre: (x, y) of the middle of the head in pixels of the scene.
    """

    def __init__(self, face: Face, take: Take, pixels_per_unit: float, centre: tuple[float, float]) -> None:
        self.face, self.take, self.shape = face, take, face.shape
        self.pixels_per_unit = pixels_per_unit
        self.centre = np.asarray(centre, dtype=np.float64)
        self.rotation = _rotation(take)
        self.chin = self.shape.chin + 0.1 * take.mouth_open

        self._profile = self._profiles()

    def _profiles(self) -> tuple[Array, Array, Array]:
        """Heights from crown to chin, and half width and half depth of the head there: a table, for speed."""
        shape = self.shape
        up, down = _UP, _DOWN
        upper = (1 - up**shape.temple_power) ** (1 / 2.1)
        lower = 0.985 * (1 - down**shape.jaw_power) ** (1 / shape.chin_power) + 0.015 * np.sqrt(1 - down)
        heights = np.concatenate([-shape.crown * up, self.chin * down])
        depth = np.concatenate([upper, (1 - down**4) ** (1 / 3)])
        return heights, shape.width * np.concatenate([upper, lower]), shape.depth * depth

    def half_width(self, y: Array | float) -> Array:
        """Of the head at heights y."""
        heights, widths, _ = self._profile
        return np.asarray(np.interp(y, heights, widths))

    def half_depth(self, y: Array | float) -> Array:
        """Of the head at heights y."""
        heights, _, depths = self._profile
        return np.asarray(np.interp(y, heights, depths))

    def surface(self, x: Array | float, y: Array | float, lift: Array | float = 0.0) -> Array:
        """[..., 3]: the front of the head at (x, y), or its edge where x is beyond it, `lift` further out."""
        out = np.minimum(np.abs(x) / np.maximum(self.half_width(y), 1e-6), 1.0)
        z = self.half_depth(y) * (1 - out**CROSS_SECTION_POWER) ** (1 / CROSS_SECTION_POWER) + lift
        points = np.empty((*z.shape, 3))
        points[..., 0], points[..., 1], points[..., 2] = x, y, z
        return points

    def mesh(self, grow: float = 0.0) -> Array:
        """[R, S, 3] points all over the head, `grow` further out. Point S / 2 of each ring is in front."""
        y = np.where(_HEIGHTS < 0, _HEIGHTS * self.shape.crown, _HEIGHTS * self.chin)
        points = np.empty((RINGS, AROUND, 3))
        points[..., 0] = (self.half_width(y) + grow)[:, None] * _SIN
        points[..., 1] = (y * (1 + grow))[:, None]
        points[..., 2] = (self.half_depth(y) + grow)[:, None] * _COS
        return points

    def project(self, points: Array) -> Array:
        """[..., 3] of the head's frame to [..., 2] pixels of the scene."""
        return points @ self.rotation[:2].T * self.pixels_per_unit + self.centre

    def on_surface(self, x: Array | float, y: Array | float, lift: Array | float = 0.0) -> Array:
        """[..., 2] pixels of places on the front of the head."""
        return self.project(self.surface(x, y, lift))

    @property
    def mouth_corners(self) -> Array:
        """[2, 2] (x, y) in the head's frame, left of the image first."""
        shape, take = self.shape, self.take
        half = shape.mouth_width * (1 + 0.16 * take.smile - 0.12 * take.mouth_open)
        y = shape.mouth_y - shape.mouth_curve - 0.05 * take.smile + 0.03 * take.mouth_open
        return np.array([[-half, y], [half, y]])

    @property
    def nose_tip(self) -> Array:
        """[3] in the head's frame."""
        return self.surface(0.0, self.shape.nose_y, self.shape.nose_out)

    def landmarks(self) -> Array:
        """[5, 2] pixels of the scene, in the order of `common.FIVE_POINT_FACE`: eyes, nose tip, mouth corners."""
        shape, mouth = self.shape, self.mouth_corners
        eyes = self.surface(np.array([-shape.eye_x, shape.eye_x]), shape.eye_y)
        return self.project(np.concatenate([eyes, self.nose_tip[None], self.surface(mouth[:, 0], mouth[:, 1])]))

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels of the scene: what a face detector would frame, forehead to chin."""
        points = self.mesh()
        front = points[points[..., 1] > 0.75 * self.shape.hairline]
        seen = self.project(front[front[:, 2] > -0.1])
        (left, top), (right, bottom) = seen.min(axis=0), seen.max(axis=0)
        return float(left), float(top), float(right), float(bottom)
