"""Hair of a head: what is behind the face, and what falls in front of it.

Coordinates: the head's frame as in face.py; polygons are in pixels of the scene.
"""

import numpy as np
from numpy.typing import NDArray

from face.synthesize.canvas import Canvas, between
from face.synthesize.pose import ANGLES, Head

__all__ = ["paint_hair_behind", "paint_hair_in_front"]

Array = NDArray[np.float64]

_BEHIND = np.cos(ANGLES) < 0.05
_ALONG = np.linspace(-1, 1, 13)


def paint_hair_behind(canvas: Canvas, head: Head) -> None:
    """Skull and hair, on which the face is painted next."""
    face, shape = head.face, head.shape
    hair = np.array(face.paints.hair)
    skin = np.array(face.paints.skin)
    if face.hair in ("bald", "buzz"):
        canvas.hull(head.project(head.mesh()), 0.5 * (skin + hair) if face.hair == "buzz" else skin, solid=True)
        return
    cap = head.mesh(shape.hair_volume)
    hairy = np.where(_BEHIND, cap[..., 1] < 0.4, cap[..., 1] < shape.hairline)
    points = [cap[hairy]]
    if face.hair in ("bob", "long"):
        points.append(_curtain(head))
    outline = head.project(np.concatenate(points))
    canvas.hull(outline, hair * 0.82, solid=True)
    if face.hair == "curly":
        for row in cap[1:16:3, ::3][hairy[1:16:3, ::3]]:
            canvas.disc(head.project(row), 0.16 * head.pixels_per_unit, hair * 0.82, solid=True)
    if face.hair == "bun":
        top = head.project(np.array([0.0, -shape.crown - 0.16, -0.25]))
        canvas.disc(top, (0.2 + shape.hair_volume) * head.pixels_per_unit, hair * 0.88, solid=True)
    _paint_curtains(canvas, head, near=False)


def _paint_curtains(canvas: Canvas, head: Head, near: bool) -> None:
    """Long hair beside the face, on the sides that are turned to the viewer or on the others."""
    if head.face.hair in ("bob", "long"):
        for side in (-1.0, 1.0):
            if (head.rotation[2, 0] * side > -0.12) == near:
                canvas.polygon(head.project(_beside(head, side)), np.array(head.face.paints.hair) * 0.93, solid=True)


def _end(head: Head) -> float:
    """How far down long hair reaches."""
    return head.shape.chin * (0.72 if head.face.hair == "bob" else 1.0 + max(head.shape.hair_length, 0.0))


def _curtain(head: Head) -> Array:
    """Points [12, 3] around the hair that falls behind the ears."""
    width, end = head.shape.width + head.shape.hair_volume, _end(head)
    return np.array(
        [
            [side * width * share, y, z]
            for side in (-1, 1)
            for share, y in ((1.0, -0.2), (1.06, 0.5 * end), (1.0, end))
            for z in (-0.45, -0.05)
        ]
    )


def paint_hair_in_front(canvas: Canvas, head: Head) -> None:
    """Fringe, and curtains beside the face where the hair is long."""
    face, shape = head.face, head.shape
    if face.hair == "bald":
        return
    hair = np.array(face.paints.hair)
    volume = 0.02 if face.hair == "buzz" else shape.hair_volume
    lower, middle, upper = _fringe_edge(head), _arc(head, volume, 0.6), _arc(head, volume, 0.0)
    if face.hair == "buzz":
        canvas.glaze(np.concatenate([between(lower, middle), between(middle, upper)]), hair, 0.55)
        return
    _paint_curtains(canvas, head, near=True)
    canvas.strip(lower, middle, hair, solid=True)
    canvas.strip(middle, upper, hair, solid=True)
    if face.hair == "curly":
        for place in (0.65 * lower + 0.35 * upper)[1:-1]:
            canvas.disc(place, 0.13 * head.pixels_per_unit, hair * 0.94, solid=True)
    for index in range(2, 11):
        strand = np.stack([lower[index], middle[index], upper[index]])
        canvas.line(strand, np.minimum(hair * (1.16 if index % 2 else 0.88), 255), 0.02 * head.pixels_per_unit)


def _fringe_edge(head: Head) -> Array:
    """[13, 2] pixels: lower edge of the fringe, from temple to temple."""
    top = head.shape.hairline
    t = _ALONG
    edge = {
        "straight": top + 0.2 + 0 * t,
        "swept left": top + 0.12 + 0.14 * t,
        "swept right": top + 0.12 - 0.14 * t,
        "parted": top - 0.04 + 0.3 * np.abs(t),
        "receding": top - 0.02 - 0.16 * np.sin(np.pi * np.abs(t)) ** 2,
        "spiky": top + 0.08 + 0.09 * np.abs((6 * t) % 2 - 1),
    }[head.face.fringe]
    if head.face.hair in ("buzz", "bun"):  # neither falls into the face
        edge = np.minimum(edge, top + 0.06 * t**2)
    temple = np.abs(t) ** 6
    y = (1 - temple) * edge + temple * -0.02
    width = head.half_width(y)
    return head.on_surface(t * (width + 0.015 * temple), y, 0.03 * (1 - temple))


def _arc(head: Head, volume: float, forward: float) -> Array:
    """[13, 2] pixels: from ear to ear over the top of the head, or over its forehead."""
    angle = _ALONG * np.pi / 2 * 1.04
    sin, cos = (np.sign(f) * np.abs(f) ** 0.85 for f in (np.sin(angle), np.cos(angle)))
    x = (head.shape.width + volume) * sin
    y = -head.shape.crown * (1 + volume) * np.sqrt(1 - forward**2) * cos
    return head.project(np.stack([x, y, (head.shape.depth + volume) * forward * cos], axis=-1))


def _beside(head: Head, side: float) -> Array:
    """[K, 3]: a curtain of hair before one ear."""
    width, volume, end = head.shape.width, head.shape.hair_volume, _end(head)
    inner = [(0.62, -0.62), (0.9, -0.3), (0.94, 0.1), (0.97, 0.45), (0.98, end)]
    outer = [(1.06, end), (1.08, 0.4), (1.0, -0.2), (0.8, -0.75)]
    out = [[side * width * share, y, 0.3 * (1 - max(y, 0) * 0.3)] for share, y in inner]
    out += [[side * (width * share + volume * 0.8), y, 0.02] for share, y in outer]
    return np.array(out)
