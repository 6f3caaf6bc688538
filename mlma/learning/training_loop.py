"""The learner's loop: wait for a sample, update, publish, report, save.

Not here: the update itself (mlma/learning/learner.py).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import tensorflow as tf

from mlma.core.config import Config
from mlma.core.types import Sample
from mlma.learning.dropped_samples import DroppedSamples, NonFiniteLossError
from mlma.learning.learner import Learner
from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.metrics import Metrics, WeightsDivergedError
from mlma.monitoring.phase_timer import PhaseTimer
from mlma.replay.base import TrajectoryBuffer

logger = logging.getLogger(__name__)

FATAL_ERRORS = (NonFiniteLossError, WeightsDivergedError)  # end a run; the last good weights are saved
POLL_SECONDS = 0.1  # a wait for a sample is interrupted this often to look at everything else


class StopRequest(Protocol):
    """Whether this process has been asked to stop: mlma/roles/stop_signal.py."""

    requested: bool


class Surroundings(NamedTuple):
    """What the loop needs in addition to learner and buffer."""

    metrics: Metrics
    timer: PhaseTimer
    heartbeat: Heartbeat
    stop: StopRequest
    publish: Callable[[int, tf.Tensor], None]  # offers weights to actors
    save: Callable[[], object]  # saves a checkpoint, on the ranks that do


def training_loop(
    config: Config, learner: Learner, buffer: TrajectoryBuffer, waiter: SampleWaiter, surroundings: Surroundings
) -> None:
    """Trains until `total_environment_frames`, or until any rank has been asked to stop."""
    metrics, timer, heartbeat, stop, publish, save = surroundings
    total_frames = config.run.total_environment_frames
    next_save = time.monotonic() + config.reports.checkpoint_every_seconds
    save_at_once, dropped = not waiter.alone, DroppedSamples(config, metrics)
    while learner.frames < total_frames:
        if stop.requested and save_at_once:  # mpirun may kill this rank before all have stopped
            save_at_once = False
            with timer.phase("save"):
                save()
        with timer.phase("wait"):
            sample = waiter.sample(buffer, stop)
        if waiter.alone:
            heartbeat.busy()
        else:
            heartbeat.waiting_for("the other learners", 3 * config.distributed.hang_timeout_seconds)
        with timer.phase("train"):
            result = learner.update(sample, stop=stop.requested, report=metrics.report_due(learner.step + 1))
        timer.add(result.events)
        waiter.others_had_data = result.contributors > 0
        dropped.note(sample, result, learner.step, learner.frames)
        updated = result.contributors > 0 and not result.dropped
        if sample is not None:
            timer.reattribute("wait", "stack", buffer.assembly_seconds)
            if updated:
                buffer.update_priorities(sample.keys, learner.priorities)
                metrics.add(result.metrics)
            else:
                buffer.discard(sample, learner.priorities)
            heartbeat.progress(learner.frames)
        # A report by steps was requested for the next step, which does not take place if no rank has a sample, or if
        # all drop theirs.
        report = result.report and (updated or not config.reports.report_every_steps)
        if report or result.stop or learner.frames >= total_frames:
            with timer.phase("report"):
                metrics.report(learner.step, learner.frames, learner.checksum)
        if result.stop:
            break
        # In lockstep the actors wait for the next version until the whole round is used up.
        if updated and (buffer.exhausted or not config.run.deterministic):
            with timer.phase("publish"):
                publish(learner.step, learner.weights.read())
        if time.monotonic() > next_save:
            with timer.phase("save"):
                save()
            next_save = time.monotonic() + config.reports.checkpoint_every_seconds


class SampleWaiter:
    """Waits for the learner's next sample.

    With other learners, it waits `sample_timeout_seconds`, since they wait too; after that it does not wait until it
    has data again. A single learner waits indefinitely. Periodically logs which actors are silent.
    """

    def __init__(self, config: Config, alone: bool, silent_actors: Callable[[], str], heartbeat: Heartbeat) -> None:
        self.alone = alone
        self.others_had_data = False
        self._has_trained = False
        self._silent_actors, self._heartbeat = silent_actors, heartbeat
        self._warning_seconds = config.learner.starvation_warning_seconds
        self._timeout_later = config.distributed.sample_timeout_seconds
        # Actors take a while to start. In lockstep no rank is left out, since that would depend on timing.
        self._timeout = config.distributed.hang_timeout_seconds / 2
        if config.run.deterministic:
            self._timeout = self._timeout_later = math.inf
        self._idle = False
        self._last_sample = time.monotonic()
        self._next_warning = self._warning_seconds

    def sample(self, buffer: TrajectoryBuffer, stop: StopRequest) -> Sample | None:
        """The next sample; None if this rank has to take part in the update without one, or is asked to stop."""
        if self.alone and stop.requested and not self._has_trained:
            return None  # a run that is stopped while it starts ends before its first step
        end = time.monotonic() + (0 if self.alone or self._idle else self._timeout)
        while True:
            self._heartbeat.waiting_for("a sample")
            # An idle rank must not delay those that have data. If no rank has any, nothing is delayed.
            sample = buffer.sample(timeout=0.0 if self._idle and self.others_had_data else POLL_SECONDS)
            self._note(sample is not None)
            self._has_trained |= sample is not None
            if sample is not None or stop.requested or time.monotonic() >= end:
                break
        if not self.alone and self._idle != (sample is None) and not stop.requested:
            self._idle = sample is None
            if self._idle:
                timeout, silent = self._timeout, self._silent_actors()
                logger.warning("no sample for %g s, takes part with weight zero until it has one; %s", timeout, silent)
            else:
                logger.info("has samples again")
        return sample

    def _note(self, got_one: bool) -> None:
        waited = time.monotonic() - self._last_sample
        if got_one:
            self._timeout = self._timeout_later
            self._last_sample, self._next_warning = time.monotonic(), self._warning_seconds
        elif waited > self._next_warning:
            logger.warning("too few trajectories for a sample for %.0f s; %s", waited, self._silent_actors())
            self._next_warning += self._warning_seconds
