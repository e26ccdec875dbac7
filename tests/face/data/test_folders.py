"""A folder for each identity: order, what is passed over, and what is refused."""

import itertools
import pickle
import shutil

import numpy as np
import pytest

from face.data.folders import FolderSource, natural_order
from face.data.images import ImageError, decode_image


def test_names_in_natural_order():
    names = ["img10", "img9", "img1b", "img01", "img1", "b2a10", "b2a9", "b", "10", "9", "007", "img"]
    expected = ["007", "9", "10", "b", "b2a9", "b2a10", "img", "img01", "img1", "img1b", "img9", "img10"]
    assert natural_order(names) == expected
    for some in itertools.permutations(["a10", "a9", "a09"]):
        assert natural_order(list(some)) == ["a09", "a9", "a10"]


@pytest.mark.parametrize("form", ["{:04d}.jpg", "{}.jpg", "id{}_{:02d}"])
def test_numbers_by_their_value_whatever_their_width(form):
    """The quick way for numbers of equal width, and the other one."""
    expected = [form.format(number, number % 7) for number in range(0, 1200, 13)]
    shuffled = np.random.default_rng(0).permutation(expected).tolist()
    assert natural_order(shuffled) == expected


def test_labels_and_images(face_folder, encode):
    root, names = face_folder
    source = FolderSource(root)
    assert source.identities == ("a2", "a10", "b")
    assert (len(source), source.num_classes, source.root) == (6, 3, root)
    assert source.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert source.labels.dtype == np.int64
    assert not source.labels.flags.writeable
    assert [source.key_of(index) for index in range(6)] == names
    assert source.name_of(5) == "b/more/5.jpeg"
    for number in range(6):
        suffix = "." + names[number].rsplit(".", 1)[1].lower()
        assert source.read_bytes(number) == encode(number, suffix)
        np.testing.assert_array_equal(source.read(number), decode_image(encode(number, suffix), "x"))


def test_passed_over(face_folder):
    root, names = face_folder
    for path in (".hidden/x.jpg", "b/.x.jpg", "b/.thumbs/x.jpg", "b/list.txt", "landmarks.csv", "group.jpg"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).touch()
    source = FolderSource(root)
    assert [source.key_of(index) for index in range(len(source))] == names


def test_links_and_names_that_are_not_ascii(face_folder, tmp_path):
    root, _ = face_folder
    (root / "b").rename(tmp_path / "elsewhere")
    (root / "Žofie, 2").symlink_to(tmp_path / "elsewhere")
    source = pickle.loads(pickle.dumps(FolderSource(root)))
    assert source.key_of(3) == "Žofie, 2/0.bmp"
    assert source.read(3).shape == (12, 10, 3)


def test_an_image_that_does_not_decode(face_folder):
    root, _ = face_folder
    (root / "a10" / "x.JPG").write_bytes(b"no image")
    source = FolderSource(root)
    with pytest.raises(ImageError, match=r"faces/a10/x\.JPG: 8 bytes"):
        source.read(2)
    (root / "a10" / "x.JPG").unlink()
    with pytest.raises(FileNotFoundError, match=r"faces/a10/x\.JPG"):
        source.read(2)
    for index in (6, -1):
        with pytest.raises(IndexError, match=f"faces: image {index} of 6"):
            source.read(index)


def test_refused(face_folder, tmp_path):
    root, _ = face_folder
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        FolderSource(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: has no folders, expected one for each identity"):
        FolderSource(tmp_path / "empty")
    for number in range(7):
        (root / f"c{number}").mkdir()
    with pytest.raises(ValueError, match=r"faces: 7 identity folder\(s\) without images .*: c0, .*, c4 and 2 more"):
        FolderSource(root)
    for name in ("a2", "a10", "b"):
        shutil.rmtree(root / name)
    with pytest.raises(ValueError, match=r"faces: no images \(.png, .jpg, .jpeg, .bmp, .webp\) in its 7 folder"):
        FolderSource(root)
    (root / "c0" / "sub" / "deeper").mkdir(parents=True)
    with pytest.raises(ValueError, match="c0/sub/deeper: too deep"):
        FolderSource(root)
