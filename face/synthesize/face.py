"""Who a synthetic face is: shape, colours and texture of its parts, drawn at random. Nothing here changes from image
to image; what does is in pose.py and conditions.py.

Coordinates: the head's own frame, x to the right of the image, y down, z towards the viewer, the origin in the middle
of the head. The unit is half the height of a mean head, so that the crown is near y = -1 and the chin near y = 1.
Colours are RGB from 0 to 255.
Shape letters: F freckles and moles.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BEARDS", "FRINGES", "GLASSES", "HAIR_STYLES", "SPREAD", "Face", "Paints", "Shape", "draw_face"]

Array = NDArray[np.float64]
Colour = tuple[float, float, float]

HAIR_STYLES = ("bald", "buzz", "short", "curly", "bob", "long", "bun")
FRINGES = ("straight", "swept left", "swept right", "parted", "receding", "spiky")
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
GLASSES = ("none", "round", "square")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes and places of the parts. Widths, lengths and heights of paired or central parts are halves."""

    width: float  # of the head, at the cheeks
    crown: float
    chin: float
    depth: float
    temple_power: float  # how square the upper half is; 2 is an ellipse
    jaw_power: float
    chin_power: float  # how pointed the chin is; 1 is a wedge
    eye_x: float
    eye_y: float
    eye_width: float
    eye_height: float
    eye_tilt: float  # degrees, outer corner up
    iris: float
    brow_gap: float  # above the eye
    brow_length: float
    brow_thickness: float
    brow_arch: float
    brow_tilt: float  # degrees, outer end up
    nose_y: float  # of the tip
    nose_out: float  # how far the tip stands out
    nose_width: float
    nose_bridge: float
    nose_ball: float
    mouth_y: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    mouth_curve: float  # at rest: corners up
    ear_height: float
    ear_out: float
    ear_y: float
    hairline: float  # y of it in the middle of the forehead
    hair_volume: float
    hair_length: float  # how far below the chin long hair reaches


SPREAD: dict[str, tuple[float, float]] = {
    **{"width": (0.71, 0.05), "crown": (0.98, 0.04), "chin": (1.0, 0.06), "depth": (0.84, 0.04)},
    **{"temple_power": (2.5, 0.25), "jaw_power": (2.5, 0.45), "chin_power": (1.7, 0.3)},
    **{"eye_x": (0.29, 0.022), "eye_y": (-0.04, 0.03), "eye_width": (0.135, 0.014), "eye_height": (0.07, 0.013)},
    **{"eye_tilt": (3.0, 4.5), "iris": (0.063, 0.006)},
    **{"brow_gap": (0.155, 0.028), "brow_length": (0.165, 0.022), "brow_thickness": (0.03, 0.01)},
    **{"brow_arch": (0.035, 0.02), "brow_tilt": (2.0, 6.0)},
    **{"nose_y": (0.3, 0.035), "nose_out": (0.2, 0.045), "nose_width": (0.13, 0.024)},
    **{"nose_bridge": (0.045, 0.012), "nose_ball": (0.062, 0.011)},
    **{"mouth_y": (0.615, 0.03), "mouth_width": (0.23, 0.028), "upper_lip": (0.045, 0.014)},
    **{"lower_lip": (0.06, 0.016), "mouth_curve": (0.01, 0.018)},
    **{"ear_height": (0.19, 0.025), "ear_out": (0.09, 0.03), "ear_y": (0.08, 0.05)},
    **{"hairline": (-0.6, 0.08), "hair_volume": (0.1, 0.035), "hair_length": (0.25, 0.2)},
}
"""Mean and standard deviation between identities of every field of `Shape`."""


@dataclass(frozen=True, kw_only=True)
class Paints:
    """Colours of the parts, before any light falls on them."""

    skin: Colour
    nose_tip: Colour
    lips: Colour
    iris: Colour
    sclera: Colour
    hair: Colour
    brows: Colour
    glasses: Colour


@dataclass(frozen=True, kw_only=True)
class Face:
    """An identity."""

    shape: Shape
    paints: Paints
    hair: str
    fringe: str
    beard: str
    glasses: str
    blush: float
    """How red the cheeks are, from 0 to 1."""
    spots: Array
    """[F, 4] freckles and moles: x, y, radius, and how dark from 0 to 1."""
    texture_seed: int
    """Of the pattern of light and dark all over the skin."""


