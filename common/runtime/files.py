"""Files and folders that are written whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file", "whole_folder", "write_bytes", "write_text"]


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A hidden temporary path in the folder of `path`, which takes that name when the block ends without an error.

    A reader meets the old file or the new one, never half of one; after an error nothing is left behind.

    Raises:
        OSError: the folder is missing or cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A hidden folder beside `path`, which takes that name when the block ends without an error.

    `path` must not exist then, or be an empty folder; missing folders above it are made. After an error there is
    nothing.

    Raises:
        OSError: it cannot be made, or does not get its name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) whole or not at all."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))  # names of files are bytes, and may be no UTF-8
