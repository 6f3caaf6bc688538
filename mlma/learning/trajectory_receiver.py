"""The learner's receiver: takes messages from the transport, checks them, counts episodes, inserts trajectories into
the buffer."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mlma.core.record_layout import Buffer, RecordLayout, check_extras
from mlma.core.types import EnvSpec
from mlma.monitoring.metrics import Metrics
from mlma.monitoring.phase_timer import ACTOR_PHASES, Event, PhaseTimer
from mlma.transport.messages import unpack

MAX_LISTED_ACTORS = 8


class TrajectoryReceiver:
    """One thread. A malformed message is counted and dropped; the run continues."""

    def __init__(
        self,
        receive: Callable[[], bytes | None],
        insert: Callable[[Any], None],
        layout: RecordLayout,
        spec: EnvSpec,
        metrics: Metrics,
        on_failure: Callable[[BaseException], None],
        first_greedy_env: float = float("inf"),
        lockstep_round_size: int = 0,
    ) -> None:
        """Environments with an index of at least `first_greedy_env` have a small epsilon: their returns are also
        reported separately. With `lockstep_round_size`, the number of trajectories that all actors collect with one
        version of the weights, these are inserted together, ordered by actor."""
        self._receive, self._insert, self._layout = receive, insert, layout
        self._spec, self._metrics, self._on_failure = spec, metrics, on_failure
        self._first_greedy_env, self._round_size = first_greedy_env, lockstep_round_size
        self._round: dict[int, list[Any]] = {}  # actor -> its records in this round
        self._parts: dict[int, list[Buffer]] = {}  # actor -> the parts of its message so far
        self.last_seen: dict[int, float] = {}  # actor -> when its last trajectories arrived
        self.timer = PhaseTimer("wait", "stack")
        self._actor_events: list[Event] | None = None
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self._thread.start()

    def record_actor_events(self, events: list[Event] | None) -> None:
        """Appends the phases that actors send to `events` from now on; None stops it."""
        self._actor_events = events

    def silent_actors(self, expected: int, within: float) -> str:
        """Which of actors 0 .. expected-1, and of others seen, have sent nothing in the last `within` seconds."""
        now = time.monotonic()
        actors = sorted({*range(expected), *self.last_seen})
        lines = []
        for actor in actors:
            if actor not in self.last_seen:
                lines.append(f"actor {actor} never came")
            elif (silence := now - self.last_seen[actor]) > within:
                lines.append(f"actor {actor} silent for {silence:.0f} s")
        shown = "".join(f"; {line}" for line in lines[:MAX_LISTED_ACTORS])
        more = f"; and {len(lines) - MAX_LISTED_ACTORS} more" if len(lines) > MAX_LISTED_ACTORS else ""
        return f"{len(actors) - len(lines)} of {len(actors)} actors send trajectories{shown}{more}"

    def _run(self) -> None:
        try:
            while (message := self._receive()) is not None:
                self.timer.lap("wait")
                try:
                    self._take(message)
                except (ValueError, KeyError, TypeError, OverflowError):
                    self._metrics.count_fault("messages_refused")
                self.timer.lap("stack")
        except BaseException as error:  # a thread must not end silently
            self._on_failure(error)
            raise

    def _take(self, message: bytes) -> None:
        payload: Buffer
        header, payload = unpack(message)
        actor, part, parts = int(header["task"]), int(header["part"]), int(header["parts"])
        phases = {name: float(header["phases"][name]) for name in ACTOR_PHASES}
        if self._actor_events is not None and part == 0:
            self._actor_events += [
                (str(name), float(began), float(took)) for name, began, took in header.get("events", [])
            ]
        if parts > 1:
            payload = self._join(actor, part, parts, payload)
            if not payload:
                return
        records = self._layout.from_bytes(payload)
        trajectories = self._layout.view(records)
        self._check(trajectories)
        self._metrics.actors.record(actor, phases, trajectories.timesteps.reward[:, 1:].size)
        self.last_seen[actor] = time.monotonic()
        if self._round_size:
            self._round.setdefault(actor, []).append(records)
            if sum(map(len, itertools.chain(*self._round.values()))) < self._round_size:
                return
            records = np.concatenate([sent for actor in sorted(self._round) for sent in self._round.pop(actor)])
            trajectories = self._layout.view(records)
        self._count_episodes(trajectories)
        self._metrics.count_fault("trajectories_dropped", int(header.get("dropped", 0)))
        self._insert(records)

    def _count_episodes(self, trajectories: Any) -> None:
        steps = trajectories.timesteps
        returns = steps.episode_return[:, 1:]  # step 0 was step T of the previous trajectory
        ended = ~np.isnan(returns)
        greedy = (trajectories.env_index >= self._first_greedy_env)[np.nonzero(ended)[0]]
        levels = steps.extras["level"][:, 1:][ended].tolist() if "level" in steps.extras else ()
        frames = steps.episode_frames[:, 1:][ended]
        self._metrics.episodes.add(returns[ended].tolist(), frames.tolist(), greedy.tolist(), levels)

    def _join(self, actor: int, part: int, parts: int, payload: Buffer) -> Buffer:
        """The whole payload once its last part has arrived, else nothing."""
        if part == 0:
            self._parts[actor] = []
        so_far = self._parts.get(actor, [])
        if part != len(so_far):  # a part is missing: the actor ended in between
            self._parts.pop(actor, None)
            raise ValueError(f"part {part} of {parts} came after {len(so_far)}")
        so_far.append(payload)
        if len(so_far) < parts:
            return b""
        return b"".join(self._parts.pop(actor))

    def _check(self, trajectories: Any) -> None:
        """Refuses values that would crash or poison training. The checksum is right, so this is about versions and
        bugs."""
        acted = trajectories.act_outputs
        check_extras(trajectories.timesteps.extras, self._spec)
        if acted.action.min() < 0 or acted.action.max() >= self._spec.num_actions:
            raise ValueError("action out of range")
        if not (np.isfinite(acted.logits).all() and np.isfinite(trajectories.timesteps.reward).all()):
            raise ValueError("logits or rewards are not finite")
        priorities = trajectories.initial_priorities
        if priorities is not None and not (np.isfinite(priorities).all() and priorities.min() >= 0):
            raise ValueError("initial priorities are not finite numbers of at least 0")
