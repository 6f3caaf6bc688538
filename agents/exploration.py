"""How the value learners act: the best action but for every so often, by the ladder over all environments of the run.

Used by agents/value_learner.py. Not here: what the ladder is (mlma/value_learning.py).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from agents.networks import MISSING
from mlma.value_learning import epsilon_ladder


class EpsilonGreedy:
    """Draws actions from q-values; each environment has its own epsilon, which never changes."""

    def __init__(self, test_epsilon: float, base: float, exponent: float) -> None:
        """Until `explore` is called every environment has `test_epsilon`."""
        self._ladder = base, exponent
        self.epsilons = tf.Variable([test_epsilon], shape=[None], trainable=False, dtype=tf.float32)  # [E], or [1] for all

    def explore(self, places: Any, count: int) -> None:
        self.epsilons.assign(epsilon_ladder(tf.constant(places), count, *self._ladder))

    def __call__(self, q: tf.Tensor) -> tf.Tensor:
        """[E, A] -> int32 [E]."""
        shape = tf.shape(q)
        best = tf.argmax(q, axis=-1, output_type=tf.int32)
        noise = tf.where(q > MISSING, tf.random.uniform(shape), -1.0)  # only among the actions that the level has
        any_action = tf.argmax(noise, axis=-1, output_type=tf.int32)
        return tf.where(tf.random.uniform(shape[:1]) < self.epsilons, any_action, best)
