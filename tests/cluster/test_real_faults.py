"""Faults of hosts and learners in real training on simulated hosts: the run goes on from its last checkpoint, and
nothing says that it is done."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.hosts import Host, Hosts
from tests.support.runs import frames, rows, wait_for

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
FLAGS = [
    "--level_name=catch", "--envs_per_actor=8", "--batch_size=8", "--unroll_length=10", "--report_every_seconds=0.5",
    "--checkpoint_every_seconds=1", "--total_environment_frames=1e9", "--restart_seconds=0.5",
]  # fmt: skip
RESUMED = re.compile(r"resumed \S+/(\S+) at ([\d,]+) frames")
FAULTY = """'A learner with an error, which it raises once a file has its number.'

from pathlib import Path

from agents.impala import Impala


class Faulty(Impala):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.rank = str(config.run.task)

    def on_learner_step(self, step):
        path = Path(__file__).with_name("raise")
        if path.exists() and path.read_text() == self.rank:
            raise RuntimeError("a mistake of the user's")
"""


@pytest.fixture
def real(cluster: Cluster) -> Cluster:
    """A run with real workers."""
    return Cluster(cluster.hosts, cluster.folder, sys.executable)


@contextlib.contextmanager
def watched(cluster: Cluster) -> Iterator[list[dict[str, Any]]]:
    """What `status --watch --json` prints meanwhile."""
    environment = {name: value for name, value in os.environ.items() if name not in ("SSH_AUTH_SOCK", "TMUX")}
    path, seen = cluster.folder / "watch.txt", list[dict[str, Any]]()
    command = cluster.command("status", "--watch", "--json", "--every_seconds=0.5", "--connect_seconds=3")
    with path.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
    try:
        yield seen
        assert process.poll() is None, path.read_text()
    finally:
        process.kill()
        process.wait()
        lines = path.read_text().splitlines()
        seen += [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def states(seen: list[dict[str, Any]], kind: str) -> list[str]:
    """The states that workers of a kind were seen in, without repetitions."""
    found = [worker["state"] for status in seen for worker in status["workers"] if worker["worker"].startswith(kind)]
    return list(dict.fromkeys(found))


def checkpoints(cluster: Cluster) -> list[str]:
    """The names of the files, oldest first."""
    return sorted(path.name for path in (cluster.logdir / "checkpoints").glob("checkpoint-*.npz"))


def start(real: Cluster, csv: str, *flags: str) -> Callable[[], str]:
    """Starts the run and waits until it has made progress and a checkpoint. Returns what reads the learners' log."""
    real.call("up", csv, *FLAGS, *flags)
    log = real.folder_on(real.hosts[0]) / "logs/learners.log"
    wait_for(lambda: frames(real.logdir) > 5000 and len(checkpoints(real)) > 1, 240, log.read_text)
    return log.read_text


def go_on(real: Cluster, log: Callable[[], str], checkpoint: str) -> None:
    """Waits until the run goes on from this checkpoint."""
    wait_for(lambda: RESUMED.search(log()), 240, log)
    ((name, resumed),) = [(name, float(number.replace(",", ""))) for name, number in RESUMED.findall(log())]
    assert name == checkpoint
    assert resumed > 0
    wait_for(lambda: frames(real.logdir) > resumed + 5000, 240, log)
    reported = [row["frames"] for row in rows(real.logdir)]
    assert reported == sorted(reported)
    print(f"went on at {resumed:.0f} frames, from {name}")


def start_again(host: Host) -> None:
    """As a host that is switched on."""
    host.start_sshd()
    host.wait_for_sshd()


def test_the_run_is_back_when_the_first_learners_host_is(real: Cluster, hosts: Hosts) -> None:
    log = start(real, real.csv([real.row("learner", hosts[0]), real.row("actor", hosts[1])]))
    with watched(real) as seen:
        hosts[0].kill_all()
        checkpoint = checkpoints(real)[-1]
        wait_for(lambda: real.states()["learner-0"] == "unreachable", 60, log)
        assert "done" not in real.states().values()
        start_again(hosts[0])
        wait_for(lambda: real.states()["learner-0"] == "gone", 60, log)
        assert "done" not in real.states().values()
        assert "started learners; already running: actor-0; " in real.call("up")
        go_on(real, log, checkpoint)
        real.until("running")
    assert set(states(seen, "learner")) <= {"running", "unreachable", "gone", "starting", "pending"}
    assert set(states(seen, "actor")) <= {"running", "pending"}, "actors wait for their learner"
    real.call("down")
    assert real.left() == {}


@pytest.mark.parametrize("fault", ["killed", "cut"])
def test_the_run_is_back_by_itself_when_the_host_of_another_learner_is(real: Cluster, hosts: Hosts, fault: str) -> None:
    workers = [real.row("learner", hosts[0]), real.row("learner", hosts[1]), real.row("actor", hosts[2], num_actors=2)]
    log = start(real, real.csv(workers))
    with watched(real) as seen:
        hosts[1].cut() if fault == "cut" else hosts[1].kill_all()
        wait_for(lambda: real.states()["learner-0"] == "waiting", 90, log)
        checkpoint = checkpoints(real)[-1]
        assert "done" not in real.states().values()
        hosts[1].reconnect() if fault == "cut" else start_again(hosts[1])
        go_on(real, log, checkpoint)
        real.until("running", 120)
    assert "done" not in states(seen, "")
    assert set(states(seen, "actor")) <= {"running", "pending"}
    real.call("down")
    assert real.left() == {}


def test_a_run_whose_learners_host_stays_away_has_failed(real: Cluster, hosts: Hosts) -> None:
    workers = [real.row("learner", hosts[0]), real.row("learner", hosts[1]), real.row("actor", hosts[2], num_actors=2)]
    log = start(real, real.csv(workers), "--worker_restarts=1")
    with watched(real) as seen:
        hosts[1].kill_all()
        wait_for(lambda: real.states()["learner-0"] == "failed", 120, log)
        assert "2 times in a row; giving up" in real.call("status", code=1, COLUMNS="300")
    assert "done" not in states(seen, "")
    start_again(hosts[1])
    checkpoint = checkpoints(real)[-1]
    real.call("up")
    go_on(real, log, checkpoint)
    real.call("down")
    assert real.left() == {}


def test_an_error_in_a_learner_leaves_its_actors_at_work(real: Cluster, hosts: Hosts) -> None:
    (real.folder / "faulty.py").write_text(FAULTY)
    workers = [real.row("learner", hosts[0]), real.row("learner", hosts[1]), real.row("actor", hosts[2], num_actors=2)]
    log = start(real, real.csv(workers), f"--algorithm={real.folder}/faulty.py:Faulty")
    actors = {name: real.folder_on(hosts[2]) / f"logs/{name}.log" for name in ("actor-0", "actor-1")}
    with watched(real) as seen:
        (real.folder / "raise").write_text("1")
        wait_for(lambda: "restart 1 of" in log(), 60, log)
        (real.folder / "raise").unlink()
        checkpoint = checkpoints(real)[-1]
        go_on(real, log, checkpoint)
        for path in actors.values():
            text = path.read_text()
            assert "training is over" not in text
            wait_for(lambda: path.read_text().count("connected to") == 2, 60, path.read_text)  # noqa: B023
        real.until("running")
    assert "done" not in states(seen, "")
    assert set(states(seen, "actor")) == {"running"}
    assert "RuntimeError: a mistake of the user's" in log()
    real.call("down")
    assert real.left() == {}
