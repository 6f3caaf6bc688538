"""The frontend: from one CSV of workers to a running experiment on many hosts, and back to nothing. docs/cluster.md

python run_experiment_mm_raw.py --workers_csv_path=workers.csv --level_name=... [any training flag]      starts it
python run_experiment_mm_raw.py check | status | logs | restart | scale | down | dry-run [--logdir=...]  and the rest
"""

from __future__ import annotations

import io
import sys

from mlma.cluster.cli import run_command
from mlma.cluster.options import parse_invocation_or_exit

if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what takes minutes is watched through files and pipes, too
    sys.exit(run_command(parse_invocation_or_exit(sys.argv[1:])))
