"""The command line of training runs: `face.train` and `face.dfa.train` differ in what they train."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["training_command"]


def _parse(argv: Sequence[str] | None, prog: str, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--cfgs", type=Path, required=True, metavar="FILE", help="YAML of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="everything random follows from it (default: 0)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output"), metavar="DIR", help="where runs' folders are (default: output)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings instead of the file's, as trainer.batch_size=128"
    )
    args = parser.parse_intermixed_args(argv)
    if args.seed < 0:
        parser.error("--seed must not be negative")
    return args


def training_command(
    argv: Sequence[str] | None, prog: str, description: str, run: Callable[[argparse.Namespace], int | None]
) -> int:
    """Parse, train, and say in one line what was wrong.

    Args:
        argv: arguments; None: the process's.
        prog, description: of the help.
        run: trains as the arguments (cfgs, resume, seed, output, overrides) say, and returns the signal that stopped
            it, or None. It imports what it needs itself, so that help and typing errors do not wait for it.

    Returns:
        The exit code: 0, 2 for wrong input, 128 + n after signal n.
    """
    args = _parse(argv, prog, description)
    # Threads that wait spin by default, which starves whatever else runs on a machine of few cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from common.runtime.command import run_command

    def job() -> int | None:
        stopped = run(args)
        return None if stopped is None else 128 + stopped

    return run_command(job, every_process=True)
