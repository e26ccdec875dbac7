"""Pooling and per-part heads, with the names and parameter layout that OpenGait's models have.

Shape letters: n sequences, c channels, s frames, p parts (horizontal stripes).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["HorizontalPoolingPyramid", "PackSequenceWrapper", "SeparateBNNecks", "SeparateFCs"]


class HorizontalPoolingPyramid:
    """Mean plus maximum over horizontal stripes, for each number of stripes in `bin_num`."""

    def __init__(self, bin_num: Sequence[int]) -> None:
        self.bin_num = list(bin_num)

    def __call__(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to [n, c, sum(bin_num)]."""
        stripes = (x.flatten(2).unflatten(2, (bins, -1)) for bins in self.bin_num)
        return torch.cat([stripe.mean(-1) + stripe.amax(-1) for stripe in stripes], dim=-1)


class PackSequenceWrapper(nn.Module):
    """Pool over frames, of equally long sequences or of sequences laid end to end.

    Args:
        pooling_func: called as `pooling_func(x, dim=...)`; what it returns is returned.
    """

    def __init__(self, pooling_func: Callable[..., Any]) -> None:
        super().__init__()
        self.pooling_func = pooling_func

    def forward(self, seqs: Tensor, seqL: Tensor | None, dim: int = 2, options: dict[str, Any] | None = None) -> Any:
        """[n, c, s, ...] with seqL None, or [1, c, sum of seqL, ...] with seqL [1, n], to what pools s away."""
        options = options or {}
        if seqL is None:
            return self.pooling_func(seqs, **options)
        pooled = [self.pooling_func(part, **options) for part in seqs.split(seqL[0].tolist(), dim)]
        if isinstance(pooled[0], Tensor):
            return torch.cat(pooled)
        return [torch.cat(parts) for parts in zip(*pooled, strict=True)]


def _by_part(x: Tensor, weight: Tensor) -> Tensor:
    """[n, c_in, p] times [p, c_in, c_out], part by part, to [n, c_out, p]."""
    return (x.permute(2, 0, 1).contiguous() @ weight).permute(1, 2, 0).contiguous()


class SeparateFCs(nn.Module):
    """One linear map a part, without bias."""

    def __init__(self, parts_num: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fc_bin = nn.Parameter(nn.init.xavier_uniform_(torch.empty(parts_num, in_channels, out_channels)))

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, p] to [n, c_out, p]."""
        return _by_part(x, self.fc_bin)


class SeparateBNNecks(nn.Module):
    """Batch norm, then one classifier a part, on the unit sphere if `norm`."""

    def __init__(
        self, parts_num: int, in_channels: int, class_num: int, norm: bool = True, parallel_BN1d: bool = True
    ) -> None:
        super().__init__()
        self.norm = norm
        self.parallel_bn1d = parallel_BN1d
        self.fc_bin = nn.Parameter(nn.init.xavier_uniform_(torch.empty(parts_num, in_channels, class_num)))
        self.bn1d: nn.Module = (
            nn.BatchNorm1d(in_channels * parts_num)
            if parallel_BN1d
            else nn.ModuleList(nn.BatchNorm1d(in_channels) for _ in range(parts_num))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[n, c, p] to normalised features [n, c, p] and logits [n, class_num, p]."""
        if self.parallel_bn1d:
            x = self.bn1d(x.flatten(1)).view_as(x)
        else:
            assert isinstance(self.bn1d, nn.ModuleList)
            x = torch.stack([bn(part) for bn, part in zip(self.bn1d, x.unbind(-1), strict=True)], dim=-1)
        weight: Tensor = self.fc_bin
        if self.norm:
            x, weight = F.normalize(x, dim=1), F.normalize(weight, dim=1)
        return x, _by_part(x, weight)
