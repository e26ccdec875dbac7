"""Which image is at which place of which batch: a function of seed, epoch and place alone.

So a resumed run meets the same batches, whatever the number of processes and of loader workers.
Source of repeated augmentation: Hoffer et al., "Augment your batch", CVPR 2020; as the authors' training code does it
(mk-minchul/CVLface@d3d09c9, `disable_repeat`): a place shows its neighbour's identity once more instead of an image of
its own, so that batches stay as large as they are.
Deliberate differences: the neighbour is that of the epoch's order, not that of what one loader worker happened to load.
Shape letters: n images, B images of a batch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

__all__ = ["EpochBatches", "SampleKey", "epoch_order"]


class SampleKey(NamedTuple):
    """An image in its place; augmentation draws from (seed, epoch, place)."""

    image: int
    epoch: int
    place: int


def epoch_order(
    labels: np.ndarray, seed: int, epoch: int, repeat_probability: float = 0.0, repeat_same_image: bool = False
) -> np.ndarray:
    """[n] indices of images in the order of an epoch: a permutation, some of it replaced by repeats.

    Args:
        labels: [n] class of each image.
        seed, epoch: what the order follows from.
        repeat_probability: of a place that is no repeat to be followed by one.
        repeat_same_image: a repeat is the image before it; else a random one of that image's class.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, epoch)))
    order = rng.permutation(len(labels))
    if not repeat_probability:
        return order
    drawn = rng.random(len(order)) < repeat_probability
    drawn[0] = False
    # A repeat is not repeated again: of every stretch of draws, the first, third, ... count.
    places = np.arange(len(order))
    last_clear = np.maximum.accumulate(np.where(drawn, -1, places))
    repeats = np.flatnonzero(drawn & ((places - last_clear) % 2 == 1))
    before = order[repeats - 1]
    if repeat_same_image:
        order[repeats] = before
        return order
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    first = np.cumsum(counts) - counts
    own = labels[before]
    order[repeats] = by_class[first[own] + (rng.random(len(repeats)) * counts[own]).astype(np.int64)]
    return order


class EpochBatches(Sampler[list[SampleKey]]):
    """This process's share of every batch, from one batch to another, epoch after epoch.

    An epoch has as many whole batches as fit; what is left over of its order is not seen in it. A batch is shared out
    so that all parts together are the same B images whatever the number of processes and of parts.

    Args:
        labels: [n] class of each image.
        batch_size: B, over all processes and parts.
        seed: of the run.
        first_batch, last_batch: first that is drawn, and the one before which to stop.
        rank, world: this process, and how many there are.
        parts: into how many a process's share is cut, one after the other (gradient accumulation).
        repeat_probability, repeat_same_image: as in `epoch_order`.

    Raises:
        ValueError: fewer images than one batch, or a batch that cannot be shared out evenly.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        first_batch: int,
        last_batch: int,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
        repeat_probability: float = 0.0,
        repeat_same_image: bool = False,
    ) -> None:
        if len(labels) < batch_size:
            raise ValueError(f"batch_size {batch_size} is more than the {len(labels)} images of the training set")
        if batch_size % (world * parts):
            raise ValueError(
                f"batch_size {batch_size} cannot be shared out over {world} process(es) x {parts} accumulated part(s)"
            )
        self._labels, self._batch_size, self._seed = labels, batch_size, seed
        self._first, self._last = first_batch, last_batch
        self._rank, self._world, self._parts = rank, world, parts
        self._repeats = (repeat_probability, repeat_same_image)

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches of an epoch."""
        return len(self._labels) // self._batch_size

    def __len__(self) -> int:
        return (self._last - self._first) * self._parts

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order, current = np.empty(0, np.int64), -1
        for batch in range(self._first, self._last):
            epoch, within = divmod(batch, self.batches_per_epoch)
            if epoch != current:
                order, current = epoch_order(self._labels, self._seed, epoch, *self._repeats), epoch
            first = within * self._batch_size
            for part in range(self._parts):
                start = part * self._world + self._rank
                places = range(first + start, first + self._batch_size, self._world * self._parts)
                yield [SampleKey(int(order[place]), epoch, place) for place in places]
