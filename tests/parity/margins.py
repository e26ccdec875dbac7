"""Margins and Partial FC of CVLface and insightface, run from checkouts from outside: nothing is changed or copied.

Their Partial FC insists on a process group and on CUDA: it gets a gloo group of one process, and its `cuda()` does
nothing. Inputs are drawn from NumPy's RandomState, whose numbers are frozen, so that only outputs need be stored.

Run as a script, with CVLFACE_ROOT and INSIGHTFACE_ROOT set, it writes what tests compare with where no checkout is at
hand: `python tests/parity/margins.py`.
"""

import contextlib
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

STORED = Path(__file__).with_name("margins.npz")
CVLFACE = "cvlface/research/recognition/code/run_v1"
INSIGHTFACE = "recognition/arcface_torch"
SCALE, ANGLE, COSINE, QUALITY, SHARE = 64.0, 0.5, 0.4, 0.333, 0.01
STEPS, ROWS, CLASSES, FEATURES = 4, 14, 9, 6


class Roots(NamedTuple):
    """Where the checkouts are."""

    cvlface: Path
    insightface: Path


class Case(NamedTuple):
    """A margin of one of them; the threshold is that of interclass filtering."""

    source: str
    margin: str
    threshold: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.source}-{self.margin}" + (f"-{self.threshold:g}" if self.threshold else "")


CASES = [
    *(
        Case(source, margin, threshold)
        for source in ("insightface", "cvlface")
        for margin in ("arcface", "cosface")
        for threshold in (0.0, 0.3)
    ),
    Case("cvlface", "adaface"),
    Case("cvlface", "adaface", 0.3),
]
PARTIAL_FC_CASES = [
    Case(source, margin) for source in ("insightface", "cvlface") for margin in ("cosface", "arcface")
] + [Case("cvlface", "adaface")]


# Loading


def _load(name: str, path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "dont_write_bytecode", True):
        spec.loader.exec_module(module)
    return module


def _modules(roots: Roots) -> dict[str, types.ModuleType]:
    insightface, cvlface = roots.insightface / INSIGHTFACE, roots.cvlface / CVLFACE
    margins = _load("losses.margin_loss", cvlface / "losses/margin_loss.py")
    adaface = _load("losses.adaface", cvlface / "losses/adaface.py")
    package = {"losses": types.ModuleType("losses"), "losses.margin_loss": margins, "losses.adaface": adaface}
    with mock.patch.dict(sys.modules, package):
        partial_fc = _load("cvlface_partial_fc", cvlface / "classifiers/partial_fc/partial_fc.py")
    return {
        "cvlface-margins": margins,
        "cvlface-adaface": adaface,
        "cvlface-partial-fc": partial_fc,
        "insightface-margins": _load("insightface_losses", insightface / "losses.py"),
        "insightface-partial-fc": _load("insightface_partial_fc", insightface / "partial_fc_v2.py"),
    }


def _margin(modules: dict[str, types.ModuleType], case: Case) -> Any:
    if case.margin == "adaface":
        return modules["cvlface-adaface"].AdaFaceLoss(SCALE, COSINE, QUALITY, SHARE, case.threshold)
    angle, cosine = (ANGLE, 0.0) if case.margin == "arcface" else (0.0, COSINE)
    return modules[f"{case.source}-margins"].CombinedMarginLoss(SCALE, 1.0, angle, cosine, case.threshold)


# Inputs


def _drawn(seed: int, draw: Callable[[np.random.RandomState], np.ndarray]) -> Tensor:
    return torch.from_numpy(draw(np.random.RandomState(seed)).astype(np.float32))


def cosines(step: int) -> Tensor:
    """[B, C] in [-1, 1]; the right class of the first rows is at -1, 1 and 0."""
    out = _drawn(step, lambda random: random.uniform(-1, 1, (ROWS, CLASSES)))
    for row, value in enumerate((-1.0, 1.0, 0.0)):
        out[row, labels(step)[row]] = value
    return out


def labels(step: int) -> Tensor:
    """[B], three of them -1."""
    out = np.random.RandomState(100 + step).randint(0, CLASSES, ROWS)
    out[[5, 8, 13]] = -1
    return torch.from_numpy(out).long()


