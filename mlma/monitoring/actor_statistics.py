"""What a learner knows of its actors: host, throughput, and how they spend their time."""

from __future__ import annotations

import threading
import time
from typing import Any

from mlma.core.refusal import RefusedError, shown

MAX_ACTORS = 1000  # that a learner keeps track of, in addition to those that it expects
FORGET_SECONDS = 600.0  # of silence, after which an actor makes room for another
MAX_HOST_CHARACTERS, MAX_FAILURE_CHARACTERS = 64, 600


class ActorStatistics:
    """Some threads record, another summarizes at each report."""

    def __init__(self) -> None:
        self._expected = 0  # there is always room for actors 0 .. expected-1
        self._lock = threading.Lock()
        self._heard: dict[int, float] = {}  # actor -> when it sent something valid
        # Actor -> last_seen, seconds by phase, steps since the last summary.
        self._actors: dict[int, dict[str, Any]] = {}
        self._hosts: dict[int, str] = {}
        self._failures: dict[int, str] = {}  # actor -> why it ended
        self._phases_before: dict[int, dict[str, float]] = {}  # seconds by phase at the last summary

    def expect(self, actors: int) -> None:
        """Keeps room for actors 0 .. actors-1."""
        self._expected = actors

    def set_host(self, actor: int, host: str) -> None:
        """The host that this actor named at its handshake. RefusedError if there are too many actors."""
        with self._lock:
            self._admit(actor)
            self._hosts[actor] = shown(host, MAX_HOST_CHARACTERS)
            self._failures.pop(actor, None)  # it is back

    def set_failure(self, actor: int, line: str) -> str:
        """What this actor said about its environments before it ended, as it may be shown."""
        with self._lock:
            self._admit(actor)
            self._failures[actor] = shown(line, MAX_FAILURE_CHARACTERS)
            return self._failures[actor]

    def failure(self, actor: int) -> str:
        """Why this actor ended; empty if it is not known to have ended."""
        with self._lock:
            return self._failures.get(actor, "")

    def all_on(self, host: str) -> bool:
        """Whether there are actors, all of them on this host."""
        with self._lock:
            return set(self._hosts.values()) == {host}

    def record(self, actor: int, phases: dict[str, float], steps: int) -> None:
        """`phases` are the actor's seconds by phase since it connected; `steps` are those that just arrived.

        RefusedError if there are too many actors.
        """
        with self._lock:
            self._admit(actor)
            known = self._actors.setdefault(actor, {"steps": 0})
            known |= {"last_seen": time.monotonic(), "phases": phases, "steps": known["steps"] + steps}

    def last_seen(self) -> dict[int, float]:
        """When the last trajectories of each actor arrived."""
        with self._lock:
            return {actor: known["last_seen"] for actor, known in self._actors.items()}

    def _admit(self, actor: int) -> None:
        """Makes room for an actor that is new, in place of the one that was silent longest."""
        now = time.monotonic()
        if actor not in self._heard and actor >= self._expected and len(self._heard) >= MAX_ACTORS:
            silent = min(self._heard, key=self._heard.__getitem__)
            if now - self._heard[silent] < FORGET_SECONDS:
                raise RefusedError("actor", f"this learner has {len(self._heard)} actors already, the limit")
            for table in (self._heard, self._actors, self._hosts, self._failures, self._phases_before):
                table.pop(silent, None)
        self._heard[actor] = now

    def summarize(self, elapsed: float) -> list[dict[str, Any]]:
        """One entry per actor; shares of its time by phase if it reported before and after the last summary."""
        with self._lock:
            return [self._summary(actor, elapsed) for actor in self._actors]

    def _summary(self, actor: int, elapsed: float) -> dict[str, Any]:
        known = self._actors[actor]
        phases, before = known["phases"], self._phases_before.get(actor)
        self._phases_before[actor] = phases
        summary: dict[str, Any] = {"task": actor, "host": self._hosts.get(actor, "?"), "rate": known["steps"] / elapsed}
        summary["silent"] = time.monotonic() - known["last_seen"]
        known["steps"] = 0
        # The total shrinks when an actor was restarted: its clock started again.
        if before is not None and (total := sum(phases.values()) - sum(before.values())) > 0:
            summary["shares"] = {name: (seconds - before[name]) / total for name, seconds in phases.items()}
        return summary
