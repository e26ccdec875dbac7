"""The contact sheet: landmarks drawn where they belong, in the colours of their sides."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from face.augment import AugmentationSettings
from face.augment.pictures import draw_augmented
from face.pictures import GAP, LEGEND_HEIGHT, SIDE_COLOURS

KEYPOINTS = np.array([[0.25, 0.35], [0.75, 0.35], [0.5, 0.55], [0.3, 0.8], [0.7, 0.8]], np.float32)
GREY = np.full((40, 60, 3), 120, np.uint8)


def test_sheet(tmp_path):
    path = tmp_path / "new" / "sheet.png"
    flip = replace(AugmentationSettings.none(), flip_prob=1.0)
    draw_augmented(path, GREY, KEYPOINTS, flip, count=4, columns=3, out_hw=(40, 60), scale=2)
    sheet = cv2.imread(str(path))[..., ::-1]
    assert sheet.shape == (LEGEND_HEIGHT + 2 * (80 + GAP) + GAP, 3 * (120 + GAP) + GAP, 3)
    for column in range(3):  # the first as it is, the others mirrored: left is left in all of them
        top, left = LEGEND_HEIGHT + GAP, GAP + column * (120 + GAP)
        tile = sheet[top : top + 80, left : left + 120]
        assert tuple(tile[28, 30]) == SIDE_COLOURS["left"]
        assert tuple(tile[28, 90]) == SIDE_COLOURS["right"]
    assert (sheet[-20:, -20:] == 255).all()  # five pictures in two rows of three


def test_same_seed_same_picture(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draw_augmented(tmp_path / f"{name}.png", image, None, seed=seed, count=2, out_hw=(40, 60), scale=1)
    first, same, other = (cv2.imread(str(tmp_path / f"{name}.png")) for name in "abc")
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert first.shape[0] == 40 + 2 * GAP  # no legend where there are no landmarks


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="suffix must be one of"):
        draw_augmented(tmp_path / "sheet.txt", GREY, None)
    with pytest.raises(ValueError, match="count, columns and scale must be >= 1, got 0, 8 and 2"):
        draw_augmented(tmp_path / "sheet.png", GREY, None, count=0)
    with pytest.raises(ValueError, match="keypoints must be fractions"):
        draw_augmented(tmp_path / "sheet.png", GREY, KEYPOINTS * 60)
    assert not list(tmp_path.iterdir())
