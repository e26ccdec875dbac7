"""Reading by bucket and summing by bucket against loops, and as each other's transpose."""

import itertools

import pytest
import torch

from common.rpe import bucket_ids
from common.rpe.lookup import bucket_sum, look_up

IDS = {"one table": bucket_ids((2, 3), "product", 1.0), "two tables": bucket_ids((3, 2), "cross", 1.0)}
BUCKETS = 25  # more than either method has


@pytest.mark.parametrize("kind", IDS)
def test_equal_loops(kind, rng):
    ids = IDS[kind]
    table = torch.randn(2, 3, 6, BUCKETS, generator=rng, dtype=torch.float64)
    values = torch.randn(2, 3, 6, 6, generator=rng, dtype=torch.float64)
    read, summed = torch.zeros_like(values), torch.zeros_like(table)
    for b, h, i, j in itertools.product(range(2), range(3), range(6), range(6)):
        for r in range(len(ids)):
            read[b, h, i, j] += table[b, h, i, ids[r, i, j]]
            summed[b, h, i, ids[r, i, j]] += values[b, h, i, j]
    torch.testing.assert_close(look_up(table, ids), read, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bucket_sum(values, ids, BUCKETS), summed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", IDS)
def test_gradients_of_first_and_second_order(kind, rng):
    ids = IDS[kind]
    table = torch.randn(2, 6, BUCKETS, generator=rng, dtype=torch.float64, requires_grad=True)
    values = torch.randn(2, 6, 6, generator=rng, dtype=torch.float64, requires_grad=True)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x: look_up(x, ids) ** 2, table)
        assert check(lambda x: bucket_sum(x, ids, BUCKETS) ** 2, values)


def test_reading_keeps_nothing_of_the_table_for_backward(rng):
    table = torch.randn(4, 6, BUCKETS, generator=rng, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.detach()) or x.detach(), lambda x: x):
        look_up(table, IDS["one table"])
    assert kept
    assert all(not tensor.is_floating_point() and tensor.numel() == 36 for tensor in kept)


def test_an_expanded_table_gives_the_same(rng):
    row = torch.randn(2, 1, BUCKETS, generator=rng, dtype=torch.float64, requires_grad=True)
    ids, upstream = IDS["two tables"], torch.randn(2, 6, 6, generator=rng, dtype=torch.float64)
    spread = torch.autograd.grad(look_up(row.expand(-1, 6, -1), ids), row, upstream)[0]
    copied = torch.autograd.grad(look_up(row.repeat(1, 6, 1), ids), row, upstream)[0]
    torch.testing.assert_close(spread, copied, rtol=1e-12, atol=1e-12)


def test_maps_over_a_batch(rng):
    table = torch.randn(4, 6, BUCKETS, generator=rng)
    assert torch.equal(torch.vmap(lambda x: look_up(x, IDS["one table"]))(table), look_up(table, IDS["one table"]))
