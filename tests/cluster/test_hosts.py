"""The frontend on four hosts with stand-in workers: `up` to `down`, with restarts, scaling, tunnels and sync."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.support.cluster import Cluster
from tests.support.hosts import Hosts, command_of
from tests.support.runs import ROOT, wait_for

pytestmark = pytest.mark.timeout(600)

SERVE_SOCKET = """
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
while True:
    server.accept()[0].send(b"hello")
"""
ASK_SOCKET = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(10)
client.connect(sys.argv[1])
try:
    print(client.recv(10) or "nothing")
except OSError:
    print("nothing")
"""


def test_a_run_comes_up_once_and_goes_down_to_nothing(cluster: Cluster, hosts: Hosts) -> None:
    bystander = hosts[1].start("python3", "-c", "import time; time.sleep(1000)")
    hosts[1].run("tmux", "new-session", "-d", "-s", "mine", "sleep 1000", user=True)
    try:
        keys = [(host.home / ".ssh/authorized_keys").read_text() for host in hosts]
        started = time.monotonic()
        output = cluster.call("up", cluster.two_learners())
        assert "started learners, actor-0, actor-1, actor-2, actor-3, actor-4, actor-5; 4 hosts" in output
        assert time.monotonic() - started < 30, "seconds on an idle machine"
        cluster.until("running")
        processes = {host.name: sorted(host.pids()) for host in hosts}
        assert len(cluster.states()) == 8
        modes = {host.run("stat", "-c", "%a", f"{cluster.folder_on(host)}/token").strip() for host in hosts}
        assert modes == {"600"}
        output = cluster.call("up", "--lines=3")
        assert "already running: learners, actor-0" in output
        assert "started" not in output.partition("\n")[0]
        # The second `up` started nothing; a short-lived child of a worker may have ended since.
        assert {host.name: set(host.pids()) - set(processes[host.name]) for host in hosts} == {
            h.name: set() for h in hosts
        }
        wait_for(lambda: "reached the learner" in cluster.call("logs", "actor-3"), 20, lambda: cluster.call("logs"))
        output = cluster.call("down")
        assert "4 hosts left clean" in output, output
        assert {path.name for path in cluster.logdir.glob("saved-*")} == {"saved-0", "saved-1"}, (
            "learners ended cleanly"
        )
        left = cluster.left()
        assert list(left) == [hosts[1].name], left
        bystanders = [line for line in left[hosts[1].name] if not line.startswith("/tmp/tmux-")]
        assert sorted(line.split()[0] for line in bystanders) == ["python3", "sleep", "tmux:"] or len(bystanders) == 3
        assert "mine" in hosts[1].run("tmux", "list-sessions", user=True)
        assert bystander.poll() is None
        assert [(host.home / ".ssh/authorized_keys").read_text() for host in hosts] == keys
        assert (cluster.folder_on(hosts[2]) / "logs/actor-2.log").exists(), "logs remain"
        assert not list((cluster.logdir / "cluster").glob("*key*")) + list((cluster.logdir / "cluster").glob("token"))
        assert "nothing to end" in cluster.call("down")
        assert "off" in cluster.call("status", code=1)
    finally:
        bystander.kill()
        bystander.wait()
        hosts[1].run("tmux", "kill-server", user=True, check=False)
        hosts[1].run("sh", "-c", 'rm -rf "/tmp/tmux-$(id -u)"', user=True)


def test_crashed_workers_are_restarted_and_commands_take_effect(cluster: Cluster, hosts: Hosts) -> None:
    cluster.call("up", cluster.two_learners(), "--restart_seconds=0.2")
    cluster.until("running")

    def child(name: str, host: int) -> int:
        record = hosts[host].run("cat", f"{cluster.folder_on(hosts[host])}/workers/{name}.json")
        return int(record.partition('"child": ')[2].partition(",")[0])

    before = child("actor-2", 2)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: child("actor-2", 2) not in (0, before), 20, lambda: cluster.call("status", code=None))
    assert "restarted 1 x" in cluster.call("status", COLUMNS="200")
    mpirun = child("learners", 0)
    (learner,) = [
        pid for pid in hosts[1].pids() if "cheap.py" in command_of(pid) and "--job_name=actor" not in command_of(pid)
    ]
    os.kill(learner, signal.SIGKILL)
    wait_for(lambda: child("learners", 0) not in (0, mpirun), 30, lambda: cluster.call("logs", "learners"))
    cluster.until("running")
    actor = child("actor-4", 3)
    assert "actor-4" in cluster.call("restart", "actor-4")
    assert child("actor-4", 3) != actor
    output = cluster.call("scale", "8")
    assert "started actor-6, actor-7" in output
    cluster.until("running")
    assert len(cluster.states()) == 10
    output = cluster.call("scale", "2")
    assert "stopped actor-2, actor-3, actor-4" in output
    assert sorted(cluster.states()) == ["actor-0", "actor-1", "learner-0", "learner-1"]
    assert "started learners" in cluster.call("restart", "learners")
    assert (cluster.logdir / "saved-0").exists()
    cluster.until("running")
    cluster.call("restart", "nobody", code=2)
    cluster.call("down")
    assert cluster.left() == {}


