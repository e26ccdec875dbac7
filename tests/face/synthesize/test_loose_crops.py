"""Crops of any size, and where landmarks are in them."""

import cv2
import numpy as np

from common.geometry import fit_affine
from face.synthesize import Split, SynthesisSettings, render_scene
from face.synthesize.loose_crops import draw_loose_crops

SETTINGS = SynthesisSettings(write="benchmarks", crop_size=96, poor_camera=0.0, occlusion=0.0, seed=5)


def test_frames_are_of_one_scene():
    scene = render_scene(SETTINGS, Split.BENCHMARK, 1, 7)
    crops = draw_loose_crops(SETTINGS, 1, 7, 3, (80, 110))
    assert len(crops) == 3
    for crop in crops:
        height, width = crop.image.shape[:2]
        assert 80 <= height <= 121
        assert 0.85 * height <= width <= height
        assert 0 <= crop.score <= 1
        fit = fit_affine(scene.landmarks, crop.landmarks_px)
        moved = np.c_[scene.landmarks, np.ones(5)] @ fit.matrix[:2].T
        np.testing.assert_allclose(moved, crop.landmarks_px, atol=1e-6)
        expected = cv2.warpAffine(scene.image, fit.matrix[:2], (width, height), flags=cv2.INTER_LINEAR)
        inside = np.s_[3:-3, 3:-3]
        assert np.abs(expected[inside].astype(int) - crop.image[inside]).mean() < 2
        np.testing.assert_allclose(crop.landmarks, (crop.landmarks_px + 0.5) / [width, height])
    assert len({crop.landmarks_px.tobytes() for crop in crops}) == 3


def test_heights_and_numbers():
    small = [draw_loose_crops(SETTINGS, 0, number, 1, (16, 28))[0] for number in range(6)]
    heights = [crop.image.shape[0] for crop in small]
    assert min(heights) >= 16
    assert max(heights) <= 31
    assert len(set(heights)) > 2
    again = draw_loose_crops(SETTINGS, 0, 3, 1, (16, 28))[0]
    np.testing.assert_array_equal(again.image, small[3].image)
    assert again.image.shape != small[2].image.shape or (again.image != small[2].image).any()
