"""`python -m plugin --cfgs FILE --phase train|test`: train or test a gait model, with OpenGait's command line."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plugin.conditions import TestCondition

__all__ = ["main"]

_DESCRIPTION = """Train or test a gait model from a YAML of OpenGait's form, on the embedded runtime: CPU, one GPU, or
several under torchrun, chosen by what is there. With --opengait, in OpenGait itself."""


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m plugin", description=_DESCRIPTION)
    parser.add_argument("--cfgs", type=Path, required=True, metavar="FILE", help="YAML of the run")
    parser.add_argument(
        "--opengait", type=Path, metavar="PATH", help="run in this checkout of OpenGait, which is not changed"
    )
    parser.add_argument("--phase", choices=["train", "test"], default="train", help="default: train")
    parser.add_argument("--iter", type=int, default=0, metavar="N", help="restore the checkpoint of iteration N")
    parser.add_argument("--resume", action="store_true", help="restore the newest checkpoint, if there is one")
    parser.add_argument("--log_to_file", action="store_true", help="keep the text log in <output>/.../logs/ too")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="everything random follows from it (default: 0)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output"), metavar="DIR", help="where output folders are (default: output)"
    )
    hard = parser.add_argument_group("conditions of a test (default: none)")
    hard.add_argument(
        "--misalign",
        type=float,
        default=0.0,
        metavar="S",
        help="crops are shifted and scaled at random by up to this share of their size",
    )
    hard.add_argument(
        "--joint-noise",
        type=float,
        default=0.0,
        metavar="S",
        help="standard deviation of noise on the joints, as a share of the silhouette's height",
    )
    hard.add_argument(
        "--joint-loss", type=float, default=0.0, metavar="P", help="share of joints that go missing; 1: no poses"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings instead of the file's, as data_cfg.num_workers=4"
    )
    args = parser.parse_intermixed_args(argv)
    if args.iter < 0 or args.seed < 0:
        parser.error("--iter and --seed must not be negative")
    given = [name for name in ("misalign", "joint_noise", "joint_loss") if getattr(args, name)]
    if given:  # only then: the conditions' own checks wait for their libraries
        try:
            _condition(args)
        except ValueError as error:
            parser.error(f"--{str(error).replace('_', '-')}")
        if args.phase == "train":
            parser.error(f"--{given[0].replace('_', '-')} is a condition of --phase test")
    if args.opengait is not None and args.seed:
        parser.error("--seed is the embedded runtime's: OpenGait seeds each process with its rank")
    return args


def _condition(args: argparse.Namespace) -> "TestCondition":
    from plugin.conditions import TestCondition

    return TestCondition(misalign=args.misalign, joint_noise=args.joint_noise, joint_loss=args.joint_loss)


def _run_opengait(args: argparse.Namespace) -> None:
    from common.runtime.settings import parse_overrides
    from plugin.opengait.run import run_opengait

    run_opengait(
        args.opengait,
        args.cfgs,
        args.phase,
        parse_overrides(args.overrides),
        iteration=args.iter,
        resume=args.resume,
        log_to_file=args.log_to_file,
        output=args.output,
        condition=_condition(args),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 128 + n after signal n."""
    args = _parse(argv)
    # Threads that wait spin by default, which starves whatever else runs on a machine of few cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # Imported late, so that --help and typing errors do not wait for torch.
        from common.runtime.distribution import leave_group
        from common.runtime.settings import parse_overrides

        if args.opengait is not None:
            _run_opengait(args)
            return 0
        from plugin.runtime.runner import RunOptions, test, train
        from plugin.runtime.settings import load_gait_settings

        options = RunOptions(
            iteration=args.iter,
            resume=args.resume,
            log_to_file=args.log_to_file,
            seed=args.seed,
            output=args.output,
            condition=_condition(args),
        )
        settings = load_gait_settings(args.cfgs, parse_overrides(args.overrides))
        stopped = None
        if args.phase == "test":
            test(settings, options)
        else:
            stopped = train(settings, options)
        leave_group()
        return 0 if stopped is None else 128 + stopped
    except (ValueError, OSError, FloatingPointError) as error:
        from common.runtime.errors import error_text

        print(f"error: {error_text(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
