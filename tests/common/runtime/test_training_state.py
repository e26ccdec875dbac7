"""State of another optimizer, and weights that are not finite, are found before they do harm."""

import copy

import pytest
import torch
from torch import nn

from common.runtime.training_state import check_optimizer_state, refuse_broken_weights


def stepped(kind, module, **settings):
    optimizer = kind(module.parameters(), lr=0.1, **settings)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer


def test_its_own_state_fits():
    module = nn.Linear(3, 2)
    adam = stepped(torch.optim.AdamW, module)
    check_optimizer_state(adam, copy.deepcopy(adam.state_dict()))


def test_state_of_another_kind_or_shape():
    module, other = nn.Linear(3, 2), nn.Linear(3, 4)
    adam, sgd = stepped(torch.optim.AdamW, module), stepped(torch.optim.SGD, module, momentum=0.9)
    with pytest.raises(ValueError, match="it lacks betas, eps of AdamW"):
        check_optimizer_state(adam, sgd.state_dict())
    with pytest.raises(ValueError, match="it lacks momentum of SGD"):
        check_optimizer_state(sgd, adam.state_dict())
    with pytest.raises(ValueError, match=r"exp_avg is of shape \[4, 3\] for \[2, 3\]"):
        check_optimizer_state(adam, stepped(torch.optim.AdamW, other).state_dict())


def test_broken_weights():
    module = nn.Linear(3, 2)
    refuse_broken_weights(module, 7)
    with torch.no_grad():
        module.bias[1] = float("nan")
    with pytest.raises(FloatingPointError, match="1 parameters hold NaN or infinity at iteration 7, first bias"):
        refuse_broken_weights(module, 7)
    norm = nn.BatchNorm1d(2)
    norm(torch.full((3, 2), float("inf")))
    with pytest.raises(FloatingPointError, match="2 buffers hold NaN or infinity at iteration 8, first running_mean"):
        refuse_broken_weights(norm, 8)
