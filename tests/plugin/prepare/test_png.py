"""Pixels as OpenCV decodes them, whatever the file's kind and filters, and no damaged file."""

import itertools
import struct
import zlib

import cv2
import numpy as np
import pytest

from plugin.prepare.png import PngError, decode_grey, read_size


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def filtered(image, filters):
    """Lines of an image under a filter type each, by the definition: byte minus its prediction."""
    lines = []
    above = np.zeros(image.shape[1] + 1, int)
    for row, kind in zip(image.astype(int), filters, strict=True):
        line = np.concatenate([[0], row])
        predicted = []
        for x in range(1, len(line)):
            left, up, corner = line[x - 1], above[x], above[x - 1]
            distances = [abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)]
            paeth = (left, up, corner)[int(np.argmin(distances))]
            predicted.append((0, left, up, (left + up) // 2, paeth)[kind])
        lines.append(bytes([kind, *((line[1:] - np.array(predicted)) % 256).tolist()]))
        above = line
    return b"".join(lines)


def write(image, filters, extra=(), parts=1):
    """A PNG of 8-bit grey, its lines in so many IDAT chunks."""
    rows, columns = image.shape
    header = chunk(b"IHDR", struct.pack(">II5B", columns, rows, 8, 0, 0, 0, 0))
    content = zlib.compress(filtered(image, filters))
    cuts = np.linspace(0, len(content), parts + 1).astype(int)
    data = [chunk(b"IDAT", content[a:b]) for a, b in itertools.pairwise(cuts)]
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *extra, *data, chunk(b"IEND", b"")])


@pytest.fixture
def image():
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (23, 37)).astype(np.uint8)
    noise[5:15, 10:30] = 255
    return noise


@pytest.mark.parametrize(
    "filters", [*([kind] * 23 for kind in range(5)), [1] * 22 + [0], [0, 1, 2, 3, 4] * 4 + [1] * 3], ids=str
)
def test_every_filter(filters, image):
    for parts in (1, 3):
        data = write(image, filters, parts=parts)
        np.testing.assert_array_equal(decode_grey(data), image)
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE), image)
        assert read_size(data) == (37, 23)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (200, 120)])
def test_what_opencv_writes(size):
    draw = np.random.default_rng(1)
    for grey in (draw.integers(0, 256, size), 255 * (draw.uniform(size=size) > 0.5), np.full(size, 255)):
        data = cv2.imencode(".png", grey.astype(np.uint8))[1].tobytes()
        decoded = decode_grey(data)
        np.testing.assert_array_equal(decoded, grey)
        assert decoded.dtype == np.uint8
        assert decoded.flags.writeable


def test_other_kinds_are_opencv_s(image):
    colour = np.stack([image, image[::-1], 255 - image], axis=-1)
    for other in (colour, image.astype(np.uint16) * 200, np.dstack([colour, image])):
        data = cv2.imencode(".png", other)[1].tobytes()
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(decode_grey(data), expected)
    bits = cv2.imencode(".png", (image > 99).astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()
    np.testing.assert_array_equal(decode_grey(bits), (image > 99) * 255)


def test_a_picture_that_says_how_to_turn_it_is_turned_as_opencv_turns_it(image):
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6
    data = write(image, [1] * 23, extra=[chunk(b"eXIf", exif)])
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(decode_grey(data), expected)


def test_damage(image):
    whole = write(image, [1] * 23)
    head = whole[: 8 + 25]
    for data, message in (
        (b"", "empty file"),
        (b"GIF", "not a PNG file"),
        (whole[:-1], "truncated PNG"),
        (head + chunk(b"IDAT", b"no zlib") + chunk(b"IEND", b""), "cannot be decoded"),
        (whole[:8] + chunk(b"IEND", b""), "cannot be decoded|IHDR|error"),
    ):
        with pytest.raises(PngError, match=message):
            decode_grey(data)
    with pytest.raises(PngError, match="no header"):
        read_size(whole[:8] + chunk(b"IEND", b""))
