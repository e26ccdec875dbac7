"""SwinGait-2D with the table equals OpenGait's SwinGait made 2D on the same weights.

The stored numbers are OpenGait's, written by tests/parity/opengait.py; with OPENGAIT_ROOT set the checkout is run too.
"""

import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.runtime.settings import to_mapping
from plugin.runtime.host import MODELS
from plugin.runtime.settings import load_gait_settings

ROOT = Path(__file__).parents[2]


def _harness():
    spec = importlib.util.spec_from_file_location("parity_opengait", ROOT / "tests" / "parity" / "opengait.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


opengait = _harness()


def build(classes):
    """Our whole model with the settings of configs/swingait2d.yaml, in evaluation mode."""
    overrides = {"model_cfg": {"SeparateBNNecks": {"class_num": classes}}}
    settings = load_gait_settings(ROOT / "configs" / "swingait2d.yaml", overrides)
    quiet = SimpleNamespace(log_info=lambda *_: None)
    return MODELS["SwinGait2D"](to_mapping(settings), training=False, msg_mgr=quiet)


def load_reference_weights(model, state):
    missing, unexpected = model.load_state_dict(model.translate_checkpoint(state), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)


def run(model, silhouettes):
    """Token map [n, c, s, rows, cols] and embeddings [n, c, p]."""
    tokens = {}
    handle = model.Backbone.register_forward_hook(lambda module, args, out: tokens.update(map=out))
    out = model(([silhouettes], torch.zeros(len(silhouettes), dtype=torch.long), None, None, None))
    handle.remove()
    return tokens["map"], out["inference_feat"]["embeddings"]


def assert_equal_to_scale(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture(scope="module")
def stored():
    with np.load(opengait.STORED) as file:
        return dict(file)


@pytest.fixture(scope="module")
def model(stored):
    shapes = {name: tuple(shape) for name, shape in json.loads(str(stored["shapes"])).items()}
    model = build(opengait.CLASSES)
    load_reference_weights(model, opengait.numbers(shapes, seed=3))
    return model


def test_stored_outputs(model, stored):
    with torch.no_grad():
        tokens, embeddings = run(model, opengait.silhouettes())
    assert tokens.shape == (2, 512, 3, 15, 10)
    assert_equal_to_scale(tokens.ravel()[:: opengait.STRIDE], torch.from_numpy(stored["tokens"]))
    assert_equal_to_scale(embeddings, torch.from_numpy(stored["embeddings"]))


def test_stored_outputs_depend_on_the_table(model, stored):
    """The comparison above would notice a table that is not used."""
    tables = [p for name, p in model.named_parameters() if name.endswith("relative_position_bias_table")]
    assert len(tables) == 6
    kept = [table.detach().clone() for table in tables]
    try:
        with torch.no_grad():
            for table in tables:
                table.copy_(table.flip(0))
            tokens, _ = run(model, opengait.silhouettes())
    finally:
        with torch.no_grad():
            for table, value in zip(tables, kept, strict=True):
                table.copy_(value)
    expected = torch.from_numpy(stored["tokens"])
    assert (tokens.ravel()[:: opengait.STRIDE] - expected).abs().max() > 1e-3 * expected.abs().max()


def test_number_of_parameters(stored):
    model = build(3000)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == int(stored["full_parameters"]) == 25_318_464
    assert sum(parameter.numel() for parameter in model.Backbone.transformer.parameters()) == 9_734_016


@pytest.mark.skipif("OPENGAIT_ROOT" not in os.environ, reason="OPENGAIT_ROOT names no OpenGait checkout")
def test_live(stored):
    reference = opengait.swingait_2d(Path(os.environ["OPENGAIT_ROOT"]), opengait.CLASSES)
    opengait.fill(reference, seed=11)
    ours = build(opengait.CLASSES)
    load_reference_weights(ours, reference.state_dict())
    assert {tuple(shape) for shape in json.loads(str(stored["shapes"])).values()} == {
        tuple(shape) for shape in opengait.floating_shapes(reference).values()
    }

    theirs = opengait.reference_outputs(reference)
    with torch.no_grad():
        tokens, embeddings = run(ours, opengait.silhouettes())
    assert_equal_to_scale(tokens, theirs["tokens"])
    assert_equal_to_scale(embeddings, theirs["embeddings"])

    gradients = []
    for network in (ours, reference):
        silhouettes = opengait.silhouettes().requires_grad_()
        out = network(([silhouettes], torch.zeros(len(silhouettes), dtype=torch.long), None, None, None))
        gradients += torch.autograd.grad(out["inference_feat"]["embeddings"].sum(), silhouettes)
    assert_equal_to_scale(*gradients)
