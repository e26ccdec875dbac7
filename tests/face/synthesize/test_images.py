"""Images by their numbers: what they depend on, and whether identities can be told apart."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from face.synthesize import Split, SynthesisSettings, crop_scene, face_of, render_scene
from face.synthesize.pictures import draw_faces, write_faces

SETTINGS = SynthesisSettings()


def test_an_image_does_not_depend_on_how_many_there_are():
    few = SynthesisSettings(identities=3, images_per_identity=2, test_identities=0)
    first, second = (render_scene(settings, Split.TRAIN, 1, 1) for settings in (few, SETTINGS))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.landmarks, second.landmarks)


@pytest.mark.parametrize(
    "other",
    [
        (SETTINGS, Split.TEST, 1, 1),
        (SETTINGS, Split.TRAIN, 2, 1),
        (SETTINGS, Split.TRAIN, 1, 2),
        (SynthesisSettings(seed=1), Split.TRAIN, 1, 1),
    ],
    ids=["split", "identity", "image", "seed"],
)
def test_everything_else_changes_it(other):
    assert (render_scene(SETTINGS, Split.TRAIN, 1, 1).image != render_scene(*other).image).mean() > 0.5


def test_a_face_is_the_same_in_all_its_images_and_only_there():
    assert face_of(SETTINGS, Split.TRAIN, 4).shape == face_of(replace(SETTINGS, max_yaw=0.0), Split.TRAIN, 4).shape
    shapes = {face_of(SETTINGS, split, identity).shape for split in Split for identity in range(30)}
    assert len(shapes) == 30 * len(Split)


def test_angles_stay_within_their_settings():
    settings = SynthesisSettings(max_yaw=0.0, max_pitch=0.0, max_roll=0.0)
    for identity in range(5):
        left, right = render_scene(settings, Split.TRAIN, identity, 0).landmarks[:2]
        assert left[1] == pytest.approx(right[1], abs=1e-9)


@pytest.mark.parametrize("size", [48, 112])
def test_sizes(size):
    settings = SynthesisSettings(crop_size=size)
    scene = render_scene(settings, Split.TEST, 0, 0)
    assert scene.image.shape == (settings.scene_size, settings.scene_size, 3)
    for kind in ("aligned", "unaligned"):
        crop = crop_scene(settings, scene, kind, Split.TEST, 0, 0)
        assert crop.image.shape == (size, size, 3)
        assert crop.image.dtype == np.uint8
        assert (np.abs(crop.landmarks - 0.5) < 0.75).all()


def nearest_is_right(kind, identities=20, images=5):
    """Share of images whose nearest other image, by the correlation of small pictures, is of the same identity."""
    settings, rows = SynthesisSettings(crop_size=64), []
    for identity in range(identities):
        for image in range(images):
            scene = render_scene(settings, Split.TRAIN, identity, image)
            small = cv2.resize(crop_scene(settings, scene, kind, Split.TRAIN, identity, image).image, (20, 20))
            row = small.astype(float).ravel() - small.mean()
            rows.append(row / np.linalg.norm(row))
    close = np.array(rows) @ np.array(rows).T
    np.fill_diagonal(close, -1)
    who = np.repeat(np.arange(identities), images)
    return (who[close.argmax(axis=1)] == who).mean()


def test_identities_can_be_told_apart_but_not_by_pixels_alone():
    aligned, unaligned, chance = nearest_is_right("aligned"), nearest_is_right("unaligned"), 4 / 99
    assert 3 * chance < aligned < 0.8
    assert unaligned < 0.75 * aligned


def test_a_sheet_of_faces(tmp_path):
    write_faces(SynthesisSettings(crop_size=48), tmp_path / "faces.jpg")
    assert cv2.imread(str(tmp_path / "faces.jpg")).shape[1] == 8 * 160
    figure = draw_faces(SynthesisSettings(crop_size=48), identities=2, images=1)
    assert figure.axes[0].images[0].get_array().shape == (320, 480, 3)
    with pytest.raises(ValueError, match="suffix must be one of"):
        write_faces(SETTINGS, tmp_path / "faces.nothing")
