"""The toy experiment of the KP-RPE paper: a shallow ViT trained on upright digits, tested on unseen affine transforms.

    python scripts/affnist.py                        the digits that scikit-learn ships, about 5 minutes on 2 CPU cores
    python scripts/affnist.py --mnist mnist.npz      original MNIST, about an hour on 2 CPU cores

Writes results.json, table.md, results.png, samples.png, weights/ and samples/ to the output folder. A run that was
stopped goes on where it was when it is started again with the same settings; further models and seeds are added to it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common.affnist.digits import Digits, read_mnist, sklearn_digits
from common.affnist.experiment import ExperimentSettings, make_test_frames, make_training_frames, run_experiment
from common.affnist.models import MODELS, ModelSettings
from common.affnist.report import draw_results, draw_samples, format_table, write_samples
from common.runtime.files import write_text
from common.runtime.workers import exit_code, sigterm_interrupts

__all__ = ["main"]

_SCHEDULES = {  # epochs, batch size, copies of each test digit
    "sklearn": (30, 64, 4),
    "mnist": (6, 128, 1),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 2 for wrong input, 130 or 143 when interrupted."""
    args = _parser().parse_args(argv)
    try:
        with sigterm_interrupts():
            _run(args)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return exit_code(interrupt)
    return 0


def _parser() -> argparse.ArgumentParser:
    small, large = _SCHEDULES.values()
    sizes = ModelSettings()
    parser = argparse.ArgumentParser(
        prog="affnist", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--mnist", type=Path, metavar="FILE", help="original MNIST instead of scikit-learn's digits: "
                        "Keras' mnist.npz, or the idx files (their folder or one of them)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs a model (default: 3)")
    parser.add_argument("--epochs", type=int, metavar="N", help=f"passes over the training digits (default: {small[0]},"
                        f" with --mnist {large[0]})")  # fmt: skip
    parser.add_argument("--models", type=_models, default=list(MODELS), metavar="A,B,...",
                        help=f"some of {','.join(MODELS)} (default: all)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="where everything goes (default: affnist/sklearn, with "
                        "--mnist affnist/mnist)")  # fmt: skip
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto, which takes a GPU if there is one")
    parser.add_argument("--dim", type=int, default=sizes.dim, metavar="N", help="channels (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=sizes.depth, metavar="N", help="layers (default: %(default)s)")
    parser.add_argument("--heads", type=int, default=sizes.heads, metavar="N", help="heads (default: %(default)s)")
    parser.add_argument("--patch", type=int, default=sizes.patch, metavar="N",
                        help="side of a patch in pixels, divides 40 (default: %(default)s)")  # fmt: skip
    parser.add_argument("--pool", choices=("mean", "class"), default=sizes.pool,
                        help="classify the mean of the tokens or a class token (default: %(default)s)")  # fmt: skip
    parser.add_argument("--no-absolute", action="store_true", help="models with a relative encoding have no absolute "
                        "one beside it")  # fmt: skip
    return parser


def _models(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in MODELS]
    if unknown or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected some of {','.join(MODELS)}, each once, got {text!r}")
    return names


def _run(args: argparse.Namespace) -> None:
    kind = "sklearn" if args.mnist is None else "mnist"
    epochs, batch_size, copies = _SCHEDULES[kind]
    settings = ExperimentSettings(
        epochs=epochs if args.epochs is None else args.epochs,
        batch_size=batch_size,
        copies=copies,
        model=ModelSettings(
            patch=args.patch,
            dim=args.dim,
            depth=args.depth,
            heads=args.heads,
            pool=args.pool,
            absolute=not args.no_absolute,
        ),
    )
    device = _device(args.device)
    out = args.out or Path("affnist") / kind
    digits: Digits = sklearn_digits() if args.mnist is None else read_mnist(args.mnist)
    frames = make_test_frames(digits, settings)
    runs = run_experiment(out, digits, settings, args.models, args.seeds, device, frames)

    table = format_table(runs)
    write_text(out / "table.md", table + "\n")
    name = "MNIST" if kind == "mnist" else digits.name
    draw_results(out / "results.png", runs, f"{name}, trained on upright digits, seeds 0 to {args.seeds - 1}")
    training = make_training_frames(digits, np.random.default_rng((0, 0)))
    draw_samples(
        out / "samples.png", {"training": training, "clean\ntest": frames["clean"], "affine\ntest": frames["affine"]}
    )
    write_samples(out / "samples", frames)
    print(f"\n{table}\n\n{out / 'table.md'}, {out / 'results.png'}, {out / 'samples.png'}")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device must be auto, cpu or cuda, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: no CUDA device is present")
    return device


if __name__ == "__main__":
    sys.exit(main())
