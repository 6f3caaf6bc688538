"""How long a run takes until its first learner step, and how much processor time that costs.

    python -m benchmarks.start --rounds=5
    python -m benchmarks.start --checkouts=.,../before -- --level_name=CartPole-v1     flags of experiment.py after --

Each round starts a run in each of the checkouts, one after the other, and stops it at the first report of a learner
step. Processor time is that of the learner, its actors and all else that they have started. Medians are printed.
"""

from __future__ import annotations

import argparse
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import markdown_head, markdown_row, process_seconds
from mlma.core.config import parse_or_exit

REPORT_SECONDS = 0.1
FRAMES = re.compile(r"([\d,]+) frames \(")


def first_step(checkout: Path, flags: list[str]) -> tuple[float, float]:
    """(seconds, seconds of processor time) until the first report of a learner step."""
    with tempfile.TemporaryDirectory() as logdir:
        command = [sys.executable, "experiment.py", f"--logdir={logdir}", f"--report_every_seconds={REPORT_SECONDS}"]
        began = time.perf_counter()
        with subprocess.Popen(
            [*command, *flags], cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as run:
            assert run.stdout
            lines = []
            for line in run.stdout:
                lines.append(line)
                if (found := FRAMES.search(line)) and found[1] != "0":
                    seconds, processor = time.perf_counter() - began, process_seconds(run.pid)
                    run.send_signal(signal.SIGINT)
                    run.communicate()
                    return seconds, processor
    raise SystemExit(f"{checkout}: the run ended before its first learner step:\n{''.join(lines)}")


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--checkouts", default=".", help="folders with an experiment.py, separated by commas; default: ."
    )
    parser.add_argument("flags", nargs="*", help="flags of experiment.py")
    args = parser.parse_args()
    parse_or_exit(args.flags)
    checkouts = [Path(folder) for folder in args.checkouts.split(",")]
    times: dict[Path, list[tuple[float, float]]] = {checkout: [] for checkout in checkouts}
    for _ in range(args.rounds):
        for checkout in checkouts:
            times[checkout].append(first_step(checkout, args.flags))
    print(markdown_head(["checkout", "seconds until the first learner step", "processor time, s", "per round, s"]))
    for checkout, results in times.items():
        seconds, processor = zip(*results, strict=True)
        per_round = ", ".join(f"{each:.1f}" for each in seconds)
        print(
            markdown_row(
                [checkout, f"{statistics.median(seconds):.1f}", f"{statistics.median(processor):.1f}", per_round]
            )
        )


if __name__ == "__main__":
    main()
