"""The bytes of a RecordIO file, and of the image records in it.

Source: the format of dmlc-core's `RecordIOWriter` and of `mxnet.recordio.pack`, written from its definition. A part is

    uint32 magic | uint32 flag << 29 | length | payload | zeros up to a multiple of 4 bytes

A record is one part of flag 0. Where its payload has the magic at a multiple of 4 bytes, the magic is left out there
and the payload is cut: parts of flag 1 (first), 2 (further ones), 3 (last). The payload of an image record is

    uint32 count | float32 label | uint64 id | uint64 id2 | count float32 labels | encoded image

where the one label counts if `count` is 0, else the list. All little-endian.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = [
    "HEAD_BYTES",
    "IMAGE_HEAD_BYTES",
    "LABEL_LIMIT",
    "LENGTH_MASK",
    "MAGIC",
    "WHOLE",
    "ImageRecord",
    "PartHead",
    "RecordError",
    "frame_record",
    "image_of",
    "pack_image",
    "read_head",
    "unpack_image",
]

MAGIC = 0xCED7230A
WHOLE, FIRST, MIDDLE, LAST = range(4)
LENGTH_MASK = (1 << 29) - 1
LABEL_LIMIT = 2**24
"""float32 has no 2**24 + 1: from here on two classes may have the same label."""

_HEAD = struct.Struct("<II")
_IMAGE_HEAD = struct.Struct("<IfQQ")
_COUNT = struct.Struct("<I")
HEAD_BYTES = _HEAD.size
IMAGE_HEAD_BYTES = _IMAGE_HEAD.size
_MAGIC_BYTES = struct.pack("<I", MAGIC)


class RecordError(ValueError):
    """A record file or its index is damaged or not what it should be. The message begins with the file."""


class PartHead(NamedTuple):
    """What precedes the payload of a part."""

    flag: int
    length: int

    @property
    def padded(self) -> int:
        """Bytes up to the next part."""
        return self.length + -self.length % 4

    @property
    def ends_record(self) -> bool:
        return self.flag in (WHOLE, LAST)


class ImageRecord(NamedTuple):
    """A record taken apart."""

    labels: tuple[float, ...]
    """One, or as many as the record lists."""

    listed: bool
    """Whether it has a list of labels: records of images mostly do not, those about ranges of keys do."""

    id: int

    image: bytes
    """Encoded; empty in records that are no image."""


def read_head(head: bytes, first: bool, where: str) -> PartHead:
    """The 8 bytes before a payload.

    Args:
        head: 8 bytes, fewer at the end of a file.
        first: whether a record begins here, or one goes on.
        where: what error messages begin with.

    Raises:
        RecordError: too few bytes, another magic, or a flag that cannot be here.
    """
    if len(head) < HEAD_BYTES:
        raise RecordError(f"{where}: the file ends here, expected a record")
    magic, word = _HEAD.unpack_from(head)
    if magic != MAGIC:
        raise RecordError(f"{where}: no record begins here: expected the magic {MAGIC:#x}, found {magic:#x}")
    part = PartHead(word >> 29, word & LENGTH_MASK)
    if part.flag not in ((WHOLE, FIRST) if first else (MIDDLE, LAST)):
        raise RecordError(f"{where}: a part of flag {part.flag} cannot {'begin' if first else 'continue'} a record")
    return part


def frame_record(payload: bytes) -> bytes:
    """The bytes of a record in the file.

    Raises:
        ValueError: 512 MiB or more.
    """
    if len(payload) > LENGTH_MASK:
        raise ValueError(f"a record holds less than 2**29 bytes, got {len(payload)}")
    pieces = []
    begin = 0
    for cut in _magic_places(payload):
        pieces += [_HEAD.pack(MAGIC, (MIDDLE if begin else FIRST) << 29 | cut - begin), payload[begin:cut]]
        begin = cut + 4
    pieces += [_HEAD.pack(MAGIC, (LAST if begin else WHOLE) << 29 | len(payload) - begin), payload[begin:]]
    return b"".join(pieces) + bytes(-len(payload) % 4)


def _magic_places(payload: bytes) -> Iterator[int]:
    place = payload.find(_MAGIC_BYTES)
    while place >= 0:
        if place % 4 == 0:
            yield place
        place = payload.find(_MAGIC_BYTES, place + 1)


def pack_image(labels: float | Sequence[float], key: int, image: bytes) -> bytes:
    """The payload of an image record, with one label or with a list of them."""
    if isinstance(labels, Sequence):
        return _IMAGE_HEAD.pack(len(labels), 0.0, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + image
    return _IMAGE_HEAD.pack(0, labels, key, 0) + image


def unpack_image(payload: bytes, where: str) -> ImageRecord:
    """Take a payload apart.

    Raises:
        RecordError: it is too short for what it says of itself.
    """
    if len(payload) < IMAGE_HEAD_BYTES:
        raise RecordError(f"{where}: {len(payload)} bytes, an image record has {IMAGE_HEAD_BYTES} or more")
    count, label, key, _ = _IMAGE_HEAD.unpack_from(payload)
    begin = IMAGE_HEAD_BYTES + 4 * count
    if len(payload) < begin:
        raise RecordError(f"{where}: {len(payload)} bytes cannot hold the {count} labels that the record announces")
    labels = struct.unpack_from(f"<{count}f", payload, IMAGE_HEAD_BYTES) if count else (label,)
    return ImageRecord(labels, count > 0, key, payload[begin:])


def image_of(payload: bytes) -> bytes:
    """The encoded image of a payload that is known to be one of an image record."""
    return payload[IMAGE_HEAD_BYTES + 4 * _COUNT.unpack_from(payload)[0] :]
