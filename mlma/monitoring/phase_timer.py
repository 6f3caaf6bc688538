"""Where the time of a loop goes: seconds by phase, measured always.

Not here: what the shares mean (mlma/monitoring/bottleneck.py), a trace of all phases (mlma/monitoring/profiler.py).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

Event = tuple[str, float, float]  # phase, start (seconds since 1970), duration in seconds
ACTOR_PHASES = (
    "simulate",
    "infer",
    "send",
    "wait",
    "fetch",
)  # send: fill and pack; wait: until the previous message is accepted
MAX_EVENTS = 4000  # in one message


class PhaseTimer:
    """Seconds by phase since its creation, and the phase at the moment. Records each phase as an event while asked to.

    A loop whose phases follow each other calls `lap` at the end of each. A loop with time in between uses `phase`.
    """

    def __init__(self, *names: str) -> None:
        self.seconds = dict.fromkeys(names, 0.0)
        self._events: list[Event] | None = None
        self._clock_offset = time.time() - time.perf_counter()  # perf_counter + offset is seconds since 1970
        self._last_lap = time.perf_counter()
        self._current, self._current_since = "", time.monotonic()

    @property
    def current(self) -> tuple[str, float]:
        """The phase at the moment, and for how many seconds so far; "" outside any phase."""
        return self._current, time.monotonic() - self._current_since

    def lap(self, name: str) -> None:
        """Attributes the time since the previous call to phase `name`."""
        now = time.perf_counter()
        self.seconds[name] += now - self._last_lap
        if self._events is not None:
            self._events.append((name, self._clock_offset + self._last_lap, now - self._last_lap))
        self._last_lap = now

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attributes the time within the `with` block to phase `name`."""
        outer, began = self._current, time.perf_counter()
        self._current, self._current_since = name, time.monotonic()
        yield
        self._current, self._current_since = outer, time.monotonic()
        self.add([(name, self._clock_offset + began, time.perf_counter() - began)])

    def add(self, events: Iterable[Event]) -> None:
        """Adds phases that were timed elsewhere; they may be parts of others."""
        for event in events:
            name, _, seconds = event
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            if self._events is not None:
                self._events.append(event)

    def reattribute(self, name: str, other: str, seconds: float) -> None:
        """Reattributes `seconds` from phase `name` to phase `other`."""
        self.seconds[name] = self.seconds.get(name, 0.0) - seconds
        self.seconds[other] = self.seconds.get(other, 0.0) + seconds

    def record_events(self, events: list[Event] | None, clock_offset: float = 0.0) -> None:
        """Appends each phase to `events` from now on, its start shifted by `clock_offset`; None stops it."""
        self._events = events
        self._clock_offset += clock_offset

    def snapshot(self) -> dict[str, Any]:
        """What an actor reports to its learner: seconds by phase, and the last events since the previous snapshot."""
        events, self._events = self._events, None if self._events is None else []
        return {"phases": self.seconds} | ({"events": events[-MAX_EVENTS:]} if events else {})
