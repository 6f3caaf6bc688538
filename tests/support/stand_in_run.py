"""Stands in for experiment.py in tests of studies: keeps the promises of a run to its folder, but learns nothing.

It has the lock, config.json, metrics.csv and real checkpoints; resumes, saves on SIGTERM, and can fail. Its score
is the nearness of the learning rate to 1e-3. With entropy_cost above 1 it fails after its first checkpoint; with
baseline_cost=7 it refuses its flags, and with 8 it fails at once.

It is also a learner of the frontend, or an actor, which only waits. `stand_in_python` makes an executable for the
column `python` of a CSV.
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
from mlma.monitoring.heartbeat import Heartbeat
from mlma.utils.atomic_file import atomic_write

FRAMES_PER_STEP, STEP_SECONDS = 1000, 0.03
STEPS_PER_CHECKPOINT, STEPS_ON_HOSTS = 5, 40  # on hosts, they are copied once a second


def stand_in_python(folder: Path) -> str:
    """An executable that is Python, except that it runs this file in place of experiment.py."""
    path, stand_in = folder / "stand-in-python", Path(__file__).resolve()
    environment = f"PYTHONPATH={stand_in.parents[2]}"
    cases = f'*experiment.py) shift; exec env {environment} {sys.executable} {stand_in} "$@";;'
    path.write_text(f'#!/bin/sh\ncase "$1" in {cases} *) exec {sys.executable} "$@";; esac\n')
    path.chmod(0o755)
    return str(path)


def main(argv: list[str]) -> int:
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: stopped.append(number))
    config = parse(argv)
    if config.run.job_name == "actor":
        while not stopped:
            time.sleep(0.2)
        return 0
    heartbeat = Heartbeat(str(config.get("heartbeat_folder")), "learner-0")
    every = STEPS_ON_HOSTS if config.get("heartbeat_folder") else STEPS_PER_CHECKPOINT
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
        if step % every == 0:
            heartbeat.progress(frames)
            report(logdir, frames, score)
            save(checkpoints, step, frames, weights)
            if config.learner.entropy_cost > 1:
                print("a failure of the stand-in")
                return 1
    report(logdir, frames, score)
    save(checkpoints, step, frames, weights)
    if not stopped:
        heartbeat.training_is_over()
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
