"""Measuring models against each other: time in interleaved rounds, memory of tensors, multiply-adds.

Times mean something within one run alone. Every round runs each candidate once, one after the other, and ratios are
formed round by round, so that what else the machine does falls on all of them alike.
"""

import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from common.runtime.progress import progress_bar

__all__ = [
    "MEASURES",
    "Candidate",
    "Memory",
    "environment",
    "growth",
    "kept_for_backward",
    "measure",
    "multiply_adds",
    "ratios",
    "spread",
    "tensor_memory",
    "time_rounds",
]

Step = Callable[[], object]
MEASURES = ("inference", "training", "memory")


def environment(device: str) -> dict[str, Any]:
    """What a measurement depends on: the processor, torch's threads, versions."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes of one or more values."""
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    return {name: float(value) for name, value in zip(names, np.quantile(values, (0, 0.25, 0.5, 0.75, 1)), strict=True)}


def ratios(times: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Spread of the ratios of two candidates' times, each formed within one round."""
    return spread([time / other for time, other in zip(times, base, strict=True)])


def time_rounds(
    steps: Mapping[str, Step],
    rounds: int,
    device: str = "cpu",
    least_seconds: float = 0.0,
    title: str = "rounds",
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Run all steps in turn, again and again.

    Args:
        steps: by name. What one returns is dropped outside the measured time.
        rounds: how many count.
        device: waited for before and after a measurement if it is a GPU.
        least_seconds: a measurement calls its step as often as the fastest one needs to last so long (as the warm-up
            has it), for steps that are too quick for the clock.
        title: of the progress bar.
        warm_up: whether a round that does not count comes first. Without it a step is called once a measurement.

    Returns:
        For each step, seconds a call in each round.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    calls = 1
    for turn in progress_bar(range(-1 if warm_up else 0, rounds), desc=title):
        for name, step in steps.items():
            times[name].append(_seconds(step, calls, device))
        if turn < 0:
            calls = max(1, math.ceil(least_seconds / min(first for (first,) in times.values())))
            times = {name: [] for name in steps}
    return times


def _seconds(step: Step, calls: int, device: str) -> float:
    _wait(device)
    begun = time.perf_counter()
    for _ in range(calls):
        result = step()
    _wait(device)
    elapsed = time.perf_counter() - begun
    del result
    return elapsed / calls


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


class Memory(NamedTuple):
    """Bytes of tensors that a step allocated; what was there before it does not count."""

    peak: int
    """The most at one time."""

    held: int
    """What its result keeps alive."""


def tensor_memory(step: Step, device: str = "cpu") -> Memory:
    """What a step takes from torch's allocator: exact and repeatable, unlike the size of the process."""
    return _memory_on_gpu(step, device) if torch.device(device).type == "cuda" else _memory_on_cpu(step)


def _memory_on_gpu(step: Step, device: str) -> Memory:
    step()  # libraries take their workspaces on the first call
    _wait(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    result = step()
    _wait(device)
    held = torch.cuda.memory_allocated(device) - before
    del result
    return Memory(torch.cuda.max_memory_allocated(device) - before, held)


def _memory_on_cpu(step: Step) -> Memory:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it writes to stderr, between the progress bars
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = step()
    del result
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    alive: dict[int, int] = {}
    total = peak = 0
    for change in sorted(changes, key=lambda event: event["ts"]):
        address, size = change["args"]["Addr"], change["args"]["Bytes"]
        if size > 0:
            alive[address] = size
            total += size
        else:
            total -= alive.pop(address, 0)  # not there: allocated before the step
        peak = max(peak, total)
    return Memory(peak, total)


def kept_for_backward(forward: Step) -> int:
    """Bytes that autograd keeps after a forward pass: every storage once, however many views of it are kept.

    Weights and constants are among them; the growth with the batch is what a batch costs.
    """
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself, an output would hold the node that holds it, for ever

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = forward()  # alive until the end, so that no address is used twice
    del result
    return sum(storages.values())


def growth(measure: Callable[[int], int], batch: int = 2) -> float:
    """What one more image adds to a measure of the batch: its difference between 2 b and b images, over b."""
    return (measure(2 * batch) - measure(batch)) / batch


def multiply_adds(forward: Step) -> int:
    """Multiply-adds of matrix products and convolutions in a forward pass without gradients, attention's included."""
    # Not every release of torch knows the cost of every fused attention, nor that of products added in place.
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: _product_flops})
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        forward()
    return counter.get_total_flops() // 2


def _product_flops(_: Sequence[int], left: Sequence[int], right: Sequence[int], **__: object) -> int:
    return 2 * math.prod(left) * right[-1]


class Candidate:
    """A model, its inputs, and the two steps that are timed.

    Args:
        model: in the mode of each measurement (evaluation, training) when that is taken.
        inputs: from a number of images to the model's arguments.
        batch: images of a step.
        dtype: other than float32, the model runs under autocast to it.
    """

    def __init__(
        self, model: nn.Module, inputs: Callable[[int], tuple[Any, ...]], batch: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.model = model.eval()
        self.inputs = inputs
        self.batch = batch
        self.parameters = list(model.parameters())
        self._dtype = dtype
        self._arguments = inputs(batch)
        with torch.no_grad():
            one = self.forward(*inputs(1))
        self._upstream = one.new_empty(batch, *one.shape[1:]).normal_()

    def forward(self, *arguments: Any) -> Tensor:
        device = self.parameters[0].device.type
        with torch.autocast(device, self._dtype, enabled=self._dtype != torch.float32):
            return self.model(*arguments)

    def infer(self) -> Tensor:
        """Forward, without gradients."""
        with torch.no_grad():
            return self.forward(*self._arguments)

    def train(self) -> tuple[Tensor, ...]:
        """Forward, and backward from a given gradient of the output to all weights: no loss, no optimizer."""
        return torch.autograd.grad(self.forward(*self._arguments), self.parameters, self._upstream)


def measure(
    candidates: Mapping[str, Candidate],
    base: Mapping[str, str],
    what: Sequence[str],
    rounds: int,
    device: str = "cpu",
    title: str = "",
) -> dict[str, dict[str, Any]]:
    """One row a candidate.

    Args:
        candidates: by name, all on one device.
        base: for each, the candidate that its times are divided by.
        what: some of MEASURES.
        rounds: see `time_rounds`.
        device: of the models.
        title: of the progress bars.

    Returns:
        For each candidate `parameters`; `multiply_adds` of one image; and, of what was asked for, `memory` in bytes,
        `inference` and `training` with seconds a step, images a second (at the median) and `time_over_<base>`.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, candidate in candidates.items():
        rows[name] = {
            "parameters": sum(parameter.numel() for parameter in candidate.parameters),
            "multiply_adds": multiply_adds(partial(candidate.model.eval(), *candidate.inputs(1))),
        }
        if "memory" in what:
            rows[name]["memory"] = _memory(candidate, device)
    for mode in ("inference", "training"):
        if mode not in what:
            continue
        steps: dict[str, Step] = {}
        for name, candidate in candidates.items():
            candidate.model.train(mode == "training")
            steps[name] = candidate.train if mode == "training" else candidate.infer
        on_gpu = torch.device(device).type == "cuda"
        warm_up = on_gpu or "memory" not in what  # measuring memory has run every step once
        times = time_rounds(steps, rounds, device, 0.2 if on_gpu else 0.0, f"{title}, {mode}", warm_up)
        for name, measured in times.items():
            seconds = spread(measured)
            rows[name][mode] = {
                "seconds": seconds,
                "images_per_second": candidates[name].batch / seconds["median"],
                f"time_over_{base[name]}": ratios(measured, times[base[name]]),
                "rounds": measured,
            }
    return rows


def _memory(candidate: Candidate, device: str) -> dict[str, float]:
    candidate.model.eval()
    inference = tensor_memory(candidate.infer, device).peak
    candidate.model.train()
    training = tensor_memory(candidate.train, device).peak
    kept = growth(lambda batch: kept_for_backward(partial(candidate.forward, *candidate.inputs(batch))))
    return {"inference_peak": inference, "training_peak": training, "kept_for_backward_per_image": kept}
