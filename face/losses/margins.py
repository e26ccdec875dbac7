"""Margins that make the softmax over cosines harder for the right class: ArcFace, CosFace, AdaFace.

Source: Deng et al., CVPR 2019, https://arxiv.org/abs/1801.07698 (ArcFace); Wang et al., CVPR 2018,
https://arxiv.org/abs/1801.09414 (CosFace); Kim et al., CVPR 2022, https://arxiv.org/abs/2204.00964 (AdaFace). Values
are those of the public code: deepinsight/insightface@7fadd42 (losses.py of arcface_torch) and
mk-minchul/CVLface@d3d09c9 (losses/). AdaFace's first code also kept angles away from 0 and pi by 0.001; CVLface's does
not, and nor does this.
Deliberate differences from that code:

- The gradient is the loss's own. There the logits of ArcFace and AdaFace are overwritten without being recorded, so the
  margin's derivative is left out and every cosine's gradient is the scale.
- The caller's cosines stay as they are, and the right class may be a rounding error beyond 1.
- AdaFace's statistics move in training only, and a batch without a standard deviation does not spoil them.

Adding an angle a: cos(theta + a) = c cos(a) - s sin(a), where c and s = sqrt(1 - c^2) are the cosine and sine of theta.
The derivative by c, cos(a) + sin(a) c / s, has no bound as s goes to 0. An s below 0.001 is taken as 0.001 in it, which
makes it cos(a) + 1000 sin(a) at c = 1 and cos(a) - 1000 sin(a) at c = -1; in the gradient of an embedding it is
multiplied by s. Beyond theta = pi - a the cosine rises again, as in the public code, and the derivative is negative.
Shape letters: B rows of the batch (of all processes), C classes (of this process).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["AdaFace", "ArcFace", "CosFace", "Margin"]

_LEAST_SINE = 1e-3


class Margin(nn.Module):
    """Cosines to logits: the right class's cosine is changed by a subclass, then all are scaled.

    Args:
        scale: what the cosines are multiplied by.
        interclass_filtering_threshold: cosines to wrong classes above this one give a logit of 0 and no gradient, since
            such a class may well be the same person (https://arxiv.org/abs/2203.15565); 0 leaves all as they are.

    Raises:
        ValueError: scale not positive, or a threshold outside [0, 1).
    """

    def __init__(self, scale: float, interclass_filtering_threshold: float = 0.0) -> None:
        super().__init__()
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale must be positive, got {scale}")
        if not 0 <= interclass_filtering_threshold < 1:
            raise ValueError(
                f"interclass_filtering_threshold must be within [0, 1), 0 for none, "
                f"got {interclass_filtering_threshold}"
            )
        self.scale = scale
        self.interclass_filtering_threshold = interclass_filtering_threshold

    def forward(self, cosines: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Logits of a batch.

        Args:
            cosines: [B, C] floating point, of embeddings and class centres.
            labels: [B] int64, the column of a row's class; -1 where it has none here, because the row is unlabelled or
                the class another process's. Values are not inspected, that would stall a GPU.
            norms: [B] floating point, lengths of the embeddings. No gradient goes back through them.

        Returns:
            [B, C], float32, or float64 if the cosines are.

        Raises:
            ValueError: another shape, integer cosines or norms, or labels that are not int64.
        """
        _check(cosines, labels, norms)
        cosines = _at_least_float32(cosines)
        has_class = labels >= 0
        columns = labels.clamp(min=0)[:, None]
        with torch.no_grad():
            values, slopes = self._of_targets(cosines.gather(1, columns)[:, 0], _at_least_float32(norms.detach()))
        return _WithTargets.apply(
            cosines, columns, has_class, values, slopes, self.scale, self.interclass_filtering_threshold
        )

    def _of_targets(self, targets: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        """[B] cosines to the right classes and [B] norms, to what takes their place and its derivative by them, [B]."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """For printing the module."""
        threshold = self.interclass_filtering_threshold
        return f"scale={self.scale:g}" + (f", interclass_filtering_threshold={threshold:g}" if threshold else "")


class ArcFace(Margin):
    """Adds an angle to that between an embedding and its class: cos(theta + margin_rad).

    Args:
        margin_rad: the angle, in radians.
        scale, interclass_filtering_threshold: see `Margin`.

    Raises:
        ValueError: see `Margin`, or a margin outside [0, pi / 2).
    """

    def __init__(
        self, margin_rad: float = 0.5, scale: float = 64.0, interclass_filtering_threshold: float = 0.0
    ) -> None:
        super().__init__(scale, interclass_filtering_threshold)
        if not 0 <= margin_rad < math.pi / 2:
            raise ValueError(f"margin_rad must be within [0, pi / 2) radians, got {margin_rad}")
        self.margin_rad = margin_rad

    def _of_targets(self, targets: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        return _add_angle(targets, torch.full_like(targets, self.margin_rad))

    def extra_repr(self) -> str:
        """For printing the module."""
        return f"margin_rad={self.margin_rad:g}, {super().extra_repr()}"


class CosFace(Margin):
    """Takes a margin off the cosine between an embedding and its class. Without a margin it is NormFace.

    Args:
        margin: a cosine.
        scale, interclass_filtering_threshold: see `Margin`.

    Raises:
        ValueError: see `Margin`, or a margin outside [0, 1].
    """

    def __init__(self, margin: float = 0.4, scale: float = 64.0, interclass_filtering_threshold: float = 0.0) -> None:
        super().__init__(scale, interclass_filtering_threshold)
        if not 0 <= margin <= 1:
            raise ValueError(f"margin must be a cosine within [0, 1], got {margin}")
        self.margin = margin

    def _of_targets(self, targets: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        return targets - self.margin, torch.ones_like(targets)

    def extra_repr(self) -> str:
        """For printing the module."""
        return f"margin={self.margin:g}, {super().extra_repr()}"


class AdaFace(Margin):
    """A margin that grows with image quality, which the norm of the embedding stands for.

    With g = (norm - mean) / (std + 0.001) * h, kept within [-1, 1], the right class has
    cos(theta - margin g) - (margin + margin g): the one number `margin` is both an angle in radians and a cosine.
    Norms are kept within [0.001, 100] for this.

    The mean and the standard deviation (the unbiased one) move towards those of each batch in training, before they are
    used, and stay in evaluation. All rows count, with a label or without; the batch must therefore be that of all
    processes, as `PartialFC` gives it. A batch of one row has no standard deviation and moves the mean only; one with
    a NaN among its norms, whose loss will not be finite either, moves neither.

    Args:
        margin: in radians and as a cosine.
        h: how much of [-1, 1] one standard deviation of the norms is.
        t_alpha: share of the newest batch in the running mean and standard deviation.
        scale, interclass_filtering_threshold: see `Margin`.

    Attributes:
        norm_mean, norm_std: buffers [], 20 and 100 to begin with.

    Raises:
        ValueError: see `Margin`; a margin outside [0, 1], h not positive, or t_alpha outside (0, 1].
    """

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(
        self,
        margin: float = 0.4,
        h: float = 0.333,
        t_alpha: float = 0.01,
        scale: float = 64.0,
        interclass_filtering_threshold: float = 0.0,
    ) -> None:
        super().__init__(scale, interclass_filtering_threshold)
        if not 0 <= margin <= 1:
            raise ValueError(f"margin must be within [0, 1], radians and cosine, got {margin}")
        if not (h > 0 and math.isfinite(h)):
            raise ValueError(f"h must be positive, got {h}")
        if not 0 < t_alpha <= 1:
            raise ValueError(f"t_alpha must be within (0, 1], got {t_alpha}")
        self.margin = margin
        self.h = h
        self.t_alpha = t_alpha
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_std", torch.tensor(100.0))

    def _of_targets(self, targets: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        norms = norms.clamp(0.001, 100)
        if self.training:
            self._observe(norms)
        quality = ((norms - self.norm_mean) / (self.norm_std + 1e-3) * self.h).clamp(-1, 1)
        values, slopes = _add_angle(targets, (-self.margin * quality).to(targets.dtype))
        return values - self.margin * (1 + quality), slopes

    def _observe(self, norms: Tensor) -> None:
        rows = norms.shape[0]
        for running, batch in (
            (self.norm_mean, norms.mean() if rows else None),
            (self.norm_std, norms.std() if rows > 1 else None),
        ):
            if batch is not None:
                moved = running + self.t_alpha * (batch - running)
                running.copy_(torch.where(moved.isfinite(), moved, running))

    def extra_repr(self) -> str:
        """For printing the module."""
        return f"margin={self.margin:g}, h={self.h:g}, t_alpha={self.t_alpha:g}, {super().extra_repr()}"


def _add_angle(cosines: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """cos(theta + angle) and its derivative by cos(theta), see above."""
    cosines = cosines.clamp(-1, 1)
    sines = ((1 - cosines) * (1 + cosines)).sqrt()
    cos_angle, sin_angle = angles.cos(), angles.sin()
    return cosines * cos_angle - sines * sin_angle, cos_angle + sin_angle * cosines / sines.clamp(min=_LEAST_SINE)


class _WithTargets(torch.autograd.Function):
    """Scaled cosines, those in one column of a row replaced: recorded op by op this takes several more [B, C]."""

    @staticmethod
    def forward(
        ctx: Any,
        cosines: Tensor,
        columns: Tensor,
        has_class: Tensor,
        values: Tensor,
        slopes: Tensor,
        scale: float,
        threshold: float,
    ) -> Tensor:
        logits = cosines * scale
        if threshold:
            logits.masked_fill_(cosines > threshold, 0.0)
        targets = torch.where(has_class, values.to(logits.dtype) * scale, logits.gather(1, columns)[:, 0])
        logits.scatter_(1, columns, targets[:, None])
        ctx.scale, ctx.threshold = scale, threshold
        ctx.save_for_backward(columns, has_class, slopes, *([cosines] if threshold else []))
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        columns, has_class, slopes, *cosines = ctx.saved_tensors
        out = gradient * ctx.scale
        of_targets = out.gather(1, columns)[:, 0] * slopes.to(out.dtype)
        if ctx.threshold:
            out.masked_fill_(cosines[0] > ctx.threshold, 0.0)
        of_targets = torch.where(has_class, of_targets, out.gather(1, columns)[:, 0])
        out.scatter_(1, columns, of_targets[:, None])
        return (out, *[None] * 6)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check(cosines: Tensor, labels: Tensor, norms: Tensor) -> None:
    if cosines.ndim != 2:
        raise ValueError(f"cosines must have shape [B, C], got {list(cosines.shape)}")
    for name, given in (("labels", labels), ("norms", norms)):
        if given.shape != cosines.shape[:1]:
            raise ValueError(
                f"{name} must have shape [B], here [{cosines.shape[0]}] as cosines are {list(cosines.shape)}, "
                f"got {list(given.shape)}"
            )
    for name, given in (("cosines", cosines), ("norms", norms)):
        if not given.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {given.dtype}")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, got {labels.dtype}")
