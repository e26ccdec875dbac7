"""Geometry: exact where nothing is interpolated, one interpolation otherwise, the distribution it promises, and the
authors' matrices but for half a pixel."""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.keypoints import FIVE_POINT_FACE, flip_keypoints, pixels_to_fractions
from face.augment import AugmentationSettings
from face.augment.geometry import (
    Placement,
    draw_placement,
    move_image,
    move_keypoints,
    placement_matrix,
)

TINY = 1e-9  # degrees: too little for a pixel to notice, enough to be interpolated
KEYPOINTS = np.array([[0.3, 0.4], [0.7, 0.45], [0.52, 0.6], [0.35, 0.8], [0.61, 0.83]], np.float32)
live = pytest.mark.skipif(not os.environ.get("CVLFACE_ROOT"), reason="CVLFACE_ROOT names no CVLface checkout")


def _harness():
    path = Path(__file__).parents[2] / "parity" / "face_augment.py"
    spec = importlib.util.spec_from_file_location("parity_face_augment", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


authors = _harness()


def noise(height, width, sigma=0.0):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image


def placements(settings, count=3000):
    rng = np.random.default_rng(1)
    return Placement(*map(np.array, zip(*(draw_placement(settings, rng) for _ in range(count)), strict=True)))


def assert_uniform(values, low, high):
    """Quantiles of many values are those of a uniform distribution, to four standard errors of the median."""
    levels = np.linspace(0, 1, 21)
    expected = low + (high - low) * levels
    np.testing.assert_allclose(np.quantile(values, levels), expected, atol=4 * (high - low) / 2 / np.sqrt(len(values)))
    assert low <= values.min() < values.max() <= high


# Exact cases


@pytest.mark.parametrize("angle", [0.0, TINY])
@pytest.mark.parametrize("size_hw", [(112, 112), (31, 50)])
def test_nothing_and_a_mirror_are_exact(size_hw, angle):
    image = noise(*size_hw)
    np.testing.assert_array_equal(move_image(image, Placement(angle), size_hw), image)
    np.testing.assert_array_equal(move_image(image, Placement(angle, mirrored=True), size_hw), image[:, ::-1])


def test_quarter_turns_are_anticlockwise():
    image = noise(40, 40)
    for turns in (1, 2, 3):
        np.testing.assert_array_equal(move_image(image, Placement(90.0 * turns), (40, 40)), np.rot90(image, turns))


def test_whole_pixels_of_shift_and_the_border():
    image = noise(20, 32)
    moved = move_image(image, Placement(shift_x=3 / 32, shift_y=-5 / 20), (20, 32), border=77)
    np.testing.assert_array_equal(moved[:15, 3:], image[5:, :-3])
    assert (moved[15:] == 77).all()
    assert (moved[:, :3] == 77).all()


def test_shift_is_before_the_mirror():
    image = noise(20, 32)
    moved = move_image(image, Placement(shift_x=3 / 32, mirrored=True), (20, 32))
    np.testing.assert_array_equal(moved, move_image(image, Placement(shift_x=3 / 32), (20, 32))[:, ::-1])


def test_resizing_keeps_the_corners_in_the_corners():
    """Without geometry the input's edges come to lie on the output's, whatever the sizes."""
    matrix = placement_matrix(Placement(), (160, 100), (112, 90))
    corners = np.array([[-0.5, -0.5, 1], [99.5, 159.5, 1]]).T
    np.testing.assert_allclose((matrix @ corners)[:2].T, [[-0.5, -0.5], [89.5, 111.5]], atol=1e-12)


# One interpolation


def test_all_together_are_one_warp_by_the_product():
    """Rotation, scale, translation and mirror written out step by step, multiplied, and interpolated once."""
    image, out_hw = noise(100, 140, sigma=1.0), (112, 96)
    placement = Placement(17.0, 0.9, 0.06, -0.04, True)
    to_centre = np.array([[1, 0, -69.5], [0, 1, -49.5], [0, 0, 1]])
    turned = np.vstack([cv2.getRotationMatrix2D((0, 0), 17.0, 1.0), [0, 0, 1]])
    sized = np.diag([0.9 * 96 / 140, 0.9 * 112 / 100, 1])
    from_centre = np.array([[1, 0, 47.5 + 0.06 * 96], [0, 1, 55.5 - 0.04 * 112], [0, 0, 1]])
    mirror = np.array([[-1.0, 0, 95], [0, 1, 0], [0, 0, 1]])
    steps = [to_centre, turned, sized, from_centre, mirror]
    product = np.linalg.multi_dot(steps[::-1])
    np.testing.assert_allclose(placement_matrix(placement, (100, 140), out_hw), product, atol=1e-9)

    found = move_image(image, placement, out_hw).astype(int)
    once = cv2.warpPerspective(image, product, (96, 112)).astype(int)
    assert np.abs(found - once).max() <= 1
    first = from_centre @ turned @ to_centre
    turned_first = cv2.warpPerspective(image, first, (140, 112))
    twice = cv2.warpPerspective(turned_first, product @ np.linalg.inv(first), (96, 112)).astype(int)
    assert np.abs(found - twice)[30:80, 30:70].max() > 10  # interpolated twice: softer


# Keypoints


def test_keypoints_without_a_move():
    np.testing.assert_array_equal(move_keypoints(KEYPOINTS, Placement(), (100, 140), (112, 96)), KEYPOINTS)
    mirrored = move_keypoints(KEYPOINTS, Placement(mirrored=True), (100, 140), (112, 96))
    np.testing.assert_array_equal(mirrored, flip_keypoints(KEYPOINTS, FIVE_POINT_FACE))


def test_a_mirror_in_the_matrix_is_a_mirror_alone():
    still = move_keypoints(KEYPOINTS, Placement(TINY, mirrored=True), (100, 140), (112, 96))
    assert still.dtype == np.float32
    np.testing.assert_allclose(still, flip_keypoints(KEYPOINTS, FIVE_POINT_FACE), atol=1e-6)


def test_keypoints_shift_by_fractions_of_the_output():
    moved = move_keypoints(KEYPOINTS, Placement(shift_x=0.1, shift_y=-0.2), (50, 70), (112, 96))
    np.testing.assert_allclose(moved, KEYPOINTS + np.array([0.1, -0.2]), atol=1e-6)


# Distribution


def test_angles_scales_and_mirrors():
    drawn = placements(AugmentationSettings())
    turned = drawn.angle_degrees[drawn.angle_degrees != 0]
    assert abs(len(turned) / 3000 - 0.2) < 0.03
    assert abs(drawn.mirrored.mean() - 0.5) < 0.04
    assert_uniform(turned, -20, 20)
    assert_uniform(drawn.scale, 0.8, 1.2)


def test_shifts_fill_the_room():
    drawn = placements(AugmentationSettings(translation_extra=0.0))
    for shift in (drawn.shift_x, drawn.shift_y):
        assert_uniform(shift / ((1 - drawn.scale) / 2), -1, 1)
    assert abs(np.corrcoef(drawn.shift_x, drawn.shift_y)[0, 1]) < 0.08


def test_shifts_beyond_the_room():
    drawn = placements(AugmentationSettings(translation_room=0.0, scale_range=(1.1, 1.1), translation_extra=0.3))
    largest = 1.1 * 0.3 / 2
    for shift in (drawn.shift_x, drawn.shift_y):
        assert 0.9 * largest < np.abs(shift).max() <= largest
        # a product of two uniform variables: half of them are below 0.187 of the largest
        assert abs(np.median(np.abs(shift)) / largest - 0.187) < 0.02
    assert np.corrcoef(np.abs(drawn.shift_x), np.abs(drawn.shift_y))[0, 1] > 0.2  # one extra for both axes


def test_limits_of_probabilities():
    none = AugmentationSettings.none()
    assert {draw_placement(none, np.random.default_rng(seed)) for seed in range(50)} == {Placement()}
    drawn = placements(replace(none, flip_prob=1.0, rotation_prob=1.0), 100)
    assert drawn.mirrored.all()
    assert (drawn.angle_degrees != 0).all()


# The authors' code


def assert_theirs(theirs):
    """Their pixel coordinates measure from the image's corner, ours from the first pixel's centre; the rest is one."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    for (height, width), found in zip(authors.SIZES, theirs, strict=True):
        for draw, matrix in zip(authors.draws(), found, strict=True):
            px, py, signx, signy, scale, angle, hflip, extra = draw
            room = (1 - scale + extra * scale) / 2
            placement = Placement(angle, scale, -signx * px * room, -signy * py * room, bool(hflip))
            ours = half @ placement_matrix(placement, (height, width), (height, width)) @ np.linalg.inv(half)
            np.testing.assert_allclose(ours, matrix, atol=1e-4)


def test_matrices_are_the_authors():
    with np.load(authors.STORED) as stored:
        assert_theirs(stored["matrices"])


@live
def test_matrices_are_the_authors_live():
    assert_theirs(authors.matrices(Path(os.environ["CVLFACE_ROOT"])))


def test_pixel_centres():
    """The centre of a 2 x 2 image's first pixel is a quarter of the way: the convention that all of this rests on."""
    np.testing.assert_array_equal(pixels_to_fractions(np.array([[0.0, 0.0]]), (2, 2)), [[0.25, 0.25]])
