"""What processes that share an evaluation tell each other: what one has met, and what the first has found."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from common.runtime.distribution import gather_lists, world_size

__all__ = ["in_first_process", "share_problem"]

T = TypeVar("T")


def share_problem(problem: Exception | None) -> None:
    """Raise in every process what one of them met: those that went on would wait for it. All must call this."""
    for found in gather_lists([problem]):
        if found is not None:
            raise found


def in_first_process(work: Callable[[], T]) -> T:
    """What a function gives, called in the first process alone; all must call this, and all get the result.

    Raises:
        ValueError, OSError: of the function, in every process.
    """
    results: list[T] = []
    problem: Exception | None = None
    if world_size() == 1 or dist.get_rank() == 0:
        try:
            results.append(work())
        except (ValueError, OSError) as error:
            problem = error
    share_problem(problem)
    (result,) = gather_lists(results)
    return result
