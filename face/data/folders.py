"""A folder for each identity with its images, as a source of images.

    root/<identity>/<image>.jpg      or      root/<identity>/<subfolder>/<image>.jpg

Identities and images are in natural order (img2 before img10); the label is an identity's place in it. Hidden files and
folders, and files that are no images by their suffix, are passed over.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from face.data.images import decode_image

__all__ = ["IMAGE_SUFFIXES", "FolderSource", "natural_order"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_DIGITS_ALIKE = str.maketrans("123456789", "000000000")
_split_digits = re.compile(r"([0-9]+)").split


def natural_order(names: list[str]) -> list[str]:
    """Sorted, numbers within names by their value; equal ones ("1", "01") by their characters."""
    if len({name.translate(_DIGITS_ALIKE) for name in names}) <= 1:
        return sorted(names)  # numbers of equal width at the same places: the quick way leads to the same order
    return sorted(names, key=_natural_key)


def _natural_key(name: str) -> tuple[list[str | int], str]:
    parts: list[str | int] = list(_split_digits(name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


class FolderSource:
    """The images below a folder with a subfolder for each identity (the interface of face.data.sources.ImageSource).

    Names are kept in one block of bytes: millions of them stay small, and shared by forked processes.

    Args:
        root: the folder.

    Raises:
        FileNotFoundError: no such folder.
        OSError: a folder that cannot be listed.
        ValueError: no identities, identities without images, folders deeper than shown above.
    """

    root: Path
    labels: np.ndarray
    """int64 [n], read-only."""
    num_classes: int
    identities: tuple[str, ...]
    """The names of the folders, by label."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._prefix = os.path.join(self.root, "")
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder")
        self.identities = tuple(natural_order(_listing(self.root)[0]))
        if not self.identities:
            raise ValueError(f"{self.root}: has no folders, expected one for each identity with its images")
        names = bytearray()
        ends: list[int] = [0]
        counts: list[int] = []
        for identity in self.identities:
            before = len(ends)
            for name in _images_of(self.root, identity):
                names += os.fsencode(name)
                ends.append(len(names))
            counts.append(len(ends) - before)
        _check_counts(self.root, self.identities, counts)
        self._names, self._ends = bytes(names), np.array(ends, np.int64)
        self.num_classes = len(self.identities)
        self.labels = np.repeat(np.arange(self.num_classes), counts)
        self.labels.flags.writeable = False

    def __len__(self) -> int:
        return len(self.labels)

    def key_of(self, index: int) -> str:
        """What tables call the image: its path below the root, with "/"."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.root}: image {index} of {len(self)}")
        return os.fsdecode(self._names[self._ends[index] : self._ends[index + 1]])

    def name_of(self, index: int) -> str:
        """What messages call the image: the same."""
        return self.key_of(index)

    def read_bytes(self, index: int) -> bytes:
        """The encoded image.

        Raises:
            IndexError: no such image.
            OSError: the file is gone or cannot be read.
        """
        with open(self._path_of(index), "rb", buffering=0) as file:
            return file.read()

    def read(self, index: int) -> np.ndarray:
        """The image, uint8 [h, w, 3] RGB.

        Raises:
            ImageError: it does not decode.
            IndexError, OSError: see `read_bytes`.
        """
        return decode_image(self.read_bytes(index), self._path_of(index))

    def _path_of(self, index: int) -> str:
        return f"{self._prefix}{self.key_of(index)}"


def _listing(folder: str | Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the images in one folder."""
    folders, images = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.is_dir():
                images.append(entry.name)
            elif entry.is_dir():
                folders.append(entry.name)
    return folders, images


def _images_of(root: Path, identity: str) -> Iterator[str]:
    """Paths below the root, those right in the identity's folder first."""
    folders, images = _listing(os.path.join(root, identity))
    for image in natural_order(images):
        yield f"{identity}/{image}"
    for folder in natural_order(folders):
        deeper, images = _listing(os.path.join(root, identity, folder))
        if deeper:
            raise ValueError(
                f"{root / identity / folder / deeper[0]}: too deep, images are in identity/ or identity/subfolder/"
            )
        for image in natural_order(images):
            yield f"{identity}/{folder}/{image}"


def _check_counts(root: Path, identities: tuple[str, ...], counts: list[int]) -> None:
    suffixes = ", ".join(IMAGE_SUFFIXES)
    empty = [identity for identity, count in zip(identities, counts, strict=True) if not count]
    if len(empty) == len(identities):
        raise ValueError(f"{root}: no images ({suffixes}) in its {len(empty)} folder(s)")
    if empty:
        shown = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        raise ValueError(f"{root}: {len(empty)} identity folder(s) without images ({suffixes}): {shown}")
