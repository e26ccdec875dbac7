"""Lists of images: files and bytes in memory are read alike, and landmarks are found for both."""

import pickle

import cv2
import numpy as np
import pytest

from face.data import ImageError, write_landmarks
from face.evaluation.images import EncodedImages, FolderImages, image_landmarks


@pytest.fixture
def image(rng):
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)


def encoded(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def test_both_kinds_read_rgb(tmp_path, image):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "b.png").write_bytes(encoded(image))
    folder = FolderImages(tmp_path, ["x/b.png"], tmp_path / "list.csv")
    memory = EncodedImages(tmp_path / "a.bin", [b"", encoded(image)], [0, 7])
    for images, index, key, name in ((folder, 0, "x/b.png", "x/b.png"), (memory, 1, "7", "a.bin, image 7")):
        assert (images.key_of(index), images.name_of(index), images.root) == (key, name, tmp_path)
        assert images.read_bytes(index) == encoded(image)
        np.testing.assert_array_equal(images.read(index), image)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(images)).read(index), image)
    assert (len(folder), len(memory)) == (1, 2)


def test_what_does_not_decode_is_named(tmp_path):
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"/b\.png"):
        FolderImages(tmp_path, ["b.png"], tmp_path / "list.csv").read(0)
    with pytest.raises(ImageError, match=r"a\.bin, image 7"):
        EncodedImages(tmp_path / "a.bin", [b"no image"], [7]).read(0)


def test_missing_files_are_counted_and_named(tmp_path):
    (tmp_path / "0.png").touch()
    with pytest.raises(ValueError, match=r"list\.csv: 6 of 7 images are not in .*, first: 1\.png, .*5\.png, \.\.\."):
        FolderImages(tmp_path, [f"{number}.png" for number in range(7)], tmp_path / "list.csv")


def test_landmarks_by_key(tmp_path, points, image):
    images = EncodedImages(tmp_path / "a.bin", [encoded(image)] * 2, [0, 3])
    table = tmp_path / "a.bin.csv"
    assert image_landmarks(None, table, images) is None
    write_landmarks(table, ["1", "3"], np.stack([points, points / 2]), np.array([0.5, 0.25]))
    found = image_landmarks(None, table, images)  # row 1 is of an image that is not in the list
    assert found.found.tolist() == [False, True]
    np.testing.assert_allclose(found.points[1], points / 2, atol=1e-6)
    assert image_landmarks(table, tmp_path / "other.csv", images).scores.tolist() == [0, 0.25]


def test_landmarks_of_other_images(tmp_path, points):
    images = EncodedImages(tmp_path / "a.bin", [b"a"], [0])
    write_landmarks(tmp_path / "a.bin.csv", ["x.png"], points[None])
    with pytest.raises(ValueError, match=r"a\.bin\.csv: has no row of an image of"):
        image_landmarks(None, tmp_path / "a.bin.csv", images)
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file of landmarks"):
        image_landmarks(tmp_path / "none.csv", tmp_path / "a.bin.csv", images)
