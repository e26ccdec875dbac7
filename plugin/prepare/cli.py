"""The command line of plugin.prepare."""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from common.runtime.workers import exit_code, sigterm_interrupts
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
        description="Turn the Gait3D release (PNG silhouettes, text poses), or what OpenGait's pretreatment made of "
        "it, into paired pickles of silhouettes and keypoints. A rerun goes on where an earlier one stopped.",
    )
    add = parser.add_argument
    add("--silhouettes", type=Path, required=True, metavar="DIR", help="2D_Silhouettes of the release, or pickles")
    add("--poses", type=Path, required=True, metavar="DIR", help="2D_Poses of the release, or pickles")
    add("--partition", type=Path, required=True, metavar="FILE", help="JSON: TRAIN_SET, TEST_SET, PROBE_SET")
    add("--out", type=Path, required=True, metavar="DIR", help="where the prepared sequences go")
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
    return parser


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N")
    return int(index), int(count)