def test_a_worker_that_keeps_crashing_is_given_up_and_reported(cluster: Cluster, hosts: Hosts) -> None:
    rows = [
        cluster.row("learner", hosts[0]),
        cluster.row("actor", hosts[1]),
        cluster.row("actor", hosts[2], python=f"env CHEAP_CRASH=1 {cluster.python}"),
    ]
    cluster.call("up", cluster.csv(rows), "--worker_restarts=2", "--restart_seconds=0.1")
    cluster.until({"actor-1": "failed", "actor-0": "running"})
    assert "ended with code 3, 3 times in a row; giving up" in cluster.call("status", code=1, COLUMNS="200")
    cluster.call("down")
    assert cluster.left() == {}


def test_arguments_that_a_shell_would_misread_arrive_unchanged(cluster: Cluster, hosts: Hosts) -> None:
    cluster.name = 'it\'s; touch pwned $(touch pwned) "x" run'
    rows = [
        cluster.row("learner", hosts[0]),
        cluster.row("learner", hosts[1]),
        cluster.row("actor", hosts[2], num_actors=2),
    ]
    cluster.call("up", cluster.csv(rows))
    cluster.until("running")
    assert f"--logdir={cluster.logdir}" in cluster.call("logs", "actor-0").replace("\\'", "'")
    cluster.call("down")
    assert (cluster.logdir / "saved-1").exists()
    for host in hosts:
        assert "pwned" not in host.run("find", str(host.home), "-name", "pwned")
    assert cluster.left() == {}


def test_a_run_opens_no_port_but_that_of_ssh(cluster: Cluster, hosts: Hosts) -> None:
    keys = [(host.home / ".ssh/authorized_keys").read_text() for host in hosts]
    cluster.call("up", cluster.two_learners())
    for index, host in enumerate((hosts[1], hosts[1], hosts[2], hosts[2], hosts[3], hosts[3])):
        path = cluster.folder_on(host) / f"logs/actor-{index}.log"
        wait_for(lambda path=path: "reached the learner" in path.read_text(), 60, lambda: cluster.call("logs"))  # type: ignore[misc]
    for host in hosts:  # except for what mpirun opens between learners' hosts
        listening = [line.split()[3] for line in host.run("ss", "-Hltn").splitlines()]
        assert not any(at.endswith((":8001", ":8002")) for at in listening), listening
        assert host in (hosts[0], hosts[1]) or set(listening) == {f"{host.ip}:22", f"{host.ip}:2222"}, listening
    assert (cluster.folder_on(hosts[2]) / "tunnel_key").stat().st_mode & 0o777 == 0o600
    ssh = ["ssh", "-F", f"{cluster.folder_on(hosts[2])}/ssh_config", "-o", "ClearAllForwardings=yes"]
    for argv in ([*ssh, "learner-0", "true"], [*ssh, "-W", f"{hosts[0].ip}:22", "learner-0"]):
        output = hosts[2].run("sh", "-c", '"$@" </dev/null; echo code $?', "sh", *argv, user=True, check=False)
        assert "code 0" not in output, "the tunnel's key runs no command and forwards no port"
    other = f"{hosts[1].home}/other.sock"
    server = hosts[1].start("python3", "-c", SERVE_SOCKET, other)
    forward = f"{hosts[2].home}/stolen.sock:{other}"
    steal = [*ssh[:3], "-N", "-L", forward, "learner-0"]
    thief = subprocess.Popen([*hosts[2].enter(user=True), *steal], stdin=subprocess.DEVNULL)
    try:
        wait_for((hosts[2].home / "stolen.sock").exists, 20, lambda: "no forwarding")
        assert hosts[2].run("python3", "-c", ASK_SOCKET, f"{hosts[2].home}/stolen.sock", user=True) == "nothing\n"
        assert hosts[1].run("python3", "-c", ASK_SOCKET, other, user=True) == "b'hello'\n", "which does answer"
    finally:
        for process in (thief, server):
            process.terminate()
            process.wait()
        (hosts[1].home / "other.sock").unlink()
        (hosts[2].home / "stolen.sock").unlink()
    (tunnel,) = [pid for pid in hosts[3].pids() if command_of(pid).endswith("-N learner-0")]
    os.kill(tunnel, signal.SIGKILL)
    log, actor_log = (cluster.folder_on(hosts[3]) / f"logs/{name}.log" for name in ("tunnel-0", "actor-4"))
    wait_for(lambda: "ended by SIGKILL; restarting it" in log.read_text(), 20, log.read_text)
    wait_for(lambda: any(command_of(pid).endswith("-N learner-0") for pid in hosts[3].pids()), 20, log.read_text)
    before = len(actor_log.read_text())
    wait_for(lambda: "reached the learner" in actor_log.read_text()[before:], 30, actor_log.read_text)
    cluster.call("down")
    assert cluster.left() == {}
    assert [(host.home / ".ssh/authorized_keys").read_text() for host in hosts] == keys


