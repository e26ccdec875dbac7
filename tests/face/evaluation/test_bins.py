"""read_bin and write_bin: what Python 2 and 3 wrote is read, and nothing else is let in."""

import contextlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from face.data.images import decode_image
from face.evaluation.bins import read_bin, write_bin

INSIGHTFACE = os.environ.get("INSIGHTFACE_ROOT", "")

IMAGES = [b"\xff\xd8first", b"\x89PNG" + bytes(300), b"third", b"\x00\xfffourth"]
SAME = [True, False]
FORMS = {
    "lists": (IMAGES, SAME),
    "tuples": (tuple(IMAGES), tuple(SAME)),
    "a list of both": [IMAGES, SAME],
    "bytearrays": ([bytearray(image) for image in IMAGES], SAME),
    "arrays of bytes": ([np.frombuffer(image, np.uint8) for image in IMAGES], SAME),
    "columns, as older versions of cv2.imencode gave": (
        [np.frombuffer(image, np.uint8)[:, None] for image in IMAGES],
        SAME,
    ),
    "numpy booleans": (IMAGES, [np.bool_(answer) for answer in SAME]),
    "an array of booleans": (IMAGES, np.array(SAME)),
    "integers": (IMAGES, [1, 0]),
    "numpy integers": (IMAGES, [np.int64(1), np.int64(0)]),
    "an array of integers": (IMAGES, np.array([1, 0])),
}


