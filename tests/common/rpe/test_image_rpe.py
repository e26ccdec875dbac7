"""iRPE against its definition as loops over queries and keys."""

import math

import pytest
import torch

from common.rpe import ImageRPE, attention, bucket_ids
from common.rpe.image_rpe import ImageRPEPlaces

BATCH, HEADS, CHANNELS, GRID = 2, 2, 3, (2, 3)
PLACES = ImageRPEPlaces.__args__


def filled(rng, **settings):
    rpe = ImageRPE(HEADS, CHANNELS, 2, **settings).double()
    with torch.no_grad():
        for parameter in rpe.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return rpe


def definition(rpe, layer, query, key, value, extra_tokens):
    """[B, H, N, d], query by query; gradients follow from plain tensor arithmetic."""
    ids = bucket_ids(GRID, rpe.method, rpe.ratio, extra_tokens=extra_tokens)
    tokens, scale = query.shape[2], 1 / math.sqrt(CHANNELS)
    rows = []
    for b in range(BATCH):
        for h in range(HEADS):

            def table(on, h=h):
                own = on[layer]
                return own[h if len(own) > 1 else 0]

            for i in range(tokens):
                q = query[b, h, i] * scale
                logits = []
                for j in range(tokens):
                    logit = q @ key[b, h, j]
                    for ids_r in ids:
                        there, back = ids_r[i, j], ids_r[j, i]
                        if rpe.on_keys is not None:
                            own = table(rpe.on_keys)
                            logit = logit + (q @ own[:, there] if rpe.mode == "contextual" else own[there])
                        if rpe.on_queries is not None:
                            own = table(rpe.on_queries)
                            k = key[b, h, j] * scale
                            logit = logit + (k @ own[:, back] if rpe.mode == "contextual" else own[back])
                    logits.append(logit)
                weights = torch.stack(logits).softmax(0)
                out = 0
                for j in range(tokens):
                    encoded = value[b, h, j]
                    if rpe.on_values is not None:
                        encoded = encoded + sum(table(rpe.on_values)[ids_r[i, j]] for ids_r in ids)
                    out = out + weights[j] * encoded
                rows.append(out)
    return torch.stack(rows).view(BATCH, HEADS, tokens, CHANNELS)


@pytest.mark.parametrize("extra_tokens", [0, 2])
@pytest.mark.parametrize("method", ["product", "euclidean", "quant", "cross"])
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize(
    ("mode", "places"), [("contextual", p) for p in PLACES] + [("bias", p) for p in ("k", "q", "qk")]
)
def test_equals_the_definition(mode, places, per_head, method, extra_tokens, rng):
    rpe = filled(rng, mode=mode, places=places, per_head=per_head, method=method, extra_tokens=extra_tokens)
    tokens = extra_tokens + GRID[0] * GRID[1]
    qkv = [torch.randn(BATCH, HEADS, tokens, CHANNELS, generator=rng, dtype=torch.float64) for _ in range(3)]
    leaves = [tensor.requires_grad_() for tensor in qkv] + list(rpe.parameters())
    found = attention(*qkv, rpe(GRID)[1])
    expected = definition(rpe, 1, *qkv, extra_tokens)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    upstream = torch.randn(found.shape, generator=rng, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(found, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_fresh_changes_nothing(rng):
    qkv = [torch.randn(BATCH, HEADS, 6, CHANNELS, generator=rng, dtype=torch.float64) for _ in range(3)]
    plain = attention(*qkv)
    for places in PLACES:
        encoded = attention(*qkv, ImageRPE(HEADS, CHANNELS, places=places).double()(GRID)[0])
        torch.testing.assert_close(encoded, plain, rtol=1e-12, atol=1e-12)


def test_the_grid_may_change_and_windows_may_lead(rng):
    rpe = filled(rng, places="qkv")
    query, key, value = (torch.randn(2, 4, HEADS, 12, CHANNELS, generator=rng).double() for _ in range(3))
    out = attention(query, key, value, rpe((3, 4))[0])
    for w in range(4):
        alone = attention(query[:, w], key[:, w], value[:, w], rpe((3, 4))[0])
        torch.testing.assert_close(out[:, w], alone, rtol=1e-11, atol=1e-12)


def test_values_cannot_be_encoded_by_the_fused_kernel(rng):
    qkv = [torch.randn(1, HEADS, 6, CHANNELS, generator=rng) for _ in range(3)]
    with pytest.raises(ValueError, match="fused attention cannot encode values"):
        attention(*qkv, ImageRPE(HEADS, CHANNELS, places="kv")(GRID)[0], implementation="fused")


def test_bad_settings():
    for name in ("num_heads", "head_dim", "num_layers"):
        with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
            ImageRPE(**{"num_heads": 2, "head_dim": 3, name: 0})
    with pytest.raises(ValueError, match="mode must be contextual or bias, got 'ctx'"):
        ImageRPE(2, 3, mode="ctx")
    with pytest.raises(ValueError, match="places must be one of k, q, v, qk, kv, qv, qkv, got 'x'"):
        ImageRPE(2, 3, places="x")
    with pytest.raises(ValueError, match="places must not hold v, got 'qkv'"):
        ImageRPE(2, 3, mode="bias", places="qkv")
