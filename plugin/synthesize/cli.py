"""Command line of plugin.synthesize: every field of SynthesisSettings is an option."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from plugin.synthesize.dataset import NOTE, synthesize
from plugin.synthesize.settings import SynthesisSettings

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m plugin.synthesize",
        description=f"Write a data set of walkers in the raw layout of Gait3D. {NOTE}",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder to write to")
    for entry in fields(SynthesisSettings):
        parser.add_argument(
            f"--{entry.name.replace('_', '-')}",
            type=type(entry.default),
            default=entry.default,
            metavar="N" if isinstance(entry.default, int) else "X",
            help=f"{entry.metadata['text']} (default: %(default)s)",
        )
    cores = os.cpu_count() or 1
    text = "processes; changes the speed, not the files (default: one a core, here %(default)s)"
    parser.add_argument("--workers", type=int, default=cores, metavar="N", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 2 for an error of the user's."""
    options = vars(_parser().parse_args(argv))
    out, workers = options.pop("out"), options.pop("workers")
    try:
        synthesize(SynthesisSettings(**options), out, workers=workers, progress=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{out}: {NOTE}")
    return 0
