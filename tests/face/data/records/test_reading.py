"""Records by their offset: joined parts, guesses that are wrong, files that are cut off."""

import os
import pickle
import struct

import pytest

from face.data.records.format import RecordError
from face.data.records.reading import RecordFile

MAGIC = b"\x0a\x23\xd7\xce"


@pytest.fixture
def parts(tmp_path):
    """A record of three parts, then one of a single part."""
    path = tmp_path / "train.rec"
    first = MAGIC + b"\x04\0\0\x20abcd" + MAGIC + b"\0\0\0\x40" + MAGIC + b"\x02\0\0\x60ef\0\0"
    path.write_bytes(first + MAGIC + b"\x03\0\0\0xyz\0")
    return path, len(first)


@pytest.mark.parametrize("reach", [1, 8, 12, 13, 20, 33, 1 << 30])
def test_parts_are_joined_however_much_is_read_at_once(parts, reach):
    path, second = parts
    file = RecordFile(path)
    assert file.read_record(0, 7, reach) == b"abcd" + MAGIC + MAGIC + b"ef"
    assert file.read_record(second, 7, reach) == b"xyz"


def test_extent(parts):
    path, second = parts
    assert RecordFile(path).record_bytes(0, 7) == second
    assert second + RecordFile(path).record_bytes(second, 7) == path.stat().st_size


def test_large_records(tmp_path):
    payload = os.urandom(300_000)
    (tmp_path / "f").write_bytes(MAGIC + struct.pack("<I", len(payload)) + payload)
    assert RecordFile(tmp_path / "f").read_record(0, 7) == payload


def test_every_cut_is_an_error(parts):
    path, second = parts
    whole = path.read_bytes()
    for size in range(second):
        path.write_bytes(whole[:size])
        if size < second - 2:  # the padding alone may be missing
            with pytest.raises(RecordError, match=r"^.*train\.rec, record 7, offset 0: .*the file"):
                RecordFile(path).read_record(0, 7)
        with pytest.raises(RecordError, match=r"^.*train\.rec, record 7, offset 0: .*the file"):
            RecordFile(path).record_bytes(0, 7)


def test_a_file_that_changes_is_noticed(parts):
    path, _ = parts
    file = RecordFile(path)
    path.write_bytes(path.read_bytes() + bytes(4))
    with pytest.raises(RecordError, match=r"train\.rec: changed since it was opened"):
        file.read_record(0, 7)


def test_a_copy_has_a_descriptor_of_its_own(parts):
    path, second = parts
    file = RecordFile(path)
    file.read_record(0, 7)
    copy = pickle.loads(pickle.dumps(file))
    descriptor = file._descriptor()
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert copy.read_record(second, 7) == b"xyz"
