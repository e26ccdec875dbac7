"""Labels from the heads of records: against reading record by record, and the file that keeps them."""

import io
import os
import struct

import numpy as np
import pytest

from face.data.records import labels as module
from face.data.records.format import RecordError
from face.data.records.index import read_index
from face.data.records.labels import LABEL_FILE, load_labels, scan_labels
from face.data.records.reading import RecordFile

MAGIC = b"\x0a\x23\xd7\xce"


def scan(folder):
    index = read_index(folder / "train.idx")
    return scan_labels(RecordFile(folder / "train.rec"), index.keys, index.offsets)


def load(folder):
    index = read_index(folder / "train.idx")
    return load_labels(RecordFile(folder / "train.rec"), folder / "train.idx", index.keys, index.offsets)


def test_labels_alone_and_in_lists(compose, image_payload, list_payload, tmp_path, monkeypatch):
    """Over several blocks, whose borders fall anywhere."""
    monkeypatch.setattr(module, "_BLOCK", 4)
    random = np.random.default_rng(0)
    expected = random.integers(0, 2**24, 23).tolist()
    expected[0] = 2**24 - 1
    payloads = [
        image_payload(label, key, b"x" * (1 + key)) if key % 3 else list_payload([label, -1.5], key, b"x" * (1 + key))
        for key, label in enumerate(expected)
    ]
    compose(tmp_path, payloads)
    assert scan(tmp_path).tolist() == expected


def test_records_in_any_order_of_the_index(compose, image_payload, tmp_path):
    offsets = compose(tmp_path, [image_payload(label, 0, b"image") for label in (5, 6, 7)])
    (tmp_path / "train.idx").write_text("".join(f"{key}\t{offsets[2 - key]}\n" for key in range(3)))
    assert scan(tmp_path).tolist() == [7, 6, 5]


def test_a_record_of_parts(tmp_path):
    """One is cut within its image, the other one, by its id, before the image begins."""
    payload = struct.pack("<IfQQ", 0, 9.0, 1, 0) + b"abcd"
    first = MAGIC + b"\x1c\0\0\x20" + payload + MAGIC + b"\x02\0\0\x60ef\0\0"
    second = MAGIC + b"\x08\0\0\x20" + struct.pack("<If", 0, 8.0) + MAGIC + b"\x0d\0\0\x60" + bytes(12) + b"i\0\0\0"
    (tmp_path / "train.rec").write_bytes(first + second)
    (tmp_path / "train.idx").write_text(f"0\t0\n1\t{len(first)}\n")
    assert scan(tmp_path).tolist() == [9, 8]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (2.5, "label 2.5, expected a whole number from 0 to 16777215"),
        (-1.0, "label -1, expected"),
        (float("nan"), "label nan, expected"),
        (
            2.0**24,
            "label 16777216, expected a whole number from 0 to 16777215; float32 does not tell larger ones apart",
        ),
    ],
)
def test_what_is_no_class(label, message, compose, image_payload, tmp_path):
    offsets = compose(tmp_path, [image_payload(0, 0, b"image"), image_payload(label, 7, b"image")], keys=[3, 7])
    with pytest.raises(RecordError, match=rf"train\.rec, record 7, offset {offsets[1]}: {message}"):
        scan(tmp_path)


def test_damage_is_named(compose, image_payload, list_payload, tmp_path):
    payloads = [image_payload(0, 0, b"0123"), image_payload(1, 1, b"4567"), image_payload(2, 2, b"89ab")]
    middle, last = compose(tmp_path, payloads)[1:]
    rec = tmp_path / "train.rec"
    whole = rec.read_bytes()
    cases = {
        rf"record 1, offset {middle}: no record begins here, the magic 0xced7230a is missing": {middle: b"\0"},
        rf"record 1, offset {middle}: the middle of a record of several parts": {middle + 7: b"\x40"},
        rf"record 2, offset {last}: the file is cut off: it ends at {len(whole)}": {last + 4: b"\xff"},
        rf"record 1, offset {middle}: holds no image": {middle + 4: b"\x18"},
    }
    for message, changes in cases.items():
        damaged = bytearray(whole)
        for place, byte in changes.items():
            damaged[place : place + 1] = byte
        rec.write_bytes(damaged)
        with pytest.raises(RecordError, match=rf"train\.rec, {message}"):
            scan(tmp_path)
    rec.write_bytes(whole[: last + 20])
    with pytest.raises(RecordError, match=rf"record 2, offset {last}: the file is cut off: it ends at {last + 20}"):
        scan(tmp_path)
    compose(tmp_path, [list_payload([1.0, 2.0], 0)])
    with pytest.raises(RecordError, match="record 0, offset 0: holds no image"):
        scan(tmp_path)
    rec.write_bytes(MAGIC + b"\x1c\0\0\0" + struct.pack("<IfQQ", 10**9, 0, 0, 0) + b"img.")
    with pytest.raises(RecordError, match="record 0, offset 0: holds no image"):
        scan(tmp_path)


def test_kept_for_the_next_time(cvlface_set, monkeypatch):
    expected = load(cvlface_set)
    assert expected.tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert sorted(os.listdir(cvlface_set)) == [LABEL_FILE, "train.idx", "train.rec"]
    monkeypatch.setattr(module, "scan_labels", None)
    assert load(cvlface_set).tolist() == expected.tolist()


@pytest.mark.parametrize("changed", ["train.rec", "train.idx"])
def test_not_for_other_files(changed, cvlface_set):
    load(cvlface_set)
    content = bytearray((cvlface_set / "train.rec").read_bytes())
    content[12:16] = struct.pack("<f", 5.0)
    before = (cvlface_set / "train.rec").stat()
    (cvlface_set / "train.rec").write_bytes(content)
    os.utime(cvlface_set / "train.rec", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load(cvlface_set)[0] == 0, "of the same size and time: taken for the same"
    os.utime(cvlface_set / changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert load(cvlface_set)[0] == 5


def test_a_folder_that_cannot_be_written(cvlface_set, monkeypatch):
    def refuse(path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(module, "whole_file", refuse)
    with pytest.warns(UserWarning, match=r"train\.labels\.npz: cannot be written .*Read-only.*read anew each time"):
        assert load(cvlface_set).tolist() == [0, 0, 1, 2, 2, 2, 3]


def npy():
    file = io.BytesIO()
    np.save(file, np.zeros(7))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"something else", npy()])
def test_damaged_labels_are_read_again(content, cvlface_set):
    (cvlface_set / LABEL_FILE).write_bytes(content)
    with pytest.warns(UserWarning, match=r"train\.labels\.npz: damaged"):
        assert load(cvlface_set).tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert load(cvlface_set).tolist() == [0, 0, 1, 2, 2, 2, 3]
