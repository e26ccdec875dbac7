"""What a command line says of an error that a loader process met."""

import pytest
from torch.utils.data import DataLoader

from common.runtime.errors import error_text
from common.runtime.workers import loader_processes


class Broken:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise ValueError(f"image {index}: does not decode")


@pytest.mark.parametrize("processes", [0, 1])
def test_the_same_wherever_it_was_met(processes):
    with pytest.raises(ValueError, match="does not decode") as caught:
        list(DataLoader(Broken(), timeout=60 * processes, **loader_processes(processes)))
    assert error_text(caught.value) == "image 0: does not decode"
    # A loader that is freed with the garbage, in a cycle with its error, waits ten seconds for its processes.
    caught.value.with_traceback(None)
    del caught
