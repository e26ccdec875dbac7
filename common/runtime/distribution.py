"""What a run needs of its devices and processes: one Accelerate instance, and gathering with gradients.

CPU, one GPU, or several processes under `torchrun` are chosen by what is there (https://huggingface.co/docs/accelerate).
"""

import os
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

__all__ = [
    "Precision",
    "agree",
    "gather_lists",
    "gather_with_gradient",
    "leave_group",
    "make_accelerator",
    "mix_seed",
    "seed_everything",
    "share_buffers",
    "share_problem",
    "world_size",
]

T = TypeVar("T")


Precision = Literal["fp32", "bf16", "fp16"]


def make_accelerator(precision: Precision, find_unused_parameters: bool = False) -> Accelerator:
    """Devices and processes of this run.

    Args:
        precision: of what autocast covers; fp16 comes with loss scaling.
        find_unused_parameters: of DistributedDataParallel.

    Raises:
        ValueError: fp16 without a CUDA device.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("precision fp16 needs a CUDA device, none is present: use fp32 or bf16")
    # Accelerate keeps the precision of a process's first run, and refuses another one.
    AcceleratorState._reset_state()
    return Accelerator(
        # Left alone, it lets each process of a torchrun without CUDA train by itself.
        cpu="LOCAL_RANK" in os.environ and not torch.cuda.is_available(),
        mixed_precision="no" if precision == "fp32" else precision,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters)],
    )


def leave_group() -> None:
    """Leave the group of processes, at the end of a run that went well in all of them."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes share this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share_buffers(module: nn.Module) -> None:
    """Give every process the first one's buffers, as DistributedDataParallel does before a step of training."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def gather_with_gradient(x: Tensor) -> Tensor:
    """Concatenate [n, ...] of all processes along the first axis; the gradient flows to this process's part."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    parts[dist.get_rank()] = x
    return torch.cat(parts)


def gather_lists(items: list[T]) -> list[T]:
    """The lists of all processes, one behind the other, in every process."""
    if world_size() == 1:
        return items
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def share_problem(problem: Exception | None) -> None:
    """Raise in every process what one of them met: those that went on would wait for it. All must call this."""
    for found in gather_lists([problem]):
        if found is not None:
            raise found


def agree(flag: bool, device: torch.device) -> bool:
    """Whether any process raises the flag; the same answer in every process."""
    if world_size() == 1:
        return flag
    raised = torch.tensor([flag], dtype=torch.int32, device=device)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return bool(raised.item())


def mix_seed(*numbers: int) -> int:
    """One 63-bit seed of several non-negative numbers (run, iteration, process), well mixed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_everything(*numbers: int) -> None:
    """Seed torch (all devices) from several numbers.

    Everything random of an iteration follows from (run, iteration, process), so that a resumed run needs no saved
    generator states, and meets the same draws whatever the number of loader processes.
    """
    torch.manual_seed(mix_seed(*numbers))
