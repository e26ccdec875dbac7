"""Attention under ImageRPE computes what attention under the authors' iRPE modules computes, on a rectangular grid and
with extra tokens, which their networks do without. (Whole networks: tests/face/models/test_vit_parity.py.)

The stored numbers are theirs, written by tests/parity/cvlface.py; with CVLFACE_ROOT set their checkout is run too.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from common.rpe import ImageRPE, attention


def _harness():
    path = Path(__file__).parents[2] / "parity" / "cvlface.py"
    spec = importlib.util.spec_from_file_location("parity_cvlface", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cvlface = _harness()
live = pytest.mark.skipif(not os.environ.get("CVLFACE_ROOT"), reason="CVLFACE_ROOT names no CVLface checkout")
CASES = [
    (case, extra_tokens, implementation)
    for case, extra_tokens in cvlface.IRPE_ATTENTIONS
    for implementation in ("auto", "explicit", "fused")
    if implementation != "fused" or "v" not in case.rpe_on
]


def table_of(place, tensors, extra_tokens):
    """Their table (or its gradient) in our layout, [1, G, d, K], for values [1, G, K, d], in bias mode [1, G, K]. Their
    cross method has two; ours puts the buckets of rows, those of columns and those of extra tokens in a row."""
    rows, cols = (
        next((value for name, value in tensors.items() if name.startswith(f"{place}.{part}")), None)
        for part in ("rp_rows", "rp_cols")
    )
    if rows is None:
        return next(value for name, value in tensors.items() if name.startswith(f"{place}.lookup"))[None]
    axis = -2 if place == "v" else -1
    extra = int(extra_tokens > 0)
    parts = zip(*(value.split([value.shape[axis] - extra, extra], axis) for value in (rows, cols)), strict=True)
    return torch.cat([half for pair in parts for half in pair], dim=axis)[None]


def check(case, extra_tokens, implementation, tables, out, gradients):
    rpe = ImageRPE(
        num_heads=2,
        head_dim=4,
        mode={"ctx": "contextual", "bias": "bias"}[case.mode],
        places=case.rpe_on,
        per_head=not case.shared_head,
        method={"euc": "euclidean"}.get(case.method, case.method),
        ratio=case.ratio,
        extra_tokens=extra_tokens,
    )
    names = {"q": "on_queries", "k": "on_keys", "v": "on_values"}
    rpe.load_state_dict({names[place]: table_of(place, tables, extra_tokens) for place in case.rpe_on})
    query, key, value, weights = cvlface.irpe_inputs(extra_tokens)
    found = attention(query, key, value, rpe(cvlface.IRPE_GRID)[0], implementation=implementation)
    torch.testing.assert_close(found, out, rtol=1e-5, atol=1e-5)
    (found * weights).sum().backward()
    for place in case.rpe_on:
        expected = table_of(place, gradients, extra_tokens)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(getattr(rpe, names[place]).grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("case", "extra_tokens", "implementation"), CASES, ids=str)
def test_stored_attention(case, extra_tokens, implementation):
    with np.load(cvlface.STORED_IRPE) as file:
        out = torch.from_numpy(file[f"{case}/{extra_tokens}/out"])
        prefix = f"{case}/{extra_tokens}/gradient/"
        gradients = {
            name.removeprefix(prefix): torch.from_numpy(file[name]) for name in file.files if name.startswith(prefix)
        }
    shapes = {name: tuple(value.shape) for name, value in gradients.items()}
    check(case, extra_tokens, implementation, cvlface.numbers(shapes, cvlface.IRPE_SEED), out, gradients)


@live
@pytest.mark.parametrize(("case", "extra_tokens", "implementation"), CASES, ids=str)
def test_attention_beside_the_authors_code(case, extra_tokens, implementation):
    root = Path(os.environ["CVLFACE_ROOT"])
    check(case, extra_tokens, implementation, *cvlface.irpe_attention(root, case, extra_tokens))
