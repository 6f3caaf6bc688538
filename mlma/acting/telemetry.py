"""How fast an actor plays, said now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.phase_timer import PhaseTimer

LOG_INTERVAL_SECONDS = 30.0


class ThroughputLogger:
    """Says now and then how fast this actor plays; `mlma.cluster.commands.status` reads it."""

    def __init__(self, frames: int, say: Callable[[str], None]) -> None:
        """`frames` are those of one `add`."""
        self._frames, self._say = frames, say
        self._count, self._since = 0, time.monotonic()
        self.total = 0  # frames

    def add(self) -> None:
        self._count += 1
        self.total += self._frames
        if (seconds := time.monotonic() - self._since) > LOG_INTERVAL_SECONDS:
            self._say(f"{self._count * self._frames / seconds:,.0f} frames/s")
            self._count, self._since = 0, time.monotonic()


class Instruments(NamedTuple):
    """Those who look on while an actor plays."""

    phases: PhaseTimer
    pulse: Heartbeat
    speed: ThroughputLogger
