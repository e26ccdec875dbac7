"""What processes that share an evaluation tell each other: what the first has found, or met."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from common.runtime.distribution import gather_lists, share_problem, world_size

__all__ = ["in_first_process"]

T = TypeVar("T")


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
