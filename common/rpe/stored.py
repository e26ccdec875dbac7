"""KP-RPE out of a file of weights, whoever's model they are of.

Takes this project's KP-RPE wherever it sits in a model, and the `keypoint_linear` of the authors' released and saved
models (mk-minchul/CVLface), whose rows (layer, head, bucket) and columns are ordered alike. A file does not say how its
rows divide into layers and heads: blocks that are numbered beside the KP-RPE tell, or the caller does.
Shape letters: L keypoints, D layers, H heads, K buckets, R rows = D * H * K, N tokens.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.rpe.buckets import DistanceMethod, num_buckets
from common.rpe.keypoint_rpe import KeypointRPE, KeypointRPEForm
from common.runtime.checkpoint import load_checkpoint

__all__ = ["find_keypoint_rpe", "read_state", "square_grid"]


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint (.pt and the like, read without unpickling objects) or of a .safetensors file.

    A checkpoint that keeps its weights under `model` or `state_dict`, beside an optimizer's, gives those.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, refused, or without tensors.
    """
    path = Path(path)
    contents = _read_safetensors(path) if path.suffix == ".safetensors" else load_checkpoint(path)
    for key in ("model", "state_dict"):
        if isinstance(contents.get(key), dict):
            contents = contents[key]
            break
    state = {name: value for name, value in contents.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(
            f"{path}: expected named tensors, found {', '.join(map(str, list(contents)[:8])) or 'nothing'}"
        )
    return state


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or damaged ({error})") from error


def find_keypoint_rpe(
    state: Mapping[str, Tensor],
    num_keypoints: int,
    *,
    num_heads: int | None = None,
    num_layers: int | None = None,
    form: KeypointRPEForm = "multihead",
    shared: bool = False,
    method: DistanceMethod = "product",
    ratio: float = 1.9,
    extra_tokens: int = 0,
    name: str | None = None,
    source: str = "weights",
) -> KeypointRPE:
    """The KP-RPE of a state dict.

    Args:
        state: names to tensors.
        num_keypoints: L; the weight [R, 2 L] is known by it.
        num_heads, num_layers: H and D. Either follows from the other; with neither, D is the number of `blocks` (or
            `layers`) beside the KP-RPE.
        form, shared, method, ratio, extra_tokens: as in training, see `KeypointRPE`; a file does not tell them.
        name: what stands before `.weight` and `.bias`; None: there must be only one weight that it can be.
        source: what errors call the state, such as its file name.

    Returns:
        A KP-RPE with the weights in float32, for inference.

    Raises:
        ValueError: nothing or several things fit, or rows that do not divide so; what was found is listed.
    """
    buckets = num_buckets(method, ratio, extra_tokens)
    name = _find(state, 2 * num_keypoints, buckets, source) if name is None else name
    prefix = f"{name}." if name else ""
    weight, bias = state.get(f"{prefix}weight"), state.get(f"{prefix}bias")
    if weight is None or bias is None or not _fits(weight, bias, 2 * num_keypoints, buckets):
        found = ["nothing" if value is None else str(list(value.shape)) for value in (weight, bias)]
        raise ValueError(
            f"{source}: {prefix}weight and {prefix}bias must be [R, {2 * num_keypoints}] and [R] for {num_keypoints} "
            f"keypoints, R a multiple of the {buckets} buckets; found {found[0]} and {found[1]}"
        )
    parts = len(weight) // buckets
    layers, heads = _divide(parts, num_layers, num_heads, form, shared, _blocks_beside(state, prefix), source)
    rows = 1 if shared else layers
    if rows * (heads if form == "multihead" else 1) != parts:
        product = "heads" if shared else "layers x heads" if form == "multihead" else "layers"
        raise ValueError(
            f"{source}: {prefix}weight has {len(weight)} rows for {buckets} buckets, so {product} must be "
            f"{parts} (form {form}, {'shared' if shared else 'not shared'}); found {layers} layer(s), {heads} head(s)"
        )
    rpe = KeypointRPE(
        num_keypoints, heads, layers, form, shared, method, ratio, extra_tokens=extra_tokens
    ).requires_grad_(False)
    with torch.no_grad():
        rpe.weight.copy_(weight)
        rpe.bias.copy_(bias)
    return rpe.eval()


def square_grid(state: Mapping[str, Tensor], extra_tokens: int = 0) -> tuple[int, int] | None:
    """(rows, cols) of a ViT's patches, from its `pos_embed` [1, E + N, C]; None where that is no square, or missing."""
    for name, value in state.items():
        if name.rsplit(".", 1)[-1] == "pos_embed" and value.ndim == 3:
            patches = value.shape[1] - extra_tokens
            side = math.isqrt(max(patches, 0))
            return (side, side) if side and side * side == patches else None
    return None


def _fits(weight: Tensor, bias: Tensor, columns: int, buckets: int) -> bool:
    return (
        weight.ndim == 2
        and weight.shape[1] == columns
        and bias.shape == weight.shape[:1]
        and len(weight) > 0
        and len(weight) % buckets == 0
    )


def _find(state: Mapping[str, Tensor], columns: int, buckets: int, source: str) -> str:
    pairs = {
        name[: -len("weight")].rstrip("."): (value, state[f"{name[: -len('weight')]}bias"])
        for name, value in state.items()
        if name.rsplit(".", 1)[-1] == "weight" and f"{name[: -len('weight')]}bias" in state
    }
    fitting = [name for name, pair in pairs.items() if _fits(*pair, columns, buckets)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(f"{source}: several weights may be a KP-RPE, name one: {', '.join(fitting)}")
    close = [
        f"{name}.weight {list(pair[0].shape)}"
        for name, pair in pairs.items()
        if re.search("rpe|keypoint", name.rsplit(".", 1)[-1], re.IGNORECASE)
    ]
    raise ValueError(
        f"{source}: no KP-RPE of {columns // 2} keypoints and {buckets} buckets, which would be a weight "
        f"[R, {columns}] and a bias [R], R a multiple of {buckets}; found {', '.join(close) or 'nothing like it'}"
    )


def _blocks_beside(state: Mapping[str, Tensor], prefix: str) -> int | None:
    """How many numbered blocks there are in the nearest module around a KP-RPE that has any."""
    around = prefix.split(".")[:-1]
    while around:
        around.pop()
        start = re.escape("".join(f"{part}." for part in around))
        numbered = re.compile(rf"{start}(?:blocks|layers)\.(\d+)\.")
        numbers = [int(match[1]) for name in state if (match := numbered.match(name))]
        if numbers:
            return max(numbers) + 1
    return None


def _divide(
    parts: int,
    layers: int | None,
    heads: int | None,
    form: KeypointRPEForm,
    shared: bool,
    blocks: int | None,
    source: str,
) -> tuple[int, int]:
    """(layers, heads): what was asked for, else what follows; whether they fit is for the caller to see."""
    if shared:
        return layers or blocks or 1, heads or (parts if form == "multihead" else 1)
    if form != "multihead":
        return layers or parts, heads or 1
    if layers is None and heads is not None:
        return max(parts // heads, 1), heads
    layers = layers or blocks
    if layers is None:
        raise ValueError(
            f"{source}: the file does not tell the number of layers; layers x heads is {parts}, "
            "give one of num_layers and num_heads"
        )
    return layers, heads or max(parts // layers, 1)
