"""The key without rights that `check` puts into authorized_keys for some seconds is gone afterwards, come what may."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlma.cluster.on_host.host_files import authorize
from mlma.cluster.planning.hosts import Host
from mlma.cluster.remote.host_pool import call_on_host
from mlma.cluster.remote.ssh import LocalConnection
from tests.support.cluster import Cluster
from tests.support.hosts import Hosts, command_of
from tests.support.runs import gone, wait_for

OWN = "ssh-ed25519 AAAA me@home\n"
MARK = f"mlma-{16 * 'a'}-22"
Reach = Callable[..., dict[str, Any]]


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """authorized_keys of an account whose home is a folder of this test."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".ssh").mkdir(mode=0o700)
    path = tmp_path / ".ssh/authorized_keys"
    path.write_text(OWN)
    return path


@pytest.fixture
def reach(keys: Path) -> Iterator[Reach]:
    """Sends requests to this machine as `check` does to a host; ends what they leave."""
    host, pids = Host("localhost", "localhost", 22, "", True, "", (sys.executable, "-S"), ""), list[int]()

    def send(action: str, **values: Any) -> dict[str, Any]:
        answer = call_on_host(host, LocalConnection(), {"action": action, **values}, 60, "reach")
        pids.extend([answer["pid"]] if "pid" in answer else [])
        return answer

    yield send
    for pid in pids:
        if not gone([pid]):
            os.kill(pid, signal.SIGKILL)


def hold(reach: Reach, seconds: float) -> dict[str, Any]:
    values = {"ports": [0], "greeting": "hello", "mark": MARK, "lines": ["restrict ssh-ed25519 BBBB"]}
    return reach("hold", seconds=seconds, **values)


def test_the_key_is_there_until_it_is_released(keys: Path, reach: Reach) -> None:
    held = hold(reach, 60)
    assert keys.read_text() == f"{OWN}restrict ssh-ed25519 BBBB mlma-{held['mark']}\n"
    with socket.create_connection(("127.0.0.1", held["ports"][0]), 10) as connection:
        assert connection.recv(10) == b"hello"
    reach("release", mark=held["mark"], pid=held["pid"])
    assert keys.read_text() == OWN
    wait_for(lambda: gone([held["pid"]]), 20, lambda: command_of(held["pid"]))


@pytest.mark.parametrize("end", ["time", "shutdown"])
def test_a_host_that_lost_its_check_removes_the_key_itself(keys: Path, reach: Reach, end: str) -> None:
    held = hold(reach, 0.5 if end == "time" else 60)
    if end == "shutdown":
        os.kill(held["pid"], signal.SIGTERM)
    wait_for(lambda: gone([held["pid"]]), 20, keys.read_text)
    assert keys.read_text() == OWN


def test_whoever_comes_next_removes_what_a_crashed_host_still_has_but_no_key_of_another_check(keys: Path) -> None:
    now = time.time()
    lines = [
        f"restrict ssh-ed25519 BBBB mlma-mlma-{16 * letter}-22-{now + later:.0f}\n"
        for letter, later in (("b", -5), ("c", 99))
    ]
    former = f"restrict ssh-ed25519 BBBB mlma-mlma-{16 * 'd'}-22\n"  # of a version without times
    keys.write_text("".join([lines[0], OWN, lines[1], former]))
    authorize("anything", [])
    assert keys.read_text() == OWN + lines[1]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["ctrl-c", "crash"])
def test_an_interrupted_check_leaves_no_key(cluster: Cluster, hosts: Hosts, fault: str) -> None:
    files = [host.home / ".ssh/authorized_keys" for host in hosts]
    before = [path.read_text() for path in files]
    workers = [cluster.row("learner", hosts[0]), cluster.row("learner", hosts[1]), cluster.row("actor", hosts[2])]
    rows = cluster.csv([*workers, cluster.row("actor", hosts[2])])
    hosts[1].firewall(closed=True)  # the next step takes --connect_seconds
    environment = {name: value for name, value in os.environ.items() if name not in ("SSH_AUTH_SOCK", "TMUX")}
    command = cluster.command("check", rows, "--channel=tls", "--connect_seconds=30")
    try:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment) as process:
            wait_for(lambda: " mlma-mlma-" in files[1].read_text(), 60, lambda: shlex.join(command))
            time.sleep(2)
            if fault == "crash":
                hosts[1].kill_all()
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            print(f"ended after {time.monotonic() - began:.1f} s")
    finally:
        if fault == "crash":
            hosts[1].start_sshd()
            hosts[1].wait_for_sshd()
        hosts[1].firewall(closed=False)
    if fault == "crash":
        left = files[1].read_text()
        assert " mlma-mlma-" in left
        files[1].write_text(re.sub(r"-\d{10}$", "-1700000000", left, flags=re.MULTILINE))  # minutes later
        cluster.call("check", rows, "--channel=tls")
    assert [path.read_text() for path in files] == before
    # A connection that a host was trying may still take its time limit.
    wait_for(lambda: cluster.left() == {}, 40, lambda: str(cluster.left()))
