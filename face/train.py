"""`python -m face.train --cfgs FILE`: train a face recognition model."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]

_DESCRIPTION = """Train a face recognition model from a YAML (configs/face): on a CPU, one GPU, or several under
torchrun, chosen by what is there. Ctrl-C and SIGTERM save a checkpoint first; --resume goes on from it, in the very
order that the run would have had."""


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m face.train", description=_DESCRIPTION)
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 128 + n after signal n."""
    args = _parse(argv)
    # Threads that wait spin by default, which starves whatever else runs on a machine of few cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # Imported late, so that --help and typing errors do not wait for all of it.
        from common.runtime.distribution import leave_group
        from common.runtime.settings import parse_overrides
        from face.training.settings import load_train_settings
        from face.training.trainer import RunOptions, train

        settings = load_train_settings(args.cfgs, parse_overrides(args.overrides))
        stopped = train(settings, RunOptions(resume=args.resume, seed=args.seed, output=args.output))
        leave_group()
        return 0 if stopped is None else 128 + stopped
    except (ValueError, OSError, FloatingPointError) as error:
        from common.runtime.errors import error_text

        print(f"error: {error_text(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        print(f"error: a process that loads images died ({error}); is there memory enough?", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
