"""What a run tells about itself: collected at every step, reported every few seconds to console, TensorBoard and CSV.

One row per report; its names are the CSV's columns and TensorBoard's tags. Not here: how a row looks on a terminal
(mlma/monitoring/console.py), where else it goes (mlma/monitoring/loggers.py), what the phases mean (mlma/monitoring/bottleneck.py).
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mlma.envs.reference_scores import aggregate, level_range
from mlma.monitoring.bottleneck import LEARNER_PHASES
from mlma.monitoring.phase_timer import ACTOR_PHASES, Event

Row = dict[str, float]
Gather = Callable[[bytes], list[bytes]]  # what each rank gave, by rank
EPISODE_WINDOW = 100  # episodes that the statistics are over
MIN_EPISODES_PER_LEVEL = 5  # episodes of each of several levels, before their mean is compared
ACTOR_TIMEOUT_SECONDS = 60.0  # seconds for which an actor that has sent something counts


class WeightsDivergedError(Exception):
    """Learners have different weights, which averaged gradients cannot do."""


class Metrics:
    """Collects from the learner's loop and, for episodes, actors and faults, from the thread that receives.

    Every learner collects; a report gathers what all have collected, and the one with writers writes it.
    """

    def __init__(
        self,
        writers: list[Callable[[Row], None]],
        every: float,
        total_frames: float,
        gather: Gather | None = None,
        levels: Sequence[str] = (),
        every_steps: int = 0,
    ) -> None:
        """Where there are several levels, what they return is also reported for each of them. Reports `every` seconds, or
        `every_steps` if those are given."""
        self.writers, self._every, self._total_frames = writers, every, total_frames
        self._every_steps = every_steps
        self._gather = gather or (lambda data: [data])
        self._lock = threading.Lock()
        self._episodes: collections.deque[list[float]] = collections.deque(maxlen=EPISODE_WINDOW)  # [return, frames, level]
        self._levels = list(levels) if len(levels) > 1 else []
        self._by_level = [collections.deque[float](maxlen=EPISODE_WINDOW) for _ in self._levels]  # returns
        self._greedy: collections.deque[float] = collections.deque(maxlen=EPISODE_WINDOW)  # returns of those that explore least
        self._episode_count = 0
        self._ended: list[list[float]] = []  # of this learner, since the last report
        self._ended_greedy: list[float] = []
        self._actors: dict[int, dict[str, Any]] = {}  # actor -> when it was heard, seconds by phase, steps
        self._hosts: dict[int, str] = {}
        self._actors_before: dict[int, dict[str, float]] = {}  # seconds by phase at the last report
        self.record_workers: Callable[[list[Any]], None] | None = None
        self.gauges: dict[str, Callable[[], float]] = {}
        self.own: dict[str, Callable[[], float]] = {}  # gauges of the learner that writes
        self.events: list[Event] | None = None  # of the learner's loop, while somebody wants them
        self.clocks: dict[str, Callable[[], float]] = {}  # seconds in all, reported as a share of the time
        self._clocks_before: dict[str, float] = {}
        self._counts: collections.Counter[str] = collections.Counter()
        self._started = time.monotonic()
        self._reset(0, 0)

    def _reset(self, step: int, frames: int) -> None:
        self._since = time.monotonic()
        self._step, self._frames = step, frames
        self._sums: collections.defaultdict[str, float] = collections.defaultdict(float)
        self._maxima: collections.defaultdict[str, float] = collections.defaultdict(lambda: -np.inf)
        self._seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
        self._adds = 0

    def begin(self, step: int, frames: int, seconds: float) -> None:
        """Where the counters stand when training starts, or goes on."""
        self._started = time.monotonic() - seconds
        self._reset(step, frames)

    @property
    def seconds(self) -> float:
        """Of training, sessions before this one included."""
        return time.monotonic() - self._started

    def add(self, values: dict[str, float]) -> None:
        """The metrics of one learner step: averaged, names that end in /max aside."""
        for name, value in values.items():
            if name.endswith("/max"):
                self._maxima[name] = max(self._maxima[name], value)
            else:
                self._sums[name] += value
        self._adds += 1

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a part of the learner's loop, reported as its share of the time."""
        began, started = time.time(), time.perf_counter()
        yield
        self.spent([(name, began, time.perf_counter() - started)])

    def episodes(
        self, returns: Iterable[float], frames: Iterable[int], greedy: Iterable[bool] = (), levels: Iterable[int] = ()
    ) -> None:
        """`greedy` tells for each whether it was played with little exploration, where there is more and less of it;
        `levels` which one it was, where there are several."""
        with self._lock:
            each = itertools.zip_longest(returns, frames, levels, fillvalue=0)
            self._ended += [[r, f, level] for r, f, level in each]
            self._ended_greedy += [r for r, little in zip(returns, greedy, strict=False) if little]

    def spent(self, events: Iterable[Event]) -> None:
        """Adds to phases of the learner's loop; those that were timed elsewhere may be parts of others."""
        for name, began, seconds in events:
            self._seconds[name] += seconds
            if self.events is not None and seconds > 0:
                self.events.append((name, began, seconds))

    def actor_on(self, task: int, host: str) -> None:
        with self._lock:
            self._hosts[task] = host

    def actors_only_on(self, host: str) -> bool:
        """Whether this learner's actors are all on this host, and there are some."""
        with self._lock:
            return set(self._hosts.values()) == {host}

    def actor(self, task: int, phases: dict[str, float], steps: int) -> None:
        """`phases` is how many seconds this actor has spent on what since it connected; `steps` are those that came now."""
        with self._lock:
            known = self._actors.setdefault(task, {"steps": 0})
            known |= {"heard": time.monotonic(), "phases": phases, "steps": known["steps"] + steps}

    def count(self, fault: str, times: int = 1) -> None:
        """Counts what should not happen: messages refused, actors restarted."""
        if times:
            with self._lock:
                self._counts[fault] += times

    def mean_return(self) -> float:
        """Of the last games of all learners, as last reported; of those with little exploration if there is a difference;
        of several levels their mean score, or where some have none, the mean of their means."""
        if self._levels:
            row = self._level_row()
            return row.get("score/mean", row.get("return/mean_of_levels", math.nan))
        if self._greedy:
            return float(np.mean(self._greedy))
        return float(np.mean([r for r, *_ in self._episodes])) if self._episodes else float("nan")

    def full_window(self) -> bool:
        """Whether enough games have ended to compare their mean: a window of them, and of several levels some of each."""
        return len(self._episodes) == EPISODE_WINDOW and all(
            len(returns) >= MIN_EPISODES_PER_LEVEL for returns in self._by_level
        )

    def due(self, step: int) -> bool:
        """Whether a report is wanted after this step; the one that writes decides."""
        late = step - self._step >= self._every_steps if self._every_steps else time.monotonic() - self._since >= self._every
        return bool(self.writers) and late

    def report(self, step: int, frames: int, checksum: Callable[[], int]) -> None:
        """Gathers, checks that all learners have the same weights, writes. All ranks call it together."""
        elapsed = time.monotonic() - self._since
        mine = self._part(elapsed) | {"step": step, "frames": frames, "checksum": checksum()}
        parts = [json.loads(data) for data in self._gather(json.dumps(mine).encode())]
        check_equal_weights(parts)
        for part in parts:
            self._episodes.extend(part["ended"])
            for value, _, level in part["ended"]:
                if self._levels:
                    self._by_level[int(level)].append(value)
            self._episode_count += len(part["ended"])
            self._greedy.extend(part.get("greedy", []))
        row = self._row(step, frames, elapsed, parts)
        row |= {name: value() for name, value in self.own.items()}
        for write in self.writers:
            write(row)
        if self.record_workers:
            self.record_workers([{"rank": rank, **_worker_summary(part)} for rank, part in enumerate(parts)])
        self._reset(step, frames)

    def _level_row(self) -> Row:
        """By level, the mean return of its last games and their human-normalised score; over those levels that have one."""
        means = {name: float(np.mean(r)) for name, r in zip(self._levels, self._by_level, strict=True) if r}
        if not means:
            return {}
        normal = {name: known.normalised(mean) for name, mean in means.items() if (known := level_range(name))}
        row = {f"level_return/{name}": mean for name, mean in means.items()}
        row |= {f"level_score/{name}": score for name, score in normal.items()}
        row["return/mean_of_levels"] = float(np.mean(list(means.values())))
        if len(normal) == len(means):
            score = aggregate(normal)
            row |= {"score/mean": score.mean, "score/median": score.median}
            row |= {"score/capped": score.mean_capped, "score/levels": len(normal)}
        return row

    def _part(self, elapsed: float) -> dict[str, Any]:
        """What this learner has collected since the last report."""
        with self._lock:
            part: dict[str, Any] = {"ended": self._ended, "greedy": self._ended_greedy, "actors": self._actor_shares(elapsed)}
            part |= {"counts": dict(self._counts), "host": os.uname().nodename, "pid": os.getpid()}
            self._ended, self._ended_greedy = [], []
        clocks = {name: clock() for name, clock in self.clocks.items()}
        before, self._clocks_before = self._clocks_before, clocks
        return part | {
            "sums": dict(self._sums),
            "adds": self._adds,
            "maxima": dict(self._maxima),
            "gauges": {name: gauge() for name, gauge in self.gauges.items()}
            | {f"learner/{phase}": seconds / elapsed for phase, seconds in self._seconds.items()}
            | {name: min(1.0, (seconds - before.get(name, 0.0)) / elapsed) for name, seconds in clocks.items()},
        }

    def _actor_shares(self, elapsed: float) -> list[dict[str, Any]]:
        """Of each actor: its phases as shares of the time since the last report, where it was heard twice since then."""
        found = []
        for task, actor in self._actors.items():
            phases, before = actor["phases"], self._actors_before.get(task)
            self._actors_before[task] = phases
            told: dict[str, Any] = {"task": task, "host": self._hosts.get(task, "?"), "rate": actor["steps"] / elapsed}
            told["silent"] = time.monotonic() - actor["heard"]
            actor["steps"] = 0
            if before is not None and (total := sum(phases.values()) - sum(before.values())) > 0:  # else it is another life
                told["shares"] = {name: (seconds - before[name]) / total for name, seconds in phases.items()}
            found.append(told)
        return found

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
        row |= _episode_row(self._episodes, self._episode_count) | self._level_row()
        if self._greedy:
            row["return/greedy"] = float(np.mean(self._greedy))
        actors = [actor for part in parts for actor in part["actors"]]
        shares = [actor["shares"] for actor in actors if "shares" in actor]
        for name in ACTOR_PHASES:
            row[f"actors/{name}"] = float(np.mean([share[name] for share in shares])) if shares else float("nan")
        row["actors/count"] = sum(actor["silent"] < max(ACTOR_TIMEOUT_SECONDS, elapsed) for actor in actors)
        counts: collections.Counter[str] = collections.Counter()
        for part in parts:
            counts.update(part["counts"])
        row |= {f"faults/{name}": count for name, count in sorted(counts.items())}
        for name in parts[0]["gauges"]:
            row[name] = float(np.mean([part["gauges"].get(name, 0.0) for part in parts]))
        if len(parts) > 1:  # all but the slowest wait for it in the allreduce: mlma.monitoring.bottleneck
            rank = min(range(len(parts)), key=lambda r: parts[r]["gauges"].get("learner/allreduce", 0.0))
            row["slowest/rank"] = rank
            slowest = parts[rank]["gauges"]
            row |= {f"slowest/{name}": slowest[f"learner/{name}"] for name in LEARNER_PHASES if f"learner/{name}" in slowest}
        adds = max(1, sum(part["adds"] for part in parts))
        for name in _column_names(parts, "sums"):
            row[name] = sum(part["sums"].get(name, 0.0) for part in parts) / adds
        for name in _column_names(parts, "maxima"):
            row[name] = max(part["maxima"].get(name, -np.inf) for part in parts)
        return row


