"""A stranger on another host attacks the learner of a real run: not a byte gets to TensorFlow, on either channel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.hosts import Host, Hosts, command_of
from tests.support.runs import ROOT, rows, wait_for

pytestmark = pytest.mark.timeout(600)
FLAGS = ["--level_name=catch", "--total_environment_frames=1e9", "--report_every_seconds=1"]


def learner_pid(host: Host) -> int:
    """The process of the learner on this host."""
    commands = {pid: command_of(pid) for pid in host.pids()}
    (pid,) = [p for p, line in commands.items() if "experiment.py" in line and "supervisor" not in line]
    return pid


def megabytes(pid: int) -> float:
    """The memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def frames(run: Cluster) -> float:
    """Frames of the last report."""
    return rows(run.logdir)[-1]["frames"] if (run.logdir / "metrics.csv").exists() else 0


@pytest.mark.parametrize("channel", ["ssh", "tls"])
def test_no_attack_from_another_host_reaches_the_learner(cluster: Cluster, hosts: Hosts, channel: str) -> None:
    run = Cluster(cluster.hosts, cluster.folder, sys.executable)
    learner, actor, attacker = hosts[0], hosts[1], hosts[2]
    rows_of_csv = [run.row("learner", learner), run.row("actor", actor)]
    run.call("up", run.csv(rows_of_csv), *FLAGS, f"--channel={channel}")
    wait_for(lambda: frames(run) > 0, 240, lambda: run.call("logs", code=None))
    pid = learner_pid(learner)
    before = megabytes(pid)
    listening = {line.split()[3] for line in learner.run("ss", "-Hltn").splitlines()}
    ports = {at for at in listening if not at.startswith("127.0.0.1:")}
    gateway = {f"{learner.ip}:8001"} if channel == "tls" else set()
    assert ports == {f"{learner.ip}:22", f"{learner.ip}:2222"} | gateway
    for port in ports:
        attack = [sys.executable, "-m", "tests.support.attacks", port, "port"]
        output = attacker.run("env", f"PYTHONPATH={ROOT}", *attack)
        assert "UNAVAILABLE" in output, output
    after = frames(run)
    wait_for(lambda: frames(run) > after, 60, lambda: run.call("logs", code=None))
    assert learner_pid(learner) == pid, "the learner was not restarted"
    assert megabytes(pid) - before < 200
    assert "lost the learner" not in run.call("logs", "actor-0", "--lines=1000")
    if channel == "tls":  # the gateway reports every ten seconds
        name = "faults/connections_refused"
        wait_for(lambda: rows(run.logdir)[-1].get(name, 0) >= 10, 60, lambda: run.call("logs", code=None))
    events = (run.logdir / "events.log").read_text()
    assert 1 <= events.count("refused ") <= 6 if channel == "tls" else "refused" not in events, events
    run.call("down")
    assert run.left() == {}
