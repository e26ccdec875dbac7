"""Embeddings of sequences as a file: an .npz of plain arrays, without pickles, that says which model they are of.

Shape letters: n sequences, c channels, p parts.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from common.runtime.files import whole_file
from plugin.evaluation import Metric

__all__ = ["Embeddings", "load_embeddings", "require_same_model", "save_embeddings"]

_TEXTS = ("names", "labels", "types", "views", "folders")
_SCALARS = ("fingerprint", "metric")


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """What a model made of sequences."""

    embeddings: np.ndarray
    """[n, c, p] float32, finite."""

    names: tuple[str, ...]
    """n, distinct: ID-TYPE-VIEW, or a path where that is not known."""

    labels: tuple[str, ...]
    types: tuple[str, ...]
    views: tuple[str, ...]
    """n each, empty where not known."""

    folders: tuple[str, ...]
    """Where each sequence lay below the folder of the data, with slashes."""

    fingerprint: str
    """Of model, weights and test transforms; only embeddings of the same can be compared."""

    metric: Metric
    """What the run compares embeddings by."""


def save_embeddings(path: str | Path, content: Embeddings) -> None:
    """Write an .npz whole or not at all.

    Raises:
        ValueError: another suffix.
        OSError: the folder is missing or cannot be written.
    """
    _check_suffix(path)
    texts: dict[str, Any] = {name: np.array(getattr(content, name), dtype=np.str_) for name in (*_TEXTS, *_SCALARS)}
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, embeddings=content.embeddings.astype(np.float32, copy=False), **texts)


def load_embeddings(path: str | Path) -> Embeddings:
    """Read what `save_embeddings` wrote; nothing in the file is unpickled.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, a damaged one, arrays that are missing, of other shapes or dtypes, NaN or
            infinity, or a name that comes twice. The message begins with the path.
    """
    _check_suffix(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    wanted = ("embeddings", *_TEXTS, *_SCALARS)
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no .npz archive, or not all of one")
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in wanted if name not in archive.files]
            if missing:
                found = ", ".join(archive.files) or "nothing"
                raise ValueError(f"it lacks {', '.join(missing)}; found {found}")
            arrays = {name: archive[name] for name in wanted}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{path}: not a file of embeddings: {error}") from error
    embeddings = arrays["embeddings"]
    if embeddings.ndim != 3 or embeddings.dtype != np.float32 or 0 in embeddings.shape:
        found = f"{embeddings.dtype} {list(embeddings.shape)}"
        raise ValueError(f"{path}: embeddings must be float32 [n, c, p], found {found}")
    for name in (*_TEXTS, *_SCALARS):
        shape = (len(embeddings),) if name in _TEXTS else ()
        if arrays[name].dtype.kind != "U" or arrays[name].shape != shape:
            found = f"{arrays[name].dtype} {list(arrays[name].shape)}"
            raise ValueError(f"{path}: {name} must be strings of shape {list(shape)}, found {found}")
    if not np.isfinite(embeddings).all():
        raise ValueError(f"{path}: embeddings must be finite, found NaN or infinity")
    metric = str(arrays["metric"])
    if metric not in get_args(Metric):
        raise ValueError(f"{path}: metric must be one of {', '.join(get_args(Metric))}, found {metric!r}")
    texts = {name: tuple(arrays[name].tolist()) for name in _TEXTS}
    if len(set(texts["names"])) < len(texts["names"]):
        raise ValueError(
            f"{path}: names must be distinct, found {len(texts['names'])}, {len(set(texts['names']))} of them"
        )
    return Embeddings(embeddings=embeddings, **texts, fingerprint=str(arrays["fingerprint"]), metric=metric)  # type: ignore[arg-type]


def require_same_model(named: dict[str, Embeddings]) -> None:
    """Refuse to compare embeddings of different models.

    Args:
        named: by what an error calls them.

    Raises:
        ValueError: fingerprints, metrics or [c, p] that differ; all are shown.
    """
    facts = {
        name: f"model {content.fingerprint[:12]}, metric {content.metric}, [c, p] {list(content.embeddings.shape[1:])}"
        for name, content in named.items()
    }
    if len(set(facts.values())) > 1 or len({content.fingerprint for content in named.values()}) > 1:
        shown = "".join(f"\n  {name}: {fact}" for name, fact in facts.items())
        raise ValueError(f"embeddings of different models cannot be compared:{shown}")


def _check_suffix(path: str | Path) -> None:
    if Path(path).suffix != ".npz":
        raise ValueError(f"{path}: the name of a file of embeddings must end in .npz")
