"""Loader processes outlive a stop signal to their group, but not the process that they load for."""

import os
import signal
import sys
import time

import pytest
from torch.utils.data import DataLoader

from common.runtime.workers import loader_processes

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


class Pids:
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return os.getpid()


def test_one_stop_signal_is_not_theirs():
    batches = iter(DataLoader(Pids(), batch_size=1, timeout=60, **loader_processes(1)))
    pid = int(next(batches))
    assert pid != os.getpid()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
        time.sleep(0.1)
        assert int(next(batches)) == pid


DYING = """
import cv2, numpy as np
from torch.utils.data import DataLoader
from common.runtime.workers import loader_processes
cv2.warpAffine(np.zeros((2000, 2000, 3), np.uint8), np.eye(2, 3), (2000, 2000))  # begins OpenCV's threads
class Images:
    def __len__(self):
        return 1000
    def __getitem__(self, index):
        return cv2.warpAffine(np.zeros((500, 500, 3), np.uint8), np.eye(2, 3), (500, 500))
batches = iter(DataLoader(Images(), **loader_processes(2)))
next(batches)
raise RuntimeError("out of memory")
"""


def test_a_process_that_dies_takes_them_along(start_program):
    """And a process whose OpenCV has begun threads can have loader processes at all."""
    program = start_program(sys.executable, "-c", DYING)
    _, err = program.finish()
    assert program.returncode == 1
    assert err.strip().endswith("RuntimeError: out of memory")  # and no word of theirs
