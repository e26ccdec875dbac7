"""What insightface's and CVLface's verification functions give for made-up embeddings.

Both run unchanged from a checkout; mxnet, which they import and do not need for this, is a bare module here. Recent
releases of SciPy refuse the interpolation in their `calculate_val` where two thresholds have the same FAR (always, in
practice); the spline that older releases built there takes its place.

Run as a script, with INSIGHTFACE_ROOT and CVLFACE_ROOT set, it writes what tests compare with where no checkout is at
hand: `python tests/parity/face_verification.py`. Embeddings are drawn from NumPy's RandomState, whose numbers are
frozen, so only results are stored.
"""

import importlib.util
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy.interpolate import BSpline

STORED = Path(__file__).with_name("face_verification.npz")
PLACES = {
    "insightface": ("INSIGHTFACE_ROOT", "recognition/arcface_torch/eval/verification.py"),
    "CVLface": (
        "CVLFACE_ROOT",
        "cvlface/research/recognition/code/run_v1/evaluations/verifications/verification.py",
    ),
}
RESULTS = ("tpr", "fpr", "accuracy", "val", "val_std", "far")


def load(name: str) -> types.ModuleType:
    """The verification module of "insightface" or "CVLface", from the checkout that its variable names."""
    variable, place = PLACES[name]
    spec = importlib.util.spec_from_file_location(f"{name}_verification", Path(os.environ[variable]) / place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get("mxnet")
    sys.modules["mxnet"] = types.ModuleType("mxnet")
    vars(sys.modules["mxnet"]).update(ndarray=None)
    try:  # by hand: mock.patch.dict would also forget what is imported on the way
        spec.loader.exec_module(module)
    finally:
        del sys.modules["mxnet"]
        if before is not None:
            sys.modules["mxnet"] = before
    return module


def older_spline(x: np.ndarray, y: np.ndarray, kind: str) -> Callable[[float], np.ndarray]:
    """`scipy.interpolate.interp1d(x, y, "slinear")` as it was while repeated x were let through."""
    assert kind == "slinear"
    return BSpline.construct_fast(np.r_[x[0], x, x[-1]], np.asarray(y, dtype=np.float64), 1)


def results_of(module: types.ModuleType, embeddings: np.ndarray, same: np.ndarray) -> dict[str, Any]:
    """Their `evaluate`, after the normalisation that their callers do."""
    normalised = module.sklearn.preprocessing.normalize(embeddings)
    with mock.patch.object(module.interpolate, "interp1d", older_spline):
        return dict(zip(RESULTS, module.evaluate(normalised, same), strict=True))


def case(
    seed: int, pairs: int, channels: int, likeness: float, dtype: type = np.float32, levels: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """[2 n, E] embeddings, two by two, and [n] answers.

    Args:
        seed: of the draws.
        pairs: n.
        channels: E.
        likeness: how much of a common vector the two of a pair of one person have.
        dtype: of the embeddings.
        levels: values are rounded to so many a unit, so that distances repeat.
    """
    random = np.random.RandomState(seed)
    same = random.rand(pairs) < 0.5
    own, common = random.standard_normal((pairs, 2, channels)), random.standard_normal((pairs, 1, channels))
    embeddings = own + likeness * same[:, None, None] * common
    embeddings *= np.exp(random.standard_normal((pairs, 2, 1)))  # lengths differ, as a network's do
    if levels:
        embeddings = np.rint(embeddings * levels) / levels
    return embeddings.reshape(2 * pairs, channels).astype(dtype), same


def axes_case() -> tuple[np.ndarray, np.ndarray]:
    """Distances of 0, 2 and 4 alone, of which 0 and 2 are thresholds themselves, and many equals."""
    random = np.random.RandomState(5)
    embeddings = np.zeros((400, 3), dtype=np.float32)
    embeddings[np.arange(400), random.randint(0, 3, 400)] = random.choice([-2.0, 1.0], 400)
    return embeddings, random.rand(200) < 0.5


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By name; every fold has pairs of both kinds."""
    same_twice = case(6, 150, 8, 1.0)[0]
    same_twice[1::2] = same_twice[::2]  # every distance is 0
    return {
        "random": case(0, 300, 16, 0.0),
        "structured": case(1, 3000, 32, 1.5),
        "structured in float64": case(1, 3000, 32, 1.5, np.float64),
        "nearly perfect": case(2, 600, 64, 3.0),
        "a length that ten does not divide": case(3, 187, 8, 1.0),
        "few levels": case(4, 500, 3, 1.0, levels=1),
        "axes": axes_case(),
        "all equal": (same_twice, np.arange(150) % 2 == 0),
        "one direction against its opposite": (
            np.tile(np.array([[1.0, 2.0], [-1.0, -2.0]], np.float32), (100, 1)),
            np.arange(100) % 3 == 0,
        ),
        "many channels": case(7, 400, 512, 0.7),
    }


if __name__ == "__main__":
    stored: dict[str, np.ndarray] = {}
    for title, example in cases().items():
        found = {name: results_of(load(name), *example) for name in PLACES}
        for key in RESULTS:
            np.testing.assert_array_equal(found["insightface"][key], found["CVLface"][key])
            stored[f"{title}|{key}"] = np.asarray(found["insightface"][key], dtype=np.float64)
        print(f"{title}: accuracy {found['insightface']['accuracy'].mean():.5f}, val {found['insightface']['val']:.5f}")
    np.savez_compressed(STORED, **stored)  # type: ignore[arg-type]
    print(f"{STORED}: {STORED.stat().st_size} bytes")
