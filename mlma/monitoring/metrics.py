"""The metrics of a run: collected at every step, reported every few seconds to console, TensorBoard and CSV.

One row per report; its names are the columns of metrics.csv and the tags of TensorBoard (docs/reference/metrics.md).
Not here: how a row looks on a terminal (mlma/monitoring/console.py), where else it goes (mlma/monitoring/loggers/),
what the phases mean (mlma/monitoring/bottleneck.py).
"""

from __future__ import annotations

import collections
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mlma.monitoring.actor_statistics import ActorStatistics
from mlma.monitoring.bottleneck import LEARNER_PHASES
from mlma.monitoring.episode_statistics import EpisodeStatistics, Row
from mlma.monitoring.phase_timer import ACTOR_PHASES, PhaseTimer
from mlma.monitoring.refusals import Refusals
from mlma.utils.side_task import SideTask

Gather = Callable[[bytes], list[bytes]]  # what each rank passed, by rank
ACTOR_TIMEOUT_SECONDS = 60.0  # an actor that was silent for longer is not counted


class WeightsDivergedError(Exception):
    """Learners have different weights, which is impossible with averaged gradients."""


class ReportListener(Protocol):
    """Receives each report of a run: a logger, or a task that depends on progress.

    It may fail: that is logged once under its `name`, or else its type's, and the next report is a new attempt.
    """

    def on_report(self, row: Row) -> None:
        """Called after each report, on the learner that reports."""
        ...

    def close(self, finished: bool) -> None:
        """Called once at the end; `finished` unless the run was stopped early."""
        ...


