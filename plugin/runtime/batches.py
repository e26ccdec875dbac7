"""Batches on their way through a model: to its device, and to embeddings."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from plugin.runtime.data import Batch

__all__ = ["compute_embeddings", "to_device"]


def to_device(batch: Batch, device: torch.device) -> tuple[Any, ...]:
    """OpenGait's five inputs; the lengths of whole sequences stay on the CPU, where they are read."""
    streams = [stream.to(device, non_blocking=True) for stream in batch.streams]
    return streams, batch.labels.to(device, non_blocking=True), batch.types, batch.views, batch.lengths


@torch.no_grad()
def compute_embeddings(
    model: nn.Module, batches: Iterable[Batch], device: torch.device, half_precision: bool
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and embeddings [n, c, p] float32 of each batch, as a test compares them.

    Args:
        model: on the device, for inference.
        batches: whole sequences.
        device: where the model is.
        half_precision: float16 where the device is a GPU.
    """
    half = half_precision and device.type == "cuda"
    for batch in batches:
        with torch.autocast(device.type, torch.float16, enabled=half):
            embeddings = model(to_device(batch, device))["inference_feat"]["embeddings"]
        yield batch.names, embeddings.float().cpu().numpy()
