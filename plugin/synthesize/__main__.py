"""python -m plugin.synthesize"""

import sys

from plugin.synthesize.cli import main

if __name__ == "__main__":
    sys.exit(main())
