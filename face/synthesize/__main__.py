"""python -m face.synthesize"""

import sys

from face.synthesize.cli import main

if __name__ == "__main__":
    sys.exit(main())
