"""Images of any size in batches, decoded by loader processes: within a batch those of one size are one array.

Shape letters: B images of a batch, b of them of one size, h x w.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.runtime.workers import loader_processes

__all__ = ["DecodedBatch", "SizedImages", "load_batches"]

# Of one array, 16 million: photographs of 12 megapixels go one at a time, and crops of 112 by the thousand.
_MOST_PIXELS = 1 << 24


class SizedImages(NamedTuple):
    """Some images of a batch that have one size."""

    places: np.ndarray
    """[b] int64, in the batch."""

    pixels: Tensor | np.ndarray
    """[b, 3, h, w] uint8 RGB."""


class DecodedBatch(NamedTuple):
    """The images that were asked for."""

    indices: np.ndarray
    """[B] int64, what `read` was given."""

    groups: list[SizedImages]
    """All that could be read."""

    errors: dict[int, Exception]
    """By their place in the batch, the ValueError or OSError of those that could not be read."""


def load_batches(
    read: Callable[[int], np.ndarray],
    batches: Sequence[Sequence[int] | np.ndarray],
    num_workers: int = 0,
    pin_memory: bool = False,
) -> "DataLoader[DecodedBatch]":
    """Batches in their order.

    Args:
        read: from an index to uint8 [h, w, 3]; picklable.
        batches: indices of each.
        num_workers: processes that read; 0: this one does.
        pin_memory: for a GPU.
    """
    return DataLoader(
        _Images(read),
        batch_sampler=batches,  # type: ignore[arg-type]  # any sequence does
        collate_fn=_by_size,
        pin_memory=pin_memory,
        **loader_processes(num_workers),
    )


class _Images(Dataset):
    """Index and image, or the error in its place: a worker process would wrap it in its traceback."""

    def __init__(self, read: Callable[[int], np.ndarray]) -> None:
        self._read = read

    def __getitem__(self, index: int) -> tuple[int, np.ndarray | Exception]:
        try:
            return int(index), self._read(int(index))
        except (ValueError, OSError) as error:
            return int(index), error


def _by_size(items: list[tuple[int, np.ndarray | Exception]]) -> DecodedBatch:
    errors: dict[int, Exception] = {}
    sizes: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = defaultdict(list)
    for place, (_, image) in enumerate(items):
        if isinstance(image, Exception):
            errors[place] = image
        else:
            sizes[image.shape].append((place, image))
    groups = []
    for shape, members in sizes.items():
        most = max(1, _MOST_PIXELS // (shape[0] * shape[1]))
        for begin in range(0, len(members), most):
            places, images = zip(*members[begin : begin + most], strict=True)
            pixels = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
            groups.append(SizedImages(np.array(places), pixels))
    if len(groups) == 1:  # a tensor goes through shared memory, which needs a file handle: one a batch, not one a size
        groups = [group._replace(pixels=torch.from_numpy(group.pixels)) for group in groups]
    return DecodedBatch(np.array([index for index, _ in items], np.int64), groups, errors)
