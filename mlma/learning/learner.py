"""The learner: computes gradients from samples, combines them with the other learners', and updates the weights.

Not here: the loop around it (mlma/learning/training_loop.py), the loss (agents/), where samples come from
(mlma/replay/), how gradients are summed (mlma/distributed/allreduce.py).
"""

from __future__ import annotations

import time
import zlib
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlma.core.config import Config
from mlma.core.flat_weights import FlatWeights, named_variables
from mlma.core.types import Agent, Sample
from mlma.distributed.allreduce import Allreduce
from mlma.learning.optimizers import clip_gradients, decayed_learning_rate, make_optimizer, start_slots
from mlma.monitoring.phase_timer import Event
from mlma.utils.tf_function import CachedGraph, compiled_by_xla, tf_function, timestamp_after

NUM_FLAGS = 4  # what each rank adds to the sum of the gradients


class StepResult(NamedTuple):
    """The outcome of a learner step. All but metrics and events is the same on every rank."""

    contributors: int  # learners that had a sample; without any, nothing was updated
    stop: bool  # some rank asks to stop after this step
    report: bool  # some rank asks for a report after this step
    metrics: dict[str, float]  # of this rank's sample; empty without one
    events: list[Event]  # phases of this rank: gradient, allreduce, apply
    dropped: bool = False  # loss or gradient was not finite, on any rank: nothing was updated


