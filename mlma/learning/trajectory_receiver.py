"""The learner's ear: takes messages from the transport, checks them, counts episodes, hands trajectories to the memory."""

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


class TrajectoryReceiver:
    """One thread. What is malformed is counted and dropped; the run goes on."""

    def __init__(
        self,
        receive: Callable[[], bytes | None],
        insert: Callable[[Any], None],
        layout: RecordLayout,
        spec: EnvSpec,
        metrics: Metrics,
        failed: Callable[[BaseException], None],
        greedy_from: float = float("inf"),
        turn: int = 0,
    ) -> None:
        """Environments from place `greedy_from` on explore little: their returns are reported by themselves.

        With a `turn`, the trajectories that all actors play with one set of weights, they are taken in together, by actor.
        """
        self._turn, self._sent = turn, dict[int, list[Any]]()  # actor -> what it has sent in this turn
        self._receive, self._insert, self._layout = receive, insert, layout
        self._greedy_from = greedy_from
        self._spec, self._metrics, self._failed = spec, metrics, failed
        self._parts: dict[int, list[Buffer]] = {}  # actor -> the parts of its message so far
        self.heard: dict[int, float] = {}  # actor -> when its last trajectories came
        self.phases = PhaseTimer("wait", "stack")
        self.events: list[Event] | None = None  # of an actor that sends them, while somebody wants them
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while (message := self._receive()) is not None:
                self.phases.end("wait")
                try:
                    self._take(message)
                except (ValueError, KeyError, TypeError, OverflowError):
                    self._metrics.count("messages_refused")
                self.phases.end("stack")
        except BaseException as error:  # a thread must not end in silence
            self._failed(error)
            raise

    def _take(self, message: bytes) -> None:
        payload: Buffer
        header, payload = unpack(message)
        task, part, parts = int(header["task"]), int(header["part"]), int(header["parts"])
        phases = {name: float(header["phases"][name]) for name in ACTOR_PHASES}
        if self.events is not None and part == 0:
            self.events += [(str(name), float(began), float(seconds)) for name, began, seconds in header.get("events", [])]
        if parts > 1:
            payload = self._join(task, part, parts, payload)
            if not payload:
                return
        records = self._layout.from_bytes(payload)
        trajectories = self._layout.view(records)
        self._check(trajectories)
        self._metrics.actor(task, phases, trajectories.timesteps.reward[:, 1:].size)
        self.heard[task] = time.monotonic()
        if self._turn:
            self._sent.setdefault(task, []).append(records)
            if sum(map(len, itertools.chain(*self._sent.values()))) < self._turn:
                return
            records = np.concatenate([sent for task in sorted(self._sent) for sent in self._sent.pop(task)])
            trajectories = self._layout.view(records)
        steps = trajectories.timesteps
        returns = steps.episode_return[:, 1:]  # step 0 was step T of the trajectory before
        ended = ~np.isnan(returns)
        greedy = (trajectories.place >= self._greedy_from)[np.nonzero(ended)[0]]
        levels = steps.more["level"][:, 1:][ended].tolist() if "level" in steps.more else ()
        self._metrics.episodes(returns[ended].tolist(), steps.episode_frames[:, 1:][ended].tolist(), greedy.tolist(), levels)
        self._metrics.count("trajectories_dropped", int(header.get("dropped", 0)))
        self._insert(records)

    def missing(self, expected: int, within: float) -> str:
        """Of the actors 0 .. expected-1 and those that came besides, who has sent nothing in the last `within` seconds."""
        now = time.monotonic()
        everyone = sorted({*range(expected), *self.heard})
        silent = {task: now - self.heard[task] for task in everyone if task in self.heard and now - self.heard[task] > within}
        lines = [
            f"actor {task} silent for {silent[task]:.0f} s" if task in silent else f"actor {task} never came"
            for task in everyone
            if task in silent or task not in self.heard
        ]
        return (
            f"{len(everyone) - len(lines)} of {len(everyone)} actors send trajectories"
            + "".join(f"; {line}" for line in lines[:8])
            + (f"; and {len(lines) - 8} more" if len(lines) > 8 else "")
        )

    def _join(self, task: int, part: int, parts: int, payload: Buffer) -> Buffer:
        """The whole payload once its last part is here, else nothing."""
        if part == 0:
            self._parts[task] = []
        so_far = self._parts.get(task, [])
        if part != len(so_far):  # a part is missing: its actor was ended in between
            self._parts.pop(task, None)
            raise ValueError(f"part {part} of {parts} came after {len(so_far)}")
        so_far.append(payload)
        if len(so_far) < parts:
            return b""
        return b"".join(self._parts.pop(task))

    def _check(self, trajectories: Any) -> None:
        """Values that would crash or poison training. The checksum has passed, so this is about versions and bugs."""
        acted = trajectories.act_outputs
        check_extras(trajectories.timesteps.more, self._spec)
        if acted.action.min() < 0 or acted.action.max() >= self._spec.num_actions:
            raise ValueError("action out of range")
        if not (np.isfinite(acted.logits).all() and np.isfinite(trajectories.timesteps.reward).all()):
            raise ValueError("logits or rewards are not finite")
        errors = trajectories.errors
        if errors is not None and not (np.isfinite(errors).all() and errors.min() >= 0):
            raise ValueError("errors are not finite numbers from 0 on")
