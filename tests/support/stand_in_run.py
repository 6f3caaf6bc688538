"""Stands in for experiment.py in tests of studies: keeps the promises of a run to its folder, but learns nothing.

It has the lock, config.json, metrics.csv and real checkpoints; resumes, saves on SIGTERM, and can fail. Its score
is the nearness of the learning rate to 1e-3. With entropy_cost above 1 it fails after its first checkpoint; with
baseline_cost=7 it refuses its flags, and with 8 it fails at once.
"""

from __future__ import annotations

import fcntl
import json
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlma.core.config import parse
from mlma.learning.checkpoint import Checkpoints
from mlma.utils.atomic_file import atomic_write

FRAMES_PER_STEP, STEP_SECONDS = 1000, 0.03
STEPS_PER_CHECKPOINT = 5


def main(argv: list[str]) -> int:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    config = parse(argv)
    if config.learner.baseline_cost == 7:
        print("--baseline_cost=7: a line about it")
        return 2
    if config.learner.baseline_cost == 8:
        return 1
    logdir = Path(config.run.logdir)
    logdir.mkdir(parents=True, exist_ok=True)
    lock = (logdir / ".lock").open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with atomic_write(logdir / "config.json") as file:
        file.write(json.dumps(config.flags()).encode())
    checkpoints = Checkpoints(logdir / "checkpoints", 3)
    loaded = checkpoints.load_last()
    frames, weights = (loaded.meta["frames"], loaded.variables["weights"]) if loaded else (0, np.zeros(3))
    score = -abs(math.log10(config.optimizer.learning_rate or 1e-3) + 3)
    step = frames // FRAMES_PER_STEP
    while frames < config.run.total_environment_frames and not stopped:
        time.sleep(STEP_SECONDS)
        step, frames, weights = step + 1, frames + FRAMES_PER_STEP, weights + 1
        if step % STEPS_PER_CHECKPOINT == 0:
            report(logdir, frames, score)
            save(checkpoints, step, frames, weights)
            if config.learner.entropy_cost > 1:
                print("a failure of the stand-in")
                return 1
    report(logdir, frames, score)
    save(checkpoints, step, frames, weights)
    return 0


def report(logdir: Path, frames: int, score: float) -> None:
    path = logdir / "metrics.csv"
    text = path.read_text() if path.exists() else "frames,return/mean\n"
    with atomic_write(path) as file:
        file.write(f"{text}{frames},{score}\n".encode())


def save(checkpoints: Checkpoints, step: int, frames: int, weights: Any) -> None:
    meta = {"step": step, "frames": frames, "seconds": 1.0, "best": 0.0, "seeds": [7, 3]}
    checkpoints.save(step, {"weights": weights}, meta)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
