"""`python -m face.sweep --kind KIND --weights W [W ...] --data SET --out DIR`: results as one thing gets worse.

python -m face.sweep --kind alignment --weights output/vit/weights/best output/vit_kprpe/weights/best \\
    --data faces/test/unaligned --out sweeps/alignment
python -m face.sweep --kind noise --repeats 5 --weights W --data faces/test/aligned --out sweeps/noise
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from face.evaluation.sets import EvaluationSetSettings
    from face.evaluation.sweep_settings import SweepSettings
    from face.pipelines import RecognitionPipeline

__all__ = ["main"]

_DESCRIPTION = """Evaluate face models on one set at several steps of something that gets worse. alignment: images on
their way from the detector's frame (0) to their alignment (1), of a set that is not aligned; noise: the landmarks given
to the model disturbed, images as they are; keypoints: all but k of the five hidden; affine: aligned images turned,
scaled and shifted. Prints a table and writes sweep.json, sweep.csv, sweep.png and steps.png."""

_PLAIN = ("weights", "best", "last")  # parts of a path that tell no model from another


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 128 + n after signal n."""
    args = _parse(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait would spin, at the cost of all others
    # Imported late, so that --help and typing errors do not wait for all of it.
    from common.runtime.command import run_command

    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    from common.runtime.benchmark import environment
    from face.dfa.predict import choose_device, weights_checksum
    from face.evaluation.sets import open_set
    from face.evaluation.sweep_report import draw_sweep, draw_sweep_steps, format_sweep, write_tables
    from face.evaluation.sweeps import Sweep, metric_of

    settings = _settings(args)
    set_settings = _set_settings(args)
    device = choose_device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    if not os.access(args.out, os.W_OK):
        raise PermissionError(f"{args.out}: cannot be written to")
    models = _models(args, device)
    needed = settings.kind == "alignment" or any(each.needs_keypoints for each in models.values())
    opened = open_set(set_settings, needs_keypoints=needed)
    sweep = Sweep(settings, opened, progress=True)
    for name, each in models.items():
        note = sweep.check(name, each)
        if note:
            print(f"note: {note}", file=sys.stderr)
    draw_sweep_steps(args.out / "steps.png", sweep, next(iter(models.values())).image_hw)

    def check_metric(row: Any) -> None:
        metric_of([row], args.metric)

    result = sweep.run(
        models,
        after=check_metric,
        batch_size=args.batch_size,
        device=device,
        precision=args.precision,
        num_workers=args.workers,
    )
    metric = metric_of(result.rows, args.metric)
    content = {
        "set": {
            "name": set_settings.name,
            "path": str(set_settings.path),
            "kind": set_settings.kind,
            "landmarks": None if args.landmarks is None else str(args.landmarks),
            "images": len(opened.content.images),
        },
        "models": {
            name: {"source": source, "crc32": f"{weights_checksum(each.model):08x}"}
            for (name, each), source in zip(models.items(), args.weights, strict=True)
        },
        "pipeline": {"kind": args.pipeline, "aligner": args.aligner, "padding_ratio": args.padding},
        "precision": args.precision,
        "metric": metric,
        "environment": environment(str(device)),
    }
    write_tables(args.out, content, result)
    draw_sweep(args.out / "sweep.png", result, metric, set_settings.name)
    print(f"\n{format_sweep(result, metric)}\n")
    print(", ".join(str(args.out / name) for name in ("sweep.json", "sweep.csv", "sweep.png", "steps.png")))


def _settings(args: argparse.Namespace) -> "SweepSettings":
    from face.evaluation.sweep_settings import SweepSettings

    allowed = {
        "alignment": {"steps"},
        "noise": {"steps", "noise", "repeats", "seed"},
        "keypoints": {"steps", "subsets"},
        "affine": {"rotations", "scales", "shifts"},
    }[args.kind]
    names = ("steps", "noise", "repeats", "seed", "subsets", "rotations", "scales", "shifts")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    strange = sorted(f"--{name}" for name in given.keys() - allowed)
    if strange:
        usable = ", ".join(sorted(f"--{name}" for name in allowed))
        raise ValueError(f"--kind {args.kind} takes {usable}, and not {', '.join(strange)}")
    if args.aligner is not None and args.kind in ("noise", "keypoints"):
        raise ValueError(f"--kind {args.kind} is about landmarks that are given, and has no use for --aligner")
    values: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in given.items()}
    return SweepSettings(kind=args.kind, **values)


