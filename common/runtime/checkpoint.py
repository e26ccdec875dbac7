"""Checkpoints: written whole or not at all, read without running what is in them, restored with a full account.

File names are OpenGait's (`<save_name>-00008.pt`, the iteration in at least five digits), so that a checkpoint
written by one runtime is found by the other.
Deliberate differences from OpenGait: a kill or a full disk in mid-save leaves the earlier file as it was; a file is
read with `weights_only=True`, so pickled objects of strangers are refused; and a state that does not fit is reported
completely, before any tensor of the module has changed.
"""

import contextlib
import os
import pickle
import re
import struct
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "CheckpointError",
    "RestoreReport",
    "checkpoint_path",
    "checkpoints_after",
    "latest_checkpoint",
    "load_checkpoint",
    "load_weights",
    "restore_weights",
    "save_checkpoint",
]

# What torch.load raises on bytes that are no checkpoint: pickle opcodes met by chance can raise most of these, and
# an archive without its last bytes an OSError.
_UNREADABLE = (
    RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error,
)  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint is damaged, is refused, or does not fit the module that it is meant for."""


def checkpoint_path(folder: str | Path, save_name: str, iteration: int) -> Path:
    """Where the checkpoint of an iteration lies: `folder/<save_name>-00008.pt`.

    Raises:
        ValueError: negative iteration.
    """
    if iteration < 0:
        raise ValueError(f"iteration must be >= 0, got {iteration}")
    return Path(folder) / f"{save_name}-{iteration:05d}.pt"


def latest_checkpoint(folder: str | Path, save_name: str) -> Path | None:
    """The checkpoint of `save_name` with the largest iteration in `folder`; None where there is none."""
    found = checkpoints_after(folder, save_name, -1)
    return found[-1] if found else None


def checkpoints_after(folder: str | Path, save_name: str, iteration: int) -> list[Path]:
    """The checkpoints of `save_name` of later iterations than this one, in their order."""
    name = re.compile(re.escape(save_name) + r"-(\d{5,})\.pt")
    found = {int(m[1]): path for path in Path(folder).glob("*.pt") if (m := name.fullmatch(path.name))}
    return [found[number] for number in sorted(found) if number > iteration]


def save_checkpoint(path: str | Path, contents: Mapping[str, Any]) -> None:
    """Write a checkpoint so that at every moment `path` is either the old file or the whole new one.

    The bytes go to a temporary file beside `path`, are forced to disk, read back for what they hold, and renamed.
    What killed runs left behind of the same checkpoint is removed; one process at a time writes a given `path`.

    Args:
        path: the file to write; missing folders are made.
        contents: tensors and plain values, nested in dicts and lists, such as state dicts.

    Raises:
        CheckpointError: `contents` holds something that `load_checkpoint` would refuse. `path` is untouched.
        OSError: the disk is full, the folder not writable. `path` is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = time.time_ns()
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{begun}.tmp")
    try:
        try:
            with temporary.open("wb") as stream:
                torch.save(dict(contents), stream)
                stream.flush()
                os.fsync(stream.fileno())
        except RuntimeError as error:  # torch's word for a file that it cannot write on
            reason = str(error.__context__ or error).strip().splitlines()[0]
            raise OSError(f"{path}: cannot be written ({reason}); is the disk full?") from error
        except OSError as error:
            raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error
        _read(temporary, "cpu", shown=path, mmap=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    _remove_leftovers(path, begun)


def load_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint of this project or of OpenGait.

    Raises:
        FileNotFoundError: no such file; the checkpoints beside it are listed.
        CheckpointError: damaged or cut short, not a dict, or holding Python objects other than tensors and plain
            values: those could run code, and are refused.
    """
    path = Path(path)
    if not path.exists():
        beside = sorted(other.name for other in path.parent.glob("*.pt"))
        shown = ", ".join(beside[-10:]) + (f" and {len(beside) - 10} earlier" if len(beside) > 10 else "")
        raise FileNotFoundError(f"{path}: no such checkpoint; beside it: {shown or 'no .pt file'}")
    damaged = _damaged_entries(path)
    if damaged:
        raise CheckpointError(f"{path}: damaged, the checksum of {damaged[0]} is wrong")
    return _read(path, map_location)


@dataclass(frozen=True, kw_only=True)
class RestoreReport:
    """What `load_weights` did with each entry; names are the module's, after prefixes and renames."""

    source: str
    """What the state was called, such as its file name."""

    restored: tuple[str, ...]
    """Entries that the module now has."""

    missing: tuple[str, ...]
    """Entries of the module that the state lacks."""

    unexpected: tuple[str, ...]
    """Entries of the state that the module lacks."""

    mismatched: tuple[str, ...]
    """`name: expected [shape], found [shape]` for entries of both that differ in shape."""

    @property
    def differs(self) -> bool:
        """Whether the two sides have entries that the other lacks or has in another shape."""
        return bool(self.missing or self.unexpected or self.mismatched)

    def differences(self) -> list[str]:
        """Lines that list them."""
        return self._listed("missing", "unexpected", "mismatched")

    def _listed(self, *titles: str) -> list[str]:
        lines = []
        for title in titles:
            entries = getattr(self, title)
            if entries:
                lines.append(f"  {title} ({len(entries)}):")
                lines += [f"    {entry}" for entry in entries]
        return lines

    def __str__(self) -> str:
        lines = [f"{self.source}: restored {len(self.restored)} entries"]
        if self.differs:
            lines += [*self._listed("restored"), *self.differences()]
        return "\n".join(lines)


def load_weights(
    module: nn.Module,
    state_dict: Mapping[str, Any],
    *,
    strict: bool,
    source: str,
    translate: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> RestoreReport:
    """Copy a state dict into a module, after checking all of it.

    Args:
        module: not wrapped in DistributedDataParallel.
        state_dict: names to tensors; left as it is. A `module.` prefix that every name has is dropped.
        strict: every entry of either side must be in the other, with the same shape. Otherwise what agrees in
            name and shape is restored and the rest reported.
        source: what errors and the report call the state, such as its file name.
        translate: renames entries of older or foreign checkpoints: gets a copy of the state dict without the
            prefix, returns the one to compare. Hooks of `load_state_dict` see only entries that already fit.

    Raises:
        CheckpointError: strict, and the two differ (all differences are listed); or nothing at all fits. The
            module is unchanged.
    """
    found = _without_ddp_prefix(dict(state_dict), module)
    if translate is not None:
        found = translate(found)
    expected = module.state_dict()
    shared = [name for name in expected if name in found]
    clashes = {name: text for name in shared if (text := _mismatch(expected[name], found[name]))}
    report = RestoreReport(
        source=source,
        restored=tuple(name for name in shared if name not in clashes),
        missing=tuple(name for name in expected if name not in found),
        unexpected=tuple(name for name in found if name not in expected),
        mismatched=tuple(f"{name}: {text}" for name, text in clashes.items()),
    )
    if (strict and report.differs) or (expected and not report.restored):
        reason = "does not fit the model" if strict else "holds nothing that fits the model"
        raise CheckpointError("\n".join([f"{source}: {reason}; nothing was restored", *report.differences()]))
    module.load_state_dict({name: found[name] for name in report.restored}, strict=False)
    return report


def restore_weights(
    module: nn.Module,
    path: str | Path,
    *,
    strict: bool,
    translate: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> tuple[dict[str, Any], RestoreReport]:
    """Read a checkpoint and copy what it has under `model` into a module.

    Args:
        module, strict, translate: as for `load_weights`.
        path: as for `load_checkpoint`.

    Returns:
        All that the checkpoint holds (on the CPU), and what was and was not restored.

    Raises:
        FileNotFoundError, CheckpointError: see those two; or a checkpoint without `model`.
    """
    checkpoint = load_checkpoint(path)
    state = checkpoint.get("model")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: a checkpoint needs the key 'model', found {sorted(map(str, checkpoint))}")
    return checkpoint, load_weights(module, state, strict=strict, source=str(path), translate=translate)


def _read(path: Path, map_location: Any, shown: Path | None = None, mmap: bool = False) -> dict[str, Any]:
    name = shown or path
    try:
        # mmap walks the structure without reading the tensors
        contents = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        if culprit is None and not zipfile.is_zipfile(path):
            raise CheckpointError(f"{name}: not a PyTorch checkpoint, or damaged") from error
        what = f" ({culprit[1]})" if culprit else ""
        raise CheckpointError(
            f"{name}: refused, it holds arbitrary Python objects{what}; only tensors and plain values are read"
        ) from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{name}: a folder, not a checkpoint") from error
    except _UNREADABLE as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise CheckpointError(f"{name}: cannot be read (damaged, cut short?): {lines[0][:200]}") from error
    if not isinstance(contents, dict):
        raise CheckpointError(f"{name}: expected a dict, found {type(contents).__name__}")
    return contents


def _damaged_entries(path: Path) -> list[str]:
    """Archive entries whose checksum is wrong, which torch.load does not look at.

    A file whose checksums are all wrong was written without them (`torch.serialization.set_crc32_options`).
    """
    if not zipfile.is_zipfile(path):
        return []
    damaged = []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            try:
                with archive.open(entry) as stream:
                    while stream.read(1 << 20):
                        pass
            except zipfile.BadZipFile:
                damaged.append(entry.filename)
        return damaged if len(damaged) < len(archive.infolist()) else []


def _remove_leftovers(path: Path, begun: int) -> None:
    leftover = re.compile(re.escape(path.name) + r"\.\d+-\d+\.tmp")
    for other in path.parent.iterdir():
        if leftover.fullmatch(other.name):
            with contextlib.suppress(FileNotFoundError):
                if other.stat().st_mtime_ns < begun:
                    other.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut; other systems than POSIX cannot open folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _without_ddp_prefix(state: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    prefix = "module."
    own = any(name.startswith(prefix) for name in module.state_dict())
    if own or not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _mismatch(expected: Any, found: Any) -> str:
    if not isinstance(expected, Tensor):  # extra state of a module: anything goes
        return ""
    if not isinstance(found, Tensor):
        return f"expected {list(expected.shape)}, found {type(found).__name__}"
    return "" if expected.shape == found.shape else f"expected {list(expected.shape)}, found {list(found.shape)}"
