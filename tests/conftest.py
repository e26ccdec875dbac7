"""Fixtures and skips shared by all tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def rng() -> torch.Generator:
    """A freshly seeded generator, so that no test depends on the order of the others."""
    return torch.Generator().manual_seed(0)


class Torchrun:
    """Programs of this project under torchrun, on the CPU."""

    def start(self, *arguments: object, processes: int = 2) -> "subprocess.Popen[str]":
        """Start `torchrun ARGUMENTS`, such as "-m", "plugin"."""
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    def finish(self, process: "subprocess.Popen[str]", timeout: float = 120) -> tuple[str, str]:
        """Wait for it; what it wrote to stdout and stderr."""
        try:
            return process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # torchrun gives its processes sessions of their own, and ends them when it is asked to end
            process.terminate()
            out, err = process.communicate(timeout=60)
            pytest.fail(f"still running after {timeout} s:\n{out}\n{err}")


@pytest.fixture
def torchrun() -> Torchrun:
    """torchrun on the CPU."""
    return Torchrun()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, none is present")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