def _set_settings(args: argparse.Namespace) -> "EvaluationSetSettings":
    """The kind of a set, where it is not given, by what lies in its folder."""
    from face.evaluation.sets import EvaluationSetSettings

    known = ("pairs", "identification", "tinyface")
    kind = args.protocol
    if kind is None:
        lists = {"pairs": ("pairs.csv", "pairs.txt"), "identification": ("gallery.csv",)}
        if not args.data.exists():
            raise FileNotFoundError(f"{args.data}: no such file or folder")
        found = [name for name, files in lists.items() if any((args.data / file).is_file() for file in files)]
        if not found and args.data.is_dir():
            raise ValueError(f"{args.data}: what kind of set it is does not show; give --protocol ({', '.join(known)})")
        kind = found[0] if found else "pairs"
    name = args.data.stem if args.data.is_file() else Path(os.path.abspath(args.data)).name
    return EvaluationSetSettings(name=name, path=args.data, kind=kind, landmarks=args.landmarks)


def _models(args: argparse.Namespace, device: Any) -> "Mapping[str, RecognitionPipeline]":
    from face.models.pretrained import load_pretrained
    from face.pipelines import PipelineSettings, make_pipeline

    settings = PipelineSettings(kind=args.pipeline, aligner=args.aligner, padding_ratio=args.padding)
    models = {}
    for name, source in zip(args.names or _names(args.weights), args.weights, strict=True):
        models[name] = make_pipeline(load_pretrained(source, map_location=device), settings, device).eval()
    return models


def _names(sources: Sequence[str]) -> list[str]:
    """What pictures call the models: the last part of each path that tells something, if these are different."""
    short = []
    for source in sources:
        parts = [part for part in Path(source).parts if part not in _PLAIN]
        short.append(Path(parts[-1]).stem if parts else source)
    return short if len(set(short)) == len(short) else list(sources)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m face.sweep", description=_DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add("--kind", required=True, choices=("alignment", "noise", "keypoints", "affine"), help="what gets worse")
    add("--weights", nargs="+", required=True, metavar="W", help="of models: folders, files or a hub's repositories")
    add("--names", nargs="+", metavar="NAME", help="what tables and pictures call them (default: by their paths)")
    add("--data", type=Path, required=True, metavar="SET", help="a .bin file, or a folder with its lists")
    add(
        "--protocol",
        choices=("pairs", "identification", "tinyface"),
        help="default: by the set's lists",
    )
    add("--landmarks", type=Path, metavar="FILE", help="table of landmarks (default: the one beside the images)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for what is written")
    add(
        "--steps",
        nargs="+",
        type=float,
        metavar="X",
        help="alignment: shares of the way (default: 0 0.1 ... 1); noise: its size (0 ... 0.1); keypoints: how many "
        "stay (0 ... 5)",
    )
    add(
        "--noise",
        choices=("gaussian", "proportional", "printed"),
        help="normal noise in fractions of the image (default), in shares of the coordinates, or the paper's eq. 12 as "
        "it is printed, which is none",
    )
    add("--repeats", type=int, metavar="N", help="draws of the noise, whose mean counts (default: 1)")
    add("--seed", type=int, metavar="N", help="of the noise (default: 0)")
    add(
        "--subsets",
        choices=("first", "all"),
        help="which keypoints stay: the first k of eyes, nose and mouth corners (default), or all choices of k",
    )
    add("--rotations", nargs="+", type=float, metavar="DEG", help="affine: degrees, clockwise (default: -40 ... 40)")
    add("--scales", nargs="+", type=float, metavar="S", help="affine: with each rotation (default: 0.6 ... 1.4)")
    add(
        "--shifts", nargs="+", type=float, metavar="F", help="affine: along x with each along y (default: -0.2 ... 0.2)"
    )
    add("--metric", metavar="NAME", help="for table and picture (default: accuracy or rank-1)")
    add(
        "--pipeline",
        choices=("given", "dfa", "dfa_aligned"),
        help="landmarks of the table, moved along, or found anew by --aligner at each step of alignment and affine, "
        "without or with alignment by them (default: given, with --aligner dfa)",
    )
    add("--aligner", metavar="DFA", help="weights of a face aligner")
    add("--padding", type=float, default=0.0, metavar="R", help="rim for the aligner to see (default: 0)")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="(default: %(default)s)")
    add("--batch-size", type=int, default=64, metavar="N", help="images at a time (default: %(default)s)")
    add(
        "--workers",
        type=int,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes that decode images (default: %(default)s)",
    )
    add("--device", metavar="NAME", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    args = parser.parse_args(argv)
    for name, low in (("batch_size", 1), ("workers", 0)):
        if getattr(args, name) < low:
            parser.error(f"--{name.replace('_', '-')} must be >= {low}, got {getattr(args, name)}")
    if args.names is not None and (len(args.names) != len(args.weights) or len(set(args.names)) < len(args.names)):
        parser.error(f"--names must be {len(args.weights)} different ones, as there are models, got {args.names}")
    if len(set(args.weights)) < len(args.weights):
        parser.error("--weights names a model twice")
    args.pipeline = args.pipeline or ("given" if args.aligner is None else "dfa")
    return args


if __name__ == "__main__":
    sys.exit(main())
