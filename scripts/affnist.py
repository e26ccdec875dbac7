"""The toy experiment of the KP-RPE paper (figure 1): see `python scripts/affnist.py --help`."""

import sys

from common.affnist.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
