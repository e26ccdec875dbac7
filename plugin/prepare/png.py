"""Decoding PNG silhouettes: nothing damaged goes through, and the usual kind fast.

`cv2.imdecode` is most of the time that a frame takes, and most of its time is one byte after the other: OpenCV writes
each pixel as the difference to its left neighbour (the filter type Sub of https://www.w3.org/TR/png-3/ 9.2). Here
such images, 8-bit grey and with no chunks beyond the three that must be, are inflated by zlib, and the running
sums along the rows are taken by `cv2.integral`. All other PNG files go to OpenCV. The pixels are the same.
"""

import struct
import zlib

import cv2
import numpy as np

__all__ = ["PngError", "decode_grey", "read_size"]

_CHUNK_HEAD = struct.Struct(">I4s")  # length of the content, type
_HEADER = struct.Struct(">II5B")  # width, height, depth, colour type, compression, filter method, interlace
_GREY_8 = (8, 0, 0, 0, 0)
_SUB = 1
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class PngError(ValueError):
    """The bytes are no PNG, or not all of it."""


def decode_grey(data: bytes) -> np.ndarray:
    """A PNG file as `cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)` has it, when the file is whole.

    Decoders return the upper part of a truncated file as if nothing were wrong, so its own checksums are looked at.

    Returns:
        [rows, columns] uint8.

    Raises:
        PngError: what is wrong with the file.
    """
    header, content = _chunks(data)
    image = None if content is None else _decode_differences(header, content)
    if image is None:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        except cv2.error as error:
            raise PngError(str(error)) from None
    if image is None:
        raise PngError("cannot be decoded")
    return image


def read_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels by the header.

    Raises:
        PngError: as decode_grey.
    """
    header, _ = _chunks(data)
    if len(header) != _HEADER.size:
        raise PngError("damaged PNG: no header")
    width, height, *_ = _HEADER.unpack(header)
    return width, height


def _chunks(data: bytes) -> tuple[bytes, bytes | None]:
    """Content of the first chunk, and of the IDAT ones together if there is nothing else but the end.

    A chunk is length, type, content, CRC-32 of the two before; https://www.w3.org/TR/png-3/ 5.3.
    """
    if not data.startswith(_SIGNATURE):
        raise PngError("not a PNG file" if data else "empty file")
    view, size = memoryview(data), len(data)
    header, parts, plain = b"", [], True
    start = len(_SIGNATURE)
    while start + 12 <= size:
        length, kind = _CHUNK_HEAD.unpack_from(data, start)
        end = start + 8 + length
        stored = data[end : end + 4]
        if len(stored) < 4:
            break
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(stored, "big"):
            raise PngError(f"damaged PNG: wrong checksum in the chunk at byte {start}")
        if kind == b"IDAT":
            parts.append(view[start + 8 : end])
        elif kind == b"IEND":
            return header, b"".join(parts) if plain else None
        elif kind == b"IHDR" and not header:
            header = data[start + 8 : end]
        else:
            plain = False
        start = end + 4
    raise PngError(f"truncated PNG: {size} bytes without the end mark")


def _decode_differences(header: bytes, content: bytes) -> np.ndarray | None:
    """Pixels, or None for what is not 8-bit grey in rows of the filter type Sub."""
    if len(header) != _HEADER.size:
        return None
    columns, rows, *kind = _HEADER.unpack(header)
    size = rows * (columns + 1)
    if tuple(kind) != _GREY_8 or not 0 < 255 * size < 1 << 31:  # the sums are 32-bit
        return None
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(content, size + 1)  # no more, whatever a file claims to hold
    except zlib.error:
        return None
    if len(inflated) != size or not stream.eof:
        return None
    lines = np.frombuffer(inflated, np.uint8).reshape(rows, columns + 1)
    if (lines[:, 0] != _SUB).any():
        return None
    # Sums over all rows and columns before, modulo 256; the difference of two rows is the running sum of one.
    sums = cv2.integral(lines[:, 1:], sdepth=cv2.CV_32S).astype(np.uint8)
    return sums[1:, 1:] - sums[:-1, 1:]
