"""The command line of `scripts/gait_misalignment.py`."""

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from common.runtime.files import write_text
from common.runtime.settings import merge, parse_overrides
from common.runtime.workers import exit_code, sigterm_interrupts
from plugin.demo import prepare_walkers
from plugin.misalignment.experiment import (
    Augment,
    Run,
    check_data,
    claim_folder,
    describe_data,
    load_candidates,
    run_seed,
)
from plugin.misalignment.report import draw_report, format_report, runs_as_json
from plugin.misalignment.sweeps import SWEEPS, Sweep, all_conditions
from plugin.synthesize import NOTE, SynthesisSettings, synthesize

__all__ = ["main"]

_DESCRIPTION = """Train gait models with several seeds, test each under ever harder conditions, and draw the curves.

Crops are misaligned, joints are moved or lost, or both. The first config is the baseline of the differences. Without
--data, synthetic walkers are made in DIR/raw and DIR/paired. A run that was stopped goes on when it is started again;
further seeds and configs are added. To use more processes, start one for each few seeds with the same --out, once the
data is made, and in the end one with all seeds, which only reads.

Writes to DIR: curves.png, table.md, results.json (every test), settings.json, and runs/, one run for each model and
seed as `python -m plugin` leaves it."""

_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")


def main(argv: Sequence[str] | None = None, sweeps: Sequence[Sweep] = SWEEPS) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 130 or 143 when interrupted."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    # Taken out first: an option of several values, such as --seeds, would swallow settings that follow it.
    overrides = [word for word in given if _OVERRIDE.match(word)]
    args = parser.parse_args([word for word in given if not _OVERRIDE.match(word)])
    if (args.data is None) != (args.partition is None):
        parser.error("--data and --partition are given together")
    if min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        parser.error(f"--seeds must be different and not negative, got {' '.join(map(str, args.seeds))}")
    try:
        with sigterm_interrupts():
            _run(args, [*args.overrides, *overrides], sweeps)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return exit_code(interrupt)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gait_misalignment", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything goes")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="sequences, as `python -m plugin.prepare` writes them"
    )
    parser.add_argument("--partition", type=Path, metavar="FILE", help="their partition")
    parser.add_argument(
        "--cfgs",
        type=Path,
        nargs="+",
        default=[Path("configs/demo/swingait2d.yaml"), Path("configs/demo/swingait2d_kprpe.yaml")],
        metavar="FILE",
        help="YAMLs of the models, the baseline first (default: both of configs/demo)",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="of the trainings (default: 0 1 2)"
    )
    parser.add_argument(
        "--augment",
        choices=get_args(Augment),
        default="no",
        help="train on misaligned crops and wrong joints: no model, every model, or each model both ways (default: no)",
    )
    parser.add_argument("--subjects", type=int, default=100, metavar="N", help="number of walkers (default: 100)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings instead of the configs'")
    return parser


def _run(args: argparse.Namespace, overrides: Sequence[str], sweeps: Sequence[Sweep]) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("runs in one process; start several with different --seeds instead of torchrun")
    walkers = None
    changes: dict[str, Any] = {}
    if args.data is None:
        walkers = SynthesisSettings(
            subjects=args.subjects, sequences_per_subject=6, probes_per_subject=3, frames=16, seed=0
        )
        root, partition = args.out / "paired", args.out / "raw" / "partition.json"
        changes = {"model_cfg": {"SeparateBNNecks": {"class_num": walkers.train_subjects}}}
    else:
        root, partition = args.data, args.partition
    changes = merge(changes, {"data_cfg": {"dataset_root": str(root), "dataset_partition": str(partition)}})
    candidates = load_candidates(args.cfgs, merge(changes, parse_overrides(overrides)), args.augment)
    data = {"walkers": dataclasses.asdict(walkers)} if walkers else describe_data(root, partition)
    claim_folder(args.out, data, candidates)
    if walkers:
        if not partition.exists():
            print("\n== Make walkers in the raw layout of Gait3D", flush=True)
            synthesize(walkers, args.out / "raw", progress=True)
        print("\n== Prepare paired silhouettes and joints", flush=True)
        prepare_walkers(args.out / "raw", root)
    check_data(candidates)
    runs: list[Run] = []
    for seed in args.seeds:
        runs += run_seed(args.out, candidates, seed, all_conditions(sweeps))
        table = _write_report(args.out, runs, sweeps, NOTE if walkers else "")
        print(f"\n== After seed {seed}, {args.seeds.index(seed) + 1} of {len(args.seeds)}\n\n{table}", flush=True)
    print(f"\n{', '.join(str(args.out / name) for name in ('curves.png', 'table.md', 'results.json'))}")


def _write_report(out: Path, runs: Sequence[Run], sweeps: Sequence[Sweep], note: str) -> str:
    table = format_report(runs, sweeps, note)
    content = {"settings": json.loads((out / "settings.json").read_text()), "runs": runs_as_json(runs)}
    write_text(out / "results.json", json.dumps({"note": note, **content} if note else content, indent=1) + "\n")
    write_text(out / "table.md", table + "\n")
    draw_report(out / "curves.png", runs, sweeps)
    return table
