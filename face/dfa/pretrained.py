"""DFA networks by name and in files: this project's own folders, and weights as CVLface releases them.

Source of the released layouts: mk-minchul/CVLface@d3d09c9. How files are found and read is `face.models.weight_files`'.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.runtime.checkpoint import load_weights
from common.runtime.settings import build_settings, to_mapping
from face.dfa.anchors import STRIDES, make_anchors
from face.dfa.cvlface import dfa_settings, is_cvlface_dfa, translate_dfa_keys
from face.dfa.network import DFANetwork, DFASettings
from face.models.base import WeightsOrigin
from face.models.weight_files import (
    RELEASED,
    check_own_config,
    find_weights,
    read_config,
    read_weights,
    with_flipped_colours,
    without_prefixes,
    write_weights,
)

__all__ = ["create_dfa", "load_dfa", "save_dfa"]

_FORMAT = "kprpe-dfa"
_BODIES = {"dfa_mobilenet": "mobilenet0.25", "dfa_resnet50": "resnet50"}
_WEIGHTS = (*RELEASED, "mobilenet0.25.pth", "resnet50.pth")
# The convolution that meets the image, of each body.
_FIRST = ("body.stages.0.0.0.weight", "body.conv1.weight")


def create_dfa(name: str, **settings: Any) -> DFANetwork:
    """A DFA network with fresh weights.

    Args:
        name: dfa_mobilenet or dfa_resnet50.
        settings: fields of `DFASettings` other than the body, as Python or plain YAML types.

    Raises:
        ValueError: an unknown name or setting, or a value of the wrong type or out of range.

    Example:
        >>> network = create_dfa("dfa_mobilenet", image_hw=(128, 160))
        >>> len(network.anchors)
        840
    """
    return DFANetwork(_settings(name, settings, name))


def save_dfa(network: DFANetwork, folder: str | Path) -> None:
    """Write `model.safetensors` and `config.json`, each whole or not at all; `load_dfa` reads them.

    Args:
        network: not wrapped, and not a copy of `for_inference`.
        folder: made where it is missing; files of these names in it are replaced.

    Raises:
        ValueError: the network is wrapped (compiled, distributed), or such a copy.
        OSError: the folder cannot be written.
    """
    if not isinstance(network, DFANetwork):
        raise ValueError(f"expected a DFANetwork itself, got {type(network).__name__}; unwrap it first")
    if network.inference_only:
        raise ValueError("this copy of for_inference cannot be saved; save the network that it was made of")
    settings = to_mapping(network.settings)
    body = settings.pop("body")
    description = {
        "name": next(name for name, its in _BODIES.items() if its == body),
        "settings": settings,
        "colour_order": "RGB",
        "image_hw": list(network.image_hw),
        "image_range": [-1, 1],
    }
    write_weights(network, folder, _FORMAT, description)


def load_dfa(source: str | Path, *, map_location: str | torch.device = "cpu", **overrides: Any) -> DFANetwork:
    """A DFA network with the weights of a folder, a file or a hub's repository. It takes RGB, whatever they took.

    Every weight of the file must have its place in the network and the other way round. The authors' weights take BGR:
    the input channels of their first convolution are swapped, which gives the same outputs.

    Args:
        source: a folder that `save_dfa` wrote; a released folder of CVLface (`model.safetensors` and `config.json`,
            `pretrained_model/model.pt` and `model.yaml`, or `mobilenet0.25.pth` alone); a file of weights of either;
            or, where no such path exists, owner/name of a repository on the Hugging Face hub with one of these in it.
        map_location: device of the network.
        overrides: settings that weights and config do not tell.

    Returns:
        The network in evaluation mode; `.origin` is what was found.

    Raises:
        FileNotFoundError: no such path.
        ConnectionError: no such path, and the hub cannot be reached.
        ValueError: files that are damaged, refused, unknown, or that do not belong together; or weights that do not fit
            (all differences are listed).
    """
    weights, config_path = find_weights(source, _WEIGHTS)
    config, config_name = read_config(weights, config_path, _FORMAT)
    state = read_weights(weights)
    if config.get("format") == _FORMAT:
        check_own_config(config, config_name, {"name": str, "settings": dict})
        settings = _settings(config["name"], {**config["settings"], **overrides}, config_name)
        origin = WeightsOrigin(source=str(weights), layout="kprpe", colour_order="RGB")
    else:
        given = {**dfa_settings(config, config_name), **overrides}
        state, origin = _recognised(state, weights, bool(config), given)
        settings = _settings_of(state, str(weights), given)
    if origin.colour_order == "BGR":
        state = with_flipped_colours(state, _FIRST)
    with torch.device("meta"):
        network = DFANetwork(settings)
    network.to_empty(device=map_location)
    network.anchors.copy_(make_anchors(settings.image_hw, STRIDES, settings.anchor_sizes))
    load_weights(network, state, strict=True, source=str(weights))
    network.origin = origin
    return network.eval()


def _settings(name: str, settings: Mapping[str, Any], source: str) -> DFASettings:
    if name not in _BODIES:
        prefix = "" if source == name else f"{source}: "
        raise ValueError(f"{prefix}unknown network {name!r}; networks: {', '.join(_BODIES)}")
    if settings.get("body", _BODIES[name]) != _BODIES[name]:
        raise ValueError(f"{source}: {name} has the body {_BODIES[name]}, got {settings['body']!r}")
    return build_settings({**settings, "body": _BODIES[name]}, DFASettings, source=source)


def _recognised(
    state: Mapping[str, Tensor], weights: Path, has_config: bool, given: Mapping[str, Any]
) -> tuple[dict[str, Tensor], WeightsOrigin]:
    """Weights under this project's names, and whose they are."""
    plain, _ = without_prefixes(state)
    if {"pyramid.lateral.0.0.weight", "heads.0.weight"} <= plain.keys():
        return plain, WeightsOrigin(source=str(weights), layout="kprpe", colour_order="RGB")
    if not is_cvlface_dfa(plain):
        shown = ", ".join(list(state)[:4])
        raise ValueError(
            f"{weights}: not the weights of a DFA network, this project's or CVLface's; found {shown}"
            f"{' and others' if len(state) > 4 else ''}"
        )
    if not has_config and given.get("aggregator") is not False and not _has_aggregator(plain):
        raise ValueError(
            f"{weights}: weights without an aggregator may be of RetinaFace, which takes other pixels and has other "
            "anchors; where they are of a DFA network, give aggregator=False"
        )
    return translate_dfa_keys(plain), WeightsOrigin(source=str(weights), layout="cvlface", colour_order="BGR")


def _has_aggregator(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("aggregator.") for name in state)


def _settings_of(state: Mapping[str, Tensor], source: str, given: Mapping[str, Any]) -> DFASettings:
    """What names and shapes tell of a network, beside what is given."""
    told = {
        "body": "resnet50" if "body.conv1.weight" in state else "mobilenet0.25",
        "aggregator": _has_aggregator(state),
    }
    for name, value in told.items():
        if given.get(name, value) != value:
            raise ValueError(f"{source}: {name} is {value} by its weights, {given[name]} was given")
    settings = build_settings({**given, **told}, DFASettings, source=source)
    mixing = state.get("aggregator.0.mlp_tokens.fc1.weight")
    expected = len(make_anchors(settings.image_hw, STRIDES, settings.anchor_sizes))
    if mixing is not None and mixing.ndim == 2 and mixing.shape[1] != expected:
        raise ValueError(
            f"{source}: the aggregator is of {mixing.shape[1]} anchors, images of {settings.image_hw[0]} x "
            f"{settings.image_hw[1]} px have {expected}; give image_hw= or anchor_sizes="
        )
    return settings
