"""Landmarks are drawn where they are, over a copy, in the colours of their sides."""

import cv2
import numpy as np
import pytest

from face.pictures import GAP, LEGEND_HEIGHT, SIDE_COLOURS, draw_landmarks, face_grid, write_sheet

KEYPOINTS = np.array([[0.25, 0.35], [0.75, 0.35], [0.5, 0.55], [0.3, 0.8], [0.7, 0.8]], np.float32)
GREY = np.full((40, 60, 3), 120, np.uint8)


@pytest.mark.parametrize("scale", [1, 3])
def test_landmarks_are_drawn_at_their_fractions(scale):
    picture = draw_landmarks(GREY, KEYPOINTS, scale)
    assert picture.shape == (40 * scale, 60 * scale, 3)
    shown = KEYPOINTS if scale > 1 else KEYPOINTS[:3]  # of hollow circles this small, little colour is left
    for (x, y), side in zip(shown, ("left", "right", "centre", "left", "right"), strict=False):
        rows, columns = np.nonzero((picture == np.array(SIDE_COLOURS[side])).all(-1))
        middle = np.array([x * 60 * scale - 0.5, y * 40 * scale - 0.5])
        near = np.hypot(columns - middle[0], rows - middle[1]) < 2.5 * max(2, scale)
        assert near.sum() > 4
        np.testing.assert_allclose([columns[near].mean(), rows[near].mean()], middle, atol=0.6)
    assert (GREY == 120).all()


def test_eyes_are_filled_and_mouth_corners_hollow():
    picture = draw_landmarks(GREY, KEYPOINTS, 3)
    assert tuple(picture[42, 45]) == SIDE_COLOURS["left"]
    assert tuple(picture[96, 54]) == (255, 255, 255)


def test_points_that_are_nowhere_are_not_drawn():
    points = np.array([[np.nan, 0.5], [1e9, 0.5], [np.inf, 0.0], [-50.0, 0.5], [0.5, np.nan]])
    np.testing.assert_array_equal(draw_landmarks(GREY, points), GREY)
    np.testing.assert_array_equal(draw_landmarks(GREY, None, 2), np.full((80, 120, 3), 120))


def test_grid_puts_faces_in_rows():
    images = np.stack([np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = face_grid(images, None, columns=2)
    assert sheet.shape == (2 * (4 + GAP) + GAP, 2 * (6 + GAP) + GAP, 3)
    for place, (top, left) in enumerate([(GAP, GAP), (GAP, 6 + 2 * GAP), (4 + 2 * GAP, GAP)]):
        np.testing.assert_array_equal(sheet[top : top + 4, left : left + 6], images[place])
    assert (sheet[4 + GAP :, 6 + 2 * GAP :] == 255).all()


def test_a_sheet_is_written_pixel_for_pixel(tmp_path):
    sheet = face_grid(np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8), None)
    write_sheet(sheet, tmp_path / "plain.png", with_legend=False)
    write_sheet(sheet, tmp_path / "new" / "legend.png")
    plain, legend = (cv2.imread(str(tmp_path / name))[..., ::-1] for name in ("plain.png", "new/legend.png"))
    np.testing.assert_array_equal(plain, sheet)
    np.testing.assert_array_equal(legend[LEGEND_HEIGHT:], sheet)


def test_refusals():
    with pytest.raises(ValueError, match=r"\[n, h, w, 3\] with n >= 1, got \[0, 4, 4, 3\]"):
        face_grid(np.zeros((0, 4, 4, 3), np.uint8), None)
    with pytest.raises(ValueError, match="2 images have landmarks of 3"):
        face_grid(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((3, 5, 2)))
    with pytest.raises(ValueError, match="columns and scale must be >= 1, got 0 and 1"):
        face_grid(np.zeros((2, 4, 4, 3), np.uint8), None, columns=0)