class Payload:
    """Calls `function` when it is unpickled freely."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def written(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", FORMS)
def test_reads_what_python_3_writes(form, protocol, tmp_path):
    found = read_bin(written(tmp_path / "a.bin", FORMS[form], protocol))
    assert found.images == IMAGES
    assert all(type(image) is bytes for image in found.images)
    assert found.same.dtype == np.bool_
    assert found.same.tolist() == SAME


def test_reads_the_names_of_numpy_1_and_2(tmp_path):
    data = pickle.dumps(FORMS["numpy booleans"], protocol=0)
    for core in (b"numpy.core.", b"numpy._core."):
        (tmp_path / "a.bin").write_bytes(data.replace(b"numpy._core.", core).replace(b"numpy.core.", core))
        assert read_bin(tmp_path / "a.bin").same.tolist() == SAME


def short(text):
    return b"U" + bytes([len(text)]) + text


def long(text):
    return b"T" + struct.pack("<i", len(text)) + text


NUMPY_TRUE, NUMPY_FALSE = (
    b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x02b1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb" + short(value) + b"tR"
    for value in (b"\x01", b"\x00")
)


@pytest.mark.parametrize("answers", [b"\x88\x89", b"I01\nI00\n", b"K\x01K\x00", NUMPY_TRUE + NUMPY_FALSE])
def test_reads_what_python_2_writes(answers, tmp_path):
    """Its protocol 2, as in the files that are passed around: text and bytes are one type there."""
    strings = short(IMAGES[0]) + long(IMAGES[1]) + short(IMAGES[2]) + long(IMAGES[3])
    (tmp_path / "a.bin").write_bytes(b"\x80\x02](" + strings + b"e](" + answers + b"e\x86.")
    found = read_bin(tmp_path / "a.bin")
    assert found.images == IMAGES
    assert found.same.tolist() == SAME


def test_reads_protocol_0_of_python_2(tmp_path):
    strings = b"".join(b"S" + repr(image)[1:].encode() + b"\na" for image in IMAGES)
    (tmp_path / "a.bin").write_bytes(b"((l" + strings + b"(lI01\naI00\nat.")
    assert read_bin(tmp_path / "a.bin").images == IMAGES


@pytest.mark.skipif(not INSIGHTFACE, reason="INSIGHTFACE_ROOT is not set")
def test_reads_a_file_of_insightface():
    """Written by NumPy 1, images as columns; decoded as its load_bin would."""
    found = read_bin(Path(INSIGHTFACE) / "recognition/arcface_paddle/test_tipc/data/small_lfw.bin")
    assert len(found.images) == 2 * len(found.same) > 0
    assert {decode_image(image, "image").shape for image in found.images} == {(112, 112, 3)}


@pytest.mark.parametrize("same", [SAME, np.array(SAME), (1, 0)])
def test_written_files_are_read_by_plain_pickle(same, tmp_path):
    path = tmp_path / "a.bin"
    write_bin(path, IMAGES, same)
    with path.open("rb") as file:
        images, answers = pickle.load(file)
    assert images == IMAGES
    assert answers == SAME
    assert type(answers[0]) is bool
    assert read_bin(path).images == IMAGES
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_bin(path, IMAGES, SAME)

    def full(content, file, protocol):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pickle, "dump", full)
    with pytest.raises(OSError, match="no space"):
        write_bin(path, IMAGES[:2], [True])
    assert read_bin(path).images == IMAGES
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("protocol", range(6))
def test_payload_is_refused_by_name_and_not_run(protocol, tmp_path):
    trace = tmp_path / "trace"
    content = (IMAGES, [Payload(os.system, f"touch {trace}"), False])
    path = written(tmp_path / "evil.bin", content, protocol)
    with pytest.raises(ValueError, match=r"evil\.bin: refers to (posix|nt)\.system, which is not part of a file of"):
        read_bin(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ((IMAGES, SAME, 3), r"expected \(images, same\), found a tuple of length 3"),
        (np.zeros(2), r"expected \(images, same\), found an array"),
        ((IMAGES[0], SAME), "expected a list of encoded images first, found a bytes of length 7"),
        ((IMAGES, True), "expected a list of booleans second, found True"),
        ((IMAGES[:3], SAME), "two images for each pair, found 3 images for 2 pairs"),
        (([], []), "found 0 images for 0 pairs"),
        ((["text", *IMAGES[1:]], SAME), "image 0 must be the bytes of an encoded image, found a str of length 4"),
        (([*IMAGES[:3], b""], SAME), "image 3 must be the bytes of an encoded image, found a bytes of length 0"),
        (([np.zeros((2, 2), np.uint8), *IMAGES[1:]], SAME), r"image 0 .* found an array of uint8 \[2, 2\]"),
        (([np.zeros(2), *IMAGES[1:]], SAME), r"image 0 .* found an array of float64 \[2\]"),
        (([np.ndarray, *IMAGES[1:]], SAME), "image 0 .* found a bare name"),
        ((np.array([b"a", b"b"]), [True]), r"dtype \|S1"),
        ((np.array([b"a", b"b"], object), [True]), "dtype object"),
        ((IMAGES, [True, None]), r"same\[1\] must be a boolean, found a NoneType"),
        ((IMAGES, [True, 2]), r"same\[1\] must be a boolean, found 2"),
        ((IMAGES, np.array([0.0, 1.0])), r"same\[0\] must be a boolean, found np\.float64\(0\.0\)"),
        ((IMAGES, np.array([SAME])), r"one answer for each pair, found an array of bool \[1, 2\]"),
        ((IMAGES, [True, np.datetime64(0, "s")]), r"dtype datetime64"),
        ((IMAGES, [True, Payload(bytearray, 10**12)]), "calls bytearray with a int"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_is_refused(content, match, tmp_path):
    path = written(tmp_path / "a.bin", content)
    with pytest.raises(ValueError, match=rf"a\.bin: .*{match}"):
        read_bin(path)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_truncated_anywhere(protocol, tmp_path):
    path = tmp_path / "cut.bin"
    whole = pickle.dumps(([b"first", b"second"], [True]), protocol=protocol)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.bin: (empty file|not a whole pickle)"):
            read_bin(path)


def test_damaged_bytes_give_pairs_or_a_value_error(tmp_path):
    path = tmp_path / "damaged.bin"
    whole = pickle.dumps(([b"first", bytearray(b"second")], np.array([True])), protocol=4)
    draw = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[draw.integers(2, len(whole))] = draw.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):  # any other exception fails the test
            assert len(read_bin(path).images) == 2


def test_missing_file_and_wrong_values(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.bin"):
        read_bin(tmp_path / "none.bin")
    with pytest.raises(ValueError, match=r"a\.bin: expected two images for each pair, found 4 images for 1 pairs"):
        write_bin(tmp_path / "a.bin", IMAGES, [True])
    with pytest.raises(ValueError, match=r"a\.bin: image 1 must be the bytes"):
        write_bin(tmp_path / "a.bin", [b"a", "b"], [True])
    with pytest.raises(ValueError, match=r"a\.bin: same\[0\] must be a boolean"):
        write_bin(tmp_path / "a.bin", IMAGES, [0.5, 1.0])
    assert os.listdir(tmp_path) == []
