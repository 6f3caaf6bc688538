"""`python -m mlma.studies` is `mlma study` from a checkout."""

import sys

from mlma.studies.cli import main
from mlma.utils.console_streams import install_forgiving_streams

if __name__ == "__main__":
    install_forgiving_streams()
    sys.exit(main(sys.argv[1:]))
