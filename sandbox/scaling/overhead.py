"""Measures the cost of the always-on phase timers: runs with and without them, in alternation.

    python sandbox/scaling/overhead.py --rounds=6 -- --level_name=catch

The timers can be disabled only here: with MLMA_UNMEASURED in the environment, this script is experiment.py without
them.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import experiment  # noqa: E402

OFF = "MLMA_UNMEASURED"


def switch_off() -> None:
    """Replaces the timers by functions that do nothing; their metrics stay 0."""
    from mlma.learning import learner
    from mlma.monitoring.phase_timer import PhaseTimer
    from mlma.utils.tensorflow_setup import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    PhaseTimer.lap = lambda self, name: None  # type: ignore[method-assign]
    PhaseTimer.phase = lambda self, name: contextlib.nullcontext()  # type: ignore[method-assign,assignment,return-value]
    PhaseTimer.add = lambda self, events: None  # type: ignore[method-assign]
    learner.timestamp_after = lambda tensors, timed: tf.constant(0.0, tf.float64)


def rate(measured: bool, words: list[str], seconds: float, warm_up: float) -> float:
    """Returns frames per second of a run after its first `warm_up` seconds of training."""
    with tempfile.TemporaryDirectory() as logdir:
        command = [sys.executable, __file__, *words, f"--logdir={logdir}", "--report_every_seconds=1"]
        environment = os.environ | ({} if measured else {OFF: "1"})
        run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        try:
            table = rows(Path(logdir))
            while not table or table[-1][0] == 0 or table[-1][1] < table[0][1] + warm_up + seconds:
                if run.poll() is not None:
                    raise RuntimeError("the run ended before it was measured")
                time.sleep(0.5)
                table = rows(Path(logdir))
        finally:
            run.send_signal(signal.SIGINT)
            run.wait(60)
        first = next(i for i, row in enumerate(table) if row[1] >= table[0][1] + warm_up)
        return (table[-1][0] - table[first][0]) / (table[-1][1] - table[first][1])


def rows(logdir: Path) -> list[tuple[float, float]]:
    """Returns (frames, seconds) of each report."""
    path = logdir / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [(float(row["frames"]), float(row["seconds"])) for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm_up", type=float, default=8.0)
    parser.add_argument("flags", nargs="*", help="flags of experiment.py, after --")
    a = parser.parse_args()
    ratios = []
    for turn in range(a.rounds):
        order = (True, False) if turn % 2 else (False, True)
        found = {measured: rate(measured, a.flags, a.seconds, a.warm_up) for measured in order}
        ratios.append(found[True] / found[False])
        print(
            f"round {turn + 1}: with {found[True]:,.0f}, without {found[False]:,.0f} frames/s: {ratios[-1] - 1:+.1%}",
            flush=True,
        )
    error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else float("nan")
    print(f"mean {statistics.mean(ratios) - 1:+.2%} +- {error:.2%}, median {statistics.median(ratios) - 1:+.2%}")


if __name__ == "__main__":
    if any(word.startswith("--logdir=") for word in sys.argv):
        if os.environ.get(OFF):
            switch_off()
        sys.exit(experiment.main())
    main()
