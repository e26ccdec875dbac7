"""Attention with a bias against loops over queries and keys, and its two implementations against each other."""

import math

import pytest
import torch

from common.rpe import AttentionBias, KeypointRPE, attention


def attention_by_loop(query, key, value, bias):
    """[B, H, N, d] in float64."""
    out = torch.zeros_like(value)
    batch, heads, count, channels = query.shape
    for b in range(batch):
        for h in range(heads):
            for i in range(count):
                logits = [float(query[b, h, i] @ key[b, h, j]) / math.sqrt(channels) for j in range(count)]
                if bias is not None:
                    logits = [logit + float(bias[b, h, i, j]) for j, logit in enumerate(logits)]
                total = sum(math.exp(logit) for logit in logits)
                for j in range(count):
                    out[b, h, i] += math.exp(logits[j]) / total * value[b, h, j]
    return out


@pytest.fixture
def qkv(rng):
    return [torch.randn(2, 3, 5, 4, generator=rng, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("implementation", ["fused", "explicit"])
@pytest.mark.parametrize("bias_shape", [None, (2, 3, 5, 5), (3, 5, 5), (2, 1, 5, 5), (5, 5)])
def test_equals_the_definition(implementation, bias_shape, qkv, rng):
    bias = None if bias_shape is None else torch.randn(bias_shape, generator=rng, dtype=torch.float64)
    expected = attention_by_loop(*qkv, None if bias is None else bias.expand(2, 3, 5, 5))
    out = attention(*qkv, bias, implementation=implementation)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias_shape", [(2, 3, 5, 5), (1, 3, 5, 5), (2, 1, 5, 5)])
def test_implementations_agree_in_values_and_gradients(bias_shape, qkv, rng):
    tensors = [*qkv, torch.randn(bias_shape, generator=rng, dtype=torch.float64)]
    upstream = torch.randn(2, 3, 5, 4, generator=rng, dtype=torch.float64)
    results = []
    for implementation in ("fused", "explicit"):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out = attention(*leaves, implementation=implementation)
        results.append([out, *torch.autograd.grad(out, leaves, upstream)])
    for fused, explicit in zip(*results, strict=True):
        assert explicit.abs().max() > 0
        torch.testing.assert_close(fused, explicit, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("implementation", ["fused", "explicit"])
def test_more_leading_axes(implementation, rng):
    """Windows: [F, W, H, n, d] with one bias a window, and with one for all."""
    query, key, value = (torch.randn(2, 4, 3, 6, 8, generator=rng) for _ in range(3))
    for bias in (torch.randn(2, 4, 3, 6, 6, generator=rng), torch.randn(2, 1, 3, 6, 6, generator=rng)):
        out = attention(query, key, value, bias, implementation=implementation)
        full = bias.expand(2, 4, 3, 6, 6)
        for w in range(4):
            alone = attention(query[:, w], key[:, w], value[:, w], full[:, w], implementation="explicit")
            torch.testing.assert_close(out[:, w], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["fused", "explicit"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_bias_beside_half_precision_queries(dtype, implementation, qkv, rng):
    bias = torch.randn(2, 3, 5, 5, generator=rng)
    rounded = [tensor.to(dtype) for tensor in qkv]
    out = attention(*rounded, bias, implementation=implementation)
    assert out.dtype == dtype
    assert torch.equal(out, attention(*rounded, bias.to(dtype), implementation=implementation))
    expected = attention_by_loop(*qkv, bias)
    assert (out - expected).abs().max() < 0.03
    assert (out - attention_by_loop(*qkv, None)).abs().max() > 0.3


@pytest.mark.parametrize("implementation", ["auto", "fused", "explicit"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 1e-2), (torch.bfloat16, 8e-2)])
def test_half_precision_stays_within_its_bound(dtype, bound, implementation, rng):
    """KP-RPE's biases are computed in float32 and rounded once: with biases of size 3 and values of size 1 an output is
    at most `bound` off, that of the same attention in float64."""
    rpe = KeypointRPE(5, 4)
    with torch.no_grad():
        for parameter in rpe.parameters():
            parameter.copy_(2 * torch.randn(parameter.shape, generator=rng))
    keypoints = torch.rand(3, 5, 2, generator=rng)
    qkv = [torch.randn(3, 4, 49, 16, generator=rng).to(dtype) for _ in range(3)]
    exact = rpe.double()(keypoints.double(), (7, 7))[0].detach()
    assert 2.5 < exact.std() < 5
    expected = attention(*(tensor.double() for tensor in qkv), exact, implementation="explicit")
    for trained in (False, True):
        rpe.float().requires_grad_(trained)
        out = attention(*qkv, rpe(keypoints, (7, 7)).layer(0), implementation=implementation)
        assert out.dtype == dtype
        assert (out - expected).abs().max() < bound


class OnValues(AttentionBias):
    """Adds 1 to every logit, and each query's first weight to its output."""

    on_values = True

    def logits(self, query, key):
        return torch.ones(query.shape[-2], key.shape[-2], dtype=query.dtype)

    def values(self, weights):
        return weights[..., :1].expand(*weights.shape[:-1], 4)


def test_an_encoding_of_values_is_written_out(qkv):
    plain = attention(*qkv, implementation="explicit")
    query, key, _ = qkv
    first = (query @ key.mT / 2).softmax(-1)[..., :1]
    torch.testing.assert_close(attention(*qkv, OnValues()), plain + first, rtol=1e-11, atol=1e-12)
    with pytest.raises(ValueError, match="fused attention cannot encode values, use auto or explicit"):
        attention(*qkv, OnValues(), implementation="fused")


@pytest.mark.parametrize("implementation", ["auto", "fused", "explicit"])
@pytest.mark.parametrize("bias_shape", [None, (2, 4, 3, 6, 6), (2, 1, 3, 6, 6), (3, 6, 6)])
def test_a_mask_is_a_second_bias(bias_shape, implementation, rng):
    qkv = [torch.randn(2, 4, 3, 6, 8, generator=rng, dtype=torch.float64) for _ in range(3)]
    mask = torch.randn(4, 1, 6, 6, generator=rng, dtype=torch.float64)
    bias = None if bias_shape is None else torch.randn(bias_shape, generator=rng, dtype=torch.float64)
    before = [None if tensor is None else tensor.clone() for tensor in (*qkv, bias, mask)]
    out = attention(*qkv, bias, mask=mask, implementation=implementation)
    expected = attention(*qkv, mask if bias is None else bias + mask, implementation="fused")
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)
    for tensor, copy in zip((*qkv, bias, mask), before, strict=True):
        assert tensor is None or torch.equal(tensor, copy)  # inputs are left alone
    with pytest.raises(ValueError, match=r"mask must end in \[6, 6\].*got \[6, 5\]"):
        attention(*qkv, mask=torch.zeros(6, 5))


def test_dropout_drops_only_when_asked(qkv):
    torch.manual_seed(0)
    for implementation in ("fused", "explicit"):
        still = attention(*qkv, dropout=0.0, implementation=implementation)
        assert torch.equal(still, attention(*qkv, dropout=0.0, implementation=implementation))
        query, key, value = (torch.zeros(1, 1, 200, 2) for _ in range(3))
        # Equal logits and values of 1: a row is (kept keys) / 200 / 0.75, 1 on average.
        rows = attention(query, key, value + 1, dropout=0.25, implementation=implementation)
        assert 0.98 < rows.mean() < 1.02
        assert rows.std() > 0.01


def test_bad_inputs(qkv):
    with pytest.raises(ValueError, match=r"bias must end in \[5, 5\].*got \[2, 3, 5, 4\]"):
        attention(*qkv, torch.zeros(2, 3, 5, 4))
    with pytest.raises(ValueError, match=r"bias must end in \[5, 5\]"):
        attention(*qkv, torch.zeros(5))
    with pytest.raises(ValueError, match="implementation must be one of auto, fused, explicit, compact, got 'flash'"):
        attention(*qkv, implementation="flash")
