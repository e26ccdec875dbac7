"""Silhouettes bit by bit as the definition (and OpenGait's own script) makes them, keypoints where their pixel went."""

import importlib.util
import os
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from plugin.prepare.normalise import (
    Placement,
    clean_keypoints,
    normalise_silhouette,
    place_keypoints,
)
from plugin.prepare.raw import DroppedFrame


def normalise_by_loop(crop):
    """The definition, pixel by pixel and column by column; None for a frame that is left out."""
    total = sum(int(value) for row in crop for value in row)
    if total <= 10000:
        return None
    filled = [index for index, row in enumerate(crop) if any(row)]
    person = crop[filled[0] : filled[-1] + 1]
    rows, columns = person.shape
    resized = cv2.resize(person, (int(64 * columns / rows), 64), interpolation=cv2.INTER_CUBIC)
    half = sum(int(value) for row in resized for value in row) / 2
    centre, running = 0, 0
    for index in range(resized.shape[1]):
        running += sum(int(value) for value in resized[:, index])
        if running > half:
            centre = index
            break
    if centre == 0:
        return None
    window = np.zeros((64, 64), np.uint8)
    for y in range(64):
        for x in range(64):
            if 0 <= centre - 32 + x < resized.shape[1]:
                window[y, x] = resized[y, centre - 32 + x]
    return window