def test_forty_actors_are_up_and_down_in_seconds(cluster: Cluster, hosts: Hosts) -> None:
    rows = [cluster.row("learner", hosts[0]), *(cluster.row("actor", host, num_actors=10) for host in hosts)]
    started = time.monotonic()
    assert "started learners, 40 actors; 4 hosts" in cluster.call("up", cluster.csv(rows))
    up = time.monotonic() - started
    cluster.until("running")
    started = time.monotonic()
    cluster.call("down")
    print(f"40 actors: up in {up:.1f} s, down in {time.monotonic() - started:.1f} s")
    assert up < 60 and time.monotonic() - started < 60, "seconds on an idle machine"
    assert cluster.left() == {}


def test_sync_copies_changed_files_and_check_reports_hosts_that_differ(cluster: Cluster, hosts: Hosts) -> None:
    rows = [cluster.row("learner", hosts[0], folder="code"), cluster.row("actor", hosts[1], folder="code")]
    path = cluster.csv(rows)
    output = cluster.call("check", path, code=1)
    assert output.count("no code in code (--sync copies it") == 2
    output = cluster.call("up", path, "--sync")
    assert "copied to 2 hosts" in output and not output.startswith("0 files")
    tracked = subprocess.run(
        ["git", "ls-files", "mlma", "agents"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert [name for name in tracked.split() if not (hosts[0].home / "code" / name).exists()] == []
    cluster.call("check")
    (hosts[1].home / "code/mlma/acting/environment_loop.py").write_text("# changed\n")
    problem = f"{hosts[1].ip}: code: differs from this machine in mlma/acting/environment_loop.py (--sync"
    assert problem in cluster.call("check", code=1)
    assert "1 file copied to 2 hosts" in cluster.call("up", path, "--sync")
    cluster.call("check")
    cluster.call("down")


def test_hosts_that_share_a_home_do_not_interfere(cluster: Cluster, hosts: Hosts) -> None:
    """One host under two ports is two hosts with one home, as with a network file system."""
    keys = (hosts[2].home / ".ssh/authorized_keys").read_text()
    learner = [cluster.row("learner", hosts[2]), cluster.row("learner", hosts[3], tf_port=8009)]
    actors = [cluster.row("actor", hosts[2], ssh_port=port, num_actors=2) for port in (22, 2222)]
    output = cluster.call("up", cluster.csv([*learner, *actors]))
    assert "actor-0, actor-1, actor-2, actor-3" in output
    cluster.until("running")
    assert "already running: learners, actor-0, actor-1, actor-2, actor-3" in cluster.call("up")
    assert "stopped actor-3" in cluster.call("scale", "3")
    cluster.until("running")
    assert len(cluster.states()) == 5
    cluster.call("down")
    assert cluster.left() == {}
    assert (hosts[2].home / ".ssh/authorized_keys").read_text() == keys
