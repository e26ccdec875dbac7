"""Gait recognition over ever worse crops and joints: see `python scripts/gait_misalignment.py --help`."""

import os
import sys

# Before torch starts its threads: those that wait spin by default, which starves the process that loads the data.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from plugin.misalignment.cli import main

if __name__ == "__main__":
    sys.exit(main())
