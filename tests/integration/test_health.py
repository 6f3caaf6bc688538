"""The health check reports the state of real workers: not started, starting, training, starved, hung, dead."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlma.monitoring.health_check import check_workers
from mlma.monitoring.heartbeat import START_GRACE_SECONDS, Heartbeat
from tests.support.runs import ROOT, SMALL, Process, wait_for, wait_for_progress

SUPERVISOR = ROOT / "mlma/cluster/on_host/supervisor.py"
CHECK = [sys.executable, "-m", "mlma.monitoring.health_check"]
SECONDS = 4.0  # more than a busy machine takes for a step


def run_check(folder: Path, *flags: str) -> tuple[int, str]:
    """Exit code and output of the command."""
    command = [*CHECK, f"--heartbeat_folder={folder}", f"--seconds={SECONDS}", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def expect_state(folder: Path, state: str, text: str = "", seconds: float = 30, live: int = 0) -> None:
    """Waits until the only worker in this folder is in this state, with this text in the reason. The command then exits
    with 0 if it progresses; with --live, it exits with `live`."""
    lines: list[str] = []

    def reached() -> bool:
        lines[:] = [f"{health.state}: {health.reason}" for health in check_workers(folder, "", SECONDS)]
        return len(lines) == 1 and lines[0].startswith(f"{state}: ") and text in lines[0]

    wait_for(reached, seconds, lambda: f"expected {state}, is {lines}")
    code, output = run_check(folder)
    assert f": {state}: " in output
    assert code == (state != "progresses")
    assert run_check(folder, "--live")[0] == live


def test_each_state_of_a_learner_and_an_actor_is_reported(tmp_path: Path) -> None:
    logdir, host = tmp_path / "run", f"--learner_host=unix:{tmp_path}/socket"
    learners, actors = tmp_path / "learner", tmp_path / "actor"
    acting = [*SMALL, host, "--job_name=actor", "--task=0", f"--heartbeat_folder={actors}"]
    learning = [*SMALL, host, "--task=0", f"--logdir={logdir}", f"--heartbeat_folder={learners}", "--actor_hosts=a"]
    expect_state(learners, "not started", "nothing in", live=1)
    with Process(tmp_path, "learner", *learning) as learner:
        expect_state(learners, "starting")
        expect_state(learners, "starting", "waits for a sample", 60)
        with Process(tmp_path, "actor", *acting) as actor:
            expect_state(learners, "progresses", " frames, the last ", 120)
            expect_state(actors, "progresses", " frames, the last ")
            actor.signal(signal.SIGSTOP)
            expect_state(actors, "hung", seconds=90, live=1)
            expect_state(learners, "starved", "waits for a sample")
            actor.signal(signal.SIGCONT)
            expect_state(actors, "progresses")
            expect_state(learners, "progresses")
            learner.signal(signal.SIGSTOP)
            expect_state(learners, "hung", live=1)
            expect_state(actors, "starved", "waits for the learner")
            learner.signal(signal.SIGCONT)
            expect_state(learners, "progresses")
            learner.signal(signal.SIGKILL)
            learner.wait()
            expect_state(learners, "dead", live=1)
            expect_state(actors, "starved", "waits for its learner")
    expect_state(actors, "dead", live=1)


def test_no_heartbeat_is_left_when_training_is_over(tmp_path: Path) -> None:
    flags = [*SMALL, f"--logdir={tmp_path}/run", "--num_actors=1", f"--heartbeat_folder={tmp_path}/health"]
    with Process(tmp_path, "run", *flags) as run:
        wait_for_progress(run, tmp_path / "run")
        assert [path.name for path in (tmp_path / "health").iterdir()] == ["learner-0.json"], (
            "local actors have no heartbeat"
        )
        run.signal(signal.SIGTERM)
        assert run.wait() == 0
    expect_state(tmp_path / "health", "not started", live=1)


@pytest.fixture
def heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Heartbeat, list[float]]:
    """A worker that is this process, and its clock, which only the test moves."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return Heartbeat(str(tmp_path), "learner-3"), clock


