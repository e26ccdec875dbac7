"""Time the gait evaluation on a made-up test set of Gait3D's size, beside OpenGait's where a checkout is given.

    python scripts/benchmark_evaluation.py --out evaluation.json
    OPENGAIT_ROOT=path/to/OpenGait python scripts/benchmark_evaluation.py

Both take turns within one process, so that their ratio does not depend on what else the machine does. OpenGait's
functions run unchanged; without a GPU their `.cuda()` calls stay on the CPU.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tqdm import tqdm

from common.runtime.files import write_text
from plugin.evaluation import part_distance, retrieval_metrics


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, nargs=4, default=[1000, 5369, 256, 16], metavar=("N", "M", "C", "P"),
                        help="probes, gallery sequences, channels, parts (default: %(default)s)")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    if min(*options.size, options.repeats, options.threads) < 1:
        parser.error("--size, --repeats and --threads must be >= 1")
    torch.set_num_threads(options.threads)
    try:
        runs = {"ours": ours(options.device)} | theirs(os.environ.get("OPENGAIT_ROOT"))
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    probe, gallery, probe_labels, gallery_labels = made_up_case(*options.size)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    scores = {}
    for _ in tqdm(range(options.repeats + 1), desc="rounds"):
        for name, (distance, metrics) in runs.items():
            begun = time.perf_counter()
            distances = distance(probe, gallery)
            between = time.perf_counter()
            scores[name] = metrics(distances, probe_labels, gallery_labels)
            times[name].append((between - begun, time.perf_counter() - between))
    on_gpu = options.device.startswith("cuda")
    report = {
        "size": dict(zip(("probes", "gallery", "channels", "parts"), options.size, strict=True)),
        "device": torch.cuda.get_device_name(options.device) if on_gpu else f"CPU, {platform.machine()}",
        "threads": options.threads,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "scores_percent": scores,
        "seconds": {name: spread(measured[1:]) for name, measured in times.items()},  # the first round warms up
    }
    if "opengait" in times:
        ratios = [sum(b) / sum(a) for a, b in zip(times["ours"][1:], times["opengait"][1:], strict=True)]
        report["opengait_over_ours"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        write_text(options.out, text + "\n")
    return 0


def made_up_case(probes: int, gallery: int, channels: int, parts: int) -> tuple[np.ndarray, ...]:
    """Noisy copies of one vector per identity, the gallery spread evenly over the identities of the probes."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((probes, channels, parts), dtype=np.float32)
    labels = [np.arange(probes), np.arange(gallery) % probes]
    copies = [centres[x] + 3 * random.standard_normal((len(x), channels, parts), dtype=np.float32) for x in labels]
    return copies[0], copies[1], labels[0], labels[1]


def ours(device: str) -> tuple[Callable[..., Any], Callable[..., dict[str, float]]]:
    def distance(probe: np.ndarray, gallery: np.ndarray) -> torch.Tensor:
        return part_distance(torch.from_numpy(probe).to(device), torch.from_numpy(gallery).to(device)).cpu()

    def metrics(*arguments: Any) -> dict[str, float]:
        result = retrieval_metrics(*arguments)
        return {"Rank-1": result.rank[1], "mAP": result.mean_ap, "mINP": result.mean_inp}

    return distance, metrics


def theirs(root: str | None) -> dict[str, tuple[Callable[..., Any], Callable[..., dict[str, float]]]]:
    """The same pair of OpenGait's, loaded by path; nothing where no checkout is given."""
    if not root:
        return {}
    path = Path(root) / "opengait" / "evaluation" / "metric.py"
    if not path.is_file():
        raise FileNotFoundError(f"OPENGAIT_ROOT: {path} does not exist")
    spec = importlib.util.spec_from_file_location("opengait_metric", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    utils = types.ModuleType("utils")
    vars(utils)["is_tensor"] = torch.is_tensor  # all that metric.py takes from OpenGait's utils
    with mock.patch.dict(sys.modules, {"utils": utils}):
        spec.loader.exec_module(module)
    moved = torch.Tensor.cuda if torch.cuda.is_available() else lambda tensor: tensor

    def distance(probe: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        with mock.patch.object(torch.Tensor, "cuda", moved):
            return module.cuda_dist(probe, gallery).cpu().numpy()

    def metrics(*arguments: Any) -> dict[str, float]:
        cmc, precisions, penalties = module.evaluate_rank(*arguments)
        means = {"Rank-1": cmc[0], "mAP": np.mean(precisions), "mINP": np.mean(penalties)}
        return {name: float(100 * mean) for name, mean in means.items()}

    return {"opengait": (distance, metrics)}


def spread(times: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    columns = {"distances": [a for a, _ in times], "metrics": [b for _, b in times], "total": [a + b for a, b in times]}
    return {key: {"median": statistics.median(x), "min": min(x), "max": max(x)} for key, x in columns.items()}


if __name__ == "__main__":
    raise SystemExit(main())
