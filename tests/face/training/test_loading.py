"""Batches and errors of a dataset, wherever they are loaded."""

import gc
import multiprocessing

import pytest

from face.data import ImageError
from face.training.loading import make_loader


class Numbers:
    def __getitem__(self, key):
        if key == 5:
            raise ImageError("image 5: does not decode")
        if key == 8:
            raise RuntimeError("a fault of the program")
        return key


@pytest.mark.parametrize("processes", [0, 2])
def test_errors_come_in_their_place_and_leave_no_process(processes):
    gc.disable()  # what is left to it waits ten seconds for its processes
    try:
        loader = iter(make_loader(Numbers(), [[1, 2], [3, 4], [6, 5], [7]], processes, False, tuple))
        assert [next(loader), next(loader)] == [(1, 2), (3, 4)]
        with pytest.raises(ImageError) as caught:
            next(loader)
        assert str(caught.value) == "image 5: does not decode"
        assert not multiprocessing.active_children()
    finally:
        gc.enable()


def test_faults_keep_their_traceback():
    with pytest.raises(RuntimeError, match="a fault of the program"):
        list(make_loader(Numbers(), [[8]], 0, False, tuple))
