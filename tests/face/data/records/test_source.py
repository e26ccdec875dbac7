"""RecordIO folders of both conventions, composed by hand, and what is refused when they are opened."""

import pickle

import numpy as np
import pytest

from face.data.images import ImageError, decode_image
from face.data.records import RecordError, RecordSource


@pytest.fixture
def insightface_set(compose, image_payload, list_payload, encode, tmp_path):
    """Five images of the classes 0, 0, 1, 2, 2 (keys 1 to 5), and the ranges of the classes behind them."""
    labels = [0, 0, 1, 2, 2]
    payloads = [list_payload([6.0, 9.0], 0)]
    payloads += [image_payload(label, key, encode(key)) for key, label in enumerate(labels, start=1)]
    payloads += [list_payload(pair, 6 + number) for number, pair in enumerate([(1, 3), (3, 4), (4, 6)])]
    compose(tmp_path / "set", payloads, property_line="3,112,96")
    return tmp_path / "set"


def test_insightface(insightface_set, encode):
    source = RecordSource(insightface_set)
    assert len(source) == 5
    assert source.labels.tolist() == [0, 0, 1, 2, 2]
    assert source.labels.dtype == np.int64
    assert not source.labels.flags.writeable
    assert (source.num_classes, source.image_hw, source.root) == (3, (112, 96), insightface_set)
    assert (source.key_of(0), source.name_of(4)) == ("1", "train.rec, record 5")
    assert [source.read_bytes(index) for index in range(5)] == [encode(key) for key in range(1, 6)]
    np.testing.assert_array_equal(source.read(2), decode_image(encode(3), "x"))


def test_cvlface(cvlface_set, encode):
    source = RecordSource(cvlface_set)
    assert source.labels.tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert (source.num_classes, source.image_hw) == (4, None)
    assert source.key_of(0) == "0"
    assert [source.read_bytes(index) for index in range(7)] == [encode(key) for key in range(7)]


def test_header_at_the_end_and_shuffled_images(compose, image_payload, list_payload, encode, tmp_path):
    """The index counts, not the order in the file."""
    payloads = [image_payload(key, key, encode(key)) for key in (3, 1, 2)] + [list_payload([4, 4], 0)]
    compose(tmp_path, payloads, keys=[3, 1, 2, 0])
    source = RecordSource(tmp_path)
    assert source.labels.tolist() == [1, 2, 3]
    assert [source.read_bytes(index) for index in range(3)] == [encode(key) for key in (1, 2, 3)]


def test_images_with_lists_of_labels_are_no_header(compose, list_payload, encode, tmp_path):
    compose(tmp_path, [list_payload([label, 0], key, encode(key)) for key, label in enumerate([1, 0])])
    source = RecordSource(tmp_path)
    assert source.labels.tolist() == [1, 0]
    assert source.read_bytes(1) == encode(1)


def test_the_property_of_rec_builders_has_a_second_line(insightface_set):
    (insightface_set / "property").write_text("7,112,112\n5\n")
    assert RecordSource(insightface_set).num_classes == 7


def test_copies_read_the_same(cvlface_set):
    source = RecordSource(cvlface_set)
    copy = pickle.loads(pickle.dumps(source))
    assert [copy.read_bytes(index) for index in range(7)] == [source.read_bytes(index) for index in range(7)]


def test_images_that_there_are_not(cvlface_set):
    source = RecordSource(cvlface_set)
    for index in (7, -1):
        with pytest.raises(IndexError, match=rf"train\.rec: image {index} of 7"):
            source.read(index)


def test_an_image_that_does_not_decode(compose, image_payload, encode, tmp_path):
    compose(tmp_path, [image_payload(0, 0, encode(1)), image_payload(0, 1, b"no image")])
    source = RecordSource(tmp_path)
    assert source.read_bytes(1) == b"no image"
    with pytest.raises(ImageError, match=r"train\.rec, record 1: 8 bytes, beginning with b'no image'"):
        source.read(1)


def test_missing_files(cvlface_set):
    (cvlface_set / "train.idx").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.idx: no such file; face\.data\.rebuild_index\('.*set'\)"):
        RecordSource(cvlface_set)
    (cvlface_set / "train.rec").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.rec: no such file"):
        RecordSource(cvlface_set)


def test_cut_off_anywhere(insightface_set):
    rec = insightface_set / "train.rec"
    whole = rec.read_bytes()
    for size in range(0, len(whole), 61):
        rec.write_bytes(whole[:size])
        with pytest.raises(RecordError, match=r"train\.rec, record 8, offset \d+: (the file|train.idx names a place)"):
            RecordSource(insightface_set)


def test_an_index_without_its_end(insightface_set):
    lines = (insightface_set / "train.idx").read_text().splitlines(keepends=True)
    (insightface_set / "train.idx").write_text("".join(lines[:4]))
    with (
        pytest.warns(UserWarning, match=r"bytes follow the last record that train\.idx names"),
        pytest.raises(RecordError, match=r"train\.idx: lacks 2 of the 5 images .* such as record 4: is it whole\?"),
    ):
        RecordSource(insightface_set)


def test_part_of_a_set(cvlface_set):
    """An index may name some records only; there is a warning, for it may also be cut off."""
    lines = (cvlface_set / "train.idx").read_text().splitlines(keepends=True)
    (cvlface_set / "train.idx").write_text("".join(lines[1:3]))
    with pytest.warns(UserWarning, match=r"bytes follow the last record that train\.idx names: is train\.idx whole\?"):
        source = RecordSource(cvlface_set)
    assert source.labels.tolist() == [0, 1]


def test_an_index_of_another_set(cvlface_set):
    lines = (cvlface_set / "train.idx").read_text().splitlines()
    key, offset = lines[3].split("\t")
    (cvlface_set / "train.idx").write_text("\n".join([*lines[:3], f"{key}\t{int(offset) + 4}", *lines[4:]]))
    with pytest.raises(RecordError, match=rf"train\.rec, record 3, offset {int(offset) + 4}: no record begins here"):
        RecordSource(cvlface_set)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2,112,112", r"train\.rec, record 4, offset \d+: label 2, but .*property has 2 classes"),
        ("3,112", r"property: expected num_classes,height,width, found '3,112'"),
        ("three,112,112", "property: expected num_classes,height,width"),
        ("", "property: expected num_classes,height,width, found ''"),
    ],
)
def test_property(line, message, insightface_set):
    (insightface_set / "property").write_text(line)
    with pytest.raises(RecordError, match=message):
        RecordSource(insightface_set)


@pytest.mark.parametrize("label", [0.0, 1.5, float("nan"), float("inf")])
def test_headers_that_cannot_be(label, compose, image_payload, list_payload, encode, tmp_path):
    compose(tmp_path, [list_payload([label, 3], 0), image_payload(0, 1, encode(0))])
    with pytest.raises(RecordError, match=r"record 0, offset 0: the header's first label must be one more than the"):
        RecordSource(tmp_path)
