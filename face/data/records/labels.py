"""The label of every record of a set, from the heads of the records alone, and kept in a file for the next time.

A set has millions of records: their heads are gathered with NumPy from the mapped file, no record is read.
"""

import mmap
import zipfile
from pathlib import Path
from warnings import warn

import numpy as np

from common.runtime.files import whole_file
from common.runtime.progress import progress_bar
from face.data.records.format import (
    FIRST,
    HEAD_BYTES,
    IMAGE_HEAD_BYTES,
    LABEL_LIMIT,
    LENGTH_MASK,
    MAGIC,
    WHOLE,
    RecordError,
    unpack_image,
)
from face.data.records.reading import RecordFile

__all__ = ["LABEL_FILE", "load_labels", "scan_labels"]

LABEL_FILE = ".train.labels.npz"
_BLOCK = 1 << 18
_LABEL_WORD, _LIST_WORD = HEAD_BYTES // 4 + 1, (HEAD_BYTES + IMAGE_HEAD_BYTES) // 4


def scan_labels(file: RecordFile, keys: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The label of each record, the first one of those that have a list.

    Args:
        file: with the records.
        keys: int64 [n], for error messages.
        offsets: int64 [n], multiples of 4.

    Returns:
        int32 [n].

    Raises:
        RecordError: at an offset there is no whole record of an image, or its label is not a whole number from 0 to
            2**24 - 1. The record is named.
    """
    labels = np.empty(len(keys), np.int32)
    blocks = range(0, len(keys), _BLOCK)
    bar = progress_bar(blocks, desc=f"labels of {file.path}", unit="block", disable=len(blocks) == 1)
    with file.path.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last array that looks at it
    if hasattr(mmap, "MADV_SEQUENTIAL"):
        mapped.madvise(mmap.MADV_SEQUENTIAL)
    words = np.frombuffer(mapped, "<u4", count=len(mapped) // 4)
    for begin in bar:
        block = slice(begin, begin + _BLOCK)
        labels[block] = _scan_block(file, words, keys[block], offsets[block])
    return labels


def _scan_block(file: RecordFile, words: np.ndarray, keys: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    def refuse(wrong: np.ndarray, text: str) -> None:
        if wrong.any():
            at = int(wrong.argmax())
            raise RecordError(f"{file.where(offsets[at], keys[at])}: {text}")

    end = file.size - HEAD_BYTES - IMAGE_HEAD_BYTES
    refuse(offsets > end, f"the file is cut off: it ends at {file.size}")
    places = offsets // 4
    refuse(words[places] != MAGIC, f"no record begins here, the magic {MAGIC:#x} is missing")
    lengths, flags = words[places + 1] & LENGTH_MASK, words[places + 1] >> 29
    refuse((flags != WHOLE) & (flags != FIRST), "the middle of a record of several parts")
    refuse(offsets + HEAD_BYTES + lengths > file.size, f"the file is cut off: it ends at {file.size}")
    counts = words[places + 2].astype(np.int64)
    listed = words[np.where(counts > 0, np.minimum(places + _LIST_WORD, len(words) - 1), places + _LABEL_WORD)]
    labels = listed.view(np.float32)
    images = lengths - IMAGE_HEAD_BYTES - 4 * counts
    # Where a head itself is cut into parts (it would have to hold the magic), the words are not where they should be.
    for at in np.flatnonzero(flags == FIRST):
        offset, key = int(offsets[at]), int(keys[at])
        record = unpack_image(file.read_record(offset, key), file.where(offset, key))
        labels[at], images[at] = record.labels[0], len(record.image)
    refuse(images <= 0, "holds no image")
    wrong = ~((labels >= 0) & (labels < LABEL_LIMIT) & (labels == np.floor(labels)))  # NaN is wrong, too
    if wrong.any():
        label = labels[int(wrong.argmax())]
        large = "; float32 does not tell larger ones apart" if label >= LABEL_LIMIT else ""
        refuse(wrong, f"label {label:.9g}, expected a whole number from 0 to {LABEL_LIMIT - 1}{large}")
    return labels.astype(np.int32)


def load_labels(file: RecordFile, index_file: Path, keys: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The labels kept beside the records, if they are of just these files; else those of a scan, which are then kept.

    Where they cannot be kept, as in a folder that is not writable, or what was kept is damaged, there is a warning.

    Raises:
        RecordError: see `scan_labels`.
    """
    kept = file.path.with_name(LABEL_FILE)
    status = index_file.stat()
    made_from = np.array(
        [len(keys), file.size, file.modified_ns, status.st_size, status.st_mtime_ns],
        np.int64,
    )
    try:
        with kept.open("rb") as opened, np.load(opened) as arrays:
            if np.array_equal(arrays["made_from"], made_from) and arrays["labels"].shape == keys.shape:
                known = arrays["labels"]
                if known.dtype != np.int32 or (known < 0).any() or (known >= LABEL_LIMIT).any():
                    raise ValueError("labels out of range")
                return known
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        warn(f"{kept}: damaged ({error}); the labels are read from the records again", stacklevel=2)
    labels = scan_labels(file, keys, offsets)
    try:
        with whole_file(kept) as partial, partial.open("wb") as writing:
            np.savez(writing, made_from=made_from, labels=labels)
    except OSError as error:
        warn(f"{kept}: cannot be written ({error}); the labels are read anew each time", stacklevel=2)
    return labels
