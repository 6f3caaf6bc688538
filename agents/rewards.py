"""What becomes of rewards before learning, alike for all algorithms."""

from __future__ import annotations

import tensorflow as tf


def clip_rewards(rewards: tf.Tensor, how: str) -> tf.Tensor:
    if how == "abs_one":
        return tf.clip_by_value(rewards, -1.0, 1.0)
    if how == "soft_asymmetric":  # as in IMPALA's released code, from which its figure differs
        squeezed = tf.tanh(rewards / 5.0)
        return 5.0 * tf.where(rewards < 0, 0.3 * squeezed, squeezed)
    return rewards
