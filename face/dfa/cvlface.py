"""Weights of the authors' DFA networks under the names used here, and what their configs say.

Source: parameter names and YAML files of mk-minchul/CVLface@d3d09c9 (aligners/differentiable_face_aligner).
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["dfa_settings", "is_cvlface_dfa", "translate_dfa_keys"]

_NAME = "differentiable_face_aligner"
_ARCHS = {"mobile0.25": "mobilenet0.25", "resnet50": "resnet50"}
_SEPARABLE = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1"}  # convolution and norm, depthwise and then pointwise
# Layers that lie side by side in a context module, by what joins them here; the channels of the first come first.
_BESIDE = {"first": ("conv3X3", "conv5X5_1"), "second": ("conv5X5_2", "conv7X7_2"), "third": ("conv7x7_3",)}
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_HEADS = {"BboxHead": 4, "ClassHead": 2, "LandmarkHead": 10}  # and how many values each has for an anchor


def is_cvlface_dfa(state: Mapping[str, Tensor]) -> bool:
    """Whether names, without prefixes, are those of the authors' network."""
    return "fpn.output1.0.weight" in state and "LandmarkHead.0.conv1x1.weight" in state


def translate_dfa_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the authors' network under the names of `DFANetwork`. They still take BGR.

    Args:
        state: without prefixes of wrappers.

    Returns:
        Entries that have no place, or whose like are missing, keep their names; strict loading stops at them.
    """
    left = dict(state)
    out: dict[str, Tensor] = {}
    for place in range(3):
        for target, layers in _BESIDE.items():
            for rest in ("0.weight", *(f"1.{name}" for name in _NORM)):
                parts = [f"ssh{place + 1}.{layer}.{rest}" for layer in layers]
                if all(part in left for part in parts):
                    values = [left.pop(part) for part in parts]
                    out[f"contexts.{place}.{target}.{rest}"] = torch.cat(values) if values[0].ndim else values[0]
        for rest in ("weight", "bias"):
            heads = {f"{head}.{place}.conv1x1.{rest}": values for head, values in _HEADS.items()}
            if _same_anchors(left, heads):
                by_anchor = [left.pop(name).unflatten(0, (-1, values)) for name, values in heads.items()]
                out[f"heads.{place}.{rest}"] = torch.cat(by_anchor, dim=1).flatten(0, 1)
    return {**{_renamed(name): value for name, value in left.items()}, **out}


def dfa_settings(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What a config of the authors' tells of the network's settings.

    Raises:
        ValueError: it is of something else, or says what cannot be.
    """
    settings: dict[str, Any] = {}
    if config.get("name", _NAME) != _NAME:
        raise ValueError(f"{source}: name must be {_NAME}, found {config['name']!r}")
    if "arch" in config:
        if config["arch"] not in _ARCHS:
            raise ValueError(f"{source}: arch must be one of {', '.join(_ARCHS)}, found {config['arch']!r}")
        settings["body"] = _ARCHS[config["arch"]]
    if "input_size" in config:
        size = config["input_size"]
        if type(size) is not int or size < 1:
            raise ValueError(f"{source}: input_size must be a number of pixels, found {size!r}")
        settings["image_hw"] = (size, size)
    return settings


def _same_anchors(state: Mapping[str, Tensor], heads: Mapping[str, int]) -> bool:
    """Whether the three heads of a level are all there, for as many anchors in a cell."""
    if not all(name in state and state[name].ndim for name in heads):
        return False
    counts = {divmod(state[name].shape[0], values) for name, values in heads.items()}
    return len(counts) == 1 and counts.pop()[1] == 0


def _renamed(name: str) -> str:
    if found := re.fullmatch(r"body\.stage1\.0\.(.+)", name):
        return f"body.stages.0.0.{found[1]}"
    if found := re.fullmatch(r"body\.stage([123])\.(\d+)\.([0134])\.(.+)", name):
        return f"body.stages.{int(found[1]) - 1}.{found[2]}.{_SEPARABLE[found[3]]}.{found[4]}"
    if found := re.fullmatch(r"fpn\.(output|merge)([123])\.(.+)", name):
        return f"pyramid.{'lateral' if found[1] == 'output' else 'merge'}.{int(found[2]) - 1}.{found[3]}"
    return name
