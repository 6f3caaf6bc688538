"""Action selection: actions from random numbers, given the logits of a policy, or q-values and epsilons.

Not here: drawing the random numbers (mlma/acting/action_noise.py), the epsilon ladder (agents/ops/value_learning.py).
"""

from __future__ import annotations

import tensorflow as tf

from agents.networks.network import MASKED_LOGIT
from mlma.core.types import ActionNoise

BELOW_ONE = 1 - 1e-6  # factor that keeps a number in [0, 1) below 1 even after float32 rounding


def sample_from_logits(logits: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Inverse transform sampling from the softmax: logits [E, A], uniform [E] in [0, 1) -> int32 [E]."""
    cumulative = tf.cumsum(tf.nn.softmax(logits), axis=-1)
    threshold = BELOW_ONE * uniform[:, tf.newaxis] * cumulative[:, -1:]
    # An action of probability 0 has the same cumulative probability as the action before it, so it is never selected.
    return _count_true(cumulative <= threshold)


def epsilon_greedy(q: tf.Tensor, noise: ActionNoise) -> tf.Tensor:
    """The greedy action; with probability epsilon a random one of those that the level has: [E, A] -> int32 [E]."""
    num_allowed = tf.cumsum(tf.cast(q > MASKED_LOGIT, tf.float32), axis=-1)  # [E, A], allowed actions up to this one
    # Where `uniform` is below epsilon, their quotient is again uniform in [0, 1).
    rescaled = BELOW_ONE * tf.math.divide_no_nan(noise.uniform, noise.epsilon)
    random_action = _count_true(num_allowed <= tf.floor(rescaled[:, tf.newaxis] * num_allowed[:, -1:]))
    greedy = tf.argmax(q, axis=-1, output_type=tf.int32)
    return tf.where(noise.uniform < noise.epsilon, random_action, greedy)


def _count_true(condition: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(condition, tf.int32), axis=-1)
