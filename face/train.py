"""`python -m face.train --cfgs FILE`: train a face recognition model."""

import argparse
import sys
from collections.abc import Sequence

from face.training.command import training_command

__all__ = ["main"]

_DESCRIPTION = """Train a face recognition model from a YAML (configs/face): on a CPU, one GPU, or several under
torchrun, chosen by what is there. Ctrl-C and SIGTERM save a checkpoint first; --resume goes on from it, in the very
order that the run would have had."""


def _run(args: argparse.Namespace) -> int | None:
    from common.runtime.settings import parse_overrides
    from face.training.settings import load_train_settings
    from face.training.trainer import RunOptions, train

    settings = load_train_settings(args.cfgs, parse_overrides(args.overrides))
    return train(settings, RunOptions(resume=args.resume, seed=args.seed, output=args.output))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 128 + n after signal n."""
    return training_command(argv, "python -m face.train", _DESCRIPTION, _run)


if __name__ == "__main__":
    sys.exit(main())
