"""Geometry on keypoints: NumPy and torch alike, against OpenCV and against plain arithmetic."""

import cv2
import numpy as np
import pytest
import torch

from common.keypoints import (
    COCO_17,
    FIVE_POINT_FACE,
    check_fractions,
    flip_keypoints,
    fractions_to_pixels,
    pixels_to_fractions,
    transform_keypoints,
)

HOMOGRAPHY = np.array([[1.1, 0.2, -3.0], [-0.1, 0.9, 4.0], [0.002, -0.001, 1.0]])
KINDS = {"numpy": np.asarray, "torch": torch.as_tensor}


@pytest.fixture(params=KINDS)
def kind(request):
    """Makes a NumPy array into the kind under test."""
    return KINDS[request.param]


def keypoints_like(*shape, dtype=np.float64):
    return (np.random.default_rng(0).uniform(0, 60, shape)).astype(dtype)


def test_homography_is_opencvs(kind):
    keypoints = keypoints_like(2, 17, 3)
    moved = transform_keypoints(kind(keypoints), kind(HOMOGRAPHY))
    assert type(moved) is type(kind(keypoints))
    for before, after in zip(keypoints, np.asarray(moved), strict=True):
        expected = cv2.perspectiveTransform(before[None, :, :2], HOMOGRAPHY)[0]
        np.testing.assert_allclose(after[:, :2], expected, rtol=1e-12)
        np.testing.assert_array_equal(after[:, 2], before[:, 2])


def test_it_moves_points_as_warp_perspective_moves_pixels():
    matrix = np.array([[1.0, 0.1, 3.0], [0.05, 1.0, -2.0], [0.001, 0.0, 1.0]])
    for x, y in ((20, 30), (41, 12)):
        image = np.zeros((64, 64), np.float32)
        image[y - 1 : y + 2, x - 1 : x + 2] = 1
        moved = cv2.warpPerspective(image, matrix, (64, 64))
        rows, cols = np.mgrid[:64, :64]
        centroid = np.array([(moved * cols).sum(), (moved * rows).sum()]) / moved.sum()
        np.testing.assert_allclose(transform_keypoints(np.array([[x, y]], float), matrix)[0], centroid, atol=0.1)


def test_one_matrix_a_frame(kind):
    keypoints = keypoints_like(3, 17, 3)
    matrices = np.stack([np.eye(3), HOMOGRAPHY, np.diag([2.0, 3.0, 1.0])])
    moved = np.asarray(transform_keypoints(kind(keypoints), kind(matrices)))
    for frame in range(3):
        np.testing.assert_array_equal(
            moved[frame], np.asarray(transform_keypoints(kind(keypoints[frame]), kind(matrices[frame])))
        )
    np.testing.assert_array_equal(moved[0], keypoints[0])
    np.testing.assert_array_equal(moved[2, :, :2], keypoints[2, :, :2] * [2, 3])


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("lead", [(), (1,)])
def test_many_matrices_for_one_set_of_keypoints(kind, lead, channels):
    keypoints = keypoints_like(*lead, 5, channels)
    matrices = np.stack([np.eye(3), HOMOGRAPHY, np.diag([2.0, 3.0, 1.0])])
    moved = np.asarray(transform_keypoints(kind(keypoints), kind(matrices)))
    assert moved.shape == (3, 5, channels)
    for matrix, found in zip(matrices, moved, strict=True):
        expected = np.asarray(transform_keypoints(kind(keypoints.reshape(5, channels)), kind(matrix)))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("schema", [COCO_17, FIVE_POINT_FACE], ids=lambda schema: schema.name)
def test_flip_swaps_sides_and_undoes_itself(kind, schema):
    keypoints = keypoints_like(2, len(schema), 3)
    flipped = flip_keypoints(kind(keypoints), schema, width=43)
    for index, name in enumerate(schema.names):
        other = schema.names.index(name.replace("left", "right") if "left" in name else name.replace("right", "left"))
        x, y, confidence = keypoints[:, other].T
        np.testing.assert_array_equal(np.asarray(flipped)[:, index], np.stack([43 - x, y, confidence], axis=-1))
    again = flip_keypoints(flipped, schema, width=43)
    np.testing.assert_allclose(np.asarray(again), keypoints, rtol=0, atol=1e-13)


def test_flip_of_fractions_and_of_pixels_agree(kind):
    pixels = kind(keypoints_like(17, 2))
    by_pixels = pixels_to_fractions(flip_keypoints(pixels, COCO_17, width=44 - 1), (64, 44))
    by_fractions = flip_keypoints(pixels_to_fractions(pixels, (64, 44)), COCO_17)
    np.testing.assert_allclose(np.asarray(by_pixels), np.asarray(by_fractions), rtol=0, atol=1e-14)


def test_corners_and_centres(kind):
    """Pixel centres of the corners, and the corners of the image itself, for 64 rows and 44 columns."""
    pixels = np.array([[0, 0], [43, 63], [-0.5, -0.5], [43.5, 63.5], [21.5, 31.5]])
    fractions = np.array([[0.5 / 44, 0.5 / 64], [43.5 / 44, 63.5 / 64], [0, 0], [1, 1], [0.5, 0.5]])
    np.testing.assert_allclose(np.asarray(pixels_to_fractions(kind(pixels), (64, 44))), fractions, rtol=0, atol=1e-15)
    np.testing.assert_allclose(np.asarray(fractions_to_pixels(kind(fractions), (64, 44))), pixels, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(17, 2), (2, 3, 17, 3)])
