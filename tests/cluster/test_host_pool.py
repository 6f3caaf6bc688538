"""Requests to many hosts: a host that answers nothing delays no other, and Ctrl-C starts nothing more."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlma.cluster.planning.hosts import Host
from mlma.cluster.remote.host_pool import Hosts
from mlma.cluster.remote.progress import waiting_text
from mlma.cluster.remote.ssh import Connection
from mlma.cluster.remote.ssh_login import HostError, SshLogin

HERE = Host("localhost", "localhost", 22, "me", True, "", ("python3",), "code")
CONNECT_SECONDS = 4.0


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts no connection and refuses none, like that of a dead host: its queue is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def pool(port: int, **options: float) -> Hosts:
    dead = Host(f"me@127.0.0.1:{port}", "127.0.0.1", port, "me", False, "", ("python3",), "code")
    login = SshLogin("", Path(os.devnull), False, CONNECT_SECONDS)
    return Hosts({"dead": dead, "localhost": HERE}, lambda host: login, 60, **options)


def run(host: Host, connection: Connection) -> str:
    return connection.run(["echo", host.key], "", 10).stdout


def test_a_command_ends_without_a_host_that_accepts_no_connection(silent_port: int) -> None:
    hosts = pool(silent_port, patience=0.5)
    began = time.monotonic()
    answers = hosts.for_each(["dead", "localhost"], run)
    assert time.monotonic() - began < CONNECT_SECONDS / 2
    assert answers["localhost"] == "localhost\n"
    assert "no answer within 0.5 s: host down" in str(answers["dead"])
    began = time.monotonic()
    assert "no answer within 4 s" in str(hosts.for_each(["dead"], run)["dead"]), "nobody waits for another"
    assert time.monotonic() - began > CONNECT_SECONDS / 2


def test_patience_with_a_dead_host_begins_with_its_connection(silent_port: int) -> None:
    hosts = pool(silent_port, patience=2.0)
    assert hosts.silent(["dead", "localhost"], 0.2) == ["dead"]
    assert hosts.for_each(["localhost"], run)["localhost"] == "localhost\n"
    time.sleep(1.8)
    began = time.monotonic()
    assert "no answer within 2 s" in str(hosts.for_each(["dead"], run, others_answered=True)["dead"])
    assert time.monotonic() - began < 1


def test_a_host_that_has_accepted_a_connection_ahead_gets_the_whole_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        hosts = pool(server.getsockname()[1], patience=0.2)
        assert hosts.silent(["dead", "localhost"], 10) == []
        answers = hosts.for_each(["dead", "localhost"], run)
    assert f"does not answer as SSH within {CONNECT_SECONDS:.0f} s" in str(answers["dead"])


def test_an_excluded_host_is_not_contacted(silent_port: int) -> None:
    hosts = pool(silent_port)
    hosts.exclude({"dead": HostError("left out")})
    assert str(hosts.for_each(["dead"], run)["dead"]) == "left out"


def test_after_ctrl_c_nothing_is_started_on_a_host_that_answers_late(capsys: pytest.CaptureFixture[str]) -> None:
    hosts, started, connected = pool(9), [], threading.Event()

    class Late(Hosts):
        def _on_host(self, task, login, work):
            connected.wait(10)
            return super()._on_host(task, login, work)

    late = Late(hosts.hosts, hosts._login, 60)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        late.for_each(["localhost"], lambda host, connection: started.append(host.key))
    assert time.monotonic() - began < 5
    connected.set()
    time.sleep(0.3)
    assert started == []


def test_an_error_in_the_work_is_raised_where_it_is_waited_for() -> None:
    def fail(host: Host, connection: Connection) -> None:
        raise ZeroDivisionError(host.key)

    with pytest.raises(ZeroDivisionError, match="localhost"):
        pool(9).for_each(["localhost"], fail)


def test_what_is_waited_for_is_named_after_a_while(silent_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    pool(silent_port, patience=2.5).for_each(["dead", "localhost"], run)
    assert "1 of 2 hosts done after 2 s; waiting for dead (connecting)\n" in capsys.readouterr().err
    assert waiting_text(9, [(f"h{i}", "working") for i in range(6)], 3.2).endswith("h3 (working) and 2 more")
