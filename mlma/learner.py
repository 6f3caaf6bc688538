"""The learner: takes samples, makes gradients, updates the weights, offers them to the actors. The newcomer's first file.

Not here: the loss (agents/), where samples come from (mlma/memory.py), how weights travel (mlma/transport.py), what is
reported (mlma/metrics.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mlma import optimizers
from mlma.config import Config
from mlma.memory import TrajectoryQueue
from mlma.metrics import Metrics
from mlma.types import Agent, Sample
from mlma.weights import FlatWeights, named


class NonFinite(Exception):
    """A loss or a gradient is not a number; the weights are still those of the step before."""


class Learner:
    """Network, optimizer and counters: what a checkpoint holds, and the train step that changes it."""

    def __init__(self, config: Config, agent: Agent, action_repeats: int) -> None:
        """The network's variables must exist already (mlma.weights.build)."""
        self._config, self._agent = config, agent
        self._action_repeats = action_repeats
        self.weights = FlatWeights(agent.network)
        self._learning_rate = tf.Variable(config.learning_rate, trainable=False, name="learning_rate")
        self._optimizer = optimizers.make(config, self._learning_rate)
        zeros = [tf.zeros_like(v) for v in self.weights.variables]
        before = self.weights.read()
        self._optimizer.apply(zeros, self.weights.variables)  # Sonnet makes its slots at the first call
        self.weights.write(before.numpy().tobytes())
        for slot in self._slots():
            slot.assign(tf.zeros_like(slot))
        self._train = tf.function(self._train_step)
        self.step, self.frames = 0, 0

    def variables(self) -> dict[str, Any]:
        """Name -> variable of the network and of the optimizer."""
        return named("network", self._agent.network.variables) | named("optimizer", self._slots())

    def _slots(self) -> list[tf.Variable]:
        return [v for v in self._optimizer.variables if v is not self._learning_rate]

    def train(self, sample: Sample) -> dict[str, float]:
        """One update; returns the metrics of the sample. NonFinite leaves everything as it was."""
        self._learning_rate.assign(optimizers.decayed(self._config, self.frames))
        lag = self.step - sample.trajectory.weights_version
        trajectory = sample.trajectory._replace(weights_version=None)
        finite, metrics = self._train(sample._replace(trajectory=trajectory, new_steps=None))
        if not finite:
            raise NonFinite(f"loss or gradient is not finite at learner step {self.step + 1}, {self.frames} frames")
        self.step += 1
        self.frames += sample.new_steps * self._action_repeats
        values = {name: float(value) for name, value in metrics.items()}
        return values | {
            "lag/mean": float(lag.mean()),
            "lag/max": float(lag.max()),
            "learning_rate": float(self._learning_rate),
        }

    def _train_step(self, sample: Sample) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        variables = self.weights.variables
        with tf.GradientTape() as tape:
            loss = self._agent.loss(sample)
        gradients = tape.gradient(loss.total, variables)
        gradients, norm = optimizers.clip(gradients, self._config.gradients_clipping)
        finite = tf.math.is_finite(norm) & tf.math.is_finite(loss.total)
        tf.cond(finite, lambda: self._apply(gradients, variables), lambda: tf.constant(0))
        return finite, loss.metrics | {"gradient_norm": norm}

    def _apply(self, gradients: Any, variables: Any) -> tf.Tensor:
        self._optimizer.apply(gradients, variables)
        return tf.constant(0)


def run(
    config: Config,
    learner: Learner,
    memory: TrajectoryQueue,
    publish: Callable[[int, tf.Tensor], None],
    metrics: Metrics,
    save: Callable[[], object],
    stop: Any,
    say: Callable[[str], None],
) -> None:
    """The loop: trains until `total_environment_frames`, or until `stop.wanted`."""
    next_save = time.monotonic() + config.checkpoint_every_seconds
    starved = Starved(config.starved_seconds, say)
    while learner.frames < config.total_environment_frames and not stop.wanted:
        with metrics.phase("wait"):
            sample = memory.sample(timeout=0.5)
        if sample is not None:
            with metrics.phase("train"):
                metrics.add(learner.train(sample))
            with metrics.phase("publish"):
                publish(learner.step, learner.weights.read())
        starved.see(sample is not None)
        metrics.report_if_due(learner.step, learner.frames)
        if time.monotonic() > next_save:
            save()
            next_save = time.monotonic() + config.checkpoint_every_seconds
    metrics.report_if_due(learner.step, learner.frames, last=True)


class Starved:
    """Says so, ever again, when no sample has come for `seconds`: a run does not hang silently."""

    def __init__(self, seconds: float, say: Callable[[str], None]) -> None:
        self._seconds, self._say = seconds, say
        self._since = time.monotonic()
        self._next = seconds

    def see(self, got_one: bool) -> None:
        waited = time.monotonic() - self._since
        if got_one:
            self._since, self._next = time.monotonic(), self._seconds
        elif waited > self._next:
            self._say(
                f"learner: too few trajectories for a sample for {waited:.0f} s; are its actors running, and do they reach it?"
            )
            self._next += self._seconds
