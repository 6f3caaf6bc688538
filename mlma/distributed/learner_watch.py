"""Watches the learners that this machine's launcher has started: says when none of them moves any more.

A learner that hangs alone is named by the others (mlma/distributed/hang_detector.py). If all are stopped, or hang so
that not even their threads run, nobody is left among them who could; this looks at their heartbeats from outside. Not
here: the heartbeats (mlma/monitoring/heartbeat.py), what the launcher does about it (mlma/distributed/mpi_launcher.py).
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from mlma.utils.child_process import is_stopped, process_start_time

STUCK_SECONDS = 120.0  # minimum after which a call that all learners have made counts as stuck: a first step takes long
START_SECONDS = 600.0  # for all learners to import TensorFlow and find each other
ANSWER_SECONDS = 15.0  # for the learners themselves to name the one that hangs


class LearnerWatch:
    """The heartbeats of `count` learners in `folder`, from the moment they are started."""

    def __init__(self, folder: Path, count: int, hang_seconds: float) -> None:
        self._folder, self._count, self._hang_seconds = folder, count, hang_seconds
        self._began = time.monotonic()
        self._complete = False  # whether all learners have been seen: one that is missing after that has ended

    def find_hung(self) -> str:
        """What is wrong, in words, if no learner has given a sign of life for too long; else empty."""
        records = self._records()
        if len(records) < self._count:
            waited = time.monotonic() - self._began
            if self._complete or waited < START_SECONDS:
                return ""
            missing = [str(rank) for rank in range(self._count) if f"learner-{rank}" not in records]
            return f"no sign of life of learner {', '.join(missing)}, started {waited:.0f} s ago"
        self._complete = True
        silent = time.monotonic() - max(record["beat"] for record in records.values())
        names = ", ".join(f"{name} (process {record['pid']})" for name, record in sorted(records.items()))
        if all(is_stopped(record["pid"]) for record in records.values()):
            return f"all learners are stopped, for {silent:.0f} s: {names}" if silent > self._hang_seconds else ""
        allowed = max(STUCK_SECONDS, 3 * self._hang_seconds, *(record["may_be_silent"] for record in records.values()))
        if silent > allowed + ANSWER_SECONDS:
            return f"no learner has moved for {silent:.0f} s: {names}"
        return ""

    def _records(self) -> dict[str, dict[str, Any]]:
        """Name -> heartbeat of the learners that run now; a file may be left from an earlier run."""
        records = {}
        for path in self._folder.glob("learner-*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = json.loads(path.read_text())
                if process_start_time(record["pid"]) == record["birth"]:
                    records[path.stem] = record
        return records
