"""Command line of plugin.synthesize: every field of SynthesisSettings is an option."""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields
from pathlib import Path

from common.runtime.workers import exit_code, sigterm_interrupts
from plugin.synthesize.dataset import NOTE, is_unfinished, synthesize
from plugin.synthesize.settings import SynthesisSettings

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m plugin.synthesize",
        description=f"Write a data set of walkers in the raw layout of a gait set. {NOTE}",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder to write to")
    for entry in fields(SynthesisSettings):
        parser.add_argument(
            f"--{entry.name.replace('_', '-')}",
            type=type(entry.default),
            default=entry.default,
            choices=entry.metadata.get("choices"),
            metavar={str: "SET", int: "N", float: "X"}[type(entry.default)],
            help=f"{entry.metadata['text']} (default: %(default)s)",
        )
    cores = os.cpu_count() or 1
    text = "processes; changes the speed, not the files (default: one a core, here %(default)s)"
    parser.add_argument("--workers", type=int, default=cores, metavar="N", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m plugin.synthesize`.

    Returns:
        0 when done, 1 when a worker process died, 2 for what the user must put right, 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    options = vars(_parser().parse_args(argv))
    out, workers = options.pop("out"), options.pop("workers")
    try:
        with sigterm_interrupts():
            synthesize(SynthesisSettings(**options), out, workers=workers, progress=True)
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{_what_is_left(out)}", file=sys.stderr)
        return exit_code(interrupt)
    except BrokenProcessPool:
        print(f"error: a worker process was killed, perhaps for its memory{_what_is_left(out)}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        of_a_file = isinstance(error, OSError) and error.filename is not None
        print(f"error: --out {out}: cannot be written: {error}" if of_a_file else f"error: {error}", file=sys.stderr)
        return 2
    print(f"{out}: {NOTE}")
    return 0


def _what_is_left(out: Path) -> str:
    return f": {out} is incomplete (no partition.json); remove it and run again" if is_unfinished(out) else ""
