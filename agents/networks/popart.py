"""PopArt: values normalised by level. Hessel et al. 2018 (arXiv 1809.04474), sections 3 and 4; van Hasselt et al. 2016.

The values of a level are learned relative to the mean and standard deviation of its returns, so that one network can
learn levels whose rewards differ by a factor of a thousand. When these statistics change, the last layer is rescaled so
that its outputs, in units of the rewards, stay the same.

As in RLax, each valid target of [T, B] moves the statistics of its level by one step from where they were before the
batch, and the moves of all targets, of all learners, are added: with n targets, mean += beta * (sum of targets - n *
mean). Deviation: from n = 1 / beta on (3,334 targets of one level), this sum overshoots the mean of the targets, and
from 2 / beta on it diverges. Here the statistics go at most as far as those of the batch.

Not here: the sum of the statistics over all learners (mlma/learning/learner.py), and how they get to the actors
(mlma/core/flat_weights.py).
"""

from __future__ import annotations

from typing import Any

import sonnet as snt
import tensorflow as tf

STATISTICS_STEP_SIZE = 3e-4  # beta, of the exponential moving averages, for each target; section 5
MIN_SCALE, MAX_SCALE = 1e-4, 1e6  # bounds of the standard deviation; section 5


class PopArt(snt.Linear):
    """The value head, with one normalised output per level; with 0 levels, a single plain output for all levels."""

    def __init__(
        self,
        levels: int,
        step_size: float = STATISTICS_STEP_SIZE,
        bounds: tuple[float, float] = (MIN_SCALE, MAX_SCALE),  # of the standard deviation
        name: str | None = None,
    ) -> None:
        """`levels`: number of levels to normalise, or 0 to normalise nothing."""
        super().__init__(max(1, levels), name=name)
        self._levels, self._step_size, self._bounds = levels, step_size, bounds
        self.num_statistics = 3 * levels
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
        return tf.clip_by_value(tf.sqrt(variance), *self._bounds)

    def scale(self, level: tf.Tensor | None) -> Any:
        """Standard deviation of the returns of these levels: [T, B], [] for a single level, or 1.0 without PopArt."""
        if not self._levels:
            return 1.0
        return self._scales()[0] if level is None else tf.gather(self._scales(), level)

    def batch_statistics(self, returns: tf.Tensor, weights: tf.Tensor, level: tf.Tensor | None) -> tf.Tensor:
        """Sums for `update`, float32 [3 L]: number of returns, sum of returns, sum of squared returns, by level.

        `weights` [T, B] are 1 for the returns that count and 0 for the others.
        """
        if not self._levels:
            return tf.zeros([0])
        level = tf.zeros_like(returns, tf.int32) if level is None else level
        weight = tf.one_hot(level, self._levels) * weights[..., tf.newaxis]  # [T, B, L]
        sums = [tf.reduce_sum(weight * (returns**power)[..., tf.newaxis], axis=[0, 1]) for power in range(3)]
        return tf.concat(sums, axis=0)

    def update(self, statistics: tf.Tensor) -> None:
        """Moves the statistics of each level towards its returns, and rescales the layer to compensate.

        `statistics` is the sum of `batch_statistics` over all learners. A learner without a sample adds zeros, and a
        level without returns keeps its statistics.
        """
        count, total, squares = tf.split(statistics, 3)
        step = tf.minimum(self._step_size * count, 1.0)  # 0 where count is 0
        count = tf.maximum(count, 1.0)
        mean, scale = tf.identity(self._mean), self._scales()
        self._mean.assign(mean + step * (total / count - mean))
        self._square.assign(self._square + step * (squares / count - self._square))
        new_scale = self._scales()
        self.w.assign(self.w * scale / new_scale)  # eq. (8)
        self.b.assign((self.b * scale + mean - self._mean) / new_scale)
