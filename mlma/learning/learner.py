"""The learner: takes samples, makes gradients, averages them with the other learners', updates the weights, offers them to
the actors. The newcomer's first file.

Not here: the loss (agents/), where samples come from (mlma/replay/trajectory_queue.py), how gradients meet (mlma/distributed/allreduce.py), how weights
travel (mlma/transport/server.py), what is reported (mlma/monitoring/metrics.py).
"""

from __future__ import annotations

import time
import zlib
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlma.core.config.config import Config
from mlma.core.flat_weights import FlatWeights, named_variables
from mlma.core.types import Agent, Sample
from mlma.distributed.allreduce import Allreduce
from mlma.learning.optimizers import clip_gradients, decayed_learning_rate, make_optimizer
from mlma.monitoring.phase_timer import Event
from mlma.utils.tf_function import CachedGraph, tf_function


class NonFiniteLossError(Exception):
    """A loss or a gradient is not a number; the weights are still those of the step before."""


class StepResult(NamedTuple):
    """What a learner step came to. All but the metrics is the same on every rank."""

    contributors: int  # learners that had a sample; without any, nothing was updated
    stop: bool  # somebody wishes to stop after this step
    report: bool  # somebody wishes a report after this step
    metrics: dict[str, float]  # of this rank's sample; empty without one
    events: list[Event]  # where the time went on this rank: gradient, allreduce, apply


class Learner:
    """Network, optimizer and counters: what a checkpoint holds, and the train step that changes it."""

    def __init__(self, config: Config, agent: Agent, action_repeats: int, allreduce: Allreduce) -> None:
        """The network's variables must exist already (mlma.core.flat_weights.build_variables)."""
        self._config, self._agent, self._allreduce = config, agent, allreduce
        self._action_repeats = action_repeats
        self._timed = not config.deterministic  # a graph that may only do what it always does may not look at a clock
        self.weights = FlatWeights(agent.network)
        self._learning_rate = tf.Variable(config.learning_rate, trainable=False, name="learning_rate")
        self._optimizer = make_optimizer(config, self._learning_rate)
        zeros = [tf.zeros_like(v) for v in self.weights.variables]
        before = self.weights.read()
        self._optimizer.apply(zeros, self.weights.variables)  # Sonnet makes its slots at the first call
        self.weights.write(before.numpy().tobytes())
        for slot in self._slots():
            slot.assign(tf.zeros_like(slot))
        self._train = CachedGraph(self._train_step)
        self._idle = tf_function(self._idle_step)
        self.step, self.frames = 0, 0
        self.priorities: Any = None  # float32 [B], what the last sample is worth now

    def variables(self) -> dict[str, Any]:
        """Name -> variable of the network and of the optimizer."""
        return (
            named_variables("network", self._agent.network.variables)
            | named_variables("optimizer", self._slots())
            | named_variables("slow", self._agent.slow)
        )

    def _slots(self) -> list[tf.Variable]:
        return [v for v in self._optimizer.variables if v is not self._learning_rate]

    def checksum(self) -> int:
        return zlib.crc32(self.weights.read().numpy())

    def train(self, sample: Sample | None, stop: bool = False, report: bool = False) -> StepResult:
        """One update, made by all ranks together; a rank without a sample takes part with weight zero.

        NonFinite leaves everything as it was.
        """
        self._learning_rate.assign(decayed_learning_rate(self._config, self.frames, self._allreduce.size))
        new_steps = sample.new_steps if sample else 0
        mine = tf.constant([sample is not None, stop, report, new_steps], tf.float32)
        values: dict[str, float] = {}
        began = time.time()  # the clock of tf.timestamp
        if sample is None:
            finite, totals, _, stamps = self._idle(mine)
        else:
            lag = self.step - sample.trajectory.weights_version
            trajectory = sample.trajectory._replace(weights_version=None)
            finite, totals, metrics, stamps, self.priorities = self._train(
                sample._replace(trajectory=trajectory, keys=None, new_steps=None), mine
            )
            values = {name: float(value) for name, value in metrics.items()}
            values |= {
                "lag/mean": float(lag.mean()),
                "lag/max": float(lag.max()),
                "learning_rate": float(self._learning_rate),
            }
        if not finite:
            raise NonFiniteLossError(f"loss or gradient is not finite at learner step {self.step + 1}, {self.frames} frames")
        contributors, stops, reports, steps = (int(total) for total in totals.numpy())
        if contributors:
            self.step += 1
            self._agent.after_step(self.step)
        self.frames += steps * self._action_repeats
        times = [began, *stamps.numpy().tolist(), time.time()] if self._timed else []
        parts = zip(("gradient", "allreduce", "apply"), times, np.diff(times).tolist(), strict=False)
        return StepResult(contributors, stops > 0, reports > 0, values, list(parts))

    def _train_step(self, sample: Sample, mine: tf.Tensor) -> tuple[Any, ...]:
        with tf.GradientTape() as tape:
            loss = self._agent.loss(sample)
        gradients = tape.gradient(loss.total, self.weights.variables)
        finite, totals, norm, stamps = self._update(gradients, loss.total, mine, loss.statistics)
        return finite, totals, loss.metrics | {"gradient_norm": norm}, stamps, loss.priorities

    def _idle_step(self, mine: tf.Tensor) -> tuple[tf.Tensor, ...]:
        nothing = [tf.zeros_like(v) for v in self.weights.variables]
        return self._update(nothing, tf.constant(0.0), mine, tf.zeros([self._agent.statistics]))

    def _update(self, gradients: list[tf.Tensor], loss: tf.Tensor, mine: tf.Tensor, statistics: Any) -> tuple[tf.Tensor, ...]:
        """The one collective call of a step, and what follows from it. Where losses are sums over the batch, the gradient of
        all learners is the sum of theirs, and for a learner without data the average of the others stands in; where they are
        means, it is the mean of those that have data."""
        scalars = [mine, [loss], statistics] if self._agent.statistics else [mine, [loss]]
        ready = timestamp_after(gradients, self._timed)
        gradients, totals = self._allreduce.reduce(gradients, tf.concat(scalars, axis=0))
        reduced = timestamp_after([*gradients, totals], self._timed)
        totals, statistics = totals[: mine.shape[0] + 1], totals[mine.shape[0] + 1 :]
        contributors = totals[0]
        if self._allreduce.size > 1:
            scale = (self._allreduce.size if self._agent.batch_loss == "sum" else 1.0) / tf.maximum(contributors, 1.0)
            gradients = [gradient * scale for gradient in gradients]
        gradients, norm = clip_gradients(gradients, self._config.gradients_clipping)
        finite = tf.math.is_finite(norm) & tf.math.is_finite(totals[-1])
        tf.cond(finite & (contributors > 0), lambda: self._apply(gradients, statistics), lambda: tf.constant(0))
        return finite, totals[:-1], norm, tf.stack([ready, reduced])

    def _apply(self, gradients: list[tf.Tensor], statistics: tf.Tensor) -> tf.Tensor:
        self._optimizer.apply(gradients, self.weights.variables)
        if self._agent.statistics:
            self._agent.normalise(statistics)
        return tf.constant(0)


def timestamp_after(tensors: list[tf.Tensor], timed: bool = True) -> tf.Tensor:
    """Seconds since 1970 when these were there; 0 unless `timed`."""
    if not timed:
        return tf.constant(0.0, tf.float64)
    with tf.control_dependencies(tensors):
        return tf.timestamp()
