"""The alignment template: its sizes and its two units."""

import numpy as np
import pytest

from common.keypoints import fractions_to_pixels
from face.reference import REFERENCE_LANDMARKS, reference_landmarks


def test_the_template_itself():
    np.testing.assert_allclose(reference_landmarks(), REFERENCE_LANDMARKS, atol=1e-12)
    with pytest.raises(ValueError, match="read-only"):
        REFERENCE_LANDMARKS[0, 0] = 0


def test_the_older_narrow_template_is_its_middle():
    np.testing.assert_allclose(reference_landmarks((112, 96))[0], [30.2946, 51.6963], atol=1e-9)


@pytest.mark.parametrize("size", [56, 112, 160])
def test_fractions_of_a_square_do_not_depend_on_its_size(size):
    fractions = reference_landmarks((size, size), pixels=False)
    np.testing.assert_allclose(fractions, (REFERENCE_LANDMARKS + 0.5) / 112, atol=1e-12)


@pytest.mark.parametrize("out_hw", [(112, 96), (60, 90)])
def test_both_units_say_the_same(out_hw):
    pixels = fractions_to_pixels(reference_landmarks(out_hw, pixels=False), out_hw)
    np.testing.assert_allclose(pixels, reference_landmarks(out_hw), atol=1e-12)


def test_no_size():
    with pytest.raises(ValueError, match=r"both >= 1, got \(0, 112\)"):
        reference_landmarks((0, 112))
