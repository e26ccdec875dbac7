"""Samples of the landmark network: what is told of a picture is where the picture shows it."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from face.augment import AugmentationSettings
from face.augment.geometry import draw_placement
from face.data import ImageError
from face.dfa.annotations import read_retinaface_labels
from face.dfa.crop_cache import CropSettings, make_crops
from face.dfa.crops import Crop, PhotographCrops
from face.dfa.dataset import CropSet, collate_crops, make_crop_loader, plain_batches
from face.training.sampler import EpochBatches, SampleKey

POINTS = np.array([[0.3, 0.35], [0.68, 0.38], [0.52, 0.58], [0.36, 0.78], [0.64, 0.74]])
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]])
GEOMETRY = dataclasses.replace(
    AugmentationSettings.none(),
    flip_prob=0.5,
    rotation_prob=1.0,
    rotation_degrees=40.0,
    scale_range=(0.7, 1.1),
    translation_room=0.5,
)


class DottedCrops:
    """A dot of its own colour at each landmark; the frame is a part of the image that is not square."""

    def __init__(self, kinds=(1, -1, 0), broken=()):
        self.kinds = np.array(kinds)
        self._broken = broken
        self.image = np.full((150, 180, 3), 60, np.uint8)
        self.frame = np.array([25.25, 10.5, 145.25, 130.5])
        self.box = np.array([35.0, 20.0, 135.0, 120.0])
        self.landmarks = self.box[:2] + POINTS * 100
        for (x, y), colour in zip(self.landmarks, COLOURS.tolist(), strict=True):
            cv2.circle(self.image, (round((x - 0.5) * 16), round((y - 0.5) * 16)), 5 * 16, colour, -1, cv2.LINE_AA, 4)

    def __len__(self):
        return len(self.kinds)

    def name_of(self, index):
        return f"crop {index}"

    def read(self, index):
        if index in self._broken:
            raise ImageError(f"crop {index}: broken")
        kind, scale = int(self.kinds[index]), np.array([180, 150, 180, 150])
        landmarks = self.landmarks / scale[:2] if kind == 1 else np.full((5, 2), np.nan)
        return Crop(self.image, self.frame / scale, self.box / scale if kind else np.zeros(4), landmarks, kind)


def dots_of(image):
    """[5, 2] where each colour's dot is, in fractions."""
    found = []
    for colour in COLOURS:
        near = np.abs(image.astype(int) - colour).max(axis=2) < 40
        rows, columns = np.nonzero(near)
        assert len(rows) > 10
        found.append([(columns.mean() + 0.5) / image.shape[1], (rows.mean() + 0.5) / image.shape[0]])
    return np.array(found)


@pytest.mark.parametrize("image_hw", [(160, 160), (96, 144)])
def test_landmarks_and_box_move_with_the_picture(image_hw):
    crops = CropSet(DottedCrops(), image_hw, GEOMETRY, seed=3)
    mirrored = []
    for place in range(12):
        sample = crops[SampleKey(0, 1, place)]
        assert sample.image.shape == (*image_hw, 3)
        placement = draw_placement(GEOMETRY, np.random.default_rng(np.random.SeedSequence((3, 1, place, 1))))
        mirrored.append(placement.mirrored)
        # After a mirror, the left eye is the dot that was the right one.
        order = [1, 0, 2, 4, 3] if placement.mirrored else [0, 1, 2, 3, 4]
        np.testing.assert_allclose(sample.landmarks, dots_of(sample.image)[order], atol=0.006)
        assert sample.landmarks[0, 0] < sample.landmarks[1, 0]
    assert 0 < sum(mirrored) < 12


def test_the_box_is_the_bounds_of_its_corners():
    source = DottedCrops()
    settings = dataclasses.replace(GEOMETRY, flip_prob=0.0)
    crops = CropSet(source, (160, 160), settings, seed=5)
    for place in range(5):
        sample = crops[SampleKey(0, 0, place)]
        angle, scale, shift_x, shift_y, _ = draw_placement(
            settings, np.random.default_rng(np.random.SeedSequence((5, 0, place, 1)))
        )
        left, top, right, bottom = source.frame
        xs, ys = [], []
        for x in source.box[[0, 2]]:
            for y in source.box[[1, 3]]:
                # from the frame's middle, in frames; anticlockwise as one sees it
                u, v = (x - (left + right) / 2) / (right - left), (y - (top + bottom) / 2) / (bottom - top)
                cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
                xs.append(0.5 + shift_x + scale * (u * cosine + v * sine))
                ys.append(0.5 + shift_y + scale * (-u * sine + v * cosine))
        np.testing.assert_allclose(sample.box, [min(xs), min(ys), max(xs), max(ys)], atol=1e-5)


def test_plain_samples_by_hand():
    source = DottedCrops()
    crops = CropSet(source)
    sample = crops[0]
    assert sample.image.shape == (160, 160, 3)
    np.testing.assert_allclose(sample.landmarks, (source.landmarks - source.frame[:2]) / 120, atol=1e-6)
    np.testing.assert_allclose(sample.landmarks, dots_of(sample.image), atol=0.006)
    np.testing.assert_allclose(sample.box, (source.box - np.tile(source.frame[:2], 2)) / 120, atol=1e-6)
    assert (sample.kind, sample.place, sample.index, sample.broken) == (1, 0, 0, ())
    np.testing.assert_array_equal(crops[SampleKey(0, 7, 99)].image, sample.image)


