"""``python -m oneblock`` is ``oneblock``."""

import sys

from oneblock.cli.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
