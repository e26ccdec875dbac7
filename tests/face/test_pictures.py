"""Landmarks are drawn where they are, over a copy, in colours that tell left from right."""

import numpy as np
import pytest

from face.pictures import LANDMARK_COLOURS, draw_landmarks, face_grid


def places_of(picture, colour):
    rows, cols = np.nonzero(np.abs(picture - np.array(colour, float)).max(-1) < 40)
    return np.array([cols.mean(), rows.mean()])


@pytest.mark.parametrize("scale", [1, 3])
def test_rings_are_centred_on_the_landmarks(scale):
    image = np.zeros((100, 140, 3), np.uint8)
    keypoints = np.array([[0.25, 0.5], [0.75, 0.5], [0.5, 0.7]])
    picture = draw_landmarks(image, keypoints, scale)
    assert picture.shape == (100 * scale, 140 * scale, 3)
    assert not image.any()
    for point, colour in zip(keypoints, LANDMARK_COLOURS, strict=False):
        expected = point * [140 * scale, 100 * scale] - 0.5
        np.testing.assert_allclose(places_of(picture, colour), expected, atol=1.0)


def test_points_that_are_nowhere_are_not_drawn():
    image = np.full((20, 20, 3), 9, np.uint8)
    np.testing.assert_array_equal(draw_landmarks(image, np.array([[np.nan, 0.5], [1e9, 0.5]])), image)


def test_grid_puts_faces_in_rows():
    images = np.stack([np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = face_grid(images, None, columns=2, gap=1)
    assert sheet.shape == (2 * 5 + 1, 2 * 7 + 1, 3)
    assert sheet[1:5, 1:7].tolist() == images[0].tolist()
    assert sheet[1:5, 8:14].tolist() == images[1].tolist()
    assert sheet[6:10, 1:7].tolist() == images[2].tolist()
    assert (sheet[6:10, 8:14] == 255).all()


def test_refusals():
    with pytest.raises(ValueError, match=r"\[n, h, w, 3\] with n >= 1, got \[0, 4, 4, 3\]"):
        face_grid(np.zeros((0, 4, 4, 3), np.uint8), None)
    with pytest.raises(ValueError, match="2 images have landmarks of 3"):
        face_grid(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((3, 5, 2)))
