"""Pickled NumPy arrays, read without trusting the file and written whole or not at all.

OpenGait keeps every stream of a sequence as one bare array in a `.pkl` file and reads it with `pickle.load`, which
runs whatever a stranger put in there. Here the pickle's byte code is run against stand-ins: the few names that an
array's pickle refers to are replaced by small classes that only write down shape, dtype and bytes, every other name
is refused, and the array is then built from what was written down. Nothing of NumPy's own state setters is reached,
so a file cannot tamper with a dtype either.

Deliberate differences from `pickle.load`: one array of a boolean or numeric dtype and nothing else (no objects, no
records, no lists of arrays), and the array owns its memory and is writeable whatever the protocol.
"""

import io
import math
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.runtime.files import whole_file

__all__ = ["load_array", "peek_array", "save_array"]

_KINDS = "biufc"  # np.dtype.kind: boolean, signed, unsigned, floating, complex


def load_array(path: str | Path) -> np.ndarray:
    """Read a pickle (protocol 0 to 5, written by NumPy 1 or 2) that holds one array of numbers or booleans.

    Returns:
        The array, in its own memory and writeable, with the dtype, shape and memory order that were stored.

    Raises:
        ValueError: the file refers to anything but the parts of such an array (the name is given), holds something
            else than one array, or is empty, truncated or damaged. The message begins with the path.
        FileNotFoundError: there is no such file.
    """
    return _build(path, io.BytesIO(Path(path).read_bytes()))


def peek_array(path: str | Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a pickled array, without reading its numbers: for checking a data set before a long run.

    Raises:
        ValueError: as `load_array`; a truncated file is found too, since its end is looked at.
        FileNotFoundError: there is no such file.
    """
    try:
        with Path(path).open("rb") as file:
            array = _build(path, _SkippingReader(file))
    except ValueError:
        # Damaged, or an old protocol that spells bytes as text, whose length depends on the numbers.
        array = load_array(path)
    return array.shape, array.dtype


class _SkippingReader:
    """A file whose long stretches (the numbers of an array) read as zeros and are skipped on the disk."""

    # Protocol 4 reads frames of up to 128 KiB as one stretch; what is longer is an array's content.
    _LONG = 256 * 1024

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self.readline = file.readline

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._file.tell()
        if size < self._LONG or size > left:
            return self._file.read(size)
        self._file.seek(size, os.SEEK_CUR)
        return bytes(size)


def _build(path: str | Path, file: Any) -> np.ndarray:
    try:
        content = _ArrayUnpickler(file).load()
        if isinstance(content, _Array):
            return content.build()
    except _RefusedError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # damaged byte code can fail in any way there is
        if not Path(path).stat().st_size:
            raise ValueError(f"{path}: empty file, expected a pickled NumPy array") from None
        raise ValueError(f"{path}: not a whole pickled NumPy array ({type(error).__name__}: {error})") from error
    found = "a bare NumPy name" if isinstance(content, type) else f"a {type(content).__name__}"
    raise ValueError(f"{path}: expected one pickled NumPy array, found {found}")


def save_array(path: str | Path, array: np.ndarray) -> None:
    """Pickle one array (protocol 4) for `load_array` or a plain `pickle.load` under NumPy >= 1.26.1.

    The bytes go to a hidden file in the same folder, which then takes the name `path`: a reader meets the old file
    or the new one, never half of one.

    Raises:
        ValueError: not an array of numbers or booleans.
        OSError: the folder is missing or cannot be written.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind not in _KINDS:
        found = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{path}: expected a NumPy array of numbers or booleans, got {found}")
    with whole_file(path) as partial, partial.open("wb") as file:
        pickle.dump(array, file, protocol=4)


class _RefusedError(pickle.UnpicklingError):
    """What the file asks for is understood and not allowed."""


class _StandIn:
    """Base of what the byte code gets instead of NumPy's names.

    The method matters on the classes themselves: byte code may try to set the state of a class, and then meets
    this function, which fails for want of an instance, instead of setting attributes.
    """

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError(f"sets the state of {type(self).__name__.strip('_')}, not part of a pickled array")


class _Ndarray(_StandIn):
    """`numpy.ndarray`: only ever named, as the first argument of `_reconstruct`."""

    def __init__(self, *arguments: Any) -> None:
        raise _RefusedError("calls numpy.ndarray, which a pickled array does not")


class _Bytes(_StandIn):
    """`bytes()`: how protocols 0 to 2 spell the content of an array without elements."""

    def __new__(cls) -> bytes:  # type: ignore[misc]
        return b""


class _Encode(_StandIn):
    """`_codecs.encode(text, "latin1")`: how protocols 0 to 2 spell bytes."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        if encoding != "latin1":
            raise _RefusedError(f"encodes as {encoding!r}, not as latin1")
        return text.encode("latin1")


class _Dtype(_StandIn):
    """`numpy.dtype(name, align, copy)` and its state, of which only the byte order counts for numbers."""

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        dtype = np.dtype(str(name))
        if dtype.kind not in _KINDS:
            raise _RefusedError(f"holds values of dtype {dtype}, expected numbers or booleans")
        self.dtype = dtype

    def __setstate__(self, state: tuple) -> None:
        _, byte_order, subarray, names, fields = state[:5]
        if (subarray, names, fields) != (None, None, None):
            raise _RefusedError("holds records or sub-arrays, expected numbers or booleans")
        self.dtype = self.dtype.newbyteorder(byte_order)


class _Array(_StandIn):
    """`_reconstruct(ndarray, (0,), b"b")` and the state that follows: version, shape, dtype, order, content."""

    def __init__(self, cls: type, shape: tuple, typecode: bytes) -> None:
        if cls is not _Ndarray:
            raise _RefusedError("holds a subclass of numpy.ndarray, expected a plain array")
        self.state: tuple | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        self.state = (content, dtype, shape, "F" if fortran else "C", None)

    def build(self) -> np.ndarray:
        if self.state is None:
            raise _RefusedError("names an array without content")
        content, dtype, shape, order, axis_order = self.state
        if not isinstance(content, bytes | bytearray) or not isinstance(dtype, _Dtype):
            raise _RefusedError(f"holds an array made of {type(content).__name__}, expected bytes of numbers")
        shape = tuple(int(size) for size in shape)
        if len(content) != math.prod(shape) * dtype.dtype.itemsize or min(shape, default=0) < 0:
            raise _RefusedError(f"{len(content)} bytes do not make {list(shape)} values of {dtype.dtype}")
        flat = np.frombuffer(bytearray(content), dtype.dtype)
        if axis_order is not None:
            return flat.reshape(shape).transpose(axis_order)
        return flat.reshape(shape, order="F" if order == "F" else "C")


class _Buffer(_Array):
    """`_frombuffer(content, dtype, shape, order, axis_order)`: how protocol 5 spells an array."""

    def __init__(self, content: Any, dtype: Any, shape: tuple, order: str, axis_order: Any = None) -> None:
        self.state = (content, dtype, shape, order, axis_order)


_ALLOWED: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
    ("__builtin__", "bytes"): _Bytes,  # the name that protocols 0 to 2 keep from Python 2
}
for _core in ("numpy.core", "numpy._core"):  # the names NumPy 1 and NumPy 2 write
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _Buffer


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"refers to {module}.{name}, which is not part of a pickled NumPy array; refused")
        return _ALLOWED[module, name]