def random_crop(draw, rows, columns):
    """A few soft grey blobs, at times touching a border."""
    crop = np.zeros((rows, columns), np.uint8)
    for _ in range(draw.integers(1, 5)):
        centre = (int(draw.integers(columns)), int(draw.integers(rows)))
        axes = (int(draw.integers(2, max(3, columns // 3))), int(draw.integers(3, max(4, rows // 2))))
        cv2.ellipse(crop, centre, axes, float(draw.integers(180)), 0, 360, int(draw.integers(120, 256)), -1)
    return cv2.GaussianBlur(crop, (3, 3), 0)


SIZES = [(128, 70), (60, 30), (200, 120), (64, 64), (50, 160), (90, 400), (300, 20)]  # rows, columns


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_matches_definition(rows, columns):
    draw = np.random.default_rng(rows)
    kept = 0
    for _ in range(12):
        crop = random_crop(draw, rows, columns)
        expected = normalise_by_loop(crop)
        if expected is None:
            with pytest.raises(DroppedFrame):
                normalise_silhouette(crop)
            continue
        window, _ = normalise_silhouette(crop)
        assert window.dtype == np.uint8
        np.testing.assert_array_equal(window, expected)
        kept += 1
    assert kept >= 6


def test_matches_opengait(tmp_path, monkeypatch):
    root = os.environ.get("OPENGAIT_ROOT")
    if root is None:
        pytest.skip("OPENGAIT_ROOT is not set: no OpenGait checkout to compare with")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the checkout is not ours to write to
    spec = importlib.util.spec_from_file_location("pretreatment", Path(root) / "datasets" / "pretreatment.py")
    pretreatment = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pretreatment)
    draw = np.random.default_rng(0)
    kept = dropped = 0
    for rows, columns in SIZES:
        ours, paths = [], []
        for index in range(40):
            crop = random_crop(draw, rows, columns)
            if index % 7 == 0:
                crop[:, 1:] = 0  # nearly all in column 0: no centre, or no data
            path = tmp_path / f"{rows}" / f"f{index:03d}.png"
            path.parent.mkdir(exist_ok=True)
            assert cv2.imwrite(str(path), crop)
            paths.append(path)
            try:
                ours.append(normalise_silhouette(crop)[0])
            except DroppedFrame:
                dropped += 1
        pretreatment.imgs2pickle((("id", "type", f"{rows}"), paths), tmp_path / "pickled")
        theirs = pickle.loads((tmp_path / "pickled" / "id" / "type" / f"{rows}" / f"{rows}.pkl").read_bytes())
        assert theirs.dtype == np.uint8
        np.testing.assert_array_equal(np.stack(ours), theirs)
        kept += len(theirs)
    assert kept > 150
    assert dropped > 10


def test_at_the_sum_of_10000_a_frame_is_dropped():
    crop = np.zeros((100, 50), np.uint8)
    crop[::2, 25] = 200  # 50 pixels
    with pytest.raises(DroppedFrame, match="sum to 10000") as dropped:
        normalise_silhouette(crop)
    assert dropped.value.reason == "empty_silhouette"
    crop[0, 25] = 201
    assert normalise_silhouette(crop)[0].any()


def test_no_centre():
    crop = np.zeros((64, 40), np.uint8)
    crop[:, 0] = 255
    with pytest.raises(DroppedFrame, match="column 0") as dropped:
        normalise_silhouette(crop)
    assert dropped.value.reason == "no_centre"
    with pytest.raises(DroppedFrame, match="leave no column") as dropped:
        normalise_silhouette(np.full((500, 3), 255, np.uint8))
    assert dropped.value.reason == "no_centre"


def test_wrong_array_is_refused():
    with pytest.raises(ValueError, match=r"\[rows, columns\] uint8, got \[4, 4, 3\] uint8"):
        normalise_silhouette(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"got \[4, 4\] float64"):
        normalise_silhouette(np.zeros((4, 4)))


@pytest.mark.parametrize(("rows", "columns", "stature"), [(130, 70, 115.0), (300, 110, 280.0), (60, 200, 55.0)])
def test_a_joint_lands_on_the_pixels_it_marked(rows, columns, stature, draw_body):
    """Dim the body and light up a dot at one joint: the normalised dot's centroid is the normalised joint."""
    centre_x = 0.4 * columns
    body, joints = draw_body(columns, rows, centre_x=centre_x, top=rows - stature - 3, stature=stature)
    radius = max(2, round(2 * stature / 64))
    checked = 0
    for joint in range(5, 17):
        dark = np.where(body > 0, 60, 0).astype(np.uint8)
        lit = dark.copy()
        centre = np.rint(joints[joint, :2]).astype(int)
        cv2.circle(lit, tuple(int(v) for v in centre), radius, 255, -1)
        window, placement = normalise_silhouette(lit)
        expected_x, expected_y = place_keypoints(np.array([[[*centre, 1.0]]]), np.array([placement]))[0, 0, :2]
        bright = np.clip(window.astype(float) - 80, 0, None)
        if bright.sum() == 0:  # out of the 64 columns
            assert not 1 < expected_x < 62
            continue
        ys, xs = np.mgrid[:64, :64]
        if 3 < expected_x < 60 and 3 < expected_y < 60:
            assert abs((bright * xs).sum() / bright.sum() - expected_x) < 0.6
            assert abs((bright * ys).sum() / bright.sum() - expected_y) < 0.6
            checked += 1
    assert checked >= 8


def test_place_keypoints_by_loop():
    draw = np.random.default_rng(0)
    keypoints = draw.uniform(0, 100, (3, 17, 3))
    placements = [Placement(0.5, 0.6, 3, -4), Placement(1.2, 1.1, 0, 7), Placement(0.3, 0.3, 10, 0)]
    placed = place_keypoints(keypoints, np.array(placements))
    for frame, place in enumerate(placements):
        for joint in range(17):
            x, y, confidence = keypoints[frame, joint]
            expected = (
                (x + 0.5) * place.scale_x - 0.5 - place.left,
                (y - place.top + 0.5) * place.scale_y - 0.5,
                confidence,
            )
            np.testing.assert_allclose(placed[frame, joint], expected)


def test_corners_of_the_crop_keep_their_half_pixel():
    """Pixel areas map onto pixel areas: the crop's edge (-0.5) stays the image's edge, whatever the scale."""
    crop = np.full((128, 100), 255, np.uint8)
    _, placement = normalise_silhouette(crop)
    assert placement == Placement(0.5, 0.5, 0, 25 - 32)
    edges = np.array([[[-0.5, -0.5, 1.0], [99.5, 127.5, 1.0]]])
    np.testing.assert_allclose(place_keypoints(edges, np.array([placement]))[0, :, :2], [(6.5, -0.5), (56.5, 63.5)])


def test_similarity_as_a_placement():
    keypoints = np.array([[[10.0, 20.0, 1.0]]])
    placed = place_keypoints(keypoints, np.array([Placement.from_similarity(0.3, 4.0, -2.0)]))
    np.testing.assert_allclose(placed, [[[7.0, 4.0, 1.0]]])


def test_missing_joints_become_zero():
    keypoints = np.full((1, 17, 3), 5.0)
    keypoints[0, :6] = [(1, 2, 0), (1, 2, -0.1), (np.nan, 2, 1), (1, np.inf, 1), (1, 2, np.nan), (1e300, 2, 1)]
    cleaned = clean_keypoints(keypoints)
    assert cleaned.dtype == np.float32
    np.testing.assert_array_equal(cleaned[0, :6], np.zeros((6, 3)))
    np.testing.assert_array_equal(cleaned[0, 6], [5, 5, 1])  # confidence clipped
    with pytest.raises(ValueError, match=r"\[T, 17, 3\], got \[1, 16, 3\]"):
        clean_keypoints(keypoints[:, 1:])
