"""A DataLoader that raises what its dataset met, in this process and at once.

torch has a worker process wrap an error in its traceback, as text. The error that is raised from it then refers to the
loader's iterator, which is freed with the garbage, and waits for its processes as long as it may: ten seconds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Dataset

from common.runtime.workers import loader_processes

__all__ = ["make_loader"]


def make_loader(
    dataset: Dataset[Any],
    batches: Iterable[Sequence[Any]],
    num_workers: int,
    pin_memory: bool,
    collate: Callable[[Any], Any],
) -> DataLoader[Any]:
    """Batches in their order, loaded by `num_workers` processes; 0: by this one.

    Args:
        dataset: of samples. A ValueError or OSError of one is raised here, in the place of its batch.
        batches: keys of the samples of each batch, such as `EpochBatches`.
        num_workers, pin_memory: of the loader.
        collate: samples to a batch.
    """
    return _Loader(
        _ErrorsAsValues(dataset),
        batch_sampler=batches,  # type: ignore[arg-type]  # any iterable with a length does
        **loader_processes(num_workers),
        collate_fn=partial(_collated, collate),
        pin_memory=pin_memory,
        prefetch_factor=4 if num_workers else None,
    )


class _ErrorsAsValues(Dataset[Any]):
    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._dataset[key]
        except (ValueError, OSError) as error:
            return error


def _collated(collate: Callable[[Any], Any], samples: Sequence[Any]) -> Any:
    return next((sample for sample in samples if isinstance(sample, Exception)), None) or collate(samples)


class _Loader(DataLoader[Any]):
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        problem = None
        for batch in super().__iter__():
            if isinstance(batch, Exception):
                problem = batch
                break
            yield batch
        # Not in the loop: the error would keep the worker processes.
        if problem is not None:
            raise problem
