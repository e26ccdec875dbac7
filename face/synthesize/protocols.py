"""Which test images are compared: pairs for verification, gallery and probes for identification.

Images are (identity, image) by their numbers.
"""

import math
from typing import NamedTuple

import numpy as np

from face.synthesize.settings import FOLDS

__all__ = ["Pair", "draw_gallery", "draw_pairs"]

Image = tuple[int, int]


class Pair(NamedTuple):
    """Two images, and whether they are of one identity."""

    first: Image
    second: Image
    same: bool


def draw_pairs(rng: np.random.Generator, identities: int, images: int, count: int) -> list[Pair]:
    """`count` different pairs; in each of the ten folds, one after the other, half are of one identity.

    Args:
        rng: draws the pairs.
        identities: number of identities.
        images: of each identity.
        count: a multiple of 20, and no more than there are (see SynthesisSettings).
    """
    half = count // 2
    inside = [(i, j) for i in range(images) for j in range(i + 1, images)]
    same = []
    for number in rng.choice(identities * len(inside), half, replace=False).tolist():
        identity, which = divmod(number, len(inside))
        first, second = inside[which]
        same.append(Pair((identity, first), (identity, second), True))
    numbers = rng.choice(math.comb(identities, 2) * images**2, half, replace=False)
    different = [Pair((first, i), (second, j), False) for first, second, i, j in _across(numbers, images)]
    fold = half // FOLDS
    pairs = []
    for begin in range(0, half, fold):
        pairs += same[begin : begin + fold] + different[begin : begin + fold]
    return pairs


def _across(numbers: np.ndarray, images: int) -> list[tuple[int, int, int, int]]:
    """Identities a < b and an image of each, by the number of the combination."""
    found = []
    for number in numbers.tolist():
        people, which = divmod(number, images**2)
        second = (1 + math.isqrt(1 + 8 * people)) // 2  # the largest with comb(second, 2) <= people
        found.append((people - math.comb(second, 2), second, *divmod(which, images)))
    return found


def draw_gallery(rng: np.random.Generator, identities: int, images: int) -> tuple[list[Image], list[Image]]:
    """One image of each identity for the gallery, and all others as probes."""
    chosen = rng.integers(0, images, identities).tolist()
    gallery = list(enumerate(chosen))
    probes = [(who, image) for who in range(identities) for image in range(images) if image != chosen[who]]
    return gallery, probes
