"""--profile: a TensorFlow profile of the learner, and a trace of what it and actor 0 do, on one time axis.

The trace is logdir/profile/trace.json in Chrome's format, for ui.perfetto.dev or chrome://tracing; TensorBoard with the plug-in
xprof shows the profile. The actor sends the phases of a trajectory with it, in the learner's time: the difference between
their clocks is measured at the handshake, to within half of its round trip. Not here: the phases (mlma/monitoring/phase_timer.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlma.core.config.config import Config
from mlma.monitoring.metrics import Row
from mlma.monitoring.phase_timer import Event

WARM_UP_REPORTS = 3  # reports in which actors have sent something, before the profile is taken
LEARNER, RECEIVER, ACTOR = "learner", "receiver", "actor 0"
TRACKS = {LEARNER: (1, 1, "learner process"), RECEIVER: (1, 2, "learner process"), ACTOR: (2, 1, "actor process")}


class Profiler:
    """Called with each report; takes one profile and is done."""

    def __init__(self, config: Config, collect: Callable[[str, list[Event] | None], None], say: Callable[[str], None]) -> None:
        """`collect(who, events)` makes somebody note in `events` what it does; with None, no more."""
        self._folder, self._seconds = Path(config.logdir) / "profile", config.profile
        self._collect, self._say = collect, say
        self._warm, self._began, self._end = 0, 0.0, 0.0
        self._events: dict[str, list[Event]] = {}

    def __call__(self, row: Row) -> None:
        self._warm += row["actors/count"] > 0
        if self._warm == WARM_UP_REPORTS and not self._events:
            self._begin()
        elif self._end and time.monotonic() >= self._end:
            self.end(whole=True)

    def _begin(self) -> None:
        self._say(f"profile of {self._seconds:g} s begins")
        self._began, self._end = time.time(), time.monotonic() + self._seconds
        self._folder.mkdir(parents=True, exist_ok=True)
        tf.profiler.experimental.start(str(self._folder))
        self._events = {who: [] for who in TRACKS}
        for who, events in self._events.items():
            self._collect(who, events)

    def end(self, whole: bool) -> None:
        """Writes what there is."""
        if not self._end:
            return
        self._end = 0.0
        for who in TRACKS:
            self._collect(who, None)
        tf.profiler.experimental.stop()
        path = self._folder / "trace.json"
        path.write_text(json.dumps(chrome_trace(self._events, self._began)))
        self._say(f"profile written to {self._folder}")


def chrome_trace(events: dict[str, list[Event]], first: float) -> dict[str, Any]:
    """Chrome's trace of what began after `first`, in microseconds since then."""
    made: list[dict[str, Any]] = []
    for who, found in events.items():
        pid, tid, process = TRACKS[who]
        made.append({"ph": "M", "name": "process_name", "pid": pid, "tid": tid, "args": {"name": process}})
        made.append({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": who}})
        made += [
            {"ph": "X", "name": name, "ts": 1e6 * (began - first), "dur": 1e6 * seconds, "pid": pid, "tid": tid}
            for name, began, seconds in found
            if began >= first
        ]
    return {"traceEvents": made, "displayTimeUnit": "ms"}
