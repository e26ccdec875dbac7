"""The folder of a training run: what an earlier run wrote there is kept, and whether it can be written at all."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from common.runtime.checkpoint import checkpoints_after
from common.runtime.files import whole_file

__all__ = ["claim_folder", "earlier_run", "set_aside"]


def earlier_run(folder: Path, save_name: str, iteration: int | None, parts: Sequence[str]) -> list[str]:
    """What an earlier run wrote into `folder` and a run that begins now would overwrite, or mistake for its own.

    Args:
        folder: of the run, with its checkpoints in checkpoints/.
        save_name: of the checkpoints.
        iteration: the one that the run goes on from, behind which checkpoints are in the way; None for a run from the
            start, which all is in the way of.
        parts: what a run from the start would write, below `folder`.
    """
    own = folder / "checkpoints"
    if iteration is None:
        return list(parts) if any(own.glob("*.pt")) else []
    return [f"checkpoints/{path.name}" for path in checkpoints_after(own, save_name, iteration)]


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
