"""Attention under a bias that is read from compact tables: no tensor of queries times keys outlives a chunk of heads.

With autograd, a bias that needs a gradient keeps the attention weights of every image, head and layer: for a
transformer of 196 tokens more than all its other activations. Here forward and backward go over the batch in chunks
that stay in a CPU's cache, and the backward pass computes the weights of a chunk again. The idea is that of
FlashAttention (https://arxiv.org/abs/2205.14135), with the bias B_ij = slope_k . M_i + intercept_k, k = d(i, j).
Shape letters: B batch, H heads, G head groups (H or 1), N queries and keys, K buckets, R bucket tables, d channels.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from common.rpe.lookup import look_up

__all__ = ["compact_attention"]

# Logits in flight, per chunk: 4 MiB in float32.
_CHUNK = 1024 * 1024


def compact_attention(
    query: Tensor, key: Tensor, value: Tensor, slope: Tensor, intercept: Tensor, centres: Tensor, ids: Tensor
) -> Tensor:
    """softmax(query key^T / sqrt(d) + B) value, with B_ij = sum_r f[i, ids[r, i, j]], f[i, k] = centres_i . slope_k +
    intercept_k. Float32 or float64, on any device; meant for CPUs.

    Args:
        query, key, value: [B, H, N, d].
        slope: [1 or B, G, K, 2].
        intercept: [B, G, K].
        centres: [N, 2]; takes no gradient.
        ids: [R, N, N] int64.

    Returns:
        [B, H, N, d].
    """
    heads = query.shape[1]
    out: Tensor = _CompactAttention.apply(
        query, key, value, slope.expand(-1, heads, -1, -1), intercept.expand(-1, heads, -1), centres, ids
    )
    return out


def _chunks(batch: int, heads: int, positions: int) -> Iterator[tuple[slice, slice]]:
    """Images and heads of one chunk after the other."""
    images = max(1, _CHUNK // (heads * positions**2))
    some = heads if images > 1 else min(heads, max(1, _CHUNK // positions**2))
    for image in range(0, batch, images):
        for head in range(0, heads, some):
            yield slice(image, image + images), slice(head, head + some)


def _flat(x: Tensor) -> Tensor:
    """[b, h, ...] to [b h, ...] without a copy: a chunk is whole images, or heads of one."""
    return x.view(-1, *x.shape[2:])


def _weights(query: Tensor, key: Tensor, table: Tensor, ids: Tensor, buffer: Tensor) -> Tensor:
    """Attention weights of a chunk [b, h, N, N], in the buffer's memory."""
    images, heads, positions, channels = query.shape
    shape = (images, heads, positions, positions)
    weights = buffer[: images * heads * positions**2].view(shape)
    torch.gather(table, -1, ids[0].expand(shape), out=weights)
    for more in ids[1:]:
        weights += table.gather(-1, more.expand(shape))
    flat = _flat(weights).baddbmm_(_flat(query), _flat(key).mT, alpha=channels**-0.5)
    torch.softmax(flat, -1, out=flat)
    return weights


class _CompactAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, slope: Tensor, intercept: Tensor, centres: Tensor, ids: Tensor
    ) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        batch, heads, positions, _ = query.shape
        out = torch.empty_like(value)
        buffer = query.new_empty(min(batch * heads * positions**2, max(_CHUNK, positions**2)))
        slope = slope.expand(batch, -1, -1, -1)
        for chunk in _chunks(batch, heads, positions):
            table = centres @ slope[chunk].mT + intercept[chunk].unsqueeze(-2)
            weights = _weights(query[chunk], key[chunk], table, ids, buffer)
            torch.bmm(weights.flatten(0, 1), _flat(value[chunk]), out=_flat(out[chunk]))
        # In memory as the next layer wants it, channels of all heads side by side: it would make this copy otherwise,
        # and autograd would keep both.
        return out.transpose(1, 2).contiguous().transpose(1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return _differentiable_backward(ctx.saved_tensors[:-1], ctx.needs_input_grad, grad)
        query, key, value, shared_slope, intercept, centres, ids, out = ctx.saved_tensors
        query, key, value, grad = query.contiguous(), key.contiguous(), value.contiguous(), grad.contiguous()
        batch, heads, positions, channels = query.shape
        buckets = intercept.shape[-1]
        slope = shared_slope.expand(batch, -1, -1, -1)
        d_query, d_key, d_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        d_slope = torch.zeros_like(shared_slope, memory_format=torch.contiguous_format)
        d_intercept = torch.empty_like(intercept, memory_format=torch.contiguous_format)
        # sum_j dP_ij P_ij, which softmax's backward subtracts, is also the product of the output and its gradient.
        along = (grad * out).sum(-1, keepdim=True)
        buffer, second = query.new_empty(2, min(batch * heads * positions**2, max(_CHUNK, positions**2)))
        scale = channels**-0.5
        for chunk in _chunks(batch, heads, positions):
            table = centres @ slope[chunk].mT + intercept[chunk].unsqueeze(-2)
            weights = _weights(query[chunk], key[chunk], table, ids, buffer)
            upstream, flat = _flat(grad[chunk]), _flat(weights)
            torch.bmm(flat.mT, upstream, out=_flat(d_value[chunk]))
            d_logits = second[: weights.numel()].view_as(weights)
            flat = torch.bmm(upstream, _flat(value[chunk]).mT, out=_flat(d_logits))
            d_logits.sub_(along[chunk]).mul_(weights)
            torch.bmm(flat, _flat(key[chunk]), out=_flat(d_query[chunk]))
            torch.bmm(flat.mT, _flat(query[chunk]), out=_flat(d_key[chunk]))
            d_table = table.new_zeros(*d_logits.shape[:-1], buckets)
            for tables in ids:
                d_table.scatter_add_(-1, tables.expand_as(d_logits), d_logits)
            d_intercept[chunk] = d_table.sum(-2)
            chunk_slope = d_table.mT @ centres
            if len(shared_slope) == 1:
                d_slope[:, chunk[1]] += chunk_slope.sum(0)
            else:
                d_slope[chunk] = chunk_slope
        return d_query.mul_(scale), d_key.mul_(scale), d_value, d_slope, d_intercept, None, None


def _differentiable_backward(
    inputs: Sequence[Tensor], wanted: Sequence[bool], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The backward pass where it is to be differentiated itself (create_graph): by autograd, all at once."""
    query, key, value, slope, intercept, centres, ids = inputs
    bias = look_up(centres @ slope.mT + intercept.unsqueeze(-2), ids)
    out = ((query * query.shape[-1] ** -0.5) @ key.mT + bias).softmax(-1) @ value
    leaves = [tensor for tensor, needed in zip(inputs, wanted, strict=True) if needed]
    found = iter(torch.autograd.grad(out, leaves, grad, create_graph=True))
    return tuple(next(found) if needed else None for needed in wanted)
