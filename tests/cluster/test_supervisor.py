"""The supervisor counts lives and pauses by a clock that nobody sets, and gives a stopped worker no extra time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlma.cluster.on_host.supervisor import Supervisor
from mlma.cluster.on_host.worker_end import MAX_CHARACTERS, error_line, worked_seconds
from mlma.distributed.learner_watch import START_SECONDS, STUCK_SECONDS, LearnerWatch
from mlma.monitoring.heartbeat import RECORD_BYTES
from mlma.utils.child_process import is_stopped, process_start_time
from tests.support.runs import ROOT, wait_for

# Runs the supervisor while somebody sets the clock: a day ahead, then back again, at each look at it.
JUMPING_CLOCK = """
import itertools, os, runpy, sys, time
true, ahead = time.time, itertools.cycle([0, 86400, -86400])
time.time = lambda: true() + next(ahead)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def write_spec(folder: Path, **changes: Any) -> Path:
    spec = {
        "name": "actor-0", "argv": ["sh", "-c", "exit 5"], "env": {}, "stop_signal": 15, "stop_timeout": 5.0,
        "max_restarts": 3, "backoff": [0.05, 0.2, 60.0], "required_by": [], "heartbeat_folder": "",
        "worker_hang_seconds": 5.0, "signal_group": True, "image": "", "log": str(folder / "log"),
    }  # fmt: skip
    path = folder / "actor-0.spec"
    path.write_text(json.dumps(spec | changes))
    return path