def test_units_are_inverse_and_leave_confidences(kind, shape):
    pixels = keypoints_like(*shape)
    fractions = pixels_to_fractions(kind(pixels), (64, 44))
    np.testing.assert_array_equal(np.asarray(fractions)[..., 2:], pixels[..., 2:])
    np.testing.assert_allclose(np.asarray(fractions_to_pixels(fractions, (64, 44))), pixels, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_is_kept(kind, dtype):
    keypoints = kind(keypoints_like(17, 3, dtype=dtype))
    wide = kind(HOMOGRAPHY)
    for moved in (
        transform_keypoints(keypoints, wide),
        flip_keypoints(keypoints, COCO_17),
        pixels_to_fractions(keypoints, (64, 44)),
        fractions_to_pixels(keypoints, (64, 44)),
    ):
        assert moved.dtype == keypoints.dtype


def test_whole_pixels_become_fractions_and_not_zeros(kind):
    """Landmark files hold integers; their fractions are not."""
    fractions = pixels_to_fractions(kind(np.array([[10, 20], [43, 0]])), (64, 44))
    np.testing.assert_allclose(np.asarray(fractions), [[10.5 / 44, 20.5 / 64], [43.5 / 44, 0.5 / 64]], rtol=1e-6)


def test_gradients_pass():
    keypoints = torch.from_numpy(keypoints_like(2, 17, 3)).requires_grad_()
    matrix = torch.from_numpy(HOMOGRAPHY).requires_grad_()
    assert torch.autograd.gradcheck(transform_keypoints, (keypoints[:, :4], matrix))
    assert torch.autograd.gradcheck(lambda k: flip_keypoints(k, COCO_17), (keypoints,))
    assert torch.autograd.gradcheck(lambda k: pixels_to_fractions(k, (64, 44)), (keypoints,))
    assert torch.autograd.gradcheck(lambda k: fractions_to_pixels(k, (64, 44)), (keypoints,))


def test_inputs_are_left_as_they_are(kind):
    keypoints = kind(keypoints_like(17, 3))
    before = np.array(np.asarray(keypoints))
    transform_keypoints(keypoints, kind(HOMOGRAPHY))
    flip_keypoints(keypoints, COCO_17)
    pixels_to_fractions(keypoints, (64, 44))
    np.testing.assert_array_equal(np.asarray(keypoints), before)


def test_fractions_are_accepted(kind):
    inside = np.random.default_rng(0).uniform(0, 1, (2, 17, 2))
    check_fractions(kind(inside))
    far = inside.copy()
    far[:, :8] = [5.0, -7.0]  # less than half have left the crop, which joints may
    check_fractions(kind(far))
    hidden = np.full((2, 17, 2), np.nan)
    hidden[:, 3] = 0.5
    visibility = np.zeros((2, 17))
    visibility[:, 3] = 0.2
    check_fractions(kind(hidden), kind(visibility))
    check_fractions(kind(hidden), kind(np.zeros((2, 17))))
    check_fractions(kind(np.zeros((0, 17, 2))))
    check_fractions(kind(np.concatenate([inside, np.full((2, 17, 1), 90.0)], axis=-1)))  # a confidence is no place


def test_pixels_are_refused(kind):
    pixels = keypoints_like(2, 17, 2) + 3
    with pytest.raises(ValueError, match=r"0007: keypoints must be fractions .*are they in pixels\? See pixels_to_f"):
        check_fractions(kind(pixels), source="0007")
    one_axis = np.full((4, 2), 0.5)
    one_axis[:, 1] = 40
    with pytest.raises(ValueError, match="largest 40"):
        check_fractions(kind(one_axis))
    mostly_hidden = np.full((1, 17, 2), 0.5)
    mostly_hidden[0, :2] = -30
    visibility = np.zeros((1, 17))
    visibility[0, :3] = 1
    with pytest.raises(ValueError, match="largest 30"):
        check_fractions(kind(mostly_hidden), kind(visibility))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_visible_keypoints_must_be_finite(kind, value):
    keypoints = np.full((2, 17, 2), 0.5)
    keypoints[1, 3, 1] = value
    with pytest.raises(ValueError, match="visible keypoints must be finite"):
        check_fractions(kind(keypoints))


def test_bad_shapes(kind):
    for wrong in (np.zeros(2), np.zeros((17, 4)), np.zeros((17, 1))):
        for function in (
            lambda k: transform_keypoints(k, kind(np.eye(3))),
            lambda k: flip_keypoints(k, COCO_17),
            lambda k: pixels_to_fractions(k, (64, 44)),
            lambda k: fractions_to_pixels(k, (64, 44)),
            check_fractions,
        ):
            with pytest.raises(ValueError, match=r"must have shape \[\.\.\., L, 2\] or \[\.\.\., L, 3\]"):
                function(kind(wrong))
    with pytest.raises(ValueError, match=r"matrix must have shape \[\.\.\., 3, 3\], got \[2, 3\]"):
        transform_keypoints(kind(np.zeros((17, 2))), kind(np.eye(3)[:2]))
    with pytest.raises(ValueError, match=r"schema coco17 has 17 keypoints, got keypoints of shape \[5, 2\]"):
        flip_keypoints(kind(np.zeros((5, 2))), COCO_17)
