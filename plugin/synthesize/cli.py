"""Command line of plugin.synthesize: every field of SynthesisSettings is an option."""

import argparse
from collections.abc import Sequence

from common.runtime.synthesis import add_setting_options, make_orderly
from plugin.synthesize.dataset import NOTE, UNFINISHED, is_unfinished, synthesize
from plugin.synthesize.settings import SynthesisSettings

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m plugin.synthesize",
        description=f"Write a data set of walkers in the raw layout of a gait set. {NOTE}",
    )
    add_setting_options(parser, SynthesisSettings)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m plugin.synthesize`.

    Returns:
        0 when done, 1 when a worker process died, 2 for what the user must put right, 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    options = vars(_parser().parse_args(argv))
    out, workers = options.pop("out"), options.pop("workers")

    def make() -> None:
        synthesize(SynthesisSettings(**options), out, workers=workers, progress=True)

    code = make_orderly(make, out, is_unfinished, UNFINISHED)
    if not code:
        print(f"{out}: {NOTE}")
    return code
