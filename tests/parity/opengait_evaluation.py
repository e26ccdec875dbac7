"""What OpenGait's evaluation functions give for made-up embeddings of every data set that they know.

Run as a script, with OPENGAIT_ROOT set, it writes the numbers that tests/plugin/evaluation/test_protocols.py compares
with where no checkout is at hand: `python tests/parity/opengait_evaluation.py`. OpenGait's evaluation package is loaded
by path and runs unchanged; its `.cuda()` calls stay on the CPU.
"""

import contextlib
import copy
import importlib
import importlib.util
import io
import os
import sys
import tempfile
import types
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

STORED = Path(__file__).with_name("evaluation.npz")


class Case(NamedTuple):
    """A test set: who it is for, and each sequence's identity, type, view and embedding."""

    eval_func: str
    dataset: str
    options: dict[str, Any]
    labels: list[str]
    types: list[str]
    views: list[str]
    embeddings: np.ndarray


def case(
    eval_func: str, dataset: str, subjects: int, kinds: Iterable[str], views: Iterable[str], **options: Any
) -> Case:
    """Noisy copies of one vector per identity, shifted with the type and the view; a tenth of sequences is missing."""
    rng = np.random.RandomState(len(dataset) + 10 * subjects)
    names = [name for name in product(range(subjects), kinds, views) if rng.rand() > 0.1]
    tables: list[dict[Any, np.ndarray]] = [
        {key: rng.standard_normal((8, 3)) for key in sorted({name[axis] for name in names})} for axis in range(3)
    ]
    noise = rng.standard_normal((len(names), 8, 3))
    weights = (1.0, 0.5, 0.5)
    place: Any = [sum(w * t[k] for w, t, k in zip(weights, tables, name, strict=True)) for name in names]
    embeddings = (np.stack(place) + 1.1 * noise).astype(np.float32)
    labels, types_, views_ = (list(map(str, column)) for column in zip(*names, strict=True))
    return Case(eval_func, dataset, options, [f"{int(label):04d}" for label in labels], types_, views_, embeddings)


def grew_submission() -> Case:
    """Identities of the gallery are known; probes are called "probe", with the video's name as their view."""
    gallery = case("GREW_submission", "GREW", 14, ["01", "02"], ["00"])
    probe = case("GREW_submission", "GREW", 15, ["03"], ["00"])
    videos = [f"video{number:03d}" for number in range(len(probe.labels))]
    return gallery._replace(
        labels=gallery.labels + ["probe"] * len(videos),
        types=gallery.types + probe.types,
        views=gallery.views + videos,
        embeddings=np.concatenate([gallery.embeddings, probe.embeddings]),
    )


def cases() -> dict[str, Case]:
    """Every protocol and data set."""
    walks = [*(f"nm-0{i}" for i in range(1, 7)), "bg-01", "bg-02", "cl-01", "cl-02"]
    angles = ["000", "018", "090"]
    scenes = ["scene1", "scene2", "scene3", "scene3_s"]
    casia_e = ["-".join(parts) for parts in product("HL", scenes, ["nm", "bg", "cl"], "12")]
    sustech = ["00-nm", "01-nm", "02-bg", "03-cl-nt", "04-cr", "01-ub", "02-uf", "03-oc", "00-cl"]
    outfits = ["U0_D0", "U0_D0_BG", "U0_D3", "U1_D0", "U1_D1", "U2_D2", "U3_D3"]
    indoor, real = "evaluate_indoor_dataset", "evaluate_real_scene"
    return {
        "CASIA-B": case(indoor, "CASIA-B", 8, walks, angles),
        "OUMVLP": case(indoor, "OUMVLP", 12, ["00", "01"], [*angles, "270"]),
        "CASIA-E": case(indoor, "CASIA-E", 5, casia_e, ["000", "090", "270"]),
        "SUSTech1K": case(indoor, "SUSTech1K", 9, sustech, angles),
        "CASIA-B cross view": case(indoor, "CASIA-B", 9, walks, angles, cross_view_gallery=True),
        "OUMVLP cross view": case(indoor, "OUMVLP", 13, ["00", "01"], angles, cross_view_gallery=True),
        "GREW": case(real, "GREW", 40, ["01", "02"], ["00"]),
        "HID2021": case(real, "HID2021", 30, "01", ["00"]),
        "0001-1000": case(real, "0001-1000", 15, "123456", ["00"]),
        "0001-1000-test": case(real, "0001-1000-test", 30, "01", ["00"]),
        "TTG-200": case(real, "TTG-200", 25, "123456", ["00"]),
        "GREW submission": grew_submission(),
        "CCPG": case("evaluate_CCPG", "CCPG", 20, outfits, ["00_0", "00_1", "01_0", "02_0"]),
    }


@contextlib.contextmanager
def opengait_evaluator(root: str | Path) -> Iterator[types.ModuleType]:
    """OpenGait's `evaluation.evaluator`, silent and on the CPU."""
    folder = Path(root) / "opengait" / "evaluation"
    silent = types.SimpleNamespace(log_info=lambda text: None)
    utils = types.ModuleType("utils")
    make = lambda path: os.makedirs(path, exist_ok=True)  # noqa: E731
    vars(utils).update(get_msg_mgr=lambda: silent, mkdir=make, is_tensor=torch.is_tensor)
    spec = importlib.util.spec_from_file_location("opengait_evaluation", folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    options = np.get_printoptions()
    with (
        mock.patch.dict(sys.modules, {"utils": utils, spec.name: package}),  # puts back what it found
        mock.patch.object(torch.Tensor, "cuda", lambda self: self),
    ):
        spec.loader.exec_module(package)
        try:
            yield importlib.import_module("opengait_evaluation.evaluator")
        finally:
            np.set_printoptions(**options)


def opengait_results(evaluator: types.ModuleType, example: Case, metric: str) -> dict[str, np.ndarray]:
    """Result keys and values, and the table "csv" of a submission."""
    data = {
        "embeddings": example.embeddings,
        "labels": list(example.labels),
        "types": list(example.types),
        "views": list(example.views),
    }
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        try:
            function = getattr(evaluator, example.eval_func)
            found = function(copy.deepcopy(data), example.dataset, metric=metric, **example.options)
            tables = [path.read_text() for path in Path(folder).rglob("*.csv")]
        finally:
            os.chdir(before)
    if tables:
        return {"csv": np.array(tables[0])}
    return {name: np.asarray(value, dtype=np.float64) for name, value in found.items()}


if __name__ == "__main__":
    stored: dict[str, Any] = {}
    with opengait_evaluator(os.environ["OPENGAIT_ROOT"]) as module:
        for title, example in cases().items():
            for metric in ("euc", "cos"):
                for key, value in opengait_results(module, example, metric).items():
                    stored[f"{title}|{metric}|{key}"] = value
    np.savez_compressed(STORED, **stored)
    print(f"{STORED}: {STORED.stat().st_size} bytes")
    for key, value in stored.items():
        if value.ndim == 0 and value.dtype.kind == "f":
            print(f"{key}: {float(value):.4f}")
