"""Emulates learners on hosts with a slow network on one machine. Needs root.

    python sandbox/scaling/limited.py --hosts=4 --mbit=1000 --delay_ms=0.1 -- -m benchmarks.allreduce

Each host is a network namespace whose bandwidth `tc` limits; a switch in this process connects them and adds latency.
One rank runs in each namespace. Open MPI sees separate hosts and uses TCP between them. Everything is removed at the
end.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from mlma.distributed.mpi_launcher import find_mpirun, mpi_environment  # noqa: E402

NET = "10.77.0"
TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 1, 0x1000, 0x40000000


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Switch:
    """Forwards packets between the hosts' tun devices in a thread, each after `delay` seconds."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._ports: dict[int, int] = {}  # last byte of the address -> file descriptor
        self._late: collections.deque[tuple[float, bytes]] = collections.deque()

    def plug(self, namespace: str, address: int) -> None:
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as away:
            enter(away.fileno())
            port = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(port, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TUN | IFF_NO_PI))
            enter(home.fileno())
        self._ports[address] = port

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            patience = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            for port in select.select(self._ports.values(), [], [], patience)[0]:
                self._late.append((time.monotonic() + self._delay, os.read(port, 70_000)))
            while self._late and self._late[0][0] <= time.monotonic():
                packet = self._late.popleft()[1]
                if packet[0] >> 4 == 4 and packet[19] in self._ports:
                    os.write(self._ports[packet[19]], packet)


def enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Hosts:
    """Network namespaces h0, h1, ... with addresses NET.1, NET.2, ..., each with its own host name."""

    def __init__(self, count: int, mbit: float, delay_ms: float) -> None:
        self._prefix = f"mlma{os.getpid()}"
        self._mbit, self._count = mbit, count
        self._switch = Switch(delay_ms / 1000)
        self.names = [f"{self._prefix}-h{i}" for i in range(count)]

    def make(self) -> None:
        for i, name in enumerate(self.names):
            ip("netns", "add", name)
            self._switch.plug(name, i + 1)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"{NET}.{i + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "mtu", "65000", "txqueuelen", "10000", "up")
            if self._mbit:
                shape = ["tbf", "rate", f"{self._mbit}mbit", "burst", "256kb", "latency", "500ms"]
                subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", *shape], check=True)
        self._switch.start()

    def remove(self) -> None:
        for name in self.names:
            inside = subprocess.run(["ip", "netns", "pids", name], check=False, capture_output=True, text=True).stdout
            for pid in inside.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)

    def agent(self, folder: Path) -> Path:
        """Writes a replacement for ssh, which mpirun calls with an address and a command; returns its path."""
        path = folder / "agent"
        enter = (
            f'ip netns exec {self._prefix}-h$((${{1##*.}} - 1)) unshare --uts sh -c \'hostname "h$0"; exec sh -c "$*"\''
        )
        path.write_text(f'#!/bin/sh\nhost="${{1##*.}}"\nset -- "$@"\nexec {enter} "$host" "$(shift; echo "$*")"\n')
        path.chmod(0o700)
        return path


def run(hosts: Hosts, words: list[str]) -> int:
    """Runs `python WORDS` under mpirun with one rank on each host; returns its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        agent = str(hosts.agent(Path(folder)))
        every = ",".join(f"{NET}.{i + 1}:1" for i in range(len(hosts.names)))
        environment = mpi_environment() | {"PRTE_MCA_plm_ssh_agent": agent, "PYTHONPATH": str(ROOT)}
        command = ["unshare", "--uts", "sh", "-c", 'hostname h1; exec "$@"', "sh"]
        command += [find_mpirun(), "--host", every, "--bind-to", "none", "-x", "PYTHONPATH"]
        command = ["ip", "netns", "exec", hosts.names[0], *command, sys.executable, *words]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument(
        "--mbit", type=float, default=0, help="bandwidth of each host in Mbit/s, in each direction; 0: unlimited"
    )
    parser.add_argument("--delay_ms", type=float, default=0, help="latency added to packets that leave a host")
    parser.add_argument("words", nargs="+", help="arguments of python, after --")
    arguments = parser.parse_args()
    # Raises SystemExit, so that the hosts are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    hosts = Hosts(arguments.hosts, arguments.mbit, arguments.delay_ms)
    try:
        hosts.make()
        return run(hosts, arguments.words)
    finally:
        hosts.remove()


if __name__ == "__main__":
    sys.exit(main())
