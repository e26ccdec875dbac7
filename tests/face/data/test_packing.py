"""Folders to records and back: bytes, names, labels and landmarks all come through."""

import os
import shutil

import cv2
import numpy as np
import pytest

from face.data import FolderSource, ImageError, RecordSource, RecordWriter, read_landmarks, write_landmarks
from face.data.packing import PackSettings, pack, unpack


@pytest.fixture
def faces(face_folder):
    return FolderSource(face_folder[0])


@pytest.fixture
def landmarks(faces):
    """Of all images, with different scores."""
    random = np.random.default_rng(0)
    path = faces.root / "landmarks.csv"
    write_landmarks(path, [faces.key_of(index) for index in range(6)], random.random((6, 5, 2)), random.random(6))
    return read_landmarks(path, faces)


def content(source):
    return [source.read_bytes(index) for index in range(len(source))]


@pytest.mark.parametrize("header", [True, False])
def test_bytes_labels_and_landmarks(header, faces, landmarks, tmp_path):
    report = pack(faces, tmp_path / "set", PackSettings(header=header), landmarks)
    assert report == (6, 3, (), 0)
    records = RecordSource(tmp_path / "set")
    assert content(records) == content(faces)
    assert records.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert (records.num_classes, records.image_hw) == (3, (12, 10))
    assert records.key_of(0) == str(int(header))
    found = read_landmarks(tmp_path / "set" / "ldmk_5points.csv", records)
    np.testing.assert_allclose(found.points, landmarks.points, atol=1e-6)
    np.testing.assert_allclose(found.scores, landmarks.scores, atol=1e-6)


def test_there_and_back(face_folder, faces, landmarks, tmp_path):
    pack(faces, tmp_path / "set", landmarks=landmarks)
    records = RecordSource(tmp_path / "set")
    placed = read_landmarks(tmp_path / "set" / "ldmk_5points.csv", records)
    assert unpack(records, tmp_path / "again", placed) == 6
    again = FolderSource(tmp_path / "again")
    assert [again.key_of(index) for index in range(6)] == face_folder[1]
    assert content(again) == content(faces)
    found = read_landmarks(tmp_path / "again" / "landmarks.csv", again)
    np.testing.assert_allclose(found.points, landmarks.points, atol=2e-6)


@pytest.mark.slow
def test_workers_keep_the_order(faces, tmp_path):
    for number in range(130):  # more than two batches
        shutil.copy(faces.root / "b" / "0.bmp", faces.root / "b" / f"more/{number + 10}.bmp")
    source = FolderSource(faces.root)
    pack(source, tmp_path / "set", PackSettings(workers=2))
    assert content(RecordSource(tmp_path / "set")) == content(source)


def test_encoded_anew(faces, tmp_path):
    pack(faces, tmp_path / "png", PackSettings(reencode="png"))
    records = RecordSource(tmp_path / "png")
    for index in range(6):
        assert records.read_bytes(index).startswith(b"\x89PNG")
        np.testing.assert_array_equal(records.read(index), faces.read(index))
    noise = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    cv2.imwrite(str(faces.root / "b" / "0.bmp"), noise)
    sizes = []
    for quality in (95, 30):
        pack(faces, tmp_path / str(quality), PackSettings(reencode="jpg", quality=quality))
        records = RecordSource(tmp_path / str(quality))
        assert all(encoded.startswith(b"\xff\xd8") for encoded in content(records))
        assert np.abs(records.read(0).astype(int) - faces.read(0)).max() <= 6  # one colour: JPEG keeps it nearly
        sizes.append(len(records.read_bytes(3)))
    assert sizes[0] > sizes[1] + 100


def test_broken_images(faces, landmarks, tmp_path):
    """Skipped, they take their landmarks with them, and their identity if it has no other image."""
    (faces.root / "a10" / "x.JPG").write_bytes(b"no image")
    (faces.root / "b" / "0.bmp").write_bytes(b"")
    with pytest.raises(ImageError, match=r"faces/a10/x\.JPG: 8 bytes, beginning with b'no image'"):
        pack(faces, tmp_path / "set", landmarks=landmarks)
    assert os.listdir(tmp_path / "set") == []
    report = pack(faces, tmp_path / "set", PackSettings(skip_broken=True), landmarks)
    assert report[:2] == (4, 2)
    lines = (tmp_path / "set" / "skipped.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(faces.root / name) for name in ("a10/x.JPG", "b/0.bmp")]
    assert list(report.skipped) == lines
    records = RecordSource(tmp_path / "set")
    assert records.labels.tolist() == [0, 0, 1, 1]
    assert content(records) == [faces.read_bytes(index) for index in (0, 1, 4, 5)]
    found = read_landmarks(tmp_path / "set" / "ldmk_5points.csv", records)
    np.testing.assert_allclose(found.points, landmarks.points[[0, 1, 4, 5]], atol=1e-6)


def test_other_sizes_are_counted(faces, encode, tmp_path):
    (faces.root / "b" / "1.webp").write_bytes(encode(9, ".webp", (8, 8)))
    assert pack(faces, tmp_path / "set").other_sizes == 1


def test_nothing_to_pack(faces, landmarks, tmp_path):
    with pytest.raises(ValueError, match=r"faces/records: lies in .*faces; give a folder of its own"):
        pack(faces, faces.root / "records")
    some = landmarks.take(np.arange(6))
    some.found[4:] = False
    with pytest.raises(ValueError, match=r"2 image\(s\) of .*faces have no landmarks, such as b/1\.webp"):
        pack(faces, tmp_path / "set", landmarks=some)
    with pytest.raises(ValueError, match=r"landmarks of 3 images, .*faces has 6"):
        pack(faces, tmp_path / "set", landmarks=landmarks.take(np.arange(3)))
    for index in range(6):
        (faces.root / faces.key_of(index)).write_bytes(b"")
    with pytest.raises(ValueError, match="faces: none of its 6 images decodes"):
        pack(faces, tmp_path / "set", PackSettings(skip_broken=True))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"reencode": "gif"}, "'gif'"), ({"quality": 0}, "1 to 100, got 0"), ({"workers": 0}, "workers must be >= 1")],
)
def test_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PackSettings(**settings)


