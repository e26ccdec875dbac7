"""Which model a file of weights belongs to, from the names and shapes of its tensors.

Known are this project's ViT, and the published ViT, ViT + iRPE, ViT + KP-RPE and IR networks of CVLface and AdaFace.
Shapes do not tell everything: the number of heads follows from a known pair of width and depth, images are taken to be
square, and method and ratio of the buckets to be the published ones (product, 1.9), unless the caller says otherwise.
Shape letters: C channels, N patches, E embedding channels, D layers, G head groups, H heads, K buckets, L keypoints.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from common.rpe import num_buckets
from face.models.cvlface import translate_cvlface_keys, translate_iresnet_keys
from face.models.iresnet import IRESNET_SIZES
from face.models.registry import model_settings
from face.models.vit import VIT_SIZES
from face.models.weight_files import without_prefixes

__all__ = ["ColourOrder", "Recognised", "recognise"]

ColourOrder = Literal["RGB", "BGR"]

# Networks of the field that this project has not, by a name that only they have.
_OTHERS = {
    r"features\.\d+\.attn\.logit_scale": "CVLface's Swin V2, whose attention is another than this project's Swin's",
    r"layer1\.0\.bn1\.weight": "insightface's iresnet, another network than the IR networks of CVLface and AdaFace",
    r"body\.\d+\.res_layer\.(?:se_block|[6-9])\..*": "an IR network with bottlenecks or squeeze-and-excitation",
    r"(?:.*\.)?stn\..*": "CVLface's Part fViT",
}


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A model, and its weights under this project's names."""

    name: str
    """A registered name."""

    settings: dict[str, Any]
    """What the shapes tell of its settings, and what the caller gave."""

    state: dict[str, Tensor]
    """The weights, under the names of that model."""

    layout: Literal["kprpe", "cvlface", "adaface"]
    """Whose names the file had; "kprpe" too where all have the same."""

    colour_order: ColourOrder | None
    """The order of channels that the authors feed such models; None where names do not tell whose it is."""


def recognise(
    state: Mapping[str, Tensor], source: str, *, name: str | None = None, given: Mapping[str, Any] | None = None
) -> Recognised:
    """The model of a state dict.

    Args:
        state: names to tensors. Prefixes of wrappers (`module.`, `_orig_mod.`, `model.`, `net.`) and the classifiers
            (`head.`) of AdaFace's training are taken off.
        source: what errors call the state, such as its file name.
        name: the registered model, where its size is not among the known ones.
        given: settings that the caller knows. They come before what is assumed, not before what shapes tell.

    Raises:
        ValueError: no known network, or one of which shapes do not tell enough (what is missing is named).
    """
    given = dict(given or {})
    plain, prefixes = without_prefixes(_without_classifier(state))
    for pattern, what in _OTHERS.items():
        if any(re.fullmatch(pattern, key) for key in plain):
            raise ValueError(f"{source}: these are weights of {what}")
    if "input_layer.0.weight" in plain:
        translated = translate_iresnet_keys(plain)
        layout: Literal["cvlface", "adaface"] = "cvlface" if "net." in prefixes else "adaface"
        order: ColourOrder | None = "RGB" if layout == "cvlface" else "BGR" if "model." in prefixes else None
        name, settings = _iresnet(translated, source, name)
        return Recognised(
            name=name, settings={**given, **settings}, state=translated, layout=layout, colour_order=order
        )
    if {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "feature.0.weight"} <= plain.keys():
        theirs = "net." in prefixes or any(re.match(r"keypoint_linear\.|blocks\.0\.attn\.rpe_", key) for key in plain)
        translated = translate_cvlface_keys(plain)
        name, settings = _vit(translated, source, name, given)
        return Recognised(
            name=name,
            settings={**given, **settings},
            state=translated,
            layout="cvlface" if theirs else "kprpe",
            colour_order="RGB",
        )
    if "stem.0.weight" in plain or "swin.patch_embed.proj.weight" in plain:
        kind = "IResNet" if "stem.0.weight" in plain else "Swin"
        raise ValueError(f"{source}: weights of this project's {kind} need the config.json that was saved with them")
    shown = ", ".join(list(state)[:4])
    raise ValueError(
        f"{source}: not the weights of a known face model; expected those of this project, or of CVLface's or "
        f"AdaFace's ViT or IR networks; found {shown}{' and others' if len(state) > 4 else ''}"
    )


