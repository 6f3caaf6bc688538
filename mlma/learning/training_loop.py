"""The learner's loop: sample, update, publish, report, save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mlma.core.config.config import Config
from mlma.core.types import Sample
from mlma.distributed.hang_detector import HangDetector
from mlma.learning.learner import Learner
from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.metrics import Metrics
from mlma.replay.base import TrajectoryBuffer

POLL_SECONDS = 0.1  # seconds for which a sample is waited for before the rest of the world is looked at


def training_loop(
    config: Config,
    learner: Learner,
    memory: TrajectoryBuffer,
    publish: Callable[[int, tf.Tensor], None],
    metrics: Metrics,
    peers: HangDetector,
    save: Callable[[], object],
    stop: Any,
    patience: SampleWaiter,
    pulse: Heartbeat,
) -> None:
    """The loop: trains until `total_environment_frames`, or until `stop.wanted` on any rank. `save` is rank 0's."""
    next_save = time.monotonic() + config.checkpoint_every_seconds
    hurry = not patience.alone
    while learner.frames < config.total_environment_frames:
        if stop.wanted and hurry:  # mpirun may kill us before all have stopped: docs/multi_learner.md
            hurry = False
            save()
        with metrics.phase("wait"), peers.phase("waiting for a sample"):
            sample = patience.sample(memory, stop)
        pulse.works() if patience.alone else pulse.waits("the other learners", 3 * config.hang_seconds)
        with metrics.phase("train"), peers.phase("step"):
            step = learner.train(sample, stop=stop.wanted, report=metrics.due(learner.step + 1))
        metrics.spent(step.events)
        patience.others_had_data = step.contributors > 0
        if sample is not None:
            metrics.spent([("stack", 0.0, memory.stacking), ("wait", 0.0, -memory.stacking)])
            memory.update_priorities(sample.keys, learner.priorities)
            metrics.add(step.metrics)
            pulse.progressed(learner.frames)
        if step.report or step.stop or learner.frames >= config.total_environment_frames:
            with peers.phase("step"):
                metrics.report(learner.step, learner.frames, learner.checksum)
        if step.stop:
            break
        if step.contributors and (memory.exhausted or not config.deterministic):  # else it is still the learner's turn
            with metrics.phase("publish"):
                publish(learner.step, learner.weights.read())
        if time.monotonic() > next_save:
            with peers.phase("saving a checkpoint"):
                save()
            next_save = time.monotonic() + config.checkpoint_every_seconds


class SampleWaiter:
    """How long this learner waits for a sample: `idle_seconds` while the others wait for it, then not at all until it has data
    again; alone, for ever. Says ever again what is missing: a run does not hang silently."""

    def __init__(
        self, config: Config, alone: bool, missing: Callable[[], str], say: Callable[[str], None], pulse: Heartbeat
    ) -> None:
        self.alone = alone
        self._config, self._missing, self._say, self._pulse = config, missing, say, pulse
        self._since = time.monotonic()
        self._next = config.starved_seconds
        self._idle = False
        # Actors take their time to start. In turns nobody is left out: that would depend on the clock.
        self._patience = math.inf if config.deterministic else config.hang_seconds / 2
        self.others_had_data = False

    def sample(self, memory: TrajectoryBuffer, stop: Any) -> Sample | None:
        end = time.monotonic() + (0 if self.alone or self._idle else self._patience)
        while True:
            self._pulse.waits("a sample")
            # An idle rank must not delay those that have data; where nobody has any, nothing is delayed.
            sample = memory.sample(timeout=0.0 if self._idle and self.others_had_data else POLL_SECONDS)
            self._see(sample is not None)
            if sample is not None or stop.wanted or time.monotonic() >= end:
                break
        if not self.alone and self._idle != (sample is None) and not stop.wanted:
            self._idle = sample is None
            waited = f"no sample for {self._patience:g} s, takes part with weight zero until it has one"
            self._say(f"{waited}; {self._missing()}" if self._idle else "has samples again")
        return sample

    def _see(self, got_one: bool) -> None:
        waited = time.monotonic() - self._since
        if got_one:
            self._patience = math.inf if self._config.deterministic else self._config.idle_seconds
            self._since, self._next = time.monotonic(), self._config.starved_seconds
        elif waited > self._next:
            self._say(f"too few trajectories for a sample for {waited:.0f} s; {self._missing()}")
            self._next += self._config.starved_seconds
