"""The authors' differentiable face aligner (CVLface), run from a checkout as it is. It needs scikit-image.

Weights are drawn from NumPy's RandomState, by their names and shapes, so that only outputs need be stored. Run as a
script, with CVLFACE_ROOT set, it writes what tests compare with where no checkout is at hand:
`python tests/parity/face_aligner.py`.
"""

import importlib.util
import json
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

STORED = Path(__file__).with_name("face_aligner.npz")
SEED = 4
STRIDE = 8  # of the pixels that are stored


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(f"parity_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


authors = _load(Path(__file__).parents[2] / "scripts" / "benchmark_face_aligner.py")
cvlface = _load(Path(__file__).with_name("cvlface.py"))


class Case(NamedTuple):
    """Images and what they are padded by; sides times the ratio are whole, which theirs relies on."""

    image_hw: tuple[int, int]
    padding_ratio: float

    def __str__(self) -> str:
        return f"{self.image_hw[0]}x{self.image_hw[1]}-{self.padding_ratio:g}"


CASES = [
    Case((160, 160), 0.0),
    Case((200, 200), 0.0),
    Case((120, 120), 0.1),
    Case((150, 100), 0.0),
    Case((91, 170), 0.1),
]
NAMES = ("images", "landmarks", "aligned_landmarks", "score", "boxes")


def images(case: Case) -> Tensor:
    """[2, 3, *image_hw] in [-1, 1], smooth and dark at the borders: steps would make much of the last digits of the
    landmarks."""
    y, x = np.mgrid[: case.image_hw[0], : case.image_hw[1]].astype(np.float64)
    fade = np.sin(np.pi * (x + 0.5) / case.image_hw[1]) * np.sin(np.pi * (y + 0.5) / case.image_hw[0])
    waves = [np.sin(x / (9 + i) + y / (21 - 2 * i) + i) * np.cos(y / (9 + i) - i) for i in range(6)]
    return torch.from_numpy((fade * (1 + np.stack(waves)) - 1).reshape(2, 3, *case.image_hw)).float()


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """By their names. The landmarks make a face of sorts; factors are such that they differ from image to image."""
    state = cvlface.numbers(shapes, SEED)
    for name, value in state.items():
        if "Head" in name and name.endswith("weight"):
            value *= 3
    holder = nn.Module()
    holder.state_dict = lambda: state
    authors.make_faces(holder)
    state["net.aggregator.3.weight"] *= 2
    return state


def outcome(root: Path, case: Case) -> tuple[dict[str, tuple[int, ...]], dict[str, Tensor | None]]:
    """Shapes of their weights, and outputs. None where theirs gives none: images that are not square."""
    aligner = authors.load_authors_aligner(root, case.padding_ratio)
    shapes = cvlface.shapes_of(aligner)
    aligner.load_state_dict(weights(shapes))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer scikit-images want another spelling
        aligned, landmarks, aligned_landmarks, score, _, boxes = aligner(images(case))
    if boxes is not None:
        # Theirs are fractions already when they are divided by the size, and not freed of the padding.
        boxes = (boxes * authors.SIDE - 0.5) * (1 + 2 * case.padding_ratio) + 0.5
    return shapes, dict(zip(NAMES, (aligned, landmarks, aligned_landmarks, score[:, 0], boxes), strict=True))


if __name__ == "__main__":
    arrays = {}
    for one in CASES:
        found_shapes, found = outcome(Path(os.environ["CVLFACE_ROOT"]), one)
        found["images"] = found["images"][..., ::STRIDE, ::STRIDE]
        arrays |= {f"{one}/{name}": value.numpy() for name, value in found.items() if value is not None}
    arrays["shapes"] = np.frombuffer(json.dumps(found_shapes).encode(), np.uint8)
    np.savez_compressed(STORED, **arrays)
    print(f"{STORED}: {STORED.stat().st_size} bytes")
