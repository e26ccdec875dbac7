"""Tasks in several processes, and an orderly end of them all on Ctrl-C and SIGTERM.

Both signals mostly reach a whole group of processes at once: the main process alone answers Ctrl-C, and on SIGTERM
it cleans up (worker processes just end), or the semaphores of the pool would be reported as leaked.
"""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from types import FrameType
from typing import Any, TypeVar

import cv2
import torch

__all__ = ["exit_code", "loader_processes", "sigterm_interrupts", "work_all"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def work_all(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Generator[Result, None, None]:
    """What `work` (picklable) returns for each task, in the order in which they are done.

    Close the generator to stop early: what is begun is finished, nothing more is begun. The same happens on
    KeyboardInterrupt or an error of `work`.

    Raises:
        BrokenProcessPool: a worker process died.
    """
    if workers == 1 or len(tasks) < 2:
        yield from map(work, tasks)
        return
    # "spawn": a fork would copy locks that OpenCV's and torch's threads may hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_start_worker)
    try:
        with _interrupts_held():
            futures = [pool.submit(work, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in here, as Ctrl-C does anyway. Only the main thread can have that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # launchers pass on what the group got already
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """128 + the signal's number, as shells have it: 143 after SIGTERM, 130 after Ctrl-C."""
    return 128 + int(signal.SIGTERM if signal.SIGTERM in interrupt.args else signal.SIGINT)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back for a moment. Processes started meanwhile never see it; this one does at the end."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # or the first worker would start it, which lifts the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def loader_processes(num_workers: int) -> dict[str, Any]:
    """Arguments of a DataLoader for so many loader processes; 0: this process loads.

    OpenCV's threads are switched off in this process. A forked process waits forever for those that this one has
    begun, and threads of one loader process would only get in the way of the others.
    """
    if num_workers:
        cv2.setNumThreads(1)
        atexit.unregister(_end_loader_processes)  # once, and before multiprocessing's own, which came first
        atexit.register(_end_loader_processes)
    return {"num_workers": num_workers, "worker_init_fn": _calm_loader_worker}


def _calm_loader_worker(_: int) -> None:
    """A stop signal goes to every process of the group; the training process decides what to do about it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def _end_loader_processes() -> None:
    """At the end of a process, multiprocessing sends a SIGTERM to those that are left, and would wait forever."""
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own handler makes an error of their death
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def _start_worker() -> None:
    """Ctrl-C is the main process's to handle; when that one dies, so does its worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)  # the processes share the cores already
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
