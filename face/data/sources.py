"""Where training images come from: one interface, and the choice between its implementations.

A source is picklable and may be shared by forked processes, so that data loaders' workers read by themselves.
"""

from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from face.data.folders import FolderSource
from face.data.records.index import INDEX_FILE, RECORD_FILE
from face.data.records.source import RecordSource

__all__ = ["ImageSource", "SourceView", "keep_identities", "open_source"]


class ImageSource(Protocol):
    """Labelled images by their index, 0 to n - 1."""

    root: Path
    """The folder that holds them."""
    labels: np.ndarray
    """int64 [n], from 0 to num_classes - 1."""
    num_classes: int

    def __len__(self) -> int: ...

    def key_of(self, index: int) -> str:
        """What tables call the image: the path below `root`, or the key of its record in decimals."""
        ...

    def name_of(self, index: int) -> str:
        """What messages call the image."""
        ...

    def read_bytes(self, index: int) -> bytes:
        """The encoded image."""
        ...

    def read(self, index: int) -> np.ndarray:
        """The image, uint8 [h, w, 3] RGB; ImageError if it does not decode."""
        ...


def open_source(path: str | Path) -> ImageSource:
    """A folder with `train.rec` as `RecordSource`, one with a folder for each identity as `FolderSource`.

    Args:
        path: the folder, or the file `train.rec` in it.

    Raises:
        FileNotFoundError: no such folder, or neither is there.
        ValueError: what there is, is damaged; see the two classes.
    """
    path = Path(path)
    if path.is_file() and path.name == RECORD_FILE:
        path = path.parent
    if path.is_file():
        raise FileNotFoundError(f"{path}: a file; expected the folder that holds {RECORD_FILE}, or folders of images")
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    if (path / RECORD_FILE).exists():
        return RecordSource(path)
    if (path / INDEX_FILE).exists():
        raise FileNotFoundError(f"{path}: has {INDEX_FILE} but no {RECORD_FILE}")
    if not any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir()):
        raise FileNotFoundError(f"{path}: neither {RECORD_FILE} nor a folder for each identity is there")
    return FolderSource(path)


class SourceView:
    """Some images of a source, with labels of their own.

    Args:
        source: what is looked at.
        indices: [n] whole numbers, each the index of an image there.

    The classes of `source` that have an image here are numbered anew, in their order.

    Raises:
        ValueError: no index, or one that the source does not have.
    """

    indices: np.ndarray
    """int64 [n]."""
    classes: np.ndarray
    """int64 [num_classes], the label in `source` of each class here."""

    def __init__(self, source: ImageSource, indices: np.ndarray) -> None:
        self.source, self.root = source, source.root
        self.indices = np.array(indices, np.int64)
        if self.indices.ndim != 1 or not len(self.indices):
            raise ValueError(f"indices must have shape [n] with n >= 1, got {list(self.indices.shape)}")
        if self.indices.min() < 0 or self.indices.max() >= len(source):
            raise ValueError(
                f"indices must be from 0 to {len(source) - 1}, got {self.indices.min()} to {self.indices.max()}"
            )
        self.classes, labels = np.unique(source.labels[self.indices], return_inverse=True)
        self.labels = labels.astype(np.int64)
        self.num_classes = len(self.classes)

    def __len__(self) -> int:
        return len(self.indices)

    def key_of(self, index: int) -> str:
        return self.source.key_of(self._inner(index))

    def name_of(self, index: int) -> str:
        return self.source.name_of(self._inner(index))

    def read_bytes(self, index: int) -> bytes:
        return self.source.read_bytes(self._inner(index))

    def read(self, index: int) -> np.ndarray:
        return self.source.read(self._inner(index))

    def _inner(self, index: int) -> int:
        if not 0 <= index < len(self.indices):
            raise IndexError(f"{self.root}: image {index} of {len(self.indices)}")
        return int(self.indices[index])


def keep_identities(
    source: ImageSource, min_images: int, fewer: Literal["keep", "drop", "error"] = "drop"
) -> ImageSource:
    """A source without the identities of which it has too few images.

    Args:
        source: the images.
        min_images: of an identity, >= 1. A class without any image has too few.
        fewer: what becomes of the others: "keep" them all and `source` as it is, "drop" them, or "error".

    Returns:
        `source` itself where nothing is left out, else a `SourceView`; the difference of `num_classes` and of lengths
        says what was left out.

    Raises:
        ValueError: `min_images` < 1, another word for `fewer`, "error" and there are such identities, or "drop" leaves
            none.
    """
    if min_images < 1:
        raise ValueError(f"min_images must be >= 1, got {min_images}")
    if fewer not in ("keep", "drop", "error"):
        raise ValueError(f"fewer must be keep, drop or error, got {fewer!r}")
    counts = np.bincount(source.labels, minlength=source.num_classes)
    few = np.flatnonzero(counts < min_images)
    if fewer == "keep" or not len(few):
        return source
    if fewer == "error":
        example = f"such as class {few[0]} with {counts[few[0]]}"
        raise ValueError(f"{source.root}: {len(few)} identities have fewer than {min_images} images, {example}")
    indices = np.flatnonzero(counts[source.labels] >= min_images)
    if not len(indices):
        raise ValueError(f"{source.root}: none of its {source.num_classes} identities has {min_images} images")
    return SourceView(source, indices)