class Metrics:
    """Collects from the learner's loop and, for episodes, actors and faults, from the receiver's thread.

    Every learner collects. A report gathers what all have collected; the learner with listeners passes it to them.
    """

    def __init__(
        self,
        timer: PhaseTimer,
        listeners: Sequence[ReportListener],
        every_seconds: float,
        total_frames: float,
        gather: Gather | None = None,
        levels: Sequence[str] = (),
        every_steps: int = 0,
        record_workers: Callable[[list[Any]], None] | None = None,
    ) -> None:
        """Reports `every_seconds`, or `every_steps` if that is given. `timer` is the learner loop's; `record_workers`
        receives a summary of all workers at each report."""
        self.episodes, self.actors = EpisodeStatistics(levels), ActorStatistics()
        self.timer = timer
        self._listeners: list[tuple[SideTask, ReportListener]] = []
        for listener in listeners:
            self.add_listener(listener)
        self._every_seconds, self._every_steps, self._total_frames = every_seconds, every_steps, total_frames
        self._gather = gather or (lambda data: [data])
        self._record_workers, self._workers_task = record_workers, SideTask("workers.json")
        self._gauge_tasks: dict[str, SideTask] = {}
        self._gauges: dict[str, Callable[[], float]] = {}
        self._totals: dict[str, Callable[[], float]] = {}
        self._local_gauges: dict[str, Callable[[], float]] = {}
        self._clocks: dict[str, Callable[[], float]] = {}
        self._clocks_before: dict[str, float] = {}
        self._phases_before: dict[str, float] = {}
        self._lock = threading.Lock()
        self._faults: collections.Counter[str] = collections.Counter()
        self._level_cache = np.zeros(2, np.int64)  # hits, misses
        self.refusals = Refusals(self.count_fault)
        self._started = time.monotonic()
        self._reset(0, 0)

    # -- set-up

    def add_gauges(self, gauges: Mapping[str, Callable[[], float]]) -> None:
        """Values that are read at each report and averaged over all learners."""
        self._gauges |= gauges

    def add_totals(self, totals: Mapping[str, Callable[[], float]]) -> None:
        """Values that are read at each report and summed over all learners."""
        self._totals |= totals

    def add_local_gauges(self, gauges: Mapping[str, Callable[[], float]]) -> None:
        """Values that only the reporting learner has."""
        self._local_gauges |= gauges

    def add_clocks(self, clocks: Mapping[str, Callable[[], float]]) -> None:
        """Seconds that only grow; reported as a share of the time since the last report."""
        self._clocks |= clocks

    def add_listener(self, listener: ReportListener) -> None:
        """Adds a receiver of reports."""
        self._listeners.append((SideTask(getattr(listener, "name", type(listener).__name__)), listener))

    def begin(self, step: int, frames: int, seconds: float) -> None:
        """The counters when training starts or resumes."""
        self._started = time.monotonic() - seconds
        self._reset(step, frames)

    # -- collecting

    @property
    def seconds(self) -> float:
        """Seconds of training, including earlier sessions of a resumed run."""
        return time.monotonic() - self._started

    def add(self, values: dict[str, float]) -> None:
        """The metrics of one learner step. Averaged over a report; names that end in /max take the maximum."""
        for name, value in values.items():
            if name.endswith("/max"):
                self._maxima[name] = max(self._maxima[name], value)
            else:
                self._sums[name] += value
        self._adds += 1

    def count_fault(self, fault: str, times: int = 1) -> None:
        """Counts an event that should not happen, such as a refused message or a restarted actor."""
        if times:
            with self._lock:
                self._faults[fault] += times

    def count_level_cache(self, hits: int, misses: int) -> None:
        """Counts compiled maps that an actor found in its level cache, and those that it did not."""
        with self._lock:
            self._level_cache += hits, misses

    # -- reporting

    def report_due(self, step: int) -> bool:
        """Whether a report is due after this step; the learner with listeners decides for all."""
        if self._every_steps:
            return bool(self._listeners) and step - self._step >= self._every_steps
        return bool(self._listeners) and time.monotonic() - self._since >= self._every_seconds

    def report(self, step: int, frames: int, checksum: Callable[[], int]) -> None:
        """Gathers, checks that all learners have equal weights, and passes the row on. A collective call."""
        elapsed = time.monotonic() - self._since
        own_part = self._part(elapsed) | {"step": step, "frames": frames, "checksum": checksum()}
        parts = [json.loads(data) for data in self._gather(json.dumps(own_part).encode())]
        check_equal_weights(parts)
        self.episodes.merge(parts)
        row = self._row(step, frames, elapsed, parts)
        row |= self._read(self._local_gauges)
        for task, listener in self._listeners:
            task(listener.on_report, row)
        if self._record_workers:
            self._workers_task(self._record_workers, [_worker_summary(rank, part) for rank, part in enumerate(parts)])
        self._reset(step, frames)

    def close(self, finished: bool) -> None:
        """Closes all listeners."""
        for task, listener in self._listeners:
            task(listener.close, finished)

    def _reset(self, step: int, frames: int) -> None:
        self._since = time.monotonic()
        self._step, self._frames = step, frames
        self._sums: collections.defaultdict[str, float] = collections.defaultdict(float)
        self._maxima: collections.defaultdict[str, float] = collections.defaultdict(lambda: -np.inf)
        self._phases_before = dict(self.timer.seconds)
        self._adds = 0

    def _part(self, elapsed: float) -> dict[str, Any]:
        """What this learner has collected since the last report."""
        clocks = {name: clock() for name, clock in self._clocks.items()}
        before, self._clocks_before = self._clocks_before, clocks
        phases = {name: total - self._phases_before.get(name, 0.0) for name, total in self.timer.seconds.items()}
        with self._lock:
            faults, level_cache = dict(self._faults), self._level_cache.tolist()
        return self.episodes.drain() | {
            "actors": self.actors.summarize(elapsed),
            "faults": faults,
            "level_cache": level_cache,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "sums": dict(self._sums),
            "adds": self._adds,
            "maxima": dict(self._maxima),
            "totals": self._read(self._totals),
            "gauges": self._read(self._gauges)
            | {f"learner/{phase}": seconds / elapsed for phase, seconds in phases.items() if seconds}
            | {name: min(1.0, (seconds - before.get(name, 0.0)) / elapsed) for name, seconds in clocks.items()},
        }

    def _read(self, gauges: Mapping[str, Callable[[], float]]) -> dict[str, float]:
        """The values of gauges; NaN for one that cannot be read, e.g. without a free file descriptor."""
        values = {}
        for name, gauge in gauges.items():
            value = self._gauge_tasks.setdefault(name, SideTask(f"the gauge {name}"))(gauge)
            values[name] = float("nan") if value is None else value
        return values

    def _row(self, step: int, frames: int, elapsed: float, parts: list[dict[str, Any]]) -> Row:
        rate = (frames - self._frames) / elapsed
        row: Row = {
            "frames": frames,
            "learner_step": step,
            "seconds": self.seconds,
            "frames_per_second": rate,
            "learner_steps_per_second": (step - self._step) / elapsed,
            "eta_seconds": (self._total_frames - frames) / rate if rate > 0 else float("nan"),
        }
        row |= {name: sum(part["totals"][name] for part in parts) for name in parts[0]["totals"]}
        row |= self.episodes.row()
        row |= _actor_row([actor for part in parts for actor in part["actors"]], elapsed)
        faults: collections.Counter[str] = collections.Counter()
        for part in parts:
            faults.update(part["faults"])
        row |= {f"faults/{name}": count for name, count in sorted(faults.items())}
        hits, misses = np.sum([part["level_cache"] for part in parts], axis=0).tolist()
        if hits or misses:
            row |= {"level_cache/hits": hits, "level_cache/misses": misses}
        for name in parts[0]["gauges"]:
            row[name] = float(np.mean([part["gauges"].get(name, 0.0) for part in parts]))
        if len(parts) > 1:
            row |= _slowest_row(parts)
        adds = max(1, sum(part["adds"] for part in parts))
        for name in _column_names(parts, "sums"):
            row[name] = sum(part["sums"].get(name, 0.0) for part in parts) / adds
        for name in _column_names(parts, "maxima"):
            row[name] = max(part["maxima"].get(name, -np.inf) for part in parts)
        return row


