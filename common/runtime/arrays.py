"""Pickled NumPy arrays, read without trusting the file and written whole or not at all.

OpenGait keeps every stream of a sequence as one bare array in a `.pkl` file and reads it with `pickle.load`, which
runs whatever a stranger put in there. Here the pickle's byte code is run against the stand-ins of `pickles`.

Deliberate differences from `pickle.load`: one array of a boolean or numeric dtype and nothing else (no objects, no
records, no lists of arrays), and the array owns its memory and is writeable whatever the protocol.
"""

import io
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.runtime.files import whole_file
from common.runtime.pickles import ARRAY_NAMES, PickledArray, RefusedError, StandInUnpickler

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
        content = StandInUnpickler(file, ARRAY_NAMES, "a pickled NumPy array").load()
        if isinstance(content, PickledArray):
            return content.build()
    except RefusedError as error:
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
