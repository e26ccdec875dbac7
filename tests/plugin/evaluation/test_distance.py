"""Distances against their definition as a loop, in strips, in other precisions, and bad input."""

import pytest
import torch

from plugin.evaluation.distance import distance_strips, part_distance


def distance_by_loop(probe, gallery, metric):
    out = torch.zeros(len(probe), len(gallery), dtype=torch.float64)
    for i, x in enumerate(probe.double()):
        for j, y in enumerate(gallery.double()):
            for part in range(x.shape[1]):
                a, b = x[:, part], y[:, part]
                cosine = (a @ b) / (a.norm() * b.norm())
                out[i, j] += (1 - cosine if metric == "cos" else (a - b).norm()) / x.shape[1]
    return out


@pytest.mark.parametrize("metric", ["euc", "cos"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distance_matches_definition(metric, dtype, rng):
    probe = torch.randn(3, 5, 2, generator=rng, dtype=dtype)
    gallery = torch.randn(4, 5, 2, generator=rng, dtype=dtype)
    distances = part_distance(probe, gallery, metric)
    assert distances.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    expected = distance_by_loop(probe, gallery, metric)
    torch.testing.assert_close(distances.double(), expected, rtol=0, atol=tolerance)


def test_distance_across_block_borders(rng):
    probe, gallery = torch.randn(1026, 3, 2, generator=rng), torch.randn(1030, 3, 2, generator=rng)
    expected = sum(torch.cdist(probe[..., part], gallery[..., part]) for part in range(2)) / 2
    torch.testing.assert_close(part_distance(probe, gallery), expected, rtol=0, atol=1e-5)


def test_half_precision_and_autocast_still_compute_in_float32(rng):
    probe, gallery = torch.randn(4, 64, 2, generator=rng), torch.randn(5, 64, 2, generator=rng)
    before = torch.get_float32_matmul_precision()
    expected = part_distance(probe, gallery)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(part_distance(probe, gallery), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    halved = part_distance(probe.half(), gallery.half())
    assert torch.equal(halved, part_distance(probe.half().float(), gallery.half().float()))
    assert halved.dtype == torch.float32


def test_embedding_of_the_training_graph_gives_no_gradient(rng):
    probe = torch.randn(2, 3, 2, generator=rng, requires_grad=True)
    assert not part_distance(probe, probe.detach()).requires_grad


@pytest.mark.gpu
def test_distance_on_a_gpu_with_tf32_allowed(rng):
    probe, gallery = torch.randn(40, 256, 3, generator=rng), torch.randn(50, 256, 3, generator=rng)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        distances = part_distance(probe.cuda(), gallery.cuda())
    finally:
        torch.set_float32_matmul_precision(before)
    assert distances.is_cuda
    torch.testing.assert_close(distances.cpu(), part_distance(probe, gallery), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("probe", "gallery", "metric", "match"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3, 1), "euc", r"probe must be floating point of shape \[n, c, p\], got"),
        (torch.zeros(2, 3, 1), torch.zeros(2, 3, 1).int(), "euc", r"gallery must be .* got torch.int32 \[2, 3, 1\]"),
        (torch.zeros(0, 3, 1), torch.zeros(2, 3, 1), "euc", r"probe must be .* \[0, 3, 1\]"),
        (torch.zeros(2, 3, 1), torch.zeros(2, 4, 1), "euc", r"differ in \[c, p\]: \[2, 3, 1\] and \[2, 4, 1\]"),
        (torch.zeros(2, 3, 1), torch.zeros(2, 3, 1), "l1", "metric must be one of euc, cos, got 'l1'"),
    ],
)
def test_distance_refuses(probe, gallery, metric, match):
    with pytest.raises(ValueError, match=match):
        part_distance(probe, gallery, metric)


def test_non_finite_embeddings_are_counted_and_named():
    gallery = torch.zeros(12, 3, 2)
    gallery[[2, 3, 5, 6, 8, 11], 1, 1] = float("nan")
    gallery[4, 0, 0] = float("inf")
    with pytest.raises(
        ValueError, match=r"7 of 12 gallery embeddings hold NaN or infinity, first: 2, 3, 4, 5, 6, \.\.\."
    ):
        part_distance(torch.zeros(1, 3, 2), gallery)


def test_strips_are_the_rows_of_the_whole(rng):
    probe, gallery = torch.randn(7, 5, 2, generator=rng), torch.randn(4, 5, 2, generator=rng)
    strips = list(distance_strips(probe, gallery, rows=3))
    assert [(rows.start, rows.stop) for rows, _ in strips] == [(0, 3), (3, 6), (6, 7)]
    whole = torch.cat([distances for _, distances in strips])
    torch.testing.assert_close(whole, part_distance(probe, gallery), rtol=0, atol=1e-6)
    assert torch.is_grad_enabled()


def test_strips_refuse_at_the_call():
    with pytest.raises(ValueError, match=r"differ in \[c, p\]"):
        distance_strips(torch.zeros(2, 3, 1), torch.zeros(2, 4, 1))
