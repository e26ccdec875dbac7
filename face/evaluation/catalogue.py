"""Benchmarks by their names: which file or folder below a folder of data each of them is.

A name is taken in any case, with `-` for `_`. Of each place that a benchmark may have one alone may be there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from face.evaluation.inputs import MissingLandmarks
from face.evaluation.sets import EvaluationSetSettings, SetKind

__all__ = ["BENCHMARKS", "Benchmark", "canonical_name", "find_benchmark", "find_benchmarks"]

_PAIR_LISTS = ("pairs.csv", "pairs.txt")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One that the field knows by name."""

    title: str
    """What tables of papers call it."""

    kind: SetKind
    """Of `EvaluationSetSettings`."""

    places: tuple[str, ...]
    """Paths below the folder of data. Of pairs: without a suffix, of a `.bin` file or a folder."""

    aliases: tuple[str, ...] = ()
    """Other names, in small letters with `_`."""


def _pairs(title: str, *names: str, aliases: Sequence[str] = ()) -> Benchmark:
    return Benchmark(title=title, kind="pairs", places=names, aliases=(*names[1:], *aliases))


BENCHMARKS = {
    "lfw": _pairs("LFW", "lfw"),
    "cfp_fp": _pairs("CFP-FP", "cfp_fp", aliases=["cfpfp"]),
    "cfp_ff": _pairs("CFP-FF", "cfp_ff", aliases=["cfpff"]),
    "agedb": _pairs("AgeDB", "agedb", "agedb_30", aliases=["agedb30"]),
    "calfw": _pairs("CALFW", "calfw"),
    "cplfw": _pairs("CPLFW", "cplfw"),
    "vgg2_fp": _pairs("VGG2-FP", "vgg2_fp", aliases=["vgg2fp"]),
    "ijbb": Benchmark(title="IJB-B", kind="ijb", places=("IJBB", "ijbb", "IJB_release/IJBB"), aliases=("ijb_b",)),
    "ijbc": Benchmark(title="IJB-C", kind="ijb", places=("IJBC", "ijbc", "IJB_release/IJBC"), aliases=("ijb_c",)),
    "tinyface": Benchmark(
        title="TinyFace", kind="tinyface", places=("tinyface", "TinyFace", "Tinyface"), aliases=("tiny_face",)
    ),
    "ijbs": Benchmark(title="IJB-S", kind="ijbs", places=("ijbs", "IJBS"), aliases=("ijb_s",)),
}
"""By their own names, in the order of tables."""

_NAMES = {other: name for name, entry in BENCHMARKS.items() for other in (name, *entry.aliases)}


def canonical_name(name: str) -> str:
    """The one of BENCHMARKS that a name or alias means.

    Raises:
        ValueError: nothing; those that are known are listed.
    """
    found = _NAMES.get(name.strip().lower().replace("-", "_"))
    if found is None:
        known = ", ".join(
            each + (f" ({', '.join(entry.aliases)})" if entry.aliases else "") for each, entry in BENCHMARKS.items()
        )
        raise ValueError(f"no benchmark is called {name!r}; known are {known}")
    return found


def find_benchmark(
    name: str,
    data: str | Path,
    *,
    align: Literal["landmarks", "none"] = "landmarks",
    missing_landmarks: MissingLandmarks = "error",
) -> EvaluationSetSettings:
    """Settings of a benchmark, for `open_set`; nothing is read.

    Args:
        name: one that `canonical_name` knows.
        data: the folder of data.
        align: of IJB-B and IJB-C.
        missing_landmarks: of all.

    Raises:
        FileNotFoundError: it is not there; what was looked for is said.
        ValueError: an unknown name, or it is there more than once.
    """
    name, data = canonical_name(name), Path(data)
    entry = BENCHMARKS[name]
    there = _there(entry, data)
    if len(there) > 1:
        raise ValueError(f"{name}: {' and '.join(map(str, there))} are both there; move the one that is not meant")
    if not there:
        raise FileNotFoundError(f"{name}: not in {data}, looked for {_looked_for(entry)}{_nearly(entry, data)}")
    return EvaluationSetSettings(
        name=name,
        path=there[0],
        kind=entry.kind,
        align=align if entry.kind == "ijb" else "landmarks",
        missing_landmarks=missing_landmarks,
    )


def find_benchmarks(data: str | Path) -> list[str]:
    """Names of those that are in a folder of data.

    Raises:
        FileNotFoundError: no such folder, or none of them in it.
    """
    data = Path(data)
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: no such folder of data")
    found = [name for name, entry in BENCHMARKS.items() if _there(entry, data)]
    if not found:
        looked = "; ".join(f"{name}: {_looked_for(entry)}" for name, entry in BENCHMARKS.items())
        raise FileNotFoundError(f"{data}: no benchmark in it, looked for {looked}")
    return found


def _there(entry: Benchmark, data: Path) -> list[Path]:
    """Places where it is; one of them where file names differ by case alone and the disk does not tell."""
    found: list[Path] = []
    for place in entry.places:
        path = data / place
        if entry.kind == "pairs":
            candidates = [path.with_name(f"{path.name}.bin")]
            candidates = [each for each in candidates if each.is_file()]
            candidates += [path] if any((path / name).is_file() for name in _PAIR_LISTS) else []
        else:
            candidates = [path] if path.is_dir() else []
        found += [each for each in candidates if not any(each.samefile(other) for other in found)]
    return found


def _looked_for(entry: Benchmark) -> str:
    if entry.kind == "pairs":
        places = [each for place in entry.places for each in (f"{place}.bin", f"{place}/")]
        return f"{', '.join(places)} (a folder with {' or '.join(_PAIR_LISTS)})"
    return ", ".join(f"{place}/" for place in entry.places)


def _nearly(entry: Benchmark, data: Path) -> str:
    folders = [place for place in entry.places if entry.kind == "pairs" and (data / place).is_dir()]
    return f"; {folders[0]}/ is there, but has neither list" if folders else ""
