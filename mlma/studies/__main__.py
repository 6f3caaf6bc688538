"""`python -m mlma.studies` is `mlma study` from a checkout."""

import sys

from mlma.studies.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
