"""A training set is looked at before the run; what is left out, replaced or lacks landmarks is counted and said."""

import shutil

import cv2
import numpy as np
import pytest
import torch

from face.augment import AugmentationSettings
from face.data import ImageError, RecordWriter
from face.models.base import pixels_to_input
from face.reference import reference_landmarks
from face.training.data import open_training_set
from face.training.dataset import collate
from face.training.loading import make_loader
from face.training.sampler import EpochBatches, SampleKey
from face.training.settings import DataSettings


class Notes:
    """A log that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def log_info(self, message):
        self.lines.append(str(message))

    log_warning = log_info

    def __contains__(self, text):
        return any(text in line for line in self.lines)


@pytest.fixture
def own(faces, tmp_path):
    """A copy of the training set, to be changed."""
    return shutil.copytree(faces / "train", tmp_path / "own")


def open_set(root, augmentation=None, needs_keypoints=True, seed=0, notes=None, **settings):
    settings = {"landmarks": "landmarks.csv", "num_workers": 0} | settings
    augmentation = AugmentationSettings.none() if augmentation is None else augmentation
    return open_training_set(
        DataSettings(root=root, **settings), augmentation, (32, 32), needs_keypoints, seed, notes or Notes()
    )


def without_rows(root, part):
    path = root / "landmarks.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if part not in line))


def test_a_sample_is_its_image_with_its_landmarks(faces):
    data = open_set(faces / "train")
    sample = data[SampleKey(11, epoch=0, place=5)]
    expected = cv2.imread(str(faces / "train" / "id1" / "3.png"))[..., ::-1]
    np.testing.assert_array_equal(sample.image, expected)
    np.testing.assert_array_equal(sample.keypoints, data.landmarks.points[11])
    assert (sample.label, sample.place, sample.visibility.tolist()) == (1, 11, [1.0] * 5)
    assert not data.hides


def test_what_is_drawn_follows_from_seed_epoch_and_place(faces):
    data = open_set(faces / "train", AugmentationSettings())
    same = data[SampleKey(3, 1, 7)]
    np.testing.assert_array_equal(same.image, data[SampleKey(3, 1, 7)].image)
    others = [
        data[SampleKey(3, 2, 7)],
        data[SampleKey(3, 1, 8)],
        open_set(faces / "train", AugmentationSettings(), seed=1)[SampleKey(3, 1, 7)],
    ]
    assert all(not np.array_equal(same.image, other.image) for other in others)


def test_batches_have_what_samples_have(faces):
    data = open_set(faces / "train", AugmentationSettings())
    batches = EpochBatches(data.source.labels, 8, 0, 0, 3)
    loaded = list(make_loader(data, batches, 0, False, collate))
    assert len(loaded) == 3
    for batch, keys in zip(loaded, batches, strict=True):
        samples = [data[key] for key in keys]
        assert batch.images.shape == (8, 3, 32, 32)
        np.testing.assert_array_equal(batch.images.permute(0, 2, 3, 1).numpy(), [sample.image for sample in samples])
        np.testing.assert_array_equal(batch.keypoints.numpy(), [sample.keypoints for sample in samples])
        assert batch.labels.tolist() == [sample.label for sample in samples]
        assert batch.indices.tolist() == [key.image for key in keys]


def test_pixels_span_what_models_take():
    found = pixels_to_input(torch.tensor([0, 255, 127], dtype=torch.uint8).view(1, 3, 1, 1), "cpu")
    assert found.flatten().tolist() == pytest.approx([-1.0, 1.0, 127 / 127.5 - 1])


def test_missing_landmarks_stop_a_run_that_has_no_rule_for_them(own):
    without_rows(own, "id2/4")
    with pytest.raises(ValueError, match=r"landmarks.csv: 1 of 48 images have no landmarks, such as .*id2/4.png"):
        open_set(own)


@pytest.mark.parametrize(
    ("rule", "said"), [("reference", "those of the alignment template"), ("hide", "landmarks of visibility 0")]
)
def test_rules_for_missing_landmarks(own, rule, said):
    without_rows(own, "id2/")
    notes = Notes()
    data = open_set(own, missing_landmarks=rule, notes=notes)
    assert "8 of 48 images have no landmarks" in notes
    assert said in notes
    sample, other = data[SampleKey(16, 0, 0)], data[SampleKey(15, 0, 0)]
    np.testing.assert_allclose(sample.keypoints, reference_landmarks(pixels=False), atol=1e-6)
    assert set(sample.visibility) == {0.0 if rule == "hide" else 1.0}
    assert set(other.visibility) == {1.0}
    assert data.hides is (rule == "hide")
    batch = collate([sample, other])
    assert batch.visibility.tolist() == [sample.visibility.tolist(), other.visibility.tolist()]


def test_images_without_landmarks_can_be_left_out(own):
    without_rows(own, "id2/4")
    without_rows(own, "id0/")
    notes = Notes()
    data = open_set(own, missing_landmarks="drop", notes=notes)
    assert "9 of 48 images have no landmarks" in notes
    assert "left out" in notes
    assert len(data) == 39
    assert data.source.num_classes == 5
    assert "id1/0.png" in data.source.name_of(0)
    sample = data[SampleKey(13, 0, 0)]  # id1 has eight, then id2 lacks its fifth
    assert "id2/6.png" in data.source.name_of(13)
    expected = open_set(own, missing_landmarks="hide").landmarks.points[22]
    np.testing.assert_array_equal(sample.keypoints, expected)


def test_no_table_at_all(faces):
    with pytest.raises(ValueError, match=r"data.landmarks: the model needs landmarks, and no file of them is named"):
        open_set(faces / "train", landmarks=None)
    assert open_set(faces / "train", landmarks=None, missing_landmarks="hide").hides
    assert open_set(faces / "train", landmarks=None, needs_keypoints=False).landmarks is None


def test_a_model_without_keypoints_needs_no_table(faces):
    data = open_set(faces / "train", landmarks="nowhere.csv", needs_keypoints=False)
    assert set(data[SampleKey(0, 0, 0)].visibility) == {0.0}


def test_small_identities_are_left_out_and_counted(own):
    for number in range(1, 8):
        (own / "id3" / f"{number}.png").unlink()
    for number in range(1, 8):
        without_rows(own, f"id3/{number}.png")
    notes = Notes()
    data = open_set(own, min_images=2, notes=notes)
    assert "1 identities with fewer than 2 images are left out, 1 images" in notes
    assert (len(data), data.source.num_classes) == (40, 5)
    np.testing.assert_array_equal(data.landmarks.points[24], open_set(own).landmarks.points[25])  # id4/0


def test_one_identity_is_no_training_set(own):
    for identity in range(1, 6):
        shutil.rmtree(own / f"id{identity}")
        without_rows(own, f"id{identity}/")
    with pytest.raises(ValueError, match="training needs at least 2 identities, found 1"):
        open_set(own)


def test_broken_images_stop_or_are_replaced_and_named(own):
    (own / "id1" / "2.png").write_bytes(b"no image")
    (own / "id1" / "3.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"id1/2.png"):
        open_set(own)[SampleKey(10, 0, 0)]
    data = open_set(own, skip_broken=True)
    sample = data[SampleKey(10, 0, 0)]
    assert [name.split(":")[0].split("id1/")[-1] for name in sample.broken] == ["2.png", "3.png"]
    assert (sample.place, sample.label) == (12, 1)
    np.testing.assert_array_equal(sample.image, cv2.imread(str(own / "id1" / "4.png"))[..., ::-1])
    np.testing.assert_array_equal(sample.keypoints, data.landmarks.points[12])


def test_the_first_image_may_be_a_broken_one(own):
    (own / "id0" / "0.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"id0/0\.png"):
        open_set(own)
    assert open_set(own, skip_broken=True)[SampleKey(0, 0, 0)].place == 1


def test_records_give_what_folders_give(faces, tmp_path):
    folder = open_set(faces / "train")
    with RecordWriter(tmp_path / "records") as writer:
        for index in range(len(folder)):
            writer.write(folder.source.read_bytes(index), int(folder.source.labels[index]))
    records = open_set(tmp_path / "records", landmarks=str(faces / "missing.csv"), needs_keypoints=False)
    for index in (0, 17, 47):
        one, other = folder[SampleKey(index, 0, 0)], records[SampleKey(index, 0, 0)]
        np.testing.assert_array_equal(one.image, other.image)
        assert one.label == other.label


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
        open_set(tmp_path / "nowhere")
