"""How busy the cores of this process are, and how much time its processes have taken of them."""

from __future__ import annotations

import os
from pathlib import Path


class CpuUsage:
    """The share of time that the cores of this process were busy, with any process, since the previous call."""

    def __init__(self) -> None:
        self._cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        self._before = self._read()

    def __call__(self) -> float:
        before, self._before = self._before, self._read()
        if before is None or self._before is None:
            return float("nan")
        total, idle = (now - then for now, then in zip(self._before, before, strict=True))
        return 1 - idle / total if total > 0 else float("nan")

    def _read(self) -> tuple[float, float] | None:
        """Ticks in total, and idle ticks; None if the kernel does not say, e.g. without a free descriptor."""
        total = idle = 0.0
        try:
            with open("/proc/stat") as file:
                for name, *ticks in map(str.split, file):
                    if name in self._cores:
                        total += sum(map(int, ticks[:8]))  # guest time is part of user time
                        idle += int(ticks[3]) + int(ticks[4])
        except OSError:
            return None
        return total, idle


class CoreSeconds:
    """The CPU seconds of this process and of all its descendants since they started: a learner with its local actors.

    Of processes that have ended, what their parent knows. Never smaller than at the call before: the time of a process
    that ends while it is read counts at the next call.
    """

    def __init__(self) -> None:
        self._seconds, self._tick = 0.0, os.sysconf("SC_CLK_TCK")

    def __call__(self) -> float:
        ticks, pending = 0, [os.getpid()]
        while pending:
            process = Path("/proc") / str(pending.pop())
            try:
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))  # user and system time, its own and that of children that ended
                for children in process.glob("task/*/children"):
                    pending += map(int, children.read_text().split())
            except OSError:  # it has just ended
                continue
        self._seconds = max(self._seconds, ticks / self._tick)
        return self._seconds
