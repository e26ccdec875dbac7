"""Scaled dot-product attention that takes any additive bias.

Sources: the bias is added after the scaling by 1 / sqrt(d), as all public KP-RPE, iRPE and Swin code does (the papers
write it before). "fused" is torch's scaled_dot_product_attention; "explicit" writes the softmax out, which is faster
on small windows and wherever the bias needs a gradient on a CPU.
Shape letters: B batch, H heads, N queries and keys, d channels of a head.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

__all__ = ["attention"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    implementation: Literal["fused", "explicit"] = "fused",
) -> Tensor:
    """softmax(query key^T / sqrt(d) + bias) value.

    Args:
        query, key, value: [..., H, N, d].
        bias: broadcastable to [..., H, N, N]; cast to the dtype of `query` here, since a float32 mask beside
            half-precision queries can be silently wrong in some fused kernels.
        dropout: probability that an attention weight is dropped; pass 0 outside training.
        implementation: see above. Both give the same values and gradients within float error.

    Returns:
        [..., H, N, d] in the dtype of `value`.

    Raises:
        ValueError: unknown implementation, or a bias whose last two axes do not fit.
    """
    if bias is not None:
        if bias.shape[-2:] != (query.shape[-2], key.shape[-2]):
            raise ValueError(
                f"bias must end in [{query.shape[-2]}, {key.shape[-2]}] (queries, keys), got {list(bias.shape)}"
            )
        bias = bias.to(query.dtype)
    if implementation == "fused":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    if implementation != "explicit":
        raise ValueError(f"implementation must be fused or explicit, got {implementation!r}")
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return F.dropout(logits.softmax(dim=-1), dropout).to(value.dtype) @ value
