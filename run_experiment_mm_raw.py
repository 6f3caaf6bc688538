"""The frontend: starts, watches and ends a run on many hosts, from one CSV of workers. See docs/guides/cluster.md.

python run_experiment_mm_raw.py --workers_csv_path=workers.csv --level_name=... [any training flag]      starts a run
python run_experiment_mm_raw.py check | status | logs | restart | scale | down | ... [--logdir=...]      see --help
"""

from __future__ import annotations

import io
import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # During the imports below, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from mlma.cluster.cli import run_command
from mlma.cluster.options import parse_invocation_or_exit
from mlma.cluster.output import install_outputs

if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so progress is visible in files and pipes at once
    install_outputs()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run_command(parse_invocation_or_exit(sys.argv[1:])))
