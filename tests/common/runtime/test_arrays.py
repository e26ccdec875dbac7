"""load_array and save_array: every spelling of an array's pickle is read, and nothing else is let in."""

import collections
import contextlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.runtime.arrays import load_array, peek_array, save_array

ROOT = Path(__file__).parents[3]

ARRAYS = {
    "silhouettes": np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4),
    "float32": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "big endian": np.array([1, 2, 300], ">i4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "strided": np.arange(10)[::3],
    "empty": np.zeros((0, 64, 64), np.uint8),
    "scalar": np.array(3.5),
}


class Payload:
    """Calls `function` when it is unpickled freely."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ARRAYS)
def test_reads_what_pickle_writes(name, protocol, tmp_path):
    path = tmp_path / "array.pkl"
    path.write_bytes(pickle.dumps(ARRAYS[name], protocol=protocol))
    loaded = load_array(path)
    assert type(loaded) is np.ndarray
    assert loaded.dtype == ARRAYS[name].dtype
    assert loaded.flags.writeable
    np.testing.assert_array_equal(loaded, ARRAYS[name])


def test_reads_the_names_of_numpy_1_and_2(tmp_path):
    path = tmp_path / "array.pkl"
    for core in (b"numpy.core.", b"numpy._core."):
        old = pickle.dumps(ARRAYS["float32"], protocol=0)
        path.write_bytes(old.replace(b"numpy._core.", core).replace(b"numpy.core.", core))
        np.testing.assert_array_equal(load_array(path), ARRAYS["float32"])


def test_saved_arrays_are_read_by_plain_pickle(tmp_path):
    path = tmp_path / "array.pkl"
    save_array(path, ARRAYS["silhouettes"])
    data = path.read_bytes()
    assert data[:2] == b"\x80\x04"
    np.testing.assert_array_equal(pickle.loads(data), ARRAYS["silhouettes"])
    np.testing.assert_array_equal(load_array(path), ARRAYS["silhouettes"])
    assert os.listdir(tmp_path) == ["array.pkl"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "array.pkl"
    save_array(path, ARRAYS["bool"])

    def full(array, file, protocol):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pickle, "dump", full)
    with pytest.raises(OSError, match="no space"):
        save_array(path, ARRAYS["silhouettes"])
    np.testing.assert_array_equal(load_array(path), ARRAYS["bool"])
    assert os.listdir(tmp_path) == ["array.pkl"]


@pytest.mark.parametrize("protocol", range(6))
def test_payload_is_refused_by_name_and_not_run(protocol, tmp_path):
    path, trace = tmp_path / "evil.pkl", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Payload(os.system, f"touch {trace}"), protocol=protocol))
    with pytest.raises(ValueError, match=r"evil\.pkl: refers to (posix|nt)\.system"):
        load_array(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Payload(eval, "1"), r"refers to builtins\.eval"),
        (Payload(bytes, 10**12), r"refers to builtins\.bytes"),
        (Payload(np.dtype, "O"), "dtype object"),
        (Payload(np.ndarray, (2,), "O"), r"calls numpy\.ndarray"),
        (np.array([{}], dtype=object), "dtype object"),
        (np.array(["text"]), "dtype <U4"),
        (np.array([(1, 2.0)], dtype="i4,f4"), r"records|dtype"),
        (np.datetime64("2020-01-01"), r"refers to numpy\._?core\.multiarray\.scalar"),
        (np.ma.masked_array([1]), r"refers to numpy\.ma"),
        (collections.OrderedDict(), r"refers to collections\.OrderedDict"),
        ([np.zeros(3), np.zeros(3)], "expected one pickled NumPy array, found a list"),
        ({"a": 1}, "found a dict"),
        (7, "found a int"),
        (np.ndarray, "bare NumPy name"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_anything_else_is_refused(content, message, tmp_path):
    path = tmp_path / "stream.pkl"
    path.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(ValueError, match=rf"stream\.pkl: .*({message})"):
        load_array(path)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_truncated_anywhere(protocol, tmp_path):
    path = tmp_path / "cut.pkl"
    whole = pickle.dumps(ARRAYS["float32"], protocol=protocol)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.pkl: (empty file|not a whole)"):
            load_array(path)


def test_damaged_bytes_give_an_array_or_a_value_error(tmp_path):
    path = tmp_path / "damaged.pkl"
    whole = pickle.dumps(ARRAYS["float32"], protocol=4)
    draw = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[draw.integers(2, len(whole))] = draw.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):  # any other exception fails the test
            assert isinstance(load_array(path), np.ndarray)


def test_size_and_content_must_agree(tmp_path):
    path = tmp_path / "lying.pkl"
    whole = pickle.dumps(np.zeros((2, 3), np.uint8), protocol=4)
    path.write_bytes(whole.replace(b"K\x02K\x03\x86", b"K\x02K\x7f\x86"))
    with pytest.raises(ValueError, match=r"6 bytes do not make \[2, 127\] values of uint8"):
        load_array(path)


def test_missing_file_and_wrong_values(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pkl"):
        load_array(tmp_path / "none.pkl")
    with pytest.raises(ValueError, match=r"a\.pkl: .* got dtype object"):
        save_array(tmp_path / "a.pkl", np.array([None]))
    with pytest.raises(ValueError, match="got list"):
        save_array(tmp_path / "a.pkl", [1, 2])
    assert os.listdir(tmp_path) == []


def test_needs_neither_torch_nor_opencv():
    """Neither this module nor what it imports of the package; the package's own front door does load torch."""
    code = (
        "import importlib, sys, types\n"
        "for name in ('common', 'common.runtime'):\n"
        "    package = sys.modules[name] = types.ModuleType(name)\n"
        f"    package.__path__ = [{str(ROOT)!r} + '/' + name.replace('.', '/')]\n"
        "arrays = importlib.import_module('common.runtime.arrays')\n"
        f"assert arrays.__file__ == {load_array.__code__.co_filename!r}, arrays.__file__\n"
        "found = {'torch', 'cv2'} & {name.split('.')[0] for name in sys.modules}\n"
        "assert not found, f'loaded {sorted(found)}'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("protocol", range(6))
def test_peek_tells_shape_and_dtype_without_the_numbers(tmp_path, protocol):
    for frames in (3, 300):
        array = np.arange(frames * 64 * 44).astype(np.uint8).reshape(frames, 64, 44)
        path = tmp_path / "a.pkl"
        path.write_bytes(pickle.dumps(array, protocol=protocol))
        assert peek_array(path) == ((frames, 64, 44), np.dtype(np.uint8))


@pytest.mark.parametrize("frames", [3, 300])
@pytest.mark.parametrize("cut", [1, 10, 5000, 8000])
def test_peek_finds_a_truncated_file(tmp_path, cut, frames):
    path = tmp_path / "a.pkl"
    save_array(path, np.ones((frames, 64, 44), np.uint8))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r"a\.pkl: not a whole pickled NumPy array"):
        peek_array(path)