def _actor_row(actors: list[dict[str, Any]], elapsed: float) -> Row:
    shares = [actor["shares"] for actor in actors if "shares" in actor]
    row = {
        f"actors/{name}": float(np.mean([s[name] for s in shares])) if shares else float("nan") for name in ACTOR_PHASES
    }
    row["actors/count"] = sum(actor["silent"] < max(ACTOR_TIMEOUT_SECONDS, elapsed) for actor in actors)
    return row


def _slowest_row(parts: list[dict[str, Any]]) -> Row:
    """The phases of the slowest learner: the one that waits least in the allreduce (mlma/monitoring/bottleneck.py)."""
    rank = min(range(len(parts)), key=lambda r: parts[r]["gauges"].get("learner/allreduce", 0.0))
    gauges = parts[rank]["gauges"]
    phases = {f"slowest/{name}": gauges[f"learner/{name}"] for name in LEARNER_PHASES if f"learner/{name}" in gauges}
    return {"slowest/rank": rank} | phases


def _worker_summary(rank: int, part: dict[str, Any]) -> dict[str, Any]:
    """One learner and its actors, for workers.json."""
    return {"rank": rank} | {name: part[name] for name in ("host", "pid", "gauges", "actors")}


def _column_names(parts: list[dict[str, Any]], kind: str) -> list[str]:
    """All names in order of appearance, each once."""
    return list(dict.fromkeys(name for part in parts for name in part[kind]))


def check_equal_weights(parts: list[dict[str, Any]]) -> None:
    """WeightsDivergedError if learners differ in what averaged gradients keep equal."""
    for name in ("step", "frames", "checksum"):
        values = [part[name] for part in parts]
        if len(set(values)) > 1:
            raise WeightsDivergedError(
                f"learners differ in {name} at step {parts[0]['step']}: {values}, by rank; "
                "restart from the last checkpoint"
            )
