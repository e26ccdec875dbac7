"""Images that a list names, out of folders of hundreds of thousands: the folders are listed once, no file is opened."""

import os
from collections.abc import Sequence
from pathlib import Path

from face.evaluation.images import FolderImages

__all__ = ["ListedImages", "files_in"]


def files_in(folder: Path) -> set[str]:
    """The names of the files in a folder, links to files among them; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


class ListedImages(FolderImages):
    """Files of a folder, as `FolderImages`, which asks the disk for each file by itself.

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
        listings: dict[str, set[str]] = {}
        missing = []
        for name in self.names:
            folder, _, file = name.rpartition("/")
            if folder not in listings:
                listings[folder] = files_in(root / folder)
            if file not in listings[folder]:
                missing.append(name)
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise ValueError(f"{listed_in}: {len(missing)} of {len(names)} images are not in {root}, first: {shown}")
