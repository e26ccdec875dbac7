"""Blur and cutout: what they draw, how often, and what they leave alone."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from face.augment import AugmentationSettings, degrade
from face.augment.degrade import (
    INTERPOLATIONS,
    cutout,
    draw_rectangle,
    keep_rectangle,
    lower_resolution,
    punch_holes,
    random_blur,
)

WHITE = np.full((112, 112, 3), 255, np.uint8)
WHITE.setflags(write=False)  # an operation in place would fail


def noise(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image.setflags(write=False)
    return image


def settings_of(**changes):
    return replace(AugmentationSettings.none(), **changes)


@pytest.mark.parametrize("step", [cutout, random_blur])
def test_limits_and_rate(step):
    image, rng = noise(24, 30), np.random.default_rng(0)
    assert all(step(image, AugmentationSettings.none(), rng) is image for _ in range(50))
    rates = {prob: settings_of(cutout_prob=prob, blur_prob=prob) for prob in (0.2, 1.0)}
    found = {prob: np.mean([step(image, s, rng) is not image for _ in range(1500)]) for prob, s in rates.items()}
    assert found[1.0] == 1
    assert abs(found[0.2] - 0.2) < 0.045


# Blur


def test_averages_of_all_sides():
    image, rng = noise(24, 30), np.random.default_rng(0)
    settings = settings_of(blur_prob=1.0, blur_shares=(1.0, 0.0, 0.0), blur_average_px=4)
    expected = {cv2.blur(image, (side, side)).tobytes() for side in (1, 2, 3, 4)}
    assert {random_blur(image, settings, rng).tobytes() for _ in range(60)} == expected


def test_gaussians_are_as_wide_as_they_say(monkeypatch):
    """The second moment of a point's image is the drawn standard deviation squared."""
    point = np.zeros((61, 61, 3), np.uint8)
    point[28:33, 28:33] = 255  # a square of 5: its own second moment is (25 - 1) / 12 = 2
    settings = settings_of(blur_prob=1.0, blur_shares=(0.0, 1.0, 0.0), blur_sigma_px=4.0)
    rng, found = np.random.default_rng(0), []
    offsets = np.arange(61) - 30
    for _ in range(300):
        weight = random_blur(point, settings, rng)[..., 0].sum(0).astype(float)
        found.append(np.sqrt(max((weight * offsets**2).sum() / weight.sum() - 2, 0)))
    assert 3.5 < max(found) < 4.1
    assert min(found) < 0.3
    assert abs(np.mean(found) - 2) < 0.25


def test_blurs_are_shared_out(monkeypatch):
    calls = Counter()
    for name in ("blur", "GaussianBlur"):
        monkeypatch.setattr(degrade.cv2, name, lambda image, *_, name=name: (calls.update([name]), image)[1])
    monkeypatch.setattr(degrade, "lower_resolution", lambda image, *_: (calls.update(["lower"]), image)[1])
    settings, rng = settings_of(blur_prob=1.0), np.random.default_rng(0)
    for _ in range(3000):
        random_blur(WHITE, settings, rng)
    shares = [calls[name] / 3000 for name in ("blur", "GaussianBlur", "lower")]
    np.testing.assert_allclose(shares, settings.blur_shares, atol=0.03)


def test_resolutions_and_interpolations_drawn(monkeypatch):
    calls = []
    monkeypatch.setattr(degrade, "lower_resolution", lambda image, *drawn: (calls.append(drawn), image)[1])
    settings, rng = settings_of(blur_prob=1.0, blur_shares=(0.0, 0.0, 1.0)), np.random.default_rng(0)
    for _ in range(1500):
        random_blur(WHITE, settings, rng)
    shares = np.array([share for share, _, _ in calls])
    np.testing.assert_allclose(np.quantile(shares, [0, 0.5, 1]), [0.2, 0.6, 1.0], atol=0.03)
    pairs = Counter((down, up) for _, down, up in calls)
    assert set(pairs) == {(down, up) for down in INTERPOLATIONS for up in INTERPOLATIONS}
    assert min(pairs.values()) > 30


def test_lower_resolution_keeps_the_aspect():
    image = noise(20, 36)
    blocks = lower_resolution(image, 0.5, cv2.INTER_AREA, cv2.INTER_NEAREST)
    means = image.reshape(10, 2, 18, 2, 3).mean((1, 3))
    np.testing.assert_allclose(blocks, means.repeat(2, 0).repeat(2, 1), atol=0.51)
    one = lower_resolution(image, 1e-3, cv2.INTER_AREA, cv2.INTER_LINEAR)  # at least one pixel is left
    assert one.shape == image.shape
    assert (one == one[0, 0]).all()


# Cutout


def test_a_kept_rectangle():
    image = noise(20, 30)
    kept = keep_rectangle(image, 3, 5, 10, 12)
    np.testing.assert_array_equal(kept[3:13, 5:17], image[3:13, 5:17])
    assert kept.sum() == image[3:13, 5:17].sum()


@pytest.mark.parametrize("size_hw", [(112, 112), (112, 140)])
def test_rectangles_are_as_large_and_as_wide_as_allowed(size_hw):
    height, width = size_hw
    rng = np.random.default_rng(0)
    drawn = np.array([draw_rectangle(size_hw, (0.2, 0.6), (3 / 4, 4 / 3), rng) for _ in range(2000)])
    top, left, high, wide = drawn.T
    assert min(top.min(), left.min()) == 0
    assert (top + high).max() == height
    assert (left + wide).max() == width
    shares, ratios = high * wide / (height * width), wide / high
    np.testing.assert_allclose(np.quantile(shares, [0, 0.5, 1]), [0.2, 0.4, 0.6], atol=0.02)
    np.testing.assert_allclose(np.quantile(ratios, [0, 0.5, 1]), [3 / 4, 1, 4 / 3], atol=0.04)
    room = height - high > 20
    assert abs(np.mean(top[room] / (height - high)[room]) - 0.5) < 0.03


def test_a_rectangle_that_never_fits_is_the_whole():
    assert draw_rectangle((2, 200), (0.9, 1.0), (1.0, 1.0), np.random.default_rng(0)) == (0, 0, 2, 200)


def test_one_hole_is_a_square():
    rng, tops = np.random.default_rng(0), []
    for _ in range(300):
        rows, columns = np.nonzero((punch_holes(WHITE, (1, 1), 16, rng) == 0).all(-1))
        assert len(rows) == 256
        assert np.ptp(rows) == np.ptp(columns) == 15
        tops.append(rows.min())
    assert (min(tops), max(tops)) == (0, 96)


def test_number_of_holes():
    rng = np.random.default_rng(0)
    large = np.full((4000, 4000, 3), 255, np.uint8)[:, ::2]  # holes of one pixel that do not meet
    counts = Counter(int((punch_holes(large, (2, 4), 1, rng)[..., 0] == 0).sum()) for _ in range(12))
    assert set(counts) == {2, 3, 4}


def test_a_hole_larger_than_the_image():
    assert not punch_holes(noise(8, 12), (1, 1), 50, np.random.default_rng(0)).any()


def test_kinds_of_cutout():
    image, rng = WHITE, np.random.default_rng(0)
    holes = cutout(image, settings_of(cutout_prob=1.0, cutout_holes_share=1.0), rng)
    black = (holes == 0).all(-1)
    assert 12 * 256 / 2 < black.sum() <= 20 * 256
    kept = cutout(image, settings_of(cutout_prob=1.0, cutout_holes_share=0.0), rng)
    rows, columns = np.nonzero(kept.any(-1))
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # one rectangle
