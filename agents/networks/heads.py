"""Output heads: dueling q-values. Not here: the value head with PopArt (agents/networks/popart.py)."""

from __future__ import annotations

import sonnet as snt
import tensorflow as tf

from agents.networks.initializers import Initializers
from agents.networks.precision import Linear


class DuelingHead(snt.Module):
    """Q-values from a state-value stream and an advantage stream: Wang et al. 2016 (arXiv 1511.06581)."""

    def __init__(self, num_actions: int, width: int, initializers: Initializers, name: str | None = None) -> None:
        """Each stream has one hidden layer of `width` units."""
        super().__init__(name=name)
        w_init = initializers.before_relu
        hidden = [Linear(width, w_init=w_init), Linear(width, w_init=w_init)]
        self._state = snt.Sequential([hidden[0], tf.nn.relu, _to_float32, snt.Linear(1)], name="state")
        self._actions = snt.Sequential([hidden[1], tf.nn.relu, _to_float32, snt.Linear(num_actions)], name="actions")

    def __call__(self, features: tf.Tensor, hidden_type: tf.DType = tf.float32) -> tuple[tf.Tensor, tf.Tensor]:
        """(q-values [N, A], state values [N]) from features [N, F]; hidden layers compute in `hidden_type`."""
        features = tf.cast(features, hidden_type)
        value, advantages = self._state(features), self._actions(features)  # [N, 1], [N, A]
        q = value + advantages - tf.reduce_mean(advantages, axis=-1, keepdims=True)  # eq. (9)
        return q, tf.squeeze(value, axis=-1)  # [N, A], [N]


def _to_float32(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32)
