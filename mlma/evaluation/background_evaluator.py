"""Evaluation beside training: every so many frames, a process of its own plays the last checkpoint.

It is `experiment.py --mode=test`, at low priority, on the host of the first learner; what it finds is in logdir/evaluation as
always, and in the reports as evaluation/mean. Not here: playing (mlma/evaluation/evaluation.py).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlma.core.config.config import Config, to_argv
from mlma.learning.checkpoint import Checkpoints
from mlma.monitoring.metrics import Row
from mlma.utils.child_process import PARENT_PID_ENV

LOG_INTERVAL_SECONDS = 30.0
EVALUATOR_NICENESS = "15"  # niceness: actors come before it (mlma/roles/evaluator.py)


class BackgroundEvaluator:
    """Called with each report; one evaluation at a time."""

    def __init__(self, config: Config, frames: int, save: Callable[[], object], say: Callable[[str], None]) -> None:
        self._every, self._save, self._say = config.evaluate_every, save, say
        self._folder = Path(config.logdir) / "evaluation"
        self._checkpoints = Checkpoints(Path(config.logdir) / "checkpoints", config.keep_checkpoints)
        self._played = self._folder / "none"  # a copy of a checkpoint, which training may remove meanwhile
        self._test = replace(config, mode="test", num_learners=0, task=-1, job_name="learner")
        self._next = self._after(frames)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self._folder / "evaluator.log"
        self.mean = math.nan

    def _after(self, frames: float) -> float:
        return (frames // self._every + 1) * self._every

    def __call__(self, row: Row) -> None:
        self._look()
        if self._process is None and row["frames"] >= self._next:
            self._next = self._after(row["frames"])
            self._start()

    def _start(self) -> None:
        self._save()
        path = self._checkpoints.last()
        if path is None or path.name == self._played.name:  # the disk is full, which `save` has said; or it was played already
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._played = self._folder / path.name
        shutil.copyfile(path, self._played)
        test = replace(self._test, test_checkpoint=str(self._played))
        command = ["nice", "-n", EVALUATOR_NICENESS, sys.executable, str(Path(sys.argv[0]).resolve()), *to_argv(test)]
        self._before = set(self._folder.glob("*.json"))
        environment = os.environ | {PARENT_PID_ENV: str(os.getpid()), "CUDA_VISIBLE_DEVICES": "-1"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # in a session of its own: mpirun's signals are for all that a learner started
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def _look(self) -> None:
        """Tells what came of an evaluation that has ended."""
        if self._process is None or (code := self._process.poll()) is None:
            return
        self._process = None
        self._played.unlink(missing_ok=True)
        new = sorted(set(self._folder.glob("*.json")) - self._before)
        if code or not new:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            self._say(f"an evaluation ended with code {code}; its last line: {lines[-1] if lines else 'none'}")
            return
        record = json.loads(new[-1].read_text())
        self.mean = record["mean"]
        self._say(
            f"evaluation after {record['frames']:,} frames: mean {self.mean:.2f} +- {record['standard_error']:.2f} over "
            f"{record['episodes']} episodes"
        )

    def end(self, whole: bool) -> None:
        """After a `whole` run its last weights are evaluated, too; a run that was ended ends its evaluation."""
        if not whole:
            if self._process is not None:
                self._process.terminate()
                self._played.unlink(missing_ok=True)
            return
        self._wait()
        self._start()
        self._wait()

    def _wait(self) -> None:
        said = time.monotonic()
        while self._process is not None:
            self._look()
            if time.monotonic() - said > LOG_INTERVAL_SECONDS:
                said = time.monotonic()
                self._say("training is over; waits for its evaluation")
            time.sleep(0.2)
