"""What is looked at before it is trusted: optimizer state out of a checkpoint, and weights on their way into one."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["check_optimizer_state", "refuse_broken_weights"]


def check_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """What load_state_dict takes without a word, and a later step stumbles over or quietly does wrong.

    Raises:
        ValueError: state of another kind of optimizer, or of parameters of other shapes.
        KeyError, AttributeError, TypeError: no state of an optimizer at all.
    """
    for group, found in zip(optimizer.param_groups, state["param_groups"], strict=False):
        # Those are as old as the optimizers themselves; later ones PyTorch fills in.
        lacking = [key for key in ("betas", "eps", "momentum", "weight_decay") if key in group and key not in found]
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)} of {type(optimizer).__name__}")
        for parameter, number in zip(group["params"], found["params"], strict=False):
            for key, value in state["state"].get(number, {}).items():
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                    raise ValueError(f"{key} is of shape {list(value.shape)} for {list(parameter.shape)}")


def refuse_broken_weights(module: nn.Module, iteration: int) -> None:
    """On a GPU the loss is read at the log's interval only, and may be NaN long before that.

    Raises:
        FloatingPointError: parameters or buffers that are not finite; nothing should be written then.
    """
    for kind, named in (("parameters", module.named_parameters()), ("buffers", module.named_buffers())):
        broken = [name for name, value in named if not bool(value.detach().isfinite().all())]
        if broken:
            raise FloatingPointError(
                f"{len(broken)} {kind} hold NaN or infinity at iteration {iteration}, first {broken[0]}; "
                "the last checkpoint is unaffected"
            )
