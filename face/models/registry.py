"""Face models by name and settings, so that a model is a few lines of YAML and can be built again from its file."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.runtime.settings import build_settings, to_mapping
from face.models.base import FaceModel, FaceModelConfig
from face.models.iresnet import IRESNET_SIZES, IResNetSettings, build_iresnet
from face.models.swin import SWIN_SIZES, SwinSettings, build_swin
from face.models.vit import VIT_SIZES, ViTSettings, build_vit

__all__ = ["create_model", "model_names", "model_settings", "register_model"]


@dataclass(frozen=True)
class _Entry:
    settings: type[Any]
    build: Callable[[Any], FaceModel]
    defaults: Mapping[str, Any]


_ENTRIES: dict[str, _Entry] = {}


def register_model(
    name: str, settings: type[Any], build: Callable[[Any], FaceModel], defaults: Mapping[str, Any] | None = None
) -> None:
    """Give a model a name.

    Args:
        name: what `create_model` and saved models call it.
        settings: a frozen dataclass with a default for every field.
        build: makes the network of such settings.
        defaults: fields in which this model differs from the defaults of `settings`.

    Raises:
        ValueError: the name is taken, or a default is no setting.
    """
    if name in _ENTRIES:
        raise ValueError(f"there is a model {name!r} already; models: {', '.join(_ENTRIES)}")
    entry = _Entry(settings, build, dict(defaults or {}))
    _check_names(name, entry, entry.defaults)
    _ENTRIES[name] = entry


def model_names() -> list[str]:
    """The registered names, in the order of their registration."""
    return list(_ENTRIES)


def model_settings(name: str, source: str = "", **settings: Any) -> Any:
    """The settings dataclass of a model, checked: its defaults, with `settings` in their place.

    Args:
        name: a registered name.
        source: what errors call the settings, such as a file; the model's name where there is none.
        settings: fields, as Python or plain YAML types.

    Raises:
        ValueError: an unknown name or setting (the valid ones are listed), or a value of the wrong type or out of
            range.
    """
    if name not in _ENTRIES:
        raise ValueError(f"{source + ': ' if source else ''}unknown model {name!r}; models: {', '.join(_ENTRIES)}")
    entry = _ENTRIES[name]
    _check_names(source or name, entry, settings)
    return build_settings({**entry.defaults, **settings}, entry.settings, source=source or name)


def create_model(name: str, **settings: Any) -> FaceModel:
    """A face model with fresh weights.

    `position_bias` is the ablation in one word (none, table, irpe_bias, irpe, kprpe); the transformers' default is
    kprpe. For the settings of a model see `ViTSettings`, `SwinSettings` and `IResNetSettings`.

    Args:
        name: one of `model_names()`.
        settings: those that are not to be the model's defaults, as Python or plain YAML types.

    Raises:
        ValueError: an unknown name or setting (the valid ones are listed), or a value of the wrong type, out of range
            or not fitting another.

    Example:
        >>> model = create_model("vit_tiny", position_bias="kprpe", num_keypoints=5)
        >>> model.needs_keypoints, model.num_features, model.config.name
        (True, 512, 'vit_tiny')
    """
    built = model_settings(name, **settings)
    try:
        model = _ENTRIES[name].build(built)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    model.config = FaceModelConfig(name=name, settings=to_mapping(built))
    return model


def _check_names(source: str, entry: _Entry, settings: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(entry.settings)]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ValueError(f"{source}: no such setting: {', '.join(unknown)}; settings: {', '.join(known)}")


for _name, _defaults in VIT_SIZES.items():
    register_model(_name, ViTSettings, build_vit, _defaults)
for _name, _defaults in SWIN_SIZES.items():
    register_model(_name, SwinSettings, build_swin, _defaults)
for _name, _defaults in IRESNET_SIZES.items():
    register_model(_name, IResNetSettings, build_iresnet, _defaults)
