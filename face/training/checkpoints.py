"""The whole state of a run in files: one checkpoint, and a file beside it for each process's share of the classes.

The checkpoint is written last, so that it names shares which are there; all files are written whole or not at all.
Shares are cut anew where a run goes on with another number of processes (face/losses/class_shards.py).
"""

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.runtime.checkpoint import (
    CheckpointError,
    checkpoint_path,
    checkpoints_after,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from common.runtime.training_state import check_optimizer_state
from face.losses import PartialFC, load_class_shards, save_class_shards

__all__ = ["RunParts", "files_of", "prune_checkpoints", "restore_run", "save_run"]


@dataclass(kw_only=True)
class RunParts:
    """What is saved and restored."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    identity: Mapping[str, float]
    """What the order of the data follows from, by name: a run can only go on where it is the same."""

    classifier: PartialFC | None = None
    """Of recognition training; this process's share of the classes."""

    class_optimizer: torch.optim.Optimizer | None = None

    iteration: int = 0
    """Batches that were drawn: steps, skipped ones too."""

    best: float = float("-inf")
    """Best score of a test so far."""

    def modules(self) -> list[nn.Module]:
        """What is trained."""
        return [self.model] if self.classifier is None else [self.model, self.classifier]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Of the modules."""
        return [self.optimizer] if self.class_optimizer is None else [self.optimizer, self.class_optimizer]


def save_run(folder: Path, name: str, parts: RunParts, main_process: bool, wait: Any) -> Path:
    """Write the state of a run; every process calls it.

    Args:
        folder: of the checkpoints.
        name: of the run.
        parts: this process's.
        main_process: whether this process writes the checkpoint itself.
        wait: called with nothing; returns when all processes have called it.
    """
    path = checkpoint_path(folder, name, parts.iteration)
    shares: list[str] = []
    if parts.classifier is not None and parts.class_optimizer is not None:
        shares = save_class_shards(folder, path.stem, parts.classifier, parts.class_optimizer)
    wait()
    if main_process:
        contents = {
            "model": parts.model.state_dict(),
            "optimizer": parts.optimizer.state_dict(),
            "scaler": parts.scaler.state_dict(),
            "iteration": parts.iteration,
            "best": parts.best,
            "class_shares": shares,
            "identity": dict(parts.identity),
        }
        save_checkpoint(path, contents)
    wait()
    return path


def restore_run(path: Path, parts: RunParts) -> None:
    """Put the state of a run into the parts of one that goes on.

    Raises:
        FileNotFoundError: no such checkpoint, or a share of its classes is missing.
        CheckpointError: it is damaged, of another kind, or of another model, class count, data set, batch size or seed.
    """
    checkpoint = load_checkpoint(path)
    _check_kind(path, checkpoint)
    found, wanted = checkpoint["identity"], parts.identity
    differences = [
        f"{name}: {found.get(name)} there, {value} now" for name, value in wanted.items() if found.get(name) != value
    ]
    if differences:
        raise CheckpointError(
            f"{path}: this run cannot go on from it, its data would come in another order:\n  "
            + "\n  ".join(differences)
            + "\nTo train its weights further as a new run, set model.start_from"
        )
    load_weights(parts.model, checkpoint["model"], strict=True, source=str(path))
    groups = parts.optimizer.param_groups
    settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]
    try:
        check_optimizer_state(parts.optimizer, checkpoint["optimizer"])
        parts.optimizer.load_state_dict(checkpoint["optimizer"])
        # Settings are those of this run, for the network as for the classes, whose files hold none.
        for group, own in zip(parts.optimizer.param_groups, settings, strict=True):
            group.update(own)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path}: its optimizer does not fit: {error}") from error
    if checkpoint["scaler"] and parts.scaler.is_enabled():
        parts.scaler.load_state_dict(checkpoint["scaler"])
    if parts.classifier is not None and parts.class_optimizer is not None:
        load_class_shards(
            [path.parent / name for name in checkpoint["class_shares"]], parts.classifier, parts.class_optimizer
        )
    parts.iteration, parts.best = checkpoint["iteration"], checkpoint["best"]


def _check_kind(path: Path, checkpoint: Mapping[str, Any]) -> None:
    kinds = {
        "model": dict,
        "optimizer": dict,
        "scaler": dict,
        "iteration": int,
        "best": float,
        "class_shares": list,
        "identity": dict,
    }
    lacking = [name for name, kind in kinds.items() if not isinstance(checkpoint.get(name), kind)]
    if lacking:
        has = ", ".join(map(str, checkpoint))
        raise CheckpointError(f"{path}: no checkpoint of face.train, it lacks {', '.join(lacking)}; it has {has}")


def files_of(checkpoint: Path) -> list[Path]:
    """A checkpoint's files, the checkpoint itself first: to remove it, begin there."""
    return [checkpoint, *sorted(checkpoint.parent.glob(f"{glob.escape(checkpoint.stem)}-classes-*.pt"))]


def prune_checkpoints(folder: Path, name: str, keep: int) -> list[Path]:
    """Remove all checkpoints but the newest `keep`; 0 keeps all. Returns those that are gone."""
    old = checkpoints_after(folder, name, -1)[:-keep] if keep else []
    for checkpoint in old:
        for file in files_of(checkpoint):
            file.unlink()
    return old
