"""Writes RecordIO folders that MXNet, insightface and CVLface read: `train.rec`, `train.idx`, `property`, `train.tsv`.

insightface's convention begins with a record of two labels [a, b] and no image; images have the keys 1 to a - 1; the
keys a to b - 1 are records of the identities, two labels [first key, last key + 1] each. CVLface's has images alone,
from key 0 on. `train.tsv`, a line `key<tab>path<tab>label` for each image, is CVLface's; it keeps names.
"""

from array import array
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TextIO

import numpy as np

from common.runtime.files import whole_file
from face.data.records.format import LABEL_LIMIT, frame_record, pack_image
from face.data.records.index import INDEX_FILE, RECORD_FILE, Index, write_index
from face.data.records.source import PROPERTY_FILE

__all__ = ["NAMES_FILE", "RecordWriter"]

NAMES_FILE = "train.tsv"


class RecordWriter:
    """Use it in a `with` block: the files take their names when that ends without an error, or there is none of them.

        with RecordWriter(folder, image_hw=(112, 112)) as writer:
            writer.write(encoded, label=0, name="id0/0001.jpg")

    Args:
        folder: made if it is not there.
        image_hw: height and width for `property`.
        header: insightface's convention; False writes CVLface's, which takes labels in any order and any number of
            images.

    Raises:
        FileExistsError: the folder has a `train.rec` already.
        OSError: it cannot be written.
    """

    def __init__(self, folder: str | Path, image_hw: tuple[int, int] = (112, 112), header: bool = True) -> None:
        self.folder = Path(folder)
        for name in (RECORD_FILE, INDEX_FILE, PROPERTY_FILE, NAMES_FILE):
            if (self.folder / name).exists():
                raise FileExistsError(f"{self.folder / name}: exists already; remove it or write to another folder")
        self.image_hw = image_hw
        self.header = header
        self._offsets, self._labels = array("q"), array("q")
        self._named = 0
        self._stack = ExitStack()

    def __enter__(self) -> "RecordWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            # First in, last to take its name: whoever sees train.rec sees the others, too.
            record_path = stack.enter_context(whole_file(self.folder / RECORD_FILE))
            self._index_path = stack.enter_context(whole_file(self.folder / INDEX_FILE))
            self._property_path = stack.enter_context(whole_file(self.folder / PROPERTY_FILE))
            self._file: BinaryIO = stack.enter_context(record_path.open("wb", buffering=1 << 20))
            self._names: TextIO | None = None
            if self.header:
                self._append(pack_image((0.0, 0.0), 0, b""))  # its numbers are known at the end
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._finish()
            except BaseException as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._stack.__exit__(kind, error, trace)

    def write(self, image: bytes, label: int, name: str | None = None) -> int:
        """Add one encoded image.

        Args:
            image: JPEG, PNG or another format that the readers know, as it stands in a file.
            label: class id, from 0 on. With a header those of one class follow each other, in rising order of classes.
            name: for `train.tsv`; all images have one, or none has.

        Returns:
            The key of its record.

        Raises:
            ValueError: no bytes, a label that is negative, out of order or too large for float32, a name with a tab
                or line break, names for some images only, more images than the header can count, 512 MiB or more.
        """
        if not image:
            raise ValueError(f"image {len(self._labels)}: no bytes, expected an encoded image")
        if not 0 <= label < LABEL_LIMIT:
            raise ValueError(f"labels are whole numbers from 0 to {LABEL_LIMIT - 1}, stored as float32; got {label}")
        if self.header and self._labels and label < self._labels[-1]:
            raise ValueError(
                f"label {label} after {self._labels[-1]}: insightface's header wants the images in the order of their "
                "classes; sort them or write with header=False"
            )
        if self.header and len(self._labels) + 2 >= LABEL_LIMIT:
            raise ValueError(
                f"insightface's header counts fewer than {LABEL_LIMIT - 1} images; write with header=False"
            )
        if (name is not None) != (self._named > 0) and self._labels:
            raise ValueError(f"image {len(self._labels)}: either all images have a name or none has, got {name!r}")
        key = len(self._offsets)
        if name is not None:
            self._write_name(key, name, label)
        self._append(pack_image(float(label), key, image))
        self._labels.append(label)
        return key

    def _write_name(self, key: int, name: str, label: int) -> None:
        if not name or any(character in name for character in "\t\r\n"):
            raise ValueError(f"{NAMES_FILE} cannot hold a name that is empty or has tabs or line breaks: {name!r}")
        if self._names is None:
            path = self._stack.enter_context(whole_file(self.folder / NAMES_FILE))
            self._names = self._stack.enter_context(path.open("w", encoding="utf-8", errors="surrogateescape"))
        self._names.write(f"{key}\t{name}\t{label}\n")
        self._named += 1

    def _append(self, payload: bytes) -> None:
        record = frame_record(payload)
        self._offsets.append(self._file.tell())
        self._file.write(record)

    def _finish(self) -> None:
        if not self._labels:
            raise ValueError(f"{self.folder}: no image was written")
        if self.header:
            self._write_ranges()
        write_index(self._index_path, Index(np.arange(len(self._offsets)), np.frombuffer(self._offsets, np.int64)))
        height, width = self.image_hw
        self._property_path.write_text(f"{max(self._labels) + 1},{height},{width}\n", encoding="ascii")
        self._file.flush()

    def _write_ranges(self) -> None:
        """The records of the identities, and what the header says of them."""
        labels = np.frombuffer(self._labels, np.int64)
        classes = np.arange(labels[-1] + 1)
        firsts, ends = np.searchsorted(labels, classes) + 1, np.searchsorted(labels, classes, side="right") + 1
        begin = len(self._offsets)
        for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
            self._append(pack_image((float(first), float(end)), len(self._offsets), b""))
        self._file.seek(0)
        self._file.write(frame_record(pack_image((float(begin), float(len(self._offsets))), 0, b"")))