def _without_classifier(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """AdaFace's training keeps its classifier, `head.`, beside the model."""
    if not any(name.startswith("model.") for name in state):
        return state
    return {name: value for name, value in state.items() if not name.startswith("head.")}


def _count(state: Mapping[str, Tensor]) -> int:
    """Number of blocks, which must be numbered from 0 on."""
    return len({found[1] for name in state if (found := re.match(r"blocks\.(\d+)\.", name))})


def _square(cells: float, source: str, what: str) -> int:
    side = math.isqrt(int(cells))
    if side < 1 or side * side != cells:
        raise ValueError(f"{source}: {what} fits no square image; such weights need a config.json with its size")
    return side


def _shape(state: Mapping[str, Tensor], name: str, source: str, axes: int = 2) -> tuple[int, ...]:
    if name not in state or state[name].ndim != axes:
        found = "nothing" if name not in state else str(list(state[name].shape))
        raise ValueError(f"{source}: expected {name} with {axes} axes, found {found}")
    return tuple(state[name].shape)


def _iresnet(state: Mapping[str, Tensor], source: str, name: str | None) -> tuple[str, dict[str, Any]]:
    width = _shape(state, "stem.0.weight", source, 4)[0]
    blocks = [_shape(state, f"blocks.{block}.conv2.weight", source, 4)[0] for block in range(_count(state))]
    widths = Counter(blocks)
    depths = tuple(widths[width * 2**stage] for stage in range(4))
    if name is None:
        name = next((one for one, size in IRESNET_SIZES.items() if size["depths"] == depths), None)
    if name is None:
        known = ", ".join(f"{size['depths']} ({name})" for name, size in IRESNET_SIZES.items())
        raise ValueError(f"{source}: an IR network with {depths} blocks in its stages, known are {known}; give name=")
    features, flat = _shape(state, "linear.weight", source)
    side = 16 * _square(flat / (8 * width), source, f"linear.weight of {flat} inputs")
    return name, {"depths": depths, "width": width, "num_features": features, "image_hw": (side, side)}


def _vit(
    state: Mapping[str, Tensor], source: str, name: str | None, given: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    dim, _, *patch_hw = _shape(state, "patch_embed.proj.weight", source, 4)
    depth = _count(state)
    mlp_ratio = _shape(state, "blocks.0.mlp.fc1.weight", source)[0] / dim
    if name is None:
        name = next(
            (
                known
                for known, size in VIT_SIZES.items()
                if (size["embed_dim"], size["depth"], size["mlp_ratio"]) == (dim, depth, mlp_ratio)
            ),
            None,
        )
    if name is None:
        raise ValueError(
            f"{source}: a ViT of width {dim}, depth {depth} and MLPs of {mlp_ratio:g} times the width is not among "
            f"{', '.join(VIT_SIZES)}, and weights do not tell the number of heads; give name= and num_heads="
        )
    heads = given.get("num_heads", model_settings(name, source).num_heads)
    flat = _shape(state, "feature.0.weight", source)[1]
    side = _square(flat / dim, source, f"feature.0.weight of {flat} inputs")
    settings = {
        "embed_dim": dim,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": mlp_ratio,
        "patch_hw": tuple(patch_hw),
        "image_hw": (side * patch_hw[0], side * patch_hw[1]),
        "num_features": _shape(state, "feature.2.weight", source)[0],
        "absolute": "pos_embed" in state,
    }
    return name, {**settings, **_encoding(state, source, depth, heads, given)}


def _encoding(
    state: Mapping[str, Tensor], source: str, depth: int, heads: int, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The position bias of a ViT."""
    buckets = num_buckets(given.get("method", "product"), given.get("ratio", 1.9))
    if "position_bias.kprpe.weight" in state:
        rows, columns = _shape(state, "position_bias.kprpe.weight", source)
        form, shared = given.get("form", "multihead"), given.get("shared", False)
        expected = buckets * (1 if shared else depth) * (heads if form == "multihead" else 1)
        if rows != expected:
            layers = "one set for all layers" if shared else f"{depth} layers"
            raise ValueError(
                f"{source}: KP-RPE's weight has {rows} rows, but {layers}, {heads} heads, form {form} and {buckets} "
                f"buckets make {expected}; give num_heads=, form=, shared=, method= or ratio= as in training"
            )
        return {"position_bias": "kprpe", "num_keypoints": columns // 2, "form": form, "shared": shared}
    places = {"q": "on_queries", "k": "on_keys", "v": "on_values"}
    irpe = {letter: state[key] for letter, place in places.items() if (key := f"position_bias.irpe.{place}") in state}
    if irpe:
        table = next(iter(irpe.values()))
        return {
            "position_bias": "irpe" if table.ndim == 4 else "irpe_bias",
            "irpe_on": "".join(irpe),
            "irpe_per_head": table.shape[1] > 1,
        }
    if any(name.startswith("position_bias.tables.") for name in state):
        return {"position_bias": "table"}
    return {"position_bias": "none"}