_LIGHT_SKIN, _TAN_SKIN, _DARK_SKIN = np.array([[246, 214, 192], [206, 150, 112], [96, 62, 46]], dtype=np.float64)
_HAIR = np.array(
    [[24, 20, 20], [58, 38, 26], [98, 64, 38], [150, 104, 58], [214, 176, 108], [158, 66, 34], [150, 148, 146]],
    dtype=np.float64,
)
_IRIS = np.array([[66, 42, 26], [110, 74, 40], [96, 118, 66], [70, 112, 150], [120, 132, 140]], dtype=np.float64)
_GLASSES = np.array([[30, 30, 34], [120, 40, 40], [40, 60, 110], [150, 118, 70]], dtype=np.float64)


def _colour(values: Array) -> Colour:
    red, green, blue = np.clip(values, 4, 251)
    return float(red), float(green), float(blue)


def _draw_shape(rng: np.random.Generator) -> Shape:
    """Normal, and cut at 2.2 standard deviations so that nobody is a monster."""
    deviations = np.clip(rng.normal(size=len(SPREAD)), -2.2, 2.2).tolist()
    pairs = zip(SPREAD.items(), deviations, strict=True)
    return Shape(**{name: mean + std * deviation for (name, (mean, std)), deviation in pairs})


def _draw_paints(rng: np.random.Generator) -> Paints:
    tone = rng.beta(1.2, 1.5) * 2
    skin = _LIGHT_SKIN + (_TAN_SKIN - _LIGHT_SKIN) * min(tone, 1.0)
    skin = skin + (_DARK_SKIN - skin) * max(tone - 1.0, 0.0) + rng.normal(0, 4, 3)
    redness = rng.uniform(0.1, 0.55)
    lips = skin * (1 - redness) + np.array([178, 52, 62]) * redness - 12
    shades = _HAIR[:3] if tone > 1.1 else _HAIR
    hair = shades[rng.integers(len(shades))] * rng.uniform(0.8, 1.2) + rng.normal(0, 4, 3)
    iris = _IRIS[rng.integers(2 if tone > 1.1 else len(_IRIS))] + rng.normal(0, 6, 3)
    return Paints(
        skin=_colour(skin),
        nose_tip=_colour(skin * 1.04 + 3),
        lips=_colour(lips),
        iris=_colour(iris),
        sclera=_colour(np.array([238.0, 236, 232])),
        hair=_colour(hair),
        brows=_colour(np.minimum(hair * rng.uniform(0.6, 0.95), skin * 0.7)),
        glasses=_colour(_GLASSES[rng.integers(len(_GLASSES))]),
    )


def _draw_spots(rng: np.random.Generator) -> Array:
    freckles = int(rng.integers(25, 60)) if rng.random() < 0.25 else 0
    moles = int(rng.poisson(1.2))
    count = freckles + moles
    side = rng.choice([-1.0, 1.0], count)
    x, y = side * rng.normal(0.3, 0.12, count), rng.normal(0.28, 0.12, count)
    x[freckles:], y[freckles:] = rng.uniform(-0.5, 0.5, moles), rng.uniform(-0.5, 0.85, moles)
    radius = np.where(np.arange(count) < freckles, rng.uniform(0.007, 0.014, count), rng.uniform(0.014, 0.026, count))
    dark = np.where(np.arange(count) < freckles, rng.uniform(0.15, 0.35, count), rng.uniform(0.5, 0.75, count))
    return np.stack([x, y, radius, dark], axis=1)


def draw_face(rng: np.random.Generator) -> Face:
    """An identity at random."""
    shape, paints, spots = _draw_shape(rng), _draw_paints(rng), _draw_spots(rng)
    hair = str(rng.choice(HAIR_STYLES, p=[0.07, 0.1, 0.25, 0.13, 0.17, 0.18, 0.1]))
    bearded = hair not in ("bob", "long", "bun") and rng.random() < 0.5
    return Face(
        shape=shape,
        paints=paints,
        hair=hair,
        fringe=str(rng.choice(FRINGES)),
        beard=str(rng.choice(BEARDS[1:])) if bearded else "none",
        glasses=str(rng.choice(GLASSES[1:])) if rng.random() < 0.2 else "none",
        blush=float(rng.uniform(0, 1)),
        spots=spots,
        texture_seed=int(rng.integers(1 << 31)),
    )
