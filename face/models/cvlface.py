"""Weights and settings of the KP-RPE authors' models (CVLface) and of AdaFace under the names used here.

Source: parameter names and YAML files of mk-minchul/CVLface@d3d09c9: models/vit, vit_irpe, vit_kprpe and iresnet. The
IR networks of AdaFace (mk-minchul/AdaFace) have the names of iresnet.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["cvlface_settings", "translate_cvlface_keys", "translate_iresnet_keys"]

_METHODS = {"product": "product", "euc": "euclidean", "quant": "quant"}
_FORMS = {  # ctx_type to the form of KP-RPE and whether layers share its weights
    "keypoint": ("absolute", True),
    "rel_keypoint": ("relative", True),
    "rel_keypoint_unshared": ("relative", False),
    "rel_keypoint_splithead": ("multihead", True),
    "rel_keypoint_splithead_unshared": ("multihead", False),
}
_MODES = {"ctx": "irpe", "bias": "irpe_bias"}
_IRESNET = [
    (re.compile(r"^input_layer\."), "stem."),
    (re.compile(r"^output_layer\.0\."), "norm."),
    (re.compile(r"^output_layer\.3\."), "linear."),
    (re.compile(r"^output_layer\.4\."), "feature_norm."),
    (re.compile(r"^body\.(\d+)\.shortcut_layer\.([01])\."), r"blocks.\1.shortcut.\2."),
    *(
        (re.compile(rf"^body\.(\d+)\.res_layer\.{place}\."), rf"blocks.\1.{layer}.")
        for place, layer in enumerate(("norm1", "conv1", "norm2", "act", "conv2", "norm3"))
    ),
]


def translate_cvlface_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the authors' ViT, ViT + KP-RPE and ViT + iRPE (CVLface) under the names of `FaceViT`.

    A leading `net.` is dropped, as is the mask token, which only their masked training uses. `keypoint_linear` becomes
    KP-RPE's weight and bias; iRPE's tables, one in every block there, are stacked. Those of iRPE's cross method, two
    modules in a block there, are left under their names, at which strict loading stops.

    Raises:
        ValueError: a block has no table where another block has one.
    """
    out: dict[str, Tensor] = {}
    tables: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        name = name.removeprefix("net.")
        if name == "mask_token":
            continue
        found = re.fullmatch(r"blocks\.(\d+)\.attn\.rpe_([qkv])\.lookup_table_(?:weight|bias)", name)
        if found:
            target = {"q": "on_queries", "k": "on_keys", "v": "on_values"}[found[2]]
            tables.setdefault(f"position_bias.irpe.{target}", {})[int(found[1])] = value
        else:
            out[re.sub(r"^keypoint_linear\.", "position_bias.kprpe.", name)] = value
    for name, layers in tables.items():
        if sorted(layers) != list(range(len(layers))):
            raise ValueError(f"{name}: tables of blocks {sorted(layers)}, expected those of all blocks from 0 on")
        out[name] = torch.stack([layers[layer] for layer in range(len(layers))])
    return out


def translate_iresnet_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of IR_18, IR_50 and IR_101 (CVLface, AdaFace) under the names of `IResNet`.

    A leading `net.` is dropped. Names of layers that these networks have not are left as they are, and strict loading
    stops at them.
    """
    out = {}
    for name, value in state.items():
        name = name.removeprefix("net.")
        for pattern, replacement in _IRESNET:
            name = pattern.sub(replacement, name)
        out[name] = value
    return out


def cvlface_settings(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Settings of a model that the authors' YAML tells and the weights do not: those of its position encoding.

    Args:
        config: what their model.yaml holds, or `conf` of a released folder's config.json.
        source: what errors call it.

    Raises:
        ValueError: an encoding that they do not publish, or that has another layout of weights here (cross).
    """
    rpe = config.get("rpe_config")
    if rpe is None:
        return {}
    if not isinstance(rpe, Mapping):
        raise ValueError(f"{source}: rpe_config must be a mapping, found {rpe!r}")
    settings: dict[str, Any] = {"method": _one_of(_METHODS, rpe, "method", source), "ratio": rpe.get("ratio", 1.9)}
    if rpe.get("name") == "KPRPE_shared":
        form, shared = _one_of(_FORMS, rpe, "ctx_type", source)
        keypoints = rpe.get("num_keypoints", 5)
        return {**settings, "position_bias": "kprpe", "form": form, "shared": shared, "num_keypoints": keypoints}
    if rpe.get("name") == "iRPE":
        return {
            **settings,
            "position_bias": _one_of(_MODES, rpe, "mode", source),
            "irpe_on": rpe.get("rpe_on"),
            "irpe_per_head": not rpe.get("shared_head", True),
        }
    raise ValueError(f"{source}: rpe_config.name must be KPRPE_shared or iRPE, found {rpe.get('name')!r}")


def _one_of(table: Mapping[str, Any], rpe: Mapping[str, Any], key: str, source: str) -> Any:
    if rpe.get(key) not in table:
        raise ValueError(f"{source}: rpe_config.{key} must be one of {', '.join(table)}, found {rpe.get(key)!r}")
    return table[rpe[key]]