@pytest.mark.parametrize("augment", [None, AugmentationSettings()])
def test_three_kinds(augment):
    crops = CropSet(DottedCrops(), augment=augment)
    with_landmarks, without, nothing = (crops[SampleKey(index, 0, 0)] for index in range(3))
    assert [with_landmarks.kind, without.kind, nothing.kind] == [1, -1, 0]
    np.testing.assert_array_equal(without.box, with_landmarks.box)
    assert not without.landmarks.any()
    assert not nothing.landmarks.any()
    assert not nothing.box.any()
    np.testing.assert_array_equal(nothing.image, without.image)  # the same draws, whatever is there
    for sample in (with_landmarks, without, nothing):
        assert sample.image.dtype == np.uint8
        assert sample.box.dtype == sample.landmarks.dtype == np.float32


def test_pixels_are_augmented_too():
    settings = dataclasses.replace(AugmentationSettings.none(), cutout_prob=1.0, cutout_area=(0.2, 0.4))
    plain, cut = CropSet(DottedCrops())[0], CropSet(DottedCrops(), augment=settings)[0]
    np.testing.assert_array_equal(cut.landmarks, plain.landmarks)
    black = (cut.image == 0).all(axis=2)
    assert 0.55 < black.mean() < 0.85
    np.testing.assert_array_equal(cut.image[~black], plain.image[~black])


def test_nothing_drawn_is_plain():
    plain, drawn = CropSet(DottedCrops())[0], CropSet(DottedCrops(), augment=AugmentationSettings.none())[0]
    np.testing.assert_array_equal(drawn.image, plain.image)
    np.testing.assert_array_equal(drawn.landmarks, plain.landmarks)


def test_samples_follow_from_seed_epoch_and_place():
    crops = CropSet(DottedCrops(kinds=(1, 1)), augment=AugmentationSettings(), seed=4)
    first = crops[SampleKey(0, 2, 5)]
    np.testing.assert_array_equal(crops[SampleKey(0, 2, 5)].image, first.image)
    others = [crops[SampleKey(0, 3, 5)], crops[SampleKey(0, 2, 6)]]
    others.append(CropSet(DottedCrops(), augment=AugmentationSettings(), seed=5)[SampleKey(0, 2, 5)])
    for other in others:
        assert np.abs(other.landmarks - first.landmarks).max() > 1e-3


def test_broken_crops_are_replaced_or_refused():
    source = DottedCrops(kinds=(1, 1, -1), broken=(0, 1))
    sample = CropSet(source, skip_broken=True)[SampleKey(0, 0, 7)]
    assert (sample.index, sample.place, sample.kind) == (2, 7, -1)
    assert sample.broken == ("crop 0: broken", "crop 1: broken")
    assert collate_crops([sample, CropSet(source)[2]]).broken == sample.broken
    with pytest.raises(ImageError, match="crop 1: broken"):
        CropSet(source)[1]
    with pytest.raises(ImageError, match="100 crops in a row do not decode, the last: crop 1: broken"):
        CropSet(DottedCrops(kinds=(1, 1), broken=(0, 1)), skip_broken=True)[0]


def test_batches():
    crops = CropSet(DottedCrops(kinds=(1, -1, 0, 1, 1)))
    batches = list(make_crop_loader(crops, plain_batches(5, 2)))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    first = batches[0]
    assert first.images.shape == (2, 3, 160, 160)
    assert first.images.dtype == torch.uint8
    assert first.boxes.shape == (2, 4)
    assert first.landmarks.shape == (2, 5, 2)
    assert first.kinds.tolist() == [1, -1]
    np.testing.assert_array_equal(first.images[0].permute(1, 2, 0).numpy(), crops[0].image)
    assert all(torch.isfinite(batch.landmarks).all() for batch in batches)


@pytest.fixture
def kept(tmp_path):
    """A cache of crops from one photograph."""
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "images/a.jpg"), cv2.resize(noise, (300, 200)))
    lines = [f"{20 * k} {10 * k} 40 {50 + k}" for k in range(8)]
    (tmp_path / "label.txt").write_text("\n".join(["# a.jpg", *lines]))
    faces = read_retinaface_labels(tmp_path / "label.txt", tmp_path / "images")
    return faces, make_crops(faces, tmp_path / "crops", CropSettings(quality=100))


def test_loader_processes_change_nothing(kept):
    _, crops = kept
    data = CropSet(crops, (64, 64), AugmentationSettings(), seed=1)
    batches = EpochBatches(np.zeros(len(data), np.int64), 4, seed=1, first_batch=1, last_batch=5)
    alone, several = (list(make_crop_loader(data, batches, workers)) for workers in (0, 2))
    assert len(alone) == len(several) == 4
    for one, other in zip(alone, several, strict=True):
        for name in ("images", "boxes", "landmarks", "kinds", "indices"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    assert not torch.equal(alone[0].images, alone[2].images)


def test_photographs_can_be_augmented_straight_away(kept):
    """With enough context and no shrinking, the cache makes no difference but JPEG's."""
    faces, crops = kept
    settings = dataclasses.replace(GEOMETRY, scale_range=(1.0, 1.1), rotation_degrees=15.0)
    ours, theirs = (CropSet(source, (64, 64), settings, seed=2) for source in (crops, PhotographCrops(faces)))
    for index in range(len(faces)):
        key = SampleKey(index, 0, index)
        np.testing.assert_allclose(ours[key].box, theirs[key].box, atol=1e-5)
        assert np.abs(ours[key].image.astype(int) - theirs[key].image).mean() < 1.5
