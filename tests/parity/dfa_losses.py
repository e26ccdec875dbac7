"""The loss of the KP-RPE authors' face aligner (CVLface), run from a checkout from outside: nothing of it is copied.

It moves its targets to a GPU: here `cuda()` does nothing. Inputs are drawn from NumPy's RandomState, whose numbers are
frozen, so that only outputs need be stored.

Run as a script, with CVLFACE_ROOT set, it writes what tests compare with where no checkout is at hand:
`python tests/parity/dfa_losses.py`.
"""

import contextlib
import importlib
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor

STORED = Path(__file__).with_name("dfa_losses.npz")
DFA = "cvlface/research/recognition/code/run_v1/aligners/differentiable_face_aligner/dfa"
PACKAGE = "cvlface_dfa_of_losses"
ANCHORS = 1050
TERMS = ("box", "face", "landmarks", "aggregated_box", "aggregated_face", "aggregated_landmarks")
PREDICTED = ("box_offsets", "logits", "landmark_offsets", "aggregated")


class Case(NamedTuple):
    """A batch: the kind of each image, and the size of its face as a share of the image's side."""

    name: str
    kinds: tuple[int, ...]
    sizes: tuple[float, ...]
    seed: int
    aggregated: bool = True
    negatives: int = 7


CASES = [
    Case("all kinds", (1, -1, 1, 0, 1, -1), (0.8, 0.7, 0.5, 0.6, 0.9, 0.4), 1),
    Case("with landmarks", (1, 1, 1), (0.9, 0.6, 0.7), 2),
    Case("without landmarks", (-1, -1), (0.8, 0.6), 3),
    Case("no faces", (0, 0), (0.8, 0.6), 4),
    Case("between the overlaps", (1, -1, 1), (0.21, 0.22, 0.23), 5),
    Case("too small a face", (1, -1), (0.05, 0.1), 6),
    Case("one too small", (1, 1), (0.05, 0.75), 7),
    Case("more negatives than anchors", (1, -1), (0.6, 0.6), 8, negatives=100),
    Case("without aggregator", (1, -1, 0), (0.8, 0.7, 0.6), 9, aggregated=False),
]


class Inputs(NamedTuple):
    """What both losses are given; `aggregated` are box, logits and landmarks one after the other."""

    box_offsets: Tensor
    logits: Tensor
    landmark_offsets: Tensor
    aggregated: Tensor
    boxes: Tensor
    landmarks: Tensor
    kinds: Tensor


def inputs(case: Case) -> Inputs:
    """Float32. Faces are oblong and off the middle; what is not annotated is -1, as in the authors' labels."""
    random = np.random.RandomState(case.seed)
    batch = len(case.kinds)
    centres = random.uniform(0.42, 0.58, (batch, 2))
    half = np.array(case.sizes)[:, None] * random.uniform(0.85, 1.0, (batch, 2)) / 2
    boxes = np.concatenate([centres - half, centres + half], axis=1)
    landmarks = centres[:, None] + random.uniform(-0.8, 0.8, (batch, 5, 2)) * half[:, None]
    landmarks[np.array(case.kinds) < 1] = -1
    values = (
        random.standard_normal((batch, ANCHORS, 4)) * 2,
        random.standard_normal((batch, ANCHORS, 2)) * 3,
        random.standard_normal((batch, ANCHORS, 10)) * 2,
        random.uniform(-0.5, 1.5, (batch, 16)),
        boxes,
        landmarks,
    )
    return Inputs(*(torch.from_numpy(value.astype(np.float32)) for value in values), torch.tensor(case.kinds))


@contextlib.contextmanager
def _modules(root: Path) -> Iterator[tuple[Any, Any]]:
    """Their loss and their anchors. Bare packages stand in for theirs, which import more than is needed."""
    bare = {}
    for name in ("", ".layers", ".layers.functions", ".layers.modules", ".utils"):
        bare[PACKAGE + name] = types.ModuleType(PACKAGE + name)
        bare[PACKAGE + name].__path__ = [str(root / DFA / name[1:].replace(".", "/"))]
    with mock.patch.dict(sys.modules, bare), mock.patch.object(sys, "dont_write_bytecode", True):
        yield (
            importlib.import_module(f"{PACKAGE}.layers.modules.multibox_loss"),
            importlib.import_module(f"{PACKAGE}.layers.functions.prior_box"),
        )


def outcome(root: Path, case: Case) -> dict[str, Tensor]:
    """The terms [6], NaN where there is none, and of their sum's gradients, for each image, the sum of magnitudes."""
    given = inputs(case)
    leaves = [getattr(given, name).clone().requires_grad_() for name in PREDICTED]
    targets = torch.cat([given.boxes, given.landmarks.flatten(1), given.kinds[:, None]], dim=1)[:, None]
    with _modules(root) as (losses, anchors), mock.patch.object(torch.Tensor, "cuda", lambda self: self):
        priors = anchors.PriorBox((160, 160))
        loss = losses.MultiBoxLoss(2, 0.35, True, 0, True, case.negatives, 0.35, False)
        predictions = (*leaves[:3], leaves[3] if case.aggregated else None, None)
        box, face, landmarks, aggregated = loss(predictions, priors, list(targets))
    terms = [box, face, landmarks]
    if aggregated is not None:
        terms += [aggregated[f"agg_loss_{name}"] for name in ("box", "cls", "landm")]
    sum(term for term in terms if term.isfinite()).backward()
    terms += [torch.tensor(torch.nan)] * (len(TERMS) - len(terms))
    gradients = {
        name: leaf.grad.abs().flatten(1).sum(1)
        for name, leaf in zip(PREDICTED, leaves, strict=True)
        if leaf.grad is not None
    }
    return {"terms": torch.stack(terms).detach(), **gradients}


def outcomes(root: Path) -> dict[str, Tensor]:
    """All of it, by name."""
    return {f"{case.name}/{name}": value for case in CASES for name, value in outcome(root, case).items()}


def stored() -> dict[str, Tensor]:
    """What the script wrote."""
    with np.load(STORED) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


if __name__ == "__main__":
    found = outcomes(Path(os.environ["CVLFACE_ROOT"]))
    np.savez_compressed(STORED, **{name: value.numpy() for name, value in found.items()})
    print(f"{STORED}: {STORED.stat().st_size} bytes")
