"""The learner's receiver: takes messages from the transport, checks them, counts episodes, inserts trajectories into
the buffer."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlma.core.record_layout import Buffer, RecordLayout
from mlma.core.types import EnvSpec
from mlma.learning.message_parts import MessageParts
from mlma.learning.trajectory_checks import TrajectoryChecks, read_put_header
from mlma.monitoring.metrics import Metrics
from mlma.monitoring.phase_timer import Event, PhaseTimer
from mlma.monitoring.refusals import REFUSABLE
from mlma.transport.header_fields import read_task
from mlma.transport.messages import unpack

MAX_LISTED_ACTORS = 8
MAX_RECORDED_EVENTS = 200_000  # of actors, in one profile


class TrajectoryReceiver:
    """One thread. A message that fails a check is counted and dropped; the run continues."""

    def __init__(
        self,
        receive: Callable[[], bytes | None],
        insert: Callable[[Any], None],
        layout: RecordLayout,
        spec: EnvSpec,
        metrics: Metrics,
        on_failure: Callable[[BaseException], None],
        first_greedy_env: float = math.inf,
        lockstep_round_size: int = 0,
        latest_version: Callable[[], float] = lambda: math.inf,
        num_actors: int = 1,
        level_names: Sequence[str] = (),
    ) -> None:
        """Environments with an index of at least `first_greedy_env` have a small epsilon: their returns are also
        reported separately. With `lockstep_round_size`, the number of trajectories that all actors collect with one
        version of the weights, these are inserted together, ordered by actor. `num_actors` are expected to send.
        `level_names` are those of the run, for messages."""
        self._receive, self._insert, self._layout = receive, insert, layout
        self._metrics, self._on_failure = metrics, on_failure
        self._first_greedy_env, self._round_size = first_greedy_env, lockstep_round_size
        self._check = TrajectoryChecks(layout, spec, latest_version, level_names)
        self._round: dict[int, list[Any]] = {}  # actor -> its records in this round
        self.parts = MessageParts(layout.dtype.itemsize, num_actors)
        self.timer = PhaseTimer("wait", "stack")
        self._actor_events: list[Event] | None = None
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self._thread.start()

    def record_actor_events(self, events: list[Event] | None) -> None:
        """Appends the phases that actors send to `events` from now on; None stops it."""
        self._actor_events = events

    @property
    def last_seen(self) -> dict[int, float]:
        """Actor -> when its last trajectories arrived."""
        return self._metrics.actors.last_seen()

    def silent_actors(self, expected: int, within: float) -> str:
        """Which of actors 0 .. expected-1, and of others seen, have sent nothing in the last `within` seconds."""
        now, last_seen = time.monotonic(), self.last_seen
        actors = sorted({*range(expected), *last_seen})
        lines = []
        for actor in actors:
            if failure := self._metrics.actors.failure(actor):
                lines.append(f"actor {actor} ended: {failure}")
            elif actor not in last_seen:
                refused, reason = self._metrics.refusals.of_actor(actor)
                came = f": all of its {refused:,} messages were refused, the last one because {reason}"
                lines.append(f"actor {actor}{came if refused else ' never came'}")
            elif (silence := now - last_seen[actor]) > within:
                lines.append(f"actor {actor} silent for {silence:.0f} s")
        shown = "".join(f"; {line}" for line in lines[:MAX_LISTED_ACTORS])
        more = f"; and {len(lines) - MAX_LISTED_ACTORS} more" if len(lines) > MAX_LISTED_ACTORS else ""
        return f"{len(actors) - len(lines)} of {len(actors)} actors send trajectories{shown}{more}"

    def _run(self) -> None:
        try:
            while (message := self._receive()) is not None:
                self.timer.lap("wait")
                self.take(message)
                self.timer.lap("stack")
        except BaseException as error:  # a thread must not end silently
            self._on_failure(error)
            raise

    def take(self, message: bytes) -> None:
        """Inserts the trajectories of a message, or refuses it. Called by this receiver's thread."""
        actor = None
        try:
            header, payload = unpack(message)
            actor = read_task(header)
            self._take(header, payload, len(message))
        except REFUSABLE as error:
            self._metrics.refusals.add(error, actor)

    def _take(self, fields: dict[str, Any], payload: Buffer, message_bytes: int) -> None:
        header = read_put_header(fields, self.parts.max_parts)
        actor = header.task
        if header.part == 0:
            self._record_events(header.events)
            self._metrics.count_level_cache(*header.level_cache)
        if header.parts > 1:
            payload = self.parts.join(actor, header.part, header.parts, payload, message_bytes)
            if not payload:
                return
        records = self._layout.from_bytes(payload)
        trajectories = self._layout.view(records)
        self._check(actor, trajectories)
        self._metrics.actors.record(actor, header.phases, trajectories.timesteps.reward[:, 1:].size)
        if self._round_size:
            self._round.setdefault(actor, []).append(records)
            if sum(map(len, itertools.chain(*self._round.values()))) < self._round_size:
                return
            records = np.concatenate([sent for actor in sorted(self._round) for sent in self._round.pop(actor)])
            trajectories = self._layout.view(records)
        self._count_episodes(trajectories)
        self._metrics.count_fault("trajectories_dropped", header.dropped)
        self._insert(records)

    def _record_events(self, events: list[Event]) -> None:
        if self._actor_events is not None and len(self._actor_events) < MAX_RECORDED_EVENTS:
            self._actor_events += events

    def _count_episodes(self, trajectories: Any) -> None:
        steps = trajectories.timesteps
        returns = steps.episode_return[:, 1:]  # step 0 was step T of the previous trajectory
        ended = ~np.isnan(returns)
        greedy = (trajectories.env_index >= self._first_greedy_env)[np.nonzero(ended)[0]]
        levels = steps.extras["level"][:, 1:][ended].tolist() if "level" in steps.extras else ()
        frames = steps.episode_frames[:, 1:][ended]
        self._metrics.episodes.add(returns[ended].tolist(), frames.tolist(), greedy.tolist(), levels)
