"""Bucket tables against iRPE's piecewise index written as a loop, and against the KP-RPE authors' own tables."""

import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from common.rpe import bucket_ids, num_buckets


def _harness():
    path = Path(__file__).parents[2] / "parity" / "cvlface.py"
    spec = importlib.util.spec_from_file_location("parity_cvlface", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cvlface = _harness()
SMALL_GRIDS = [(1, 1), (1, 9), (3, 5), (7, 4)]


def piecewise_by_loop(x: int, ratio: float) -> int:
    """iRPE, equation 18, with alpha, beta, gamma = r, 2 r, 8 r."""
    alpha, beta, gamma = ratio, 2 * ratio, 8 * ratio
    if abs(x) <= alpha:
        return x
    far = round(alpha + math.log(abs(x) / alpha) / math.log(gamma / alpha) * (beta - alpha))
    return (1 if x > 0 else -1) * int(min(far, beta))


def buckets_by_loop(grid_hw, method, ratio):
    rows, cols = grid_hw
    cells = [(row, col) for row in range(rows) for col in range(cols)]
    half = math.floor(2 * ratio)
    side = 2 * half + 1
    tables = torch.zeros(2 if method == "cross" else 1, len(cells), len(cells), dtype=torch.long)
    for i, (query_row, query_col) in enumerate(cells):
        for j, (key_row, key_col) in enumerate(cells):
            dy, dx = query_row - key_row, query_col - key_col
            if method == "product":
                tables[0, i, j] = (piecewise_by_loop(dy, ratio) + half) * side + piecewise_by_loop(dx, ratio) + half
            elif method == "cross":
                tables[0, i, j] = piecewise_by_loop(dy, ratio) + half
                tables[1, i, j] = side + piecewise_by_loop(dx, ratio) + half
            elif method == "euclidean":
                tables[0, i, j] = piecewise_by_loop(round(math.sqrt(dy * dy + dx * dx)), ratio) + half
            else:
                tables[0, i, j] = piecewise_by_loop(dy * dy + dx * dx, ratio) + half
    return tables


def ours(method, grid_hw, ratio, extra_tokens):
    """Our table and number of buckets where the authors have one. Their cross is two methods, whose buckets both begin
    at 0 and end with the one for extra tokens; ours are those of rows, those of columns, and one each for extra
    tokens."""
    if not method.startswith("cross"):
        ids = bucket_ids(grid_hw, method, ratio, extra_tokens=extra_tokens)
        return ids[0], num_buckets(method, ratio, extra_tokens)
    index = ("cross_rows", "cross_cols").index(method)
    side = num_buckets("cross", ratio) // 2
    buckets = [*range(index * side, (index + 1) * side), 2 * side + index]  # ours, in their order
    found = bucket_ids(grid_hw, "cross", ratio, extra_tokens=extra_tokens)[index]
    return found.clone().apply_(buckets.index), side + (extra_tokens > 0)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7, 1.0, 1.9, 2.5, 4.0])
@pytest.mark.parametrize("grid_hw", SMALL_GRIDS)
@pytest.mark.parametrize("method", ["product", "euclidean", "quant", "cross"])
def test_equals_the_definition(method, grid_hw, ratio):
    ids = bucket_ids(grid_hw, method, ratio)
    assert ids.dtype == torch.int64
    assert torch.equal(ids, buckets_by_loop(grid_hw, method, ratio))
    assert ids.min() >= 0
    assert ids.max() < num_buckets(method, ratio)


def test_far_offsets_equal_the_definition():
    """A 70-cell line reaches offsets beyond gamma for every method; there the index no longer grows."""
    for method in ("product", "euclidean", "quant", "cross"):
        for ratio in (1.0, 1.9, 4.0):
            ids = bucket_ids((1, 70), method, ratio)
            assert torch.equal(ids, buckets_by_loop((1, 70), method, ratio))
            assert (ids[..., 0, 50:] == ids[..., 0, 69:]).all()


@pytest.mark.parametrize(("method", "grid_hw", "ratio", "extra_tokens"), cvlface.BUCKET_CASES)
def test_equals_the_authors_stored_tables(method, grid_hw, ratio, extra_tokens):
    with np.load(cvlface.STORED) as stored:
        theirs = torch.from_numpy(stored[cvlface.key(method, grid_hw, ratio, extra_tokens)].astype(np.int64))
    assert torch.equal(ours(method, grid_hw, ratio, extra_tokens)[0], theirs)


@pytest.mark.skipif(not os.environ.get("CVLFACE_ROOT"), reason="CVLFACE_ROOT names no CVLface checkout")
def test_equals_the_authors_code():
    root = Path(os.environ["CVLFACE_ROOT"])
    more = [
        ("product", (20, 30), 1.9, 0),
        ("quant", (2, 40), 3.3, 0),
        ("product", (14, 14), 1.9, 1),
        *((method, (9, 12), 2.3, 4) for method in cvlface.METHODS),
    ]
    for case in [*cvlface.BUCKET_CASES, *more]:
        table, buckets = ours(*case)
        theirs, theirs_buckets = cvlface.bucket_table(root, *case)
        assert torch.equal(table, theirs)
        assert buckets == theirs_buckets


def test_number_of_buckets():
    assert num_buckets("product", 1.9) == num_buckets("product") == 49
    assert num_buckets("euclidean", 1.9) == num_buckets("quant", 1.9) == 7
    assert num_buckets("cross", 1.9) == 14
    assert num_buckets("product", 2.5) == 121
    assert num_buckets("product", 0.4) == 1


def test_cross_keeps_rows_and_columns_apart():
    rows, cols = bucket_ids((14, 14), "cross", 1.9)
    assert not set(rows.unique().tolist()) & set(cols.unique().tolist())


def test_built_in_inference_mode_and_used_in_training():
    """The tables are cached; one that was built while evaluating must not break the next training step."""
    table = torch.zeros(5, 5, 9, requires_grad=True)
    with torch.inference_mode():
        ids = bucket_ids((5, 1), "product", 0.77)
    table.gather(-1, ids.expand(5, -1, -1)).sum().backward()
    assert table.grad.sum() == 5 * 25


def test_bad_inputs():
    with pytest.raises(ValueError, match="method must be one of product, euclidean, quant, cross, got 'l1'"):
        bucket_ids((3, 3), "l1")
    with pytest.raises(ValueError, match="method must be one of"):
        num_buckets("Product")
    for ratio in (0, -1.9, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="ratio must be"):
            num_buckets("product", ratio)
        with pytest.raises(ValueError, match="ratio must be"):
            bucket_ids((3, 3), "product", ratio)
    for grid_hw in ((0, 3), (3, 0), (-1, 3)):
        with pytest.raises(ValueError, match=r"grid_hw must be \(rows, cols\)"):
            bucket_ids(grid_hw)
    with pytest.raises(ValueError, match="extra_tokens must be >= 0, got -1"):
        bucket_ids((3, 3), extra_tokens=-1)
