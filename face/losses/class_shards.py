"""Class weights in a file per process, to be read back by any number of processes.

Files are `<stem>-classes-00000-of-00004.pt`, one for each process that wrote. Each says which classes it has, and has
their weights, what the optimizer keeps for each (AdamW's and SGD's averages), and the margin's buffers. Settings of the
optimizer, such as its learning rate, are not in them.
Shape letters: C classes of a process, E channels of an embedding.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from common.runtime.checkpoint import load_checkpoint, load_weights, save_checkpoint
from common.runtime.distribution import world_size
from face.losses.partial_fc import PartialFC

__all__ = ["load_class_shards", "save_class_shards"]

_KEYS = {"num_classes", "num_features", "first_class", "weight", "optimizer", "margin"}


def save_class_shards(
    folder: str | Path, stem: str, partial_fc: PartialFC, optimizer: torch.optim.Optimizer | None = None
) -> list[str]:
    """Write this process's classes; every process must call it. All files are there when it returns.

    Args:
        folder: where to; made if missing.
        stem: how the names begin, such as that of the checkpoint that they belong to.
        partial_fc: whose weights and margin are written.
        optimizer: if given, what it keeps for `partial_fc.weight` is written too.

    Returns:
        Names of the files of all processes, without the folder.

    Raises:
        ValueError: the optimizer does not have the weight, or keeps something for it that cannot be cut by classes.
        OSError: see `common.runtime.checkpoint.save_checkpoint`.
    """
    weight = partial_fc.weight
    kept = None if optimizer is None else {"name": _name_of(optimizer), "kept": _kept_for(weight, optimizer)}
    names = [
        f"{stem}-classes-{process:05d}-of-{partial_fc.processes:05d}.pt" for process in range(partial_fc.processes)
    ]
    contents = {
        "num_classes": partial_fc.num_classes,
        "num_features": partial_fc.num_features,
        "first_class": partial_fc.first_class,
        "weight": weight.detach(),
        "optimizer": kept,
        "margin": partial_fc.margin.state_dict(),
    }
    save_checkpoint(Path(folder) / names[partial_fc.process], contents)
    if world_size() > 1:
        dist.barrier()
    return names


def load_class_shards(
    paths: Sequence[str | Path], partial_fc: PartialFC, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Read this process's classes from the files of any number of processes; nothing changes unless all of them fit.

    Args:
        paths: all files of one saving, in any order; one at a time is in memory.
        partial_fc: gets the weights and the margin's buffers.
        optimizer: if given, gets back what it kept for `partial_fc.weight`. What it has for other parameters stays.

    Raises:
        FileNotFoundError, CheckpointError: see `common.runtime.checkpoint.load_checkpoint`.
        ValueError: no files; a file that holds no class weights, or those of another number of classes or features; a
            class that is in no file or in several; no optimizer's state where one is to be read, that of another
            kind of optimizer, or another in one file than in another; another margin. It names the file, and what was
            expected and found.
    """
    weight = partial_fc.weight
    if optimizer is not None:
        _group_of(weight, optimizer)
    shards = sorted((_read(Path(path), partial_fc, optimizer) for path in paths), key=lambda s: s.first)
    _check_coverage(shards, partial_fc.num_classes)
    kept = _joined_state(shards) if optimizer is not None else {}
    # The margin's buffers are the same in all files, up to rounding on unlike devices: those of the first are taken.
    load_weights(partial_fc.margin, shards[0].margin, strict=True, source=f"{shards[0].path}: margin")
    with torch.no_grad():
        weight.copy_(torch.cat([shard.weight for shard in shards]))
    if optimizer is not None:
        on_device = {name: _placed(name, value, weight, optimizer) for name, value in kept.items()}
        if on_device:
            optimizer.state[weight] = on_device
        else:
            optimizer.state.pop(weight, None)


class _Shard(NamedTuple):
    """What a file has of the classes that this process wants, and all else in it."""

    path: Path
    first: int
    end: int
    weight: Tensor
    rows: dict[str, Tensor]
    shared: dict[str, Any]
    margin: dict[str, Any]


