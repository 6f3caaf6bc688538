"""The channels between actors and learners: unix sockets, mutual TLS; and strangers, who get no byte through."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlma.transport.addresses import Address, parse_address
from mlma.transport.client import connect
from mlma.transport.listening import Listening, check_serving, listen
from mlma.transport.messages import pack
from mlma.transport.protocol import HandshakeRefusedError, LearnerLostError
from mlma.transport.relay import Relay
from tests.integration.test_transport import serve
from tests.support import attacks
from tests.support.memory import PeakMemory
from tests.support.runs import ROOT, Process, free_port, wait_for

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def gateway() -> Iterator[tuple[Address, Listening]]:
    """A learner's server behind a gateway."""
    address = Address("tls", "127.0.0.1", free_port())
    with listen(address, TOKEN) as listening:
        serve(listening.server, TOKEN, num_weights=2_000_000)
        check_serving(listening.server, str(address))
        yield address, listening


def gateway_pid(listening: Listening) -> int:
    """The gateway's process, once it runs."""
    gateway = listening.gateway
    assert gateway
    wait_for(lambda: gateway.pid, 10, lambda: "no gateway")
    return gateway.pid


def test_a_client_with_the_token_calls_through_tls(gateway: tuple[Address, Listening]) -> None:
    address, _ = gateway
    client = connect(address, TOKEN, 30)
    assert client.handshake({"task": 7}) == {"seed": 7}
    version, data = client.fetch(-1)
    assert version == 0 and data is not None and len(data) == 8_000_000
    client.put(pack({"i": 1}, bytes(3_000_000)))
    client.close()
    wait_for(lambda: client._relay and client._relay.closed, 10, lambda: "the connection is not closed")


def test_the_two_ends_name_what_is_wrong(gateway: tuple[Address, Listening]) -> None:
    address, _ = gateway
    with pytest.raises(HandshakeRefusedError, match=f"127.0.0.1:{address.port}: the token is not the learner's"):
        connect(address, TOKEN[::-1], 10)
    with pytest.raises(LearnerLostError, match="Connection refused"):
        connect(address._replace(port=free_port()), TOKEN, 10)
    with pytest.raises(LearnerLostError, match=r"nowhere\.invalid:1: "):
        connect(Address("tls", "nowhere.invalid", 1), TOKEN, 10)


@pytest.mark.parametrize("kind", attacks.REQUESTS)
def test_the_requests_that_are_kept_out_would_end_or_fill_a_server(tmp_path: Path, kind: str) -> None:
    """Otherwise the tests below would show nothing. If TensorFlow mends its decoder, this test says so."""
    serving = "from tests.integration.test_transport import serve; import time; serve('unix:socket'); time.sleep(60)"
    with Process(tmp_path, "victim", command=[sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
                 f"import os; os.chdir({str(tmp_path)!r})\n{serving}"]) as victim:  # fmt: skip
        wait_for((tmp_path / "socket").exists, 60, victim.text)
        memory = PeakMemory(victim.process.pid)
        attacks.call(f"unix:{tmp_path}/socket", attacks.REQUESTS[kind])
        if kind == "crash":
            assert victim.wait(60) == -signal.SIGSEGV
        else:
            assert memory.growth() > 1e9


