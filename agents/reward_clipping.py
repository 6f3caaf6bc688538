"""What becomes of rewards before learning, alike for all algorithms."""

from __future__ import annotations

import tensorflow as tf


def clip_rewards(rewards: tf.Tensor, how: str, level: tf.Tensor | None = None) -> tf.Tensor:
    """`how` is one word for all levels, or one for each with commas between."""
    words = how.split(",")
    if len(words) == 1:
        return _clip(rewards, how)
    each = tf.stack([_clip(rewards, word) for word in words])  # [levels, ...]
    return tf.reduce_sum(each * tf.one_hot(level, len(words), axis=0), axis=0)


def _clip(rewards: tf.Tensor, how: str) -> tf.Tensor:
    if how == "abs_one":
        return tf.clip_by_value(rewards, -1.0, 1.0)
    if how == "soft_asymmetric":  # as in IMPALA's released code, from which its figure differs
        squeezed = tf.tanh(rewards / 5.0)
        return 5.0 * tf.where(rewards < 0, 0.3 * squeezed, squeezed)
    return rewards
