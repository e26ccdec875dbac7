"""The parts of a face, painted: ears, skin, nose, mouth, eyes, brows, beard, glasses.

Each part is a flat shape in the head's frame, laid on its surface and projected. The landmarks are the middle of each
eye's opening, the middle of the ball of the nose, and the points where the lips meet.
Coordinates: the head's frame as in face.py; what is painted is in pixels of the scene.
Shape letters: K points.
"""

import numpy as np
from numpy.typing import NDArray

from face.synthesize.canvas import Canvas, between
from face.synthesize.pose import ANGLES, Head

__all__ = [
    "faces_viewer",
    "paint_beard",
    "paint_brows",
    "paint_ear",
    "paint_eyes",
    "paint_glasses",
    "paint_mouth",
    "paint_nose",
    "paint_skin",
]

Array = NDArray[np.float64]

SIDES = (-1.0, 1.0)
_T = np.linspace(-1, 1, 15)
_TURN = np.linspace(0, 2 * np.pi, 18, endpoint=False)
_IN_FRONT = np.cos(ANGLES) > -0.05


def _darker(colour: tuple[float, float, float] | Array, share: float) -> Array:
    return np.clip(np.asarray(colour) * share, 0, 255)


def paint_ear(canvas: Canvas, head: Head, side: float) -> None:
    """One ear: a disc that stands off the head."""
    shape, skin = head.shape, head.face.paints.skin
    for size, share in ((1.0, 0.95), (0.6, 0.76)):
        along = size * np.cos(_TURN)
        points = np.stack(
            [
                side * (0.93 * shape.width + shape.ear_out * (0.7 + 0.7 * along)),
                shape.ear_y + size * shape.ear_height * np.sin(_TURN) + 0 * along,
                -0.02 - 0.11 * along,
            ],
            axis=-1,
        )
        canvas.polygon(head.project(points), _darker(skin, share), solid=True)


def faces_viewer(head: Head, side: float) -> bool:
    """Whether the side of the head with this ear is turned to the viewer."""
    return bool(head.rotation[2, 0] * side > 0)


def paint_skin(canvas: Canvas, head: Head) -> None:
    """The front of the head, its freckles and moles."""
    face, skin = head.face, head.face.paints.skin
    front = head.mesh()[:, _IN_FRONT]
    bare = face.hair in ("bald", "buzz")
    top = -2.0 if bare else head.shape.hairline - (0.2 if face.fringe == "receding" else 0.04)
    canvas.hull(head.project(front[front[..., 1] > top]), skin, solid=True)
    for x, y, radius, dark in face.spots:
        if abs(x) < 0.9 * head.half_width(y):
            canvas.disc(head.on_surface(x, y), radius * head.pixels_per_unit, _darker(skin, 1 - dark))


def paint_beard(canvas: Canvas, head: Head) -> None:
    """Stubble, moustache, goatee or a full beard, below the mouth that is painted later."""
    face, shape, unshaven = head.face, head.shape, head.take.unshaven
    if face.beard == "none":
        return
    hair = np.array(face.paints.brows)
    corner = head.mouth_corners
    lip = corner[:, 1].mean() - shape.upper_lip
    strength = {"stubble": 0.18 + unshaven, "moustache": 0.85, "goatee": 0.85, "full": 0.9}[face.beard]
    if face.beard in ("stubble", "full"):
        jaw_y = np.concatenate([[0.12, 0.3], np.linspace(0.45, 0.985 * head.chin, 10)])
        jaw_x = head.half_width(jaw_y)
        cheek_x, cheek_y = np.array([[0.92, 0.1], [0.84, 0.3], [0.55, 0.42], [0.2, 0.45], [0, 0.46]]).T
        along = np.linspace(0, 4, len(jaw_y))
        cheek_x, cheek_y = (np.interp(along, range(5), values) for values in (shape.width * cheek_x, cheek_y))
        jaw, cheek = (
            head.on_surface(np.concatenate([-x, x[::-1]]), np.concatenate([y, y[::-1]]), 0.01)
            for x, y in ((jaw_x, jaw_y), (cheek_x, cheek_y))
        )
        canvas.glaze(between(jaw, cheek), hair, strength)
    if face.beard in ("moustache", "goatee"):
        half = 1.02 * corner[1, 0]
        top = np.stack([half * _T, lip - 0.075 * (1 - _T**2) ** 0.6 + 0.03 * _T**2], 1)
        low = np.stack([half * _T, lip + 0.02 + 0.035 * _T**2], 1)[::-1]
        points = np.concatenate([top, low])
        canvas.glaze(head.on_surface(points[:, 0], points[:, 1], 0.03), hair, strength)
    if face.beard == "goatee":
        middle = 0.5 * (shape.mouth_y + 0.14 + head.chin)
        y = middle + (head.chin * 0.99 - middle) * np.sin(_TURN)
        canvas.glaze(head.on_surface(0.17 * np.cos(_TURN), y, 0.02), hair, strength)


