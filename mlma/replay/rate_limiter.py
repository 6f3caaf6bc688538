"""Keeps the replay ratio: the number of steps trained on per step that actors insert.

The learner waits while too few steps have been inserted; actors wait (in `insert`, through the transport's inbox and
their own `put`) while too few have been trained on. Never do both wait. Learning starts once the replay holds
`min_fill` steps; these do not count for the ratio, since otherwise learning would start with a burst on data from
untrained weights.

Deviation: in Ape-X and R2D2 actors and learner run freely, and the ratio follows from their speeds. Here it is a
setting, so that results do not depend on the speed of the machine.

Not here: the data (mlma/replay/prioritized_replay.py).
"""

from __future__ import annotations

import logging
import threading
import time

logger = logging.getLogger(__name__)

LOG_INTERVAL_SECONDS = 5.0  # time between two log lines while the replay fills


class RateLimiter:
    """Allows `ratio` steps to be trained on for each step inserted; a sample trains on `steps_per_sample` steps."""

    MAX_SAMPLES_AHEAD = 2  # samples that inserted steps may allow before actors have to wait

    def __init__(self, ratio: float, min_fill: int, steps_per_sample: int) -> None:
        self._ratio, self._min_fill, self._steps_per_sample = ratio, min_fill, steps_per_sample
        self._changed = threading.Condition()
        self._fill = 0  # steps inserted or restored before learning started
        self._started = False
        self._inserted = self._trained = 0  # steps since learning started
        self._last_log, self._logged_start = time.monotonic(), False
        self.closed = False

    @property
    def ratio(self) -> float:
        """Steps trained on per step inserted, since learning started."""
        return self._trained / self._inserted if self._inserted else 0.0

    @property
    def _budget(self) -> float:
        """Steps that the learner may train on now."""
        return self._ratio * self._inserted - self._trained

    def wait_to_insert(self) -> bool:
        """Waits until actors may insert; False once closed."""
        with self._changed:
            while self._started and self._budget >= self.MAX_SAMPLES_AHEAD * self._steps_per_sample and not self.closed:
                self._changed.wait(1.0)
            return not self.closed

    def inserted(self, steps: int, restored: bool = False) -> None:
        """Counts inserted steps. Steps `restored` from a snapshot count for the minimum fill only."""
        with self._changed:
            if self._started and not restored:
                self._inserted += steps
            else:
                self._fill += steps
                self._started = self._fill >= self._min_fill
            just_started = self._started and not self._logged_start
            log = just_started or (not self._started and time.monotonic() > self._last_log + LOG_INTERVAL_SECONDS)
            if log:
                self._last_log, self._logged_start = time.monotonic(), self._started
            self._changed.notify_all()
        if log:
            logger.info("replay holds %s steps; learning begins at %s", f"{self._fill:,}", f"{self._min_fill:,}")

    def wait_to_sample(self, timeout: float) -> bool:
        """Waits until the learner may take a sample; False if it may not within `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._changed:
            while not (self._started and self._budget >= self._steps_per_sample):
                left = end - time.monotonic()
                if left <= 0 or self.closed:
                    return False
                self._changed.wait(left)
            return True

    def sampled(self) -> None:
        """Counts one sample."""
        with self._changed:
            self._trained += self._steps_per_sample
            self._changed.notify_all()

    def close(self) -> None:
        """Releases every wait."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
