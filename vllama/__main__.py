"""`python -m vllama`."""

import sys

from vllama.cli import main

if __name__ == "__main__":
    sys.exit(main())
