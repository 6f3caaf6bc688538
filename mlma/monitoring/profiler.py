"""--profile: a TensorFlow profile of the learner, and a trace of the learner and actor 0 on one time axis.

The trace is logdir/profile/trace.json in Chrome's format, for ui.perfetto.dev or chrome://tracing. TensorBoard with the
plug-in xprof shows the profile. The actor sends the phases of each trajectory with it, in the learner's time: the
handshake measures the difference between their clocks to within half of its round trip.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlma.monitoring.episode_statistics import Row
from mlma.monitoring.phase_timer import Event
from mlma.utils.atomic_file import atomic_write
from mlma.utils.own_files import make_own_folder

logger = logging.getLogger(__name__)

WARM_UP_REPORTS = 3  # reports with working actors before the profile starts
LEARNER, RECEIVER, ACTOR = "learner", "receiver", "actor 0"
TRACKS = {LEARNER: (1, 1, "learner process"), RECEIVER: (1, 2, "learner process"), ACTOR: (2, 1, "actor process")}


Record = Callable[[list[Event] | None], None]  # records events into the list from now on; None stops it


class Profiler:
    """A report listener that takes one profile, after a few reports with working actors."""

    name = "the profile"

    def __init__(self, logdir: Path, seconds: float, recorders: Mapping[str, Record]) -> None:
        """`recorders` start and stop the recording of each of `TRACKS`."""
        self._folder, self._seconds, self._recorders = logdir / "profile", seconds, recorders
        self._warm, self._began, self._end = 0, 0.0, 0.0
        self._events: dict[str, list[Event]] = {}

    def on_report(self, row: Row) -> None:
        """Starts and ends the profile when it is time."""
        self._warm += row["actors/count"] > 0
        if self._warm == WARM_UP_REPORTS and not self._events:
            self._start()
        elif self._end and time.monotonic() >= self._end:
            self._finish()

    def close(self, finished: bool) -> None:
        """Writes what was recorded if the run ends first."""
        self._finish()

    def _start(self) -> None:
        logger.info("profile of %g s starts", self._seconds)
        make_own_folder(self._folder)
        tf.profiler.experimental.start(str(self._folder))
        self._began, self._end = time.time(), time.monotonic() + self._seconds
        self._events = {track: [] for track in TRACKS}
        for track, events in self._events.items():
            self._recorders[track](events)

    def _finish(self) -> None:
        if not self._end:
            return
        self._end = 0.0
        for track in TRACKS:
            self._recorders[track](None)
        tf.profiler.experimental.stop()
        with atomic_write(self._folder / "trace.json") as file:
            file.write(json.dumps(chrome_trace(self._events, self._began)).encode())
        logger.info("profile written to %s", self._folder)


def chrome_trace(events: dict[str, list[Event]], first: float) -> dict[str, Any]:
    """The events that started after `first` in Chrome's format, in microseconds since then."""
    made: list[dict[str, Any]] = []
    for track, found in events.items():
        pid, tid, process = TRACKS[track]
        made.append({"ph": "M", "name": "process_name", "pid": pid, "tid": tid, "args": {"name": process}})
        made.append({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": track}})
        made += [
            {"ph": "X", "name": name, "ts": 1e6 * (began - first), "dur": 1e6 * seconds, "pid": pid, "tid": tid}
            for name, began, seconds in found
            if began >= first
        ]
    return {"traceEvents": made, "displayTimeUnit": "ms"}
