"""The authors' DFA network (CVLface) run from a checkout from outside: nothing of it is changed, copied or installed.

Their packages import more than the network needs, so bare packages stand in for them. Weights and images are drawn from
NumPy's RandomState, whose numbers are frozen, so that only outputs need be stored.

Run as a script, with CVLFACE_ROOT set, it writes what tests compare with where no checkout is at hand:
`python tests/parity/dfa.py`.
"""

import importlib
import json
import math
import os
import sys
import types
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

STORED = Path(__file__).with_name("dfa.npz")
DFA = "cvlface/research/recognition/code/run_v1/aligners/differentiable_face_aligner/dfa"
SEED = 1


class Case(NamedTuple):
    """A network of theirs, and a batch for it."""

    body: str
    image_hw: tuple[int, int] = (160, 160)
    aggregator: bool = True
    batch: int = 2

    @property
    def name(self) -> str:
        return f"{self.body}-{self.image_hw[0]}x{self.image_hw[1]}" + ("" if self.aggregator else "-alone")


CASES = [
    Case("mobilenet0.25"),
    Case("mobilenet0.25", (96, 129)),  # theirs has its aggregator for 160 px alone; it is built for this size here
    Case("mobilenet0.25", aggregator=False),
    Case("resnet50", batch=1),
]


def module_of(root: Path, path: str) -> types.ModuleType:
    """A module inside their package of the network, such as models.retinaface."""
    for name in ("", ".models", ".layers", ".layers.functions"):
        package = types.ModuleType(f"cvlface_dfa{name}")
        package.__path__ = [str(root / DFA / name.replace(".", "/").lstrip("/"))]
        sys.modules.setdefault(package.__name__, package)
    with mock.patch.object(sys, "dont_write_bytecode", True):
        return importlib.import_module(f"cvlface_dfa.{path}")


class Theirs(nn.Module):
    """Their network and its anchors: images that are BGR to (box offsets, face probabilities, landmark offsets,
    aggregated)."""

    def __init__(self, root: Path, case: Case) -> None:
        super().__init__()
        retinaface, config = module_of(root, "models.retinaface"), module_of(root, "config")
        settings = config.cfg_mnet if case.body == "mobilenet0.25" else {**config.cfg_re50, "pretrain": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's, of their way to ask for no pretrained weights
            self.net = retinaface.RetinaFace(settings, phase="test", use_aggregator=case.aggregator)
        self.prior_box = module_of(root, "layers.functions.prior_box").PriorBox(case.image_hw)
        if case.aggregator and case.image_hw != (160, 160):
            blocks = [retinaface.mlp_mixer.MixerBlock(16, len(self.prior_box.priors)) for _ in range(3)]
            self.net.aggregator = nn.Sequential(*blocks, nn.Linear(16, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.net(images, self.prior_box)[:4]


def numbers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights and statistics for everything: activations of about 1, and anchors that count very differently."""
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
            continue
        value = np.random.RandomState([SEED, zlib.crc32(name.encode())]).standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            gain = 20.0 if name.endswith("aggregator.3.weight") else 1.4
            if "conv1x1" in name:  # of the heads: their outputs are offsets of about 1
                gain = 0.03 if shape[1] == 256 else 1.0
            value *= gain / math.sqrt(math.prod(shape[1:]))
        elif name.endswith(("weight", "running_var")):
            value = (0.25 if "bn3" in name else 1.0) * (1 + 0.3 * np.tanh(value))
        else:
            value *= 0.2
        state[name] = torch.from_numpy(value)
    return state


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of parameters and buffers."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def images_of(case: Case) -> Tensor:
    """[B, 3, *image_hw] in [-1, 1], RGB."""
    shape = (case.batch, 3, *case.image_hw)
    return torch.from_numpy(np.random.RandomState(5).uniform(-1, 1, shape).astype(np.float32))


def outcome(root: Path, case: Case, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Their weights, as the network has them, and their outputs: at some anchors, and aggregated with a gradient."""
    network = Theirs(root, case).eval()
    state = numbers(shapes_of(network.net))
    network.net.load_state_dict(state)
    network.to(dtype)
    images = images_of(case).to(dtype).requires_grad_()
    boxes, probabilities, landmarks, merged = network(images.flip(1))
    found = {"anchors": torch.cat([boxes, probabilities, landmarks], dim=-1)[:, ::7].detach()}
    if merged is not None:
        found["merged"] = merged.detach()
        found["gradient"] = torch.autograd.grad((merged * cotangent(merged)).sum(), images)[0].flatten()[::997]
    return state, found


def cotangent(merged: Tensor) -> Tensor:
    """What aggregated values [B, 16] are multiplied with to have gradients."""
    return torch.arange(16, dtype=merged.dtype).sub(7.5).cos()


def _store(root: Path) -> None:
    arrays, shapes = {}, {}
    for case in CASES:
        state, found = outcome(root, case)
        shapes[case.name] = {name: tuple(value.shape) for name, value in state.items()}
        arrays |= {f"{case.name}/{name}": value.numpy() for name, value in found.items()}
        arrays[f"{case.name}/priors"] = Theirs(root, case).prior_box.priors.numpy()[::7]
    np.savez_compressed(STORED, shapes=np.frombuffer(json.dumps(shapes).encode(), np.uint8), **arrays)


if __name__ == "__main__":
    _store(Path(os.environ["CVLFACE_ROOT"]))
    print(f"{STORED}: {STORED.stat().st_size} bytes")
