"""Scaled dot-product attention that takes any additive bias, and biases that depend on the queries and keys.

Sources: the bias is added after the scaling by 1 / sqrt(d), as all public KP-RPE, iRPE and Swin code does (the papers
write it before). "fused" is torch's scaled_dot_product_attention; "explicit" writes the softmax out.
Shape letters: H heads, N queries and keys, d channels of a head, `...` batch and, in windows, window.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from common.rpe.compact_attention import compact_attention
from common.rpe.narrow_softmax import VECTOR, narrow_softmax

__all__ = ["AttentionBias", "AttentionImplementation", "CompactTables", "attention"]

AttentionImplementation = Literal["auto", "fused", "explicit", "compact"]


class CompactTables(NamedTuple):
    """A bias B_ij = sum_r slope[k] . centres[i] + intercept[k], k = ids[r, i, j]: see `compact_attention`."""

    slope: Tensor
    """[1 or B, G, K, 2]"""

    intercept: Tensor
    """[B, G, K]"""

    centres: Tensor
    """[N, 2]"""

    ids: Tensor
    """[R, N, N]"""


class AttentionBias:
    """A position encoding that is more than a tensor: computed late, or multiplied with queries, keys or weights."""

    on_values = False
    """Whether `values` adds anything. If so, attention must be written out."""

    def logits(self, query: Tensor, key: Tensor) -> Tensor | None:
        """What is added to the scaled logits: [..., H, N, d] twice to what broadcasts to [..., H, N, N], or None."""
        raise NotImplementedError

    def values(self, weights: Tensor) -> Tensor:
        """What is added to the output: attention weights [..., H, N, N] to [..., H, N, d]."""
        raise NotImplementedError

    def compact(self) -> CompactTables | None:
        """The tables that the bias is read from, if it is."""
        return None


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | AttentionBias | None = None,
    dropout: float = 0.0,
    implementation: AttentionImplementation = "auto",
    mask: Tensor | None = None,
) -> Tensor:
    """softmax(query key^T / sqrt(d) + bias + mask) value.

    Args:
        query, key, value: [..., H, N, d].
        bias: broadcastable to [..., H, N, N], or an encoding that computes it; cast to the dtype of `query` here,
            since a float32 mask beside half-precision queries can be silently wrong in some fused kernels.
        dropout: probability that an attention weight is dropped; pass 0 outside training.
        implementation: "fused" is torch's kernel, "explicit" writes the softmax out, "compact" reads the bias from
            tables in chunks (see `compact_attention`). All give the same values and gradients within float error.
            "auto" is "fused" but for two cases: where values are encoded, and where the bias needs a gradient on a
            CPU, for which torch has no fused kernel; it is "compact" there if the bias has tables and the dtype is
            float32 or float64, else "explicit".
        mask: a second bias, such as that of shifted windows.

    Returns:
        [..., H, N, d] in the dtype of `value`.

    Raises:
        ValueError: unknown implementation, a bias or mask whose last two axes do not fit, "fused" with encoded
            values, or "compact" where there are no tables, or a mask, or dropout.
    """
    if implementation not in get_args(AttentionImplementation):
        raise ValueError(
            f"implementation must be one of {', '.join(get_args(AttentionImplementation))}, got {implementation!r}"
        )
    if implementation == "compact" or (implementation == "auto" and _may_be_compact(query, dropout, mask)):
        tables = bias.compact() if isinstance(bias, AttentionBias) else None
        if implementation == "compact":
            if tables is None or mask is not None or dropout:
                raise ValueError("compact attention takes a bias with tables (KeypointRPE's), no mask and no dropout")
            return compact_attention(query, key, value, *tables)
        if tables is not None and _needs_gradient(*tables) and tables.slope.dtype == query.dtype:
            return compact_attention(query, key, value, *tables)
    encoding = None
    if isinstance(bias, AttentionBias):
        encoding, bias = bias, bias.logits(query, key)
    for name, term in (("bias", bias), ("mask", mask)):
        if term is not None and term.shape[-2:] != (query.shape[-2], key.shape[-2]):
            raise ValueError(
                f"{name} must end in [{query.shape[-2]}, {key.shape[-2]}] (queries, keys), got {list(term.shape)}"
            )
    on_values = encoding is not None and encoding.on_values
    if implementation == "fused" and on_values:
        raise ValueError("fused attention cannot encode values, use auto or explicit")
    written_out = on_values or (query.device.type == "cpu" and _needs_gradient(bias))
    bias = None if bias is None else bias.to(query.dtype)
    mask = None if mask is None else mask.to(query.dtype)
    if implementation == "fused" or (implementation == "auto" and not written_out):
        both = mask if bias is None else bias if mask is None else bias + mask
        return F.scaled_dot_product_attention(query, key, value, attn_mask=both, dropout_p=dropout)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    for term in _terms(bias, mask, logits):
        logits = _add(logits, term)
    weights = F.dropout(_softmax(logits), dropout).to(value.dtype)
    out = weights @ value
    return out if encoding is None or not on_values else out + encoding.values(weights)


def _softmax(logits: Tensor) -> Tensor:
    narrow = logits.device.type == "cpu" and logits.shape[-1] < VECTOR and logits.dtype == torch.float32
    return narrow_softmax(logits) if narrow and not torch.compiler.is_compiling() else logits.softmax(dim=-1)


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _may_be_compact(query: Tensor, dropout: float, mask: Tensor | None) -> bool:
    return (
        query.device.type == "cpu"
        and query.ndim == 4
        and query.dtype in (torch.float32, torch.float64)
        and dropout == 0
        and mask is None
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def _terms(bias: Tensor | None, mask: Tensor | None, logits: Tensor) -> list[Tensor]:
    """Bias and mask, summed before where their sum is smaller than the logits."""
    if bias is not None and mask is not None:
        # Not Size.numel, which would fix the batch size of a model that is exported with any.
        if math.prod(torch.broadcast_shapes(bias.shape, mask.shape)) < math.prod(logits.shape):
            return [bias + mask]
        return [bias, mask]
    return [term for term in (bias, mask) if term is not None]


def _add(logits: Tensor, term: Tensor) -> Tensor:
    """Sum, in the memory of the logits where the shapes allow: it is as large as anything in a transformer."""
    if torch.broadcast_shapes(logits.shape, term.shape) == logits.shape:
        return logits.add_(term)
    return logits + term
