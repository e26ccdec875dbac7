"""`python -m plugin.demo`: the whole gait job on synthetic walkers, from raw files to a table and pictures.

Walkers in the raw Gait3D layout are prepared, SwinGait-2D is trained with the plain table and with KP-RPE on the same
data, seeds and schedule, and both are tested on clean and on misaligned crops. Everything goes through the readers,
configs and commands that real data go through.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.keypoints import fractions_to_pixels
from common.runtime.arrays import load_array
from common.runtime.curves import draw_cmc
from common.runtime.demo import make_room, paired_interval, timed, verdict
from common.runtime.files import write_text
from common.runtime.settings import merge, parse_overrides
from plugin.conditions import TestCondition
from plugin.layout import KEYPOINTS_FILE, SILHOUETTES_FILE
from plugin.partition import read_partition
from plugin.pictures import draw_sequences
from plugin.prepare import PrepareSettings, prepare
from plugin.synthesize import SynthesisSettings, synthesize
from plugin.transforms import CropMisalignment, PairedCompose

if TYPE_CHECKING:
    from plugin.evaluation import RetrievalResult
    from plugin.runtime.runner import TestResult

__all__ = ["MODELS", "format_table", "main", "prepare_walkers", "run_demo"]

MODELS = {"SwinGait-2D": "swingait2d.yaml", "SwinGait-2D + KP-RPE": "swingait2d_kprpe.yaml"}
METRICS = ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP")
MISALIGNMENT = 0.15

Results = Mapping[tuple[str, str], "TestResult"]
"""(model, condition) to what a test gave."""


def _details(result: "TestResult") -> "RetrievalResult":
    assert result.details is not None  # Gait3D's protocol has them
    return result.details


def format_table(results: Results) -> str:
    """The figures as a Markdown table, with the difference that KP-RPE makes below it, whatever its sign."""
    models = list(MODELS)
    lines = [
        f"| {'model':<20} | {'test crops':<16} | " + " | ".join(f"{name:>7}" for name in METRICS) + " |",
        f"| {'-' * 20} | {'-' * 16} | " + " | ".join("-" * 6 + ":" for _ in METRICS) + " |",
    ]
    conditions = list(dict.fromkeys(condition for _, condition in results))
    for condition in conditions:
        rows = {
            model: [results[model, condition].metrics[f"scalar/test_accuracy/{name}"] for name in METRICS]
            for model in models
        }
        rows["difference"] = [new - old for new, old in zip(rows[models[1]], rows[models[0]], strict=True)]
        for model, values in rows.items():
            form = "{:>+7.2f}" if model == "difference" else "{:>7.2f}"
            lines.append(f"| {model:<20} | {condition:<16} | " + " | ".join(form.format(v) for v in values) + " |")
    for condition in conditions:
        old, new = (_details(results[model, condition]).average_precision for model in models)
        low, high = paired_interval(old, new)
        lines.append(
            f"\n{condition}: KP-RPE {verdict(low, high)} here: mAP {(new - old).mean():+.2f}, "
            f"95 % interval over the {len(old)} probes {low:+.2f} to {high:+.2f}."
        )
    return "\n".join(lines)


def prepare_walkers(raw: Path, paired: Path) -> None:
    """Prepare what `synthesize` wrote to `raw`; what is prepared already is not done again."""
    settings = PrepareSettings(
        silhouettes=raw / "2D_Silhouettes",
        poses=raw / "2D_Poses",
        partition=raw / "partition.json",
        out=paired,
        workers=2,
    )
    print(prepare(settings).to_text())


def _draw_some_sequences(path: Path, paired: Path, probes: Sequence[str], seed: int) -> None:
    """Joints over silhouettes: some probes as prepared, and the first two of them as misaligned crops."""
    rows = []
    misalign = PairedCompose([CropMisalignment(shift=MISALIGNMENT, scale=MISALIGNMENT)])
    for place, name in enumerate(probes[:4]):
        folder = paired.joinpath(*name.split("-"))
        silhouettes, keypoints = (load_array(folder / file) for file in (SILHOUETTES_FILE, KEYPOINTS_FILE))
        rows.append((name, silhouettes, keypoints))
        if place < 2:
            moved, fractions = misalign(silhouettes, keypoints, seed + place)
            assert fractions is not None
            size_hw = (moved.shape[1], moved.shape[2])
            rows.append((f"{name} misaligned", (moved * 255).astype(np.uint8), fractions_to_pixels(fractions, size_hw)))
    draw_sequences(path, rows)


def run_demo(out: Path, configs: Path, subjects: int, seed: int, overrides: Mapping[str, Any]) -> str:
    """Run everything and return the table.

    Args:
        out: folder for data, runs, pictures and table; see `common.runtime.demo.make_room`.
        configs: folder of the two demo configs.
        subjects: how many walkers.
        seed: of the walkers and of training.
        overrides: settings instead of the configs', as nested mappings.

    Raises:
        ValueError: `out` holds something else, or wrong settings.
    """
    from plugin.runtime.runner import RunOptions, test, train
    from plugin.runtime.settings import load_gait_settings

    make_room(out)
    seconds: dict[str, float] = {}
    raw, paired = out / "raw", out / "paired"
    with timed("Make walkers in the raw layout of Gait3D", seconds):
        settings = SynthesisSettings(
            subjects=subjects, sequences_per_subject=6, probes_per_subject=2, frames=24, seed=seed
        )
        synthesize(settings, raw, progress=True)
    with timed("Prepare paired silhouettes and joints", seconds):
        prepare_walkers(raw, paired)
    data = {"data_cfg": {"dataset_root": str(paired), "dataset_partition": str(raw / "partition.json")}}
    results: dict[tuple[str, str], TestResult] = {}
    for model, config in MODELS.items():
        run = load_gait_settings(configs / config, merge(data, overrides))
        with timed(f"Train {model}", seconds):
            stopped = train(run, RunOptions(seed=seed, output=out / "output", log_to_file=True))
            if stopped is not None:
                raise KeyboardInterrupt
        for condition, strength in (("clean", 0.0), (f"misaligned {MISALIGNMENT:.0%}", MISALIGNMENT)):
            with timed(f"Test {model} on {condition} crops", seconds):
                hard = TestCondition(misalign=strength)
                options = RunOptions(seed=seed, output=out / "output", resume=True, condition=hard)
                results[model, condition] = test(run, options)
    probes = read_partition(raw / "partition.json").probes
    _draw_some_sequences(out / "sequences.png", paired, probes, seed)
    draw_cmc(out / "cmc.png", {key: _details(result).cmc for key, result in results.items()})
    table = format_table(results)
    write_text(out / "table.md", table + "\n")
    write_text(out / "seconds.json", json.dumps({what: round(value, 1) for what, value in seconds.items()}, indent=1))
    print(
        f"\n== Results on {subjects} synthetic walkers, trained on {run.trainer_cfg.total_iter} batches. "
        f"They say nothing about accuracy on people.\n\n{table}\n\n"
        f"Pictures: {out / 'sequences.png'}, {out / 'cmc.png'}. Whole demo: {sum(seconds.values()):.0f} s."
    )
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m plugin.demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="where everything goes (default: demo)"
    )
    parser.add_argument(
        "--configs", type=Path, default=Path("configs/demo"), help="folder of the two configs (default: configs/demo)"
    )
    parser.add_argument("--subjects", type=int, default=60, metavar="N", help="number of walkers (default: 60)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of walkers and training (default: 0)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings instead of the configs'")
    args = parser.parse_args(argv)

    try:
        run_demo(args.out, args.configs, args.subjects, args.seed, parse_overrides(args.overrides))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
