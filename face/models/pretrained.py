"""Face models in files: a folder of this project's own, and weights as CVLface and AdaFace release them.

A folder of this project holds `model.safetensors` and `config.json`: the model's name and settings, what it takes
(colours, range, keypoints) and the version that wrote it. The weights carry the same config inside, so that a pair of
files that do not belong together is seen, and the weights alone suffice.
Nothing in a file is ever run: tensors are read from safetensors or by torch's weights-only reader, configs are JSON and
YAML, and code that lies beside them is not looked at.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from common.keypoints import FIVE_POINT_FACE
from common.runtime.checkpoint import load_weights
from face.models.base import FaceModel, WeightsOrigin
from face.models.cvlface import cvlface_settings
from face.models.recognise import ColourOrder, recognise
from face.models.registry import create_model
from face.models.weight_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_own_config,
    find_weights,
    read_config,
    read_weights,
    with_flipped_colours,
    write_weights,
)

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "load_pretrained", "save_pretrained"]

_FORMAT = "kprpe-face"
# The convolution that meets the image, of every model whose weights may be others'.
_FIRST = ("patch_embed.proj.weight", "stem.0.weight")


def save_pretrained(model: FaceModel, folder: str | Path) -> None:
    """Write `model.safetensors` and `config.json`, each whole or not at all; `load_pretrained` reads them.

    Args:
        model: of `create_model` or `load_pretrained`, not wrapped.
        folder: made where it is missing; files of these names in it are replaced.

    Raises:
        ValueError: the model is wrapped (compiled, distributed), or was not built by name.
        OSError: the folder cannot be written.
    """
    if not isinstance(model, FaceModel):
        raise ValueError(f"expected a face model itself, got {type(model).__name__}; unwrap it first")
    if not hasattr(model, "config"):
        raise ValueError(f"expected a model of create_model, got a {type(model).__name__} without a config")
    write_weights(model, folder, _FORMAT, _describe(model))


def load_pretrained(
    source: str | Path,
    *,
    map_location: str | torch.device = "cpu",
    colour_order: ColourOrder | None = None,
    name: str | None = None,
    **overrides: Any,
) -> FaceModel:
    """A face model with the weights of a folder, a file or a hub's repository. It takes RGB, whatever they took.

    Every weight of the file must have its place in the model and the other way round. Where the weights were trained on
    BGR, the input channels of the first convolution are swapped, which gives the same outputs.

    Args:
        source: a folder that `save_pretrained` wrote; a released folder of CVLface (`model.safetensors` and
            `config.json`, or `pretrained_model/model.pt` and `model.yaml`); a file of weights (.safetensors, .pt,
            .ckpt) of either, or of AdaFace's IR networks; or, where no such path exists, owner/name of a repository on
            the Hugging Face hub with one of these in it.
        map_location: device of the model.
        colour_order: what the weights were trained on. None: what the config says, or, where there is none, what the
            authors of such weights use: RGB, but BGR for AdaFace's. Weights that could be either ask for it.
        name: the registered model, where names and shapes of the weights do not tell.
        overrides: settings of the model, such as `drop_path` or `implementation`, and those that weights do not tell.

    Returns:
        The model in evaluation mode; `model.config` is what it was built from, `model.origin` what was found.

    Raises:
        FileNotFoundError: no such path.
        ConnectionError: no such path, and the hub cannot be reached.
        ValueError: files that are damaged, refused, unknown, or that do not belong together; or weights that do not fit
            (all differences are listed).
    """
    if colour_order is not None and colour_order not in get_args(ColourOrder):
        raise ValueError(f"colour_order must be one of {', '.join(get_args(ColourOrder))}, got {colour_order!r}")
    weights, config_path = find_weights(source)
    config, config_name = read_config(weights, config_path, _FORMAT)
    order: ColourOrder | None
    state = read_weights(weights)
    if config.get("format") == _FORMAT:
        own = _own_config(config, config_name, name, colour_order)
        name, settings, layout, order = own["name"], {**own["settings"], **overrides}, "kprpe", "RGB"
    else:
        given = {**cvlface_settings(config, config_name), **overrides}
        found = recognise(state, str(weights), name=name, given=given)
        name, settings, state, layout = found.name, {**found.settings, **overrides}, found.state, found.layout
        order = colour_order or _colour_space(config, config_name) or found.colour_order
        if order is None:
            raise ValueError(
                f"{weights}: CVLface's IR networks take RGB and AdaFace's BGR, and nothing in this file tells whose it "
                "is; give colour_order="
            )
    if order == "BGR":
        state = with_flipped_colours(state, _FIRST)
    with torch.device("meta"):
        model = create_model(name, **settings)
    model.to_empty(device=map_location)
    _fill_tables(model, name, settings)
    load_weights(model, state, strict=True, source=str(weights))
    model.origin = WeightsOrigin(source=str(weights), layout=layout, colour_order=order)
    return model.eval()


def _fill_tables(model: FaceModel, name: str, settings: Mapping[str, Any]) -> None:
    """Buffers that follow from the settings and are in no file of weights, such as the index of Swin's table."""
    kept = model.state_dict().keys()
    tables = {key: buffer for key, buffer in model.named_buffers() if key not in kept}
    if tables:
        built = dict(create_model(name, **settings).named_buffers())
        for key, buffer in tables.items():
            buffer.copy_(built[key])


def _describe(model: FaceModel) -> dict[str, Any]:
    points = model.config.settings.get("num_keypoints") if model.needs_keypoints else None
    schema = FIVE_POINT_FACE if points == len(FIVE_POINT_FACE) else None
    return {
        "name": model.config.name,
        "settings": model.config.settings,
        "colour_order": "RGB",
        "image_hw": list(model.image_hw),
        "image_range": [-1, 1],
        "num_features": model.num_features,
        "keypoints": None
        if points is None
        else {
            "number": points,
            "units": "fractions of the image, (x, y)",
            "schema": schema and schema.name,
            "names": schema and list(schema.names),
        },
    }


def _own_config(
    config: Mapping[str, Any], source: str, name: str | None, colour_order: str | None
) -> Mapping[str, Any]:
    """Raises ValueError where the config cannot be used, or the caller contradicts it."""
    check_own_config(config, source, {"name": str, "settings": dict})
    if name not in (None, config["name"]):
        raise ValueError(f"{source}: the model is {config['name']}, name= says {name}")
    if colour_order not in (None, "RGB"):
        raise ValueError(f"{source}: the model takes RGB, colour_order= says {colour_order}")
    return config


def _colour_space(config: Mapping[str, Any], source: str) -> ColourOrder | None:
    order = config.get("color_space")
    if order is not None and order not in get_args(ColourOrder):
        raise ValueError(f"{source}: color_space must be RGB or BGR, found {order!r}")
    return order