@pytest.mark.parametrize(("code", "restarts", "text"), [(5, 3, "4 times in a row; giving up"), (2, 0, "wrong flags")])
def test_a_clock_that_is_set_changes_no_restart(tmp_path: Path, code: int, restarts: int, text: str) -> None:
    spec = write_spec(tmp_path, argv=["sh", "-c", f"exit {code}"])
    supervisor = str(ROOT / "mlma/cluster/on_host/supervisor.py")
    command = [sys.executable, "-c", JUMPING_CLOCK, supervisor, str(spec)]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    record = json.loads((tmp_path / "actor-0.json").read_text())
    assert (record["state"], record["restarts"]) == ("failed", restarts)
    assert text in record["reason"]


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The process id of a worker."""
    child = subprocess.Popen(["sleep", "1000"])
    yield child.pid
    child.kill()
    child.wait()


def write_heartbeat(folder: Path, worker: str, pid: int, silent: float, may_be_silent: float) -> None:
    record = {"pid": pid, "birth": process_start_time(pid), "beat": time.monotonic() - silent, "progressed": 1.0}
    text = json.dumps(record | {"may_be_silent": may_be_silent, "waits_for": "the other learners"})
    (folder / f"{worker}.json").write_text(text.ljust(RECORD_BYTES))


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(pid), 10, lambda: "does not stop")


def test_the_supervisor_gives_a_stopped_worker_no_time_to_wait_for_others(tmp_path: Path, sleeper: int) -> None:
    supervisor = Supervisor(write_spec(tmp_path, heartbeat_folder=str(tmp_path / "health")))
    (tmp_path / "health").mkdir()
    write_heartbeat(tmp_path / "health", "learner-0", sleeper, silent=20, may_be_silent=180)
    assert supervisor.find_hung() == ""
    stop(sleeper)
    assert supervisor.find_hung().startswith("learner-0 hangs, was last heard of 2")
    assert "is stopped" in supervisor.find_hung()


def test_the_launcher_names_learners_that_are_all_stopped(tmp_path: Path, sleeper: int) -> None:
    watch = LearnerWatch(tmp_path, 2, hang_seconds=6.0)
    assert watch.find_hung() == "", "they are starting"
    for rank in (0, 1):
        write_heartbeat(tmp_path, f"learner-{rank}", sleeper, silent=20, may_be_silent=18)
    assert watch.find_hung() == "", "the learners themselves name the one that hangs"
    stop(sleeper)
    assert f"all learners are stopped, for 20 s: learner-0 (process {sleeper})" in watch.find_hung()
    write_heartbeat(tmp_path, "learner-1", sleeper, silent=3, may_be_silent=18)
    assert watch.find_hung() == "", "one was heard of a moment ago"


def test_the_launcher_names_learners_of_which_none_moves(tmp_path: Path, sleeper: int) -> None:
    watch = LearnerWatch(tmp_path, 1, hang_seconds=6.0)
    write_heartbeat(tmp_path, "learner-0", sleeper, silent=STUCK_SECONDS + 20, may_be_silent=18)
    assert watch.find_hung().startswith("no learner has moved for 140 s: learner-0")
    write_heartbeat(tmp_path, "learner-0", sleeper, silent=STUCK_SECONDS + 20, may_be_silent=600)
    assert watch.find_hung() == "", "it has announced the silence"
    (tmp_path / "learner-0.json").unlink()
    assert watch.find_hung() == "", "a learner that has ended is not missing"


def test_the_launcher_names_learners_that_never_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, now = LearnerWatch(tmp_path, 2, hang_seconds=6.0), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + START_SECONDS + 1)
    assert watch.find_hung().startswith("no sign of life of learner 0, 1, started 601 s ago")


def run_supervisor(folder: Path, script: str, **changes: Any) -> dict[str, Any]:
    """The record of a worker that this script of sh is, as a host runs the supervisor."""
    spec = write_spec(folder, argv=["sh", "-c", script], **changes)
    supervisor = str(ROOT / "mlma/cluster/on_host/supervisor.py")
    subprocess.run([sys.executable, supervisor, str(spec)], capture_output=True, timeout=60, check=True)
    return dict(json.loads((folder / "actor-0.json").read_text()))


def test_learners_are_done_only_if_they_say_so(tmp_path: Path) -> None:
    health = tmp_path / "health"
    learners = {"heartbeat_folder": str(health), "end_mark": f"{health}/learner-0.over", "max_restarts": 1}
    lost_a_host = f"echo {'-' * 74}; echo ' Remote daemon: [prterun-a-1@0,1] on node beta'; echo {'-' * 74}"
    record = run_supervisor(tmp_path, lost_a_host, **learners)
    assert (record["state"], record["restarts"]) == ("failed", 1)
    assert record["reason"].startswith("ended with code 0, but training is not over, 2 times in a row; giving up")
    assert record["reason"].endswith(": mpirun lost the host beta")
    record = run_supervisor(tmp_path, f"mkdir -p {health}; touch {health}/learner-0.over", **learners)
    assert (record["state"], record["restarts"]) == ("done", 0)
    assert run_supervisor(tmp_path, "exit 0", **learners)["state"] == "failed", "the mark of an earlier life is removed"
    assert run_supervisor(tmp_path, "exit 0")["state"] == "done", "an actor ends when its learner says so"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("kill -SEGV $$", "ended by SIGSEGV"),
        ("exit 137", "ended with code 137 (SIGKILL)"),
        ("echo 'disk error'; echo; echo; echo ------------------------------; exit 3", "ended with code 3: disk error"),
        (
            "echo Traceback; echo '  File x'; echo 'ValueError: bad shape'; echo 'HorovodInternalError: aborted'; "
            "echo '12:00:00 saved 3 files'; echo '====='; exit 1",
            "ended with code 1: ValueError: bad shape",
        ),
        ("test -e lived && kill -TERM $$; touch lived; echo 'error of an earlier life'; exit 4", "ended by SIGTERM"),
    ],
)
def test_the_reason_names_the_signal_and_the_error_of_this_life(tmp_path: Path, script: str, reason: str) -> None:
    record = run_supervisor(tmp_path, f"cd {tmp_path}; {script}", max_restarts=1)
    ended, _, error = reason.partition(": ")
    assert record["reason"] == f"{ended}, 2 times in a row; giving up{f': {error}' if error else ''}"


LOST = (
    "mlma.envs.failures.SimulatorLostError: rooms_watermaze: worker ended with code 1; 3 workers in a row failed; "
    "its last line: Couldn't load maps (after 60 steps in 0.0 s)"
)


@pytest.mark.parametrize(("code", "restarts"), [(4, 2), (2, 0)])
def test_an_actor_is_given_up_whose_simulator_hardly_works_although_its_start_takes_long(
    tmp_path: Path, code: int, restarts: int
) -> None:
    script = f'sleep 0.3; echo "{LOST}"; exit {code}'
    record = run_supervisor(tmp_path, script, max_restarts=2, backoff=[0.05, 0.1, 0.2])
    assert (record["state"], record["restarts"]) == ("failed", restarts)
    assert record["reason"].endswith(f": {LOST.partition('Error: ')[2]}")


def test_only_a_failure_of_environments_makes_a_life_shorter() -> None:
    late = LOST.replace("in 0.0 s", "in 75.5 s")
    assert worked_seconds(f"{LOST}\n{late}\n", 4, 200.0) == 75.5
    assert worked_seconds(f"{late}\n", 4, 20.0) == 20.0
    assert worked_seconds(f"{LOST}\n", 1, 200.0) == 200.0, "of a worker of the actor, which has replaced it"
    assert worked_seconds("Killed\n", 4, 200.0) == 200.0


def test_the_end_of_a_long_line_is_shown_where_a_simulators_last_words_are() -> None:
    line = error_line(LOST.replace("its last line:", f"its last lines: {'x' * 400} |"))
    assert len(line) <= MAX_CHARACTERS
    assert line.startswith("rooms_watermaze: worker ended with code 1")
    assert line.endswith("Couldn't load maps (after 60 steps in 0.0 s)")


def test_of_mpiruns_advice_the_line_that_names_the_error_is_shown() -> None:
    rule = "-" * 74
    unable = "A call to mkdir was unable to create the desired directory:"
    text = f"{rule}\n{unable}\n\n   Directory: /tmp/ompi.1\n\nPlease check to\nperform the desired operation.\n{rule}\n"
    assert error_line(text) == unable
    assert error_line(f"{text}no error was raised\n") == "no error was raised"


def test_learners_that_do_not_find_each_other_are_named_and_given_up(tmp_path: Path) -> None:
    health = tmp_path / "health"
    learners = {"heartbeat_folder": str(health), "learner_addresses": ["10.0.0.1", "10.0.0.2"], "start_seconds": 1}
    wait = "echo 'learner 0: waits for the other learners to start, for 10 s of 600'; exec sleep 60"
    began = time.monotonic()
    record = run_supervisor(tmp_path, wait, **learners, max_restarts=1)
    assert time.monotonic() - began < 30
    assert record["state"] == "failed"
    assert "not started after" in record["reason"] and record["reason"].endswith("learner 1 on 10.0.0.2")
    health.mkdir(exist_ok=True)
    script = f"mkdir -p {health}; echo '{{\"connected\": true}}' >{health}/learner-0.json; sleep 4; exit 7"
    record = run_supervisor(tmp_path, script, **learners, max_restarts=0)
    assert record["reason"].startswith("ended with code 7")
