"""How a number from [0, 1) becomes an action: by a policy, or by q-values and an epsilon.

Not here: who draws the number (mlma/acting/local_policy.py), what the ladder of epsilons is (agents/ops/value_learning.py).
"""

from __future__ import annotations

import tensorflow as tf

from agents.networks.network import MASKED_LOGIT
from mlma.core.types import ActionNoise

BELOW_ONE = 1 - 1e-6  # what rounding cannot lift to 1


def sample_from_logits(logits: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """The action where the distribution function of the softmax passes `number`: [E, A], [E] -> int32 [E]."""
    reached = tf.cumsum(tf.nn.softmax(logits), axis=-1)
    level = BELOW_ONE * number[:, tf.newaxis] * reached[:, -1:]
    return _count_true(reached <= level)  # an action of probability 0 reaches no further than the one before it


def epsilon_greedy(q: tf.Tensor, noise: ActionNoise) -> tf.Tensor:
    """The best action, or any that the level has, all alike, where the number is below epsilon: [E, A] -> int32 [E]."""
    there = tf.cumsum(tf.cast(q > MASKED_LOGIT, tf.float32), axis=-1)
    within = BELOW_ONE * tf.math.divide_no_nan(noise.uniform, noise.epsilon)  # uniform again, where it is below
    any_action = _count_true(there <= tf.floor(within[:, tf.newaxis] * there[:, -1:]))
    best = tf.argmax(q, axis=-1, output_type=tf.int32)
    return tf.where(noise.uniform < noise.epsilon, any_action, best)


def _count_true(true: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(true, tf.int32), axis=-1)
