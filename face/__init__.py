"""Face recognition with KP-RPE. Importing this loads nothing; the models are loaded when first asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from face.models.pretrained import load_pretrained, save_pretrained
    from face.models.registry import create_model

__all__ = ["create_model", "load_pretrained", "save_pretrained"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import face.models

    return getattr(face.models, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
