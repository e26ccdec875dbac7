"""Tables of numbers with spaces between them, a row on each line: short ones with a name first, and very long ones.

A list of IJB-C's pairs has 15.7 million lines. It is read a few megabytes at a time and parsed by NumPy, in time and
memory near those of the file, with every character looked at: NumPy's own readers take minutes (loadtxt) or pass over
a line that is too short (fromstring).
"""

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.runtime.progress import progress_bar

__all__ = ["read_integers", "read_named_numbers"]

_CHUNK = 1 << 22
_LONGEST = 10  # digits of the largest int32


def read_named_numbers(path: Path, columns: int, whole: bool) -> tuple[list[str], np.ndarray]:
    """Rows of a name without spaces and numbers.

    Args:
        path: text file.
        columns: numbers of a row, C.
        whole: whether they are whole numbers >= 0.

    Returns:
        Names of the n rows, and [n, C] int32 (`whole`) or float64. Row i is line i + 1.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not such a row, numbers that are infinite or NaN, or no rows. File and line are
            named.
    """
    names: list[str] = []
    numbers: array[Any] = array("q" if whole else "d")
    convert: Callable[[str], Any] = _whole if whole else float
    kind = "whole numbers" if whole else "numbers"
    for line, entries in _rows(path):
        try:
            if len(entries) != columns + 1:
                raise ValueError
            numbers.extend(map(convert, entries[1:]))
        except ValueError:
            raise ValueError(
                f"{path}, line {line}: expected a name and {columns} {kind}, found {' '.join(entries)[:80]!r}"
            ) from None
        names.append(entries[0])
    if not names:
        raise ValueError(f"{path}: it has no rows")
    values = np.array(numbers, np.int32 if whole else np.float64).reshape(-1, columns)
    strange = ~np.isfinite(values).all(1)
    if strange.any():
        raise ValueError(f"{path}, line {int(strange.argmax()) + 1}: a number is NaN or infinite")
    return names, values


def read_integers(path: Path, columns: int, progress: bool = False) -> tuple[np.ndarray, ...]:
    """Rows of whole numbers from 0 to 2^31 - 1; empty lines may follow the last one.

    Args:
        path: text file.
        columns: numbers of a row, C.
        progress: show a bar.

    Returns:
        C arrays int32 [n]. Row i is line i + 1.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not such a row, or no rows. File and line are named.
    """
    parts: list[list[np.ndarray]] = [[] for _ in range(columns)]
    size, lines = path.stat().st_size, 0
    blank: int | None = None
    bar = progress_bar(
        total=size, desc=f"reading {path.name}", unit="B", unit_scale=True, disable=not progress or size < 8 * _CHUNK
    )
    with bar, path.open("rb") as file:
        for chunk in _whole_lines(file.read, _CHUNK):
            counts, values = _parse(chunk, columns, path, lines)
            if blank is not None and counts.any():
                raise ValueError(f"{path}, line {blank}: expected {columns} whole numbers, found ''")
            if blank is None and not counts[-1]:
                blank = lines + int((counts > 0).sum()) + 1
            for column, part in zip(values.T, parts, strict=True):
                part.append(np.ascontiguousarray(column))
            lines += len(counts)
            bar.update(len(chunk))
    if not any(len(each) for each in parts[0]):
        raise ValueError(f"{path}: it has no rows")
    return tuple(np.concatenate(parts.pop(0)) for _ in range(columns))


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > _LONGEST or int(text) >= 1 << 31:
        raise ValueError
    return int(text)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and entries. Empty lines are passed over at the end alone."""
    blank = None
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line, text in enumerate(file, start=1):
            entries = text.split()
            if not entries:
                blank = blank or line
                continue
            if blank is not None:
                raise ValueError(f"{path}, line {blank}: expected a name and numbers, found an empty line")
            yield line, entries


def _whole_lines(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    """Bytes up to the end of a line, about `size` of them at a time."""
    rest = b""
    while data := read(size):
        end = data.rfind(b"\n") + 1
        if not end:
            rest += data
            continue
        yield rest + data[:end]
        rest = data[end:]
    if rest:
        yield rest + b"\n"


def _parse(chunk: bytes, columns: int, path: Path, before: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers on each line [lines], and [rows, C] int32 of those that have some.

    Args:
        chunk: whole lines.
        columns: C.
        path, before: file, and number of lines in it before these, for messages.
    """
    text = np.frombuffer(chunk, np.uint8)
    newlines = np.flatnonzero(text == ord("\n"))
    digits = text - ord("0")  # what is below wraps around
    of_number = text > ord(" ")
    edges = np.flatnonzero(np.diff(of_number, prepend=False, append=False))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    counts = np.diff(np.searchsorted(starts, newlines), prepend=0)
    values = np.zeros(len(starts), np.int64)
    for place in range(min(int(lengths.max(initial=0)), _LONGEST)):
        longer = lengths > place
        values[longer] = values[longer] * 10 + digits[starts[longer] + place]
    wrong = counts != columns
    wrong[len(wrong) - int((counts > 0)[::-1].argmax()) if counts.any() else 0 :] = False  # empty ones at the end
    for bad in (of_number & (digits > 9)).nonzero()[0][:1], starts[(lengths > _LONGEST) | (values >= 1 << 31)][:1]:
        wrong[np.searchsorted(newlines, bad)] = True
    if wrong.any():
        raise _bad_line(chunk, int(wrong.argmax()), columns, path, before)
    return counts, values.astype(np.int32).reshape(-1, columns)


def _bad_line(chunk: bytes, line: int, columns: int, path: Path, before: int) -> ValueError:
    found = chunk.split(b"\n", line + 1)[line].decode("utf-8", "replace").strip()[:80]
    return ValueError(f"{path}, line {before + line + 1}: expected {columns} whole numbers, found {found!r}")
