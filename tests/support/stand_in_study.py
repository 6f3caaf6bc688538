"""`python -m tests.support.stand_in_study up FILE`: the command of studies, whose members are stand-ins."""

import functools
import sys
from pathlib import Path

from mlma.studies import cli
from mlma.studies.controller import Controller

if __name__ == "__main__":
    script = Path(__file__).with_name("stand_in_run.py")
    cli.Controller = functools.partial(Controller, script=script)  # type: ignore[misc, assignment]
    sys.exit(cli.main(sys.argv[1:]))
