"""Fixtures and skips shared by all tests, and programs that no test waits for without a limit."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import cv2
import pytest
import torch
import torch.multiprocessing as mp

ROOT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # of pytest-xdist: such processes share the cores already
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, none is present")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def rng() -> torch.Generator:
    """A freshly seeded generator, so that no test depends on the order of the others."""
    return torch.Generator().manual_seed(0)


class Program:
    """A program in a session of its own. What it prints is read at once, so that it never waits for its reader."""

    def __init__(self, *command: object, cwd: Path = ROOT) -> None:
        self._process = subprocess.Popen(
            list(map(str, command)),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # It finds this project wherever it runs, and leaves cores to others.
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        self._printed: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._readers = [
            threading.Thread(target=self._read, args=(getattr(self._process, name), lines), daemon=True)
            for name, lines in self._printed.items()
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: IO[str], lines: list[str]) -> None:
        with stream:
            lines.extend(stream)

    def _text(self, name: str) -> str:
        return "".join(self._printed[name])

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def send(self, number: int, *, to_group: bool = False) -> None:
        """A signal, to the program alone or to all processes of its group."""
        (os.killpg if to_group else os.kill)(self._process.pid, number)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 100) -> None:
        """Until something is so; the test fails if the program ends before, or takes too long."""
        deadline = time.monotonic() + timeout
        while True:
            is_over = not any(reader.is_alive() for reader in self._readers)
            if condition():
                return
            if is_over or time.monotonic() > deadline:
                self._fail(f"what the test waits for has not come within {timeout} s")
            time.sleep(0.01)

    def wait_for_line(self, text: str, timeout: float = 100) -> None:
        """Until it prints a line with `text` to stdout; fails as `wait_until`."""
        self.wait_until(lambda: any(text in line for line in self._printed["stdout"]), timeout)

    def finish(self, timeout: float = 100) -> tuple[str, str]:
        """What it printed to stdout and stderr, once it and all processes that share them with it have ended."""
        deadline = time.monotonic() + timeout
        for reader in self._readers:
            reader.join(max(0.0, deadline - time.monotonic()))
        try:
            self._process.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._fail(f"has not ended within {timeout} s")
        if any(reader.is_alive() for reader in self._readers):
            self._fail(f"processes that it started have not ended within {timeout} s")
        return self._text("stdout"), self._text("stderr")

    def _fail(self, message: str) -> NoReturn:
        state = "running" if self.returncode is None else f"ended with {self.returncode}"
        self.end()
        shown = "\n".join(f"--- {name}:\n{self._text(name)}" for name in self._printed)
        pytest.fail(f"{' '.join(map(str, self._process.args))}\n{message} ({state})\n{shown}")

    def end(self) -> None:
        """Whatever it is doing."""
        if self.returncode is not None and not any(reader.is_alive() for reader in self._readers):
            return
        if self.returncode is None:
            # torchrun gives its processes sessions of their own, and ends them when it is asked to end.
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self.send(getattr(signal, "SIGKILL", signal.SIGTERM), to_group=True)
        self._process.wait(10)
        for reader in self._readers:
            reader.join(1)


@pytest.fixture
def start_program() -> Iterator[Callable[..., Program]]:
    """Start `COMMAND ARGUMENTS`, as `Program`; it does not outlive the test."""
    started: list[Program] = []

    def start(*command: object, **options: Any) -> Program:
        started.append(Program(*command, **options))
        return started[-1]

    yield start
    for program in started:
        program.end()


@pytest.fixture
def torchrun(start_program: Callable[..., Program]) -> Callable[..., Program]:
    """Start `torchrun ARGUMENTS`, such as "-m", "plugin", on the CPU."""

    def start(*arguments: object, processes: int = 2) -> Program:
        command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes)
        return start_program(*command, *arguments)

    return start


@pytest.fixture(scope="session")
def run_processes() -> Callable[..., None]:
    """Call a function in several processes: function(0, *arguments), function(1, *arguments), ..."""

    def run(function: Callable[..., None], arguments: tuple[Any, ...], count: int, timeout: float = 100) -> None:
        context = mp.spawn(function, args=arguments, nprocs=count, join=False)
        deadline = time.monotonic() + timeout
        while not context.join(timeout=1):  # raises the error of a process that ended with one
            if time.monotonic() > deadline:
                for process in context.processes:
                    process.kill()
                pytest.fail(f"{count} processes have not ended within {timeout} s")

    return run
