"""SwinGait with the table equals OpenGait's SwinGait, as published (3D) and made 2D, on the same weights.

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

from common.runtime.checkpoint import load_weights
from common.runtime.settings import to_mapping
from plugin.runtime.host import MODELS
from plugin.runtime.settings import load_gait_settings

live = pytest.mark.skipif(not os.environ.get("OPENGAIT_ROOT"), reason="OPENGAIT_ROOT names no OpenGait checkout")
ROOT = Path(__file__).parents[2]


def _harness():
    spec = importlib.util.spec_from_file_location("parity_opengait", ROOT / "tests" / "parity" / "opengait.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


opengait = _harness()


def build(classes, name="swingait2d"):
    """Our whole model with the settings of a config, in evaluation mode."""
    overrides = {"model_cfg": {"SeparateBNNecks": {"class_num": classes}}}
    settings = load_gait_settings(ROOT / "configs" / f"{name}.yaml", overrides)
    quiet = SimpleNamespace(log_info=lambda *_: None)
    return MODELS[settings.model_cfg.model](to_mapping(settings), training=False, msg_mgr=quiet)


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


@live
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


def shapes_of(stored, key="shapes"):
    return {name: tuple(shape) for name, shape in json.loads(str(stored[key])).items()}


@pytest.fixture(scope="module")
def stored_3d():
    with np.load(opengait.STORED_3D) as file:
        return dict(file)


@pytest.fixture
def model_3d(stored_3d):
    model = build(opengait.CLASSES, "swingait3d")
    load_reference_weights(model, opengait.numbers(shapes_of(stored_3d), seed=3))
    return model


def test_3d_stored_outputs(model_3d, stored_3d):
    """Clips that are shorter than a window, as long, longer, and no multiple of it."""
    assert opengait.FRAMES_3D == (1, 2, 3, 4, 8)
    for frames in opengait.FRAMES_3D:
        with torch.no_grad():
            tokens, embeddings = run(model_3d, opengait.silhouettes(frames))
        assert_equal_to_scale(embeddings, torch.from_numpy(stored_3d[f"embeddings_{frames}"]))
    assert tokens.shape == (2, 512, 8, 15, 10)
    assert_equal_to_scale(tokens.ravel()[:: opengait.STRIDE_3D], torch.from_numpy(stored_3d["tokens"]))


def test_3d_sequences_end_to_end(model_3d, stored_3d):
    """OpenGait's embeddings of single sequences, from one call with all of them."""
    lengths = opengait.FRAMES_3D
    silhouettes = torch.cat([opengait.silhouettes(frames)[1] for frames in lengths])[None]
    with torch.no_grad():
        out = model_3d(([silhouettes], torch.zeros(len(lengths)), None, None, torch.tensor([lengths])))
    expected = torch.stack([torch.from_numpy(stored_3d[f"embeddings_{frames}"][1]) for frames in lengths])
    assert_equal_to_scale(out["inference_feat"]["embeddings"], expected)


def test_3d_stored_training_step(model_3d, stored_3d):
    embeddings, grads = opengait.training_step(model_3d, opengait.TRAINING_FRAMES)
    assert_equal_to_scale(embeddings, torch.from_numpy(stored_3d["training_embeddings"]), tolerance=1e-11)
    gradient = grads["silhouettes"].ravel()[:: opengait.GRADIENT_STRIDE]
    assert_equal_to_scale(gradient, torch.from_numpy(stored_3d["training_gradient"]), tolerance=1e-9)


def test_3d_number_of_parameters(stored_3d):
    model = build(3000, "swingait3d")
    total = sum(parameter.numel() for parameter in model.parameters())
    transformer = sum(parameter.numel() for parameter in model.Backbone.transformer.parameters())
    assert total == int(stored_3d["full_parameters"]) == 25_539_136
    assert transformer == int(stored_3d["transformer_parameters"]) == 9_757_056


