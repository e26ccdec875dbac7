"""`python -m plugin.prepare`: see cli.py."""

import sys

from plugin.prepare.cli import main

if __name__ == "__main__":
    sys.exit(main())
