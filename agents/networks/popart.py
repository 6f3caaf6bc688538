"""PopArt: values normalised by level. Hessel et al. 2018 (arXiv 1809.04474), sections 3 and 4; van Hasselt et al. 2016.

The values of a level are learned relative to the mean and standard deviation of its returns, so that one network can
learn levels whose rewards differ by a factor of a thousand. When these statistics change, the last layer is rescaled so
that its outputs, in units of the rewards, stay the same. Not here: the sum of the statistics over all learners
(mlma/learning/learner.py).
"""

from __future__ import annotations

from typing import Any

import sonnet as snt
import tensorflow as tf

STATISTICS_STEP_SIZE = 3e-4  # of the exponential moving averages; section 5
MIN_SCALE, MAX_SCALE = 1e-4, 1e6  # bounds of the standard deviation; section 5


class PopArt(snt.Linear):
    """The value head, with one normalised output per level; with 0 levels, a single plain output for all levels."""

    def __init__(self, levels: int, name: str | None = None) -> None:
        """`levels`: number of levels to normalise, or 0 to normalise nothing."""
        super().__init__(max(1, levels), name=name)
        self._levels = levels
        if levels:
            self._mean = tf.Variable(tf.zeros([levels]), trainable=False, name="mean")
            self._square = tf.Variable(tf.ones([levels]), trainable=False, name="square")  # second moment

    def values(self, features: tf.Tensor, level: tf.Tensor | None) -> tf.Tensor:
        """Values [T, B] in units of the rewards, from features [T, B, F] and levels [T, B] (None: a single level)."""
        outputs = snt.BatchApply(self)(features)  # [T, B, L]
        if not self._levels:
            return tf.squeeze(outputs, axis=-1)
        values = self._scales() * outputs + self._mean
        return values[..., 0] if level is None else tf.reduce_sum(values * tf.one_hot(level, self._levels), axis=-1)

    def _scales(self) -> tf.Tensor:
        """Standard deviation of the returns by level: [L]."""
        variance = tf.maximum(self._square - tf.square(self._mean), 0.0)
        return tf.clip_by_value(tf.sqrt(variance), MIN_SCALE, MAX_SCALE)

    def scale(self, level: tf.Tensor | None) -> Any:
        """Standard deviation of the returns of these levels: [T, B], [] for a single level, or 1.0 without PopArt."""
        if not self._levels:
            return 1.0
        return self._scales()[0] if level is None else tf.gather(self._scales(), level)

    def batch_statistics(self, returns: tf.Tensor, weights: tf.Tensor, level: tf.Tensor | None) -> tf.Tensor:
        """Sums for `update`, float32 [3 L]: number of returns, sum of returns, sum of squared returns, by level."""
        if not self._levels:
            return tf.zeros([0])
        level = tf.zeros_like(returns, tf.int32) if level is None else level
        weight = tf.one_hot(level, self._levels) * weights[..., tf.newaxis]  # [T, B, L]
        sums = [tf.reduce_sum(weight * (returns**power)[..., tf.newaxis], axis=[0, 1]) for power in range(3)]
        return tf.concat(sums, axis=0)

    def update(self, statistics: tf.Tensor) -> None:
        """Moves the statistics of the sample's levels towards its returns, and rescales the layer to compensate."""
        count, total, squares = tf.split(statistics, 3)
        step = tf.where(count > 0, STATISTICS_STEP_SIZE, 0.0)
        count = tf.maximum(count, 1.0)
        mean, scale = tf.identity(self._mean), self._scales()
        self._mean.assign(mean + step * (total / count - mean))
        self._square.assign(self._square + step * (squares / count - self._square))
        new_scale = self._scales()
        self.w.assign(self.w * scale / new_scale)  # eq. (8)
        self.b.assign((self.b * scale + mean - self._mean) / new_scale)