def test_silence_is_allowed_for_as_long_as_the_worker_announced(
    tmp_path: Path, heartbeat: tuple[Heartbeat, list[float]]
) -> None:
    worker, clock = heartbeat

    def state(after: float = 0.0) -> str:
        clock[0] += after
        (health,) = check_workers(tmp_path, "", 60.0)
        return health.state

    assert state() == "starting"
    assert state(START_GRACE_SECONDS) == "starting", "TensorFlow compiles at the first step"
    assert state(61) == "hung"
    worker.busy()
    assert state(START_GRACE_SECONDS) == "starting"
    worker.waiting_for("a sample")
    assert state(61) == "hung", "a worker that waits still sends heartbeats"
    worker.waiting_for("its learner", 100.0)
    assert state(159) == "starting"
    assert state(2) == "hung"
    worker.progress(7)
    assert state() == "progresses"
    worker.busy()
    assert state(59) == "progresses"
    assert state(2) == "hung"
    worker.waiting_for("a sample")
    assert state() == "starved"


def test_a_process_that_reuses_the_id_of_a_dead_one_is_not_taken_for_it(
    tmp_path: Path, heartbeat: tuple[Heartbeat, list[float]]
) -> None:
    path = tmp_path / "learner-3.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"birth": "1"}))
    assert check_workers(tmp_path, "learner-3", 60.0)[0].state == "dead"
    path.write_text("{")
    assert check_workers(tmp_path, "", 60.0)[0].state == "not started"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--seconds=0", "--seconds=0.0: must be more than 0"),
        ("--second=1", "--second: no such flag; did you mean --seconds"),
        ("--heartbeat_folder=", "--heartbeat_folder: must be given, the same folder as for the workers"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(flag: str, message: str) -> None:
    done = subprocess.run(
        [*CHECK, "--heartbeat_folder=/tmp", flag], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message), done.stderr


WORKER = """
import sys, time
from mlma.monitoring.heartbeat import Heartbeat
heartbeat = Heartbeat(sys.argv[1], "actor-0")
while True:
    heartbeat.progress(1)
    time.sleep(0.05)
"""


def test_a_worker_that_hangs_is_restarted_by_its_supervisor(tmp_path: Path) -> None:
    spec = {
        "name": "actor-0", "words": [sys.executable, "-c", WORKER, str(tmp_path / "health")],
        "env": {"PYTHONPATH": str(ROOT)},
        "signal": signal.SIGTERM, "grace": 5.0, "restarts": 3, "pause": [0.2, 1.0, 60.0], "serves": [], "group": True,
        "log": str(tmp_path / "log"), "health": str(tmp_path / "health"), "worker_hang_seconds": 3.0, "image": "",
    }  # fmt: skip
    path = tmp_path / "actor-0.spec"
    path.write_text(json.dumps(spec))
    record = path.with_suffix(".json")

    def child() -> int:
        with contextlib.suppress(OSError, ValueError):
            return int(json.loads(record.read_text())["child"])
        return 0

    with subprocess.Popen([sys.executable, str(SUPERVISOR), str(path)], stdout=subprocess.DEVNULL) as supervisor:
        try:
            wait_for(lambda: any((tmp_path / "health").glob("*")), 20, lambda: (tmp_path / "log").read_text())
            first = child()
            time.sleep(4)
            assert child() == first, "a worker that makes progress is not restarted"
            os.kill(first, signal.SIGSTOP)
            wait_for(lambda: child() not in (0, first), 20, lambda: (tmp_path / "log").read_text())
            assert "actor-0 hangs, was last heard of" in (tmp_path / "log").read_text()
            assert json.loads(record.read_text())["restarts"] == 1
        finally:
            supervisor.terminate()
            assert supervisor.wait(20) == 0