@live
def test_3d_live(stored_3d):
    reference = opengait.swingait_3d(Path(os.environ["OPENGAIT_ROOT"]), opengait.CLASSES)
    assert opengait.floating_shapes(reference) == shapes_of(stored_3d)
    opengait.fill(reference, seed=11)
    ours = build(opengait.CLASSES, "swingait3d")
    load_reference_weights(ours, reference.state_dict())
    for frames in (2, 5):
        theirs = opengait.reference_outputs(reference, frames)
        with torch.no_grad():
            tokens, embeddings = run(ours, opengait.silhouettes(frames))
        assert_equal_to_scale(tokens, theirs["tokens"])
        assert_equal_to_scale(embeddings, theirs["embeddings"])

    expected_embeddings, expected = opengait.training_step(reference, 5)
    embeddings, grads = opengait.training_step(ours, 5)
    assert_equal_to_scale(embeddings, expected_embeddings, tolerance=1e-11)
    expected = ours.translate_checkpoint(expected)
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        assert_equal_to_scale(grad, expected[name], tolerance=1e-9)


def restored(name, shapes):
    """What a model takes of a checkpoint with tensors of these shapes, by the checkpoint's names, and what is left."""
    model = build(opengait.CLASSES, name)
    state = {key: torch.full(shape, 0.5) for key, shape in shapes.items()}
    theirs = dict(zip(model.translate_checkpoint(state), shapes, strict=True))
    report = load_weights(model, state, strict=False, source="checkpoint", translate=model.translate_checkpoint)
    ours = model.state_dict()
    taken = {theirs[key] for key in theirs if key in ours and bool((ours[key] == 0.5).all())}
    return taken, set(shapes) - taken, report


@pytest.mark.parametrize("mode", opengait.DEEPGAIT_MODES)
@pytest.mark.parametrize("name", ["swingait2d", "swingait3d"])
def test_deepgait_checkpoints(name, mode, stored_3d):
    """All that both networks have: two-dimensional convolutions and their batch norms, and time where both know it."""
    shapes = shapes_of(stored_3d, f"deepgait_{mode}")
    taken, left, report = restored(name, shapes)
    left = {key for key in left if not key.startswith(("layer3", "layer4"))}  # stages that SwinGait has no more
    if mode == "2d":
        assert left == set()
    elif mode == "p3d":
        over_time = {key for key in shapes if key.startswith("layer2") and (".shortcut3d." in key or ".sbn." in key)}
        assert len(over_time) == 4 * 5
        assert left == (over_time if name == "swingait2d" else set())
        assert all(key in str(report) for key in left)
    else:
        cubes = {key for key, shape in shapes.items() if key.startswith("layer2") and shape[2:] == (3, 3, 3)}
        assert len(cubes) == 8
        assert left == cubes
    assert {"layer0.forward_block.0.weight", "layer2.0.downsample.0.weight", "FCs.fc_bin"} & left == set()
    assert any(key.startswith("layer1.forward_block.0.conv2") for key in taken)


def test_swingait_checkpoints_in_the_other_network(stored, stored_3d):
    """3D weights in 2D: the convolutions, the transformer, the heads; not what knows of time, nor the tables."""
    taken, left, _ = restored("swingait2d", shapes_of(stored_3d))
    assert {key.split(".")[2 if key.startswith("layer2") else -1] for key in left} == {
        "shortcut3d",
        "sbn",
        "relative_position_bias_table",
    }
    assert len(left) == 4 + 4 * 4 + 6
    assert len(taken) + len(left) == len(shapes_of(stored_3d))
    _, left, _ = restored("swingait3d", shapes_of(stored))
    assert {key.split(".")[-1] for key in left} == {"relative_position_bias_table"}


@live
def test_deepgait_live(stored_3d):
    for mode in opengait.DEEPGAIT_MODES:
        reference = opengait.deepgait(Path(os.environ["OPENGAIT_ROOT"]), mode)
        assert opengait.floating_shapes(reference) == shapes_of(stored_3d, f"deepgait_{mode}")
