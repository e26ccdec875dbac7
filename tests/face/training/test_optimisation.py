"""Learning rates beside timm's scheduler and closed forms, and which parameters decay."""

import numpy as np
import pytest
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from common.rpe import PositionBiasSettings
from common.vit import VisionTransformer
from face.training.optimisation import (
    AdamWSettings,
    ScheduleSettings,
    SGDSettings,
    learning_rate_factor,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)


def test_cosine_is_timms_as_the_authors_code_uses_it():
    per_epoch, schedule = 10, ScheduleSettings(epochs=12, warmup_epochs=3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = CosineLRScheduler(optimizer, t_initial=90, warmup_t=30, warmup_lr_init=0, warmup_prefix=True)
    for step in range(120):
        theirs.step(step)
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate_factor(schedule, step, per_epoch) == pytest.approx(expected, abs=1e-9), step


def test_polynomial_and_step_by_their_definitions():
    polynomial = ScheduleSettings(epochs=10, warmup_epochs=0, decay="polynomial", power=2.0, min_lr_factor=0.1)
    found = [learning_rate_factor(polynomial, step, 4) for step in range(41)]
    np.testing.assert_allclose(found, 0.1 + 0.9 * (1 - np.arange(41) / 40) ** 2)
    step = ScheduleSettings(epochs=10, warmup_epochs=0.5, decay="step", milestones=(2, 7), step_factor=0.2)
    expected = [0.0, 0.5] + [1.0] * 6 + [0.2] * 20 + [0.04] * 12
    np.testing.assert_allclose([learning_rate_factor(step, number, 4) for number in range(40)], expected)


def test_a_fraction_of_an_epoch_of_warm_up_may_be_less_than_a_step():
    assert learning_rate_factor(ScheduleSettings(epochs=1, warmup_epochs=0.1), 0, 3) == 1.0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"epochs": 3, "warmup_epochs": 3}, "warmup_epochs must be within 0 and epochs, got 3"),
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"milestones": (2.0,)}, "milestones must be rising epochs for decay step, and none otherwise"),
        ({"decay": "step"}, r"milestones must be rising .* got \(\)"),
        ({"min_lr_factor": 1.5}, "min_lr_factor must be within 0 and 1, got 1.5"),
    ],
)
def test_schedules_that_cannot_be(settings, problem):
    with pytest.raises(ValueError, match=problem):
        ScheduleSettings(**settings)


@pytest.mark.parametrize(
    ("kind", "settings", "problem"),
    [
        (AdamWSettings, {"lr": 0.0}, "lr must be > 0, got 0.0"),
        (AdamWSettings, {"betas": (0.9, 1.0)}, r"betas must be within 0 and 1"),
        (SGDSettings, {"momentum": 0.0, "nesterov": True}, "nesterov must be false without momentum"),
    ],
)
def test_optimizers_that_cannot_be(kind, settings, problem):
    with pytest.raises(ValueError, match=problem):
        kind(**settings)


def names_by_decay(bias):
    model = VisionTransformer((8, 8), (4, 4), embed_dim=8, depth=2, num_heads=2, class_token=True, position_bias=bias)
    groups = {group["weight_decay"]: group["params"] for group in parameter_groups(model.named_parameters(), 0.1)}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = ({names[id(p)] for p in groups[decay]} for decay in (0.1, 0.0))
    assert decayed | spared == set(names.values())
    assert not decayed & spared
    return decayed, spared


def test_what_decays():
    decayed, spared = names_by_decay(PositionBiasSettings(position_bias="kprpe"))
    assert {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "position_bias.kprpe.weight"} <= decayed
    assert {"pos_embed", "cls_token", "norm.weight", "blocks.1.mlp.fc1.bias", "position_bias.kprpe.bias"} <= spared
    for name in ("table", "irpe"):
        decayed, spared = names_by_decay(PositionBiasSettings(position_bias=name))
        tables = {entry for entry in decayed | spared if entry.startswith("position_bias.")}
        assert tables
        assert tables <= spared


def test_frozen_parameters_are_left_out():
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(module.named_parameters(), 0.1)] == [1]


def test_optimizers_get_their_settings():
    module = nn.Linear(2, 2)
    adam = make_optimizer(AdamWSettings(lr=0.2, weight_decay=0.3, betas=(0.5, 0.6)), module)
    assert isinstance(adam, torch.optim.AdamW)
    assert [(g["lr"], g["weight_decay"], g["betas"]) for g in adam.param_groups] == [
        (0.2, 0.3, (0.5, 0.6)),
        (0.2, 0.0, (0.5, 0.6)),
    ]
    sgd = make_optimizer(SGDSettings(momentum=0.8, nesterov=True), module)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["momentum"] == 0.8
    set_learning_rate(sgd, 0.7)
    assert {group["lr"] for group in sgd.param_groups} == {0.7}