def paint_nose(canvas: Canvas, head: Head, light: Array | None) -> None:
    """Two flanks, underside and ball; `light` [3] (towards it, in the viewer's frame) makes one flank darker."""
    shape, paints = head.shape, head.face.paints
    skin, tip = np.array(paints.skin), head.nose_tip
    top = head.surface(0.0, shape.eye_y - 0.02, 0.05)
    under = head.surface(0.0, shape.nose_y + 0.09, 0.3 * shape.nose_out)
    for side in SIDES:
        bridge = head.surface(side * shape.nose_bridge, shape.eye_y + 0.02, 0.0)
        wing = head.surface(side * shape.nose_width, shape.nose_y + 0.045, 0.06)
        normal = head.rotation @ np.array([side * 0.75, 0.1, 0.65])
        share = 0.93 if light is None else 0.8 + 0.24 * float(normal @ light)
        flank = head.project(np.stack([top, tip, under, wing, bridge]))
        canvas.polygon(flank, _darker(skin, share))
        ball = head.project(head.surface(side * shape.nose_width * 0.78, shape.nose_y + 0.035, 0.08))
        canvas.disc(ball, 0.34 * shape.nose_width * head.pixels_per_unit, _darker(skin, share * 0.97))
    ridge = np.array([0.02, 0, 0])
    canvas.polygon(head.project(np.stack([top - ridge, tip, top + ridge])), _darker(skin, 1.04))
    for side in SIDES:
        x = side * 0.5 * shape.nose_width + 0.028 * np.cos(_TURN)
        nostril = head.surface(x, shape.nose_y + 0.07 + 0.014 * np.sin(_TURN), 0.1)
        canvas.polygon(head.project(nostril), _darker(skin, 0.42))
    canvas.disc(head.project(tip), shape.nose_ball * head.pixels_per_unit, paints.nose_tip)


def paint_mouth(canvas: Canvas, head: Head) -> None:
    """Lips, and what is between them."""
    shape, take, paints = head.shape, head.take, head.face.paints
    (left, y), (right, _) = head.mouth_corners
    full = 1 - _T**2
    x = 0.5 * (left + right) + 0.5 * (right - left) * _T
    droop = (shape.mouth_y + 0.02 * take.mouth_open - y) * full
    upper_inner = y + droop - 0.03 * take.mouth_open * full
    lower_inner = y + droop + 0.17 * take.mouth_open * full
    bow = 1 - 0.28 * np.exp(-((_T / 0.16) ** 2))
    upper = upper_inner - shape.upper_lip * full**0.75 * bow
    lower = lower_inner + shape.lower_lip * full**0.85

    def shape_of(above: Array, below: Array) -> Array:
        return head.on_surface(np.concatenate([x, x[::-1]]), np.concatenate([above, below[::-1]]), 0.0)

    lips = np.array(paints.lips)
    canvas.polygon(shape_of(upper, upper_inner), lips * 0.93)
    canvas.polygon(shape_of(lower_inner, lower), lips)
    if take.mouth_open > 0:
        inside = shape_of(upper_inner, lower_inner)
        canvas.polygon(inside, (62, 22, 26))
        with canvas.through(inside, 2.0):
            teeth = np.minimum(upper_inner + 0.05, lower_inner)
            canvas.polygon(shape_of(upper_inner - 0.02, teeth), (232, 228, 218))
    canvas.line(head.on_surface(x, upper_inner)[1:-1], lips * 0.6, 0.016 * head.pixels_per_unit)