def test_no_attack_gets_through_the_gateway(gateway: tuple[Address, Listening]) -> None:
    address, listening = gateway
    pid = gateway_pid(listening)
    memory = [PeakMemory(), PeakMemory(pid)]
    attack = [sys.executable, "-m", "tests.support.attacks", f"127.0.0.1:{address.port}", "port"]
    output = subprocess.run(attack, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "UNAVAILABLE" in output and "DeadlineExceeded" not in output, output
    assert connect(address, TOKEN, 30).handshake({"task": 1}) == {"seed": 1}
    assert gateway_pid(listening) == pid
    growth = [process.growth() for process in memory]
    assert max(growth) < 100e6, growth


def test_idle_connections_do_not_keep_actors_out(
    gateway: tuple[Address, Listening], caplog: pytest.LogCaptureFixture
) -> None:
    address, listening = gateway
    refused: list[int] = []
    assert listening.gateway
    listening.gateway.on_refused = refused.append
    pid = gateway_pid(listening)
    idle = [socket.create_connection((address.host, address.port)) for _ in range(800)]
    began = time.monotonic()
    client = connect(address, TOKEN, 30)
    assert client.handshake({"task": 1}) == {"seed": 1}
    assert time.monotonic() - began < 5
    wait_for(lambda: sum(refused) >= 790, 40, lambda: f"refused {refused}")
    assert client.fetch(-1)[0] == 0, "a client that was connected before stays connected"
    assert len(os.listdir(f"/proc/{pid}/fd")) < 100
    assert 1 <= len([line for line in caplog.messages if "refused" in line]) <= 4
    for each in idle:
        each.close()


def test_a_gateway_that_ends_is_restarted_at_the_same_address(gateway: tuple[Address, Listening]) -> None:
    address, listening = gateway
    client = connect(address, TOKEN, 30)
    client.handshake({"task": 1})
    first = gateway_pid(listening)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(LearnerLostError):
        client.handshake({"task": 1})
    wait_for(lambda: listening.gateway and listening.gateway.pid not in (0, first), 20, lambda: "not restarted")
    assert connect(address, TOKEN, 30).handshake({"task": 2}) == {"seed": 2}


def test_two_learners_never_share_an_address(tmp_path: Path) -> None:
    port = free_port()
    taken = f"--learner_host=127.0.0.1:{port}: cannot listen there: Address"
    with listen(Address("tls", "127.0.0.1", port), TOKEN):
        for channel in ("tls", "plaintext"):
            with pytest.raises(ValueError, match=taken):
                listen(Address(channel, "127.0.0.1", port), TOKEN).__enter__()
    path = Address("socket", f"{tmp_path}/socket")
    other = f"another learner, process {os.getpid()}, listens there"
    with listen(path, ""), pytest.raises(ValueError, match=other):
        listen(path, "").__enter__()
    with listen(path, ""):
        pass


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("no-such-host.invalid:8001", "cannot resolve no-such-host.invalid"),
        ("192.0.2.1:8001", "cannot listen there: "),
        ("unix:/no/such/folder/socket", "/no/such/folder: No such file or directory"),
        ("unix:/tmp/socket", "so others can reach the learner's socket"),
    ],
)
def test_an_address_that_cannot_be_had_is_named(host: str, reason: str) -> None:
    with pytest.raises(ValueError, match="^--learner_host=") as error:  # noqa: RUF043
        listen(parse_address(host, TOKEN, plaintext=False), TOKEN).__enter__()
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("host", ["no-such-host.invalid:8001", "localhost:²"])
def test_a_learner_that_cannot_listen_says_so_and_ends(tmp_path: Path, host: str) -> None:
    command = [sys.executable, "experiment.py", "--level_name=catch", f"--logdir={tmp_path}/run"]
    command += [f"--learner_host={host}", "--num_actors=1"]
    env = os.environ | {"MLMA_TOKEN": TOKEN}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2, result.stdout + result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("--learner_host=")


def test_a_server_that_does_not_listen_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--learner_host=x: the learner does not listen there: No such file"):
        check_serving(f"unix:{tmp_path}/nothing", "x")


@pytest.mark.parametrize("channel", ["socket", "plaintext", "tls"])
def test_an_actor_notices_at_once_that_nobody_serves_yet(tmp_path: Path, channel: str) -> None:
    port = free_port()
    address = Address("socket", f"{tmp_path}/socket") if channel == "socket" else Address("tls", "127.0.0.1", port)
    if channel == "plaintext":
        address = Address("plaintext", "127.0.0.1", port)
    began = time.monotonic()
    with pytest.raises(LearnerLostError, match=r"No such file|Connection refused"):
        connect(address, TOKEN, 60)
    with socket.socket(socket.AF_UNIX) if channel == "socket" else socket.socket() as tunnel:
        if channel == "tls":
            with listen(address, TOKEN) as listening:
                gateway_pid(listening)
                with pytest.raises(LearnerLostError, match=r"the peer closed|does not serve"):
                    connect(address, TOKEN, 60)
        else:  # as the end of a tunnel whose other end nobody is at
            tunnel.bind(address.host if channel == "socket" else ("127.0.0.1", port))
            tunnel.listen()
            threading.Thread(target=lambda: tunnel.accept()[0].close(), daemon=True).start()
            with pytest.raises(LearnerLostError, match="no learner serves there yet"):
                connect(address, TOKEN, 60)
    assert time.monotonic() - began < 20


def test_a_long_transfer_in_both_directions_arrives_unchanged() -> None:
    """Through a real gateway, with an echo in place of the learner."""
    address = Address("tls", "127.0.0.1", free_port())
    with listen(address, TOKEN) as listening, socket.socket(socket.AF_UNIX) as server:
        server.bind(listening.server.removeprefix("unix:"))
        server.listen()

        def echo() -> None:
            connection, _ = server.accept()
            while data := connection.recv(2**17):
                connection.sendall(data)
            connection.close()

        threading.Thread(target=echo, daemon=True).start()
        relay = Relay(address, TOKEN)
        data = np.random.default_rng(0).bytes(30_000_000)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(relay.target.removeprefix("unix:"))
            wait_for(lambda: not Path(relay.target.removeprefix("unix:")).exists(), 10, lambda: "others can connect")
            sender = threading.Thread(target=client.sendall, args=[data])
            sender.start()
            received = bytearray()
            while len(received) < len(data):
                received += client.recv(2**18)
            sender.join()
        assert received == data
