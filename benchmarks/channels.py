"""What the channels between actors and learners cost: throughput, processor time, latency.

    python -m benchmarks.channels --megabytes=1000 --rounds=5

A process sends to another one on this machine, through loopback: over a unix socket, plain TCP, TLS (an actor's relay
and a learner's gateway) and SSH (a private sshd, if OpenSSH's server is installed). Processor time is that of the
channel alone, at both ends: gateway and relay, or ssh and sshd. Rounds alternate; medians are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common import process_seconds, thread_seconds
from mlma.cluster.remote.credentials import SSH_CONFIG_COMMON
from mlma.transport.addresses import Address
from mlma.transport.listening import listen
from mlma.transport.relay import Relay

TOKEN = "of this benchmark, not secret"
CHUNK = bytes(2**18)
PINGS = 300
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
SSHD_CONFIG = """Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PidFile none
UsePAM no
"""
Channel = Callable[[], tuple[socket.socket, Callable[[], float]]]  # a connection, and the seconds its channel has used


def serve(listener: socket.socket) -> None:
    """A learner's end: takes as many bytes as the first line says, answers, then echoes."""
    while True:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError), connection:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            left, buffer = int(connection.recv(20)), bytearray(2**18)
            connection.sendall(b"ok")
            while left > 0:
                left -= connection.recv_into(buffer)
            connection.sendall(b"ok")
            while data := connection.recv(100):
                connection.sendall(data)


def connected(family: int, address: object) -> socket.socket:
    """A connection without delay."""
    connection = socket.socket(family)
    connection.connect(address)  # type: ignore[arg-type]
    return connection


@contextlib.contextmanager
def ssh(folder: Path, target: str) -> Iterator[Channel]:
    """A tunnel to the socket `target`, as a CSV run makes it."""
    assert SSHD
    port = free_port()
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(port=port, folder=folder))
    key = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}")
    common = SSH_CONFIG_COMMON.replace('"{home}/{run}/known_hosts"', str(folder / "known_hosts"))
    (folder / "ssh_config").write_text(
        f"Host learner\n    HostName 127.0.0.1\n    Port {port}\n    User {getpass.getuser()}\n"
        f"    IdentityFile {folder}/key\n    ExitOnForwardFailure yes\n"
        f"    LocalForward {folder}/tunnel {target}\n{common}"
    )
    with contextlib.suppress(OSError):
        os.makedirs("/run/sshd", exist_ok=True)
    with subprocess.Popen([SSHD, "-D", "-f", folder / "sshd_config"]) as server:
        time.sleep(0.5)
        with subprocess.Popen(["ssh", "-F", folder / "ssh_config", "-N", "learner"]) as client:
            while not (folder / "tunnel").exists() and client.poll() is None:
                time.sleep(0.05)
            try:
                yield lambda: (
                    connected(socket.AF_UNIX, f"{folder}/tunnel"),
                    lambda: process_seconds(server.pid) + process_seconds(client.pid),
                )
            finally:
                client.terminate()
                server.terminate()


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def measure(channel: Channel, megabytes: int) -> tuple[float, float, float]:
    """(MB/s, processor microseconds of the channel for a MB, microseconds of a round trip)."""
    connection, used = channel()
    with connection:
        size = megabytes * 10**6 // len(CHUNK) * len(CHUNK)
        connection.sendall(str(size).encode())
        connection.recv(2)
        before, began = used(), time.perf_counter()
        for _ in range(size // len(CHUNK)):
            connection.sendall(CHUNK)
        connection.recv(2)
        seconds, cpu = time.perf_counter() - began, used() - before
        trips = []
        for _ in range(PINGS):
            began = time.perf_counter()
            connection.sendall(b"x")
            connection.recv(1)
            trips.append(time.perf_counter() - began)
    return size / 1e6 / seconds, cpu * 1e12 / size, statistics.median(trips) * 1e6


def main() -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000, help="sent in one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    tcp = ("127.0.0.1", free_port())
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlma-channels-")))
        address = Address("tls", "127.0.0.1", free_port())
        listening = stack.enter_context(listen(address, TOKEN))
        target = listening.server.removeprefix("unix:")
        learner = subprocess.Popen([sys.executable, "-m", "benchmarks.channels", target, *map(str, tcp)])
        stack.callback(learner.wait)
        stack.callback(learner.terminate)
        gateway = listening.gateway
        while not (Path(target).exists() and gateway and gateway.pid):
            time.sleep(0.1)
        time.sleep(1)

        def tls() -> tuple[socket.socket, Callable[[], float]]:
            relay = Relay(address, TOKEN)
            return (
                connected(socket.AF_UNIX, relay.target.removeprefix("unix:")),
                lambda: process_seconds(gateway.pid) + thread_seconds("relay"),
            )

        channels: dict[str, Channel] = {
            "unix socket": lambda: (connected(socket.AF_UNIX, target), lambda: 0.0),
            "plain TCP": lambda: (connected(socket.AF_INET, tcp), lambda: 0.0),
            "TLS": tls,
        }
        if SSHD:
            channels["SSH"] = stack.enter_context(ssh(folder, target))
        results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in channels}
        for _ in range(arguments.rounds):
            for name, channel in channels.items():
                results[name].append(measure(channel, arguments.megabytes))
        print("| channel | MB/s | processor time of the channel, both ends | round trip |\n|---|---|---|---|")
        for name, rounds in results.items():
            speed, cpu, trip = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"| {name} | {speed:,.0f} | {cpu / 1000:.2f} ms for a MB | {trip:.0f} us |")
    return 0


def learner_end(target: str, host: str, port: str) -> None:
    """The process that takes the bytes."""
    with socket.socket(socket.AF_UNIX) as local, socket.create_server((host, int(port))) as network:
        local.bind(target)
        local.listen()
        threading.Thread(target=serve, args=[network], daemon=True).start()
        serve(local)


if __name__ == "__main__":
    if len(sys.argv) == 4 and not sys.argv[1].startswith("-"):
        learner_end(*sys.argv[1:])
    else:
        sys.exit(main())
