"""The launcher of several learners: a signal is never lost, whenever it comes. mpirun is a shell here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.runs import ROOT

PROGRAM = """
import os, sys
from mlma.core.config import Config
from mlma.distributed import mpi_launcher

mpi_launcher.mpirun_command = lambda config: ["sh", "-c", sys.argv[1]]
if sys.argv[2]:
    starting = mpi_launcher.mpi_environment
    mpi_launcher.mpi_environment = lambda: os.kill(os.getpid(), int(sys.argv[2])) or starting()
sys.exit(mpi_launcher.supervise_learners(Config.from_flags(num_learners=2, max_restarts=5)))
"""


def launch(script: str, signal_before_start: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, script, signal_before_start]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_attempts_ends_the_run(tmp_path: Path, number: signal.Signals) -> None:
    with launch(f"echo >> {tmp_path}/attempts; sleep 0.2; exit 7") as launcher:
        assert launcher.stdout
        assert "the learners ended with code 7; restarts left: 5" in launcher.stdout.readline()
        launcher.send_signal(number)
        assert launcher.wait(20) == 7
        assert not launcher.stdout.read()
    assert len((tmp_path / "attempts").read_text()) == 1


def test_a_signal_while_the_learners_are_started_reaches_them(tmp_path: Path) -> None:
    began = time.monotonic()
    with launch("sleep 60", str(int(signal.SIGTERM))) as launcher:
        assert launcher.wait(30) == 128 + signal.SIGUSR1
    assert time.monotonic() - began < 30
