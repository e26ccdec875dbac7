"""The images of an evaluation set, decoded when they are asked for: files of a folder, or bytes in memory.

Both have the interface of `face.data.ImageSource`, but for labels. `image_landmarks` finds landmarks of theirs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from face.data.images import decode_image
from face.data.landmarks import Landmarks, read_landmarks

__all__ = ["EncodedImages", "FolderImages", "ImageList", "image_landmarks"]


class ImageList(Protocol):
    """Images by their number."""

    @property
    def root(self) -> Path:
        """The folder that names are relative to."""
        ...

    def __len__(self) -> int: ...

    def key_of(self, index: int) -> str:
        """What tables of landmarks call an image."""
        ...

    def name_of(self, index: int) -> str:
        """What messages call it."""
        ...

    def read_bytes(self, index: int) -> bytes:
        """The encoded image."""
        ...

    def read(self, index: int) -> np.ndarray:
        """uint8 [h, w, 3] RGB.

        Raises:
            ImageError: it does not decode; it is named.
        """
        ...


class FolderImages:
    """Files of a folder.

    Args:
        root: the folder.
        names: of the files relative to it, with slashes.
        listed_in: the file that names them, for messages.

    Raises:
        ValueError: files that are not there; how many, and the first of them.
    """

    def __init__(self, root: Path, names: Sequence[str], listed_in: Path) -> None:
        self.root = root
        self.names = tuple(names)
        missing = [name for name in self.names if not (root / name).is_file()]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise ValueError(f"{listed_in}: {len(missing)} of {len(names)} images are not in {root}, first: {shown}")

    def __len__(self) -> int:
        return len(self.names)

    def key_of(self, index: int) -> str:
        return self.names[index]

    def name_of(self, index: int) -> str:
        return self.names[index]

    def read_bytes(self, index: int) -> bytes:
        return (self.root / self.names[index]).read_bytes()

    def read(self, index: int) -> np.ndarray:
        return decode_image(self.read_bytes(index), str(self.root / self.names[index]))


class EncodedImages:
    """Encoded images of one file.

    Args:
        path: of the file.
        images: encoded.
        positions: of each image in the file.
    """

    def __init__(self, path: Path, images: Sequence[bytes], positions: Sequence[int]) -> None:
        self.path = path
        self.root = path.parent
        self.positions = tuple(positions)
        self._images = list(images)

    def __len__(self) -> int:
        return len(self._images)

    def key_of(self, index: int) -> str:
        return str(self.positions[index])

    def name_of(self, index: int) -> str:
        return f"{self.path.name}, image {self.positions[index]}"

    def read_bytes(self, index: int) -> bytes:
        return self._images[index]

    def read(self, index: int) -> np.ndarray:
        return decode_image(self._images[index], f"{self.path}, image {self.positions[index]}")


def image_landmarks(path: Path | None, beside: Path, images: ImageList) -> Landmarks | None:
    """Landmarks of images from a table, such as `face.data.write_landmarks` writes.

    Args:
        path: of the table; None looks for the one that belongs beside the images.
        beside: the path of that one. Without such a file there are no landmarks.
        images: that the table is about; it may be about others too.

    Raises:
        FileNotFoundError: `path` is no file.
        ValueError: a damaged table (see `read_landmarks`), or one without any of these images.
    """
    if path is None:
        if not beside.exists():
            return None
        path = beside
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of landmarks")
    return read_landmarks(path, images, allow_extra=True)  # type: ignore[arg-type]  # labels are not read
