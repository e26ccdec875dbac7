"""Bucket tables of the authors' KP-RPE code, read from a CVLface checkout from outside.

Run as a script, with CVLFACE_ROOT set, it writes the tables that tests/common/rpe/test_buckets.py compares with where
no checkout is at hand: `python tests/parity/cvlface.py`.
"""

import importlib.util
import os
import sys
import types
from pathlib import Path

import numpy as np
import torch

STORED = Path(__file__).with_name("buckets.npz")
FOLDER = "cvlface/research/recognition/code/run_v1/models/vit_kprpe/RPE/KPRPE"
METHODS = {"euclidean": 0, "quant": 1, "product": 3, "cross_rows": 41, "cross_cols": 42}
GRIDS = [(1, 1), (3, 5), (7, 4), (14, 14)]
RATIOS = [0.7, 1.0, 1.9, 2.5, 4.0]


def load_kprpe(root: Path) -> types.ModuleType:
    """The authors' kprpe_shared module, imported by path so that the package does not install anything."""
    sys.modules.setdefault("easydict", types.ModuleType("easydict"))
    sys.modules["easydict"].EasyDict = dict
    package = types.ModuleType("authors_kprpe")
    package.__path__ = [str(root / FOLDER)]
    sys.modules["authors_kprpe"] = package
    for name in ("dist", "kprpe_shared"):
        spec = importlib.util.spec_from_file_location(f"authors_kprpe.{name}", root / FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return module


def bucket_table(kprpe: types.ModuleType, method: str, grid_hw: tuple[int, int], ratio: float) -> torch.Tensor:
    """[N, N] of the authors."""
    kprpe.BUCKET_IDS_BUF.clear()
    ids, _, _ = kprpe.get_bucket_ids_2d_without_skip(METHODS[method], *grid_hw, ratio, 2 * ratio, 8 * ratio)
    return ids


def key(method: str, grid_hw: tuple[int, int], ratio: float) -> str:
    """Name of a table in the file."""
    return f"{method}-{grid_hw[0]}x{grid_hw[1]}-{ratio:g}"


if __name__ == "__main__":
    authors = load_kprpe(Path(os.environ["CVLFACE_ROOT"]))
    tables = {
        key(method, grid, ratio): bucket_table(authors, method, grid, ratio).numpy().astype(np.uint16)
        for method in METHODS
        for grid in GRIDS
        for ratio in RATIOS
    }
    np.savez_compressed(STORED, **tables)
    print(f"{STORED}: {len(tables)} tables, {STORED.stat().st_size} bytes")
