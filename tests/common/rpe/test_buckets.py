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
CASES = [(method, grid, ratio) for method in cvlface.METHODS for grid in cvlface.GRIDS for ratio in cvlface.RATIOS]
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


def ours(method, grid_hw, ratio):
    """Our table where the authors have one; their cross is two methods, whose buckets both begin at 0."""
    if method.startswith("cross"):
        rows, cols = bucket_ids(grid_hw, "cross", ratio)
        return rows if method == "cross_rows" else cols - num_buckets("cross", ratio) // 2
    return bucket_ids(grid_hw, method, ratio)[0]


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


@pytest.mark.parametrize(("method", "grid_hw", "ratio"), CASES)
def test_equals_the_authors_stored_tables(method, grid_hw, ratio):
    with np.load(cvlface.STORED) as stored:
        theirs = torch.from_numpy(stored[cvlface.key(method, grid_hw, ratio)].astype(np.int64))
    assert torch.equal(ours(method, grid_hw, ratio), theirs)


@pytest.mark.skipif("CVLFACE_ROOT" not in os.environ, reason="CVLFACE_ROOT names no CVLface checkout")
def test_equals_the_authors_code():
    authors = cvlface.load_kprpe(Path(os.environ["CVLFACE_ROOT"]))
    for method, grid_hw, ratio in [*CASES, ("product", (20, 30), 1.9), ("quant", (2, 40), 3.3)]:
        assert torch.equal(ours(method, grid_hw, ratio), cvlface.bucket_table(authors, method, grid_hw, ratio))


@pytest.mark.parametrize("extra_tokens", [1, 3])
@pytest.mark.parametrize("method", ["product", "euclidean", "quant", "cross"])
def test_extra_tokens_have_the_last_bucket_of_each_table(method, extra_tokens):
    grid, plain = bucket_ids((2, 3), method), num_buckets(method)
    ids = bucket_ids((2, 3), method, extra_tokens=extra_tokens)
    tables = 2 if method == "cross" else 1
    assert num_buckets(method, extra_tokens=extra_tokens) == plain + tables
    for r in range(tables):
        for i in range(extra_tokens + 6):
            for j in range(extra_tokens + 6):
                both_in_the_grid = i >= extra_tokens and j >= extra_tokens
                expected = grid[r, i - extra_tokens, j - extra_tokens] if both_in_the_grid else plain + r
                assert ids[r, i, j] == expected


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
