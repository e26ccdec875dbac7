"""Files that are written whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file", "write_bytes", "write_text"]


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


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) whole or not at all."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))  # names of files are bytes, and may be no UTF-8