def _read(path: Path, partial_fc: PartialFC, optimizer: torch.optim.Optimizer | None) -> _Shard:
    contents = load_checkpoint(path)
    if not contents.keys() >= _KEYS or not isinstance(contents["weight"], Tensor):
        raise ValueError(
            f"{path}: expected class weights with the keys {sorted(_KEYS)}, found {sorted(map(str, contents))}"
        )
    for name in ("num_classes", "num_features"):
        expected, found = getattr(partial_fc, name), contents[name]
        if found != expected:
            raise ValueError(f"{path}: {name}: expected {expected}, found {found}")
    weight, first = contents["weight"], contents["first_class"]
    if weight.ndim != 2 or weight.shape[1] != partial_fc.num_features:
        raise ValueError(f"{path}: weight: expected [C, {partial_fc.num_features}], found {list(weight.shape)}")
    rows: dict[str, Tensor] = {}
    shared: dict[str, Any] = {}
    if optimizer is not None:
        saved = contents["optimizer"] or {"name": "none", "kept": {}}
        if saved["name"] != _name_of(optimizer):
            raise ValueError(f"{path}: optimizer: expected {_name_of(optimizer)}, found {saved['name']}")
        rows, shared = _split(saved["kept"], weight, str(path))
    end = first + len(weight)
    wanted = slice(max(partial_fc.first_class - first, 0), max(partial_fc.end_class - first, 0))
    # Clones, so that the file's own tensors can go.
    rows = {name: value[wanted].clone() for name, value in rows.items()}
    return _Shard(path, first, end, weight[wanted].clone(), rows, shared, contents["margin"])


def _check_coverage(shards: Sequence[_Shard], num_classes: int) -> None:
    if not shards:
        raise ValueError("expected the files of all classes, got no path")
    end = 0
    for shard in shards:
        if shard.first != end:
            raise ValueError(f"{shard.path}: expected classes from {end} on, found {shard.first} to {shard.end - 1}")
        end = shard.end
    if end != num_classes:
        raise ValueError(
            f"{shards[-1].path}: expected classes to {num_classes - 1} in the last file, found {shards[-1].first} to "
            f"{end - 1}"
        )


def _joined_state(shards: Sequence[_Shard]) -> dict[str, Any]:
    first = shards[0]
    for shard in shards[1:]:
        names, expected = sorted([*shard.rows, *shard.shared]), sorted([*first.rows, *first.shared])
        if names != expected:
            raise ValueError(f"{shard.path}: optimizer: expected {expected} as in {first.path}, found {names}")
        for name, value in first.shared.items():
            if not _equal(shard.shared[name], value):
                raise ValueError(
                    f"{shard.path}: optimizer.{name}: expected {value} as in {first.path}, found {shard.shared[name]}"
                )
    joined = {name: torch.cat([shard.rows[name] for shard in shards]) for name in first.rows}
    return {**first.shared, **joined}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and one == other


def _group_of(weight: Tensor, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    for group in optimizer.param_groups:
        if any(parameter is weight for parameter in group["params"]):
            return group
    raise ValueError(f"the optimizer ({_name_of(optimizer)}) does not have partial_fc.weight")


def _name_of(optimizer: torch.optim.Optimizer) -> str:
    return type(getattr(optimizer, "optimizer", optimizer)).__name__  # Accelerate wraps them


def _kept_for(weight: Tensor, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimizer keeps for the weight; nothing before its first step."""
    _group_of(weight, optimizer)
    kept = dict(optimizer.state[weight]) if weight in optimizer.state else {}
    _split(kept, weight, _name_of(optimizer))
    return kept


def _split(kept: Mapping[str, Any], weight: Tensor, source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What is kept for each class, shaped like the weight, and what is kept for all: numbers, such as `step`."""
    rows: dict[str, Tensor] = {}
    shared: dict[str, Any] = {}
    for name, value in kept.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            shared[name] = value
        elif value.shape == weight.shape:
            rows[name] = value
        else:
            raise ValueError(
                f"{source}: optimizer.{name}: expected the weight's shape {list(weight.shape)} or a number, "
                f"found {list(value.shape)}, which cannot be cut by classes"
            )
    return rows, shared


def _placed(name: str, value: Any, weight: Tensor, optimizer: torch.optim.Optimizer) -> Any:
    """Where an optimizer wants it: beside the weight, but torch's own have their step on the CPU if they can."""
    group = _group_of(weight, optimizer)
    if not isinstance(value, Tensor) or (name == "step" and not (group.get("capturable") or group.get("fused"))):
        return value
    return value.to(weight.device)
