"""Settings that are refused, by name."""

import pytest

from face.synthesize import SynthesisSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identities": -1}, "identities must be >= 0 and <= 99999, got -1"),
        ({"images_per_identity": 2.5}, "images_per_identity must be a whole number, got 2.5"),
        ({"identities": 0, "test_identities": 0}, "identities and test_identities must not both be 0"),
        ({"crop_size": 8}, "crop_size must be >= 32 and <= 512, got 8"),
        ({"max_yaw": 90.0}, "max_yaw must be >= 0 and <= 45, got 90"),
        ({"occlusion": float("nan")}, "occlusion must be >= 0 and <= 1"),
        ({"poor_camera": True}, "poor_camera must be a number, got True"),
        ({"train_crops": "none"}, "train_crops must be one of aligned, unaligned, both, got 'none'"),
        ({"train_format": "gif"}, "train_format must be one of jpg, png, got 'gif'"),
        (
            {"write": "folders,tapes"},
            "write must be some of folders,records,bins,wider,benchmarks, joined by commas, got 'folders,tapes'",
        ),
        ({"write": ""}, "write must be some of"),
        ({"write": "bins,bins"}, "write must be some of"),
        ({"pairs": 30}, "pairs must be a multiple of 20"),
        ({"test_identities": 1}, r"pairs \(600\) must be <= 0: 1 test identities of 10 images make 45 pairs"),
        ({"test_images_per_identity": 2}, r"pairs \(600\) must be <= 120"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_bad_settings_name_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        SynthesisSettings(**changes)


def test_pairs_do_not_matter_without_tests():
    assert SynthesisSettings(test_identities=0, test_images_per_identity=1).pairs == 600


def test_whole_numbers_are_taken_for_angles():
    assert SynthesisSettings(max_yaw=30).max_yaw == 30
