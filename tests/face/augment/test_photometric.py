"""Photometric operations against torchvision's, and their draws against the authors' rule written out."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as torchvision

from face.augment import AugmentationSettings, photometric
from face.augment.photometric import (
    OPERATIONS,
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    colour_jitter,
    equalize,
    rand_augment,
    to_grayscale,
)

FACTORS = [0.1, 0.34, 0.85, 1.0, 1.15, 1.66, 1.9]
ADJUSTMENTS = {
    adjust_brightness: torchvision.adjust_brightness,
    adjust_contrast: torchvision.adjust_contrast,
    adjust_saturation: torchvision.adjust_saturation,
    adjust_sharpness: torchvision.adjust_sharpness,
}


def _images():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 47).astype(np.uint8)
    coloured = np.zeros((30, 47, 3), np.uint8)
    coloured[..., 0], coloured[..., 1], coloured[..., 2] = ramp, 255 - ramp, ramp[::-1] // 2
    levels = np.array(list(itertools.product(range(0, 256, 15), repeat=3)), np.uint8)
    return {
        "noise": rng.integers(0, 256, (41, 30, 3), dtype=np.uint8),
        "dark": rng.integers(20, 60, (17, 23, 3), dtype=np.uint8),
        "ramp": coloured,
        "all colours": levels[: 68 * 72].reshape(68, 72, 3),
        "even": np.full((20, 20, 3), (10, 200, 90), np.uint8),
        "black": np.zeros((9, 12, 3), np.uint8),
        "two levels": np.where(rng.random((32, 32, 1)) < 0.3, 250, 3).astype(np.uint8).repeat(3, 2),
        "mostly border": np.pad(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), ((30, 9), (20, 30), (0, 0))),
    }


IMAGES = _images()


@pytest.fixture(params=IMAGES)
def image(request):
    """An image that cannot be written to: an operation on it in place would fail."""
    found = IMAGES[request.param].copy()
    found.setflags(write=False)
    return found


def by_torchvision(function, image, *arguments):
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
    return function(tensor, *arguments).permute(1, 2, 0).numpy()


def difference(ours, theirs):
    assert ours.dtype == theirs.dtype == np.uint8
    assert ours.shape == theirs.shape
    return int(np.abs(ours.astype(int) - theirs).max())


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("adjust", ADJUSTMENTS, ids=lambda adjust: adjust.__name__)
def test_adjustments_are_torchvisions(adjust, image, factor):
    ours, theirs = adjust(image, factor), by_torchvision(ADJUSTMENTS[adjust], image, factor)
    assert difference(ours, theirs) <= 1


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("adjust", ADJUSTMENTS, ids=lambda adjust: adjust.__name__)
def test_rounding_hardly_shifts_the_level(adjust, factor):
    """torchvision truncates the grey that it blends with, half a level on average, up to 0.9 of which remains."""
    image = IMAGES["noise"]
    ours, theirs = adjust(image, factor), by_torchvision(ADJUSTMENTS[adjust], image, factor)
    assert abs(ours.astype(float).mean() - theirs.mean()) < 0.6


def test_equalize_is_torchvisions(image):
    np.testing.assert_array_equal(equalize(image), by_torchvision(torchvision.equalize, image))


def test_grayscale_is_torchvisions(image):
    grey = to_grayscale(image)
    assert difference(grey, by_torchvision(torchvision.rgb_to_grayscale, image, 3)) <= 1
    assert (grey == grey[..., :1]).all()


@pytest.mark.parametrize("adjust", ADJUSTMENTS, ids=lambda adjust: adjust.__name__)
def test_factor_one_changes_nothing(adjust, image):
    np.testing.assert_array_equal(adjust(image, 1.0), image)


def test_factor_zero_is_what_is_blended_with():
    image = IMAGES["noise"]
    assert not adjust_brightness(image, 0.0).any()
    assert np.ptp(adjust_contrast(image, 0.0)) == 0
    np.testing.assert_array_equal(adjust_saturation(image, 0.0), to_grayscale(image))


def test_sharpness_leaves_the_outermost_pixels():
    image = IMAGES["noise"]
    softer = adjust_sharpness(image, 0.0)
    rim = np.ones(image.shape[:2], bool)
    rim[1:-1, 1:-1] = False
    np.testing.assert_array_equal(softer[rim], image[rim])
    assert softer[~rim].std() < 0.6 * image[~rim].std()


# RandAug


@pytest.fixture
def record(monkeypatch):
    """What RandAug calls: (name, factor) in order."""
    calls = []
    for name in OPERATIONS:
        monkeypatch.setitem(
            OPERATIONS, name, lambda image, factor, name=name: (calls.append((name, round(factor, 6))), image)[1]
        )
    return calls


def frequencies_by_rule():
    """An operation is drawn; whoever has drawn Equalize or Grayscale draws again, and if need be once more."""
    counts = Counter()
    for first, second, third in itertools.product(OPERATIONS, repeat=3):
        rare = ("equalize", "grayscale")
        counts[first if first not in rare else second if second not in rare else third] += 1
    return {name: count / len(OPERATIONS) ** 3 for name, count in counts.items()}


def test_operations_have_the_authors_frequencies(record):
    settings, rng = AugmentationSettings(randaug_ops=3), np.random.default_rng(0)
    for _ in range(4000):
        rand_augment(IMAGES["black"], settings, rng)
    assert len(record) == 12000
    found = Counter(name for name, _ in record)
    for name, expected in frequencies_by_rule().items():
        assert abs(found[name] / 12000 - expected) < 4 * np.sqrt(expected / 12000), name


def test_strengths_are_the_bins(record):
    """14 +- 9 of bins 0 to 30, each a step of 0.9 / 30, the last one excluded, either way."""
    rng = np.random.default_rng(0)
    for _ in range(3000):
        rand_augment(IMAGES["black"], AugmentationSettings(), rng)
    expected = {round(1 + sign * 0.03 * chosen, 6) for chosen in range(5, 23) for sign in (1, -1)}
    counts = Counter(factor for _, factor in record)
    assert set(counts) == expected
    assert min(counts.values()) > 0.6 * 6000 / len(expected)
    assert max(counts.values()) < 1.4 * 6000 / len(expected)


@pytest.mark.parametrize(
    ("magnitude", "spread", "expected"),
    [(3, 0, {0.7, 1.3}), (9, 5, {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}), (0, 2, {1.0, 0.9})],
)
def test_bins_stop_at_their_ends(record, magnitude, spread, expected):
    settings = AugmentationSettings(randaug_bins=10, randaug_magnitude=magnitude, randaug_spread=spread)
    rng = np.random.default_rng(0)
    for _ in range(300):
        rand_augment(IMAGES["black"], settings, rng)
    found = {factor for _, factor in record}
    assert {factor for factor in found if factor <= 1 or magnitude == 3} == expected


def test_no_operations_no_change():
    image = IMAGES["noise"]
    assert rand_augment(image, AugmentationSettings(randaug_ops=0), np.random.default_rng(0)) is image


# Colour jitter


def test_jitter_limits():
    image, rng = IMAGES["noise"], np.random.default_rng(0)
    assert colour_jitter(image, AugmentationSettings(), rng) is image
    still = AugmentationSettings(jitter_prob=1, jitter_brightness=0, jitter_contrast=0, jitter_saturation=0)
    assert colour_jitter(image, still, rng) is image


def test_jitter_of_one_kind_is_that_adjustment():
    even, rng = np.full((4, 4, 3), 100, np.uint8), np.random.default_rng(0)
    alone = AugmentationSettings(jitter_prob=1, jitter_contrast=0, jitter_saturation=0, jitter_brightness=0.5)
    levels = np.array([colour_jitter(even, alone, rng).max() for _ in range(500)])
    assert levels.min() in range(50, 54)
    assert levels.max() in range(146, 151)
    assert abs(levels.mean() - 100) < 6
    contrast = replace(alone, jitter_brightness=0.0, jitter_contrast=1.0)
    assert (colour_jitter(even, contrast, rng) == 100).all()


def test_jitter_comes_in_every_order(monkeypatch):
    calls = []
    names = ("adjust_brightness", "adjust_contrast", "adjust_saturation")
    for name in names:
        monkeypatch.setattr(photometric, name, lambda image, _, name=name: (calls.append(name), image)[1])
    settings, rng = AugmentationSettings(jitter_prob=1), np.random.default_rng(0)
    for _ in range(200):
        colour_jitter(IMAGES["black"], settings, rng)
    orders = {tuple(calls[first : first + 3]) for first in range(0, len(calls), 3)}
    assert orders == set(itertools.permutations(names))
