"""What a network is given: the policies for missing landmarks."""

import numpy as np
import pytest

from face.data import Landmarks
from face.evaluation.images import EncodedImages
from face.evaluation.inputs import choose_keypoints
from face.reference import reference_landmarks


@pytest.fixture
def images(tmp_path):
    return EncodedImages(tmp_path / "a.bin", [b""] * 7, range(10, 17))


@pytest.fixture
def landmarks():
    found = np.arange(7) % 3 == 0
    points = np.where(found[:, None, None], np.linspace(0, 1, 70).reshape(7, 5, 2), np.nan).astype(np.float32)
    return Landmarks(points=points, scores=found.astype(np.float32), found=found)


def test_landmarks_where_there_are_some(images, landmarks):
    for policy in ("reference", "hide"):
        points, _, without = choose_keypoints(images, landmarks, policy, (112, 96))
        assert points.dtype == np.float32
        np.testing.assert_array_equal(points[::3], landmarks.points[::3])
        assert np.isfinite(points).all()
        assert without == 4


def test_reference_is_the_template_in_the_networks_image(images, landmarks):
    points, visibility, _ = choose_keypoints(images, landmarks, "reference", (112, 96))
    assert visibility is None
    template = np.array(
        [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
    )
    np.testing.assert_allclose(points[1], (template + 0.5) / [96, 112], rtol=1e-6)
    everywhere, _, without = choose_keypoints(images, None, "reference", (112, 112))
    np.testing.assert_allclose(everywhere, [reference_landmarks(pixels=False)] * 7, rtol=1e-6)
    assert without == 7


def test_hidden_keypoints(images, landmarks):
    _, visibility, _ = choose_keypoints(images, landmarks, "hide", (112, 112))
    assert visibility.dtype == np.float32
    assert visibility.tolist() == [[float(found)] * 5 for found in landmarks.found]
    everything = landmarks.take(np.zeros(7, int))
    assert choose_keypoints(images, everything, "hide", (112, 112))[1:] == (None, 0)


def test_refuses(images, landmarks):
    with pytest.raises(ValueError, match=r"4 of 7 images have no landmarks, first: a\.bin, image 11, a\.bin, image 12"):
        choose_keypoints(images, landmarks, "error", (112, 112))
    with pytest.raises(ValueError, match="7 of 7 images have no landmarks"):
        choose_keypoints(images, None, "error", (112, 112))
    with pytest.raises(ValueError, match="must be error, reference or hide, got 'skip'"):
        choose_keypoints(images, landmarks, "skip", (112, 112))
    with pytest.raises(ValueError, match="expected landmarks of 7 images, got those of 2"):
        choose_keypoints(images, landmarks.take(np.arange(2)), "hide", (112, 112))
