"""What an actor reports about itself while it acts."""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.phase_timer import PhaseTimer

logger = logging.getLogger(__name__)

LOG_INTERVAL_SECONDS = 30.0


class ThroughputLogger:
    """Logs the throughput of this actor periodically; the frontend's `status` reads these lines."""

    def __init__(self, frames: int) -> None:
        """`frames` are those of one `add`."""
        self._frames = frames
        self._count, self._since = 0, time.monotonic()
        self.total = 0  # frames

    def add(self) -> None:
        """Counts one set of trajectories."""
        self._count += 1
        self.total += self._frames
        if (seconds := time.monotonic() - self._since) > LOG_INTERVAL_SECONDS:
            logger.info("%s frames/s", f"{self._count * self._frames / seconds:,.0f}")
            self._count, self._since = 0, time.monotonic()


class LevelCacheReport:
    """What the environments' level cache did since the previous report, if they have one."""

    def __init__(self, env: Any) -> None:
        self._counts = getattr(env, "level_cache_counts", lambda: (0, 0))  # hits and misses so far
        self._before = [0, 0]

    def news(self) -> dict[str, list[int]]:
        """The field of a message's header with new hits and misses; empty without any. They are in one message only."""
        counts = [int(count) for count in self._counts()]
        news = [count - before for count, before in zip(counts, self._before, strict=True)]
        self._before = counts
        return {"level_cache": news} if any(news) else {}


class Instruments(NamedTuple):
    """What measures an actor."""

    timer: PhaseTimer
    heartbeat: Heartbeat
    throughput: ThroughputLogger
    level_cache: LevelCacheReport
