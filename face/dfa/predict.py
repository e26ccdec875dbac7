"""Landmarks of decoded batches, from a face aligner; what the commands that use one have in common."""

import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from face.data.loading import DecodedBatch
from face.dfa.aligner import AlignedFaces, FaceAligner
from face.models.base import pixels_to_input

__all__ = ["choose_device", "differences", "find_landmarks", "weights_checksum"]


def find_landmarks(
    aligner: FaceAligner, batch: DecodedBatch, device: torch.device | str
) -> Iterator[tuple[np.ndarray, AlignedFaces]]:
    """What an aligner, on `device`, finds in a batch: for the images of each size their places in it, and the faces."""
    for group in batch.groups:
        with torch.inference_mode():
            found = aligner(pixels_to_input(torch.as_tensor(group.pixels), device))
        yield group.places, found


def weights_checksum(module: nn.Module) -> int:
    """CRC-32 of all weights and buffers that are saved: networks of different weights differ in it."""
    checksum = 0
    for name, value in sorted(module.state_dict().items()):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(content.tobytes(), zlib.crc32(name.encode(), checksum))
    return checksum


def differences(mine: Mapping[str, object], other: Mapping[str, object]) -> str:
    """In which entries what a run was begun with is another than what is asked for now; empty if in none."""
    return ", ".join(
        f"{key} {other.get(key)} (here {mine.get(key)})" for key in {**mine, **other} if other.get(key) != mine.get(key)
    )


def choose_device(name: str | None) -> torch.device:
    """The device of a name; None: a GPU if there is one.

    Raises:
        ValueError: no such device, or it is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device
