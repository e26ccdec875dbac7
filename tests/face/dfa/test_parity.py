"""The DFA network computes what the authors' computes, for the same weights and images.

The stored numbers are theirs, written by tests/parity/dfa.py; with CVLFACE_ROOT set their checkout is run too.
"""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from face.dfa.anchors import make_anchors
from face.dfa.network import DFANetwork, DFASettings
from face.dfa.pretrained import load_dfa


def _harness():
    path = Path(__file__).parents[2] / "parity" / "dfa.py"
    spec = importlib.util.spec_from_file_location("parity_dfa", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


dfa = _harness()
ROOT = Path(os.environ.get("CVLFACE_ROOT", "."))
live = pytest.mark.skipif(not os.environ.get("CVLFACE_ROOT"), reason="CVLFACE_ROOT names no CVLface checkout")
cases = pytest.mark.parametrize("case", dfa.CASES, ids=[case.name for case in dfa.CASES])


@pytest.fixture(scope="module")
def stored():
    with np.load(dfa.STORED) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "shapes"}
        return arrays, json.loads(file["shapes"].tobytes())


def ours(case, state, folder):
    torch.save(state, folder / "w.pth")
    settings = {"image_hw": case.image_hw} | ({} if case.aggregator else {"aggregator": False})
    return load_dfa(folder / "w.pth", **settings)


def outcome(network, case):
    """What `dfa.outcome` says of theirs, at all anchors."""
    images = dfa.images_of(case).to(network.anchors.dtype).requires_grad_()
    out = network(images)
    anchors = torch.cat([out.box_offsets, out.logits.softmax(-1), out.landmark_offsets], dim=-1)[:, ::7]
    found = {"anchors": anchors.detach()}
    if case.aggregator:
        merged = torch.cat([out.boxes, out.face_logits, out.landmarks.flatten(1)], dim=-1)
        found["merged"] = merged.detach()
        if not network.inference_only:
            found["gradient"] = torch.autograd.grad((merged * dfa.cotangent(merged)).sum(), images)[0].flatten()[::997]
    return found


@cases
def test_stored_outcome(case, stored, tmp_path):
    arrays, shapes = stored
    state = dfa.numbers({name: tuple(shape) for name, shape in shapes[case.name].items()})
    network = ours(case, state, tmp_path)
    for double, limit in ((False, 1e-4), (True, 1e-8)):
        network = network.double() if double else network
        found = outcome(network, case)
        assert found.keys() == {name.split("/")[1] for name in arrays if name.startswith(f"{case.name}/")} - {"priors"}
        for name, value in found.items():
            # In float32 a value may be on the other side of a ReLU's corner, which its gradient shows.
            if double or name != "gradient":
                assert_close(value.double(), arrays[f"{case.name}/{name}"], rtol=0, atol=limit)
    torch.testing.assert_close(make_anchors(case.image_hw)[::7], arrays[f"{case.name}/priors"], rtol=0, atol=0)


@live
@cases
def test_outcome_beside_the_authors_code(case, tmp_path):
    state, expected = dfa.outcome(ROOT, case, torch.float32)
    network = ours(case, state, tmp_path)
    for found in (outcome(network, case), outcome(network.for_inference(), case)):
        for name in found.keys() - {"gradient"}:
            assert_close(found[name], expected[name], rtol=0, atol=1e-4)
    state, expected = dfa.outcome(ROOT, case)
    found = outcome(network.double(), case)
    for name, value in expected.items():
        assert_close(found[name], value, rtol=1e-9, atol=1e-10)


@live
def test_published_weights_have_their_places(tmp_path):
    """All tensors of both networks are found, and as many numbers are in ours."""
    for body, case in (("mobilenet0.25", dfa.CASES[0]), ("resnet50", dfa.CASES[-1])):
        theirs = dfa.Theirs(ROOT, case).net
        network = DFANetwork(DFASettings(body=body))
        count = [sum(parameter.numel() for parameter in net.parameters()) for net in (theirs, network)]
        assert count[0] == count[1]
