"""The folder of a training run: what an earlier run wrote there is kept, one run at a time writes, and it can write."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.runtime.checkpoint import checkpoints_after
from common.runtime.files import whole_file

__all__ = ["claim_folder", "earlier_run", "held_folder", "set_aside"]


def earlier_run(
    folder: Path, save_name: str, iteration: int | None, parts: Sequence[str], beside: Sequence[str] = ()
) -> list[str]:
    """What an earlier run wrote into `folder` and a run that begins now would overwrite, or mistake for its own.

    Args:
        folder: of the run, with its checkpoints in checkpoints/.
        save_name: of the checkpoints.
        iteration: the one that the run goes on from, behind which checkpoints are in the way; None for a run from the
            start, which all is in the way of.
        parts: what a run from the start would write, below `folder`, and is worth keeping.
        beside: what goes along with them, and is not worth keeping alone.
    """
    if iteration is None:
        worth = any(path.is_file() for part in parts for path in (folder / part).rglob("*"))
        return [*parts, *beside] if worth else []
    return [f"checkpoints/{path.name}" for path in checkpoints_after(folder / "checkpoints", save_name, iteration)]


def set_aside(folder: Path, names: Sequence[str]) -> Path | None:
    """Move what is there of `names` into a new folder beside `folder`, and return that; None for no names."""
    if not names:
        return None
    aside = folder.with_name(f"{folder.name}.{time.strftime('%Y-%m-%d-%H-%M-%S')}")
    while aside.exists():  # runs of less than a second
        aside = aside.with_name(f"{aside.name}-again")
    for name in names:
        if (folder / name).exists():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / name, aside / name)
    return aside


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; made if missing.

    The hold ends with the process, however that ends. Where files cannot be locked (Windows, some network drives),
    nothing is held.

    Raises:
        ValueError: another run holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder}: another run writes to it; wait for it, or choose another name") from error
        except OSError:
            pass  # a drive that knows no locks
        yield


def claim_folder(folder: Path) -> None:
    """Find out now, and not at the first checkpoint, that none can be written.

    Raises:
        ValueError: the folder of checkpoints cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / ".writable") as partial:
            partial.touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise ValueError(f"--output: checkpoints cannot be written to {folder}: {error.strerror}") from error
