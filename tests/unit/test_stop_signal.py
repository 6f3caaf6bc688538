"""Ctrl-C is answered while the main thread is in a long call, and the second one ends the process whatever it does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from mlma.learning.run_state import RunState
from tests.support.runs import ROOT

PROGRAM = """
import hashlib, logging, os, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from mlma.roles import stop_signal
stop_signal.LEAVE_SECONDS = {seconds}
def leave():
    print("left", flush=True)
    os._exit(7)
stop = stop_signal.StopSignal(leave)
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # one call, of minutes, like a learner step
"""


def start(seconds: float) -> subprocess.Popen[str]:
    program = PROGRAM.format(seconds=seconds)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def test_ctrl_c_is_answered_within_a_long_step_and_the_second_ends_it() -> None:
    with start(seconds=1000) as process:
        assert process.stdout
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline().startswith("SIGINT: stopping after this step and saving a checkpoint; another")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 128 + signal.SIGINT
        assert time.monotonic() - began < 10


def test_a_step_that_takes_too_long_is_left() -> None:
    with start(seconds=0.2) as process:
        assert process.stdout
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readlines()[1:] == ["left\n"]
        assert process.wait(10) == 7


class SlowLearner:
    """Changes its two variables one after the other at the first reading of the second."""

    def __init__(self) -> None:
        self.step, self.frames, self._reads = 5, 20, 0
        self._first, self._second = tf.Variable(1.0), tf.Variable(1.0)

    def variables(self) -> dict[str, tf.Variable]:
        self._reads += 1
        if self._reads == 2:  # an update is under way
            self._first.assign(2.0)
        if self._reads == 3:
            self._second.assign(2.0)
            self.step += 1
        return {"first": self._first, "second": self._second}


def test_weights_that_are_read_within_a_step_are_those_of_one_step(tmp_path: Path) -> None:
    state = RunState.__new__(RunState)
    state._learner = SlowLearner()  # type: ignore[assignment]
    read = state._read_between_updates()
    assert [float(value) for value in read.values()] == [2.0, 2.0]
    assert all(np.isfinite(value) for value in read.values())
