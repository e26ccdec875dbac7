"""`python -m face.landmarks --rec SET --out FILE --weights DFA`: the landmarks of a training set, found once.

python -m face.landmarks --rec data/ms1mv2 --out data/ms1mv2/landmarks.csv --weights dfa_mobilenet
torchrun --nproc_per_node 8 -m face.landmarks --rec data/ms1mv2 --out data/ms1mv2/landmarks.csv --weights dfa_mobilenet
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from face.dfa.landmark_cache import CacheReport

__all__ = ["main"]

_DESCRIPTION = """Find the landmarks of every image of a training set (RecordIO, or a folder for each identity) with a
face aligner, and write the table that face.train reads: on a CPU, one GPU, or several under torchrun. An interrupted
run goes on where it was, with any number of processes."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 128 + n after signal n."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait would spin, at the cost of all others
    # Imported late, so that --help and typing errors do not wait for all of it.
    from common.runtime.command import run_command

    def job() -> None:
        report = _run(args)
        if int(os.environ.get("RANK", "0")) == 0:
            _report(report, args.out)

    return run_command(
        job,
        interrupted="interrupted; finished blocks stay, the same command goes on",
        died="the same command goes on",
    )


def _run(args: argparse.Namespace) -> "CacheReport":
    from common.runtime.distribution import make_accelerator, share_problem
    from common.runtime.log import RunLog
    from face.data.sources import open_source
    from face.dfa.aligner import AlignerSettings, load_aligner
    from face.dfa.landmark_cache import CacheSettings, fill_landmark_cache
    from face.dfa.predict import choose_device

    settings = CacheSettings(
        batch_size=args.batch_size,
        num_workers=args.workers,
        cvlface=args.cvlface,
        picture=not args.no_picture,
        block=args.block,
    )
    accelerator = make_accelerator("fp32")
    device = choose_device(args.device) if args.device else accelerator.device
    log = RunLog(args.out.parent, to_file=False, active=accelerator.is_main_process)
    problem: Exception | None = None
    try:
        try:
            source = open_source(args.rec)
            aligner = load_aligner(args.weights, AlignerSettings(padding_ratio=args.padding)).to(device)
        except (ValueError, OSError) as error:
            problem = error
        share_problem(problem)
        log.log_info(
            f"{args.rec}: {len(source)} images, {accelerator.num_processes} process(es) on {device.type}, padding "
            f"{args.padding:g}"
        )
        return fill_landmark_cache(source, args.out, aligner, settings, device, log)
    finally:
        log.close()


def _report(report: "CacheReport", out: Path) -> None:
    found = report.images - len(report.missing)
    print(f"{out}: landmarks of {found} of {report.images} images, {report.seconds:.0f} s")
    if report.missing:
        print(
            f"{len(report.missing)} image(s) do not decode and have no row, see {out}.missing.txt: {report.missing[0]}",
            file=sys.stderr,
        )
    if report.degenerate:
        print(f"{report.degenerate} image(s) have landmarks that would give no alignment", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m face.landmarks", description=_DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add("--rec", type=Path, required=True, metavar="SET", help="train.rec, its folder, or a folder for each identity")
    add("--out", type=Path, required=True, metavar="FILE", help="the table, CSV; beside it FILE.json and FILE.png")
    add("--weights", required=True, metavar="DFA", help="of the face aligner: a folder, a file or a hub's repository")
    add(
        "--padding",
        type=float,
        default=0.215,
        metavar="R",
        help="rim around an image for the network to see, as a share of its side (default: %(default)s, with which "
        "CVLface's predict_landmark.py makes 160 of the 112 pixels of aligned training images; 0 for loose crops)",
    )
    add(
        "--cvlface",
        action="store_true",
        help="CVLface's table (ldmk_5points.csv), by place and without scores; needs all images to decode",
    )
    add("--no-picture", action="store_true", help="draw no picture of some images with their landmarks")
    add(
        "--batch-size", type=int, default=256, metavar="N", help="images at a time, each process (default: %(default)s)"
    )
    add(
        "--workers",
        type=int,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes that decode, beside each (default: %(default)s)",
    )
    add(
        "--block",
        type=int,
        default=4096,
        metavar="N",
        help="images of a part of the work, which an interruption loses at most (default: %(default)s)",
    )
    add("--device", metavar="NAME", help="such as cpu or cuda:1 (default: a GPU for each process if there is one)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
