"""`python -m face.verify A B --weights W`: are two images of one person, or which of many are.

python -m face.verify a.jpg b.jpg --weights output/run/weights/best --aligner dfa_mobilenet --calibrate lfw.bin
python -m face.verify probes gallery --weights W --landmarks landmarks.csv --threshold 0.31 --out matches
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from face.evaluation.verify_report import Comparison

__all__ = ["main"]

_DESCRIPTION = """Compare images of one face each: two of them, or all of one folder with all of another. Nothing is
detected: images are crops, aligned already or aligned here (--aligner). Prints how similar they are (cosine, -1 to 1)
and, at a threshold, whether they are taken for one person. A threshold is one that you give (--threshold), or the one
that accepts no more than a share (--far) of the pairs of different persons of a set that you name (--calibrate): it is
about pairs like those. Without either nothing is decided."""

_MOST_PAIRS = 10_000_000  # rows of pairs.csv
_PRINTED = 20


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
    from face.evaluation.calibration import calibrate
    from face.evaluation.embed import embed_images
    from face.evaluation.verify_images import open_sides, side_landmarks
    from face.evaluation.verify_report import compare, draw_comparison, write_record
    from face.models.pretrained import load_pretrained
    from face.pipelines import PipelineKind, PipelineSettings, make_pipeline

    kind: PipelineKind = args.pipeline or ("given" if args.aligner is None else "dfa_aligned")
    settings = PipelineSettings(kind=kind, aligner=args.aligner, padding_ratio=args.padding)
    device = choose_device(args.device)
    sides = open_sides(args.first, args.second)
    if args.out is not None:
        _check_out(args.out, sides.pairs, args.best_only)
    model = load_pretrained(args.weights, map_location=device)
    pipeline = make_pipeline(model, settings, device).eval()
    landmarks = None
    if pipeline.needs_keypoints or args.landmarks is not None:
        landmarks = side_landmarks(sides, args.landmarks, args.first, args.second)
    options: dict[str, Any] = {
        "batch_size": args.batch_size,
        "device": device,
        "flip_test": args.flip,
        "precision": args.precision,
        "num_workers": args.workers,
    }
    threshold, basis = args.threshold, None
    if args.calibrate is not None:
        title = f"calibrating on {args.calibrate.name}"
        calibration, basis = calibrate(
            args.calibrate, pipeline, {"padding": args.padding}, args.far, progress=title, **options
        )
        threshold = basis.threshold
        if calibration.unwritten:
            print(f"note: similarities are not kept for the next time: {calibration.unwritten}", file=sys.stderr)
    many = sides.pairs > 1
    # Few images are not worth processes of their own.
    workers = args.workers if len(sides.images) > 4 * args.batch_size else 0
    embedded = embed_images(
        pipeline, sides.images, landmarks, progress="embedding" if many else None, **{**options, "num_workers": workers}
    )
    found = compare(
        embedded.values,
        sides,
        threshold,
        out=args.out if many else None,
        best=args.best,
        with_pairs=not args.best_only,
        progress=many,
    )
    unaligned = [] if embedded.valid is None else [sides.images.name_of(int(k)) for k in (~embedded.valid).nonzero()[0]]
    if unaligned:
        shown = ", ".join(unaligned[:5]) + (", ..." if len(unaligned) > 5 else "")
        print(
            f"warning: landmarks that give no alignment in {len(unaligned)} image(s): {shown}; the model gets them as "
            "they came, which says little about a face",
            file=sys.stderr,
        )
    said = (
        basis.describe()
        if basis is not None
        else f"threshold {threshold:g}, as given"
        if threshold is not None
        else "no threshold, so nothing is decided: give --threshold, or --calibrate with a set of pairs"
    )
    _print(found, sides, embedded.scores, said)
    if args.out is None:
        return
    note = f"threshold {basis.threshold:.4f} (FAR {basis.far:g} on {basis.set_name})" if basis is not None else ""
    note = note or (f"threshold {threshold:g}" if threshold is not None else "no threshold")
    draw_comparison(args.out / "verify.png", found, sides, pipeline, landmarks, device, note)
    content = {
        "first": str(args.first),
        "second": str(args.second),
        "weights": {"source": str(args.weights), "crc32": f"{weights_checksum(model):08x}"},
        "pipeline": {"kind": kind, "aligner": args.aligner, "padding_ratio": args.padding},
        "landmarks": None if args.landmarks is None else str(args.landmarks),
        "flip_test": args.flip,
        "precision": args.precision,
        "threshold": threshold,
        "calibration": None if basis is None else {**vars(basis), "set": str(args.calibrate)},
        "without_alignment": unaligned,
        "environment": environment(str(device)),
    }
    write_record(args.out / "verify.json", content, found, sides)
    names = ["verify.png", "verify.json", *(["best.csv"] if many else [])]
    names += ["pairs.csv"] if many and not args.best_only else []
    print(", ".join(str(args.out / name) for name in names))


def _print(found: "Comparison", sides: Any, scores: Any, said: str) -> None:
    from face.evaluation.verify_report import best_table

    if found.pairs == 1:
        match = found.most_similar[0]
        if scores is not None:
            for name, index in (
                (sides.names[0][match.first], sides.first[match.first]),
                (sides.names[1][match.second], sides.second[match.second]),
            ):
                print(f"{name}: face score {scores[index]:.3f}")
        print(f"similarity {match.similarity:.4f}")
        print(said)
        verdict = found.decide(match.similarity)
        if verdict is not None:
            print("decision: same person" if verdict else "decision: different persons")
        return
    accepted = "" if found.threshold is None else f", {found.accepted} of them taken for one person"
    print(f"{found.pairs} pairs of {len(sides.first)} and {len(sides.second)} images{accepted}")
    print(said)
    print("best matches:")
    for line in best_table(found, sides, _PRINTED):
        print(f"  {line}")
    if len(found.best) > _PRINTED:
        print(f"  ... and those of {len(found.best) - _PRINTED} more images")


def _check_out(out: Path, pairs: int, best_only: bool) -> None:
    if pairs > _MOST_PAIRS and not best_only:
        raise ValueError(
            f"{pairs} pairs are more than the {_MOST_PAIRS} that pairs.csv takes; --best-only writes the best matches "
            "alone"
        )
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise PermissionError(f"{out}: cannot be written to")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m face.verify", description=_DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add("first", type=Path, metavar="A", help="image, folder (with all below it) or list of images")
    add("second", type=Path, metavar="B", help="what it is compared with: all pairs of the two")
    add("--weights", required=True, metavar="W", help="of the model: a folder, a file or a hub's repository")
    add("--aligner", metavar="DFA", help="weights of a face aligner, which finds the landmarks and aligns")
    add(
        "--pipeline",
        choices=("given", "dfa", "dfa_aligned"),
        help="given: images as they are, with landmarks of a table if the model needs some; dfa: with landmarks that "
        "the aligner finds; dfa_aligned: aligned by those (default: dfa_aligned with --aligner, else given)",
    )
    add(
        "--padding",
        type=float,
        default=0.0,
        metavar="R",
        help="rim around an image for the aligner to see, as a share of its longer side (default: 0)",
    )
    add(
        "--landmarks",
        type=Path,
        metavar="FILE",
        help="table of the landmarks of both, by paths below the table's folder (default for models that need "
        "landmarks: landmarks.csv in each folder, or beside each image)",
    )
    add("--threshold", type=float, metavar="T", help="similarity from which on two images are taken for one person")
    add(
        "--calibrate",
        type=Path,
        metavar="SET",
        help="set of pairs to take the threshold from: a .bin file, or a folder with pairs.csv; the similarities of "
        "its pairs are kept beside it",
    )
    add(
        "--far",
        type=float,
        metavar="F",
        help="false accept rate on that set, a fraction; it takes 1 / F pairs of different persons (default: 1e-3)",
    )
    add("--out", type=Path, metavar="DIR", help="folder for verify.png, verify.json and, of folders, the tables")
    add("--best", type=int, default=5, metavar="K", help="matches of each image in best.csv (default: %(default)s)")
    add("--best-only", action="store_true", help="write no table of all pairs")
    add("--flip", action=argparse.BooleanOptionalAction, default=True, help="add the mirror's embedding (default: yes)")
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
    if args.threshold is not None and args.calibrate is not None:
        parser.error("--threshold and --calibrate are two ways to a threshold, give one")
    if args.threshold is not None and not -1 <= args.threshold <= 1:
        parser.error(f"--threshold is a cosine, from -1 to 1, got {args.threshold:g}")
    if args.far is not None and args.calibrate is None:
        parser.error("--far is a rate on a set of pairs: name that with --calibrate")
    if args.far is not None and not 0 < args.far < 1:
        parser.error(f"--far must be between 0 and 1, got {args.far:g}")
    if args.landmarks is not None and args.aligner is not None:
        parser.error("--landmarks and --aligner are two ways to landmarks, give one")
    for name, low in (("best", 1), ("batch_size", 1), ("workers", 0)):
        if getattr(args, name) < low:
            parser.error(f"--{name.replace('_', '-')} must be >= {low}, got {getattr(args, name)}")
    args.far = 1e-3 if args.far is None else args.far
    return args


if __name__ == "__main__":
    sys.exit(main())
