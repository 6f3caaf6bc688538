"""Whether a worker hangs, and whether the learners that mpirun starts have found each other in time.

Copied to the host next to supervisor.py, so it needs only Python 3.8 or later and its standard library. A firewall
between learners refuses nothing: mpirun, or MPI, waits for minutes without a word. Who is missing is read from
mpirun's own connections and from what the learners say.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import time
from pathlib import Path
from typing import Any

LAUNCH_SECONDS = 30.0  # for mpirun to hear from its daemon on each host; an ssh that gets no answer ends after 10
MEETING_SECONDS = 30.0  # for learners that have all started to find each other
FIREWALL = "a firewall between the learners' hosts? `check` tries their ports"
WAITING_LINE = re.compile(rb"learner (\d+): waits for the other learners to start")
LAUNCHERS = ("mpirun", "prterun", "orterun")  # process names
LAUNCHING = (*LAUNCHERS, "ssh", "sh", "env")  # processes that exist before the first learner
ESTABLISHED = "01"


def process_fields(pid: int) -> list[str]:
    """State, parent, group, session, ...: the fields of /proc/PID/stat behind the name; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def process_start_time(pid: int) -> str:
    """Start time in kernel ticks, which tells a process apart from a later one with its id; empty if it is gone."""
    fields = process_fields(pid)
    return fields[19] if fields else ""


def is_stopped(pid: int, start_time: str) -> bool:
    """Whether a signal has stopped this process; False if it is gone, or in a container with process ids of its own."""
    fields = process_fields(pid)
    return bool(fields) and fields[19] == start_time and fields[0] == "T"


def find_hung(folder: str, seconds: float) -> str:
    """Which of the worker's processes hangs, by their heartbeats in `folder`; empty if none does."""
    for path in Path(folder).glob("*.json") if folder else ():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(path.read_text())
            silent = time.monotonic() - record["beat"]
            stopped = is_stopped(record["pid"], record["birth"])  # so it waits for nobody
            if silent > seconds + (0 if stopped else record["may_be_silent"]):
                state = ", is stopped" if stopped else ""
                return f"{path.stem} hangs, was last heard of {silent:.0f} s ago{state}"
    return ""


class LearnerStart:
    """One start of several learners: who is missing, if they have not found each other in time."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._addresses: list[str] = list(spec.get("learner_addresses", ()))  # by rank; none: there is no limit
        self._seconds = float(spec.get("start_seconds", 0))
        self._heartbeat = Path(spec["heartbeat_folder"] or "/nonexistent", "learner-0.json")
        self._began = time.monotonic()
        self._waiting: dict[int, float] = {}  # rank -> when it first said that it waits for the others
        self.is_complete = not self._addresses

    def read(self, output: bytes) -> None:
        """Notes which learners say that they have started."""
        if not self.is_complete:
            for match in WAITING_LINE.finditer(output):
                self._waiting.setdefault(int(match[1]), time.monotonic())

    def find_missing(self, mpirun: int) -> str:
        """Who is missing, in words, once the time for it is over; empty before, and after all have found each other."""
        if self.is_complete or self._are_connected():
            self.is_complete = True
            return ""
        now = time.monotonic()
        waited, count = now - self._began, len(self._addresses)
        if waited > min(LAUNCH_SECONDS, self._seconds) and not _has_learner(mpirun):
            connected = _connected_addresses(mpirun)
            missing = [rank for rank in range(1, count) if _resolve(self._addresses[rank]) not in connected]
            names = self._names(missing) if missing else "an answer of all hosts"
            return f"mpirun misses {names} after {waited:.0f} s: {FIREWALL}"
        if len(self._waiting) == count and now - max(self._waiting.values()) > MEETING_SECONDS:
            return f"all learners have started, but have not found each other after {waited:.0f} s: {FIREWALL}"
        if waited > self._seconds:
            missing = [rank for rank in range(count) if rank not in self._waiting]
            return f"not started after {waited:.0f} s (--start_seconds): {self._names(missing or list(range(count)))}"
        return ""

    def _names(self, ranks: list[int]) -> str:
        return ", ".join(f"learner {rank} on {self._addresses[rank]}" for rank in ranks)

    def _are_connected(self) -> bool:
        try:
            return bool(
                json.loads(self._heartbeat.read_text()).get("connected", True)
            )  # code of before has no such key
        except (OSError, ValueError):
            return False


def _session_processes(session: int) -> dict[int, str]:
    """Process id -> name."""
    names = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (folder / "stat").read_text()
            if int(text.rpartition(")")[2].split()[3]) == session:
                names[int(folder.name)] = text.partition("(")[2].rpartition(")")[0]
    return names


def _has_learner(mpirun: int) -> bool:
    """Whether mpirun, which leads its session, has started a learner on this host."""
    return any(name not in LAUNCHING for name in _session_processes(mpirun).values())


def _connected_addresses(mpirun: int) -> set[str]:
    """IPv4 addresses that are connected to mpirun itself, not to its ssh."""
    addresses = set()
    for pid, name in _session_processes(mpirun).items():
        if name in LAUNCHERS:
            with contextlib.suppress(OSError):
                inodes = {path.stat().st_ino for path in Path(f"/proc/{pid}/fd").iterdir()}
                for table in ("tcp", "tcp6"):
                    for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                        fields = line.split()
                        if fields[3] == ESTABLISHED and int(fields[9]) in inodes:
                            addresses.add(_ipv4(fields[2].partition(":")[0]))
    return addresses


def _ipv4(text: str) -> str:
    """The kernel's hexadecimal form as an address; of a mapped IPv6 address its IPv4 part."""
    return socket.inet_ntoa(struct.pack("=I", int(text[-8:], 16)))


def _resolve(name: str) -> str:
    try:
        return socket.gethostbyname(name)
    except OSError:
        return name
