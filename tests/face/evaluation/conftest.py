"""Drawn images, folders and `.bin` files of them, and small networks to evaluate."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from face.evaluation.bins import write_bin

POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], dtype=np.float32)


def draw(person: int, photo: int, size_hw: tuple[int, int] = (12, 10)) -> np.ndarray:
    """uint8 RGB: a person's pattern of colours, with noise of each photo."""
    random = np.random.default_rng([person, photo])
    pattern = np.random.default_rng(person).integers(40, 216, (4, 4, 3))
    image = cv2.resize(pattern.astype(np.uint8), size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    return (image + random.integers(-20, 21, image.shape)).astype(np.uint8)


def encode(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


class Toy(nn.Module):
    """Pixels, keypoints and visibility to embeddings, through a layer that training and evaluation differ in."""

    def __init__(self, image_hw=(12, 10), needs_keypoints=False, features=6):
        super().__init__()
        self.image_hw = image_hw
        self.needs_keypoints = needs_keypoints
        self.calls = []
        generator = torch.Generator().manual_seed(0)
        pixels = 3 * image_hw[0] * image_hw[1]
        self.pixels = nn.Parameter(torch.randn(pixels, features, generator=generator) / pixels**0.5)
        self.points = nn.Parameter(torch.randn(10, features, generator=generator))
        self.norm = nn.BatchNorm1d(features)

    def forward(self, images, keypoints=None, visibility=None):
        self.calls.append((images, keypoints, visibility))
        out = images.flatten(1) @ self.pixels
        if keypoints is not None:
            seen = keypoints if visibility is None else keypoints * visibility[..., None]
            out = out + seen.flatten(1) @ self.points
        return self.norm(out)


@pytest.fixture
def toy():
    return Toy


@pytest.fixture
def pair_bin(tmp_path):
    """Pairs of both kinds in turn, of 12 persons; the first image of pair i is that of pair i + 12 again."""

    def make(name="toy.bin", pairs=24, size_hw=(12, 10)):
        images, same = [], []
        for pair in range(pairs):
            person = pair % 12
            other = person if pair % 2 == 0 else (person + 5) % 12
            images += [encode(draw(person, 0, size_hw)), encode(draw(other, 1 + pair, size_hw))]
            same.append(pair % 2 == 0)
        path = tmp_path / name
        write_bin(path, images, same)
        return path

    return make


@pytest.fixture
def photos(tmp_path):
    """A folder with `people` folders of `each` images."""

    def make(people=4, each=3, suffix=".png"):
        for person in range(people):
            folder = tmp_path / f"person{person}"
            folder.mkdir(exist_ok=True)
            for photo in range(1, each + 1):
                (folder / f"person{person}_{photo:04d}{suffix}").write_bytes(encode(draw(person, photo)))
        return tmp_path

    return make


@pytest.fixture
def points():
    return POINTS
