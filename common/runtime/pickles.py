"""Pickles read without trusting the file: their byte code is run against stand-ins.

`pickle.load` runs whatever a stranger put in a file. Here the few names that a NumPy array's pickle refers to are
replaced by small classes that only write down shape, dtype and bytes, every other name is refused, and the array is
then built from what was written down. Nothing of NumPy's own state setters is reached, so a file cannot tamper with a
dtype either. Lists, tuples, text, bytes and numbers need no name at all and come as they are.

Who reads a kind of file adds stand-ins of its own to ARRAY_NAMES, and checks what comes out.
"""

import math
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["ARRAY_NAMES", "PickledArray", "PickledDtype", "RefusedError", "StandIn", "StandInUnpickler"]

_KINDS = "biufc"  # np.dtype.kind: boolean, signed, unsigned, floating, complex


class RefusedError(pickle.UnpicklingError):
    """What the file asks for is understood and not allowed."""


class StandIn:
    """Base of what the byte code gets instead of the names it refers to.

    The method matters on the classes themselves: byte code may try to set the state of a class, and then meets
    this function, which fails for want of an instance, instead of setting attributes.
    """

    def __setstate__(self, state: Any) -> None:
        raise RefusedError(f"sets the state of {type(self).__name__.strip('_')}, not part of a pickled array")


class _Ndarray(StandIn):
    """`numpy.ndarray`: only ever named, as the first argument of `_reconstruct`."""

    def __init__(self, *arguments: Any) -> None:
        raise RefusedError("calls numpy.ndarray, which a pickled array does not")


class _Bytes(StandIn):
    """`bytes()`: how protocols 0 to 2 spell the content of an array without elements."""

    def __new__(cls) -> bytes:  # type: ignore[misc]
        return b""


class _Encode(StandIn):
    """`_codecs.encode(text, "latin1")`: how protocols 0 to 2 spell bytes."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        if encoding != "latin1":
            raise RefusedError(f"encodes as {encoding!r}, not as latin1")
        return text.encode("latin1")


class PickledDtype(StandIn):
    """`numpy.dtype(name, align, copy)` and its state, of which only the byte order counts for numbers."""

    def __init__(self, name: str | bytes, align: bool = False, copy: bool = False) -> None:
        dtype = np.dtype(_text(name))
        if dtype.kind not in _KINDS:
            raise RefusedError(f"holds values of dtype {dtype}, expected numbers or booleans")
        self.dtype = dtype

    def __setstate__(self, state: tuple) -> None:
        _, byte_order, subarray, names, fields = state[:5]
        if (subarray, names, fields) != (None, None, None):
            raise RefusedError("holds records or sub-arrays, expected numbers or booleans")
        self.dtype = self.dtype.newbyteorder(_text(byte_order))  # type: ignore[arg-type]


def _text(name: str | bytes) -> str:
    """Text that Python 2 wrote comes as bytes where the unpickler is asked for that."""
    return name.decode("ascii") if isinstance(name, bytes) else str(name)


class PickledArray(StandIn):
    """`_reconstruct(ndarray, (0,), b"b")` and the state that follows: version, shape, dtype, order, content."""

    def __init__(self, cls: type, shape: tuple, typecode: bytes) -> None:
        if cls is not _Ndarray:
            raise RefusedError("holds a subclass of numpy.ndarray, expected a plain array")
        self.state: tuple | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        self.state = (content, dtype, shape, "F" if fortran else "C", None)

    def build(self) -> np.ndarray:
        """The array, in its own memory and writeable.

        Raises:
            RefusedError: what was written down makes no array of numbers or booleans.
        """
        if self.state is None:
            raise RefusedError("names an array without content")
        content, dtype, shape, order, axis_order = self.state
        if not isinstance(content, bytes | bytearray) or not isinstance(dtype, PickledDtype):
            raise RefusedError(f"holds an array made of {type(content).__name__}, expected bytes of numbers")
        shape = tuple(int(size) for size in shape)
        if len(content) != math.prod(shape) * dtype.dtype.itemsize or min(shape, default=0) < 0:
            raise RefusedError(f"{len(content)} bytes do not make {list(shape)} values of {dtype.dtype}")
        flat = np.frombuffer(bytearray(content), dtype.dtype)
        if axis_order is not None:
            return flat.reshape(shape).transpose(axis_order)
        return flat.reshape(shape, order="F" if order == "F" else "C")


class _Buffer(PickledArray):
    """`_frombuffer(content, dtype, shape, order, axis_order)`: how protocol 5 spells an array."""

    def __init__(self, content: Any, dtype: Any, shape: tuple, order: str, axis_order: Any = None) -> None:
        self.state = (content, dtype, shape, order, axis_order)


ARRAY_NAMES: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): PickledDtype,
    ("_codecs", "encode"): _Encode,
    ("__builtin__", "bytes"): _Bytes,  # the name that protocols 0 to 2 keep from Python 2
}
for _core in ("numpy.core", "numpy._core"):  # the names NumPy 1 and NumPy 2 write
    ARRAY_NAMES[f"{_core}.multiarray", "_reconstruct"] = PickledArray
    ARRAY_NAMES[f"{_core}.numeric", "_frombuffer"] = _Buffer


class StandInUnpickler(pickle.Unpickler):
    """Runs byte code that may refer to given names alone.

    Args:
        file: binary, open for reading.
        names: (module, name) to the stand-in.
        what: is read, as an error says it.
        encoding: of text that Python 2 wrote; "bytes" leaves it as bytes.
    """

    def __init__(self, file: Any, names: Mapping[tuple[str, str], type], what: str, encoding: str = "ASCII") -> None:
        super().__init__(file, encoding=encoding)
        self._names = names
        self._what = what

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in self._names:
            raise RefusedError(f"refers to {module}.{name}, which is not part of {self._what}; refused")
        return self._names[module, name]
