"""Face models in files: a folder of this project's own, and weights as CVLface and AdaFace release them.

A folder of this project holds `model.safetensors` and `config.json`: the model's name and settings, what it takes
(colours, range, keypoints) and the version that wrote it. The weights carry the same config inside, so that a pair of
files that do not belong together is seen, and the weights alone suffice.
Nothing in a file is ever run: tensors are read from safetensors or by torch's weights-only reader, configs are JSON and
YAML, and code that lies beside them is not looked at.
"""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import torch

from common.keypoints import FIVE_POINT_FACE
from common.rpe.stored import read_state
from common.runtime.checkpoint import CheckpointError, load_weights
from common.runtime.files import whole_file
from common.runtime.settings import read_yaml
from face.models.base import FaceModel, WeightsOrigin
from face.models.cvlface import cvlface_settings
from face.models.hub import download, is_hub_id
from face.models.recognise import ColourOrder, recognise
from face.models.registry import create_model

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "load_pretrained", "save_pretrained"]

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
_FORMAT, _FORMAT_VERSION = "kprpe-face", 1
# Where released and saved models have their weights; the first that is there is read.
_WEIGHTS = (WEIGHTS_FILE, "model.pt", f"pretrained_model/{WEIGHTS_FILE}", "pretrained_model/model.pt")
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
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if not isinstance(model, FaceModel):
        raise ValueError(f"expected a face model itself, got {type(model).__name__}; unwrap it first")
    if not hasattr(model, "config"):
        raise ValueError(f"expected a model of create_model, got a {type(model).__name__} without a config")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_describe(model), indent=2)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with whole_file(folder / WEIGHTS_FILE) as weights, whole_file(folder / CONFIG_FILE) as config:
        config.write_text(text + "\n", encoding="utf-8")
        try:
            save_file(state, weights, metadata={"format": "pt", "config": text})
        except SafetensorError as error:
            raise OSError(f"{folder / WEIGHTS_FILE}: cannot be written ({error}); is the disk full?") from error
        weights.chmod(config.stat().st_mode)  # safetensors lets nobody else read it


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
    weights, config_path = _find(source)
    config, config_name = _read_config(weights, config_path)
    order: ColourOrder | None
    state = _read_weights(weights)
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
        state = {key: value.flip(1) if key in _FIRST else value for key, value in state.items()}
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
    try:
        package_version = version("kprpe")
    except PackageNotFoundError:  # run from a folder that was never installed
        package_version = None
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "package_version": package_version,
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


def _find(source: str | Path) -> tuple[Path, Path | None]:
    """The file of weights, and that of its config, if there is one."""
    path = Path(source)
    if not path.exists():
        if not is_hub_id(source) or path.parent.is_dir():  # a mistyped path is no repository
            raise FileNotFoundError(f"{source}: no such file or folder")
        path = download(str(source), _WEIGHTS, (CONFIG_FILE, "model.yaml", "pretrained_model/model.yaml"))
    weights = path
    if path.is_dir():
        there = [path / file for file in _WEIGHTS if (path / file).is_file()]
        if not there:
            shown = ", ".join(sorted(item.name for item in path.iterdir())[:10]) or "nothing"
            raise FileNotFoundError(f"{path}: expected one of {', '.join(_WEIGHTS)}, found {shown}")
        weights = there[0]
    beside = [weights.with_suffix(".yaml"), weights.with_suffix(".json")]
    if weights.stem == "model":
        beside.insert(0, weights.parent / CONFIG_FILE)
    return weights, next((file for file in beside if file.is_file()), None)


def _read_config(weights: Path, path: Path | None) -> tuple[dict[str, Any], str]:
    """What the config says, empty where there is none, and what errors call it."""
    inside = _config_inside(weights)
    if path is None:
        return inside or {}, str(weights)
    config = read_yaml(path) if path.suffix == ".yaml" else _read_json(path)
    if inside is not None and inside != config:
        raise ValueError(f"{path} is not the config that {weights.name} was saved with (an interrupted save?)")
    if path.suffix == ".yaml" or config.get("format") == _FORMAT:
        return config, str(path)
    if isinstance(config.get("conf"), dict):
        return config["conf"], f"{path}: conf"
    raise ValueError(
        f"{path}: expected the config of a {_FORMAT} model or, with the key conf, of a released CVLface model; found "
        f"the keys {', '.join(map(str, list(config)[:8])) or 'none'}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return config


def _config_inside(weights: Path) -> dict[str, Any] | None:
    """The config that `save_pretrained` put into the weights."""
    if weights.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, "pt") as file:
            text = (file.metadata() or {}).get("config")
    except SafetensorError as error:
        raise ValueError(f"{weights}: not a safetensors file, or damaged ({error})") from error
    if text is None:
        return None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{weights}: the config that it carries is not valid JSON: {error}") from error
    return config if isinstance(config, dict) and config.get("format") == _FORMAT else None


def _read_weights(weights: Path) -> dict[str, torch.Tensor]:
    try:
        state = read_state(weights)
    except CheckpointError as error:
        if "refused" not in str(error):
            raise
        file = weights.with_suffix(".pt") if weights.suffix != ".pt" else weights.with_stem(f"{weights.stem}-tensors")
        raise CheckpointError(
            f"{error}. Where you trust it, keep its tensors alone: torch.save({{'state_dict': torch.load('{weights}', "
            f"weights_only=False)['state_dict']}}, '{file}')"
        ) from error
    for key, value in state.items():
        counts = not value.is_floating_point() and str(key).endswith("num_batches_tracked")
        if not isinstance(key, str) or not (value.is_floating_point() or counts) or (value.ndim and not value.numel()):
            raise CheckpointError(f"{weights}: {key!r}: expected numbers, found {value.dtype} {list(value.shape)}")
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{weights}: {key}: holds NaN or infinity")
    return state


def _own_config(
    config: Mapping[str, Any], source: str, name: str | None, colour_order: str | None
) -> Mapping[str, Any]:
    """Raises ValueError where the config cannot be used, or the caller contradicts it."""
    if config.get("format_version") != _FORMAT_VERSION:
        raise ValueError(
            f"{source}: format_version {config.get('format_version')!r} is not {_FORMAT_VERSION}, the one that this "
            f"version reads; it was written by version {config.get('package_version')!r}"
        )
    for key, kind in (("name", str), ("settings", dict)):
        if not isinstance(config.get(key), kind):
            raise ValueError(f"{source}: {key} must be a {kind.__name__}, found {config.get(key)!r}")
    if config.get("colour_order") != "RGB":
        raise ValueError(f"{source}: colour_order must be RGB, found {config.get('colour_order')!r}")
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
