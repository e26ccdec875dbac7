"""Whether a folder holds the files of a benchmark's release: all that is missing is said at once."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["check_folder", "check_parts", "missing_parts"]

_ARROW = ("dataset_info.json", "metadata.pt")


def check_parts(folder: Path, parts: Sequence[str], layout: str) -> None:
    """Refuse a folder that lacks something.

    Args:
        folder: of the benchmark.
        parts: paths below it; those that end in "/" are folders.
        layout: what the benchmark is called.

    Raises:
        FileNotFoundError: there is no such folder, or parts are missing; all of them are named. CVLface's own data
            sets, which are not read, are recognised.
    """
    check_folder(folder, layout)
    missing = [part for part in parts if not _is_there(folder, part)]
    if missing:
        raise missing_parts(folder, missing, layout)


def check_folder(folder: Path, layout: str) -> None:
    """The same of the folder itself."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder, expected one with {layout}")


def missing_parts(folder: Path, missing: Sequence[str], layout: str) -> FileNotFoundError:
    """The error about parts that are missing."""
    arrow = any((folder / name).exists() for name in _ARROW)
    hint = "; it is a data set of CVLface's (Arrow files), which is not read: the release is" if arrow else ""
    return FileNotFoundError(f"{folder}: expected {layout}, not there: {', '.join(missing)}{hint}")


def _is_there(folder: Path, part: str) -> bool:
    return (folder / part).is_dir() if part.endswith("/") else (folder / part).is_file()
