"""Squares about boxes, and where dots in a photograph come to lie in them."""

import math
import pickle

import cv2
import numpy as np
import pytest

from face.augment.geometry import Placement
from face.data import ImageError
from face.dfa.annotations import read_retinaface_labels
from face.dfa.crops import PhotographCrops, cut_frame, frame_matrix, map_points, square_frames


def dotted(size_hw, x, y, radius=2.0):
    """A bright, soft dot about pixel-index (x, y) on black."""
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    grey = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2))
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)


def dot_of(image):
    """(x, y) of the dot as fractions: the mean of where it is bright."""
    weight = image[..., 0].astype(float)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    x, y = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
    return np.array([(x + 0.5) / image.shape[1], (y + 0.5) / image.shape[0]])


def test_squares_by_their_definition():
    boxes = np.array([[10, 20, 30, 70], [0.5, -4, 100.5, 3], [5, 5, 6, 6]], np.float32)
    for padding in (0.0, 0.1, 0.75):
        for box, square in zip(boxes.tolist(), square_frames(boxes, padding).tolist(), strict=True):
            left, top, right, bottom = box
            side = max(right - left, bottom - top) * (1 + 2 * padding)
            middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
            expected = [middle_x - side / 2, middle_y - side / 2, middle_x + side / 2, middle_y + side / 2]
            assert square == pytest.approx(expected)
    assert square_frames(boxes[0]) == pytest.approx(square_frames(boxes, 0.1)[0])


PLACEMENTS = [
    Placement(),
    Placement(mirrored=True),
    Placement(angle_degrees=33.0, scale=0.8, shift_x=0.1, shift_y=-0.05),
    Placement(angle_degrees=-90.0, scale=1.1, mirrored=True),
]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("out_hw", [(160, 160), (48, 80), (9, 9)])  # (9, 9): shrunk by means over areas
def test_a_dot_goes_where_its_point_goes(placement, out_hw):
    size_hw = (90, 130)
    image = dotted(size_hw, 61.3, 40.8, radius=6.0 if out_hw == (9, 9) else 2.0)
    frame = np.array([33.4, 14.7, 93.4, 74.7]) / np.tile(size_hw[::-1], 2)
    matrix = frame_matrix(frame, size_hw, out_hw, placement)
    out = cut_frame(image, matrix, out_hw)
    assert out.shape == (*out_hw, 3)
    point = np.array([(61.3 + 0.5) / 130, (40.8 + 0.5) / 90])
    moved = map_points(point, matrix, size_hw, out_hw)
    np.testing.assert_allclose(moved, dot_of(out), atol=0.004)
    if placement == Placement():  # by hand
        np.testing.assert_allclose(moved, [(61.8 - 33.4) / 60, (41.3 - 14.7) / 60], atol=1e-12)


def test_a_frame_of_whole_pixels_at_its_size_is_a_slice():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    frame = np.array([12, 5, 52, 35]) / (70, 50, 70, 50)
    out = cut_frame(image, frame_matrix(frame, (50, 70), (30, 40)), (30, 40))
    np.testing.assert_array_equal(out, image[5:35, 12:52])


def test_shrinking_by_whole_numbers_is_the_mean_over_areas():
    image = np.random.default_rng(1).integers(0, 256, (60, 60, 3), np.uint8)
    frame = np.array([0, 0, 1, 1])
    out = cut_frame(image, frame_matrix(frame, (60, 60), (20, 20)), (20, 20))
    mean = image.reshape(20, 3, 20, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(out, mean, atol=0.51)


@pytest.mark.parametrize("out_side", [40, 12])
def test_what_is_outside_is_black(out_side):
    image = np.full((40, 40, 3), 200, np.uint8)
    frame = np.array([-0.5, 0.0, 0.5, 1.0])  # the left half of the square is left of the image
    out = cut_frame(image, frame_matrix(frame, (40, 40), (out_side, out_side)), (out_side, out_side))
    half = out_side // 2
    assert (out[:, : half - 1] == 0).all()
    assert (out[1:-1, half + 1 :] == 200).all()
    grey = cut_frame(image, frame_matrix(frame, (40, 40), (out_side, out_side)), (out_side, out_side), border=90)
    assert (grey[:, : half - 1] == 90).all()


@pytest.fixture
def photographs(tmp_path):
    """Two photographs, three faces: the first has a dot at its nose."""
    root = tmp_path / "images/0--Parade"
    root.mkdir(parents=True)
    cv2.imwrite(str(root / "a.png"), dotted((80, 120), 50.0, 35.0))
    cv2.imwrite(str(root / "b.png"), np.full((64, 48, 3), 77, np.uint8))
    points = "40.0 30.0 0.0 60.0 30.0 0.0 50.0 35.0 0.0 42.0 45.0 0.0 58.0 45.0 0.0 0.5"
    lines = f"# 0--Parade/a.png\n30 20 40 36 {points}\n100 60 30 30\n# 0--Parade/b.png\n4 5 40 50\n"
    path = tmp_path / "label.txt"
    path.write_text(lines)
    return read_retinaface_labels(path, tmp_path / "images")


def test_photographs_are_a_source(photographs):
    crops = PhotographCrops(photographs, padding=0.25)
    assert len(crops) == 3
    assert crops.kinds.tolist() == [1, -1, -1]
    crop = crops.read(0)
    assert crop.image.shape == (80, 120, 3)
    np.testing.assert_allclose(crop.frame * (120, 80, 120, 80), [20, 8, 80, 68])
    np.testing.assert_allclose(crop.box * (120, 80, 120, 80), [30, 20, 70, 56])
    np.testing.assert_allclose(crop.landmarks[2] * (120, 80), [50.5, 35.5], rtol=1e-6)
    np.testing.assert_allclose(crop.landmarks[2], dot_of(crop.image), atol=1e-3)
    assert math.isnan(crops.read(1).landmarks[0, 0])
    assert crops.read(2).image.max() == 77
    assert "a.png" in crops.name_of(1)
    assert "line 3" in crops.name_of(1)
    again = pickle.loads(pickle.dumps(crops))
    np.testing.assert_array_equal(again.read(2).image, crops.read(2).image)


def test_a_photograph_that_does_not_decode_is_named(photographs):
    photographs.image_path(1).write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"0--Parade/b\.png"):
        PhotographCrops(photographs).read(2)