class Learner:
    """Network, optimizer and counters, which a checkpoint holds, and the update that changes them."""

    def __init__(self, config: Config, agent: Agent, action_repeats: int, allreduce: Allreduce) -> None:
        """The network's variables must exist already (mlma.core.flat_weights.build_variables)."""
        self._config, self._agent, self._allreduce = config, agent, allreduce
        self._action_repeats = action_repeats
        self._timed = not config.run.deterministic  # a deterministic graph must not read the clock
        self.weights = FlatWeights(agent.network)
        self._learning_rate = tf.Variable(config.optimizer.learning_rate, trainable=False, name="learning_rate")
        self._optimizer = make_optimizer(config.optimizer, self._learning_rate)
        self._create_slots()
        compiled = config.learner.jit_compile
        self._loss_and_gradients = compiled_by_xla(self._differentiate) if compiled else self._differentiate
        self._train = CachedGraph(self._train_step)
        self._idle = tf_function(self._idle_step)
        self._metric_names: list[str] = []  # of the train step's metrics; known once it is traced
        self.step, self.frames = 0, 0
        self.priorities: Any = None  # float32 [B], new priorities of the last sample

    def _create_slots(self) -> None:
        """Sonnet creates the optimizer's slots at its first call, which must change no weight."""
        zeros = [tf.zeros_like(v) for v in self.weights.trainable]
        before = self.weights.read()
        self._optimizer.apply(zeros, self.weights.trainable)
        self.weights.write(before.numpy().tobytes())
        start_slots(self._optimizer, self._slots(), self._config.optimizer)

    def variables(self) -> dict[str, Any]:
        """Name -> variable: all that a checkpoint must hold."""
        return (
            named_variables("network", self._agent.network.variables)
            | named_variables("optimizer", self._slots())
            | named_variables("target", self._agent.target_variables)
        )

    def _slots(self) -> list[tf.Variable]:
        return [v for v in self._optimizer.variables if v is not self._learning_rate]

    def checksum(self) -> int:
        """A checksum of the weights, equal on all ranks."""
        return zlib.crc32(self.weights.read().numpy())

    def prepare(self, sample: Sample) -> None:
        """Builds the graph of the update for samples of this form, and changes nothing."""
        self._train.trace(_tensors_of(sample), tf.zeros(NUM_FLAGS), tf.constant(0.0))

    def update(self, sample: Sample | None, stop: bool = False, report: bool = False) -> StepResult:
        """One update, made by all ranks together; a rank without a sample takes part with weight zero.

        Where loss, gradient or statistics are not finite on some rank, all ranks drop their sample: weights,
        statistics and step stay. The frames count nevertheless, since they were collected.
        """
        learning_rate = decayed_learning_rate(
            self._config.optimizer, self.frames / self._config.run.total_environment_frames, self._allreduce.size
        )
        num_new_steps = sample.num_new_steps if sample else 0
        local_flags = tf.constant([sample is not None, stop, report, num_new_steps], tf.float32)  # [NUM_FLAGS]
        rate = tf.constant(learning_rate, tf.float32)
        values: dict[str, float] = {}
        began = time.time()  # the clock of tf.timestamp
        if sample is None:
            finite, totals, _, stamps = self._idle(local_flags, rate)
        else:
            lag = self.step - sample.trajectory.weights_version
            finite, totals, metrics, stamps, self.priorities = self._train(_tensors_of(sample), local_flags, rate)
            values = dict(zip(self._metric_names, metrics.numpy().tolist(), strict=True))
            values |= {"lag/mean": float(lag.mean()), "lag/max": float(lag.max()), "learning_rate": float(rate)}
        contributors, stops, reports, steps = (int(total) for total in totals.numpy())
        if contributors and finite:
            self.step += 1
            self._agent.on_learner_step(self.step)
        self.frames += steps * self._action_repeats
        times = [began, *stamps.numpy().tolist(), time.time()] if self._timed else []
        events = zip(("gradient", "allreduce", "apply"), times, np.diff(times).tolist(), strict=False)
        return StepResult(contributors, stops > 0, reports > 0, values, list(events), not finite)

    def _train_step(self, sample: Sample, local_flags: tf.Tensor, rate: tf.Tensor) -> tuple[Any, ...]:
        loss, gradients = self._loss_and_gradients(sample)
        finite, totals, norm, stamps = self._reduce_and_apply(gradients, loss.total, local_flags, loss.statistics, rate)
        metrics = loss.metrics | {"gradient_norm": norm}
        # One tensor: to read each metric by itself would take longer than a small network's gradient.
        self._metric_names = list(metrics)
        values = tf.stack([tf.cast(value, tf.float32) for value in metrics.values()])
        return finite, totals, values, stamps, loss.priorities

    def _differentiate(self, sample: Sample) -> tuple[Any, list[tf.Tensor]]:
        """The loss of a sample and its gradient, in one graph."""
        with tf.GradientTape() as tape:
            loss = self._agent.loss(sample)
        # Variables that the loss does not reach have zeros: what is allreduced is an array for each variable.
        zero = tf.UnconnectedGradients.ZERO
        return loss, tape.gradient(loss.total, self.weights.trainable, unconnected_gradients=zero)

    def _idle_step(self, local_flags: tf.Tensor, rate: tf.Tensor) -> tuple[tf.Tensor, ...]:
        zeros, statistics = [tf.zeros_like(v) for v in self.weights.trainable], tf.zeros([self._agent.num_statistics])
        return self._reduce_and_apply(zeros, tf.constant(0.0), local_flags, statistics, rate)

    def _reduce_and_apply(
        self, gradients: list[tf.Tensor], loss: tf.Tensor, local_flags: tf.Tensor, statistics: Any, rate: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """The one collective call of a step, and the update that follows.

        Where losses are sums over the batch, the gradient of all learners is the sum of theirs, and the average of the
        others stands in for a learner without data. Where they are means, it is the mean over those that have data.
        """
        scalars = [local_flags, [loss], statistics] if self._agent.num_statistics else [local_flags, [loss]]
        ready = timestamp_after(gradients, self._timed)
        gradients, totals = self._allreduce.allreduce_sum(gradients, tf.concat(scalars, axis=0))
        reduced = timestamp_after([*gradients, totals], self._timed)
        flags, sums = totals[: local_flags.shape[0]], totals[local_flags.shape[0] :]  # sums: loss, statistics
        contributors = flags[0]
        if self._allreduce.size > 1:
            scale = (self._allreduce.size if self._agent.batch_loss == "sum" else 1.0) / tf.maximum(contributors, 1.0)
            gradients = [gradient * scale for gradient in gradients]
        gradients, norm = clip_gradients(gradients, self._config.optimizer.gradients_clipping)
        finite = tf.math.is_finite(norm) & tf.reduce_all(tf.math.is_finite(sums))
        tf.cond(finite & (contributors > 0), lambda: self._apply(gradients, sums[1:], rate), lambda: tf.constant(0))
        return finite, flags, norm, tf.stack([ready, reduced])

    def _apply(self, gradients: list[tf.Tensor], statistics: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        self._learning_rate.assign(rate)
        self._optimizer.apply(gradients, self.weights.trainable)
        if self._agent.num_statistics:
            self._agent.update_statistics(statistics)
        return tf.constant(0)


def _tensors_of(sample: Sample) -> Sample:
    """What the graph of the update gets of a sample."""
    trajectory = sample.trajectory._replace(weights_version=None)
    return sample._replace(trajectory=trajectory, keys=None, num_new_steps=None)
