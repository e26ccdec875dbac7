"""A tiny prepared data set, and a config small enough that an iteration takes a few hundredths of a second."""

import importlib.util
import json
import os
import shutil
import sys
import types
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from common.runtime.arrays import save_array
from common.runtime.settings import merge
from plugin.runtime.settings import GaitSettings, load_gait_settings

ROOT = Path(__file__).parents[2]
TRAIN, TEST = ["0001", "0002", "0003", "0004", "0005"], ["0006", "0007", "0008"]
SEQUENCES = [("camid0_videoid1", "seq0"), ("camid0_videoid1", "seq1"), ("camid1_videoid2", "seq0")]

TINY: dict[str, Any] = {
    "data_cfg": {"dataset_name": "tiny", "num_workers": 0},
    "evaluator_cfg": {"save_name": "tiny", "restore_hint": 4},
    "model_cfg": {
        "backbone_cfg": {
            "channels": [4, 8],
            "layers": [1, 1, 2, 1],
            "feature_size": [12, 20],
            "embed_dim": 8,
            "num_heads": [2, 4],
        },
        "SeparateFCs": {"in_channels": 16, "out_channels": 8, "parts_num": 7},
        "SeparateBNNecks": {"in_channels": 8, "class_num": 5, "parts_num": 7},
        "bin_num": [6],
    },
    "scheduler_cfg": {"T_0": 4},
    "trainer_cfg": {
        "save_name": "tiny",
        "total_iter": 4,
        "save_iter": 100,
        "log_iter": 2,
        "sampler": {"batch_size": [4, 2], "frames_num_fixed": 3},
    },
}


def blobs(subject: int, frames: int, rng: np.random.Generator, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Silhouettes [T, 64, width] uint8 and keypoints [T, 17, 3] in their pixels; wider with each subject."""
    y, x = np.mgrid[:64, :width]
    centres = width / 2 + rng.uniform(-3, 3, frames)
    widths = 4 + 1.5 * subject + rng.uniform(-0.5, 0.5, frames)
    inside = ((x - centres[:, None, None]) / widths[:, None, None]) ** 2 + ((y - 32) / 30) ** 2 < 1
    joints = np.empty((frames, 17, 3), np.float32)
    joints[..., 0] = centres[:, None] + rng.uniform(-3, 3, (frames, 17))
    joints[..., 1] = np.linspace(4, 60, 17)
    joints[..., 2] = rng.uniform(0.5, 1, (frames, 17))
    return inside.astype(np.uint8) * 255, joints


@dataclass(frozen=True)
class Prepared:
    """Folders of a prepared data set."""

    root: Path
    partition: Path

    def folder(self, label: str, sequence: tuple[str, str] = SEQUENCES[0]) -> Path:
        return self.root / label / sequence[0] / sequence[1]

    def silhouettes(self, label: str, sequence: tuple[str, str] = SEQUENCES[0]) -> Path:
        return self.folder(label, sequence) / "0-silhouettes.pkl"

    def keypoints(self, label: str, sequence: tuple[str, str] = SEQUENCES[0]) -> Path:
        return self.folder(label, sequence) / "1-keypoints.pkl"

    def write_partition(self, **changes: Any) -> None:
        probes = [f"{label}-{SEQUENCES[0][0]}-{SEQUENCES[0][1]}" for label in TEST]
        content = {"TRAIN_SET": TRAIN, "TEST_SET": TEST, "PROBE_SET": probes} | changes
        self.partition.write_text(json.dumps(content))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Eight subjects with three sequences of 5 to 13 frames; five are for training. Not to be changed."""
    top = tmp_path_factory.mktemp("prepared")
    data = Prepared(top / "paired", top / "partition.json")
    rng = np.random.default_rng(0)
    for number, label in enumerate(TRAIN + TEST):
        for sequence in SEQUENCES:
            silhouettes, keypoints = blobs(number, int(rng.integers(5, 14)), rng)
            data.folder(label, sequence).mkdir(parents=True)
            save_array(data.silhouettes(label, sequence), silhouettes)
            save_array(data.keypoints(label, sequence), keypoints)
    data.write_partition()
    return data


@pytest.fixture
def own_data(prepared: Prepared, tmp_path: Path) -> Prepared:
    """A copy of the data set that a test may spoil."""
    data = Prepared(tmp_path / "own", tmp_path / "own.json")
    shutil.copytree(prepared.root, data.root)
    data.write_partition()
    return data


class Config:
    """The tiny config as a file, and as settings with changes."""

    def __init__(self, folder: Path, data: Prepared) -> None:
        self.folder, self.data = folder, data

    def mapping(self, changes: dict[str, Any] | None = None, base: str = "swingait2d_kprpe") -> dict[str, Any]:
        demo = yaml.safe_load((ROOT / "configs" / "demo" / f"{base}.yaml").read_text())
        paths = {"dataset_root": str(self.data.root), "dataset_partition": str(self.data.partition)}
        return merge(merge(merge(demo, TINY), {"data_cfg": paths}), changes or {})

    def file(self, changes: dict[str, Any] | None = None, base: str = "swingait2d_kprpe") -> Path:
        path = self.folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(self.mapping(changes, base)))
        return path

    def settings(self, changes: dict[str, Any] | None = None, base: str = "swingait2d_kprpe") -> GaitSettings:
        return load_gait_settings(self.file(changes, base))


@pytest.fixture
def config(tmp_path: Path, prepared: Prepared) -> Config:
    """The tiny config of the KP-RPE model on the tiny data set."""
    return Config(tmp_path, prepared)


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors, and sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def opengait(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """The heads and losses of an OpenGait checkout, loaded file by file; its package needs CUDA and a process group."""
    if not os.environ.get("OPENGAIT_ROOT"):
        pytest.skip("set OPENGAIT_ROOT to an OpenGait checkout to compare with it")
    source = Path(os.environ["OPENGAIT_ROOT"]) / "opengait" / "modeling"
    utils: Any = types.ModuleType("utils")
    utils.Odict = OrderedDict
    utils.ddp_all_gather = lambda features, **_: features
    utils.is_list_or_tuple = lambda x: isinstance(x, list | tuple)
    utils.clones = lambda module, count: torch.nn.ModuleList(type(module)(module.num_features) for _ in range(count))
    monkeypatch.setitem(sys.modules, "utils", utils)
    if importlib.util.find_spec("torchvision") is None:
        operations: Any = types.ModuleType("torchvision.ops")
        operations.RoIAlign = None
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.ops", operations)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)

    def load(name: str, path: Path) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    package: Any = types.ModuleType("opengait_losses")
    package.__path__ = [str(source / "losses")]
    monkeypatch.setitem(sys.modules, "opengait_losses", package)
    load("opengait_losses.base", source / "losses" / "base.py")
    return types.SimpleNamespace(
        modules=load("opengait_modules", source / "modules.py"),
        TripletLoss=load("opengait_losses.triplet", source / "losses" / "triplet.py").TripletLoss,
        CrossEntropyLoss=load("opengait_losses.ce", source / "losses" / "ce.py").CrossEntropyLoss,
    )
