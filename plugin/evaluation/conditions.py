"""Which sequences of a gait data set are probes and which are gallery: facts of the data sets' protocols.

Source: the papers of the sets, in the names that OpenGait's evaluators use (ShiqiYu/OpenGait@0efafd4, `evaluation/
evaluator.py`), spelling included ("Umberalla"), since its result keys are made of them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np

__all__ = ["CCPG", "CROSS_VIEW", "GREW_SUBMISSION", "REAL_SCENE", "SINGLE_VIEW", "Condition", "unknown_types"]


@dataclass(frozen=True)
class Condition:
    """Probes of one kind and the gallery that they are compared with."""

    name: str
    probe_types: tuple[str, ...]
    gallery_types: tuple[str, ...]
    anywhere: bool = False
    """Types count if they contain one of the names, as 02-cl-nt contains cl; otherwise they must be equal to one."""

    def probes(self, types: np.ndarray) -> np.ndarray:
        """[n] bool."""
        return self._match(types, self.probe_types)

    def gallery(self, types: np.ndarray) -> np.ndarray:
        """[n] bool."""
        return self._match(types, self.gallery_types)

    def _match(self, types: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        if not self.anywhere:
            return np.isin(types, names)
        return np.any([np.char.find(types, name) >= 0 for name in names], axis=0)


def _conditions(gallery: Iterable[str], anywhere: bool = False, /, **probes: Iterable[str]) -> tuple[Condition, ...]:
    return tuple(Condition(name, tuple(types), tuple(gallery), anywhere) for name, types in probes.items())


def _casia_e(scenes: Iterable[str], walk: str) -> list[str]:
    return ["-".join(parts) for parts in product("HL", scenes, [walk], "12")]


_LATER_SCENES = ("scene2", "scene3", "scene3_s")

SINGLE_VIEW: dict[str, tuple[Condition, ...]] = {
    "CASIA-B": _conditions(
        ["nm-01", "nm-02", "nm-03", "nm-04"], NM=["nm-05", "nm-06"], BG=["bg-01", "bg-02"], CL=["cl-01", "cl-02"]
    ),
    "OUMVLP": _conditions(["01"], NM=["00"]),
    "CASIA-E": _conditions(
        _casia_e(["scene1"], "nm"), **{walk.upper(): _casia_e(_LATER_SCENES, walk) for walk in ("nm", "bg", "cl")}
    ),
    "SUSTech1K": _conditions(
        ["00-nm"],
        True,
        Normal=["01-nm"],
        Bag=["bg"],
        Clothing=["cl"],
        Carrying=["cr"],
        Umberalla=["ub"],
        Uniform=["uf"],
        Occlusion=["oc"],
        Night=["nt"],
        Overall=["01", "02", "03", "04"],
    ),
}
"""A gallery of one view at a time: accuracy for each pair of views."""

CROSS_VIEW: dict[str, tuple[Condition, ...]] = {
    "CASIA-B": _conditions(["nm-02", "bg-02", "cl-02"], NM=["nm-01"], BG=["bg-01"], CL=["cl-01"]),
    "OUMVLP": _conditions(["01"], NM=["00"]),
}
"""A gallery of all views at once, less the probe's own identity in its own view."""

REAL_SCENE: dict[str, tuple[Condition, ...]] = {
    "0001-1000": _conditions("12", all="3456"),
    "HID2021": _conditions("0", all="1"),
    "0001-1000-test": _conditions("0", all="1"),
    "GREW": _conditions(["01"], all=["02"]),
    "TTG-200": _conditions("1", all="23456"),
}

GREW_SUBMISSION: dict[str, tuple[Condition, ...]] = {"GREW": _conditions(["01", "02"], all=["03"])}

CCPG: dict[str, tuple[Condition, ...]] = {
    "CCPG": (
        Condition("CL", ("U0_D0_BG", "U0_D0"), ("U1_D1", "U2_D2", "U3_D3")),
        Condition("UP", ("U3_D3",), ("U0_D3",)),
        Condition("DN", ("U1_D0",), ("U1_D1",)),
        Condition("BG", ("U0_D0_BG",), ("U0_D0",)),
    )
}

# Sequences that a set has and no protocol here uses.
_UNUSED = {"CASIA-E": re.compile(r"[HL]-scene\w+-(nm|bg|cl)-\d+")}


def unknown_types(dataset_name: str, types: np.ndarray) -> list[str]:
    """Those sequence types that the data set does not have, sorted."""
    tables = (SINGLE_VIEW, CROSS_VIEW, REAL_SCENE, GREW_SUBMISSION, CCPG)
    distinct = np.unique(types)
    known = np.zeros(len(distinct), dtype=bool)
    for condition in (condition for table in tables for condition in table.get(dataset_name, ())):
        known |= condition.probes(distinct) | condition.gallery(distinct)
    unused = _UNUSED.get(dataset_name)
    return [kind for kind in distinct[~known].tolist() if not (unused and unused.fullmatch(kind))]
