"""Where a loop's time goes, measured always: each moment belongs to the phase that it ends with.

Not here: what the shares mean (mlma/monitoring/bottleneck.py).
"""

from __future__ import annotations

import os
import time
from typing import Any

Event = tuple[str, float, float]  # phase, when it began (seconds since 1970), how long it took
ACTOR_PHASES = (
    "simulate",
    "infer",
    "send",
    "wait",
    "fetch",
)  # send: fill and pack; wait: for the message before to be accepted


class PhaseTimer:
    """Seconds by phase since it was made; each one as an event, too, while there is a list for them."""

    def __init__(self, *names: str) -> None:
        self.seconds = dict.fromkeys(names, 0.0)
        self.events: list[Event] | None = None
        self.epoch = time.time() - time.perf_counter()  # what makes one clock of the other
        self._last = time.perf_counter()

    def told(self) -> dict[str, Any]:
        """What an actor tells its learner; events once."""
        events, self.events = self.events, self.events and []
        return {"phases": self.seconds} | ({"events": events} if events else {})

    def end(self, name: str) -> None:
        """What was done since the last call was this."""
        now = time.perf_counter()
        self.seconds[name] += now - self._last
        if self.events is not None:
            self.events.append((name, self.epoch + self._last, now - self._last))
        self._last = now

    def move(self, name: str, other: str, seconds: float) -> None:
        """So much of what was ended as the one was the other."""
        self.seconds[name] -= seconds
        self.seconds[other] += seconds


class CpuUsage:
    """The share of time, since it was asked last, that the cores which this process may use were busy, with whatever."""

    def __init__(self) -> None:
        self._cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        self._before = self._read()

    def __call__(self) -> float:
        before, self._before = self._before, self._read()
        total, idle = (now - then for now, then in zip(self._before, before, strict=True))
        return 1 - idle / total if total > 0 else float("nan")

    def _read(self) -> tuple[float, float]:
        """Ticks in all, and idle ones."""
        total = idle = 0.0
        with open("/proc/stat") as file:
            for name, *ticks in map(str.split, file):
                if name in self._cores:
                    total += sum(map(int, ticks[:8]))  # what guests take is in them already
                    idle += int(ticks[3]) + int(ticks[4])
        return total, idle
