"""Networks in files, whatever they are of: finding, reading and writing weights and their config.

A folder of this project holds `model.safetensors` and `config.json`; the weights carry the same config inside, so that
a pair of files that do not belong together is seen, and the weights alone suffice. A config's `format` says what kind
of network it is of.
Nothing in a file is ever run: tensors are read from safetensors or by torch's weights-only reader, configs are JSON and
YAML, and code that lies beside them is not looked at.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.rpe.stored import read_state
from common.runtime.checkpoint import CheckpointError
from common.runtime.files import whole_file
from common.runtime.settings import read_yaml
from face.models.hub import download, is_hub_id

__all__ = [
    "CONFIG_FILE",
    "RELEASED",
    "WEIGHTS_FILE",
    "check_own_config",
    "find_weights",
    "read_config",
    "read_weights",
    "with_flipped_colours",
    "without_prefixes",
    "write_weights",
]

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
# Where released and saved models have their weights; the first that is there is read.
RELEASED = (WEIGHTS_FILE, "model.pt", f"pretrained_model/{WEIGHTS_FILE}", "pretrained_model/model.pt")
_CONFIGS = (CONFIG_FILE, "model.yaml", "pretrained_model/model.yaml")
_FORMATS = "kprpe-"  # all formats of this project begin so
_FORMAT_VERSION = 1


def _package_version() -> str | None:
    """The installed version of this package; None where it runs from a folder that was never installed."""
    try:
        return version("kprpe")
    except PackageNotFoundError:
        return None


def write_weights(network: nn.Module, folder: str | Path, kind: str, description: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `config.json`, each whole or not at all.

    Args:
        network: whose state is saved.
        folder: made where it is missing; files of these names in it are replaced.
        kind: the config's `format`, such as kprpe-face.
        description: what else the config says, in plain JSON types.

    Raises:
        OSError: the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header = {"format": kind, "format_version": _FORMAT_VERSION, "package_version": _package_version()}
    text = json.dumps({**header, **description}, indent=2)
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with whole_file(folder / WEIGHTS_FILE) as weights, whole_file(folder / CONFIG_FILE) as config:
        config.write_text(text + "\n", encoding="utf-8")
        try:
            save_file(state, weights, metadata={"format": "pt", "config": text})
        except SafetensorError as error:
            raise OSError(f"{folder / WEIGHTS_FILE}: cannot be written ({error}); is the disk full?") from error
        weights.chmod(config.stat().st_mode)  # safetensors lets nobody else read it


def find_weights(source: str | Path, names: Sequence[str] = RELEASED) -> tuple[Path, Path | None]:
    """The file of weights, and that of its config, if there is one.

    Args:
        source: a file, a folder with one of `names` in it, or, where no such path exists, a repository on the Hugging
            Face hub.
        names: of weights in a folder, in the order in which they are looked for.

    Raises:
        FileNotFoundError: no such path, or a folder with none of `names`.
        ConnectionError: no such path, and the hub cannot be reached.
    """
    path = Path(source)
    if not path.exists():
        if not is_hub_id(source) or path.parent.is_dir():  # a mistyped path is no repository
            raise FileNotFoundError(f"{source}: no such file or folder")
        path = download(str(source), names, _CONFIGS)
    weights = path
    if path.is_dir():
        there = [path / file for file in names if (path / file).is_file()]
        if not there:
            shown = ", ".join(sorted(item.name for item in path.iterdir())[:10]) or "nothing"
            raise FileNotFoundError(f"{path}: expected one of {', '.join(names)}, found {shown}")
        weights = there[0]
    beside = [weights.with_suffix(".yaml"), weights.with_suffix(".json")]
    if weights.stem == "model":
        beside.insert(0, weights.parent / CONFIG_FILE)
    return weights, next((file for file in beside if file.is_file()), None)


def read_config(weights: Path, path: Path | None, kind: str) -> tuple[dict[str, Any], str]:
    """What the config says, empty where there is none, and what errors call it.

    Args:
        weights: that the config is of; they may carry one.
        path: of the config; None: there is none beside the weights.
        kind: the `format` that a config of this project must have.

    Raises:
        ValueError: not a config of such a network, or not the one that the weights carry.
    """
    inside = _config_inside(weights, kind)
    if path is None:
        return inside or {}, str(weights)
    config = read_yaml(path) if path.suffix == ".yaml" else _read_json(path)
    if inside is not None and inside != config:
        raise ValueError(f"{path} is not the config that {weights.name} was saved with (an interrupted save?)")
    if path.suffix == ".yaml" or config.get("format") == kind:
        return config, str(path)
    _refuse_other_kind(config, kind, path)
    if isinstance(config.get("conf"), dict):
        return config["conf"], f"{path}: conf"
    raise ValueError(
        f"{path}: expected the config of a {kind} model or, with the key conf, of a released CVLface model; found "
        f"the keys {', '.join(map(str, list(config)[:8])) or 'none'}"
    )


def check_own_config(config: Mapping[str, Any], source: str, expected: Mapping[str, type]) -> None:
    """Raises ValueError for a config of this project of another version, of BGR, or whose keys are not as expected."""
    if config.get("format_version") != _FORMAT_VERSION:
        raise ValueError(
            f"{source}: format_version {config.get('format_version')!r} is not {_FORMAT_VERSION}, the one that this "
            f"version reads; it was written by version {config.get('package_version')!r}"
        )
    for key, kind in expected.items():
        if not isinstance(config.get(key), kind):
            raise ValueError(f"{source}: {key} must be a {kind.__name__}, found {config.get(key)!r}")
    if config.get("colour_order") != "RGB":
        raise ValueError(f"{source}: colour_order must be RGB, found {config.get('colour_order')!r}")


def read_weights(weights: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, holding objects of Python, something other than numbers, NaN or infinity.
    """
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


def without_prefixes(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
    """The state without what wrappers put before all names, and which of these prefixes it had."""
    plain = dict(state)
    taken: set[str] = set()
    while True:
        shared = next(
            (p for p in ("module.", "_orig_mod.", "model.", "net.") if all(name.startswith(p) for name in plain)), None
        )
        if shared is None or not plain:
            return plain, taken
        plain = {name.removeprefix(shared): value for name, value in plain.items()}
        taken.add(shared)


def with_flipped_colours(state: Mapping[str, Tensor], first: Sequence[str]) -> dict[str, Tensor]:
    """Weights for RGB from those for BGR, or back: the convolutions `first` meet the image."""
    return {key: value.flip(1) if key in first else value for key, value in state.items()}


def _refuse_other_kind(config: Mapping[str, Any], kind: str, source: Path) -> None:
    found = config.get("format")
    if isinstance(found, str) and found.startswith(_FORMATS) and found != kind:
        raise ValueError(f"{source}: expected a {kind} model, found a {found} model")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return config


def _config_inside(weights: Path, kind: str) -> dict[str, Any] | None:
    """The config that `write_weights` put into the weights."""
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
    if not isinstance(config, dict):
        return None
    _refuse_other_kind(config, kind, weights)
    return config if config.get("format") == kind else None
