"""Faults of hosts are reported in one line while the rest of the run continues, and secrets stay secret."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.hosts import Hosts

pytestmark = pytest.mark.timeout(600)


def test_a_host_that_is_cut_off_killed_or_without_tmux_is_reported_and_recovers(cluster: Cluster, hosts: Hosts) -> None:
    cluster.call("up", cluster.two_learners())
    cluster.until("running")
    hosts[2].cut()
    started = time.monotonic()
    output = cluster.call("status", "--connect_seconds=6", code=1, COLUMNS="140")
    assert time.monotonic() - started < 20
    assert (
        f"actor-2, actor-3 on {hosts[2].ip}: no answer within 6 s: host down, unreachable, or behind a firewall"
        in output
    )
    assert output.count(" running ") == 6
    assert "no answer within 6 s" in cluster.call("check", "--connect_seconds=6", code=1)
    hosts[2].reconnect()
    cluster.until("running")
    cluster.tmux(hosts[2], "kill-server")
    cluster.until({"actor-2": "gone", "actor-3": "gone", "actor-4": "running"})
    problem = "its tmux window was closed, or tmux was killed; `up` restarts it"
    assert problem in cluster.call("status", code=1, COLUMNS="200")
    hosts[3].kill_all()
    assert "connection to port 22 refused" in cluster.call("status", code=1, COLUMNS="140")
    hosts[3].start_sshd()
    hosts[3].wait_for_sshd()
    cluster.until({"actor-4": "gone", "actor-0": "running"})
    output = cluster.call("up")
    assert "started actor-2, actor-3, actor-4, actor-5; already running: learners, actor-0, actor-1" in output
    cluster.until("running")
    hosts[3].cut()
    output = cluster.call("down", "--connect_seconds=6", code=1)
    assert "3 hosts left clean" in output
    assert f"{hosts[3].name}@{hosts[3].ip}:22: unreachable, may still run workers" in output
    hosts[3].reconnect()
    assert "1 host left clean" in cluster.call("down")
    assert cluster.left() == {}


def silent_server(address: str) -> socket.socket:
    """Accepts connections and never answers."""
    return socket.create_server((address, 0))


def test_check_reports_each_problem_in_one_line(cluster: Cluster, hosts: Hosts) -> None:
    tmp_path = cluster.folder
    (tmp_path / "late").mkdir()
    (tmp_path / "late/sitecustomize.py").write_text("import time\nnow = time.time\ntime.time = lambda: now() + 300\n")
    full = hosts[1].home / "filler"
    hosts[1].run("dd", "if=/dev/zero", f"of={full}", "bs=1M", check=False)
    known = hosts.known_hosts(tmp_path / "known_hosts")
    own, other = ((hosts[i].folder / "host_key.pub").read_text().split()[1] for i in (3, 0))
    known.write_text(known.read_text().replace(own, other))  # as if another machine had had this address
    with silent_server(hosts.gateway) as silent:
        port = silent.getsockname()[1]
        rows = [
            cluster.row("learner", hosts[0]),
            cluster.row("actor", hosts[1]),
            cluster.row("actor", hosts[2], python=f"env PYTHONPATH={tmp_path}/late {cluster.python}"),
            cluster.row("actor", hosts[3]),
            cluster.row("actor", hosts[2], ssh_username="nobody-here", ssh_password="wrong-secret", ssh_key_file=""),
            cluster.row("actor", hosts[0], ip=hosts.gateway, ssh_port=port),
            cluster.row("actor", hosts[0], ip=hosts.gateway, ssh_port=9),
            cluster.row("actor", hosts[0], ip=hosts.gateway.rsplit(".", 1)[0] + ".77"),
            cluster.row("actor", hosts[0], ip="no-such-host.invalid"),
        ]
        code = f"import socket, time; s = socket.create_server(('{hosts[0].ip}', 8001)); time.sleep(100)"
        listener = hosts[0].start("python3", "-c", code)
        started = time.monotonic()
        output = cluster.call("check", cluster.csv(rows), "--channel=tls", "--connect_seconds=5", code=1, COLUMNS="80")
        assert time.monotonic() - started < 25, "no host waits for another"
        listener.kill()
        listener.wait()
    full.unlink()
    ip = [host.ip for host in hosts]
    for line in (
        f"{ip[0]}: ports: cannot listen at {ip[0]}:8001: Address already in use",
        f"{ip[1]}: disk: home directory has 0.00 GB free",
        f"{ip[2]}: clock: ",
        f"{ip[3]}: ssh: host key has CHANGED",
        f"{ip[2]}: ssh: authentication as 'nobody-here' failed: neither a key nor the password was accepted",
        f"{hosts.gateway}:{port}: ssh: accepts connections, but does not answer as SSH within 5 s",
        f"{hosts.gateway}:9: ssh: connection to port 9 refused: no sshd there",
        ".77: ssh: ",
        "no-such-host.invalid: ssh: host name cannot be resolved",
    ):
        assert line in output, f"{line}\n{output}"
    assert "s ahead" in output
    assert "wrong-secret" not in output


def test_a_hundred_dead_hosts_delay_no_other(cluster: Cluster, hosts: Hosts) -> None:
    subnet = hosts.gateway.rsplit(".", 1)[0]
    dead_rows = [cluster.row("actor", hosts[0], ip=f"{subnet}.{number}") for number in range(100, 200)]
    rows = [cluster.row("learner", hosts[0]), cluster.row("actor", hosts[1]), *dead_rows]
    started = time.monotonic()
    output = cluster.call("up", cluster.csv(rows), "--connect_seconds=6", code=1)
    assert time.monotonic() - started < 20, "as long as a single one"
    assert "started learners, actor-0; 2 hosts" in output
    assert "100 hosts missing" in output
    assert cluster.states()["actor-0"] == "running"
    started = time.monotonic()
    assert "2 hosts left clean" in cluster.call("down", "--connect_seconds=60"), "those that were never reached are not"
    assert time.monotonic() - started < 30
    assert cluster.left() == {}


def test_an_unknown_host_is_refused_unless_new_keys_are_accepted(
    cluster: Cluster, hosts: Hosts, tmp_path: Path
) -> None:
    (tmp_path / "empty").write_text("")
    rows = cluster.csv([cluster.row("learner", hosts[0]), cluster.row("actor", hosts[1])])
    known = f"--known_hosts={tmp_path}/empty"
    output = cluster.call("up", rows, known, code=1)
    assert output.count("unknown host key") == 1
    assert "a learner's host is missing; nothing was started" in output
    assert [host.processes() for host in hosts] == [[], [], [], []]
    cluster.call("check", rows, known, "--accept_new_host_keys")
    cluster.call("up", rows, known)
    cluster.call("down", known)
    assert cluster.left() == {}


def test_a_password_is_found_nowhere_but_in_the_csv(cluster: Cluster, hosts: Hosts) -> None:
    secret = hosts[1].password
    rows = [
        cluster.row("learner", hosts[0]),
        cluster.row("actor", hosts[1], ssh_key_file="", ssh_password=secret),
        cluster.row("actor", hosts[2]),
    ]
    path = cluster.csv(rows)
    command_lines: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        """Collects every command line on this machine while the frontend works."""
        while not stop.wait(0.02):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    command_lines.append((folder / "cmdline").read_bytes().decode(errors="replace"))
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = cluster.call("up", path) + cluster.call("up", path) + cluster.call("check", path, code=None)
    output += cluster.call("status", code=None) + cluster.call("logs") + cluster.call("dry-run")
    stop.set()
    watcher.join()
    for host in hosts:
        for pid in host.pids():
            output += Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        output += host.run("grep", "-rl", secret, str(host.home), check=False)
    output += "".join(path.read_text() for path in (cluster.logdir / "cluster").iterdir())
    assert "actor-0" in output
    assert secret not in output
    assert not any(secret in line for line in command_lines)
    output = cluster.call("down", "--workers_csv_path=/nowhere", code=1)
    assert "no password is set" in output
    assert "1 host left clean" in cluster.call("down", "--workers_csv_path=/nowhere", MLMA_SSH_PASSWORD=secret)
    assert cluster.left() == {}
