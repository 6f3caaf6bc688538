"""How busy the cores of this process are."""

from __future__ import annotations

import os


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
