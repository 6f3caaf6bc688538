"""The frontend on four hosts with workers that cost nothing: the whole life of a run, and every fault that it must tell."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.hosts import Hosts, make_hosts, missing
from tests.runs import wait_for

REASON = missing()
pytestmark = [
    pytest.mark.skipif(bool(REASON) and os.environ.get("CI") != "true", reason=REASON or "-"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with make_hosts(4, tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture
def cluster(hosts: Hosts, tmp_path: Path) -> Iterator[Cluster]:
    """A run; nothing of it is left on the hosts afterwards."""
    made = Cluster.cheap(hosts, tmp_path)
    yield made
    for host in hosts:
        host.mend()
        for pid in host.pids():
            os.kill(pid, signal.SIGKILL)


def test_a_run_comes_up_once_and_goes_down_to_nothing(cluster: Cluster, hosts: Hosts) -> None:
    bystander = hosts[1].start("python3", "-c", "import time; time.sleep(1000)")
    hosts[1].run("tmux", "new-session", "-d", "-s", "mine", "sleep 1000", user=True)
    try:
        keys = [(host.home / ".ssh/authorized_keys").read_text() for host in hosts]
        begun = time.monotonic()
        said = cluster.call("up", cluster.two_learners())
        assert "started learners, actor-0, actor-1, actor-2, actor-3, actor-4, actor-5; 4 hosts" in said
        assert time.monotonic() - begun < 30, "seconds on an idle machine"
        cluster.until("running")
        processes = {host.name: sorted(host.pids()) for host in hosts}
        assert len(cluster.states()) == 8
        modes = {host.run("stat", "-c", "%a", f"{host.home}/.mlma/run/token").strip() for host in hosts}
        assert modes == {"600"}
        calls = [threading.Thread(target=cluster.call, args=["up"]) for _ in range(2)]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        said = cluster.call("up", "--lines=3")
        assert "already running: learners, actor-0" in said
        assert "started" not in said.partition("\n")[0]
        assert {host.name: sorted(host.pids()) for host in hosts} == processes
        wait_for(lambda: "reached the learner" in cluster.call("logs", "actor-3"), 20, lambda: cluster.call("logs"))
        said = cluster.call("down")
        assert "4 hosts left clean" in said, said
        assert {path.name for path in cluster.logdir.glob("saved-*")} == {"saved-0", "saved-1"}, "learners ended cleanly"
        left = cluster.left()
        assert list(left) == [hosts[1].name], left
        rest = [line for line in left[hosts[1].name] if not line.startswith("/tmp/tmux-")]
        assert sorted(line.split()[0] for line in rest) == ["python3", "sleep", "tmux:"] or len(rest) == 3, rest
        assert "mine" in hosts[1].run("tmux", "list-sessions", user=True)
        assert bystander.poll() is None
        assert [(host.home / ".ssh/authorized_keys").read_text() for host in hosts] == keys
        assert (hosts[2].home / ".mlma/run/logs/actor-2.log").exists(), "logs stay"
        assert not list((cluster.logdir / "cluster").glob("*key*")) + list((cluster.logdir / "cluster").glob("token"))
        assert "nothing to end" in cluster.call("down")
        assert "off" in cluster.call("status", code=1)
    finally:
        bystander.kill()
        bystander.wait()
        hosts[1].run("tmux", "kill-server", user=True, check=False)


def test_what_crashes_comes_back_and_what_is_asked_for_happens(cluster: Cluster, hosts: Hosts) -> None:
    cluster.call("up", cluster.two_learners(), "--restart_seconds=0.2")
    cluster.until("running")

    def child(name: str, host: int) -> int:
        found = hosts[host].run("cat", f"{hosts[host].home}/.mlma/run/workers/{name}.json")
        return int(found.partition('"child": ')[2].partition(",")[0])

    before = child("actor-2", 2)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: child("actor-2", 2) not in (0, before), 20, lambda: cluster.call("status", code=None))
    assert "restarted 1 x" in cluster.call("status", COLUMNS="200")
    mpirun = child("learners", 0)
    (learner,) = [
        pid
        for pid in hosts[1].pids()
        if "cheap.py" in Path(f"/proc/{pid}/cmdline").read_text()
        and "--job_name=actor" not in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    os.kill(learner, signal.SIGKILL)
    wait_for(lambda: child("learners", 0) not in (0, mpirun), 30, lambda: cluster.call("logs", "learners"))
    cluster.until("running")
    actor = child("actor-4", 3)
    assert "actor-4" in cluster.call("restart", "actor-4")
    assert child("actor-4", 3) != actor
    said = cluster.call("scale", "8")
    assert "started actor-6, actor-7" in said
    cluster.until("running")
    assert len(cluster.states()) == 10
    said = cluster.call("scale", "2")
    assert "stopped actor-2, actor-3, actor-4" in said
    assert sorted(cluster.states()) == ["actor-0", "actor-1", "learner-0", "learner-1"]
    assert "started learners" in cluster.call("restart", "learners")
    assert (cluster.logdir / "saved-0").exists()
    cluster.until("running")
    cluster.call("restart", "nobody", code=2)
    cluster.call("down")
    assert cluster.left() == {}


def test_a_worker_that_crashes_for_ever_is_given_up_and_named(cluster: Cluster, hosts: Hosts) -> None:
    rows = [
        cluster.row("learner", hosts[0]),
        cluster.row("actor", hosts[1]),
        cluster.row("actor", hosts[2], python=f"env CHEAP_CRASH=1 {cluster.python}"),
    ]
    cluster.call("up", cluster.csv(rows), "--worker_restarts=2", "--restart_seconds=0.1")
    cluster.until({"actor-1": "failed", "actor-0": "running"})
    assert "ended with code 3, for the 3th time in a row; given up" in cluster.call("status", code=1)
    cluster.call("down")
    assert cluster.left() == {}


def test_words_that_a_shell_would_misread_arrive_as_they_are(cluster: Cluster, hosts: Hosts) -> None:
    cluster.name = 'it\'s; touch pwned $(touch pwned) "x" run'
    rows = [cluster.row("learner", hosts[0]), cluster.row("learner", hosts[1]), cluster.row("actor", hosts[2], num_actors=2)]
    cluster.call("up", cluster.csv(rows))
    cluster.until("running")
    assert f"--logdir={cluster.logdir}" in cluster.call("logs", "actor-0").replace("\\'", "'")
    cluster.call("down")
    assert (cluster.logdir / "saved-1").exists()
    for host in hosts:
        assert "pwned" not in host.run("find", str(host.home), "-name", "pwned")


def test_a_tunnel_opens_no_port_but_that_of_ssh(cluster: Cluster, hosts: Hosts) -> None:
    keys = [(host.home / ".ssh/authorized_keys").read_text() for host in hosts]
    cluster.call("up", cluster.two_learners(), "--tunnel")
    for actor in ("actor-0", "actor-1", "actor-4", "actor-5"):
        wait_for(lambda actor=actor: "reached the learner" in cluster.call("logs", actor), 30, lambda: cluster.call("logs"))  # type: ignore[misc]
    for host in hosts[0], hosts[2]:
        open_ports = [line.split()[3] for line in host.run("ss", "-Hltn").splitlines()]
        assert [p for p in open_ports if not p.startswith("127.0.0.1:") and not p.endswith(":22")] == [] or host is hosts[0]
        assert not any(port.startswith(host.ip) and port.endswith(":8001") for port in open_ports)
    key = hosts[2].home / ".mlma/run/tunnel_key"
    for asked in (["true"], ["-W", f"{hosts[1].ip}:22"]):
        attempt = ["ssh", "-F", f"{hosts[2].home}/.mlma/run/ssh_config", *asked[:0], "-o", "ClearAllForwardings=yes"]
        words = [*attempt, *asked[:2], "learner-0"] if asked[0] == "-W" else [*attempt, "learner-0", *asked]
        refused = hosts[2].run("sh", "-c", '"$@" </dev/null; echo code $?', "sh", *words, user=True, check=False)
        assert "code 0" not in refused, "the tunnel's key opens nothing but the learner's port"
    assert key.stat().st_mode & 0o777 == 0o600
    hosts[2].cut()
    time.sleep(1)
    hosts[2].mend()
    tunnel = [pid for pid in hosts[3].pids() if "-N learner-0" in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")]
    os.kill(tunnel[0], signal.SIGKILL)
    wait_for(lambda: "no learner" in cluster.call("logs", "actor-4", "--lines=2"), 20, lambda: cluster.call("logs", "actor-4"))
    wait_for(
        lambda: cluster.call("logs", "actor-4", "--lines=1").strip() == "reached the learner",
        30,
        lambda: cluster.call("logs", "actor-4"),
    )
    cluster.call("down")
    assert cluster.left() == {}
    assert [(host.home / ".ssh/authorized_keys").read_text() for host in hosts] == keys


def test_a_host_that_is_cut_off_killed_or_without_tmux_is_told_and_comes_back(cluster: Cluster, hosts: Hosts) -> None:
    cluster.call("up", cluster.two_learners())
    cluster.until("running")
    hosts[2].cut()
    begun = time.monotonic()
    said = cluster.call("status", "--connect_seconds=3", code=1, COLUMNS="140")
    assert time.monotonic() - begun < 15
    assert f"actor-2, actor-3 on {hosts[2].ip}: no answer within 3 s: down, cut off, or behind a firewall" in said
    assert said.count(" running ") == 6
    assert "no answer within 3 s" in cluster.call("check", "--connect_seconds=3", code=1)
    hosts[2].mend()
    cluster.until("running")
    hosts[2].run("tmux", "kill-server", user=True)
    cluster.until({"actor-2": "gone", "actor-3": "gone", "actor-4": "running"})
    assert "its tmux window was" in cluster.call("status", code=1, COLUMNS="140")
    hosts[3].kill_all()
    assert "refuses connections to port 22" in cluster.call("status", code=1, COLUMNS="140")
    hosts[3].start_sshd()
    hosts[3].wait_for_sshd()
    cluster.until({"actor-4": "gone", "actor-0": "running"})
    said = cluster.call("up")
    assert "started actor-2, actor-3, actor-4, actor-5; already running: learners, actor-0, actor-1" in said
    cluster.until("running")
    hosts[3].cut()
    said = cluster.call("down", "--connect_seconds=2", code=1)
    assert "3 hosts left clean" in said
    assert f"{hosts[3].name}@{hosts[3].ip}:22: could not be reached and may still run workers" in said
    hosts[3].mend()
    assert "1 host left clean" in cluster.call("down")
    assert cluster.left() == {}


def silent_server(address: str) -> socket.socket:
    """Accepts and never answers."""
    return socket.create_server((address, 0))


def test_check_tells_each_thing_that_is_wrong_in_one_line(cluster: Cluster, hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "late").mkdir()
    (tmp_path / "late/sitecustomize.py").write_text("import time\nnow = time.time\ntime.time = lambda: now() + 300\n")
    full = hosts[1].home / "filler"
    with full.open("wb") as file:
        while True:
            try:
                file.write(bytes(1 << 20))
                file.flush()
            except OSError:
                break
    known = hosts.known_hosts(tmp_path / "known_hosts")
    known.write_text(
        known.read_text().replace(
            f"{hosts[3].ip} ",
            f"{hosts[3].ip} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq5r0aLaZOgkYxjQ3rC8pJ4rVqvZ0cPzY3uYk9sQ1xw\n# ",
        )
    )
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
        begun = time.monotonic()
        said = cluster.call("check", cluster.csv(rows), "--connect_seconds=5", code=1, COLUMNS="80")
        assert time.monotonic() - begun < 25, "no host waits for another"
        listener.kill()
        listener.wait()
    full.unlink()
    ip = [host.ip for host in hosts]
    for line in (
        f"{ip[0]}: ports: cannot listen at {ip[0]}:8001: Address already in use",
        f"{ip[1]}: disk: the home has 0.00 GB free",
        f"{ip[2]}: clock: its clock is ",
        f"{ip[3]}: ssh: its host key has CHANGED",
        f"{ip[2]}: ssh: does not let 'nobody-here' in: neither a key of ours nor the password is accepted",
        f"{hosts.gateway}:{port}: ssh: accepts the connection, but does not answer as SSH within 5 s",
        f"{hosts.gateway}:9: ssh: refuses connections to port 9: no sshd there",
        ".77: ssh: ",
        "no-such-host.invalid: ssh: its name does not resolve",
    ):
        assert line in said, f"{line}\n{said}"
    assert "s ahead" in said
    assert "wrong-secret" not in said


def test_an_unknown_host_is_refused_until_it_is_said_to_learn_it(cluster: Cluster, hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    rows = cluster.csv([cluster.row("learner", hosts[0]), cluster.row("actor", hosts[1])])
    known = f"--known_hosts={tmp_path}/empty"
    said = cluster.call("up", rows, known, code=1)
    assert said.count("unknown host key") == 1
    assert "a learner's host is missing; nothing was started" in said
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
    seen: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        """Every command line of the machine, while the frontend works."""
        while not stop.wait(0.02):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    seen.append((folder / "cmdline").read_bytes().decode(errors="replace"))
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    said = cluster.call("up", path) + cluster.call("up", path) + cluster.call("check", path, code=None)
    said += cluster.call("status", code=None) + cluster.call("logs") + cluster.call("dry-run")
    stop.set()
    watcher.join()
    for host in hosts:
        for pid in host.pids():
            said += Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        said += host.run("grep", "-rl", secret, str(host.home), check=False)
    said += "".join(path.read_text() for path in (cluster.logdir / "cluster").iterdir())
    assert "actor-0" in said
    assert secret not in said
    assert not any(secret in line for line in seen)
    said = cluster.call("down", "--workers_csv_path=/nowhere", code=1)
    assert "there is no password for it" in said
    assert "1 host left clean" in cluster.call("down", "--workers_csv_path=/nowhere", MLMA_SSH_PASSWORD=secret)
    assert cluster.left() == {}


def test_forty_actors_are_up_and_down_in_seconds(cluster: Cluster, hosts: Hosts) -> None:
    rows = [cluster.row("learner", hosts[0]), *(cluster.row("actor", host, num_actors=10) for host in hosts)]
    begun = time.monotonic()
    assert "started learners, 40 actors; 4 hosts" in cluster.call("up", cluster.csv(rows))
    up = time.monotonic() - begun
    cluster.until("running")
    begun = time.monotonic()
    cluster.call("down")
    print(f"40 actors: up in {up:.1f} s, down in {time.monotonic() - begun:.1f} s")
    assert up < 60 and time.monotonic() - begun < 60, "seconds on an idle machine"
    assert cluster.left() == {}


def test_sync_copies_what_differs_and_check_says_who_does(cluster: Cluster, hosts: Hosts) -> None:
    rows = [cluster.row("learner", hosts[0], folder="code"), cluster.row("actor", hosts[1], folder="code")]
    path = cluster.csv(rows)
    said = cluster.call("check", path, code=1)
    assert said.count("no code in code (--sync copies it") == 2
    said = cluster.call("up", path, "--sync")
    assert "copied to 2 hosts" in said and not said.startswith("0 files")
    cluster.call("check")
    (hosts[1].home / "code/mlma/actor.py").write_text("# changed\n")
    assert f"{hosts[1].ip}: code: other code than here: mlma/actor.py (--sync" in cluster.call("check", code=1)
    assert "1 file copied to 2 hosts" in cluster.call("up", path, "--sync")
    cluster.call("check")
    cluster.call("down")


def test_another_run_of_the_same_name_is_left_alone(cluster: Cluster, hosts: Hosts) -> None:
    hosts[1].run("tmux", "new-session", "-d", "-s", "run", "sleep 1000", user=True)
    rows = cluster.csv([cluster.row("learner", hosts[0]), cluster.row("actor", hosts[1])])
    said = cluster.call("up", rows, code=1)
    assert "there is a tmux session 'run' of somebody else" in said
    cluster.call("down")
    assert "run" in hosts[1].run("tmux", "list-sessions", user=True)
