"""Optimizers, which parameters decay, and the learning rate of every step.

Source: the paper's Table 6 (AdamW, cosine, 3 epochs of warm-up). The learning rate is a function of the step alone, so
that there is no scheduler whose state could be lost.
Weight decay is for matrices and kernels. Norms, biases, the absolute encoding, the class token and tables of position
encodings (Swin's, iRPE's) have none; KP-RPE's weight is that of a linear layer and has, as in the authors' code.
Deliberate difference from that code: there, tables of position encodings decay too.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

__all__ = [
    "AdamWSettings",
    "OptimizerSettings",
    "SGDSettings",
    "ScheduleSettings",
    "learning_rate_factor",
    "make_optimizer",
    "parameter_groups",
    "set_learning_rate",
]


def _refuse_unless(**conditions: tuple[bool, str, object]) -> None:
    wrong = [f"{name} must be {what}, got {got}" for name, (right, what, got) in conditions.items() if not right]
    if wrong:
        raise ValueError("; ".join(wrong))


@dataclass(frozen=True, kw_only=True)
class AdamWSettings:
    """AdamW, of the paper's transformers."""

    type: Literal["AdamW"] = "AdamW"

    lr: float = 1.0e-3
    """Highest learning rate, after the warm-up."""

    weight_decay: float = 0.05

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares; the table's momentum is the first."""

    eps: float = 1.0e-8

    def __post_init__(self) -> None:
        _refuse_unless(
            lr=(self.lr > 0, "> 0", self.lr),
            weight_decay=(self.weight_decay >= 0, ">= 0", self.weight_decay),
            betas=(all(0 <= beta < 1 for beta in self.betas), "within 0 and 1", self.betas),
            eps=(self.eps > 0, "> 0", self.eps),
        )


@dataclass(frozen=True, kw_only=True)
class SGDSettings:
    """SGD with momentum, which residual networks are mostly trained with."""

    type: Literal["SGD"] = "SGD"

    lr: float = 0.1
    """Highest learning rate, after the warm-up."""

    weight_decay: float = 5.0e-4

    momentum: float = 0.9

    nesterov: bool = False

    def __post_init__(self) -> None:
        _refuse_unless(
            lr=(self.lr > 0, "> 0", self.lr),
            weight_decay=(self.weight_decay >= 0, ">= 0", self.weight_decay),
            momentum=(0 <= self.momentum < 1, "within 0 and 1", self.momentum),
            nesterov=(self.momentum > 0 or not self.nesterov, "false without momentum", self.nesterov),
        )


OptimizerSettings = AdamWSettings | SGDSettings


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How long, and how the learning rate goes."""

    epochs: int = 34

    warmup_epochs: float = 3.0
    """The learning rate rises linearly from 0 for so long."""

    decay: Literal["cosine", "polynomial", "step"] = "cosine"
    """What it does then, until the last epoch."""

    min_lr_factor: float = 0.0
    """Of cosine and polynomial: what is left in the end, as a share of the highest."""

    power: float = 2.0
    """Of polynomial."""

    milestones: tuple[float, ...] = ()
    """Of step: epochs after which the learning rate falls."""

    step_factor: float = 0.1
    """Of step: what it is multiplied with."""

    def __post_init__(self) -> None:
        _refuse_unless(
            epochs=(self.epochs >= 1, ">= 1", self.epochs),
            warmup_epochs=(0 <= self.warmup_epochs < self.epochs, "within 0 and epochs", self.warmup_epochs),
            min_lr_factor=(0 <= self.min_lr_factor <= 1, "within 0 and 1", self.min_lr_factor),
            power=(self.power > 0, "> 0", self.power),
            milestones=(
                list(self.milestones) == sorted(self.milestones) and bool(self.milestones) == (self.decay == "step"),
                "rising epochs for decay step, and none otherwise",
                self.milestones,
            ),
            step_factor=(0 < self.step_factor <= 1, "within 0 and 1", self.step_factor),
        )


def learning_rate_factor(schedule: ScheduleSettings, step: int, steps_per_epoch: int) -> float:
    """What step number `step`, from 0, multiplies the highest learning rate with."""
    total, warmup = schedule.epochs * steps_per_epoch, round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return step / warmup
    if schedule.decay == "step":
        return schedule.step_factor ** sum(step >= round(epoch * steps_per_epoch) for epoch in schedule.milestones)
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    left = 0.5 * (1 + math.cos(math.pi * done)) if schedule.decay == "cosine" else (1 - done) ** schedule.power
    return schedule.min_lr_factor + (1 - schedule.min_lr_factor) * left


def _decays(name: str, parameter: nn.Parameter) -> bool:
    parts = name.split(".")
    is_table = "position_bias" in parts and not (parts[-2] == "kprpe" and parts[-1] == "weight")
    return parameter.ndim > 1 and not is_table and not {"pos_embed", "cls_token"} & set(parts)


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> Iterator[dict[str, object]]:
    """Groups for an optimizer: what decays, and what does not. Frozen parameters are in neither, an empty one is left
    out."""
    trained = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
    for decays in (True, False):
        chosen = [parameter for name, parameter in trained if _decays(name, parameter) is decays]
        if chosen:
            yield {"params": chosen, "weight_decay": weight_decay if decays else 0.0}


def make_optimizer(settings: OptimizerSettings, module: nn.Module) -> torch.optim.Optimizer:
    """An optimizer of a module's parameters."""
    groups = list(parameter_groups(module.named_parameters(), settings.weight_decay))
    if isinstance(settings, SGDSettings):
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
