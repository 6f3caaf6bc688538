"""A run ends within seconds of a signal, also within a long learner step, and leaves nothing but its checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlma.learning.checkpoint import Checkpoints
from tests.support.runs import ROOT, Process, descendants, gone, rows, wait_for

STAND_IN = Path(__file__).parents[1] / "support" / "stand_in"


@pytest.mark.slow
def test_ctrl_c_within_a_long_step_saves_and_leaves_nothing(tmp_path: Path) -> None:
    temporary, logdir = tmp_path / "temporary", tmp_path / "run"
    temporary.mkdir()
    env = {"PYTHONPATH": str(STAND_IN), "TMPDIR": str(temporary)}
    flags = ["--level_name=rooms_watermaze,explore_goal_locations_small", f"--level_cache={tmp_path}/cache",
             "--batch_size=16", "--unroll_length=100", "--envs_per_actor=4", "--num_actors=1",
             "--report_every_seconds=1", f"--logdir={logdir}"]  # fmt: skip

    def simulators() -> list[Path]:
        return list(temporary.iterdir())

    with Process(tmp_path, "train", *flags, env=env) as run:
        wait_for(lambda: rows(logdir) and rows(logdir)[-1]["learner_step"] >= 1, 280, run.text, run)
        time.sleep(3)  # the next one has begun
        pids = [run.process.pid, *descendants(run.process.pid)]
        assert simulators(), run.text() + (logdir / "actor-0.log").read_text()
        run.signal(signal.SIGINT)
        run.expect("SIGINT: stopping after this step", 5)
        assert run.wait(40) == 0, run.text()
    wait_for(lambda: gone(pids) and not simulators(), 10, lambda: f"{pids} {simulators()}")
    loaded = Checkpoints(logdir / "checkpoints", 3).load_last()
    assert loaded is not None
    assert loaded.meta["step"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 0), (signal.SIGINT, 0)])
def test_thirty_simulators_leave_nothing_however_the_run_ends(tmp_path: Path, number: int, code: int) -> None:
    temporary, pictures, logdir = tmp_path / "temporary", tmp_path / "pictures", tmp_path / "run"
    temporary.mkdir()
    pictures.mkdir()
    memory = set(os.listdir("/dev/shm"))
    env = {"PYTHONPATH": str(STAND_IN), "TMPDIR": str(temporary)}
    flags = ["--level_name=dmlab30", f"--dataset_path={pictures}", f"--level_cache={tmp_path}/cache", "--width=32",
             "--height=24", "--agent_name=ShallowLSTMAgent", "--batch_size=15", "--unroll_length=10",
             "--envs_per_actor=15", "--num_actors=2", "--report_every_seconds=1", f"--logdir={logdir}"]  # fmt: skip

    def simulators() -> list[Path]:
        return list(temporary.glob("mlma-run-*/mlma-run-*/*/dmlab_temp_folder_*"))

    with Process(tmp_path, "train", *flags, env=env) as run:
        wait_for(lambda: rows(logdir) and rows(logdir)[-1]["learner_step"] >= 2, 280, run.text, run)
        assert len(simulators()) == 30
        pids = [run.process.pid, *descendants(run.process.pid)]
        assert len(pids) > 32
        if number == signal.SIGINT:
            os.killpg(run.process.pid, number)  # as a terminal does for Ctrl-C
        else:
            run.signal(number)
        assert run.wait(60) == code, run.text()
    wait_for(lambda: gone(pids), 10, lambda: str(pids))

    def left() -> list[Path]:
        return list(temporary.iterdir())

    wait_for(lambda: not left(), 10, lambda: f"{left()} {run.text()}")
    assert set(os.listdir("/dev/shm")) <= memory


SLOW_START = """
import os, signal, sys, time
import experiment
from mlma.roles import training_session

start_server = training_session.start_server

def start_slowly(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(4)
    return start_server(*arguments)

training_session.start_server = start_slowly
sys.argv[0] = "experiment.py"
sys.exit(experiment.main())
"""


def test_ctrl_c_while_a_run_starts_lets_it_end_in_order(tmp_path: Path) -> None:
    flags = ["--level_name=catch", "--num_actors=1", f"--logdir={tmp_path}/run"]
    command = [sys.executable, "-c", SLOW_START]
    with Process(tmp_path, "train", *flags, command=command) as run:
        assert run.wait(100) == 0, run.text()
    assert "SIGINT: stopping after this step" in run.text()
    assert "Error" not in run.text() and "leaving it" not in run.text()
    loaded = Checkpoints(tmp_path / "run" / "checkpoints", 3).load_last()
    assert loaded is not None and loaded.meta["step"] == 0


AT_ONCE = """
import runpy, sys
from mlma.roles import stop_signal
stop_signal.LEAVE_SECONDS = 0.0  # as if each step took long
sys.argv = ["experiment.py", *sys.argv[1:]]
runpy.run_path("experiment.py", run_name="__main__")
"""


@pytest.mark.slow
def test_a_run_that_is_left_within_a_step_saves_and_can_be_resumed(tmp_path: Path) -> None:
    logdir = tmp_path / "run"
    flags = ["--level_name=catch", "--num_actors=1", "--report_every_seconds=1", f"--logdir={logdir}"]
    command = [sys.executable, "-c", AT_ONCE, *flags]
    with (tmp_path / "output").open("w+") as output:
        with subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as run:
            wait_for(lambda: rows(logdir) and rows(logdir)[-1]["learner_step"] >= 1, 150, lambda: "no step")
            pids = [run.pid, *descendants(run.pid)]
            run.send_signal(signal.SIGINT)
            assert run.wait(30) == 0
        output.seek(0)
        text = output.read()
    assert "a learner step takes long: leaving it, with the weights before it" in text
    wait_for(lambda: gone(pids), 10, lambda: str(pids))
    loaded = Checkpoints(logdir / "checkpoints", 3).load_last()
    assert loaded is not None
    # The step that is left may still end, and be reported, while the weights before it are saved.
    assert loaded.meta["step"] >= rows(logdir)[-1]["learner_step"] - 1