def test_unpacked_without_names(encode, tmp_path):
    """By label and key; suffixes by what the bytes are."""
    suffixes = [".png", ".jpg", ".bmp", ".webp"]
    with RecordWriter(tmp_path / "set") as writer:
        for number, suffix in enumerate(suffixes):
            writer.write(encode(number, suffix), number // 2)
    unpack(RecordSource(tmp_path / "set"), tmp_path / "out")
    source = FolderSource(tmp_path / "out")
    assert [source.key_of(index) for index in range(4)] == ["0/1.png", "0/2.jpg", "1/3.bmp", "1/4.webp"]
    assert content(source) == [encode(number, suffix) for number, suffix in enumerate(suffixes)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("1\ta/1.jpg\t0\n", r"train\.tsv: expected key, path and label of 2 images, found 1"),
        ("1\ta/1.jpg\t0\n2\n", r"expected key, path and label of 2 images, found 1"),
        ("1\ta/1.jpg\t0\n2\ta/1.jpg\t0\n", r"1 path\(s\) come twice"),
        ("1\ta/1.jpg\t0\n3\ta/2.jpg\t0\n", r"record 2: expected identity/image, found None"),
        ("1\ta/1.jpg\t0\n2\t../2.jpg\t0\n", r"record 2: expected identity/image, found '\.\./2\.jpg'"),
        ("1\ta/1.jpg\t0\n2\t/2.jpg\t0\n", r"record 2: expected identity/image, found '/2\.jpg'"),
        ("1\ta/1.jpg\t0\n2\t2.jpg\t0\n", r"record 2: expected identity/image, found '2\.jpg'"),
    ],
)
def test_names_that_are_refused(names, message, encode, tmp_path):
    with RecordWriter(tmp_path / "set") as writer:
        for number in range(2):
            writer.write(encode(number), 0)
    (tmp_path / "set" / "train.tsv").write_text(names)
    with pytest.raises(ValueError, match=message):
        unpack(RecordSource(tmp_path / "set"), tmp_path / "out")
    assert os.listdir(tmp_path) == ["set"]


def test_unpacking_leaves_other_files_alone(cvlface_set, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(ValueError, match="out: exists and is not an empty folder"):
        unpack(RecordSource(cvlface_set), tmp_path / "out")
    (tmp_path / "out" / "mine.txt").unlink()
    assert unpack(RecordSource(cvlface_set), tmp_path / "out") == 7


@pytest.mark.parametrize("left", ["train.idx", "train.tsv", "property", "ldmk_5points.csv", "skipped.txt"])
def test_what_is_left_of_another_set_is_not_mixed_with_this_one(left, faces, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / left).touch()
    with pytest.raises(FileExistsError, match=f"{left}: exists already"):
        pack(faces, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [left]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("0\ta/1.png\t0\n1\tb/2.png\t0\n", "record 1 has label 1, the table '0'"),
        ("0\ta/1.png\t0\n1\ta/2.png\t1\n", "folder a has labels 0, 1"),
    ],
)
def test_names_that_contradict_the_labels(rows, problem, encode, tmp_path):
    with RecordWriter(tmp_path / "set", header=False) as writer:
        for label in (0, 1):
            writer.write(encode(label), label)
    (tmp_path / "set" / "train.tsv").write_text(rows)
    with pytest.raises(ValueError, match=problem):
        unpack(RecordSource(tmp_path / "set"), tmp_path / "out")


def test_broken_images_with_names_that_are_no_text(tmp_path, encode):
    folder = tmp_path / "faces" / "a"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(encode(1))
    with open(bytes(folder) + b"/\xff.png", "wb") as file:
        file.write(b"broken")
    report = pack(FolderSource(tmp_path / "faces"), tmp_path / "out", PackSettings(skip_broken=True))
    assert (report.images, len(report.skipped)) == (1, 1)
    assert b"\xff.png" in (tmp_path / "out" / "skipped.txt").read_bytes()


def test_images_that_a_format_cannot_hold(tmp_path):
    (tmp_path / "faces" / "a").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "faces" / "a" / "1.png"), np.zeros((1, 70_000, 3), np.uint8))
    with pytest.raises(ImageError, match=r"1.png: 70000 x 1 pixels cannot be written as jpg"):
        pack(FolderSource(tmp_path / "faces"), tmp_path / "out", PackSettings(reencode="jpg"))
