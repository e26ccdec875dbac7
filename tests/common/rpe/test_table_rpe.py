"""Swin's table against a loop over all pairs of positions."""

import itertools
import math

import pytest
import torch

from common.rpe import TableRPE


@pytest.mark.parametrize("window_size", [(1,), (4,), (3, 5), (5, 2), (2, 3, 4), (1, 3, 5)])
def test_equals_the_definition(window_size):
    heads = 3
    rpe = TableRPE(window_size, heads)
    positions = list(itertools.product(*(range(size) for size in window_size)))
    offsets = list(itertools.product(*(range(1 - size, size) for size in window_size)))  # the table's rows, in order
    bias = rpe()
    assert bias.shape == (heads, len(positions), len(positions))
    for i, query in enumerate(positions):
        for j, key in enumerate(positions):
            row = offsets.index(tuple(a - b for a, b in zip(query, key, strict=True)))
            assert torch.equal(bias[:, i, j], rpe.relative_position_bias_table[row])


def test_gradient_counts_the_pairs_of_every_offset():
    rpe = TableRPE((2, 3), 2)
    rpe().sum().backward()
    pairs = [(2 - abs(dy)) * (3 - abs(dx)) for dy in (-1, 0, 1) for dx in (-2, -1, 0, 1, 2)]
    assert torch.equal(rpe.relative_position_bias_table.grad, torch.tensor(pairs)[:, None].expand(-1, 2).float())


def test_state_dict_holds_the_table_alone():
    rpe = TableRPE((3, 5), 4)
    state = rpe.state_dict()
    assert list(state) == ["relative_position_bias_table"]
    assert state["relative_position_bias_table"].shape == (math.prod([5, 9]), 4)
    other = TableRPE((3, 5), 4)
    other.load_state_dict(state)
    assert torch.equal(other(), rpe())


def test_starts_small_and_not_at_zero():
    table = TableRPE((7, 7), 16).relative_position_bias_table
    assert 0.015 < table.std() < 0.025


@pytest.mark.parametrize(("window_size", "heads"), [((), 1), ((0, 3), 1), ((3, 5), 0)])
def test_bad_inputs(window_size, heads):
    with pytest.raises(ValueError, match="window_size and num_heads must be >= 1"):
        TableRPE(window_size, heads)


def test_extra_tokens_share_the_last_row():
    plain, extra = TableRPE((2, 3), 4), TableRPE((2, 3), 4, extra_tokens=2)
    table = extra.relative_position_bias_table
    assert len(table) == len(plain.relative_position_bias_table) + 1
    with torch.no_grad():
        plain.relative_position_bias_table.copy_(table[:-1])
    bias = extra()
    assert torch.equal(bias[:, 2:, 2:], plain())
    last = table[-1][:, None, None]
    assert torch.equal(bias[:, :2], last.expand(-1, 2, 8))
    assert torch.equal(bias[:, :, :2], last.expand(-1, 8, 2))
    with pytest.raises(ValueError, match="extra_tokens must be >= 0, got -2"):
        TableRPE((2, 3), 4, extra_tokens=-2)
