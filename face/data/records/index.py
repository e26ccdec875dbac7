"""`train.idx`: where each record of `train.rec` begins, as lines of a key and a byte offset."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.runtime.files import whole_file
from common.runtime.progress import progress_bar
from face.data.records.format import HEAD_BYTES, RecordError, read_head

__all__ = ["INDEX_FILE", "RECORD_FILE", "Index", "read_index", "rebuild_index", "write_index"]

RECORD_FILE, INDEX_FILE = "train.rec", "train.idx"


class Index(NamedTuple):
    """Keys and byte offsets of records, in the order of the file."""

    keys: np.ndarray
    """int64 [n], each once."""

    offsets: np.ndarray
    """int64 [n], multiples of 4."""

    def reaches(self, end: int) -> np.ndarray:
        """int64 [n]: bytes from each record up to the next one that the index knows of, or to `end`."""
        order = np.argsort(self.offsets, kind="stable")  # quick where they ascend already
        following = np.append(self.offsets[order[1:]], end)
        reaches = np.empty_like(self.offsets)
        reaches[order] = following - self.offsets[order]
        return reaches

    def positions_of(self, keys: np.ndarray) -> np.ndarray:
        """int64: where in this index each key stands, -1 for one that it lacks."""
        if np.array_equal(self.keys, np.arange(len(self.keys))):
            return np.where((keys >= 0) & (keys < len(self.keys)), keys, -1)
        order = np.argsort(self.keys, kind="stable")
        places = order[np.minimum(np.searchsorted(self.keys, keys, sorter=order), len(order) - 1)]
        return np.where(self.keys[places] == keys, places, -1)


def read_index(path: Path) -> Index:
    """Read the lines `key<tab>offset`; spaces and empty lines do not matter.

    Raises:
        FileNotFoundError: no such file.
        RecordError: a line that is not two whole numbers, a key twice, an offset where no record can begin, no line.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        empty = not any(line.strip() for line in file)
    if empty:
        raise RecordError(f"{path}: names no record")
    try:
        table = np.loadtxt(path, dtype=np.int64, comments=None, ndmin=2, encoding="utf-8")
    except (ValueError, OverflowError) as error:
        raise RecordError(_complaint(path) or f"{path}: {error}") from error
    if table.shape[1] != 2:
        raise RecordError(_complaint(path) or f"{path}: expected two numbers a line, found {table.shape[1]}")
    index = Index(np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1]))
    wrong = (index.offsets < 0) | (index.offsets % 4 != 0)
    if wrong.any():
        at = int(wrong.argmax())
        raise RecordError(
            f"{path}: record {index.keys[at]}: offset {index.offsets[at]}: records begin at multiples of 4"
        )
    if (np.diff(index.keys) <= 0).any():
        keys, counts = np.unique(index.keys, return_counts=True)
        if counts.max() > 1:
            raise RecordError(f"{path}: record {keys[counts.argmax()]} stands there {counts.max()} times")
    return index


def _complaint(path: Path) -> str | None:
    """The first line that is not a key and an offset, in words."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            entries = line.split()
            if entries and not (len(entries) == 2 and all(entry.isascii() and entry.isdigit() for entry in entries)):
                shown = line.strip() if len(line) <= 60 else line[:57].strip() + "..."
                return f"{path}, line {number}: expected a key and an offset, found {shown!r}"
    return None


def write_index(path: Path, index: Index) -> None:
    """Write the lines, to `path` itself."""
    with path.open("w", encoding="ascii") as file:
        for begin in range(0, len(index.keys), 1 << 16):
            block = slice(begin, begin + (1 << 16))
            pairs = zip(index.keys[block].tolist(), index.offsets[block].tolist(), strict=True)
            file.write("".join(f"{key}\t{offset}\n" for key, offset in pairs))


def rebuild_index(folder: str | Path) -> int:
    """Write the missing `train.idx` of a folder from its `train.rec`; keys count the records of the file from 0.

    That is how both insightface's and CVLface's tools number them, a header record being the first of its file.

    Returns:
        The number of records.

    Raises:
        FileExistsError: there is an index; remove it first if it is to be made anew.
        FileNotFoundError: no `train.rec`.
        RecordError: damaged or cut off; the message says up to which record it is whole.
    """
    rec, idx = Path(folder) / RECORD_FILE, Path(folder) / INDEX_FILE
    if idx.exists():
        raise FileExistsError(f"{idx}: exists already; remove it if it is to be made anew")
    size = rec.stat().st_size
    offsets: list[int] = []
    with rec.open("rb") as file, progress_bar(total=size, desc=f"index of {rec}", unit="B", unit_scale=True) as bar:
        place, inside = 0, False
        while place < size:
            file.seek(place)
            where = f"{rec}: after {len(offsets)} records, at offset {place}"
            part = read_head(file.read(HEAD_BYTES), first=not inside, where=where)
            if not inside:
                offsets.append(place)
            inside = not part.ends_record
            step = HEAD_BYTES + part.padded
            place += step
            if place > size:
                raise RecordError(f"{where}: the file is cut off: it should reach to {place}, it ends at {size}")
            bar.update(step)
    if inside:
        raise RecordError(f"{rec}: after {len(offsets) - 1} records: the file is cut off within a record of parts")
    if not offsets:
        raise RecordError(f"{rec}: holds no record")
    with whole_file(idx) as partial:
        write_index(partial, Index(np.arange(len(offsets)), np.array(offsets, np.int64)))
    return len(offsets)
