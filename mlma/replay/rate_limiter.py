"""The replay-ratio controller: how many steps are trained on for each one that actors insert, and who waits to keep it so.

Counts both sides. The learner waits while too little has been inserted, the actors (through `insert`, the transport's inbox and
their own `put`) while too little has been trained on; never both at once. Learning begins at `min_fill`, which buys no samples.
Not here: what is inserted (mlma/replay/prioritized_replay.py).
"""

from __future__ import annotations

import logging
import threading
import time

logger = logging.getLogger(__name__)

LOG_INTERVAL_SECONDS = 5.0  # seconds between two lines while the replay fills


class RateLimiter:
    """`ratio` steps trained on for each step inserted; a sample trains on `sample_steps`."""

    AHEAD = 2  # samples that actors may be ahead of the learner

    def __init__(self, ratio: float, min_fill: int, sample_steps: int) -> None:
        self._ratio, self._min_fill, self._sample_steps = ratio, min_fill, sample_steps
        self._changed = threading.Condition()
        self._fill = 0  # steps inserted or restored, until learning begins
        self._begun = False
        self._inserted = self._trained = 0  # since then
        self._told, self._told_all = time.monotonic(), False
        self.closed = False

    @property
    def ratio(self) -> float:
        """What has come of it so far."""
        return self._trained / self._inserted if self._inserted else 0.0

    @property
    def _owed(self) -> float:
        return self._ratio * self._inserted - self._trained

    def wait_to_insert(self) -> bool:
        """False once closed."""
        with self._changed:
            while self._begun and self._owed >= self.AHEAD * self._sample_steps and not self.closed:
                self._changed.wait(1.0)
            return not self.closed

    def inserted(self, steps: int, restored: bool = False) -> None:
        with self._changed:
            if self._begun and not restored:
                self._inserted += steps
            else:
                self._fill += steps
                self._begun = self._fill >= self._min_fill
            full = self._begun and not self._told_all
            news = full or (not self._begun and time.monotonic() > self._told + LOG_INTERVAL_SECONDS)
            if news:
                self._told, self._told_all = time.monotonic(), self._begun
            self._changed.notify_all()
        if news:
            logger.info("replay holds %s steps; learning begins at %s", f"{self._fill:,}", f"{self._min_fill:,}")

    def wait_to_sample(self, timeout: float) -> bool:
        """Whether a sample is due within `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._changed:
            while not (self._begun and self._owed >= self._sample_steps):
                left = end - time.monotonic()
                if left <= 0 or self.closed:
                    return False
                self._changed.wait(left)
            return True

    def sampled(self) -> None:
        with self._changed:
            self._trained += self._sample_steps
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()
