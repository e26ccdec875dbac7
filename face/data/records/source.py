"""A RecordIO folder (`train.rec`, `train.idx`, perhaps `property`) as a source of images, without MXNet.

Both conventions in use are read. insightface: record 0 holds no image but two labels [a, b]; images are the records
1 to a - 1, and the records from a on, about ranges of keys, are passed over. CVLface: every record is an image.
Deliberate difference: a record 0 with a list of labels and an image is an image, they take it for a header.
"""

import math
from pathlib import Path
from warnings import warn

import numpy as np

from face.data.images import decode_image
from face.data.records.format import RecordError, image_of, unpack_image
from face.data.records.index import INDEX_FILE, RECORD_FILE, Index, read_index
from face.data.records.labels import load_labels
from face.data.records.reading import RecordFile

__all__ = ["PROPERTY_FILE", "RecordSource"]

PROPERTY_FILE = "property"


class RecordSource:
    """The images of a RecordIO folder (the interface of face.data.sources.ImageSource).

    The labels of all records are read at once, from their heads, and kept in a file beside them.

    Args:
        folder: with `train.rec` and `train.idx`. `property` ("classes,height,width") is used if it is there.

    Raises:
        FileNotFoundError: no record file or no index.
        RecordError: the files do not fit each other, are cut off or damaged, or a label is not one of the property's
            classes. The images themselves are not looked at.
    """

    root: Path
    labels: np.ndarray
    """int64 [n], read-only."""
    num_classes: int
    """By `property`, or one more than the largest label."""
    image_hw: tuple[int, int] | None
    """By `property`, which nothing here depends on."""

    def __init__(self, folder: str | Path) -> None:
        self.root = Path(folder)
        path = self.root / INDEX_FILE
        if not (self.root / RECORD_FILE).is_file():
            raise FileNotFoundError(f"{self.root / RECORD_FILE}: no such file")
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file; face.data.rebuild_index({str(self.root)!r}) makes it from {RECORD_FILE}"
            )
        self._file = RecordFile(self.root / RECORD_FILE)
        self._path = str(self._file.path)
        index = read_index(path)
        self._check_end(index)
        reaches = index.reaches(self._file.size)
        images = _image_positions(index, self._read_header(index), path)
        self._keys, self._offsets = index.keys[images], index.offsets[images]
        self._reaches = np.minimum(reaches[images], 2**31 - 1).astype(np.int32)
        self.labels = load_labels(self._file, path, self._keys, self._offsets).astype(np.int64)
        self.labels.flags.writeable = False
        self.num_classes, self.image_hw = int(self.labels.max()) + 1, None
        if (self.root / PROPERTY_FILE).is_file():
            self._take_property(self.root / PROPERTY_FILE)

    def __len__(self) -> int:
        return len(self._keys)

    def key_of(self, index: int) -> str:
        """What tables call the image: the key of its record, in decimals."""
        return str(self._keys[self._within(index)])

    def name_of(self, index: int) -> str:
        """What messages call the image."""
        return f"{RECORD_FILE}, record {self.key_of(index)}"

    def read_bytes(self, index: int) -> bytes:
        """The encoded image.

        Raises:
            IndexError: no such image.
            RecordError: the file is cut off or has changed.
        """
        at = self._within(index)
        return image_of(self._file.read_record(int(self._offsets[at]), self._keys[at], int(self._reaches[at])))

    def read(self, index: int) -> np.ndarray:
        """The image, uint8 [h, w, 3] RGB.

        Raises:
            ImageError: it does not decode.
            IndexError, RecordError: see `read_bytes`.
        """
        return decode_image(self.read_bytes(index), f"{self._path}, record {self._keys[index]}")

    def _within(self, index: int) -> int:
        if not 0 <= index < len(self._keys):
            raise IndexError(f"{self._file.path}: image {index} of {len(self._keys)}")
        return index

    def _check_end(self, index: Index) -> None:
        """The last record that the index names is whole, and the last of the file."""
        last = int(index.offsets.argmax())
        offset, key = int(index.offsets[last]), int(index.keys[last])
        where = self._file.where(offset, key)
        if offset >= self._file.size:
            raise RecordError(
                f"{where}: {INDEX_FILE} names a place behind the end at {self._file.size}: is {RECORD_FILE} whole?"
            )
        end = offset + self._file.record_bytes(offset, key)
        if end < self._file.size:
            warn(
                f"{self._file.path}: {self._file.size - end} bytes follow the last record that {INDEX_FILE} names: is "
                f"{INDEX_FILE} whole?",
                stacklevel=3,
            )

    def _read_header(self, index: Index) -> tuple[float, ...] | None:
        """The labels of insightface's header record, None where there is none."""
        (position,) = index.positions_of(np.array([0]))
        if position < 0:
            return None
        offset = int(index.offsets[position])
        where = self._file.where(offset, 0)
        record = unpack_image(self._file.read_record(offset, 0), where)
        if not record.listed or record.image:
            return None
        if not (math.isfinite(record.labels[0]) and record.labels[0] >= 2 and record.labels[0].is_integer()):
            raise RecordError(
                f"{where}: the header's first label must be one more than the last image's key, got {record.labels[0]}"
            )
        return record.labels

    def _take_property(self, path: Path) -> None:
        line = path.read_text(encoding="utf-8", errors="replace").strip().partition("\n")[0]
        entries = line.split(",")
        if len(entries) != 3 or not all(entry.strip().isdecimal() for entry in entries):
            raise RecordError(f"{path}: expected num_classes,height,width, found {line[:60]!r}")
        self.num_classes, height, width = map(int, entries)
        self.image_hw = height, width
        if int(self.labels.max()) >= self.num_classes:
            at = int(self.labels.argmax())
            raise RecordError(
                f"{self._file.where(self._offsets[at], self._keys[at])}: label {self.labels[at]}, but "
                f"{path} has {self.num_classes} classes"
            )


def _image_positions(index: Index, header: tuple[float, ...] | None, path: Path) -> np.ndarray:
    """Where in the index the images stand."""
    if header is None:
        return np.arange(len(index.keys))
    count = int(header[0]) - 1
    if count > 4 * len(index.keys) + 1000:  # no set that has lost some lines, but a number out of nowhere
        raise RecordError(f"{path}: names {len(index.keys)} records, the header record counts {count} images")
    keys = np.arange(1, int(header[0]))
    positions = index.positions_of(keys)
    if (positions < 0).any():
        missing = keys[positions < 0]
        raise RecordError(
            f"{path}: lacks {len(missing)} of the {len(keys)} images that the header record counts, such as record "
            f"{missing[0]}: is it whole?"
        )
    return positions
