"""`train.idx`: read as MXNet would, refused with the line's number, and made from the records."""

import struct

import numpy as np
import pytest

from face.data.records.format import RecordError
from face.data.records.index import Index, read_index, rebuild_index

MAGIC = b"\x0a\x23\xd7\xce"


@pytest.mark.parametrize(
    "text",
    ["0\t0\n1\t48\n7\t96\n", "0\t0 \r\n1\t48\t\r\n\r\n7\t96", "0 0\n 1  48\n\n7\t96\n\n"],
    ids=["as written", "trailing blanks and Windows lines", "spaces and empty lines"],
)
def test_spellings(text, tmp_path):
    (tmp_path / "train.idx").write_bytes(text.encode())
    index = read_index(tmp_path / "train.idx")
    assert index.keys.tolist() == [0, 1, 7]
    assert index.offsets.tolist() == [0, 48, 96]
    assert index.offsets.dtype == np.int64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\t0\n1\n", r"train\.idx, line 2: expected a key and an offset, found '1'"),
        ("0\t0\n\n1\tx8\n", r"line 3: .* found '1\\tx8'"),
        ("0\t0\t0\n", r"line 1: .* found '0\\t0\\t0'"),
        ("0\t0\n1\t4.5\n", "line 2"),
        ("0\t0\n1\t-4\n", r"record 1: offset -4: records begin at multiples of 4"),
        ("0\t0\n1\t42\n", r"record 1: offset 42: records begin at multiples of 4"),
        ("0\t0\n2\t4\n1\t8\n2\t12\n", "record 2 stands there 2 times"),
        (f"0\t{10**30}\n", "train.idx"),
        ("", "names no record"),
        (" \n\n", "names no record"),
        ("\0\xff\0", "line 1"),
    ],
)
def test_refused(text, message, tmp_path):
    (tmp_path / "train.idx").write_bytes(text.encode("latin1"))
    with pytest.raises(RecordError, match=message):
        read_index(tmp_path / "train.idx")


def test_positions_and_reaches_of_shuffled_records():
    index = Index(np.array([4, 0, 9]), np.array([100, 0, 40]))
    assert index.reaches(160).tolist() == [60, 40, 60]
    assert index.positions_of(np.array([9, 5, 0, 10, -1, 4])).tolist() == [2, -1, 1, -1, -1, 0]
    ascending = Index(np.arange(3), np.arange(3) * 8)
    assert ascending.positions_of(np.array([2, 3, -1, 0])).tolist() == [2, -1, -1, 0]


def test_rebuilt_as_it_was(compose, image_payload, encode, tmp_path):
    compose(tmp_path, [image_payload(0, key, encode(key) + bytes(key)) for key in range(6)])
    before = (tmp_path / "train.idx").read_text()
    with pytest.raises(FileExistsError, match=r"train\.idx: exists already"):
        rebuild_index(tmp_path)
    (tmp_path / "train.idx").unlink()
    assert rebuild_index(tmp_path) == 6
    assert (tmp_path / "train.idx").read_text() == before


def test_parts_are_one_record(tmp_path):
    parts = MAGIC + b"\x04\0\0\x20abcd" + MAGIC + b"\0\0\0\x40" + MAGIC + b"\x02\0\0\x60ef\0\0"
    (tmp_path / "train.rec").write_bytes(parts + MAGIC + b"\x03\0\0\0xyz\0")
    assert rebuild_index(tmp_path) == 2
    assert (tmp_path / "train.idx").read_text() == f"0\t0\n1\t{len(parts)}\n"


def test_damaged_records_have_no_index(tmp_path):
    record = MAGIC + struct.pack("<I", 8) + b"8 bytes."
    cases = {
        "after 2 records, at offset 32: no record begins here": record * 2 + b"elsewhere" + bytes(7),
        "after 1 records, at offset 16: the file is cut off: it should reach to 32, it ends at 28": (record * 2)[:-4],
        "after 1 records, at offset 16: the file ends here": record + MAGIC,
        "after 1 records: the file is cut off within a record of parts": record + MAGIC + b"\x04\0\0\x20abcd",
        "holds no record": b"",
    }
    for message, content in cases.items():
        (tmp_path / "train.rec").write_bytes(content)
        with pytest.raises(RecordError, match=message):
            rebuild_index(tmp_path)
        assert not (tmp_path / "train.idx").exists()
