"""Margins and Partial FC give what CVLface's and insightface's give, and gradients differ in what is documented.

The stored numbers are theirs, written by tests/parity/margins.py; with CVLFACE_ROOT and INSIGHTFACE_ROOT set their
checkouts are run too.
"""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from face.losses import AdaFace, ArcFace, CosFace, PartialFC


def _harness():
    path = Path(__file__).parents[2] / "parity" / "margins.py"
    spec = importlib.util.spec_from_file_location("parity_margins", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


margins = _harness()
ROOTS = [os.environ.get(name) for name in ("CVLFACE_ROOT", "INSIGHTFACE_ROOT")]


@pytest.fixture(scope="module")
def stored():
    return margins.stored()


def ours(case):
    common = {"scale": margins.SCALE, "interclass_filtering_threshold": case.threshold}
    if case.margin == "arcface":
        return ArcFace(margin_rad=margins.ANGLE, **common)
    if case.margin == "cosface":
        return CosFace(margin=margins.COSINE, **common)
    return AdaFace(margin=margins.COSINE, h=margins.QUALITY, t_alpha=margins.SHARE, **common)


def margin_slopes(case, module, cosines, norms):
    """Derivatives of the margins by the cosine, by autograd over the formula with angles."""
    cosines = cosines.double().requires_grad_()
    if case.margin == "cosface":
        return torch.ones_like(cosines)
    if case.margin == "arcface":
        added = torch.full_like(norms, margins.ANGLE)
    else:
        kept = norms.clamp(0.001, 100)
        added = -margins.COSINE * ((kept - module.norm_mean) / (module.norm_std + 0.001) * margins.QUALITY).clamp(-1, 1)
    return torch.autograd.grad((cosines.acos() + added.double()[:, None]).cos().sum(), cosines)[0]


@pytest.mark.parametrize("case", margins.CASES, ids=lambda case: case.name)
def test_margins(case, stored):
    """Values are theirs. So are gradients of all classes but the right one, where theirs has no derivative of the
    margin: ours is that times theirs. (CosFace's is 1.)"""
    module = ours(case)
    for step in range(margins.STEPS):
        cosines, labels, norms = margins.cosines(step).requires_grad_(), margins.labels(step), margins.norms(step)
        logits = module(cosines, labels, norms)
        assert_close(logits, stored[f"{case.name}/logits"][step], rtol=1e-5, atol=5e-5)
        if case.margin == "adaface":
            assert_close(module.norm_mean, stored[f"{case.name}/mean"][step], rtol=1e-6, atol=0)
            assert_close(module.norm_std, stored[f"{case.name}/std"][step], rtol=1e-6, atol=0)
        (logits * margins.factors()).sum().backward()
        theirs = stored[f"{case.name}/gradient"][step]
        of_target = torch.zeros_like(cosines, dtype=torch.bool)
        rows = torch.nonzero(labels >= 0)[:, 0]
        of_target[rows, labels[rows]] = True
        assert_close(cosines.grad[~of_target], theirs[~of_target], rtol=1e-6, atol=0)
        slopes = margin_slopes(case, module, cosines.detach(), norms).float()
        inside = of_target & (cosines.detach().abs() < 1)
        assert_close(cosines.grad[inside], (slopes * theirs)[inside], rtol=1e-4, atol=1e-4)
        if case.margin != "cosface":
            assert ((cosines.grad - theirs)[inside].abs() > 1e-2).any()


@pytest.mark.parametrize("case", margins.PARTIAL_FC_CASES, ids=lambda case: case.name)
def test_partial_fc(case, stored):
    """With CosFace their gradient is the loss's, and ours; with the others only the loss is."""
    embeddings, labels, weight = margins.batch()
    layer = PartialFC(margins.FEATURES, margins.CLASSES, ours(case))
    layer.weight.data.copy_(weight)
    embeddings.requires_grad_()
    loss = layer(embeddings, labels)
    loss.backward()
    expected = {name: stored[f"partial-fc/{case.name}/{name}"] for name in ("loss", "of_embeddings", "of_weight")}
    assert_close(loss.detach(), expected["loss"], rtol=1e-5, atol=0)
    if case.margin == "cosface":
        assert_close(embeddings.grad, expected["of_embeddings"], rtol=1e-4, atol=1e-5)
        assert_close(layer.weight.grad, expected["of_weight"], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(None in ROOTS, reason="CVLFACE_ROOT and INSIGHTFACE_ROOT do not name both checkouts")
def test_stored_numbers_are_the_checkouts(stored):
    found = margins.outcomes(margins.Roots(*map(Path, ROOTS)))
    assert found.keys() == stored.keys()
    for name, value in found.items():
        assert_close(value, stored[name], rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