def paint_eyes(canvas: Canvas, head: Head) -> None:
    """Sclera, iris, pupil and lids; the lids close over the rest."""
    shape, take, paints = head.shape, head.take, head.face.paints
    skin, iris = np.array(paints.skin), np.array(paints.iris)
    u, full = shape.eye_width * _T, 1 - _T**2
    opened = shape.eye_height * take.eyes_open
    gaze = np.array(take.gaze) * (0.4 * shape.eye_width, 0.25 * shape.eye_height)
    circle = shape.iris * np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
    outlines = {
        "lid": np.stack([1.25 * u, -1.9 * shape.eye_height * full], axis=1),
        "upper": np.stack([u, -opened * full**0.7], axis=1),
        "lower": np.stack([u, 0.9 * opened * full**0.8], axis=1)[::-1],
        "rim": gaze + circle,
        "iris": gaze + 0.84 * circle,
        "pupil": gaze + 0.45 * circle,
        "glint": gaze[None] - shape.iris * np.array([[0.3, 0.35]]),
    }
    ends = np.cumsum([len(outline) for outline in outlines.values()])[:-1]
    about_middle = np.concatenate(list(outlines.values()))
    for side in SIDES:
        tilt = np.deg2rad(-shape.eye_tilt) * side
        turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        x, y = (about_middle @ turn + (side * shape.eye_x, shape.eye_y)).T
        placed = dict(zip(outlines, np.split(head.on_surface(x, y), ends), strict=True))
        canvas.glaze(placed["lid"], skin * 0.72, 0.3)
        opening = np.concatenate([placed["upper"], placed["lower"]])
        with canvas.through(opening, 0.15 * head.pixels_per_unit):
            canvas.polygon(opening, paints.sclera)
            canvas.polygon(placed["rim"], iris * 0.6)
            canvas.polygon(placed["iris"], iris)
            canvas.polygon(placed["pupil"], (12, 12, 12))
            canvas.disc(placed["glint"][0], 0.24 * shape.iris * head.pixels_per_unit, (250, 250, 250))
        lashes = _darker(np.minimum(paints.brows, skin * 0.4), 0.6)
        canvas.line(placed["upper"], lashes, 0.026 * head.pixels_per_unit)
        canvas.line(placed["lower"], skin * 0.66, 0.012 * head.pixels_per_unit)


def paint_brows(canvas: Canvas, head: Head) -> None:
    """Two strips that thin out to the temples."""
    shape, take = head.shape, head.take
    for side in SIDES:
        u = shape.brow_length * _T
        middle = shape.eye_y - shape.brow_gap - 0.05 * take.brow_raise - shape.brow_arch * (1 - (_T - 0.25) ** 2)
        middle = middle - np.tan(np.deg2rad(shape.brow_tilt)) * u
        half = 0.5 * shape.brow_thickness * (1.15 - 0.55 * (_T + 1) / 2) * (1 - np.abs(_T) ** 8)
        x = side * (shape.eye_x * 1.02 + np.concatenate([u, u[::-1]]))
        y = np.concatenate([middle - half * 1.2, (middle + half * 1.2)[::-1]])
        canvas.polygon(head.on_surface(x, y, 0.02), head.face.paints.brows)


def paint_glasses(canvas: Canvas, head: Head) -> None:
    """Frames before the eyes, and temples to the ears."""
    face, shape = head.face, head.shape
    if face.glasses == "none" or not head.take.wears_glasses:
        return
    colour, width = face.paints.glasses, 0.032 * head.pixels_per_unit
    power = 1.0 if face.glasses == "round" else 0.45
    ring = np.stack([np.sign(f(_TURN)) * np.abs(f(_TURN)) ** power for f in (np.cos, np.sin)], axis=-1)
    z = head.surface(0.0, shape.eye_y)[2] + 0.07
    inner = shape.eye_x - 0.21
    for side in SIDES:
        rim = np.empty((len(_TURN), 3))
        rim[:, 0] = side * (shape.eye_x + 0.21 * ring[:, 0])
        rim[:, 1] = shape.eye_y + 0.03 + (0.19 if face.glasses == "round" else 0.15) * ring[:, 1]
        rim[:, 2] = z - 0.12 * np.abs(rim[:, 0]) ** 2
        canvas.line(head.project(rim), colour, width, closed=True)
        hinge = [side * (shape.eye_x + 0.2), shape.eye_y - 0.03, z - 0.1]
        ear = [side * (shape.width + 0.03), shape.eye_y - 0.03, -0.02]
        if faces_viewer(head, side) or abs(head.take.yaw) < 8:
            canvas.line(head.project(np.array([hinge, ear])), colour, width)
    bridge = np.array([[-inner, shape.eye_y, z], [0, shape.eye_y - 0.03, z + 0.02], [inner, shape.eye_y, z]])
    canvas.line(head.project(bridge), colour, width)
