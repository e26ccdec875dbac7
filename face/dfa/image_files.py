"""Images that a command is given: a folder with all below it, a list, or one image; by their paths below a root."""

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np

from face.data.folders import IMAGE_SUFFIXES, natural_order
from face.data.images import decode_image

__all__ = ["ImageFiles", "open_images"]


class ImageFiles:
    """Files below a folder (of `face.data.ImageSource` what has to do with names and pixels).

    Args:
        root: the folder.
        names: n paths below it, with "/".
        whole: whether these are all images that there are below it.
    """

    def __init__(self, root: Path, names: list[str], whole: bool = False) -> None:
        self.root, self.names, self.whole = root, names, whole

    def __len__(self) -> int:
        return len(self.names)

    def key_of(self, index: int) -> str:
        """What tables call an image."""
        return self.names[index]

    def name_of(self, index: int) -> str:
        """What messages call it."""
        return self.names[index]

    def read_bytes(self, index: int) -> bytes:
        """The encoded image."""
        return (self.root / self.names[index]).read_bytes()

    def read(self, index: int) -> np.ndarray:
        """uint8 [h, w, 3] RGB; ImageError if it does not decode."""
        return decode_image(self.read_bytes(index), str(self.root / self.names[index]))


def open_images(path: str | Path) -> ImageFiles:
    """The images of a folder, of a list, or one image.

    Args:
        path: a folder, with all images below it but for hidden ones; an image; or a text file with a path a line, or
            a CSV file with a column `image`, where paths are relative to the list or absolute. The root is then the
            list's folder if they are all below it, else the innermost folder that has them all.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no images, or a list that names one twice or has no column `image`.
    """
    path = Path(path)
    if path.is_dir():
        names = _below(path)
        if not names:
            raise ValueError(f"{path}: no images ({', '.join(IMAGE_SUFFIXES)}) in it or below")
        return ImageFiles(path, names, whole=True)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFiles(path.parent, [path.name])
    return _listed(path)


def _below(root: Path) -> list[str]:
    """Folder by folder in natural order, links followed, each folder once."""
    names: list[str] = []
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        folders[:] = natural_order([name for name in folders if not name.startswith(".")])
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        images = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
        below = Path(folder).relative_to(root)
        names += [(below / name).as_posix() for name in natural_order(images)]
    return names


def _listed(path: Path) -> ImageFiles:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(file)
                if "image" not in (reader.fieldnames or []):
                    found = ",".join(reader.fieldnames or []) or "nothing"
                    raise ValueError(f"{path}: expected a header with the column image, found {found[:80]}")
                lines = [row["image"] for row in reader]
            else:
                lines = [line.strip() for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: neither a list (UTF-8 text) nor an image ({', '.join(IMAGE_SUFFIXES)})") from error
    # normpath, and no resolving: an image keeps the place where it is found, whatever a link leads to.
    folder = os.path.abspath(path.parent)
    images = [os.path.normpath(os.path.join(folder, line)) for line in lines if line]
    if not images:
        raise ValueError(f"{path}: names no images")
    (most, times) = Counter(images).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{path}: {len(images) - len(set(images))} image(s) come twice, such as {most}")
    outside = any(not image.startswith(os.path.join(folder, "")) for image in images)
    root = os.path.commonpath([os.path.dirname(image) for image in images]) if outside else folder
    return ImageFiles(Path(root), [Path(os.path.relpath(image, root)).as_posix() for image in images])
