"""Transforms and keypoints against their definitions, written out as loops."""

import math

import numpy as np
import pytest

from common.affnist.frames import (
    FRAME,
    AffineRanges,
    affine_frames,
    box_keypoints,
    fitting_translations,
    linear_maps,
    upright_frames,
    warp,
)


@pytest.fixture
def numbers():
    return np.random.default_rng(0)


def blobs(rng, count, height=9, width=7):
    """Small images with some black pixels; not square, so that swapped axes show."""
    images = rng.integers(1, 256, (count, height, width), dtype=np.uint8)
    images[rng.random(images.shape) < 0.6] = 0
    images[:, height // 2, width // 2] = 200
    return images


def warp_by_loop(image, matrix, frame):
    height, width = image.shape
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    out = np.zeros((frame, frame))
    for v in range(frame):
        for u in range(frame):
            x, y, _ = inverse @ [u, v, 1]
            for row in range(height):
                for col in range(width):
                    out[v, u] += max(0, 1 - abs(x - col)) * max(0, 1 - abs(y - row)) * float(image[row, col])
    return out


def random_matrices(rng, count):
    linear = linear_maps(count, rng, AffineRanges())
    return np.concatenate([linear, rng.uniform(0, 5, (count, 2, 1))], axis=2)


def test_warp_is_bilinear_interpolation(numbers):
    images, matrices = blobs(numbers, 4), random_matrices(numbers, 4)
    warped = warp(images, matrices, 13)
    for image, matrix, found in zip(images, matrices, warped, strict=True):
        np.testing.assert_allclose(found, warp_by_loop(image, matrix, 13), atol=0.51)  # rounded to whole levels


def test_warp_by_the_identity_and_by_a_shift_in_whole_pixels(numbers):
    images = blobs(numbers, 2)
    expected = np.zeros((2, 12, 12), np.uint8)
    expected[:, 2:11, 3:10] = images
    matrices = np.repeat(np.array([[[1.0, 0, 3], [0, 1, 2]]]), 2, axis=0)
    np.testing.assert_array_equal(warp(images, matrices, 12), expected)


def test_long_sets_are_warped_as_short_ones(numbers, monkeypatch):
    images, matrices = blobs(numbers, 7), random_matrices(numbers, 7)
    whole, lowest = warp(images, matrices, 13), fitting_translations(images, matrices[:, :, :2], 40)
    monkeypatch.setattr("common.affnist.frames._CHUNK", 3)
    np.testing.assert_array_equal(warp(images, matrices, 13), whole)
    np.testing.assert_array_equal(fitting_translations(images, matrices[:, :, :2], 40), lowest)


def test_linear_maps_are_rotation_then_shear_then_scale(numbers):
    ranges = AffineRanges()
    maps = linear_maps(5000, numbers, ranges)
    recovered = []
    for (a, b), (c, d) in maps:
        # The second row is scale_y * (sin, cos); what shear and scale_x did to the first follows.
        scale_y, angle = math.hypot(c, d), math.atan2(c, d)
        cos, sin = math.cos(angle), math.sin(angle)
        scale_x = a * cos - b * sin
        shear = (a * sin + b * cos) / scale_x
        recovered.append((math.degrees(angle), shear, scale_x, scale_y))
    recovered = np.array(recovered)
    for column, (low, high) in enumerate([(-20, 20), (-0.2, 0.2), (0.8, 1.2), (0.8, 1.2)]):
        values = recovered[:, column]
        assert low - 1e-9 <= values.min() < low + 0.01 * (high - low)
        assert high + 1e-9 >= values.max() > high - 0.01 * (high - low)
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
        assert values.std() == pytest.approx((high - low) / math.sqrt(12), rel=0.05)
    assert abs(np.corrcoef(recovered.T) - np.eye(4)).max() < 0.06  # drawn independently


def test_no_transform_leaves_the_identity(numbers):
    none = AffineRanges(rotation_degrees=0, shear=0, scale=(1, 1))
    np.testing.assert_array_equal(linear_maps(3, numbers, none), np.repeat(np.eye(2)[None], 3, axis=0))


@pytest.mark.parametrize("change", [{"rotation_degrees": -1}, {"shear": -0.1}, {"scale": (0, 1)}, {"scale": (1.2, 1)}])
def test_ranges_out_of_range(change):
    with pytest.raises(ValueError, match="must be >= 0 and scale 0 < lowest <= highest"):
        AffineRanges(**change)


@pytest.mark.parametrize("end", ["lowest", "highest"])
def test_nothing_is_lost_at_the_ends_of_the_fitting_translations(numbers, end):
    images = blobs(numbers, 20)
    linear = linear_maps(20, numbers, AffineRanges())
    lowest, highest = fitting_translations(images, linear, 18)
    translation = lowest if end == "lowest" else highest
    frames = warp(images, np.concatenate([linear, translation[..., None]], axis=2), 18)
    # The same in a frame with room on all sides: what is there must be in the smaller one.
    roomy = warp(images, np.concatenate([linear, translation[..., None] + 10], axis=2), 38)
    np.testing.assert_array_equal(roomy[:, 10:-10, 10:-10], frames)
    roomy[:, 10:-10, 10:-10] = 0
    assert not roomy.any()


def test_fitting_translations_reach_the_edge(numbers):
    images = blobs(numbers, 50)
    images[:, [0, -1], 3] = images[:, 4, [0, -1]] = 255
    linear = np.repeat(np.eye(2)[None], 50, axis=0)
    lowest, highest = fitting_translations(images, linear, 20)
    np.testing.assert_allclose(lowest, 0)
    np.testing.assert_allclose(highest, np.repeat([[20 - 7, 20 - 9]], 50, axis=0))


def test_affine_frames_hold_the_whole_digit(numbers):
    images = blobs(numbers, 200, 20, 20)
    frames = affine_frames(images, numbers)
    assert frames.shape == (200, FRAME, FRAME)
    assert frames.dtype == np.uint8
    # An affine map scales the sum of grey levels by its determinant; no part of it has left the frame.
    ratio = frames.sum(axis=(1, 2)) / images.sum(axis=(1, 2))
    assert 0.8**2 - 0.05 < ratio.min() < ratio.max() < 1.2**2 + 0.05


def test_affine_frames_follow_from_the_seed(numbers):
    images = blobs(numbers, 5)
    first, again, other = (affine_frames(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2)).all()


def test_digits_that_do_not_fit(numbers):
    images = blobs(numbers, 3, 28, 28)
    images[1, [0, -1], [0, -1]] = 255
    turned = np.repeat(np.array([[[1.2, 0.8], [-0.4, 1.2]]]), 3, axis=0)
    turned[[0, 2]] = 0.5 * np.eye(2)
    with pytest.raises(ValueError, match="digit 1 is too large for a frame of 40 x 40"):
        fitting_translations(images, turned)
    images[2] = 0
    with pytest.raises(ValueError, match="digit 2 is blank"):
        affine_frames(images, numbers)


def test_upright_frames_are_moved_images(numbers):
    images = blobs(numbers, 300)
    frames = upright_frames(images, numbers, 12)
    places = set()
    for image, frame in zip(images, frames, strict=True):
        fits = [
            (top, left)
            for top in range(4)
            for left in range(6)
            if (np.pad(image, ((top, 3 - top), (left, 5 - left))) == frame).all()
        ]
        assert fits
        places.add(fits[0])
    assert len(places) == 24  # every place occurs


def test_upright_frames_follow_from_the_seed_and_fit(numbers):
    images = blobs(numbers, 9)
    first, again = (upright_frames(images, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match="9 x 7 do not fit in a frame of 8 x 8"):
        upright_frames(images, numbers, 8)


def keypoints_by_loop(image, foreground):
    height, width = image.shape
    inside = [(row, col) for row in range(height) for col in range(width) if image[row, col] >= foreground]
    top, bottom = min(row for row, _ in inside), max(row for row, _ in inside) + 1
    left, right = min(col for _, col in inside), max(col for _, col in inside) + 1
    points = [(left, top), (right, top), (left, bottom), (right, bottom), ((left + right) / 2, (top + bottom) / 2)]
    return np.array(points) / [width, height]


@pytest.mark.parametrize("foreground", [1, 32, 120])
def test_keypoints_are_the_tight_box(numbers, foreground):
    images = blobs(numbers, 30)
    images[:, :3] //= 8  # some pixels below any threshold
    keypoints = box_keypoints(images, foreground)
    assert keypoints.shape == (30, 5, 2)
    assert keypoints.dtype == np.float32
    for image, points in zip(images, keypoints, strict=True):
        np.testing.assert_allclose(points, keypoints_by_loop(image, foreground), rtol=1e-6)


def test_keypoints_of_one_pixel_and_of_a_full_image():
    images = np.zeros((2, 4, 5), np.uint8)
    images[0, 1, 3] = 255
    images[1] = 255
    one, full = box_keypoints(images)
    np.testing.assert_allclose(one, [(0.6, 0.25), (0.8, 0.25), (0.6, 0.5), (0.8, 0.5), (0.7, 0.375)], rtol=1e-6)
    np.testing.assert_allclose(full, [(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5)], rtol=1e-6)


def test_faint_images_have_a_box_and_blank_ones_do_not():
    images = np.zeros((2, 4, 4), np.uint8)
    images[0, 1:3, 2] = 5
    images[0, 0, 0] = 4
    with pytest.raises(ValueError, match="image 1 is blank"):
        box_keypoints(images)
    np.testing.assert_allclose(box_keypoints(images[:1])[0], keypoints_by_loop(images[0], 5))


def test_keypoints_move_with_the_digit(numbers):
    images = blobs(numbers, 10)
    here, there = (
        warp(images, np.repeat(np.array([[[1.0, 0, x], [0, 1, y]]]), 10, 0), 20) for x, y in [(1, 2), (9, 6)]
    )
    np.testing.assert_allclose(
        box_keypoints(there) - box_keypoints(here), np.broadcast_to([0.4, 0.2], (10, 5, 2)), atol=1e-6
    )
