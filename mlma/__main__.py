"""`python -m mlma` is the command `mlma`, which only an installed package has."""

import sys

from mlma.command.main import main

if __name__ == "__main__":
    sys.exit(main())
