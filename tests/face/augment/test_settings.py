"""AugmentationSettings: the paper's values, presets, YAML, and errors that name what is wrong."""

from dataclasses import replace

import pytest

from common.runtime.settings import ConfigError, build_settings
from face.augment import AugmentationSettings

WRONG = [
    ("flip_prob", 1.5, "flip_prob must be a number from 0 to 1, got 1.5"),
    ("flip_prob", True, "flip_prob must be a number"),
    ("cutout_prob", float("nan"), "cutout_prob must be a number from 0 to 1, got nan"),
    ("jitter_contrast", -0.1, "jitter_contrast must be"),
    ("rotation_degrees", 181, "rotation_degrees must be a number from 0 to 180, got 181"),
    ("rotation_degrees", "20", "rotation_degrees must be .* got '20'"),
    ("blur_sigma_px", float("inf"), "blur_sigma_px must be a finite number >= 0"),
    ("border", 256, "border must be a whole number from 0 to 255, got 256"),
    ("cutout_hole_px", 0, "cutout_hole_px must be a whole number >= 1, got 0"),
    ("blur_average_px", 2.0, "blur_average_px must be a whole number"),
    ("randaug_ops", -1, "randaug_ops must be a whole number >= 0"),
    ("randaug_bins", 1, "randaug_bins must be"),
    ("randaug_magnitude", 31, r"randaug_magnitude must be a bin below randaug_bins \(31\), got 31"),
    ("scale_range", (0.0, 1.0), "scale_range must be two numbers, 0 < smallest <= largest, got"),
    ("scale_range", (1.2, 0.8), "scale_range must be"),
    ("scale_range", 1.0, "scale_range must be"),
    ("cutout_area", (0.2, 1.1), "cutout_area must be two numbers, 0 < smallest <= largest <= 1"),
    ("blur_resize_range", (0.2, 0.5, 1.0), "blur_resize_range must be"),
    ("cutout_holes", (20, 12), "cutout_holes must be two whole numbers, 0 <= fewest <= most"),
    ("cutout_holes", (1.0, 2.0), "cutout_holes must be"),
    ("blur_shares", (0.5, 0.2, 0.2), "blur_shares must be three numbers >= 0 whose sum is 1"),
    ("blur_shares", (1.5, -0.5, 0.0), "blur_shares must be"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG, ids=lambda value: str(value)[:24])
def test_a_wrong_field_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        AugmentationSettings(**{name: value})


def test_all_problems_are_in_one_message():
    with pytest.raises(ValueError, match=r"flip_prob must be .*; .*border must be .*; .*scale_range must be"):
        AugmentationSettings(flip_prob=2, border=-1, scale_range=(0, 0))


def test_defaults_are_those_of_table_6():
    settings = AugmentationSettings()
    assert (settings.rotation_degrees, settings.rotation_prob, settings.flip_prob) == (20, 0.2, 0.5)
    assert (settings.randaug_magnitude, settings.randaug_bins, settings.randaug_ops) == (14, 31, 2)
    assert (settings.scale_range, settings.cutout_prob, settings.blur_prob) == ((0.8, 1.2), 0.2, 0.2)


def test_basic_moves_nothing_but_by_the_mirror():
    basic, none = AugmentationSettings.basic(), AugmentationSettings.none()
    changes = {"flip_prob": 0, "cutout_prob": 0, "blur_prob": 0, "jitter_prob": 0}
    assert (basic.flip_prob, basic.cutout_prob, basic.blur_prob, basic.jitter_prob) == (0.5, 0.2, 0.2, 0.2)
    assert replace(basic, **changes, cutout_holes_share=0.05, blur_shares=none.blur_shares) == none


def test_they_are_read_from_plain_mappings():
    settings = build_settings({"scale_range": [0.7, 2.0], "border": 127}, AugmentationSettings)
    assert settings == AugmentationSettings(scale_range=(0.7, 2.0), border=127)
    with pytest.raises(ConfigError, match="cutout_prob must be a number from 0 to 1, got 2"):
        build_settings({"cutout_prob": 2.0}, AugmentationSettings)
