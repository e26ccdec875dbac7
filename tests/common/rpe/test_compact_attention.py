"""Attention from compact tables against attention with the bias written out, chunk by chunk."""

import pytest
import torch

import common.rpe.compact_attention as compact_module
from common.rpe import KeypointRPE, attention, bucket_ids, grid_centres
from common.rpe.compact_attention import compact_attention

BATCH, HEADS, CHANNELS, GRID, EXTRA = 3, 4, 5, (2, 3), 1
TOKENS = EXTRA + GRID[0] * GRID[1]
# Logits at once: everything, two images, one image, two heads, less than a head.
CHUNKS = [10**6, 2 * HEADS * TOKENS**2, HEADS * TOKENS**2, 2 * TOKENS**2, 1]


@pytest.fixture
def tables(rng):
    """Centres and a function that draws leaves: query, key, value, slope, intercept."""

    def leaves(method, slopes, groups):
        ids = bucket_ids(GRID, method, 1.0, extra_tokens=EXTRA)
        buckets = int(ids.max()) + 1
        shapes = [(BATCH, HEADS, TOKENS, CHANNELS)] * 3 + [(slopes, groups, buckets, 2), (BATCH, groups, buckets)]
        drawn = [torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in shapes]
        return drawn, grid_centres(GRID, torch.float64, extra_tokens=EXTRA), ids

    return leaves


def written_out(query, key, value, slope, intercept, centres, ids):
    """The definition: the bias of every pair, one by one, then softmax."""
    bias = torch.zeros(BATCH, HEADS, TOKENS, TOKENS, dtype=torch.float64)
    slope, intercept = slope.expand(BATCH, HEADS, -1, -1), intercept.expand(-1, HEADS, -1)
    for table in ids:
        for i in range(TOKENS):
            for j in range(TOKENS):
                k = table[i, j]
                bias[:, :, i, j] = bias[:, :, i, j] + slope[:, :, k] @ centres[i] + intercept[:, :, k]
    return ((query @ key.mT) / CHANNELS**0.5 + bias).softmax(-1) @ value


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(
    ("method", "slopes", "groups"), [("product", 1, HEADS), ("cross", BATCH, HEADS), ("quant", 1, 1)]
)
def test_equals_the_definition_in_values_and_gradients(method, slopes, groups, chunk, tables, rng, monkeypatch):
    monkeypatch.setattr(compact_module, "_CHUNK", chunk)
    leaves, centres, ids = tables(method, slopes, groups)
    found, expected = compact_attention(*leaves, centres, ids), written_out(*leaves, centres, ids)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    upstream = torch.randn(found.shape, generator=rng, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(found, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [10**6, 1])
def test_gradcheck(chunk, tables, monkeypatch):
    monkeypatch.setattr(compact_module, "_CHUNK", chunk)
    leaves, centres, ids = tables("product", BATCH, 1)
    assert torch.autograd.gradcheck(lambda *x: compact_attention(*x, centres, ids), leaves)


def test_second_derivatives(tables):
    leaves, centres, ids = tables("cross", 1, 1)
    small = [leaf[:1, :1, :3] if leaf.ndim == 4 and leaf.shape[-1] == CHANNELS else leaf[:1] for leaf in leaves]
    small = [leaf.detach().requires_grad_() for leaf in small]
    assert torch.autograd.gradgradcheck(lambda *x: compact_attention(*x, centres[:3], ids[:, :3, :3]), small)


def test_a_gradient_penalty_equals_that_of_the_written_out_bias(tables):
    leaves, centres, ids = tables("product", BATCH, HEADS)
    results = []
    for function in (compact_attention, written_out):
        first = torch.autograd.grad(function(*leaves, centres, ids).square().sum(), leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("visible", [False, True])
@pytest.mark.parametrize("form", ["absolute", "relative", "multihead"])
@pytest.mark.parametrize("method", ["product", "cross"])
def test_keypoint_rpe_gives_the_same_in_every_implementation(method, form, visible, rng):
    grid_hw = (4, 3)
    rpe = KeypointRPE(5, HEADS, 2, form, method=method, extra_tokens=EXTRA)
    tokens = EXTRA + 12
    with torch.no_grad():
        for parameter in rpe.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    keypoints = torch.rand(BATCH, 5, 2, generator=rng).requires_grad_()
    visibility = torch.rand(BATCH, 5, generator=rng).requires_grad_() if visible else None
    qkv = [torch.randn(BATCH, HEADS, tokens, CHANNELS, generator=rng).requires_grad_() for _ in range(3)]
    upstream = torch.randn(BATCH, HEADS, tokens, CHANNELS, generator=rng)
    leaves = [*qkv, keypoints, *rpe.parameters(), *([visibility] if visible else [])]
    results = {}
    for implementation in ("explicit", "fused", "compact", "auto"):
        bias = rpe(keypoints, grid_hw, visibility).layer(1)
        out = attention(*qkv, bias, implementation=implementation)
        results[implementation] = [out, *torch.autograd.grad(out, leaves, upstream)]
    direct = KeypointRPE(5, HEADS, 2, form, method=method, extra_tokens=EXTRA, implementation="direct")
    direct.load_state_dict(rpe.state_dict())
    leaves = [*qkv, keypoints, *direct.parameters(), *([visibility] if visible else [])]
    out = attention(*qkv, direct(keypoints, grid_hw, visibility)[1], implementation="explicit")
    expected = [out, *torch.autograd.grad(out, leaves, upstream)]
    for found in results.values():
        torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
        for a, b in zip(found[1:], expected[1:], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    # On a CPU, and where the bias is trained, that is what "auto" is.
    assert all(torch.equal(a, b) for a, b in zip(results["auto"], results["compact"], strict=True))


def kept_bytes(batch, implementation, rng):
    """What autograd keeps of one layer: bytes of the distinct storages, queries, keys and values and output apart."""
    rpe = KeypointRPE(5, 8, 1)
    qkv = [torch.randn(batch, 8, 196, 16, generator=rng, requires_grad=True) for _ in range(3)]
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = attention(
            *qkv, rpe(torch.rand(batch, 5, 2, generator=rng), (14, 14)).layer(0), implementation=implementation
        )
    for tensor in (*qkv, out):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def test_what_grows_with_the_batch_is_a_few_numbers_an_image(rng):
    growth = kept_bytes(4, "auto", rng) - kept_bytes(2, "auto", rng)
    theirs = 2 * 196 * 8 * 49 * 4  # the authors' [B, N, H K] of a layer, for two more images
    assert 0 < growth <= theirs / 100
    assert kept_bytes(4, "explicit", rng) - kept_bytes(2, "explicit", rng) >= 2 * 8 * 196 * 196 * 4


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"dropout": 0.5}, "keypoint"), ({"mask": torch.zeros(12, 12)}, "keypoint"), ({}, "tensor"), ({}, "direct")],
)
def test_compact_is_refused_where_it_cannot_be(options, kind, rng):
    rpe = KeypointRPE(5, HEADS, implementation="direct" if kind == "direct" else "affine")
    bias = rpe(torch.rand(2, 5, 2, generator=rng), (3, 4)).layer(0)
    qkv = [torch.randn(2, HEADS, 12, CHANNELS, generator=rng) for _ in range(3)]
    with pytest.raises(ValueError, match="compact attention takes a bias with tables"):
        attention(*qkv, bias.tensor() if kind == "tensor" else bias, implementation="compact", **options)
