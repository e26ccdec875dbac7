"""A trained model away from its test set: loading it, and the embeddings of any sequences.

Frames go through the test transforms of the run's YAML, and batches through the very collation of a test, so that the
embeddings are those that a test would compare.
Shape letters: n sequences, c channels, p parts, T frames, L joints.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from common.rpe.stored import read_state
from common.runtime.checkpoint import checkpoint_path, load_weights
from common.runtime.progress import progress_bar
from common.runtime.settings import to_mapping
from plugin.embeddings import Embeddings
from plugin.runtime.batches import compute_embeddings
from plugin.runtime.data import Collate, Draw, GaitSequence, InferenceSampler, Loaded, make_loader
from plugin.runtime.host import MODELS
from plugin.runtime.settings import GaitSettings
from plugin.sequences import SequenceFolder
from plugin.transforms import PairedCompose

__all__ = [
    "embed_folders",
    "embed_sequences",
    "find_checkpoint",
    "load_model",
    "model_fingerprint",
    "pick_device",
]


def find_checkpoint(settings: GaitSettings, weights: Path | None, iteration: int | None, output: Path) -> Path:
    """The file of weights that is meant.

    Args:
        settings: of the run.
        weights: the file itself; None: that of `iteration` in the run's folder below `output`.
        iteration: see above.
        output: the folder of all runs.

    Raises:
        ValueError: neither a file nor an iteration.
    """
    if weights is not None:
        return weights
    if iteration is None:
        raise ValueError("give a checkpoint file or an iteration")
    evaluator = settings.evaluator_cfg
    return checkpoint_path(settings.run_folder(output, evaluator) / "checkpoints", evaluator.save_name, iteration)


def load_model(settings: GaitSettings, checkpoint: Path) -> nn.Module:
    """The model of a run, on the CPU, for inference.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, a damaged one, or one of another model.
    """
    state = read_state(checkpoint)
    model: Any = MODELS[settings.model_cfg.model](to_mapping(settings), False, None)
    load_weights(model, state, strict=True, source=str(checkpoint), translate=model.translate_checkpoint)
    return model.eval()


def model_fingerprint(settings: GaitSettings, model: nn.Module) -> str:
    """What embeddings depend on, beside the sequences: weights, model settings and test transforms, as one SHA-256."""
    evaluator = to_mapping(settings.evaluator_cfg)
    relevant = {
        "model_cfg": to_mapping(settings.model_cfg),
        "transform": evaluator["transform"],
        "frames_all_limit": evaluator["sampler"].get("frames_all_limit"),
    }
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().cpu().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def pick_device(name: str | None) -> torch.device:
    """The device of that name; None: a GPU if there is one, else the CPU.

    Raises:
        ValueError: no such kind of device, or no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


class _FolderDataset(Dataset[Loaded]):
    """Sequences as a test loads them."""

    def __init__(self, sequences: Sequence[SequenceFolder]) -> None:
        self._sequences = sequences

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, draw: Draw) -> Loaded:
        sequence = self._sequences[draw.sequence]
        silhouettes, keypoints = sequence.read()
        known = GaitSequence(
            label=sequence.label,
            type=sequence.type,
            view=sequence.view,
            paths=(sequence.folder,),
            frames=len(silhouettes),
            size_hw=(silhouettes.shape[1], silhouettes.shape[2]),
        )
        return Loaded(known, 0, [silhouettes, keypoints], draw.seed)


def embed_sequences(
    model: nn.Module, settings: GaitSettings, sequences: Sequence[SequenceFolder], device: torch.device
) -> np.ndarray:
    """Embeddings of sequences, as a test of the run computes them.

    Args:
        model: as `load_model` gives it; it is moved to the device.
        settings: of its run.
        sequences: at least one.
        device: where it runs; half precision (`evaluator_cfg.enable_float16`) on a GPU only.

    Returns:
        [n, c, p] float32, in the order of `sequences`.

    Raises:
        ValueError: a sequence that cannot be read or has no usable frame (named).
        FloatingPointError: embeddings with NaN or infinity (the sequences are named).
    """
    evaluator = settings.evaluator_cfg
    sampler = InferenceSampler(range(len(sequences)), evaluator.sampler.batch_size, seed=0)
    collate = Collate(evaluator.sampler, PairedCompose(evaluator.transform[0].trf_cfg))
    # The loader asks of a data set no more than what this one has.
    loader = make_loader(cast(Any, _FolderDataset(sequences)), sampler, collate, settings.data_cfg.num_workers)
    model.to(device).eval()
    bar = progress_bar(loader, desc="Embedding", unit="batch", leave=False)
    batches = compute_embeddings(model, bar, device, evaluator.enable_float16)
    embeddings = np.concatenate([found for _, found in batches])
    bad = np.nonzero(~np.isfinite(embeddings).all(axis=(1, 2)))[0]
    if len(bad):
        names = ", ".join(sequences[int(i)].name for i in bad[:5])
        raise FloatingPointError(f"{len(bad)} of {len(embeddings)} embeddings hold NaN or infinity, first: {names}")
    return embeddings


def embed_folders(
    model: nn.Module, settings: GaitSettings, sequences: Sequence[SequenceFolder], device: torch.device, data: Path
) -> Embeddings:
    """`embed_sequences` with names and the model's fingerprint; `data` is what places are told from.

    Raises:
        ValueError, FloatingPointError: as `embed_sequences`.
    """
    return Embeddings(
        embeddings=embed_sequences(model, settings, sequences, device),
        names=tuple(sequence.name for sequence in sequences),
        labels=tuple(sequence.label for sequence in sequences),
        types=tuple(sequence.type for sequence in sequences),
        views=tuple(sequence.view for sequence in sequences),
        folders=tuple(Path(os.path.relpath(sequence.folder, data)).as_posix() for sequence in sequences),
        fingerprint=model_fingerprint(settings, model),
        metric=settings.evaluator_cfg.metric,
    )
