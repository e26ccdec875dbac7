"""The differentiable face aligner (DFA): landmarks of one face, and the face aligned by them.

Importing this loads nothing; what it names is loaded when first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from face.dfa.aligner import FaceAligner, load_aligner
    from face.dfa.network import DFANetwork
    from face.dfa.pretrained import create_dfa, load_dfa, save_dfa

_HOMES = {
    "DFANetwork": "network",
    "FaceAligner": "aligner",
    "create_dfa": "pretrained",
    "load_aligner": "aligner",
    "load_dfa": "pretrained",
    "save_dfa": "pretrained",
}

__all__ = ["DFANetwork", "FaceAligner", "create_dfa", "load_aligner", "load_dfa", "save_dfa"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"face.dfa.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
