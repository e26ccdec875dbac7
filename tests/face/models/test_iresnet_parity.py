"""IResNet computes what the IR networks of CVLface (and so AdaFace's) compute, for the same weights and images.

The stored numbers are theirs, written by tests/parity/cvlface.py; with CVLFACE_ROOT set their checkout is run too.
"""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from face.models.cvlface import translate_iresnet_keys
from face.models.registry import create_model


def _harness():
    path = Path(__file__).parents[2] / "parity" / "cvlface.py"
    spec = importlib.util.spec_from_file_location("parity_cvlface", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cvlface = _harness()
ROOT = Path(os.environ.get("CVLFACE_ROOT", "."))
live = pytest.mark.skipif(not os.environ.get("CVLFACE_ROOT"), reason="CVLFACE_ROOT names no CVLface checkout")
NAMES = {"IR_18": "iresnet18", "IR_50": "iresnet50", "IR_101": "iresnet101"}


def ours(name, state):
    settings = {"num_features": cvlface.IR_FEATURES, "image_hw": cvlface.IR_IMAGE, "dropout": 0.0}
    with torch.device("meta"):
        model = create_model(NAMES[name], **settings)
    model.load_state_dict(translate_iresnet_keys(state), assign=True)
    return model


def assert_close(found, expected, what, scale=None, tolerance=1e-4):
    """Within a tolerance of the largest number expected."""
    found = found.to(expected.dtype)
    assert found.shape == expected.shape, what
    scale = float(expected.abs().max() if scale is None else scale)
    difference = float((found - expected).abs().max())
    assert difference <= tolerance * scale, f"{what}: {difference:g} of {scale:g}"


def their_gradients(model, names):
    """Gradients of our parameters under their names."""
    ours_of = {name: next(iter(translate_iresnet_keys({name: torch.zeros(())}))) for name in names}
    return {name: model.get_parameter(own).grad for name, own in ours_of.items()}


@pytest.fixture(scope="module")
def stored():
    with np.load(cvlface.STORED_IRESNET) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "shapes"}
        return arrays, json.loads(file["shapes"].tobytes())


@pytest.mark.parametrize("name", ["IR_18", "IR_50", pytest.param("IR_101", marks=pytest.mark.slow)])
def test_stored_outcome(stored, name):
    arrays, shapes = stored
    shapes = {key: tuple(shape) for key, shape in shapes[name].items()}
    model = ours(name, cvlface.numbers(shapes, cvlface.IR_SEED))
    found = cvlface.iresnet_outcome(model, gradients=name == "IR_18")
    assert_close(found["eval"], arrays[f"{name}/eval"], "eval")
    if name == "IR_18":
        assert_close(found["train"], arrays[f"{name}/train"], "train", 1)
        names = sorted(key for key in shapes if "running" not in key and "num_batches" not in key)
        gradients = their_gradients(model, names)
        rows = zip(names, arrays[f"{name}/gradients"], arrays[f"{name}/scales"], strict=True)
        largest = float(arrays[f"{name}/scales"].max())
        for key, expected, scale in rows:
            # Gradients that cancel to nothing, as before a norm of the batch, are rounding alone.
            assert_close(cvlface.sample(gradients[key]), expected, key, max(float(scale), 1e-2 * largest), 1e-3)


@live
@pytest.mark.parametrize("name", NAMES)
def test_outcome_beside_the_authors_code(name):
    theirs = cvlface.iresnet(ROOT, name)
    state = cvlface.fill(theirs, seed=5)
    model = ours(name, state)
    gradients = name == "IR_18"
    expected = cvlface.iresnet_outcome(theirs.double(), gradients)
    found = cvlface.iresnet_outcome(model.double(), gradients)
    assert_close(found["eval"], expected["eval"], "eval", tolerance=1e-10)
    if gradients:
        assert_close(found["train"], expected["train"], "train", tolerance=1e-10)
        own = their_gradients(model, list(expected["gradients"]))
        largest = max(float(value.abs().max()) for value in expected["gradients"].values())
        for key, value in expected["gradients"].items():
            assert_close(own[key], value, key, largest, 1e-10)


@live
@pytest.mark.parametrize("name", NAMES)
def test_published_layers(name):
    with torch.device("meta"):
        theirs = getattr(cvlface.module_of(ROOT, "iresnet", "model"), name)((112, 112))
        model = create_model(NAMES[name])
    assert {name: value.shape for name, value in translate_iresnet_keys(theirs.state_dict()).items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