def _worker_summary(part: dict[str, Any]) -> dict[str, Any]:
    """What is told about one learner and its actors."""
    return {name: part[name] for name in ("host", "pid", "gauges", "actors")}


def _column_names(parts: list[dict[str, Any]], kind: str) -> list[str]:
    """In order, once each."""
    return list(dict.fromkeys(name for part in parts for name in part[kind]))


def check_equal_weights(parts: list[dict[str, Any]]) -> None:
    """Diverged if learners differ in what averaged gradients keep equal."""
    for name in ("step", "frames", "checksum"):
        values = [part[name] for part in parts]
        if len(set(values)) > 1:
            raise WeightsDivergedError(
                f"learners differ in {name} at step {parts[0]['step']}: {values}, by rank; restart from the last checkpoint"
            )


def _episode_row(episodes: Iterable[list[float]], count: int) -> Row:
    returns = np.array([r for r, *_ in episodes])
    if not len(returns):
        nan = float("nan")
        return {"episodes": count, "return/mean": nan, "return/median": nan, "return/max": nan, "episode_frames": nan}
    return {
        "episodes": count,
        "return/mean": float(returns.mean()),
        "return/median": float(np.median(returns)),
        "return/max": float(returns.max()),
        "episode_frames": float(np.mean([f for _, f, _ in episodes])),
    }
