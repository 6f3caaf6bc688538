"""Output heads: dueling q-values, and policies over actions with real numbers. Not here: the value head with PopArt
(agents/networks/popart.py)."""

from __future__ import annotations

import math

import sonnet as snt
import tensorflow as tf

from agents.networks.initializers import Initializers
from agents.networks.precision import Linear
from mlma.core.actions import MAX_LOG_SPREAD, MIN_LOG_SPREAD
from mlma.core.types import ActionPart, BoxPart


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


class RealPolicyHead(snt.Module):
    """The parameters of a policy over actions with real numbers, in the order of mlma/core/actions.py.

    Means and logits are linear in the features. So are log spreads with `spread` "network"; with "parameter" they are
    variables of their own, the same for all observations.
    """

    def __init__(
        self,
        parts: tuple[ActionPart, ...],
        spread: str,
        initial_spread: float,
        initializers: Initializers,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self._parts, log_initial = parts, math.log(initial_spread)
        numbers = sum(len(part.bounded) for part in parts if isinstance(part, BoxPart))
        self._widths = [len(part.bounded) if isinstance(part, BoxPart) else part.alternatives for part in parts]
        self._means = snt.Linear(sum(self._widths), w_init=initializers.policy, name="means")  # and logits of choices
        if spread == "network":
            bias = snt.initializers.Constant(log_initial)
            self._spreads = snt.Linear(numbers, w_init=initializers.policy, b_init=bias, name="log_spreads")
        else:
            self._log_spread = tf.Variable(tf.fill([numbers], log_initial), name="log_spread")
        self._from_features = spread == "network"

    def __call__(self, features: tf.Tensor) -> tf.Tensor:
        """[N, F] -> [N, P]."""
        columns = tf.split(self._means(features), self._widths, axis=-1)
        if self._from_features:
            log_spreads = self._spreads(features)
        else:
            log_spreads = tf.ones_like(features[:, :1]) * self._log_spread
        log_spreads = tf.clip_by_value(log_spreads, MIN_LOG_SPREAD, MAX_LOG_SPREAD)
        parameters, used = [], 0
        for part, column in zip(self._parts, columns, strict=True):
            parameters.append(column)
            if isinstance(part, BoxPart):
                parameters.append(log_spreads[:, used : used + len(part.bounded)])
                used += len(part.bounded)
        return tf.concat(parameters, axis=-1)
