"""Fixtures and skips shared by all tests."""

import pytest
import torch


@pytest.fixture
def rng() -> torch.Generator:
    """A freshly seeded generator, so that no test depends on the order of the others."""
    return torch.Generator().manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, none is present")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