def norms(step: int) -> Tensor:
    """[B], from below to above what AdaFace keeps them within."""
    out = _drawn(200 + step, lambda random: random.uniform(5, 40, ROWS))
    out[[0, 7]] = torch.tensor([1e-4, 150.0])
    return out


def factors() -> Tensor:
    """[B, C] that logits are multiplied by before they are summed up, for a gradient."""
    return _drawn(300, lambda random: random.standard_normal((ROWS, CLASSES)))


class Batch(NamedTuple):
    """Inputs of Partial FC."""

    embeddings: Tensor
    labels: Tensor
    weight: Tensor


def batch() -> Batch:
    """[B, E], [B] within 0 and C - 1, [C, E]. No row's loss reaches the 69 that theirs is cut off at."""
    weight = _drawn(400, lambda random: random.standard_normal((CLASSES, FEATURES)) * 0.3)
    classes = torch.from_numpy(np.random.RandomState(401).randint(0, CLASSES, ROWS)).long()
    noise = _drawn(402, lambda random: random.standard_normal((ROWS, FEATURES)) * 3)
    return Batch(weight[classes] * 20 + noise, classes, weight)


# Running theirs


def margin_outcome(roots: Roots, case: Case) -> dict[str, Tensor]:
    """Logits [S, B, C] of every step and the gradients of cosines, and for AdaFace mean and deviation after it [S]."""
    margin = _margin(_modules(roots), case)
    mean, deviation = torch.full((1,), 20.0), torch.full((1,), 100.0)
    found: dict[str, list[Tensor]] = {name: [] for name in ("logits", "gradient", "mean", "std")}
    for step in range(STEPS):
        leaf = cosines(step).requires_grad_()
        # They overwrite what they are given. Partial FC's labels are [B, 1].
        given, of_rows = leaf * 1, labels(step)[:, None]
        if case.margin == "adaface":
            logits, mean, deviation = margin(given, of_rows, norms(step)[:, None], mean, deviation)
            found["mean"].append(mean[0])
            found["std"].append(deviation[0])
        else:
            logits = margin(given, of_rows)
        (logits * factors()).sum().backward()
        found["logits"].append(logits.detach())
        found["gradient"].append(leaf.grad)
    return {name: torch.stack(values) for name, values in found.items() if values}


def partial_fc_outcome(roots: Roots, case: Case) -> dict[str, Tensor]:
    """Loss [] of a batch with all classes, and the gradients of embeddings and weights."""
    modules, given = _modules(roots), batch()
    margin, module = _margin(modules, case), modules[f"{case.source}-partial-fc"]
    with _alone_without_cuda():
        if case.source == "cvlface":
            layer = module.PartialFC_V2(0, 1, margin, FEATURES, CLASSES)
        else:
            layer = module.PartialFC_V2(margin, FEATURES, CLASSES)
        layer.weight.data.copy_(given.weight)
        embeddings = given.embeddings.clone().requires_grad_()
        loss = layer(embeddings, given.labels.clone())
        loss.backward()
    return {"loss": loss.detach(), "of_embeddings": embeddings.grad, "of_weight": layer.weight.grad}


@contextlib.contextmanager
def _alone_without_cuda() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with mock.patch.object(torch.Tensor, "cuda", lambda self: self), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of autocast for CUDA
            yield
    finally:
        dist.destroy_process_group()


def outcomes(roots: Roots) -> dict[str, Tensor]:
    """All of it, by name."""
    found: dict[str, Tensor] = {}
    for case in CASES:
        found |= {f"{case.name}/{name}": value for name, value in margin_outcome(roots, case).items()}
    for case in PARTIAL_FC_CASES:
        values = partial_fc_outcome(roots, case)
        found |= {f"partial-fc/{case.name}/{name}": value for name, value in values.items()}
    return found


def stored() -> dict[str, Tensor]:
    """What the script wrote."""
    with np.load(STORED) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


if __name__ == "__main__":
    checkouts = Roots(Path(os.environ["CVLFACE_ROOT"]), Path(os.environ["INSIGHTFACE_ROOT"]))
    np.savez_compressed(STORED, **{name: value.numpy() for name, value in outcomes(checkouts).items()})
    print(f"{STORED}: {STORED.stat().st_size} bytes")
