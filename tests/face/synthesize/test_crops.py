"""Crops: what is at a landmark of the scene is at the landmark of the crop, and aligned ones fit the reference."""

import numpy as np
import pytest

from common.keypoints import fractions_to_pixels
from face.reference import reference_landmarks
from face.synthesize import Scene, Split, SynthesisSettings, crop_scene, render_scene
from face.synthesize.crops import aligned_crop, detector_crop


def scene_with_blobs(landmarks, box=(60.0, 50.0, 130.0, 140.0), size=192):
    """Smooth blobs of light at the landmarks, nothing else."""
    columns, rows = np.meshgrid(np.arange(size), np.arange(size))
    light = sum(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18.0) for x, y in landmarks)
    return Scene(np.repeat(np.rint(250 * np.minimum(light, 1))[..., None], 3, axis=2).astype(np.uint8), landmarks, box)


def blob_near(image, point, reach=7):
    x, y = np.rint(point).astype(int)
    part = image[y - reach : y + reach + 1, x - reach : x + reach + 1, 0].astype(float)
    columns, rows = np.meshgrid(np.arange(x - reach, x + reach + 1), np.arange(y - reach, y + reach + 1))
    return np.array([(part * columns).sum(), (part * rows).sum()]) / part.sum()


LANDMARKS = np.array([[78.3, 84.1], [110.6, 90.2], [92.4, 104.5], [79.0, 121.7], [106.1, 124.9]])


@pytest.mark.parametrize("size", [112, 96])
def test_landmarks_move_with_the_picture(size):
    scene = scene_with_blobs(LANDMARKS)
    crops = [aligned_crop(scene, size), detector_crop(scene, size, 0.05, 0.1, np.random.default_rng(3))]
    for crop in crops:
        assert crop.image.shape == (size, size, 3)
        for point in fractions_to_pixels(crop.landmarks, (size, size)):
            np.testing.assert_allclose(blob_near(crop.image, point), point, atol=0.15)


def test_the_reference_itself_is_left_as_it_is():
    crop = aligned_crop(scene_with_blobs(reference_landmarks() + 30.0), 112)
    np.testing.assert_allclose(crop.landmarks, reference_landmarks(pixels=False), atol=1e-9)


def test_an_undisturbed_detector_crop_is_a_centred_square_with_a_margin():
    crop = detector_crop(scene_with_blobs(LANDMARKS), 112, 0.0, 0.0, np.random.default_rng(0))
    side = 1.2 * 90.0
    corner = np.array([95.0, 95.0]) - side / 2
    # Pixel-index coordinates of a centre: the crop's own is at fraction 1/2 whatever its size.
    np.testing.assert_allclose(crop.landmarks, 0.5 + (LANDMARKS - 95.0) / side, atol=1e-9)
    assert (corner > 0).all()


def test_errors_of_the_detector_are_within_their_bounds():
    scene, sides, shifts = scene_with_blobs(LANDMARKS), [], []
    for seed in range(60):
        points = detector_crop(scene, 64, 0.1, 0.3, np.random.default_rng(seed)).landmarks
        share = np.linalg.norm(points[0] - points[1]) / np.linalg.norm(LANDMARKS[0] - LANDMARKS[1])
        sides.append(1 / share / (1.2 * 90))
        shifts.append((points[0] - 0.5 - (LANDMARKS[0] - 95.0) * share) / (share * 1.2 * 90))
    assert 0.7 <= min(sides) < 0.8
    assert 1.2 < max(sides) <= 1.3
    assert 0.08 < np.abs(shifts).max() <= 0.1 + 1e-9


def test_aligned_faces_fit_the_reference():
    """Near-frontal ones within a few pixels; where the head is turned more, its nose cannot fit."""
    reference = reference_landmarks()
    for max_yaw, bound in ((10.0, 5.0), (45.0, 9.0)):
        settings = SynthesisSettings(max_yaw=max_yaw, max_pitch=10.0)
        off = []
        for identity in range(12):
            scene = render_scene(settings, Split.TRAIN, identity, 0)
            crop = crop_scene(settings, scene, "aligned", Split.TRAIN, identity, 0)
            off.append(fractions_to_pixels(crop.landmarks, (112, 112)) - reference)
        root_mean_square = np.sqrt((np.square(off).sum(axis=2)).mean(axis=1))
        assert root_mean_square.max() < bound
        assert root_mean_square.mean() < 0.6 * bound
