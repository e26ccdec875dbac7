"""Batch norm whose statistics are those of the batch of all processes, on CPUs too.

torch.nn.SyncBatchNorm does it on CUDA devices and refuses others. Several processes with it train as one process with
the whole batch does.
Shape letters: N batch, C channels, `...` any further axes.
"""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as collective
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.runtime.distribution import world_size

__all__ = ["CPUSyncBatchNorm", "synchronise_batch_norm"]


class CPUSyncBatchNorm(_BatchNorm):
    """Batch norm over [N, C, ...] of all processes; with one process, or while evaluating, the ordinary one."""

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"expected [N, C, ...], got {list(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] to the same."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = torch.tensor([float(x.numel() // x.shape[1])])
        dist.all_reduce(count)
        # Two passes, since the difference of two large sums would lose what float32 has.
        mean = collective.all_reduce(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = collective.all_reduce(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._remember(mean.detach(), variance.detach() * (count / (count - 1).clamp(min=1)))
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        return out if self.weight is None else out * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with every batch norm replaced by one over all processes; parameters and buffers are the same ones.

    Args:
        module: any; a batch norm itself gives another module.
        device: where it will be trained; torch's own is taken on CUDA.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        shared = CPUSyncBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        shared._parameters, shared._buffers = module._parameters, module._buffers
        return shared.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, synchronise_batch_norm(child, device))
    return module
