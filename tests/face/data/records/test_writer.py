"""What is written, byte by byte against the format's definition, and that nothing half-written stays."""

import os
import struct

import pytest

from face.data.records import RecordSource, RecordWriter, rebuild_index


def write(folder, encode, labels=(0, 0, 2), **settings):
    with RecordWriter(folder, **settings) as writer:
        return [writer.write(encode(number), label, f"id{label}/{number}.jpg") for number, label in enumerate(labels)]


def test_insightface_byte_by_byte(compose, image_payload, list_payload, encode, tmp_path):
    """Class 1 has no image: its range is empty."""
    assert write(tmp_path / "set", encode, image_hw=(112, 96)) == [1, 2, 3]
    payloads = [list_payload([4, 7], 0)]
    payloads += [image_payload(label, 1 + number, encode(number)) for number, label in enumerate([0, 0, 2])]
    payloads += [list_payload([1, 3], 4), list_payload([3, 3], 5), list_payload([3, 4], 6)]
    compose(tmp_path / "by_hand", payloads, property_line="3,112,96")
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "by_hand" / name).read_bytes(), name
    assert (tmp_path / "set" / "train.tsv").read_text() == "1\tid0/0.jpg\t0\n2\tid0/1.jpg\t0\n3\tid2/2.jpg\t2\n"
    assert sorted(os.listdir(tmp_path / "set")) == ["property", "train.idx", "train.rec", "train.tsv"]


def test_cvlface_byte_by_byte(compose, image_payload, encode, tmp_path):
    """In any order of labels."""
    assert write(tmp_path / "set", encode, labels=[2, 0, 2], header=False) == [0, 1, 2]
    compose(tmp_path, [image_payload(label, key, encode(key)) for key, label in enumerate([2, 0, 2])])
    for name in ("train.rec", "train.idx"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.mark.parametrize("header", [True, False])
def test_round_trip(header, encode, tmp_path):
    """With images that contain the magic, too."""
    magic = struct.pack("<I", 0xCED7230A)
    images = [encode(0), magic, magic * 3 + b"x", b"abcd" + magic, b"ab" + magic + magic, encode(1) + magic]
    with RecordWriter(tmp_path, header=header) as writer:
        for number, image in enumerate(images):
            writer.write(image, label=number // 2)
    source = RecordSource(tmp_path)
    assert [source.read_bytes(index) for index in range(len(source))] == images
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (source.num_classes, source.image_hw) == (3, (112, 112))
    index = (tmp_path / "train.idx").read_text()
    (tmp_path / "train.idx").unlink()
    rebuild_index(tmp_path)
    assert (tmp_path / "train.idx").read_text() == index
    assert not (tmp_path / "train.tsv").exists()


def test_labels_up_to_the_largest_that_float32_tells_apart(encode, tmp_path):
    with RecordWriter(tmp_path, header=False) as writer:
        writer.write(encode(0), 2**24 - 1)
        with pytest.raises(ValueError, match="from 0 to 16777215, stored as float32; got 16777216"):
            writer.write(encode(0), 2**24)
    assert RecordSource(tmp_path).labels.tolist() == [2**24 - 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((b"", 1, "a/b"), "image 1: no bytes"),
        ((b"x", -1, "a/b"), "got -1"),
        ((b"x", 0, "a/b"), r"label 0 after 1: insightface's header wants .* write with header=False"),
        ((b"x", 1, None), "image 1: either all images have a name or none has, got None"),
        ((b"x", 1, "a\tb"), r"tabs or line breaks: 'a\\tb'"),
        ((b"x", 1, ""), "cannot hold a name that is empty"),
    ],
)
def test_refused_and_nothing_left(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message), RecordWriter(tmp_path) as writer:  # noqa: PT012
        writer.write(b"x", 1, "a/a")
        writer.write(*arguments)
    assert os.listdir(tmp_path) == []


def test_names_from_the_first_image_on(tmp_path):
    with pytest.raises(ValueError, match="image 1: either all"), RecordWriter(tmp_path) as writer:  # noqa: PT012
        writer.write(b"x", 1)
        writer.write(b"x", 1, "a/b")
    assert os.listdir(tmp_path) == []


def test_an_error_or_interrupt_leaves_nothing(encode, tmp_path):
    with pytest.raises(KeyboardInterrupt), RecordWriter(tmp_path) as writer:  # noqa: PT012
        writer.write(encode(0), 0, "a/b")
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="no image was written"), RecordWriter(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_a_set_is_not_overwritten(encode, tmp_path):
    write(tmp_path, encode)
    with pytest.raises(FileExistsError, match=r"train\.rec: exists already"):
        RecordWriter(tmp_path)
