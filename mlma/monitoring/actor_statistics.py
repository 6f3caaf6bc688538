"""What a learner knows of its actors: host, throughput, and how they spend their time."""

from __future__ import annotations

import threading
import time
from typing import Any


class ActorStatistics:
    """One thread records, another summarizes at each report."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Actor -> last_seen, seconds by phase, steps since the last summary.
        self._actors: dict[int, dict[str, Any]] = {}
        self._hosts: dict[int, str] = {}
        self._phases_before: dict[int, dict[str, float]] = {}  # seconds by phase at the last summary

    def set_host(self, actor: int, host: str) -> None:
        """The host that this actor named at its handshake."""
        with self._lock:
            self._hosts[actor] = host

    def all_on(self, host: str) -> bool:
        """Whether there are actors, all of them on this host."""
        with self._lock:
            return set(self._hosts.values()) == {host}

    def record(self, actor: int, phases: dict[str, float], steps: int) -> None:
        """`phases` are the actor's seconds by phase since it connected; `steps` are those that just arrived."""
        with self._lock:
            known = self._actors.setdefault(actor, {"steps": 0})
            known |= {"last_seen": time.monotonic(), "phases": phases, "steps": known["steps"] + steps}

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
