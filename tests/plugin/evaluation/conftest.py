"""OpenGait's evaluation, where a checkout is given, and the made-up test sets that its results are stored for."""

import importlib.util
import os
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

PARITY = Path(__file__).parents[2] / "parity" / "opengait_evaluation.py"


@pytest.fixture(scope="session")
def parity() -> types.ModuleType:
    """tests/parity/opengait_evaluation.py."""
    spec = importlib.util.spec_from_file_location("parity_opengait_evaluation", PARITY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def opengait(parity: types.ModuleType) -> Iterator[types.ModuleType]:
    """OpenGait's `evaluation.evaluator`, on the CPU."""
    root = os.environ.get("OPENGAIT_ROOT")
    if not root:
        pytest.skip("set OPENGAIT_ROOT to an OpenGait checkout to compare with its evaluation")
    with parity.opengait_evaluator(root) as evaluator:
        yield evaluator
