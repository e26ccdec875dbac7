"""StandInUnpickler: who reads a kind of file says which names it may refer to. More of it is in test_arrays.py."""

import io
import pickle
import zlib

import numpy as np
import pytest

from common.runtime.pickles import ARRAY_NAMES, PickledArray, RefusedError, StandIn, StandInUnpickler


def load(data, names=ARRAY_NAMES, **options):
    return StandInUnpickler(io.BytesIO(data), names, "a test", **options).load()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_containers_need_no_names(protocol):
    content = [(1, None, True, "text", 2.5), {"key": [b"bytes"]}]
    assert load(pickle.dumps(content, protocol=protocol)) == content


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_among_other_things(protocol):
    array = np.arange(6, dtype=">i2").reshape(2, 3)
    found, number = load(pickle.dumps([array, 7], protocol=protocol))
    assert isinstance(found, PickledArray)
    np.testing.assert_array_equal(found.build(), array)
    assert number == 7


def test_other_names_are_refused_by_what_is_read():
    with pytest.raises(RefusedError, match=r"refers to zlib\.crc32, which is not part of a test; refused"):
        load(pickle.dumps(zlib.crc32))
    with pytest.raises(RefusedError, match=r"refers to numpy\.dtype"):
        load(pickle.dumps(np.dtype("i4")), names={})


def test_names_of_ones_own():
    class Checksum(StandIn):
        pass

    assert load(pickle.dumps(zlib.crc32), names={("zlib", "crc32"): Checksum}) is Checksum


def test_text_of_python_2():
    data = b"\x80\x02U\x03\xff\x00\xfe."  # a str of three characters there
    assert load(data, encoding="bytes") == b"\xff\x00\xfe"
    with pytest.raises(UnicodeDecodeError):
        load(data)


@pytest.mark.parametrize("name", ["u1", "i4", "b1"])
def test_arrays_of_python_2(name):
    array = np.array([1, 0, 1], dtype=name)
    content = array.tobytes()
    order = b"<" if array.itemsize > 1 else b"|"
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x03\x85"
        + b"cnumpy\ndtype\nU\x02" + name.encode() + b"K\x00K\x01\x87R(K\x03U\x01" + order
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(content)]) + content + b"tb."
    )  # fmt: skip
    found = load(data, encoding="bytes").build()
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
