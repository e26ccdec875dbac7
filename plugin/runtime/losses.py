"""Losses by part, as OpenGait defines them: batch-all triplet and scaled, smoothed cross-entropy.

Under several processes the triplet loss sees the whole batch: embeddings are gathered, the gradient flows to each
process's own, and the loss is multiplied by the number of processes, which cancels DistributedDataParallel's mean.
Shape letters: n sequences, c channels, p parts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.runtime.distribution import gather_with_gradient, world_size

__all__ = ["CrossEntropyLoss", "LossAggregator", "TripletLoss"]


class TripletLoss(nn.Module):
    """Batch-all triplet loss, a mean over the triplets of a part that are not yet satisfied.

    Args:
        margin: by which a negative must be further away than a positive (Euclidean distance).
        loss_term_weight: weight in the sum of losses.
    """

    def __init__(self, margin: float = 0.2, loss_term_weight: float = 1.0) -> None:
        super().__init__()
        self.margin = margin
        self.loss_term_weight = loss_term_weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """[n, c, p] and [n] to the loss of each part [p], and what to log.

        Every subject must have the same number of sequences in the batch, as the sampler sees to. An anchor counts
        as a positive of itself, at distance 0.
        """
        # In memory as OpenGait has them: an anchor's distance to itself is nothing but rounding, and should be theirs.
        embeddings = gather_with_gradient(embeddings).permute(2, 0, 1).contiguous().float()  # [p, n, c]
        labels = gather_with_gradient(labels)
        squares = embeddings.square().sum(-1)
        distances = squares[:, :, None] + squares[:, None, :] - 2 * embeddings @ embeddings.transpose(1, 2)
        distances = distances.relu().sqrt()
        parts, count, _ = distances.shape
        same = labels[:, None] == labels[None, :]
        if len(set(same.sum(1).tolist())) != 1 or same.all():
            raise ValueError(
                f"a batch needs several subjects with equally many sequences, got labels {labels.tolist()}"
            )
        positive = distances[:, same].view(parts, count, -1, 1)
        negative = distances[:, ~same].view(parts, count, 1, -1)
        violation = (positive - negative + self.margin).relu().flatten(1)  # [p, triplets]
        active = (violation > 0).sum(1)
        loss = violation.sum(1) / active.clamp(min=1)
        info = {
            "loss": loss.detach(),
            "hard_loss": violation.detach().amax(1),
            "loss_num": active.float(),
            "mean_dist": distances.detach().mean((1, 2)),
        }
        return loss * world_size(), info


class CrossEntropyLoss(nn.Module):
    """Cross-entropy of scaled logits, with label smoothing, mean over sequences and parts.

    Args:
        scale: of the logits, which are cosines.
        label_smooth: whether labels are smoothed.
        eps: by how much.
        loss_term_weight: weight in the sum of losses.
        log_accuracy: log the share of rightly classified (sequence, part) pairs too.
    """

    def __init__(
        self,
        scale: float = 16,
        label_smooth: bool = True,
        eps: float = 0.1,
        loss_term_weight: float = 1.0,
        log_accuracy: bool = False,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.smoothing = eps if label_smooth else 0.0
        self.loss_term_weight = loss_term_weight
        self.log_accuracy = log_accuracy

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """[n, classes, p] and [n] to the loss, and what to log."""
        logits = logits.float()
        targets = labels[:, None].expand(-1, logits.shape[-1])
        loss = F.cross_entropy(logits * self.scale, targets, label_smoothing=self.smoothing)
        info = {"loss": loss.detach()}
        if self.log_accuracy:
            info["accuracy"] = (logits.detach().argmax(1) == targets).float().mean()
        return loss, info


_LOSSES: dict[str, type[nn.Module]] = {"TripletLoss": TripletLoss, "CrossEntropyLoss": CrossEntropyLoss}


class LossAggregator(nn.Module):
    """The weighted sum of the losses that the model's `training_feat` feeds, matched by `log_prefix`.

    Args:
        loss_cfg: settings of the losses, with `type` and `log_prefix`.
    """

    def __init__(self, loss_cfg: Iterable[Any]) -> None:
        super().__init__()
        self.losses = nn.ModuleDict()
        for settings in loss_cfg:
            arguments = asdict(settings)
            prefix, kind = arguments.pop("log_prefix"), arguments.pop("type")
            self.losses[prefix] = _LOSSES[kind](**arguments)

    def forward(self, training_feat: Mapping[str, Mapping[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of losses, and `scalar/<prefix>/<name>` of all that is logged."""
        total: Tensor | None = None
        shown: Tensor | None = None  # without the factor that several processes need in the gradient
        summary: dict[str, Tensor] = {}
        for prefix, features in training_feat.items():
            if prefix not in self.losses:
                raise ValueError(f"training_feat has {prefix!r}, but no loss has that log_prefix: {list(self.losses)}")
            module = self.losses[prefix]
            loss, info = module(**features)
            summary.update({f"scalar/{prefix}/{name}": value for name, value in info.items()})
            term = loss.mean() * module.loss_term_weight
            total = term if total is None else total + term
            part = info["loss"].mean() * module.loss_term_weight
            shown = part if shown is None else shown + part
        if total is None or shown is None:
            raise ValueError("training_feat feeds no loss")
        summary["scalar/loss"] = shown
        return total, summary
