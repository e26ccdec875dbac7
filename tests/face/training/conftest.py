"""A training set of a few coloured squares, a test set of others, and settings of a network that trains in no time."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from torch import nn

from common.runtime.settings import build_settings, merge
from face.data import write_landmarks
from face.models import registry
from face.models.base import FaceModel
from face.reference import reference_landmarks
from face.training.settings import TrainSettings

SIZE = 32
IDENTITIES, IMAGES = 6, 8


@dataclass(frozen=True, kw_only=True)
class PlainSettings:
    """No settings."""


class PlainModel(FaceModel):
    """A linear map: no batch norm, so that a batch is the sum of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.image_hw, self.num_features = (SIZE, SIZE), 8
        self.linear = nn.Linear(3 * 16, 8)

    def forward(self, images, keypoints=None, visibility=None):
        return self.linear(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1))


@pytest.fixture
def plain_model(monkeypatch) -> str:
    """The name of the plain model, for the time of a test."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    registry.register_model("plain", PlainSettings, lambda settings: PlainModel())
    return "plain"


def draw(rng: np.random.Generator, identity: int) -> np.ndarray:
    """A square in the identity's colour and size, somewhere, over noise."""
    image = rng.integers(60, 120, (SIZE, SIZE, 3), dtype=np.uint8)
    colour = np.random.default_rng(identity).integers(0, 255, 3).tolist()
    x, y = (int(value) for value in rng.integers(4, 12, 2))
    cv2.rectangle(image, (x, y), (x + 10 + identity % 3, y + 12), colour, -1)
    return image


def write_faces(root: Path, identities: range, images: int, seed: int) -> list[str]:
    """A folder for each identity, and landmarks.csv; returns the images' keys."""
    rng, keys = np.random.default_rng(seed), []
    for identity in identities:
        (root / f"id{identity}").mkdir(parents=True)
        for number in range(images):
            keys.append(f"id{identity}/{number}.png")
            cv2.imwrite(str(root / keys[-1]), draw(rng, identity)[..., ::-1])
    points = reference_landmarks(pixels=False) + rng.normal(0, 0.03, (len(keys), 5, 2))
    write_landmarks(root / "landmarks.csv", keys, points)
    return keys


@dataclass
class Config:
    """Settings of a tiny run, and where its files are."""

    folder: Path
    content: dict[str, Any]

    def settings(self, override: dict[str, Any] | None = None) -> TrainSettings:
        return build_settings(merge(self.content, override or {}), TrainSettings)

    def file(self, override: dict[str, Any] | None = None) -> Path:
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(merge(self.content, override or {})))
        return path

    @property
    def data(self) -> Path:
        return self.folder / "train"


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    """The images; tests do not change them."""
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder / "train", range(IDENTITIES), IMAGES, seed=0)
    keys = write_faces(folder / "test", range(10, 14), 6, seed=1)
    rng = np.random.default_rng(2)
    rows = []
    for number in range(20):
        same = number % 2
        first = rng.integers(4)
        second = first if same else (first + 1) % 4
        one, other = 6 * first + rng.integers(3), 6 * second + 3 + rng.integers(3)
        rows.append(f"{keys[one]},{keys[other]},{same}\n")
    (folder / "test" / "pairs.csv").write_text("image1,image2,same\n" + "".join(rows))
    return folder


TINY = {
    "name": "tiny",
    "model": {
        "name": "vit_tiny",
        "settings": {
            "image_hw": [SIZE, SIZE],
            "patch_hw": [8, 8],
            "embed_dim": 16,
            "depth": 2,
            "num_heads": 2,
            "mlp_ratio": 2.0,
            "num_features": 8,
            "position_bias": "kprpe",
        },
    },
    "data": {"landmarks": "landmarks.csv", "num_workers": 0},
    "loss": {"margin": {"type": "adaface", "scale": 16.0}},
    "optimizer": {"type": "AdamW", "lr": 3.0e-3},
    "schedule": {"epochs": 2, "warmup_epochs": 0.5},
    "trainer": {"batch_size": 8, "log_steps": 3, "save_epochs": 0.5, "keep_checkpoints": 0},
    "evaluation": {
        "num_workers": 0,
        "sets": [{"name": "pairs", "kind": "pairs", "path": "test"}],
    },
}


@pytest.fixture
def config(faces, tmp_path) -> Config:
    """A tiny run: 6 steps an epoch, 2 epochs."""
    content = copy.deepcopy(TINY)
    content["data"]["root"] = str(faces / "train")
    content["evaluation"]["sets"][0]["path"] = str(faces / "test")
    return Config(folder=tmp_path, content=content)
