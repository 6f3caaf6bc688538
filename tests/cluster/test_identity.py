"""Runs of one name, hosts that are gone, two frontends at once: no verb touches what is not its own, none is silent."""

from __future__ import annotations

import json
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.test_faults import silent_server
from tests.support.cluster import Cluster
from tests.support.hosts import Host, Hosts
from tests.support.runs import wait_for

pytestmark = pytest.mark.timeout(600)
HOSTILE_TMUX_CONF = "set -g destroy-unattached on\nset -g remain-on-exit on\nset -g default-command false\n"


def run_of(cluster: Cluster, folder: str, account: Host, machine: Host) -> tuple[Cluster, str]:
    """A run named `run` of this account with a learner and an actor on one machine, and the flag with its CSV."""
    (cluster.folder / folder).mkdir(mode=0o755)
    run = Cluster(cluster.hosts, cluster.folder / folder, cluster.python)
    user = {"ip": machine.ip, "ssh_username": account.name}
    return run, run.csv([run.row("learner", machine, **user), run.row("actor", machine, **user)])


def test_runs_of_one_name_do_not_touch_each_other_or_the_users_tmux(cluster: Cluster, hosts: Hosts) -> None:
    machine, other = hosts[1], hosts[2]
    (machine.home / ".tmux.conf").write_text(HOSTILE_TMUX_CONF)
    machine.run("tmux", "-f", "/dev/null", "new-session", "-d", "-s", "run", "sleep 1000", user=True)
    runs = [run_of(cluster, *names, machine) for names in (("pong", machine), ("breakout", machine), ("ann", other))]
    (pong, _), (breakout, _), (ann, _) = runs
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda run: run[0].call("up", run[1]), runs))
        before = {run.folder: run.processes_on(machine) for run in (breakout, ann)}
        assert all(len(processes) >= 2 for processes in before.values())
        assert "started actor-0" in pong.call("restart", "actor-0")
        assert "1 host left clean" in pong.call("down")
        assert "run" in machine.run("tmux", "list-sessions", user=True)
        machine.run("tmux", "kill-server", user=True)
        machine.run("sh", "-c", 'rm -r "/tmp/tmux-$(id -u)"', user=True)
        assert {run.folder: run.processes_on(machine) for run in (breakout, ann)} == before
        (hint,) = [line for line in breakout.call("status").splitlines() if line.startswith("to attach: ")]
        words = shlex.split(hint.removeprefix("to attach: "))
        assert words[:4] == ["ssh", "-t", f"{machine.name}@{machine.ip}", "tmux"] and words[-1] == "attach"
        list_windows = [*words[3:-1], "list-windows", "-F", "#W"]
        windows = machine.run("sh", "-c", 'cd && "$@"', "sh", *list_windows, user=True)
        assert windows.split() == ["learners", "actor-0"]
        assert all(list(pool.map(lambda run: "1 host left clean" in run.call("down"), (breakout, ann))))
    (machine.home / ".tmux.conf").unlink()
    assert cluster.left() == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 80 calls of the frontend: 159 s at a load of 45, and once not done in 600 s
def test_twenty_runs_of_two_users_are_told_apart(cluster: Cluster, hosts: Hosts) -> None:
    machine = hosts[1]
    accounts = [(f"{user.name}-{number}", user) for user in (machine, hosts[2]) for number in range(10)]
    runs = [run_of(cluster, *account, machine) for account in accounts]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda run: run[0].call("up", run[1]), runs))
    alive = [run for run, _ in runs]
    for number, (run, _) in enumerate(runs):
        alive.remove(run)
        before = [other.processes_on(machine) for other in alive]
        run.call(*[("restart", "actor-0"), ("restart", "learners"), ("scale", "2"), ("up",)][number % 4])
        run.call("status", "--connect_seconds=20")
        assert "1 host left clean" in run.call("down")
        assert [other.processes_on(machine) for other in alive] == before, f"after the verbs of run {number}"
    assert cluster.left() == {}


def test_only_contacted_hosts_are_remembered_and_flags_are_merged(cluster: Cluster, hosts: Hosts) -> None:
    typo = cluster.row("actor", hosts[3], ip="no-such-host.invalid")
    learner = cluster.row("learner", hosts[0])
    path = cluster.csv([learner.replace(hosts[0].ip, "no-such-host.invalid"), cluster.row("actor", hosts[1])])
    assert "a learner's host is missing; nothing was started" in cluster.call("up", path, "--seed=1", code=1)
    path = cluster.csv([learner, cluster.row("actor", hosts[1]), typo])
    assert "started learners, actor-0; 2 hosts" in cluster.call("up", path, "--seed=2", code=1), "nothing is locked"
    hosts[1].cut()
    try:
        output = cluster.call("down", "--connect_seconds=1", code=1)
        assert "1 host not cleaned; run `down` again when reachable; --forget=HOST if one is gone for good" in output
        assert "no-such-host" not in output
        assert f"allowed: {hosts[1].name}@{hosts[1].ip}:22" in cluster.call("down", "--forget=10.1.1.1", code=2)
        output = cluster.call("down", f"--forget={hosts[1].ip}")
        assert f"{hosts[1].ip}:22: forgotten; if it comes back, end what is left there: tmux -S " in output
    finally:
        hosts[1].reconnect()
    by_hand = output.partition("what is left there: ")[2].splitlines()[0]
    hosts[1].run("sh", "-c", f"cd; {by_hand}", user=True)
    wait_for(lambda: cluster.left() == {}, 20, lambda: str(cluster.left()))
    path = cluster.csv([learner, cluster.row("actor", hosts[0])])
    output = cluster.call("up", path, "--unroll_length=7")
    assert "changed since the last `up`: --unroll_length=7 (was 0)\n" in output
    assert "kept from it: --seed=2; to drop one, give its default" in output
    assert "--unroll_length=7" in (text := cluster.call("logs", "actor-0")) and "--seed=2" in text
    cluster.call("down")
    assert cluster.left() == {}


def test_two_frontends_of_one_run_exclude_each_other_and_learners_restart_while_they_start(
    cluster: Cluster, hosts: Hosts
) -> None:
    slow = f"env CHEAP_START=60 {cluster.python}"
    with silent_server(hosts.gateway) as silent:
        port = silent.getsockname()[1]
        rows = [cluster.row("learner", hosts[0], python=slow), cluster.row("actor", hosts[0])]
        rows.append(cluster.row("actor", hosts[1], ip=hosts.gateway, ssh_port=port))
        command = cluster.command("up", cluster.csv(rows), "--connect_seconds=5")
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as up:
            lock = Path(cluster.logdir, "cluster/lock")
            wait_for(lambda: lock.exists() and bool(lock.read_text()), 20, lambda: "no lock")
            output = cluster.call("down", code=1)
            host = json.loads(lock.read_text())["host"]
            assert f"`up` is at work on this run: process {up.pid} on {host}; wait for it, or end it" in output
            assert len(output.splitlines()) == 1
            text, _ = up.communicate(timeout=60)
    assert "started learners, actor-0; 1 host" in text
    output = cluster.call("restart", "learners", "--connect_seconds=1", code=None)
    assert "learners had not started to train; there was nothing to save" in output
    assert "started learners, actor-0" in output
    assert {k: v for k, v in cluster.states().items() if k in ("learner-0", "actor-0")} == {
        "learner-0": "running",
        "actor-0": "running",
    }
    cluster.call("down")
    assert cluster.left() == {}
