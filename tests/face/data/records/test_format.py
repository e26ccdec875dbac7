"""The bytes of records against ones written out by hand."""

import struct

import pytest

from face.data.records.format import RecordError, frame_record, pack_image, read_head, unpack_image

MAGIC = b"\x0a\x23\xd7\xce"


def test_an_image_record_byte_by_byte():
    by_hand = (
        b"\x0a\x23\xd7\xce"  # magic
        b"\x1d\x00\x00\x00"  # whole, 24 + 5 bytes
        b"\x00\x00\x00\x00"  # no list of labels
        b"\x00\x00\x40\x40"  # label 3.0
        b"\x07\x00\x00\x00\x00\x00\x00\x00"  # id
        b"\x00\x00\x00\x00\x00\x00\x00\x00"  # id2
        b"hello"
        b"\x00\x00\x00"  # to a multiple of 4
    )
    assert frame_record(pack_image(3.0, 7, b"hello")) == by_hand
    record = unpack_image(by_hand[8:-3], "x")
    assert (record.labels, record.listed, record.id, record.image) == ((3.0,), False, 7, b"hello")


def test_a_list_of_labels_byte_by_byte():
    by_hand = b"\x02\0\0\0" + bytes(4) + b"\x05" + bytes(15) + b"\x00\x00\x80\x3f\x00\x00\x00\x40" + b"img"
    assert pack_image((1.0, 2.0), 5, b"img") == by_hand
    assert unpack_image(by_hand, "x") == ((1.0, 2.0), True, 5, b"img")


@pytest.mark.parametrize(
    ("payload", "by_hand"),
    [
        # The magic at a multiple of 4 is left out and cuts the payload ...
        (b"abcd" + MAGIC + b"efghi", MAGIC + b"\x04\0\0\x20abcd" + MAGIC + b"\x05\0\0\x60efghi\0\0\0"),
        # ... however often,
        (
            MAGIC + MAGIC + b"abcd" + MAGIC,
            MAGIC + b"\0\0\0\x20" + MAGIC + b"\0\0\0\x40" + MAGIC + b"\x04\0\0\x40abcd" + MAGIC + b"\0\0\0\x60",
        ),
        # ... elsewhere it stays.
        (b"ab" + MAGIC + b"cd", MAGIC + b"\x08\0\0\0ab" + MAGIC + b"cd"),
        (b"abcd" + MAGIC[:3], MAGIC + b"\x07\0\0\0abcd" + MAGIC[:3] + b"\0"),
        (b"", MAGIC + b"\0\0\0\0"),
    ],
)
def test_parts_byte_by_byte(payload, by_hand):
    assert frame_record(payload) == by_hand


def test_what_is_no_record():
    with pytest.raises(RecordError, match="f: the file ends here"):
        read_head(MAGIC, True, "f")
    with pytest.raises(RecordError, match=r"f: no record begins here: expected the magic 0xced7230a, found 0x64636261"):
        read_head(b"abcdefgh", True, "f")
    with pytest.raises(RecordError, match="a part of flag 2 cannot begin a record"):
        read_head(MAGIC + struct.pack("<I", 2 << 29), True, "f")
    with pytest.raises(RecordError, match="a part of flag 0 cannot continue a record"):
        read_head(MAGIC + bytes(4), False, "f")
    with pytest.raises(RecordError, match="f: 23 bytes, an image record has 24 or more"):
        unpack_image(bytes(23), "f")
    with pytest.raises(RecordError, match="f: 24 bytes cannot hold the 3 labels"):
        unpack_image(b"\x03" + bytes(23), "f")
