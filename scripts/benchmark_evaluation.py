"""Time the gait evaluation on a made-up test set of Gait3D's size, beside OpenGait's where a checkout is given.

    python scripts/benchmark_evaluation.py --out evaluation.json
    OMP_WAIT_POLICY=PASSIVE OPENGAIT_ROOT=path/to/OpenGait python scripts/benchmark_evaluation.py

Both take turns within one process, so that their ratio does not depend on what else the machine does. OpenGait's
functions run unchanged; without a GPU their `.cuda()` calls stay on the CPU. `opengait_over_ours` has two ratios of
times: of ranking alone (OpenGait's evaluate_rank), and of the whole evaluation, distances included.

Without OMP_WAIT_POLICY=PASSIVE (the project's commands set it) threads that wait spin, and where other work shares the
cores, times of both vary severalfold.
"""

import argparse
import importlib.util
import json
import os
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from common.runtime.benchmark import environment, ratios, spread, time_rounds
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

    case = made_up_case(*options.size)
    scores: dict[str, dict[str, float]] = {}
    steps: dict[str, Callable[[], object]] = {}
    for name, functions in runs.items():
        steps |= steps_of(name, *functions, case, scores)
    times = time_rounds(steps, options.repeats, options.device)
    for name in runs:
        parts = zip(times[f"{name} distances"], times[f"{name} metrics"], strict=True)
        times[f"{name} total"] = [sum(pair) for pair in parts]
    report = {
        "size": dict(zip(("probes", "gallery", "channels", "parts"), options.size, strict=True)),
        **environment(options.device),
        "scores_percent": scores,
        "seconds": {
            name: {part: spread(times[f"{name} {part}"]) for part in ("distances", "metrics", "total")} for name in runs
        },
    }
    if "opengait" in runs:
        steps_compared = {"ranking alone": "metrics", "whole evaluation": "total"}
        report["opengait_over_ours"] = {
            name: ratios(times[f"opengait {part}"], times[f"ours {part}"]) for name, part in steps_compared.items()
        }
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        write_text(options.out, text + "\n")
    return 0


def steps_of(
    name: str,
    distance: Callable[..., Any],
    metrics: Callable[..., dict[str, float]],
    case: tuple[np.ndarray, ...],
    scores: dict[str, dict[str, float]],
) -> dict[str, Callable[[], object]]:
    """The two steps of one evaluation; the second takes what the first found, and notes its scores."""
    probe, gallery, *labels = case
    found: list[Any] = []

    def distances() -> None:
        found[:] = [distance(probe, gallery)]

    def score() -> None:
        scores[name] = metrics(found[0], *labels)

    return {f"{name} distances": distances, f"{name} metrics": score}


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


if __name__ == "__main__":
    raise SystemExit(main())
