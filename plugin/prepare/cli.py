"""The command line of plugin.prepare."""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import get_args

from common.runtime.workers import exit_code, sigterm_interrupts
from plugin.prepare.layouts import RAW_LAYOUTS, FrameNumber, SilhouettePixels
from plugin.prepare.run import prepare
from plugin.prepare.settings import PrepareSettings

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m plugin.prepare`.

    Returns:
        0 when done (sequences that failed are in the report), 1 when not one sequence could be prepared or a worker
        process died, 2 for what the user must put right, 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = _parser().parse_args(argv)
    for patterns in ("silhouette_files", "pose_files"):
        given = getattr(arguments, patterns)
        setattr(arguments, patterns, None if given is None else tuple(given))
    try:
        settings = PrepareSettings(**vars(arguments))
        with sigterm_interrupts():
            report = prepare(settings)
    except KeyboardInterrupt as interrupt:
        print("interrupted: finished sequences are kept, the same command goes on from there", file=sys.stderr)
        return exit_code(interrupt)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print(
            "error: a worker process was killed, perhaps for its memory; finished sequences are kept, the same "
            "command goes on from there",
            file=sys.stderr,
        )
        return 1
    merged = (settings.out / ".prepare" / "report.txt").read_text(encoding="utf-8")
    if settings.shard is not None:
        print(f"shard {settings.shard[0]} of {settings.shard[1]}\n{report.to_text()}\nall shards so far")
    print(merged, end="")
    if report.planned and not report.written:
        print("error: no sequence was prepared", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m plugin.prepare",
        description="Turn a gait set (silhouettes and poses as released, or what OpenGait's scripts made of them) into "
        "paired pickles of silhouettes and keypoints. A rerun goes on where an earlier one stopped. DATASETS.md beside "
        "this package's README has the commands of each set.",
    )
    add = parser.add_argument
    add("--silhouettes", type=Path, required=True, metavar="DIR", help="ID/type/view folders of silhouettes")
    add("--poses", type=Path, required=True, metavar="DIR", help="ID/type/view folders of poses; may be the same")
    add("--partition", type=Path, required=True, metavar="FILE", help="JSON: TRAIN_SET, TEST_SET, and PROBE_SET")
    add("--out", type=Path, required=True, metavar="DIR", help="where the prepared sequences go")
    add("--dataset", choices=RAW_LAYOUTS, default="Gait3D", help="whose files they are (default Gait3D)")
    add("--width", type=int, choices=(64, 44), default=64, help="columns of the silhouettes (default 64)")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: all cores)")
    add("--shard", type=_shard, metavar="I/N", help="do the I-th of N equal shares, I from 1 to N, for job arrays")
    add("--min-frames", type=int, default=1, metavar="N", help="leave out shorter sequences (default 1)")
    add("--low-share", type=float, default=0.7, metavar="X", help="list sequences below this share (default 0.7)")
    add("--confident", type=float, default=0.3, metavar="X", help="a joint counts from this on (default 0.3)")
    add(
        "--pose-coordinates",
        choices=("crop", "normalised"),
        default="crop",
        help="what pickled poses are in: pixels of the human crop (default) or of the normalised silhouette. From "
        "pickled silhouettes the place of poses in crop pixels can only be estimated",
    )
    layout = parser.add_argument_group("parts of the layout", "where they differ from those of --dataset")
    add = layout.add_argument
    add("--silhouette-files", nargs="+", metavar="PATTERN", help="files of a sequence's folder that are silhouettes")
    add("--pose-files", nargs="+", metavar="PATTERN", help="those that are poses, such as '*-sync-*-Camera-Pose.pkl'")
    add("--frame-number", choices=get_args(FrameNumber), help="which digits of a file's name number its frame")
    add("--silhouette-pixels", choices=get_args(SilhouettePixels), help="whether PNG files are normalised already")
    return parser


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N")
    return int(index), int(count)
