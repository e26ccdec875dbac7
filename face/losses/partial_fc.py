"""Margin softmax over classes that are shared out among processes, in training optionally over a sample of them.

Source: An et al., CVPR 2022, https://arxiv.org/abs/2203.15565.
Deliberate differences from the public code (deepinsight/insightface@7fadd42, mk-minchul/CVLface@d3d09c9): any number
of classes, none of them padding; batches whose sizes differ between processes and steps; unlabelled rows; initial
weights that do not depend on the number of processes; all classes in evaluation; and those that `sharded_softmax` and
`margins` name.
Shape letters: n rows of this process, B rows of all processes, C classes of this process (or those drawn), E channels.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.runtime.distribution import mix_seed, world_size
from face.losses.margins import Margin
from face.losses.sharded_softmax import (
    LEAST_NORM,
    exchange_sizes,
    gather_rows,
    sharded_cross_entropy,
    unit_cosines,
)

__all__ = ["PartialFC", "class_range"]

_BLOCK = 1024  # classes whose initial weights one generator draws; another number gives other weights


def class_range(process: int, processes: int, num_classes: int) -> tuple[int, int]:
    """The first class of a process and the one behind its last; the first processes have one more than the others."""
    each, more = divmod(num_classes, processes)
    return process * each + min(process, more), (process + 1) * each + min(process + 1, more)


class PartialFC(nn.Module):
    """Embeddings and labels of this process to the mean cross-entropy over the labelled rows of all processes.

    With torch.distributed initialised, each process holds the weights of its `class_range`, and all processes must take
    part in each call and each backward pass. The gradient of `weight` is complete in each of them: the module is not to
    be wrapped in DistributedDataParallel. The model that computes the embeddings is; the gradient of embeddings is
    scaled so that the mean over processes is the model's.

    Below a sampling rate of 1, a training step uses the classes of the batch and, drawn without replacement, as many
    others of each process as make up the rate. The rest get a gradient of zero: weight decay and momentum still move
    them. Every process draws from its own classes by itself.

    Everything is computed in float32 (float64 if weights or embeddings are), under autocast too: a cosine in half
    precision, times a scale of 64, would be off by as much as a quarter.

    Args:
        num_features: E.
        num_classes: of all processes, at least one for each.
        margin: such as `ArcFace()`.
        sampling_rate: share of a process's classes that take part in a training step, within (0, 1].
        seed: of the initial weights, normal with a standard deviation of 0.01. The same seed gives the same weights
            whatever the number of processes.
        generator: draws the classes, on the device of `weight`. Without one torch's own does, which
            `common.runtime.distribution.seed_everything` seeds.
        check_labels: whether labels are looked at. By default they are where that costs no waiting, on a CPU; on a GPU
            the data set should have checked them. Unseen, a label out of range makes the loss NaN.

    Attributes:
        weight: [C, E], of the classes from `first_class` to before `end_class`.
        process, processes: this process's number, and how many there are.

    Raises:
        ValueError: num_features below 1, fewer classes than processes, or a sampling rate outside (0, 1].
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        margin: Margin,
        sampling_rate: float = 1.0,
        *,
        seed: int = 0,
        generator: torch.Generator | None = None,
        check_labels: bool | None = None,
    ) -> None:
        super().__init__()
        self.processes = world_size()
        if num_features < 1:
            raise ValueError(f"num_features must be >= 1, got {num_features}")
        if num_classes < self.processes:
            raise ValueError(f"num_classes must be >= {self.processes}, one for each process, got {num_classes}")
        if not 0 < sampling_rate <= 1:
            raise ValueError(f"sampling_rate must be within (0, 1], got {sampling_rate}")
        self.num_features = num_features
        self.num_classes = num_classes
        self.margin = margin
        self.sampling_rate = sampling_rate
        self.seed = seed
        self.generator = generator
        self.check_labels = check_labels
        self.process = dist.get_rank() if self.processes > 1 else 0
        self.first_class, self.end_class = class_range(self.process, self.processes, num_classes)
        self.weight = nn.Parameter(torch.empty(self.end_class - self.first_class, num_features))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights anew, from `seed`."""
        for block in range(self.first_class // _BLOCK, (self.end_class - 1) // _BLOCK + 1):
            generator = torch.Generator().manual_seed(mix_seed(self.seed, block))
            drawn = torch.empty(_BLOCK, self.num_features, device="cpu").normal_(0, 0.01, generator=generator)
            start = block * _BLOCK
            first, end = max(start, self.first_class), min(start + _BLOCK, self.end_class)
            self.weight[first - self.first_class : end - self.first_class] = drawn[first - start : end - start].to(
                self.weight
            )

    def forward(self, embeddings: Tensor, labels: Tensor, batch_sizes: Sequence[int] | None = None) -> Tensor:
        """The loss, the same in every process.

        Args:
            embeddings: [n, E] floating point, of this process, not normalised.
            labels: [n] int64, from 0 to num_classes - 1, or -1 for a row without one. That has no part in the loss, but
                its norm counts in AdaFace's statistics.
            batch_sizes: n of every process. Without it the processes tell each other, for which a GPU is waited on.

        Returns:
            [] float32 or float64; zero, with zero gradients, where no row has a label, and NaN where any embedding is.

        Raises:
            ValueError: another shape or dtype, another number of processes than at the start, or (see `check_labels`)
                a label out of range in any process.
        """
        self._check(embeddings, labels, batch_sizes)
        sizes = exchange_sizes(len(embeddings), embeddings.device) if batch_sizes is None else batch_sizes
        with torch.autocast(embeddings.device.type, enabled=False):
            labels = gather_rows(labels, sizes)
            dtype = torch.promote_types(torch.promote_types(embeddings.dtype, self.weight.dtype), torch.float32)
            row_weights = self._row_weights(labels, dtype)
            embeddings = gather_rows(embeddings.to(dtype), sizes)
            norms = torch.linalg.vector_norm(embeddings, dim=1)
            weight, labels = self._classes(labels)
            cosines = unit_cosines(embeddings / norms.clamp(min=LEAST_NORM)[:, None], weight.to(dtype))
            logits = self.margin(cosines, labels, norms.detach())
            return sharded_cross_entropy(logits, labels, row_weights)

    def _row_weights(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """[B] labels of all rows to what makes the sum of their losses the mean over those that have one."""
        look = self.check_labels if self.check_labels is not None else labels.device.type == "cpu"
        if look and labels.numel():
            smallest, largest = (int(label) for label in labels.aminmax())
            if smallest < -1 or largest >= self.num_classes:
                raise ValueError(
                    f"labels must be within 0 and {self.num_classes - 1}, or -1 for none, as num_classes is "
                    f"{self.num_classes}; got {smallest} to {largest}"
                )
        labelled = labels != -1
        weights = labelled.to(dtype) / labelled.sum().clamp(min=1)
        return weights.masked_fill((labels < -1) | (labels >= self.num_classes), float("nan"))

    def _classes(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """[B] labels of all rows to the weights [C, E] that take part, and each row's place in them or -1, [B]."""
        local = torch.where((labels >= self.first_class) & (labels < self.end_class), labels - self.first_class, -1)
        if self.sampling_rate == 1 or not self.training:
            return self.weight, local
        drawn = self._draw(local)
        places = torch.searchsorted(drawn, local.clamp(min=0))
        return self.weight.index_select(0, drawn), torch.where(local >= 0, places, -1)

    @torch.no_grad()
    def _draw(self, local: Tensor) -> Tensor:
        """Classes of this step in rising order: those of the rows, then others by lot."""
        classes = self.end_class - self.first_class
        lots = torch.rand(classes + 1, device=self.weight.device, generator=self.generator)
        lots.index_fill_(0, torch.where(local >= 0, local, classes), 2.0)  # the last is for rows of other processes
        lots = lots[:classes]
        count = max(1, int(self.sampling_rate * classes))
        if min(local.numel(), classes) > count:  # else the classes of the rows cannot be more, and nothing need wait
            count = max(count, int((lots > 1).sum()))
        return lots.topk(count, sorted=False).indices.sort().values

    def _check(self, embeddings: Tensor, labels: Tensor, batch_sizes: Sequence[int] | None) -> None:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.num_features:
            raise ValueError(f"embeddings must have shape [n, {self.num_features}], got {list(embeddings.shape)}")
        if not embeddings.is_floating_point():
            raise ValueError(f"embeddings must be floating point, got {embeddings.dtype}")
        if labels.shape != embeddings.shape[:1]:
            raise ValueError(f"labels must have shape [{len(embeddings)}], one a row, got {list(labels.shape)}")
        if labels.dtype != torch.int64:
            raise ValueError(f"labels must be int64, got {labels.dtype}")
        if world_size() != self.processes:
            raise ValueError(f"built for {self.processes} process(es), called in {world_size()}")
        if batch_sizes is not None and (
            len(batch_sizes) != self.processes or batch_sizes[self.process] != len(embeddings)
        ):
            raise ValueError(
                f"batch_sizes must have {self.processes} number(s), that of process {self.process} being "
                f"{len(embeddings)}, got {list(batch_sizes)}"
            )

    def extra_repr(self) -> str:
        """For printing the module."""
        return (
            f"num_features={self.num_features}, num_classes={self.num_classes}, sampling_rate={self.sampling_rate:g}, "
            f"classes {self.first_class} to {self.end_class - 1}"
        )
