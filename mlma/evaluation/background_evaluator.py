"""Evaluation during training: every `evaluate_every` frames, a separate process evaluates the last checkpoint.

It runs `experiment.py --mode=test` at low priority on the host of the first learner. Results are in logdir/evaluation,
and in the reports as evaluation/mean. Not here: evaluation itself (mlma/evaluation/evaluation.py).
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mlma.core.config import Config, to_argv
from mlma.learning.checkpoint import Checkpoints
from mlma.monitoring.episode_statistics import Row
from mlma.utils.atomic_file import atomic_write
from mlma.utils.child_process import PARENT_PID_ENV
from mlma.utils.own_files import make_own_folder, open_own

logger = logging.getLogger(__name__)

LOG_INTERVAL_SECONDS = 30.0
EVALUATOR_NICENESS = "15"  # actors on this host come first (mlma/roles/actor.py)


class BackgroundEvaluator:
    """A report listener that runs one evaluation at a time. One that fails is logged; the next one is on time."""

    name = "the evaluation"

    def __init__(self, config: Config, frames: int, save: Callable[[], object]) -> None:
        self._every, self._save = config.reports.evaluate_every, save
        self._folder = Path(config.run.logdir) / "evaluation"
        self._checkpoints = Checkpoints(Path(config.run.logdir) / "checkpoints", config.reports.keep_checkpoints)
        self._evaluated = self._folder / "none"  # copy of a checkpoint, which training may delete
        self._test = config.replace(mode="test", num_learners=0, task=-1, job_name="learner")
        self._next = self._after(frames)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self._folder / "evaluator.log"
        self.mean = math.nan
        for left in self._folder.glob("checkpoint-*.npz"):  # copies of a learner that was killed meanwhile
            left.unlink(missing_ok=True)

    def _after(self, frames: float) -> float:
        return (frames // self._every + 1) * self._every

    def on_report(self, row: Row) -> None:
        """Collects a finished evaluation and starts the next one when it is due."""
        self._collect()
        if self._process is None and row["frames"] >= self._next:
            self._next = self._after(row["frames"])
            self._start()

    def _start(self) -> None:
        self._save()
        path = self._checkpoints.last()
        if path is None or path.name == self._evaluated.name:  # the disk is full, or it was evaluated already
            return
        make_own_folder(self._folder)
        copy = self._folder / path.name
        with path.open("rb") as source, atomic_write(copy) as target:
            shutil.copyfileobj(source, target)
        self._evaluated = copy
        test = self._test.replace(test_checkpoint=str(self._evaluated))
        command = ["nice", "-n", EVALUATOR_NICENESS, sys.executable, str(Path(sys.argv[0]).resolve()), *to_argv(test)]
        self._before = set(self._folder.glob("*.json"))
        environment = os.environ | {PARENT_PID_ENV: str(os.getpid()), "CUDA_VISIBLE_DEVICES": "-1"}
        with open_own(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as log:
            # A session of its own, since mpirun forwards signals to all processes that a learner started.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def _collect(self) -> None:
        """Logs the result of an evaluation that has ended."""
        if self._process is None or (code := self._process.poll()) is None:
            return
        self._process = None
        self._evaluated.unlink(missing_ok=True)
        new = sorted(set(self._folder.glob("*.json")) - self._before)
        if code or not new:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            logger.warning("an evaluation ended with code %d; its last line: %s", code, lines[-1] if lines else "none")
            return
        record = json.loads(new[-1].read_text())
        self.mean = record["mean"]
        frames, error, count = f"{record['frames']:,}", record["standard_error"], record["episodes"]
        logger.info("evaluation after %s frames: mean %.2f +- %.2f over %d episodes", frames, self.mean, error, count)

    def close(self, finished: bool) -> None:
        """Evaluates the last weights of a finished run; ends the evaluation of a run that was stopped."""
        if not finished:
            if self._process is not None:
                self._process.terminate()
                self._evaluated.unlink(missing_ok=True)
            return
        self._wait()
        self._start()
        self._wait()

    def _wait(self) -> None:
        logged = time.monotonic()
        while self._process is not None:
            self._collect()
            if time.monotonic() - logged > LOG_INTERVAL_SECONDS:
                logged = time.monotonic()
                logger.info("training is over; waiting for its evaluation")
            time.sleep(0.2)
