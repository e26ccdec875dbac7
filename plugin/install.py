"""`python -m plugin.install --opengait PATH`: make SwinGait with KP-RPE known to a checkout of OpenGait."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from plugin.opengait.shim import SHIM, install, uninstall

__all__ = ["main"]

_DESCRIPTION = f"""Puts one small file, {SHIM.as_posix()}, into a checkout of OpenGait, so that OpenGait's own command
line runs the plugin's configs. Nothing of OpenGait is edited. Run OpenGait with this Python, or with one that has this
package's dependencies."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 for a folder that is not what it should be."""
    parser = argparse.ArgumentParser(prog="python -m plugin.install", description=_DESCRIPTION)
    parser.add_argument("--opengait", type=Path, required=True, metavar="PATH", help="root of the checkout")
    parser.add_argument("--uninstall", action="store_true", help="take the file away again")
    args = parser.parse_args(argv)
    try:
        if args.uninstall:
            changed = uninstall(args.opengait)
            print(f"removed {args.opengait / SHIM}" if changed else f"{args.opengait}: nothing to remove")
            return 0
        changed = install(args.opengait)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.opengait / SHIM}" if changed else f"{args.opengait}: installed already, nothing changed")
    print(
        "Now, in the checkout: torchrun --nproc_per_node N opengait/main.py "
        "--cfgs .../configs/swingait2d_kprpe.yaml --phase train"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
