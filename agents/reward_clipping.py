"""Reward clipping, shared by all algorithms."""

from __future__ import annotations

import tensorflow as tf


def clip_rewards(rewards: tf.Tensor, mode: str, level: tf.Tensor | None = None) -> tf.Tensor:
    """Clips `rewards`. `mode` is one mode for all levels, or a comma-separated list that `level` indexes."""
    modes = mode.split(",")
    if len(modes) == 1:
        return _clip(rewards, mode)
    clipped = tf.stack([_clip(rewards, each) for each in modes])  # [levels, ...]
    return tf.reduce_sum(clipped * tf.one_hot(level, len(modes), axis=0), axis=0)


def _clip(rewards: tf.Tensor, mode: str) -> tf.Tensor:
    if mode == "abs_one":
        return tf.clip_by_value(rewards, -1.0, 1.0)
    if mode == "soft_asymmetric":
        # Deviation: as in IMPALA's released code, which differs from the figure in the paper: comparable with published
        # runs.
        squeezed = tf.tanh(rewards / 5.0)
        return 5.0 * tf.where(rewards < 0, 0.3 * squeezed, squeezed)
    return rewards
