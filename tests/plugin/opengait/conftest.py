"""What OpenGait does, as recorded in the repository or by running a checkout now."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from plugin.runtime.runner import RunOptions, train
from plugin.runtime.settings import load_gait_settings

ROOT = Path(__file__).parents[3]


def _load(name: str) -> ModuleType:
    path = ROOT / "tests" / "parity" / f"{name}.py"
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


@pytest.fixture(scope="session")
def runs() -> ModuleType:
    """tests/parity/opengait_runs.py."""
    return _load("opengait_runs")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """A checkout of OpenGait."""
    if not os.environ.get("OPENGAIT_ROOT"):
        pytest.skip("set OPENGAIT_ROOT to an OpenGait checkout to run it")
    return Path(os.environ["OPENGAIT_ROOT"]).resolve()


@pytest.fixture(scope="session")
def data(runs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set of the recorded runs. Not to be changed."""
    folder = tmp_path_factory.mktemp("opengait")
    runs.write_data(folder)
    return folder


@pytest.fixture
def settings(runs, data, tmp_path):
    """The settings of a tiny run, by the name of its config."""

    def load(name, **changes):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(runs.tiny(name, data)))
        return load_gait_settings(path, changes)

    return load


@pytest.fixture(scope="session")
def live(runs, checkout, data, tmp_path_factory):
    """Everything that the checkout gives now, with checkpoints that the embedded runtime trained."""
    folder = tmp_path_factory.mktemp("live")
    torch.set_num_threads(1)
    arguments = []
    for name in runs.MODELS:
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(runs.tiny(name, data)))
        embedded = load_gait_settings(path)
        train(embedded, RunOptions(output=folder / "embedded"))
        place = folder / "embedded" / "tiny" / embedded.model_cfg.model / name / "checkpoints" / f"{name}-00003.pt"
        arguments += ["--checkpoint", f"{name}={place}"]
    before = tree(checkout)
    command = [sys.executable, str(ROOT / "tests" / "parity" / "opengait_runs.py"), str(checkout), str(data)]
    done = subprocess.run(
        [*command, str(folder / "out.npz"), *arguments], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert tree(checkout) == before
    with np.load(folder / "out.npz") as file:
        arrays = dict(file)
    return SimpleNamespace(arrays=arrays, embedded=folder / "embedded", opengait=data / "opengait-output")


@pytest.fixture(params=["stored", "live"])
def recorded(request, runs):
    """Arrays that OpenGait computed, stored or live."""
    if request.param == "live":
        return request.getfixturevalue("live").arrays
    with np.load(runs.STORED) as file:
        return dict(file)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a checkout with its size and time."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def environment() -> dict[str, str]:
    """For processes that run OpenGait."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
